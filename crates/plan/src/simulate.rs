//! A training run on the counting backend: the model's and the trainer's own code, sizes in place of numbers.
//!
//! Phases in the order of `unbraid train`: load, adapter, reference, optimizer steps, save. Every step of a short run is
//! walked through; of a long one the first, those with the largest batch, and an even sample, each kind of step (with
//! and without measured geometry) for itself. A step repeats `unbraid_train::run`'s, which is not called because it
//! writes files. Left out: evaluation, checkpoints' time.

use crate::meter::{MeterBackend, MeterBuffer};
use crate::shelf::FLOAT;
use crate::work::Work;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use unbraid_model::{
    Batch, Gradients, LanguageModel, LoraConfig, ModelConfig, ModelError, ParamKind, ParamSpec,
    Storage,
};
use unbraid_preference::{TokenizedPair, TokenizedSequence};
use unbraid_tensor::Backend;
use unbraid_train::{
    MaskSettings, MovingReference, Optimizer, PreferenceSettings, PreferenceTask, ReferenceCache,
    ReferencedPairs, Settings, Snapshot, Task, TokenMask, TrainError, TrainingPlan, clip_factor,
    pack_pairs, score_reference,
};

/// A run of so many steps is walked through whole.
const WHOLE_RUN: u64 = 48;
/// Steps sampled of each kind in a longer run.
const SAMPLED: u64 = 16;
/// Pairs that stand for the reference's pass over the data.
const SCORED: usize = 256;
/// Epochs whose order is looked at; later ones repeat them.
const EPOCHS: u64 = 16;

/// Everything about a run that memory and time depend on.
#[derive(Clone)]
pub struct RunShape<'a> {
    /// The policy.
    pub config: ModelConfig,
    /// How its matrices are held.
    pub storage: Storage,
    /// The adapter that is trained, if one is.
    pub lora: Option<LoraConfig>,
    /// A reference model of its own.
    pub reference: Option<ModelConfig>,
    /// Share and steps of a reference that follows the policy.
    pub moving: Option<(f64, u64)>,
    /// Whether the objective reads a frozen reference.
    pub reads_reference: bool,
    /// Whether the reference scores all pairs, also those that no step takes.
    pub precompute: bool,
    /// The pairs.
    pub pairs: &'a [TokenizedPair],
    /// Which pairs each step takes.
    pub plan: TrainingPlan,
    /// Objective, remedy, what a forward pass keeps.
    pub task: PreferenceSettings,
    /// A token mask with parameters: of every token (`true`) or of the hidden states, if there is one.
    pub mask: Option<(MaskSettings, bool)>,
    /// Optimizer and how often geometry is measured.
    pub settings: Settings,
    /// Threads of the CPU backend.
    pub threads: usize,
}

/// Bytes by part, at the run's largest moment during the steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// Weights of the model (and of a reference that moves).
    pub weights: u64,
    /// The adapter's parameters, and a token mask's.
    pub adapter: u64,
    /// Gradients of what is trained.
    pub gradients: u64,
    /// Moments.
    pub optimizer: u64,
    /// What the forward pass of the largest batch keeps for the backward pass.
    pub activations: u64,
    /// What is there for a moment besides: gradients of activations, recomputed blocks, the head's chunk, attention's
    /// scores, a copy of the trained parameters where an update is explained.
    pub workspace: u64,
    /// Buffers kept for reuse that no operation needs at the peak.
    pub pool: u64,
}

impl Footprint {
    /// All parts.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights
            + self.adapter
            + self.gradients
            + self.optimizer
            + self.activations
            + self.workspace
            + self.pool
    }
}

/// Largest bytes of each phase, the program itself left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Phases {
    /// Reading the weights: those read so far, and one tensor decoded.
    pub load: u64,
    /// The reference's pass over the data; 0 where there is none.
    pub reference: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Writing the model, with one tensor in the orientation of the file.
    pub save: u64,
    /// Log-probs of the reference, on the host while it scores.
    pub reference_cache: u64,
}

/// Steps of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// Whether the geometry is measured.
    pub measured: bool,
    /// Whether the update is explained.
    pub explained: bool,
    /// Whether the batch Gram matrix is recorded.
    pub gram: bool,
    /// How many of the run are of this kind.
    pub count: u64,
    /// How many were walked through.
    pub sampled: u64,
    /// Work of one, on average.
    pub work: Work,
}

/// Sizes of batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct BatchSizes {
    /// Rows (input tokens, shared prompts once) of the largest micro-batch.
    pub largest_rows: usize,
    /// Rows of a micro-batch on average.
    pub mean_rows: f64,
    /// Scored tokens of a micro-batch on average.
    pub mean_targets: f64,
    /// Micro-batches of the run.
    pub micro_batches: u64,
    /// Tokens of the run, a prompt counted once for each completion.
    pub tokens: u64,
}

/// What a run takes.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// Number of parameters, adapters included.
    pub parameters: usize,
    /// Number of trained ones.
    pub trainable: usize,
    /// The largest moment of the steps by part.
    pub footprint: Footprint,
    /// The largest moment of each phase.
    pub phases: Phases,
    /// Steps by kind.
    pub steps: Vec<Steps>,
    /// The reference's pass over the data.
    pub reference: Work,
    /// Batches.
    pub sizes: BatchSizes,
}

impl Simulation {
    /// Work of the run, the reference's pass left out.
    #[must_use]
    pub fn training(&self) -> Work {
        let mut total = Work::default();
        for steps in &self.steps {
            total += steps.work.times(steps.count as f64);
        }
        total
    }
}

type Model = LanguageModel<MeterBackend>;

/// Walks through a run.
///
/// # Errors
/// Target modules that the model does not have; an objective that refuses its pairs.
pub fn simulate(shape: &RunShape<'_>) -> Result<Simulation, PlanError> {
    let backend = Arc::new(MeterBackend::new(shape.threads));
    let mut model = model(&backend, &shape.config, shape.storage);
    let moving = shape.moving.map(|(alpha, every)| MovingReference {
        model: self::model(&backend, &shape.config, Storage::Float32),
        alpha,
        every,
    });
    let mut phases = Phases {
        load: load(&model),
        ..Phases::default()
    };
    let mut footprint = Footprint {
        weights: backend.live(),
        ..Footprint::default()
    };
    if let Some(lora) = &shape.lora {
        model.attach_lora(lora.clone(), 0)?;
    }
    let mut task = shape.task.clone();
    task.mask = match shape.mask {
        None => task.mask,
        Some((settings, true)) => TokenMask::free(&mut model, settings, shape.pairs),
        Some((settings, false)) => TokenMask::head(&mut model, settings),
    };
    footprint.adapter = backend.live() - footprint.weights;
    backend.take_work();
    let overview = Overview::new(shape);
    let reference = reference(shape, &backend, &mut model, &overview, &mut phases);

    let sides = || ReferencedPairs::without_reference(shape.pairs);
    let none = ReferencedPairs::without_reference(&[]);
    let mut task = PreferenceTask::new(sides(), none, task, moving);
    let steps = walk(
        shape,
        &backend,
        &mut model,
        &mut task,
        &overview,
        &mut footprint,
        &mut phases,
    )?;
    drop(task);
    Ok(Simulation {
        parameters: model.params.count(),
        trainable: model.params.trainable_count(),
        footprint,
        phases,
        steps,
        reference,
        sizes: overview.sizes,
    })
}

/// What can go wrong: the options do not fit the model or the data.
#[derive(Debug)]
pub enum PlanError {
    /// The model refuses its adapter.
    Model(ModelError),
    /// The trainer refuses a step.
    Train(TrainError),
}

impl std::fmt::Display for PlanError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PlanError::Model(error) => error.fmt(f),
            PlanError::Train(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PlanError {}

impl From<ModelError> for PlanError {
    fn from(error: ModelError) -> Self {
        PlanError::Model(error)
    }
}

impl From<TrainError> for PlanError {
    fn from(error: TrainError) -> Self {
        PlanError::Train(error)
    }
}

fn model(backend: &Arc<MeterBackend>, config: &ModelConfig, storage: Storage) -> Model {
    let value = |spec: &ParamSpec| -> MeterBuffer {
        match storage {
            Storage::Bfloat16 if spec.shape.len() == 2 => backend.half(spec.len()),
            _ => backend.empty(spec.len()),
        }
    };
    LanguageModel::with_values(Arc::clone(backend), config.clone(), storage, value)
}

/// Bytes of the largest parameter of a kind that is written in another orientation than it lies in memory; the others are
/// written from where they lie.
fn largest_turned(model: &Model, kind: ParamKind) -> u64 {
    let specs = model.params.specs.iter();
    let turned = specs.filter(|spec| spec.kind == kind && spec.transposed);
    turned
        .map(|spec| spec.len() as u64 * FLOAT)
        .max()
        .unwrap_or(0)
}

/// Bytes at the largest moment of reading the weights in order: those held, and one tensor decoded.
fn load(model: &Model) -> u64 {
    let (mut held, mut peak) = (0, 0);
    for spec in &model.params.specs {
        let decoded = spec.len() as u64 * FLOAT;
        held += match model.params.storage() {
            Storage::Bfloat16 if spec.shape.len() == 2 => decoded / 2,
            _ => decoded,
        };
        peak = peak.max(held + decoded * (1 + u64::from(spec.transposed)));
    }
    peak
}

/// The run's batches in numbers.
struct Overview {
    /// Steps by kind: how many, rows of all, the one with the largest micro-batch and its rows.
    kinds: BTreeMap<StepKind, Counted>,
    sizes: BatchSizes,
    /// Pairs of the largest micro-batch.
    largest: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct StepKind {
    measured: bool,
    explained: bool,
    gram: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    count: u64,
    rows: u64,
    largest_rows: usize,
    /// 1-based.
    largest_step: u64,
}

/// Whether what is done `every` so many steps is done in this one (the first is 1), as the trainer decides.
fn due(every: Option<u64>, step: u64) -> bool {
    every.is_some_and(|n| step == 1 || step.is_multiple_of(n.max(1)))
}

impl StepKind {
    fn of(settings: &Settings, step: u64) -> Self {
        StepKind {
            measured: due(settings.geometry_every, step),
            explained: due(settings.update_every, step),
            gram: due(settings.gram_every, step),
        }
    }
}

fn rows_of(pair: &TokenizedPair) -> usize {
    pack_pairs([pair], true).rows()
}

impl Overview {
    fn new(shape: &RunShape<'_>) -> Self {
        let rows: Vec<usize> = shape.pairs.iter().map(rows_of).collect();
        let targets = |i: usize| {
            shape.pairs[i].chosen.completion().len() + shape.pairs[i].rejected.completion().len()
        };
        let tokens = |i: usize| shape.pairs[i].chosen.ids.len() + shape.pairs[i].rejected.ids.len();
        let sampler = &shape.plan.sampler;
        let per_step = sampler.per_step();
        let mut overview = Overview {
            kinds: BTreeMap::new(),
            sizes: BatchSizes::default(),
            largest: Vec::new(),
        };
        let (mut step, mut epoch, mut all_rows, mut all_targets) = (0, 0, 0, 0);
        while step < shape.plan.total && !shape.pairs.is_empty() {
            let order = sampler.epoch(epoch % EPOCHS);
            epoch += 1;
            for examples in order.chunks(per_step) {
                if step == shape.plan.total {
                    break;
                }
                step += 1;
                let kind = StepKind::of(&shape.settings, step);
                let counted = overview.kinds.entry(kind).or_default();
                counted.count += 1;
                for batch in examples.chunks(sampler.batch) {
                    let size: usize = batch.iter().map(|&i| rows[i]).sum();
                    counted.rows += size as u64;
                    all_rows += size as u64;
                    all_targets += batch.iter().map(|&i| targets(i) as u64).sum::<u64>();
                    overview.sizes.micro_batches += 1;
                    overview.sizes.tokens += batch.iter().map(|&i| tokens(i) as u64).sum::<u64>();
                    if size > counted.largest_rows {
                        (counted.largest_rows, counted.largest_step) = (size, step);
                    }
                    if size > overview.sizes.largest_rows {
                        overview.sizes.largest_rows = size;
                        overview.largest = batch.to_vec();
                    }
                }
            }
        }
        let batches = overview.sizes.micro_batches.max(1) as f64;
        overview.sizes.mean_rows = all_rows as f64 / batches;
        overview.sizes.mean_targets = all_targets as f64 / batches;
        overview
    }

    /// Steps to walk through, in order.
    fn chosen(&self, shape: &RunShape<'_>) -> Vec<u64> {
        let total = shape.plan.total;
        if total <= WHOLE_RUN {
            return (1..=total).collect();
        }
        let mut chosen: Vec<u64> = vec![1];
        for (kind, counted) in &self.kinds {
            chosen.push(counted.largest_step);
            let stride = (counted.count / SAMPLED).max(1) as usize;
            let own = (1..=total).filter(|&step| StepKind::of(&shape.settings, step) == *kind);
            chosen.extend(own.step_by(stride).take(SAMPLED as usize));
        }
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }
}

/// The reference's pass over the data, on a part of it.
fn reference(
    shape: &RunShape<'_>,
    backend: &Arc<MeterBackend>,
    policy: &mut Model,
    overview: &Overview,
    phases: &mut Phases,
) -> Work {
    if !shape.reads_reference || shape.moving.is_some() || shape.pairs.is_empty() {
        return Work::default();
    }
    let touched = match shape.precompute {
        true => (0..shape.pairs.len()).collect(),
        false => shape.plan.sampler.touched(shape.plan.total),
    };
    let own = shape.reference.as_ref();
    let loaded = own.map(|config| model(backend, config, Storage::Float32));
    policy.set_adapter_enabled(false);
    backend.mark();
    // Whole neighbourhoods, as they are batched, and the largest batch.
    let scored = touched.iter().take(SCORED).chain(&overview.largest);
    let scored: Vec<usize> = scored.copied().collect();
    let rows = |pairs: &[usize]| -> f64 {
        let rows = pairs.iter().map(|&i| rows_of(&shape.pairs[i]));
        rows.sum::<usize>() as f64
    };
    let sequences = scored.iter().flat_map(|&i| {
        let pair = &shape.pairs[i];
        [&pair.chosen, &pair.rejected]
    });
    let sequences: Vec<&TokenizedSequence> = sequences.collect();
    let mut cache = ReferenceCache::in_memory();
    let scorer = loaded.as_ref().unwrap_or(policy);
    // The sample's repeats are known already and cost nothing, as in the run.
    score_reference(scorer, sequences, &mut cache, |_| true);
    policy.set_adapter_enabled(true);
    phases.reference = backend.mark().1;
    let completions = touched.iter().map(|&i| &shape.pairs[i]);
    let tokens: usize = completions
        .map(|p| p.chosen.completion().len() + p.rejected.completion().len())
        .sum();
    // A log-prob is 8 bytes, a record's key and place about 80.
    phases.reference_cache = 8 * tokens as u64 + 160 * touched.len() as u64;
    let mut once = scored;
    once.sort_unstable();
    once.dedup();
    backend
        .take_work()
        .times(rows(&touched) / rows(&once).max(1.0))
}

/// The optimizer steps and the save at the end.
fn walk(
    shape: &RunShape<'_>,
    backend: &Arc<MeterBackend>,
    model: &mut Model,
    task: &mut PreferenceTask<'_, MeterBackend>,
    overview: &Overview,
    footprint: &mut Footprint,
    phases: &mut Phases,
) -> Result<Vec<Steps>, PlanError> {
    let mut held = backend.live();
    let mut since = |part: &mut u64| {
        let now = backend.live();
        *part = now - std::mem::replace(&mut held, now);
    };
    let params = &model.params;
    let mut gradients = Gradients::zeros(&**backend, params, |id| params.is_trainable(id));
    since(&mut footprint.gradients);
    let (kind, decay) = (shape.settings.optimizer, shape.settings.weight_decay);
    let mut optimizer = Optimizer::new(&**backend, kind, decay, params, &gradients);
    since(&mut footprint.optimizer);
    backend.mark();
    backend.take_work();

    let mut found: BTreeMap<StepKind, (u64, u64, Work)> = BTreeMap::new();
    for step in overview.chosen(shape) {
        let batches = shape.plan.sampler.step(step - 1);
        one_step(
            shape,
            backend,
            (model, task),
            (&mut gradients, &mut optimizer),
            step,
            &batches,
        )?;
        let rows = batches.iter().flatten().map(|&i| rows_of(&shape.pairs[i]));
        let kind = StepKind::of(&shape.settings, step);
        let (count, seen, work) = found.entry(kind).or_default();
        *count += 1;
        *seen += rows.sum::<usize>() as u64;
        *work += backend.take_work();
    }
    let (live, resident) = backend.mark();
    phases.steps = resident;
    let kind = match shape.lora {
        Some(_) => ParamKind::Adapter,
        None => ParamKind::Base,
    };
    phases.save = backend.resident() + largest_turned(model, kind);

    if !overview.largest.is_empty() {
        let runs = shape.task.runs(shape.pairs, &overview.largest);
        let packed = |run: &[usize]| pack_pairs(run.iter().map(|&i| &shape.pairs[i]), true);
        let largest = runs.into_iter().map(packed).max_by_key(|run| run.ids.len());
        let batch = Batch::new(&**backend, largest.expect("a batch has pairs"));
        let before = backend.live();
        let forward = model.forward_training(&batch, shape.task.keep, shape.task.dropout_seed);
        footprint.activations = backend.live() - before;
        drop(forward);
        backend.take_work();
    }
    let parts = footprint.total();
    footprint.workspace = live.saturating_sub(parts);
    footprint.pool = resident.saturating_sub(live.max(parts));
    let of_kind = |(kind, (sampled, seen, work)): (StepKind, (u64, u64, Work))| {
        let counted = overview.kinds[&kind];
        Steps {
            measured: kind.measured,
            explained: kind.explained,
            gram: kind.gram,
            count: counted.count,
            sampled,
            work: per_step(work, sampled, seen, counted),
        }
    };
    Ok(found.into_iter().map(of_kind).collect())
}

/// Work of a step on average: sweeps over parameters by steps, all else by rows, of which the whole run's are known.
fn per_step(work: Work, sampled: u64, seen: u64, counted: Counted) -> Work {
    let by_rows = counted.rows as f64 / seen.max(1) as f64 / counted.count.max(1) as f64;
    let mut mean = work.times(by_rows);
    let sweep = crate::work::Kind::Sweep;
    mean.add(sweep, work.of(sweep) / sampled as f64 - mean.of(sweep));
    mean
}

/// One step, as `unbraid_train::run` takes it.
fn one_step(
    shape: &RunShape<'_>,
    backend: &Arc<MeterBackend>,
    (model, task): (&mut Model, &mut PreferenceTask<'_, MeterBackend>),
    (gradients, optimizer): (&mut Gradients<MeterBackend>, &mut Optimizer<MeterBackend>),
    step: u64,
    batches: &[Vec<usize>],
) -> Result<(), PlanError> {
    let settings = &shape.settings;
    let StepKind {
        measured,
        explained,
        gram,
    } = StepKind::of(settings, step);
    gradients.clear(backend);
    task.accumulate(model, gradients, step, batches, measured)?;
    let norm = gradients.squared_norm(&**backend).sqrt();
    let scale = clip_factor(norm, settings.max_grad_norm);
    let rate = settings.schedule.rate(step - 1);
    if gram {
        task.batch_gram(model, rate, scale);
    }
    let snapshot = explained.then(|| Snapshot::take(&**backend, &model.params));
    optimizer.step(backend, &mut model.params, gradients, rate, scale);
    if measured {
        task.after_step(model, rate, scale);
    }
    if let Some(mut snapshot) = snapshot {
        task.update_effects(model, &mut snapshot, gradients, rate, scale);
    }
    task.on_step_end(model, step)?;
    Ok(())
}
