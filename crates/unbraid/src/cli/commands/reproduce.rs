//! `unbraid reproduce …`: the paper's experiments, from data to a table of claims.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};
use serde::Serialize;
use unbraid_reproduce::{Extent, Style};

use super::super::values::{MaxLength, count_to, non_empty, positive, seed};
use super::shared::{MAX_EXAMPLES, MAX_THREADS};

/// Which experiment.
#[derive(Subcommand, Clone, Debug, PartialEq)]
pub enum ReproduceCommand {
    /// Sentiment judgements in four styles (paper §4.2, Figures 3 and 4).
    Sentiment(ReproduceSentimentConfig),
    /// Every objective of Table 2 and every remedy on real preference pairs (paper §3.3, Figures 1 and 2).
    Objectives(ReproduceObjectivesConfig),
}

/// What both experiments share.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct ExperimentOptions {
    /// Directory for data, runs, results.json and report.html. An experiment that was stopped goes on there.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "unbraid-experiment",
        help_heading = "Output"
    )]
    pub output_dir: PathBuf,

    /// Keep the trained weights of every arm; otherwise they are deleted once measured.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub keep_models: bool,

    /// Print results.json on stdout.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub json: bool,

    /// A small version that ends within minutes; options that are given still count.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Extent")]
    pub quick: bool,

    /// Seeds; each arm runs once with each.
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        value_parser = seed,
        help_heading = "Extent"
    )]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<u64>,

    /// Optimizer steps of preference training.
    #[arg(long, value_name = "N", value_parser = count_to::<MAX_EXAMPLES>, help_heading = "Extent")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,

    /// Held-out pairs that are scored.
    #[arg(long, value_name = "N", value_parser = count_to::<MAX_EXAMPLES>, help_heading = "Extent")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out: Option<usize>,

    /// Held-out pairs, the first ones, whose geometry is measured at every evaluation.
    #[arg(long, value_name = "N", value_parser = count_to::<MAX_EXAMPLES>, help_heading = "Extent")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<usize>,

    /// Peak learning rate of preference training.
    #[arg(long, value_name = "RATE", value_parser = positive, help_heading = "Recipe")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,

    /// Pairs in a training batch.
    #[arg(long, value_name = "N", value_parser = count_to::<MAX_EXAMPLES>, help_heading = "Recipe")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_device_train_batch_size: Option<usize>,

    /// Threads of the CPU backend; default: all cores.
    #[arg(long, value_name = "N", value_parser = count_to::<MAX_THREADS>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}

impl ExperimentOptions {
    /// Puts what was asked for in the place of an extent's own choice.
    pub(crate) fn choose(&self, extent: &mut Extent) {
        if !self.seeds.is_empty() {
            extent.seeds.clone_from(&self.seeds);
        }
        let sizes = [
            (self.max_steps, &mut extent.steps),
            (self.held_out, &mut extent.held_out),
            (self.measured, &mut extent.measured),
            (self.per_device_train_batch_size, &mut extent.batch),
        ];
        for (given, size) in sizes {
            *size = given.unwrap_or(*size);
        }
        extent.rate = self.learning_rate.unwrap_or(extent.rate);
        extent.eval_steps = extent.eval_steps.min(extent.steps);
    }
}

/// A resolved sentiment experiment.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct ReproduceSentimentConfig {
    /// The tweets: a file with columns text and sentiment (or label_text), or a hub id.
    #[arg(long, value_name = "FILE", default_value = "mteb/tweet_sentiment_extraction", value_parser = non_empty)]
    pub tweets: String,

    /// Model to fine-tune; default: a small GPT-2 that is pretrained on the tweets first.
    #[arg(long, value_name = "MODEL", value_parser = non_empty)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_name_or_path: Option<String>,

    /// Styles to run; default: all four.
    #[arg(
        long,
        value_name = "STYLE",
        value_delimiter = ',',
        help_heading = "Extent"
    )]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub styles: Vec<Style>,

    /// Remedies to judge beside plain DPO (normalized, guarded, calibrated, diff, head), or none; default: all.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Extent"
    )]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remedies: Vec<String>,

    /// Optimizer steps of the supervised fine-tuning before.
    #[arg(long, value_name = "N", value_parser = count_to::<MAX_EXAMPLES>, help_heading = "Extent")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sft_steps: Option<usize>,

    /// Peak learning rate of the supervised fine-tuning.
    #[arg(long, value_name = "RATE", value_parser = positive, help_heading = "Recipe")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sft_learning_rate: Option<f64>,

    /// Supervised fine-tuning learns the judgement alone, not the tweet before it: the model then knows for certain that a
    /// judgement comes, which the paper's theorem presupposes.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Recipe")]
    pub sft_completion_only: bool,

    /// What both experiments share.
    #[command(flatten)]
    #[serde(flatten)]
    pub options: ExperimentOptions,
}

/// A resolved comparison of objectives.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct ReproduceObjectivesConfig {
    /// The model; default: HuggingFaceTB/SmolLM2-135M-Instruct, with --quick and without a data set the demo's.
    #[arg(long, value_name = "MODEL", value_parser = non_empty)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_name_or_path: Option<String>,

    /// The pairs, of which the last are held out; default: helpful-base of Anthropic/hh-rlhf, with --quick and without a
    /// model the demo's.
    #[arg(long, value_name = "DATA", value_parser = non_empty)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset_name: Option<String>,

    /// Arms to run: objectives of Table 2 and normalized, guarded, calibrated, diff, head; default: all.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Extent"
    )]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arms: Vec<String>,

    /// Longest prompt with completion, in tokens.
    #[arg(
        long,
        value_name = "TOKENS",
        default_value = "512",
        help_heading = "Recipe"
    )]
    pub max_length: MaxLength,

    /// What both experiments share.
    #[command(flatten)]
    #[serde(flatten)]
    pub options: ExperimentOptions,
}
