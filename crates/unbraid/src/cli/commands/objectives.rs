//! `unbraid objectives [NAME]`: formulas, derivatives, defaults, sources.

use clap::{ArgAction, Args};
use serde::Serialize;

/// A resolved question about objectives.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct ObjectivesConfig {
    /// Objective to describe in full; default: a list of all.
    #[arg(value_name = "NAME")]
    pub name: Option<String>,

    /// Print as JSON on stdout.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub json: bool,
}
