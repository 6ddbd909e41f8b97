//! Whole models of every family (the tiny ones of `parity/models`): saved and opened again, from configurations as
//! older transformers wrote them, with older checkpoints' names and buffers, and fresh from a configuration alone.
//! What they compute is tested against PyTorch in `unbraid-geometry` and `unbraid-train`.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; a panic is a failed test"
)]

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use unbraid_model::weights::{StoredDtype, Weights, save_safetensors};
use unbraid_model::{Batch, Forest, LanguageModel, ModelConfig, Sequence, Storage};
use unbraid_tensor::NaiveBackend;

const CASES: [&str; 9] = [
    "gpt2",
    "llama",
    "llama_tied",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gpt_neox",
    "gpt_neox_sequential",
];

fn case_dir(case: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../parity/models")
        .join(case)
}

fn load(dir: &Path) -> LanguageModel<NaiveBackend> {
    LanguageModel::load(Arc::new(NaiveBackend), dir).unwrap()
}

/// Log-probs of a sequence longer than every window.
fn logps(model: &LanguageModel<NaiveBackend>) -> Vec<f64> {
    let ids: Vec<u32> = (0..12).map(|i| (i * 37 + 5) % 101).collect();
    let mut forest = Forest::new();
    let sequence = Sequence {
        ids: &ids,
        scored_from: 1,
    };
    forest.add_tree(&[sequence], true);
    model.token_logps(&Batch::new(&NaiveBackend, forest))
}

fn config_of(case: &str) -> Value {
    let text = std::fs::read_to_string(case_dir(case).join("config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The case's weights under another configuration.
fn with_config(case: &str, config: &Value) -> LanguageModel<NaiveBackend> {
    let weights = Weights::open(&case_dir(case)).unwrap();
    let config = ModelConfig::from_json_str(&config.to_string(), "config.json").unwrap();
    LanguageModel::from_weights(Arc::new(NaiveBackend), config, &weights, Storage::Float32).unwrap()
}

#[test]
fn saving_and_opening_changes_nothing() {
    for case in CASES {
        let (model, dir) = (load(&case_dir(case)), tempfile::tempdir().unwrap());
        model.save(dir.path(), StoredDtype::F32).unwrap();
        let (before, after) = (
            Weights::open(&case_dir(case)).unwrap(),
            Weights::open(dir.path()).unwrap(),
        );
        assert!(before.names().eq(after.names()), "{case}");
        for name in before.names() {
            let shape = before.shape(name).unwrap();
            let [a, b] = [&before, &after].map(|w| w.read_f32(name, shape).unwrap());
            assert_eq!(a, b, "{case} {name}");
        }
        assert_eq!(logps(&load(dir.path())), logps(&model), "{case}");
    }
}

/// Keys of transformers 4 in place of those that version 5 writes.
#[test]
fn older_configurations_give_the_same_model() {
    let theta = |theta: f64| json!({"rope_parameters": null, "rope_theta": theta});
    for (case, changes) in [
        ("mistral", theta(1000.0)),
        ("qwen2", theta(1e6)),
        ("qwen2", json!({"layer_types": null})),
        ("qwen3", theta(1e6)),
        ("qwen3", json!({"layer_types": null, "sliding_window": 4})),
        (
            "gemma2",
            json!({"layer_types": null, "rope_parameters": null}),
        ),
        (
            "gemma2",
            json!({"hidden_act": "gelu", "query_pre_attn_scalar": 5.0}),
        ),
        (
            "gpt_neox",
            json!({"rope_parameters": null, "rotary_pct": 0.5, "rotary_emb_base": 10000}),
        ),
        (
            "gpt_neox_sequential",
            json!({"rope_parameters": null, "rotary_pct": 0.2, "rotary_emb_base": 500}),
        ),
    ] {
        let (mut config, changes) = (config_of(case), changes);
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        let (old, new) = (with_config(case, &config), load(&case_dir(case)));
        assert_eq!(logps(&old), logps(&new), "{case} {changes}");
    }
}

/// Settings that change the arithmetic change the result: none of them is read and then forgotten.
#[test]
fn every_setting_counts() {
    for (case, key, value) in [
        ("mistral", "sliding_window", json!(5)),
        ("mistral", "sliding_window", Value::Null),
        (
            "qwen2",
            "layer_types",
            json!(["full_attention", "full_attention", "sliding_attention"]),
        ),
        ("qwen3", "rms_norm_eps", json!(0.1)),
        ("gemma2", "sliding_window", json!(5)),
        ("gemma2", "query_pre_attn_scalar", json!(8)),
        ("gemma2", "attn_logit_softcapping", Value::Null),
        ("gemma2", "final_logit_softcapping", Value::Null),
        ("gemma2", "hidden_activation", json!("gelu")),
        ("gpt_neox", "use_parallel_residual", json!(false)),
        ("gpt_neox", "hidden_act", json!("gelu_new")),
        (
            "gpt_neox",
            "rope_parameters",
            json!({"partial_rotary_factor": 1.0, "rope_theta": 10000}),
        ),
        ("gpt_neox", "layer_norm_eps", json!(0.1)),
    ] {
        let mut config = config_of(case);
        config[key] = value.clone();
        let (changed, plain) = (
            logps(&with_config(case, &config)),
            logps(&load(&case_dir(case))),
        );
        assert_ne!(changed, plain, "{case} {key} {value}");
        assert!(
            changed.iter().all(|x| x.is_finite()),
            "{case} {key} {value}"
        );
    }
}

/// transformers 5 calls GPT-NeoX's head `lm_head` in memory, and old checkpoints hold masks.
#[test]
fn gpt_neox_opens_with_the_other_name_of_its_head_and_old_buffers() {
    let (case, dir) = (case_dir("gpt_neox"), tempfile::tempdir().unwrap());
    let weights = Weights::open(&case).unwrap();
    let mut tensors: Vec<(String, Vec<usize>)> = weights
        .names()
        .map(|name| (name.to_owned(), weights.shape(name).unwrap().to_vec()))
        .collect();
    let original = tensors.clone();
    for (name, _) in &mut tensors {
        *name = name.replace("embed_out.", "lm_head.");
    }
    for buffer in [
        "attention.bias",
        "attention.masked_bias",
        "attention.rotary_emb.inv_freq",
    ] {
        tensors.push((format!("gpt_neox.layers.0.{buffer}"), vec![2]));
    }
    let fetch = |i: usize| match original.get(i) {
        Some((name, shape)) => weights.read_f32(name, shape),
        None => Ok(vec![0.0; 2]),
    };
    save_safetensors(dir.path(), &tensors, fetch, StoredDtype::F32, u64::MAX).unwrap();
    std::fs::copy(case.join("config.json"), dir.path().join("config.json")).unwrap();
    assert_eq!(logps(&load(dir.path())), logps(&load(&case)));
    // Saved again, the head has the checkpoint's name.
    load(dir.path()).save(dir.path(), StoredDtype::F32).unwrap();
    let saved = Weights::open(dir.path()).unwrap();
    let names: Vec<&str> = saved.names().collect();
    assert!(names.contains(&"embed_out.weight") && !names.contains(&"lm_head.weight"));
}

#[test]
fn fresh_models_have_the_counted_parameters_and_an_even_guess() {
    for case in CASES {
        let config = ModelConfig::from_dir(&case_dir(case)).unwrap();
        let model = LanguageModel::random(Arc::new(NaiveBackend), config, 7);
        let counted = model.config.parameter_count();
        assert_eq!(model.params.count() as u64, counted, "{case}");
        // Weights of standard deviation 0.02: nearly every token is as likely as any other.
        let mean = logps(&model).iter().sum::<f64>() / 11.0;
        assert!((mean + 101f64.ln()).abs() < 0.2, "{case}: {mean}");
    }
}

/// What the numbers depend on is in the fingerprint: the configuration as well as the tensors.
#[test]
fn the_fingerprint_covers_the_configuration() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/models/llama");
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(source.join(name), dir.path().join(name)).unwrap();
    }
    let fingerprint = || Weights::open(dir.path()).unwrap().fingerprint().unwrap();
    let before = fingerprint();
    let path = dir.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["transformers_version"] = "0".into();
    std::fs::write(&path, config.to_string()).unwrap();
    assert_eq!(fingerprint(), before, "who wrote it does not matter");
    config["rms_norm_eps"] = 1e-3.into();
    std::fs::write(&path, config.to_string()).unwrap();
    assert_ne!(fingerprint(), before);
}

/// `tie_word_embeddings` over a file that holds a head of its own: two matrices where they differ, as in transformers 5.
#[test]
fn a_tied_flag_over_a_head_of_its_own_keeps_both() {
    for case in ["llama", "mistral", "qwen3", "gpt_neox"] {
        let dir = tempfile::tempdir().unwrap();
        load(&case_dir(case))
            .save(dir.path(), StoredDtype::F32)
            .unwrap();
        let mut config = config_of(case);
        config["tie_word_embeddings"] = json!(true);
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let model = load(dir.path());
        assert!(!model.tied(), "{case}");
        assert_eq!(logps(&model), logps(&load(&case_dir(case))), "{case}");
        // Written, both are there, and whoever reads the flag alone finds the same model.
        let out = tempfile::tempdir().unwrap();
        model.save(out.path(), StoredDtype::F32).unwrap();
        let written = Weights::open(out.path()).unwrap();
        assert!(written.shape(model.config.head_name()).is_some(), "{case}");
        let text = std::fs::read_to_string(out.path().join("config.json")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["tie_word_embeddings"], json!(false), "{case}");
        assert_eq!(logps(&load(out.path())), logps(&model), "{case}");
    }
}

/// Copies of one matrix stay tied, and a tied matrix may be stored under the head's name alone.
#[test]
fn equal_heads_stay_tied_and_either_name_will_do() {
    for case in [
        "llama_tied",
        "qwen2",
        "gemma2",
        "gpt2",
        "gpt_neox_sequential",
    ] {
        let source = Weights::open(&case_dir(case)).unwrap();
        let config = ModelConfig::from_dir(&case_dir(case)).unwrap();
        let (table, head) = (config.table_name(), config.head_name());
        for (with_table, with_head) in [(true, true), (false, true)] {
            let mut names: Vec<(String, String)> = Vec::new(); // stored name, name in the source
            for name in source.names().filter(|name| with_table || *name != table) {
                names.push((name.into(), name.into()));
            }
            if with_head {
                names.push((head.into(), table.into()));
            }
            let shape = |name: &str| source.shape(name).unwrap().to_vec();
            let tensors: Vec<_> = names.iter().map(|(n, s)| (n.clone(), shape(s))).collect();
            let fetch = |i: usize| source.read_f32(&names[i].1, &tensors[i].1);
            let dir = tempfile::tempdir().unwrap();
            save_safetensors(dir.path(), &tensors, fetch, StoredDtype::F32, u64::MAX).unwrap();
            std::fs::copy(
                case_dir(case).join("config.json"),
                dir.path().join("config.json"),
            )
            .unwrap();
            let model = load(dir.path());
            assert!(model.tied(), "{case}");
            assert_eq!(logps(&model), logps(&load(&case_dir(case))), "{case}");
        }
    }
}

/// An odd share of a head's dimensions turns one dimension more (`parity/models/odd_rotary.py`, in f64).
#[test]
fn odd_rotary_widths_agree_with_transformers() {
    let json = |name: &str| -> Value {
        let text = std::fs::read_to_string(case_dir("gpt_neox").join(name)).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let pair = &json("golden.json")["pairs"][0];
    let ids = |key: &str| -> Vec<u32> { serde_json::from_value(pair[key].clone()).unwrap() };
    let (prompt, all) = (ids("prompt"), [ids("prompt"), ids("chosen")].concat());
    let mut forest = Forest::new();
    let sequence = Sequence {
        ids: &all,
        scored_from: prompt.len(),
    };
    forest.add_tree(&[sequence], true);
    let batch = Batch::new(&NaiveBackend, forest);
    for case in json("odd_rotary.json")["cases"].as_array().unwrap() {
        let mut config = config_of("gpt_neox");
        config["rope_parameters"]["partial_rotary_factor"] = case["partial_rotary_factor"].clone();
        let model = with_config("gpt_neox", &config);
        let wanted = case["chosen_token_logps"].as_array().unwrap();
        let got = model.token_logps(&batch);
        assert_eq!(got.len(), wanted.len());
        for (got, want) in got.iter().zip(wanted) {
            let want = want.as_f64().unwrap();
            assert!(
                (got - want).abs() < 1e-9 * want.abs().max(1.0),
                "{got} against {want}"
            );
        }
    }
    // Pairs that do not fit into a head cannot turn.
    let mut config = config_of("gpt_neox");
    (config["hidden_size"], config["num_attention_heads"]) = (json!(21), json!(3));
    config["rope_parameters"]["partial_rotary_factor"] = json!(1.0);
    let error = ModelConfig::from_json_str(&config.to_string(), "config.json").unwrap_err();
    assert!(error.to_string().contains("rotary_pct"), "{error}");
}
