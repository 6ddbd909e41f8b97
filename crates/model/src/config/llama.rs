//! `config.json` of the Llama family (Touvron et al. 2023, arXiv:2302.13971), as
//! `transformers.LlamaConfig` writes it: Llama 2 and 3, SmolLM2, TinyLlama.

use serde_json::{Map, Value};

use super::keys::Keys;
use super::rope::RopeConfig;
use super::{MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH, check_parameters};
use crate::error::ModelError;

/// Checked settings of a Llama model.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Number of token ids (rows of `embed_tokens`).
    pub vocab_size: usize,
    /// Model width; a multiple of `num_attention_heads`.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head, even.
    pub head_dim: usize,
    /// Longest sequence, tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square in RMS norms.
    pub rms_norm_eps: f64,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// Whether the four attention projections have biases.
    pub attention_bias: bool,
    /// Whether the three feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Whether the output head is the token embedding.
    pub tie_word_embeddings: bool,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// The whole configuration as read.
    pub raw: Map<String, Value>,
}

impl LlamaConfig {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// [`ModelError`] naming `origin` and the key that is missing, out of range or unsupported.
    pub fn from_map(raw: Map<String, Value>, origin: &str) -> Result<Self, ModelError> {
        let keys = Keys { map: &raw, origin };
        let activation = keys.text("hidden_act")?.unwrap_or("silu");
        if activation != "silu" {
            return Err(keys.unsupported("hidden_act", format!("{activation:?}"), "silu"));
        }
        let hidden_size = keys.size("hidden_size", MAX_WIDTH)?;
        let (num_attention_heads, num_key_value_heads, head_dim) = read_heads(&keys, hidden_size)?;
        let max_position_embeddings = keys
            .optional_size("max_position_embeddings", MAX_POSITIONS)?
            .unwrap_or(2048);
        let config = Self {
            vocab_size: keys.size("vocab_size", MAX_VOCAB)?,
            hidden_size,
            intermediate_size: keys.size("intermediate_size", MAX_WIDTH)?,
            num_hidden_layers: keys.size("num_hidden_layers", MAX_LAYERS)?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings,
            rms_norm_eps: keys.optional_positive("rms_norm_eps")?.unwrap_or(1e-6),
            rope: RopeConfig::read(&keys, max_position_embeddings)?,
            attention_bias: keys.flag_or("attention_bias", false)?,
            mlp_bias: keys.flag_or("mlp_bias", false)?,
            tie_word_embeddings: keys.flag_or("tie_word_embeddings", false)?,
            eos_token_ids: keys.eos_token_ids(2)?,
            raw: Map::new(),
        };
        check_parameters(config.parameter_count(), origin)?;
        Ok(Self { raw, ..config })
    }

    pub(super) fn parameter_count(&self) -> u128 {
        let [v, c, f, l, h, k, d] = [
            self.vocab_size,
            self.hidden_size,
            self.intermediate_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.num_key_value_heads,
            self.head_dim,
        ]
        .map(|n| n as u128);
        let heads = if self.tie_word_embeddings { 1 } else { 2 };
        let attention_bias = if self.attention_bias {
            (h + 2 * k) * d + c
        } else {
            0
        };
        let mlp_bias = if self.mlp_bias { 2 * f + c } else { 0 };
        let attention = (2 * h + 2 * k) * d * c + attention_bias;
        v * c * heads + l * (attention + 3 * c * f + mlp_bias + 2 * c) + c
    }
}

/// Query heads, key/value heads and head width, checked against each other.
fn read_heads(keys: &Keys<'_>, hidden_size: usize) -> Result<(usize, usize, usize), ModelError> {
    let heads = keys.size("num_attention_heads", MAX_HEADS)?;
    if !hidden_size.is_multiple_of(heads) {
        let expected = format!("a divisor of hidden_size ({hidden_size})");
        return Err(keys.bad("num_attention_heads", heads, &expected));
    }
    let kv_heads = keys
        .optional_size("num_key_value_heads", MAX_HEADS)?
        .unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        let expected = format!("a divisor of num_attention_heads ({heads})");
        return Err(keys.bad("num_key_value_heads", kv_heads, &expected));
    }
    let head_dim = keys
        .optional_size("head_dim", MAX_WIDTH)?
        .unwrap_or(hidden_size / heads);
    if !head_dim.is_multiple_of(2) {
        let expected = "an even number: rotary embedding turns pairs of dimensions";
        return Err(keys.bad("head_dim", head_dim, expected));
    }
    Ok((heads, kv_heads, head_dim))
}
