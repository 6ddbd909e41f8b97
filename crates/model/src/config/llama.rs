//! `config.json` of the Llama family (Touvron et al. 2023, arXiv:2302.13971), as
//! `transformers.LlamaConfig` writes it: Llama 2 and 3, SmolLM2, TinyLlama.
//!
//! Mistral, Qwen2 and Qwen3 are Llama with a few parts exchanged; their files (`mistral.rs`,
//! `qwen2.rs`, `qwen3.rs`) say which, as a [`Variant`], and share this reader.

use serde_json::{Map, Value};

use super::dropout::Dropout;
use super::keys::Keys;
use super::rope::RopeConfig;
use super::{
    MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH, check_parameters, initializer_range,
};
use crate::error::ModelError;

/// Checked settings of a Llama model, or of a family of its build (Mistral, Qwen2, Qwen3).
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Number of token ids (rows of `embed_tokens`).
    pub vocab_size: usize,
    /// Model width.
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
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has one.
    pub output_bias: bool,
    /// Whether each head of queries and keys passes through an RMS norm before it turns (Qwen3).
    pub head_norms: bool,
    /// How many positions, its own included, a token sees in each layer; `None`: all before it.
    pub windows: Vec<Option<usize>>,
    /// Whether the three feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Whether the output head is the token embedding.
    pub tie_word_embeddings: bool,
    /// What training drops.
    pub dropout: Dropout,
    /// The token whose embedding a look-up does not train (`pad_token_id`, PyTorch's `padding_idx`).
    pub padding_row: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// The whole configuration as read.
    pub raw: Map<String, Value>,
}

/// What a family of Llama's build has of its own: defaults of `transformers`, and parts.
pub(super) struct Variant {
    /// `max_position_embeddings` where absent.
    pub(super) positions: usize,
    /// `num_key_value_heads` where absent: this, or the number of query heads.
    pub(super) kv_heads: Option<usize>,
    /// `head_dim` where absent: this, or width / heads.
    pub(super) head_dim: Option<usize>,
    /// Whether the width must be a multiple of the number of heads even when `head_dim` is given.
    pub(super) even_heads: bool,
    /// `eos_token_id` where absent.
    pub(super) eos: Option<u32>,
    pub(super) qkv_bias: bool,
    pub(super) output_bias: bool,
    pub(super) mlp_bias: bool,
    pub(super) head_norms: bool,
    /// One entry a layer.
    pub(super) windows: Vec<Option<usize>>,
}

impl LlamaConfig {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// [`ModelError`] naming `origin` and the key that is missing, out of range or unsupported.
    pub fn from_map(raw: Map<String, Value>, origin: &str) -> Result<Self, ModelError> {
        let keys = Keys { map: &raw, origin };
        let attention_bias = keys.flag_or("attention_bias", false)?;
        let variant = Variant {
            positions: 2048,
            kv_heads: None,
            head_dim: None,
            even_heads: true,
            eos: Some(2),
            qkv_bias: attention_bias,
            output_bias: attention_bias,
            mlp_bias: keys.flag_or("mlp_bias", false)?,
            head_norms: false,
            windows: vec![None; keys.size("num_hidden_layers", MAX_LAYERS)?],
        };
        variant.read(raw, origin)
    }

    /// The standard deviation of fresh weights.
    pub(crate) fn initializer_range(&self) -> f64 {
        initializer_range(&self.raw)
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
        let when = |has: bool, count: u128| if has { count } else { 0 };
        let attention = (2 * h + 2 * k) * d * c
            + when(self.qkv_bias, (h + 2 * k) * d)
            + when(self.output_bias, c)
            + when(self.head_norms, 2 * d);
        let mlp = 3 * c * f + when(self.mlp_bias, 2 * f + c);
        v * c * heads + l * (attention + mlp + 2 * c) + c
    }
}

impl Variant {
    /// Reads the settings that the families share.
    pub(super) fn read(
        self,
        raw: Map<String, Value>,
        origin: &str,
    ) -> Result<LlamaConfig, ModelError> {
        let keys = Keys { map: &raw, origin };
        let activation = keys.text("hidden_act")?.unwrap_or("silu");
        if activation != "silu" {
            return Err(keys.unsupported("hidden_act", format!("{activation:?}"), "silu"));
        }
        let hidden_size = keys.size("hidden_size", MAX_WIDTH)?;
        let defaults = HeadDefaults {
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            even: self.even_heads,
        };
        let (num_attention_heads, num_key_value_heads, head_dim) =
            read_heads(&keys, hidden_size, defaults)?;
        let max_position_embeddings = keys
            .optional_size("max_position_embeddings", MAX_POSITIONS)?
            .unwrap_or(self.positions);
        let config = LlamaConfig {
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
            qkv_bias: self.qkv_bias,
            output_bias: self.output_bias,
            mlp_bias: self.mlp_bias,
            head_norms: self.head_norms,
            windows: self.windows,
            tie_word_embeddings: keys.flag_or("tie_word_embeddings", false)?,
            dropout: Dropout::of_attention(&keys)?,
            padding_row: keys.padding_row(keys.size("vocab_size", MAX_VOCAB)?, None)?,
            eos_token_ids: keys.eos_token_ids(self.eos)?,
            raw: Map::new(),
        };
        check_parameters(config.parameter_count(), origin)?;
        Ok(LlamaConfig { raw, ..config })
    }
}

/// What `read_heads` takes where keys are absent.
pub(super) struct HeadDefaults {
    /// Key/value heads; `None`: as many as query heads.
    pub(super) kv_heads: Option<usize>,
    /// Width of a head; `None`: width / heads.
    pub(super) head_dim: Option<usize>,
    /// Whether heads must divide the width even when `head_dim` is given.
    pub(super) even: bool,
}

/// Query heads, key/value heads and head width, checked against each other.
pub(super) fn read_heads(
    keys: &Keys<'_>,
    hidden_size: usize,
    defaults: HeadDefaults,
) -> Result<(usize, usize, usize), ModelError> {
    let heads = keys.size("num_attention_heads", MAX_HEADS)?;
    let given = keys
        .optional_size("head_dim", MAX_WIDTH)?
        .or(defaults.head_dim);
    if (defaults.even || given.is_none()) && !hidden_size.is_multiple_of(heads) {
        let expected = format!("a divisor of hidden_size ({hidden_size})");
        return Err(keys.bad("num_attention_heads", heads, &expected));
    }
    let kv_heads = keys
        .optional_size("num_key_value_heads", MAX_HEADS)?
        .or(defaults.kv_heads)
        .unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        let expected = format!("a divisor of num_attention_heads ({heads})");
        return Err(keys.bad("num_key_value_heads", kv_heads, &expected));
    }
    let head_dim = given.unwrap_or(hidden_size / heads);
    if !head_dim.is_multiple_of(2) {
        let expected = "an even number: rotary embedding turns pairs of dimensions";
        return Err(keys.bad("head_dim", head_dim, expected));
    }
    Ok((heads, kv_heads, head_dim))
}
