//! From token log-probs to what the objective reads: weights, sums, reference, WPO factors, penalties.

use super::token_weights::TokenWeights;
use super::{PreferenceTask, ReferenceLogps, ReferencedPairs, Side, TokenMask};
use std::ops::Range;
use unbraid_model::{Batch, Forest, Forward, LanguageModel, Response};
use unbraid_objective::PairLogps;
use unbraid_objective::weighting::pair_weight;
use unbraid_preference::TokenizedPair;
use unbraid_tensor::Backend;

/// A batch's numbers up to the objective.
#[derive(Default)]
pub(super) struct Scored {
    pub weights: TokenWeights,
    /// Whether some token may weigh other than 1.
    pub weighted: bool,
    /// What the objective reads: weighted sums.
    pub logps: Vec<PairLogps>,
    /// Plain sums (chosen, rejected).
    pub sums: Vec<(f64, f64)>,
    /// Factor of each pair's loss by WPO; 1 without it.
    pub pair_weights: Vec<f64>,
    /// Log-prob of every target.
    pub token_logps: Vec<f64>,
    /// Reference log-prob of every target, where a learnt mask needs them.
    pub reference_tokens: Vec<f64>,
    /// Penalty λ Σ|u| of each pair; 0 without a learnt mask.
    pub penalties: Vec<f64>,
}

impl Scored {
    /// Adds another batch's pairs; what is by token stays behind.
    pub(super) fn append(&mut self, other: Scored) {
        self.weighted |= other.weighted;
        self.logps.extend(other.logps);
        self.sums.extend(other.sums);
        self.pair_weights.extend(other.pair_weights);
        self.penalties.extend(other.penalties);
    }

    /// Some pairs of an appended batch; what is by token stays behind.
    pub(super) fn pairs(&self, range: Range<usize>) -> Scored {
        Scored {
            weighted: self.weighted,
            logps: self.logps[range.clone()].to_vec(),
            sums: self.sums[range.clone()].to_vec(),
            pair_weights: self.pair_weights[range.clone()].to_vec(),
            penalties: self.penalties[range].to_vec(),
            ..Scored::default()
        }
    }

    /// What the objective reads of every pair's completions: weighted sums of log-probs; of log-ratios under a learnt
    /// mask, whose weights change with the model.
    pub(super) fn readings(&self, forest: &Forest) -> Vec<(f64, f64)> {
        let weights = &self.weights;
        let token = |t: usize| match &weights.learnt {
            None => weights.weights[t] * self.token_logps[t],
            Some(_) => weights.weights[t] * self.log_ratio(t),
        };
        let sum = |r: &Response| r.targets.clone().map(token).sum::<f64>();
        let pairs = forest.responses.chunks_exact(2);
        pairs.map(|pair| (sum(&pair[0]), sum(&pair[1]))).collect()
    }

    /// Log-ratio of one target, where the reference is known by token.
    fn log_ratio(&self, t: usize) -> f64 {
        let reference = self.reference_tokens.get(t).copied().unwrap_or(0.0);
        self.token_logps[t] - reference
    }

    /// Derivative of a completion's weighted log-ratio with respect to each token's u: s'_i times the token's
    /// log-ratio. Empty without a learnt mask.
    pub(super) fn mask_slopes(&self) -> Vec<f64> {
        let Some(learnt) = &self.weights.learnt else {
            return Vec::new();
        };
        let slopes = learnt.slopes.iter().enumerate();
        slopes.map(|(t, slope)| slope * self.log_ratio(t)).collect()
    }
}

/// Targets of a pair's two responses, which lie next to each other.
pub(super) fn pair_targets(pair: &[Response]) -> Range<usize> {
    pair[0].targets.start..pair[1].targets.end
}

impl<B: Backend> PreferenceTask<'_, B> {
    /// How much every target of a batch counts.
    pub(super) fn weights(
        &self,
        model: &LanguageModel<B>,
        forest: &Forest,
        forward: &Forward<B>,
        side: Side,
        examples: &[usize],
    ) -> TokenWeights {
        let data = self.side(side);
        let pairs: Vec<&TokenizedPair> = examples.iter().map(|&i| &data.pairs[i]).collect();
        let constant = TokenWeights::constant(self.settings.constant(), &pairs, forest);
        match (&self.settings.mask, side) {
            (TokenMask::None | TokenMask::Diff, _) => constant,
            (
                TokenMask::Head {
                    settings,
                    weight,
                    bias,
                },
                _,
            ) => constant.mask(settings, model.probe(forward, *weight, *bias)),
            // A number of its own exists for training tokens alone: held-out ones count whole.
            (TokenMask::Free { .. }, Side::HeldOut) => constant,
            (
                TokenMask::Free {
                    settings,
                    values,
                    offsets,
                },
                Side::Training,
            ) => {
                // The batch's own numbers alone: there is one for every token of the data.
                let (b, all) = (&*model.backend, model.params.get(*values));
                let m = forest.targets.len();
                let mut own = b.empty(m);
                for (&i, pair) in examples.iter().zip(forest.responses.chunks_exact(2)) {
                    let (at, len) = (pair[0].targets.start, pair_targets(pair).len());
                    b.copy_2d(all, offsets[i], len, &mut own, at, len, 1, len);
                }
                constant.mask(settings, b.download_f64(&own))
            }
        }
    }

    /// A batch's weights and token log-probs, and the reference's where a learnt mask weighs them anew; no sums.
    pub(super) fn by_token(
        &self,
        model: &LanguageModel<B>,
        batch: &Batch<B>,
        forward: &Forward<B>,
        side: Side,
        examples: &[usize],
    ) -> Scored {
        let reference_tokens = match self.settings.mask.settings() {
            Some(_) => self.reference_tokens(batch, self.side(side), examples),
            None => Vec::new(),
        };
        Scored {
            weights: self.weights(model, &batch.forest, forward, side, examples),
            token_logps: forward.token_logps.clone(),
            reference_tokens,
            ..Scored::default()
        }
    }

    /// Weighs and sums a batch's token log-probs.
    pub(super) fn score(
        &self,
        model: &LanguageModel<B>,
        batch: &Batch<B>,
        forward: &Forward<B>,
        side: Side,
        examples: &[usize],
    ) -> Scored {
        let data = self.side(side);
        let (forest, logps) = (&batch.forest, &forward.token_logps);
        let pairs: Vec<&TokenizedPair> = examples.iter().map(|&i| &data.pairs[i]).collect();
        let weights = self.weights(model, forest, forward, side, examples);
        let reference_tokens = self.reference_tokens(batch, data, examples);
        let per_token = !reference_tokens.is_empty();
        let weighted = |values: &[f64], targets: Range<usize>| -> f64 {
            let own = values[targets.clone()]
                .iter()
                .zip(&weights.weights[targets]);
            own.map(|(x, s)| x * s).sum()
        };
        let (mut out, mut sums) = (Vec::new(), Vec::new());
        for ((&i, pair), responses) in examples
            .iter()
            .zip(&pairs)
            .zip(forest.responses.chunks_exact(2))
        {
            let [w, l] = [&responses[0].targets, &responses[1].targets];
            let reference = if per_token {
                ReferenceLogps {
                    chosen: weighted(&reference_tokens, w.clone()),
                    rejected: weighted(&reference_tokens, l.clone()),
                }
            } else {
                data.sums[i]
            };
            out.push(PairLogps {
                chosen: weighted(logps, w.clone()),
                rejected: weighted(logps, l.clone()),
                ref_chosen: reference.chosen,
                ref_rejected: reference.rejected,
                chosen_len: pair.chosen.completion().len(),
                rejected_len: pair.rejected.completion().len(),
            });
            let sum = |r: &Range<usize>| logps[r.clone()].iter().sum::<f64>();
            sums.push((sum(w), sum(l)));
        }
        Scored {
            weighted: self.settings.mask != TokenMask::None || self.settings.ld_alpha.is_some(),
            logps: out,
            sums,
            pair_weights: self.pair_weights(model, forest, forward),
            token_logps: logps.clone(),
            reference_tokens,
            penalties: self.penalties(&weights, forest),
            weights,
        }
    }

    /// The reference's log-prob of every target: from a moving reference, or where a learnt mask weighs them anew.
    fn reference_tokens(
        &self,
        batch: &Batch<B>,
        data: &ReferencedPairs<'_>,
        examples: &[usize],
    ) -> Vec<f64> {
        if let Some(moving) = &self.moving {
            return moving.model.token_logps(batch);
        }
        if data.tokens.is_empty() {
            return Vec::new();
        }
        let of_pair = |&i: &usize| {
            let scored = &data.tokens[i];
            let both = [&scored.chosen_token_logps, &scored.rejected_token_logps];
            both.into_iter().flatten().copied()
        };
        examples.iter().flat_map(of_pair).collect()
    }

    /// WPO's factor of each pair; 1 without it.
    fn pair_weights(
        &self,
        model: &LanguageModel<B>,
        forest: &Forest,
        forward: &Forward<B>,
    ) -> Vec<f64> {
        if !self.settings.use_weighting {
            return vec![1.0; forest.responses.len() / 2];
        }
        let squares = model.log_squares(forward);
        let aligned = |r: &Range<usize>| -> f64 {
            r.clone().map(|t| forward.token_logps[t] - squares[t]).sum()
        };
        let pairs = forest.responses.chunks_exact(2);
        pairs
            .map(|pair| {
                let [w, l] = [&pair[0].targets, &pair[1].targets];
                pair_weight(aligned(w), w.len(), aligned(l), l.len())
            })
            .collect()
    }

    /// λ Σ|u| over both completions of each pair.
    fn penalties(&self, weights: &TokenWeights, forest: &Forest) -> Vec<f64> {
        let mut penalties = vec![0.0; forest.responses.len() / 2];
        if let (Some(settings), Some(learnt)) = (self.settings.mask.settings(), &weights.learnt) {
            for (penalty, pair) in penalties.iter_mut().zip(forest.responses.chunks_exact(2)) {
                let targets = pair.iter().flat_map(|r| r.targets.clone());
                *penalty = settings.l1 * targets.map(|t| learnt.values[t].abs()).sum::<f64>();
            }
        }
        penalties
    }
}
