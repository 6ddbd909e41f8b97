//! What can go wrong with a model's files, with the facts needed to mend it.
//!
//! Each message says what, where, and what was expected; a second line starting with `hint:` is
//! added where there is something to do about it. The command line prints these as they stand.

use std::path::PathBuf;

/// Error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}{}", .path.display(), io_hint(.source))]
    Io {
        /// What was tried, as a verb: "open", "write".
        action: &'static str,
        /// The file or directory it was tried on.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },

    /// The model belongs to no family that this crate implements.
    #[error(
        "{origin}: architecture {found:?} is not supported\nhint: supported are {}",
        .supported.join(", ")
    )]
    UnsupportedArchitecture {
        /// File the architecture was read from.
        origin: String,
        /// The name found there.
        found: String,
        /// Every name that would have been accepted.
        supported: &'static [&'static str],
    },

    /// A configuration is not a JSON object.
    #[error("{origin}: not a valid JSON object: {detail}")]
    ConfigJson {
        /// File it was read from.
        origin: String,
        /// The parser's message, with line and column.
        detail: String,
    },

    /// A required configuration key is absent.
    #[error("{origin}: key \"{key}\" is missing")]
    ConfigMissing {
        /// File it was read from.
        origin: String,
        /// The key looked for.
        key: String,
    },

    /// A configuration value has the wrong type or lies outside its range.
    #[error("{origin}: \"{key}\" is {found}, expected {expected}")]
    ConfigValue {
        /// File it was read from.
        origin: String,
        /// The key.
        key: String,
        /// The value found, as JSON or as a number.
        found: String,
        /// What would have been accepted.
        expected: String,
    },

    /// A valid setting of the family that this crate does not implement.
    #[error("{origin}: \"{key}\" = {found} is not supported\nhint: supported: {supported}")]
    UnsupportedSetting {
        /// File it was read from.
        origin: String,
        /// The key.
        key: String,
        /// The value found.
        found: String,
        /// What would have been accepted.
        supported: String,
    },

    /// A path holds no weights in a format that is read.
    #[error("{}: no model weights found\nhint: {hint}", .path.display())]
    NoWeights {
        /// The file or directory searched.
        path: PathBuf,
        /// What was looked for, or what to do with what is there.
        hint: String,
    },

    /// A file is shorter than its own header says.
    #[error(
        "{}: truncated: {detail}\nhint: the download or copy probably stopped early; fetch the file again",
        .path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was expected and how much is there, in bytes.
        detail: String,
    },

    /// A file breaks the rules of its format.
    #[error("{}: invalid {format} file: {detail}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// "safetensors", "GGUF" or "shard index".
        format: &'static str,
        /// Which rule, and where.
        detail: String,
    },

    /// The shard index names a file that is not there.
    #[error(
        "{}: shard {shard:?} is missing ({tensors} tensors, among them {example})\nhint: fetch all files that the index names",
        .index.display()
    )]
    MissingShard {
        /// The index file.
        index: PathBuf,
        /// File name of the shard.
        shard: String,
        /// How many tensors it should hold.
        tensors: usize,
        /// The name of one of them.
        example: String,
    },

    /// Two tensors have the same name.
    #[error("{}: tensor {name} appears twice{}", .path.display(), other_file(.other))]
    DuplicateTensor {
        /// The file where it was met the second time.
        path: PathBuf,
        /// The name.
        name: String,
        /// The other file, where it is another one.
        other: Option<PathBuf>,
    },

    /// A tensor that the model needs is absent.
    #[error("{}: tensor {name} is missing ({count} tensors present{})", .path.display(), nearest_name(.nearest))]
    MissingTensor {
        /// File or directory of the weights.
        path: PathBuf,
        /// The name looked for.
        name: String,
        /// How many tensors there are.
        count: usize,
        /// A name that is there and looks alike.
        nearest: Option<String>,
    },

    /// A tensor has another shape than the configuration implies.
    #[error("{}: tensor {name} has shape {got:?}, expected {expected:?} from the configuration", .path.display())]
    ShapeMismatch {
        /// File of the tensor.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Shape that the caller needs.
        expected: Vec<usize>,
        /// Shape in the file.
        got: Vec<usize>,
    },

    /// A tensor is stored in a type that is not read.
    #[error("{}: tensor {name} is stored as {dtype}, which is not supported\nhint: supported are {supported}", .path.display())]
    UnsupportedDtype {
        /// File of the tensor.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The type's name in its format.
        dtype: String,
        /// Every type that would have been accepted.
        supported: &'static str,
    },

    /// A weight is NaN or infinite.
    #[error(
        "{}: tensor {name} holds {value} at index {index} (row-major)\nhint: the model was damaged before it was saved; use another checkpoint",
        .path.display()
    )]
    NonFinite {
        /// File of the tensor.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Row-major index of the first bad element.
        index: usize,
        /// Its value.
        value: f32,
    },

    /// A file shrank or grew after it was opened.
    #[error("{}: changed while in use: {now} bytes now, {opened} when opened", .path.display())]
    FileChanged {
        /// The file.
        path: PathBuf,
        /// Length at opening, bytes.
        opened: u64,
        /// Length now, bytes.
        now: u64,
    },

    /// An adapter's settings or files cannot be used.
    #[error("{origin}: {detail}")]
    Adapter {
        /// File they came from, or what they are for.
        origin: String,
        /// What is wrong, with a hint where one helps.
        detail: String,
    },

    /// A tensor handed over for saving does not have the announced size.
    #[error("saving {name}: {got} values for shape {shape:?}")]
    SaveLength {
        /// The tensor.
        name: String,
        /// Its announced shape.
        shape: Vec<usize>,
        /// How many values came.
        got: usize,
    },
}

fn io_hint(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull => "\nhint: free some space or choose another directory",
        _ => "",
    }
}

fn other_file(other: &Option<PathBuf>) -> String {
    match other {
        Some(path) => format!(", also in {}", path.display()),
        None => String::new(),
    }
}

fn nearest_name(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!(", the nearest name is {name}"),
        None => String::new(),
    }
}
