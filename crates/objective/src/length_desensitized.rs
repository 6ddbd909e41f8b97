//! LD-DPO: tokens past the shorter completion's length count only α.
//!
//! â = Σ_{i ≤ m} log π_i + α Σ_{i > m} log π_i, m = min(L_w, L_l), for policy and reference alike; any objective then
//! reads the â. The caller weighs token log-probs before it sums them, and their backward seeds by the same factors:
//! a weight is a constant, so d_w and d_l are the objective's own. α = 1 is no weighting, α = 0 drops the tail.
//!
//! Lengths that an objective divides by stay the full ones, as in TRL 1.16 (`ld_alpha`).
//! Source: Liu et al. 2024, "Length Desensitization in Direct Preference Optimization", arXiv:2409.06411, section 3.

use crate::ObjectiveError;
use crate::error::check;

/// The weight of the completion token at `position` (from 0), when the shorter completion of its pair has
/// `shared_len` tokens.
pub fn token_weight(position: usize, shared_len: usize, alpha: f64) -> f64 {
    if position < shared_len { 1.0 } else { alpha }
}

/// The weighted sum of one completion's token log-probs, nats.
pub fn weighted_sum(token_logps: &[f64], shared_len: usize, alpha: f64) -> f64 {
    let shared = shared_len.min(token_logps.len());
    let head: f64 = token_logps[..shared].iter().sum();
    let tail: f64 = token_logps[shared..].iter().sum();
    head + alpha * tail
}

/// Checks α.
///
/// # Errors
/// [`ObjectiveError::OutOfRange`] unless `alpha` is in [0, 1].
pub fn validate(alpha: f64) -> Result<(), ObjectiveError> {
    check(
        "ld_alpha",
        alpha,
        (0.0..=1.0).contains(&alpha),
        "a number in [0, 1]",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_counts_alpha() {
        // Four tokens, the other completion has two: −1 − 2 + ½(−4 − 8) = −9.
        let logps = [-1.0, -2.0, -4.0, -8.0];
        assert_eq!(weighted_sum(&logps, 2, 0.5), -9.0);
        assert_eq!(weighted_sum(&logps, 2, 1.0), -15.0);
        assert_eq!(weighted_sum(&logps, 2, 0.0), -3.0);
        // The shorter completion itself has no tail.
        assert_eq!(weighted_sum(&logps[..2], 2, 0.0), -3.0);
        let by_token: f64 = logps
            .iter()
            .enumerate()
            .map(|(i, logp)| token_weight(i, 2, 0.5) * logp)
            .sum();
        assert_eq!(by_token, -9.0);
    }

    #[test]
    fn alpha_outside_the_unit_interval_is_refused() {
        assert!(validate(0.0).is_ok() && validate(1.0).is_ok());
        assert!(validate(-0.1).is_err() && validate(1.1).is_err() && validate(f64::NAN).is_err());
    }
}
