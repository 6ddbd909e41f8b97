//! `config.json` of Mistral (Jiang et al. 2023, arXiv:2310.06825), as `transformers.MistralConfig`
//! writes it: Llama without biases, whose tokens see the last `sliding_window` positions only, in
//! every layer. An absent key means 4096, `null` (from version 0.2 on) means no window.

use serde_json::{Map, Value};

use super::keys::Keys;
use super::llama::{LlamaConfig, Variant};
use super::{MAX_LAYERS, MAX_POSITIONS};
use crate::error::ModelError;

/// Reads and checks the settings.
pub(super) fn read(raw: Map<String, Value>, origin: &str) -> Result<LlamaConfig, ModelError> {
    let keys = Keys { map: &raw, origin };
    let window = match raw.contains_key("sliding_window") {
        true => keys.optional_size("sliding_window", MAX_POSITIONS)?,
        false => Some(4096),
    };
    let variant = Variant {
        positions: 4096 * 32,
        kv_heads: match raw.contains_key("num_key_value_heads") {
            true => None,
            false => Some(8),
        },
        head_dim: None,
        even_heads: false,
        eos: Some(2),
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        head_norms: false,
        windows: vec![window; keys.size("num_hidden_layers", MAX_LAYERS)?],
    };
    variant.read(raw, origin)
}
