//! GGUF: quantisations against the reference, layouts against Hugging Face, metadata, limits.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a panic is a failed test"
)]

#[path = "fixtures/gguf_writer.rs"]
mod gguf_writer;

use std::path::{Path, PathBuf};

use gguf_writer::{Gguf, Tensor, Value, f32_tensor, f32_tensor_of};
use unbraid_model::ModelError;
use unbraid_model::config::{ModelConfig, RopeKind};
use unbraid_model::weights::Weights;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn open_bytes(bytes: &[u8]) -> Result<Weights, ModelError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    Weights::open(&path)
}

fn open(file: &Gguf) -> Weights {
    open_bytes(&file.bytes()).unwrap()
}

fn message(file: &Gguf) -> String {
    open_bytes(&file.bytes()).unwrap_err().to_string()
}

/// All tensors of `left` are in `right` and equal there bit for bit.
fn assert_same_tensors(left: &Weights, right: &Weights) {
    for name in left.names() {
        let shape = left.shape(name).unwrap();
        assert_eq!(Some(shape), right.shape(name), "{name}");
        let [a, b] = [left, right].map(|w| w.read_f32(name, shape).unwrap());
        let differs = a
            .iter()
            .zip(&b)
            .position(|(a, b)| a.to_bits() != b.to_bits());
        if let Some(i) = differs {
            panic!(
                "{name} ({:?}) at {i}: {} and {}",
                left.stored_dtype(name),
                a[i],
                b[i]
            );
        }
    }
}

/// Equal bit for bit to `gguf.dequantize` on blocks of random bytes (see the generator beside the
/// fixture).
#[test]
fn every_quantisation_equals_the_reference() {
    let stored = Weights::open(&fixture("dequant.gguf")).unwrap();
    let expected = Weights::open(&fixture("dequant.safetensors")).unwrap();
    assert_same_tensors(&expected, &stored);
    let names = expected
        .names()
        .map(|name| stored.stored_dtype(name).unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    let all = "BF16 F16 F32 Q4_0 Q4_1 Q4_K Q5_0 Q5_1 Q5_K Q6_K Q8_0";
    assert_eq!(names.join(" "), all);
}

/// The fixtures are one model in both layouts; the generator checked that transformers computes
/// the same logits from either.
#[test]
fn tiny_models_equal_their_hugging_face_layout() {
    for name in ["tiny_llama", "tiny_gpt2"] {
        let gguf = Weights::open(&fixture(&format!("{name}.gguf"))).unwrap();
        let directory = Weights::open(&fixture(name)).unwrap();
        assert!(gguf.names().eq(directory.names()), "{name}");
        assert_same_tensors(&directory, &gguf);
        assert_same_sizes(&gguf, &directory);
    }
}

fn assert_same_sizes(gguf: &Weights, directory: &Weights) {
    let [a, b] = [gguf, directory].map(|w| ModelConfig::for_weights(w).unwrap());
    assert_eq!(a.parameter_count(), b.parameter_count());
    assert_eq!(a.max_positions(), b.max_positions());
    assert_eq!(a.eos_token_ids(), b.eos_token_ids());
    assert_eq!(a.tie_word_embeddings(), b.tie_word_embeddings());
    match (a, b) {
        (ModelConfig::Llama(a), ModelConfig::Llama(b)) => {
            assert_eq!(a.rope, b.rope);
            assert_eq!(a.head_dim, b.head_dim);
            assert_eq!(a.num_key_value_heads, b.num_key_value_heads);
            assert_eq!(a.rms_norm_eps as f32, b.rms_norm_eps as f32);
        }
        (ModelConfig::Gpt2(a), ModelConfig::Gpt2(b)) => {
            assert_eq!((a.n_head, a.n_inner), (b.n_head, b.n_inner));
            assert_eq!(a.activation, b.activation);
            assert_eq!(a.layer_norm_epsilon as f32, b.layer_norm_epsilon as f32);
        }
        (a, b) => panic!("{a:?} and {b:?}"),
    }
}

#[test]
fn tokenizer_metadata() {
    let weights = Weights::open(&fixture("tiny_llama.gguf")).unwrap();
    let tokenizer = weights.gguf_tokenizer().unwrap();
    assert_eq!(tokenizer.model.as_deref(), Some("gpt2"));
    assert_eq!(tokenizer.pre.as_deref(), Some("smollm"));
    assert_eq!(tokenizer.tokens.len(), 24);
    assert_eq!(tokenizer.tokens[23], "t23");
    assert_eq!(tokenizer.token_types.as_ref().unwrap()[..2], [3, 1]);
    assert_eq!(tokenizer.merges.as_ref().unwrap(), &["t 1", "t 2"]);
    assert_eq!(
        (tokenizer.bos, tokenizer.eos, tokenizer.pad),
        (Some(0), Some(0), None)
    );
    assert_eq!(tokenizer.add_bos, Some(false));
    assert_eq!(tokenizer.scores, None);
    assert_eq!(
        tokenizer.chat_template.as_deref(),
        Some("{{ messages[0].content }}")
    );

    assert!(
        open(&Gguf::tiny_llama().without("tokenizer.ggml.tokens"))
            .gguf_tokenizer()
            .is_none()
    );
    let short = Gguf::tiny_llama().set("tokenizer.ggml.token_type", Value::I32s(vec![1]));
    assert!(message(&short).contains("token_type has 1 entries for 3 tokens"));
    let outside = Gguf::tiny_llama().set("tokenizer.ggml.eos_token_id", Value::U32(3));
    assert!(message(&outside).contains("eos_token_id is 3, the vocabulary has 3 tokens"));
    let none = Gguf::tiny_llama().set("tokenizer.ggml.eos_token_id", Value::U32(u32::MAX));
    assert_eq!(open(&none).gguf_tokenizer().unwrap().eos, None);
}

/// Stored rows 0 1 2 3 of one head of width 4 are the rotated pairs (0, 1) and (2, 3); presented,
/// a pair is (i, i + 2): rows 0 2 1 3.
#[test]
fn rotary_rows_by_hand() {
    let weights = open(&Gguf::tiny_llama());
    let name = "model.layers.0.self_attn.k_proj.weight";
    let got = weights.read_f32(name, &[4, 8]).unwrap();
    let first_of_row: Vec<_> = got.chunks(8).map(|row| row[0]).collect();
    assert_eq!(first_of_row, [0.0, 16.0, 8.0, 24.0]);
    let name = "model.layers.0.self_attn.q_proj.weight"; // two heads of width 4
    let got = weights.read_f32(name, &[8, 8]).unwrap();
    let first_of_row: Vec<_> = got.chunks(8).map(|row| row[0]).collect();
    assert_eq!(first_of_row, [0.0, 16.0, 8.0, 24.0, 32.0, 48.0, 40.0, 56.0]);
}

#[test]
fn biases_and_an_untied_head_show_in_the_configuration() {
    let plain = ModelConfig::for_weights(&open(&Gguf::tiny_llama())).unwrap();
    assert!(plain.tie_word_embeddings());
    let file = Gguf::tiny_llama()
        .with(f32_tensor("output.weight", &[8, 3]))
        .with(f32_tensor("blk.0.attn_q.bias", &[8]))
        .with(f32_tensor("blk.0.ffn_up.bias", &[12]));
    let weights = open(&file);
    let ModelConfig::Llama(config) = ModelConfig::for_weights(&weights).unwrap() else {
        panic!("not a Llama");
    };
    assert!(!config.tie_word_embeddings && config.qkv_bias && config.output_bias);
    assert!(config.mlp_bias);
    let bias = weights
        .read_f32("model.layers.0.self_attn.q_proj.bias", &[8])
        .unwrap();
    assert_eq!(bias, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]); // rearranged like the rows
}

#[test]
fn linear_rope_scaling_is_taken_over() {
    let file = Gguf::tiny_llama()
        .set("llama.rope.scaling.type", Value::Text("linear".to_owned()))
        .set("llama.rope.scaling.factor", Value::F32(4.0));
    assert_eq!(rope_kind(&file), RopeKind::Linear { factor: 4.0 });
    let old = Gguf::tiny_llama().set("llama.rope.scale_linear", Value::F32(2.0));
    assert_eq!(rope_kind(&old), RopeKind::Linear { factor: 2.0 });
    let yarn = Gguf::tiny_llama().set("llama.rope.scaling.type", Value::Text("yarn".to_owned()));
    assert!(message(&yarn).contains("\"llama.rope.scaling.type\" = yarn is not supported"));
}

/// Divisors of Llama 3.1 (factor 8) for heads of width 4 at base 5·10⁶: frequencies 1 and 4.47e-4,
/// of wavelengths 6.28 and 14,050; 8192/14,050 = 0.58 turns is below 1, so the second is divided
/// in full.
#[test]
fn llama3_divisors_are_recognised_and_others_refused() {
    let base = || Gguf::tiny_llama().set("llama.rope.freq_base", Value::F32(5e6));
    let freqs = |values: &[f32]| base().with(f32_tensor_of("rope_freqs.weight", &[2], values));
    let expected = |factor| RopeKind::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_positions: 8192,
    };
    assert_eq!(rope_kind(&freqs(&[1.0, 8.0])), expected(8.0));
    assert_eq!(rope_kind(&freqs(&[1.0, 16.0])), expected(16.0));
    assert_eq!(rope_kind(&freqs(&[1.0, 1.0])), RopeKind::Default);
    for wrong in [[2.0, 8.0], [1.0, f32::NAN], [0.0, -1.0]] {
        let got = message(&freqs(&wrong));
        assert!(
            got.contains("\"rope_freqs.weight\" = another set of divisors"),
            "{got}"
        );
    }
    let long = base().with(f32_tensor("rope_freqs.weight", &[3]));
    assert!(message(&long).contains("rope_freqs.weight has shape [3], expected [2]"));
}

/// Divisors computed as converters do, in f32 from transformers' own frequencies of Llama 3.1 and
/// 3.2, are recognised, the interpolated ones among them too.
#[test]
fn divisors_of_published_llama3_models_are_recognised() {
    let cases: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("fixtures/rope.json")).unwrap();
    let mut seen = Vec::new();
    for case in &cases {
        let parameters = &case["rope_parameters"];
        if parameters["original_max_position_embeddings"] != 8192 {
            continue;
        }
        let head_dim = case["head_dim"].as_u64().unwrap() as u32;
        let theta = parameters["rope_theta"].as_f64().unwrap() as f32;
        let scaled = case["inverse_frequencies"].as_array().unwrap();
        let divisors: Vec<f32> = scaled
            .iter()
            .enumerate()
            .map(|(i, scaled)| {
                let plain = 1.0 / theta.powf(2.0 * i as f32 / head_dim as f32);
                plain / scaled.as_f64().unwrap() as f32
            })
            .collect();
        let dims = [u64::from(head_dim / 2)];
        let file = Gguf::tiny_llama()
            .set("llama.rope.freq_base", Value::F32(theta))
            .set("llama.attention.key_length", Value::U32(head_dim))
            .with(f32_tensor_of("rope_freqs.weight", &dims, &divisors));
        match rope_kind(&file) {
            RopeKind::Llama3 { factor, .. } => seen.push(factor),
            other => panic!("{parameters}: {other:?}"),
        }
    }
    assert_eq!(seen, [8.0, 32.0]);
}

fn rope_kind(file: &Gguf) -> RopeKind {
    match ModelConfig::for_weights(&open(file)).unwrap() {
        ModelConfig::Llama(config) => config.rope.kind,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_left_out_is_refused_by_name() {
    let q2 = Tensor {
        name: "blk.0.ffn_gate.weight".to_owned(),
        dims: vec![256, 1],
        kind: 10,
        data: vec![0; 84],
    };
    let mut quantised = Gguf::tiny_llama();
    quantised.tensors.retain(|tensor| tensor.name != q2.name);
    for (file, expected) in [
        (
            quantised.with(q2),
            "blk.0.ffn_gate.weight is stored as Q2_K, which is not supported",
        ),
        (
            Gguf::tiny_llama().set("general.architecture", Value::Text("mamba".to_owned())),
            "architecture \"mamba\" is not supported\nhint: supported are llama, gpt2 (as GGUF files",
        ),
        (
            Gguf::tiny_llama().set("llama.expert_count", Value::U32(8)),
            "\"llama.expert_count\" = 8",
        ),
        (
            Gguf::tiny_llama().set("llama.attention.sliding_window", Value::U32(4096)),
            "\"llama.attention.sliding_window\" = 4096",
        ),
        (
            Gguf::tiny_llama().set("split.count", Value::U32(3)),
            "one of 3 parts of a split model",
        ),
        (
            Gguf::tiny_llama().set("llama.rope.dimension_count", Value::U32(2)),
            "\"llama.rope.dimension_count\" = 2 is not supported",
        ),
        (
            Gguf::tiny_llama().with(f32_tensor("blk.0.attn_q_norm.weight", &[4])),
            "tensor blk.0.attn_q_norm.weight has no place in this architecture",
        ),
        (
            Gguf::tiny_llama().with(f32_tensor("blk.1.attn_v.weight", &[8, 4])),
            "tensor blk.1.attn_v.weight has no place", // a layer beyond block_count
        ),
        (
            Gguf::tiny_llama().with(f32_tensor("blk.00.attn_v.weight", &[8, 4])),
            "tensor blk.00.attn_v.weight has no place", // would be a second layer 0
        ),
        (
            Gguf::tiny_llama().without("llama.context_length"),
            "key \"llama.context_length\" is missing",
        ),
        (
            Gguf::tiny_llama().set("llama.block_count", Value::Text("one".to_owned())),
            "\"llama.block_count\" is \"one\", expected an integer",
        ),
    ] {
        let got = message(&file);
        assert!(got.contains(expected), "{got}");
    }
}

#[test]
fn versions() {
    for (version, expected) in [
        (1, "version 1; versions 2 and 3 are read"),
        (4, "version 4;"),
        (3_u32.swap_bytes(), "big-endian"),
    ] {
        let mut file = Gguf::tiny_llama();
        file.version = version;
        let got = message(&file);
        assert!(got.contains(expected), "{got}");
    }
    let mut file = Gguf::tiny_llama();
    file.version = 2;
    open(&file);
}

/// A name of a few bytes may declare anything: nothing is allocated or read for it.
#[test]
fn huge_declarations_are_refused() {
    let changed = |change: fn(&mut Gguf)| {
        let mut file = Gguf::tiny_llama();
        change(&mut file);
        message(&file)
    };
    let got = changed(|file| file.tensor_count = Some(u64::MAX));
    assert!(
        got.contains("declares 18446744073709551615 tensors"),
        "{got}"
    );
    let got = changed(|file| file.meta_count = Some(1 << 60));
    assert!(
        got.contains("declares 1152921504606846976 metadata entries"),
        "{got}"
    );
    let got = changed(|file| file.tensors[0].dims = vec![1 << 40, 1 << 40]);
    assert!(got.contains("impossible shape"), "{got}");
    let got = changed(|file| file.tensors[10].dims = vec![1 << 40]);
    assert!(got.contains("beyond the file's"), "{got}");
    let got = changed(|file| file.tensors[0].dims = vec![8, 0]);
    assert!(
        got.contains("token_embd.weight has a dimension of 0"),
        "{got}"
    );
    let got = changed(|file| file.tensors[0].dims = vec![1; 5]);
    assert!(
        got.contains("declares 5 dimensions, the limit is 4"),
        "{got}"
    );
    let got = changed(|file| file.tensors[0].name = "x".repeat(64));
    assert!(
        got.contains("a tensor name declares 64 bytes, the limit is 63"),
        "{got}"
    );
    let got = changed(|file| file.meta.push(("k".repeat(65_536), Value::U32(0))));
    assert!(
        got.contains("a metadata key declares 65536 bytes, the limit is 65535"),
        "{got}"
    );
}

#[test]
fn a_string_or_array_longer_than_the_file_is_truncation() {
    let bytes = Gguf::tiny_llama().bytes();
    // The first value is the string "llama" after the key; then its length.
    let at = 24 + 8 + "general.architecture".len() + 4;
    assert_eq!(bytes[at..at + 8], 5_u64.to_le_bytes());
    let mut longer = bytes.clone();
    longer[at..at + 8].copy_from_slice(&(1_u64 << 62).to_le_bytes());
    let got = open_bytes(&longer).unwrap_err().to_string();
    assert!(
        got.contains("truncated: general.architecture takes 4611686018427387904 bytes"),
        "{got}"
    );

    let key = "tokenizer.ggml.token_type";
    let at = bytes
        .windows(key.len())
        .position(|w| w == key.as_bytes())
        .unwrap()
        + key.len()
        + 8;
    assert_eq!(bytes[at..at + 8], 3_u64.to_le_bytes());
    for (length, expected) in [
        (1_u64 << 40, "truncated"),
        (u64::MAX, "declares 18446744073709551615"),
    ] {
        let mut longer = bytes.clone();
        longer[at..at + 8].copy_from_slice(&length.to_le_bytes());
        let got = open_bytes(&longer).unwrap_err().to_string();
        assert!(got.contains(expected), "{got}");
    }
}

#[test]
fn overlapping_or_stray_offsets_are_refused() {
    let sizes: Vec<_> = Gguf::tiny_llama()
        .tensors
        .iter()
        .map(|t| t.data.len() as u64)
        .collect();
    let true_offsets: Vec<u64> = sizes
        .iter()
        .scan(0, |at, size| {
            let here = *at;
            *at += size.next_multiple_of(32);
            Some(here)
        })
        .collect();
    for (i, wrong) in [
        (1, 0),
        (1, 64),
        (3, u64::MAX),
        (0, 32),
        (2, true_offsets[2] + 1),
    ] {
        let mut file = Gguf::tiny_llama();
        let mut offsets = true_offsets.clone();
        offsets[i] = wrong;
        file.offsets = Some(offsets);
        let got = message(&file);
        let expected = format!(
            "starts at {wrong} in the data, expected {}",
            true_offsets[i]
        );
        assert!(got.contains(&expected), "{got}");
    }
}

#[test]
fn names_and_keys_appear_once() {
    let twice = Gguf::tiny_llama().with(f32_tensor("output_norm.weight", &[8]));
    assert!(message(&twice).contains("tensor output_norm.weight appears twice"));
    let mut file = Gguf::tiny_llama();
    file.meta
        .push(gguf_writer::text("general.architecture", "gpt2"));
    assert!(message(&file).contains("metadata key \"general.architecture\" appears twice"));
}

/// A head that copies the embedding is dropped for GPT-2 (older converters wrote it), and kept when
/// it differs.
#[test]
fn gpt2_head() {
    let bytes = std::fs::read(fixture("tiny_gpt2.gguf")).unwrap();
    assert!(
        !open_bytes(&bytes)
            .unwrap()
            .names()
            .any(|name| name == "lm_head.weight")
    );
    let u32 = |key: &str, n| (format!("gpt2.{key}"), Value::U32(n));
    let epsilon = "gpt2.attention.layer_norm_epsilon".to_owned();
    let mut file = Gguf::tiny_llama();
    file.meta = vec![
        gguf_writer::text("general.architecture", "gpt2"),
        u32("context_length", 4),
        u32("embedding_length", 8),
        u32("block_count", 1),
        u32("attention.head_count", 2),
        (epsilon, Value::F32(1e-5)),
    ];
    file.tensors = vec![
        f32_tensor("token_embd.weight", &[8, 3]),
        f32_tensor("output.weight", &[8, 3]),
    ];
    let tied = open(&file);
    assert_eq!(tied.names().collect::<Vec<_>>(), ["transformer.wte.weight"]);
    assert!(
        ModelConfig::for_weights(&tied)
            .unwrap()
            .tie_word_embeddings()
    );
    file.tensors[1].data[0] = 1;
    let untied = open(&file);
    assert_eq!(untied.shape("lm_head.weight"), Some(&[3, 8][..]));
    assert!(
        !ModelConfig::for_weights(&untied)
            .unwrap()
            .tie_word_embeddings()
    );
}
