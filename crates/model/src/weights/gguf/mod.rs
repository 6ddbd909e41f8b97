//! Reading GGUF, the model format of llama.cpp (versions 2 and 3, little-endian).
//!
//! Tensors are presented as Hugging Face checkpoints have them: other names, dimensions outermost
//! first, and llama.cpp's rearrangements undone (`llama.rs`, `gpt2.rs`). The configuration and the
//! tokenizer come from the file's metadata. A tensor that has no place in the family is an error
//! rather than ignored: it means arithmetic that would be left out.
//!
//! Left out: version 1, big-endian files, files split into parts, quantisations other than those in
//! `decode.rs`. Source: the GGUF specification (ggml `docs/gguf.md`) and the limits of its
//! reference reader (ggml `gguf.cpp`), named where used.

mod cursor;
mod gpt2;
mod header;
mod llama;
mod meta;
mod tokenizer;

use std::path::Path;

use serde_json::{Map, Value};

pub use tokenizer::GgufTokenizer;

use super::source::SourceFile;
use super::{Entry, Layout, Weights};
use crate::error::ModelError;
use header::{Header, TensorInfo};
use meta::Meta;

/// Architectures whose GGUF tensors are known. llama.cpp calls Mistral "llama".
const ARCHITECTURES: &[&str] = &[
    "llama",
    "gpt2 (as GGUF files; the other families open from Hugging Face directories)",
];

/// First bytes of every GGUF file.
pub(super) const MAGIC: &[u8] = b"GGUF";

/// What a GGUF file holds besides tensors.
#[derive(Debug)]
pub(super) struct Extras {
    pub(super) config: Map<String, Value>,
    pub(super) tokenizer: Option<GgufTokenizer>,
}

/// What a family makes of a stored tensor.
enum Place {
    /// Presented under this name, in this layout.
    Tensor(String, Layout),
    /// Holds nothing that the model needs.
    Ignored,
    /// Does not belong to the family.
    Unknown,
}

/// Longest header that is read: the largest vocabularies' metadata take some tens of megabytes.
const MAX_HEADER: u64 = 1 << 30;

/// The start of the file up to the data, or a little more. How long it is shows only as it is read: a part that proves too
/// short is doubled.
fn read_header(file: &SourceFile) -> Result<Vec<u8>, ModelError> {
    let mut length = (1 << 20).min(file.len());
    loop {
        let bytes = file.read(0..length as usize)?;
        match Header::parse(file, &bytes) {
            Err(error) if cursor::wants_more(&error) => {
                if length >= MAX_HEADER {
                    let detail = format!("a header of more than {MAX_HEADER} bytes");
                    return Err(invalid(file.path(), detail));
                }
                length = (2 * length).min(file.len());
            }
            Err(error) => return Err(error),
            Ok(_) => return Ok(bytes),
        }
    }
}

pub(super) fn open(path: &Path, file: SourceFile) -> Result<Weights, ModelError> {
    let bytes = read_header(&file)?;
    let header = Header::parse(&file, &bytes)?;
    let meta = &header.meta;
    let parts = meta.optional_size("split.count")?.unwrap_or(0);
    if parts > 1 {
        let detail = format!(
            "one of {parts} parts of a split model, which are not read\n\
             hint: join them first: llama-gguf-split --merge FIRST_PART OUT.gguf"
        );
        return Err(meta.invalid(detail));
    }
    let (config, places) = match meta.text("general.architecture")? {
        "llama" => llama::present(&header)?,
        "gpt2" => gpt2::present(&header)?,
        other => {
            return Err(ModelError::UnsupportedArchitecture {
                origin: path.display().to_string(),
                found: other.to_owned(),
                supported: ARCHITECTURES,
            });
        }
    };
    let tokenizer = tokenizer::read(meta)?;
    let mut entries = Vec::with_capacity(places.len());
    for (tensor, place) in header.tensors.into_iter().zip(places) {
        match place {
            Place::Ignored => {}
            Place::Unknown => return Err(unknown(path, &tensor.name)),
            Place::Tensor(name, layout) => {
                let entry = present(path, tensor, layout)?;
                entries.push((name, entry));
            }
        }
    }
    let mut weights = Weights::empty(path);
    weights.files.push(file);
    for (name, entry) in entries {
        weights.insert(name, entry)?;
    }
    weights.gguf = Some(Extras { config, tokenizer });
    Ok(weights)
}

/// Checks that the layout fits the shape, and gives the shape as presented.
fn present(path: &Path, tensor: TensorInfo, layout: Layout) -> Result<Entry, ModelError> {
    let mut shape = tensor.shape;
    let fits = match layout {
        Layout::AsPresented => true,
        Layout::Transposed => shape.len() == 2,
        Layout::RotaryInterleaved { heads } => shape
            .first()
            .is_some_and(|rows| rows.is_multiple_of(2 * heads)),
    };
    if !fits {
        let wanted = match layout {
            Layout::RotaryInterleaved { heads } => format!("rows in {heads} heads of even width"),
            _ => "two dimensions".to_owned(),
        };
        let detail = format!(
            "tensor {} has shape {shape:?}, expected {wanted}",
            tensor.name
        );
        return Err(invalid(path, detail));
    }
    if layout == Layout::Transposed {
        shape.reverse();
    }
    Ok(Entry {
        file: 0,
        bytes: tensor.bytes,
        shape,
        encoding: tensor.encoding,
        layout,
    })
}

/// Splits `blk.N.PART.weight` into N, PART and the kind (`weight`, `bias`), where N is below
/// `blocks`.
fn block_tensor(name: &str, blocks: usize) -> Option<(usize, &str, &str)> {
    let (number, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = rest.split_once('.')?;
    let index: usize = number.parse().ok()?;
    let canonical = index.to_string() == number; // "007" and "+7" would give a second name to 7
    (canonical && index < blocks && matches!(kind, "weight" | "bias"))
        .then_some((index, part, kind))
}

/// Rows of the token embedding, which every family has.
fn vocab_size(header: &Header<'_>) -> Result<usize, ModelError> {
    let name = "token_embd.weight";
    match header.tensor(name) {
        Some(tensor) if tensor.shape.len() == 2 => Ok(tensor.shape[0]),
        Some(tensor) => {
            let shape = &tensor.shape;
            Err(header.meta.invalid(format!(
                "tensor {name} has shape {shape:?}, expected a matrix"
            )))
        }
        None => Err(ModelError::MissingTensor {
            path: header.meta.path.to_owned(),
            name: name.to_owned(),
            count: header.tensors.len(),
            nearest: None,
        }),
    }
}

/// Beginning and end tokens, where the metadata has them.
fn put_special_tokens(meta: &Meta<'_>, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    for (from, to) in [
        ("tokenizer.ggml.bos_token_id", "bos_token_id"),
        ("tokenizer.ggml.eos_token_id", "eos_token_id"),
        ("tokenizer.ggml.padding_token_id", "pad_token_id"),
    ] {
        let id = tokenizer::special_id(meta, from)?;
        // Without an entry the family's default would be taken, so "none" is written out.
        config.insert(to.to_owned(), id.map_or(Value::Null, Value::from));
    }
    Ok(())
}

fn unknown(path: &Path, name: &str) -> ModelError {
    let detail = format!(
        "tensor {name} has no place in this architecture\n\
         hint: the file probably holds a variant of it (experts, extra norms) that is not supported"
    );
    invalid(path, detail)
}

fn invalid(path: &Path, detail: String) -> ModelError {
    ModelError::Format {
        path: path.to_owned(),
        format: "GGUF",
        detail,
    }
}
