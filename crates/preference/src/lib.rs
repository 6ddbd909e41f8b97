//! Preference data: files of human judgements in, token ids with their prompt's length out.
//!
//! ```text
//! file, directory or hub id --load_rows--> Row --tokenize_pairs--> TokenizedDataset
//!                                              \--tokenize_sft---> SftDataset
//! ```
//!
//! Rows are read in the shapes that TRL documents, from JSON lines, JSON, Parquet, CSV and saved Arrow data sets;
//! see [`ACCEPTED_SHAPES`]. Tokenisation follows TRL 1.16's `DPOTrainer` and `SFTTrainer` token for token, which
//! `tests/parity` checks against recordings. Every error names the file and the line or row.
//!
//! Left out: images and tools in rows, streaming (a data set is read whole), data-set scripts and configurations
//! of the hub.

mod convert;
mod error;
mod guard;
pub mod hub;
mod prompt;
mod read;
mod row;
mod sft;
mod source;
mod split;
mod tokenize;

pub use error::{PreferenceError, Result};
pub use prompt::split_prompt;
pub use row::{ACCEPTED_SHAPES, Content, Location, Row, RowKind};
pub use sft::{SftDataset, SftOptions, SftReport, SftSequence, pack_best_fit, tokenize_sft};
pub use source::{DatasetSource, load_rows};
pub use tokenize::{
    Mismatch, PairText, TokenizationReport, TokenizedDataset, TokenizedPair, TokenizedSequence,
    data_fingerprint, encode_text, tokenize_pairs,
};
