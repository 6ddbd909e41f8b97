//! How far a policy has moved from where it started: exact KL divergence on prompts, likelihood of held-out text.
//!
//! KL(π ‖ π_start) = Σ_v π(v) (log π(v) − log π_start(v)) at every prompt token but the first, over the whole
//! vocabulary (no sampling), so two forward passes with their logits are needed. Both policies score the same packed
//! batches; logits exist for a slice of rows at a time. Sums are in f64. Tested on a model in `tests/drift.rs`.

use rayon::prelude::*;
use unbraid_model::{Batch, Forest, Forward, LanguageModel, Sequence};
use unbraid_tensor::Backend;

/// Rows of a batch; its size changes time and memory, not results.
const ROWS_PER_BATCH: usize = 1024;
/// Logits of two policies held at a time.
const LOGITS: usize = 1 << 24;

/// Means over the tokens of sequences, in nats. A sequence's first token has no predecessor and does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Drift {
    /// KL(π ‖ π_start) of the next-token distributions.
    pub kl: f64,
    /// log π of the token that stands there.
    pub logp: f64,
    /// log π_start of it.
    pub start_logp: f64,
    /// Number of tokens.
    pub tokens: usize,
}

/// Measures the drift from `start` to `trained` over sequences of token ids.
pub fn drift<B: Backend>(
    trained: &LanguageModel<B>,
    start: &LanguageModel<B>,
    sequences: &[&[u32]],
) -> Drift {
    drift_in_slices(trained, start, sequences, LOGITS)
}

/// As [`drift`], holding at most so many logits of each policy at a time (those of one row at least), which changes
/// nothing.
pub fn drift_in_slices<B: Backend>(
    trained: &LanguageModel<B>,
    start: &LanguageModel<B>,
    sequences: &[&[u32]],
    logits: usize,
) -> Drift {
    let mut sums = Drift::default();
    let mut rest = sequences;
    while !rest.is_empty() {
        let (forest, taken) = pack(rest);
        rest = &rest[taken..];
        let batch = Batch::new(&*trained.backend, forest);
        if batch.targets() == 0 {
            continue;
        }
        let (now, then) = (trained.score(&batch), start.score(&batch));
        let rows = (logits / trained.config.vocab_size()).max(1);
        sums.kl += kl_of_batch((trained, &now), (start, &then), batch.targets(), rows);
        sums.logp += now.token_logps.iter().sum::<f64>();
        sums.start_logp += then.token_logps.iter().sum::<f64>();
        sums.tokens += batch.targets();
    }
    let n = sums.tokens.max(1) as f64;
    Drift {
        kl: sums.kl / n,
        logp: sums.logp / n,
        start_logp: sums.start_logp / n,
        tokens: sums.tokens,
    }
}

/// Σ over a batch's targets of KL(p ‖ q), `step` targets at a time.
fn kl_of_batch<B: Backend>(
    (p_model, p): (&LanguageModel<B>, &Forward<B>),
    (q_model, q): (&LanguageModel<B>, &Forward<B>),
    targets: usize,
    step: usize,
) -> f64 {
    let v = p_model.config.vocab_size();
    let lse_p = p_model.backend.download_f64(&p.lse);
    let lse_q = q_model.backend.download_f64(&q.lse);
    let mut sum = 0.0;
    for first in (0..targets).step_by(step) {
        let rows = first..(first + step).min(targets);
        let (zp, zq) = (
            p_model.logits(p, rows.clone()),
            q_model.logits(q, rows.clone()),
        );
        let of_row = |(i, (zp, zq)): (usize, (&[f32], &[f32]))| {
            kl_of_row(zp, zq, lse_p[first + i], lse_q[first + i])
        };
        let slices = zp.par_chunks(v).zip(zq.par_chunks(v)).enumerate();
        let by_row: Vec<f64> = slices.map(of_row).collect();
        // Added up in order, so that the result does not depend on the threads.
        sum += by_row.iter().sum::<f64>();
    }
    sum
}

/// KL divergence of two rows of logits with their log Σ exp.
fn kl_of_row(p: &[f32], q: &[f32], lse_p: f64, lse_q: f64) -> f64 {
    let terms = p.iter().zip(q).map(|(&zp, &zq)| {
        let (zp, zq) = (f64::from(zp), f64::from(zq));
        (zp - lse_p).exp() * (zp - zq)
    });
    // Σ π (z_p − z_q) − lse_p + lse_q; rounding may leave a tiny negative number where the two are equal.
    terms.sum::<f64>() - lse_p + lse_q
}

/// A forest of the first sequences, every token but the first of each a target, and how many were taken.
fn pack(sequences: &[&[u32]]) -> (Forest, usize) {
    let mut forest = Forest::new();
    let mut taken = 0;
    for ids in sequences {
        if taken > 0 && forest.rows() + ids.len() > ROWS_PER_BATCH {
            break;
        }
        taken += 1;
        if ids.len() > 1 {
            let sequence = Sequence {
                ids,
                scored_from: 1,
            };
            forest.add_tree(&[sequence], true);
        }
    }
    (forest, taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kl_by_hand() {
        // p = (1/2, 1/2), q = (1/4, 3/4): KL = ½ ln 2 + ½ ln ⅔ = ½ ln(4/3).
        let q = [0.25f32.ln(), 0.75f32.ln()];
        let kl = kl_of_row(&[0.0, 0.0], &q, 2f64.ln(), 0.0);
        assert!((kl - 0.5 * (4.0f64 / 3.0).ln()).abs() < 1e-7, "{kl}");
        // A constant on all logits changes nothing.
        let shifted = kl_of_row(&[3.0, 3.0], &q, 2f64.ln() + 3.0, 0.0);
        assert!((shifted - kl).abs() < 1e-6, "{shifted}");
        assert_eq!(
            kl_of_row(&[0.0, 0.0], &[0.0, 0.0], 2f64.ln(), 2f64.ln()),
            0.0
        );
    }

    #[test]
    fn sequences_of_one_token_and_none_have_no_targets() {
        let (forest, taken) = pack(&[&[], &[1], &[1, 2, 3]]);
        assert_eq!((taken, forest.targets.len()), (3, 2));
    }
}
