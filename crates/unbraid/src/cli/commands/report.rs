//! `unbraid report DIR…`: one page about one or several runs or diagnoses, or its figures for a paper.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};
use serde::Serialize;

/// How a report is written.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportFormat {
    /// One page that opens without a network.
    #[default]
    Html,
    /// Each figure's panels as files of their own, for a paper.
    Svg,
}

/// A resolved report.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct ReportConfig {
    /// Output directories of `unbraid train`, or of `unbraid diagnose`; several are compared.
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,

    /// A page to read, or each figure as a drawing for a paper.
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "html",
        help_heading = "Output"
    )]
    pub format: ReportFormat,

    /// Directory for report.html; default: the run's own for one run, the current one for several. With `--format svg`,
    /// directory for the drawings; default: `figures` in there.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_dir: Option<PathBuf>,

    /// Print the summary of each run as JSON on stdout.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub json: bool,
}
