//! Checks of options that must agree with each other. What one value must be, its value parser says.

use std::path::Path;

use super::commands::{
    Command, DiagnoseConfig, GenerateConfig, NO_DATA, ObjectiveArgs, PlanConfig, SftConfig,
    TrainConfig, TrainerOptions,
};
use super::compat;
use super::error::CliError;
use super::notes;
use super::values::{KeyValues, Optim, Parameters, Steps, Strategy, below_one};
use unbraid_train::ScheduleKind;

/// Checks a parsed command; gives notes on settings without effect.
///
/// # Errors
/// [`CliError::Conflict`] or [`CliError::Missing`].
pub(super) fn check(command: &Command) -> Result<Vec<String>, CliError> {
    match command {
        Command::Train(config) => train(config),
        Command::Plan(config) => plan(config),
        Command::Sft(config) => sft(config),
        Command::Generate(config) => generate(config),
        Command::Diagnose(config) => diagnose(config),
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
    objective(&config.objective, config.ref_model.as_deref())?;
    let mut all = trainer(&config.trainer, &config.data.dataset_name)?;
    all.append(&mut notes::train(config));
    Ok(all)
}

/// A plan takes what `train` takes; where lengths come from must be clear.
fn plan(config: &PlanConfig) -> Result<Vec<String>, CliError> {
    let has_data = config.run.data.dataset_name != NO_DATA;
    match (has_data, config.pairs) {
        (true, Some(pairs)) => conflict(
            format!("lengths come from dataset_name or from pairs ({pairs}), not from both"),
            "give one of the two",
        ),
        (false, None) => Err(CliError::Missing {
            what: "--dataset-name or --pairs".into(),
            hint: "--dataset-name DATA, or --pairs N --prompt-tokens P --completion-tokens C"
                .into(),
        }),
        _ => train(&config.run),
    }
}

/// What `train` and `diagnose` ask of an objective.
fn objective(objective: &ObjectiveArgs, ref_model: Option<&str>) -> Result<(), CliError> {
    let (types, weights) = (objective.loss_type.len(), objective.loss_weights.len());
    if weights != 0 && weights != types {
        return conflict(
            format!("loss_weights has {weights} entries, loss_type has {types}"),
            "give one weight for each loss type, or no weights",
        );
    }
    if weights != 0 && objective.loss_weights.iter().all(|&weight| weight == 0.0) {
        return conflict(
            "loss_weights are all 0: nothing would be trained",
            "give at least one weight other than 0",
        );
    }
    if let Some(reference) = ref_model.filter(|_| objective.reference_free) {
        return conflict(
            format!("reference_free leaves the reference out, but ref_model is {reference}"),
            "give one of the two",
        );
    }
    Ok(())
}

fn diagnose(config: &DiagnoseConfig) -> Result<Vec<String>, CliError> {
    objective(&config.objective, config.ref_model.as_deref())?;
    if config.parameters == Some(Parameters::All) && config.lora.use_peft {
        return conflict(
            "parameters all measures the whole model, and use_peft attaches an adapter to it",
            "give one of the two",
        );
    }
    export(config)?;
    if let Some(dir) = &config.checkpoints {
        let one_model = [
            ("export_filtered", config.export_filtered.is_some()),
            ("gram", config.gram),
            ("proxies_only", config.proxies_only),
            ("use_peft", config.lora.use_peft),
        ];
        if let Some((option, _)) = one_model.iter().find(|(_, given)| *given) {
            return conflict(
                format!(
                    "{option} is for one model, and checkpoints names a series ({})",
                    dir.display()
                ),
                "leave one of the two out",
            );
        }
    }
    if config.proxies_only && config.gram {
        return conflict(
            "gram needs gradients, and proxies_only measures none",
            "leave one of the two out",
        );
    }
    Ok(notes::diagnose(config))
}

/// What is exported of a diagnosis, and by which number.
fn export(config: &DiagnoseConfig) -> Result<(), CliError> {
    let (file, quantile) = (&config.export_filtered, config.keep_below);
    if file.is_some() != quantile.is_some() || (file.is_none() && config.filter_by.is_some()) {
        return conflict(
            "export_filtered and keep_below go together: where to write, and what share to keep",
            "--export-filtered kept.jsonl --keep-below 0.5",
        );
    }
    if let Some(file) = file {
        let name = file.to_string_lossy().to_ascii_lowercase();
        if !(name.ends_with(".jsonl") || name.ends_with(".jsonl.gz")) {
            return conflict(
                format!("export_filtered writes JSON lines, not {}", file.display()),
                "give a name that ends in .jsonl or .jsonl.gz",
            );
        }
    }
    let Some(field) = &config.filter_by else {
        return Ok(());
    };
    let gradients = unbraid_diagnose::GRADIENT_FIELDS;
    let there = |name: &&str| !(config.proxies_only && gradients.contains(name));
    let known: Vec<&str> = unbraid_diagnose::FIELDS.into_iter().filter(there).collect();
    if !known.contains(&field.as_str()) {
        return conflict(
            format!("filter_by {field} is no number of a row"),
            format!("one of {}", known.join(", ")),
        );
    }
    Ok(())
}

fn sft(config: &SftConfig) -> Result<Vec<String>, CliError> {
    if config.packing && config.data.max_length.0.is_none() {
        return conflict(
            "packing fills sequences up to max_length, which is none",
            "give max_length",
        );
    }
    let mut all = trainer(&config.trainer, &config.data.dataset_name)?;
    all.append(&mut notes::sft(config));
    Ok(all)
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
    best_model(options)?;
    optimizer(options)?;
    let mut notes = Vec::new();
    if let Some(dataset) = options.eval_dataset.as_ref().filter(|_| !evaluates) {
        notes.push(format!(
            "eval_dataset {dataset} is not read: eval_strategy is no"
        ));
    }
    let elsewhere = options.report_to.iter().filter(|name| {
        !name.eq_ignore_ascii_case("none")
            && !compat::TRACKERS
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known))
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

/// The best checkpoint can be known only if each checkpoint has an evaluation, as transformers demands too.
fn best_model(options: &TrainerOptions) -> Result<(), CliError> {
    if !options.load_best_model_at_end {
        return Ok(());
    }
    let (evaluates, saves) = (options.eval_strategy, options.save_strategy);
    if evaluates == Strategy::No || evaluates != saves {
        return conflict(
            "load_best_model_at_end needs an evaluation for each checkpoint",
            "set eval_strategy and save_strategy to the same value, steps or epoch",
        );
    }
    let (Steps(save), Steps(evaluate)) = (options.save_steps, options.eval_interval());
    let multiple = (save / evaluate - (save / evaluate).round()).abs() < 1e-9;
    let alike = (save < 1.0) == (evaluate < 1.0);
    if saves == Strategy::Steps && !(multiple && alike) {
        return conflict(
            format!(
                "load_best_model_at_end needs an evaluation for each checkpoint, but save_steps is {save} and \
                 eval_steps {evaluate}"
            ),
            "set save_steps to a multiple of eval_steps",
        );
    }
    Ok(())
}

/// What names and arguments of optimizer and schedule mean, which their crate knows.
fn optimizer(options: &TrainerOptions) -> Result<(), CliError> {
    let nothing = KeyValues::default();
    let given = &options.lr_scheduler_kwargs.as_ref().unwrap_or(&nothing).0;
    let name = options.lr_scheduler_type.name();
    if let Err(reason) = ScheduleKind::from_name(&name, given, options.learning_rate) {
        return conflict(
            format!("lr_scheduler_kwargs: {reason}"),
            "the arguments are those of transformers' schedules",
        );
    }
    let known = if options.optim == Optim::Sgd {
        "momentum"
    } else {
        ""
    };
    for (key, value) in &options.optim_args.as_ref().unwrap_or(&nothing).0 {
        if key != known {
            return conflict(
                format!(
                    "optim_args: {key} is not an argument of {:?} here",
                    options.optim
                ),
                "known: momentum of sgd; Adam's and Lion's settings are options of their own",
            );
        }
        if below_one(value).is_err() {
            return conflict(
                format!(
                    "optim_args: {key} is {value:?}, expected a number from 0 up to, but not including, 1"
                ),
                "for example momentum=0.9",
            );
        }
    }
    Ok(())
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
