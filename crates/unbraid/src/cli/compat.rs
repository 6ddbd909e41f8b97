//! Keys of TRL and transformers that do not work here as they do there, so that a TRL recipe runs unchanged.
//!
//! Three classes. *Supported*: an option of the command that stands in no list below. *Ignored*: without effect on results
//! here; accepted and named once in a note. *Not yet*: would change results and is not built; refused, except for the
//! values listed, which mean what happens anyway. When something is built, delete its line here; where no option exists, add one.
//! An option that stands in a list is hidden from `--help`.
//!
//! `group_by_length`, the older name of a `train_sampling_strategy`, is rewritten to it.
//!
//! Keys: `dataclasses.fields` of transformers 5.23 `TrainingArguments` and TRL 1.16 `DPOConfig`, `SFTConfig`, `ModelConfig`,
//! `ScriptArguments`, `DatasetMixtureConfig`, and older names that recipes still carry. `tests/cli_recipe.rs` checks that
//! every one of the former is in a class.

use std::sync::OnceLock;

use super::error::{CliError, Place};
use super::recipe::{Setting, Value};

/// What happens to a key that is not simply supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Accepted, without effect.
    Ignored,
    /// Refused unless every value is one of these.
    NotYet(&'static [&'static str]),
}

/// Other spellings of supported keys: (as found in recipes, here).
const ALIASES: &[(&str, &str)] = &[
    ("eval_dataset_name", "eval_dataset"),
    ("evaluation_strategy", "eval_strategy"),
    ("max_seq_length", "max_length"),
    ("torch_dtype", "dtype"),
];

/// Without effect on results, in `train`, `plan`, `sft` and `diagnose`.
#[rustfmt::skip]
const IGNORED: &[&str] = &[
    // How the work is done, not what is computed.
    "accelerator_config", "activation_checkpointing", "activation_checkpointing_kwargs", "activation_offloading",
    "attn_implementation", "auto_find_batch_size", "average_tokens_across_devices", "batch_eval_metrics", "bf16_full_eval",
    "data_seed", "dataloader_in_order", "dataloader_multiprocessing_context", "dataloader_num_workers",
    "dataloader_persistent_workers", "dataloader_pin_memory", "dataloader_prefetch_factor", "dataset_batch_size",
    "dataset_num_proc", "dataset_streaming", "ddp_backend", "ddp_broadcast_buffers", "ddp_bucket_cap_mb",
    "ddp_find_unused_parameters", "ddp_static_graph", "ddp_timeout", "deepspeed", "eval_accumulation_steps",
    "eval_do_concat_batches", "eval_use_gather_object", "fp16", "fp16_backend", "fp16_full_eval", "fp16_opt_level", "fsdp",
    "fsdp_config", "fsdp_min_num_params", "fsdp_transformer_layer_cls_to_wrap", "full_determinism",
    "gradient_checkpointing_kwargs", "half_precision_backend", "jit_mode_eval", "length_column_name",
    "liger_kernel_config", "local_rank", "low_cpu_mem_usage", "no_cuda", "pad_to_multiple_of", "padding_free", "parallelism_config",
    "precompute_ref_batch_size", "preprocessing_num_workers", "remove_unused_columns", "streaming",
    "torch_compile", "torch_compile_backend", "torch_compile_mode", "torch_empty_cache_steps", "torchdynamo",
    "tpu_metrics_debug", "tpu_num_cores", "trust_remote_code", "use_cache", "use_cpu", "use_ipex", "use_liger", "use_liger_kernel",
    "use_mps_device",
    // Hubs, trackers and logs of others.
    "debug", "disable_tqdm", "enable_jit_checkpoint", "env", "generate_during_eval", "hub_always_push", "hub_model_id",
    "hub_model_revision", "hub_private_repo", "hub_revision", "hub_strategy", "hub_token", "include_for_metrics",
    "include_inputs_for_metrics", "include_num_input_tokens_seen", "include_tokens_per_second", "log_level", "log_level_replica",
    "log_on_each_node", "logging_nan_inf_filter", "prediction_loss_only", "project", "push_to_hub",
    "push_to_hub_model_id", "push_to_hub_organization", "push_to_hub_token", "ray_scope", "skip_memory_metrics",
    "trackio_bucket_id", "trackio_space_id", "trackio_static_space_id",
    // Flags that TRL's own scripts do not read.
    "do_eval", "do_predict", "do_train", "ignore_bias_buffers", "label_names", "label_pad_token_id", "padding_value", "past_index",
    "restore_callback_states_from_checkpoint", "save_on_each_node", "save_only_model", "save_safetensors",
    // Only together with load_best_model_at_end, use_peft or load_in_4bit, which stand below.
    "bnb_4bit_quant_storage", "bnb_4bit_quant_type", "lora_task_type",
    "use_bnb_nested_quant",
];

/// Not built, in `train` and `sft`; with the values that change nothing.
#[rustfmt::skip]
const NOT_YET: &[(&str, &[&str])] = &[
    ("chat_template_path", &[]),
    ("dataloader_drop_last", &["false"]),
    // Read by `mixture`, before this table is.
    ("dataset_configs", &[]),
    ("dataset_mixer", &[]),
    ("dataset_mixture", &[]),
    ("dataset_splits", &[]),
    ("disable_dropout", &["true"]),
    ("eval_delay", &["0"]),
    ("group_by_length", &["true", "false"]),
    ("ignore_data_skip", &["false"]),
    ("label_smoothing_factor", &["0"]),
    ("load_in_4bit", &["false"]),
    ("load_in_8bit", &["false"]),
    ("logging_strategy", &["steps"]),
    ("lora_target_parameters", &[]),
    ("max_completion_length", &[]),
    ("max_prompt_length", &[]),
    ("model_init_kwargs", &[]),
    ("model_revision", &["main"]),
    ("neftune_noise_alpha", &["0"]),
    // Low in memory among these: adafactor and lion.
    ("optim", &["adamw_torch", "sgd", "adafactor", "lion", "adamw_torch_fused", "adamw_hf", "adamw", "paged_adamw_32bit", "lion_32bit", "paged_lion_32bit"]),
    ("optim_target_modules", &[]),
    ("pad_token", &[]),
    ("router_aux_loss_coef", &["0"]),
    ("test_split_size", &[]),
    ("truncation_mode", &["keep_start"]),
    ("use_dora", &["false"]),
];

/// Not built, in `train` alone.
#[rustfmt::skip]
const TRAIN_NOT_YET: &[(&str, &[&str])] = &[
    ("base_model_attribute_name", &["model"]),
    ("force_use_ref_model", &["false"]),
    ("model_adapter_name", &[]),
    ("ref_adapter_name", &[]),
    ("tools", &[]),
    ("use_logits_to_keep", &["true", "false"]),
];

/// Not built, in `sft` alone.
#[rustfmt::skip]
const SFT_NOT_YET: &[(&str, &[&str])] = &[
    ("assistant_only_loss", &["false"]),
    ("dataset_kwargs", &[]),
    ("eos_token", &[]),
    ("eval_packing", &["false"]),
    ("loss_type", &["nll"]),
    ("packing_strategy", &["bfd"]),
    ("shuffle_dataset", &["false"]),
];

/// Options on objectives that `diagnose` has with `train`, and that mean something in training only: which tokens count
/// there, when the reference moves, what is dropped.
#[rustfmt::skip]
const DIAGNOSE_IGNORED: &[&str] = &[
    "ld_alpha", "lora_dropout", "mask_epsilon", "mask_l1", "mask_learning_rate", "mask_sharpness", "precompute_ref_log_probs",
    "ref_model_mixup_alpha", "ref_model_sync_steps", "sync_ref_model", "token_mask", "use_weighting",
];

/// Whether `diagnose` takes a key for a training recipe's sake: one of `train`'s that it has not itself.
fn diagnose_ignores(key: &str) -> bool {
    use clap::CommandFactory as _;
    static OWN: OnceLock<Vec<String>> = OnceLock::new();
    static TRAINS: OnceLock<Vec<String>> = OnceLock::new();
    let keys = |name: &str| {
        let root = super::commands::Cli::command();
        let command = root.find_subcommand(name);
        let args = command.into_iter().flat_map(clap::Command::get_arguments);
        args.map(|arg| arg.get_id().to_string()).collect()
    };
    let knows = |keys: &Vec<String>| keys.iter().any(|known| known == key);
    if DIAGNOSE_IGNORED.contains(&key) {
        return true;
    }
    if knows(OWN.get_or_init(|| keys("diagnose"))) {
        return false;
    }
    let trains = knows(TRAINS.get_or_init(|| keys("train")));
    let listed = TRAIN_NOT_YET.iter().chain(NOT_YET);
    trains || IGNORED.contains(&key) || listed.into_iter().any(|(known, _)| *known == key)
}

/// Trackers that a run can write to, besides `metrics.jsonl`.
pub(super) const TRACKERS: &[&str] = &["tensorboard", "all"];

/// Makes `group_by_length: true` the `train_sampling_strategy` that it means. Where the two contradict each other, the
/// command line's goes before the recipe's.
///
/// # Errors
/// [`CliError::Conflict`] where they do so in one place.
pub(super) fn group_by_length(settings: &mut Vec<Setting>) -> Result<(), CliError> {
    const OLD: &str = "group_by_length";
    const NEW: &str = "train_sampling_strategy";
    let word_of = |key: &str| {
        let setting = settings.iter().rfind(|setting| setting.key == key)?;
        let word = match &setting.value {
            Value::One(word) => word,
            Value::List(words) => words.last()?,
            _ => return None,
        };
        Some((word.to_ascii_lowercase(), setting.place.clone()))
    };
    let Some((word, place)) = word_of(OLD) else {
        return Ok(());
    };
    // A word that means neither true nor false is refused later, with those of other keys.
    let grouped = ["true", "yes", "on", "1"].contains(&&*word);
    if let Some((order, other)) = word_of(NEW)
        && (order == OLD) != grouped
    {
        let typed = |place: &Place| *place == Place::CommandLine;
        match (typed(&place), typed(&other)) {
            (false, true) => return Ok(()),
            (true, false) => settings.retain(|setting| setting.key != NEW),
            _ => {
                return Err(CliError::Conflict {
                    message: format!("{place}{OLD} is {grouped}, but {NEW} is {order}"),
                    hint: format!("give one of the two; {OLD} is the older name"),
                });
            }
        }
    }
    if grouped {
        settings.push(Setting {
            key: NEW.into(),
            value: Value::One(OLD.into()),
            place,
        });
    }
    Ok(())
}

/// Short spellings that `plan` has.
const PLAN_ALIASES: &[(&str, &str)] =
    &[("model", "model_name_or_path"), ("dataset", "dataset_name")];

/// The name under which a key of `command` is known here.
pub(super) fn canonical<'k>(command: &str, key: &'k str) -> &'k str {
    let own = if command == "plan" { PLAN_ALIASES } else { &[] };
    ALIASES
        .iter()
        .chain(own)
        .find(|(from, _)| *from == key)
        .map_or(key, |(_, to)| to)
}

/// The rule for a key of `command`; none for a key that is supported or unknown.
pub(super) fn rule(command: &str, key: &str) -> Option<Rule> {
    let own = match command {
        "train" | "plan" => TRAIN_NOT_YET,
        "sft" => SFT_NOT_YET,
        "diagnose" => return diagnose_ignores(key).then_some(Rule::Ignored),
        _ => return None,
    };
    if IGNORED.contains(&key) {
        return Some(Rule::Ignored);
    }
    let entry = own.iter().chain(NOT_YET).find(|(known, _)| *known == key);
    entry.map(|(_, allowed)| Rule::NotYet(allowed))
}

/// Whether a value is one of those allowed: the same word in any case, or the same number.
pub(super) fn allows(allowed: &[&str], value: &str) -> bool {
    let number = value.parse::<f64>().ok();
    allowed.iter().any(|known| {
        known.eq_ignore_ascii_case(value) || (number.is_some() && known.parse().ok() == number)
    })
}
