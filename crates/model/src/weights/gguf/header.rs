//! The fixed part of a GGUF file: counts, metadata, and where each tensor lies.
//!
//! Layout: "GGUF", version u32, tensor count u64, metadata count u64, metadata, for each tensor its
//! name, dimensions (innermost first), type and offset, then padding to the alignment and the data.
//! Tensors must lie end to end in the order of their entries, each padded to the alignment; ggml's
//! reader requires the same (gguf.cpp), and it excludes overlaps and stray offsets at once.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use super::MAGIC;
use super::cursor::Cursor;
use super::meta::Meta;
use crate::error::ModelError;
use crate::weights::decode::Encoding;
use crate::weights::source::SourceFile;

/// Most dimensions of a tensor (`GGML_MAX_DIMS`, ggml.h).
const MAX_DIMS: u32 = 4;
/// Longest tensor name: `GGML_MAX_NAME` (ggml.h) is 64 with the closing NUL.
const MAX_NAME: u64 = 63;
/// Fewest bytes of a tensor's entry: name length, dimension count, type, offset.
const MIN_TENSOR: u64 = 8 + 4 + 4 + 8;
/// Alignment where the metadata has none (GGUF specification, `general.alignment`).
const DEFAULT_ALIGNMENT: u64 = 32;

/// Everything before the data.
pub(super) struct Header<'a> {
    pub(super) meta: Meta<'a>,
    /// The file, for values that the configuration depends on.
    pub(super) file: &'a SourceFile,
    pub(super) tensors: Vec<TensorInfo>,
}

/// One tensor as stored.
pub(super) struct TensorInfo {
    pub(super) name: String,
    /// Outermost dimension first, the reverse of the file's order.
    pub(super) shape: Vec<usize>,
    pub(super) encoding: Encoding,
    /// Its bytes in the file.
    pub(super) bytes: Range<usize>,
}

/// A tensor's entry before its place in the data is known.
struct Declared {
    name: String,
    shape: Vec<usize>,
    encoding: Encoding,
    offset: u64,
    size: u64,
}

impl<'a> Header<'a> {
    /// Parses the start of `file`; [`super::cursor::wants_more`] tells whether an error means that `bytes` are too few.
    pub(super) fn parse(file: &'a SourceFile, bytes: &'a [u8]) -> Result<Self, ModelError> {
        let path = file.path();
        let mut cursor = Cursor::new(path, bytes, file.len());
        if cursor.take(4, "the magic number")? != MAGIC {
            return Err(cursor.invalid("does not begin with \"GGUF\"".to_owned()));
        }
        check_version(&mut cursor)?;
        let tensor_count = cursor.u64("the tensor count")?;
        let meta_count = cursor.u64("the metadata count")?;
        let meta = Meta::parse(path, &mut cursor, meta_count)?;
        if tensor_count > cursor.remaining() / MIN_TENSOR {
            return Err(cursor.too_many(tensor_count, "tensors"));
        }
        let mut declared = Vec::new();
        let mut names = BTreeSet::new();
        for _ in 0..tensor_count {
            let tensor = parse_tensor(path, &mut cursor)?;
            if !names.insert(tensor.name.clone()) {
                return Err(ModelError::DuplicateTensor {
                    path: path.to_owned(),
                    name: tensor.name,
                    other: None,
                });
            }
            declared.push(tensor);
        }
        let alignment = meta
            .optional_size("general.alignment")?
            .unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() {
            return Err(meta.invalid(format!("alignment {alignment} is not a power of two")));
        }
        let start = (cursor.position() as u64).checked_next_multiple_of(alignment);
        let tensors = place(path, declared, start, alignment, file.len())?;
        Ok(Self {
            meta,
            file,
            tensors,
        })
    }

    pub(super) fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

fn check_version(cursor: &mut Cursor<'_>) -> Result<(), ModelError> {
    let version = cursor.u32("the version")?;
    match version {
        2 | 3 => Ok(()),
        _ if version.swap_bytes() <= 3 && version != 0 => {
            Err(cursor.invalid("big-endian, which is not read".to_owned()))
        }
        _ => Err(cursor.invalid(format!("version {version}; versions 2 and 3 are read"))),
    }
}

fn parse_tensor(path: &Path, cursor: &mut Cursor<'_>) -> Result<Declared, ModelError> {
    let name = cursor.text(MAX_NAME, "a tensor name")?.to_owned();
    let dims = cursor.u32(&name)?;
    if dims > MAX_DIMS {
        let detail = format!("tensor {name} declares {dims} dimensions, the limit is {MAX_DIMS}");
        return Err(cursor.invalid(detail));
    }
    let mut shape = Vec::new();
    for _ in 0..dims {
        let size = cursor.u64(&name)?;
        match usize::try_from(size) {
            Ok(size) if size > 0 => shape.push(size),
            _ => return Err(cursor.invalid(format!("tensor {name} has a dimension of {size}"))),
        }
    }
    shape.reverse();
    let encoding = encoding(cursor.u32(&name)?);
    let offset = cursor.u64(&name)?;
    let Some((values, bytes)) = encoding.block() else {
        return Err(ModelError::UnsupportedDtype {
            path: path.to_owned(),
            name,
            dtype: encoding.name().to_owned(),
            supported: "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K",
        });
    };
    let row = shape.last().copied().unwrap_or(1);
    if row % values != 0 {
        let kind = encoding.name();
        let detail =
            format!("tensor {name} has rows of {row}, {kind} needs a multiple of {values}");
        return Err(cursor.invalid(detail));
    }
    let count = shape
        .iter()
        .try_fold(1_u64, |n, &size| n.checked_mul(size as u64));
    let size = count.and_then(|n| (n / values as u64).checked_mul(bytes as u64));
    let Some(size) = size else {
        return Err(cursor.invalid(format!(
            "tensor {name} declares the impossible shape {shape:?}"
        )));
    };
    Ok(Declared {
        name,
        shape,
        encoding,
        offset,
        size,
    })
}

/// Gives each tensor its byte range, checking that they lie end to end and inside the file.
/// `start` is where the data begins, `None` where that overflowed.
fn place(
    path: &Path,
    declared: Vec<Declared>,
    start: Option<u64>,
    alignment: u64,
    length: u64,
) -> Result<Vec<TensorInfo>, ModelError> {
    let mut expected = 0_u64;
    let mut placed = Vec::with_capacity(declared.len());
    for tensor in declared {
        let name = tensor.name;
        if tensor.offset != expected {
            let offset = tensor.offset;
            let detail = format!(
                "tensor {name} starts at {offset} in the data, expected {expected}: tensors lie \
                 end to end, padded to {alignment} bytes"
            );
            return Err(super::invalid(path, detail));
        }
        let from = start.and_then(|start| start.checked_add(expected));
        let to = from.and_then(|from| from.checked_add(tensor.size));
        let range = from.zip(to).filter(|(_, to)| *to <= length);
        let Some((from, to)) = range else {
            let size = tensor.size;
            return Err(ModelError::Truncated {
                path: path.to_owned(),
                detail: format!(
                    "tensor {name} takes {size} bytes from {expected} in the data, beyond the \
                     file's {length} bytes"
                ),
            });
        };
        // A multiple of the alignment beyond u64 cannot be reached by a further tensor.
        expected = expected
            .checked_add(tensor.size)
            .and_then(|end| end.checked_next_multiple_of(alignment))
            .unwrap_or(u64::MAX);
        placed.push(TensorInfo {
            name,
            shape: tensor.shape,
            encoding: tensor.encoding,
            bytes: from as usize..to as usize, // at most the file's length
        });
    }
    Ok(placed)
}

/// The type with this number (`ggml_type`, ggml.h).
fn encoding(number: u32) -> Encoding {
    let other = match number {
        0 => return Encoding::F32,
        1 => return Encoding::F16,
        2 => return Encoding::Q4_0,
        3 => return Encoding::Q4_1,
        6 => return Encoding::Q5_0,
        7 => return Encoding::Q5_1,
        8 => return Encoding::Q8_0,
        12 => return Encoding::Q4K,
        13 => return Encoding::Q5K,
        14 => return Encoding::Q6K,
        30 => return Encoding::Bf16,
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        unknown => return Encoding::Other(format!("type number {unknown}")),
    };
    Encoding::Other(other.to_owned())
}
