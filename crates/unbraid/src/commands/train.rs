//! `unbraid train`: preference training.

use super::load::{self, Cpu};
use super::{End, Interrupt, output, progress, training};
use crate::cli::{ObjectiveArgs, Semantics, Strategy, TrainConfig};
use anyhow::{Context, Result};
use unbraid_model::LanguageModel;
use unbraid_objective::{Objective, ObjectiveOptions, describe};
use unbraid_preference::{TokenizedDataset, TokenizedPair, data_fingerprint};
use unbraid_tensor::Backend;
use unbraid_train::{PreferenceTask, ReferenceLogps, TrainingPlan, score_pairs};

/// The objective that the options name.
fn objective(args: &ObjectiveArgs) -> Result<Objective> {
    let options = ObjectiveOptions {
        beta: args.beta,
        label_smoothing: (args.label_smoothing > 0.0).then_some(args.label_smoothing),
        simpo_gamma: args.simpo_gamma,
        cpo_alpha: args.cpo_alpha,
        rpo_alpha: args.rpo_alpha,
        reference_free: args.reference_free.then_some(true),
        semantics: match args.semantics {
            Semantics::Paper => unbraid_objective::Semantics::Paper,
            Semantics::Trl => unbraid_objective::Semantics::Trl,
        },
        ..ObjectiveOptions::default()
    };
    Ok(Objective::from_names(
        &args.loss_type,
        &args.loss_weights,
        &options,
    )?)
}

/// β of the implicit rewards: the objective's own.
fn reward_beta(args: &ObjectiveArgs) -> f64 {
    let default = |name: &String| {
        let description = describe(name)?;
        let (_, value, _) = description
            .defaults
            .iter()
            .find(|(key, ..)| *key == "beta")?;
        value.parse().ok()
    };
    args.beta
        .or_else(|| args.loss_type.iter().find_map(default))
        .unwrap_or(0.1)
}

/// Trains as `config` says.
pub(super) fn run(config: &TrainConfig, interrupt: &Interrupt) -> Result<End> {
    let options = &config.trainer;
    load::check_machine(&config.model, options.bf16)?;
    let objective = objective(&config.objective)?;
    let source = load::open(&config.model.model_name_or_path)?;
    let tokenizer = load::tokenizer(&source.path, Some(&source.weights))?;
    let data = &config.data;
    let train = load::pairs(
        &data.dataset_name,
        &data.dataset_train_split,
        data,
        &tokenizer,
    )?;
    let eval = match (options.eval_strategy, &options.eval_dataset) {
        (Strategy::No, _) => None,
        (_, Some(name)) => Some(load::pairs(
            name,
            &data.dataset_test_split,
            data,
            &tokenizer,
        )?),
        (_, None) => {
            let (name, split) = (&data.dataset_name, &data.dataset_test_split);
            Some(load::pairs(name, split, data, &tokenizer)?)
        }
    };
    let mut model = load::model(&source)?;
    let generation = source.generation_config();
    let fingerprint = source.weights.fingerprint()?;
    drop(source); // the mapped file would count as memory for the whole run
    let eval_pairs = eval.as_ref().map_or(&[][..], |e| &e.pairs);
    load::check_fits(
        &model.config,
        load::pair_ids(train.pairs.iter().chain(eval_pairs)),
    )?;
    output::prepare_dir(&options.output_dir, options.overwrite_output_dir)?;

    let lengths = train
        .pairs
        .iter()
        .map(|p| p.chosen.ids.len().max(p.rejected.ids.len()));
    let plan = training::plan(options, config.model.seed, lengths.collect());
    let Some((train_reference, eval_reference)) = references(
        config,
        &objective,
        &model,
        (&train, eval_pairs),
        &plan,
        interrupt,
    )?
    else {
        eprintln!("interrupted before the first step");
        return Ok(End::Interrupted);
    };
    write_run_yaml(config, fingerprint, &model, &train)?;
    let mut task = PreferenceTask::new(
        &train.pairs,
        train_reference,
        eval_pairs,
        eval_reference,
        objective,
        reward_beta(&config.objective),
        training::keep(options),
    );
    let common = (options, &config.model);
    let beside = (&tokenizer, generation.as_deref());
    training::run(&mut model, &mut task, &plan, common, beside, interrupt)
}

fn write_run_yaml(
    config: &TrainConfig,
    model_fingerprint: String,
    model: &LanguageModel<Cpu>,
    train: &TokenizedDataset,
) -> Result<()> {
    let facts = [
        ("machine", model.backend.describe()),
        ("model_fingerprint", model_fingerprint),
        ("data_fingerprint", data_fingerprint(train)),
        ("parameters", model.params.count().to_string()),
        ("pairs", train.pairs.len().to_string()),
    ];
    output::write_run_yaml(&config.trainer.output_dir, config, &facts)
}

/// Reference log-probs of the pairs that the run will see; `None` when the user stopped it.
///
/// The reference is frozen, so each pair is scored once, before the first step, while the policy still is the
/// reference (or with the reference model, which is then dropped).
fn references(
    config: &TrainConfig,
    objective: &Objective,
    policy: &LanguageModel<Cpu>,
    (train, eval): (&TokenizedDataset, &[TokenizedPair]),
    plan: &TrainingPlan,
    interrupt: &Interrupt,
) -> Result<Option<(Vec<ReferenceLogps>, Vec<ReferenceLogps>)>> {
    let mut train_reference = vec![ReferenceLogps::default(); train.pairs.len()];
    let mut eval_reference = vec![ReferenceLogps::default(); eval.len()];
    if config.objective.reference_free || !objective.needs_reference() {
        // As in TRL's trainers without a reference: rewards are β·log π.
        return Ok(Some((train_reference, eval_reference)));
    }
    let loaded = match &config.ref_model {
        Some(name) => {
            let source = load::open(name).context("--ref-model")?;
            Some(load::model(&source).context("--ref-model")?)
        }
        None => None,
    };
    let reference = loaded.as_ref().unwrap_or(policy);
    load::check_fits(
        &reference.config,
        load::pair_ids(train.pairs.iter().chain(eval)),
    )?;
    let touched = plan.sampler.touched(plan.total);
    let pairs: Vec<&TokenizedPair> = touched
        .iter()
        .map(|&i| &train.pairs[i])
        .chain(eval)
        .collect();
    let bar = progress::bar("reference", pairs.len() as u64);
    let scored = score_pairs(reference, &pairs, |done| {
        bar.set_position(done as u64);
        !interrupt.pressed()
    });
    bar.finish_and_clear();
    if scored.len() < pairs.len() {
        return Ok(None);
    }
    let (first, rest) = scored.split_at(touched.len());
    for (&i, s) in touched.iter().zip(first) {
        train_reference[i] = s.into();
    }
    for (r, s) in eval_reference.iter_mut().zip(rest) {
        *r = s.into();
    }
    Ok(Some((train_reference, eval_reference)))
}
