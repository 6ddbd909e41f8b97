//! Where a run stands: `trainer_state.json` of a checkpoint, and what two runs must have in common to be one.
//!
//! The keys that transformers' `TrainerState` has are called as there; what else a run needs to end with the same
//! bits as one that was never stopped is under `unbraid`: the means not logged yet, exactly, and whether an
//! evaluation was cut off. There is no random state: every draw is a function of the seed and the step.

use crate::metrics::Averages;
use crate::trainer::{Settings, TrainingPlan};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Version of the layout under `unbraid`.
const FORMAT: u64 = 1;

/// Settings and data on which a run's result depends, by name. A run goes on from a checkpoint only with equal ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunIdentity(Map<String, Value>);

impl RunIdentity {
    /// What plan and settings say, and `further` facts of the caller (objective, fingerprints of data and model).
    ///
    /// When to log, evaluate and save changes no weight and is left out; so is the number of steps where the
    /// learning rate does not depend on it.
    pub fn new(plan: &TrainingPlan, settings: &Settings, further: Map<String, Value>) -> Self {
        let (sampler, schedule) = (&plan.sampler, &settings.schedule);
        let mut lengths = Sha256::new();
        for &length in &sampler.lengths {
            lengths.update((length as u64).to_le_bytes());
        }
        let mut facts = json!({
            "per_device_train_batch_size": sampler.batch,
            "gradient_accumulation_steps": sampler.accumulation,
            "train_sampling_strategy": sampler.order,
            "seed": sampler.seed,
            "examples": sampler.lengths.len(),
            "example_lengths": hex(&lengths.finalize()),
            "optimizer": settings.optimizer,
            "weight_decay": settings.weight_decay,
            "max_grad_norm": settings.max_grad_norm,
            "learning_rate": schedule.peak,
            "lr_scheduler_type": schedule.kind,
            "warmup_steps": schedule.warmup,
            "geometry": settings.geometry_every,
        });
        if !schedule.kind.ignores_total() {
            facts["total_steps"] = Value::from(plan.total);
        }
        let Value::Object(mut facts) = facts else {
            unreachable!("an object was built")
        };
        facts.extend(further);
        // As it will be read back: numbers that JSON cannot hold have become null.
        RunIdentity(facts)
    }

    /// What differs, one clause each; `earlier` is the checkpoint's.
    pub(crate) fn differences(&self, earlier: &RunIdentity) -> Vec<String> {
        let names = self
            .0
            .keys()
            .chain(earlier.0.keys().filter(|k| !self.0.contains_key(*k)));
        let shown = |map: &Map<String, Value>, key: &str| match map.get(key) {
            None | Some(Value::Null) => "not set".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        names
            .map(|key| (key, shown(&self.0, key), shown(&earlier.0, key)))
            .filter(|(_, now, then)| now != then)
            .map(|(key, now, then)| format!("{key} is {now}, was {then}"))
            .collect()
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The best checkpoint so far.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Best {
    pub metric: f64,
    pub step: u64,
}

/// A run between two steps.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TrainerState {
    /// Optimizer steps taken.
    pub step: u64,
    pub best: Option<Best>,
    /// Rows of `metrics.jsonl`.
    pub history: Vec<Map<String, Value>>,
    /// Steps at which the run has checkpoints, this one included, oldest first.
    pub saved: Vec<u64>,
    /// The steps since the last logged row.
    pub window: Averages,
    pub window_tokens: usize,
    pub window_seconds: f64,
    /// Whether the evaluation after this step is still to be done.
    pub evaluation_due: bool,
    pub identity: RunIdentity,
}

/// A checkpoint's name in its output directory.
pub(crate) fn checkpoint_name(step: u64) -> String {
    format!("checkpoint-{step}")
}

impl TrainerState {
    pub(crate) fn to_json(&self, plan: &TrainingPlan) -> Value {
        let per_epoch = plan.sampler.steps_per_epoch();
        json!({
            "global_step": self.step,
            "epoch": plan.sampler.epochs_after(self.step),
            "max_steps": plan.total,
            "best_metric": self.best.as_ref().map(|b| b.metric),
            "best_global_step": self.best.as_ref().map(|b| b.step),
            "best_model_checkpoint": self.best.as_ref().map(|b| checkpoint_name(b.step)),
            "log_history": self.history,
            "unbraid": {
                "format": FORMAT,
                "version": env!("CARGO_PKG_VERSION"),
                "checkpoints": self.saved,
                "next_example": { "epoch": self.step / per_epoch, "step": self.step % per_epoch },
                "window": self.window.to_json(),
                "window_tokens": self.window_tokens,
                "window_seconds": self.window_seconds,
                "evaluation_due": self.evaluation_due,
                "settings": self.identity,
            },
        })
    }

    /// Reads what [`TrainerState::to_json`] wrote; the error says which key is wrong.
    pub(crate) fn from_json(json: &Value) -> Result<Self, String> {
        let own = &json["unbraid"];
        if own.is_null() {
            return Err("it has no \"unbraid\" part: another program wrote it".into());
        }
        if own["format"] != FORMAT {
            return Err(format!(
                "its format is {}, this program reads {FORMAT}",
                own["format"]
            ));
        }
        let wrong = |key: &str| format!("\"{key}\" is missing or malformed");
        let whole = |object: &Value, key: &str| object[key].as_u64().ok_or_else(|| wrong(key));
        let best = match (
            json["best_metric"].as_f64(),
            json["best_global_step"].as_u64(),
        ) {
            (Some(metric), Some(step)) => Some(Best { metric, step }),
            _ => None,
        };
        let parsed = |object: &Value, key: &str| object.get(key).cloned().ok_or_else(|| wrong(key));
        Ok(TrainerState {
            step: whole(json, "global_step")?,
            best,
            history: serde_json::from_value(parsed(json, "log_history")?)
                .map_err(|_| wrong("log_history"))?,
            saved: serde_json::from_value(parsed(own, "checkpoints")?)
                .map_err(|_| wrong("checkpoints"))?,
            window: Averages::from_json(&own["window"]).ok_or_else(|| wrong("window"))?,
            window_tokens: whole(own, "window_tokens")? as usize,
            window_seconds: own["window_seconds"]
                .as_f64()
                .ok_or_else(|| wrong("window_seconds"))?,
            evaluation_due: own["evaluation_due"]
                .as_bool()
                .ok_or_else(|| wrong("evaluation_due"))?,
            identity: serde_json::from_value(parsed(own, "settings")?)
                .map_err(|_| wrong("settings"))?,
        })
    }
}
