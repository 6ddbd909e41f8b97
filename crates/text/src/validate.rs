//! Checks on `tokenizer.json` before the `tokenizers` crate sees it.
//!
//! The crate trusts what it reads: a wrong reference or size ends in a panic, in text that is not UTF-8, or in an
//! allocation of gigabytes. Panics are fenced (`guard.rs`); what a fence cannot catch, and what deserves a better
//! message than a panic's, is refused here. The caps are many times what published files have: normalizers of up to
//! ten steps, replacements of a few bytes, templates of up to six pieces.
//! Tested in `tests/bad_tokenizer.rs`.

use serde_json::Value;

/// Steps of a normalizer, pre-tokenizer, decoder or post-processor, nested ones counted.
const MAX_STEPS: usize = 64;
/// Levels of sequences within sequences.
const MAX_DEPTH: usize = 8;
/// Bytes of a replacement, a prefix or a template's token.
const MAX_TEXT: usize = 256;
/// Times that the steps together may lengthen a text.
const MAX_GROWTH: usize = 256;
/// Pieces of a template.
const MAX_PIECES: usize = 64;
/// Bytes of a regular expression.
const MAX_PATTERN: usize = 1 << 16;
/// Product of a pattern's counted repetitions.
const MAX_REPETITIONS: usize = 1 << 20;
/// A token's id; ids count from 0 and are taken for sizes.
const MAX_ID: u64 = 1 << 30;
/// Bytes that one entry of a SentencePiece character map may grow to.
const MAX_ENTRY: usize = 1024;

/// The first thing wrong with a description, as `where: what`.
pub(crate) fn validate(json: &Value) -> Result<(), String> {
    let mut normalizer = Walk::new("normalizer");
    normalizer.steps(&json["normalizer"], "normalizers", 0)?;
    Walk::new("pre_tokenizer").steps(&json["pre_tokenizer"], "pretokenizers", 0)?;
    Walk::new("decoder").steps(&json["decoder"], "decoders", 0)?;
    Walk::new("post_processor").steps(&json["post_processor"], "processors", 0)?;
    model(&json["model"])?;
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        if token["id"].as_u64().is_some_and(|id| id >= MAX_ID) {
            return Err(format!("added_tokens: the id of {token} is too large"));
        }
    }
    Ok(())
}

/// A walk over the steps of one part.
struct Walk {
    part: &'static str,
    steps: usize,
    growth: usize,
}

impl Walk {
    fn new(part: &'static str) -> Self {
        Walk {
            part,
            steps: 0,
            growth: 1,
        }
    }

    fn fault(&self, reason: impl std::fmt::Display) -> String {
        format!("{}: {reason}", self.part)
    }

    /// A step, or a sequence of them under `list`.
    fn steps(&mut self, step: &Value, list: &str, depth: usize) -> Result<(), String> {
        if step.is_null() {
            return Ok(());
        }
        self.steps += 1;
        if self.steps > MAX_STEPS || depth > MAX_DEPTH {
            return Err(self.fault(format!(
                "more than {MAX_STEPS} steps, or sequences nested deeper than {MAX_DEPTH}"
            )));
        }
        // Old files leave the type out: a list makes a sequence.
        if let Some(Value::Array(steps)) = step.get(list) {
            return steps
                .iter()
                .try_for_each(|step| self.steps(step, list, depth + 1));
        }
        self.step(step)
    }

    fn step(&mut self, step: &Value) -> Result<(), String> {
        self.pattern(step)?;
        if let Some(content) = step["content"].as_str().or(step["prepend"].as_str())
            && content.len() > MAX_TEXT
        {
            return Err(self.fault(format!(
                "a text of {} bytes is inserted, more than {MAX_TEXT}",
                content.len()
            )));
        }
        match step["type"].as_str() {
            Some("Replace") => {
                let shortest = step["pattern"]["String"].as_str().map_or(1, str::len);
                let content = step["content"].as_str().map_or(0, str::len);
                self.growth = self
                    .growth
                    .saturating_mul(content.div_ceil(shortest.max(1)).max(1));
                if self.growth > MAX_GROWTH {
                    return Err(self.fault(format!(
                        "replacements lengthen a text more than {MAX_GROWTH} times"
                    )));
                }
            }
            Some("Prepend") if step["prepend"] == "" => {
                return Err(self.fault("Prepend: `prepend` is empty"));
            }
            Some("Precompiled") => {
                let map = step["precompiled_charsmap"].as_str();
                character_map(map).map_err(|reason| self.fault(reason))?;
            }
            Some("FixedLength") if step["length"] == 0 => {
                return Err(self.fault("FixedLength: `length` is 0"));
            }
            Some("TemplateProcessing") => template(step).map_err(|reason| self.fault(reason))?,
            _ => {}
        }
        Ok(())
    }

    /// A pattern may not be empty, nor written out without bound.
    fn pattern(&self, step: &Value) -> Result<(), String> {
        let pattern = &step["pattern"];
        let literal = pattern.as_str().or(pattern["String"].as_str());
        let Some(text) = literal.or(pattern["Regex"].as_str()) else {
            return Ok(());
        };
        if text.is_empty() {
            return Err(self.fault("an empty pattern"));
        }
        if text.len() > MAX_PATTERN {
            return Err(self.fault(format!("a pattern of more than {MAX_PATTERN} bytes")));
        }
        if literal.is_none() && repetitions(text) > MAX_REPETITIONS {
            return Err(self.fault(format!("the pattern {text:?} repeats without bound")));
        }
        Ok(())
    }
}

/// How often a pattern's counted repetitions, `{3}` or `{1,3}`, multiply to at most: each is written out when the
/// pattern is compiled, and nested ones multiply.
fn repetitions(pattern: &str) -> usize {
    let counts = pattern.split('{').skip(1).filter_map(|rest| {
        let inside = rest.split_once('}')?.0;
        let counts = inside
            .split(',')
            .filter_map(|count| count.trim().parse().ok());
        counts.max()
    });
    counts.fold(1, |product: usize, count: usize| {
        product.saturating_mul(count.max(1))
    })
}

/// SentencePiece's map: the length of a trie in bytes, the trie, and replacements that end with a zero byte.
fn character_map(map: Option<&str>) -> Result<(), String> {
    let damaged = |why: &str| Err(format!("Precompiled: `precompiled_charsmap` {why}"));
    let Some(map) = map else {
        return damaged("is no string");
    };
    let Some(bytes) = base64(map) else {
        return damaged("is not base64");
    };
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return damaged("has no length");
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length < 4 || !length.is_multiple_of(4) || length > rest.len() {
        return damaged("is shorter than it says");
    }
    let longest = rest[length..].split(|byte| *byte == 0).map(<[u8]>::len);
    if longest.max().unwrap_or(0) > MAX_ENTRY {
        return damaged("has an entry without an end");
    }
    Ok(())
}

/// Standard base64 with its padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 3);
    for group in text.chunks(4) {
        let mut bits = 0u32;
        for &letter in group {
            let value = match letter {
                b'A'..=b'Z' => letter - b'A',
                b'a'..=b'z' => letter - b'a' + 26,
                b'0'..=b'9' => letter - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        match group.len() {
            4 => bytes.extend_from_slice(&bits.to_be_bytes()[1..]),
            3 => bytes.extend_from_slice(&(bits >> 2).to_be_bytes()[2..]),
            2 => bytes.push((bits >> 4).to_be_bytes()[3]),
            _ => return None,
        }
    }
    Some(bytes)
}

/// A template may refer to the tokens it declares, and a single text is its sequence A.
fn template(step: &Value) -> Result<(), String> {
    let tokens = &step["special_tokens"];
    for half in ["single", "pair"] {
        let pieces = step[half].as_array().map_or(&[][..], Vec::as_slice);
        if pieces.len() > MAX_PIECES {
            return Err(format!("TemplateProcessing: more than {MAX_PIECES} pieces"));
        }
        for piece in pieces {
            let token = piece["SpecialToken"]["id"].as_str();
            if let Some(token) = token.filter(|token| tokens.get(token).is_none()) {
                return Err(format!(
                    "TemplateProcessing: `{half}` uses {token:?}, which `special_tokens` does not have"
                ));
            }
            if half == "single" && piece["Sequence"]["id"] == "B" {
                return Err(
                    "TemplateProcessing: `single` uses sequence B; a single text is sequence A"
                        .to_owned(),
                );
            }
        }
    }
    for (name, token) in tokens.as_object().into_iter().flatten() {
        let (ids, texts) = (&token["ids"], &token["tokens"]);
        let len = |list: &Value| list.as_array().map_or(0, Vec::len);
        if len(ids) != len(texts) || len(ids) > MAX_TEXT {
            return Err(format!(
                "TemplateProcessing: token {name:?} has {} ids and {} texts",
                len(ids),
                len(texts)
            ));
        }
    }
    Ok(())
}

/// Ids in bounds, merges that the prefix of continued words fits.
fn model(model: &Value) -> Result<(), String> {
    if let Some(vocab) = model["vocab"].as_object() {
        for (token, id) in vocab {
            if id.as_u64().is_none_or(|id| id >= MAX_ID) {
                return Err(format!("model.vocab: {token:?} has the id {id}"));
            }
        }
    }
    let prefix = model["continuing_subword_prefix"]
        .as_str()
        .unwrap_or_default();
    if prefix.len() > MAX_TEXT {
        return Err("model.continuing_subword_prefix: too long".to_owned());
    }
    if prefix.is_empty() {
        return Ok(());
    }
    for (at, merge) in model["merges"].as_array().into_iter().flatten().enumerate() {
        let right = match merge {
            Value::String(both) => both.split_once(' ').map(|(_, right)| right),
            pair => pair[1].as_str(),
        };
        if right.is_some_and(|right| !right.starts_with(prefix)) {
            return Err(format!(
                "model.merges[{at}] is {merge}: its second token does not begin with \
                 `continuing_subword_prefix`, {prefix:?}"
            ));
        }
    }
    Ok(())
}
