//! Whatever bytes a file holds, opening and reading it returns.
//!
//! Two small valid files, one of each format, are cut at every length and have bytes changed at
//! random; the result may be a model or an error, never a panic.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a panic is a failed test"
)]

#[path = "fixtures/gguf_writer.rs"]
mod gguf_writer;

use std::path::PathBuf;

use gguf_writer::{Gguf, Value};
use proptest::prelude::*;
use proptest::test_runner::Config;
use unbraid_model::ModelError;
use unbraid_model::config::ModelConfig;
use unbraid_model::weights::{StoredDtype, Weights, save_safetensors};

fn gguf() -> Vec<u8> {
    let divisors = gguf_writer::f32_tensor_of("rope_freqs.weight", &[2], &[1.0, 8.0]);
    Gguf::tiny_llama()
        .set("llama.rope.freq_base", Value::F32(5e6))
        .set("llama.rope.dimension_count", Value::U32(4))
        .set(
            "tokenizer.ggml.merges",
            Value::Strings(vec!["a b".to_owned()]),
        )
        .with(divisors)
        .bytes()
}

/// Bytes of `gguf()` before its data, about.
const GGUF_HEADER: usize = 1400;

/// The golden file: a tensor of each quantisation, so that a changed type number meets them all.
fn quantised() -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dequant.gguf");
    std::fs::read(path).unwrap()
}

fn safetensors() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [("wte.weight", vec![3, 4]), ("b", vec![0, 2]), ("c", vec![])]
        .map(|(name, shape)| (name.to_owned(), shape));
    let fetch = |i: usize| Ok(vec![1.0; tensors[i].1.iter().product()]);
    save_safetensors(dir.path(), &tensors, fetch, StoredDtype::F32, u64::MAX).unwrap();
    std::fs::read(dir.path().join("model.safetensors")).unwrap()
}

thread_local! {
    /// One directory for all files of a test: thousands of them are tried.
    static SCRATCH: tempfile::TempDir = tempfile::tempdir().unwrap();
}

/// Opens the bytes as a file of this name and reads all there is to read.
fn use_everything(name: &str, bytes: &[u8]) -> Result<(), ModelError> {
    let path = SCRATCH.with(|dir| dir.path().join(name));
    std::fs::write(&path, bytes).unwrap();
    let weights = Weights::open(&path)?;
    for name in weights.names() {
        let shape = weights.shape(name).unwrap();
        let count = shape.iter().product::<usize>();
        if let Ok(values) = weights.read_f32(name, shape) {
            assert_eq!(values.len(), count, "{name}");
        }
    }
    weights.fingerprint()?;
    if weights.gguf_config().is_some() {
        ModelConfig::for_weights(&weights)?;
    }
    Ok(())
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    for (name, bytes) in [("m.gguf", gguf()), ("m.safetensors", safetensors())] {
        use_everything(name, &bytes).unwrap();
        for length in 0..bytes.len() {
            let error = use_everything(name, &bytes[..length]).unwrap_err();
            assert!(
                matches!(error, ModelError::Truncated { .. }),
                "{name} cut at {length}: {error}"
            );
        }
    }
}

/// One byte of the header at a time, set to each of a few telling values.
#[test]
fn every_byte_of_a_header_may_be_wrong() {
    for (name, bytes, header) in [
        ("m.gguf", gguf(), GGUF_HEADER),
        ("m.safetensors", safetensors(), 300),
    ] {
        for at in 0..header.min(bytes.len()) {
            for value in [0, 0x7f, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                let _ = use_everything(name, &changed);
            }
        }
    }
}

fn mutations() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
}

fn mutate(mut bytes: Vec<u8>, changes: &[(prop::sample::Index, u8)], span: usize) -> Vec<u8> {
    let span = span.min(bytes.len());
    for (at, value) in changes {
        bytes[at.index(span)] = *value;
    }
    bytes
}

/// Eight bytes at a time, as lengths, counts, dimensions and offsets are.
fn overwrite(mut bytes: Vec<u8>, at: prop::sample::Index, value: u64, span: usize) -> Vec<u8> {
    let at = at.index(span.min(bytes.len()) - 8);
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    bytes
}

proptest! {
    #![proptest_config(Config { cases: 500, failure_persistence: None, ..Config::default() })]

    #[test]
    fn changed_bytes_never_panic(changes in mutations()) {
        let _ = use_everything("m.gguf", &mutate(gguf(), &changes, GGUF_HEADER));
        let _ = use_everything("m.gguf", &mutate(quantised(), &changes, 1100));
        let _ = use_everything("m.safetensors", &mutate(safetensors(), &changes, usize::MAX));
    }

    #[test]
    fn changed_words_never_panic(at in any::<prop::sample::Index>(), bits in 0_u32..64, less in 0_u64..3) {
        let value = (1_u64 << bits).wrapping_sub(less);
        let _ = use_everything("m.gguf", &overwrite(gguf(), at, value, GGUF_HEADER));
        let _ = use_everything("m.gguf", &overwrite(quantised(), at, value, 1100));
        let _ = use_everything("m.safetensors", &overwrite(safetensors(), at, value, 64));
    }

    #[test]
    fn random_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(&tail);
        prop_assert!(use_everything("m.gguf", &tail).is_err());
        let _ = use_everything("m.gguf", &file);
        let _ = use_everything("m.safetensors", &tail);
    }

    /// Any JSON with the right keys and the wrong values.
    #[test]
    fn odd_configurations_never_panic(
        key in prop::sample::select(vec![
            "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
            "intermediate_size", "num_hidden_layers", "max_position_embeddings", "rope_theta",
            "rope_scaling", "rope_parameters", "eos_token_id", "quantization_config", "model_type",
            "sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "rotary_pct",
            "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping",
        ]),
        family in prop::sample::select(vec![
            "gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gpt_neox",
        ]),
        value in prop::sample::select(vec![
            "0", "-1", "1", "3", "1e308", "1e999", "18446744073709551615", "9007199254740993", "\"x\"",
            "[]", "{}", "null", "true", "[1,-1,null]", r#"{"rope_type":"llama3"}"#,
            r#"{"type":"linear","factor":1e-320}"#, "0.5",
        ]),
    ) {
        let text = format!(
            r#"{{"model_type":"{family}","hidden_size":8,"num_attention_heads":2,"vocab_size":9,
            "intermediate_size":4,"num_hidden_layers":1,"num_key_value_heads":1,"head_dim":4,"rotary_pct":0.5,
            "n_embd":8,"n_head":2,"n_layer":1,"{key}":{value}}}"#
        );
        if let Ok(config) = ModelConfig::from_json_str(&text, "c") {
            prop_assert!(config.parameter_count() > 0);
            if let ModelConfig::Llama(config) | ModelConfig::Mistral(config) | ModelConfig::Qwen2(config)
            | ModelConfig::Qwen3(config) = config
            {
                prop_assert_eq!(config.windows.len(), config.num_hidden_layers);
                prop_assert_eq!(config.rope.inverse_frequencies(config.head_dim).len(), config.head_dim / 2);
            }
        }
    }
}
