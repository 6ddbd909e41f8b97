//! One real optimizer step on one pair: what was predicted, what the update should do to first order, what it did.
//!
//! The loss is −d_w a_w + d_l a_l of the pair alone, whose gradient is the objective's at this point (SPEC §2, eq. 7, 8).
//! The optimizer starts afresh, so AdamW's first step moves every parameter by about the learning rate, whatever the
//! gradient's size: first order in the gradient (`predicted`) cannot foresee it, ⟨∇a, Δθ⟩ of the actual update
//! (`update`) can, and where that differs from `realised` the log-prob bends over the length of the step.
//!
//! In memory: the gradients, one copy of the trainable parameters and the optimizer's state, kept from pair to pair but
//! for the last. Tested in `tests/step.rs`.

use serde::{Deserialize, Serialize};
use unbraid_model::{Accumulate, Batch, GradientPlan, Gradients, Keep, LanguageModel};
use unbraid_objective::Gram;
use unbraid_objective::condition::predicted_change;
use unbraid_preference::TokenizedPair;
use unbraid_tensor::Backend;
use unbraid_train::{
    Optimizer, OptimizerKind, ScoredPair, Snapshot, clip_factor, effects, pack_pairs, score_pairs,
};

/// How the step is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSettings {
    /// The optimizer, its state zero.
    pub optimizer: OptimizerKind,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest gradient norm; 0 for no clipping.
    pub max_grad_norm: f64,
}

/// Changes of a pair's two summed log-probs, in nats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepEffect {
    /// Of the chosen one by plain gradient descent to first order, with the step's rate and clipping.
    pub predicted_chosen: f64,
    /// Of the rejected one likewise.
    pub predicted_rejected: f64,
    /// ⟨∇a_w, Δθ⟩ of the actual update.
    pub update_chosen: f64,
    /// ⟨∇a_l, Δθ⟩ likewise.
    pub update_rejected: f64,
    /// log π(y_w|x) after the step minus before.
    pub realised_chosen: f64,
    /// log π(y_l|x) likewise.
    pub realised_rejected: f64,
}

impl StepEffect {
    /// Whether every number is; a rate far too large overflows.
    pub fn is_finite(&self) -> bool {
        let sides = [
            [
                self.predicted_chosen,
                self.update_chosen,
                self.realised_chosen,
            ],
            [
                self.predicted_rejected,
                self.update_rejected,
                self.realised_rejected,
            ],
        ];
        sides.iter().flatten().all(|x| x.is_finite())
    }
}

/// Takes single steps on a model, each from the same parameters.
pub struct SingleStep<B: Backend> {
    settings: StepSettings,
    gradients: Gradients<B>,
    snapshot: Snapshot<B>,
}

impl<B: Backend> SingleStep<B> {
    /// For steps on the trainable parameters of `model`.
    pub fn new(model: &LanguageModel<B>, settings: StepSettings) -> Self {
        let (b, params) = (&*model.backend, &model.params);
        SingleStep {
            settings,
            gradients: Gradients::zeros(b, params, |p| params.is_trainable(p)),
            snapshot: Snapshot::take(b, params),
        }
    }

    /// One step on the loss −d_w a_w + d_l a_l of this pair; `gram` holds its inner products at the model's parameters,
    /// which are the same to the bit afterwards.
    pub fn take(
        &mut self,
        model: &mut LanguageModel<B>,
        pair: &TokenizedPair,
        gram: Gram,
        d_w: f64,
        d_l: f64,
    ) -> StepEffect {
        let (b, settings) = (std::sync::Arc::clone(&model.backend), self.settings);
        self.snapshot.take_again(&b, &model.params);
        let before = self.differentiate(model, pair, d_w, d_l);
        let norm = self.gradients.squared_norm(&*b).sqrt();
        let scale = clip_factor(norm, settings.max_grad_norm);
        let (kind, decay) = (settings.optimizer, settings.weight_decay);
        let mut optimizer = Optimizer::new(&*b, kind, decay, &model.params, &self.gradients);
        let rate = settings.learning_rate;
        optimizer.step(&b, &mut model.params, &self.gradients, rate, scale);
        drop(optimizer);
        let after = score_pairs(model, &[pair], |_| true);
        let (chosen, rejected) = predicted_change(gram, d_w, d_l);
        let (snapshot, delta) = (&mut self.snapshot, &mut self.gradients);
        let update = effects(model, snapshot, delta, &[pair], Keep::All);
        self.snapshot.swap(&mut model.params);
        StepEffect {
            predicted_chosen: rate * scale * chosen,
            predicted_rejected: rate * scale * rejected,
            update_chosen: update[0].0,
            update_rejected: update[0].1,
            realised_chosen: after[0].chosen() - before.chosen(),
            realised_rejected: after[0].rejected() - before.rejected(),
        }
    }

    /// The loss's gradient, and the log-probs where it was taken.
    fn differentiate(
        &mut self,
        model: &LanguageModel<B>,
        pair: &TokenizedPair,
        d_w: f64,
        d_l: f64,
    ) -> ScoredPair {
        let b = &*model.backend;
        let batch = Batch::new(b, pack_pairs([pair], true));
        let forward = model.forward(&batch, Keep::All);
        let [chosen, rejected] =
            [0, 1].map(|response: usize| batch.forest.responses[response].targets.clone());
        let scored = ScoredPair {
            chosen_token_logps: forward.token_logps[chosen.clone()].to_vec(),
            rejected_token_logps: forward.token_logps[rejected.clone()].to_vec(),
        };
        let mut seeds = vec![0.0; batch.targets()];
        seeds[chosen].fill(-d_w);
        seeds[rejected].fill(d_l);
        let plan = GradientPlan::summed(b, &batch.forest);
        self.gradients.clear(b);
        let mut sink = Accumulate(&mut self.gradients);
        model.backward(&batch, &plan, forward, &seeds, &mut sink);
        scored
    }
}
