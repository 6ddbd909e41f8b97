//! What `train` and `sft` share: from checked options to the loop's settings, and the end of a run.

use super::{End, Interrupt, load, progress::TrainingProgress};
use crate::cli::{
    Geometry, LrSchedulerType, ModelArgs, Optim, SamplingStrategy, Steps, Strategy, TrainerOptions,
};
use anyhow::{Result, bail};
use std::path::Path;
use unbraid_model::weights::write_file_atomic;
use unbraid_model::{Keep, LanguageModel};
use unbraid_tensor::Backend;
use unbraid_text::Tokenizer;
use unbraid_train::{
    Cadence, Files, OptimizerKind, Outcome, Sampler, SamplingOrder, Schedule, ScheduleKind,
    Settings, Task, TrainingPlan,
};

/// The order of examples and the number of steps.
pub(crate) fn plan(options: &TrainerOptions, seed: u64, lengths: Vec<usize>) -> TrainingPlan {
    let order = match options.train_sampling_strategy {
        SamplingStrategy::Random => SamplingOrder::Random,
        SamplingStrategy::Sequential => SamplingOrder::Sequential,
        SamplingStrategy::GroupByLength => SamplingOrder::GroupByLength,
    };
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

fn cadence(strategy: Strategy, steps: Steps, plan: &TrainingPlan) -> Option<Cadence> {
    let (every, at_end) = match strategy {
        Strategy::No => return None,
        Strategy::Steps => (steps.of(plan.total), false),
        Strategy::Epoch => (plan.sampler.steps_per_epoch(), true),
    };
    Some(Cadence { every, at_end })
}

/// The loop's settings.
pub(crate) fn settings(options: &TrainerOptions, plan: &TrainingPlan) -> Result<Settings> {
    let optimizer = match options.optim {
        Optim::AdamwTorch => OptimizerKind::AdamW {
            beta1: options.adam_beta1,
            beta2: options.adam_beta2,
            epsilon: options.adam_epsilon,
        },
        Optim::Sgd => OptimizerKind::Sgd {
            momentum: options.momentum,
        },
        Optim::Adafactor | Optim::Lion => bail!("--optim {:?} is not supported yet", options.optim),
    };
    let kind = match options.lr_scheduler_type {
        LrSchedulerType::Linear => ScheduleKind::Linear,
        LrSchedulerType::Cosine => ScheduleKind::Cosine,
        LrSchedulerType::Constant => ScheduleKind::Constant,
        LrSchedulerType::ConstantWithWarmup => ScheduleKind::ConstantWithWarmup,
        LrSchedulerType::Polynomial => ScheduleKind::Polynomial,
        LrSchedulerType::InverseSqrt => ScheduleKind::InverseSqrt,
        LrSchedulerType::WarmupStableDecay => {
            bail!("--lr-scheduler-type warmup_stable_decay is not supported yet")
        }
    };
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
        geometry_every: match options.geometry {
            Geometry::Off => None,
            Geometry::EachNth(n) => Some(n),
        },
    })
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
    };
    let settings = settings(options, plan)?;
    let mut progress = TrainingProgress::new(plan.total, interrupt);
    let outcome = unbraid_train::run(model, task, plan, &settings, &files, &mut progress);
    progress.finish();
    if let Outcome::Interrupted { step } = outcome? {
        eprintln!("interrupted after step {step}; its checkpoint is saved");
        report(&options.output_dir);
        return Ok(End::Interrupted);
    }
    report(&options.output_dir);
    Ok(End::Done)
}

/// Writes the report of a run; a run is not lost because its report failed.
fn report(dir: &Path) {
    match unbraid_report::write_run_report(dir) {
        Ok(path) => {
            if let Ok(summary) = unbraid_report::terminal_summary(dir) {
                eprintln!("{summary}");
            }
            eprintln!("report: {}", path.display());
        }
        Err(error) => eprintln!("note: no report was written: {error}"),
    }
}
