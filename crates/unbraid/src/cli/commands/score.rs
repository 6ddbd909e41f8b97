//! `unbraid score`: log-probabilities of preference pairs.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use serde::Serialize;

use super::super::values::{count, non_empty, positive};
use super::shared::{DataArgs, ModelArgs};

/// A resolved scoring run. The split read is `data.dataset_train_split`.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct ScoreConfig {
    /// The policy, device and seed.
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelArgs,

    /// Reference model for rewards; default: none, reference log-probs are null.
    #[arg(long, value_name = "MODEL", value_parser = non_empty, help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ref_model: Option<String>,

    /// The pairs.
    #[command(flatten)]
    #[serde(flatten)]
    pub data: DataArgs,

    /// Directory for scores.jsonl.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub output_dir: PathBuf,

    /// Overwrite scores.jsonl where it exists.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub overwrite_output_dir: bool,

    /// Also write the log-prob of each completion token.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub token_logps: bool,

    /// Print the summary as JSON on stdout.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub json: bool,

    /// Scale β of the rewards, per nat.
    #[arg(long, value_name = "X", default_value = "0.1", value_parser = positive, help_heading = "Scoring")]
    pub beta: f64,

    /// Accepted for TRL's sake: pairs are batched by their tokens.
    #[arg(long, value_name = "N", default_value = "8", value_parser = count, help_heading = "Scoring")]
    pub per_device_eval_batch_size: usize,
}
