//! What a run logs, evaluates and saves, against TRL's trainers on the same model, data and options: `parity/loop`, written by its
//! `generate.py`. No size of a batch divides the data there.
//!
//! Tolerance: 2e-4 of 1 + value. TRL computes in f32, and five AdamW steps at 1e-3 multiply the rounding of a first moment.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{demo, done, refused, rows, text};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn golden() -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/loop/golden.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn case<'g>(golden: &'g Value, name: &str) -> &'g Value {
    let cases = golden["cases"].as_array().unwrap();
    cases.iter().find(|case| case["name"] == name).unwrap()
}

fn write_rows(path: &Path, rows: &Value) {
    let lines = rows.as_array().unwrap().iter();
    fs::write(
        path,
        lines.map(|row| format!("{row}\n")).collect::<String>(),
    )
    .unwrap();
}

/// The binary with a case's options, its output in `dir`/out.
fn command(golden: &Value, case: &Value, dir: &Path) -> Command {
    let data = &golden["data"][case["data"].as_str().unwrap()];
    let files = ["train", "eval"].map(|split| {
        let path = dir.join(format!("{split}.jsonl"));
        write_rows(&path, &data[split]);
        path
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_unbraid"));
    command
        .arg(case["command"].as_str().unwrap())
        .args([
            "--model-name-or-path",
            case["model"].as_str().unwrap_or(&demo("model")),
        ])
        .args(["--dataset-name", text(&files[0])])
        .args(["--eval-dataset", text(&files[1])])
        .args(["--output-dir", text(&dir.join("out")), "--threads", "1"])
        .args(["--dtype", "float32", "--geometry", "off"])
        .env("UNBRAID_CACHE", dir.join("cache"));
    for (key, value) in case["options"].as_object().unwrap() {
        let value = value.as_str().map_or(value.to_string(), str::to_owned);
        command.args([format!("--{key}"), value]);
    }
    command
}

/// Every row and checkpoint of a case that TRL has.
fn check(name: &str) {
    let golden = golden();
    let case = case(&golden, name);
    let dir = tempfile::tempdir().unwrap();
    done(&mut command(&golden, case, dir.path()));
    let out = dir.path().join("out");
    let got = rows(&out.join("metrics.jsonl"));
    let wanted = case["rows"].as_array().unwrap();
    assert!(wanted.len() >= 3, "{name}: {wanted:?}");
    for want in wanted {
        let prefix = if want["eval"] == true { "eval_" } else { "" };
        let loss = format!("{prefix}loss");
        let row = got
            .iter()
            .find(|row| row["step"] == want["step"] && row.get(&loss).is_some());
        let row = row.unwrap_or_else(|| panic!("{name}: no row like {want}"));
        let values = want["values"].as_object().unwrap().iter();
        let values = values.map(|(key, value)| (format!("{prefix}{key}"), value));
        for (key, value) in values.chain([("epoch".to_owned(), &want["epoch"])]) {
            let (value, own) = (value.as_f64().unwrap(), row[&key].as_f64());
            let own = own.unwrap_or_else(|| panic!("{name}: no {key} in {row}"));
            assert!(
                (own - value).abs() < 2e-4 * (1.0 + value.abs()),
                "{name}, step {}: {key} {own}, TRL {value}",
                want["step"]
            );
        }
    }
    // No evaluation but TRL's.
    let steps = |rows: &[Value], evaluated: &dyn Fn(&Value) -> bool| -> Vec<u64> {
        let evaluated = rows.iter().filter(|row| evaluated(row));
        evaluated.map(|row| row["step"].as_u64().unwrap()).collect()
    };
    assert_eq!(
        steps(&got, &|row| row.get("eval_loss").is_some()),
        steps(wanted, &|row| row["eval"] == true),
        "{name}"
    );
    let mut saved: Vec<u64> = fs::read_dir(&out)
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_prefix("checkpoint-")?.parse().ok()
        })
        .collect();
    saved.sort_unstable();
    assert_eq!(json!(saved), case["checkpoints"], "{name}");
    if !case["best"].is_null() {
        let state = fs::read(out.join("trainer_state.json")).unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap();
        assert_eq!(state["best_global_step"], case["best"], "{name}");
    }
}

#[test]
fn a_ragged_dpo_run_with_the_best_checkpoint() {
    check("dpo");
}

#[test]
fn epochs_that_steps_do_not_fill() {
    check("dpo_epochs");
}

#[test]
fn length_desensitized_log_probs() {
    check("ld");
}

#[test]
fn rewards_of_the_likelihood_alone_are_relative_to_the_reference() {
    check("sft_loss");
}

#[test]
fn evaluation_batches_of_an_objective_that_sorts_them() {
    check("aot");
}

#[test]
fn a_weighted_sum() {
    check("weighted");
}

#[test]
fn kto_on_judged_completions() {
    check("kto");
}

#[test]
fn fine_tuning() {
    check("sft");
}

/// KTO's mismatched completions are those of the file's batches: the order is the file's without a word, and no other is taken.
#[test]
fn kto_takes_the_files_order_and_no_other() {
    let golden = golden();
    let mut case = case(&golden, "kto").clone();
    let options = case["options"].as_object_mut().unwrap();
    options.remove("train_sampling_strategy");
    let run = |case: &Value| {
        let dir = tempfile::tempdir().unwrap();
        done(&mut command(&golden, case, dir.path()));
        let rows = rows(&dir.path().join("out/metrics.jsonl"));
        let values = rows
            .into_iter()
            .map(|row| (row["step"].clone(), row["kl"].clone()));
        values.collect::<Vec<_>>()
    };
    let by_default = run(&case);
    case["options"]["train_sampling_strategy"] = json!("sequential");
    assert_eq!(run(&case), by_default);
    for (key, value, parts) in [
        (
            "train_sampling_strategy",
            json!("random"),
            ["random", "neighbour"],
        ),
        (
            "train_sampling_strategy",
            json!("group_by_length"),
            ["group_by_length", "neighbour"],
        ),
        (
            "per_device_train_batch_size",
            json!(1),
            [
                "per_device_train_batch_size 1",
                "gradient_accumulation_steps",
            ],
        ),
    ] {
        let mut case = case.clone();
        case["options"][key] = value;
        let dir = tempfile::tempdir().unwrap();
        refused(&mut command(&golden, &case, dir.path()), 2, &parts);
        assert!(!dir.path().join("out").exists());
    }
}

/// EXO's target is infinite without smoothing. Unsaid, it is the paper's, and a note says so.
#[test]
fn exo_pair_refuses_no_smoothing() {
    let golden = golden();
    let mut case = case(&golden, "dpo").clone();
    case["options"] = json!({"loss_type": "exo_pair", "max_steps": 1, "save_strategy": "no", "label_smoothing": 0});
    let dir = tempfile::tempdir().unwrap();
    refused(
        &mut command(&golden, &case, dir.path()),
        2,
        &["label_smoothing", "exo_pair", "1e-3"],
    );
    case["options"]
        .as_object_mut()
        .unwrap()
        .remove("label_smoothing");
    let said = done(&mut command(&golden, &case, dir.path()));
    assert!(said.contains("label_smoothing is 0.001"), "{said}");
}

/// A model with dropout in its configuration: `sft` trains with it, as TRL; `train` without, unless it is told to.
#[test]
fn a_models_dropout_acts_where_trl_lets_it() {
    let golden = golden();
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    fs::create_dir(&model).unwrap();
    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        fs::copy(Path::new(&demo("model")).join(file), model.join(file)).unwrap();
    }
    let plain = fs::read_to_string(model.join("config.json")).unwrap();
    let dropping = plain.replace("\"attention_dropout\": 0.0", "\"attention_dropout\": 0.4");
    assert_ne!(plain, dropping);
    fs::write(model.join("config.json"), dropping).unwrap();
    let first_loss = |name: &str, changes: Value, model: Option<&Path>| {
        let mut case = case(&golden, name).clone();
        case["options"] = json!({"max_steps": 2, "logging_steps": 1, "save_strategy": "no",
            "train_sampling_strategy": "sequential", "per_device_train_batch_size": 4});
        for (key, value) in changes.as_object().unwrap() {
            case["options"][key] = value.clone();
        }
        let dir = tempfile::tempdir().unwrap();
        if let Some(model) = model {
            case["model"] = json!(text(model));
        }
        let said = done(&mut command(&golden, &case, dir.path()));
        let rows = rows(&dir.path().join("out/metrics.jsonl"));
        (
            rows.iter()
                .map(|row| row["loss"].to_string())
                .collect::<Vec<_>>(),
            said,
        )
    };
    let (drops, nothing) = (Some(&*model), json!({}));
    let (plain, _) = first_loss("sft", nothing.clone(), None);
    let (dropped, _) = first_loss("sft", nothing.clone(), drops);
    assert!(
        plain.iter().zip(&dropped).all(|(a, b)| a != b),
        "{plain:?} {dropped:?}"
    );
    assert_eq!(
        first_loss("sft", nothing.clone(), drops).0,
        dropped,
        "the same seed drops the same"
    );
    assert_ne!(first_loss("sft", json!({"seed": 1}), drops).0, dropped);

    let (plain, _) = first_loss("dpo", nothing.clone(), None);
    let (off, said) = first_loss("dpo", nothing.clone(), drops);
    assert_eq!(off, plain, "disable_dropout is the default");
    assert!(said.contains("attention_dropout 0.4"), "{said}");
    let (on, _) = first_loss("dpo", json!({"disable_dropout": false}), drops);
    assert_ne!(on, plain);

    // An adapter's dropout is the same matter.
    let lora = |more: Value| {
        let mut options = json!({"use_peft": true, "lora_dropout": 0.4});
        for (key, value) in more.as_object().unwrap() {
            options[key] = value.clone();
        }
        first_loss("dpo", options, None)
    };
    let (without, said) = lora(nothing);
    assert!(
        said.contains("lora_dropout: no effect with disable_dropout"),
        "{said}"
    );
    assert_eq!(lora(json!({"lora_dropout": 0})).0, without);
    assert_ne!(lora(json!({"disable_dropout": false})).0, without);
}
