//! Reading rows from one file of any accepted type.
//!
//! Types go by the ending, with `.gz` or `.zst` behind it taken off first. JSON lines are read line by line, so that
//! an error has its line; CSV is in `csv.rs`, JSON documents in `json.rs`, tables in `table.rs`. Every reader is an
//! iterator that holds a line or a batch at a time, so a file may be larger than memory; how long a line may be,
//! `limits.rs` says.
//! Tested in `tests/formats.rs` and `tests/bad_input.rs`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::csv::csv;
use crate::error::{PreferenceError, Result};
use crate::json::json;
use crate::limits::{Line, MAX_COLUMNS, MAX_RECORD, read_line};
use crate::parse::{self, Fault, Parsed};
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

/// A file as it is; what is no file is refused by name.
pub(crate) fn open_file(path: &Path) -> Result<File> {
    unbraid_input::open(path).map_err(unread(path))
}

/// A file's contents, decompressed.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Read + Send>> {
    let file = open_file(path)?;
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
    /// Bytes of empty lines since the last row.
    blank: usize,
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
            blank: 0,
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
            let start = self.start.at(self.number + 1);
            match read_line(&mut self.lines, &mut self.line) {
                Err(source) => return Some(Err(unread(&self.path)(source))),
                Ok(Line::None) => return None,
                Ok(Line::TooLong) => return Some(Err(too_large(start, "a line"))),
                Ok(Line::Whole) => self.number += 1,
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
                self.blank += self.line.len();
                if self.blank > MAX_RECORD {
                    return Some(Err(too_large(start, "white space between rows")));
                }
                continue;
            }
            self.blank = 0;
            let parsed = parse::row(text, &self.text);
            if self.line.capacity() > KEPT {
                // A long line goes before its text is copied into a row.
                self.line = Vec::new();
            }
            return Some(row_of(start, parsed, &self.text, |_, column| {
                (None, column)
            }));
        }
    }
}

/// Bytes of a line that may stay allocated for the next one.
const KEPT: usize = 1 << 20;

pub(crate) fn too_large(location: Location, what: &'static str) -> PreferenceError {
    let limit = MAX_RECORD;
    PreferenceError::TooLarge {
        location,
        what,
        limit,
    }
}

/// The row that was parsed. `place` turns line and column of its text into those of the file; no line stands for the row's own.
pub(crate) fn row_of(
    location: Location,
    parsed: Result<Parsed, Fault>,
    text: &TextField,
    place: impl FnOnce(usize, usize) -> (Option<Location>, usize),
) -> Result<Row> {
    match parsed {
        Ok(Parsed::Row(columns)) => text.row(location, columns),
        Ok(Parsed::Other(value)) => {
            let columns = vec![format!(
                "(none: the row is {}, not an object)",
                kind_of(&value)
            )];
            Err(PreferenceError::Shape { location, columns })
        }
        Err(fault) => Err(fault_at(location, fault, place)),
    }
}

/// Why something is not read, with its place in the file.
pub(crate) fn fault_at(
    location: Location,
    fault: Fault,
    place: impl FnOnce(usize, usize) -> (Option<Location>, usize),
) -> PreferenceError {
    match fault {
        Fault::TooLarge => too_large(location, "what the row says, as values in memory,"),
        Fault::TooManyColumns => PreferenceError::TooManyColumns {
            location,
            limit: MAX_COLUMNS,
        },
        Fault::Syntax {
            line,
            column,
            reason,
        } => {
            let (line, column) = place(line, column);
            PreferenceError::Json {
                location: line.unwrap_or(location),
                reason: format!("{reason} at column {column}"),
            }
        }
    }
}

pub(crate) fn row_of_json(location: Location, value: Value, text: &TextField) -> Result<Row> {
    let parsed = match value {
        Value::Object(values) => {
            let names = values.keys().cloned().collect();
            Parsed::Row(Columns { values, names })
        }
        other => Parsed::Other(other),
    };
    row_of(location, Ok(parsed), text, |_, column| (None, column))
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
