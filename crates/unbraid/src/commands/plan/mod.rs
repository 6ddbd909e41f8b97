//! `unbraid plan`: what a training run will take, predicted from its options without running it.
//!
//! The counting is `unbraid-plan`'s; here are files (model, tokenizer, data), the machine, and what is shown.

mod advice;
mod inputs;
mod machine;
mod show;

use super::{End, adapt, load, objective, output, train, training};
use crate::cli::{self, Attribute, Geometry, PlanConfig};
use anyhow::Result;
use inputs::Planned;
use machine::Machine;
use unbraid_model::Storage;
use unbraid_plan::{RunShape, Simulation, simulate};
use unbraid_preference::TokenizedPair;
use unbraid_train::TokenMask;

/// Most optimizer steps of a plan, and most pairs in them: each is looked at once.
const MAX_STEPS: u64 = 3_000_000;
const MAX_EXAMPLES: u64 = 100_000_000;

/// A run and what it takes.
struct Plan<'a> {
    config: &'a PlanConfig,
    shape: RunShape<'a>,
    simulation: Simulation,
    memory: Memory,
    machine: Machine,
}

/// Bytes outside the buffers, and of the whole process.
#[derive(Clone, Copy, Debug)]
struct Memory {
    /// Program, tokenizer and data: this process's own at this point, which holds the same.
    program: u64,
    /// The largest moment of the run.
    peak: u64,
    /// When that is.
    phase: &'static str,
}

impl Memory {
    /// On a GPU the program does not count.
    fn of(simulation: &Simulation, program: u64) -> Self {
        let p = &simulation.phases;
        let cached = if program > 0 { p.reference_cache } else { 0 };
        let moments = [
            ("reading the weights", p.load),
            ("scoring the reference", p.reference + cached),
            ("training", p.steps),
            ("writing the model", p.save),
        ];
        let there = moments
            .into_iter()
            .filter(|(phase, _)| p.reference > 0 || !phase.starts_with("scoring"));
        let largest = there.max_by_key(|(_, bytes)| *bytes);
        let (phase, bytes) = largest.unwrap_or(("training", p.steps));
        Memory {
            program,
            peak: program + bytes,
            phase,
        }
    }
}

/// Plans the run that `config` describes.
pub(super) fn run(config: &PlanConfig) -> Result<End> {
    let profile = machine::profile(config)?;
    let planned = Planned::open(config)?;
    let pairs = inputs::pairs(config, &planned)?;
    let program = match profile {
        Some(_) => 0,
        None => machine::resident().unwrap_or(inputs::PROGRAM),
    };
    let shape = shape(config, &planned, &pairs)?;
    let simulation = simulate(&shape).map_err(|error| super::usage(error.to_string()))?;
    let memory = Memory::of(&simulation, program);
    let machine = Machine::new(config, profile, &shape, &simulation);
    let plan = Plan {
        config,
        shape,
        simulation,
        memory,
        machine,
    };
    let advice = match plan.fits() {
        Some(false) => advice::options(&plan)?,
        _ => Vec::new(),
    };
    say!(
        "{}",
        show::text(&plan, &planned, &advice).trim_end_matches('\n')
    );
    let attributes = match config.run.attribute {
        Attribute::Off => false,
        Attribute::Auto => config.run.trainer.geometry != Geometry::Off,
        Attribute::EachNth(_) => true,
    };
    if attributes {
        // Two gradients of the probes and the parameters before the step, in float32.
        let bytes = 3 * 4 * plan.simulation.trainable as u64;
        note!(
            "steps that attribution measures hold about {:.2} GiB more, which is not counted above; --attribute off: none",
            bytes as f64 / f64::from(1 << 30)
        );
    }
    if config.run.trainer.json {
        let json = show::json(&plan, &advice);
        output::print(&format!("{json:#}\n"))?;
    }
    Ok(End::Done)
}

impl Plan<'_> {
    /// Whether the machine has the memory; `None` where that is not known.
    fn fits(&self) -> Option<bool> {
        let available = self.machine.memory?;
        Some(self.memory.peak <= available)
    }
}

/// The run as the planner knows it, from the same functions as `train`'s.
fn shape<'a>(
    config: &PlanConfig,
    planned: &Planned,
    pairs: &'a [TokenizedPair],
) -> Result<RunShape<'a>> {
    let run = &config.run;
    let objective = objective::objective(&run.objective)?;
    let remedy = objective::remedy(&run.objective, &objective)?;
    objective::check_mask(&run.objective, &objective)?;
    let lora = match &planned.adapter {
        Some(lora) => Some(lora.clone()),
        None if run.lora.use_peft => Some(adapt::config(&run.lora, String::new())),
        None => None,
    };
    let storage = match lora {
        Some(_) => planned.frozen_storage(run.model.dtype),
        None => Storage::Float32,
    };
    let reads_reference = objective.logs_reference();
    let args = &run.objective;
    let moving = (args.sync_ref_model && objective.needs_reference())
        .then_some((args.ref_model_mixup_alpha, args.ref_model_sync_steps as u64));
    let reference = match &run.ref_model {
        Some(name) if reads_reference => Some(inputs::config_of(name)?),
        _ => None,
    };
    let options = &run.trainer;
    let lengths = pairs
        .iter()
        .map(|p| p.chosen.ids.len().max(p.rejected.ids.len()));
    let order = training::order(options);
    let plan = training::plan(options, run.model.seed, order, lengths.collect());
    let work = plan
        .total
        .saturating_mul(plan.sampler.per_step().min(pairs.len()) as u64);
    if plan.total > MAX_STEPS || work > MAX_EXAMPLES {
        return Err(super::usage(format!(
            "num_train_epochs or max_steps: {} steps of {} pairs are more than a plan walks through ({MAX_STEPS} steps, \
             {MAX_EXAMPLES} pairs)\nhint: plan fewer; the time of a run is in proportion to its steps",
            plan.total,
            plan.sampler.per_step().min(pairs.len())
        )));
    }
    let mut settings = training::settings(options, &plan)?;
    let measures = settings.geometry_every.is_some();
    settings.update_every = run.update_every.steps().filter(|_| measures);
    let mut task = train::task_settings(run, objective, remedy);
    let adapter = lora.as_ref().is_some_and(|lora| lora.dropout > 0.0);
    let drops = !run.disable_dropout && (adapter || planned.config.dropout().any());
    task.dropout_seed = drops.then_some(run.model.seed);
    let learnt = |free| {
        let rate = options.learning_rate;
        Some((objective::mask_settings(args, rate), free))
    };
    let mask = match args.token_mask {
        cli::TokenMask::None => None,
        cli::TokenMask::Diff => {
            task.mask = TokenMask::Diff;
            None
        }
        cli::TokenMask::Head => learnt(false),
        cli::TokenMask::Free => learnt(true),
    };
    Ok(RunShape {
        config: planned.config.clone(),
        storage,
        lora,
        reference,
        moving,
        reads_reference,
        precompute: args.precompute_ref_log_probs,
        pairs,
        plan,
        task,
        mask,
        settings,
        threads: run.model.threads.unwrap_or(rayon::current_num_threads()),
    })
}
