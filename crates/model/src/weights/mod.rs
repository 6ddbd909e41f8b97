//! Model weights on disk: safetensors (one file or shards) and GGUF in, safetensors out.
//!
//! Whatever the file, tensors appear under Hugging Face names, in Hugging Face shapes and order of
//! rows, and are read as f32. A tensor is read and decoded when asked for, so a model is never held
//! twice. Everything a header declares is checked against the file's length
//! before it is used; values are checked to be finite when read. PyTorch pickles are not read:
//! they are programs. Tested in `tests/weights_safetensors.rs`, `tests/weights_gguf.rs`,
//! `tests/weights_damaged.rs` and `tests/weights_smollm2.rs`.

mod atomic;
mod decode;
mod gguf;
mod names;
mod safetensors;
mod save;
mod shards;
mod source;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub(crate) use atomic::read_text_capped;
pub use atomic::write_file_atomic;
pub use gguf::GgufTokenizer;
pub use save::{StoredDtype, save_safetensors, save_safetensors_file};

use crate::error::ModelError;
use decode::Encoding;
use source::SourceFile;

/// An opened model file or directory.
///
/// The files stay open while this lives. One that is cut short meanwhile is an error of the read that
/// meets its end.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    files: Vec<SourceFile>,
    tensors: BTreeMap<String, Entry>,
    gguf: Option<gguf::Extras>,
}

/// Where a tensor lies and how its values are to be understood.
#[derive(Debug)]
struct Entry {
    file: usize,
    bytes: Range<usize>,
    /// Shape as presented, row-major, in the Hugging Face convention.
    shape: Vec<usize>,
    encoding: Encoding,
    layout: Layout,
}

/// How the stored order of values differs from the one presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Not at all.
    AsPresented,
    /// Stored with the two dimensions exchanged.
    Transposed,
    /// Rows within each of `heads` heads stored in interleaved-rotary order: stored row 2i + j is
    /// presented as row j·(rows/2) + i.
    RotaryInterleaved { heads: usize },
}

impl Weights {
    /// Opens a directory in Hugging Face layout, a `.safetensors` file or a `.gguf` file.
    ///
    /// In a directory `model.safetensors` comes before `model.safetensors.index.json`, as in
    /// transformers.
    ///
    /// # Errors
    /// [`ModelError`]: nothing readable there, a truncated or malformed file, a missing shard, a
    /// name that appears twice, an unsupported GGUF architecture or quantisation.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let found = std::fs::metadata(path).map_err(|source| ModelError::Io {
            action: "open",
            path: path.to_owned(),
            source,
        })?;
        if found.is_dir() {
            return shards::open_directory(path);
        }
        let file = SourceFile::open(path)?;
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        // By content first: hub caches and renamed downloads lose extensions.
        let start = file.read(0..gguf::MAGIC.len().min(file.len() as usize))?;
        if start == gguf::MAGIC || extension.eq_ignore_ascii_case("gguf") {
            return gguf::open(path, file);
        }
        if extension.eq_ignore_ascii_case("safetensors") {
            let mut weights = Self::empty(path);
            safetensors::add_file(&mut weights, file)?;
            return Ok(weights);
        }
        Err(ModelError::NoWeights {
            path: path.to_owned(),
            hint: "expected a directory, a .safetensors file or a .gguf file".to_owned(),
        })
    }

    fn empty(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            files: Vec::new(),
            tensors: BTreeMap::new(),
            gguf: None,
        }
    }

    /// Adds a tensor of file number `entry.file`, refusing a second one of the same name.
    fn insert(&mut self, name: String, entry: Entry) -> Result<(), ModelError> {
        if let Some(earlier) = self.tensors.get(&name) {
            let other = self.files[earlier.file].path();
            let path = self.files[entry.file].path();
            return Err(ModelError::DuplicateTensor {
                path: path.to_owned(),
                name,
                other: (other != path).then(|| other.to_owned()),
            });
        }
        self.tensors.insert(name, entry);
        Ok(())
    }

    /// The path given to [`Weights::open`].
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that holds the weights: where `config.json` and the tokenizer are looked for.
    #[must_use]
    pub fn dir(&self) -> &Path {
        if self.path.is_dir() {
            return &self.path;
        }
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// Names of all tensors, sorted, in the form transformers uses (`transformer.h.0…`,
    /// `model.layers.0…`) whether or not the file has those prefixes. Buffers that are no
    /// parameters (`attn.bias`, `attn.masked_bias`, `rotary_emb.inv_freq`) are left out.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Shape of a tensor, row-major; `None` where there is no such tensor. The name may lack its
    /// `transformer.` or `model.` prefix.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.get(name).map(|(_, entry)| entry.shape.as_slice())
    }

    /// The type a tensor is stored in, by its name in the file format ("F32", "BF16", "Q4_K").
    #[must_use]
    pub fn stored_dtype(&self, name: &str) -> Option<&str> {
        self.get(name).map(|(_, entry)| entry.encoding.name())
    }

    /// Reads one tensor as f32, row-major. `expected` is the shape that the configuration implies.
    ///
    /// # Errors
    /// [`ModelError`]: no such tensor, another shape, an unsupported stored type, a value that is
    /// NaN or infinite, or a file that changed since it was opened.
    pub fn read_f32(&self, name: &str, expected: &[usize]) -> Result<Vec<f32>, ModelError> {
        let (name, entry) = self.get(name).ok_or_else(|| self.missing(name))?;
        let file = &self.files[entry.file];
        if entry.shape != expected {
            return Err(ModelError::ShapeMismatch {
                path: file.path().to_owned(),
                name: name.to_owned(),
                expected: expected.to_vec(),
                got: entry.shape.clone(),
            });
        }
        file.check_unchanged()?;
        let Some((values, bytes)) = entry.encoding.block() else {
            return Err(ModelError::UnsupportedDtype {
                path: file.path().to_owned(),
                name: name.to_owned(),
                dtype: entry.encoding.name().to_owned(),
                supported: decode::SAFETENSORS_TYPES,
            });
        };
        let mut stored = Vec::with_capacity(entry.bytes.len() / bytes * values);
        file.stream(entry.bytes.clone(), bytes, |stretch| {
            entry.encoding.decode(stretch, &mut stored);
        })?;
        let values = entry.layout.present(stored, &entry.shape);
        match values.iter().position(|x| !x.is_finite()) {
            None => Ok(values),
            Some(index) => Err(ModelError::NonFinite {
                path: file.path().to_owned(),
                name: name.to_owned(),
                index,
                value: values[index],
            }),
        }
    }

    /// Whether both tensors are there and hold other values, or have other shapes.
    ///
    /// # Errors
    /// As [`Weights::read_f32`] of the two.
    pub fn differ(&self, a: &str, b: &str) -> Result<bool, ModelError> {
        let (Some((_, x)), Some((_, y))) = (self.get(a), self.get(b)) else {
            return Ok(false);
        };
        if x.shape != y.shape {
            return Ok(true);
        }
        if x.encoding == y.encoding && x.layout == y.layout && x.file == y.file {
            let file = &self.files[x.file];
            return Ok(!file.equal(x.bytes.clone(), y.bytes.clone())?);
        }
        Ok(self.read_f32(a, &x.shape)? != self.read_f32(b, &y.shape)?)
    }

    /// Tokenizer metadata of a GGUF file; `None` for other files and where it has none.
    #[must_use]
    pub fn gguf_tokenizer(&self) -> Option<&GgufTokenizer> {
        self.gguf.as_ref()?.tokenizer.as_ref()
    }

    /// The configuration of a GGUF file, in the form of a Hugging Face `config.json`; `None` for
    /// other files, whose configuration lies beside them.
    #[must_use]
    pub fn gguf_config(&self) -> Option<&Map<String, Value>> {
        self.gguf.as_ref().map(|extras| &extras.config)
    }

    /// BLAKE3 of all names, shapes, stored types and stored values, and of the configuration beside them, in
    /// hexadecimal. The same tensors give the same value whether they lie in one file or in shards.
    ///
    /// # Errors
    /// [`ModelError::FileChanged`] where a file changed its length since it was opened.
    pub fn fingerprint(&self) -> Result<String, ModelError> {
        for file in &self.files {
            file.check_unchanged()?;
        }
        let mut hasher = blake3::Hasher::new();
        // Every part is preceded by its length, so that no two lists of parts read alike.
        let part = |hasher: &mut blake3::Hasher, bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for (name, entry) in &self.tensors {
            part(&mut hasher, name.as_bytes());
            part(&mut hasher, entry.encoding.name().as_bytes());
            part(
                &mut hasher,
                format!("{:?}{:?}", entry.shape, entry.layout).as_bytes(),
            );
            hasher.update(&(entry.bytes.len() as u64).to_le_bytes());
            self.files[entry.file].stream(entry.bytes.clone(), 1, |stretch| {
                hasher.update(stretch);
            })?;
        }
        if let Some(config) = self.config_json() {
            part(&mut hasher, config.to_string().as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// What the configuration says, without the keys that only tell who wrote it.
    fn config_json(&self) -> Option<Value> {
        let mut config = match self.gguf_config() {
            Some(config) => config.clone(),
            None => {
                let text = unbraid_input::read(&self.dir().join("config.json")).ok()?;
                serde_json::from_slice(&text).ok()?
            }
        };
        config.retain(|key, _| !["transformers_version", "_name_or_path"].contains(&key.as_str()));
        Some(Value::Object(config))
    }

    fn get(&self, name: &str) -> Option<(&str, &Entry)> {
        self.tensors
            .get_key_value(name)
            .or_else(|| self.tensors.get_key_value(names::canonical(name)?.as_str()))
            .or_else(|| self.tensors.get_key_value(names::alias(name)?))
            .map(|(name, entry)| (name.as_str(), entry))
    }

    fn missing(&self, name: &str) -> ModelError {
        ModelError::MissingTensor {
            path: self.path.clone(),
            name: name.to_owned(),
            count: self.tensors.len(),
            nearest: names::nearest(name, self.names()),
        }
    }
}

impl Layout {
    /// Brings stored values into the order presented; `shape` is the presented one.
    fn present(self, stored: Vec<f32>, shape: &[usize]) -> Vec<f32> {
        match self {
            Self::AsPresented => stored,
            Self::Transposed => transpose(&stored, shape[0], shape[1]),
            Self::RotaryInterleaved { heads } => {
                let width: usize = shape[1..].iter().product();
                let rows_per_head = shape[0] / heads;
                let half = rows_per_head / 2;
                let mut out = Vec::with_capacity(stored.len());
                for row in 0..shape[0] {
                    let (head, within) = (row / rows_per_head, row % rows_per_head);
                    let from = head * rows_per_head + 2 * (within % half) + within / half;
                    out.extend_from_slice(&stored[from * width..(from + 1) * width]);
                }
                out
            }
        }
    }
}

/// [columns, rows] to [rows, columns], in tiles that stay in the cache.
fn transpose(stored: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const TILE: usize = 32;
    let mut out = vec![0.0; stored.len()];
    for top in (0..rows).step_by(TILE) {
        for left in (0..columns).step_by(TILE) {
            for row in top..rows.min(top + TILE) {
                for column in left..columns.min(left + TILE) {
                    out[row * columns + column] = stored[column * rows + row];
                }
            }
        }
    }
    out
}
