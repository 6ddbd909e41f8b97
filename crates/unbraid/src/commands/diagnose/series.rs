//! `--checkpoints`: the same measurement over a run's checkpoints, as geometry against steps (the paper's Figure 4a).
//!
//! The series is every `checkpoint-N` of a directory that holds a model or an adapter, by step, and the directory itself
//! where its model is another than the last checkpoint's. All are measured on the same pairs against one reference. Each
//! has its rows and summary in a folder of its own, so an interrupted series goes on, and one that has grown is taken up
//! again. Tested in `tests/diagnose_series.rs`.

use super::data::{Data, Survey};
use super::policy::{self, Reference};
use super::resume::{self, GEOMETRY, Identity, SERIES, Start};
use super::setup::Plan;
use super::stream::Measuring;
use super::{finish, identity, label};
use crate::cli::DiagnoseConfig;
use crate::commands::load::{self, Source};
use crate::commands::lock::DirLock;
use crate::commands::{End, Interrupt, end_with, output};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use unbraid_diagnose::{Facts, SummaryBuilder, mean};
use unbraid_model::{ADAPTER_CONFIG, ModelConfig};
use unbraid_tensor::Backend as _;
use unbraid_text::Tokenizer;

/// One model of the series.
struct Member {
    step: u64,
    name: String,
    path: PathBuf,
}

/// A row of `series.jsonl`: means over the pairs.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    step: u64,
    checkpoint: String,
    pairs: usize,
    chosen_logps: Option<f64>,
    rejected_logps: Option<f64>,
    reward_margin: Option<f64>,
    grad_norm_chosen: Option<f64>,
    grad_norm_rejected: Option<f64>,
    grad_inner: Option<f64>,
    grad_cosine: Option<f64>,
    grad_cosine_median: Option<f64>,
    ideal: f64,
    both_fall: f64,
    both_rise: f64,
}

/// `summary.json` of a series.
#[derive(Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    facts: Facts,
    pairs: usize,
    checkpoints: &'a [Row],
}

/// What all members share.
struct Series<'a> {
    config: &'a DiagnoseConfig,
    plan: &'a Plan,
    data: Data<'a>,
    survey: Survey,
    reference_name: Option<String>,
    reference_fingerprint: Option<String>,
    interrupt: &'a Interrupt,
}

/// Measures every checkpoint in `dir`.
pub(super) fn run(
    config: &DiagnoseConfig,
    dir: &Path,
    plan: &Plan,
    interrupt: &Interrupt,
) -> Result<End> {
    let mut config = config.clone();
    config.model.model_name_or_path = dir.display().to_string();
    let members = members(dir)?;
    let open = |member: &Member| open(member, &config);
    let first = open(&members[0])?;
    let reference_name = match config.objective.reference_free {
        true => None,
        false => Some(reference_name(&config, dir, &first)?),
    };
    let tokenizer = tokenizer(dir, &first, reference_name.as_deref())?;
    let data = Data {
        args: &config.data,
        tokenizer: &tokenizer,
    };
    let survey = data.survey(&ModelConfig::for_weights(&first.weights)?)?;
    drop(first);
    let fingerprint = |name: &String| load::fingerprint(&load::open(name, None)?);
    let reference_fingerprint = reference_name.as_ref().map(fingerprint).transpose();
    let series = Series {
        config: &config,
        plan,
        data,
        survey,
        reference_fingerprint: reference_fingerprint.context("the reference")?,
        reference_name,
        interrupt,
    };
    let _lock = DirLock::take(&config.output_dir)?;
    series.measure(&members)
}

impl Series<'_> {
    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![("data_fingerprint", self.survey.fingerprint.clone())];
        let reference = self.reference_fingerprint.clone();
        facts.extend(reference.map(|print| ("reference_fingerprint", print)));
        facts
    }

    fn measure(&self, members: &[Member]) -> Result<End> {
        let (config, out) = (self.config, &self.config.output_dir);
        let facts = self.facts();
        let identity = identity(config, &facts)?;
        resume::start(out, &identity, config.overwrite_output_dir)?;
        let mut starts = Vec::new();
        for member in members {
            starts.push(self.start(member)?);
        }
        if starts.iter().all(|(start, _)| *start == Start::Complete) {
            return Err(resume::refuse_complete(out));
        }
        resume::sign(out, &identity, config.overwrite_output_dir)?;
        let reference = match &self.reference_name {
            None => Some(Reference::None),
            Some(name) => policy::score_with(name, &self.data, &self.survey, self.interrupt)?,
        };
        let Some(reference) = reference else {
            say!("interrupted before the first checkpoint");
            return Ok(End::Interrupted);
        };
        let _stops = self.interrupt.stops_itself();
        let (mut rows, mut last) = (Vec::new(), None);
        for (member, start) in members.iter().zip(starts) {
            let (row, facts) = self.member(member, start, &reference)?;
            let complete = facts.complete;
            rows.extend(row);
            output::write_jsonl(&out.join(SERIES), &rows)?;
            last = Some(facts);
            if !complete {
                break;
            }
        }
        let facts = last.context("a series has a member")?;
        self.finish(facts, &rows, members.len())
    }

    /// Whether a member is there already, and what its rows depend on.
    fn start(&self, member: &Member) -> Result<(Start, Identity)> {
        let source = open(member, self.config)?;
        let mut facts = self.facts();
        facts.push(("model_fingerprint", load::fingerprint(&source)?));
        let parameters = policy::parameters(self.config, &source);
        facts.push(("measured_parameters", label(parameters).to_owned()));
        let dir = self.config.output_dir.join(&member.name);
        let identity = identity(self.config, &facts)?;
        let start = resume::start(&dir, &identity, self.config.overwrite_output_dir)?;
        Ok((start, identity))
    }

    /// Measures one member, unless it is there; its row once it is complete.
    fn member(
        &self,
        member: &Member,
        (start, identity): (Start, Identity),
        reference: &Reference,
    ) -> Result<(Option<Row>, Facts)> {
        let (config, plan) = (self.config, self.plan);
        let dir = config.output_dir.join(&member.name);
        let source = open(member, config)?;
        let parameters = policy::parameters(config, &source);
        say!("{} (step {})", member.name, member.step);
        let mut model = policy::load(config, &source, parameters)?;
        policy::prepare(&mut model, &source, parameters);
        let name = member.path.display().to_string();
        let names = (
            name.as_str(),
            self.reference_name.as_deref(),
            config.data.dataset_name.as_str(),
        );
        let mut facts = finish::facts(plan, names, label(parameters), &model);
        if start != Start::Complete {
            resume::sign(&dir, &identity, self.config.overwrite_output_dir)?;
            self.write_run_yaml(&model.backend.describe(), facts.trainable_parameters)?;
            let measuring = Measuring {
                dir: &dir,
                data: &self.data,
                survey: &self.survey,
                plan,
                reference,
                proxies_only: false,
                texts: false,
                step_pairs: 0,
                batch_tokens: config.batch_tokens,
                interrupt: self.interrupt,
            };
            let progress = measuring.run(&mut model)?;
            facts.complete = progress.complete;
            facts.seconds_per_pair = progress.seconds_per_pair;
            facts.peak_memory_bytes = finish::peak_memory();
            let rows = finish::gather(&dir.join(GEOMETRY), plan)?;
            finish::write_summary(&dir, &rows.finish(facts.clone(), Vec::new()))?;
        }
        facts.complete |= start == Start::Complete;
        let rows = finish::gather(&dir.join(GEOMETRY), plan)?;
        let row = facts.complete.then(|| row(member, &rows, plan));
        Ok((row, facts))
    }

    fn write_run_yaml(&self, machine: &str, trainable: usize) -> Result<()> {
        let mut all = vec![("machine", machine.to_owned())];
        all.extend(self.facts());
        all.extend(self.reference_name.clone().map(|name| ("reference", name)));
        all.push(("pairs", self.survey.pairs.to_string()));
        all.push(("trainable_parameters", trainable.to_string()));
        output::write_run_yaml(&self.config.output_dir, self.config, &all)
    }

    fn finish(&self, mut facts: Facts, rows: &[Row], members: usize) -> Result<End> {
        let out = &self.config.output_dir;
        facts.complete = rows.len() == members;
        facts.model = self.config.model.model_name_or_path.clone();
        facts.seconds_per_pair = None;
        let complete = facts.complete;
        let summary = Summary {
            facts,
            pairs: self.survey.pairs,
            checkpoints: rows,
        };
        let text = serde_json::to_string_pretty(&summary)? + "\n";
        unbraid_model::weights::write_file_atomic(&out.join(resume::SUMMARY), text.as_bytes())?;
        let report = finish::report(out, unbraid_report::write_series_report);
        if self.config.json {
            output::print(&text)?;
        }
        if !complete {
            say!(
                "interrupted: {} of {members} checkpoints are measured; the same command goes on from there",
                rows.len()
            );
            return end_with(End::Interrupted, report);
        }
        end_with(End::Done, report)
    }
}

fn row(member: &Member, rows: &SummaryBuilder, plan: &Plan) -> Row {
    let summary = rows.finish(Facts::default(), Vec::new());
    let of = |field: &str| summary.means.get(field).copied();
    let norm = |field: &str| {
        let norms: Vec<f64> = rows.column(field).map(|(_, sq)| sq.sqrt()).collect();
        mean(&norms)
    };
    let judged = summary.objectives.get(&plan.judged_by);
    let cases = judged.map(|objective| objective.cases).unwrap_or_default();
    let share = |count: usize| count as f64 / summary.pairs.max(1) as f64;
    Row {
        step: member.step,
        checkpoint: member.name.clone(),
        pairs: summary.pairs,
        chosen_logps: of("chosen_logps"),
        rejected_logps: of("rejected_logps"),
        reward_margin: of("reward_margin"),
        grad_norm_chosen: norm("grad_sq_chosen"),
        grad_norm_rejected: norm("grad_sq_rejected"),
        grad_inner: of("grad_inner"),
        grad_cosine: of("grad_cosine"),
        grad_cosine_median: summary.medians.get("grad_cosine").copied(),
        ideal: share(cases.ideal),
        both_fall: share(cases.both_fall),
        both_rise: share(cases.both_rise),
    }
}

fn open(member: &Member, config: &DiagnoseConfig) -> Result<Source> {
    let name = member.path.display().to_string();
    let base = config.model.base_model.as_deref();
    load::open(&name, base.filter(|_| is_adapter(&member.path)))
}

fn is_adapter(dir: &Path) -> bool {
    dir.join(ADAPTER_CONFIG).is_file()
}

fn holds_a_model(dir: &Path) -> bool {
    is_adapter(dir) || dir.join("config.json").is_file()
}

/// The checkpoints of a directory by step, and its own model behind them where that is another.
fn members(dir: &Path) -> Result<Vec<Member>> {
    let entries = fs::read_dir(dir).with_context(|| format!("--checkpoints {}", dir.display()))?;
    let mut members: Vec<Member> = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let step = name
            .strip_prefix("checkpoint-")
            .and_then(|n| n.parse().ok());
        let Some(step) = step.filter(|_| path.is_dir()) else {
            continue;
        };
        if holds_a_model(&path) {
            members.push(Member { step, name, path });
        } else {
            note!("{} holds no model: passed over", path.display());
        }
    }
    members.sort_by_key(|member| member.step);
    let Some(last) = members.last() else {
        bail!(
            "--checkpoints {}: no checkpoint-N directory with a model is in it\n\
             hint: --model-name-or-path measures one model",
            dir.display()
        );
    };
    if holds_a_model(dir) && differs(dir, &last.path) {
        let step = final_step(dir).unwrap_or(last.step + 1);
        members.push(Member {
            step,
            name: "final".into(),
            path: dir.to_owned(),
        });
    }
    Ok(members)
}

/// Whether two directories hold models of different weights; one that cannot be opened is left out.
fn differs(dir: &Path, other: &Path) -> bool {
    let print = |dir: &Path| -> Result<String> {
        let file = match is_adapter(dir) {
            true => dir.join(unbraid_model::ADAPTER_WEIGHTS),
            false => dir.to_owned(),
        };
        Ok(unbraid_model::weights::Weights::open(&file)?.fingerprint()?)
    };
    match (print(dir), print(other)) {
        (Ok(a), Ok(b)) => a != b,
        _ => false,
    }
}

/// The number of steps behind a run's final model, where its state is kept.
fn final_step(dir: &Path) -> Option<u64> {
    let text = unbraid_input::read(&dir.join("trainer_state.json")).ok()?;
    let state: Value = serde_json::from_slice(&text).ok()?;
    state["global_step"].as_u64()
}

/// The reference of a series: the one given, the one of the run's own record, an adapter's base, the first checkpoint.
fn reference_name(config: &DiagnoseConfig, dir: &Path, first: &Source) -> Result<String> {
    if let Some(name) = &config.ref_model {
        return Ok(name.clone());
    }
    if let Some(name) = recorded_reference(dir) {
        match load::locate(&name) {
            Ok(_) => {
                note!("the reference is {name}, which the run's run.yaml names");
                return Ok(name);
            }
            Err(_) => note!("{name}, the reference in the run's run.yaml, is not there"),
        }
    }
    if first.adapter.is_some() {
        let base = &first.base_name;
        note!("the reference is {base}, the adapters' base");
        return Ok(base.clone());
    }
    let name = first.path.display().to_string();
    note!("the reference is the first checkpoint, {name} (--ref-model gives another)");
    Ok(name)
}

/// The reference, else the model that training started from, as `unbraid train` wrote them into `run.yaml`: a key a line,
/// values in JSON.
fn recorded_reference(dir: &Path) -> Option<String> {
    let text = unbraid_input::read_to_string(&dir.join("run.yaml")).ok()?;
    let of = |key: &str| -> Option<String> {
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))?;
        serde_json::from_str(value).ok()
    };
    of("ref_model").or_else(|| of("model_name_or_path"))
}

/// The tokenizer of the first checkpoint, else the run's, else the reference's: transformers may save it once.
fn tokenizer(dir: &Path, first: &Source, reference: Option<&str>) -> Result<Tokenizer> {
    let own = load::source_tokenizer(first);
    let Err(error) = own else {
        return own;
    };
    if let Ok(tokenizer) = load::tokenizer(dir, None) {
        return Ok(tokenizer);
    }
    let of_reference = reference.map(|name| load::source_tokenizer(&load::open(name, None)?));
    match of_reference {
        Some(Ok(tokenizer)) => Ok(tokenizer),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_names_the_reference_before_the_model() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(recorded_reference(dir.path()), None);
        let write = |text: &str| fs::write(dir.path().join("run.yaml"), text).unwrap();
        write("model_name_or_path: \"a b\"\nbeta: 0.1\n");
        assert_eq!(recorded_reference(dir.path()).as_deref(), Some("a b"));
        write("model_name_or_path: \"a\"\nref_model: \"r\"\n");
        assert_eq!(recorded_reference(dir.path()).as_deref(), Some("r"));
    }

    #[test]
    fn only_checkpoints_with_a_model_count_and_they_go_by_step() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "checkpoint-10",
            "checkpoint-9",
            "checkpoint-x",
            "checkpoint-3",
            "other",
        ] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let error = members(dir.path()).err().unwrap().to_string();
        assert!(error.contains("no checkpoint-N"), "{error}");
        for name in [
            "checkpoint-10/config.json",
            "checkpoint-9/adapter_config.json",
        ] {
            fs::write(dir.path().join(name), "{}").unwrap();
        }
        let steps = members(dir.path()).unwrap();
        let steps: Vec<u64> = steps.iter().map(|member| member.step).collect();
        assert_eq!(steps, [9, 10]);
    }
}
