//! The training loop: steps, clipping, logging, evaluation, saving, stopping, going on.
//!
//! A logged row holds means over the steps since the last one, as TRL logs them (the loss of steps, all else of their
//! micro-batches), with the learning rate and the gradient norm (before clipping) of its own step. A run that goes on from a checkpoint does from there what the
//! uninterrupted run does, bit for bit, so that weights and rows (but for the throughput) end up the same.

use crate::attribution::{Taken, Watched, write_sums};
use crate::checkpoint::{Files, OPTIMIZER, TRAINER_STATE, clear_leftovers, verify};
use crate::error::TrainError;
use crate::metrics::{Averages, MetricsFile};
use crate::optimizer::{Optimizer, restore_masters};
use crate::resume::Checkpoint;
use crate::snapshot::Snapshot;
use crate::state::{Best, TrainerState, checkpoint_name};
use crate::step_rows::StepRows;
use crate::trainer::{Observer, Outcome, Settings, Task, TrainingPlan};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use unbraid_model::weights::{StoredDtype, Weights, write_file_atomic};
use unbraid_model::{Cancel, Gradients, LanguageModel};
use unbraid_tensor::Backend;

/// Everything a run holds.
struct Run<'a, B: Backend> {
    model: &'a mut LanguageModel<B>,
    task: &'a mut dyn Task<B>,
    settings: &'a Settings,
    plan: &'a TrainingPlan,
    files: &'a Files<'a>,
    observer: &'a mut dyn Observer,
    optimizer: Optimizer<B>,
    metrics: MetricsFile,
    /// `predictions.jsonl`.
    predictions: StepRows,
    /// `gram.jsonl`.
    grams: StepRows,
    /// `attribution.jsonl`.
    attributions: StepRows,
    /// Where it stands; the time of its window is up to `window_start`.
    state: TrainerState,
    window_start: Instant,
    /// The checkpoint that it went on from, until it has its own.
    origin: Option<PathBuf>,
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
    let backend = Arc::clone(&model.backend);
    let params = &model.params;
    let mut gradients = Gradients::zeros(&*backend, params, |id| params.is_trainable(id));
    let (kind, decay) = (settings.optimizer, settings.weight_decay);
    let mut optimizer = Optimizer::new(&*backend, kind, decay, params, &gradients);
    clear_leftovers(&files.output_dir)?;
    let state = match &files.resume {
        None => fresh(settings, files),
        Some(checkpoint) => go_on(checkpoint, model, task, &mut optimizer, files)?,
    };
    let path = files.output_dir.join("metrics.jsonl");
    let mut run = Run {
        metrics: MetricsFile::create(&path, &state.history)?,
        predictions: StepRows::cut_back(files.output_dir.join("predictions.jsonl"), state.step)?,
        grams: StepRows::cut_back(files.output_dir.join("gram.jsonl"), state.step)?,
        attributions: StepRows::cut_back(files.output_dir.join("attribution.jsonl"), state.step)?,
        origin: files.resume.as_ref().map(|c| c.path().to_owned()),
        window_start: Instant::now(),
        model,
        task,
        settings,
        plan,
        files,
        observer,
        optimizer,
        state,
    };
    remove_if_there(&files.output_dir.join(TRAINER_STATE))?;
    if files.resume.is_some() {
        run.observer.on_resume(run.state.step, &run.state.history);
    }
    if !run.evaluate_and_save()? {
        return run.interrupt();
    }
    while run.state.step < plan.total {
        if run.observer.stop() {
            return run.interrupt();
        }
        if !run.step(&mut gradients)? {
            return run.interrupt();
        }
        if !run.evaluate_and_save()? {
            return run.interrupt();
        }
    }
    run.finish()
}

/// A run before its first step.
fn fresh(settings: &Settings, files: &Files<'_>) -> TrainerState {
    TrainerState {
        step: 0,
        best: None,
        history: Vec::new(),
        saved: Vec::new(),
        window: Averages::default(),
        window_tokens: 0,
        window_seconds: 0.0,
        evaluation_due: settings.eval_on_start,
        identity: files.identity.clone(),
    }
}

/// Puts model, task and optimizer where a checkpoint has them.
fn go_on<B: Backend>(
    checkpoint: &Checkpoint,
    model: &mut LanguageModel<B>,
    task: &mut dyn Task<B>,
    optimizer: &mut Optimizer<B>,
    files: &Files<'_>,
) -> Result<TrainerState, TrainError> {
    let dir = checkpoint.path();
    model.restore(dir)?;
    let (backend, path) = (Arc::clone(&model.backend), dir.join(OPTIMIZER));
    optimizer.restore(&*backend, &mut model.params, &path, checkpoint.step())?;
    task.load_state(dir)?;
    let mut state = checkpoint.state.clone();
    state.identity = files.identity.clone();
    // Only checkpoints that are (still) in this output directory are this run's to prune.
    let here = same_directory(dir.parent(), &files.output_dir);
    state
        .saved
        .retain(|&step| here && files.checkpoint_path(step).is_dir());
    Ok(state)
}

fn same_directory(parent: Option<&Path>, dir: &Path) -> bool {
    let parent = parent
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let canonical = |path: &Path| path.canonicalize().ok();
    canonical(parent).is_some() && canonical(parent) == canonical(dir)
}

fn remove_if_there(path: &Path) -> Result<(), TrainError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(TrainError::io("remove", path, e))
        }
        _ => Ok(()),
    }
}

/// Whether what is measured `every` so many optimizer steps is in the one with this number (the first is 1); the first
/// always is, unless off.
fn measures(every: Option<u64>, step: u64) -> bool {
    every.is_some_and(|n| step == 1 || step.is_multiple_of(n.max(1)))
}

impl<B: Backend> Run<'_, B> {
    /// Takes the next step and logs it if it is due; false when it was cancelled before it changed a weight. From the
    /// optimizer on a step runs to its end.
    fn step(&mut self, gradients: &mut Gradients<B>) -> Result<bool, TrainError> {
        let backend = Arc::clone(&self.model.backend);
        let started = Instant::now();
        let step = self.state.step + 1;
        let batches = self.plan.sampler.step(step - 1);
        let measure = measures(self.settings.geometry_every, step);
        gradients.clear(&backend);
        let accumulated = Cancel::catch(|| {
            let (task, model) = (&mut self.task, &*self.model);
            task.accumulate(model, gradients, step, &batches, measure)
        });
        let Some(accumulated) = accumulated else {
            self.task.abandon_step();
            return Ok(false);
        };
        let mut metrics = accumulated.map_err(|e| self.locate(e, step))?;

        let norm = gradients.squared_norm(&*backend).sqrt();
        if !norm.is_finite() {
            return Err(TrainError::NonFiniteGradient {
                step,
                norm,
                rows: self.task.rows(&batches),
                checkpoint: self.last_good(),
            });
        }
        let scale = clip_factor(norm, self.settings.max_grad_norm);
        let rate = self.settings.schedule.rate(step - 1);
        if measures(self.settings.gram_every, step) {
            let gram = Cancel::catch(|| self.task.batch_gram(self.model, rate, scale));
            let Some(record) = gram else {
                self.task.abandon_step();
                return Ok(false);
            };
            if let Some(record) = record {
                metrics.merge(&record.metrics);
                self.grams.write(step, record.rows)?;
            }
        }
        let _to_its_end = self.model.cancel.hold();
        let explain = measures(self.settings.update_every, step) && self.task.explains_updates();
        let snapshot = explain.then(|| Snapshot::take(&*backend, &self.model.params));
        let settings = self.settings;
        let attributed = settings.attribution.as_ref();
        let attributed = attributed.filter(|plan| plan.due(step, self.plan.total));
        let watched = attributed.map(|plan| {
            let (model, probes) = (&*self.model, &plan.probes);
            (
                plan,
                Watched::before(model, probes, &self.optimizer, plan.keep),
            )
        });
        let params = &mut self.model.params;
        self.optimizer
            .step(&backend, params, gradients, rate, scale);
        let seconds = started.elapsed().as_secs_f64();
        if measure {
            metrics.merge(&self.task.after_step(self.model, rate, scale));
        }
        if let Some((plan, watched)) = watched {
            let record = watched.after(
                self.model,
                &*self.task,
                (&plan.probes, plan.keep),
                (&self.optimizer, gradients),
                Taken { rate, scale },
            );
            metrics.merge(&record.metrics);
            self.attributions.write(step, record.rows)?;
        }
        if let Some(mut snapshot) = snapshot {
            // The gradients are used up: Δθ may lie in their memory.
            let (model, task) = (&mut *self.model, &mut *self.task);
            let record = task.update_effects(model, &mut snapshot, gradients, rate, scale);
            metrics.merge(&record.metrics);
            self.predictions.write(step, record.rows)?;
        }
        self.state.step = step;

        let tokens = self.task.tokens(&batches);
        self.state.window_tokens += tokens;
        self.state.window.merge(&metrics);
        self.observer
            .on_step(step, &metrics, tokens as f64 / seconds);
        let records = self.task.take_records();
        if !records.is_empty() {
            self.observer.on_pairs(step, &records);
        }
        self.task.on_step_end(self.model, step)?;
        let first = step == 1 && self.settings.logging_first_step;
        let logging = step.is_multiple_of(self.settings.logging_steps.max(1));
        if logging || first || step == self.plan.total {
            self.log(rate, norm)?;
        }
        let evaluate = self.settings.evaluate;
        self.state.evaluation_due = evaluate.is_some_and(|c| c.due(step, self.plan.total));
        Ok(true)
    }

    /// Evaluates and saves a checkpoint if they are due; false when the user wants to stop before that is done.
    fn evaluate_and_save(&mut self) -> Result<bool, TrainError> {
        if self.state.evaluation_due && !self.evaluate()? {
            return Ok(false);
        }
        if self.save_due() {
            self.checkpoint()?;
        }
        Ok(true)
    }

    fn save_due(&self) -> bool {
        let (step, total) = (self.state.step, self.plan.total);
        step > 0 && self.settings.save.is_some_and(|c| c.due(step, total))
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
                checkpoint: self.last_good(),
            },
            other => other,
        }
    }

    fn last_good(&self) -> Option<PathBuf> {
        let own = self
            .state
            .saved
            .last()
            .map(|&step| self.files.checkpoint_path(step));
        own.or_else(|| self.origin.clone())
    }

    fn row(&self) -> Map<String, Value> {
        let epoch = self.plan.sampler.epochs_after(self.state.step);
        let mut row = Map::new();
        row.insert("step".into(), Value::from(self.state.step));
        row.insert("epoch".into(), Value::from(epoch));
        row
    }

    fn window_seconds(&self) -> f64 {
        self.state.window_seconds + self.window_start.elapsed().as_secs_f64()
    }

    fn log(&mut self, rate: f64, norm: f64) -> Result<(), TrainError> {
        let mut row = self.row();
        row.insert("learning_rate".into(), Value::from(rate));
        self.state.window.write_into("", &mut row);
        row.insert("grad_norm".into(), Value::from(norm));
        let throughput = self.state.window_tokens as f64 / self.window_seconds();
        row.insert("tokens_per_second".into(), Value::from(throughput));
        self.write(row)?;
        self.state.window.clear();
        self.state.window_tokens = 0;
        self.state.window_seconds = 0.0;
        self.window_start = Instant::now();
        Ok(())
    }

    /// Evaluates; false when the user stopped it, and then it is still due.
    fn evaluate(&mut self) -> Result<bool, TrainError> {
        let paused = Instant::now();
        let mut stopped = false;
        let observer = &mut *self.observer;
        let mut stop = || {
            stopped = stopped || observer.stop();
            stopped
        };
        let evaluated = Cancel::catch(|| self.task.evaluate(self.model, &mut stop));
        let Some(evaluated) = evaluated else {
            return Ok(false);
        };
        let metrics = evaluated.map_err(|e| self.locate(e, self.state.step))?;
        if stopped {
            return Ok(false);
        }
        if let Some(metrics) = metrics {
            self.compare(&metrics)?;
            let mut row = self.row();
            metrics.write_into("eval_", &mut row);
            self.write(row)?;
        }
        self.state.evaluation_due = false;
        self.window_start += paused.elapsed(); // evaluation is not training time
        Ok(true)
    }

    /// Notes that this step is the best so far. Only steps with a checkpoint count.
    fn compare(&mut self, metrics: &Averages) -> Result<(), TrainError> {
        let Some(wanted) = &self.settings.best else {
            return Ok(());
        };
        let Some(metric) = metrics.get(&wanted.metric) else {
            return Err(TrainError::NoSuchMetric {
                metric: wanted.metric.clone(),
                known: metrics.iter().map(|(key, _)| key.to_owned()).collect(),
            });
        };
        let better = match &self.state.best {
            None => !metric.is_nan(),
            Some(best) if wanted.greater_is_better => metric > best.metric,
            Some(best) => metric < best.metric,
        };
        if better && self.save_due() {
            let step = self.state.step;
            self.state.best = Some(Best { metric, step });
        }
        Ok(())
    }

    fn write(&mut self, row: Map<String, Value>) -> Result<(), TrainError> {
        self.metrics.write(&row)?;
        self.observer.on_row(&row);
        self.state.history.push(row);
        Ok(())
    }

    /// Refuses to write a model that training has ruined.
    fn check_weights(&self) -> Result<(), TrainError> {
        let (b, params) = (&*self.model.backend, &self.model.params);
        for id in params.trainable() {
            let value = params.get(id);
            if !b.dot(value, 0, value, 0, b.len(value)).is_finite() {
                return Err(TrainError::NonFiniteWeights {
                    step: self.state.step,
                    name: params.specs[id.0].name.clone(),
                    checkpoint: self.last_good(),
                });
            }
        }
        Ok(())
    }

    /// Saves a checkpoint of this step unless the run has it already.
    fn checkpoint(&mut self) -> Result<(), TrainError> {
        let step = self.state.step;
        if self.state.saved.last() == Some(&step) {
            return Ok(());
        }
        self.check_weights()?;
        let paused = Instant::now();
        self.observer.before_save(step);
        self.predictions.sync()?;
        self.grams.sync()?;
        self.attributions.sync()?;
        self.state.saved.retain(|&earlier| earlier < step);
        self.state.saved.push(step);
        let mut state = self.state.clone();
        state.window_seconds = self.window_seconds();
        let json = state.to_json(self.plan);
        let masters = self.files.dtype != StoredDtype::F32;
        let (task, model, optimizer) = (&*self.task, &*self.model, &self.optimizer);
        let contents = |dir: &Path| {
            let path = dir.join(OPTIMIZER);
            optimizer.save(&*model.backend, &model.params, &path, masters)?;
            task.save_state(dir)?;
            let text = format!("{json:#}\n");
            Ok(write_file_atomic(
                &dir.join(TRAINER_STATE),
                text.as_bytes(),
            )?)
        };
        let path = self.files.save_checkpoint(model, step, contents)?;
        self.observer.on_save(&path);
        let best = self.state.best.as_ref().map(|b| b.step);
        self.files.prune(&mut self.state.saved, best)?;
        self.window_start += paused.elapsed();
        Ok(())
    }

    fn interrupt(mut self) -> Result<Outcome, TrainError> {
        self.checkpoint()?;
        Ok(Outcome::Interrupted {
            step: self.state.step,
        })
    }

    /// Writes the final model: the last step's, or the best checkpoint's.
    fn finish(self) -> Result<Outcome, TrainError> {
        self.check_weights()?;
        let _to_its_end = self.model.cancel.hold();
        let json = self.state.to_json(self.plan);
        let (files, model) = (self.files, self.model);
        let load_best = self.settings.best.as_ref().is_some_and(|b| b.load_at_end);
        if let (true, Some(best)) = (load_best, &self.state.best)
            && best.step != self.state.step
        {
            let mut path = files.checkpoint_path(best.step);
            if let Some(beside) = self.origin.filter(|_| !path.is_dir()) {
                // The run went on from a checkpoint elsewhere; its earlier ones are there.
                path = beside.with_file_name(checkpoint_name(best.step));
            }
            verify(&path).map_err(|reason| TrainError::BadCheckpoint {
                path: path.clone(),
                reason,
            })?;
            model.restore(&path)?;
            let optimizer = Weights::open(&path.join(OPTIMIZER))?;
            restore_masters(&*Arc::clone(&model.backend), &mut model.params, &optimizer)?;
        }
        files.save_model(model, &files.output_dir)?;
        if let Some(plan) = &self.settings.attribution {
            write_sums(&files.output_dir, plan, self.plan.total)?;
        }
        self.task.finish(model, &files.output_dir)?;
        self.observer.before_save(self.state.step);
        // Last of all: a directory that has it holds a finished run.
        let text = format!("{json:#}\n");
        write_file_atomic(&files.output_dir.join(TRAINER_STATE), text.as_bytes())?;
        self.observer.on_save(&files.output_dir);
        Ok(Outcome::Finished)
    }
}

/// Factor on the gradient, as `torch.nn.utils.clip_grad_norm_`: max/(norm + 1e-6), at most 1.
pub fn clip_factor(norm: f64, max_grad_norm: f64) -> f64 {
    if max_grad_norm <= 0.0 {
        1.0
    } else {
        (max_grad_norm / (norm + 1e-6)).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::measures;

    #[test]
    fn geometry_measures_the_first_step_and_each_nth() {
        let measured: Vec<u64> = (1..=10).filter(|&step| measures(Some(4), step)).collect();
        assert_eq!(measured, [1, 4, 8]);
        assert!((1..=10).all(|step| !measures(None, step)));
    }
}
