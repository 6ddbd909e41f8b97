//! What a run writes while it goes on, besides `metrics.jsonl`: TensorBoard events and records of pairs.
//!
//! [`Tracking`] stands between the loop and the progress on the screen. A tracker that fails (a full disk) is said
//! once and left out; the run goes on.
//!
//! Events are flushed row by row; a resumed run opens a further file in the same directory, which TensorBoard joins.
//! Pairs go to the directory `pairs.parquet`, in the layout that every Parquet reader takes for one table:
//! `part-<first step>.parquet`. A part ends at each checkpoint and gets its name when it is complete, so after
//! `kill -9` all steps up to the last checkpoint are there, and a run that is resumed from any checkpoint first removes
//! the parts behind it: each step stands in the table once.

use super::progress::TrainingProgress;
use crate::cli::TrainerOptions;
use anyhow::{Context, Result};
use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use unbraid_report::{EventWriter, tensorboard_tag};
use unbraid_train::{Averages, Observer, PairRecord};

/// The progress, and the trackers that the options ask for.
pub(crate) struct Tracking {
    progress: TrainingProgress,
    events: Option<EventWriter>,
    pairs: Option<PairsTable>,
}

impl Tracking {
    /// Opens the trackers of `report_to`. Pairs are written as soon as a task hands over records of them.
    ///
    /// # Errors
    /// An event file that cannot be created.
    pub(crate) fn new(progress: TrainingProgress, options: &TrainerOptions) -> Result<Self> {
        let events = match options.reports_to_tensorboard() {
            true => {
                let host = gethostname::gethostname();
                let (host, pid) = (host.to_string_lossy(), std::process::id());
                let writer = EventWriter::create(&events_dir(options), &host, pid, now())?;
                Some(writer)
            }
            false => None,
        };
        Ok(Tracking {
            progress,
            events,
            pairs: Some(PairsTable::new(&options.output_dir)),
        })
    }

    /// Completes what is open; to be called however the run ended.
    pub(crate) fn finish(&mut self) {
        self.complete_pairs();
        self.progress.finish();
    }

    fn complete_pairs(&mut self) {
        let done = self.pairs.as_mut().map_or(Ok(()), PairsTable::complete);
        if let Err(error) = done {
            self.give_up_pairs(&error);
        }
    }

    fn give_up_pairs(&mut self, error: &anyhow::Error) {
        self.progress
            .say(&format!("note: no more records of pairs: {error:#}"));
        self.pairs = None;
    }
}

/// `logging_dir`, else `TENSORBOARD_LOGGING_DIR` as in transformers, else `runs/<name>` in the output directory: the
/// same again for a run that is resumed.
fn events_dir(options: &TrainerOptions) -> PathBuf {
    let set = std::env::var_os("TENSORBOARD_LOGGING_DIR").filter(|dir| !dir.is_empty());
    let named = || {
        options
            .output_dir
            .join("runs")
            .join(plain_name(&options.name()))
    };
    let given = options.logging_dir.clone();
    given.or(set.map(PathBuf::from)).unwrap_or_else(named)
}

/// A name that is one directory.
fn plain_name(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| {
            if matches!(c, '/' | '\\' | ':') {
                '_'
            } else {
                c
            }
        })
        .collect();
    match plain.as_str() {
        "" | "." | ".." => "run".to_owned(),
        _ => plain,
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0.0, |since| since.as_secs_f64())
}

impl Observer for Tracking {
    fn on_step(&mut self, step: u64, metrics: &Averages, tokens_per_second: f64) {
        self.progress.on_step(step, metrics, tokens_per_second);
    }

    fn on_row(&mut self, row: &Map<String, Value>) {
        self.progress.on_row(row);
        let Some(events) = &mut self.events else {
            return;
        };
        let scalar =
            |(key, value): (&String, &Value)| Some((tensorboard_tag(key), value.as_f64()?));
        let values: Vec<_> = row
            .iter()
            .filter(|(key, _)| *key != "step")
            .filter_map(scalar)
            .collect();
        let step = row.get("step").and_then(Value::as_u64).unwrap_or(0);
        if let Err(error) = events.scalars(step, now(), &values) {
            self.progress
                .say(&format!("note: no more TensorBoard events: {error}"));
            self.events = None;
        }
    }

    fn on_pairs(&mut self, step: u64, pairs: &[PairRecord]) {
        let done = self
            .pairs
            .as_mut()
            .map_or(Ok(()), |table| table.add(step, pairs));
        if let Err(error) = done {
            self.give_up_pairs(&error);
        }
    }

    fn before_save(&mut self, _: u64) {
        self.complete_pairs();
    }

    fn on_save(&mut self, path: &Path) {
        self.progress.on_save(path);
    }

    fn stop(&mut self) -> bool {
        self.progress.stop()
    }
}

/// Records that wait to be encoded; columns are encoded and compressed so many rows at a time.
const BATCH: usize = 4096;

/// Rows of a row group: bounds what the writer keeps in memory (about 10 MB).
const ROW_GROUP: usize = 1 << 16;

/// The directory of parts.
struct PairsTable {
    dir: PathBuf,
    /// Whether this run has written to it yet.
    begun: bool,
    part: Option<Part>,
}

/// A part that is being written.
struct Part {
    writer: ArrowWriter<File>,
    temporary: PathBuf,
    path: PathBuf,
    waiting: Vec<(u64, PairRecord)>,
}

impl PairsTable {
    fn new(output_dir: &Path) -> Self {
        PairsTable {
            dir: output_dir.join("pairs.parquet"),
            begun: false,
            part: None,
        }
    }

    fn add(&mut self, step: u64, pairs: &[PairRecord]) -> Result<()> {
        if !self.begun {
            self.begin(step)?;
        }
        let part = match &mut self.part {
            Some(part) => part,
            none => none.insert(Part::create(&self.dir, step)?),
        };
        part.waiting.extend(pairs.iter().map(|pair| (step, *pair)));
        if part.waiting.len() >= BATCH {
            part.encode()?;
        }
        Ok(())
    }

    /// Makes the directory and removes what an earlier run wrote from this step on.
    fn begin(&mut self, step: u64) -> Result<()> {
        let dir = &self.dir;
        let failed = |what: &str| format!("cannot {what} {}", dir.display());
        fs::create_dir_all(dir).with_context(|| failed("create"))?;
        for entry in fs::read_dir(dir).with_context(|| failed("read"))? {
            let path = entry.with_context(|| failed("read"))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let first: Option<u64> = name
                .strip_prefix("part-")
                .and_then(|name| name.strip_suffix(".parquet"))
                .and_then(|first| first.parse().ok());
            let unfinished = name.starts_with(".part-") && name.ends_with(".partial");
            if unfinished || first.is_some_and(|first| first >= step) {
                fs::remove_file(&path)
                    .with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        self.begun = true;
        Ok(())
    }

    /// Ends the part that is being written.
    fn complete(&mut self) -> Result<()> {
        self.part.take().map_or(Ok(()), Part::complete)
    }
}

impl Part {
    fn create(dir: &Path, step: u64) -> Result<Self> {
        let name = format!("part-{step:08}.parquet");
        let temporary = dir.join(format!(".{name}.partial"));
        let file = File::create(&temporary)
            .with_context(|| format!("cannot create {}", temporary.display()))?;
        let schema = batch(&[])?.schema();
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(ROW_GROUP))
            .build();
        Ok(Part {
            writer: ArrowWriter::try_new(file, schema, Some(properties))?,
            path: dir.join(name),
            temporary,
            waiting: Vec::new(),
        })
    }

    fn encode(&mut self) -> Result<()> {
        let rows = batch(&self.waiting)?;
        self.waiting.clear();
        let written = self.writer.write(&rows);
        written.with_context(|| format!("cannot write {}", self.temporary.display()))
    }

    fn complete(mut self) -> Result<()> {
        self.encode()?;
        let failed = || format!("cannot write {}", self.path.display());
        let file = self.writer.into_inner().with_context(failed)?;
        file.sync_all().with_context(failed)?;
        fs::rename(&self.temporary, &self.path).with_context(failed)
    }
}

/// Records as columns; the names are those of `scores.jsonl` and `geometry.jsonl`.
fn batch(rows: &[(u64, PairRecord)]) -> Result<RecordBatch> {
    let whole = |of: fn(&(u64, PairRecord)) -> u64| -> ArrayRef {
        let values = rows
            .iter()
            .map(|row| i64::try_from(of(row)).unwrap_or(i64::MAX));
        Arc::new(Int64Array::from_iter_values(values))
    };
    let real = |of: fn(&PairRecord) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(
            rows.iter().map(|(_, r)| of(r)),
        ))
    };
    let some = |of: fn(&PairRecord) -> Option<f64>| -> ArrayRef {
        Arc::new(rows.iter().map(|(_, r)| of(r)).collect::<Float64Array>())
    };
    let cases = rows.iter().map(|(_, r)| r.case.map(|case| case.as_str()));
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("step", whole(|(step, _)| *step), false),
        ("index", whole(|(_, r)| r.index as u64), false),
        ("chosen_logps", real(|r| r.chosen_logps), false),
        ("rejected_logps", real(|r| r.rejected_logps), false),
        ("ref_chosen_logps", some(|r| r.ref_chosen_logps), true),
        ("ref_rejected_logps", some(|r| r.ref_rejected_logps), true),
        ("chosen_len", whole(|(_, r)| r.chosen_len as u64), false),
        ("rejected_len", whole(|(_, r)| r.rejected_len as u64), false),
        ("loss", real(|r| r.loss), false),
        ("d_w", real(|r| r.d_w), false),
        ("d_l", real(|r| r.d_l), false),
        (
            "case",
            Arc::new(cases.collect::<StringArray>()) as ArrayRef,
            true,
        ),
        ("grad_sq_chosen", some(|r| r.grad_sq_chosen), true),
        ("grad_sq_rejected", some(|r| r.grad_sq_rejected), true),
        ("grad_inner", some(|r| r.grad_inner), true),
    ])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use unbraid_objective::Case;

    fn record(index: usize, case: Option<Case>) -> PairRecord {
        PairRecord {
            index,
            chosen_logps: -10.5,
            rejected_logps: -12.25,
            ref_chosen_logps: Some(-11.0),
            ref_rejected_logps: None,
            chosen_len: 7,
            rejected_len: 9,
            loss: 0.69,
            d_w: 0.05,
            d_l: 0.04,
            case,
            grad_sq_chosen: case.map(|_| 3.0),
            grad_sq_rejected: case.map(|_| 4.0),
            grad_inner: case.map(|_| -1.0),
        }
    }

    /// Steps and indices of all parts, in the order of their names, as a reader of the directory sees them.
    fn rows(dir: &Path) -> Vec<(i64, i64)> {
        let entries = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let visible =
            |path: &PathBuf| !path.file_name().unwrap().to_string_lossy().starts_with('.');
        let mut parts: Vec<PathBuf> = entries.filter(visible).collect();
        parts.sort();
        let mut rows = Vec::new();
        for part in parts {
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(part).unwrap());
            for batch in reader.unwrap().build().unwrap() {
                let batch = batch.unwrap();
                let column = |name: &str| {
                    let column = batch.column_by_name(name).unwrap();
                    let numbers = column.as_any().downcast_ref::<Int64Array>().unwrap();
                    numbers.values().to_vec()
                };
                rows.extend(column("step").into_iter().zip(column("index")));
            }
        }
        rows
    }

    #[test]
    fn columns_keep_their_values_and_nulls() {
        let batch = batch(&[(3, record(5, Some(Case::BothFall))), (3, record(6, None))]).unwrap();
        let text = |name: &str, at: usize| {
            let column = batch.column_by_name(name).unwrap();
            arrow_array::cast::AsArray::as_string::<i32>(column.as_ref())
                .iter()
                .nth(at)
                .unwrap()
                .map(str::to_owned)
        };
        assert_eq!(text("case", 0).as_deref(), Some("both_fall"));
        assert_eq!(text("case", 1), None);
        let real = |name: &str, at: usize| {
            let column = batch.column_by_name(name).unwrap();
            column
                .as_any()
                .downcast_ref::<Float64Array>()
                .unwrap()
                .iter()
                .nth(at)
                .unwrap()
        };
        assert_eq!(real("grad_inner", 0), Some(-1.0));
        assert_eq!(real("grad_inner", 1), None);
        assert_eq!(real("ref_chosen_logps", 1), Some(-11.0));
        assert_eq!(real("ref_rejected_logps", 0), None);
        assert_eq!(real("d_w", 1), Some(0.05));
        assert_eq!(batch.num_columns(), 15);
    }

    #[test]
    fn a_killed_and_resumed_run_has_each_step_once() {
        let out = tempfile::tempdir().unwrap();
        let dir = out.path().join("pairs.parquet");
        let step = |table: &mut PairsTable, step: u64| {
            let pairs = [
                record(2 * step as usize, None),
                record(2 * step as usize + 1, None),
            ];
            table.add(step, &pairs).unwrap();
        };
        let mut first = PairsTable::new(out.path());
        (1..=4).for_each(|s| step(&mut first, s));
        first.complete().unwrap(); // the checkpoint of step 4
        (5..=6).for_each(|s| step(&mut first, s));
        first.complete().unwrap(); // the checkpoint of step 6
        step(&mut first, 7);
        std::mem::forget(first); // killed: its last part never gets its name
        assert_eq!(rows(&dir).len(), 12);

        let mut resumed = PairsTable::new(out.path());
        (5..=8).for_each(|s| step(&mut resumed, s)); // from the checkpoint of step 4
        resumed.complete().unwrap();
        let expected: Vec<(i64, i64)> = (2..18).map(|index| (index / 2, index)).collect();
        assert_eq!(rows(&dir), expected);
        assert_eq!(
            fs::read_dir(&dir).unwrap().count(),
            2,
            "nothing else is left"
        );
    }

    #[test]
    fn many_rows_go_through_bounded_buffers() {
        let out = tempfile::tempdir().unwrap();
        let mut table = PairsTable::new(out.path());
        for step in 1..=3 {
            let pairs: Vec<PairRecord> = (0..BATCH - 1).map(|index| record(index, None)).collect();
            table.add(step, &pairs).unwrap();
            assert!(table.part.as_ref().unwrap().waiting.len() < BATCH);
        }
        table.complete().unwrap();
        assert_eq!(
            rows(&out.path().join("pairs.parquet")).len(),
            3 * (BATCH - 1)
        );
    }

    #[test]
    fn nothing_is_written_without_records() {
        let out = tempfile::tempdir().unwrap();
        PairsTable::new(out.path()).complete().unwrap();
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_run_name_is_one_directory() {
        assert_eq!(plain_name("org/model:dpo"), "org_model_dpo");
        assert_eq!(plain_name(".."), "run");
    }
}
