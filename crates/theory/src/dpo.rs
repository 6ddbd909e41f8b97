//! The DPO loss of one pair, through the engine's objective, and real gradient-descent steps on it.
//!
//! A step's size is given in nats: the first-order change of the margin a_w − a_l, ηβc‖g_w − g_l‖², that its rate is chosen
//! for. So "small" means the same in every instance, whatever the size of its gradients.

use crate::random::{log_uniform, normal};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use unbraid_geometry::DirectionSink;
use unbraid_model::{Accumulate, Batch, GradientPlan, Gradients, Keep, LanguageModel, ParamId};
use unbraid_objective::{Gram, Objective, ObjectiveOptions, PairLogps};
use unbraid_preference::{TokenizedPair, TokenizedSequence};
use unbraid_tensor::Backend;
use unbraid_train::{Optimizer, OptimizerKind, ScoredPair, Snapshot, pack_pairs, score_pairs};

/// Step sizes in nats of the margin's first-order change.
pub const NATS: [f64; 3] = [1e-2, 1e-3, 1e-4];

/// Hyper-parameter and state of a pair's DPO loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dpo {
    /// β, per nat.
    pub beta: f64,
    /// Margin h = x_w − x_l that the reference's log-probs leave, nats.
    pub margin: f64,
}

impl Dpo {
    /// β from 0.01 to 1, margin around 0.
    pub fn draw(rng: &mut ChaCha8Rng) -> Self {
        Dpo {
            beta: log_uniform(rng, 0.01, 1.0),
            margin: 2.0 * normal(rng),
        }
    }

    /// βc = βσ(−βh), in closed form.
    pub fn weight(&self) -> f64 {
        self.beta / (1.0 + (self.beta * self.margin).exp())
    }

    /// (d_w, d_l) from the objective that training uses, at these log-probs of a pair.
    pub fn coefficients(&self, scored: &ScoredPair) -> (f64, f64) {
        let options = ObjectiveOptions {
            beta: Some(self.beta),
            ..ObjectiveOptions::default()
        };
        let dpo =
            Objective::from_name("dpo", &options).expect("an objective of this name, a positive β");
        // The rejected log-ratio is any number: only the margin counts.
        let rejected_ratio = 0.5;
        let pair = PairLogps {
            chosen: scored.chosen(),
            rejected: scored.rejected(),
            ref_chosen: scored.chosen() - self.margin - rejected_ratio,
            ref_rejected: scored.rejected() - rejected_ratio,
            chosen_len: scored.chosen_token_logps.len(),
            rejected_len: scored.rejected_token_logps.len(),
        };
        let loss = dpo
            .evaluate(&[pair])
            .expect("finite log-probs of at least one token")[0];
        (loss.d_w, loss.d_l)
    }
}

/// A pair of completions of one prompt.
pub fn pair(prompt: &[u32], chosen: &[u32], rejected: &[u32]) -> TokenizedPair {
    let side = |completion: &[u32]| TokenizedSequence {
        ids: [prompt, completion].concat(),
        prompt_len: prompt.len(),
    };
    TokenizedPair {
        index: 0,
        chosen: side(chosen),
        rejected: side(rejected),
        weight: 1.0,
        text: None,
    }
}

/// Learning rate at which the margin grows by `nats` to first order.
pub fn rate(nats: f64, gram: Gram, (d_w, d_l): (f64, f64)) -> f64 {
    nats / (d_w * (gram.ww - gram.wl) + d_l * (gram.ll - gram.wl))
}

/// Changes of the token log-probs of a pair, nats.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    /// Of each chosen token.
    pub chosen: Vec<f64>,
    /// Of each rejected token.
    pub rejected: Vec<f64>,
}

impl Changes {
    /// Δa_w.
    pub fn chosen_sum(&self) -> f64 {
        self.chosen.iter().sum()
    }

    /// Δa_l.
    pub fn rejected_sum(&self) -> f64 {
        self.rejected.iter().sum()
    }

    fn between(before: &ScoredPair, after: &ScoredPair) -> Self {
        let minus = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect();
        Changes {
            chosen: minus(&after.chosen_token_logps, &before.chosen_token_logps),
            rejected: minus(&after.rejected_token_logps, &before.rejected_token_logps),
        }
    }
}

/// The gradient of −d_w a_w + d_l a_l over some parameters of a model, ready for steps of any size from the same point.
pub struct Descent<B: Backend> {
    gradients: Gradients<B>,
    before: ScoredPair,
    snapshot: Snapshot<B>,
}

impl<B: Backend> Descent<B> {
    /// Takes the gradient as the trainer does: one summed walk with the coefficients as seeds.
    pub fn new(
        model: &LanguageModel<B>,
        pair: &TokenizedPair,
        (d_w, d_l): (f64, f64),
        trained: impl Fn(ParamId) -> bool,
    ) -> Self {
        let b = &*model.backend;
        let batch = Batch::new(b, pack_pairs([pair], true));
        let forward = model.forward(&batch, Keep::All);
        let before = ScoredPair::of_batch(&batch.forest, &forward.token_logps).swap_remove(0);
        let mut seeds = vec![0.0; batch.targets()];
        seeds[batch.forest.responses[0].targets.clone()].fill(-d_w);
        seeds[batch.forest.responses[1].targets.clone()].fill(d_l);
        let plan = GradientPlan::summed(b, &batch.forest);
        let mut gradients = Gradients::zeros(b, &model.params, trained);
        model.backward(
            &batch,
            &plan,
            forward,
            &seeds,
            &mut Accumulate(&mut gradients),
        );
        Descent {
            gradients,
            before,
            snapshot: Snapshot::take(b, &model.params),
        }
    }

    /// What a real step of plain gradient descent at `rate` does; the model is the same to the bit afterwards.
    pub fn step(
        &mut self,
        model: &mut LanguageModel<B>,
        pair: &TokenizedPair,
        rate: f64,
    ) -> Changes {
        let b = Arc::clone(&model.backend);
        self.snapshot.take_again(&b, &model.params);
        let kind = OptimizerKind::Sgd { momentum: 0.0 };
        let mut optimizer = Optimizer::new(&*b, kind, 0.0, &model.params, &self.gradients);
        optimizer.step(&b, &mut model.params, &self.gradients, rate, 1.0);
        let after = score_pairs(model, &[pair], |_| true).swap_remove(0);
        self.snapshot.swap(&mut model.params);
        Changes::between(&self.before, &after)
    }

    /// First-order change of every token's log-prob per unit of rate, −⟨∇a, ∇ℓ⟩, from a walk that keeps the tokens apart.
    pub fn first_order(&self, model: &LanguageModel<B>, pair: &TokenizedPair) -> Changes {
        let b = &*model.backend;
        let batch = Batch::new(b, pack_pairs([pair], true));
        let all: Vec<usize> = (0..batch.targets()).collect();
        let plan = GradientPlan::per_token(b, &batch.forest, &all);
        let forward = model.forward(&batch, Keep::All);
        let mut sink = DirectionSink::new(&self.gradients.values, all.len());
        let ones = vec![1.0; all.len()];
        model.backward(&batch, &plan, forward, &ones, &mut sink);
        let mut chosen: Vec<f64> = sink.changes.iter().map(|x| -x).collect();
        let rejected = chosen.split_off(batch.forest.responses[0].targets.len());
        Changes { chosen, rejected }
    }
}
