//! `unbraid reproduce objectives` (paper §3.3, Figures 1 and 2).

use super::super::{End, Interrupt, demo, load, output, usage};
use super::lab::{Lab, put};
use super::outcome::HeldOut;
use crate::cli::ReproduceObjectivesConfig;
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use unbraid_preference::{DatasetSource, stream_whole_rows};
use unbraid_reproduce::objectives::{Arm, ObjectivesPlan, TABLE_2, claims, qkv_modules};
use unbraid_reproduce::{ArmResult, REMEDIES, Results, RunResult};
use unbraid_tensor::Backend;

/// Training rows beyond those that the steps need: a few have a blank side and are dropped.
const SPARE_ROWS: usize = 16;

/// Runs the experiment.
pub(super) fn run(config: &ReproduceObjectivesConfig, interrupt: &Interrupt) -> Result<End> {
    let arms = arms(config)?;
    let mut plan = plan(config);
    let lab = Lab::open(&config.options, &settings(config, &plan)?, interrupt)?;
    let (model, dataset) = material(&lab, config)?;
    let source = load::open(&model, None)?;
    let tokenizer = load::source_tokenizer(&source)?;
    let loaded = load::model(&source)?;
    plan.target_modules = qkv_modules(loaded.config.model_type()).into();
    let (train, held_out, facts) = split(&lab, &dataset, &plan)?;
    let mut results = Results {
        kind: "objectives".into(),
        command: output::command_line(),
        version: env!("CARGO_PKG_VERSION").into(),
        machine: loaded.backend.describe(),
        model: model.clone(),
        parameters: loaded.params.count(),
        deviations: plan.deviations(&format!("{model} and {dataset}")),
        facts,
        arms: lab.earlier_arms(),
        claims: Vec::new(),
        heat_maps: Vec::new(),
    };
    drop((loaded, source));
    let files = (&*held_out, config.max_length);
    let measured = HeldOut::new(&model, files, &[], 0, &tokenizer)?;
    let recipe = plan
        .recipe()
        .with("model_name_or_path", &model)
        .with("dataset_name", train.display())
        .with("eval_dataset", held_out.display());

    let total = arms.len() * plan.seeds.len();
    let mut count = 0;
    for arm in arms {
        let mut runs: Vec<RunResult> = Vec::new();
        for &seed in &plan.seeds {
            count += 1;
            eprintln!("\n== run {count} of {total}: {}, seed {seed}", arm.name);
            let dir = format!("{}/seed-{seed}", arm.name);
            if let Some(done) = lab.done(&dir, seed)? {
                eprintln!("done before");
                runs.push(done);
                continue;
            }
            let recipe = recipe.clone().and(&arm.recipe()).with("seed", seed);
            let Some(seconds) = lab.train("train", &dir, &recipe)? else {
                lab.say(&results)?;
                return Ok(End::Interrupted);
            };
            let outcome = measured.outcome(&lab.path(&dir))?;
            runs.push(lab.finish(&dir, seed, seconds, outcome)?);
        }
        let arm = ArmResult {
            name: arm.name,
            style: None,
            objective: arm.objective,
            remedy: arm.remedy,
            runs,
        };
        put(&mut results.arms, arm);
        results.claims = claims(&results.arms);
        lab.write(&results)?;
    }
    lab.say(&results)?;
    Ok(End::Done)
}

fn arms(config: &ReproduceObjectivesConfig) -> Result<Vec<Arm>> {
    if config.arms.is_empty() {
        return Ok(Arm::all());
    }
    let named = |name: &String| {
        Arm::named(name).ok_or_else(|| {
            let known = TABLE_2.iter().chain(&REMEDIES).copied().collect::<Vec<_>>();
            usage(format!("arms: {name} is none of {}", known.join(", ")))
        })
    };
    config.arms.iter().map(named).collect()
}

/// The extent that the options ask for.
fn plan(config: &ReproduceObjectivesConfig) -> ObjectivesPlan {
    let options = &config.options;
    let mut plan = match options.quick {
        true => ObjectivesPlan::quick(),
        false => ObjectivesPlan::standard(),
    };
    if !options.seeds.is_empty() {
        plan.seeds.clone_from(&options.seeds);
    }
    plan.steps = options.max_steps.unwrap_or(plan.steps);
    plan.eval_steps = plan.eval_steps.min(plan.steps);
    plan.held_out = options.held_out.unwrap_or(plan.held_out);
    plan.measured = options.measured.unwrap_or(plan.measured);
    plan.rate = options.learning_rate.unwrap_or(plan.rate);
    plan.batch = options.per_device_train_batch_size.unwrap_or(plan.batch);
    let limit = config.max_length.0;
    plan.max_length = limit.map_or_else(|| "none".into(), |tokens| tokens.to_string());
    plan
}

/// What must be the same when the experiment goes on.
fn settings(
    config: &ReproduceObjectivesConfig,
    plan: &ObjectivesPlan,
) -> Result<Map<String, Value>> {
    let mut all = Map::new();
    all.insert("experiment".into(), "objectives".into());
    all.insert(
        "model_name_or_path".into(),
        json!(config.model_name_or_path),
    );
    all.insert("dataset_name".into(), json!(config.dataset_name));
    let Value::Object(plan) = serde_json::to_value(plan)? else {
        unreachable!("a plan is a struct");
    };
    all.extend(plan.into_iter().filter(|(key, _)| key != "seeds"));
    Ok(all)
}

/// Model and data: those that are given; of a quick experiment without, the demo's.
fn material(lab: &Lab<'_>, config: &ReproduceObjectivesConfig) -> Result<(String, String)> {
    match (&config.model_name_or_path, &config.dataset_name) {
        (Some(model), Some(data)) => Ok((model.clone(), data.clone())),
        (None, None) if config.options.quick => {
            let dir = lab.path("demo");
            demo::lay_out(&dir)?;
            let path = |name: &str| dir.join(name).display().to_string();
            Ok((path("model"), path("data/train.jsonl")))
        }
        _ => bail_usage!(
            "--model-name-or-path and --dataset-name are needed\n\
             hint: without both, --quick takes the demo's model and pairs"
        ),
    }
}

/// Writes the rows for training and the held-out ones: the first and the last of the data set.
fn split(
    lab: &Lab<'_>,
    name: &str,
    plan: &ObjectivesPlan,
) -> Result<(PathBuf, PathBuf, Vec<String>)> {
    let dir = lab.path("data");
    let (train, held_out) = (dir.join("train.jsonl"), dir.join("held-out.jsonl"));
    let source = DatasetSource {
        name: name.to_owned(),
        split: "train".into(),
        ..DatasetSource::default()
    };
    let rows = stream_whole_rows(&source)?.map(|row| row.map(|row| row.columns));
    let rows: Vec<_> = rows.collect::<Result<_, _>>()?;
    let Some(rest) = rows
        .len()
        .checked_sub(plan.held_out)
        .filter(|&rest| rest > 0)
    else {
        bail!(
            "{name}: has {} rows, and {} are to be held out\nhint: lower --held-out",
            rows.len(),
            plan.held_out
        );
    };
    let wanted = (plan.steps * plan.batch + SPARE_ROWS).min(rest);
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    write_once(&train, &rows[..wanted])?;
    write_once(&held_out, &rows[rest..])?;
    let facts = vec![format!(
        "The first {wanted} rows of {} are for training, the last {} are held out; held-out text is their prompts.",
        rows.len(),
        plan.held_out
    )];
    Ok((train, held_out, facts))
}

fn write_once<T: serde::Serialize>(path: &Path, rows: &[T]) -> Result<()> {
    match path.is_file() {
        true => Ok(()),
        false => output::write_jsonl(path, rows),
    }
}
