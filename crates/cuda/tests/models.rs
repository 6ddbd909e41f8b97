//! Whole models on the emulated machine against PyTorch (`parity/models`): token log-probs, and ten DPO steps with geometry
//! through the real training loop. Tolerances are those of the CPU backend in the crates that own these goldens.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod emulator;
#[path = "../../train/tests/golden/mod.rs"]
mod golden;

use emulator::{Emulator, Limits};
use golden::{CASES, close, golden, models, pairs, strip, train};
use std::sync::{Arc, LazyLock};
use unbraid_cuda::{AnyBackend, CudaBackend, Device, Precision};
use unbraid_model::LanguageModel;
use unbraid_preference::TokenizedPair;
use unbraid_train::score_pairs;

static MACHINE: LazyLock<Arc<dyn Device>> = LazyLock::new(|| Emulator::or_end(Limits::default()));

fn gpu() -> AnyBackend {
    AnyBackend::Cuda(CudaBackend::over(Arc::clone(&MACHINE), Precision::Float32))
}

#[test]
fn log_probs_agree_with_pytorch() {
    for case in CASES {
        let model = LanguageModel::load(Arc::new(gpu()), &models().join(case)).unwrap();
        let golden = golden(case);
        let pairs = pairs(&golden);
        let all: Vec<&TokenizedPair> = pairs.iter().collect();
        for (i, scored) in score_pairs(&model, &all, |_| true).iter().enumerate() {
            let want = |key: &str| -> f64 {
                let each: Vec<f64> =
                    serde_json::from_value(golden["per_pair"][i][key].clone()).unwrap();
                each.iter().sum()
            };
            let place = format!("{case} {i}");
            close(&place, scored.chosen(), want("chosen_token_logps"), 1e-5);
            close(
                &place,
                scored.rejected(),
                want("rejected_token_logps"),
                1e-5,
            );
        }
    }
}

/// A few cases: the emulator takes some ten seconds for each.
#[test]
fn ten_steps_agree_with_pytorch() {
    for case in ["gpt2", "gemma2", "qwen3"] {
        let golden = golden(case);
        let t = &golden["trajectories"]["adamw"];
        let (rows, _) = train(gpu(), case, t, Some(1), 1);
        let steps = t["steps"].as_array().unwrap();
        assert_eq!(rows.len(), steps.len());
        for (i, (row, want)) in rows.iter().zip(steps).enumerate() {
            for key in ["loss", "learning_rate", "grad_norm"] {
                let (got, want) = (row[key].as_f64().unwrap(), want[key].as_f64().unwrap());
                close(&format!("{case} step {i} {key}"), got, want, 1e-4);
            }
        }
    }
}

#[test]
fn two_runs_are_bitwise_equal() {
    let golden = golden("llama_tied");
    let t = &golden["trajectories"]["adamw"];
    let once = || strip(train(gpu(), "llama_tied", t, Some(1), 1).0);
    assert_eq!(once(), once());
}
