//! Pairs block by block, for work that should not have a data set's ids in memory.
//!
//! A block is what is left of a thousand rows, so equal data gives equal blocks, wherever reading begins again.
//! Tested in `tests/pairs.rs`.

use unbraid_text::Tokenizer;

use crate::error::Result;
use crate::row::Row;
use crate::source::RowReader;
use crate::tokenize::{CHUNK, Pairs, TokenizationReport, TokenizedPair};

/// Tokenised pairs of rows that are read meanwhile; see [`stream_pairs`](crate::stream_pairs) for all at once.
pub struct PairBlocks<'t> {
    rows: RowReader,
    pairs: Pairs<'t>,
}

impl<'t> PairBlocks<'t> {
    /// Reads nothing yet.
    ///
    /// # Errors
    /// [`PreferenceError::MaxLength`](crate::PreferenceError::MaxLength) for a limit that leaves no room for a pair.
    pub fn new(
        rows: RowReader,
        tok: &'t Tokenizer,
        max_length: Option<usize>,
        keep_text: bool,
    ) -> Result<Self> {
        Ok(PairBlocks {
            rows,
            pairs: Pairs::new(tok, max_length, keep_text)?,
        })
    }

    /// The usable pairs of the next thousand rows, maybe none; `None` at the end.
    ///
    /// # Errors
    /// Those of the rows and of [`tokenize_pairs`](crate::tokenize_pairs), but for data of which nothing is left.
    pub fn next_block(&mut self) -> Result<Option<Vec<TokenizedPair>>> {
        let rows: Vec<Row> = self.rows.by_ref().take(CHUNK).collect::<Result<_>>()?;
        if rows.is_empty() {
            return Ok(None);
        }
        self.pairs.add(&rows)?;
        Ok(Some(std::mem::take(&mut self.pairs.dataset.pairs)))
    }

    /// What tokenisation did to the rows so far.
    pub fn report(&self) -> &TokenizationReport {
        &self.pairs.dataset.report
    }
}
