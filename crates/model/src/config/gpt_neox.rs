//! `config.json` of GPT-NeoX (Black et al. 2022, arXiv:2204.06745) and Pythia (Biderman et al.
//! 2023, arXiv:2304.01373), as `transformers.GPTNeoXConfig` writes it.
//!
//! Rotary settings stand in `rope_parameters` (transformers 5) or as `rotary_pct` and
//! `rotary_emb_base` (4).

use serde_json::{Map, Value};

use super::dropout::Dropout;
use super::gpt2::{Activation, read_activation};
use super::keys::Keys;
use super::rope::RopeConfig;
use super::{
    MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH, check_parameters, initializer_range,
};
use crate::error::ModelError;

/// Checked settings of a GPT-NeoX model.
#[derive(Debug, Clone, PartialEq)]
pub struct GptNeoxConfig {
    /// Number of token ids (rows of `embed_in`).
    pub vocab_size: usize,
    /// Model width; a multiple of `num_attention_heads`.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// What the rotary frequencies are spread over, at least 1; of a head's dimensions the first turn, this many or, where
    /// it is odd, one more.
    pub rotary_dim: usize,
    /// Longest sequence, tokens.
    pub max_position_embeddings: usize,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f64,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// Activation of the feed-forward layer.
    pub activation: Activation,
    /// Whether both halves of a block read the block's input (else one after the other).
    pub use_parallel_residual: bool,
    /// Whether the two attention projections have biases.
    pub attention_bias: bool,
    /// Whether the output head is the token embedding.
    pub tie_word_embeddings: bool,
    /// What training drops.
    pub dropout: Dropout,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// The whole configuration as read.
    pub raw: Map<String, Value>,
}

impl GptNeoxConfig {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// [`ModelError`] naming `origin` and the key that is missing, out of range or unsupported.
    pub fn from_map(raw: Map<String, Value>, origin: &str) -> Result<Self, ModelError> {
        let keys = Keys { map: &raw, origin };
        let hidden_size = keys.size("hidden_size", MAX_WIDTH)?;
        let num_attention_heads = keys.size("num_attention_heads", MAX_HEADS)?;
        if !hidden_size.is_multiple_of(num_attention_heads) {
            let expected = format!("a divisor of hidden_size ({hidden_size})");
            return Err(keys.bad("num_attention_heads", num_attention_heads, &expected));
        }
        let max_position_embeddings = keys
            .optional_size("max_position_embeddings", MAX_POSITIONS)?
            .unwrap_or(2048);
        let config = Self {
            vocab_size: keys.size("vocab_size", MAX_VOCAB)?,
            hidden_size,
            intermediate_size: keys.size("intermediate_size", MAX_WIDTH)?,
            num_hidden_layers: keys.size("num_hidden_layers", MAX_LAYERS)?,
            num_attention_heads,
            rotary_dim: read_rotary_dim(&keys, hidden_size / num_attention_heads)?,
            max_position_embeddings,
            layer_norm_eps: keys.optional_positive("layer_norm_eps")?.unwrap_or(1e-5),
            rope: RopeConfig::read_with_theta(&keys, "rotary_emb_base", max_position_embeddings)?,
            activation: read_activation(&keys, "hidden_act", Activation::GeluErf)?,
            use_parallel_residual: keys.flag_or("use_parallel_residual", true)?,
            attention_bias: keys.flag_or("attention_bias", true)?,
            tie_word_embeddings: keys.flag_or("tie_word_embeddings", false)?,
            dropout: Dropout::of_gpt_neox(&keys)?,
            eos_token_ids: keys.eos_token_ids(Some(2))?,
            raw: Map::new(),
        };
        check_parameters(config.parameter_count(), origin)?;
        Ok(Self { raw, ..config })
    }

    /// Width of one head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// The standard deviation of fresh weights.
    pub(crate) fn initializer_range(&self) -> f64 {
        initializer_range(&self.raw)
    }

    pub(super) fn parameter_count(&self) -> u128 {
        let [v, c, f, l] = [
            self.vocab_size,
            self.hidden_size,
            self.intermediate_size,
            self.num_hidden_layers,
        ]
        .map(|n| n as u128);
        let heads = if self.tie_word_embeddings { 1 } else { 2 };
        let attention = 4 * c * c + if self.attention_bias { 4 * c } else { 0 };
        let feed_forward = 2 * c * f + c + f;
        v * c * heads + l * (attention + feed_forward + 4 * c) + 2 * c
    }
}

/// The rotated part of a head: its width times the share, rounded down, as in transformers, which turns one dimension more
/// where that is odd.
fn read_rotary_dim(keys: &Keys<'_>, head_dim: usize) -> Result<usize, ModelError> {
    let nested = RopeConfig::nested(keys)?;
    let share = match nested
        .map(|n| n.optional_positive("partial_rotary_factor"))
        .transpose()?
    {
        Some(Some(share)) => share,
        _ => keys.optional_positive("rotary_pct")?.unwrap_or(0.25),
    };
    let rotary_dim = (head_dim as f64 * share) as usize;
    if share > 1.0 || rotary_dim == 0 || rotary_dim.next_multiple_of(2) > head_dim {
        let expected = format!(
            "a share of head_dim ({head_dim}) of at least one dimension, whose pairs fit into it"
        );
        return Err(keys.bad("rotary_pct", share, &expected));
    }
    Ok(rotary_dim)
}
