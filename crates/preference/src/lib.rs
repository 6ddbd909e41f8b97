//! Preference data: files of human judgements in, token ids with their prompt's length out.
//!
//! ```text
//! file, directory or hub id --stream_rows--> Row --stream_pairs-------> TokenizedDataset
//!                                                \--tokenize_unpaired-> UnpairedDataset
//!                                                \--stream_sft--------> SftDataset
//! ```
//!
//! Rows are read in the shapes that TRL documents, from JSON lines, JSON, Parquet, CSV and saved Arrow data sets;
//! see [`ACCEPTED_SHAPES`]. They are read and tokenised a thousand at a time, so that memory holds the token ids and
//! not the text; [`load_rows`] and the `tokenize_` functions on slices are for small data. Tokenisation follows TRL
//! 1.16's `DPOTrainer`, `KTOTrainer` and `SFTTrainer` token for token, which `tests/parity` checks against recordings.
//! Every error names the file and the line or row.
//!
//! Left out: pictures in rows (they are refused), data-set scripts of the hub, and training on ids that stay on the disk (all
//! token ids of a run are in memory). A `.json` document that is not a list is read whole, as is a compressed Parquet
//! file. What one row may take of memory is limited (`limits.rs`).

mod blocks;
mod convert;
mod csv;
mod error;
mod fingerprint;
mod foreign;
mod guard;
pub mod hub;
mod ipc;
mod json;
mod limits;
mod mixture;
mod numpy;
mod parse;
mod prompt;
mod read;
mod readme;
mod row;
mod sft;
mod source;
mod split;
mod table;
mod tokenize;
mod unpaired;

pub use blocks::PairBlocks;
pub use error::{PreferenceError, Result};
pub use fingerprint::{PairFingerprint, data_fingerprint, sft_fingerprint, unpaired_fingerprint};
pub use mixture::{DataFiles, Mixture, MixturePart, MixtureStyle, TestSize};
pub use prompt::split_prompt;
pub use row::{ACCEPTED_SHAPES, Content, Location, Row, RowKind};
pub use sft::{
    SftDataset, SftOptions, SftReport, SftSequence, pack_best_fit, stream_sft, tokenize_sft,
};
pub use source::{DatasetSource, RowReader, load_rows, stream_rows, stream_whole_rows};
pub use tokenize::{
    Mismatch, PairText, TokenizationReport, TokenizedDataset, TokenizedPair, TokenizedSequence,
    encode_text, stream_pairs, tokenize_pairs,
};
pub use unpaired::{
    UnpairedDataset, UnpairedExample, UnpairedReport, UnpairedText, tokenize_unpaired,
};
