//! `unbraid sft [RECIPE.yaml]`: options of a supervised fine-tuning run.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use serde::Serialize;

use super::super::values::non_empty;
use super::shared::{DataArgs, LoraArgs, ModelArgs, TrainerOptions};

/// A resolved supervised fine-tuning run. `learning_rate` defaults to 2e-5 here, as in TRL.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct SftConfig {
    /// The model, device and seed.
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelArgs,

    /// Start from random weights of this config.json; the tokenizer still comes from model_name_or_path.
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_config: Option<PathBuf>,

    /// The texts.
    #[command(flatten)]
    #[serde(flatten)]
    pub data: DataArgs,

    /// Column of the rows that holds plain text.
    #[arg(long, value_name = "COLUMN", default_value = "text", value_parser = non_empty, help_heading = "Data")]
    pub dataset_text_field: String,

    /// Train on completions only; default: yes for rows of prompt and completion, no for plain text.
    #[arg(long, action = ArgAction::Set, value_name = "BOOL", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_only_loss: Option<bool>,

    /// Fill each sequence up to max_length with several texts.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Data")]
    pub packing: bool,

    /// What `train` and `sft` share.
    #[command(flatten)]
    #[serde(flatten)]
    pub trainer: TrainerOptions,

    /// Low-rank adapters.
    #[command(flatten)]
    #[serde(flatten)]
    pub lora: LoraArgs,
}
