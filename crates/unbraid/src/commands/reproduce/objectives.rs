//! `unbraid reproduce objectives` (paper §3.3, Figures 1 and 2).

use super::super::{End, Interrupt, demo, load, output, usage};
use super::lab::{Lab, put};
use super::outcome::HeldOut;
use crate::cli::ReproduceObjectivesConfig;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use unbraid_preference::{DatasetSource, stream_whole_rows};
use unbraid_reproduce::objectives::{Arm, ObjectivesPlan, TABLE_2, claims, qkv_modules};
use unbraid_reproduce::{ArmResult, REMEDIES, Results, RunResult};
use unbraid_tensor::Backend;

/// The model where none is given.
const MODEL: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";
/// Data set and its directory where none is given.
const DATA: (&str, &str) = ("Anthropic/hh-rlhf", "helpful-base");
/// Training rows beyond those that the steps need: a few have a blank side and are dropped.
const SPARE_ROWS: usize = 16;

/// Runs the experiment.
pub(super) fn run(config: &ReproduceObjectivesConfig, interrupt: &Interrupt) -> Result<End> {
    let arms = arms(config)?;
    let mut plan = plan(config);
    let names = json!({
        "experiment": "objectives",
        "model_name_or_path": config.model_name_or_path,
        "dataset_name": config.dataset_name,
    });
    let lab = Lab::open(&config.options, (&names, &plan), interrupt)?;
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
        deviations: plan.deviations(&format!("{model} and {}", dataset.name)),
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

    let total = arms.len() * plan.extent.seeds.len();
    let mut count = 0;
    for arm in arms {
        let mut runs: Vec<RunResult> = Vec::new();
        for &seed in &plan.extent.seeds {
            count += 1;
            say!("\n== run {count} of {total}: {}, seed {seed}", arm.name);
            let dir = format!("{}/seed-{seed}", arm.name);
            if let Some(done) = lab.done(&dir, seed)? {
                say!("done before");
                runs.push(done);
                continue;
            }
            let recipe = recipe.clone().and(&arm.recipe()).with("seed", seed);
            let Some(seconds) = lab.train("train", &dir, &recipe)? else {
                return lab.say(&results, End::Interrupted);
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
    lab.say(&results, End::Done)
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
    let mut plan = match config.options.quick {
        true => ObjectivesPlan::quick(),
        false => ObjectivesPlan::standard(),
    };
    config.options.choose(&mut plan.extent);
    let limit = config.max_length.0;
    plan.max_length = limit.map_or_else(|| "none".into(), |tokens| tokens.to_string());
    plan
}

/// Model and data: those that are given; of a quick experiment without any, the demo's.
fn material(lab: &Lab<'_>, config: &ReproduceObjectivesConfig) -> Result<(String, DatasetSource)> {
    let source = |name: String, directory: Option<&str>| DatasetSource {
        name,
        config: directory.map(str::to_owned),
        split: "train".into(),
        ..DatasetSource::default()
    };
    let (model, data) = (&config.model_name_or_path, &config.dataset_name);
    if config.options.quick && model.is_none() && data.is_none() {
        let dir = lab.path("demo");
        demo::lay_out(&dir)?;
        let path = |name: &str| dir.join(name).display().to_string();
        return Ok((path("model"), source(path("data/train.jsonl"), None)));
    }
    let model = model.clone().unwrap_or_else(|| MODEL.into());
    let data = match data {
        Some(name) => source(name.clone(), None),
        None => source(DATA.0.into(), Some(DATA.1)),
    };
    Ok((model, data))
}

/// Writes the rows for training and the held-out ones: the first and the last of the data set.
fn split(
    lab: &Lab<'_>,
    source: &DatasetSource,
    plan: &ObjectivesPlan,
) -> Result<(PathBuf, PathBuf, Vec<String>)> {
    let dir = lab.path("data");
    let (train, held_out) = (dir.join("train.jsonl"), dir.join("held-out.jsonl"));
    let rows = stream_whole_rows(source)?.map(|row| row.map(|row| row.columns));
    let rows: Vec<_> = rows.collect::<Result<_, _>>()?;
    let Some(rest) = rows
        .len()
        .checked_sub(plan.extent.held_out)
        .filter(|&rest| rest > 0)
    else {
        bail!(
            "{}: has {} rows, and {} are to be held out\nhint: lower --held-out",
            source.name,
            rows.len(),
            plan.extent.held_out
        );
    };
    let wanted = (plan.extent.steps * plan.extent.batch + SPARE_ROWS).min(rest);
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    write_once(&train, &rows[..wanted])?;
    write_once(&held_out, &rows[rest..])?;
    let facts = vec![format!(
        "The first {wanted} rows of {} are for training, the last {} are held out; held-out text is their prompts.",
        rows.len(),
        plan.extent.held_out
    )];
    Ok((train, held_out, facts))
}

fn write_once<T: serde::Serialize>(path: &Path, rows: &[T]) -> Result<()> {
    match path.is_file() {
        true => Ok(()),
        false => output::write_jsonl(path, rows),
    }
}
