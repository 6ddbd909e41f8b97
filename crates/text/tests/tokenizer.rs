//! Ids, text, labels and special tokens against what `transformers` recorded (`parity/generate.py`).

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

mod common;

use common::{expected, ids, shared, tiny, tiny_config, tiny_json};
use serde_json::{Value, json};
use unbraid_text::{TextError, Tokenizer};

fn check_encodings(tokenizer: &Tokenizer, recorded: &Value) {
    for case in recorded.as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(
            tokenizer.encode(text, true).unwrap(),
            ids(&case["with_special"]),
            "{text:?} with special tokens"
        );
        assert_eq!(
            tokenizer.encode(text, false).unwrap(),
            ids(&case["without_special"]),
            "{text:?} without"
        );
    }
}

fn with_config(changes: &[(&str, Value)]) -> Tokenizer {
    let mut config = tiny_config();
    changes
        .iter()
        .for_each(|(key, value)| config[*key] = value.clone());
    Tokenizer::from_parts(&tiny_json(), Some(&config), None).unwrap()
}

fn with_processor(post_processor: &Value) -> Tokenizer {
    let mut json: Value = serde_json::from_slice(&tiny_json()).unwrap();
    json["post_processor"] = post_processor.clone();
    Tokenizer::from_parts(json.to_string().as_bytes(), Some(&tiny_config()), None).unwrap()
}

#[test]
fn ids_are_those_of_transformers() {
    check_encodings(&tiny(), &expected()["plain"]);
}

#[test]
fn the_post_processor_decides_what_surrounds_a_text() {
    let expected = expected();
    check_encodings(
        &with_processor(&expected["bos_processor"]),
        &expected["add_bos"],
    );
    check_encodings(
        &with_processor(&expected["bos_eos_processor"]),
        &expected["add_bos_eos"],
    );
    check_encodings(
        &with_config(&[("add_bos_token", json!(true))]),
        &expected["flag_only"],
    );
}

#[test]
fn decoding_is_that_of_transformers() {
    for case in expected()["decoded"].as_array().unwrap() {
        let ids = ids(&case["ids"]);
        assert_eq!(
            tiny().decode(&ids, false).unwrap(),
            case["text"].as_str().unwrap()
        );
        assert_eq!(
            tiny().decode(&ids, true).unwrap(),
            case["skip"].as_str().unwrap()
        );
    }
}

#[test]
fn special_tokens_are_read_as_strings_and_as_objects() {
    let (tokenizer, expected) = (tiny(), expected());
    let id = |name: &str| expected[name].as_u64().map(|id| u32::try_from(id).unwrap());
    assert_eq!(
        tokenizer.vocab_size() as u64,
        expected["vocab_size"].as_u64().unwrap()
    );
    assert_eq!(
        (tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()),
        (id("bos"), id("eos"), id("pad"))
    );
    assert_eq!(
        (tokenizer.bos_text(), tokenizer.eos_text()),
        (Some("<|endoftext|>"), Some("<|im_end|>"))
    );
}

#[test]
fn a_special_token_outside_the_vocabulary_joins_it_at_the_end() {
    let tokenizer = with_config(&[("eos_token", json!("</s>")), ("pad_token", Value::Null)]);
    assert_eq!(
        (tokenizer.eos_id(), tokenizer.eos_text(), tokenizer.pad_id()),
        (Some(420), Some("</s>"), None)
    );
    assert_eq!(tokenizer.encode("</s>", false).unwrap(), [420]);
    assert_eq!(tokenizer.vocab_size(), 421);
}

#[test]
fn special_tokens_map_overrides_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), tiny_json()).unwrap();
    std::fs::write(
        dir.path().join("tokenizer_config.json"),
        r#"{"bos_token": "<|im_start|>"}"#,
    )
    .unwrap();
    let map = r#"{"bos_token": "<|endoftext|>", "eos_token": {"content": "<|im_end|>"}}"#;
    std::fs::write(dir.path().join("special_tokens_map.json"), map).unwrap();
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(
        (tokenizer.bos_text(), tokenizer.eos_text()),
        (Some("<|endoftext|>"), Some("<|im_end|>"))
    );
}

#[test]
fn labels_show_what_cannot_be_seen() {
    let tokenizer = tiny();
    let labels = |text: &str| -> Vec<String> {
        tokenizer
            .encode(text, false)
            .unwrap()
            .into_iter()
            .map(|id| tokenizer.token_label(id))
            .collect()
    };
    assert_eq!(labels("<|im_start|>\n\t"), ["<|im_start|>", "⏎", "⇥"]);
    assert_eq!(labels(" the capital").concat(), "␣the␣capital");
    // The four bytes of an emoji that the tiny vocabulary has no token for.
    assert_eq!(labels("🙂"), ["<0xF0>", "<0x9F>", "<0x99>", "<0x82>"]);
    assert_eq!(tokenizer.token_label(9999), "<id 9999>");
}

#[test]
fn every_label_of_a_byte_level_vocabulary_is_printable() {
    let tokenizer = tiny();
    for id in 0..u32::try_from(tokenizer.vocab_size()).unwrap() {
        let label = tokenizer.token_label(id);
        assert!(
            !label.is_empty() && !label.contains(|c: char| c.is_whitespace() || c.is_control()),
            "{id}: {label:?}"
        );
    }
}

#[test]
fn truncation_and_padding_of_the_file_are_ignored() {
    let mut json: Value = serde_json::from_slice(&tiny_json()).unwrap();
    json["truncation"] =
        json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                             "pad_type_id": 0, "pad_token": "<|endoftext|>"});
    let tokenizer = Tokenizer::from_parts(json.to_string().as_bytes(), None, None).unwrap();
    let text = "The capital of France is Paris.";
    assert_eq!(
        tokenizer.encode(text, true).unwrap(),
        tiny().encode(text, true).unwrap()
    );
}

#[test]
fn fingerprints_tell_tokenizers_apart() {
    let bos = with_processor(&expected()["bos_processor"]);
    assert_eq!(tiny().fingerprint(), tiny().fingerprint());
    assert_ne!(tiny().fingerprint(), bos.fingerprint());
    assert_eq!(tiny().fingerprint().len(), 64);
}

#[test]
fn gpt2_opens_from_tokenizer_json_and_from_vocab_and_merges() {
    let Some(gpt2) = shared("data/tokenizer_gpt2") else {
        return;
    };
    let whole = Tokenizer::from_dir(&gpt2).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(gpt2.join(name), dir.path().join(name)).unwrap();
    }
    let parts = Tokenizer::from_dir(dir.path()).unwrap();
    // Known ids of GPT-2.
    assert_eq!(whole.encode("Hello world", true).unwrap(), [15496, 995]);
    assert_eq!(
        (whole.vocab_size(), whole.eos_id(), whole.bos_id()),
        (50257, Some(50256), Some(50256))
    );
    assert_eq!((parts.vocab_size(), parts.eos_id()), (50257, Some(50256)));
    for text in [
        "Don't  stop\n\n now: 12345 naïve 日本 🙂",
        "x<|endoftext|>y",
        "\u{3000}wide\u{a0}",
    ] {
        assert_eq!(
            whole.encode(text, true).unwrap(),
            parts.encode(text, true).unwrap(),
            "{text:?}"
        );
    }
    std::fs::write(
        dir.path().join("tokenizer_config.json"),
        r#"{"add_bos_token": true}"#,
    )
    .unwrap();
    let with_bos = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(
        with_bos.encode("Hello world", true).unwrap(),
        [50256, 15496, 995]
    );
}

#[test]
fn a_directory_without_a_tokenizer_says_what_was_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(matches!(error, TextError::Missing { .. }));
    assert!(
        error
            .to_string()
            .contains("neither tokenizer.json nor vocab.json with merges.txt"),
        "{error}"
    );
}

#[test]
fn broken_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    let message = || Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    write("tokenizer.json", &tiny_json()[..500]);
    assert!(
        message().contains("tokenizer.json is not valid JSON"),
        "{}",
        message()
    );
    write("tokenizer.json", b"{\"model\": {\"type\": \"BPE\"}}");
    assert!(
        message().contains("does not describe a tokenizer"),
        "{}",
        message()
    );
    write("tokenizer.json", b"[1]");
    assert!(
        message().contains("does not describe a tokenizer: it is not an object"),
        "{}",
        message()
    );
    write("tokenizer.json", &tiny_json());
    write("tokenizer_config.json", br#"{"eos_token": 7}"#);
    assert_eq!(
        message(),
        "tokenizer_config.json: `eos_token` should be a string or an object with `content`, found 7"
    );
    write(
        "tokenizer_config.json",
        br#"{"chat_template": "{% for m in messages %}"}"#,
    );
    assert!(
        message().contains("the chat template cannot be compiled"),
        "{}",
        message()
    );
}
