//! GGUF architecture `llama`: names, rotary row order, configuration.
//!
//! llama.cpp rotates neighbouring dimensions (2i, 2i + 1) where transformers rotates (i, i + D/2),
//! and stores the rows of the query and key projections rearranged to suit; [`Layout`] undoes that.
//! Llama 3's frequency scaling is not in the metadata: it is stored as the tensor `rope_freqs`,
//! the divisor of each frequency. It is accepted when it equals, to f32 rounding, what the `llama3`
//! rule of `config/rope.rs` gives for a known setting, and refused otherwise.

use serde_json::{Map, Value, json};

use super::header::Header;
use super::meta::Meta;
use super::{Place, block_tensor};
use crate::config::{MAX_HEADS, RopeConfig, RopeKind};
use crate::error::ModelError;
use crate::weights::Layout;

type Presented = (Map<String, Value>, Vec<Place>);

/// Low and high frequency factors and original context of every published Llama 3 model.
const LLAMA3_LOW: f64 = 1.0;
const LLAMA3_HIGH: f64 = 4.0;
const LLAMA3_CONTEXT: usize = 8192;
/// Divisors are stored in f32 and computed there in f32 from f32 wavelengths.
const DIVISOR_TOLERANCE: f64 = 1e-5;

/// The configuration, and the place of each of the header's tensors in the same order.
pub(super) fn present(header: &Header<'_>) -> Result<Presented, ModelError> {
    let meta = &header.meta;
    if let Some(experts) = meta.optional_size("llama.expert_count")?.filter(|n| *n > 0) {
        return Err(unsupported(
            meta,
            "llama.expert_count",
            &experts.to_string(),
            "0",
        ));
    }
    let window = meta.optional_size("llama.attention.sliding_window")?;
    if let Some(window) = window.filter(|n| *n > 0) {
        return Err(unsupported(
            meta,
            "llama.attention.sliding_window",
            &window.to_string(),
            "0 (Mistral's window is read from Hugging Face directories)",
        ));
    }
    let heads = meta.size("llama.attention.head_count")?;
    let kv_heads = meta
        .optional_size("llama.attention.head_count_kv")?
        .unwrap_or(heads);
    let width = meta.size("llama.embedding_length")?;
    let blocks = meta.size("llama.block_count")?;
    for (key, count) in [("head_count", heads), ("head_count_kv", kv_heads)] {
        if count == 0 || count > MAX_HEADS as u64 {
            let detail = format!("llama.attention.{key} is {count}, expected 1 to {MAX_HEADS}");
            return Err(meta.invalid(detail));
        }
    }
    let head_dim = meta
        .optional_size("llama.attention.key_length")?
        .unwrap_or(width / heads);
    check_head_widths(meta, head_dim)?;
    let has = |name: &str| header.tensor(name).is_some();
    let mut config = Map::new();
    let mut put = |key: &str, value: Value| config.insert(key.to_owned(), value);
    put("architectures", json!(["LlamaForCausalLM"]));
    put("model_type", json!("llama"));
    put("hidden_size", json!(width));
    put(
        "intermediate_size",
        json!(meta.size("llama.feed_forward_length")?),
    );
    put("num_hidden_layers", json!(blocks));
    put("num_attention_heads", json!(heads));
    put("num_key_value_heads", json!(kv_heads));
    put("head_dim", json!(head_dim));
    put("vocab_size", json!(super::vocab_size(header)?));
    put(
        "max_position_embeddings",
        json!(meta.size("llama.context_length")?),
    );
    put(
        "rms_norm_eps",
        json!(meta.float("llama.attention.layer_norm_rms_epsilon")?),
    );
    let theta = meta.optional_float("llama.rope.freq_base")?;
    put("rope_theta", json!(theta.unwrap_or(10_000.0)));
    put("hidden_act", json!("silu"));
    put("attention_bias", json!(has("blk.0.attn_q.bias")));
    put("mlp_bias", json!(has("blk.0.ffn_up.bias")));
    put("tie_word_embeddings", json!(!has("output.weight")));
    super::put_special_tokens(meta, &mut config)?;
    put_rope_scaling(header, head_dim as usize, &mut config)?;
    config.insert("torch_dtype".to_owned(), Value::from("float32"));
    let place = |name: &str| place(name, heads as usize, kv_heads as usize, blocks as usize);
    let places = header
        .tensors
        .iter()
        .map(|tensor| place(&tensor.name))
        .collect();
    Ok((config, places))
}

/// Heads of values or rotary parts of another width are not implemented.
fn check_head_widths(meta: &Meta<'_>, head_dim: u64) -> Result<(), ModelError> {
    for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
        if let Some(width) = meta.optional_size(key)?.filter(|width| *width != head_dim) {
            return Err(unsupported(
                meta,
                key,
                &width.to_string(),
                &format!("{head_dim}, as the keys"),
            ));
        }
    }
    Ok(())
}

fn place(name: &str, heads: usize, kv_heads: usize, blocks: usize) -> Place {
    let plain = |name: &str| Place::Tensor(name.to_owned(), Layout::AsPresented);
    match name {
        "token_embd.weight" => return plain("model.embed_tokens.weight"),
        "output_norm.weight" => return plain("model.norm.weight"),
        "output.weight" => return plain("lm_head.weight"),
        "rope_freqs.weight" => return Place::Ignored, // it is in the configuration now
        _ => {}
    }
    let Some((block, part, kind)) = block_tensor(name, blocks) else {
        return Place::Unknown;
    };
    let rotary = |heads| Layout::RotaryInterleaved { heads };
    let (part, layout) = match part {
        "attn_q" => ("self_attn.q_proj", rotary(heads)),
        "attn_k" => ("self_attn.k_proj", rotary(kv_heads)),
        "attn_v" => ("self_attn.v_proj", Layout::AsPresented),
        "attn_output" => ("self_attn.o_proj", Layout::AsPresented),
        "ffn_gate" => ("mlp.gate_proj", Layout::AsPresented),
        "ffn_up" => ("mlp.up_proj", Layout::AsPresented),
        "ffn_down" => ("mlp.down_proj", Layout::AsPresented),
        "attn_norm" if kind == "weight" => ("input_layernorm", Layout::AsPresented),
        "ffn_norm" if kind == "weight" => ("post_attention_layernorm", Layout::AsPresented),
        "attn_rot_embd" => return Place::Ignored, // frequencies that llama.cpp skips as well
        _ => return Place::Unknown,
    };
    Place::Tensor(format!("model.layers.{block}.{part}.{kind}"), layout)
}

fn put_rope_scaling(
    header: &Header<'_>,
    head_dim: usize,
    config: &mut Map<String, Value>,
) -> Result<(), ModelError> {
    let meta = &header.meta;
    const TYPE: &str = "llama.rope.scaling.type";
    // The key of files from before `rope.scaling.*` existed.
    let old_factor = meta.optional_float("llama.rope.scale_linear")?;
    let factor = meta
        .optional_float("llama.rope.scaling.factor")?
        .or(old_factor);
    let linear = match meta.optional_text(TYPE)? {
        Some("none") => None,
        None | Some("linear") => factor.filter(|factor| *factor != 1.0 && *factor != 0.0),
        Some(other) => {
            return Err(unsupported(
                meta,
                TYPE,
                other,
                "none, linear, llama3's tensor",
            ));
        }
    };
    let divisors = read_divisors(header, head_dim)?;
    let scaling = match (linear, divisors) {
        (None, None) => return Ok(()),
        (Some(factor), None) => json!({"rope_type": "linear", "factor": factor}),
        (None, Some(divisors)) => recognise_llama3(meta, &divisors, head_dim, config)?,
        (Some(_), Some(_)) => {
            return Err(unsupported(
                meta,
                TYPE,
                "linear with rope_freqs",
                "one of the two",
            ));
        }
    };
    config.insert("rope_scaling".to_owned(), scaling);
    Ok(())
}

/// The tensor `rope_freqs`, `None` where it is absent or all ones.
fn read_divisors(header: &Header<'_>, head_dim: usize) -> Result<Option<Vec<f32>>, ModelError> {
    let Some(tensor) = header.tensor("rope_freqs.weight") else {
        return Ok(None);
    };
    if tensor.shape != [head_dim / 2] {
        let (shape, half) = (&tensor.shape, head_dim / 2);
        let detail = format!("tensor rope_freqs.weight has shape {shape:?}, expected [{half}]");
        return Err(header.meta.invalid(detail));
    }
    let mut values = Vec::with_capacity(head_dim / 2);
    let bytes = header.file.read(tensor.bytes.clone())?;
    tensor.encoding.decode(&bytes, &mut values);
    Ok(Some(values).filter(|values| values.iter().any(|x| *x != 1.0)))
}

/// The `llama3` setting whose divisors these are.
fn recognise_llama3(
    meta: &Meta<'_>,
    divisors: &[f32],
    head_dim: usize,
    config: &Map<String, Value>,
) -> Result<Value, ModelError> {
    let theta = config["rope_theta"].as_f64().unwrap_or(10_000.0);
    let plain = frequencies(theta, RopeKind::Default, head_dim);
    let largest = divisors.iter().copied().fold(0.0_f32, f32::max);
    // First those of Llama 3.1 and 3.2, also because the factor is not among the divisors where no
    // frequency is low enough to be divided in full.
    for factor in [8.0, 32.0, f64::from(largest)] {
        let kind = RopeKind::Llama3 {
            factor,
            low_freq_factor: LLAMA3_LOW,
            high_freq_factor: LLAMA3_HIGH,
            original_max_positions: LLAMA3_CONTEXT,
        };
        let scaled = frequencies(theta, kind, head_dim);
        let equal = plain
            .iter()
            .zip(&scaled)
            .zip(divisors)
            .all(|((plain, scaled), stored)| {
                let divisor = plain / scaled;
                (divisor - f64::from(*stored)).abs() <= DIVISOR_TOLERANCE * divisor
            });
        if equal {
            return Ok(json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": LLAMA3_LOW,
                "high_freq_factor": LLAMA3_HIGH,
                "original_max_position_embeddings": LLAMA3_CONTEXT,
            }));
        }
    }
    let supported = "Llama 3's rule with factors 1 and 4 and original context 8192";
    Err(unsupported(
        meta,
        "rope_freqs.weight",
        "another set of divisors",
        supported,
    ))
}

fn frequencies(theta: f64, kind: RopeKind, head_dim: usize) -> Vec<f64> {
    RopeConfig { theta, kind }.inverse_frequencies(head_dim)
}

fn unsupported(meta: &Meta<'_>, key: &str, found: &str, supported: &str) -> ModelError {
    ModelError::UnsupportedSetting {
        origin: meta.path.display().to_string(),
        key: key.to_owned(),
        found: found.to_owned(),
        supported: supported.to_owned(),
    }
}
