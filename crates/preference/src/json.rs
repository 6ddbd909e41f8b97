//! Rows of a `.json` file: a list of objects, an object with such a list under `data`, or JSON lines under another
//! name, as many on the hub are.
//!
//! A list is cut into its elements by counting brackets outside of strings, and each is parsed when it is whole, so
//! only one is in memory; errors have their line and column in the file. An object with `data` is read whole.
//! Tested in `tests/formats.rs` and `tests/bad_input.rs`.

use std::io::{BufRead, Cursor, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{PreferenceError, Result};
use crate::read::{JsonLines, Rows, at_column, buffered, kind_of, row_of_json, unread};
use crate::row::{Location, TextField};

/// Opens a file of one of the three layouts.
pub(crate) fn json(path: &Path, text: &TextField) -> Result<Rows> {
    let mut elements = Elements::new(path, buffered(path)?);
    match elements.peek()? {
        Some(b'[') => {
            elements.take_byte();
            let start = Location::row(path, 1);
            let text = text.clone();
            let rows = elements.enumerate().map(move |(at, element)| {
                element.and_then(|value| row_of_json(start.at(at + 1), value, &text))
            });
            Ok(Box::new(rows))
        }
        _ => document(path, elements, text),
    }
}

/// What does not begin with a list.
fn document(path: &Path, elements: Elements, text: &TextField) -> Result<Rows> {
    // What was skipped is put back, so that lines are counted from the file's beginning.
    let mut bytes = vec![b'\n'; elements.line - 1];
    let mut input = elements.input;
    input.read_until(b'\n', &mut bytes).map_err(unread(path))?;
    if is_row(&bytes, text) {
        let input = Cursor::new(bytes).chain(input);
        return Ok(Box::new(JsonLines::new(path, input, text)));
    }
    input.read_to_end(&mut bytes).map_err(unread(path))?;
    let items = match serde_json::from_slice(&bytes) {
        Ok(Value::Object(mut fields)) if fields.get("data").is_some_and(Value::is_array) => {
            match fields.remove("data") {
                Some(Value::Array(items)) => items,
                _ => unreachable!("it was just seen to be a list"),
            }
        }
        Ok(row @ Value::Object(_)) if has_column(&row, text) => vec![row],
        Ok(other) => {
            return Err(PreferenceError::NotRows {
                path: path.to_owned(),
                got: kind_of(&other),
            });
        }
        Err(_) if first_line_is_an_object(&bytes) => {
            return Ok(Box::new(JsonLines::new(path, Cursor::new(bytes), text)));
        }
        // An empty file has no rows.
        Err(_) if bytes.trim_ascii().is_empty() => Vec::new(),
        Err(error) => {
            return Err(PreferenceError::Json {
                location: Location::line(path, error.line()),
                reason: at_column(&error),
            });
        }
    };
    let start = Location::row(path, 1);
    let rows = items.into_iter().enumerate();
    let text = text.clone();
    Ok(Box::new(rows.map(move |(at, item)| {
        row_of_json(start.at(at + 1), item, &text)
    })))
}

fn has_column(row: &Value, text: &TextField) -> bool {
    row.as_object()
        .is_some_and(|row| row.keys().any(|column| text.reads(column)))
}

/// Whether a line is a row by itself, and no document with a list under `data`.
fn is_row(line: &[u8], text: &TextField) -> bool {
    serde_json::from_slice::<Value>(line)
        .is_ok_and(|row| has_column(&row, text) && !row.get("data").is_some_and(Value::is_array))
}

fn first_line_is_an_object(bytes: &[u8]) -> bool {
    let first = bytes
        .split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .find(|line| !line.is_empty());
    first.is_some_and(|line| serde_json::from_slice::<Map<String, Value>>(line).is_ok())
}

/// The elements of a list whose `[` is already taken.
struct Elements {
    path: PathBuf,
    input: Box<dyn BufRead + Send>,
    /// Of the next byte, both counted from 1.
    line: usize,
    column: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Inside,
    Ended,
}

impl Elements {
    fn new(path: &Path, input: Box<dyn BufRead + Send>) -> Self {
        Elements {
            path: path.to_owned(),
            input,
            line: 1,
            column: 1,
            state: State::Start,
        }
    }

    /// The next byte that is no white space, without taking it.
    fn peek(&mut self) -> Result<Option<u8>> {
        loop {
            let buffer = self.input.fill_buf().map_err(unread(&self.path))?;
            let Some(&byte) = buffer.first() else {
                return Ok(None);
            };
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
            self.take_byte();
            if byte == b'\n' {
                (self.line, self.column) = (self.line + 1, 1);
            }
        }
    }

    /// Takes one byte that is no line end.
    fn take_byte(&mut self) {
        self.input.consume(1);
        self.column += 1;
    }

    fn fault(&self, reason: &str) -> PreferenceError {
        PreferenceError::Json {
            location: Location::line(&self.path, self.line),
            reason: format!("{reason} at column {}", self.column),
        }
    }

    /// The bytes of one element: to the bracket that closes it, or to the comma or bracket behind it.
    fn element(&mut self) -> Result<Vec<u8>> {
        let mut scan = Scan::default();
        let mut element = Vec::new();
        loop {
            let buffer = self.input.fill_buf().map_err(unread(&self.path))?;
            if buffer.is_empty() {
                return Ok(element);
            }
            let end = buffer.iter().position(|&byte| scan.ends_before(byte));
            let taken = end.unwrap_or(buffer.len());
            element.extend_from_slice(&buffer[..taken]);
            self.input.consume(taken);
            if end.is_some() {
                return Ok(element);
            }
        }
    }

    fn parse(&mut self) -> Result<Value> {
        let (line, column) = (self.line, self.column);
        let element = self.element()?;
        for &byte in &element {
            self.column += 1;
            if byte == b'\n' {
                (self.line, self.column) = (self.line + 1, 1);
            }
        }
        serde_json::from_slice(&element).map_err(|error| {
            let text = error.to_string();
            let reason = text
                .rsplit_once(" at line ")
                .map_or(text.as_str(), |(reason, _)| reason);
            let first = error.line() <= 1;
            let column = error.column() + if first { column - 1 } else { 0 };
            PreferenceError::Json {
                location: Location::line(&self.path, line + error.line().max(1) - 1),
                reason: format!("{reason} at column {column}"),
            }
        })
    }

    fn advance(&mut self) -> Result<Option<Value>> {
        let mut next = self.peek()?;
        if self.state == State::Inside {
            match next {
                Some(b',') => {
                    self.take_byte();
                    next = self.peek()?;
                }
                Some(b']') => {}
                None => return Err(self.fault("EOF while parsing a list")),
                Some(_) => return Err(self.fault("expected `,` or `]`")),
            }
        }
        if next == Some(b']') {
            self.take_byte();
            self.state = State::Ended;
            return match self.peek()? {
                None => Ok(None),
                Some(_) => Err(self.fault("trailing characters")),
            };
        }
        if next.is_none() {
            return Err(self.fault("EOF while parsing a list"));
        }
        self.state = State::Inside;
        self.parse().map(Some)
    }
}

impl Iterator for Elements {
    type Item = Result<Value>;

    fn next(&mut self) -> Option<Result<Value>> {
        if self.state == State::Ended {
            return None;
        }
        self.advance().transpose()
    }
}

/// Where an element ends, byte by byte.
#[derive(Default)]
struct Scan {
    depth: usize,
    in_string: bool,
    escaped: bool,
    closed: bool,
}

impl Scan {
    /// Whether the element ended before this byte.
    fn ends_before(&mut self, byte: u8) -> bool {
        if self.closed {
            return true;
        }
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' if self.depth > 0 => {
                self.depth -= 1;
                self.closed = self.depth == 0;
            }
            b',' | b']' | b'}' if self.depth == 0 => return true,
            _ => {}
        }
        false
    }
}
