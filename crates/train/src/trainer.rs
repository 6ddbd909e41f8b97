//! What a run is given and whom it tells: tasks, settings, plans, observers. The loop itself is in `run.rs`.
//!
//! What one step minimises is a [`Task`]; the loop knows only gradients and metrics.

use crate::attribution::{AttributionPlan, Push};
use crate::error::TrainError;
use crate::metrics::Averages;
use crate::optimizer::OptimizerKind;
use crate::record::PairRecord;
use crate::sampler::Sampler;
use crate::schedule::Schedule;
use crate::snapshot::Snapshot;
use serde_json::{Map, Value};
use std::path::Path;
use unbraid_model::{Gradients, LanguageModel};
use unbraid_tensor::Backend;

/// What is minimised.
pub trait Task<B: Backend> {
    /// Adds the gradient of one optimizer step's loss (the mean over its micro-batches) to `gradients`.
    ///
    /// `step` is the 1-based optimizer step, `measure` asks for the geometry as well. Returns the step's metrics
    /// ([`Averages::of_step`]); `loss`, the mean over the micro-batches, is among them with weight 1 and finite.
    ///
    /// # Errors
    /// A loss that is not finite, naming the examples.
    fn accumulate(
        &mut self,
        model: &LanguageModel<B>,
        gradients: &mut Gradients<B>,
        step: u64,
        micro_batches: &[Vec<usize>],
        measure: bool,
    ) -> Result<Averages, TrainError>;

    /// Called when [`Task::accumulate`] or [`Task::batch_gram`] was cancelled half-way ([`unbraid_model::Cancel`]): the step
    /// is taken again later. What [`Task::save_state`] writes must be as it was before the step.
    fn abandon_step(&mut self) {}

    /// Called after the optimizer's step when it was measured: predicted and realised changes.
    /// `learning_rate` and `grad_scale` are those of the step.
    fn after_step(
        &mut self,
        model: &LanguageModel<B>,
        learning_rate: f64,
        grad_scale: f64,
    ) -> Averages;

    /// Called before the optimizer's step where the batch Gram matrix is wanted: how much every example's response would
    /// move by whose gradient. `None` for a task that has no such thing.
    fn batch_gram(
        &mut self,
        _model: &LanguageModel<B>,
        _learning_rate: f64,
        _grad_scale: f64,
    ) -> Option<StepRecord> {
        None
    }

    /// Whether [`Task::update_effects`] has something to say; if not, no snapshot is taken for it.
    fn explains_updates(&self) -> bool {
        false
    }

    /// Called last of all after a step whose update is to be explained: what it did to the step's examples to first order,
    /// beside prediction and reality. `snapshot` holds the parameters from before the step, `delta` is memory for Δθ; the
    /// model must be left as it was found, to the bit.
    fn update_effects(
        &mut self,
        _model: &mut LanguageModel<B>,
        _snapshot: &mut Snapshot<B>,
        _delta: &mut Gradients<B>,
        _learning_rate: f64,
        _grad_scale: f64,
    ) -> StepRecord {
        StepRecord::default()
    }

    /// What each example of the last step pushes along two directions q: Σ c⟨g, q⟩ over its completions, where −∇ℓ = Σ c g
    /// is the loss that the step went down, in parts by whose gradient g is. The model has the parameters from before the
    /// step. Empty for a task that has no sides.
    fn pushes(&self, _model: &LanguageModel<B>, _directions: &[Gradients<B>; 2]) -> Vec<Push> {
        Vec::new()
    }

    /// Metrics of the held-out examples, without prefix; `None` when there are none, and as soon as `stop` (asked
    /// between batches) says so: the loop asks it again and evaluates after the run is resumed.
    ///
    /// # Errors
    /// What the objective refuses.
    fn evaluate(
        &mut self,
        model: &LanguageModel<B>,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Averages>, TrainError>;

    /// Row numbers of the examples in the input, for messages.
    fn rows(&self, micro_batches: &[Vec<usize>]) -> Vec<usize>;

    /// Tokens of the examples, a prompt counted once for each of its completions, for the throughput.
    fn tokens(&self, micro_batches: &[Vec<usize>]) -> usize;

    /// The records of the last step's pairs, each once; empty for a task that keeps none.
    fn take_records(&mut self) -> Vec<PairRecord> {
        Vec::new()
    }

    /// Called after the last step, when the model was written: writes what else the task has to show into `dir`.
    ///
    /// # Errors
    /// What the file system refuses.
    fn finish(&mut self, _model: &LanguageModel<B>, _dir: &Path) -> Result<(), TrainError> {
        Ok(())
    }

    /// Called after each optimizer step (the first is 1), when its metrics are taken.
    ///
    /// # Errors
    /// The task's own.
    fn on_step_end(&mut self, _model: &LanguageModel<B>, _step: u64) -> Result<(), TrainError> {
        Ok(())
    }

    /// Writes what the task must have to go on from here, and the model's trainable parameters do not hold, as files
    /// into a checkpoint.
    ///
    /// # Errors
    /// What the file system refuses.
    fn save_state(&self, _dir: &Path) -> Result<(), TrainError> {
        Ok(())
    }

    /// Reads back what [`Task::save_state`] wrote.
    ///
    /// # Errors
    /// Files that are missing or do not belong to this task.
    fn load_state(&mut self, _dir: &Path) -> Result<(), TrainError> {
        Ok(())
    }
}

/// What a task has to say of one step, for a file of its own and for the metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepRecord {
    /// Rows without their step.
    pub rows: Vec<Map<String, Value>>,
    /// Metrics of the step.
    pub metrics: Averages,
}

/// When something is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    /// Every so many steps.
    pub every: u64,
    /// Also after the last step, as transformers does with every strategy but `no`.
    pub at_end: bool,
}

impl Cadence {
    pub(crate) fn due(self, step: u64, total: u64) -> bool {
        step.is_multiple_of(self.every.max(1)) || (self.at_end && step == total)
    }
}

/// Settings of the loop.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The optimizer.
    pub optimizer: OptimizerKind,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest gradient norm; 0 for no clipping.
    pub max_grad_norm: f64,
    /// The learning rate.
    pub schedule: Schedule,
    /// Log every so many steps.
    pub logging_steps: u64,
    /// Also log the first step.
    pub logging_first_step: bool,
    /// When to evaluate.
    pub evaluate: Option<Cadence>,
    /// Also evaluate before the first step.
    pub eval_on_start: bool,
    /// When to save a checkpoint.
    pub save: Option<Cadence>,
    /// Measure geometry in the first step and every so many steps.
    pub geometry_every: Option<u64>,
    /// Set prediction against reality in the first step and every so many steps: [`Task::update_effects`].
    pub update_every: Option<u64>,
    /// Record the batch Gram matrix in the first step and every so many steps: [`Task::batch_gram`].
    pub gram_every: Option<u64>,
    /// Which steps are attributed, on which probes; `None` for none.
    pub attribution: Option<AttributionPlan>,
    /// Which checkpoint is the best one, if it matters.
    pub best: Option<BestModel>,
}

/// How checkpoints compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BestModel {
    /// Key of an evaluation metric, without `eval_`.
    pub metric: String,
    /// Whether more is better.
    pub greater_is_better: bool,
    /// Whether the run ends with the best checkpoint's model.
    pub load_at_end: bool,
}

/// Which examples each step takes, and for how many steps.
#[derive(Clone, Debug)]
pub struct TrainingPlan {
    /// The order of examples.
    pub sampler: Sampler,
    /// Optimizer steps of the run.
    pub total: u64,
}

/// Hears what happens.
pub trait Observer {
    /// After each step: its number (1-based), its metrics, tokens per second.
    fn on_step(&mut self, step: u64, metrics: &Averages, tokens_per_second: f64);
    /// After each step of a task that keeps records: its number (1-based) and its pairs.
    fn on_pairs(&mut self, _step: u64, _pairs: &[PairRecord]) {}
    /// The run goes on from a checkpoint: its step, and the rows logged until then.
    fn on_resume(&mut self, _step: u64, _rows: &[Map<String, Value>]) {}
    /// A row was logged.
    fn on_row(&mut self, row: &Map<String, Value>);
    /// A checkpoint of this step is about to be written: what belongs to the steps until then should be on the disk
    /// first, for a run that is killed goes on from the checkpoint.
    fn before_save(&mut self, _step: u64) {}
    /// A checkpoint or the model was written.
    fn on_save(&mut self, path: &Path);
    /// Whether to stop now (the user pressed Ctrl-C).
    fn stop(&mut self) -> bool;
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps were taken.
    Finished,
    /// It was told to stop; a checkpoint of the last step was saved.
    Interrupted {
        /// Steps taken.
        step: u64,
    },
}
