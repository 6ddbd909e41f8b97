//! Rows of a `.json` file: a list of objects, an object with such a list under `data`, or JSON lines under another
//! name, as many on the hub are.
//!
//! A list is cut into its elements by counting brackets outside of strings, and each is parsed when it is whole, so
//! only one is in memory; errors have their line and column in the file. An object with `data` is read whole, up to a
//! limit.
//! Tested in `tests/formats.rs` and `tests/bad_input.rs`.

use std::io::{BufRead, Cursor, Read as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{PreferenceError, Result};
use crate::limits::{Line, MAX_RECORD, MAX_WHOLE, append, read_line, read_whole};
use crate::parse;
use crate::read::{
    JsonLines, Rows, buffered, fault_at, kind_of, row_of, row_of_json, too_large, unread,
};
use crate::row::{Location, Row, TextField};

/// Opens a file of one of the three layouts.
pub(crate) fn json(path: &Path, text: &TextField) -> Result<Rows> {
    let mut elements = Elements::new(path, buffered(path)?);
    match elements.peek()? {
        Some(b'[') => {
            elements.take_byte();
            Ok(Box::new(ListRows {
                start: Location::row(path, 1),
                elements,
                number: 0,
                text: text.clone(),
            }))
        }
        _ => document(path, elements, text),
    }
}

/// What does not begin with a list.
fn document(path: &Path, elements: Elements, text: &TextField) -> Result<Rows> {
    // What was skipped is put back, so that lines are counted from the file's beginning.
    let mut bytes = vec![b'\n'; elements.line - 1];
    let mut input = elements.input;
    if read_line(&mut input, &mut bytes).map_err(unread(path))? == Line::TooLong {
        return Err(too_large(Location::line(path, elements.line), "a line"));
    }
    if is_row(&bytes, text) {
        let input = Cursor::new(bytes).chain(input);
        return Ok(Box::new(JsonLines::new(path, input, text)));
    }
    if !read_whole(&mut input, &mut bytes, MAX_WHOLE).map_err(unread(path))? {
        return Err(PreferenceError::TooLarge {
            location: Location::line(path, elements.line),
            what: "a JSON document that is no list",
            limit: MAX_WHOLE,
        });
    }
    let items = match parse::value(&bytes, MAX_WHOLE) {
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
        Err(fault) => {
            let line = |line: usize, column| (Some(Location::line(path, line)), column);
            return Err(fault_at(Location::line(path, elements.line), fault, line));
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
    parse::value(line, MAX_RECORD)
        .is_ok_and(|row| has_column(&row, text) && !row.get("data").is_some_and(Value::is_array))
}

fn first_line_is_an_object(bytes: &[u8]) -> bool {
    let first = bytes
        .split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .find(|line| !line.is_empty());
    first.is_some_and(|line| parse::value(line, MAX_RECORD).is_ok_and(|row| row.is_object()))
}

/// One element of a list, not yet parsed, and where it begins.
struct Element {
    bytes: Vec<u8>,
    line: usize,
    column: usize,
}

/// The rows of a list.
struct ListRows {
    elements: Elements,
    number: usize,
    start: Location,
    text: TextField,
}

impl Iterator for ListRows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        let element = match self.elements.next()? {
            Ok(element) => element,
            Err(error) => return Some(Err(error)),
        };
        self.number += 1;
        let parsed = parse::row(&element.bytes, &self.text);
        let (line, column) = (element.line, element.column);
        drop(element);
        let path = &self.elements.path;
        let place = |at: usize, within: usize| {
            let first = if at <= 1 { column - 1 } else { 0 };
            let line = Location::line(path, line + at.max(1) - 1);
            (Some(line), within + first)
        };
        Some(row_of(
            self.start.at(self.number),
            parsed,
            &self.text,
            place,
        ))
    }
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
        let mut passed = 0;
        loop {
            let buffer = self.input.fill_buf().map_err(unread(&self.path))?;
            let Some(&byte) = buffer.first() else {
                return Ok(None);
            };
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
            self.take_byte();
            passed += 1;
            if byte == b'\n' {
                (self.line, self.column) = (self.line + 1, 1);
            }
            if passed > MAX_RECORD {
                let place = Location::line(&self.path, self.line);
                return Err(too_large(place, "white space between elements"));
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
            if element.len() + taken > MAX_RECORD {
                let start = Location::line(&self.path, self.line);
                return Err(too_large(start, "an element of the list"));
            }
            append(&mut element, &buffer[..taken], MAX_RECORD);
            self.input.consume(taken);
            if end.is_some() {
                return Ok(element);
            }
        }
    }

    /// The next element with its line and column.
    fn take(&mut self) -> Result<Element> {
        let (line, column) = (self.line, self.column);
        let bytes = self.element()?;
        for &byte in &bytes {
            self.column += 1;
            if byte == b'\n' {
                (self.line, self.column) = (self.line + 1, 1);
            }
        }
        Ok(Element {
            bytes,
            line,
            column,
        })
    }

    fn advance(&mut self) -> Result<Option<Element>> {
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
        self.take().map(Some)
    }
}

impl Iterator for Elements {
    type Item = Result<Element>;

    fn next(&mut self) -> Option<Result<Element>> {
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
