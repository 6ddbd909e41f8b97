//! What each pair of a step pushes along given directions, by whose gradient: see [`crate::Task::pushes`].
//!
//! The step's micro-batches are walked again as they were, at the parameters from before the step and with their own
//! dropout, so that the parts belong to the gradient that was used and not to a cleaner one.

use super::{PreferenceTask, Scored, Side, SteppedPair};
use crate::attribution::{Push, SideParts};
use std::ops::Range;
use unbraid_geometry::DirectionSink;
use unbraid_model::{Batch, Forward, GradientPlan, Gradients, LanguageModel, Seeds};
use unbraid_objective::PairLoss;
use unbraid_tensor::Backend;

/// Pairs of the last step that were one batch.
pub(super) struct SteppedRun {
    /// Their places in the step.
    pub pairs: Range<usize>,
    /// Seed of the dropout they were drawn with.
    pub dropout_seed: Option<u64>,
}

/// The factor k of each pair's likelihood term in the gradient that was used: a remedy scales it with the whole of d_w,
/// where tokens are not weighted.
pub(super) fn likelihood_shares(
    scored: &Scored,
    likelihood: Vec<f64>,
    before: &[f64],
    losses: &[PairLoss],
) -> Vec<f64> {
    if scored.weighted {
        return likelihood;
    }
    let pairs = likelihood.into_iter().zip(before).zip(losses);
    let scaled = |((k, before), loss): ((f64, &f64), &PairLoss)| match *before == 0.0 {
        true => k,
        false => k * loss.d_w / before,
    };
    pairs.map(scaled).collect()
}

/// One batch of the step, computed again.
struct Again<'a, B: Backend> {
    model: &'a LanguageModel<B>,
    batch: &'a Batch<B>,
    plan: GradientPlan<B>,
    forward: Forward<B>,
    directions: &'a [Gradients<B>; 2],
}

impl<B: Backend> Again<'_, B> {
    /// ⟨∇, q⟩ of every response's seeded sum, for both directions one after the other.
    fn walk(&self, seeds: Seeds<'_>) -> Vec<f64> {
        let directions = self.directions.iter().map(|q| &q.values[..]).collect();
        let responses = self.batch.forest.responses.len();
        let mut sink = DirectionSink::along(directions, responses);
        let model = self.model;
        model.backward_again(self.batch, &self.plan, &self.forward, seeds, &mut sink);
        sink.changes
    }
}

impl<B: Backend> PreferenceTask<'_, B> {
    pub(super) fn pushes_of_step(
        &self,
        model: &LanguageModel<B>,
        directions: &[Gradients<B>; 2],
    ) -> Vec<Push> {
        let runs = self.runs.iter();
        runs.flat_map(|run| self.pushes_of_run(model, run, directions))
            .collect()
    }

    fn pushes_of_run(
        &self,
        model: &LanguageModel<B>,
        run: &SteppedRun,
        directions: &[Gradients<B>; 2],
    ) -> Vec<Push> {
        let stepped = &self.stepped[run.pairs.clone()];
        let examples: Vec<usize> = stepped.iter().map(|pair| pair.example).collect();
        let batch = self.pack(model, &examples);
        let forward = model.forward_training(&batch, self.settings.keep, run.dropout_seed);
        let tokens = self.by_token(model, &batch, &forward, Side::Training, &examples);
        let again = Again {
            model,
            plan: GradientPlan::per_response(&*model.backend, &batch.forest),
            batch: &batch,
            forward,
            directions,
        };
        let weights = &tokens.weights.weights;
        let weighted = weights.iter().any(|&w| w != 1.0);
        let no_probe = vec![0.0; batch.targets()];
        let margin = again.walk(self.seeds(weights, &no_probe));
        let has_likelihood = stepped.iter().any(|pair| pair.likelihood != 0.0);
        let likelihood = match has_likelihood && weighted {
            true => again.walk(Seeds::from(&vec![1.0; batch.targets()])),
            false => margin.clone(),
        };
        let other = self
            .mask_seeds(stepped, &tokens, &batch)
            .map(|seeds| again.walk(self.seeds(&vec![0.0; batch.targets()], &seeds)));
        let responses = batch.forest.responses.len();
        let push = |(i, pair): (usize, &SteppedPair)| {
            let on = [0, 1].map(|direction| {
                let at = direction * responses + 2 * i;
                let masks = |other: &Vec<f64>| -(other[at] + other[at + 1]);
                SideParts {
                    chosen_side: pair.share * pair.margin_d_w() * margin[at],
                    rejected_side: -pair.share * pair.d_l * margin[at + 1],
                    likelihood: pair.share * pair.likelihood * likelihood[at],
                    other: other.as_ref().map_or(0.0, masks),
                }
            });
            Push {
                index: self.train.pairs[pair.example].index,
                on,
            }
        };
        stepped.iter().enumerate().map(push).collect()
    }

    /// Derivatives of the step's loss with respect to a `head` mask's values, which reach the model through the final
    /// hidden states.
    fn mask_seeds(
        &self,
        stepped: &[SteppedPair],
        tokens: &Scored,
        batch: &Batch<B>,
    ) -> Option<Vec<f64>> {
        let settings = self.settings.mask.settings()?;
        let learnt = tokens.weights.learnt.as_ref()?;
        let slopes = tokens.mask_slopes();
        let mut seeds = vec![0.0; batch.targets()];
        let pairs = stepped.iter().zip(batch.forest.responses.chunks_exact(2));
        for (pair, responses) in pairs {
            let sides = [-pair.margin_d_w(), pair.d_l];
            for (response, d) in responses.iter().zip(sides) {
                for t in response.targets.clone() {
                    let penalty = settings.l1 * learnt.values[t].signum();
                    seeds[t] = pair.share * (d * slopes[t] + penalty);
                }
            }
        }
        Some(seeds)
    }
}
