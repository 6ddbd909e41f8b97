//! JSON as rows need it: the columns that are read, numbers that JSON has not, and no more memory than a record may take.
//!
//! - Python writes `NaN`, `Infinity` and `-Infinity` as they are, and `datasets` 5.2 reads them, `Inf`, `-Inf` and `-NaN`
//!   too. JSON has no such numbers. Where a text is refused, those words outside of strings are replaced by strings of
//!   the same length, so that columns in errors stay right, and the text is parsed again. In the result they are
//!   [`non_finite`] values, which no column accepts; a column that nobody reads may hold them.
//! - Columns that no row can use are passed over without being built.
//! - Values are counted against a [`Budget`].
//!
//! Parser: serde_json, which stops at 127 levels of nesting. Tested here and in `tests/non_finite.rs`.

use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};

use crate::limits::{Budget, MAX_COLUMNS, MAX_RECORD};
use crate::row::{Columns, TextField};

/// What a text that should be a row is.
pub(crate) enum Parsed {
    /// An object.
    Row(Columns),
    /// Something else.
    Other(Value),
}

/// Why a text cannot be read.
pub(crate) enum Fault {
    /// More values than the limit allows.
    TooLarge,
    /// More columns than a row may have.
    TooManyColumns,
    /// It is no JSON; line and column of the text, from 1.
    Syntax {
        line: usize,
        column: usize,
        reason: String,
    },
}

/// Parses one row.
pub(crate) fn row(bytes: &[u8], text: &TextField) -> Result<Parsed, Fault> {
    parse(bytes, MAX_RECORD, Some(text))
}

/// Parses one value, whose parts may take `limit` bytes.
pub(crate) fn value(bytes: &[u8], limit: usize) -> Result<Value, Fault> {
    match parse(bytes, limit, None)? {
        Parsed::Other(value) => Ok(value),
        Parsed::Row(columns) => Ok(Value::Object(columns.values)),
    }
}

const KEY: &str = "non-finite number";

/// What stands for a number that is not finite: an object, which no column of text, numbers or turns accepts.
pub(crate) fn non_finite(name: &str) -> Value {
    Value::Object(Map::from_iter([(KEY.to_owned(), Value::from(name))]))
}

/// The name of a number that is not finite.
pub(crate) fn non_finite_name(value: &Value) -> Option<&str> {
    let fields = value.as_object().filter(|fields| fields.len() == 1)?;
    fields.get(KEY)?.as_str()
}

/// The first number within a value that is not finite.
pub(crate) fn non_finite_within(value: &Value) -> Option<&Value> {
    if non_finite_name(value).is_some() {
        return Some(value);
    }
    match value {
        Value::Array(items) => items.iter().find_map(non_finite_within),
        Value::Object(fields) => fields.values().find_map(non_finite_within),
        _ => None,
    }
}

/// Makes numbers that are not finite null, as `datasets` writes them to JSON.
pub(crate) fn without_non_finite(value: &mut Value) {
    if non_finite_name(value).is_some() {
        *value = Value::Null;
        return;
    }
    match value {
        Value::Array(items) => items.iter_mut().for_each(without_non_finite),
        Value::Object(fields) => fields.values_mut().for_each(without_non_finite),
        _ => {}
    }
}

fn parse(bytes: &[u8], limit: usize, text: Option<&TextField>) -> Result<Parsed, Fault> {
    match attempt(bytes, limit, text, None) {
        Err(Fault::Syntax {
            line,
            column,
            reason,
        }) => match replaced(bytes) {
            None => Err(Fault::Syntax {
                line,
                column,
                reason,
            }),
            Some((bytes, words)) => attempt(&bytes, limit, text, Some(words)),
        },
        outcome => outcome,
    }
}

fn attempt(
    bytes: &[u8],
    limit: usize,
    text: Option<&TextField>,
    words: Option<Words>,
) -> Result<Parsed, Fault> {
    let mut context = Context {
        budget: Budget::new(limit),
        words,
        too_many_columns: false,
    };
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let top = Top {
        context: &mut context,
        text,
    };
    let parsed = top
        .deserialize(&mut reader)
        .and_then(|parsed| reader.end().map(|()| parsed));
    parsed.map_err(|error| {
        if context.too_many_columns {
            return Fault::TooManyColumns;
        }
        if context.budget.is_spent() {
            return Fault::TooLarge;
        }
        let text = error.to_string();
        let reason = text
            .rsplit_once(" at line ")
            .map_or(text.as_str(), |(reason, _)| reason);
        let reason = match reason {
            "recursion limit exceeded" => "more than 127 levels of nesting",
            reason => reason,
        };
        Fault::Syntax {
            line: error.line(),
            column: error.column(),
            reason: reason.to_owned(),
        }
    })
}

/// What the replacing strings stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Words {
    /// Whether `Inf` is among them, whose string is that of `NaN`.
    short: bool,
}

/// A character that no text consists of.
const MARK: u8 = 0x7f;

impl Words {
    /// What a string stands for, if it is one of the replacing ones.
    fn meaning(self, text: &str) -> Option<&'static str> {
        if text.is_empty() || text.bytes().any(|byte| byte != MARK) {
            return None;
        }
        match text.len() {
            1 if self.short => Some("NaN or Inf"),
            1 => Some("NaN"),
            2 if self.short => Some("-NaN or -Inf"),
            2 => Some("-NaN"),
            6 => Some("Infinity"),
            7 => Some("-Infinity"),
            _ => None,
        }
    }
}

/// The text with its words for numbers that are not finite replaced; none when it has no such word.
fn replaced(bytes: &[u8]) -> Option<(Vec<u8>, Words)> {
    const WORDS: [&[u8]; 6] = [b"-Infinity", b"Infinity", b"-NaN", b"-Inf", b"NaN", b"Inf"];
    let mut copy: Option<Vec<u8>> = None;
    let mut words = Words { short: false };
    let (mut at, mut in_string) = (0, false);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'N' | b'I' | b'-' if !in_string => {
                let rest = &bytes[at..];
                if let Some(word) = WORDS.iter().find(|word| rest.starts_with(word)) {
                    let copy = copy.get_or_insert_with(|| bytes.to_vec());
                    copy[at..at + word.len()].fill(MARK);
                    copy[at] = b'"';
                    copy[at + word.len() - 1] = b'"';
                    words.short |= word.ends_with(b"Inf");
                    at += word.len() - 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    copy.map(|copy| (copy, words))
}

struct Context {
    budget: Budget,
    /// How words that are no JSON were replaced, if they were.
    words: Option<Words>,
    too_many_columns: bool,
}

impl Context {
    fn take<E: serde::de::Error>(&mut self, text: usize) -> Result<(), E> {
        match self.budget.take(text) {
            true => Ok(()),
            false => Err(E::custom("too large")),
        }
    }

    fn string<E: serde::de::Error>(&mut self, text: &str) -> Result<(), E> {
        self.take(text.len())
    }

    fn meaning(&self, text: &str) -> Option<Value> {
        Some(non_finite(self.words?.meaning(text)?))
    }
}

/// A row, or whatever stands in its place.
struct Top<'a> {
    context: &'a mut Context,
    /// Which columns are wanted; all, of a value that is no row.
    text: Option<&'a TextField>,
}

impl<'de> DeserializeSeed<'de> for Top<'_> {
    type Value = Parsed;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Parsed, D::Error> {
        if self.text.is_some() {
            return reader.deserialize_any(self);
        }
        let context = self.context;
        ValueSeed { context }.deserialize(reader).map(Parsed::Other)
    }
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
        let (mut values, mut names) = (Map::new(), Vec::new());
        while let Some(name) = map.next_key::<String>()? {
            self.context.take(name.len())?;
            if names.len() == MAX_COLUMNS {
                self.context.too_many_columns = true;
                return Err(A::Error::custom("too many columns"));
            }
            if self.text.is_none_or(|text| text.loads(&name)) {
                let context = &mut *self.context;
                let value = map.next_value_seed(ValueSeed { context })?;
                values.insert(name.clone(), value);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            names.push(name);
        }
        Ok(Parsed::Row(Columns { values, names }))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Parsed, E> {
        Ok(Parsed::Other(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Parsed, E> {
        Ok(Parsed::Other(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Parsed, E> {
        Ok(Parsed::Other(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Parsed, E> {
        Ok(Parsed::Other(value.into()))
    }

    fn visit_str<E>(self, _: &str) -> Result<Parsed, E> {
        Ok(Parsed::Other(Value::from("")))
    }

    fn visit_unit<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Other(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Parsed, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Parsed::Other(Value::Array(Vec::new())))
    }
}

/// Any value, counted.
struct ValueSeed<'a> {
    context: &'a mut Context,
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.context.take(0)?;
        Ok(value.into())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.context.take(0)?;
        Ok(value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.context.take(0)?;
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.context.take(0)?;
        Ok(value.into())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.context.take(0)?;
        Ok(Value::Null)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        self.context.string(text)?;
        let meaning = self.context.meaning(text);
        Ok(meaning.unwrap_or_else(|| Value::from(text)))
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Value, E> {
        self.context.string(&text)?;
        let meaning = self.context.meaning(&text);
        Ok(meaning.unwrap_or(Value::String(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.context.take(0)?;
        let mut values = Vec::new();
        let context = self.context;
        while let Some(value) = items.next_element_seed(ValueSeed {
            context: &mut *context,
        })? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let context = self.context;
        context.take(0)?;
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            context.take(name.len())?;
            let value = map.next_value_seed(ValueSeed {
                context: &mut *context,
            })?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Value {
        value(text.as_bytes(), MAX_RECORD).unwrap_or_else(|_| panic!("{text} is read"))
    }

    #[test]
    fn words_of_python_are_numbers_that_are_not_finite() {
        for (word, name) in [
            ("NaN", "NaN"),
            ("-NaN", "-NaN"),
            ("Infinity", "Infinity"),
            ("-Infinity", "-Infinity"),
            ("Inf", "NaN or Inf"),
            ("-Inf", "-NaN or -Inf"),
        ] {
            let value = parsed(&format!("{{\"a\": [1, {word}], \"b\": \"{word}\"}}"));
            assert_eq!(non_finite_name(&value["a"][1]), Some(name), "{word}");
            assert_eq!(value["b"], word);
        }
    }

    #[test]
    fn words_that_python_does_not_write_are_refused_at_their_column() {
        for word in ["nan", "+Infinity", "NaNs", "Infinit", "-", "infinity"] {
            let text = format!("{{\"a\": NaN, \"b\": {word}}}");
            match value(text.as_bytes(), MAX_RECORD) {
                Err(Fault::Syntax {
                    line: 1, column, ..
                }) => {
                    assert!((17..=27).contains(&column), "{word}: column {column}");
                }
                _ => panic!("{word} is read"),
            }
        }
    }

    #[test]
    fn strings_with_quotes_hide_their_words() {
        let value = parsed(r#"{"a": "\" NaN \\", "b": NaN, "c": ", Infinity"}"#);
        assert_eq!(value["a"], "\" NaN \\");
        assert_eq!(value["c"], ", Infinity");
        assert_eq!(non_finite_name(&value["b"]), Some("NaN"));
    }

    #[test]
    fn non_finite_numbers_become_null() {
        let mut value = parsed(r#"{"a": NaN, "b": {"c": [Infinity, 1]}}"#);
        without_non_finite(&mut value);
        assert_eq!(value, serde_json::json!({"a": null, "b": {"c": [null, 1]}}));
    }

    #[test]
    fn values_beyond_the_budget_are_refused() {
        let many = format!("[{}0]", "0,".repeat(1000));
        assert!(matches!(
            value(many.as_bytes(), 10_000),
            Err(Fault::TooLarge)
        ));
        assert!(value(many.as_bytes(), 1 << 20).is_ok());
    }

    #[test]
    fn deep_nesting_is_named() {
        let deep = "[".repeat(100_000);
        match value(deep.as_bytes(), MAX_RECORD) {
            Err(Fault::Syntax { reason, .. }) => assert!(reason.contains("127 levels"), "{reason}"),
            _ => panic!("it is refused"),
        }
    }
}
