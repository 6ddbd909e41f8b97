//! The probes' log-probs and the gradients of their means.

use super::choose::Probes;
use crate::pack::{fitting, pack_completions};
use crate::score::ROWS_PER_BATCH;
use unbraid_model::{Accumulate, Batch, GradientPlan, Gradients, Keep, LanguageModel};
use unbraid_preference::TokenizedSequence;
use unbraid_tensor::Backend;

/// Log-probs of every probe's completion tokens, in nats, in the probes' order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Levels {
    /// Of each chosen completion.
    pub chosen: Vec<Vec<f64>>,
    /// Of each rejected completion.
    pub rejected: Vec<Vec<f64>>,
}

impl Levels {
    /// Both sides, chosen first.
    pub(crate) fn sides(&self) -> [&[Vec<f64>]; 2] {
        [&self.chosen, &self.rejected]
    }
}

/// Adds half the gradients of the probes' mean chosen and mean rejected log-prob to `gradients` (a step takes one half
/// before and one after the update: the trapezoid rule); the log-probs, without dropout.
pub(crate) fn add_mean_gradient<B: Backend>(
    model: &LanguageModel<B>,
    probes: &Probes,
    keep: Keep,
    gradients: &mut [Gradients<B>; 2],
) -> Levels {
    let [of_chosen, of_rejected] = gradients;
    Levels {
        chosen: add_side(model, &probes.chosen, keep, of_chosen),
        rejected: add_side(model, &probes.rejected, keep, of_rejected),
    }
}

/// One side: all sequences of it, in batches of bounded size.
fn add_side<B: Backend>(
    model: &LanguageModel<B>,
    sequences: &[TokenizedSequence],
    keep: Keep,
    gradients: &mut Gradients<B>,
) -> Vec<Vec<f64>> {
    let b = &*model.backend;
    let seed = 0.5 / sequences.len().max(1) as f64;
    let mut levels = Vec::with_capacity(sequences.len());
    let mut rest = sequences;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(fitting(rest, ROWS_PER_BATCH));
        rest = later;
        let batch = Batch::new(b, pack_completions(now));
        let forward = model.forward(&batch, keep);
        for response in &batch.forest.responses {
            levels.push(forward.token_logps[response.targets.clone()].to_vec());
        }
        let plan = GradientPlan::summed(b, &batch.forest);
        let seeds = vec![seed; batch.targets()];
        model.backward(&batch, &plan, forward, &seeds, &mut Accumulate(gradients));
    }
    levels
}
