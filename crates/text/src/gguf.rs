//! A GGUF file's vocabulary as a `tokenizer.json`.
//!
//! GGUF stores the tokens, their types, merges or scores and the *name* of the pre-tokenizer, of which only llama.cpp
//! knows the rules; the rules of the families supported here are written out below. `gpt2` is byte-level BPE with
//! merges. `llama` is SentencePiece's BPE: it has scores instead of merges, and always joins the adjacent pair whose
//! union scores highest; ranking every split of every piece by the piece's score gives the same joins.
//! Left out: `bert`, `t5`, `rwkv` vocabularies, which no supported model family uses.
//! Tested in `tests/gguf.rs` against a plain implementation of SentencePiece's rule.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::error::{Result, TextError};
use crate::source::{added_token, byte_level, byte_level_bpe, surround};

/// The tokenizer metadata of a GGUF file (`tokenizer.ggml.*`). Build it with `..Default::default()`.
#[derive(Debug, Clone, Default)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`: `gpt2` or `llama`.
    pub model: String,
    /// `tokenizer.ggml.pre`: the name of the pre-tokenizer (`gpt2` models).
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`: the text of every id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`: higher is joined first (`llama` models).
    pub scores: Option<Vec<f32>>,
    /// `tokenizer.ggml.token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Option<Vec<i32>>,
    /// `tokenizer.ggml.merges`: two tokens with a space between (`gpt2` models).
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`; by default true for `llama` and Llama 3, false for the rest.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix` (`llama` models); by default true.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// How a named pre-tokenizer cuts text before merging.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    Gpt2,
    SingleDigitsThenGpt2,
    Llama3,
    Qwen2,
}

/// The names that llama.cpp's converter writes, by rule.
const CUTS: [(Cut, &[&str]); 4] = [
    (
        Cut::Gpt2,
        &[
            "gpt-2", "gpt2", "default", "phi-2", "mpt", "olmo", "jina-en", "jina-es", "jina-de",
        ],
    ),
    (
        Cut::SingleDigitsThenGpt2,
        &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
        ],
    ),
    (
        Cut::Llama3,
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "smaug-bpe",
            "dbrx",
        ],
    ),
    (
        Cut::Qwen2,
        &["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"],
    ),
];

/// Llama 3's pattern, with its limit on how many digits stand together filled in.
fn split_pattern(digits: &str) -> String {
    format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}

impl GgufVocabulary {
    /// The equivalent `tokenizer.json` and `tokenizer_config.json`.
    pub(crate) fn describe(&self) -> Result<(Value, Value)> {
        let fault = |reason: String| Err(TextError::GgufVocabulary { reason });
        let count = self.tokens.len();
        if count == 0 {
            return fault("it has no tokens".to_owned());
        }
        for (key, len) in [
            ("scores", self.scores.as_ref().map(Vec::len)),
            ("token_type", self.token_types.as_ref().map(Vec::len)),
        ] {
            if let Some(len) = len.filter(|&len| len != count) {
                return fault(format!(
                    "tokenizer.ggml.{key} has {len} entries for {count} tokens"
                ));
            }
        }
        for (name, id) in [("bos", self.bos), ("eos", self.eos), ("padding", self.pad)] {
            if let Some(id) = id.filter(|&id| id as usize >= count) {
                return fault(format!(
                    "tokenizer.ggml.{name}_token_id is {id}, there are {count} tokens"
                ));
            }
        }
        let (mut json, add_bos) = match self.model.as_str() {
            "gpt2" => self.describe_byte_level()?,
            "llama" => (self.describe_sentence_piece()?, true),
            other => {
                return Err(TextError::GgufUnsupported {
                    key: "tokenizer.ggml.model",
                    got: other.to_owned(),
                    supported: "gpt2 and llama".to_owned(),
                });
            }
        };
        if self.add_bos.unwrap_or(add_bos) {
            let bos = self.bos.map(|id| (self.tokens[id as usize].as_str(), id));
            json["post_processor"] = surround(bos, None);
        }
        Ok((json, self.config()))
    }

    fn config(&self) -> Value {
        let mut config = json!({"tokenizer_class": "PreTrainedTokenizerFast"});
        for (name, id) in [
            ("bos_token", self.bos),
            ("eos_token", self.eos),
            ("pad_token", self.pad),
        ] {
            if let Some(id) = id {
                config[name] = json!(self.tokens[id as usize]);
            }
        }
        config
    }

    /// The id of every token; of equal tokens the first keeps the text.
    fn vocab(&self) -> Map<String, Value> {
        let mut vocab = Map::with_capacity(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            vocab.entry(token.clone()).or_insert_with(|| json!(id));
        }
        vocab
    }

    fn added_tokens(&self) -> Vec<Value> {
        let types = self.token_types.as_deref().unwrap_or_default();
        let added = self.tokens.iter().zip(types).enumerate();
        added
            .filter(|(_, (token, kind))| {
                matches!(**kind, CONTROL | USER_DEFINED) && !token.is_empty()
            })
            .map(|(id, (token, kind))| added_token(id as u64, token, *kind == CONTROL))
            .collect()
    }

    fn describe_byte_level(&self) -> Result<(Value, bool)> {
        let name = self.pre.as_deref().unwrap_or("default");
        let Some(cut) = CUTS
            .iter()
            .find(|(_, names)| names.contains(&name))
            .map(|(cut, _)| *cut)
        else {
            let names: Vec<&str> = CUTS
                .iter()
                .flat_map(|(_, names)| names.iter().copied())
                .collect();
            return Err(TextError::GgufUnsupported {
                key: "tokenizer.ggml.pre",
                got: name.to_owned(),
                supported: names.join(", "),
            });
        };
        let mut merges = Vec::with_capacity(self.merges.len());
        for (at, merge) in self.merges.iter().enumerate() {
            // The first character may itself be a space in odd vocabularies: look for the one behind it.
            let first = merge.chars().next().map_or(0, char::len_utf8);
            match merge[first..].find(' ') {
                Some(gap) => merges.push(json!([merge[..first + gap], merge[first + gap + 1..]])),
                None => {
                    return Err(TextError::GgufVocabulary {
                        reason: format!(
                            "tokenizer.ggml.merges[{at}] is {merge:?}, not two tokens with a space between"
                        ),
                    });
                }
            }
        }
        let split = |digits: &str| {
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": split_pattern(digits)}, "behavior": "Isolated", "invert": false},
                byte_level(false)]})
        };
        let (pre_tokenizer, normalizer) = match cut {
            Cut::Gpt2 => (byte_level(true), Value::Null),
            Cut::SingleDigitsThenGpt2 => (
                json!({"type": "Sequence",
                       "pretokenizers": [{"type": "Digits", "individual_digits": true}, byte_level(true)]}),
                Value::Null,
            ),
            Cut::Llama3 => (split("{1,3}"), Value::Null),
            Cut::Qwen2 => (split(""), json!({"type": "NFC"})),
        };
        // Llama 3 takes a whole word from the vocabulary even when no chain of merges leads to it.
        let whole_words = cut == Cut::Llama3;
        let json = byte_level_bpe(
            Value::Object(self.vocab()),
            Value::Array(merges),
            self.added_tokens(),
            pre_tokenizer,
            normalizer,
            whole_words,
        );
        Ok((json, whole_words))
    }

    fn describe_sentence_piece(&self) -> Result<Value> {
        let Some(scores) = &self.scores else {
            return Err(TextError::GgufVocabulary {
                reason: "a `llama` vocabulary needs tokenizer.ggml.scores".to_owned(),
            });
        };
        let unknown = self
            .token_types
            .as_ref()
            .and_then(|types| types.iter().position(|&kind| kind == 2));
        let unknown = unknown.map(|id| &self.tokens[id]);
        let bytes_covered = self.tokens.iter().any(|token| token == "<0x00>");
        let space_prefix = self.add_space_prefix.unwrap_or(true);
        let mut normalizers =
            vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if space_prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": self.added_tokens(),
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": bytes_covered,
                      "ignore_merges": false, "vocab": self.vocab(), "merges": self.merges_from_scores(scores)},
        }))
    }

    /// Every split of every ordinary piece into two pieces, best score first.
    fn merges_from_scores(&self, scores: &[f32]) -> Vec<[&str; 2]> {
        let ordinary = |id: usize| self.token_types.as_ref().is_none_or(|types| types[id] == 1);
        let ids: HashMap<&str, usize> = self
            .tokens
            .iter()
            .enumerate()
            .filter(|(id, token)| ordinary(*id) && !token.is_empty())
            .map(|(id, token)| (token.as_str(), id))
            .collect();
        let mut ranked = Vec::new();
        for (&piece, &id) in &ids {
            for (cut, _) in piece.char_indices().skip(1) {
                let (left, right) = piece.split_at(cut);
                if let (Some(&left_id), Some(&right_id)) = (ids.get(left), ids.get(right)) {
                    ranked.push((scores[id], id, left_id, right_id, [left, right]));
                }
            }
        }
        ranked.sort_by(|a, b| {
            b.0.total_cmp(&a.0)
                .then_with(|| (a.1, a.2, a.3).cmp(&(b.1, b.2, b.3)))
        });
        ranked.into_iter().map(|(.., pair)| pair).collect()
    }
}
