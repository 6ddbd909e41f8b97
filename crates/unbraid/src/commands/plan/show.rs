//! A plan in words and as JSON.

use super::Plan;
use super::advice::Advice;
use super::inputs::Planned;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use unbraid_model::{Keep, Storage};
use unbraid_plan::{Kind, Work};

/// Bytes in GB (10⁹) or MB.
fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b => format!("{:.0} MB", b / 1e6),
    }
}

/// Seconds in the unit that reads best.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.1} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

fn share(part: f64, whole: f64) -> String {
    format!("{:>3.0} %", 100.0 * part / whole.max(f64::MIN_POSITIVE))
}

/// Mean and largest of some lengths.
fn lengths(values: impl Iterator<Item = usize>) -> (f64, usize) {
    let (mut sum, mut count, mut largest) = (0, 0, 0);
    for value in values {
        (sum, count, largest) = (sum + value, count + 1, largest.max(value));
    }
    (sum as f64 / f64::from(count.max(1)), largest)
}

impl Plan<'_> {
    /// Seconds of the steps and of the reference's pass.
    fn seconds(&self) -> (f64, f64) {
        let rates = &self.machine.rates;
        let training = rates.seconds(&self.simulation.training());
        (training, rates.seconds(&self.simulation.reference))
    }

    fn steps(&self) -> u64 {
        self.shape.plan.total
    }

    /// Work of a step on average.
    fn step(&self) -> Work {
        let training = self.simulation.training();
        training.times(1.0 / self.steps().max(1) as f64)
    }

    fn parts(&self) -> [(&'static str, u64); 8] {
        let f = &self.simulation.footprint;
        [
            ("weights", f.weights),
            ("adapter, mask", f.adapter),
            ("gradients", f.gradients),
            ("optimizer state", f.optimizer),
            ("activations kept for the backward pass", f.activations),
            ("workspace: backward pass, explained update", f.workspace),
            ("buffers kept for reuse", f.pool),
            ("program, tokenizer, data", self.memory.program),
        ]
    }
}

/// The plan for people.
pub(super) fn text(plan: &Plan<'_>, planned: &Planned, advice: &[Advice]) -> String {
    let mut out = String::new();
    head(&mut out, plan, planned);
    memory(&mut out, plan, advice);
    time(&mut out, plan);
    out
}

/// Writing into a string never fails.
macro_rules! say {
    ($out:expr, $($message:tt)*) => {
        let _ = writeln!($out, $($message)*);
    };
}

fn head(out: &mut String, plan: &Plan<'_>, planned: &Planned) {
    let (shape, simulation) = (&plan.shape, &plan.simulation);
    let model = &plan.config.run.model.model_name_or_path;
    let kind = shape.config.model_type();
    let of = if planned.has_weights {
        ""
    } else {
        ", from its configuration alone"
    };
    let held = match shape.storage {
        Storage::Bfloat16 => "frozen in bf16",
        Storage::Float32 if shape.lora.is_some() => "frozen in f32",
        Storage::Float32 => "in f32",
    };
    say!(
        out,
        "model    {model} ({kind}{of}): {:.1} M parameters {held}, {:.2} M trained",
        simulation.parameters as f64 / 1e6,
        simulation.trainable as f64 / 1e6
    );
    let pairs = shape.pairs;
    let (prompt, longest_prompt) = lengths(pairs.iter().map(|p| p.chosen.prompt_len));
    let completions = pairs
        .iter()
        .flat_map(|p| [p.chosen.completion().len(), p.rejected.completion().len()]);
    let (completion, longest) = lengths(completions);
    say!(
        out,
        "data     {}: {} pairs; prompt {prompt:.0} tokens on average ({longest_prompt} at most), completion \
         {completion:.0} ({longest})",
        plan.config.dataset().unwrap_or("given lengths"),
        pairs.len()
    );
    let (sampler, sizes) = (&shape.plan.sampler, &simulation.sizes);
    let keep = match shape.task.keep {
        Keep::All => "",
        Keep::BlockInputs => ", gradient checkpointing",
    };
    say!(
        out,
        "run      {} steps of {} × {} pairs{keep}; a batch has {:.0} rows on average, {} at most (shared prompts once, no \
         padding); {} tokens",
        plan.steps(),
        sampler.accumulation,
        sampler.batch,
        sizes.mean_rows,
        sizes.largest_rows,
        sizes.tokens
    );
    say!(out, "machine  {}", plan.machine.description);
}

fn memory(out: &mut String, plan: &Plan<'_>, advice: &[Advice]) {
    let memory = &plan.memory;
    say!(out, "\nmemory, of the largest batch");
    for (name, bytes) in plan.parts().into_iter().filter(|(_, bytes)| *bytes > 0) {
        say!(out, "  {name:<44} {:>10}", size(bytes));
    }
    let training = plan.simulation.phases.steps + memory.program;
    say!(out, "  {:<44} {:>10}", "while training", size(training));
    say!(
        out,
        "  {:<44} {:>10}  ({})",
        "peak of the run",
        size(memory.peak),
        memory.phase
    );
    let Some(available) = plan.machine.memory else {
        return;
    };
    let verdict = match plan.fits() {
        Some(true) => "it fits",
        _ => "it does not fit",
    };
    say!(out, "  {verdict}: {} are there", size(available));
    for option in advice {
        let verdict = if option.fits { "fits" } else { "does not fit" };
        say!(
            out,
            "  hint: {}: {}, {verdict}",
            option.change,
            size(option.peak)
        );
    }
}

fn time(out: &mut String, plan: &Plan<'_>) {
    let (rates, step) = (&plan.machine.rates, plan.step());
    let whole = rates.seconds(&step);
    say!(out, "\na step on average");
    for kind in Kind::ALL {
        let (amount, seconds) = (step.of(kind), rates.seconds_of(&step, kind));
        if amount == 0.0 {
            continue;
        }
        let (unit, rate) = match kind.is_bytes() {
            true => ("GB   ", "GB/s"),
            false => ("GFLOP", "GFLOP/s"),
        };
        say!(
            out,
            "  {:<34} {:>10.2} {unit} at {:>8.1} {rate:<7} {:>10} {}",
            kind.name(),
            amount / 1e9,
            rates.of(kind) / 1e9,
            duration(seconds),
            share(seconds, whole)
        );
    }
    say!(
        out,
        "  {:<34} {:>10.2} GFLOP {:>30}; the floor is {} ({:.0} GFLOP/s)",
        "a step",
        step.flops() / 1e9,
        duration(whole),
        duration(step.flops() / plan.machine.peak),
        plan.machine.peak / 1e9
    );
    let (training, reference) = plan.seconds();
    if reference > 0.0 {
        say!(
            out,
            "\nreference, once before the first step: {:.2} GFLOP, {}",
            plan.simulation.reference.flops() / 1e9,
            duration(reference)
        );
    }
    say!(
        out,
        "the run: {} ({} steps); evaluation, checkpoints and start are not in it",
        duration(training + reference),
        plan.steps()
    );
}

fn work(plan: &Plan<'_>, work: &Work) -> Value {
    let rates = &plan.machine.rates;
    let mut parts = Map::new();
    for kind in Kind::ALL {
        let unit = if kind.is_bytes() { "bytes" } else { "flops" };
        let entry = json!({ unit: work.of(kind), "seconds": rates.seconds_of(work, kind) });
        let name = serde_json::to_value(kind).expect("a name");
        parts.insert(name.as_str().unwrap_or_default().to_owned(), entry);
    }
    json!({
        "flops": work.flops(),
        "bytes": work.bytes(),
        "seconds": rates.seconds(work),
        "floor_seconds": work.flops() / plan.machine.peak,
        "parts": parts,
    })
}

/// The plan for programs: bytes, operations, seconds.
pub(super) fn json(plan: &Plan<'_>, advice: &[Advice]) -> Value {
    let simulation = &plan.simulation;
    let (training, reference) = plan.seconds();
    let kinds = simulation.steps.iter().map(|steps| {
        let mut entry = work(plan, &steps.work);
        entry["measured"] = steps.measured.into();
        entry["explained"] = steps.explained.into();
        entry["gram"] = steps.gram.into();
        entry["count"] = steps.count.into();
        entry["sampled"] = steps.sampled.into();
        entry
    });
    let rate = |kind: Kind| plan.machine.rates.of(kind);
    let rates: Map<String, Value> = Kind::ALL
        .into_iter()
        .filter_map(|kind| {
            let name = serde_json::to_value(kind).ok()?;
            Some((name.as_str()?.to_owned(), rate(kind).into()))
        })
        .collect();
    let advice = advice
        .iter()
        .map(|a| json!({ "change": a.change, "peak": a.peak, "fits": a.fits }));
    json!({
        "model": {
            "type": plan.shape.config.model_type(),
            "parameters": simulation.parameters,
            "trainable": simulation.trainable,
        },
        "pairs": plan.shape.pairs.len(),
        "steps": plan.steps(),
        "batches": simulation.sizes,
        "memory": {
            "peak": plan.memory.peak,
            "phase": plan.memory.phase,
            "parts": simulation.footprint,
            "phases": simulation.phases,
            "program": plan.memory.program,
            "available": plan.machine.memory,
            "fits": plan.fits(),
        },
        "step": work(plan, &plan.step()),
        "step_kinds": kinds.collect::<Vec<_>>(),
        "reference": work(plan, &simulation.reference),
        "seconds": training + reference,
        "machine": plan.machine.description,
        "rates": rates,
        "advice": advice.collect::<Vec<_>>(),
    })
}
