//! What can go wrong between a file of preferences and token ids.

use std::path::PathBuf;

use unbraid_text::TextError;

use crate::row::{ACCEPTED_SHAPES, Location};

/// The result of every fallible function of this crate.
pub type Result<T, E = PreferenceError> = std::result::Result<T, E>;

/// Data that could not be found, read or tokenised.
#[derive(Debug, thiserror::Error)]
pub enum PreferenceError {
    /// Neither a path nor something that could be a hub id.
    #[error(
        "no data set `{name}`: there is no such file or directory\n\
         hint: give a .jsonl, .json, .parquet or .csv file (also .gz, .zst), a directory, or a hub id `org/name`"
    )]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// Data sets that cannot be put together as asked.
    #[error("{reason}\nhint: {hint}")]
    Mixture {
        /// What cannot be done.
        reason: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A file could not be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system or the decompressor said.
        source: std::io::Error,
    },
    /// A file whose ending is not known.
    #[error("{}: unknown file type\nhint: .jsonl, .json, .parquet, .csv and .arrow are read, also as .gz or .zst", path.display())]
    UnknownType {
        /// The file.
        path: PathBuf,
    },
    /// A directory without a file for the split.
    #[error(
        "{dir}: no file for split `{split}`; data files there: {}",
        listed(found)
    )]
    NoSplit {
        /// The directory or hub id.
        dir: String,
        /// The split that was asked for.
        split: String,
        /// The data files that are there.
        found: Vec<String>,
    },
    /// A data set without the configuration, or with several and none asked for.
    #[error(
        "{dir}: {}; there: {}\nhint: choose one with dataset_config",
        config.as_ref().map_or("several configurations".to_owned(), |name| format!("no configuration `{name}`")),
        listed(found)
    )]
    NoConfig {
        /// The directory or hub id.
        dir: String,
        /// The configuration that was asked for.
        config: Option<String>,
        /// The configurations, or the data files, that are there.
        found: Vec<String>,
    },
    /// More bytes in one place than are held at once.
    #[error(
        "{location}: {what} is longer than {} MiB, the most that is read of one\n\
         hint: a row is one line of .jsonl, one record of .csv, one element of a .json list; is the file damaged, or are \
         its line ends missing?",
        limit >> 20
    )]
    TooLarge {
        /// File and line or row.
        location: Location,
        /// What is too long, in words.
        what: &'static str,
        /// The most bytes of it that are read.
        limit: usize,
    },
    /// More columns than a row may have.
    #[error(
        "{location}: more than {limit} columns, the most that are read\nhint: is it a file of preference rows?"
    )]
    TooManyColumns {
        /// File and line or row.
        location: Location,
        /// The most columns that are read.
        limit: usize,
    },
    /// A line or document that is not JSON.
    #[error("{location}: malformed JSON: {reason}")]
    Json {
        /// File and line.
        location: Location,
        /// The parser's reason, with the column.
        reason: String,
    },
    /// A JSON document that is not a list of rows.
    #[error("{}: expected a list of rows, or an object with a list under `data`, found {got}", path.display())]
    NotRows {
        /// The file.
        path: PathBuf,
        /// What the document is instead.
        got: &'static str,
    },
    /// A Parquet, Arrow or CSV file that its reader refuses.
    #[error("{}: not a readable {format} file: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// `Parquet`, `Arrow` or `CSV`.
        format: &'static str,
        /// The reader's reason.
        reason: String,
    },
    /// A file with no rows.
    #[error("data set `{name}` (split `{split}`) has no rows")]
    Empty {
        /// What was asked for.
        name: String,
        /// The split.
        split: String,
    },
    /// A row whose columns are of no known shape.
    #[error(
        "{location}: unknown row shape with columns {}\nhint: accepted are {ACCEPTED_SHAPES}",
        listed(columns)
    )]
    Shape {
        /// File and line or row.
        location: Location,
        /// The columns of the row.
        columns: Vec<String>,
    },
    /// A row in the form of another trainer.
    #[error("{location}: this is {form}; unbraid reads TRL's\nhint: {hint}")]
    Foreign {
        /// File and line or row.
        location: Location,
        /// Whose form it is.
        form: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// A column that is null where a value is needed.
    #[error(
        "{location}: column `{column}` is missing or null; columns present: {}",
        listed(columns)
    )]
    MissingColumn {
        /// File and line or row.
        location: Location,
        /// The column.
        column: &'static str,
        /// The columns of the row.
        columns: Vec<String>,
    },
    /// A column of the wrong type.
    #[error(
        "{location}: column `{column}` should be {expected}, found {got}; columns present: {}",
        listed(columns)
    )]
    ColumnType {
        /// File and line or row.
        location: Location,
        /// The column.
        column: &'static str,
        /// What is accepted.
        expected: &'static str,
        /// What is there, shortened.
        got: String,
        /// The columns of the row.
        columns: Vec<String>,
    },
    /// A row with pictures, sound or film.
    #[error(
        "{location}: {what} belongs to a data set with pictures, and only text models are trained here\n\
         hint: if the text alone is wanted, write the data set without it"
    )]
    Pictures {
        /// File and line or row.
        location: Location,
        /// What shows it: a column, or a part of a message.
        what: String,
    },
    /// Text in one column and a conversation in another.
    #[error("{location}: {columns} must all be text or all be conversations")]
    MixedContent {
        /// File and line or row.
        location: Location,
        /// The columns that should agree.
        columns: &'static str,
    },
    /// A row of one kind where another is needed.
    #[error("{location}: {got} cannot be used here, {needed}")]
    WrongKind {
        /// File and line or row.
        location: Location,
        /// The kind of row that is there.
        got: &'static str,
        /// What is needed.
        needed: &'static str,
    },
    /// The tokenizer or the chat template failed on a row.
    #[error("{location}: {source}")]
    Text {
        /// File and line or row.
        location: Location,
        /// The tokenizer's reason.
        source: Box<TextError>,
    },
    /// The tokenizer has no end-of-sequence token, which every completion ends with.
    #[error(
        "the tokenizer has no EOS token, and completions of plain text must end with it\n\
         hint: set `eos_token` in tokenizer_config.json to a token of the vocabulary"
    )]
    NoEos,
    /// A length limit that leaves no room.
    #[error(
        "max_length is {got}, at least 2 tokens are needed: one of prompt and one of completion"
    )]
    MaxLength {
        /// The limit that was given.
        got: usize,
    },
    /// No row survived tokenisation.
    #[error("no usable row is left of {total}: {reasons}")]
    NothingLeft {
        /// Rows that were given.
        total: usize,
        /// How many were dropped for which reason.
        reasons: String,
    },
    /// Packing needs a capacity.
    #[error("packing needs max_length: it is the capacity of a pack")]
    PackingWithoutLength,
    /// The hub could not be asked.
    #[error("cannot fetch `{id}` from the hub: {reason}\nhint: {hint}")]
    Hub {
        /// `org/name`.
        id: String,
        /// What failed.
        reason: String,
        /// What to do about it.
        hint: &'static str,
    },
}

/// Names that one message lists.
const SHOWN: usize = 40;

/// Names separated by commas, the first of them where they are many, or that there are none.
fn listed(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        let shown = names.iter().take(SHOWN).map(String::as_str);
        let more = names.len().saturating_sub(SHOWN);
        let mut text = shown.collect::<Vec<_>>().join(", ");
        if more > 0 {
            text.push_str(&format!(" and {more} more"));
        }
        text
    }
}
