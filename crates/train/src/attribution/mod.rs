//! Attribution: why the log-probs of held-out completions move, step by step, in parts that add up.
//!
//! The geometry of a pair says what one plain gradient step does to that pair. What users watch is something else: the
//! log-prob of completions that the run does *not* train on, under the real optimizer, pushed by every pair. For a set of
//! *probes* (held-out pairs) let ā_w, ā_l be their mean chosen and rejected log-prob and ḡ_w, ḡ_l the gradients of these
//! means. To first order, exactly, a step moves them by ⟨ḡ, Δθ⟩, and the optimizer's update is a sum:
//!
//! ```text
//! AdamW:     Δθ = −η P m̂ − ηλθ        P = 1/(√v̂ + ε), m̂ = (β₁ m₋ + (1−β₁) g)/(1−β₁ᵗ)
//! SGD:       Δθ = −η (μ b₋ + g + λθ)   P = 1
//! Adafactor: Δθ = −η P g − ηλθ         P = 1/√v̂ with its clipping
//! Lion:      Δθ = −η P u − ηλθ         P = 1/|u|, u = β₁ m₋ + (1−β₁) g
//! ```
//!
//! with g the clipped gradient of the loss, itself a sum over the step's completions. So every change has these parts
//! ([`Parts`]): by whose gradient (*chosen side*, *rejected side*, *likelihood* terms, *other*: masks and their penalty),
//! *momentum* carried from earlier steps, *decay*, and *rounding* (the update that was made minus the one computed here in
//! f64). What is left of the realised change is the *remainder*: curvature. ḡ is the mean of the gradients before and
//! after the step (the trapezoid rule), which takes most of the curvature in.
//!
//! The sides are accounting of whose gradient it is, never "what would have happened without it": under DPO they are
//! large and cancel, as [`Parts::cancellation`] tells.
//!
//! This is the light mode: it keeps no state between steps, changes no bit of the run, and needs, in a measured step, two
//! walks over the probes, one over the step's own completions, and memory for three copies of the trainable parameters.
//! Source: the project's own; conditions in the metric P as in `mathematics.md`. Tested in `tests/attribution.rs`: parts
//! sum to ⟨ḡ, Δθ⟩, ⟨ḡ, Δθ⟩ against differences, the split against gradients computed alone.

mod choose;
mod probes;
mod record;
mod sums;
mod update;

pub use choose::{AttributionPlan, ProbeSource, Probes};
pub use record::{Parts, Push, SideParts};
pub use sums::write_sums;

use crate::optimizer::Optimizer;
use crate::snapshot::Snapshot;
use crate::trainer::{StepRecord, Task};
use probes::{Levels, add_mean_gradient};
use std::sync::Arc;
use unbraid_model::{Gradients, Keep, LanguageModel};
use unbraid_tensor::Backend;
use update::{Applied, UpdateSplit};

/// A step that is being measured: what is known before the optimizer moves.
pub(crate) struct Watched<B: Backend> {
    /// ½∇ā_w and ½∇ā_l before the step; afterwards the trapezoid's mean.
    gradients: [Gradients<B>; 2],
    before: Levels,
    snapshot: Snapshot<B>,
    /// The first moment before the step, where it cannot be found again from the one after it.
    moment: Option<Vec<Option<B::Buffer>>>,
}

/// What a step was taken with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    /// The learning rate.
    pub rate: f64,
    /// The clipping factor.
    pub scale: f64,
}

impl<B: Backend> Watched<B> {
    /// Takes the probes' gradients and log-probs and a copy of the parameters.
    pub(crate) fn before(
        model: &LanguageModel<B>,
        probes: &Probes,
        optimizer: &Optimizer<B>,
        keep: Keep,
    ) -> Self {
        let b = &*model.backend;
        let params = &model.params;
        let mut gradients =
            [(); 2].map(|()| Gradients::zeros(b, params, |id| params.is_trainable(id)));
        Watched {
            before: add_mean_gradient(model, probes, keep, &mut gradients),
            gradients,
            snapshot: Snapshot::take(b, params),
            moment: optimizer.copy_of_moment(b),
        }
    }

    /// Measures the step that was taken since: `gradient` still holds the gradient of its loss. The model is left as it
    /// was found, to the bit.
    pub(crate) fn after(
        mut self,
        model: &mut LanguageModel<B>,
        task: &dyn Task<B>,
        (probes, keep): (&Probes, Keep),
        (optimizer, gradient): (&Optimizer<B>, &Gradients<B>),
        taken: Taken,
    ) -> StepRecord {
        let after = add_mean_gradient(model, probes, keep, &mut self.gradients);
        let backend = Arc::clone(&model.backend);
        let applied = Applied {
            backend: &*backend,
            params: &model.params,
            before: &self.snapshot,
            gradient,
            moment: self.moment.as_deref(),
            taken,
        };
        let split: UpdateSplit = optimizer.split_update(&applied, &mut self.gradients);
        self.snapshot.swap(&mut model.params);
        let pushes = task.pushes(model, &self.gradients);
        self.snapshot.swap(&mut model.params);
        record::step_record(probes, (&self.before, &after), &split, &pushes)
    }
}
