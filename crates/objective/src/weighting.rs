//! WPO: a pair counts as much as the policy itself would say its two completions (`use_weighting`).
//!
//! w(x, y) = exp( (1/L) Σ_i [ log π_i − log Σ_v π_i(v)² ] ): each token's probability against the expected
//! one under the policy, so that text sampled from the policy weighs about 1. A pair weighs w(x, y_w)·w(x,
//! y_l), held constant in the backward pass. The loss and both coefficients are multiplied
//! ([`PairLoss::scaled`](crate::PairLoss::scaled)); no renormalisation over the batch, as in TRL 1.16. Losses
//! that sort the batch (`aot`, `aot_unpaired`) lose the pair that a weight belongs to, so TRL refuses them
//! and [`Objective::mixes_pairs`](crate::Objective::mixes_pairs) tells which they are. Source: Zhou et al.
//! 2024, "WPO", arXiv:2406.11827, eq. 2 and the sampled alignment of its section 3.

/// One completion's weight from its sum over tokens of `log π_i − log Σ_v π_i(v)²` and its length; an empty
/// completion weighs 1.
pub fn completion_weight(aligned_sum: f64, len: usize) -> f64 {
    (aligned_sum / len.max(1) as f64).exp()
}

/// The pair's weight, the product of its completions' weights.
pub fn pair_weight(
    chosen_aligned_sum: f64,
    chosen_len: usize,
    rejected_aligned_sum: f64,
    rejected_len: usize,
) -> f64 {
    completion_weight(chosen_aligned_sum, chosen_len)
        * completion_weight(rejected_aligned_sum, rejected_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_by_hand() {
        // Two tokens, each half as likely as expected: mean −log 2, weight ½; the other side as expected: 1.
        let half = 2.0 * 0.5f64.ln();
        assert!((pair_weight(half, 2, 0.0, 7) - 0.5).abs() < 1e-15);
        assert_eq!(completion_weight(0.0, 0), 1.0);
    }
}
