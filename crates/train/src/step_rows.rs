//! Files of rows that belong to optimizer steps, beside `metrics.jsonl`: `predictions.jsonl`, `gram.jsonl`.
//!
//! Each row begins with its step, and steps only grow. A run that goes on from a checkpoint cuts such a file back to the
//! checkpoint's step (and a line that a kill left half), then appends, so that it ends as the uninterrupted run's does.
//! No file is made before there is a row.

use crate::error::TrainError;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// A file that is open once it has a row.
pub(crate) struct StepRows {
    path: PathBuf,
    file: Option<File>,
}

#[derive(Deserialize)]
struct Row {
    step: u64,
}

impl StepRows {
    /// The file at `path` with its rows up to `step`; none are left for a run that begins.
    ///
    /// # Errors
    /// What the file system refuses.
    pub(crate) fn cut_back(path: PathBuf, step: u64) -> Result<Self, TrainError> {
        let cut = || -> std::io::Result<()> {
            let length = match unbraid_input::open(&path) {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
                file => valid_length(BufReader::new(file?), step)?,
            };
            match length {
                0 => fs::remove_file(&path),
                _ => File::options().write(true).open(&path)?.set_len(length),
            }
        };
        cut().map_err(|e| TrainError::io("cut back", &path, e))?;
        Ok(StepRows { path, file: None })
    }

    /// Appends rows of one step, in one piece.
    ///
    /// # Errors
    /// What the file system refuses (a full disk, say).
    pub(crate) fn write(
        &mut self,
        step: u64,
        rows: Vec<Map<String, Value>>,
    ) -> Result<(), TrainError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut text = String::new();
        for row in rows {
            let mut whole = Map::from_iter([("step".to_owned(), Value::from(step))]);
            whole.extend(row);
            text += &format!("{}\n", Value::Object(whole));
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open(&self.path)?),
        };
        file.write_all(text.as_bytes())
            .map_err(|e| TrainError::io("write", &self.path, e))
    }

    /// Brings what was written to the disk: a checkpoint that follows stands for these rows too.
    ///
    /// # Errors
    /// What the file system refuses.
    pub(crate) fn sync(&self) -> Result<(), TrainError> {
        let synced = self.file.as_ref().map_or(Ok(()), File::sync_data);
        synced.map_err(|e| TrainError::io("write", &self.path, e))
    }
}

fn open(path: &Path) -> Result<File, TrainError> {
    let file = File::options().create(true).append(true).open(path);
    file.map_err(|e| TrainError::io("open", path, e))
}

/// Bytes of the whole rows up to `step`.
fn valid_length(mut file: impl BufRead, step: u64) -> std::io::Result<u64> {
    let (mut length, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let read = file.read_until(b'\n', &mut line)?;
        let row: Option<Row> = serde_json::from_slice(&line).ok();
        if !line.ends_with(b"\n") || row.is_none_or(|row| row.step > step) {
            return Ok(length);
        }
        length += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cut_back_to_whole_rows_of_its_steps() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("predictions.jsonl");
        let read = || fs::read_to_string(&path).unwrap();
        let rows = |step: u64| {
            let row = |x: u64| Map::from_iter([("x".to_owned(), Value::from(10 * step + x))]);
            (0..2).map(row).collect::<Vec<_>>()
        };
        let mut file = StepRows::cut_back(path.clone(), 0).unwrap();
        file.write(1, Vec::new()).unwrap();
        file.sync().unwrap();
        assert!(!path.exists(), "no rows, no file");
        for step in [1, 4, 8] {
            file.write(step, rows(step)).unwrap();
        }
        file.sync().unwrap();
        let whole = read();
        assert!(whole.starts_with("{\"step\":1,\"x\":10}\n{\"step\":1,\"x\":11}\n"));

        // A kill in the middle of a line, and a checkpoint of step 5.
        fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let mut file = StepRows::cut_back(path.clone(), 5).unwrap();
        assert_eq!(read().lines().count(), 4);
        file.write(8, rows(8)).unwrap();
        assert_eq!(read(), whole);

        StepRows::cut_back(path.clone(), 9).unwrap();
        assert_eq!(read(), whole);
        StepRows::cut_back(path.clone(), 0).unwrap();
        assert!(!path.exists());
    }
}
