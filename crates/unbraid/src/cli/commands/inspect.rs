//! `unbraid inspect`: one pair, coloured by mask.

use clap::{ArgAction, Args};
use serde::Serialize;

use super::super::values::whole_to;
use super::shared::{DataArgs, MAX_EXAMPLES, ModelArgs};

/// A resolved look at one pair. Only the model's tokenizer and template are read.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct InspectConfig {
    /// The model whose tokenizer is used.
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelArgs,

    /// The pairs.
    #[command(flatten)]
    #[serde(flatten)]
    pub data: DataArgs,

    /// Row to show, from 0.
    #[arg(long, value_name = "N", default_value = "0", value_parser = whole_to::<MAX_EXAMPLES>, help_heading = "Data")]
    pub index: usize,

    /// Print ids, tokens and masks as JSON on stdout.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub json: bool,
}
