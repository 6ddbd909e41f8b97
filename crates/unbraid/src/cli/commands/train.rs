//! `unbraid train [RECIPE.yaml]`: options of a preference-training run.

use clap::{ArgAction, Args};
use serde::Serialize;

use super::super::values::{
    Attribute, FDivergence, Geometry, NpoScale, Remedy, Semantics, TokenMask, count_to, finite,
    flip_probability, non_empty, non_negative, positive, positive_share, share, whole_to,
};
use super::shared::{DataArgs, LoraArgs, MAX_EXAMPLES, ModelArgs, TrainerOptions};

/// A resolved preference-training run. Serialised, it is a recipe that gives this run again.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct TrainConfig {
    /// The policy, device and seed.
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelArgs,

    /// Reference model; default: the policy as loaded.
    #[arg(long, value_name = "MODEL", value_parser = non_empty, help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ref_model: Option<String>,

    /// The pairs.
    #[command(flatten)]
    #[serde(flatten)]
    pub data: DataArgs,

    /// What is minimised.
    #[command(flatten)]
    #[serde(flatten)]
    pub objective: ObjectiveArgs,

    /// What `train` and `sft` share.
    #[command(flatten)]
    #[serde(flatten)]
    pub trainer: TrainerOptions,

    /// Train without dropout, neither the model's own (GPT-2 drops a tenth) nor the adapter's; default: true. The
    /// reference never drops anything.
    #[arg(long, action = ArgAction::Set, default_value = "true", help_heading = "Objective")]
    pub disable_dropout: bool,

    /// Write log-probs, coefficients and cases of each pair in each step to pairs.parquet in output_dir: a folder of
    /// parts (part-N.parquet from step N) that Parquet readers take for one table.
    #[arg(long, action = ArgAction::Set, default_value = "false", help_heading = "Logging, evaluation, saving")]
    pub log_pairs: bool,

    /// Set prediction against reality in predictions.jsonl, pair by pair, in the first step and each Nth: what plain
    /// gradient descent predicts, what the optimizer's actual update does to first order, what happened. Needs a copy of
    /// the trained parameters in memory; off: never, as with geometry off.
    #[arg(
        long,
        value_name = "N",
        default_value = "50",
        help_heading = "Geometry"
    )]
    pub update_every: Geometry,

    /// Attribute the held-out log-probs' change to its causes in attribution.jsonl: whose gradients, momentum, decay; auto
    /// measures as often as a tenth of the run's time allows (at least five steps), or each Nth step, every, off. Needs
    /// three copies of the trained parameters in memory. With geometry off, auto is off.
    #[arg(
        long,
        value_name = "N",
        default_value = "auto",
        help_heading = "Geometry"
    )]
    pub attribute: Attribute,

    /// Completions that attribution watches, held-out ones where there are any; default: 32, fewer in short runs.
    #[arg(long, value_name = "N", value_parser = count_to::<MAX_EXAMPLES>, help_heading = "Geometry")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribute_probes: Option<usize>,

    /// Measure the geometry of the first N held-out pairs at every evaluation; 0: of none.
    #[arg(long, value_name = "N", default_value = "0", value_parser = whole_to::<MAX_EXAMPLES>, help_heading = "Geometry")]
    pub eval_geometry: usize,

    /// Low-rank adapters.
    #[command(flatten)]
    #[serde(flatten)]
    pub lora: LoraArgs,
}

/// The objective, its reference model and remedies.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
#[command(next_help_heading = "Objective")]
pub struct ObjectiveArgs {
    /// Objectives by name (unbraid objectives lists them); several are added up.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "sigmoid", value_parser = non_empty)]
    pub loss_type: Vec<String>,

    /// Weight of each loss_type; default: 1 each.
    #[arg(long, value_name = "X", value_delimiter = ',', allow_negative_numbers = true, value_parser = finite)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub loss_weights: Vec<f64>,

    /// Deviation penalty β, per nat; default: the objective's own (sigmoid: 0.1).
    #[arg(long, value_name = "X", value_parser = positive)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,

    /// Probability that a pair's labels are flipped, in [0, 0.5); default: the objective's own (mostly 0).
    #[arg(long, value_name = "X", value_parser = flip_probability)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_smoothing: Option<f64>,

    /// Target margin γ of simpo; default: the objective's own.
    #[arg(long, value_name = "X", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simpo_gamma: Option<f64>,

    /// Weight of the likelihood term of cpo; default: the objective's own.
    #[arg(long, value_name = "X", value_parser = non_negative)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpo_alpha: Option<f64>,

    /// Weight of a likelihood term on the chosen completion; default: none.
    #[arg(long, value_name = "X", value_parser = non_negative)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpo_alpha: Option<f64>,

    /// Width τ of discopop's blend of its two losses, in units of reward; default: 0.05.
    #[arg(long, value_name = "X", value_parser = positive)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discopop_tau: Option<f64>,

    /// Weight λ_w of desirable completions in kto; default: 1.
    #[arg(long, value_name = "X", value_parser = non_negative)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desirable_weight: Option<f64>,

    /// Weight λ_l of undesirable completions in kto; default: 1.
    #[arg(long, value_name = "X", value_parser = non_negative)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undesirable_weight: Option<f64>,

    /// Length penalty α of rdpo, reward per token; default: the objective's own.
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rdpo_alpha: Option<f64>,

    /// Weight λ of the likelihood term of rrhf; default: the objective's own.
    #[arg(long, value_name = "X", value_parser = non_negative)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rrhf_lambda: Option<f64>,

    /// Margin δ of slic, in nats; default: the objective's own.
    #[arg(long, value_name = "X", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slic_delta: Option<f64>,

    /// Weight λ of the likelihood term of slic; default: the objective's own.
    #[arg(long, value_name = "X", value_parser = non_negative)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slic_lambda: Option<f64>,

    /// Weight λ of the penalty of dpop; default: the objective's own.
    #[arg(long, value_name = "X", value_parser = non_negative)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dpop_lambda: Option<f64>,

    /// Shape α of alphapo's reward; default: the objective's own.
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alphapo_alpha: Option<f64>,

    /// Reward shift δ of bco_pair; default: the objective's own.
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bco_delta: Option<f64>,

    /// Whether ipo divides log-ratios by the completion's length; default: as semantics says.
    #[arg(long, action = ArgAction::Set, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_average: Option<bool>,

    /// Whether likelihood terms are means over the batch's tokens; default: as semantics says.
    #[arg(long, action = ArgAction::Set, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nll_average: Option<bool>,

    /// Weight of the tokens past the shorter completion's length (LD-DPO), in [0, 1]; default: off.
    #[arg(long, value_name = "X", value_parser = share)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ld_alpha: Option<f64>,

    /// Divergence in the reward.
    #[arg(long, value_name = "NAME", default_value = "reverse_kl")]
    pub f_divergence_type: FDivergence,

    /// α of alpha_divergence; default: the objective's own.
    #[arg(long, value_name = "X", value_parser = finite)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f_alpha_divergence_coef: Option<f64>,

    /// Weigh pairs by the policy's own likelihood (WPO).
    #[arg(long, action = ArgAction::Set, default_value = "false")]
    pub use_weighting: bool,

    /// Leave the reference out: its log-probs count as 0.
    #[arg(long, action = ArgAction::Set, default_value = "false")]
    pub reference_free: bool,

    /// Score every pair with the reference before training, also those that max_steps leaves out.
    #[arg(long, action = ArgAction::Set, default_value = "false")]
    pub precompute_ref_log_probs: bool,

    /// Move the reference towards the policy during training (TR-DPO).
    #[arg(long, action = ArgAction::Set, default_value = "false")]
    pub sync_ref_model: bool,

    /// Share of the policy in each move of the reference, in (0, 1].
    #[arg(long, value_name = "X", default_value = "0.6", value_parser = positive_share)]
    pub ref_model_mixup_alpha: f64,

    /// Optimizer steps between two moves of the reference.
    #[arg(long, value_name = "N", default_value = "512", value_parser = count_to::<MAX_EXAMPLES>)]
    pub ref_model_sync_steps: usize,

    /// Side to take where a paper and TRL differ.
    #[arg(long, value_name = "SIDE", default_value = "trl")]
    pub semantics: Semantics,

    /// Remedy against gradient entanglement.
    #[arg(long, value_name = "NAME", default_value = "none")]
    pub remedy: Remedy,

    /// Scale of the gradients under remedy normalized.
    #[arg(long, value_name = "NAME", default_value = "unit")]
    pub npo_scale: NpoScale,

    /// Token mask of the log-ratios.
    #[arg(long, value_name = "NAME", default_value = "none")]
    pub token_mask: TokenMask,

    /// Threshold ε of the token mask.
    #[arg(long, value_name = "X", default_value = "0.5", value_parser = finite)]
    pub mask_epsilon: f64,

    /// Sharpness k of the relaxed token mask.
    #[arg(long, value_name = "X", default_value = "10", value_parser = positive)]
    pub mask_sharpness: f64,

    /// Weight λ of the mask's L1 penalty.
    #[arg(long, value_name = "X", default_value = "1e-3", value_parser = non_negative)]
    pub mask_l1: f64,

    /// Peak learning rate of the mask's own parameters; default: learning_rate for head, 0.01 for free.
    #[arg(long, value_name = "RATE", value_parser = positive)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_learning_rate: Option<f64>,
}
