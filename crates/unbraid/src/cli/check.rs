//! Checks of options that must agree with each other. What one value must be, its value parser says.

use std::path::Path;

use super::commands::{Command, GenerateConfig, SftConfig, TrainConfig, TrainerOptions};
use super::compat;
use super::error::CliError;
use super::values::Strategy;

/// Checks a parsed command; gives notes on settings without effect.
///
/// # Errors
/// [`CliError::Conflict`] or [`CliError::Missing`].
pub(super) fn check(command: &Command) -> Result<Vec<String>, CliError> {
    match command {
        Command::Train(config) => train(config),
        Command::Sft(config) => sft(config),
        Command::Generate(config) => generate(config),
        _ => Ok(Vec::new()),
    }
}

fn conflict<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T, CliError> {
    Err(CliError::Conflict {
        message: message.into(),
        hint: hint.into(),
    })
}

fn train(config: &TrainConfig) -> Result<Vec<String>, CliError> {
    let objective = &config.objective;
    let (types, weights) = (objective.loss_type.len(), objective.loss_weights.len());
    if weights != 0 && weights != types {
        return conflict(
            format!("loss_weights has {weights} entries, loss_type has {types}"),
            "give one weight for each loss type, or no weights",
        );
    }
    if let Some(reference) = config
        .ref_model
        .as_ref()
        .filter(|_| objective.reference_free)
    {
        return conflict(
            format!("reference_free leaves the reference out, but ref_model is {reference}"),
            "give one of the two",
        );
    }
    trainer(&config.trainer, &config.data.dataset_name)
}

fn sft(config: &SftConfig) -> Result<Vec<String>, CliError> {
    if config.packing && config.data.max_length.0.is_none() {
        return conflict(
            "packing fills sequences up to max_length, which is none",
            "give max_length",
        );
    }
    trainer(&config.trainer, &config.data.dataset_name)
}

fn trainer(options: &TrainerOptions, dataset: &str) -> Result<Vec<String>, CliError> {
    let evaluates = options.eval_strategy != Strategy::No;
    if evaluates && options.eval_dataset.is_none() && is_single_file(dataset) {
        return conflict(
            format!(
                "evaluation is on (eval_strategy), but {dataset} is one file without a split to evaluate on"
            ),
            "give held-out examples with --eval-dataset FILE, or --eval-strategy no",
        );
    }
    if options.load_best_model_at_end
        && (!evaluates || options.eval_strategy != options.save_strategy)
    {
        return conflict(
            "load_best_model_at_end needs an evaluation for each checkpoint",
            "set eval_strategy and save_strategy to the same value, steps or epoch",
        );
    }
    let mut notes = Vec::new();
    if let Some(dataset) = options.eval_dataset.as_ref().filter(|_| !evaluates) {
        notes.push(format!(
            "eval_dataset {dataset} is not read: eval_strategy is no"
        ));
    }
    let elsewhere = options.report_to.iter().filter(|name| {
        !name.eq_ignore_ascii_case("none") && !compat::TRACKERS.contains(&name.as_str())
    });
    let elsewhere: Vec<_> = elsewhere.map(String::as_str).collect();
    if !elsewhere.is_empty() {
        notes.push(format!(
            "no tracking to {}: metrics are in metrics.jsonl of the output directory",
            elsewhere.join(", ")
        ));
    }
    Ok(notes)
}

fn generate(config: &GenerateConfig) -> Result<Vec<String>, CliError> {
    match (config.prompt.is_empty(), &config.dataset_name) {
        (true, None) => {
            let (what, hint) = (
                "--prompt or --dataset-name",
                "unbraid generate --model-name-or-path MODEL --prompt TEXT",
            );
            Err(CliError::Missing {
                what: what.into(),
                hint: hint.into(),
            })
        }
        (false, Some(dataset)) => conflict(
            format!("prompts come from --prompt or from --dataset-name {dataset}, not from both"),
            "give one of the two",
        ),
        _ if !config.do_sample && (config.temperature, config.top_p) != (1.0, 1.0) => Ok(vec![
            "temperature and top_p have no effect without do_sample".into(),
        ]),
        _ => Ok(Vec::new()),
    }
}

/// Whether a data set's name says that it is one file, compressed or not.
fn is_single_file(dataset: &str) -> bool {
    let name = dataset
        .strip_suffix(".gz")
        .or(dataset.strip_suffix(".zst"))
        .unwrap_or(dataset);
    let extension = Path::new(name).extension().and_then(|ext| ext.to_str());
    matches!(extension, Some("jsonl" | "json" | "parquet" | "csv"))
}
