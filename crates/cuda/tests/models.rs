//! Whole models on the emulated machine against PyTorch (`parity/models`): token log-probs, and ten DPO steps with geometry
//! through the real training loop. Tolerances are those of the CPU backend in the crates that own these goldens.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod emulator;

use emulator::{Emulator, Limits};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use unbraid_cuda::{AnyBackend, CudaBackend, Device, Precision};
use unbraid_model::LanguageModel;
use unbraid_model::weights::StoredDtype;
use unbraid_objective::{Objective, ObjectiveOptions};
use unbraid_preference::{TokenizedPair, TokenizedSequence};
use unbraid_train::{
    Averages, Files, Observer, OptimizerKind, PreferenceSettings, PreferenceTask, ReferencedPairs,
    Sampler, SamplingOrder, Schedule, ScheduleKind, Settings, TrainingPlan, run, score_pairs,
};

static MACHINE: LazyLock<Arc<dyn Device>> = LazyLock::new(|| Emulator::or_end(Limits::default()));

/// Positions learned and rotary, layer norm and root mean square, soft caps and windows, parallel blocks.
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
    let path = models().join(case).join("golden.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn load(case: &str) -> LanguageModel<AnyBackend> {
    let gpu = CudaBackend::over(Arc::clone(&MACHINE), Precision::Float32);
    LanguageModel::load(Arc::new(AnyBackend::Cuda(gpu)), &models().join(case)).unwrap()
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

fn close(what: &str, got: f64, want: f64, tolerance: f64) {
    let error = (got - want).abs() / want.abs().max(1.0);
    assert!(
        error <= tolerance,
        "{what}: {got} against {want}, relative error {error:e}"
    );
}

#[test]
fn log_probs_agree_with_pytorch() {
    for case in CASES {
        let (model, golden) = (load(case), golden(case));
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

/// Keeps every logged row.
#[derive(Default)]
struct Rows(Vec<Map<String, Value>>);

impl Observer for Rows {
    fn on_step(&mut self, _: u64, _: &Averages, _: f64) {}
    fn on_row(&mut self, row: &Map<String, Value>) {
        self.0.push(row.clone());
    }
    fn on_save(&mut self, _: &Path) {}
    fn stop(&mut self) -> bool {
        false
    }
}

/// Rows of the golden's AdamW trajectory, with geometry measured in every step.
fn train(case: &str, golden: &Value) -> Vec<Map<String, Value>> {
    let t = &golden["trajectories"]["adamw"];
    let number = |key: &str| t[key].as_f64().unwrap();
    let (mut model, pairs) = (load(case), pairs(golden));
    let all: Vec<&TokenizedPair> = pairs.iter().collect();
    let reference = score_pairs(&model, &all, |_| true);
    let options = ObjectiveOptions {
        beta: Some(0.1),
        ..ObjectiveOptions::default()
    };
    let objective = Objective::from_name("sigmoid", &options).unwrap();
    let task_settings = PreferenceSettings::new(objective, 0.1);
    let train = ReferencedPairs::new(&pairs, reference, &task_settings);
    let eval = ReferencedPairs::without_reference(&[]);
    let mut task = PreferenceTask::new(train, eval, task_settings, None);
    let total = t["max_steps"].as_u64().unwrap();
    let kind = match t["lr_scheduler_type"] == "linear" {
        true => ScheduleKind::Linear,
        false => ScheduleKind::Constant,
    };
    let settings = Settings {
        optimizer: OptimizerKind::AdamW {
            beta1: number("adam_beta1"),
            beta2: number("adam_beta2"),
            epsilon: number("adam_epsilon"),
        },
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
        geometry_every: Some(1),
        update_every: None,
        gram_every: None,
        best: None,
    };
    let sampler = Sampler {
        order: SamplingOrder::Sequential,
        seed: 0,
        batch: t["pairs_per_step"].as_u64().unwrap() as usize,
        accumulation: 1,
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
    run(&mut model, &mut task, &plan, &settings, &files, &mut rows).unwrap();
    rows.0
}

/// A few cases: the emulator takes some ten seconds for each.
#[test]
fn ten_steps_agree_with_pytorch() {
    for case in ["gpt2", "gemma2", "qwen3"] {
        let golden = golden(case);
        let rows = train(case, &golden);
        let steps = golden["trajectories"]["adamw"]["steps"].as_array().unwrap();
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
    let once = || {
        let mut rows = train("llama_tied", &golden);
        rows.iter_mut().for_each(|row| {
            row.remove("tokens_per_second");
        });
        rows
    };
    assert_eq!(once(), once());
}
