//! Every key of the peers' configurations: handled, refused or told by name; nothing is silently without effect.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use serde_json::{Map, Value, json};
use unbraid::cli::{CliError, Command, Parsed, parse, to_recipe};

const NEEDED: [&str; 5] = [
    "--model-name-or-path=m",
    "--dataset-name=d.jsonl",
    "--output-dir=o",
    "--report-to=none",
    "--device=auto",
];

/// What `tests/fixtures/trl_defaults.py` recorded: configuration → key → default.
fn peers() -> Map<String, Value> {
    let record: Value = serde_json::from_str(include_str!("fixtures/peer_keys.json")).unwrap();
    assert_eq!(
        record["versions"],
        json!({"transformers": "5.23.0", "trl": "1.16.0"})
    );
    record["configs"].as_object().unwrap().clone()
}

fn command(config: &str) -> &str {
    if config == "sft" { "sft" } else { "train" }
}

/// The keys that are named for every run below, so that a value of theirs cannot be told from it.
fn is_given(key: &str) -> bool {
    let needed = NEEDED.iter().map(|word| &word[2..word.find('=').unwrap()]);
    needed
        .into_iter()
        .any(|given| given.replace('-', "_") == key)
}

fn recipe(config: &str, text: &str) -> Result<Parsed, CliError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("recipe.yaml");
    std::fs::write(&path, text).unwrap();
    let words = ["unbraid", command(config), path.to_str().unwrap()];
    parse(words.iter().chain(&NEEDED).map(Into::into))
}

fn resolved(parsed: &Parsed) -> String {
    match &parsed.command {
        Command::Train(config) => to_recipe(config).unwrap(),
        Command::Sft(config) => to_recipe(config).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Values that are not the default.
fn others(default: &Value) -> Vec<&'static str> {
    match default {
        Value::Bool(true) => vec!["false"],
        Value::Bool(false) => vec!["true"],
        Value::Number(_) => vec!["7", "0.25"],
        Value::String(_) => vec!["xyz", "7"],
        Value::Array(_) => vec!["[xyz]", "7"],
        _ => vec!["true", "7", "xyz", "{a: 1}"],
    }
}

#[test]
fn every_default_is_accepted() {
    for (config, keys) in peers() {
        let lines = keys
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, _)| !is_given(key));
        let text: String = lines
            .map(|(key, default)| format!("{key}: {default}\n"))
            .collect();
        // TRL's CPO and ORPO keep their own names of losses.
        let text = text.replace("loss_type: \"kto\"", "loss_type: kto");
        let parsed = recipe(&config, &text).unwrap_or_else(|error| panic!("{config}: {error}"));
        assert!(parsed.notes.len() < 6, "{config}: {:?}", parsed.notes);
    }
}

#[test]
fn no_key_is_silently_without_effect() {
    let (mut handled, mut told, mut refused) = (0, 0, 0);
    for (config, keys) in peers() {
        let plain = resolved(&recipe(&config, "").unwrap());
        for (key, default) in keys
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, _)| !is_given(key))
        {
            for value in others(default) {
                match recipe(&config, &format!("{key}: {value}\n")) {
                    Err(error) => {
                        let message = error.to_string();
                        let named = message.contains(key.as_str())
                            || (key == "activation_checkpointing"
                                && message.contains("gradient_checkpointing"));
                        assert!(
                            named && !message.contains("unknown key"),
                            "{config}: {key}: {value}: {message}"
                        );
                        refused += 1;
                    }
                    Ok(parsed) if parsed.notes.iter().any(|note| note.contains(key.as_str())) => {
                        told += 1
                    }
                    Ok(parsed) => {
                        // What is the default there may be another value here (gradient_checkpointing).
                        let usual = recipe(&config, &format!("{key}: {default}\n"));
                        let usual =
                            usual.map_or_else(|_| plain.clone(), |parsed| resolved(&parsed));
                        let changed = resolved(&parsed) != plain || resolved(&parsed) != usual;
                        // A word of a list or a number may be the default here, as `7` of none.
                        let same = ["0.25", "7"].contains(&value) && !default.is_null();
                        assert!(
                            changed || same,
                            "{config}: {key}: {value} is without effect and without a word"
                        );
                        handled += 1;
                    }
                }
            }
        }
    }
    assert!(
        handled > 100 && told > 100 && refused > 100,
        "{handled}, {told}, {refused}"
    );
}

#[test]
fn what_does_not_happen_here_is_refused_with_a_reason_and_a_way_out() {
    for (key, value) in [
        ("push_to_hub", "true"),
        ("deepspeed", "ds_config.json"),
        ("deepspeed", "{zero_optimization: {stage: 3}}"),
        ("fsdp", "full_shard auto_wrap"),
        ("fp16", "true"),
        ("fp16_full_eval", "true"),
        ("bf16_full_eval", "true"),
        ("tpu_num_cores", "8"),
        ("data_seed", "7"),
        ("dataset_streaming", "true"),
        ("parallelism_config", "{tp_size: 2}"),
        ("attn_implementation", "linear"),
        ("local_rank", "1"),
        ("lora_task_type", "SEQ_CLS"),
        ("save_safetensors", "false"),
        ("generate_during_eval", "true"),
        ("is_encoder_decoder", "true"),
    ] {
        for config in ["dpo", "sft"] {
            let error = recipe(config, &format!("{key}: {value}\n")).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let message = error.to_string();
            assert!(
                message.contains(&format!("recipe.yaml:1: {key} = "))
                    && message.contains(" is refused: ")
                    && message.contains("\nhint: "),
                "{message}"
            );
        }
    }
    for (key, value) in [
        ("push_to_hub", "false"),
        ("deepspeed", "null"),
        ("fsdp", "\"\""),
        ("fsdp", "[]"),
        ("model_init_kwargs", "{}"),
        ("data_seed", "42"),
        ("attn_implementation", "flash_attention_2"),
        ("local_rank", "-1"),
        ("use_cpu", "false"),
        ("trust_remote_code", "false"),
    ] {
        let parsed = recipe("dpo", &format!("{key}: {value}\n")).unwrap();
        assert!(parsed.notes.is_empty(), "{key}: {:?}", parsed.notes);
    }
}

#[test]
fn the_cpu_by_its_old_names_is_a_device() {
    let line = |words: &[&str]| {
        parse(
            ["unbraid", "train"]
                .iter()
                .chain(&NEEDED[..4])
                .chain(words)
                .map(Into::into),
        )
    };
    for words in [
        &["--use_cpu"][..],
        &["--no_cuda", "true"],
        &["--use_cpu", "--device", "auto"],
    ] {
        let Command::Train(config) = line(words).unwrap().command else {
            panic!("not train")
        };
        assert_eq!(config.model.device, unbraid::cli::Device::Cpu, "{words:?}");
    }
    let error = line(&["--use_cpu", "--device", "cuda:1"])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("use_cpu is true, but device is cuda:1"),
        "{error}"
    );
}
