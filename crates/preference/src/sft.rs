//! Rows become sequences to imitate, as TRL 1.16's `SFTTrainer` makes them.
//!
//! `{text}` and `{messages}` carry loss on every token (the first has no context and is never predicted);
//! `{prompt, completion}` on the completion only, or on everything without `completion_only`. EOS is appended to
//! plain text as for pairs. `max_length` keeps the start, and a sequence left without a token of loss is dropped.
//! Preference rows are accepted too (TRL refuses them): they train on prompt + chosen, as the paper's first stage does.
//!
//! Packing groups sequences so that each group has at most `max_length` tokens, by best fit of decreasing lengths
//! (TRL's `bfd`). A group is not one long text: each sequence keeps its own positions and sees only itself.
//! Source: `trl/trainer/sft_trainer.py` and `trl/data_utils.py` 1.16. Tested in `tests/parity.rs`.

use std::collections::{BTreeMap, VecDeque};

use rayon::prelude::*;
use unbraid_text::Tokenizer;

use crate::error::{PreferenceError, Result};
use crate::row::{Row, RowKind};
use crate::tokenize::{
    Need, at, checked_limit, common_prefix, encode_parts, in_chunks, is_blank, is_blank_text,
    missing_eos, prepare,
};

/// A sequence to imitate.
#[derive(Debug, Clone, PartialEq)]
pub struct SftSequence {
    /// The row's place in the input, counted from 0 with dropped rows included.
    pub index: usize,
    /// All ids.
    pub ids: Vec<u32>,
    /// The loss is on `ids[loss_mask_start..]`; at least 1, because the first id has no context.
    pub loss_mask_start: usize,
    /// The row's weight in the loss.
    pub weight: f64,
}

/// How rows become sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SftOptions {
    /// Loss on the completion only, where a row has a prompt.
    pub completion_only: bool,
    /// Group sequences up to `max_length` tokens.
    pub packing: bool,
}

impl Default for SftOptions {
    fn default() -> Self {
        Self {
            completion_only: true,
            packing: false,
        }
    }
}

/// What tokenisation did to the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SftReport {
    /// Rows that were given.
    pub total: usize,
    /// Rows dropped because no token of loss is left (the prompt fills `max_length`, or one token in all).
    pub dropped_no_loss: usize,
    /// Rows dropped because the text or completion is empty or white space.
    pub dropped_empty: usize,
    /// Kept sequences that were cut at `max_length`.
    pub truncated: usize,
    /// Kept sequences whose completion starts before the prompt's end.
    pub boundary_mismatches: usize,
}

impl SftReport {
    /// What a user should be told, one line each; empty when nothing happened.
    pub fn warnings(&self) -> Vec<String> {
        let told = [
            (
                self.dropped_no_loss,
                "dropped: no token is left to learn from within max_length",
            ),
            (
                self.dropped_empty,
                "dropped: the text or completion is empty or white space",
            ),
            (self.truncated, "are cut at max_length"),
            (
                self.boundary_mismatches,
                "have a completion that starts before the prompt's end",
            ),
        ];
        let told = told.into_iter().filter(|(count, _)| *count > 0);
        told.map(|(count, what)| format!("{count} of {} rows {what}", self.total))
            .collect()
    }
}

/// Sequences ready for a model, and what happened on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct SftDataset {
    /// The usable sequences in input order.
    pub sequences: Vec<SftSequence>,
    /// Groups of positions in `sequences` that go through the model together; one each without packing.
    pub packs: Vec<Vec<usize>>,
    /// Counts of what was dropped, cut or noticed.
    pub report: SftReport,
}

/// Tokenises rows for supervised fine-tuning. `max_length` limits a sequence (and a pack) in tokens.
///
/// # Errors
/// [`PreferenceError::WrongKind`] for unpaired rows, [`PreferenceError::PackingWithoutLength`],
/// [`PreferenceError::NoEos`], [`PreferenceError::Text`], and [`PreferenceError::NothingLeft`].
pub fn tokenize_sft(
    rows: &[Row],
    tok: &Tokenizer,
    max_length: Option<usize>,
    options: SftOptions,
) -> Result<SftDataset> {
    let mut sequences = Sequences::new(tok, max_length, options)?;
    sequences.add(rows)?;
    sequences.finish()
}

/// As [`tokenize_sft`], from rows that are read meanwhile: in memory are the ids and a thousand rows of text.
///
/// # Errors
/// Those of the rows, and of [`tokenize_sft`].
pub fn stream_sft(
    rows: impl IntoIterator<Item = Result<Row>>,
    tok: &Tokenizer,
    max_length: Option<usize>,
    options: SftOptions,
) -> Result<SftDataset> {
    let mut sequences = Sequences::new(tok, max_length, options)?;
    in_chunks(rows, |chunk| sequences.add(chunk))?;
    sequences.finish()
}

/// A data set that is being tokenised.
struct Sequences<'t> {
    tok: &'t Tokenizer,
    limit: usize,
    options: SftOptions,
    sequences: Vec<SftSequence>,
    report: SftReport,
}

impl<'t> Sequences<'t> {
    fn new(tok: &'t Tokenizer, max_length: Option<usize>, options: SftOptions) -> Result<Self> {
        let limit = checked_limit(max_length)?;
        if options.packing && max_length.is_none() {
            return Err(PreferenceError::PackingWithoutLength);
        }
        Ok(Sequences {
            tok,
            limit,
            options,
            sequences: Vec::new(),
            report: SftReport::default(),
        })
    }

    /// Adds the rows that come next.
    fn add(&mut self, rows: &[Row]) -> Result<()> {
        // In parallel, but gathered in order: the first bad row is the one that is reported.
        let encoded: Vec<Result<Option<Encoded>>> = rows
            .par_iter()
            .map(|row| encode_row(row, self.tok, self.limit))
            .collect();
        let report = &mut self.report;
        for (row, encoded) in rows.iter().zip(encoded) {
            let index = report.total;
            report.total += 1;
            let Some(encoded) = encoded? else {
                report.dropped_empty += 1;
                continue;
            };
            let mut ids = encoded.ids;
            let loss_mask_start = if self.options.completion_only {
                encoded.prompt_len.max(1)
            } else {
                1
            };
            if loss_mask_start >= ids.len().min(self.limit) {
                report.dropped_no_loss += 1;
                continue;
            }
            report.truncated += usize::from(ids.len() > self.limit);
            report.boundary_mismatches += usize::from(encoded.mismatch);
            ids.truncate(self.limit);
            ids.shrink_to_fit();
            self.sequences.push(SftSequence {
                index,
                ids,
                loss_mask_start,
                weight: row.weight,
            });
        }
        Ok(())
    }

    fn finish(self) -> Result<SftDataset> {
        let (sequences, report) = (self.sequences, self.report);
        if sequences.is_empty() {
            return Err(PreferenceError::NothingLeft {
                total: report.total,
                reasons: report.warnings().join("; "),
            });
        }
        let packs = if self.options.packing {
            let lengths: Vec<usize> = sequences.iter().map(|s| s.ids.len()).collect();
            pack_best_fit(&lengths, self.limit)
        } else {
            (0..sequences.len()).map(|at| vec![at]).collect()
        };
        Ok(SftDataset {
            sequences,
            packs,
            report,
        })
    }
}

struct Encoded {
    ids: Vec<u32>,
    /// 0 where the row has no prompt.
    prompt_len: usize,
    mismatch: bool,
}

/// The ids of a row, or nothing when there is nothing to imitate.
fn encode_row(row: &Row, tok: &Tokenizer, limit: usize) -> Result<Option<Encoded>> {
    let need = Need {
        most: limit.saturating_add(1),
        keep_text: false,
    };
    let whole = |ids: Vec<u32>| {
        Ok(Some(Encoded {
            ids,
            prompt_len: 0,
            mismatch: false,
        }))
    };
    match &row.kind {
        RowKind::Text(text) => {
            if is_blank_text(text, tok) {
                return Ok(None);
            }
            let parts = [text.as_str(), missing_eos(text, tok)?];
            whole(encode_parts(tok, &parts, need.most).map_err(at(&row.location))?)
        }
        RowKind::Messages(messages) => {
            let prompted = row.inputs.add_generation_prompt.unwrap_or(false);
            let text = tok
                .render_row(messages, &row.inputs, prompted)
                .map_err(at(&row.location))?;
            let ids = tok.encode_start(&[&text], false, need.most);
            whole(ids.map_err(at(&row.location))?)
        }
        RowKind::PromptCompletion { prompt, completion }
        | RowKind::Preference {
            prompt,
            chosen: completion,
            ..
        } => {
            if is_blank(completion, tok) {
                return Ok(None);
            }
            let prepared = prepare(row, tok, prompt, [completion], need)?;
            let [ids] = prepared.full_ids;
            let prompt_len = common_prefix(&prepared.prompt_ids, &ids);
            Ok(Some(Encoded {
                ids,
                prompt_len,
                mismatch: prompt_len < prepared.prompt_ids.len(),
            }))
        }
        RowKind::Unpaired { .. } => Err(PreferenceError::WrongKind {
            location: row.location.clone(),
            got: row.kind.name(),
            needed: "rows need `text`, `messages`, or `prompt` and `completion`",
        }),
    }
}

/// Groups positions so that the lengths of a group sum to at most `capacity`: longest first, each into the fullest
/// group that still has room, the oldest of equals. A length above the capacity gets a group of its own.
pub fn pack_best_fit(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(lengths[at]));
    let mut packs: Vec<Vec<usize>> = Vec::new();
    let mut with_room: BTreeMap<usize, VecDeque<usize>> = BTreeMap::new();
    for at in order {
        let length = lengths[at];
        let fitting = with_room.range(length..).next().map(|(&room, _)| room);
        let (pack, room) = match fitting {
            Some(room) => {
                let waiting = with_room.get_mut(&room).expect("the key was just found");
                let pack = waiting.pop_front().expect("emptied entries are removed");
                if waiting.is_empty() {
                    with_room.remove(&room);
                }
                (pack, room)
            }
            None => {
                packs.push(Vec::new());
                (packs.len() - 1, capacity)
            }
        };
        packs[pack].push(at);
        if room > length {
            with_room.entry(room - length).or_default().push_back(pack);
        }
    }
    packs
}
