//! Keys of TRL and transformers that do not work here as they do there, so that a TRL recipe runs unchanged.
//!
//! Every key is in one class. *Supported*: an option of the command that stands in no list below. *Ignored*: no meaning
//! here; accepted and named once in a note. *Told*: accepted, with a note of its own that says what happens instead.
//! *Refused*: asks for something that does not happen here, or *not yet* (would change results and is not built); both are
//! errors, except for the values listed, which mean what happens anyway. When something is built, delete its line here; where
//! no option exists, add one. An option that stands in a list is hidden from `--help`.
//!
//! `group_by_length`, the older name of a `train_sampling_strategy`, is rewritten to it; `use_cpu` and `no_cuda` to `device`.
//!
//! Keys: `dataclasses.fields` of transformers 5.23 `TrainingArguments` and TRL 1.16 `DPOConfig`, `KTOConfig`, `CPOConfig`,
//! `ORPOConfig`, `SFTConfig`, `ModelConfig`, `ScriptArguments`, `DatasetMixtureConfig`, and older names that recipes still
//! carry. `tests/peer_keys.rs` checks that none of the former is silently without effect.

use std::sync::OnceLock;

use super::error::{CliError, Place};
use super::recipe::{Setting, Value};

/// What happens to a key that is not simply supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Accepted, without effect.
    Ignored,
    /// Accepted, with a note that says what happens instead.
    Told(&'static str),
    /// Refused unless every value is one of these; why, and what to do.
    Refused(&'static [&'static str], &'static str, &'static str),
    /// Refused unless every value is one of these.
    NotYet(&'static [&'static str]),
}

/// Other spellings of supported keys: (as found in recipes, here).
const ALIASES: &[(&str, &str)] = &[
    ("eval_dataset_name", "eval_dataset"),
    ("activation_checkpointing", "gradient_checkpointing"),
    ("evaluation_strategy", "eval_strategy"),
    ("max_seq_length", "max_length"),
    ("torch_dtype", "dtype"),
];

/// No meaning here, in `train`, `plan`, `sft` and `diagnose`.
#[rustfmt::skip]
const IGNORED: &[&str] = &[
    // How the work is done, not what is computed: memory, processes, kernels, loading.
    "accelerator_config", "activation_checkpointing_kwargs", "activation_offloading", "auto_find_batch_size", "average_tokens_across_devices",
    "dataloader_in_order", "dataloader_multiprocessing_context", "dataloader_num_workers", "dataloader_persistent_workers",
    "dataloader_pin_memory", "dataloader_prefetch_factor", "dataset_batch_size", "dataset_num_proc", "ddp_backend",
    "ddp_broadcast_buffers", "ddp_bucket_cap_mb", "ddp_find_unused_parameters", "ddp_static_graph", "ddp_timeout",
    "eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object", "full_determinism",
    "gradient_checkpointing_kwargs", "jit_mode_eval", "length_column_name", "liger_kernel_config", "low_cpu_mem_usage",
    "pad_to_multiple_of", "padding_free", "precompute_ref_batch_size", "preprocessing_num_workers", "remove_unused_columns",
    "torch_compile", "torch_compile_backend", "torch_compile_mode", "torch_empty_cache_steps", "torchdynamo", "use_cache",
    "use_ipex", "use_liger", "use_liger_kernel",
    // Only together with what is refused below: fp16, fsdp, push_to_hub, load_in_4bit, trackers of others.
    "bnb_4bit_quant_storage", "bnb_4bit_quant_type", "fp16_backend", "fp16_opt_level", "fsdp_config", "fsdp_min_num_params",
    "fsdp_transformer_layer_cls_to_wrap", "half_precision_backend", "hub_always_push", "hub_model_id", "hub_model_revision",
    "hub_private_repo", "hub_revision", "hub_strategy", "hub_token", "project", "push_to_hub_model_id",
    "push_to_hub_organization", "push_to_hub_token", "trackio_bucket_id", "trackio_space_id", "trackio_static_space_id",
    "use_bnb_nested_quant",
    // Messages on the screen, callbacks and metrics' functions, which TRL's scripts give none.
    "batch_eval_metrics", "disable_tqdm", "enable_jit_checkpoint", "env", "include_for_metrics",
    "include_inputs_for_metrics", "include_tokens_per_second", "log_level", "log_level_replica", "log_on_each_node",
    "logging_nan_inf_filter", "prediction_loss_only", "ray_scope", "restore_callback_states_from_checkpoint",
    "skip_memory_metrics",
    // What TRL's own scripts do not read.
    "do_eval", "do_predict", "do_train", "ignore_bias_buffers", "label_names", "label_pad_token_id", "padding_value",
    "save_on_each_node",
];

/// Switches among them that are on where nothing is said: only turning them off is worth a note.
#[rustfmt::skip]
const ON_BY_DEFAULT: &[&str] = &[
    "average_tokens_across_devices", "dataloader_in_order", "dataloader_pin_memory", "eval_do_concat_batches",
    "log_on_each_node", "logging_nan_inf_filter", "remove_unused_columns", "skip_memory_metrics",
];

/// Whether a value of an ignored key asks for nothing: a switch as it is, or a word for nothing.
pub(super) fn asks_nothing(key: &str, value: &Value) -> bool {
    let usual = if ON_BY_DEFAULT.contains(&key) {
        "true"
    } else {
        "false"
    };
    let nothing = |word: &String| {
        let word = word.to_ascii_lowercase();
        word == usual || matches!(&*word, "no" | "off" | "none" | "")
    };
    match value {
        Value::Null => true,
        Value::One(word) => nothing(word),
        Value::List(words) => words.iter().all(nothing),
        Value::Mapping(pairs) => pairs.is_empty(),
        Value::Nested | Value::Tree(_) => false,
    }
}

/// Accepted, in the same commands, with a note of what happens instead.
const TOLD: &[(&str, &str)] = &[
    (
        "include_num_input_tokens_seen",
        "input tokens are not counted; metrics.jsonl has tokens_per_second",
    ),
    (
        "save_only_model",
        "checkpoints hold the optimizer's state as well, so that each can be gone on from",
    ),
    (
        "trust_remote_code",
        "no code of a repository is ever run; the families that unbraid knows are its own",
    ),
];

const ONE_PROCESS: &str = "a run is one process on one device";
const SPARE: &str = "leave it out; unbraid plan says what spares memory (LoRA, gradient_checkpointing, a smaller batch)";

/// Exact attention by transformers' names: what is computed here, whatever the kernel.
#[rustfmt::skip]
const ATTENTION: &[&str] = &[
    "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention",
    "kernels-community/flash-attn", "kernels-community/flash-attn2", "kernels-community/flash-attn3",
    "kernels-community/vllm-flash-attn3",
];

/// Asks for what does not happen here, in `train`, `plan` and `sft`: values that ask for nothing, why, and what to do.
#[rustfmt::skip]
const REFUSED: &[(&str, &[&str], &str, &str)] = &[
    ("alpha", &["0"], "AlphaPO is an objective of its own here", "loss_type alphapo, with alphapo_alpha"),
    ("attn_implementation", ATTENTION, "not known to be exact attention, which is what is computed", "leave it out"),
    ("bf16_full_eval", &["false"], "evaluation computes as training does", "leave it out, or set bf16 true"),
    ("data_seed", &[], "the order of the examples is drawn from seed", "leave it out, or set seed"),
    ("dataset_streaming", &["false"], "TRL does not shuffle a stream", "train_sampling_strategy sequential keeps the file's order"),
    ("debug", &["", "[]"], "PyTorch's and TPUs' debugging", "leave it out"),
    ("deepspeed", &["", "false"], ONE_PROCESS, SPARE),
    ("fp16", &["false"], "float16 is not computed", "leave it out for float32, or set bf16 true"),
    ("fp16_full_eval", &["false"], "float16 is not computed", "leave it out for float32"),
    ("fsdp", &["", "false"], ONE_PROCESS, SPARE),
    ("generate_during_eval", &["false"], "no texts are generated during a run", "leave it out; unbraid generate takes a checkpoint"),
    ("is_encoder_decoder", &["false"], "every model here is a decoder", "leave it out"),
    ("local_rank", &["-1", "0"], ONE_PROCESS, "start it without a launcher"),
    ("lora_task_type", &["CAUSAL_LM"], "models are causal language models", "leave it out"),
    ("parallelism_config", &[], ONE_PROCESS, SPARE),
    ("past_index", &["-1"], "no model here has such a memory", "leave it out"),
    ("push_to_hub", &["false"], "nothing is uploaded", "leave it out, and upload output_dir when the run is done"),
    ("save_safetensors", &["true"], "weights are written as safetensors", "leave it out"),
    ("streaming", &["false"], "TRL does not shuffle a stream", "train_sampling_strategy sequential keeps the file's order"),
    ("tpu_metrics_debug", &["false"], "there is no TPU backend", "leave it out"),
    ("no_cuda", &["true", "false"], "", ""),
    ("tpu_num_cores", &[], "there is no TPU backend", "leave it out"),
    ("use_cpu", &["true", "false"], "", ""),
    ("use_mps_device", &["false"], "there is no backend for Apple's GPUs", "leave it out: the CPU is used"),
];

/// Keys that would change which model or data a diagnosis reads, too.
#[rustfmt::skip]
const CHANGES_A_DIAGNOSIS: &[&str] = &[
    "chat_template_path", "datasets", "load_in_4bit", "load_in_8bit", "lora_target_parameters", "max_completion_length",
    "max_prompt_length", "model_init_kwargs", "model_revision", "test_split_size", "tools", "truncation_mode", "use_dora",
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
    ("model_init_kwargs", &["{}"]),
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
    // No option of TRL's SFTConfig: it trains with the model's dropout.
    ("disable_dropout", &["false"]),
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
    let refused = REFUSED.iter().any(|(known, ..)| *known == key);
    let told = TOLD.iter().any(|(known, _)| *known == key);
    trains
        || refused
        || told
        || IGNORED.contains(&key)
        || listed.into_iter().any(|(known, _)| *known == key)
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

/// The word that a key was last set to, and where.
fn given(settings: &[Setting], key: &str) -> Option<(String, Place)> {
    let setting = settings.iter().rfind(|setting| setting.key == key)?;
    let word = match &setting.value {
        Value::One(word) => word,
        Value::List(words) => words.last()?,
        _ => return None,
    };
    Some((word.clone(), setting.place.clone()))
}

/// Makes `use_cpu` and `no_cuda` the `device` that they mean, and takes out a `data_seed` that is the seed itself.
///
/// # Errors
/// [`CliError::Conflict`] where `device` names a GPU beside them.
pub(super) fn old_names(settings: &mut Vec<Setting>) -> Result<(), CliError> {
    let seed = given(settings, "seed").map_or("42".to_owned(), |(seed, _)| seed);
    if given(settings, "data_seed").is_some_and(|(own, _)| own == seed) {
        settings.retain(|setting| setting.key != "data_seed");
    }
    for old in ["use_cpu", "no_cuda"] {
        let Some((word, place)) = given(settings, old) else {
            continue;
        };
        if !["true", "yes", "on", "1"].contains(&&*word.to_ascii_lowercase()) {
            continue;
        }
        match given(settings, "device") {
            Some((device, _)) if device.starts_with("cuda") => {
                return Err(CliError::Conflict {
                    message: format!("{place}{old} is true, but device is {device}"),
                    hint: "give one of the two".into(),
                });
            }
            _ => settings.push(Setting {
                key: "device".into(),
                value: Value::One("cpu".into()),
                place,
            }),
        }
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
        "diagnose" if CHANGES_A_DIAGNOSIS.contains(&key) => TRAIN_NOT_YET,
        "diagnose" => return diagnose_ignores(key).then_some(Rule::Ignored),
        _ => return None,
    };
    if IGNORED.contains(&key) {
        return Some(Rule::Ignored);
    }
    if let Some((_, instead)) = TOLD.iter().find(|(known, _)| *known == key) {
        return Some(Rule::Told(instead));
    }
    if let Some((_, allowed, why, hint)) = REFUSED.iter().find(|(known, ..)| *known == key) {
        return Some(Rule::Refused(allowed, why, hint));
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

/// Keys of other trainers' recipes: whose they are, and what says the same here.
#[rustfmt::skip]
const FOREIGN: &[(&str, &str, &str)] = &[
    // LLaMA-Factory
    ("cutoff_len", "LLaMA-Factory", "max_length"),
    ("dataset", "LLaMA-Factory", "dataset_name"),
    ("dataset_dir", "LLaMA-Factory", "dataset_name"),
    ("finetuning_type", "LLaMA-Factory", "use_peft: true for lora"),
    ("flash_attn", "LLaMA-Factory", "nothing: attention is the same under every name"),
    ("lora_rank", "LLaMA-Factory", "lora_r"),
    ("lora_target", "LLaMA-Factory", "lora_target_modules"),
    ("pref_beta", "LLaMA-Factory", "beta"),
    ("pref_ftx", "LLaMA-Factory", "rpo_alpha"),
    ("pref_loss", "LLaMA-Factory", "loss_type"),
    ("preprocessing_num_workers", "LLaMA-Factory", "nothing"),
    ("stage", "LLaMA-Factory", "the command: train for dpo, sft for sft"),
    ("template", "LLaMA-Factory", "nothing: the tokenizer's own chat template"),
    ("val_size", "LLaMA-Factory", "eval_dataset, or a mixture's test_split_size"),
    // axolotl
    ("adapter", "axolotl", "use_peft: true for lora"),
    ("gradient_clipping", "axolotl", "max_grad_norm"),
    ("lora_target_linear", "axolotl", "lora_target_modules: all-linear"),
    ("lr_scheduler", "axolotl", "lr_scheduler_type"),
    ("micro_batch_size", "axolotl", "per_device_train_batch_size"),
    ("num_epochs", "axolotl", "num_train_epochs"),
    ("optimizer", "axolotl", "optim"),
    ("rl", "axolotl", "loss_type (dpo is sigmoid), or the command sft"),
    ("rl_beta", "axolotl", "beta"),
    ("sample_packing", "axolotl", "packing, in sft"),
    ("sequence_len", "axolotl", "max_length"),
    ("val_set_size", "axolotl", "eval_dataset, or a mixture's test_split_size"),
];

/// Whose recipe a key that nothing here knows is of, and what to write instead.
pub(super) fn of_another_trainer(key: &str) -> Option<String> {
    let (_, trainer, ours) = FOREIGN.iter().find(|(foreign, ..)| *foreign == key)?;
    Some(format!("this is a key of {trainer}; here it is {ours}"))
}
