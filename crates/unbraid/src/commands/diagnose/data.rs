//! The pairs, read and tokenised as often as they are needed, never all at once.
//!
//! A first pass counts and checks; later ones measure, and pick out single pairs. Batches are cut from the beginning of
//! the data by the number of tokens, so they are the same whenever they are cut.

use crate::cli::DataArgs;
use crate::commands::load;
use anyhow::Result;
use std::collections::{HashMap, VecDeque};
use unbraid_model::ModelConfig;
use unbraid_preference::stream_whole_rows;
use unbraid_preference::{PairBlocks, PairFingerprint, PreferenceError, RowReader, TokenizedPair};
use unbraid_text::Tokenizer;

/// One split of a data set under one tokenizer.
pub(super) struct Data<'a> {
    pub args: &'a DataArgs,
    pub tokenizer: &'a Tokenizer,
}

/// What the first pass found.
pub(super) struct Survey {
    /// Usable pairs.
    pub pairs: usize,
    /// Of the tokenised pairs.
    pub fingerprint: String,
}

impl<'a> Data<'a> {
    /// The pairs block by block.
    pub(super) fn blocks(&self, keep_text: bool) -> Result<PairBlocks<'a>> {
        let DataArgs {
            dataset_name: name,
            dataset_train_split: split,
            ..
        } = self.args;
        let rows = load::stream(name, split, self.args)?;
        let limit = self.args.max_length.0;
        Ok(PairBlocks::new(rows, self.tokenizer, limit, keep_text)?)
    }

    /// The pairs in batches of about `tokens` tokens.
    pub(super) fn batches(&self, tokens: usize) -> Result<Batches<'a>> {
        Ok(Batches {
            blocks: self.blocks(true)?,
            waiting: VecDeque::new(),
            held: None,
            tokens,
        })
    }

    /// The rows with all their columns, dropped ones included.
    pub(super) fn whole_rows(&self) -> Result<RowReader> {
        let (name, split) = (&self.args.dataset_name, &self.args.dataset_train_split);
        Ok(stream_whole_rows(&load::split_of(name, split, self.args))?)
    }

    /// Counts the pairs and checks that the model can read them; says what was dropped or cut.
    pub(super) fn survey(&self, config: &ModelConfig) -> Result<Survey> {
        let mut blocks = self.blocks(false)?;
        let (mut pairs, mut fingerprint) = (0, PairFingerprint::default());
        while let Some(block) = blocks.next_block()? {
            load::check_fits(config, load::pair_ids(&block))?;
            block.iter().for_each(|pair| fingerprint.add(pair));
            pairs += block.len();
        }
        let report = blocks.report();
        if pairs == 0 {
            let nothing = PreferenceError::NothingLeft {
                total: report.total,
                reasons: report.warnings().join("; "),
            };
            return Err(nothing.into());
        }
        for warning in report.warnings() {
            note!("{}: {warning}", self.args.dataset_name);
        }
        Ok(Survey {
            pairs,
            fingerprint: fingerprint.finish(),
        })
    }

    /// The pairs of these rows, in the order asked for.
    pub(super) fn pick(&self, rows: &[usize]) -> Result<Vec<TokenizedPair>> {
        let mut found: HashMap<usize, TokenizedPair> = HashMap::new();
        let mut blocks = self.blocks(false)?;
        while found.len() < rows.len()
            && let Some(block) = blocks.next_block()?
        {
            let wanted = block.into_iter().filter(|pair| rows.contains(&pair.index));
            found.extend(wanted.map(|pair| (pair.index, pair)));
        }
        Ok(rows.iter().filter_map(|row| found.remove(row)).collect())
    }
}

/// Consecutive pairs that are measured together.
pub(super) struct Batches<'t> {
    blocks: PairBlocks<'t>,
    waiting: VecDeque<TokenizedPair>,
    /// A batch that was cut and is still to come.
    held: Option<Vec<TokenizedPair>>,
    tokens: usize,
}

/// Tokens of a pair that go through the model: the prompt once.
fn tokens(pair: &TokenizedPair) -> usize {
    pair.chosen.ids.len() + pair.rejected.completion().len()
}

impl Batches<'_> {
    /// The next batch, at least one pair; `None` at the end.
    pub(super) fn next_batch(&mut self) -> Result<Option<Vec<TokenizedPair>>> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        let (mut batch, mut total) = (Vec::new(), 0);
        loop {
            let Some(pair) = self.waiting.front() else {
                match self.blocks.next_block()? {
                    Some(block) => self.waiting.extend(block),
                    None => break,
                }
                continue;
            };
            total += tokens(pair);
            if !batch.is_empty() && total > self.tokens {
                break;
            }
            batch.extend(self.waiting.pop_front());
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// Passes over the next batch if it has at most `limit` pairs, and tells how many.
    pub(super) fn skip_within(&mut self, limit: usize) -> Result<Option<usize>> {
        match self.next_batch()? {
            Some(batch) if batch.len() <= limit => Ok(Some(batch.len())),
            batch => {
                self.held = batch;
                Ok(None)
            }
        }
    }
}
