//! Models and trajectories of `parity/models`, and a run of the real loop over them; also used by the CUDA backend's tests.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use unbraid_model::LanguageModel;
use unbraid_model::weights::StoredDtype;
use unbraid_objective::{Objective, ObjectiveOptions};
use unbraid_preference::{TokenizedPair, TokenizedSequence};
use unbraid_tensor::Backend;
use unbraid_train::{
    Averages, Files, Observer, OptimizerKind, Outcome, PreferenceSettings, PreferenceTask,
    ReferencedPairs, Sampler, SamplingOrder, Schedule, ScheduleKind, Settings, TrainingPlan, run,
    score_pairs,
};

/// Positions learned and rotary, layer norm and root mean square, soft caps and windows, parallel blocks.
pub const CASES: [&str; 9] = [
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

pub fn models() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/models")
}

pub fn golden(case: &str) -> Value {
    serde_json::from_slice(&std::fs::read(models().join(case).join("golden.json")).unwrap())
        .unwrap()
}

pub fn pairs(golden: &Value) -> Vec<TokenizedPair> {
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
pub struct Rows(pub Vec<Value>);

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

pub fn dpo() -> Objective {
    let options = ObjectiveOptions {
        beta: Some(0.1),
        ..ObjectiveOptions::default()
    };
    Objective::from_name("sigmoid", &options).unwrap()
}

/// The trajectory's rows, and the log-probs of all pairs after it.
pub fn train<B: Backend>(
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
        attribution: None,
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

pub fn close(what: &str, got: f64, want: f64, tolerance: f64) {
    let error = (got - want).abs() / want.abs().max(1.0);
    assert!(
        error <= tolerance,
        "{what}: {got} against {want}, relative error {error:e}"
    );
}

/// Rows without what depends on the clock.
pub fn strip(rows: Vec<Value>) -> Vec<Value> {
    rows.into_iter()
        .map(|mut r| {
            r.as_object_mut().unwrap().remove("tokens_per_second");
            r
        })
        .collect()
}
