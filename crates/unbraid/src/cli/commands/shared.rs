//! Option groups that several commands share: model, data, and the trainer's part of `train` and `sft`.
//!
//! One field is one option: its name in kebab-case on the command line, in snake_case in a recipe; its comment is
//! the help text; its clap default is the default. Names and defaults are TRL's where TRL has them.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use serde::Serialize;
use unbraid_cuda::Precision;
use unbraid_preference::Mixture;

use super::super::values::{
    Device, Dtype, Geometry, KeyValues, LrSchedulerType, MaxLength, Optim, Resume,
    SamplingStrategy, Steps, Strategy, below_one, count, count_to, epochs, finite, interval,
    non_empty, non_negative, positive, seed, share, step_limit,
};

pub(super) use super::super::values::MAX_TOKENS;

/// Most examples that an option may name.
pub(super) const MAX_EXAMPLES: usize = 1 << 40;
/// Most worker threads: beyond the cores of most machines, and few enough to start on any.
pub(super) const MAX_THREADS: usize = 256;
/// Largest rank of an adapter: the width of the widest published models.
const MAX_RANK: usize = 1 << 14;

/// The model and where it runs.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Model: a directory in Hugging Face layout, a checkpoint, a .gguf file or a hub id.
    #[arg(long, value_name = "MODEL", value_parser = non_empty)]
    pub model_name_or_path: String,

    /// Base model of an adapter directory; default: the one its adapter_config.json names.
    #[arg(long, value_name = "MODEL", value_parser = non_empty)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,

    /// Number format of written weights and of frozen ones in memory (auto: float32; frozen: as stored).
    #[arg(long, value_name = "DTYPE", default_value = "auto")]
    pub dtype: Dtype,

    /// Device that computes: auto, cpu, cuda or cuda:N.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: Device,

    /// Threads of the CPU backend; default: all cores.
    #[arg(long, value_name = "N", value_parser = count_to::<MAX_THREADS>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,

    /// Seed of every random draw.
    #[arg(long, value_name = "N", default_value = "42", value_parser = seed)]
    pub seed: u64,
}

/// The data set.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
#[command(next_help_heading = "Data")]
pub struct DataArgs {
    /// Data set: a .jsonl, .json, .parquet or .csv file (also .gz, .zst), a directory or a hub id.
    #[arg(long, value_name = "DATA", value_parser = non_empty)]
    pub dataset_name: String,

    /// Data sets in the place of one: the recipe's `datasets`, as JSON.
    #[arg(long, hide = true, value_parser = mixture)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datasets: Option<Mixture>,

    /// Configuration of the data set: a config_name of its README, or a directory; default: its default one.
    #[arg(long, value_name = "NAME", value_parser = non_empty)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset_config: Option<String>,

    /// Split to read, where the data set has splits.
    #[arg(long, value_name = "SPLIT", default_value = "train", value_parser = non_empty)]
    pub dataset_train_split: String,

    /// Split to evaluate on; read only with an eval_strategy other than no.
    #[arg(long, value_name = "SPLIT", default_value = "test", value_parser = non_empty)]
    pub dataset_test_split: String,

    /// Use only the first N rows of each split.
    #[arg(long, value_name = "N", value_parser = count_to::<MAX_EXAMPLES>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_samples: Option<usize>,

    /// Longest prompt with completion, in tokens; the start is kept. none: no limit.
    #[arg(long, value_name = "TOKENS", default_value = "1024")]
    pub max_length: MaxLength,
}

fn mixture(json: &str) -> Result<Mixture, String> {
    serde_json::from_str(json).map_err(|_| "expected a list of data sets in a recipe".to_owned())
}

/// What `train` and `sft` have in common: output, optimizer, schedule, logging, evaluation, saving.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct TrainerOptions {
    /// Directory for the model, metrics and report.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub output_dir: PathBuf,

    /// Write into an output directory that is not empty.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub overwrite_output_dir: bool,

    /// Name of the run in reports; default: the output directory's name.
    #[arg(long, value_name = "NAME", help_heading = "Output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_name: Option<String>,

    /// Trackers to write to besides metrics.jsonl (a list): tensorboard; all is the same, none is none.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "none",
        help_heading = "Output"
    )]
    pub report_to: Vec<String>,

    /// Directory for TensorBoard's files; default: runs/<run_name> in output_dir.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logging_dir: Option<PathBuf>,

    /// Print the last step and the last training and evaluation rows as JSON on stdout.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Output")]
    pub json: bool,

    /// Held-out data set for evaluation; default: dataset_test_split of dataset_name.
    #[arg(long, value_name = "DATA", value_parser = non_empty, help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_dataset: Option<String>,

    /// Peak learning rate.
    #[arg(long, value_name = "RATE", default_value = "1e-6", value_parser = non_negative, help_heading = "Optimizer and schedule")]
    pub learning_rate: f64,

    /// Optimizer.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "adamw_torch",
        help_heading = "Optimizer and schedule"
    )]
    pub optim: Optim,

    /// Further settings of the optimizer: momentum of sgd.
    #[arg(
        long,
        value_name = "KEY=VALUE",
        help_heading = "Optimizer and schedule"
    )]
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "KeyValues::as_text"
    )]
    pub optim_args: Option<KeyValues>,

    /// Decoupled weight decay, per unit learning rate; not applied to biases and norms.
    #[arg(long, value_name = "X", default_value = "0", value_parser = non_negative, help_heading = "Optimizer and schedule")]
    pub weight_decay: f64,

    /// Adam's and Lion's decay of the gradient's mean.
    #[arg(long, value_name = "X", default_value = "0.9", value_parser = below_one, help_heading = "Optimizer and schedule")]
    pub adam_beta1: f64,

    /// Adam's decay of the gradient's mean square; the second of Lion's decays.
    #[arg(long, value_name = "X", default_value = "0.999", value_parser = below_one, help_heading = "Optimizer and schedule")]
    pub adam_beta2: f64,

    /// Adam's ε, added to the root of the mean square.
    #[arg(long, value_name = "X", default_value = "1e-8", value_parser = positive, help_heading = "Optimizer and schedule")]
    pub adam_epsilon: f64,

    /// Momentum of sgd.
    #[arg(long, value_name = "X", default_value = "0", value_parser = below_one, help_heading = "Optimizer and schedule")]
    pub momentum: f64,

    /// Largest global gradient norm; above it gradients are scaled down. 0: no clipping.
    #[arg(long, value_name = "NORM", default_value = "1", value_parser = non_negative, help_heading = "Optimizer and schedule")]
    pub max_grad_norm: f64,

    /// Learning-rate schedule.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "linear",
        help_heading = "Optimizer and schedule"
    )]
    pub lr_scheduler_type: LrSchedulerType,

    /// Further arguments of the schedule, as in transformers: min_lr=1e-7, num_decay_steps=50, ….
    #[arg(
        long,
        value_name = "KEY=VALUE",
        help_heading = "Optimizer and schedule"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_scheduler_kwargs: Option<KeyValues>,

    /// Warm-up as a share of the run, from 0 to 1; used when warmup_steps is 0.
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share, help_heading = "Optimizer and schedule")]
    pub warmup_ratio: f64,

    /// Warm-up in optimizer steps; below 1: a share of the run.
    #[arg(
        long,
        value_name = "STEPS",
        default_value = "0",
        help_heading = "Optimizer and schedule"
    )]
    pub warmup_steps: Steps,

    /// Passes over the training data; need not be whole.
    #[arg(long, value_name = "N", default_value = "3", value_parser = epochs, help_heading = "Batches and steps")]
    pub num_train_epochs: f64,

    /// Stop after this many optimizer steps, whatever num_train_epochs says; -1: no such stop.
    #[arg(long, value_name = "N", default_value = "-1", value_parser = step_limit, allow_negative_numbers = true, help_heading = "Batches and steps")]
    pub max_steps: i64,

    /// Examples (pairs) in a training batch.
    #[arg(long, value_name = "N", default_value = "8", value_parser = count, help_heading = "Batches and steps")]
    pub per_device_train_batch_size: usize,

    /// Examples (pairs) in an evaluation batch: metrics are means over batches, eval_loss weighs them by examples.
    #[arg(long, value_name = "N", default_value = "8", value_parser = count, help_heading = "Batches and steps")]
    pub per_device_eval_batch_size: usize,

    /// Batches added up to one optimizer step.
    #[arg(long, value_name = "N", default_value = "1", value_parser = count, help_heading = "Batches and steps")]
    pub gradient_accumulation_steps: usize,

    /// Compute activations again in the backward pass: less memory, more time, same results.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Batches and steps")]
    pub gradient_checkpointing: bool,

    /// Order of the training examples; default: random, and sequential for kto on single completions, which takes no
    /// other.
    #[arg(long, value_name = "ORDER", help_heading = "Batches and steps")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_sampling_strategy: Option<SamplingStrategy>,

    /// Compute in bfloat16 where the machine is fast at it.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Batches and steps")]
    pub bf16: bool,

    /// On a GPU: multiply float32 in TF32, with 10 bits of fraction.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Batches and steps")]
    pub tf32: bool,

    /// Optimizer steps between two rows of metrics.jsonl; below 1: a share of the run.
    #[arg(long, value_name = "STEPS", default_value = "10", value_parser = interval, help_heading = "Logging, evaluation, saving")]
    pub logging_steps: Steps,

    /// Also log the first step.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Logging, evaluation, saving")]
    pub logging_first_step: bool,

    /// When to evaluate.
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "no",
        help_heading = "Logging, evaluation, saving"
    )]
    pub eval_strategy: Strategy,

    /// Optimizer steps between two evaluations; default: logging_steps.
    #[arg(long, value_name = "STEPS", value_parser = interval, help_heading = "Logging, evaluation, saving")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_steps: Option<Steps>,

    /// Also evaluate before the first step, so that changes are seen from the start.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Logging, evaluation, saving")]
    pub eval_on_start: bool,

    /// When to save a checkpoint; the final model is saved in any case.
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "steps",
        help_heading = "Logging, evaluation, saving"
    )]
    pub save_strategy: Strategy,

    /// Optimizer steps between two checkpoints; below 1: a share of the run.
    #[arg(long, value_name = "STEPS", default_value = "500", value_parser = interval, help_heading = "Logging, evaluation, saving")]
    pub save_steps: Steps,

    /// Keep only the newest N checkpoints, and the best one; default: all.
    #[arg(long, value_name = "N", value_parser = count_to::<MAX_EXAMPLES>, help_heading = "Logging, evaluation, saving")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_total_limit: Option<usize>,

    /// End with the checkpoint that was best by metric_for_best_model.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Logging, evaluation, saving")]
    pub load_best_model_at_end: bool,

    /// Evaluation metric that picks the best checkpoint; default: loss.
    #[arg(long, value_name = "KEY", help_heading = "Logging, evaluation, saving")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric_for_best_model: Option<String>,

    /// Whether a higher metric_for_best_model is better; default: yes, unless its name ends in loss.
    #[arg(long, action = ArgAction::Set, value_name = "BOOL", help_heading = "Logging, evaluation, saving")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greater_is_better: Option<bool>,

    /// Go on from a checkpoint: its directory, or true for the newest intact one in output_dir.
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_value = "false", default_missing_value = "true", help_heading = "Logging, evaluation, saving")]
    pub resume_from_checkpoint: Resume,

    /// Measure gradient geometry: off, every (optimizer step), or a number N for each Nth step.
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "10",
        help_heading = "Geometry"
    )]
    pub geometry: Geometry,

    /// Write the step's Gram matrix, and whose gradients move each completion, to gram.jsonl in the first step and each
    /// Nth, before the update: a pass of its own over all pairs of the step, with its micro-batches at once.
    #[arg(
        long,
        value_name = "N",
        default_value = "off",
        help_heading = "Geometry"
    )]
    pub gram_every: Geometry,
}

impl TrainerOptions {
    /// How products are taken. As in PyTorch, `tf32` speaks of what `bf16` leaves in float32.
    pub fn precision(&self) -> Precision {
        match (self.bf16, self.tf32) {
            (true, _) => Precision::Bf16,
            (false, true) => Precision::Tf32,
            (false, false) => Precision::Float32,
        }
    }

    /// Warm-up of a run of `total` optimizer steps, in steps: `warmup_steps` if set, else `warmup_ratio` rounded up.
    #[must_use]
    pub fn warmup(&self, total: u64) -> u64 {
        match self.warmup_steps {
            Steps(0.0) => (self.warmup_ratio * total as f64).ceil() as u64,
            steps => steps.of(total),
        }
    }

    /// Optimizer steps between two evaluations (with [`Strategy::Steps`]).
    #[must_use]
    pub fn eval_interval(&self) -> Steps {
        self.eval_steps.unwrap_or(self.logging_steps)
    }

    /// Whether `report_to` asks for TensorBoard events.
    #[must_use]
    pub fn reports_to_tensorboard(&self) -> bool {
        let asks = |name: &String| {
            ["tensorboard", "all"]
                .iter()
                .any(|t| name.eq_ignore_ascii_case(t))
        };
        self.report_to.iter().any(asks)
    }

    /// The run's name: `run_name`, else the last part of `output_dir`.
    #[must_use]
    pub fn name(&self) -> String {
        self.run_name.clone().unwrap_or_else(|| {
            let last = self
                .output_dir
                .file_name()
                .unwrap_or(self.output_dir.as_os_str());
            last.to_string_lossy().into_owned()
        })
    }
}

/// Low-rank adapters, as PEFT defines them.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
#[command(next_help_heading = "LoRA")]
pub struct LoraArgs {
    /// Train a low-rank adapter instead of all parameters.
    #[arg(long, action = ArgAction::Set, default_value = "false")]
    pub use_peft: bool,

    /// Rank of the adapter.
    #[arg(long, value_name = "N", default_value = "16", value_parser = count_to::<MAX_RANK>)]
    pub lora_r: usize,

    /// Scale of the adapter; its product is multiplied by lora_alpha / lora_r.
    #[arg(long, value_name = "X", default_value = "32", value_parser = finite)]
    pub lora_alpha: f64,

    /// Share of the adapter's inputs dropped in training, in [0, 1).
    #[arg(long, value_name = "X", default_value = "0.05", value_parser = below_one)]
    pub lora_dropout: f64,

    /// Linear maps that get an adapter: names, or all-linear; default: PEFT's for the model.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lora_target_modules: Vec<String>,

    /// Modules trained whole and saved with the adapter.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lora_modules_to_save: Vec<String>,

    /// Rank-stabilised scale: lora_alpha / √lora_r.
    #[arg(long, action = ArgAction::Set, default_value = "false")]
    pub use_rslora: bool,
}
