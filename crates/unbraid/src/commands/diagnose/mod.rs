//! `unbraid diagnose`: what a model's gradients say of preference pairs, before a training run is spent.
//!
//! | step | module |
//! |---|---|
//! | objectives, sweeps, optimizer from the options | `setup` |
//! | the pairs: counted and checked, then batch by batch | `data` |
//! | the model whose gradients are taken, the reference | `policy` |
//! | what is there already, and whether it is this diagnosis | `resume` |
//! | rows: log-probs, gradients, what-if table, steps | `stream` |
//! | summary, heat maps, Gram matrix, report; rows worth keeping | `finish`, `export` |
//! | the same over a run's checkpoints | `series` |
//!
//! Everything after the rows is a function of the rows and the model, so an interrupted diagnosis repeats it.

mod data;
mod export;
mod finish;
mod policy;
mod resume;
mod series;
mod setup;
mod stream;

use super::load::{self, Source};
use super::lock::DirLock;
use super::{End, Interrupt, end_with, output};
use crate::cli::{DiagnoseConfig, Parameters};
use crate::commands::device::Machine;
use anyhow::{Context, Result, bail};
use data::{Data, Survey};
use export::Filter;
use policy::Reference;
use resume::{Identity, Start};

pub(super) use resume::is_complete;
use serde::Serialize;
use serde_json::{Map, Value};
use setup::Plan;
use std::path::Path;
use stream::{Measuring, Progress};
use unbraid_cuda::Precision;
use unbraid_diagnose::Facts;
use unbraid_model::{LanguageModel, ModelConfig};
use unbraid_tensor::Backend as _;

/// Diagnoses as `config` says.
pub(super) fn run(config: &DiagnoseConfig, interrupt: &Interrupt) -> Result<End> {
    load::check_machine(&config.model, Precision::Float32)?;
    let plan = Plan::new(config)?;
    match &config.checkpoints {
        Some(dir) => series::run(config, dir, &plan, interrupt),
        None => single(config, &plan, interrupt),
    }
}

/// One model.
fn single(config: &DiagnoseConfig, plan: &Plan, interrupt: &Interrupt) -> Result<End> {
    let name = &config.model.model_name_or_path;
    let source = load::open(name, config.model.base_model.as_deref())?;
    let tokenizer = load::source_tokenizer(&source)?;
    let data = Data {
        args: &config.data,
        tokenizer: &tokenizer,
    };
    let survey = data.survey(&ModelConfig::for_weights(&source.weights)?)?;
    let parameters = policy::parameters(config, &source);
    let dir = &config.output_dir;
    let _lock = DirLock::take(dir)?;
    let facts = run_facts(config, &source, &survey, parameters)?;
    let identity = identity(config, &facts)?;
    let start = resume::start(dir, &identity, config.overwrite_output_dir)?;
    if start == Start::Complete && !asks_for_more(config, &survey) {
        return Err(resume::refuse_complete(dir));
    }
    check_export(config)?;
    let Some((mut model, reference)) =
        model_and_reference(config, &source, parameters, &data, &survey, interrupt)?
    else {
        return Ok(interrupted(0, survey.pairs));
    };
    policy::check_groups(&model, &config.heatmap_group)?;
    resume::sign(dir, &identity, config.overwrite_output_dir)?;
    write_run_yaml(config, &facts, &survey, &model)?;
    let reference_name = reference_name(config, &source, &reference);
    let names = (
        name.as_str(),
        reference_name.as_deref(),
        config.data.dataset_name.as_str(),
    );
    drop(source); // its files need not stay open

    let measuring = Measuring {
        dir,
        data: &data,
        survey: &survey,
        plan,
        reference: &reference,
        proxies_only: config.proxies_only,
        texts: true,
        step_pairs: if config.learning_rate > 0.0 {
            config.step_pairs
        } else {
            0
        },
        batch_tokens: config.batch_tokens,
        interrupt,
    };
    let _stops = interrupt.stops_itself();
    let progress = measuring.run(&mut model)?;
    let facts = finish::facts(plan, names, label(parameters), &model);
    finish_single(config, &measuring, &model, progress, facts)
}

/// Everything that follows from the rows.
fn finish_single(
    config: &DiagnoseConfig,
    measuring: &Measuring<'_>,
    model: &LanguageModel<Machine>,
    progress: Progress,
    mut facts: Facts,
) -> Result<End> {
    let (dir, data, plan) = (measuring.dir, measuring.data, measuring.plan);
    let rows_file = dir.join(measuring.file());
    let rows = finish::gather(&rows_file, plan)?;
    let mut complete = progress.complete;
    let gradients = !config.proxies_only;
    let maps = finish::Maps {
        count: config.heatmap,
        tokens: config.heatmap_tokens,
        groups: &config.heatmap_group,
    };
    let mut mapped = Vec::new();
    if complete && gradients {
        let drawn = finish::heat_maps(dir, &rows, &maps, (model, data), measuring.interrupt)?;
        complete = drawn.complete;
        facts.heatmap_seconds = drawn.seconds;
        mapped = drawn.indices;
    }
    if complete && config.gram {
        finish::gram(dir, config.gram_pairs, &rows_file, plan, (model, data))?;
    }
    if let Some(path) = config.export_filtered.as_ref().filter(|_| complete) {
        let default = if gradients {
            "grad_cosine"
        } else {
            "ches_normalized"
        };
        let filter = Filter {
            field: config.filter_by.as_deref().unwrap_or(default),
            keep_below: config.keep_below.unwrap_or(1.0),
        };
        export::export(path, &filter, &rows, data)?;
    }
    facts.complete = complete;
    let seconds = progress.seconds_per_pair;
    facts.seconds_per_pair = seconds.or_else(|| resume::earlier_seconds(dir));
    facts.peak_memory_bytes = finish::peak_memory();
    let drawn = if complete { mapped } else { Vec::new() };
    let summary = finish::write_summary(dir, &rows.finish(facts, drawn))?;
    let report = finish::report(dir, unbraid_report::write_diagnosis_report);
    if config.json {
        output::print(&summary)?;
    }
    let end = match complete {
        true => End::Done,
        false => interrupted(rows.pairs(), measuring.survey.pairs),
    };
    end_with(end, report)
}

fn interrupted(done: usize, total: usize) -> End {
    say!("interrupted: {done} of {total} pairs are measured; the same command goes on from there");
    End::Interrupted
}

fn label(parameters: Parameters) -> &'static str {
    match parameters {
        Parameters::All => "all",
        Parameters::Lora => "lora",
    }
}

/// The policy as it is measured, and the reference's log-probs; `None` when the user stopped it.
fn model_and_reference(
    config: &DiagnoseConfig,
    source: &Source,
    parameters: Parameters,
    data: &Data<'_>,
    survey: &Survey,
    interrupt: &Interrupt,
) -> Result<Option<(LanguageModel<Machine>, Reference)>> {
    // Another model is scored and gone before the policy comes.
    let mut reference = match &config.ref_model {
        _ if config.objective.reference_free => Some(Reference::None),
        Some(name) => {
            let scored = policy::score_with(name, data, survey, interrupt);
            scored.context("--ref-model")?
        }
        None => Some(Reference::Policy),
    };
    if reference.is_none() {
        return Ok(None);
    }
    let mut model = policy::load(config, source, parameters)?;
    if let (Some(Reference::Policy), Some(_)) = (&reference, &source.adapter) {
        reference = policy::score_base(&mut model, source, data, survey, interrupt)?;
    }
    policy::prepare(&mut model, source, parameters);
    Ok(reference.map(|reference| (model, reference)))
}

fn reference_name(
    config: &DiagnoseConfig,
    source: &Source,
    reference: &Reference,
) -> Option<String> {
    match (reference, &config.ref_model) {
        (Reference::None, _) => None,
        (_, Some(name)) => Some(name.clone()),
        (Reference::Known(_), None) => Some(source.base_name.clone()),
        (Reference::Policy, None) => Some(config.model.model_name_or_path.clone()),
    }
}

/// Whether a diagnosis whose rows are all there is asked for something that follows from them and is not there.
fn asks_for_more(config: &DiagnoseConfig, survey: &Survey) -> bool {
    let dir = &config.output_dir;
    let maps = config.heatmap.min(survey.pairs);
    let drawn = !config.proxies_only && resume::heat_maps(dir) < maps;
    let gram = config.gram && !dir.join(resume::GRAM).exists();
    let groups = !config.heatmap_group.is_empty();
    drawn || gram || groups || !config.sweep.is_empty() || config.export_filtered.is_some()
}

/// An export must not write over a file of the user's, least of all over the data.
fn check_export(config: &DiagnoseConfig) -> Result<()> {
    let same = |path: &Path| {
        let [a, b] = [path, Path::new(&config.data.dataset_name)].map(Path::canonicalize);
        matches!((a, b), (Ok(a), Ok(b)) if a == b)
    };
    match &config.export_filtered {
        Some(path) if same(path) => bail!(
            "--export-filtered {}: that is the data set itself\nhint: give another name",
            path.display()
        ),
        Some(path) if path.exists() && !config.overwrite_output_dir => bail!(
            "--export-filtered {}: the file exists\n\
             hint: give another name, or say --overwrite-output-dir",
            path.display()
        ),
        _ => Ok(()),
    }
}

/// What the names in the configuration stand for.
fn run_facts(
    config: &DiagnoseConfig,
    source: &Source,
    survey: &Survey,
    parameters: Parameters,
) -> Result<Vec<(&'static str, String)>> {
    let mut facts = vec![
        ("model_fingerprint", load::fingerprint(source)?),
        ("data_fingerprint", survey.fingerprint.clone()),
        ("measured_parameters", label(parameters).to_owned()),
    ];
    if let Some(name) = &config.ref_model {
        let reference = load::open(name, None).context("--ref-model")?;
        facts.push(("reference_fingerprint", load::fingerprint(&reference)?));
    }
    Ok(facts)
}

/// Options that change no row: where things are and go, and what is made of the rows afterwards.
#[rustfmt::skip]
const FREE_TO_CHANGE: &[&str] = &[
    "model_name_or_path", "base_model", "ref_model", "checkpoints", "dataset_name", "dataset_test_split", "output_dir",
    "overwrite_output_dir", "json", "export_filtered", "keep_below", "filter_by", "device", "threads", "parameters",
    "heatmap", "heatmap_tokens", "heatmap_group", "gram", "gram_pairs", "sweep", "sweep_objective",
    // Of a train recipe, and without effect here.
    "token_mask", "mask_epsilon", "mask_sharpness", "mask_l1", "use_weighting", "ld_alpha", "sync_ref_model",
    "ref_model_mixup_alpha", "ref_model_sync_steps", "precompute_ref_log_probs",
];

/// What the rows depend on.
fn identity<C: Serialize>(config: &C, facts: &[(&'static str, String)]) -> Result<Identity> {
    let mut identity: Map<String, Value> = match serde_json::to_value(config)? {
        Value::Object(map) => map,
        _ => bail!("the configuration is not a mapping"),
    };
    identity.retain(|key, _| !FREE_TO_CHANGE.contains(&key.as_str()));
    let facts = facts
        .iter()
        .map(|(k, v)| ((*k).to_owned(), Value::from(v.as_str())));
    identity.extend(facts);
    Ok(identity)
}

/// Writes `run.yaml`: the resolved options and the facts of the run.
fn write_run_yaml(
    config: &DiagnoseConfig,
    facts: &[(&'static str, String)],
    survey: &Survey,
    model: &LanguageModel<Machine>,
) -> Result<()> {
    let mut all = vec![("machine", model.backend.describe())];
    all.extend_from_slice(facts);
    all.push(("pairs", survey.pairs.to_string()));
    all.push(("parameters", model.params.count().to_string()));
    let trainable = model.params.trainable_count();
    all.push(("trainable_parameters", trainable.to_string()));
    output::write_run_yaml(&config.output_dir, config, &all)
}
