//! Reading rows from one file of any accepted type.
//!
//! Types go by the ending, with `.gz` or `.zst` behind it taken off first. JSON lines are read line by line, so that
//! an error has its line; a `.json` file may also turn out to hold JSON lines, as many on the hub do. Tables are read
//! batch by batch, and of them only the columns that a row can use.
//! Tested in `tests/formats.rs` and `tests/bad_input.rs`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_schema::{ArrowError, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};

use crate::convert::cell;
use crate::error::{PreferenceError, Result};
use crate::guard::fenced;
use crate::row::{COLUMNS, Columns, Location, Row};

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

/// Appends the rows of a file until `rows` has `limit`.
pub(crate) fn read_file(
    path: &Path,
    file_type: FileType,
    limit: usize,
    rows: &mut Vec<Row>,
) -> Result<()> {
    match file_type {
        FileType::JsonLines => json_lines(path, BufReader::new(open(path)?), limit, rows),
        FileType::Json => json(path, limit, rows),
        FileType::Csv => csv(path, limit, rows),
        FileType::Parquet => fenced(|| parquet(path, limit, rows))
            .unwrap_or_else(|reason| Err(unreadable(path, "Parquet", reason))),
        FileType::Arrow => fenced(|| arrow(path, limit, rows))
            .unwrap_or_else(|reason| Err(unreadable(path, "Arrow", reason))),
    }
}

fn unreadable(path: &Path, format: &'static str, reason: String) -> PreferenceError {
    PreferenceError::Format {
        path: path.to_owned(),
        format,
        reason,
    }
}

fn open(path: &Path) -> Result<Box<dyn Read>> {
    let read = |source| PreferenceError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(read)?;
    let ending = path
        .extension()
        .map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    Ok(match ending.as_deref() {
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file))),
        Some("zst") => Box::new(zstd::Decoder::new(file).map_err(read)?),
        _ => Box::new(file),
    })
}

fn whole(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?
        .read_to_end(&mut bytes)
        .map_err(|source| PreferenceError::Read {
            path: path.to_owned(),
            source,
        })?;
    Ok(bytes)
}

fn json_lines(
    path: &Path,
    mut lines: impl BufRead,
    limit: usize,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let start = Location::line(path, 1);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = lines.read_until(b'\n', &mut line);
        let count = read.map_err(|source| PreferenceError::Read {
            path: path.to_owned(),
            source,
        })?;
        if count == 0 || rows.len() >= limit {
            break;
        }
        let text = if number == 1 {
            line.strip_prefix("\u{FEFF}".as_bytes()).unwrap_or(&line)
        } else {
            &line[..]
        };
        // Without its line end, so that the parser's column is one of this line.
        let text = text.trim_ascii_end();
        if text.is_empty() {
            continue;
        }
        let location = start.at(number);
        let value = serde_json::from_slice(text).map_err(|error| PreferenceError::Json {
            reason: at_column(&error),
            location: location.clone(),
        })?;
        rows.push(row_of_json(location, value)?);
    }
    Ok(())
}

/// The parser's reason without the line, which is always 1 within a line.
fn at_column(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(reason, _)| reason);
    format!("{reason} at column {}", error.column())
}

fn row_of_json(location: Location, value: Value) -> Result<Row> {
    let Value::Object(values) = value else {
        let columns = vec![format!(
            "(none: the row is {}, not an object)",
            kind_of(&value)
        )];
        return Err(PreferenceError::Shape { location, columns });
    };
    let names = values.keys().cloned().collect();
    Row::from_columns(location, Columns { values, names })
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object without a list under `data`",
    }
}

fn json(path: &Path, limit: usize, rows: &mut Vec<Row>) -> Result<()> {
    let bytes = whole(path)?;
    let document = match serde_json::from_slice(&bytes) {
        Ok(Value::Object(mut fields)) if fields.get("data").is_some_and(Value::is_array) => {
            fields.remove("data")
        }
        Ok(Value::Array(items)) => Some(Value::Array(items)),
        Ok(Value::Object(fields)) if COLUMNS.iter().any(|column| fields.contains_key(*column)) => {
            None
        }
        Ok(other) => {
            return Err(PreferenceError::NotRows {
                path: path.to_owned(),
                got: kind_of(&other),
            });
        }
        // JSON lines under another name: the first line is a whole object.
        Err(_) if first_line_is_an_object(&bytes) => None,
        Err(error) => {
            let location = Location::line(path, error.line());
            return Err(PreferenceError::Json {
                location,
                reason: at_column(&error),
            });
        }
    };
    let Some(Value::Array(items)) = document else {
        return json_lines(path, bytes.as_slice(), limit, rows);
    };
    let start = Location::row(path, 1);
    for (at, item) in items.into_iter().enumerate() {
        if rows.len() >= limit {
            break;
        }
        rows.push(row_of_json(start.at(at + 1), item)?);
    }
    Ok(())
}

fn first_line_is_an_object(bytes: &[u8]) -> bool {
    let first = bytes
        .split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .find(|line| !line.is_empty());
    first.is_some_and(|line| serde_json::from_slice::<Map<String, Value>>(line).is_ok())
}

fn csv(path: &Path, limit: usize, rows: &mut Vec<Row>) -> Result<()> {
    let fault = |error: ::csv::Error| match error.into_kind() {
        ::csv::ErrorKind::Io(source) => PreferenceError::Read {
            path: path.to_owned(),
            source,
        },
        ::csv::ErrorKind::UnequalLengths {
            pos,
            expected_len,
            len,
        } => {
            let line = pos.map_or(0, |pos| pos.line());
            let reason = format!("line {line} has {len} fields, the first line has {expected_len}");
            PreferenceError::Format {
                path: path.to_owned(),
                format: "CSV",
                reason,
            }
        }
        ::csv::ErrorKind::Utf8 { pos, .. } => {
            let line = pos.map_or(0, |pos| pos.line());
            PreferenceError::Format {
                path: path.to_owned(),
                format: "CSV",
                reason: format!("line {line} is not UTF-8"),
            }
        }
        other => PreferenceError::Format {
            path: path.to_owned(),
            format: "CSV",
            reason: format!("{other:?}"),
        },
    };
    let mut reader = ::csv::Reader::from_reader(open(path)?);
    let names: Vec<String> = reader
        .headers()
        .map_err(fault)?
        .iter()
        .map(str::to_owned)
        .collect();
    let start = Location::line(path, 1);
    for record in reader.records() {
        if rows.len() >= limit {
            break;
        }
        let record = record.map_err(fault)?;
        let line = record.position().map_or(0, |position| position.line());
        let line = usize::try_from(line).unwrap_or(usize::MAX);
        let values = names
            .iter()
            .zip(&record)
            .map(|(name, field)| (name.clone(), Value::from(field)))
            .collect();
        rows.push(Row::from_columns(
            start.at(line),
            Columns {
                values,
                names: names.clone(),
            },
        )?);
    }
    Ok(())
}

fn parquet(path: &Path, limit: usize, rows: &mut Vec<Row>) -> Result<()> {
    let fault = |reason: String| unreadable(path, "Parquet", reason);
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(whole(path)?))
        .map_err(|error| fault(error.to_string()))?;
    let names = column_names(builder.schema());
    let wanted = names
        .iter()
        .enumerate()
        .filter(|(_, name)| COLUMNS.contains(&name.as_str()))
        .map(|(at, _)| at);
    let projection = ProjectionMask::roots(builder.parquet_schema(), wanted);
    let batches = builder
        .with_projection(projection)
        .build()
        .map_err(|error| fault(error.to_string()))?;
    rows_of_batches(path, batches, &names, fault, limit, rows)
}

/// Both Arrow framings: the stream that `datasets` writes, and the file with a footer.
fn arrow(path: &Path, limit: usize, rows: &mut Vec<Row>) -> Result<()> {
    let fault = |reason: String| unreadable(path, "Arrow", reason);
    let bytes = std::io::Cursor::new(whole(path)?);
    if bytes.get_ref().starts_with(b"ARROW1") {
        let batches = FileReader::try_new(bytes, None).map_err(|error| fault(error.to_string()))?;
        let names = column_names(&batches.schema());
        rows_of_batches(path, batches, &names, fault, limit, rows)
    } else {
        let batches =
            StreamReader::try_new(bytes, None).map_err(|error| fault(error.to_string()))?;
        let names = column_names(&batches.schema());
        rows_of_batches(path, batches, &names, fault, limit, rows)
    }
}

fn column_names(schema: &SchemaRef) -> Vec<String> {
    schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect()
}

fn rows_of_batches(
    path: &Path,
    batches: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
    names: &[String],
    fault: impl Fn(String) -> PreferenceError,
    limit: usize,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let start = Location::row(path, 1);
    let mut number = 0;
    for batch in batches {
        let batch = batch.map_err(|error| fault(error.to_string()))?;
        let schema = batch.schema();
        let columns: Vec<_> = schema
            .fields()
            .iter()
            .zip(batch.columns())
            .filter(|(field, _)| COLUMNS.contains(&field.name().as_str()))
            .collect();
        for at in 0..batch.num_rows() {
            if rows.len() >= limit {
                return Ok(());
            }
            number += 1;
            let mut values = Map::new();
            for (field, column) in &columns {
                let value = cell(column.as_ref(), at).map_err(|reason| {
                    fault(format!("row {number}, column `{}`: {reason}", field.name()))
                })?;
                values.insert(field.name().clone(), value);
            }
            rows.push(Row::from_columns(
                start.at(number),
                Columns {
                    values,
                    names: names.to_vec(),
                },
            )?);
        }
    }
    Ok(())
}
