//! Rows of a CSV file, a record at a time; the first record names the columns.
//!
//! RFC 4180 with either line end, empty lines passed over. csv-core finds the fields; the buffers are ours, so that a quote
//! that never closes, or a line of commas, stops at the limits of `limits.rs`.
//! Tested in `tests/formats.rs`, `tests/bad_input.rs` and `tests/bombs.rs`.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use csv_core::ReadRecordResult;
use serde_json::Value;

use crate::error::{PreferenceError, Result};
use crate::limits::{MAX_COLUMNS, MAX_RECORD};
use crate::read::{Rows, buffered, unread};
use crate::row::{Columns, Location, Row, TextField};

/// Opens a file and reads the names of its columns.
pub(crate) fn csv(path: &Path, text: &TextField) -> Result<Rows> {
    let mut records = Records {
        path: path.to_owned(),
        input: buffered(path)?,
        core: csv_core::Reader::new(),
        fields: vec![0; 1 << 10],
        ends: vec![0; 64],
        line: 1,
    };
    let names = match records.next()? {
        None => Vec::new(),
        Some((_, fields)) => fields.into_iter().map(str::to_owned).collect(),
    };
    Ok(Box::new(CsvRows {
        path: path.to_owned(),
        start: Location::line(path, 1),
        records,
        names,
        text: text.clone(),
    }))
}

struct CsvRows {
    path: PathBuf,
    records: Records,
    names: Vec<String>,
    start: Location,
    text: TextField,
}

impl Iterator for CsvRows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        let (line, fields) = match self.records.next() {
            Ok(record) => record?,
            Err(error) => return Some(Err(error)),
        };
        if fields.len() != self.names.len() {
            let reason = format!(
                "line {line} has {} fields, the first line has {}",
                fields.len(),
                self.names.len()
            );
            return Some(Err(unreadable(&self.path, reason)));
        }
        let values = self
            .names
            .iter()
            .zip(fields)
            .filter(|(name, _)| self.text.loads(name))
            .map(|(name, field)| (name.clone(), Value::from(field)))
            .collect();
        let names = self.names.clone();
        let columns = Columns { values, names };
        Some(self.text.row(self.start.at(line), columns))
    }
}

fn unreadable(path: &Path, reason: String) -> PreferenceError {
    PreferenceError::Format {
        path: path.to_owned(),
        format: "CSV",
        reason,
    }
}

struct Records {
    path: PathBuf,
    input: Box<dyn BufRead + Send>,
    core: csv_core::Reader,
    /// The bytes of a record's fields, and where each ends.
    fields: Vec<u8>,
    ends: Vec<usize>,
    /// Of the next byte, from 1.
    line: usize,
}

impl Records {
    /// The next record with the line that it begins on.
    fn next(&mut self) -> Result<Option<(usize, Vec<&str>)>> {
        self.pass_line_ends()?;
        let start = self.line;
        let Some((length, count)) = self.record(start)? else {
            return Ok(None);
        };
        let mut fields = Vec::with_capacity(count);
        let mut from = 0;
        for &end in &self.ends[..count] {
            let field = std::str::from_utf8(&self.fields[from..end]);
            fields.push(
                field.map_err(|_| unreadable(&self.path, format!("line {start} is not UTF-8")))?,
            );
            from = end;
        }
        debug_assert_eq!(from, length);
        Ok(Some((start, fields)))
    }

    /// Empty lines, and the second byte of a line end of two.
    fn pass_line_ends(&mut self) -> Result<()> {
        loop {
            let buffer = self.input.fill_buf().map_err(unread(&self.path))?;
            let ends = |byte: &&u8| matches!(byte, b'\r' | b'\n');
            let taken = buffer.iter().take_while(ends).count();
            if taken == 0 {
                return Ok(());
            }
            self.line += buffer[..taken].iter().filter(|&&b| b == b'\n').count();
            self.input.consume(taken);
        }
    }

    /// Reads one record into the buffers; gives the length of its fields and their number.
    fn record(&mut self, start: usize) -> Result<Option<(usize, usize)>> {
        let too_large = |what, limit| PreferenceError::TooLarge {
            location: Location::line(&self.path, start),
            what,
            limit,
        };
        if self.fields.len() > 1 << 20 {
            self.fields = vec![0; 1 << 10];
        }
        let (mut length, mut count) = (0, 0);
        loop {
            let buffer = self.input.fill_buf().map_err(unread(&self.path))?;
            let (result, read, written, ended) =
                self.core
                    .read_record(buffer, &mut self.fields[length..], &mut self.ends[count..]);
            self.line += buffer[..read].iter().filter(|&&b| b == b'\n').count();
            self.input.consume(read);
            (length, count) = (length + written, count + ended);
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if length >= MAX_RECORD => {
                    return Err(too_large("a CSV record", MAX_RECORD));
                }
                ReadRecordResult::OutputFull => {
                    let room = (2 * self.fields.len()).min(MAX_RECORD);
                    self.fields.reserve_exact(room - self.fields.len());
                    self.fields.resize(room, 0);
                }
                ReadRecordResult::OutputEndsFull if count > MAX_COLUMNS => {
                    return Err(PreferenceError::TooManyColumns {
                        location: Location::line(&self.path, start),
                        limit: MAX_COLUMNS,
                    });
                }
                ReadRecordResult::OutputEndsFull => {
                    let room = (2 * self.ends.len()).min(MAX_COLUMNS + 1);
                    self.ends.resize(room, 0);
                }
                ReadRecordResult::Record => return Ok(Some((length, count))),
                ReadRecordResult::End => return Ok(None),
            }
        }
    }
}
