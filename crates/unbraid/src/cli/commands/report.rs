//! `unbraid report RUN…`: one page about one or several runs.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use serde::Serialize;

/// A resolved report.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct ReportConfig {
    /// Run directories: each holds a metrics.jsonl.
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,

    /// Directory for report.html; default: the run's own for one run, the current one for several.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_dir: Option<PathBuf>,

    /// Print the summary of each run as JSON on stdout.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub json: bool,
}
