//! `unbraid theory`: the paper's theorems, predicted against computed.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use serde::Serialize;

use super::super::values::{count_to, seed};
use super::shared::MAX_THREADS;

/// Most instances of a statement: a day of work.
const MAX_INSTANCES: usize = 1_000_000;

/// A resolved check of the theory.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct TheoryConfig {
    /// Directory for theory.json and report.html.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "unbraid-theory",
        help_heading = "Output"
    )]
    pub output_dir: PathBuf,

    /// Write into an output directory that is not empty.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub overwrite_output_dir: bool,

    /// Print the result as JSON on stdout.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub json: bool,

    /// Random instances of each statement; adversarial ones come on top.
    #[arg(long, value_name = "N", default_value = "100", value_parser = count_to::<MAX_INSTANCES>)]
    pub instances: usize,

    /// Threads of the CPU backend; default: all cores.
    #[arg(long, value_name = "N", value_parser = count_to::<MAX_THREADS>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,

    /// Seed of every random draw.
    #[arg(long, value_name = "N", default_value = "42", value_parser = seed)]
    pub seed: u64,
}
