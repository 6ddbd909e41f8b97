//! The first tokens of a long text, without tokenising all of it.
//!
//! Only so much of the text is read as the tokens need, and exactly the whole text's first ids are given. That rests on
//! boundaries between tokens that no later text can move. A boundary counts as one where
//!
//! - the pre-tokenizer cuts there, or no token of the vocabulary holds the two characters that meet there, so that no
//!   chain of merges reaches across; and
//! - the text that was read goes on behind it for several changes between letters, digits, spaces and signs, and
//!   further than the longest added token: pre-tokenizers, normalizers and added tokens look no further ahead.
//!
//! Twice as much text must then give the same ids. Patterns that may look arbitrarily far (`.*`) are not trusted. Where
//! no boundary is certain, as in one endless word, texts up to a cap are tokenised whole and longer ones refused.
//! Tested in `tests/cut.rs`: cut against whole on random texts, over every recorded tokenizer.

use std::collections::HashSet;

use tokenizers::{Encoding, ModelWrapper};

use crate::error::{Result, TextError};
use crate::guard::fenced;
use crate::tokenizer::{Tokenizer, gave_up, not_encoded};

/// Texts up to this many bytes are tokenised whole.
const WHOLE: usize = 32 << 10;
/// Bytes of a text that are looked at for every token that is asked for, at first.
const PER_TOKEN: usize = 16;
/// How far a text without a certain boundary is looked at, in bytes (more, where many tokens are asked for).
const FARTHEST: usize = 1 << 20;
/// Changes between kinds of characters that must follow a certain boundary.
const CHANGES: usize = 8;

/// Which characters stand side by side within a token.
#[derive(Debug, Clone)]
pub(crate) struct Adjacent {
    /// Empty where the model may join tokens in other ways than by their text.
    pairs: HashSet<(char, char)>,
    /// Whether the pairs say everything about what the model joins.
    complete: bool,
    /// Bytes of the longest added token.
    longest_added: usize,
    /// Whether no pattern looks arbitrarily far.
    local: bool,
}

impl Adjacent {
    fn of(inner: &tokenizers::Tokenizer) -> Self {
        let plain = |affix: &Option<String>| affix.as_deref().unwrap_or("").is_empty();
        let complete = match inner.get_model() {
            ModelWrapper::BPE(bpe) => {
                plain(&bpe.continuing_subword_prefix) && plain(&bpe.end_of_word_suffix)
            }
            ModelWrapper::Unigram(_) => true,
            ModelWrapper::WordPiece(_) | ModelWrapper::WordLevel(_) => false,
        };
        let mut pairs = HashSet::new();
        if complete {
            for token in inner.get_vocab(false).into_keys() {
                let next = token.chars().skip(1);
                pairs.extend(token.chars().zip(next));
            }
        }
        let added = inner.get_added_tokens_decoder();
        let parts = serde_json::json!([inner.get_normalizer(), inner.get_pre_tokenizer()]);
        let parts = parts.to_string();
        let far = [".*", ".+", "S]*", "S]+", "\\\\z", "\\\\Z", "(?<", "(?s"];
        Adjacent {
            pairs,
            complete,
            longest_added: added
                .values()
                .map(|token| token.content.len())
                .max()
                .unwrap_or(0),
            local: !far.iter().any(|sign| parts.contains(sign)),
        }
    }

    /// Whether the model cannot join what these tokens stand for.
    fn apart(&self, left: &str, right: &str, unknown: Option<&str>) -> bool {
        let byte = |token: &str| token.starts_with("<0x") && token.ends_with('>');
        let known = |token: &str| !byte(token) && unknown != Some(token);
        let (Some(last), Some(first)) = (left.chars().next_back(), right.chars().next()) else {
            return false;
        };
        self.complete && known(left) && known(right) && !self.pairs.contains(&(last, first))
    }
}

impl Tokenizer {
    /// The first `most` ids of the text that the parts make together: those that [`Tokenizer::encode`] gives, all of
    /// them where the text has fewer. Time and memory follow the number of ids, not the length of the text.
    ///
    /// # Errors
    /// [`TextError::NoCut`] for a long text that cannot be cut with certainty, and those of [`Tokenizer::encode`].
    pub fn encode_start(
        &self,
        parts: &[&str],
        add_special_tokens: bool,
        most: usize,
    ) -> Result<Vec<u32>> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut read = WHOLE.max(most.saturating_mul(PER_TOKEN));
        let farthest = FARTHEST.max(read.saturating_mul(4));
        let local = length <= read || self.adjacent().local;
        if !local && length > farthest {
            return Err(no_cut(&start(parts, farthest), most));
        }
        let mut before: Option<Vec<u32>> = None;
        while read < length && local {
            let text = start(parts, read);
            let encoding = self.encoding(&text, add_special_tokens)?;
            let certain = self.certain(&text, &encoding) >= most;
            let ids = encoding.get_ids();
            let same = before
                .as_deref()
                .is_some_and(|before| ids.get(..most) == Some(before));
            if certain && same {
                parts.iter().try_for_each(|part| self.check_text(part))?;
                return Ok(ids[..most].to_vec());
            }
            before = certain.then(|| ids[..most].to_vec());
            if read >= farthest && before.is_none() {
                return Err(no_cut(&text, most));
            }
            read = read.saturating_mul(2);
        }
        let mut ids = self.encode(&parts.concat(), add_special_tokens)?;
        ids.truncate(most);
        Ok(ids)
    }

    fn adjacent(&self) -> &Adjacent {
        self.adjacent.get_or_init(|| Adjacent::of(&self.inner))
    }

    fn encoding(&self, text: &str, add_special_tokens: bool) -> Result<Encoding> {
        match fenced(|| self.inner.encode(text, add_special_tokens)) {
            Ok(Ok(encoding)) => Ok(encoding),
            Ok(Err(error)) => Err(not_encoded(text, error.to_string())),
            Err(panic) => Err(not_encoded(text, gave_up(&panic))),
        }
    }

    /// How many of a text's tokens stay what they are, whatever follows the text.
    fn certain(&self, text: &str, encoding: &Encoding) -> usize {
        let adjacent = self.adjacent();
        let margin = settled(text, adjacent.longest_added);
        if margin == 0 {
            return 0;
        }
        let (words, offsets, ids) = (
            encoding.get_word_ids(),
            encoding.get_offsets(),
            encoding.get_ids(),
        );
        let first = words.iter().position(Option::is_some);
        let mut certain = 0;
        for at in first.map_or(ids.len(), |first| first + 1)..ids.len() {
            let (Some(left), Some(right)) = (words[at - 1], words[at]) else {
                break;
            };
            // What a template repeats starts over.
            if offsets[at].0 > margin || right < left {
                break;
            }
            let apart = right != left || {
                let token = |at: usize| self.inner.id_to_token(ids[at]).unwrap_or_default();
                adjacent.apart(&token(at - 1), &token(at), self.unknown.as_deref())
            };
            if apart {
                certain = at;
            }
        }
        certain
    }
}

fn no_cut(text: &str, most: usize) -> TextError {
    TextError::NoCut {
        excerpt: text.chars().take(40).collect(),
        most,
        read: text.len(),
    }
}

/// The first `bytes` bytes of the parts, up to the end of a character.
fn start(parts: &[&str], bytes: usize) -> String {
    let mut text = String::with_capacity(bytes);
    for part in parts {
        let room = bytes - text.len();
        text.push_str(&part[..boundary(part, room)]);
        if room <= part.len() {
            break;
        }
    }
    text
}

/// The last place at or before `at` where a character ends.
fn boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The end of what is settled in a text that goes on: [`CHANGES`] changes between kinds of characters follow it, and
/// more bytes than the longest added token has. 0 where there is no such place.
fn settled(text: &str, longest_added: usize) -> usize {
    let end = boundary(text, text.len().saturating_sub(longest_added));
    let mut changes = 0;
    let mut next = None;
    for (at, c) in text[..end].char_indices().rev() {
        let kind = Some(kind(c));
        if next.is_some() && next != kind {
            changes += 1;
        }
        if changes > CHANGES {
            return at;
        }
        next = kind;
    }
    0
}

/// Letters, digits, spaces, signs: what the patterns of pre-tokenizers tell apart.
fn kind(c: char) -> u8 {
    match c {
        c if c.is_whitespace() => 0,
        c if c.is_alphabetic() => 1,
        c if c.is_numeric() => 2,
        _ => 3,
    }
}
