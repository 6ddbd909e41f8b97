//! Options of each command, one file a command: a struct is the command's checked configuration.
//!
//! To add a command: write its struct in a file here, add a variant to [`Command`], and, where several options must
//! agree, an arm in [`super::check`].

mod data;
mod demo;
mod diagnose;
mod generate;
mod inspect;
mod merge;
mod objectives;
mod plan;
mod report;
mod reproduce;
mod score;
mod sft;
mod shared;
mod theory;
mod train;

pub use data::{DataCommand, RowFormat, SentimentDataConfig};
pub use demo::DemoConfig;
pub use diagnose::DiagnoseConfig;
pub(super) use diagnose::NO_MODEL;
pub use generate::{GenerateConfig, SamplingArgs};
pub use inspect::InspectConfig;
pub use merge::MergeConfig;
pub use objectives::ObjectivesConfig;
pub use plan::PlanConfig;
pub(super) use plan::{NO_DATA, SHOWN_IN_PLAN};
pub use report::{ReportConfig, ReportFormat};
pub use reproduce::{
    ExperimentOptions, ReproduceCommand, ReproduceObjectivesConfig, ReproduceSentimentConfig,
};
pub use score::ScoreConfig;
pub use sft::SftConfig;
pub use shared::{DataArgs, LoraArgs, ModelArgs, TrainerOptions};
pub use theory::TheoryConfig;
pub use train::{ObjectiveArgs, TrainConfig};

use clap::{Parser, Subcommand};

/// The whole command line.
#[derive(Parser, Debug)]
#[command(
    name = "unbraid",
    version,
    about = "Align language models on preference pairs, and see what entangled gradients do to them.",
    propagate_version = false
)]
#[command(disable_help_subcommand = true)]
pub(super) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(super) command: Command,
}

/// A command with its checked options.
#[derive(Subcommand, Clone, Debug, PartialEq)]
pub enum Command {
    /// Align a model on preference pairs.
    Train(Box<TrainConfig>),
    /// Fine-tune a model on texts or completions.
    Sft(Box<SftConfig>),
    /// Score pairs: log-probs, rewards and margins.
    Score(ScoreConfig),
    /// Measure pairs' gradient entanglement and what each objective would do about it.
    Diagnose(Box<DiagnoseConfig>),
    /// Complete prompts.
    Generate(Box<GenerateConfig>),
    /// Merge a low-rank adapter into its base model.
    Merge(MergeConfig),
    /// Show one pair, coloured by mask.
    Inspect(InspectConfig),
    /// Describe the objectives: formula, derivatives, defaults, source.
    Objectives(ObjectivesConfig),
    /// Predict memory and time of a training run, without running it.
    Plan(Box<PlanConfig>),
    /// Write a page about a run or a diagnosis, or one comparing several.
    Report(ReportConfig),
    /// Make data sets from raw material.
    #[command(subcommand)]
    Data(DataCommand),
    /// Check the paper's theorems: predicted against computed.
    Theory(TheoryConfig),
    /// Repeat the paper's experiments and judge its claims.
    #[command(subcommand)]
    Reproduce(Box<ReproduceCommand>),
    /// Train and report on a tiny built-in model and data set, about a minute.
    Demo(DemoConfig),
}
