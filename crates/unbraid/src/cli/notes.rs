//! Settings without effect: values other than the default of options that the rest of the command line leaves unread.
//!
//! A value equal to the default is never mentioned, since TRL's recipes write many defaults out. What only objective,
//! model or data decide is said by the commands. Tested in `tests/usage.rs`.

use clap::Parser as _;
use serde::Serialize;
use serde_json::Value;

use super::commands::{
    Cli, Command, DiagnoseConfig, LoraArgs, SftConfig, TrainConfig, TrainerOptions,
};
use super::values::{Geometry, LrSchedulerType, Optim, Parameters, Remedy, Strategy, TokenMask};

/// Options that are read only under a condition.
struct Conditional {
    /// Whether they are read.
    read: bool,
    options: &'static [&'static str],
    /// Why they are not, after "no effect".
    otherwise: &'static str,
}

const fn when(
    read: bool,
    options: &'static [&'static str],
    otherwise: &'static str,
) -> Conditional {
    Conditional {
        read,
        options,
        otherwise,
    }
}

/// Notes on a `train` command.
pub(super) fn train(config: &TrainConfig) -> Vec<String> {
    let objective = &config.objective;
    let learnt = matches!(objective.token_mask, TokenMask::Head | TokenMask::Free);
    let moves = objective.sync_ref_model;
    let mut rules = shared(&config.trainer, &config.lora);
    rules.extend([
        when(
            !(config.lora.use_peft && config.disable_dropout) || config.lora.lora_dropout == 0.0,
            &["lora_dropout"],
            "with disable_dropout true, which means the adapter's dropout too, as in TRL; disable_dropout false lets it act",
        ),
        when(
            objective.remedy == Remedy::Normalized,
            &["npo_scale"],
            "without remedy normalized",
        ),
        when(
            learnt,
            &[
                "mask_epsilon",
                "mask_sharpness",
                "mask_l1",
                "mask_learning_rate",
            ],
            "without token_mask head or free",
        ),
        when(
            config.trainer.geometry != Geometry::Off,
            &["update_every"],
            "with geometry off",
        ),
        when(
            config.trainer.eval_strategy != Strategy::No,
            &["eval_geometry"],
            "without eval_strategy",
        ),
        when(
            moves,
            &["ref_model_mixup_alpha", "ref_model_sync_steps"],
            "without sync_ref_model",
        ),
        when(
            !moves,
            &["precompute_ref_log_probs"],
            "with sync_ref_model: the reference moves",
        ),
    ]);
    unread("train", config, &rules)
}

/// Notes on an `sft` command.
pub(super) fn sft(config: &SftConfig) -> Vec<String> {
    let mut rules = shared(&config.trainer, &config.lora);
    rules.push(when(
        config.trainer.geometry == Geometry::Off,
        &["geometry"],
        "in sft: it relates the two completions of a pair",
    ));
    rules.push(when(
        false,
        &["gram_every"],
        "in sft: it relates the completions of pairs",
    ));
    unread("sft", config, &rules)
}

/// Notes on a `diagnose` command.
pub(super) fn diagnose(config: &DiagnoseConfig) -> Vec<String> {
    let (series, gradients) = (config.checkpoints.is_some(), !config.proxies_only);
    let one = !series && gradients;
    let rules = [
        when(
            config.objective.remedy == Remedy::Normalized,
            &["npo_scale"],
            "without remedy normalized",
        ),
        when(
            config.lora.use_peft || config.parameters == Some(Parameters::Lora),
            LORA,
            "without use_peft",
        ),
        when(config.gram, &["gram_pairs"], "without gram"),
        when(
            config.heatmap > 0 && one,
            &["heatmap_tokens", "heatmap_group"],
            "without heat maps",
        ),
        when(
            config.step_pairs > 0 && one,
            &["optim", "weight_decay", "adam_epsilon", "max_grad_norm"],
            "without steps (step_pairs)",
        ),
        when(
            !config.sweep.is_empty(),
            &["sweep_objective"],
            "without sweep",
        ),
        when(
            gradients,
            &["objectives", "sweep", "step_pairs", "heatmap"],
            "with proxies_only: they need gradients",
        ),
        when(
            !series,
            &["step_pairs", "heatmap"],
            "with checkpoints: of a series only the rows are measured",
        ),
        when(
            !config.names_a_model_in_vain(),
            &["model_name_or_path"],
            "with checkpoints, which names the models",
        ),
    ];
    unread("diagnose", config, &rules)
}

const LORA: &[&str] = &[
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "lora_modules_to_save",
    "use_rslora",
];

fn shared(options: &TrainerOptions, lora: &LoraArgs) -> Vec<Conditional> {
    let adam: (&[&str], &str) = match options.optim {
        Optim::AdamwTorch => (&[], ""),
        Optim::Lion => (&["adam_epsilon"], "with optim lion"),
        Optim::Sgd => (
            &["adam_beta1", "adam_beta2", "adam_epsilon"],
            "with optim sgd",
        ),
        Optim::Adafactor => (
            &["adam_beta1", "adam_beta2", "adam_epsilon"],
            "with optim adafactor",
        ),
    };
    vec![
        when(false, adam.0, adam.1),
        when(
            options.optim == Optim::Sgd,
            &["momentum"],
            "without optim sgd",
        ),
        when(
            options.lr_scheduler_type != LrSchedulerType::Constant,
            &["warmup_ratio", "warmup_steps"],
            "with lr_scheduler_type constant (constant_with_warmup has one)",
        ),
        when(
            options.reports_to_tensorboard(),
            &["logging_dir"],
            "without report_to tensorboard",
        ),
        when(lora.use_peft, LORA, "without use_peft"),
    ]
}

/// One note for each rule that leaves something unread.
fn unread<C: Serialize>(command: &str, config: &C, rules: &[Conditional]) -> Vec<String> {
    let (given, default) = (serde_json::to_value(config), default(command));
    let (Ok(given), Some(default)) = (given, default) else {
        return Vec::new();
    };
    let changed = |key: &&&str| given.get(**key) != default.get(**key);
    let note = |rule: &Conditional| {
        let names: Vec<&str> = rule.options.iter().filter(changed).copied().collect();
        let wanted = !rule.read && !names.is_empty();
        wanted.then(|| format!("{}: no effect {}", names.join(", "), rule.otherwise))
    };
    rules.iter().filter_map(note).collect()
}

/// A configuration in which every option has its default, but for those that have none.
fn default(command: &str) -> Option<Value> {
    let line = [
        "unbraid",
        command,
        "--model-name-or-path=m",
        "--dataset-name=d",
        "--output-dir=o",
    ];
    match Cli::try_parse_from(line).ok()?.command {
        Command::Train(config) => serde_json::to_value(&config).ok(),
        Command::Sft(config) => serde_json::to_value(&config).ok(),
        Command::Diagnose(config) => serde_json::to_value(&config).ok(),
        _ => None,
    }
}
