//! Rows of Parquet and Arrow files, batch by batch, and of them only the columns that a row can use.
//!
//! A column that Parquet itself calls JSON holds the values that its text describes (so does text of the Arrow type
//! `arrow.json`, see `convert.rs`). A compressed Parquet file (`.parquet.gz`) is read whole, up to a limit, because its
//! footer comes last. The readers trust a
//! file's offsets, so each call to them is fenced (`guard.rs`).
//! Tested in `tests/formats.rs` and `tests/bad_input.rs`.

use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, Field, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{ConvertedType, LogicalType};
use parquet::file::reader::ChunkReader;
use serde_json::{Map, Value};

use crate::convert::{cell, described};
use crate::error::{PreferenceError, Result};
use crate::guard::fenced;
use crate::ipc::Messages;
use crate::limits::{Budget, MAX_COLUMNS, MAX_RECORD, MAX_WHOLE, read_whole};
use crate::read::{Rows, buffered, is_compressed, open, open_file, too_large, unread};
use crate::row::{Columns, Location, Row, TextField};

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// Batches of a table, the names of all its columns, and of those that hold JSON text.
type Opened = (Batches, Vec<String>, Vec<String>);

pub(crate) fn parquet(path: &Path, text: &TextField) -> Result<Rows> {
    let opened = if is_compressed(path) {
        let bytes = whole(path)?;
        fenced(|| open_parquet(bytes, text))
    } else {
        let file = open_file(path)?;
        fenced(|| open_parquet(file, text))
    };
    table(path, "Parquet", opened, text)
}

/// The decompressed bytes of a file that can only be read whole.
fn whole(path: &Path) -> Result<bytes::Bytes> {
    let mut bytes = Vec::new();
    match read_whole(&mut open(path)?, &mut bytes, MAX_WHOLE).map_err(unread(path))? {
        true => Ok(bytes.into()),
        false => Err(PreferenceError::TooLarge {
            location: Location::row(path, 1),
            what: "a compressed Parquet file, decompressed,",
            limit: MAX_WHOLE,
        }),
    }
}

fn open_parquet(
    file: impl ChunkReader + 'static,
    text_field: &TextField,
) -> Result<Opened, String> {
    let text = |error: parquet::errors::ParquetError| error.to_string();
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(text)?;
    let names = column_names(builder.schema());
    let wanted = names
        .iter()
        .enumerate()
        .filter(|(_, name)| text_field.loads(name))
        .map(|(at, _)| at);
    let fields = builder.parquet_schema().root_schema().get_fields().iter();
    let json = fields
        .map(|field| field.get_basic_info())
        .filter(|info| {
            info.logical_type_ref() == Some(&LogicalType::Json)
                || info.converted_type() == ConvertedType::JSON
        })
        .map(|info| info.name().to_owned())
        .collect();
    let projection = ProjectionMask::roots(builder.parquet_schema(), wanted);
    let batches = builder.with_projection(projection).build().map_err(text)?;
    Ok((Box::new(batches), names, json))
}

/// Both Arrow framings: the stream that `datasets` writes, and the file, which is such a stream with a footer behind it.
pub(crate) fn arrow(path: &Path, text: &TextField) -> Result<Rows> {
    let mut stream = buffered(path)?;
    let start = stream.fill_buf().map_err(unread(path))?;
    let footed = start.starts_with(b"ARROW1");
    let magic = start.len().min(8);
    if footed {
        stream.consume(magic);
    }
    // A file cannot hold more than its length; what is compressed can unfold to anything.
    let limit = if is_compressed(path) {
        MAX_WHOLE
    } else {
        usize::MAX
    };
    let opened = fenced(|| {
        let mut messages = Messages::new(stream, limit);
        let first = messages.advance().map_err(|error| error.to_string())?;
        let schema = messages.schema().ok_or("it has no schema")?;
        let names = column_names(&schema);
        let batches = first.map(Ok).into_iter().chain(messages);
        Ok((Box::new(batches) as Batches, names, Vec::new()))
    });
    table(path, "Arrow", opened, text)
}

fn column_names(schema: &SchemaRef) -> Vec<String> {
    schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect()
}

/// The rows of what was opened, or why it could not be.
fn table(
    path: &Path,
    format: &'static str,
    opened: Result<Result<Opened, String>, String>,
    text: &TextField,
) -> Result<Rows> {
    let path = path.to_owned();
    match opened.and_then(|opened| opened) {
        Ok((_, names, _)) if names.len() > MAX_COLUMNS => Err(PreferenceError::TooManyColumns {
            location: Location::row(&path, 1),
            limit: MAX_COLUMNS,
        }),
        Ok((batches, names, json)) => Ok(Box::new(Table {
            start: Location::row(&path, 1),
            path,
            format,
            batches,
            names,
            json,
            batch: None,
            number: 0,
            text: text.clone(),
        })),
        Err(reason) => Err(PreferenceError::Format {
            path,
            format,
            reason,
        }),
    }
}

struct Table {
    path: PathBuf,
    format: &'static str,
    batches: Batches,
    names: Vec<String>,
    /// Columns of JSON text whose Arrow type does not say so.
    json: Vec<String>,
    /// The batch that is being read and its next row.
    batch: Option<(RecordBatch, usize)>,
    /// Rows read so far.
    number: usize,
    start: Location,
    text: TextField,
}

impl Table {
    fn fault(&self, reason: String) -> PreferenceError {
        PreferenceError::Format {
            path: self.path.clone(),
            format: self.format,
            reason,
        }
    }

    fn row(&self, batch: &RecordBatch, at: usize) -> Result<Row> {
        let mut values = Map::new();
        let mut budget = Budget::new(MAX_RECORD);
        let schema = batch.schema_ref();
        for (field, column) in schema.fields().iter().zip(batch.columns()) {
            if !self.text.loads(field.name()) {
                continue;
            }
            let value = cell(field, column.as_ref(), at, &mut budget);
            let value = match value.and_then(|value| self.described(field, value)) {
                Ok(value) => value,
                Err(_) if budget.is_spent() => {
                    return Err(too_large(self.start.at(self.number), "a row of the table"));
                }
                Err(_) if !self.text.reads(field.name()) => Value::Null,
                Err(reason) => {
                    let (row, column) = (self.number, field.name());
                    return Err(self.fault(format!("row {row}, column `{column}`: {reason}")));
                }
            };
            values.insert(field.name().clone(), value);
        }
        let names = self.names.clone();
        self.text
            .row(self.start.at(self.number), Columns { values, names })
    }

    fn described(&self, field: &Field, value: Value) -> Result<Value, String> {
        match field.extension_type_name().is_none() && self.json.contains(field.name()) {
            true => described(value),
            false => Ok(value),
        }
    }

    fn advance(&mut self) -> Result<Option<Row>> {
        loop {
            if let Some((batch, at)) = self.batch.take_if(|(batch, at)| *at < batch.num_rows()) {
                self.number += 1;
                let row = self.row(&batch, at);
                self.batch = Some((batch, at + 1));
                return row.map(Some);
            }
            match self.batches.next() {
                None => return Ok(None),
                Some(Ok(batch)) => self.batch = Some((batch, 0)),
                Some(Err(error)) => return Err(self.fault(error.to_string())),
            }
        }
    }
}

impl Iterator for Table {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        fenced(|| self.advance())
            .unwrap_or_else(|reason| Err(self.fault(reason)))
            .transpose()
    }
}
