//! What would make a run that does not fit smaller, each with its predicted total.

use super::{Memory, Plan};
use anyhow::Result;
use unbraid_model::{Keep, LoraConfig, Storage, TargetModules};
use unbraid_plan::{RunShape, simulate};
use unbraid_train::OptimizerKind;

/// A change and what the run would take with it.
pub(super) struct Advice {
    /// As options.
    pub(super) change: String,
    pub(super) peak: u64,
    pub(super) fits: bool,
}

/// A change of a run.
type Change = fn(&mut RunShape<'_>);

/// Changes that spare memory, one at a time and then together; one that spares nothing in this run is left out.
pub(super) fn options(plan: &Plan<'_>) -> Result<Vec<Advice>> {
    let shape = &plan.shape;
    let batch = shape.plan.sampler.batch;
    let steps = shape.plan.sampler.per_step();
    let smaller = format!(
        "--per-device-train-batch-size 1 --gradient-accumulation-steps {steps} (the same steps)"
    );
    let changes: [(&str, bool, Change); 6] = [
        (
            "--gradient-checkpointing true (the same results, more time)",
            shape.task.keep == Keep::All,
            |s| s.task.keep = Keep::BlockInputs,
        ),
        (&smaller, batch > 1, |s| {
            let sampler = &mut s.plan.sampler;
            sampler.accumulation = sampler.per_step();
            sampler.batch = 1;
        }),
        (
            "--update-every off (no copy of the trained parameters)",
            shape.settings.update_every.is_some(),
            |s| s.settings.update_every = None,
        ),
        (
            "--optim adafactor (almost no optimizer state)",
            shape.lora.is_none() && matches!(shape.settings.optimizer, OptimizerKind::AdamW { .. }),
            |s| s.settings.optimizer = OptimizerKind::Adafactor,
        ),
        (
            "--use-peft true --lora-target-modules all-linear (an adapter of rank 16 on the weights as now held)",
            shape.lora.is_none(),
            |s| s.lora = Some(adapter()),
        ),
        (
            "--dtype bfloat16, with an adapter (frozen weights in half the memory)",
            shape.storage == Storage::Float32,
            |s| {
                s.lora.get_or_insert_with(adapter);
                s.storage = Storage::Bfloat16;
            },
        ),
    ];
    let mut advice = Vec::new();
    let mut together = shape.clone();
    for (change, applies, apply) in changes {
        if !applies {
            continue;
        }
        let mut changed = shape.clone();
        apply(&mut changed);
        let predicted = predict(plan, &changed, change.to_owned())?;
        if predicted.peak < plan.memory.peak {
            advice.push(predicted);
            apply(&mut together);
        }
    }
    if advice.len() > 1 {
        advice.push(predict(plan, &together, "all of these".to_owned())?);
    }
    Ok(advice)
}

fn adapter() -> LoraConfig {
    LoraConfig {
        base_model: String::new(),
        r: 16,
        alpha: 32.0,
        dropout: 0.05,
        target_modules: TargetModules::AllLinear,
        modules_to_save: Vec::new(),
        use_rslora: false,
        ..LoraConfig::default()
    }
}

fn predict(plan: &Plan<'_>, shape: &RunShape<'_>, change: String) -> Result<Advice> {
    let simulation = simulate(shape).map_err(|error| super::super::usage(error.to_string()))?;
    let memory = Memory::of(&simulation, plan.memory.program);
    Ok(Advice {
        change,
        peak: memory.peak,
        fits: plan
            .machine
            .memory
            .is_some_and(|available| memory.peak <= available),
    })
}
