//! Configurations of Mistral, Qwen2, Qwen3, Gemma 2 and GPT-NeoX: as transformers 5 writes them, as version 4 did,
//! what absent keys mean, and what is refused.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a panic is a failed test"
)]

use serde_json::{Value, json};
use unbraid_model::ModelError;
use unbraid_model::config::{
    Activation, Gemma2Config, GptNeoxConfig, LlamaConfig, ModelConfig, RopeKind,
};
use unbraid_model::weights::StoredDtype;

/// Four layers, four heads of width 16, two key/value heads.
fn base(family: &str) -> Value {
    json!({
        "model_type": family, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 100,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    })
}

fn read(family: &str, changes: Value) -> Result<ModelConfig, ModelError> {
    let mut json = base(family);
    for (key, value) in changes.as_object().unwrap() {
        json[key] = value.clone();
    }
    ModelConfig::from_json_str(&json.to_string(), "config.json")
}

fn llama(family: &str, changes: Value) -> LlamaConfig {
    let config = read(family, changes).unwrap();
    assert_eq!(config.model_type(), family);
    match config {
        ModelConfig::Mistral(c) | ModelConfig::Qwen2(c) | ModelConfig::Qwen3(c) => c,
        other => panic!("not of Llama's build: {other:?}"),
    }
}

fn gemma2(changes: Value) -> Gemma2Config {
    match read("gemma2", changes).unwrap() {
        ModelConfig::Gemma2(config) => config,
        other => panic!("not Gemma 2: {other:?}"),
    }
}

fn gpt_neox(changes: Value) -> GptNeoxConfig {
    match read("gpt_neox", changes).unwrap() {
        ModelConfig::GptNeox(config) => config,
        other => panic!("not GPT-NeoX: {other:?}"),
    }
}

fn message(family: &str, changes: Value) -> String {
    read(family, changes).unwrap_err().to_string()
}

#[test]
fn mistrals_window_is_in_every_layer_unless_it_is_null() {
    let windows = |changes| llama("mistral", changes).windows;
    assert_eq!(windows(json!({})), [Some(4096); 4]);
    assert_eq!(windows(json!({"sliding_window": 7})), [Some(7); 4]);
    assert_eq!(windows(json!({"sliding_window": null})), [None; 4]);
    let config = llama("mistral", json!({}));
    assert!(!config.qkv_bias && !config.output_bias && !config.head_norms);
    assert_eq!(config.max_position_embeddings, 131_072);
    // Heads need not divide the width when their own is given; they must otherwise.
    assert_eq!(
        llama("mistral", json!({"num_attention_heads": 6})).head_dim,
        16
    );
    let uneven = message(
        "mistral",
        json!({"num_attention_heads": 6, "head_dim": null}),
    );
    assert!(
        uneven.contains("expected a divisor of hidden_size (64)"),
        "{uneven}"
    );
}

#[test]
fn qwens_windows_need_to_be_switched_on() {
    for family in ["qwen2", "qwen3"] {
        let windows = |changes| llama(family, changes).windows;
        assert_eq!(windows(json!({})), [None; 4]);
        assert_eq!(
            windows(json!({"sliding_window": 7, "max_window_layers": 0})),
            [None; 4]
        );
        // transformers 4: by number of layers; every one below 28 by default.
        let on = json!({"use_sliding_window": true, "sliding_window": 7});
        assert_eq!(windows(on), [None; 4]);
        let from_third =
            json!({"use_sliding_window": true, "sliding_window": 7, "max_window_layers": 2});
        assert_eq!(windows(from_third), [None, None, Some(7), Some(7)]);
        let null =
            json!({"use_sliding_window": true, "sliding_window": null, "max_window_layers": 0});
        assert_eq!(windows(null), [None; 4]);
        // transformers 5: by name, whatever max_window_layers says.
        let named = json!({
            "use_sliding_window": true, "sliding_window": 7, "max_window_layers": 4,
            "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
        });
        assert_eq!(windows(named), [Some(7), None, None, Some(7)]);
    }
}

#[test]
fn qwen2_has_biases_and_qwen3_norms() {
    let two = llama("qwen2", json!({"attention_bias": false, "head_dim": null}));
    assert!(two.qkv_bias && !two.output_bias && !two.mlp_bias && !two.head_norms);
    assert_eq!(two.head_dim, 16);
    let three = llama("qwen3", json!({"head_dim": null}));
    assert!(!three.qkv_bias && !three.output_bias && three.head_norms);
    assert_eq!(three.head_dim, 128);
    let biased = llama("qwen3", json!({"attention_bias": true}));
    assert!(biased.qkv_bias && biased.output_bias);
    // Neither has a default end of text.
    assert!(two.eos_token_ids.is_empty() && three.eos_token_ids.is_empty());
}

#[test]
fn gemma2_reads_caps_windows_and_scale() {
    let plain = gemma2(json!({}));
    assert_eq!(plain.windows, [Some(4096), None, Some(4096), None]);
    assert_eq!(plain.attn_logit_softcapping, Some(50.0));
    assert_eq!(plain.final_logit_softcapping, Some(30.0));
    assert_eq!(plain.query_pre_attn_scalar, 256.0);
    assert_eq!(plain.activation, Activation::GeluTanh);
    assert_eq!(plain.eos_token_ids, [1]);
    assert!(plain.tie_word_embeddings && !plain.attention_bias);
    assert_eq!(gemma2(json!({"head_dim": null})).head_dim, 256);

    let changed = gemma2(json!({
        "attn_logit_softcapping": null, "final_logit_softcapping": 2.5, "query_pre_attn_scalar": 144,
        "sliding_window": 9, "hidden_act": "silu", "hidden_activation": "gelu",
        "layer_types": ["full_attention", "full_attention", "full_attention", "sliding_attention"],
    }));
    assert_eq!(changed.attn_logit_softcapping, None);
    assert_eq!(changed.final_logit_softcapping, Some(2.5));
    assert_eq!(changed.query_pre_attn_scalar, 144.0);
    assert_eq!(changed.activation, Activation::GeluErf);
    assert_eq!(changed.windows, [None, None, None, Some(9)]);
}

#[test]
fn both_generations_of_gpt_neoxs_rotary_keys_mean_the_same() {
    let plain = gpt_neox(json!({}));
    assert_eq!((plain.rotary_dim, plain.rope.theta), (4, 10_000.0));
    assert!(plain.use_parallel_residual && plain.attention_bias && !plain.tie_word_embeddings);
    assert_eq!(plain.activation, Activation::GeluErf);
    let old = gpt_neox(json!({"rotary_pct": 0.5, "rotary_emb_base": 500}));
    let new = gpt_neox(json!({
        "rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 500.0, "rope_type": "default"},
    }));
    assert_eq!((old.rotary_dim, old.rope.theta), (8, 500.0));
    assert_eq!((new.rotary_dim, &new.rope), (8, &old.rope));
    let scaled = json!({"rotary_pct": 1.0, "rope_scaling": {"type": "linear", "factor": 2.0}});
    let scaled = gpt_neox(scaled);
    assert_eq!(scaled.rotary_dim, 16);
    assert_eq!(scaled.rope.kind, RopeKind::Linear { factor: 2.0 });
    // gpt-neox-20b.
    assert_eq!(
        gpt_neox(json!({"hidden_act": "gelu_fast"})).activation,
        Activation::GeluTanh
    );
}

#[test]
fn wrong_and_unsupported_settings_are_named() {
    let short = json!({"layer_types": ["full_attention"]});
    let sliding = ["sliding_attention"; 4];
    for (family, change, expected) in [
        (
            "mistral",
            json!({"sliding_window": 0}),
            "\"sliding_window\" is 0, expected an integer from 1",
        ),
        (
            "mistral",
            json!({"hidden_act": "gelu"}),
            "\"hidden_act\" = \"gelu\" is not supported",
        ),
        (
            "qwen2",
            short.clone(),
            "expected a list of 4 layer types, one a layer",
        ),
        (
            "gemma2",
            short,
            "expected a list of 4 layer types, one a layer",
        ),
        (
            "qwen3",
            json!({"layer_types": ["full_attention", "chunked_attention", "full_attention", "full_attention"]}),
            "\"layer_types\" = \"chunked_attention\" is not supported\nhint: supported: full_attention, sliding_attention",
        ),
        (
            "qwen3",
            json!({"layer_types": sliding}),
            "\"sliding_window\" is switched off, expected a number of tokens",
        ),
        (
            "gemma2",
            json!({"sliding_window": null}),
            "\"sliding_window\" is switched off",
        ),
        (
            "qwen2",
            json!({"max_window_layers": -1}),
            "\"max_window_layers\" is -1, expected an integer from 0",
        ),
        (
            "qwen2",
            json!({"use_sliding_window": 1}),
            "\"use_sliding_window\" is 1, expected true or false",
        ),
        (
            "gemma2",
            json!({"use_bidirectional_attention": true}),
            "\"use_bidirectional_attention\" = true",
        ),
        (
            "gemma2",
            json!({"hidden_activation": "relu"}),
            "\"hidden_activation\" = \"relu\" is not supported",
        ),
        (
            "gemma2",
            json!({"final_logit_softcapping": 0}),
            "expected a finite number above 0",
        ),
        (
            "gpt_neox",
            json!({"rotary_pct": 0.05}),
            "expected a share of head_dim (16)",
        ),
        (
            "gpt_neox",
            json!({"rotary_pct": 1.5}),
            "\"rotary_pct\" is 1.5",
        ),
        (
            "gpt_neox",
            json!({"hidden_act": "relu"}),
            "\"hidden_act\" = \"relu\" is not supported",
        ),
        (
            "gpt_neox",
            json!({"num_attention_heads": 5}),
            "expected a divisor of hidden_size (64)",
        ),
    ] {
        let got = message(family, change.clone());
        assert!(
            got.starts_with("config.json: ") && got.contains(expected),
            "{family} {change}: {got}"
        );
    }
}

#[test]
fn class_names_do_where_the_type_is_missing_and_both_are_written() {
    for (family, class) in [
        ("mistral", "MistralForCausalLM"),
        ("qwen2", "Qwen2ForCausalLM"),
        ("qwen3", "Qwen3ForCausalLM"),
        ("gemma2", "Gemma2ForCausalLM"),
        ("gpt_neox", "GPTNeoXForCausalLM"),
    ] {
        let named = read(
            family,
            json!({"model_type": null, "architectures": [class]}),
        )
        .unwrap();
        assert_eq!(named.model_type(), family);
        let written: Value = serde_json::from_str(&named.to_json_pretty(StoredDtype::F32)).unwrap();
        assert_eq!(written["model_type"], family);
        assert_eq!(written["architectures"], json!([class]));
    }
}

/// Llama's count is the same for all of its build; what the others add, by hand.
#[test]
fn parameter_counts_by_hand() {
    let plain = |family| read(family, json!({})).unwrap().parameter_count();
    // A block: q and o 64·64 each, k and v 64·32 each, three matrices of 64·96, two norms.
    let block = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96 + 2 * 64;
    let llama = 2 * 100 * 64 + 4 * block + 64;
    assert_eq!(plain("mistral"), llama);
    assert_eq!(plain("qwen2"), llama + 4 * (64 + 32 + 32));
    assert_eq!(plain("qwen3"), llama + 4 * 2 * 16);
    assert_eq!(plain("gemma2"), llama - 100 * 64 + 4 * 2 * 64);
    // Fused projection with bias, dense, two feed-forward matrices with biases, two norms with biases.
    let block = 3 * 64 * 64 + 3 * 64 + 64 * 64 + 64 + 2 * 64 * 96 + 96 + 64 + 4 * 64;
    assert_eq!(plain("gpt_neox"), 2 * 100 * 64 + 4 * block + 2 * 64);
}
