//! Ten-step DPO trajectories against PyTorch (`parity/models`, f64), AdamW and SGD, through the real loop.
//!
//! Tolerances: on the naive f64 backend 1e-7 relative (AdamW divides by √v of gradients that are exactly zero in
//! theory and 1e-17 in practice, for key biases of GPT-2 and of GPT-NeoX's still dimensions; the rest agrees to 1e-10). On the f32 CPU backend 1e-4.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use unbraid_model::LanguageModel;
use unbraid_model::weights::StoredDtype;
use unbraid_objective::{Objective, ObjectiveOptions};
use unbraid_preference::{TokenizedPair, TokenizedSequence};
use unbraid_tensor::{Backend, CpuBackend, NaiveBackend};
use unbraid_train::{
    Averages, Files, Observer, OptimizerKind, Outcome, PreferenceSettings, PreferenceTask,
    ReferencedPairs, Sampler, SamplingOrder, Schedule, ScheduleKind, Settings, TrainingPlan, run,
    score_pairs,
};

const CASES: [&str; 9] = [
    "gpt2",
    "llama",
    "llama_tied",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gpt_neox",
    "gpt_neox_sequential",
];

fn models() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/models")
}

fn golden(case: &str) -> Value {
    serde_json::from_slice(&std::fs::read(models().join(case).join("golden.json")).unwrap())
        .unwrap()
}

fn pairs(golden: &Value) -> Vec<TokenizedPair> {
    let ids = |v: &Value| -> Vec<u32> { serde_json::from_value(v.clone()).unwrap() };
    let pairs = golden["pairs"].as_array().unwrap().iter().enumerate();
    pairs
        .map(|(index, p)| {
            let prompt = ids(&p["prompt"]);
            let side = |key: &str| TokenizedSequence {
                ids: [prompt.clone(), ids(&p[key])].concat(),
                prompt_len: prompt.len(),
            };
            let (chosen, rejected) = (side("chosen"), side("rejected"));
            TokenizedPair {
                index,
                chosen,
                rejected,
                weight: 1.0,
                text: None,
            }
        })
        .collect()
}

/// Keeps every logged row.
#[derive(Default)]
struct Rows(Vec<Value>);

impl Observer for Rows {
    fn on_step(&mut self, _: u64, _: &Averages, _: f64) {}
    fn on_row(&mut self, row: &serde_json::Map<String, Value>) {
        self.0.push(Value::Object(row.clone()));
    }
    fn on_save(&mut self, _: &Path) {}
    fn stop(&mut self) -> bool {
        false
    }
}

fn dpo() -> Objective {
    let options = ObjectiveOptions {
        beta: Some(0.1),
        ..ObjectiveOptions::default()
    };
    Objective::from_name("sigmoid", &options).unwrap()
}

/// The trajectory's rows, and the log-probs of all pairs after it.
fn train<B: Backend>(
    backend: B,
    case: &str,
    t: &Value,
    geometry_every: Option<u64>,
    accumulation: usize,
) -> (Vec<Value>, Vec<(f64, f64)>) {
    let number = |key: &str| t[key].as_f64().unwrap();
    let golden = golden(case);
    let pairs = pairs(&golden);
    let mut model = LanguageModel::load(Arc::new(backend), &models().join(case)).unwrap();
    let all: Vec<&TokenizedPair> = pairs.iter().collect();
    let reference = score_pairs(&model, &all, |_| true);
    let task_settings = PreferenceSettings::new(dpo(), 0.1);
    let train = ReferencedPairs::new(&pairs, reference, &task_settings);
    let eval = ReferencedPairs::without_reference(&[]);
    let mut task = PreferenceTask::new(train, eval, task_settings, None);
    let optimizer = if t["optimizer"] == "adamw" {
        OptimizerKind::AdamW {
            beta1: number("adam_beta1"),
            beta2: number("adam_beta2"),
            epsilon: number("adam_epsilon"),
        }
    } else {
        OptimizerKind::Sgd {
            momentum: number("momentum"),
        }
    };
    let total = t["max_steps"].as_u64().unwrap();
    let kind = if t["lr_scheduler_type"] == "linear" {
        ScheduleKind::Linear
    } else {
        ScheduleKind::Constant
    };
    let settings = Settings {
        optimizer,
        weight_decay: number("weight_decay"),
        max_grad_norm: number("max_grad_norm"),
        schedule: Schedule {
            kind,
            peak: number("learning_rate"),
            warmup: t["warmup_steps"].as_u64().unwrap(),
            total,
        },
        logging_steps: 1,
        logging_first_step: false,
        evaluate: None,
        eval_on_start: false,
        save: None,
        geometry_every,
        update_every: None,
        gram_every: None,
        best: None,
    };
    let batch = t["pairs_per_step"].as_u64().unwrap() as usize / accumulation;
    let sampler = Sampler {
        order: SamplingOrder::Sequential,
        seed: 0,
        batch,
        accumulation,
        lengths: vec![1; pairs.len()],
    };
    let dir = tempfile::tempdir().unwrap();
    let files = Files {
        output_dir: dir.path().to_path_buf(),
        dtype: StoredDtype::F32,
        companions: &|_| Ok(()),
        save_total_limit: None,
        identity: Default::default(),
        resume: None,
    };
    let mut rows = Rows::default();
    let plan = TrainingPlan { sampler, total };
    let outcome = run(&mut model, &mut task, &plan, &settings, &files, &mut rows).unwrap();
    assert_eq!(outcome, Outcome::Finished);
    let after = score_pairs(&model, &all, |_| true);
    (
        rows.0,
        after.iter().map(|s| (s.chosen(), s.rejected())).collect(),
    )
}

fn close(what: &str, got: f64, want: f64, tolerance: f64) {
    let error = (got - want).abs() / want.abs().max(1.0);
    assert!(
        error <= tolerance,
        "{what}: {got} against {want}, relative error {error:e}"
    );
}

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
    let strip = |rows: Vec<Value>| -> Vec<Value> {
        rows.into_iter()
            .map(|mut r| {
                r.as_object_mut().unwrap().remove("tokens_per_second");
                r
            })
            .collect()
    };
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
