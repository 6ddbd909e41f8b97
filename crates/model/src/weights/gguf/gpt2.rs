//! GGUF architecture `gpt2`: names, transposed projections, configuration.
//!
//! transformers keeps GPT-2's projections as `Conv1D`, [in, out]; llama.cpp stores them [out, in]
//! like every linear layer. They are presented [in, out].

use serde_json::{Map, Value, json};

use super::header::Header;
use super::{Place, block_tensor};
use crate::error::ModelError;
use crate::weights::Layout;

type Presented = (Map<String, Value>, Vec<Place>);

/// The configuration, and the place of each of the header's tensors in the same order.
pub(super) fn present(header: &Header<'_>) -> Result<Presented, ModelError> {
    let meta = &header.meta;
    let blocks = meta.size("gpt2.block_count")?;
    let tied = is_tied(header)?;
    let mut config = Map::new();
    let mut put = |key: &str, value: Value| config.insert(key.to_owned(), value);
    put("architectures", json!(["GPT2LMHeadModel"]));
    put("model_type", json!("gpt2"));
    put("vocab_size", json!(super::vocab_size(header)?));
    put("n_positions", json!(meta.size("gpt2.context_length")?));
    put("n_embd", json!(meta.size("gpt2.embedding_length")?));
    put("n_layer", json!(blocks));
    put("n_head", json!(meta.size("gpt2.attention.head_count")?));
    put(
        "n_inner",
        json!(meta.optional_size("gpt2.feed_forward_length")?),
    );
    put(
        "layer_norm_epsilon",
        json!(meta.float("gpt2.attention.layer_norm_epsilon")?),
    );
    put("activation_function", json!("gelu_new"));
    put("tie_word_embeddings", json!(tied));
    super::put_special_tokens(meta, &mut config)?;
    config.insert("torch_dtype".to_owned(), json!("float32"));
    let place = |name: &str| match name {
        "output.weight" if tied => Place::Ignored,
        _ => place(name, blocks as usize),
    };
    let places = header
        .tensors
        .iter()
        .map(|tensor| place(&tensor.name))
        .collect();
    Ok((config, places))
}

/// Whether the head is the token embedding: absent, or (files of older converters) a copy of it.
/// A head quantised otherwise than the embedding is another matrix and is kept as one.
fn is_tied(header: &Header<'_>) -> Result<bool, ModelError> {
    let (Some(head), Some(embedding)) = (
        header.tensor("output.weight"),
        header.tensor("token_embd.weight"),
    ) else {
        return Ok(true);
    };
    if head.encoding != embedding.encoding || head.shape != embedding.shape {
        return Ok(false);
    }
    header
        .file
        .equal(head.bytes.clone(), embedding.bytes.clone())
}

fn place(name: &str, blocks: usize) -> Place {
    let plain = |name: &str| Place::Tensor(name.to_owned(), Layout::AsPresented);
    match name {
        "token_embd.weight" => return plain("transformer.wte.weight"),
        "position_embd.weight" => return plain("transformer.wpe.weight"),
        "output_norm.weight" => return plain("transformer.ln_f.weight"),
        "output_norm.bias" => return plain("transformer.ln_f.bias"),
        "output.weight" => return plain("lm_head.weight"),
        _ => {}
    }
    let Some((block, part, kind)) = block_tensor(name, blocks) else {
        return Place::Unknown;
    };
    let (part, projection) = match part {
        "attn_norm" => ("ln_1", false),
        "attn_qkv" => ("attn.c_attn", true),
        "attn_output" => ("attn.c_proj", true),
        "ffn_norm" => ("ln_2", false),
        "ffn_up" => ("mlp.c_fc", true),
        "ffn_down" => ("mlp.c_proj", true),
        _ => return Place::Unknown,
    };
    let layout = if projection && kind == "weight" {
        Layout::Transposed
    } else {
        Layout::AsPresented
    };
    Place::Tensor(format!("transformer.h.{block}.{part}.{kind}"), layout)
}
