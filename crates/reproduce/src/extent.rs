//! How much of an experiment's preference training is run and measured.

use crate::recipe::Recipe;
use serde::Serialize;

/// What both experiments choose alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Extent {
    /// Seeds: each arm runs once with each.
    pub seeds: Vec<u64>,
    /// Optimizer steps.
    pub steps: usize,
    /// Pairs in a step.
    pub batch: usize,
    /// Peak learning rate.
    pub rate: f64,
    /// Optimizer steps between two evaluations.
    pub eval_steps: usize,
    /// Held-out pairs.
    pub held_out: usize,
    /// Held-out pairs, the first ones, whose geometry is measured at every evaluation.
    pub measured: usize,
}

impl Extent {
    /// Its settings of a training run, with the authors' warm-up.
    pub fn recipe(&self) -> Recipe {
        Recipe::new()
            .with("max_steps", self.steps)
            .with("per_device_train_batch_size", self.batch)
            .with("learning_rate", self.rate)
            .with("warmup_ratio", 0.1)
            .with("eval_strategy", "steps")
            .with("eval_steps", self.eval_steps.min(self.steps))
            .with("eval_on_start", true)
            .with("eval_geometry", self.measured)
            .with("update_every", "off")
            .with("attribute", "off")
    }
}
