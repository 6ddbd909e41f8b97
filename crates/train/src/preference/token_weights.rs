//! How much each completion token counts: length desensitisation and sparse token masks.
//!
//! Every objective reads sums a = Σ_i s_i log π_i and r = Σ_i s_i log π_ref,i over a completion's tokens. Usually
//! s = 1. LD-DPO lets tokens past the shorter completion's length count α. Sparse preference optimization
//! (arXiv:2410.13828, §5.2) masks tokens: s_i = σ(k(u_i − ε)), u_i learnable, with the penalty λ Σ|u_i|:
//!
//! - `head` (**ours**): u_i = ⟨w, h_i⟩ + b of the final hidden state that predicts token i, trained with the model;
//! - `free`: one number u_i for every completion token of the training data, kept with the run;
//! - `diff` (**ours**): no parameters; s_i = 0 on tokens that an alignment finds in both completions, else 1.
//!
//! Learnable masks start at k(u − ε) = [`START`], s = 0.9933: the first step is nearly the unmasked one, and the
//! slope is not yet flat. Lengths that an objective divides by stay the full ones, as for LD-DPO.

use crate::preference::ReferenceLogps;
use crate::score::ScoredPair;
use similar::{Algorithm, DiffOp, capture_diff_slices};
use unbraid_model::{Forest, Init, LanguageModel, ParamId, ParamKind, ParamSpec};
use unbraid_objective::length_desensitized::token_weight;
use unbraid_preference::TokenizedPair;
use unbraid_tensor::Backend;

/// Where k(u − ε) starts.
const START: f64 = 5.0;

/// Threshold, sharpness and penalty of a learnable mask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskSettings {
    /// ε, the value of u at which a token counts half.
    pub epsilon: f64,
    /// k, how sharply s turns from 0 to 1 around ε.
    pub sharpness: f64,
    /// λ, weight of the penalty Σ|u|.
    pub l1: f64,
    /// Factor on the learning rate of the mask's own parameters.
    pub learning_rate_factor: f64,
}

impl MaskSettings {
    /// The value u starts from.
    fn start(&self) -> f64 {
        self.epsilon + START / self.sharpness
    }

    /// s = σ(k(u − ε)).
    pub fn share(&self, u: f64) -> f64 {
        1.0 / (1.0 + (-self.sharpness * (u - self.epsilon)).exp())
    }

    /// ds/du.
    fn slope(&self, u: f64) -> f64 {
        let s = self.share(u);
        self.sharpness * s * (1.0 - s)
    }
}

/// The token mask of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum TokenMask {
    /// Every token counts 1.
    #[default]
    None,
    /// Tokens that stand in both completions count 0.
    Diff,
    /// A linear map of the final hidden state.
    Head {
        /// Its settings.
        settings: MaskSettings,
        /// w, `[D]`.
        weight: ParamId,
        /// b, `[1]`.
        bias: ParamId,
    },
    /// A number for every completion token of the training data.
    Free {
        /// Its settings.
        settings: MaskSettings,
        /// All numbers, chosen before rejected, pair by pair.
        values: ParamId,
        /// Where each training pair's numbers begin.
        offsets: Vec<usize>,
    },
}

fn extra<B: Backend>(
    model: &mut LanguageModel<B>,
    name: &str,
    data: &[f32],
    settings: &MaskSettings,
) -> ParamId {
    let spec = ParamSpec {
        name: name.into(),
        shape: vec![data.len()],
        transposed: false,
        group: "token_mask".into(),
        decay: false,
        init: Init::Zeros,
        kind: ParamKind::Extra,
        learning_rate_factor: settings.learning_rate_factor,
    };
    let value = model.backend.upload(data);
    model.params.push(spec, value)
}

impl TokenMask {
    /// Adds the parameters of a `head` mask to the model.
    pub fn head<B: Backend>(model: &mut LanguageModel<B>, settings: MaskSettings) -> Self {
        let width = model.config.hidden_size();
        let start = [settings.start() as f32];
        TokenMask::Head {
            weight: extra(model, "mask.weight", &vec![0.0; width], &settings),
            bias: extra(model, "mask.bias", &start, &settings),
            settings,
        }
    }

    /// Adds the parameters of a `free` mask for these training pairs to the model.
    pub fn free<B: Backend>(
        model: &mut LanguageModel<B>,
        settings: MaskSettings,
        pairs: &[TokenizedPair],
    ) -> Self {
        let mut total = 0;
        let mut offsets = Vec::with_capacity(pairs.len());
        for pair in pairs {
            offsets.push(total);
            total += pair.chosen.completion().len() + pair.rejected.completion().len();
        }
        let start = vec![settings.start() as f32; total];
        TokenMask::Free {
            values: extra(model, "mask.values", &start, &settings),
            settings,
            offsets,
        }
    }

    /// The settings of a mask that is learnt.
    pub fn settings(&self) -> Option<&MaskSettings> {
        match self {
            TokenMask::Head { settings, .. } | TokenMask::Free { settings, .. } => Some(settings),
            TokenMask::None | TokenMask::Diff => None,
        }
    }
}

/// The constant part of the weights: length desensitisation and the `diff` mask.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Constant {
    pub ld_alpha: Option<f64>,
    pub diff: bool,
}

impl Constant {
    /// Weights of a pair's chosen and rejected tokens; `None` when all are 1.
    pub(crate) fn of(self, pair: &TokenizedPair) -> Option<(Vec<f64>, Vec<f64>)> {
        if self == Constant::default() {
            return None;
        }
        let (chosen, rejected) = (pair.chosen.completion(), pair.rejected.completion());
        let alpha = self.ld_alpha.unwrap_or(1.0);
        let shared = chosen.len().min(rejected.len());
        let desensitized =
            |len: usize| -> Vec<f64> { (0..len).map(|i| token_weight(i, shared, alpha)).collect() };
        let (mut w, mut l) = (desensitized(chosen.len()), desensitized(rejected.len()));
        if self.diff {
            let (in_w, in_l) = shared_tokens(pair);
            for (weights, shared) in [(&mut w, in_w), (&mut l, in_l)] {
                let tokens = weights.iter_mut().zip(shared);
                tokens.for_each(|(weight, shared)| *weight *= f64::from(u8::from(!shared)));
            }
        }
        Some((w, l))
    }

    /// A pair's reference sums under these weights.
    pub(crate) fn sums(self, pair: &TokenizedPair, scored: &ScoredPair) -> ReferenceLogps {
        match self.of(pair) {
            None => scored.into(),
            Some(weights) => ReferenceLogps::weighted(scored, &weights),
        }
    }
}

/// Which tokens of a pair's (chosen, rejected) completion an alignment finds in both.
pub(crate) fn shared_tokens(pair: &TokenizedPair) -> (Vec<bool>, Vec<bool>) {
    let (chosen, rejected) = (pair.chosen.completion(), pair.rejected.completion());
    let (mut w, mut l) = (vec![false; chosen.len()], vec![false; rejected.len()]);
    for op in capture_diff_slices(Algorithm::Myers, chosen, rejected) {
        if let DiffOp::Equal {
            old_index,
            new_index,
            len,
        } = op
        {
            w[old_index..old_index + len].fill(true);
            l[new_index..new_index + len].fill(true);
        }
    }
    (w, l)
}

/// The weights of one batch's targets, and how learnable ones react.
#[derive(Default)]
pub(crate) struct TokenWeights {
    /// s_i of every target, `[M]`.
    pub weights: Vec<f64>,
    /// For a learnable mask: u_i and ds_i/du_i of every target.
    pub learnt: Option<Learnt>,
}

/// The state of a learnable mask on one batch.
pub(crate) struct Learnt {
    pub values: Vec<f64>,
    pub slopes: Vec<f64>,
}

impl TokenWeights {
    /// The constant weights of a batch of pairs.
    pub(crate) fn constant(constant: Constant, pairs: &[&TokenizedPair], forest: &Forest) -> Self {
        let mut weights = vec![1.0; forest.targets.len()];
        for (i, pair) in pairs.iter().enumerate() {
            if let Some((w, l)) = constant.of(pair) {
                weights[forest.responses[2 * i].targets.clone()].copy_from_slice(&w);
                weights[forest.responses[2 * i + 1].targets.clone()].copy_from_slice(&l);
            }
        }
        TokenWeights {
            weights,
            learnt: None,
        }
    }

    /// Multiplies them by a learnable mask's shares at `values` (u, `[M]`).
    pub(crate) fn mask(mut self, settings: &MaskSettings, values: Vec<f64>) -> Self {
        let mut slopes = Vec::with_capacity(values.len());
        for (weight, &u) in self.weights.iter_mut().zip(&values) {
            slopes.push(*weight * settings.slope(u));
            *weight *= settings.share(u);
        }
        self.learnt = Some(Learnt { values, slopes });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unbraid_preference::TokenizedSequence;

    fn pair(chosen: &[u32], rejected: &[u32]) -> TokenizedPair {
        let sequence = |completion: &[u32]| TokenizedSequence {
            ids: [&[1, 2], completion].concat(),
            prompt_len: 2,
        };
        TokenizedPair {
            index: 0,
            chosen: sequence(chosen),
            rejected: sequence(rejected),
            weight: 1.0,
            text: None,
        }
    }

    #[test]
    fn diff_keeps_what_only_one_completion_has() {
        let constant = Constant {
            diff: true,
            ld_alpha: None,
        };
        let (w, l) = constant.of(&pair(&[5, 7, 9], &[5, 8, 8, 9])).unwrap();
        assert_eq!((w, l), (vec![0.0, 1.0, 0.0], vec![0.0, 1.0, 1.0, 0.0]));
        // With LD-DPO the tail counts α, masked or not.
        let both = Constant {
            diff: true,
            ld_alpha: Some(0.5),
        };
        let (_, l) = both.of(&pair(&[5, 7], &[5, 8, 6])).unwrap();
        assert_eq!(l, [0.0, 1.0, 0.5]);
        assert_eq!(Constant::default().of(&pair(&[5], &[6])), None);
    }

    #[test]
    fn a_learnable_mask_starts_nearly_open_and_knows_its_slope() {
        let settings = MaskSettings {
            epsilon: 0.5,
            sharpness: 10.0,
            l1: 1e-3,
            learning_rate_factor: 1.0,
        };
        assert!((settings.share(settings.start()) - 0.993_307).abs() < 1e-6);
        assert_eq!(settings.share(0.5), 0.5);
        let h = 1e-5;
        let numeric = (settings.share(0.6 + h) - settings.share(0.6 - h)) / (2.0 * h);
        assert!((settings.slope(0.6) - numeric).abs() < 1e-8);
    }
}
