//! `config.json` of Qwen2 and Qwen2.5 (Yang et al. 2024, arXiv:2407.10671), as
//! `transformers.Qwen2Config` writes it: Llama with biases on queries, keys and values alone.
//!
//! Sliding windows, which the published models switch off (`use_sliding_window: false`), are in
//! the layers that `layer_types` names, or before that key existed in those from
//! `max_window_layers` on.

use serde_json::{Map, Value};

use super::keys::Keys;
use super::llama::{LlamaConfig, Variant};
use super::window::read_layer_types;
use super::{MAX_LAYERS, MAX_POSITIONS};
use crate::error::ModelError;

/// Reads and checks the settings.
pub(super) fn read(raw: Map<String, Value>, origin: &str) -> Result<LlamaConfig, ModelError> {
    let keys = Keys { map: &raw, origin };
    let variant = Variant {
        positions: 32_768,
        kv_heads: kv_heads(&raw),
        head_dim: None,
        even_heads: false,
        eos: None,
        qkv_bias: true,
        output_bias: false,
        mlp_bias: false,
        head_norms: false,
        windows: windows(&keys)?,
    };
    variant.read(raw, origin)
}

/// 32 key/value heads where the key is absent, as many as query heads where it is `null`.
pub(super) fn kv_heads(raw: &Map<String, Value>) -> Option<usize> {
    (!raw.contains_key("num_key_value_heads")).then_some(32)
}

/// The window of each layer.
pub(super) fn windows(keys: &Keys<'_>) -> Result<Vec<Option<usize>>, ModelError> {
    let layers = keys.size("num_hidden_layers", MAX_LAYERS)?;
    let window = match (
        keys.flag_or("use_sliding_window", false)?,
        keys.map.contains_key("sliding_window"),
    ) {
        (false, _) => None,
        (true, false) => Some(4096),
        (true, true) => keys.optional_size("sliding_window", MAX_POSITIONS)?,
    };
    let from = keys.count_or("max_window_layers", MAX_LAYERS, 28)?;
    let slides = |layer| window.is_some() && layer >= from;
    read_layer_types(keys, layers, window, slides)
}
