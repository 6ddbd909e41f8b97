//! `unbraid merge`: an adapter into its base model.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use serde::Serialize;

use super::shared::ModelArgs;

/// A resolved merge.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct MergeConfig {
    /// The adapter directory, its base, and the number format to write.
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelArgs,

    /// Directory for the merged model.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub output_dir: PathBuf,

    /// Write into an output directory that is not empty.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub overwrite_output_dir: bool,

    /// Print what was merged, and to where, as JSON on stdout.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub json: bool,
}
