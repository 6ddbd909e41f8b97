//! `unbraid diagnose [RECIPE.yaml]`: what a model's gradients say of preference pairs, without training.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use serde::Serialize;
use unbraid_diagnose::SweepSpec;

use super::super::values::{
    Optim, Parameters, count_to, non_empty, non_negative, positive, positive_share, whole_to,
};
use super::shared::{DataArgs, LoraArgs, MAX_EXAMPLES, MAX_TOKENS, ModelArgs};
use super::train::ObjectiveArgs;

/// Most heat maps: each is a file and a picture.
const MAX_HEAT_MAPS: usize = 10_000;
/// Most tokens of a completion in a heat map: each needs a gradient.
const MAX_HEAT_TOKENS: usize = 4096;
/// Most pairs of a Gram matrix: it has four entries for each two of them.
const MAX_GRAM_PAIRS: usize = 4096;

/// `model_name_or_path` where a series of checkpoints stands in its place.
pub(in super::super) const NO_MODEL: &str = "-";

/// A resolved diagnosis. The split read is `data.dataset_train_split`.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct DiagnoseConfig {
    /// The policy, device and seed.
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelArgs,

    /// Reference model; default: the policy as loaded, of an adapter directory its base.
    #[arg(long, value_name = "MODEL", value_parser = non_empty, help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ref_model: Option<String>,

    /// Measure each checkpoint-* of this directory (ours, or of any Hugging Face or PEFT run) instead of one model.
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<PathBuf>,

    /// The pairs.
    #[command(flatten)]
    #[serde(flatten)]
    pub data: DataArgs,

    /// Directory for the rows, the summary and the report.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub output_dir: PathBuf,

    /// Start afresh where a diagnosis is there already; without it an interrupted one goes on.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub overwrite_output_dir: bool,

    /// Print the summary as JSON on stdout.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub json: bool,

    /// Write the rows worth keeping to FILE (.jsonl or .jsonl.gz), as they stand in the data set.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export_filtered: Option<PathBuf>,

    /// Quantile of filter_by, in (0, 1], up to which rows are worth keeping.
    #[arg(long, value_name = "QUANTILE", value_parser = positive_share, help_heading = "Output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_below: Option<f64>,

    /// Number of a row to filter by; default: grad_cosine, with proxies_only ches_normalized.
    #[arg(long, value_name = "FIELD", value_parser = non_empty, help_heading = "Output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_by: Option<String>,

    /// Objectives of the what-if table by name, besides the configured one and its remedies; all: every one.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "all", value_parser = non_empty, help_heading = "Diagnosis")]
    pub objectives: Vec<String>,

    /// Parameters whose gradients count; default: lora for an adapter or with use_peft, else all.
    #[arg(long, value_name = "SET", help_heading = "Diagnosis")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Parameters>,

    /// Measure no gradients: log-probs and cheap proxies only, for data too large for more.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Diagnosis")]
    pub proxies_only: bool,

    /// Token heat maps of the N most harmed pairs; 0: none.
    #[arg(long, value_name = "N", default_value = "4", value_parser = whole_to::<MAX_HEAT_MAPS>, help_heading = "Diagnosis")]
    pub heatmap: usize,

    /// Tokens of each completion that a heat map shows; default: 32, fewer behind a long prompt.
    #[arg(long, value_name = "N", value_parser = count_to::<MAX_HEAT_TOKENS>, help_heading = "Diagnosis")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heatmap_tokens: Option<usize>,

    /// Parameter groups that get a heat map of their own, as groups in geometry.jsonl names them; layers.3 stands for
    /// all of that layer's.
    #[arg(
        long,
        value_name = "GROUP",
        value_delimiter = ',',
        help_heading = "Diagnosis"
    )]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub heatmap_group: Vec<String>,

    /// Write the Gram matrix of the first gram_pairs pairs as one batch, to see which pair moves which.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Diagnosis")]
    pub gram: bool,

    /// Pairs of the Gram matrix.
    #[arg(long, value_name = "N", default_value = "16", value_parser = count_to::<MAX_GRAM_PAIRS>, help_heading = "Diagnosis")]
    pub gram_pairs: usize,

    /// Cases under other values of beta, gamma, lambda or delta: NAME=V1,V2,… or NAME=FROM:TO:COUNT at equal ratios;
    /// default: those that the objective has, around its own values.
    #[arg(long, value_name = "SWEEP", action = ArgAction::Append, help_heading = "Diagnosis")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sweep: Vec<SweepSpec>,

    /// Objective that is swept; default: the configured one.
    #[arg(long, value_name = "NAME", value_parser = non_empty, help_heading = "Diagnosis")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sweep_objective: Option<String>,

    /// Pairs, spread over the data, on which a real optimizer step is taken and undone; 0: none.
    #[arg(long, value_name = "N", default_value = "16", value_parser = whole_to::<MAX_EXAMPLES>, help_heading = "Diagnosis")]
    pub step_pairs: usize,

    /// Tokens of the pairs that are measured together: more is faster and takes more memory.
    #[arg(long, value_name = "TOKENS", default_value = "2048", value_parser = count_to::<MAX_TOKENS>, help_heading = "Diagnosis")]
    pub batch_tokens: usize,

    /// What would be minimised.
    #[command(flatten)]
    #[serde(flatten)]
    pub objective: ObjectiveArgs,

    /// Optimizer of the steps.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "adamw_torch",
        help_heading = "Optimizer"
    )]
    pub optim: Optim,

    /// Learning rate of the steps.
    #[arg(long, value_name = "RATE", default_value = "1e-6", value_parser = non_negative, help_heading = "Optimizer")]
    pub learning_rate: f64,

    /// Decoupled weight decay of the steps.
    #[arg(long, value_name = "X", default_value = "0", value_parser = non_negative, help_heading = "Optimizer")]
    pub weight_decay: f64,

    /// Number added to Adam's denominator.
    #[arg(long, value_name = "X", default_value = "1e-8", value_parser = positive, help_heading = "Optimizer")]
    pub adam_epsilon: f64,

    /// Largest gradient norm of the steps; 0: no clipping.
    #[arg(long, value_name = "X", default_value = "1", value_parser = non_negative, help_heading = "Optimizer")]
    pub max_grad_norm: f64,

    /// Low-rank adapters.
    #[command(flatten)]
    #[serde(flatten)]
    pub lora: LoraArgs,
}

impl DiagnoseConfig {
    /// Whether a model is named beside the series that stands in its place.
    pub(in super::super) fn names_a_model_in_vain(&self) -> bool {
        self.checkpoints.is_some() && self.model.model_name_or_path != NO_MODEL
    }
}
