//! `unbraid generate`: completions of prompts.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use serde::Serialize;

use super::super::values::{
    MaxLength, TokenLists, count_to, non_empty, positive, positive_share, share, whole_to,
};
use super::shared::{MAX_EXAMPLES, MAX_TOKENS, ModelArgs};

/// A resolved generation run: exactly one of `prompt` and `dataset_name` is given.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct GenerateConfig {
    /// The model, device and seed of sampling.
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelArgs,

    /// Prompt to complete, as it stands; may be given several times.
    #[arg(long, value_name = "TEXT", help_heading = "Data")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prompt: Vec<String>,

    /// Data set whose prompts are completed.
    #[arg(long, value_name = "DATA", value_parser = non_empty, help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset_name: Option<String>,

    /// Split to read, where the data set has splits.
    #[arg(long, value_name = "SPLIT", default_value = "train", value_parser = non_empty, help_heading = "Data")]
    pub dataset_train_split: String,

    /// Use only the first N rows.
    #[arg(long, value_name = "N", value_parser = count_to::<MAX_EXAMPLES>, help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_samples: Option<usize>,

    /// Longest prompt, in tokens; none: no limit.
    #[arg(
        long,
        value_name = "TOKENS",
        default_value = "1024",
        help_heading = "Data"
    )]
    pub max_length: MaxLength,

    /// What the model's generation_config.json leaves open.
    #[command(flatten)]
    #[serde(flatten)]
    pub sampling: SamplingArgs,

    /// Print one JSON object a completion on stdout.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub json: bool,
}

/// How tokens are chosen, by transformers' names. What is not given is what generation_config.json says, else transformers'
/// default.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// A generation_config.json to read instead of the model's; none: read none.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation_config: Option<PathBuf>,

    /// Tokens to generate at most; default: generation_config.json's max_new_tokens or max_length, else 64.
    #[arg(long, value_name = "N", value_parser = count_to::<MAX_TOKENS>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,

    /// Tokens to generate at least: no end is taken before.
    #[arg(long, value_name = "N", value_parser = whole_to::<MAX_TOKENS>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_new_tokens: Option<usize>,

    /// Sample instead of taking the most likely token.
    #[arg(long, action = ArgAction::Set, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_sample: Option<bool>,

    /// Temperature of sampling: logits are divided by it; default: 1.
    #[arg(long, value_name = "X", value_parser = positive)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,

    /// Sample from the N most likely tokens; 0: from all; default: 50, as in transformers.
    #[arg(long, value_name = "N", value_parser = whole_to::<MAX_TOKENS>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,

    /// Sample from the most likely tokens that hold this share of the probability, in (0, 1].
    #[arg(long, value_name = "X", value_parser = positive_share)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,

    /// Sample from tokens of at least this share of the likeliest one's probability, in [0, 1].
    #[arg(long, value_name = "X", value_parser = share)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,

    /// Sample from the most typical tokens that hold this share of the probability, in (0, 1].
    #[arg(long, value_name = "X", value_parser = positive_share)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub typical_p: Option<f64>,

    /// Sample from the most likely tokens that hold this share of the entropy, in (0, 1].
    #[arg(long, value_name = "X", value_parser = positive_share)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_h: Option<f64>,

    /// Sample from tokens of at least this probability.
    #[arg(long, value_name = "X", value_parser = share)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon_cutoff: Option<f64>,

    /// As epsilon_cutoff, lowered where the entropy is high.
    #[arg(long, value_name = "X", value_parser = share)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_cutoff: Option<f64>,

    /// Penalty of tokens that are there already, prompt included; above 1 they become less likely.
    #[arg(long, value_name = "X", value_parser = positive)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,

    /// No N tokens come twice in the same order; 0: off.
    #[arg(long, value_name = "N", value_parser = whole_to::<MAX_TOKENS>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_repeat_ngram_size: Option<usize>,

    /// Ids of tokens that never come.
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = whole_to::<{ u32::MAX as usize }>)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub suppress_tokens: Vec<usize>,

    /// Ids of tokens that do not come first.
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = whole_to::<{ u32::MAX as usize }>)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub begin_suppress_tokens: Vec<usize>,

    /// Sequences of ids that never come, as JSON: [[1, 2], [3]].
    #[allow(rustdoc::broken_intra_doc_links, reason = "the help shows brackets")]
    #[arg(long, value_name = "JSON")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bad_words_ids: Option<TokenLists>,

    /// Ids of tokens that end a text.
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = whole_to::<{ u32::MAX as usize }>)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub eos_token_id: Vec<usize>,

    /// Ids of tokens, one of which comes last where the length runs out.
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = whole_to::<{ u32::MAX as usize }>)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forced_eos_token_id: Vec<usize>,

    /// Beams: 1, for beam search is not built.
    #[arg(long, value_name = "N", value_parser = count_to::<1>, hide = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_beams: Option<usize>,
}
