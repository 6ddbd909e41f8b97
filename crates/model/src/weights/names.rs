//! Tensor names as transformers writes them.
//!
//! Checkpoints of the bare models (`GPT2Model`, `LlamaModel`) lack the prefix `transformer.` or
//! `model.`; it is added. Old checkpoints also hold buffers that can be computed; they are left
//! out.

/// The name with its family's prefix, or `None` where it needs none.
pub(super) fn canonical(name: &str) -> Option<String> {
    let (first, rest) = name.split_once('.')?;
    let indexed = rest.starts_with(|c: char| c.is_ascii_digit());
    match first {
        "wte" | "wpe" | "ln_f" => Some(format!("transformer.{name}")),
        "h" if indexed => Some(format!("transformer.{name}")),
        "embed_tokens" | "norm" => Some(format!("model.{name}")),
        "layers" if indexed => Some(format!("model.{name}")),
        _ => None,
    }
}

/// Another name of the same tensor: GPT-NeoX's head, which checkpoints call `embed_out` and
/// transformers' model since version 5 `lm_head`.
pub(super) fn alias(name: &str) -> Option<&'static str> {
    (name == "embed_out.weight").then_some("lm_head.weight")
}

/// Whether this is a buffer that old checkpoints saved: the causal mask, its fill value, the
/// rotary frequencies.
pub(super) fn is_buffer(name: &str) -> bool {
    [
        ".attn.bias",
        ".attn.masked_bias",
        ".attention.bias",
        ".attention.masked_bias",
    ]
    .iter()
    .any(|end| name.ends_with(end))
        || name.ends_with("rotary_emb.inv_freq")
}

/// The present name that shares most with `wanted`: the longest common start and end together, if
/// that is at least half of it.
pub(super) fn nearest<'a>(wanted: &str, present: impl Iterator<Item = &'a str>) -> Option<String> {
    let common = |a: &mut dyn Iterator<Item = (u8, u8)>| a.take_while(|(x, y)| x == y).count();
    present
        .map(|name| {
            let start = common(&mut wanted.bytes().zip(name.bytes()));
            let end = common(&mut wanted.bytes().rev().zip(name.bytes().rev()));
            ((start + end).min(wanted.len()), name)
        })
        .max_by_key(|(shared, name)| (*shared, std::cmp::Reverse(name.len())))
        .filter(|(shared, _)| 2 * shared >= wanted.len())
        .map(|(_, name)| name.to_owned())
}
