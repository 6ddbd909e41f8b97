//! `config.json` of GPT-2 (Radford et al. 2019), as `transformers.GPT2Config` writes it.
//!
//! Settings that change the arithmetic and are not implemented are refused by name.

use serde_json::{Map, Value};

use super::dropout::Dropout;
use super::keys::Keys;
use super::{MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH, check_parameters};
use crate::error::ModelError;

/// Activation of a feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU by its tanh approximation, ½x(1 + tanh(√(2/π)(x + 0.044715x³))): `gelu_new`,
    /// `gelu_pytorch_tanh`, and `gelu_fast`, whose √(2/π) is cut after ten digits.
    GeluTanh,
    /// Exact GELU, x·Φ(x): `gelu`.
    GeluErf,
}

/// Checked settings of a GPT-2 model.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpt2Config {
    /// Number of token ids (rows of `wte`).
    pub vocab_size: usize,
    /// Longest sequence, tokens (rows of `wpe`).
    pub n_positions: usize,
    /// Model width; a multiple of `n_head`.
    pub n_embd: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Attention heads.
    pub n_head: usize,
    /// Width of the feed-forward layer (4 · `n_embd` unless stated).
    pub n_inner: usize,
    /// Added to the variance in layer norms.
    pub layer_norm_epsilon: f64,
    /// Activation of the feed-forward layer.
    pub activation: Activation,
    /// Whether the output head is the token embedding.
    pub tie_word_embeddings: bool,
    /// What training drops.
    pub dropout: Dropout,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// The whole configuration as read.
    pub raw: Map<String, Value>,
}

impl Gpt2Config {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// [`ModelError`] naming `origin` and the key that is missing, out of range or unsupported.
    pub fn from_map(raw: Map<String, Value>, origin: &str) -> Result<Self, ModelError> {
        let keys = Keys { map: &raw, origin };
        refuse_unsupported(&keys)?;
        let n_embd = keys.size("n_embd", MAX_WIDTH)?;
        let n_head = keys.size("n_head", MAX_HEADS)?;
        if !n_embd.is_multiple_of(n_head) {
            return Err(keys.bad("n_head", n_head, &format!("a divisor of n_embd ({n_embd})")));
        }
        let config = Self {
            vocab_size: keys.size("vocab_size", MAX_VOCAB)?,
            n_positions: match keys.optional_size("n_positions", MAX_POSITIONS)? {
                Some(length) => length,
                None => keys.optional_size("n_ctx", MAX_POSITIONS)?.unwrap_or(1024),
            },
            n_embd,
            n_layer: keys.size("n_layer", MAX_LAYERS)?,
            n_head,
            n_inner: keys
                .optional_size("n_inner", MAX_WIDTH)?
                .unwrap_or(4 * n_embd),
            layer_norm_epsilon: keys
                .optional_positive("layer_norm_epsilon")?
                .unwrap_or(1e-5),
            activation: read_activation(&keys, "activation_function", Activation::GeluTanh)?,
            tie_word_embeddings: keys.flag_or("tie_word_embeddings", true)?,
            dropout: Dropout::of_gpt2(&keys)?,
            eos_token_ids: keys.eos_token_ids(Some(50_256))?,
            raw: Map::new(),
        };
        check_parameters(config.parameter_count(), origin)?;
        Ok(Self { raw, ..config })
    }

    /// Width of one head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.n_embd / self.n_head
    }

    pub(super) fn parameter_count(&self) -> u128 {
        let [v, t, c, f, l] = [
            self.vocab_size,
            self.n_positions,
            self.n_embd,
            self.n_inner,
            self.n_layer,
        ]
        .map(|n| n as u128);
        let heads = if self.tie_word_embeddings { 1 } else { 2 };
        let attention = 4 * c * c + 4 * c;
        let feed_forward = 2 * c * f + c + f;
        v * c * heads + t * c + l * (attention + feed_forward + 4 * c) + 2 * c
    }
}

fn refuse_unsupported(keys: &Keys<'_>) -> Result<(), ModelError> {
    for (key, wanted) in [
        ("scale_attn_weights", true),
        ("scale_attn_by_inverse_layer_idx", false),
        ("add_cross_attention", false),
    ] {
        let found = keys.flag_or(key, wanted)?;
        if found != wanted {
            return Err(keys.unsupported(key, found, &wanted.to_string()));
        }
    }
    Ok(())
}

/// The activation that `key` names, or `default` where it is absent.
pub(super) fn read_activation(
    keys: &Keys<'_>,
    key: &str,
    default: Activation,
) -> Result<Activation, ModelError> {
    match keys.text(key)? {
        None => Ok(default),
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(Activation::GeluTanh),
        Some("gelu") => Ok(Activation::GeluErf),
        Some(other) => Err(keys.unsupported(
            key,
            format!("{other:?}"),
            "gelu_new, gelu_pytorch_tanh, gelu_fast, gelu",
        )),
    }
}
