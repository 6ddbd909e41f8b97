//! `unbraid plan [RECIPE.yaml]`: memory and time of a training run, predicted.

use clap::Args;
use serde::Serialize;

use super::super::values::{count_to, non_empty, positive, positive_share};
use super::shared::MAX_TOKENS;
use super::train::TrainConfig;

/// Most pairs whose lengths are given.
const MAX_PAIRS: usize = 100_000_000;

/// `dataset_name` where lengths are given in a data set's place.
pub(in super::super) const NO_DATA: &str = "-";

/// Options that a plan's help shows; the others of `train` are accepted, so that its recipes can be planned.
#[rustfmt::skip]
pub(in super::super) const SHOWN_IN_PLAN: &[&str] = &[
    "pairs", "prompt_tokens", "completion_tokens", "device_profile", "utilization", "gflops", "bandwidth", "json", "recipe",
    "model_name_or_path", "base_model", "ref_model", "dtype", "threads", "seed",
    "dataset_name", "dataset_config", "dataset_train_split", "max_samples", "max_length",
    "loss_type", "reference_free", "precompute_ref_log_probs", "sync_ref_model", "remedy", "token_mask",
    "optim", "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps",
    "gradient_checkpointing", "train_sampling_strategy", "bf16", "geometry", "gram_every", "update_every",
    "use_peft", "lora_r", "lora_dropout", "lora_target_modules", "lora_modules_to_save",
];

/// A run to be planned, where its lengths come from if not from a data set, and the machine.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct PlanConfig {
    /// Pairs of the run, instead of a data set.
    #[arg(long, value_name = "N", value_parser = count_to::<MAX_PAIRS>, help_heading = "Lengths")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<usize>,

    /// Tokens of each prompt, with pairs.
    #[arg(long, value_name = "TOKENS", default_value = "256", value_parser = count_to::<MAX_TOKENS>, help_heading = "Lengths")]
    pub prompt_tokens: usize,

    /// Tokens of each completion, with pairs.
    #[arg(long, value_name = "TOKENS", default_value = "256", value_parser = count_to::<MAX_TOKENS>, help_heading = "Lengths")]
    pub completion_tokens: usize,

    /// A GPU in this machine's place: h100, h100-pcie, h200, a100, a100-40gb, l40s, l4, a10, t4, rtx4090, rtx3090.
    #[arg(long, value_name = "NAME", value_parser = non_empty, help_heading = "Machine")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_profile: Option<String>,

    /// Share of a device profile's peak arithmetic that is assumed to be reached.
    #[arg(long, value_name = "SHARE", default_value = "0.4", value_parser = positive_share, help_heading = "Machine")]
    pub utilization: f64,

    /// Rate of all arithmetic in GFLOP/s; default: measured.
    #[arg(long, value_name = "X", value_parser = positive, help_heading = "Machine")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gflops: Option<f64>,

    /// Memory bandwidth in GB/s; default: measured.
    #[arg(long, value_name = "X", value_parser = positive, help_heading = "Machine")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<f64>,

    /// The run, as `train` takes it.
    #[command(flatten)]
    #[serde(flatten)]
    pub run: TrainConfig,
}

impl PlanConfig {
    /// The data set, where lengths come from one.
    #[must_use]
    pub fn dataset(&self) -> Option<&str> {
        let name = self.run.data.dataset_name.as_str();
        (name != NO_DATA).then_some(name)
    }
}
