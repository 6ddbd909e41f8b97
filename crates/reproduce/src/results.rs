//! `results.json`: everything an experiment's page shows. Written after every arm, read by `unbraid-report`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What an experiment found so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// `sentiment` or `objectives`.
    pub kind: String,
    /// The command that made it.
    pub command: String,
    /// Version of Unbraid.
    pub version: String,
    /// Processor, threads, arithmetic.
    pub machine: String,
    /// The model's name.
    pub model: String,
    /// Its number of parameters.
    pub parameters: usize,
    /// Where the authors' recipe was left, and why; one sentence each.
    pub deviations: Vec<String>,
    /// Further facts for the reader: sizes of the data, what was left out.
    pub facts: Vec<String>,
    /// The arms in the order they ran; those that are still to come are absent.
    pub arms: Vec<ArmResult>,
    /// The paper's claims and ours.
    pub claims: Vec<Claim>,
    /// Token heat maps.
    pub heat_maps: Vec<HeatMapFile>,
}

/// One arm: a style or objective, with or without a remedy, over all its seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmResult {
    /// Unique name: `long-suffix`, `long-suffix+guarded`, `sigmoid`, `sigmoid+normalized`.
    pub name: String,
    /// Style of the data, of the sentiment experiment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub style: Option<String>,
    /// Name of the objective.
    pub objective: String,
    /// `none`, `normalized`, `guarded`, `calibrated`, `diff` or `head`.
    pub remedy: String,
    /// One entry a seed.
    pub runs: Vec<RunResult>,
}

/// One training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Its seed.
    pub seed: u64,
    /// Its directory, relative to the experiment's.
    pub dir: String,
    /// Wall-clock seconds of training with its evaluations; of a run that was stopped, those of its last part.
    pub seconds: f64,
    /// Held-out pairs at every evaluation, the first before training (step 0).
    pub evaluations: Vec<Evaluation>,
    /// Measured training steps: plain gradient descent's first-order prediction for the step's own pairs, and what the
    /// optimizer's step did to them.
    pub predictions: Vec<Prediction>,
    /// The last model beside the first.
    pub outcome: Outcome,
}

/// Means over the held-out pairs at one step. Geometry is of the first `measured` pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Optimizer step.
    pub step: u64,
    /// Keys of `metrics.jsonl` without `eval_`: `logps/chosen`, `logps/rejected`, `rewards/margins`,
    /// `rewards/accuracies`, `geometry/cosine`, `geometry/ideal`, `geometry/both_fall`, `geometry/both_rise`, ….
    pub metrics: BTreeMap<String, f64>,
}

/// One measured training step, means over its pairs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Optimizer step.
    pub step: u64,
    /// First-order change of the chosen log-prob that plain gradient descent predicts, nats.
    pub predicted_chosen: f64,
    /// The same of the rejected one.
    pub predicted_rejected: f64,
    /// What the step did to the chosen log-prob, nats.
    pub realised_chosen: f64,
    /// What it did to the rejected one.
    pub realised_rejected: f64,
}

/// What training changed on held-out material.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Change of each held-out pair's log π(y_w|x), nats.
    pub chosen_change: Vec<f64>,
    /// Change of each held-out pair's log π(y_l|x), nats.
    pub rejected_change: Vec<f64>,
    /// The same per token: change of log π(y_w|x)/L_w.
    pub mean_chosen_change: Vec<f64>,
    /// Change of log π(y_l|x)/L_l.
    pub mean_rejected_change: Vec<f64>,
    /// Share of held-out pairs with log π(y_w|x) > log π(y_l|x), before and after.
    pub label_accuracy: (f64, f64),
    /// Probability that the model gives to the two tokens at which a pair first differs, together: mean over the pairs
    /// before and after. Near 1, only these two compete there (the premise of the paper's Theorem 1 with M = 2).
    pub contested_mass: (f64, f64),
    /// Share of held-out pairs whose log-ratio of chosen exceeds that of rejected after training.
    pub reward_accuracy: f64,
    /// Gradient cosine of the measured held-out pairs over all parameters, before and after; empty under an adapter.
    pub cosine: (Vec<f64>, Vec<f64>),
    /// KL(π ‖ π_start) at a token of the held-out prompts, mean in nats.
    pub kl: f64,
    /// Mean log-prob of a token of held-out text before and after, nats.
    pub text_logp: (f64, f64),
    /// Tokens behind `kl`.
    pub prompt_tokens: usize,
    /// Tokens behind `text_logp`.
    pub text_tokens: usize,
}

/// What was found of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The interval lies on the claimed side.
    Holds,
    /// The interval lies on the other side.
    DoesNot,
    /// The interval has both sides, or there is none.
    Unclear,
}

/// A statement that could have turned out false.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// The statement.
    pub claim: String,
    /// Where it is made: `paper §4.2, Figure 3`, `ours`.
    pub source: String,
    /// What is measured, with its unit.
    pub quantity: String,
    /// What the claim says of it: `> 0`, `< 0`, `≤ 0`.
    pub expected: String,
    /// Its estimate.
    pub measured: f64,
    /// 95 % interval, if there is one.
    pub interval: Option<(f64, f64)>,
    /// Over what the interval is: `3 seeds`, `48 pairs`.
    pub over: String,
    /// What follows.
    pub verdict: Verdict,
}

/// A token heat map on the disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeatMapFile {
    /// `start` or `end`.
    pub when: String,
    /// Arm that it belongs to.
    pub arm: String,
    /// File relative to the experiment's directory, as `unbraid diagnose` writes it.
    pub file: String,
}
