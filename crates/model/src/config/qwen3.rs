//! `config.json` of Qwen3 (Yang et al. 2025, arXiv:2505.09388), as `transformers.Qwen3Config`
//! writes it: Llama whose queries and keys pass through an RMS norm, one weight of the head's
//! width for all heads, before they turn; `head_dim` stands on its own. Windows as in Qwen2.

use serde_json::{Map, Value};

use super::keys::Keys;
use super::llama::{LlamaConfig, Variant};
use super::qwen2;
use crate::error::ModelError;

/// Reads and checks the settings.
pub(super) fn read(raw: Map<String, Value>, origin: &str) -> Result<LlamaConfig, ModelError> {
    let keys = Keys { map: &raw, origin };
    let attention_bias = keys.flag_or("attention_bias", false)?;
    let variant = Variant {
        positions: 32_768,
        kv_heads: qwen2::kv_heads(&raw),
        head_dim: Some(128),
        even_heads: false,
        eos: None,
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        mlp_bias: false,
        head_norms: true,
        windows: qwen2::windows(&keys)?,
    };
    variant.read(raw, origin)
}
