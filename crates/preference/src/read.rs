//! Reading rows from one file of any accepted type.
//!
//! Types go by the ending, with `.gz` or `.zst` behind it taken off first. JSON lines are read line by line, so that
//! an error has its line; CSV goes record by record; JSON documents are in `json.rs`, tables in `table.rs`. Every
//! reader is an iterator that holds a line or a batch at a time, so a file may be larger than memory.
//! Tested in `tests/formats.rs` and `tests/bad_input.rs`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{PreferenceError, Result};
use crate::json::json;
use crate::row::{Columns, Location, Row, TextField};
use crate::table::{arrow, parquet};

/// What a file holds, by its ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileType {
    JsonLines,
    Json,
    Parquet,
    Csv,
    Arrow,
}

impl FileType {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let name = name
            .strip_suffix(".gz")
            .or_else(|| name.strip_suffix(".zst"))
            .unwrap_or(&name);
        match name.rsplit_once('.')?.1 {
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "json" => Some(Self::Json),
            "parquet" => Some(Self::Parquet),
            "csv" => Some(Self::Csv),
            "arrow" => Some(Self::Arrow),
            _ => None,
        }
    }
}

/// The rows of a file one after another; an error ends them.
pub(crate) type Rows = Box<dyn Iterator<Item = Result<Row>> + Send>;

/// Opens a file; rows are read as they are asked for.
pub(crate) fn rows_of_file(path: &Path, file_type: FileType, text: &TextField) -> Result<Rows> {
    match file_type {
        FileType::JsonLines => Ok(Box::new(JsonLines::new(path, buffered(path)?, text))),
        FileType::Json => json(path, text),
        FileType::Csv => csv(path, text),
        FileType::Parquet => parquet(path, text),
        FileType::Arrow => arrow(path, text),
    }
}

/// For `map_err`: the file could not be read.
pub(crate) fn unread(path: &Path) -> impl FnOnce(std::io::Error) -> PreferenceError {
    let path = path.to_owned();
    move |source| PreferenceError::Read { path, source }
}

/// Whether the file's own bytes are compressed, so that it can only be read from its beginning.
pub(crate) fn is_compressed(path: &Path) -> bool {
    let ending = path.extension().map(|e| e.to_ascii_lowercase());
    ending.is_some_and(|e| e == "gz" || e == "zst")
}

/// A file's contents, decompressed.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Read + Send>> {
    let file = File::open(path).map_err(unread(path))?;
    let ending = path
        .extension()
        .map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    Ok(match ending.as_deref() {
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file))),
        Some("zst") => Box::new(zstd::Decoder::new(file).map_err(unread(path))?),
        _ => Box::new(file),
    })
}

/// As [`open`], with a buffer.
pub(crate) fn buffered(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    Ok(Box::new(BufReader::with_capacity(1 << 16, open(path)?)))
}

/// One JSON object a line.
pub(crate) struct JsonLines<R> {
    path: PathBuf,
    lines: R,
    line: Vec<u8>,
    number: usize,
    start: Location,
    text: TextField,
}

impl<R: BufRead> JsonLines<R> {
    pub(crate) fn new(path: &Path, lines: R, text: &TextField) -> Self {
        JsonLines {
            path: path.to_owned(),
            lines,
            line: Vec::new(),
            number: 0,
            start: Location::line(path, 1),
            text: text.clone(),
        }
    }
}

impl<R: BufRead> Iterator for JsonLines<R> {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        loop {
            self.line.clear();
            match self.lines.read_until(b'\n', &mut self.line) {
                Err(source) => return Some(Err(unread(&self.path)(source))),
                Ok(0) => return None,
                Ok(_) => self.number += 1,
            }
            let line = self.line.as_slice();
            let text = if self.number == 1 {
                line.strip_prefix("\u{FEFF}".as_bytes()).unwrap_or(line)
            } else {
                line
            };
            // Without its line end, so that the parser's column is one of this line.
            let text = text.trim_ascii_end();
            if text.is_empty() {
                continue;
            }
            let location = self.start.at(self.number);
            let value = serde_json::from_slice(text).map_err(|error| PreferenceError::Json {
                reason: at_column(&error),
                location: location.clone(),
            });
            return Some(value.and_then(|value| row_of_json(location, value, &self.text)));
        }
    }
}

/// The parser's reason without the line, which is always 1 within a line.
pub(crate) fn at_column(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(reason, _)| reason);
    format!("{reason} at column {}", error.column())
}

pub(crate) fn row_of_json(location: Location, value: Value, text: &TextField) -> Result<Row> {
    let Value::Object(values) = value else {
        let columns = vec![format!(
            "(none: the row is {}, not an object)",
            kind_of(&value)
        )];
        return Err(PreferenceError::Shape { location, columns });
    };
    let names = values.keys().cloned().collect();
    text.row(location, Columns { values, names })
}

pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object without a list under `data`",
    }
}

/// A record at a time; the first line names the columns.
fn csv(path: &Path, text: &TextField) -> Result<Rows> {
    let text = text.clone();
    let fault = {
        let path = path.to_owned();
        move |error| csv_fault(&path, error)
    };
    let mut reader = ::csv::Reader::from_reader(open(path)?);
    let header = reader.headers().map_err(&fault)?;
    let names: Vec<String> = header.iter().map(str::to_owned).collect();
    let start = Location::line(path, 1);
    Ok(Box::new(reader.into_records().map(move |record| {
        let record = record.map_err(&fault)?;
        let line = record.position().map_or(0, |position| position.line());
        let line = usize::try_from(line).unwrap_or(usize::MAX);
        let values = names
            .iter()
            .zip(&record)
            .map(|(name, field)| (name.clone(), Value::from(field)))
            .collect();
        let names = names.clone();
        text.row(start.at(line), Columns { values, names })
    })))
}

fn csv_fault(path: &Path, error: ::csv::Error) -> PreferenceError {
    let unreadable = |reason: String| PreferenceError::Format {
        path: path.to_owned(),
        format: "CSV",
        reason,
    };
    let line = |pos: Option<::csv::Position>| pos.map_or(0, |pos| pos.line());
    match error.into_kind() {
        ::csv::ErrorKind::Io(source) => unread(path)(source),
        ::csv::ErrorKind::UnequalLengths {
            pos,
            expected_len,
            len,
        } => unreadable(format!(
            "line {} has {len} fields, the first line has {expected_len}",
            line(pos)
        )),
        ::csv::ErrorKind::Utf8 { pos, .. } => {
            unreadable(format!("line {} is not UTF-8", line(pos)))
        }
        other => unreadable(format!("{other:?}")),
    }
}
