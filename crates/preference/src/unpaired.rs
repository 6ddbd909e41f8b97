//! Completions judged one by one, for KTO: tokenised with a mismatched companion each, as TRL 1.16's `KTOTrainer` does.
//!
//! - A paired row becomes two examples, chosen with label true and rejected with label false. As `datasets.map` works
//!   in blocks of 1000 rows, all chosen of a block come before its rejected. So neighbours have different prompts.
//! - Ids, completion start, EOS and truncation are those of pairs (`tokenize.rs`), each completion by itself: when the
//!   prompt fills `max_length` before one completion only, the other stays.
//! - KTO's KL term needs completions that do not answer their prompt. Within consecutive blocks of `kl_block` kept
//!   examples the completions are shifted by one: prompt i gets completion i − 1, the first prompt the last completion.
//!   The completion is that of the neighbour before truncation, and prompt + completion is then cut at `max_length`.
//!
//! Departures from TRL, as for pairs: a completion that is empty or white space, or that no prompt token precedes, is
//! dropped; a prompt that begins with the BOS text gets no second BOS; a paired row's `weight` goes to both examples.
//! Training takes them in this order (`train_sampling_strategy="sequential"`), so that a batch's mismatched completions
//! are its own.
//! Source: `trl/trainer/kto_trainer.py` 1.16, `_prepare_dataset`. Tested in `tests/parity.rs` and `tests/unpaired.rs`.

use rayon::prelude::*;
use unbraid_text::Tokenizer;

use crate::error::{PreferenceError, Result};
use crate::row::{Content, Row, RowKind};
use crate::tokenize::{
    Need, TokenizedSequence, checked_limit, common_prefix, in_chunks, is_blank, prepare,
};

/// The text of an example as it is shown to a reader: conversations as rendered, without the appended EOS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpairedText {
    /// The prompt.
    pub prompt: String,
    /// The completion.
    pub completion: String,
}

/// A judged completion as ids.
#[derive(Debug, Clone, PartialEq)]
pub struct UnpairedExample {
    /// The row's place in the input, counted from 0 with dropped rows included; both halves of a pair have the same.
    pub index: usize,
    /// Prompt and completion.
    pub sequence: TokenizedSequence,
    /// This prompt and the completion of a neighbour.
    pub mismatched: TokenizedSequence,
    /// Whether the completion was liked.
    pub desirable: bool,
    /// The row's weight in the loss.
    pub weight: f64,
    /// The text it came from, where it was kept.
    pub text: Option<UnpairedText>,
}

/// What tokenisation did to the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnpairedReport {
    /// Rows that were given.
    pub rows: usize,
    /// Completions in them: two of a paired row.
    pub total: usize,
    /// Completions dropped because the prompt alone fills `max_length`.
    pub dropped_long_prompt: usize,
    /// Completions dropped because they are empty or white space.
    pub dropped_empty_completion: usize,
    /// Completions dropped because no prompt token precedes them.
    pub dropped_empty_prompt: usize,
    /// Kept examples that were cut at `max_length`.
    pub truncated: usize,
    /// Kept examples whose completion starts before the prompt's end.
    pub boundary_mismatches: usize,
    /// Kept examples that were liked; the others were not.
    pub desirable: usize,
    /// Kept examples whose mismatched completion is their own, because their block has no other.
    pub without_neighbour: usize,
    /// Kept examples whose mismatched completion answers the same prompt in the data.
    pub same_prompt: usize,
}

impl UnpairedReport {
    /// Completions that were dropped, for whatever reason.
    pub fn dropped(&self) -> usize {
        self.dropped_long_prompt + self.dropped_empty_completion + self.dropped_empty_prompt
    }

    /// What a user should be told, one line each; empty when nothing happened.
    pub fn warnings(&self) -> Vec<String> {
        let told = [
            (
                self.dropped_long_prompt,
                "dropped: the prompt alone fills max_length",
            ),
            (
                self.dropped_empty_completion,
                "dropped: they are empty or white space",
            ),
            (
                self.dropped_empty_prompt,
                "dropped: no prompt token precedes them",
            ),
            (self.truncated, "are cut at max_length"),
            (
                self.boundary_mismatches,
                "start before the prompt's end, because tokens merge across the boundary or the chat template renders \
                 the prompt differently alone",
            ),
            (
                self.without_neighbour,
                "have no neighbour in their batch to take a mismatched completion from: their share of the KL estimate \
                 is their own log-ratio; use per_device_train_batch_size 2 or more",
            ),
            (
                self.same_prompt,
                "have a neighbour with the same prompt, so their mismatched completion answers it and the KL estimate \
                 is too high; shuffle the data set",
            ),
        ];
        let told = told.into_iter().filter(|(count, _)| *count > 0);
        let mut lines: Vec<String> = told
            .map(|(count, what)| format!("{count} of {} completions {what}", self.total))
            .collect();
        let kept = self.total - self.dropped();
        if kept > 0 && (self.desirable == 0 || self.desirable == kept) {
            let side = if self.desirable == 0 { "false" } else { "true" };
            lines.push(format!(
                "all {kept} completions have label {side}: KTO contrasts liked with disliked ones"
            ));
        }
        lines
    }
}

/// Judged completions ready for a model, and what happened on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct UnpairedDataset {
    /// The usable examples in TRL's order.
    pub examples: Vec<UnpairedExample>,
    /// Counts of what was dropped, cut or noticed.
    pub report: UnpairedReport,
}

/// Tokenises judged completions, or pairs taken apart. `max_length` limits a sequence in tokens, `kl_block` is the
/// number of examples among which completions are shifted (TRL: the batch size of a device; 0 counts as 1).
/// With `keep_text` the text stays, which is most of the memory.
///
/// # Errors
/// Those of the rows; [`PreferenceError::WrongKind`] for a row without a judgement; [`PreferenceError::NoEos`],
/// [`PreferenceError::Text`], and [`PreferenceError::NothingLeft`] when every completion was dropped.
pub fn tokenize_unpaired(
    rows: impl IntoIterator<Item = Result<Row>>,
    tok: &Tokenizer,
    max_length: Option<usize>,
    kl_block: usize,
    keep_text: bool,
) -> Result<UnpairedDataset> {
    let mut building = Building {
        limit: checked_limit(max_length)?,
        kl_block: kl_block.max(1),
        block: Vec::new(),
        examples: Vec::new(),
        report: UnpairedReport::default(),
    };
    in_chunks(rows, |chunk| building.add(chunk, tok, keep_text))?;
    building.close_block();
    let Building {
        examples, report, ..
    } = building;
    if examples.is_empty() {
        return Err(PreferenceError::NothingLeft {
            total: report.rows,
            reasons: report.warnings().join("; "),
        });
    }
    Ok(UnpairedDataset { examples, report })
}

/// One completion of a row.
struct Judged<'a> {
    index: usize,
    row: &'a Row,
    prompt: &'a Content,
    completion: &'a Content,
    desirable: bool,
}

/// The completions of a block of rows in TRL's order; `first` is the first row's index.
fn judged(rows: &[Row], first: usize) -> Result<Vec<Judged<'_>>> {
    let (mut liked, mut disliked) = (Vec::with_capacity(rows.len()), Vec::new());
    for (index, row) in (first..).zip(rows) {
        let judged = |prompt, completion, desirable| Judged {
            index,
            row,
            prompt,
            completion,
            desirable,
        };
        match &row.kind {
            RowKind::Unpaired {
                prompt,
                completion,
                label,
            } => liked.push(judged(prompt, completion, *label)),
            RowKind::Preference {
                prompt,
                chosen,
                rejected,
            } => {
                liked.push(judged(prompt, chosen, true));
                disliked.push(judged(prompt, rejected, false));
            }
            kind => {
                return Err(PreferenceError::WrongKind {
                    location: row.location.clone(),
                    got: kind.name(),
                    needed: "rows need `prompt`, `completion` and `label`, or `chosen` and `rejected`",
                });
            }
        }
    }
    liked.append(&mut disliked);
    Ok(liked)
}

/// What became of a completion.
enum Outcome {
    EmptyCompletion,
    EmptyPrompt,
    LongPrompt,
    Usable(Box<Whole>),
}

/// An example before truncation.
struct Whole {
    index: usize,
    ids: Vec<u32>,
    prompt_len: usize,
    mismatch: bool,
    desirable: bool,
    weight: f64,
    text: Option<UnpairedText>,
}

fn tokenize(one: &Judged<'_>, tok: &Tokenizer, limit: usize, keep_text: bool) -> Result<Outcome> {
    if is_blank(one.completion, tok) {
        return Ok(Outcome::EmptyCompletion);
    }
    // The completion may stand behind a neighbour's prompt, which may be shorter than its own.
    let need = Need {
        most: limit.saturating_mul(2).saturating_add(1),
        keep_text,
    };
    let prepared = prepare(one.row, tok, one.prompt, [one.completion], need)?;
    let [ids] = prepared.full_ids;
    let prompt_len = common_prefix(&prepared.prompt_ids, &ids);
    if prompt_len == 0 {
        return Ok(Outcome::EmptyPrompt);
    }
    if prompt_len >= limit {
        return Ok(Outcome::LongPrompt);
    }
    // A chat template may leave a completion out.
    if prompt_len >= ids.len() {
        return Ok(Outcome::EmptyCompletion);
    }
    let [completion] = prepared.completions;
    Ok(Outcome::Usable(Box::new(Whole {
        index: one.index,
        ids,
        prompt_len,
        mismatch: prompt_len < prepared.prompt_ids.len(),
        desirable: one.desirable,
        weight: one.row.weight,
        text: keep_text.then_some(UnpairedText {
            prompt: prepared.prompt,
            completion,
        }),
    })))
}

/// A data set that is being tokenised.
struct Building {
    limit: usize,
    kl_block: usize,
    /// Examples that wait for the rest of their block.
    block: Vec<Whole>,
    examples: Vec<UnpairedExample>,
    report: UnpairedReport,
}

impl Building {
    /// Adds the rows that come next.
    fn add(&mut self, rows: &[Row], tok: &Tokenizer, keep_text: bool) -> Result<()> {
        let judged = judged(rows, self.report.rows)?;
        self.report.rows += rows.len();
        self.report.total += judged.len();
        let outcomes: Vec<Result<Outcome>> = judged
            .par_iter()
            .map(|one| tokenize(one, tok, self.limit, keep_text))
            .collect();
        for outcome in outcomes {
            match outcome? {
                Outcome::EmptyCompletion => self.report.dropped_empty_completion += 1,
                Outcome::EmptyPrompt => self.report.dropped_empty_prompt += 1,
                Outcome::LongPrompt => self.report.dropped_long_prompt += 1,
                Outcome::Usable(whole) => {
                    self.block.push(*whole);
                    if self.block.len() == self.kl_block {
                        self.close_block();
                    }
                }
            }
        }
        Ok(())
    }

    /// Shifts the completions of the block by one.
    fn close_block(&mut self) {
        let block = std::mem::take(&mut self.block);
        let mismatched: Vec<TokenizedSequence> = (0..block.len())
            .map(|at| {
                let (own, neighbour) = (&block[at], &block[(at + block.len() - 1) % block.len()]);
                let prompt = &own.ids[..own.prompt_len];
                let same = prompt == &neighbour.ids[..neighbour.prompt_len];
                if block.len() == 1 {
                    self.report.without_neighbour += 1;
                } else {
                    self.report.same_prompt += usize::from(same);
                }
                let completion = &neighbour.ids[neighbour.prompt_len..];
                let mut ids = [prompt, completion].concat();
                ids.truncate(self.limit);
                ids.shrink_to_fit();
                TokenizedSequence {
                    ids,
                    prompt_len: own.prompt_len,
                }
            })
            .collect();
        for (mut whole, mismatched) in block.into_iter().zip(mismatched) {
            self.report.truncated += usize::from(whole.ids.len() > self.limit);
            self.report.boundary_mismatches += usize::from(whole.mismatch);
            self.report.desirable += usize::from(whole.desirable);
            whole.ids.truncate(self.limit);
            whole.ids.shrink_to_fit();
            self.examples.push(UnpairedExample {
                index: whole.index,
                sequence: TokenizedSequence {
                    ids: whole.ids,
                    prompt_len: whole.prompt_len,
                },
                mismatched,
                desirable: whole.desirable,
                weight: whole.weight,
                text: whole.text,
            });
        }
    }
}
