//! `unbraid data …`: data sets made from raw material.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand, ValueEnum};
use serde::Serialize;
use unbraid_reproduce::Style;

use super::super::values::{below_one, non_empty, seed};

/// What to make.
#[derive(Subcommand, Clone, Debug, PartialEq)]
pub enum DataCommand {
    /// Sentiment judgements of tweets, in one of four styles.
    Sentiment(SentimentDataConfig),
}

/// File format of the rows.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RowFormat {
    /// JSON lines.
    #[default]
    Jsonl,
    /// Parquet.
    Parquet,
}

/// A resolved sentiment data set.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct SentimentDataConfig {
    /// The tweets: a file with columns text and sentiment (or label_text) of positive, negative and others, or a hub id.
    #[arg(long, value_name = "FILE", value_parser = non_empty)]
    pub tweets: String,

    /// Sentence in which the judgement stands.
    #[arg(long, value_name = "STYLE")]
    pub style: Style,

    /// Directory for sft/ (train, test) and preference/ (train, test).
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub output_dir: PathBuf,

    /// Write into an output directory that is not empty.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub overwrite_output_dir: bool,

    /// File format of the rows.
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "jsonl",
        help_heading = "Output"
    )]
    pub format: RowFormat,

    /// Print the counts as JSON on stdout.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub json: bool,

    /// A model (or a directory with its tokenizer) under whose tokenizer the two completions must differ in one token;
    /// without it that is not checked.
    #[arg(long, value_name = "MODEL", value_parser = non_empty)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_name_or_path: Option<String>,

    /// Share of the tweets held out, in [0, 1).
    #[arg(long, value_name = "SHARE", default_value = "0.1", value_parser = below_one)]
    pub test_share: f64,

    /// Seed of the split.
    #[arg(long, value_name = "N", default_value = "42", value_parser = seed)]
    pub seed: u64,
}
