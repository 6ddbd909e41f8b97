//! Reading a run's records: `metrics.jsonl` into two sets of rows, training and held-out.
//!
//! A metrics file is written by a process that may be killed and started again, so it may end in half a line, hold
//! `null` or a bare `NaN` where a number was not finite, and tell some steps twice. A row whose step lies before one
//! already read begins a resumed run: what the abandoned run had written from there on is dropped, so that the last
//! telling of every step counts. Whatever was skipped or dropped is listed in [`RunRecord::notes`].

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::attribution::{self, Attribution};
use crate::error::{ReportError, Result};
use crate::method::Method;
use crate::settings::Settings;
use crate::token_mask::{self, MaskedPair};
use crate::verdict::Trend;

/// A logged step is about one kilobyte; a longer line than this is not one.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// `summary.json` is shown on the page up to this size.
const MAX_SUMMARY_BYTES: u64 = 100_000;

/// Logged rows by optimizer step. A cell that was written without a finite value is NaN; a cell that was not
/// written is absent.
#[derive(Debug, Default, Clone)]
pub(crate) struct Rows {
    rows: BTreeMap<u64, BTreeMap<String, f64>>,
}

impl Rows {
    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Rows in the order of their steps.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &BTreeMap<String, f64>)> {
        self.rows.iter().map(|(step, row)| (*step, row))
    }

    /// The finite values of one column with their steps.
    pub(crate) fn finite(&self, key: &str) -> Vec<(u64, f64)> {
        self.iter()
            .filter_map(|(step, row)| row.get(key).map(|value| (step, *value)))
            .filter(|(_, value)| value.is_finite())
            .collect()
    }

    /// The finite values of one column.
    pub(crate) fn values(&self, key: &str) -> Vec<f64> {
        self.finite(key)
            .into_iter()
            .map(|(_, value)| value)
            .collect()
    }

    /// Whether the column has at least one finite value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.rows
            .values()
            .any(|row| row.get(key).is_some_and(|value| value.is_finite()))
    }

    /// The last step, if there is one.
    pub(crate) fn last_step(&self) -> Option<u64> {
        self.rows.keys().next_back().copied()
    }

    /// The mean over the finite values of a column.
    pub(crate) fn mean(&self, key: &str) -> Option<f64> {
        let values = self.values(key);
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    fn merge(&mut self, step: u64, cells: BTreeMap<String, f64>) {
        self.rows.entry(step).or_default().extend(cells);
    }

    /// Removes every row from `step` on; says how many there were.
    fn forget_from(&mut self, step: u64) -> usize {
        self.rows.split_off(&step).len()
    }

    /// Adds a column computed from each row.
    fn derive(&mut self, key: &str, value: impl Fn(&BTreeMap<String, f64>) -> Option<f64>) {
        for row in self.rows.values_mut() {
            if let Some(value) = value(row) {
                row.insert(key.to_string(), value);
            }
        }
    }

    /// The columns that figures draw and a run does not write. `start` is what changes are measured from.
    fn derive_columns(&mut self, start: impl Fn(&[f64]) -> Option<f64>) {
        for side in ["chosen", "rejected"] {
            let key = format!("logps/{side}");
            if let Some(start) = start(&self.values(&key)) {
                self.derive(&format!("change/{side}"), |row| {
                    row.get(&key).map(|value| value - start)
                });
            }
        }
        self.derive("logps/difference", |row| {
            Some(row.get("logps/chosen")? - row.get("logps/rejected")?)
        });
        for side in ["chosen", "rejected"] {
            // Means of squares where they were logged: Cauchy–Schwarz holds between them and the mean inner product. Older
            // records have mean norms only.
            let (square, norm) = (
                format!("geometry/grad_sq_{side}"),
                format!("geometry/grad_norm_{side}"),
            );
            let squared = format!("geometry/norm_sq_{side}");
            self.derive(&squared, |row| {
                let of_norm = || row.get(&norm).map(|norm| norm * norm);
                row.get(&square).copied().or_else(of_norm)
            });
            self.derive(&format!("geometry/ratio_{side}"), |row| {
                Some(row.get("geometry/inner")? / row.get(&squared)?)
            });
        }
        self.derive("geometry/bound", |row| {
            row.get("geometry/ratio_chosen").map(|_| 1.0)
        });
        self.derive("geometry/other", |row| {
            let named = row.get("geometry/ideal")?
                + row.get("geometry/both_fall")?
                + row.get("geometry/both_rise")?;
            // Shares are averages of counts: what rounding leaves over is not a share of pairs.
            Some(if 1.0 - named > 1e-6 { 1.0 - named } else { 0.0 })
        });
    }
}

/// One run as its records tell it.
#[derive(Debug)]
pub(crate) struct RunRecord {
    /// Output directory of the run.
    pub(crate) dir: PathBuf,
    /// Rows of training batches.
    pub(crate) train: Rows,
    /// Rows of evaluations on held-out pairs, keys without their `eval_`.
    pub(crate) eval: Rows,
    /// `run.yaml`.
    pub(crate) settings: Settings,
    /// `token_mask.jsonl`; empty without a mask.
    pub(crate) masked: Vec<MaskedPair>,
    /// `attribution.json`, when present.
    pub(crate) attribution: Option<Attribution>,
    /// `summary.json` as text, when present.
    pub(crate) summary: Option<String>,
    /// What a reader must know about gaps in the records.
    pub(crate) notes: Vec<String>,
}

impl RunRecord {
    /// Reads the records in `dir`.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("metrics.jsonl");
        let file = match unbraid_input::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ReportError::NotARun {
                    dir: dir.to_path_buf(),
                });
            }
            Err(error) => return Err(ReportError::io("read", &path)(error)),
        };
        let mut reading = Reading::default();
        reading
            .lines(BufReader::new(file))
            .map_err(ReportError::io("read", &path))?;
        if reading.train.len() + reading.eval.len() == 0 {
            return Err(ReportError::NoSteps {
                path,
                unreadable: reading.unreadable.len(),
            });
        }
        let mut notes = reading.notes();
        let Reading {
            mut train,
            mut eval,
            ..
        } = reading;
        train.derive_columns(|values| Trend::noisy(values).map(|trend| trend.start));
        eval.derive_columns(|values| values.first().copied());
        let settings = Settings::read(&dir.join("run.yaml"))?;
        notes.extend(settings.note.clone());
        let (masked, note) = token_mask::read(dir);
        notes.extend(note);
        let (attribution, note) = attribution::read(dir);
        notes.extend(note);
        Ok(Self {
            dir: dir.to_path_buf(),
            train,
            eval,
            settings,
            masked,
            attribution,
            summary: read_summary(dir)?,
            notes,
        })
    }

    /// The run's name: `run_name` of its settings, otherwise the directory's name.
    pub(crate) fn name(&self) -> String {
        let directory = || {
            let full = self.dir.canonicalize().unwrap_or_else(|_| self.dir.clone());
            full.file_name().map_or_else(
                || "run".to_string(),
                |name| name.to_string_lossy().into_owned(),
            )
        };
        self.settings
            .get("run_name")
            .filter(|name| !name.is_empty())
            .unwrap_or_else(directory)
    }

    /// The command line that made the run, if recorded.
    pub(crate) fn command(&self) -> Option<String> {
        self.settings.get("command")
    }

    /// The last step of training or evaluation.
    pub(crate) fn last_step(&self) -> u64 {
        self.train
            .last_step()
            .max(self.eval.last_step())
            .unwrap_or(0)
    }

    /// How the run was trained.
    pub(crate) fn method(&self) -> Method {
        Method::of(&self.settings)
    }

    /// Whether the run judged single rows (KTO on prompt, completion, label) rather than pairs: only that logs an
    /// estimate of the divergence, and it has no accuracy, which needs a partner.
    pub(crate) fn unpaired(&self) -> bool {
        let has = |key: &str| self.train.has(key) || self.eval.has(key);
        has("kl") && !has("rewards/accuracies")
    }

    /// Whether any step measured gradients.
    pub(crate) fn has_geometry(&self) -> bool {
        self.train.has("geometry/cosine") || self.train.has("geometry/ideal")
    }
}

fn read_summary(dir: &Path) -> Result<Option<String>> {
    let path = dir.join("summary.json");
    let Ok(file) = unbraid_input::open(&path) else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.take(MAX_SUMMARY_BYTES)
        .read_to_end(&mut bytes)
        .map_err(ReportError::io("read", &path))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The state while lines are read.
#[derive(Default)]
struct Reading {
    train: Rows,
    eval: Rows,
    /// Numbers of lines that are no logged step.
    unreadable: Vec<usize>,
    last_line_cut: bool,
    /// Steps at which a resumed run took over, and how many rows it replaced.
    resumed: Vec<(u64, usize)>,
    /// Column → (first step, count) of values that were not finite.
    not_finite: BTreeMap<String, (u64, usize)>,
}

impl Reading {
    fn lines(&mut self, mut reader: impl BufRead) -> std::io::Result<()> {
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if reader
                .by_ref()
                .take(MAX_LINE_BYTES)
                .read_until(b'\n', &mut line)?
                == 0
            {
                break;
            }
            let complete = line.last() == Some(&b'\n');
            if line.trim_ascii().is_empty() {
                continue;
            }
            if let Some(row) = parse_row(&line) {
                self.row(row);
            } else if !complete && reader.fill_buf()?.is_empty() {
                self.last_line_cut = true;
            } else {
                self.unreadable.push(number);
                if !complete {
                    reader.skip_until(b'\n')?;
                }
            }
        }
        Ok(())
    }

    fn row(&mut self, (step, cells): (u64, BTreeMap<String, f64>)) {
        let (mut train, mut eval) = (BTreeMap::new(), BTreeMap::new());
        for (key, value) in cells {
            if !value.is_finite() {
                self.not_finite.entry(key.clone()).or_insert((step, 0)).1 += 1;
            }
            match key.strip_prefix("eval_") {
                Some(key) => eval.insert(key.to_string(), value),
                None => train.insert(key, value),
            };
        }
        // `epoch` stands in evaluation rows too; alone it does not make a training row.
        if train.keys().any(|key| key != "epoch") {
            if self.train.last_step().is_some_and(|last| step < last) {
                let replaced = self.train.forget_from(step) + self.eval.forget_from(step + 1);
                self.resumed.push((step, replaced));
            }
            self.train.merge(step, train);
        }
        if !eval.is_empty() {
            if self.eval.last_step().is_some_and(|last| step < last) {
                let replaced = self.eval.forget_from(step) + self.train.forget_from(step + 1);
                self.resumed.push((step, replaced));
            }
            self.eval.merge(step, eval);
        }
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.last_line_cut {
            notes.push(
                "the last line of metrics.jsonl is cut short: the run was stopped while writing"
                    .to_string(),
            );
        }
        if let Some(first) = self.unreadable.first() {
            let count = self.unreadable.len();
            let lines = if count == 1 { "line" } else { "lines" };
            notes.push(format!(
                "{count} unreadable {lines} in metrics.jsonl left out (first: line {first})"
            ));
        }
        for (step, replaced) in &self.resumed {
            notes.push(format!(
                "the run was resumed: rows from step {step} on replace {replaced} earlier ones"
            ));
        }
        for (key, (step, count)) in &self.not_finite {
            notes.push(format!(
                "{key} is not finite in {count} rows, first at step {step}: drawn as a gap"
            ));
        }
        notes
    }
}

/// A line as (step, numeric cells); `None` if it is not a JSON object with a whole, non-negative `step`.
fn parse_row(line: &[u8]) -> Option<(u64, BTreeMap<String, f64>)> {
    let text = std::str::from_utf8(line).ok()?;
    let value: Value = serde_json::from_str(text)
        .or_else(|_| serde_json::from_str(&without_bare_nan(text)))
        .ok()?;
    let object = value.as_object()?;
    let step = object.get("step")?;
    let step = step.as_u64().or_else(|| {
        step.as_f64()
            .filter(|s| *s >= 0.0 && s.fract() == 0.0)
            .map(|s| s as u64)
    })?;
    let number = |value: &Value| match value {
        Value::Number(number) => number.as_f64(),
        Value::Null => Some(f64::NAN),
        _ => None,
    };
    let cells = object.iter().filter(|(key, _)| *key != "step");
    let cells = cells.filter_map(|(key, value)| Some((key.clone(), number(value)?)));
    Some((step, cells.collect()))
}

/// Python's `json` writes `NaN`, `Infinity` and `-Infinity`, which are not JSON; outside strings they become `null`.
pub(crate) fn without_bare_nan(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // Every second piece between quotes is a string; an escaped quote does not end it.
    let (mut in_string, mut rest) = (false, text);
    while let Some(at) = rest.find('"') {
        let (piece, tail) = rest.split_at(at);
        let escaped = in_string && piece.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1;
        push_piece(&mut out, piece, in_string);
        out.push('"');
        in_string = in_string == escaped;
        rest = &tail[1..];
    }
    push_piece(&mut out, rest, in_string);
    out
}

fn push_piece(out: &mut String, piece: &str, in_string: bool) {
    if in_string {
        out.push_str(piece);
    } else {
        out.push_str(
            &piece
                .replace("-Infinity", "null")
                .replace("Infinity", "null")
                .replace("NaN", "null"),
        );
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
