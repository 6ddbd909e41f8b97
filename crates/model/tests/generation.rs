//! Generation against transformers: processed logits, greedy ids, and what a `generation_config.json` may say.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use unbraid_model::{GenerationConfig, LanguageModel, LogitsProcessors, ModelError};
use unbraid_tensor::CpuBackend;

fn parity() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity")
}

/// What `parity/generate/generate.py` recorded.
fn golden() -> Value {
    let file = parity().join("generate/processors.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn read(config: &Value) -> Result<(GenerationConfig, Vec<String>), ModelError> {
    GenerationConfig::from_json_str(&config.to_string(), "generation_config.json")
}

fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().unwrap();
    list.iter()
        .map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
        .collect()
}

#[test]
fn processed_logits_are_those_of_transformers() {
    let golden = golden();
    let rows = golden["processed"].as_array().unwrap();
    assert!(rows.len() > 35, "{}", rows.len());
    for row in rows {
        let mut setting = row["config"].clone();
        setting["eos_token_id"] = golden["eos_token_id"].clone();
        let (config, unknown) = read(&setting).unwrap();
        assert!(unknown.is_empty(), "{unknown:?}");
        let all = ids(&row["ids"]);
        let prompt = &all[..usize::try_from(row["prompt"].as_u64().unwrap()).unwrap()];
        let logits = row["logits"].as_array().unwrap();
        let mut scores: Vec<f32> = logits.iter().map(|z| z.as_f64().unwrap() as f32).collect();
        // Without a length of its own, a golden's is 20 new tokens.
        let longest = prompt.len() + config.new_tokens(prompt.len()).unwrap_or(20);
        LogitsProcessors::new(&config, prompt, longest).apply(&all, &mut scores);
        let expected = row["processed"].as_array().unwrap();
        assert_eq!(scores.len(), expected.len());
        for (i, (got, expected)) in scores.iter().zip(expected).enumerate() {
            let expected = expected.as_f64().unwrap_or(f64::NEG_INFINITY);
            let got = f64::from(*got);
            // f32 arithmetic on both sides: within a few roundings.
            let close = (got - expected).abs() <= 2e-6 * expected.abs().max(1.0);
            assert!(
                got == expected || close,
                "{}: token {i}: {got} for {expected}",
                row["name"]
            );
        }
    }
}

#[test]
fn greedy_ids_are_those_of_transformers() {
    let golden = golden();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut model = (String::new(), None);
    for row in golden["greedy"].as_array().unwrap() {
        let name = row["model"].as_str().unwrap();
        if model.0 != name {
            let path = parity().join("models").join(name);
            let loaded = LanguageModel::load(Arc::new(CpuBackend::new()), &path).unwrap();
            model = (name.to_owned(), Some(loaded));
        }
        let (config, _) = read(&row["config"]).unwrap();
        let prompt = ids(&row["prompt"]);
        let longest = config.new_tokens(prompt.len()).unwrap();
        let model = model.1.as_ref().unwrap();
        let got = model.generate(&prompt, longest, &config, &mut rng, |_| true);
        assert_eq!(got, ids(&row["completion"]), "{name}, {}", row["name"]);
    }
}

#[test]
fn what_would_change_a_text_and_is_not_built_is_refused_by_name() {
    for (key, value) in [
        ("num_beams", json!(4)),
        ("num_beam_groups", json!(2)),
        ("guidance_scale", json!(1.5)),
        ("penalty_alpha", json!(0.6)),
        ("prompt_lookup_num_tokens", json!(3)),
        ("assistant_early_exit", json!(2)),
        ("use_mtp", json!(true)),
        ("dola_layers", json!("high")),
        ("watermarking_config", json!({"greenlist_ratio": 0.25})),
        ("token_healing", json!(true)),
        ("max_time", json!(1.0)),
        ("stop_strings", json!(["."])),
        ("num_return_sequences", json!(2)),
        ("force_words_ids", json!([[1]])),
        ("constraints", json!([])),
        ("cache_implementation", json!("quantized")),
        ("stopping_criteria", json!([])),
    ] {
        let error = read(&json!({ key: value })).unwrap_err().to_string();
        assert!(
            error.contains(&format!("\"{key}\"")) && error.contains("hint: supported: "),
            "{error}"
        );
    }
    // The same keys at values that change nothing, and those that change nothing at all.
    let (config, unknown) = read(&json!({
        "num_beams": 1, "num_return_sequences": 1, "guidance_scale": 1.0, "penalty_alpha": 0.6, "do_sample": true,
        "early_stopping": true, "length_penalty": 2.0, "use_cache": true, "output_scores": true, "bos_token_id": 1,
        "pad_token_id": 0, "transformers_version": "5.23.0", "stop_strings": null, "chat_format": "chatml",
    }))
    .unwrap();
    assert_eq!(config.do_sample, Some(true));
    assert_eq!(unknown, ["chat_format"]);
}

#[test]
fn wrong_values_are_refused_by_name() {
    for (key, value) in [
        ("temperature", json!(0)),
        ("temperature", json!("hot")),
        ("top_p", json!(1.5)),
        ("top_k", json!(-1)),
        ("min_p", json!(-0.1)),
        ("top_h", json!(0)),
        ("typical_p", json!(2)),
        ("repetition_penalty", json!(0)),
        ("repetition_penalty", json!(-1.0)),
        ("no_repeat_ngram_size", json!(1.5)),
        ("max_new_tokens", json!(0)),
        ("max_length", json!(18446744073709551615u64)),
        ("bad_words_ids", json!([])),
        ("bad_words_ids", json!([[]])),
        ("bad_words_ids", json!([[-1]])),
        ("suppress_tokens", json!([4294967296u64])),
        ("sequence_bias", json!({"1": 2})),
        ("exponential_decay_length_penalty", json!([1])),
        ("eos_token_id", json!("end")),
        ("do_sample", json!(1)),
    ] {
        let error = read(&json!({ key: value })).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("generation_config.json: \"{key}\" is ")),
            "{error}"
        );
    }
    let wrong = [
        json!({"bad_words_ids": [[20]]}),
        json!({"sequence_bias": [[[1, 20], 1.0]]}),
        json!({"forced_eos_token_id": 20}),
        json!({"forced_eos_token_id": [3, 4], "suppress_tokens": [4, 3, 1]}),
        json!({"exponential_decay_length_penalty": [1, 1.1]}),
    ];
    for setting in wrong {
        let (config, _) = read(&setting).unwrap();
        assert!(config.check(20, "g").is_err(), "{setting}");
    }
}

#[test]
fn what_is_asked_for_goes_before_the_file() {
    let (file, _) = read(&json!({"temperature": 0.6, "top_k": 20, "max_length": 30})).unwrap();
    let (asked, _) = read(&json!({"top_k": 0, "max_new_tokens": 7})).unwrap();
    let both = asked.or(file.clone());
    assert_eq!((both.temperature, both.top_k), (Some(0.6), Some(0)));
    assert_eq!(
        (
            both.new_tokens(10),
            file.new_tokens(10),
            file.new_tokens(40)
        ),
        (Some(7), Some(20), Some(0))
    );
}
