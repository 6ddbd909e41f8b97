//! `unbraid generate`: completions of prompts.

use clap::{ArgAction, Args};
use serde::Serialize;

use super::super::values::{MaxLength, count, non_empty, positive, positive_share};
use super::shared::ModelArgs;

/// A resolved generation run: exactly one of `prompt` and `dataset_name` is given.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct GenerateConfig {
    /// The model, device and seed of sampling.
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelArgs,

    /// Prompt to complete, as it stands; may be given several times.
    #[arg(long, value_name = "TEXT", help_heading = "Data")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prompt: Vec<String>,

    /// Data set whose prompts are completed.
    #[arg(long, value_name = "DATA", value_parser = non_empty, help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset_name: Option<String>,

    /// Split to read, where the data set has splits.
    #[arg(long, value_name = "SPLIT", default_value = "train", value_parser = non_empty, help_heading = "Data")]
    pub dataset_train_split: String,

    /// Use only the first N rows.
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_samples: Option<usize>,

    /// Longest prompt, in tokens; none: no limit.
    #[arg(
        long,
        value_name = "TOKENS",
        default_value = "1024",
        help_heading = "Data"
    )]
    pub max_length: MaxLength,

    /// Tokens to generate at most.
    #[arg(long, value_name = "N", default_value = "64", value_parser = count, help_heading = "Sampling")]
    pub max_new_tokens: usize,

    /// Sample instead of taking the most likely token.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Sampling")]
    pub do_sample: bool,

    /// Temperature of sampling: logits are divided by it.
    #[arg(long, value_name = "X", default_value = "1", value_parser = positive, help_heading = "Sampling")]
    pub temperature: f64,

    /// Sample from the most likely tokens that hold this share of the probability, in (0, 1].
    #[arg(long, value_name = "X", default_value = "1", value_parser = positive_share, help_heading = "Sampling")]
    pub top_p: f64,

    /// Print one JSON object a completion on stdout.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub json: bool,
}
