//! Where an experiment lies: its runs, its record, its page.

use super::super::lock::DirLock;
use super::super::{End, Interrupt, NoReport, end_with, lock, output};
use crate::cli::{self, Command, ExperimentOptions};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;
use unbraid_model::weights::write_file_atomic;
use unbraid_reproduce::{ArmResult, Evaluation, Outcome, Prediction, Recipe, Results, RunResult};
use unbraid_train::clear_leftovers;

/// What a finished run leaves beside its metrics.
const OUTCOME: &str = "outcome.json";
/// What an experiment found so far.
const RESULTS: &str = "results.json";
/// What an experiment was asked for, so that its directory is not used for another.
const SETTINGS: &str = "experiment.json";
/// What a trainer writes last of all.
const FINISHED: &str = "trainer_state.json";
/// The page of a run, of a diagnosis, of the experiment.
const REPORT: &str = "report.html";

/// An experiment's directory.
pub(super) struct Lab<'a> {
    dir: &'a Path,
    options: &'a ExperimentOptions,
    interrupt: &'a Interrupt,
    /// The first page that could not be written: the experiment goes on without it, and fails at its end.
    no_report: RefCell<Option<unbraid_report::ReportError>>,
    _held: DirLock,
}

/// What a run's directory says once it is done.
#[derive(serde::Serialize, serde::Deserialize)]
struct Done {
    seconds: f64,
    outcome: Outcome,
}

impl<'a> Lab<'a> {
    /// Opens the directory of an experiment, or makes it.
    ///
    /// # Errors
    /// When it holds something else, or the same experiment with other names or another plan. Seeds may be added.
    pub(super) fn open<P: serde::Serialize>(
        options: &'a ExperimentOptions,
        (names, plan): (&Value, &P),
        interrupt: &'a Interrupt,
    ) -> Result<Self> {
        let dir = &options.output_dir;
        let mut settings = object(names)?;
        settings.append(&mut object(plan)?);
        settings.remove("seeds");
        let path = dir.join(SETTINGS);
        match fs::read(&path) {
            Ok(bytes) => {
                let known: Map<String, Value> = serde_json::from_slice(&bytes)
                    .with_context(|| format!("{} is damaged", path.display()))?;
                check_same(dir, &known, &settings)?;
            }
            Err(_) => output::prepare_dir(dir, false)?,
        }
        let held = DirLock::take(dir)?;
        clear(dir, 8)?;
        let text = serde_json::to_string_pretty(&settings)?;
        write_file_atomic(&path, text.as_bytes())?;
        Ok(Lab {
            dir,
            options,
            interrupt,
            no_report: RefCell::new(None),
            _held: held,
        })
    }

    /// A path in the directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Trains by a recipe in a directory of its own unless that is done; the seconds it took, or nothing when the user
    /// stopped it.
    pub(super) fn train(&self, command: &str, dir: &str, recipe: &Recipe) -> Result<Option<f64>> {
        let path = self.path(dir);
        if path.join(FINISHED).is_file() {
            self.report_again(&path);
            return Ok(Some(0.0));
        }
        let recipe = recipe
            .clone()
            .with("output_dir", path.display())
            .with("save_strategy", "no")
            .with("resume_from_checkpoint", true);
        let start = Instant::now();
        let end = match self.parse(command, recipe.words())? {
            Command::Train(config) => super::super::train::run(&config, self.interrupt),
            Command::Sft(config) => super::super::sft::run(&config, self.interrupt),
            _ => bail!("{command} does not train"),
        };
        let seconds = Some(start.elapsed().as_secs_f64());
        match end {
            Ok(End::Done) => Ok(seconds),
            Ok(End::Interrupted) => Ok(None),
            Err(error) => match error.downcast::<NoReport>() {
                Ok(NoReport(error)) => {
                    self.miss(error);
                    Ok(seconds)
                }
                Err(error) => Err(error.context(path.display().to_string())),
            },
        }
    }

    /// Writes the page of a finished run where it is not of the finished run: a kill can fall between the two.
    fn report_again(&self, dir: &Path) {
        let changed = |name: &str| {
            let file = fs::metadata(dir.join(name)).ok().filter(|m| m.is_file())?;
            file.modified().ok()
        };
        if changed(REPORT) < changed(FINISHED)
            && let Err(error) = unbraid_report::write_run_report(dir)
        {
            self.miss(error);
        }
    }

    /// Keeps in mind that a page is missing.
    fn miss(&self, error: unbraid_report::ReportError) {
        self.no_report.borrow_mut().get_or_insert(error);
    }

    /// Measures as `unbraid diagnose` does; false when the user stopped it.
    pub(super) fn diagnose(&self, dir: &str, recipe: &Recipe) -> Result<bool> {
        let path = self.path(dir);
        if super::super::diagnose::is_complete(&path) {
            if !path.join(REPORT).is_file()
                && let Err(error) = unbraid_report::write_diagnosis_report(&path)
            {
                self.miss(error);
            }
            return Ok(true);
        }
        let recipe = recipe.clone().with("output_dir", path.display());
        let Command::Diagnose(config) = self.parse("diagnose", recipe.words())? else {
            bail!("diagnose is a command");
        };
        match super::super::diagnose::run(&config, self.interrupt) {
            Ok(end) => Ok(end == End::Done),
            Err(error) => {
                self.miss(error.downcast::<NoReport>()?.0);
                Ok(true)
            }
        }
    }

    fn parse(&self, command: &str, words: impl Iterator<Item = String>) -> Result<Command> {
        let head = ["unbraid".to_owned(), command.to_owned()].into_iter();
        let parsed = cli::parse(head.chain(words).map(OsString::from))?;
        Ok(parsed.command)
    }

    /// What is on the disk of a run that was done before; what a kill kept from being tidied up is tidied up.
    pub(super) fn done(&self, dir: &str, seed: u64) -> Result<Option<RunResult>> {
        let path = self.path(dir).join(OUTCOME);
        let Ok(bytes) = fs::read(&path) else {
            return Ok(None);
        };
        let done: Done = serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{} is damaged: remove it to run this arm again",
                path.display()
            )
        })?;
        self.report_again(&self.path(dir));
        self.tidy(dir)?;
        self.result(dir, seed, done).map(Some)
    }

    /// Marks a run as done, and deletes its weights unless they are wanted.
    pub(super) fn finish(
        &self,
        dir: &str,
        seed: u64,
        seconds: f64,
        outcome: Outcome,
    ) -> Result<RunResult> {
        let path = self.path(dir);
        let done = Done { seconds, outcome };
        write_file_atomic(
            &path.join(OUTCOME),
            serde_json::to_string_pretty(&done)?.as_bytes(),
        )?;
        self.tidy(dir)?;
        self.result(dir, seed, done)
    }

    /// Deletes the weights of a run that is done, unless they are wanted.
    fn tidy(&self, dir: &str) -> Result<()> {
        match self.options.keep_models {
            true => Ok(()),
            false => remove_weights(&self.path(dir)),
        }
    }

    fn result(&self, dir: &str, seed: u64, done: Done) -> Result<RunResult> {
        let rows = read_rows(&self.path(dir).join("metrics.jsonl"))?;
        Ok(RunResult {
            seed,
            dir: dir.to_owned(),
            seconds: done.seconds,
            evaluations: rows.iter().filter_map(evaluation).collect(),
            predictions: rows.iter().filter_map(prediction).collect(),
            outcome: done.outcome,
        })
    }

    /// Arms that an earlier call left in the record.
    pub(super) fn earlier_arms(&self) -> Vec<ArmResult> {
        let bytes = fs::read(self.path(RESULTS)).ok();
        let results: Option<Results> = bytes.and_then(|b| serde_json::from_slice(&b).ok());
        results.map_or_else(Vec::new, |r| r.arms)
    }

    /// Writes the record and the page.
    pub(super) fn write(&self, results: &Results) -> Result<()> {
        let text = serde_json::to_string_pretty(results)?;
        write_file_atomic(&self.path(RESULTS), text.as_bytes())?;
        if let Err(error) = unbraid_report::write_experiment_report(self.dir) {
            self.miss(error);
        }
        Ok(())
    }

    /// Says what was found; how the experiment ends.
    pub(super) fn say(&self, results: &Results, end: End) -> Result<End> {
        match unbraid_report::experiment_summary(self.dir) {
            Ok(summary) => say!("{summary}"),
            Err(error) => note!("no summary: {error}"),
        }
        say!("report: {}", self.path(REPORT).display());
        if self.options.json {
            output::print(&format!("{}\n", serde_json::to_string_pretty(results)?))?;
        }
        end_with(end, self.no_report.take().map_or(Ok(()), Err))
    }
}

/// Removes what killed runs left in an experiment's directory and those in it, so many levels deep.
fn clear(dir: &Path, levels: usize) -> Result<()> {
    clear_leftovers(dir)?;
    lock::clear_stale(dir);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if levels > 1 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            clear(&entry.path(), levels - 1)?;
        }
    }
    Ok(())
}

/// Puts an arm in the place of an earlier one of the same name, else behind all.
pub(super) fn put(arms: &mut Vec<ArmResult>, arm: ArmResult) {
    match arms.iter_mut().find(|known| known.name == arm.name) {
        Some(known) => *known = arm,
        None => arms.push(arm),
    }
}

fn object<T: serde::Serialize>(value: &T) -> Result<Map<String, Value>> {
    match serde_json::to_value(value)? {
        Value::Object(map) => Ok(map),
        _ => bail!("an experiment's settings are a mapping"),
    }
}

fn check_same(dir: &Path, known: &Map<String, Value>, asked: &Map<String, Value>) -> Result<()> {
    let changed = asked
        .iter()
        .find(|(key, value)| known.get(*key) != Some(*value));
    if let Some((key, value)) = changed {
        let before = known.get(key).unwrap_or(&Value::Null);
        bail!(
            "{}: holds this experiment with {key} {before}, and {value} is asked for\n\
             hint: choose another --output-dir, or leave the option as it was to go on",
            dir.display()
        );
    }
    Ok(())
}

fn remove_weights(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        let removed = match &*name {
            "model.safetensors" | "adapter_model.safetensors" => fs::remove_file(&path),
            _ if name.starts_with("checkpoint-") => fs::remove_dir_all(&path),
            _ => continue,
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

fn read_rows(path: &Path) -> Result<Vec<Map<String, Value>>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let rows = text.lines().map(serde_json::from_str);
    rows.collect::<Result<_, _>>()
        .with_context(|| format!("{} is damaged", path.display()))
}

fn evaluation(row: &Map<String, Value>) -> Option<Evaluation> {
    let own = |(key, value): (&String, &Value)| {
        let key = key.strip_prefix("eval_")?;
        Some((key.to_owned(), value.as_f64()?))
    };
    let metrics: std::collections::BTreeMap<_, _> = row.iter().filter_map(own).collect();
    let step = row.get("step")?.as_u64()?;
    (!metrics.is_empty()).then_some(Evaluation { step, metrics })
}

fn prediction(row: &Map<String, Value>) -> Option<Prediction> {
    let number = |key: &str| row.get(&format!("geometry/{key}"))?.as_f64();
    Some(Prediction {
        step: row.get("step")?.as_u64()?,
        predicted_chosen: number("predicted_chosen")?,
        predicted_rejected: number("predicted_rejected")?,
        realised_chosen: number("realised_chosen")?,
        realised_rejected: number("realised_rejected")?,
    })
}
