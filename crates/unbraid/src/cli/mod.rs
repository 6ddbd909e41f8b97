//! Command line and recipes: from words to one checked configuration. Nothing is run here.
//!
//! | step | module | does |
//! |---|---|---|
//! | words | `argv` | takes the command line apart; knows names only |
//! | recipe | `recipe` | reads YAML into settings with their lines |
//! | table | `compat` | keys of TRL and transformers that are ignored or not built |
//! | options | `commands` | one struct a command: names, defaults, help |
//! | resolve | `resolve`, `check`, `notes` | command line over recipe over default; checks; settings without effect |
//!
//! A field of a command's struct is the only place where an option is defined. Tested in `tests/cli_*.rs`.

mod argv;
mod check;
mod commands;
mod compat;
mod error;
mod mixture;
mod notes;
mod recipe;
mod resolve;
mod values;

use std::ffi::OsString;

pub use commands::{
    Command, DataArgs, DataCommand, DemoConfig, DiagnoseConfig, ExperimentOptions, GenerateConfig,
    InspectConfig, LoraArgs, MergeConfig, ModelArgs, ObjectiveArgs, ObjectivesConfig, PlanConfig,
    ReportConfig, ReportFormat, ReproduceCommand, ReproduceObjectivesConfig,
    ReproduceSentimentConfig, RowFormat, SamplingArgs, ScoreConfig, SentimentDataConfig, SftConfig,
    TheoryConfig, TrainConfig, TrainerOptions,
};
pub use error::{CliError, Place};
pub use recipe::to_recipe;
pub use values::{
    Attribute, Device, Dtype, FDivergence, Geometry, KeyValues, LrSchedulerType, MaxLength,
    NpoScale, Optim, Parameters, Remedy, Resume, SamplingStrategy, Semantics, Steps, Strategy,
    TokenLists, TokenMask,
};

/// A command line, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The command with its checked options.
    pub command: Command,
    /// What the user should know before it runs, one line each: keys without effect, unused options.
    pub notes: Vec<String>,
}

/// Parses and resolves a command line; the first argument is the program's name. Reads the recipe that it names.
///
/// # Errors
/// [`CliError::Show`] when help or the version was asked for; else what is wrong, where, and what was expected.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, CliError> {
    let definition = resolve::definition();
    let words = argv::split(args, &definition)?;
    resolve::resolve(words, &definition)
}
