//! Metadata of a GGUF file: keys and typed values.
//!
//! Arrays stay bytes of the header until someone asks for them, so nothing is allocated for a
//! length that a file merely declares.

use std::collections::BTreeMap;
use std::path::Path;

use super::cursor::Cursor;
use crate::error::ModelError;

/// Longest key: 2¹⁶ − 1 bytes (GGUF specification, `gguf_metadata_kv_t`).
const MAX_KEY: u64 = (1 << 16) - 1;
/// Fewest bytes of an entry: key length, type, value of one byte.
const MIN_ENTRY: u64 = 8 + 4 + 1;

/// Largest count or id: the specification gives all those read here the type u32.
const MAX_SIZE: i128 = u32::MAX as i128;

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// All metadata of a file.
pub(super) struct Meta<'a> {
    pub(super) path: &'a Path,
    entries: BTreeMap<&'a str, MetaValue<'a>>,
}

/// One value.
#[derive(Debug, Clone, Copy)]
pub(super) enum MetaValue<'a> {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(&'a str),
    Array(MetaArray<'a>),
}

/// An array whose bytes have been walked through once: its length is true.
#[derive(Debug, Clone, Copy)]
pub(super) struct MetaArray<'a> {
    element: u32,
    length: u64,
    bytes: &'a [u8],
}

impl<'a> Meta<'a> {
    pub(super) fn parse(
        path: &'a Path,
        cursor: &mut Cursor<'a>,
        count: u64,
    ) -> Result<Self, ModelError> {
        if count > cursor.remaining() / MIN_ENTRY {
            return Err(cursor.too_many(count, "metadata entries"));
        }
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let key = cursor.text(MAX_KEY, "a metadata key")?;
            let kind = cursor.u32("a metadata type")?;
            let value = parse_value(cursor, key, kind)?;
            if entries.insert(key, value).is_some() {
                return Err(cursor.invalid(format!("metadata key {key:?} appears twice")));
            }
        }
        Ok(Self { path, entries })
    }

    pub(super) fn invalid(&self, detail: String) -> ModelError {
        super::invalid(self.path, detail)
    }

    fn wrong(&self, key: &str, value: MetaValue<'_>, expected: &str) -> ModelError {
        ModelError::ConfigValue {
            origin: self.path.display().to_string(),
            key: key.to_owned(),
            found: value.describe(),
            expected: expected.to_owned(),
        }
    }

    fn require<T>(&self, key: &str, found: Option<T>) -> Result<T, ModelError> {
        found.ok_or_else(|| ModelError::ConfigMissing {
            origin: self.path.display().to_string(),
            key: key.to_owned(),
        })
    }

    pub(super) fn optional_text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(MetaValue::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, *other, "a string")),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<&'a str, ModelError> {
        self.require(key, self.optional_text(key)?)
    }

    /// An integer from 0 to [`MAX_SIZE`].
    pub(super) fn optional_size(&self, key: &str) -> Result<Option<u64>, ModelError> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(MetaValue::Integer(n)) if (0..=MAX_SIZE).contains(n) => Ok(Some(*n as u64)),
            Some(other) => Err(self.wrong(key, *other, "an integer from 0 to 4294967295")),
        }
    }

    pub(super) fn size(&self, key: &str) -> Result<u64, ModelError> {
        self.require(key, self.optional_size(key)?)
    }

    pub(super) fn optional_float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(MetaValue::Float(x)) if x.is_finite() => Ok(Some(*x)),
            Some(other) => Err(self.wrong(key, *other, "a finite floating-point number")),
        }
    }

    pub(super) fn float(&self, key: &str) -> Result<f64, ModelError> {
        self.require(key, self.optional_float(key)?)
    }

    pub(super) fn optional_bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(MetaValue::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(key, *other, "true or false")),
        }
    }

    fn optional_array(
        &self,
        key: &str,
        element: u32,
        expected: &str,
    ) -> Result<Option<MetaArray<'a>>, ModelError> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(MetaValue::Array(array)) if array.element == element => Ok(Some(*array)),
            Some(other) => Err(self.wrong(key, *other, expected)),
        }
    }

    pub(super) fn strings(&self, key: &str) -> Result<Option<Vec<String>>, ModelError> {
        let Some(array) = self.optional_array(key, STRING, "an array of strings")? else {
            return Ok(None);
        };
        let mut cursor = Cursor::new(self.path, array.bytes, array.bytes.len() as u64);
        let mut strings = Vec::with_capacity(array.length as usize); // each took 8 bytes or more
        for i in 0..array.length {
            let what = format!("{key}[{i}]");
            strings.push(cursor.text(u64::MAX, &what)?.to_owned());
        }
        Ok(Some(strings))
    }

    pub(super) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, ModelError> {
        let array = self.optional_array(key, 6, "an array of 32-bit floats")?;
        Ok(array.map(|array| array.words().map(f32::from_le_bytes).collect()))
    }

    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<i32>>, ModelError> {
        let array = self.optional_array(key, 5, "an array of 32-bit integers")?;
        Ok(array.map(|array| array.words().map(i32::from_le_bytes).collect()))
    }
}

impl MetaArray<'_> {
    fn words(&self) -> impl Iterator<Item = [u8; 4]> {
        let words = self.bytes.chunks_exact(4);
        words.map(|word| word.try_into().expect("chunks of four"))
    }
}

impl MetaValue<'_> {
    fn describe(&self) -> String {
        match self {
            Self::Integer(n) => n.to_string(),
            Self::Float(x) => format!("{x:?}"),
            Self::Bool(flag) => flag.to_string(),
            Self::Text(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
            Self::Array(array) => {
                format!("an array of {} of type {}", array.length, array.element)
            }
        }
    }
}

/// Bytes of a value of fixed size (GGUF specification, `gguf_metadata_value_type`).
fn fixed_size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn parse_value<'a>(
    cursor: &mut Cursor<'a>,
    key: &str,
    kind: u32,
) -> Result<MetaValue<'a>, ModelError> {
    match kind {
        STRING => Ok(MetaValue::Text(cursor.text(u64::MAX, key)?)),
        ARRAY => parse_array(cursor, key).map(MetaValue::Array),
        _ => {
            let size = fixed_size(kind)
                .ok_or_else(|| cursor.invalid(format!("{key:?} has the unknown type {kind}")))?;
            let bytes = cursor.take(size, key)?;
            parse_fixed(kind, bytes)
                .ok_or_else(|| cursor.invalid(format!("{key:?} is a boolean other than 0 and 1")))
        }
    }
}

fn parse_fixed<'a>(kind: u32, bytes: &[u8]) -> Option<MetaValue<'a>> {
    let mut wide = [0_u8; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let unsigned = u64::from_le_bytes(wide);
    let [b0, b1, b2, b3, ..] = wide;
    Some(match kind {
        1 => MetaValue::Integer((b0 as i8).into()),
        3 => MetaValue::Integer(i16::from_le_bytes([b0, b1]).into()),
        5 => MetaValue::Integer(i32::from_le_bytes([b0, b1, b2, b3]).into()),
        11 => MetaValue::Integer(i64::from_le_bytes(wide).into()),
        6 => MetaValue::Float(f32::from_le_bytes([b0, b1, b2, b3]).into()),
        12 => MetaValue::Float(f64::from_le_bytes(wide)),
        7 if unsigned > 1 => return None,
        7 => MetaValue::Bool(unsigned == 1),
        _ => MetaValue::Integer(unsigned.into()),
    })
}

/// Walks over an array so that its declared length is known to be true.
fn parse_array<'a>(cursor: &mut Cursor<'a>, key: &str) -> Result<MetaArray<'a>, ModelError> {
    let element = cursor.u32(key)?;
    let length = cursor.u64(key)?;
    let bytes = if element == STRING {
        let mut probe = cursor.ahead();
        for _ in 0..length {
            let size = probe.u64(key)?;
            probe.take(size, key)?;
        }
        cursor.take(probe.position() as u64, key)?
    } else {
        // ggml's reader refuses arrays of arrays too (gguf.cpp).
        let size = fixed_size(element).ok_or_else(|| {
            cursor.invalid(format!(
                "{key:?} is an array of the unsupported type {element}"
            ))
        })?;
        let total = length.checked_mul(size).ok_or_else(|| {
            cursor.invalid(format!(
                "{key:?} declares {length} elements of {size} bytes"
            ))
        })?;
        cursor.take(total, key)?
    };
    Ok(MetaArray {
        element,
        length,
        bytes,
    })
}
