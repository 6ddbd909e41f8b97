//! Tokenizer metadata of a GGUF file, as it stands there.

use super::meta::Meta;
use crate::error::ModelError;

/// The `tokenizer.*` keys of a GGUF file. What they mean is the business of whoever builds a
/// tokenizer from them.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTokenizer {
    /// Kind of tokenizer (`tokenizer.ggml.model`): "gpt2" is byte-level BPE, "llama" SentencePiece.
    pub model: Option<String>,
    /// Name of the pre-tokenizer (`tokenizer.ggml.pre`).
    pub pre: Option<String>,
    /// Text of each token, by id.
    pub tokens: Vec<String>,
    /// Score of each token (SentencePiece).
    pub scores: Option<Vec<f32>>,
    /// Type of each token: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Option<Vec<i32>>,
    /// BPE merges in order of rank, two parts with a space between.
    pub merges: Option<Vec<String>>,
    /// Id of the beginning-of-sequence token.
    pub bos: Option<u32>,
    /// Id of the end-of-sequence token.
    pub eos: Option<u32>,
    /// Id of the padding token.
    pub pad: Option<u32>,
    /// Id of the token for unknown text.
    pub unk: Option<u32>,
    /// Whether encoding puts the beginning-of-sequence token first.
    pub add_bos: Option<bool>,
    /// Whether encoding puts the end-of-sequence token last.
    pub add_eos: Option<bool>,
    /// Whether encoding puts a space first (SentencePiece).
    pub add_space_prefix: Option<bool>,
    /// Jinja template that turns a conversation into text.
    pub chat_template: Option<String>,
}

/// Reads the keys; `None` where the file has no tokens.
pub(super) fn read(meta: &Meta<'_>) -> Result<Option<GgufTokenizer>, ModelError> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    let Some(tokens) = meta.strings(TOKENS)? else {
        return Ok(None);
    };
    let owned = |text: &str| text.to_owned();
    let tokenizer = GgufTokenizer {
        model: meta.optional_text("tokenizer.ggml.model")?.map(owned),
        pre: meta.optional_text("tokenizer.ggml.pre")?.map(owned),
        scores: meta.floats("tokenizer.ggml.scores")?,
        token_types: meta.integers("tokenizer.ggml.token_type")?,
        merges: meta.strings("tokenizer.ggml.merges")?,
        bos: special_id(meta, "tokenizer.ggml.bos_token_id")?,
        eos: special_id(meta, "tokenizer.ggml.eos_token_id")?,
        pad: special_id(meta, "tokenizer.ggml.padding_token_id")?,
        unk: special_id(meta, "tokenizer.ggml.unknown_token_id")?,
        add_bos: meta.optional_bool("tokenizer.ggml.add_bos_token")?,
        add_eos: meta.optional_bool("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: meta.optional_bool("tokenizer.ggml.add_space_prefix")?,
        chat_template: meta.optional_text("tokenizer.chat_template")?.map(owned),
        tokens,
    };
    let count = tokenizer.tokens.len();
    for (key, length) in [
        (
            "tokenizer.ggml.scores",
            tokenizer.scores.as_ref().map(Vec::len),
        ),
        (
            "tokenizer.ggml.token_type",
            tokenizer.token_types.as_ref().map(Vec::len),
        ),
    ] {
        if let Some(length) = length.filter(|length| *length != count) {
            return Err(meta.invalid(format!("{key} has {length} entries for {count} tokens")));
        }
    }
    for (key, id) in [
        ("tokenizer.ggml.bos_token_id", tokenizer.bos),
        ("tokenizer.ggml.eos_token_id", tokenizer.eos),
        ("tokenizer.ggml.padding_token_id", tokenizer.pad),
        ("tokenizer.ggml.unknown_token_id", tokenizer.unk),
    ] {
        if let Some(id) = id.filter(|id| *id as usize >= count) {
            return Err(meta.invalid(format!("{key} is {id}, the vocabulary has {count} tokens")));
        }
    }
    Ok(Some(tokenizer))
}

/// A token id; `u32::MAX`, which llama.cpp's tools write for "none" (−1), counts as absent.
pub(super) fn special_id(meta: &Meta<'_>, key: &str) -> Result<Option<u32>, ModelError> {
    let id = meta
        .optional_size(key)?
        .and_then(|id| u32::try_from(id).ok());
    Ok(id.filter(|id| *id != u32::MAX))
}
