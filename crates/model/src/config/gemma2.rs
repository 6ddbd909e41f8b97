//! `config.json` of Gemma 2 (Riviere et al. 2024, arXiv:2408.00118), as
//! `transformers.Gemma2Config` writes it.
//!
//! `hidden_activation` counts; `hidden_act`, which the first published files also hold, does not, as
//! in transformers. Every second layer, the first included, sees the last `sliding_window`
//! positions only, unless `layer_types` says otherwise.

use serde_json::{Map, Value};

use super::dropout::Dropout;
use super::gpt2::{Activation, read_activation};
use super::keys::Keys;
use super::llama::{HeadDefaults, read_heads};
use super::rope::RopeConfig;
use super::window::read_layer_types;
use super::{MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH, check_parameters, initializer_range};
use crate::error::ModelError;

/// Checked settings of a Gemma 2 model.
#[derive(Debug, Clone, PartialEq)]
pub struct Gemma2Config {
    /// Number of token ids (rows of `embed_tokens`).
    pub vocab_size: usize,
    /// Model width; the embedding is multiplied by its root.
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
    /// Activation of the feed-forward layer's gate.
    pub activation: Activation,
    /// Scores are multiplied by this to the power −½.
    pub query_pre_attn_scalar: f64,
    /// Scores become c·tanh(score / c).
    pub attn_logit_softcapping: Option<f64>,
    /// Logits become c·tanh(logit / c).
    pub final_logit_softcapping: Option<f64>,
    /// How many positions, its own included, a token sees in each layer; `None`: all before it.
    pub windows: Vec<Option<usize>>,
    /// Whether the four attention projections have biases.
    pub attention_bias: bool,
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

impl Gemma2Config {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// [`ModelError`] naming `origin` and the key that is missing, out of range or unsupported.
    pub fn from_map(raw: Map<String, Value>, origin: &str) -> Result<Self, ModelError> {
        let keys = Keys { map: &raw, origin };
        if keys.flag_or("use_bidirectional_attention", false)? {
            return Err(keys.unsupported("use_bidirectional_attention", true, "false"));
        }
        let hidden_size = keys.size("hidden_size", MAX_WIDTH)?;
        let defaults = HeadDefaults {
            kv_heads: (!raw.contains_key("num_key_value_heads")).then_some(4),
            head_dim: Some(256),
            even: true,
        };
        let (num_attention_heads, num_key_value_heads, head_dim) =
            read_heads(&keys, hidden_size, defaults)?;
        let max_position_embeddings = keys
            .optional_size("max_position_embeddings", MAX_POSITIONS)?
            .unwrap_or(8192);
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
            activation: read_activation(&keys, "hidden_activation", Activation::GeluTanh)?,
            query_pre_attn_scalar: keys
                .optional_positive("query_pre_attn_scalar")?
                .unwrap_or(256.0),
            attn_logit_softcapping: read_cap(&keys, "attn_logit_softcapping", 50.0)?,
            final_logit_softcapping: read_cap(&keys, "final_logit_softcapping", 30.0)?,
            windows: read_windows(&keys)?,
            attention_bias: keys.flag_or("attention_bias", false)?,
            tie_word_embeddings: keys.flag_or("tie_word_embeddings", true)?,
            dropout: Dropout::of_attention(&keys)?,
            padding_row: keys.padding_row(keys.size("vocab_size", MAX_VOCAB)?, Some(0))?,
            eos_token_ids: keys.eos_token_ids(Some(1))?,
            raw: Map::new(),
        };
        check_parameters(config.parameter_count(), origin)?;
        Ok(Self { raw, ..config })
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
        let biases = if self.attention_bias {
            (h + 2 * k) * d + c
        } else {
            0
        };
        let attention = (2 * h + 2 * k) * d * c + biases;
        v * c * heads + l * (attention + 3 * c * f + 4 * c) + c
    }
}

/// A soft cap: `default` where the key is absent, none where it is `null`.
fn read_cap(keys: &Keys<'_>, key: &str, default: f64) -> Result<Option<f64>, ModelError> {
    if !keys.map.contains_key(key) {
        return Ok(Some(default));
    }
    keys.optional_positive(key)
}

fn read_windows(keys: &Keys<'_>) -> Result<Vec<Option<usize>>, ModelError> {
    let layers = keys.size("num_hidden_layers", MAX_LAYERS)?;
    let window = match keys.map.contains_key("sliding_window") {
        true => keys.optional_size("sliding_window", MAX_POSITIONS)?,
        false => Some(4096),
    };
    read_layer_types(keys, layers, window, |layer| layer % 2 == 0)
}
