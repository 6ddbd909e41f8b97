//! Recipes: a YAML file whose keys are option names in snake_case.
//!
//! A recipe is read as a flat list of settings with the line of each key. Scalars keep their text as written
//! (`1e-6`, `True`, `no`): the option decides what they mean, so YAML's own guesses (is `no` a boolean? is `1e-6` a
//! string?) never get in the way. Of nested mappings those of plain values are read; deeper ones are noticed, for only
//! keys without effect here hold them. The keys that name data sets are read to any depth, with their lines.
//! Aliases and merge keys are left out: no TRL recipe uses them. Parser: granit-parser (events with positions, safe
//! Rust, fuzzed). serde_norway and serde_yaml_ng had no release since 2024 and stand on a port of libyaml.
//! Tested in `tests/cli_recipe.rs`.

use std::collections::HashMap;
use std::path::Path;

use granit_parser::{Event, Parser, ScalarStyle, Span};
use serde::Serialize;

use super::error::{CliError, Place};
use super::mixture;

/// Longest recipe read, in bytes; real ones have a few thousand.
const MAX_BYTES: u64 = 1 << 20;

/// What a key was set to, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// `null`, `~` or nothing: the default.
    Null,
    /// One scalar.
    One(String),
    /// A list of scalars; several words after an option.
    List(Vec<String>),
    /// A mapping of scalars.
    Mapping(Vec<(String, String)>),
    /// A deeper mapping, or a list that holds more than scalars.
    Nested,
    /// Whatever stands under one of the keys whose value may be deep.
    Tree(Tree),
}

/// A value with all that is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tree {
    /// One scalar as written, none for null; its line.
    Scalar(Option<String>, usize),
    /// A list; the line it begins on.
    List(Vec<Tree>, usize),
    /// A mapping; the line it begins on.
    Map(Vec<(String, Tree)>, usize),
}

impl Tree {
    /// The line it begins on, from 1.
    pub(super) fn line(&self) -> usize {
        match self {
            Self::Scalar(_, line) | Self::List(_, line) | Self::Map(_, line) => *line,
        }
    }

    /// As JSON; a scalar is what JSON reads in it, else text.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Scalar(None, _) => serde_json::Value::Null,
            Self::Scalar(Some(text), _) => match serde_json::from_str(text) {
                Ok(number @ serde_json::Value::Number(_)) => number,
                _ => text.as_str().into(),
            },
            Self::List(items, _) => items.iter().map(Self::to_json).collect(),
            Self::Map(pairs, _) => {
                let pairs = pairs.iter().map(|(k, v)| (k.clone(), v.to_json()));
                serde_json::Value::Object(pairs.collect())
            }
        }
    }
}

/// Deepest nesting of a [`Tree`].
const MAX_DEPTH: usize = 16;

/// One key with its value and place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// Name in snake_case.
    pub(super) key: String,
    /// As written.
    pub(super) value: Value,
    /// Where it stands.
    pub(super) place: Place,
}

/// Reads a recipe file.
///
/// # Errors
/// [`CliError::RecipeUnreadable`], [`CliError::RecipeSyntax`], [`CliError::DuplicateKey`].
pub(super) fn read(file: &Path) -> Result<Vec<Setting>, CliError> {
    let unreadable = |source| CliError::RecipeUnreadable {
        file: file.to_owned(),
        source,
    };
    unbraid_input::check(file).map_err(unreadable)?;
    let length = std::fs::metadata(file).map_err(unreadable)?.len();
    if length > MAX_BYTES {
        let reason = format!("{length} bytes, more than the {MAX_BYTES} that a recipe may have");
        return Err(unreadable(std::io::Error::other(reason)));
    }
    let text = unbraid_input::read_to_string(file).map_err(unreadable)?;
    parse(&text, file)
}

/// Parses a recipe's text; `file` is for messages.
pub(super) fn parse(text: &str, file: &Path) -> Result<Vec<Setting>, CliError> {
    let mut events = Events {
        parser: Parser::new_from_str(text),
        file,
    };
    let mut settings: Vec<Setting> = Vec::new();
    let mut lines = HashMap::new();
    let (first, span) = events.next_node()?;
    match first {
        Event::MappingStart(..) => {}
        // An empty file, or one of comments only, sets nothing.
        Event::StreamEnd => return Ok(settings),
        Event::Scalar(text, style, ..) if scalar(&text, style) == Value::Null => {
            return Ok(settings);
        }
        _ => return Err(events.wrong(&span, "expected `key: value` lines")),
    }
    loop {
        let (event, span) = events.next_node()?;
        let key = match event {
            Event::MappingEnd => break,
            Event::Scalar(key, ..) => key.into_owned(),
            _ => return Err(events.wrong(&span, "expected a key")),
        };
        let place = Place::Recipe {
            file: file.to_owned(),
            line: span.start.line(),
        };
        // `learning-rate` in a recipe is the same key as `learning_rate`.
        let key = key.replace('-', "_");
        if let Some(first) = lines.insert(key.clone(), span.start.line()) {
            return Err(CliError::DuplicateKey { place, key, first });
        }
        let value = match mixture::TREES.contains(&key.as_str()) {
            true => events.deep()?,
            false => events.value()?,
        };
        settings.push(Setting { key, value, place });
    }
    match events.next_node()? {
        (Event::StreamEnd, _) => Ok(settings),
        (_, span) => Err(events.wrong(
            &span,
            "a recipe is one YAML document; here a second one starts",
        )),
    }
}

/// The parser's events, less those that carry no node.
struct Events<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    file: &'a Path,
}

impl<'a> Events<'a> {
    fn next_node(&mut self) -> Result<(Event<'a>, Span), CliError> {
        loop {
            match self.parser.next() {
                Some(Ok((
                    Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd,
                    _,
                ))) => {}
                Some(Ok((Event::Alias(_), span))) => {
                    return Err(self.wrong(&span, "aliases (*name) are not read in recipes"));
                }
                Some(Ok(node)) => return Ok(node),
                Some(Err(error)) => {
                    let marker = error.marker();
                    return Err(CliError::RecipeSyntax {
                        file: self.file.to_owned(),
                        line: marker.line(),
                        column: marker.col() + 1,
                        reason: format!("not valid YAML: {}", error.info()),
                    });
                }
                None => return Ok((Event::StreamEnd, Span::default())),
            }
        }
    }

    /// The value of the key just read.
    fn value(&mut self) -> Result<Value, CliError> {
        match self.next_node()?.0 {
            Event::Scalar(text, style, ..) => Ok(scalar(&text, style)),
            Event::SequenceStart(..) => self.list(),
            Event::MappingStart(..) => self.mapping(),
            _ => self.skip(1).map(|()| Value::Nested),
        }
    }

    /// The value of the key just read, with all that is in it.
    fn deep(&mut self) -> Result<Value, CliError> {
        let (event, span) = self.next_node()?;
        Ok(match self.tree(event, &span, MAX_DEPTH)? {
            Tree::Scalar(None, _) => Value::Null,
            Tree::Scalar(Some(text), _) => Value::One(text),
            tree => Value::Tree(tree),
        })
    }

    fn tree(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Tree, CliError> {
        let line = span.start.line();
        if depth == 0 {
            return Err(self.wrong(span, "nested too deeply"));
        }
        match event {
            Event::Scalar(text, style, ..) => Ok(match scalar(&text, style) {
                Value::One(text) => Tree::Scalar(Some(text), line),
                _ => Tree::Scalar(None, line),
            }),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next_node()? {
                        (Event::SequenceEnd, _) => return Ok(Tree::List(items, line)),
                        (event, span) => items.push(self.tree(event, &span, depth - 1)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut pairs: Vec<(String, Tree)> = Vec::new();
                loop {
                    let (event, span) = self.next_node()?;
                    let key = match event {
                        Event::MappingEnd => return Ok(Tree::Map(pairs, line)),
                        Event::Scalar(key, ..) => key.into_owned(),
                        _ => return Err(self.wrong(&span, "expected a key")),
                    };
                    if pairs.iter().any(|(known, _)| *known == key) {
                        return Err(self.wrong(&span, &format!("key {key} is given twice")));
                    }
                    let (event, span) = self.next_node()?;
                    let value = self.tree(event, &span, depth - 1)?;
                    pairs.push((key, value));
                }
            }
            _ => Err(self.wrong(span, "expected a value")),
        }
    }

    /// The rest of a list whose start was just read.
    fn list(&mut self) -> Result<Value, CliError> {
        let mut items = Vec::new();
        let mut nested = false;
        loop {
            match self.next_node()?.0 {
                Event::SequenceEnd => break,
                Event::Scalar(text, ..) => items.push(text.into_owned()),
                _ => {
                    nested = true;
                    self.skip(1)?;
                }
            }
        }
        Ok(if nested {
            Value::Nested
        } else {
            Value::List(items)
        })
    }

    /// The rest of a mapping whose start was just read.
    fn mapping(&mut self) -> Result<Value, CliError> {
        let mut pairs = Vec::new();
        loop {
            let key = match self.next_node()?.0 {
                Event::MappingEnd => return Ok(Value::Mapping(pairs)),
                Event::Scalar(key, ..) => key.into_owned(),
                // A collection as a key: its rest, then the mapping's.
                _ => return self.skip(2).map(|()| Value::Nested),
            };
            match self.next_node()?.0 {
                Event::Scalar(value, ..) => pairs.push((key, value.into_owned())),
                _ => return self.skip(2).map(|()| Value::Nested),
            }
        }
    }

    /// Passes over the rest of `depth` open collections.
    fn skip(&mut self, mut depth: usize) -> Result<(), CliError> {
        while depth > 0 {
            match self.next_node()?.0 {
                Event::MappingStart(..) | Event::SequenceStart(..) => depth += 1,
                Event::MappingEnd | Event::SequenceEnd | Event::StreamEnd => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn wrong(&self, span: &Span, reason: &str) -> CliError {
        CliError::RecipeSyntax {
            file: self.file.to_owned(),
            line: span.start.line(),
            column: span.start.col() + 1,
            reason: reason.to_owned(),
        }
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    let plain = style == ScalarStyle::Plain;
    if plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    Value::One(text.to_owned())
}

/// A checked configuration as a recipe: one `key: value` line each, values in JSON, which YAML contains.
///
/// Numbers are written so that Python's YAML reads them as numbers too (`1.0e-6`, not `1e-6`). Read again, the text
/// gives an equal configuration.
///
/// # Errors
/// Only if the value is not a flat mapping, which none of the configurations is.
pub fn to_recipe<T: Serialize>(config: &T) -> Result<String, serde_json::Error> {
    use serde::ser::Error as _;
    let value = serde_json::to_value(config)?;
    let fields = value
        .as_object()
        .ok_or_else(|| serde_json::Error::custom("not a mapping"))?;
    let mut text = String::new();
    for (key, value) in fields {
        text.push_str(&format!("{key}: {}\n", inline(value)));
    }
    Ok(text)
}

fn inline(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Number(number) => {
            let text = number.to_string();
            match text.split_once('e') {
                Some((mantissa, exponent)) if !mantissa.contains('.') => {
                    format!("{mantissa}.0e{exponent}")
                }
                _ => text,
            }
        }
        serde_json::Value::Array(items) => {
            format!(
                "[{}]",
                items.iter().map(inline).collect::<Vec<_>>().join(", ")
            )
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "a: 1 # one\nb: [x, 'y', {z: [1]}]\nc:\n  - \"q\\u00e9\"\n  - r\nd: {e: {f: g}}\nh: |\n  text\n";

    #[test]
    fn values_keep_their_text_and_line() {
        let settings = parse(WHOLE, Path::new("r")).unwrap();
        let read: Vec<_> = settings
            .iter()
            .map(|setting| match &setting.place {
                Place::Recipe { line, .. } => (&*setting.key, *line, setting.value.clone()),
                Place::CommandLine => panic!("{setting:?}"),
            })
            .collect();
        let list = Value::List(vec!["q\u{e9}".into(), "r".into()]);
        assert_eq!(
            read,
            [
                ("a", 1, Value::One("1".into())),
                ("b", 2, Value::Nested),
                ("c", 3, list),
                ("d", 6, Value::Nested),
                ("h", 7, Value::One("text\n".into())),
            ]
        );
    }

    /// Cut anywhere, or with any byte replaced, a recipe is read or refused; it never panics or hangs.
    #[test]
    fn damaged_recipes_are_read_or_refused() {
        let mut refused = 0;
        for at in 0..WHOLE.len() {
            refused += usize::from(parse(&WHOLE[..at], Path::new("r")).is_err());
            for byte in [
                b'\t', b':', b'-', b'[', b'}', b'"', b'&', b'*', b'|', b'\n', 0,
            ] {
                let mut bytes = WHOLE.as_bytes().to_vec();
                bytes[at] = byte;
                let text = String::from_utf8(bytes).expect("ASCII for ASCII");
                refused += usize::from(parse(&text, Path::new("r")).is_err());
            }
        }
        assert!(refused > 50, "only {refused} refused");
        let deep = "[".repeat(100_000);
        assert!(parse(&format!("a: {deep}"), Path::new("r")).is_err());
    }
}
