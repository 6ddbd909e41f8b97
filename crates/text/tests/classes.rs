//! Tokenizers under many classes and declarations of tokens, against what `transformers` recorded
//! (`parity/classes.py`): ids, named tokens, and the same again after saving.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

mod common;

use std::path::Path;

use common::{ids, tiny_dir};
use serde_json::Value;
use unbraid_text::Tokenizer;

fn record() -> Value {
    let path = tiny_dir().with_file_name("classes.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Writes the files of a case.
fn write(dir: &Path, case: &Value) {
    let base = tiny_dir()
        .with_file_name("families")
        .join(case["base"].as_str().unwrap());
    let json = std::fs::read(base.join("tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_slice(&json).unwrap();
    for (part, value) in case["json"].as_object().unwrap() {
        json[part] = value.clone();
    }
    let put =
        |name: &str, value: &Value| std::fs::write(dir.join(name), value.to_string()).unwrap();
    put("tokenizer.json", &json);
    if !case["config"].is_null() {
        put("tokenizer_config.json", &case["config"]);
    }
    if case["model_type"].is_string() {
        put(
            "config.json",
            &serde_json::json!({"model_type": case["model_type"]}),
        );
    }
    for (name, content) in case["files"].as_object().unwrap() {
        put(name, content);
    }
}

/// Compares a tokenizer with the record of a case; gives the differences.
fn differences(tokenizer: &Tokenizer, case: &Value, record: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let id = |at: usize| {
        case["named"][at]
            .as_u64()
            .map(|id| u32::try_from(id).unwrap())
    };
    let named = [tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()];
    if named != [id(0), id(1), id(2)] {
        wrong.push(format!("named tokens {named:?}, not {}", case["named"]));
    }
    let mixed = record["mixed"][case["base"].as_str().unwrap()]
        .as_array()
        .unwrap();
    let texts = record["texts"].as_array().unwrap().iter().chain(mixed);
    let lists = |key: &str| &record["ids"][usize::try_from(case[key].as_u64().unwrap()).unwrap()];
    for (at, text) in texts.enumerate() {
        let text = text.as_str().unwrap();
        for (add, key) in [(true, "ids"), (false, "plain")] {
            let (got, want) = (tokenizer.encode(text, add).unwrap(), ids(&lists(key)[at]));
            if got != want {
                wrong.push(format!("{text:?} {key}: {got:?}, not {want:?}"));
            }
        }
    }
    let decoded = tokenizer.decode(&ids(&lists("ids")[5]), true).unwrap();
    if decoded != case["decoded"].as_str().unwrap() {
        wrong.push(format!("decoded {decoded:?}, not {}", case["decoded"]));
    }
    wrong
}

#[test]
fn every_class_gives_the_ids_of_transformers() {
    let record = record();
    let cases = record["cases"].as_array().unwrap();
    assert!(cases.len() > 100);
    let mut wrong = Vec::new();
    for case in cases {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), case);
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        let faults = differences(&tokenizer, case, &record);
        wrong.extend(
            faults
                .iter()
                .map(|fault| format!("{}: {fault}", case["name"])),
        );
    }
    assert!(
        wrong.is_empty(),
        "{} differences\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Saved alone, as with an adapter, and beside the same `config.json`, as with a model.
#[test]
fn a_saved_tokenizer_gives_the_same_ids_with_and_without_the_models_config() {
    let record = record();
    let mut wrong = Vec::new();
    for case in record["cases"].as_array().unwrap() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), case);
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        let out = dir.path().join("saved");
        tokenizer.save(&out).unwrap();
        let alone = Tokenizer::from_dir(&out).unwrap();
        let config = dir.path().join("config.json");
        if config.exists() {
            std::fs::copy(config, out.join("config.json")).unwrap();
        }
        let beside = Tokenizer::from_dir(&out).unwrap();
        for (place, saved) in [("alone", alone), ("beside", beside)] {
            let faults = differences(&saved, case, &record);
            wrong.extend(
                faults
                    .iter()
                    .map(|fault| format!("{} {place}: {fault}", case["name"])),
            );
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differences\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// What a class changes in a file is said; what it leaves alone is not worth a word.
#[test]
fn a_class_that_changes_the_pre_tokenizer_is_noted() {
    let record = record();
    let notes = |name: &str| {
        let cases = record["cases"].as_array().unwrap();
        let case = cases.iter().find(|case| case["name"] == name).unwrap();
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), case);
        Tokenizer::from_dir(dir.path()).unwrap().notes().to_vec()
    };
    let lost = notes("digits lost");
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!(
        lost[0].contains("GPT2Tokenizer brings its own normalizer and pre_tokenizer"),
        "{lost:?}"
    );
    for quiet in [
        "gemma",
        "llama {'legacy': False} llama",
        "qwen flags",
        "decoder, qwen",
    ] {
        assert_eq!(notes(quiet), Vec::<String>::new(), "{quiet}");
    }
}

#[test]
fn a_class_that_is_not_rebuilt_here_is_noted() {
    let base = std::fs::read(tiny_dir().join("tokenizer.json")).unwrap();
    let config = serde_json::json!({"tokenizer_class": "T5TokenizerFast"});
    let tokenizer = Tokenizer::from_parts(&base, Some(&config), None).unwrap();
    let [note] = tokenizer.notes() else {
        panic!("{:?}", tokenizer.notes());
    };
    assert!(
        note.contains("taken as it stands") && note.contains("T5Tokenizer"),
        "{note}"
    );
}
