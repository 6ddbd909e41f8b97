//! What a diagnosis is of, and how much of it is there already.
//!
//! `identity.json` holds what the rows depend on: fingerprints of model, reference and data, and the options that
//! matter. The same command in the same directory goes on where an earlier one stopped, at the last batch that is whole
//! in every file, so that it ends with the rows of one that was never stopped. Whatever was cut off behind is written
//! again. A kill leaves whole batches and at most one torn one; a failing disk may leave more, which a row that cannot be
//! read shows. Tested in `tests/diagnose.rs`.

use super::data::Batches;
use crate::commands::output;
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use unbraid_diagnose::PairRow;
use unbraid_model::weights::write_file_atomic;

/// File of what the rows depend on.
const IDENTITY: &str = "identity.json";
/// Rows with gradients.
pub(super) const GEOMETRY: &str = "geometry.jsonl";
/// Rows without.
pub(super) const PROXIES: &str = "proxies.jsonl";
/// The pairs as text.
pub(super) const TEXTS: &str = "pairs.jsonl";
/// The summary, the last file but the report.
pub(super) const SUMMARY: &str = "summary.json";
/// A series' rows.
pub(super) const SERIES: &str = "series.jsonl";
/// Folder of heat maps.
pub(super) const HEATMAPS: &str = "heatmaps";
/// The Gram matrix.
pub(super) const GRAM: &str = "gram.json";

/// What the rows depend on, by name.
pub(super) type Identity = Map<String, Value>;

/// Whether a diagnosis starts afresh or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Fresh,
    GoesOn,
    /// It is all there.
    Complete,
}

/// Looks at what is in `dir` and refuses what is not this diagnosis. Changes nothing: with `overwrite` [`sign`] clears.
pub(super) fn start(dir: &Path, identity: &Identity, overwrite: bool) -> Result<Start> {
    let path = dir.join(IDENTITY);
    if !overwrite && path.exists() {
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let earlier: Identity = serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{}: damaged\nhint: say --overwrite-output-dir to start afresh",
                path.display()
            )
        })?;
        let differences = differences(identity, &earlier);
        if !differences.is_empty() {
            bail!(
                "--output-dir {}: holds another diagnosis: {}\n\
                 hint: choose another directory, or say --overwrite-output-dir to start afresh",
                dir.display(),
                differences.join("; ")
            );
        }
        return Ok(match is_complete(dir) {
            true => Start::Complete,
            false => Start::GoesOn,
        });
    }
    output::prepare_dir(dir, overwrite)?;
    Ok(Start::Fresh)
}

/// Leaves in `dir` what the rows to come depend on; with `overwrite` an earlier diagnosis goes first. Called when nothing
/// is left that could refuse the command.
pub(super) fn sign(dir: &Path, identity: &Identity, overwrite: bool) -> Result<()> {
    if overwrite {
        clear(dir)?;
    }
    let text = serde_json::to_string_pretty(identity)? + "\n";
    Ok(write_file_atomic(&dir.join(IDENTITY), text.as_bytes())?)
}

/// The refusal of a diagnosis that has nothing left to do.
pub(super) fn refuse_complete(dir: &Path) -> anyhow::Error {
    anyhow::anyhow!(
        "--output-dir {}: this diagnosis is complete\n\
         hint: --gram, --heatmap, --heatmap-group, --sweep and --export-filtered add to it; `unbraid report` shows it again; \
         --overwrite-output-dir measures again",
        dir.display()
    )
}

/// An earlier `summary.json`; null where there is none.
fn summary(dir: &Path) -> Value {
    let text = fs::read(dir.join(SUMMARY)).ok();
    let summary = text.and_then(|text| serde_json::from_slice(&text).ok());
    summary.unwrap_or(Value::Null)
}

/// Whether a diagnosis lies in `dir` and has nothing left to measure.
pub(crate) fn is_complete(dir: &Path) -> bool {
    summary(dir)["complete"] == true
}

/// Seconds a pair of the run that measured the rows.
pub(super) fn earlier_seconds(dir: &Path) -> Option<f64> {
    summary(dir)["seconds_per_pair"].as_f64()
}

/// Heat maps that are there.
pub(super) fn heat_maps(dir: &Path) -> usize {
    let files = fs::read_dir(dir.join(HEATMAPS)).into_iter().flatten();
    files
        .flatten()
        .filter(|file| is_heat_map(&file.path()))
        .count()
}

fn is_heat_map(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("pair-") && name.ends_with(".json")
}

/// Removes what a diagnosis writes, and nothing else.
fn clear(dir: &Path) -> Result<()> {
    let names = [
        IDENTITY,
        GEOMETRY,
        PROXIES,
        TEXTS,
        SUMMARY,
        SERIES,
        GRAM,
        "report.html",
    ];
    let mut doomed: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).collect();
    let maps = fs::read_dir(dir.join(HEATMAPS)).into_iter().flatten();
    let maps = maps.flatten().map(|entry| entry.path());
    doomed.extend(maps.filter(|path| is_heat_map(path)));
    for path in doomed {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What differs, a clause each.
fn differences(now: &Identity, earlier: &Identity) -> Vec<String> {
    let shown = |map: &Identity, key: &str| match map.get(key) {
        None | Some(Value::Null) => "not set".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    let gone = earlier.keys().filter(|key| !now.contains_key(*key));
    let keys = now.keys().chain(gone);
    keys.map(|key| (key, shown(now, key), shown(earlier, key)))
        .filter(|(_, now, then)| now != then)
        .map(|(key, now, then)| format!("{key} is {now}, was {then}"))
        .collect()
}

/// The files of rows, open at their end.
pub(super) struct RowFiles {
    /// Of each file its path and itself; the texts come last where they are written.
    files: Vec<(PathBuf, File)>,
    /// Rows that are there.
    pub rows: usize,
}

impl RowFiles {
    /// Opens (or makes) the files and cuts them at the end of the last whole batch; `batches` is then at the next one.
    pub(super) fn open(dir: &Path, names: &[&str], batches: &mut Batches<'_>) -> Result<Self> {
        let paths: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).collect();
        let mut ends = Vec::new();
        for path in &paths {
            ends.push(line_ends(path)?);
        }
        let there = ends.iter().map(Vec::len).min().unwrap_or(0);
        let mut rows = 0;
        while rows < there {
            match batches.skip_within(there - rows)? {
                Some(length) => rows += length,
                None => break,
            }
        }
        let mut files = Vec::new();
        for (path, ends) in paths.into_iter().zip(ends) {
            let cannot = || format!("cannot write {}", path.display());
            let options = OpenOptions::new().create(true).append(true).open(&path);
            let file = options.with_context(cannot)?;
            let end = rows.checked_sub(1).map_or(0, |last| ends[last]);
            file.set_len(end).with_context(cannot)?;
            files.push((path, file));
        }
        Ok(RowFiles { files, rows })
    }

    /// Writes a batch's lines, of each file its own.
    pub(super) fn write(&mut self, rows: usize, lines: &[Vec<u8>]) -> Result<()> {
        for ((path, file), lines) in self.files.iter_mut().zip(lines) {
            let written = file.write_all(lines);
            written.with_context(|| format!("cannot write {}", path.display()))?;
        }
        self.rows += rows;
        Ok(())
    }

    /// Flushes to the disk.
    pub(super) fn sync(&self) -> Result<()> {
        for (path, file) in &self.files {
            let synced = file.sync_all();
            synced.with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// Where each whole line of a file ends; nothing where there is no file.
fn line_ends(path: &Path) -> Result<Vec<u64>> {
    let cannot = || format!("cannot read {}", path.display());
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.with_context(cannot)?,
    };
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let (mut ends, mut at) = (Vec::new(), 0u64);
    loop {
        let buffer = reader.fill_buf().with_context(cannot)?;
        if buffer.is_empty() {
            return Ok(ends);
        }
        let length = buffer.len();
        let breaks = buffer
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n');
        ends.extend(breaks.map(|(i, _)| at + i as u64 + 1));
        at += length as u64;
        reader.consume(length);
    }
}

/// Hands every row of a file on, in order.
pub(super) fn read_rows(path: &Path, mut take: impl FnMut(PairRow)) -> Result<()> {
    let cannot = || format!("cannot read {}", path.display());
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path).with_context(cannot)?);
    let (mut line, mut number) = (String::new(), 0);
    loop {
        line.clear();
        if reader.read_line(&mut line).with_context(cannot)? == 0 {
            return Ok(());
        }
        number += 1;
        let row = serde_json::from_str(&line).with_context(|| {
            format!(
                "{}:{number}: this is no row of a diagnosis\nhint: say --overwrite-output-dir to measure again",
                path.display()
            )
        })?;
        take(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_name_both_values() {
        let map = |value: Value| value.as_object().cloned().unwrap();
        let now = map(json!({"a": 1, "b": "x", "d": null}));
        let then = map(json!({"a": 2, "b": "x", "c": [1]}));
        assert_eq!(
            differences(&now, &then),
            ["a is 1, was 2", "c is not set, was [1]"]
        );
        assert!(differences(&now, &map(json!({"b": "x", "a": 1}))).is_empty());
    }

    #[test]
    fn a_torn_line_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows");
        assert!(line_ends(&path).unwrap().is_empty());
        fs::write(&path, "{}\n{\"a\":1}\n{\"b").unwrap();
        assert_eq!(line_ends(&path).unwrap(), [3, 11]);
    }
}
