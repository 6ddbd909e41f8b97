//! Reading one safetensors file.
//!
//! Format: a u64 with the header's length, a JSON header (name → type, shape, byte range), the
//! data. The crate `safetensors` checks that ranges neither overlap nor leave gaps and that each
//! fits its shape; this file adds what its errors do not say (how much is missing, which name
//! appears twice: a JSON map would silently keep the last).

use std::collections::BTreeSet;
use std::fmt;

use safetensors::{Dtype, SafeTensorError, tensor::Metadata};
use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::Value;

use super::decode::Encoding;
use super::source::SourceFile;
use super::{Entry, Layout, Weights, names};
use crate::error::ModelError;

/// Bytes of the length field.
const LENGTH_FIELD: usize = 8;
/// Longest header: the crate's own limit (`safetensors::tensor::MAX_HEADER_SIZE`).
const MAX_HEADER: u64 = 100_000_000;

/// Adds all tensors of `file` to `weights`.
pub(super) fn add_file(weights: &mut Weights, file: SourceFile) -> Result<(), ModelError> {
    let header = read_header(&file)?;
    let metadata = check_places(&header, file.len() - LENGTH_FIELD as u64)
        .map_err(|error| invalid(&file, error.to_string()))?;
    let data = LENGTH_FIELD + header.len();
    let number = weights.files.len();
    let mut entries = Vec::new();
    for (name, info) in metadata.tensors() {
        if names::is_buffer(&name) {
            continue;
        }
        let (start, end) = info.data_offsets;
        let entry = Entry {
            file: number,
            bytes: data + start..data + end,
            shape: info.shape.clone(),
            encoding: encoding(info.dtype),
            layout: Layout::AsPresented,
        };
        entries.push((names::canonical(&name).unwrap_or(name), entry));
    }
    weights.files.push(file);
    for (name, entry) in entries {
        weights.insert(name, entry)?;
    }
    Ok(())
}

/// The crate's checks: tensors lie end to end, each as large as its shape, and fill the file's `rest` behind the header.
fn check_places(header: &[u8], rest: u64) -> Result<Metadata, SafeTensorError> {
    let parsed: Metadata =
        serde_json::from_slice(header).map_err(SafeTensorError::InvalidHeaderDeserialization)?;
    let in_order = parsed.offset_keys().into_iter().filter_map(|name| {
        let info = parsed.info(&name)?.clone();
        Some((name, info))
    });
    let checked = Metadata::new(None, in_order.collect())?;
    match (header.len() + checked.data_len()) as u64 == rest {
        true => Ok(checked),
        false => Err(SafeTensorError::MetadataIncompleteBuffer),
    }
}

fn encoding(dtype: Dtype) -> Encoding {
    match dtype {
        Dtype::F32 => Encoding::F32,
        Dtype::F16 => Encoding::F16,
        Dtype::BF16 => Encoding::Bf16,
        other => Encoding::Other(format!("{other:?}")),
    }
}

/// The header, after checking that the file is long enough for them and for the
/// data that the header announces, and that no name appears twice.
fn read_header(file: &SourceFile) -> Result<Vec<u8>, ModelError> {
    let truncated = |detail: String| ModelError::Truncated {
        path: file.path().to_owned(),
        detail,
    };
    let there = file.len();
    if there < LENGTH_FIELD as u64 {
        let detail = format!("{there} bytes, the header's length alone takes 8");
        return Err(truncated(detail));
    }
    let field = file.read(0..LENGTH_FIELD)?;
    let declared = u64::from_le_bytes(field.try_into().expect("eight bytes read"));
    if declared > MAX_HEADER {
        let detail = format!("declares a header of {declared} bytes, the limit is {MAX_HEADER}");
        return Err(invalid(file, detail));
    }
    let rest = there - LENGTH_FIELD as u64;
    if declared > rest {
        let detail = format!("the header takes {declared} bytes, {rest} are there");
        return Err(truncated(detail));
    }
    let header = file.read(LENGTH_FIELD..LENGTH_FIELD + declared as usize)?; // at most MAX_HEADER
    let summary = serde_json::Deserializer::from_slice(&header)
        .deserialize_map(Summarise)
        .map_err(|error| invalid(file, format!("header: {error}")))?;
    if let Some(name) = summary.repeated {
        return Err(ModelError::DuplicateTensor {
            path: file.path().to_owned(),
            name,
            other: None,
        });
    }
    let there = rest - declared;
    if there < summary.data_end {
        let wanted = summary.data_end;
        return Err(truncated(format!(
            "the tensors take {wanted} bytes, {there} are there"
        )));
    }
    Ok(header)
}

fn invalid(file: &SourceFile, detail: String) -> ModelError {
    ModelError::Format {
        path: file.path().to_owned(),
        format: "safetensors",
        detail,
    }
}

/// What a first pass over the header finds out.
struct Summary {
    repeated: Option<String>,
    data_end: u64,
}

struct Summarise;

impl<'de> Visitor<'de> for Summarise {
    type Value = Summary;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Summary, A::Error> {
        let mut seen = BTreeSet::new();
        let mut summary = Summary {
            repeated: None,
            data_end: 0,
        };
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            let end = value
                .get("data_offsets")
                .and_then(|range| range.get(1)?.as_u64());
            summary.data_end = summary.data_end.max(end.unwrap_or(0));
            if !seen.insert(name.clone()) {
                summary.repeated.get_or_insert(name);
            }
        }
        Ok(summary)
    }
}
