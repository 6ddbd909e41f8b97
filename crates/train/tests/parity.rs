//! Ten-step DPO trajectories against PyTorch (`parity/models`, f64), AdamW and SGD, through the real loop.
//!
//! Tolerances: on the naive f64 backend 1e-7 relative (AdamW divides by √v of gradients that are exactly zero in
//! theory and 1e-17 in practice, for key biases of GPT-2 and of GPT-NeoX's still dimensions; the rest agrees to 1e-10). On the f32 CPU backend 1e-4.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod golden;

use golden::{CASES, close, golden, strip, train};
use serde_json::Value;
use unbraid_tensor::{Backend, CpuBackend, NaiveBackend};

fn mean(v: &Value) -> f64 {
    let v: Vec<f64> = serde_json::from_value(v.clone()).unwrap();
    v.iter().sum::<f64>() / v.len() as f64
}

fn check<B: Backend>(make: impl Fn() -> B, tolerance: f64) {
    for case in CASES {
        let golden = golden(case);
        for (name, t) in golden["trajectories"].as_object().unwrap() {
            // Measuring geometry must not change the step; nor must splitting it into micro-batches.
            for (geometry, accumulation) in [(None, 1), (Some(1), 1), (Some(3), 3)] {
                let (rows, after) = train(make(), case, t, geometry, accumulation);
                let steps = t["steps"].as_array().unwrap();
                assert_eq!(rows.len(), steps.len());
                for (i, (row, want)) in rows.iter().zip(steps).enumerate() {
                    let at = |key: &str| format!("{case} {name} {geometry:?} step {i} {key}");
                    for key in ["loss", "learning_rate", "grad_norm"] {
                        let (got, want) = (row[key].as_f64(), want[key].as_f64());
                        close(&at(key), got.unwrap(), want.unwrap(), tolerance);
                    }
                    for (ours, theirs) in [
                        ("logps/chosen", "chosen_logps"),
                        ("logps/rejected", "rejected_logps"),
                    ] {
                        let got = row[ours].as_f64().unwrap();
                        close(&at(ours), got, mean(&want[theirs]), tolerance);
                    }
                }
                close("ln 2", rows[0]["loss"].as_f64().unwrap(), 2f64.ln(), 1e-6);
                for (i, (chosen, rejected)) in after.iter().enumerate() {
                    let want = &t["final"];
                    let place = format!("{case} {name} final {i}");
                    close(
                        &place,
                        *chosen,
                        want["chosen_logps"][i].as_f64().unwrap(),
                        tolerance,
                    );
                    close(
                        &place,
                        *rejected,
                        want["rejected_logps"][i].as_f64().unwrap(),
                        tolerance,
                    );
                }
            }
        }
    }
}

#[test]
fn ten_steps_agree_with_pytorch_on_the_naive_backend() {
    check(|| NaiveBackend, 1e-7);
}

#[test]
fn ten_steps_agree_with_pytorch_on_the_cpu_backend() {
    check(CpuBackend::new, 1e-4);
}

#[test]
fn two_runs_are_bitwise_equal() {
    let golden = golden("llama_tied");
    let t = &golden["trajectories"]["adamw"];
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let once = || pool.install(|| train(CpuBackend::new(), "llama_tied", t, Some(2), 1));
        let ((rows1, after1), (rows2, after2)) = (once(), once());
        assert_eq!(strip(rows1), strip(rows2));
        assert_eq!(after1, after2);
    }
}

/// Under SGD without clipping and one pair a step, the prediction is the first-order change that happens.
#[test]
fn a_small_sgd_step_realises_the_prediction() {
    let mut golden = golden("llama");
    let t = &mut golden["trajectories"]["sgd"];
    t["pairs_per_step"] = 1.into();
    t["learning_rate"] = 1e-6.into();
    let (rows, _) = train(NaiveBackend, "llama", t, Some(1), 1);
    for row in rows {
        for side in ["chosen", "rejected"] {
            let predicted = row[format!("geometry/predicted_{side}")].as_f64().unwrap();
            let realised = row[format!("geometry/realised_{side}")].as_f64().unwrap();
            let scale = predicted.abs().max(1e-6);
            assert!(
                (predicted - realised).abs() < 0.02 * scale,
                "{side}: {predicted} {realised}"
            );
        }
    }
}
