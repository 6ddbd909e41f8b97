//! DPO with an adapter, step by step against PEFT and PyTorch (`parity/lora`, in f64): the adapter alone is trained,
//! the reference is the base with the adapter off, weight decay reaches A and B.
//!
//! Tolerance 1e-7 relative: six AdamW steps in f64, where the update divides by roots of small numbers.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{model, pairs};
use serde_json::Value;
use std::path::PathBuf;
use unbraid_model::Gradients;
use unbraid_objective::{Objective, ObjectiveOptions};
use unbraid_preference::TokenizedPair;
use unbraid_tensor::NaiveBackend;
use unbraid_train::{
    Optimizer, OptimizerKind, PreferenceSettings, PreferenceTask, ReferencedPairs, Task,
    score_pairs,
};

const ADAMW: OptimizerKind = OptimizerKind::AdamW {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
};

fn trajectory(case: &str, tolerance: f64) {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../parity/lora")
        .join(case);
    let golden: Value =
        serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
    let base = golden["base"].as_str().unwrap();
    let (pairs, wanted) = (pairs(base), &golden["trajectory"]);
    let number = |key: &str| wanted[key].as_f64().unwrap();

    let mut model = model(base);
    model.load_adapter(&dir).unwrap();
    model.set_adapter_enabled(false);
    let all: Vec<&TokenizedPair> = pairs.iter().collect();
    let reference = score_pairs(&model, &all, |_| true);
    model.set_adapter_enabled(true);

    let options = ObjectiveOptions {
        beta: Some(number("beta")),
        ..ObjectiveOptions::default()
    };
    let objective = Objective::from_name("sigmoid", &options).unwrap();
    let settings = PreferenceSettings::new(objective, number("beta"));
    let train = ReferencedPairs::new(&pairs, reference, &settings);
    let none = ReferencedPairs::without_reference(&[]);
    let mut task = PreferenceTask::new(train, none, settings, None);
    let mut gradients = Gradients::zeros(&NaiveBackend, &model.params, |p| {
        model.params.is_trainable(p)
    });
    let decay = number("weight_decay");
    let mut optimizer = Optimizer::new(&NaiveBackend, ADAMW, decay, &model.params, &gradients);
    for (i, step) in wanted["steps"].as_array().unwrap().iter().enumerate() {
        let batch = step["pairs"].as_array().unwrap().iter();
        let batch: Vec<usize> = batch.map(|v| v.as_u64().unwrap() as usize).collect();
        gradients.clear(&NaiveBackend);
        // Measured and unmeasured steps are the same step.
        let metrics = task
            .accumulate(&model, &mut gradients, i as u64 + 1, &[batch], i % 2 == 0)
            .unwrap();
        let norm = gradients.squared_norm(&NaiveBackend).sqrt();
        for (what, got) in [("loss", metrics.get("loss").unwrap()), ("grad_norm", norm)] {
            let want = step[what].as_f64().unwrap();
            assert!(
                (got / want - 1.0).abs() < tolerance,
                "{case} step {i} {what}: {got} against {want}"
            );
        }
        let scale = (number("max_grad_norm") / (norm + 1e-6)).min(1.0);
        optimizer.step(
            &NaiveBackend,
            &mut model.params,
            &gradients,
            number("learning_rate"),
            scale,
        );
    }
}

#[test]
fn trajectories_agree_with_peft() {
    let whole = [
        "llama_tied_table",
        "gpt2_head",
        "qwen2_tied",
        "gpt_neox_head",
    ];
    for case in ["llama", "gpt2", "llama_whole", "llama_head", "qwen2_table"]
        .into_iter()
        .chain(whole)
    {
        trajectory(case, 1e-7);
    }
    // Their goldens carry float32 rounding of the base (see `crates/geometry/tests/lora.rs`). `gpt2_pissa` is not among them: its
    // gradient norm is 2e-3 off in the fourth step, after three that agree, and whether rounding explains that is not
    // settled. A golden with the residual base in float64 would.
    for case in ["gemma2_tables", "mistral_pissa", "qwen3_olora"] {
        trajectory(case, 1e-4);
    }
}
