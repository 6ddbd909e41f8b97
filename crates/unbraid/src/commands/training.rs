//! What `train` and `sft` share: from checked options to the loop's settings, where a run starts, and its end.
//!
//! `--resume-from-checkpoint true` goes on from the newest intact checkpoint in the output directory. Without any
//! checkpoint it starts from the first step if the directory is empty or holds a run that was stopped before its
//! first checkpoint (transformers fails there, so a job that is simply started again would need two commands); a
//! finished run, or anything else, is not touched. A checkpoint named by its path allows writing only into the
//! directory that it lies in. Tested in `tests/resume.rs` and `tests/output_dir.rs`.

use super::lock::DirLock;
use super::{
    End, Interrupt, end_with, load, output, progress::TrainingProgress, tracking::Tracking,
};
use crate::cli::{
    Attribute, Geometry, KeyValues, ModelArgs, Optim, Resume, SamplingStrategy, Steps, Strategy,
    TrainConfig, TrainerOptions,
};
use crate::say;
use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::Path;
use unbraid_model::weights::write_file_atomic;
use unbraid_model::{Keep, LanguageModel};
use unbraid_tensor::Backend;
use unbraid_text::Tokenizer;
use unbraid_train::{
    AttributionPlan, BestModel, Cadence, Checkpoint, Files, OptimizerKind, Outcome, Probes,
    RunIdentity, Sampler, SamplingOrder, Schedule, ScheduleKind, Settings, Task, TrainingPlan,
};

/// The order that the options name; random where they name none, as in every trainer of TRL but KTO's.
pub(crate) fn order(options: &TrainerOptions) -> SamplingOrder {
    match options.train_sampling_strategy {
        None | Some(SamplingStrategy::Random) => SamplingOrder::Random,
        Some(SamplingStrategy::Sequential) => SamplingOrder::Sequential,
        Some(SamplingStrategy::GroupByLength) => SamplingOrder::GroupByLength,
    }
}

/// The order of examples and the number of steps.
pub(crate) fn plan(
    options: &TrainerOptions,
    seed: u64,
    order: SamplingOrder,
    lengths: Vec<usize>,
) -> TrainingPlan {
    let sampler = Sampler {
        order,
        seed,
        batch: options.per_device_train_batch_size,
        accumulation: options.gradient_accumulation_steps,
        lengths,
    };
    let by_epochs = (options.num_train_epochs * sampler.steps_per_epoch() as f64).ceil() as u64;
    let total = u64::try_from(options.max_steps).unwrap_or(by_epochs);
    TrainingPlan { sampler, total }
}

/// When something is due; after the last step always, as in transformers.
fn cadence(strategy: Strategy, steps: Steps, plan: &TrainingPlan) -> Option<Cadence> {
    let every = match strategy {
        Strategy::No => return None,
        Strategy::Steps => steps.of(plan.total),
        Strategy::Epoch => plan.sampler.steps_per_epoch(),
    };
    Some(Cadence {
        every,
        at_end: true,
    })
}

/// The loop's settings.
pub(crate) fn settings(options: &TrainerOptions, plan: &TrainingPlan) -> Result<Settings> {
    let arguments = |given: &Option<KeyValues>| given.as_ref().map_or(Vec::new(), |g| g.0.clone());
    let optim_args = arguments(&options.optim_args);
    let momentum = optim_args.iter().find(|(key, _)| key == "momentum");
    let optimizer = match options.optim {
        Optim::AdamwTorch => OptimizerKind::AdamW {
            beta1: options.adam_beta1,
            beta2: options.adam_beta2,
            epsilon: options.adam_epsilon,
        },
        Optim::Sgd => OptimizerKind::Sgd {
            momentum: match momentum {
                Some((_, text)) => text.parse().context("optim_args: momentum")?,
                None => options.momentum,
            },
        },
        Optim::Adafactor => OptimizerKind::Adafactor,
        Optim::Lion => OptimizerKind::Lion {
            beta1: options.adam_beta1,
            beta2: options.adam_beta2,
        },
    };
    let name = options.lr_scheduler_type.name();
    let kwargs = arguments(&options.lr_scheduler_kwargs);
    let kind = ScheduleKind::from_name(&name, &kwargs, options.learning_rate)
        .map_err(|reason| anyhow!("lr_scheduler_kwargs: {reason}"))?;
    Ok(Settings {
        optimizer,
        weight_decay: options.weight_decay,
        max_grad_norm: options.max_grad_norm,
        schedule: Schedule {
            kind,
            peak: options.learning_rate,
            warmup: options.warmup(plan.total),
            total: plan.total,
        },
        logging_steps: options.logging_steps.of(plan.total).max(1),
        logging_first_step: options.logging_first_step,
        evaluate: cadence(options.eval_strategy, options.eval_interval(), plan),
        eval_on_start: options.eval_on_start && options.eval_strategy != Strategy::No,
        save: cadence(options.save_strategy, options.save_steps, plan),
        geometry_every: options.geometry.steps(),
        update_every: None,
        gram_every: options.gram_every.steps(),
        attribution: None,
        best: best_model(options),
    })
}

/// How checkpoints compare, by transformers' rules.
fn best_model(options: &TrainerOptions) -> Option<BestModel> {
    let load_at_end = options.load_best_model_at_end;
    let default = load_at_end.then(|| "loss".to_owned());
    let metric = options.metric_for_best_model.clone().or(default)?;
    let greater = options.greater_is_better;
    Some(BestModel {
        greater_is_better: greater.unwrap_or(!metric.ends_with("loss")),
        metric: metric.strip_prefix("eval_").unwrap_or(&metric).to_owned(),
        load_at_end,
    })
}

/// Options that change no result: where things are and go, what is shown, how the work is done, when it is logged,
/// evaluated and saved; and those whose meaning is compared (fingerprints, optimizer, schedule, number of steps).
#[rustfmt::skip]
const FREE_TO_CHANGE: &[&str] = &[
    "model_name_or_path", "base_model", "ref_model", "dataset_name", "eval_dataset", "dataset_test_split", "output_dir",
    "overwrite_output_dir", "run_name", "report_to", "log_pairs", "resume_from_checkpoint",
    "device", "threads", "gradient_checkpointing", "per_device_eval_batch_size", "precompute_ref_log_probs",
    "logging_steps", "logging_first_step", "eval_strategy", "eval_steps", "eval_on_start", "save_strategy", "save_steps",
    "save_total_limit", "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "gram_every", "update_every", "attribute", "attribute_probes",
    "eval_geometry",
    "train_sampling_strategy",
    "optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "momentum", "lr_scheduler_type",
    "lr_scheduler_kwargs", "warmup_ratio", "warmup_steps", "num_train_epochs", "max_steps", "geometry", "json",
];

/// A run that is about to start.
pub(crate) struct Start {
    settings: Settings,
    identity: RunIdentity,
    resume: Option<Checkpoint>,
    lock: DirLock,
}

impl Start {
    /// Lets the run set prediction against reality `every` so many steps, if it measures geometry at all.
    pub(crate) fn explaining_updates(mut self, every: Geometry) -> Self {
        let measures = self.settings.geometry_every.is_some();
        self.settings.update_every = every.steps().filter(|_| measures);
        self
    }

    /// The same with held-out changes attributed.
    pub(crate) fn attributing(mut self, plan: Option<AttributionPlan>) -> Self {
        self.settings.attribution = plan;
        self
    }
}

/// Which steps of a run are attributed, on which completions; says so. `step_tokens` are a step's tokens on average,
/// prompts once; `probes` gives that many completions to watch.
pub(crate) fn attribution(
    config: &TrainConfig,
    plan: &TrainingPlan,
    step_tokens: f64,
    probes: impl FnMut(usize) -> Probes,
) -> Option<AttributionPlan> {
    let every = match config.attribute {
        Attribute::Off => return None,
        Attribute::Auto if config.trainer.geometry == Geometry::Off => return None,
        Attribute::Auto => None,
        Attribute::EachNth(n) => Some(n),
    };
    let count = config.attribute_probes;
    let mut chosen = AttributionPlan::new(every, count, plan, step_tokens, probes)?;
    chosen.keep = keep(&config.trainer);
    say!(
        "attribution: {} {}, every {} of {} steps, about {:.0} % of the time of training (--attribute off: none)",
        chosen.probes.rows.len(),
        chosen.probes.source.describe(),
        chosen.every,
        plan.total,
        100.0 * chosen.share_of_time,
    );
    Some(chosen)
}

/// Decides from where the run starts and makes its output directory; says what is passed over and why.
///
/// `config` is the command's whole configuration, `facts` are fingerprints of what its names stand for.
pub(crate) fn start<C: Serialize>(
    config: &C,
    options: &TrainerOptions,
    plan: &TrainingPlan,
    facts: &[(&str, String)],
) -> Result<Start> {
    let settings = settings(options, plan)?;
    let mut further: Map<String, Value> = match serde_json::to_value(config)? {
        Value::Object(map) => map,
        _ => bail!("the configuration is not a mapping"),
    };
    further.retain(|key, _| !FREE_TO_CHANGE.contains(&key.as_str()));
    let facts = facts
        .iter()
        .map(|(k, v)| ((*k).to_owned(), Value::from(v.as_str())));
    further.extend(facts);
    let identity = RunIdentity::new(plan, &settings, further);
    let dir = &options.output_dir;
    let lock = DirLock::take(dir)?;
    let resume = match &options.resume_from_checkpoint {
        Resume::No => None,
        Resume::From(path) => Some(Checkpoint::open(path, &identity)?),
        Resume::Latest => Checkpoint::newest(dir, &identity, &mut |text| say::note(&text))?,
    };
    match &resume {
        Some(from) if from.step() > plan.total => bail!(
            "{}: this checkpoint is of step {}, and the run ends at step {}\n\
             hint: raise max_steps or num_train_epochs",
            from.path().display(),
            from.step(),
            plan.total
        ),
        Some(from) => {
            let (path, step) = (from.path().display(), from.step());
            output::prepare_dir(
                dir,
                options.overwrite_output_dir || lies_in(from.path(), dir),
            )?;
            say!("going on from {path}, step {step} of {}", plan.total);
        }
        None if options.resume_from_checkpoint == Resume::Latest && output::is_unfinished(dir) => {
            note!(
                "{} has no checkpoint: starting from the first step",
                dir.display()
            );
            output::prepare_dir(dir, true)?;
        }
        None => output::prepare_dir(dir, options.overwrite_output_dir)?,
    }
    Ok(Start {
        settings,
        identity,
        resume,
        lock,
    })
}

/// Whether a checkpoint is one of those in an output directory.
fn lies_in(checkpoint: &Path, dir: &Path) -> bool {
    let canonical = |path: &Path| path.canonicalize().ok();
    let parent = canonical(checkpoint).and_then(|path| path.parent().map(Path::to_owned));
    parent.is_some() && parent == canonical(dir)
}

/// What a forward pass keeps.
pub(crate) fn keep(options: &TrainerOptions) -> Keep {
    if options.gradient_checkpointing {
        Keep::BlockInputs
    } else {
        Keep::All
    }
}

/// Trains, writes the report and says how it went.
pub(crate) fn run<B: Backend>(
    model: &mut LanguageModel<B>,
    task: &mut dyn Task<B>,
    plan: &TrainingPlan,
    start: Start,
    (options, args): (&TrainerOptions, &ModelArgs),
    (tokenizer, generation): (&Tokenizer, Option<&[u8]>),
    interrupt: &Interrupt,
) -> Result<End> {
    let companions = |dir: &Path| -> Result<(), String> {
        tokenizer.save(dir).map_err(|e| e.to_string())?;
        let path = dir.join(load::GENERATION_CONFIG);
        let write = |bytes| write_file_atomic(&path, bytes).map_err(|e| e.to_string());
        generation.map_or(Ok(()), write)
    };
    let files = Files {
        output_dir: options.output_dir.clone(),
        dtype: load::stored_dtype(args),
        companions: &companions,
        save_total_limit: options.save_total_limit,
        identity: start.identity,
        resume: start.resume,
    };
    if files.resume.is_none() {
        output::remove_records(&options.output_dir)?;
    }
    let settings = start.settings;
    let _held = start.lock;
    let _stops = interrupt.stops_itself();
    let progress = TrainingProgress::new(plan.total, interrupt);
    let mut observer = Tracking::new(progress, options)?;
    let saves = interrupt.saves();
    let outcome = unbraid_train::run(model, task, plan, &settings, &files, &mut observer);
    observer.finish();
    drop(saves);
    let (step, end) = match outcome? {
        Outcome::Interrupted { step } => {
            say!("interrupted after step {step}; its checkpoint is saved");
            (step, End::Interrupted)
        }
        Outcome::Finished => (plan.total, End::Done),
    };
    let report = report(&options.output_dir);
    if options.json {
        let result = output::run_result(&options.output_dir, step)?;
        output::print(&format!("{result:#}\n"))?;
    }
    end_with(end, report)
}

/// Writes the report of a run and says what is in it.
fn report(dir: &Path) -> unbraid_report::Result<()> {
    let written = unbraid_report::write_run_report(dir);
    if let Ok(summary) = unbraid_report::terminal_summary(dir) {
        say!("{summary}");
    }
    say!("report: {}", written?.display());
    Ok(())
}
