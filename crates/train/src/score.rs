//! Scoring pairs without training: token log-probs of chosen and rejected completions.

use crate::pack::pack_pairs;
use std::ops::Range;
use unbraid_model::{Batch, Forest, LanguageModel, Response};
use unbraid_preference::TokenizedPair;
use unbraid_tensor::Backend;

/// Rows of a scoring batch; its size changes time and memory, not results.
pub(crate) const ROWS_PER_BATCH: usize = 2048;

/// Log-probs of one pair's completion tokens, in nats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoredPair {
    /// Of each chosen token.
    pub chosen_token_logps: Vec<f64>,
    /// Of each rejected token.
    pub rejected_token_logps: Vec<f64>,
}

impl ScoredPair {
    /// Those of a packed batch (`pack_pairs`) from the log-probs of its targets.
    pub fn of_batch(forest: &Forest, token_logps: &[f64]) -> Vec<Self> {
        let pairs = forest.responses.chunks_exact(2);
        let of = |response: &Response| token_logps[response.targets.clone()].to_vec();
        let scored = pairs.map(|pair| ScoredPair {
            chosen_token_logps: of(&pair[0]),
            rejected_token_logps: of(&pair[1]),
        });
        scored.collect()
    }

    /// log π(y_w|x): the sum over the chosen completion.
    pub fn chosen(&self) -> f64 {
        self.chosen_token_logps.iter().sum()
    }
    /// log π(y_l|x): the sum over the rejected completion.
    pub fn rejected(&self) -> f64 {
        self.rejected_token_logps.iter().sum()
    }
}

/// Upper bound of a pair's rows.
fn rows(pair: &TokenizedPair) -> usize {
    pair.chosen.ids.len() + pair.rejected.ids.len()
}

/// Consecutive pairs that together have about [`ROWS_PER_BATCH`] rows.
pub(crate) fn batches(pairs: &[&TokenizedPair]) -> Vec<Range<usize>> {
    let (mut out, mut start, mut total) = (Vec::new(), 0, 0);
    for (i, pair) in pairs.iter().enumerate() {
        if total > 0 && total + rows(pair) > ROWS_PER_BATCH {
            out.push(start..i);
            (start, total) = (i, 0);
        }
        total += rows(pair);
    }
    if start < pairs.len() {
        out.push(start..pairs.len());
    }
    out
}

/// Scores pairs in order; `on_batch` hears how many are done and may stop early by returning false (the
/// result then holds what was scored).
pub fn score_pairs<B: Backend>(
    model: &LanguageModel<B>,
    pairs: &[&TokenizedPair],
    on_batch: impl FnMut(usize) -> bool,
) -> Vec<ScoredPair> {
    let mut scored = Vec::with_capacity(pairs.len());
    score_pairs_into(&mut scored, model, pairs, on_batch);
    scored
}

/// As [`score_pairs`], behind what is in `scored`: where a pass is cancelled, what was scored before is there.
pub fn score_pairs_into<B: Backend>(
    scored: &mut Vec<ScoredPair>,
    model: &LanguageModel<B>,
    pairs: &[&TokenizedPair],
    mut on_batch: impl FnMut(usize) -> bool,
) {
    let before = scored.len();
    for range in batches(pairs) {
        let batch = Batch::new(
            &*model.backend,
            pack_pairs(pairs[range].iter().copied(), true),
        );
        let logps = model.token_logps(&batch);
        scored.extend(ScoredPair::of_batch(&batch.forest, &logps));
        if !on_batch(scored.len() - before) {
            break;
        }
    }
}
