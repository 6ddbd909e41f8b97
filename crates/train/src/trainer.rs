//! The training loop: steps, clipping, logging, evaluation, saving, stopping.
//!
//! What one step minimises is a [`Task`]; the loop knows only gradients and metrics. A logged row holds means
//! over the steps since the last one, as TRL logs them, with the learning rate and the gradient norm (before
//! clipping) of its own step.

use crate::checkpoint::Files;
use crate::error::TrainError;
use crate::metrics::{Averages, MetricsFile};
use crate::optimizer::{Optimizer, OptimizerKind};
use crate::sampler::Sampler;
use crate::schedule::Schedule;
use serde_json::{Map, Value};
use std::time::Instant;
use unbraid_model::{Gradients, LanguageModel};
use unbraid_tensor::Backend;

/// What is minimised.
pub trait Task<B: Backend> {
    /// Adds the gradient of one optimizer step's loss (the mean over its micro-batches) to `gradients`.
    ///
    /// `measure` asks for the geometry as well. Returns the step's metrics; `loss` is among them and finite.
    ///
    /// # Errors
    /// A loss that is not finite, naming the examples.
    fn accumulate(
        &mut self,
        model: &LanguageModel<B>,
        gradients: &mut Gradients<B>,
        micro_batches: &[Vec<usize>],
        measure: bool,
    ) -> Result<Averages, TrainError>;

    /// Called after the optimizer's step when it was measured: predicted and realised changes.
    /// `learning_rate` and `grad_scale` are those of the step.
    fn after_step(
        &mut self,
        model: &LanguageModel<B>,
        learning_rate: f64,
        grad_scale: f64,
    ) -> Averages;

    /// Metrics of the held-out examples, without prefix; `None` when there are none.
    ///
    /// # Errors
    /// What the objective refuses.
    fn evaluate(&mut self, model: &LanguageModel<B>) -> Result<Option<Averages>, TrainError>;

    /// Row numbers of the examples in the input, for messages.
    fn rows(&self, micro_batches: &[Vec<usize>]) -> Vec<usize>;

    /// Tokens of the examples, a prompt counted once for each of its completions, for the throughput.
    fn tokens(&self, micro_batches: &[Vec<usize>]) -> usize;
}

/// When something is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    /// Every so many steps.
    pub every: u64,
    /// Also after the last step (the end of an epoch that was not finished).
    pub at_end: bool,
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
    /// A row was logged.
    fn on_row(&mut self, row: &Map<String, Value>);
    /// A checkpoint or the model was written.
    fn on_save(&mut self, path: &std::path::Path);
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

/// Everything a run holds.
struct Run<'a, B: Backend> {
    model: &'a mut LanguageModel<B>,
    settings: &'a Settings,
    plan: &'a TrainingPlan,
    files: &'a Files<'a>,
    metrics: MetricsFile,
    history: Vec<Value>,
    /// Checkpoints that this run has written, oldest first.
    saved: Vec<std::path::PathBuf>,
    window: Averages,
    window_tokens: usize,
    window_start: Instant,
}

/// Trains `model` and writes metrics, checkpoints and, at the end, the model into the output directory.
///
/// # Errors
/// A loss or gradient that is not finite (nothing is overwritten), or what the file system refuses.
pub fn run<B: Backend>(
    model: &mut LanguageModel<B>,
    task: &mut dyn Task<B>,
    plan: &TrainingPlan,
    settings: &Settings,
    files: &Files<'_>,
    observer: &mut dyn Observer,
) -> Result<Outcome, TrainError> {
    let backend = std::sync::Arc::clone(&model.backend);
    let mut gradients = Gradients::zeros(&*backend, &model.params, |_| true);
    let mut optimizer = Optimizer::new(
        &*backend,
        settings.optimizer,
        settings.weight_decay,
        &gradients,
    );
    let mut run = Run {
        model,
        settings,
        plan,
        files,
        metrics: MetricsFile::create(&files.output_dir.join("metrics.jsonl"))?,
        history: Vec::new(),
        saved: Vec::new(),
        window: Averages::default(),
        window_tokens: 0,
        window_start: Instant::now(),
    };
    if settings.eval_on_start {
        run.evaluate(task, 0, observer)?;
    }
    for step in 1..=plan.total {
        if observer.stop() {
            let path = run.checkpoint(step - 1)?;
            observer.on_save(&path);
            return Ok(Outcome::Interrupted { step: step - 1 });
        }
        run.step(task, &mut gradients, &mut optimizer, step, observer)?;
    }
    run.check_weights(plan.total)?;
    files.save_model(run.model, &files.output_dir)?;
    observer.on_save(&files.output_dir);
    Ok(Outcome::Finished)
}

/// Whether the optimizer step with this number (the first is 1) is measured; the first always is, unless off.
fn measures(geometry_every: Option<u64>, step: u64) -> bool {
    geometry_every.is_some_and(|n| step == 1 || step.is_multiple_of(n.max(1)))
}

impl Cadence {
    fn due(self, step: u64, total: u64) -> bool {
        step.is_multiple_of(self.every.max(1)) || (self.at_end && step == total)
    }
}

impl<B: Backend> Run<'_, B> {
    fn step(
        &mut self,
        task: &mut dyn Task<B>,
        gradients: &mut Gradients<B>,
        optimizer: &mut Optimizer<B>,
        step: u64,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let backend = std::sync::Arc::clone(&self.model.backend);
        let started = Instant::now();
        let batches = self.plan.sampler.step(step - 1);
        let measure = measures(self.settings.geometry_every, step);
        gradients.clear(&backend);
        let mut metrics = task
            .accumulate(self.model, gradients, &batches, measure)
            .map_err(|e| self.locate(e, step))?;

        let norm = gradients.squared_norm(&*backend).sqrt();
        if !norm.is_finite() {
            return Err(TrainError::NonFiniteGradient {
                step,
                norm,
                rows: task.rows(&batches),
                checkpoint: self.saved.last().cloned(),
            });
        }
        let scale = clip_factor(norm, self.settings.max_grad_norm);
        let rate = self.settings.schedule.rate(step - 1);
        optimizer.step(&backend, &mut self.model.params, gradients, rate, scale);
        let seconds = started.elapsed().as_secs_f64();
        if measure {
            metrics.merge(&task.after_step(self.model, rate, scale));
        }

        let tokens = task.tokens(&batches);
        self.window_tokens += tokens;
        self.window.merge(&metrics);
        observer.on_step(step, &metrics, tokens as f64 / seconds);
        let first = step == 1 && self.settings.logging_first_step;
        let logging = step.is_multiple_of(self.settings.logging_steps.max(1));
        if logging || first || step == self.plan.total {
            self.log(step, rate, norm, observer)?;
        }
        let due = |cadence: Option<Cadence>| cadence.is_some_and(|c| c.due(step, self.plan.total));
        let (evaluate, save) = (due(self.settings.evaluate), due(self.settings.save));
        if evaluate {
            self.evaluate(task, step, observer)?;
        }
        if save {
            let path = self.checkpoint(step)?;
            observer.on_save(&path);
        }
        Ok(())
    }

    /// Fills in what only the loop knows of an error.
    fn locate(&self, error: TrainError, at: u64) -> TrainError {
        match error {
            TrainError::NonFiniteLoss {
                loss, rows, data, ..
            } => TrainError::NonFiniteLoss {
                data,
                step: at,
                loss,
                rows,
                checkpoint: self.saved.last().cloned(),
            },
            other => other,
        }
    }

    fn row(&self, step: u64) -> Map<String, Value> {
        let epoch = step as f64 / self.plan.sampler.steps_per_epoch() as f64;
        let mut row = Map::new();
        row.insert("step".into(), Value::from(step));
        row.insert("epoch".into(), Value::from(epoch));
        row
    }

    fn log(
        &mut self,
        step: u64,
        rate: f64,
        norm: f64,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let mut row = self.row(step);
        row.insert("learning_rate".into(), Value::from(rate));
        self.window.write_into("", &mut row);
        row.insert("grad_norm".into(), Value::from(norm));
        let seconds = self.window_start.elapsed().as_secs_f64();
        row.insert(
            "tokens_per_second".into(),
            Value::from(self.window_tokens as f64 / seconds),
        );
        self.write(row, observer)?;
        self.window.clear();
        self.window_tokens = 0;
        self.window_start = Instant::now();
        Ok(())
    }

    fn evaluate(
        &mut self,
        task: &mut dyn Task<B>,
        step: u64,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let paused = Instant::now();
        let metrics = task
            .evaluate(self.model)
            .map_err(|e| self.locate(e, step))?;
        if let Some(metrics) = metrics {
            let mut row = self.row(step);
            metrics.write_into("eval_", &mut row);
            self.write(row, observer)?;
        }
        self.window_start += paused.elapsed(); // evaluation is not training time
        Ok(())
    }

    fn write(
        &mut self,
        row: Map<String, Value>,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        self.metrics.write(&row)?;
        observer.on_row(&row);
        self.history.push(Value::Object(row));
        Ok(())
    }

    /// Refuses to write a model that training has ruined.
    fn check_weights(&self, step: u64) -> Result<(), TrainError> {
        let (b, params) = (&*self.model.backend, &self.model.params);
        for (spec, value) in params.specs.iter().zip(&params.values) {
            if !b.dot(value, 0, value, 0, b.len(value)).is_finite() {
                return Err(TrainError::NonFiniteWeights {
                    step,
                    name: spec.name.clone(),
                    checkpoint: self.saved.last().cloned(),
                });
            }
        }
        Ok(())
    }

    fn checkpoint(&mut self, step: u64) -> Result<std::path::PathBuf, TrainError> {
        self.check_weights(step)?;
        let paused = Instant::now();
        let history = Value::Array(self.history.clone());
        let path = self.files.save_checkpoint(self.model, step, &history)?;
        self.saved.retain(|p| *p != path);
        self.saved.push(path.clone());
        self.files.prune(&mut self.saved)?;
        self.window_start += paused.elapsed();
        Ok(path)
    }
}

/// Factor on the gradient, as `torch.nn.utils.clip_grad_norm_`: max/(norm + 1e-6), at most 1.
fn clip_factor(norm: f64, max_grad_norm: f64) -> f64 {
    if max_grad_norm <= 0.0 {
        1.0
    } else {
        (max_grad_norm / (norm + 1e-6)).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometry_measures_the_first_step_and_each_nth() {
        let measured: Vec<u64> = (1..=10).filter(|&step| measures(Some(4), step)).collect();
        assert_eq!(measured, [1, 4, 8]);
        assert!((1..=10).all(|step| !measures(None, step)));
    }
}
