//! Pairs of text become pairs of id sequences, as TRL 1.16's `DPOTrainer` makes them.
//!
//! The prompt alone and prompt + completion are tokenised separately. Plain text: with the tokenizer's special tokens,
//! and with the EOS text behind a completion that does not end with it. Conversations: rendered by the chat template
//! (the prompt with the generation prompt), which sees whole messages and the row's `tools` and
//! `chat_template_kwargs`, without adding special tokens, since the template writes them. The
//! completion starts where the prompt's ids first differ from either sequence's, so that both sequences share
//! `ids[..prompt_len]`. `max_length` keeps the start; a pair whose prompt fills it is dropped.
//!
//! Where this departs from TRL, counted in the report:
//! - A completion of nothing but white space is dropped (TRL trains on its EOS). Four of the 2,354 pairs of HH-RLHF's
//!   helpful-base test split are such, which leaves 2,350.
//! - A pair without a single prompt token is dropped: its first completion token would have no context.
//! - A prompt that already begins with the BOS text does not get a second BOS.
//!
//! Identical chosen and rejected are kept, as in TRL, and counted: their gradient is zero in every margin loss.
//! Source: `trl/trainer/dpo_trainer.py` 1.16, `_prepare_dataset` and the collator. Tested in `tests/parity.rs`.

use rayon::prelude::*;
use unbraid_text::{Message, TemplateInputs, TextError, Tokenizer};

use crate::error::{PreferenceError, Result};
use crate::row::{Content, Location, Row, RowKind};

/// One sequence: the prompt's ids and the completion's behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizedSequence {
    /// Prompt and completion; the completion ends with EOS unless it was truncated.
    pub ids: Vec<u32>,
    /// The completion is `ids[prompt_len..]`; at least 1, less than `ids.len()`.
    pub prompt_len: usize,
}

impl TokenizedSequence {
    /// The ids that are scored.
    pub fn completion(&self) -> &[u32] {
        &self.ids[self.prompt_len..]
    }
}

/// The text of a pair as it is shown to a reader: conversations as rendered, without the appended EOS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairText {
    /// The prompt.
    pub prompt: String,
    /// The preferred completion.
    pub chosen: String,
    /// The dispreferred completion.
    pub rejected: String,
}

/// A preference pair as ids. Both sequences have the same `prompt_len` and the same ids before it.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizedPair {
    /// The row's place in the input, counted from 0 with dropped rows included.
    pub index: usize,
    /// Prompt and preferred completion.
    pub chosen: TokenizedSequence,
    /// Prompt and dispreferred completion.
    pub rejected: TokenizedSequence,
    /// The row's weight in the loss.
    pub weight: f64,
    /// The text it came from, where it was kept.
    pub text: Option<PairText>,
}

/// A pair whose completion does not start at the end of the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The row's place in the input, counted from 0.
    pub index: usize,
    /// The end of the prompt that is tokenised differently before a completion.
    pub left_out: String,
}

/// What tokenisation did to the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizationReport {
    /// Rows that were given.
    pub total: usize,
    /// Pairs dropped because the prompt alone fills `max_length`.
    pub dropped_long_prompt: usize,
    /// Pairs dropped because a completion is empty or white space.
    pub dropped_empty_completion: usize,
    /// Pairs dropped because no prompt token precedes the completion.
    pub dropped_empty_prompt: usize,
    /// Kept pairs whose chosen and rejected ids are equal (after truncation): they teach a margin loss nothing.
    pub identical: usize,
    /// Kept pairs of which a sequence was cut at `max_length`.
    pub truncated: usize,
    /// Kept pairs whose completion starts before the prompt's end.
    pub boundary_mismatches: usize,
    /// The first of them.
    pub first_mismatch: Option<Mismatch>,
}

impl TokenizationReport {
    /// Pairs that were dropped, for whatever reason.
    pub fn dropped(&self) -> usize {
        self.dropped_long_prompt + self.dropped_empty_completion + self.dropped_empty_prompt
    }

    /// What a user should be told, one line each; empty when nothing happened.
    pub fn warnings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut say = |count: usize, what: &str| {
            if count > 0 {
                lines.push(format!("{count} of {} pairs {what}", self.total));
            }
        };
        say(
            self.dropped_long_prompt,
            "dropped: the prompt alone fills max_length",
        );
        say(
            self.dropped_empty_completion,
            "dropped: a completion is empty or white space",
        );
        say(
            self.dropped_empty_prompt,
            "dropped: no prompt token precedes the completion",
        );
        say(
            self.identical,
            "have identical chosen and rejected completions: they are kept and teach nothing",
        );
        say(self.truncated, "are cut at max_length");
        if let Some(first) = &self.first_mismatch {
            let what = format!(
                "have a completion that starts before the prompt's end, because tokens merge across the boundary or the \
                 chat template renders the prompt differently alone; in row {} the prompt loses {:?}",
                first.index, first.left_out
            );
            say(self.boundary_mismatches, &what);
        }
        lines
    }
}

/// Pairs ready for a model, and what happened on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizedDataset {
    /// The usable pairs in input order.
    pub pairs: Vec<TokenizedPair>,
    /// Counts of what was dropped, cut or noticed.
    pub report: TokenizationReport,
}

/// Tokenises preference rows, keeping their text. `max_length` limits prompt + completion in tokens; TRL's default
/// is 1024.
///
/// # Errors
/// [`PreferenceError::WrongKind`] for a row that is no preference, [`PreferenceError::NoEos`] when the tokenizer has
/// none, [`PreferenceError::Text`] when the chat template refuses a row, [`PreferenceError::NothingLeft`] when every
/// row was dropped.
pub fn tokenize_pairs(
    rows: &[Row],
    tok: &Tokenizer,
    max_length: Option<usize>,
) -> Result<TokenizedDataset> {
    let mut pairs = Pairs::new(tok, max_length, true)?;
    pairs.add(rows)?;
    pairs.finish()
}

/// As [`tokenize_pairs`], from rows that are read meanwhile: in memory are the ids and a thousand rows of text.
/// With `keep_text` the text stays, which is most of the memory.
///
/// # Errors
/// Those of the rows, and of [`tokenize_pairs`].
pub fn stream_pairs(
    rows: impl IntoIterator<Item = Result<Row>>,
    tok: &Tokenizer,
    max_length: Option<usize>,
    keep_text: bool,
) -> Result<TokenizedDataset> {
    let mut pairs = Pairs::new(tok, max_length, keep_text)?;
    in_chunks(rows, |chunk| pairs.add(chunk))?;
    pairs.finish()
}

/// Rows that are tokenised in parallel at a time; also the block in which `datasets` unpairs (`unpaired.rs`).
pub(crate) const CHUNK: usize = 1000;

/// Hands rows on in blocks of [`CHUNK`].
pub(crate) fn in_chunks(
    rows: impl IntoIterator<Item = Result<Row>>,
    mut take: impl FnMut(&[Row]) -> Result<()>,
) -> Result<()> {
    let mut chunk = Vec::with_capacity(CHUNK);
    for row in rows {
        chunk.push(row?);
        if chunk.len() == CHUNK {
            take(&chunk)?;
            chunk.clear();
        }
    }
    take(&chunk)
}

/// The limit as a number.
pub(crate) fn checked_limit(max_length: Option<usize>) -> Result<usize> {
    match max_length {
        Some(got) if got < 2 => Err(PreferenceError::MaxLength { got }),
        limit => Ok(limit.unwrap_or(usize::MAX)),
    }
}

/// A data set that is being tokenised.
pub(crate) struct Pairs<'t> {
    tok: &'t Tokenizer,
    limit: usize,
    keep_text: bool,
    pub(crate) dataset: TokenizedDataset,
}

impl<'t> Pairs<'t> {
    pub(crate) fn new(
        tok: &'t Tokenizer,
        max_length: Option<usize>,
        keep_text: bool,
    ) -> Result<Self> {
        Ok(Pairs {
            tok,
            limit: checked_limit(max_length)?,
            keep_text,
            dataset: TokenizedDataset {
                pairs: Vec::new(),
                report: TokenizationReport::default(),
            },
        })
    }

    /// Adds the rows that come next.
    pub(crate) fn add(&mut self, rows: &[Row]) -> Result<()> {
        let TokenizedDataset { pairs, report } = &mut self.dataset;
        let first = report.total;
        // In parallel, but gathered in order: the first bad row is the one that is reported.
        let outcomes: Vec<Result<Outcome>> = rows
            .par_iter()
            .enumerate()
            .map(|(at, row)| tokenize_pair(first + at, row, self.tok, self.limit, self.keep_text))
            .collect();
        report.total += rows.len();
        for outcome in outcomes {
            match outcome? {
                Outcome::EmptyCompletion => report.dropped_empty_completion += 1,
                Outcome::EmptyPrompt => report.dropped_empty_prompt += 1,
                Outcome::LongPrompt => report.dropped_long_prompt += 1,
                Outcome::Usable {
                    pair,
                    truncated,
                    mismatch,
                } => {
                    report.identical += usize::from(pair.chosen.ids == pair.rejected.ids);
                    report.truncated += usize::from(truncated);
                    report.boundary_mismatches += usize::from(mismatch.is_some());
                    if report.first_mismatch.is_none() {
                        report.first_mismatch = mismatch;
                    }
                    pairs.push(*pair);
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<TokenizedDataset> {
        let TokenizedDataset { pairs, report } = &self.dataset;
        if pairs.is_empty() {
            return Err(PreferenceError::NothingLeft {
                total: report.total,
                reasons: report.warnings().join("; "),
            });
        }
        Ok(self.dataset)
    }
}

/// What became of a row.
enum Outcome {
    EmptyCompletion,
    EmptyPrompt,
    LongPrompt,
    Usable {
        pair: Box<TokenizedPair>,
        truncated: bool,
        mismatch: Option<Mismatch>,
    },
}

fn tokenize_pair(
    index: usize,
    row: &Row,
    tok: &Tokenizer,
    limit: usize,
    keep_text: bool,
) -> Result<Outcome> {
    let RowKind::Preference {
        prompt,
        chosen,
        rejected,
    } = &row.kind
    else {
        return Err(PreferenceError::WrongKind {
            location: row.location.clone(),
            got: row.kind.name(),
            needed: "rows need `chosen` and `rejected`",
        });
    };
    if is_blank(chosen, tok) || is_blank(rejected, tok) {
        return Ok(Outcome::EmptyCompletion);
    }
    let need = Need {
        most: limit.saturating_add(1),
        keep_text,
    };
    let prepared = prepare(row, tok, prompt, [chosen, rejected], need)?;
    let [mut chosen, mut rejected] = prepared.full_ids;
    let prompt_len = common_prefix(&prepared.prompt_ids, &chosen)
        .min(common_prefix(&prepared.prompt_ids, &rejected));
    if prompt_len == 0 {
        return Ok(Outcome::EmptyPrompt);
    }
    if prompt_len >= limit {
        return Ok(Outcome::LongPrompt);
    }
    // A chat template may leave a completion out.
    if prompt_len >= chosen.len().min(rejected.len()) {
        return Ok(Outcome::EmptyCompletion);
    }
    let left_out = &prepared.prompt_ids[prompt_len..];
    let mismatch = if left_out.is_empty() {
        None
    } else {
        Some(Mismatch {
            index,
            left_out: tok.decode(left_out, false).map_err(at(&row.location))?,
        })
    };
    let truncated = chosen.len() > limit || rejected.len() > limit;
    for ids in [&mut chosen, &mut rejected] {
        ids.truncate(limit);
        ids.shrink_to_fit();
    }
    let [chosen_text, rejected_text] = prepared.completions;
    let pair = TokenizedPair {
        index,
        chosen: TokenizedSequence {
            ids: chosen,
            prompt_len,
        },
        rejected: TokenizedSequence {
            ids: rejected,
            prompt_len,
        },
        weight: row.weight,
        text: keep_text.then_some(PairText {
            prompt: prepared.prompt,
            chosen: chosen_text,
            rejected: rejected_text,
        }),
    };
    Ok(Outcome::Usable {
        pair: Box::new(pair),
        truncated,
        mismatch,
    })
}

/// How much of a row is needed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    /// Tokens of a sequence. One more than the limit tells that a sequence is longer; what follows is not tokenised.
    pub most: usize,
    /// Whether the text is asked for too.
    pub keep_text: bool,
}

/// A prompt with `N` completions, as text and as ids.
pub(crate) struct Prepared<const N: usize> {
    /// Empty unless the text was asked for, as are the completions.
    pub prompt: String,
    pub completions: [String; N],
    /// The first ids of the prompt, as many as were needed.
    pub prompt_ids: Vec<u32>,
    /// The first ids of prompt + completion + EOS, as many as were needed.
    pub full_ids: [Vec<u32>; N],
}

/// Tokenises a row's prompt alone and with each completion.
pub(crate) fn prepare<const N: usize>(
    row: &Row,
    tok: &Tokenizer,
    prompt: &Content,
    completions: [&Content; N],
    need: Need,
) -> Result<Prepared<N>> {
    match prompt {
        Content::Text(prompt) => prepare_text(&row.location, tok, prompt, completions, need),
        Content::Conversation(prompt) => {
            prepare_conversation(&row.location, tok, &row.inputs, prompt, completions, need)
        }
    }
}

fn prepare_text<const N: usize>(
    location: &Location,
    tok: &Tokenizer,
    prompt: &str,
    completions: [&Content; N],
    need: Need,
) -> Result<Prepared<N>> {
    let mut texts: [String; N] = std::array::from_fn(|_| String::new());
    let mut full_ids: [Vec<u32>; N] = std::array::from_fn(|_| Vec::new());
    for (at_completion, completion) in completions.into_iter().enumerate() {
        let Content::Text(text) = completion else {
            return Err(mixed(location));
        };
        let parts = [prompt, text, missing_eos(text, tok)?];
        full_ids[at_completion] = encode_parts(tok, &parts, need.most).map_err(at(location))?;
        if need.keep_text {
            texts[at_completion].clone_from(text);
        }
    }
    let prompt_ids = encode_parts(tok, &[prompt], need.most).map_err(at(location))?;
    Ok(Prepared {
        prompt: if need.keep_text {
            prompt.to_owned()
        } else {
            String::new()
        },
        completions: texts,
        prompt_ids,
        full_ids,
    })
}

fn prepare_conversation<const N: usize>(
    location: &Location,
    tok: &Tokenizer,
    inputs: &TemplateInputs,
    prompt: &[Message],
    completions: [&Content; N],
    need: Need,
) -> Result<Prepared<N>> {
    let rendered = tok.render_row(prompt, inputs, true).map_err(at(location))?;
    let mut full: [String; N] = std::array::from_fn(|_| String::new());
    let mut full_ids: [Vec<u32>; N] = std::array::from_fn(|_| Vec::new());
    for (at_completion, completion) in completions.into_iter().enumerate() {
        let Content::Conversation(completion) = completion else {
            return Err(mixed(location));
        };
        let turns = [prompt, completion].concat();
        let text = tok
            .render_row(&turns, inputs, false)
            .map_err(at(location))?;
        full_ids[at_completion] = tok
            .encode_start(&[&text], false, need.most)
            .map_err(at(location))?;
        if need.keep_text {
            full[at_completion] = text;
        }
    }
    let prompt_ids = tok
        .encode_start(&[&rendered], false, need.most)
        .map_err(at(location))?;
    let shared = full
        .iter()
        .map(|text| common_prefix_bytes(&rendered, text))
        .min()
        .unwrap_or(rendered.len());
    let completions = full.map(|text| text[shared..].to_owned());
    Ok(Prepared {
        prompt: rendered[..shared].to_owned(),
        completions,
        prompt_ids,
        full_ids,
    })
}

/// The EOS text, unless `completion`, the end of what is tokenised, has it already.
pub(crate) fn missing_eos<'t>(completion: &str, tok: &'t Tokenizer) -> Result<&'t str> {
    let eos = tok.eos_text().ok_or(PreferenceError::NoEos)?;
    Ok(if completion.ends_with(eos) { "" } else { eos })
}

/// Ids of plain text, with the tokenizer's special tokens unless the text brings BOS itself.
///
/// # Errors
/// What the tokenizer refuses.
pub fn encode_text(tok: &Tokenizer, text: &str) -> Result<Vec<u32>, TextError> {
    encode_parts(tok, &[text], usize::MAX)
}

/// The first `most` ids of what the parts make together, as [`encode_text`] gives them.
pub(crate) fn encode_parts(
    tok: &Tokenizer,
    parts: &[&str],
    most: usize,
) -> Result<Vec<u32>, TextError> {
    let has_bos = tok.bos_text().is_some_and(|bos| begins_with(parts, bos));
    tok.encode_start(parts, !has_bos, most)
}

/// Whether the parts together begin with `start`.
fn begins_with(parts: &[&str], start: &str) -> bool {
    let mut bytes = parts.iter().flat_map(|part| part.bytes());
    start.bytes().all(|byte| bytes.next() == Some(byte))
}

/// Whether a completion says nothing: only white space, an EOS text left aside, and no tool call.
pub(crate) fn is_blank(content: &Content, tok: &Tokenizer) -> bool {
    match content {
        Content::Text(text) => is_blank_text(text, tok),
        Content::Conversation(turns) => {
            let blank = |text: &str| is_blank_text(text, tok);
            turns.iter().all(|turn| turn.is_silent(blank))
        }
    }
}

/// As [`is_blank`], of plain text.
pub(crate) fn is_blank_text(text: &str, tok: &Tokenizer) -> bool {
    let text = tok
        .eos_text()
        .map_or(text, |eos| text.strip_suffix(eos).unwrap_or(text));
    text.trim().is_empty()
}

pub(crate) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn common_prefix_bytes(a: &str, b: &str) -> usize {
    a.chars()
        .zip(b.chars())
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum()
}

pub(crate) fn at(location: &Location) -> impl Fn(TextError) -> PreferenceError {
    let location = location.clone();
    move |source| PreferenceError::Text {
        location: location.clone(),
        source: Box::new(source),
    }
}

fn mixed(location: &Location) -> PreferenceError {
    PreferenceError::MixedContent {
        location: location.clone(),
        columns: "the prompt and its completions",
    }
}
