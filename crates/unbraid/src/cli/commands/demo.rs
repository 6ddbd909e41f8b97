//! `unbraid demo`: the main job with nothing to download.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use serde::Serialize;

use super::super::values::{count_to, seed};
use super::shared::MAX_THREADS;

/// A resolved demo run.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct DemoConfig {
    /// Directory for the data, model, metrics and report.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "unbraid-demo",
        help_heading = "Output"
    )]
    pub output_dir: PathBuf,

    /// Write into an output directory that is not empty.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub overwrite_output_dir: bool,

    /// Threads of the CPU backend; default: all cores.
    #[arg(long, value_name = "N", value_parser = count_to::<MAX_THREADS>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,

    /// Seed of every random draw.
    #[arg(long, value_name = "N", default_value = "42", value_parser = seed)]
    pub seed: u64,
}
