//! Configurations: both generations, every check, and what is written back.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a panic is a failed test"
)]

use std::path::Path;

use serde_json::{Map, Value, json};
use unbraid_model::ModelError;
use unbraid_model::config::{
    Activation, Gpt2Config, LlamaConfig, ModelConfig, RopeConfig, RopeKind,
};
use unbraid_model::weights::StoredDtype;

fn llama_json() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "vocab_size": 100,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    })
}

fn gpt2_json() -> Value {
    json!({
        "model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 32,
        "vocab_size": 100,
    })
}

/// `base` with the keys of `changes` set.
fn with(mut base: Value, changes: Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

fn read(json: &Value) -> Result<ModelConfig, ModelError> {
    ModelConfig::from_json_str(&json.to_string(), "config.json")
}

fn llama(json: &Value) -> LlamaConfig {
    match read(json).unwrap() {
        ModelConfig::Llama(config) => config,
        other => panic!("expected a Llama, got {other:?}"),
    }
}

fn gpt2(json: &Value) -> Gpt2Config {
    match read(json).unwrap() {
        ModelConfig::Gpt2(config) => config,
        other => panic!("expected a GPT-2, got {other:?}"),
    }
}

fn message(json: &Value) -> String {
    read(json).unwrap_err().to_string()
}

#[test]
fn defaults_are_those_of_transformers() {
    let config = llama(&llama_json());
    assert_eq!(config.head_dim, 16);
    assert_eq!(config.max_position_embeddings, 2048);
    assert_eq!(config.rms_norm_eps, 1e-6);
    assert_eq!(
        config.rope,
        RopeConfig {
            theta: 10_000.0,
            kind: RopeKind::Default
        }
    );
    assert_eq!(config.eos_token_ids, [2]);
    assert!(!config.tie_word_embeddings && !config.qkv_bias && !config.output_bias);
    assert!(!config.mlp_bias && !config.head_norms);
    assert_eq!(config.windows, [None, None]);

    let config = gpt2(&gpt2_json());
    assert_eq!(config.n_inner, 256);
    assert_eq!(config.layer_norm_epsilon, 1e-5);
    assert_eq!(config.activation, Activation::GeluTanh);
    assert_eq!(config.eos_token_ids, [50_256]);
    assert!(config.tie_word_embeddings);

    let alone = llama(&with(llama_json(), json!({"num_key_value_heads": null})));
    assert_eq!(alone.num_key_value_heads, 4);
}

#[test]
fn both_generations_of_rope_keys_mean_the_same() {
    let scaling = json!({
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3",
    });
    let old = json!({"rope_theta": 500000.0, "rope_scaling": scaling});
    let new = json!({"rope_parameters": with(scaling, json!({"rope_theta": 500000.0}))});
    let old = llama(&with(llama_json(), old)).rope;
    assert_eq!(old, llama(&with(llama_json(), new)).rope);
    assert_eq!(old.theta, 500_000.0);
    assert!(matches!(
        old.kind,
        RopeKind::Llama3 {
            factor: 8.0,
            original_max_positions: 8192,
            ..
        }
    ));

    // The key "type" of transformers before 4.45.
    let oldest = json!({"rope_theta": 100, "rope_scaling": {"type": "linear", "factor": 4.0}});
    let rope = llama(&with(llama_json(), oldest)).rope;
    assert_eq!(
        rope,
        RopeConfig {
            theta: 100.0,
            kind: RopeKind::Linear { factor: 4.0 }
        }
    );
}

#[test]
fn inverse_frequencies_by_hand() {
    let rope = |kind| {
        RopeConfig {
            theta: 10_000.0,
            kind,
        }
        .inverse_frequencies(4)
    };
    assert_eq!(rope(RopeKind::Default), [1.0, 0.01]);
    assert_eq!(rope(RopeKind::Linear { factor: 4.0 }), [0.25, 0.0025]);
    // Wavelengths 6.28 and 628.3. With original context 628.3 · 2 (rounded to 1257), the second
    // makes 2.0006 turns: between low 1 and high 4, s = 1.0006/3.
    let kind = RopeKind::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_positions: 1257,
    };
    let share = (1257.0 * 0.01 / std::f64::consts::TAU - 1.0) / 3.0;
    let expected = 0.01 * ((1.0 - share) / 8.0 + share);
    let got = rope(kind);
    assert_eq!(got[0], 1.0);
    assert!(
        (got[1] - expected).abs() < 1e-15,
        "{} against {expected}",
        got[1]
    );
}

/// transformers computes in f32, θ^(2i/D) first: a few units of 2⁻²⁴ apart. Where the `llama3`
/// rule interpolates, the share s = (L/λ − low)/(high − low) magnifies that by cancellation.
#[test]
fn inverse_frequencies_equal_those_of_transformers() {
    const TOLERANCE: f64 = 2e-6;
    let cases: Vec<Value> = serde_json::from_str(include_str!("fixtures/rope.json")).unwrap();
    for case in cases {
        let head_dim = case["head_dim"].as_u64().unwrap();
        let config = llama(&json!({
            "model_type": "llama", "hidden_size": 2 * head_dim, "num_attention_heads": 2,
            "intermediate_size": 8, "vocab_size": 10, "num_hidden_layers": 1,
            "max_position_embeddings": 131_072, "rope_parameters": case["rope_parameters"],
        }));
        let expected = case["inverse_frequencies"].as_array().unwrap();
        let got = config.rope.inverse_frequencies(config.head_dim);
        assert_eq!(got.len(), expected.len());
        for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
            let expected = expected.as_f64().unwrap();
            let off = (got / expected - 1.0).abs();
            assert!(
                off < TOLERANCE,
                "{}: {i}: {got} against {expected}",
                case["rope_parameters"]
            );
        }
    }
}

#[test]
fn eos_may_be_one_several_or_none() {
    let eos =
        |value: Value| llama(&with(llama_json(), json!({"eos_token_id": value}))).eos_token_ids;
    assert_eq!(eos(json!(7)), [7]);
    assert_eq!(eos(json!([7, 9])), [7, 9]);
    assert!(eos(Value::Null).is_empty());
    assert!(eos(json!(-1)).is_empty());
    let wrong = message(&with(llama_json(), json!({"eos_token_id": "</s>"})));
    assert!(
        wrong.contains("\"eos_token_id\" is \"</s>\", expected a token id"),
        "{wrong}"
    );
}

#[test]
fn wrong_values_are_named() {
    for (change, expected) in [
        (
            json!({"hidden_size": 0}),
            "\"hidden_size\" is 0, expected an integer from 1 to 1048576",
        ),
        (json!({"hidden_size": -64}), "\"hidden_size\" is -64"),
        (json!({"hidden_size": 1e300}), "\"hidden_size\" is 1e+300"),
        (json!({"hidden_size": "64"}), "\"hidden_size\" is \"64\""),
        (
            json!({"vocab_size": u64::MAX}),
            "\"vocab_size\" is 18446744073709551615",
        ),
        (
            json!({"num_hidden_layers": null}),
            "key \"num_hidden_layers\" is missing",
        ),
        (
            json!({"num_attention_heads": 3}),
            "expected a divisor of hidden_size (64)",
        ),
        (
            json!({"num_key_value_heads": 3}),
            "expected a divisor of num_attention_heads (4)",
        ),
        (
            json!({"head_dim": 15}),
            "\"head_dim\" is 15, expected an even number",
        ),
        (
            json!({"rms_norm_eps": 0.0}),
            "\"rms_norm_eps\" is 0.0, expected a finite number above 0",
        ),
        (
            json!({"attention_bias": "no"}),
            "\"attention_bias\" is \"no\", expected true or false",
        ),
        (
            json!({"rope_scaling": [1]}),
            "\"rope_scaling\" is [1], expected an object",
        ),
        (
            json!({"rope_scaling": {"type": "linear"}}),
            "key \"factor\" is missing",
        ),
        (
            json!({"rope_parameters": {"rope_theta": -1}}),
            "\"rope_theta\" is -1",
        ),
        (
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}}),
            "\"high_freq_factor\" is 4, expected a number above low_freq_factor (4)",
        ),
        (
            json!({"hidden_size": 1_048_576, "vocab_size": 4_194_304}),
            "expected at most 1099511627776",
        ),
    ] {
        let got = message(&with(llama_json(), change.clone()));
        assert!(
            got.starts_with("config.json: ") && got.contains(expected),
            "{change}: {got}"
        );
    }
    let got = message(&with(gpt2_json(), json!({"n_head": 5})));
    assert!(
        got.contains("\"n_head\" is 5, expected a divisor of n_embd (64)"),
        "{got}"
    );
}

#[test]
fn unsupported_settings_are_refused_by_name() {
    for (base, change, expected) in [
        (
            gpt2_json(),
            json!({"scale_attn_weights": false}),
            "\"scale_attn_weights\" = false",
        ),
        (
            gpt2_json(),
            json!({"scale_attn_by_inverse_layer_idx": true}),
            "\"scale_attn_by_inverse_layer_idx\" = true",
        ),
        (
            gpt2_json(),
            json!({"add_cross_attention": true}),
            "\"add_cross_attention\" = true",
        ),
        (
            gpt2_json(),
            json!({"activation_function": "tanh"}),
            "\"activation_function\" = \"tanh\"",
        ),
        (
            llama_json(),
            json!({"hidden_act": "gelu"}),
            "\"hidden_act\" = \"gelu\"",
        ),
        (
            llama_json(),
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
            "\"rope_type\" = \"yarn\"",
        ),
        (
            llama_json(),
            json!({"partial_rotary_factor": 0.5}),
            "\"partial_rotary_factor\" = 0.5",
        ),
        (
            llama_json(),
            json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}),
            "\"quantization_config\" = \"gptq\"",
        ),
    ] {
        let got = message(&with(base, change));
        assert!(
            got.contains(expected) && got.contains("\nhint: supported: "),
            "{got}"
        );
    }
}

#[test]
fn an_unsupported_architecture_lists_the_supported_ones() {
    let got = message(&json!({"model_type": "mamba"}));
    assert_eq!(
        got,
        "config.json: architecture \"mamba\" is not supported\n\
         hint: supported are gpt2 (GPT2LMHeadModel), llama (LlamaForCausalLM), \
         mistral (MistralForCausalLM), qwen2 (Qwen2ForCausalLM), qwen3 (Qwen3ForCausalLM), \
         gemma2 (Gemma2ForCausalLM), gpt_neox (GPTNeoXForCausalLM)"
    );
    // Without model_type the class name decides.
    let mut named = llama_json();
    named.as_object_mut().unwrap().remove("model_type");
    assert!(message(&named).contains("key \"model_type\" is missing"));
    named["architectures"] = json!(["LlamaForCausalLM"]);
    assert_eq!(read(&named).unwrap().model_type(), "llama");
}

#[test]
fn text_that_is_no_object_is_an_error_with_its_place() {
    for text in [
        "",
        "[1, 2]",
        "{\"a\": 1,\n \"b\": }",
        "{\"hidden_size\": NaN}",
    ] {
        let error = ModelConfig::from_json_str(text, "dir/config.json").unwrap_err();
        let got = error.to_string();
        assert!(
            got.starts_with("dir/config.json: not a valid JSON object: "),
            "{got}"
        );
        assert!(got.contains("line "), "{got}");
    }
    let error = ModelConfig::from_dir(Path::new("no/such/directory"))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("cannot read no/such/directory/config.json: "),
        "{error}"
    );
}

#[test]
fn writing_keeps_unknown_keys_and_their_order_and_sets_the_stored_type() {
    let base = json!({"zeta": [1, {"x": 1e-5}], "alpha": null});
    let text = |json: Value, stored| {
        read(&with(base.clone(), json))
            .unwrap()
            .to_json_pretty(stored)
    };
    let parsed = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();

    let new = text(
        with(llama_json(), json!({"dtype": "float16"})),
        StoredDtype::Bf16,
    );
    let map = parsed(&new);
    assert_eq!(map.keys().take(2).collect::<Vec<_>>(), ["zeta", "alpha"]);
    assert_eq!(map["zeta"], base["zeta"]);
    assert_eq!(map["dtype"], "bfloat16");
    assert!(!map.contains_key("torch_dtype"));
    assert_eq!(map["architectures"], json!(["LlamaForCausalLM"]));
    assert_eq!(
        read(&Value::Object(map))
            .unwrap()
            .to_json_pretty(StoredDtype::Bf16),
        new
    );

    let map = parsed(&text(
        with(gpt2_json(), json!({"torch_dtype": "float16"})),
        StoredDtype::F32,
    ));
    assert_eq!(map["torch_dtype"], "float32");
    assert!(!map.contains_key("dtype"));
    let map = parsed(&text(gpt2_json(), StoredDtype::F32));
    assert_eq!(map["torch_dtype"], "float32");
}

/// Parameter counts of published models, as their cards give them.
#[test]
fn parameter_counts() {
    let gpt2 = json!({"n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257});
    assert_eq!(
        read(&with(gpt2_json(), gpt2)).unwrap().parameter_count(),
        124_439_808
    );
    let smollm2 = json!({
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": true,
    });
    assert_eq!(
        read(&with(llama_json(), smollm2))
            .unwrap()
            .parameter_count(),
        134_515_008
    );
}

#[test]
fn published_configurations() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/configs");
    let Ok(entries) = std::fs::read_dir(&root) else {
        println!("skipped: no directory {} here", root.display());
        return;
    };
    let mut seen = 0;
    for entry in entries {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let result = ModelConfig::from_json_str(&text, "config.json");
        seen += 1;
        let config = result.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let billions = config.parameter_count() as f64 / 1e9;
        let expected = match path.file_stem().unwrap().to_str().unwrap() {
            "gpt2" => 0.1244,
            "smollm2-135m-instruct" => 0.1345,
            "llama-3.2-1b" => 1.236,
            "llama-3-8b" | "llama-3.1-8b-instruct" => 8.03,
            "mistral-7b-instruct-v0.3" => 7.248,
            "qwen2-0.5b-instruct" => 0.494,
            "gemma-2-2b-it" => 2.614,
            "pythia-1.4b" => 1.4146,
            other => panic!("no expectation for {other}"),
        };
        assert!(
            (billions / expected - 1.0).abs() < 0.002,
            "{}: {billions}",
            path.display()
        );
        assert_eq!(
            config.raw(),
            serde_json::from_str::<Value>(&text)
                .unwrap()
                .as_object()
                .unwrap()
        );
    }
    assert!(seen >= 9, "{seen} files");
}
