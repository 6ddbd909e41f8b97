//! Bad input, as a user meets it: one clear message with what, where and a hint; exit code 1; nothing half-written.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn demo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../demo")
}

/// A copy of the demo's model that a test may damage.
fn model(dir: &Path) -> PathBuf {
    let to = dir.join("model");
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(demo().join("model")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

fn data(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("pairs.jsonl");
    fs::write(&path, text).unwrap();
    path
}

const PAIR: &str = r#"{"prompt":"The soup was warm.\nJudgement:","chosen":" It has a positive sentiment.","rejected":" It has a negative sentiment."}"#;

fn unbraid(arguments: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unbraid"));
    command.args(arguments);
    for (option, path) in paths {
        command.arg(option).arg(path);
    }
    command.output().unwrap()
}

/// Runs `score` and returns its message; it must fail with exit code 1 and leave no output behind.
fn score_fails(dir: &Path, model: &Path, data: &Path, more: &[&str]) -> String {
    let out = dir.join("out");
    let mut arguments = vec!["score"];
    arguments.extend(more);
    let paths = [
        ("--model-name-or-path", model),
        ("--dataset-name", data),
        ("--output-dir", &*out),
    ];
    let output = unbraid(&arguments, &paths);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(!out.exists(), "nothing may be written");
    assert!(!message.contains("panicked"), "{message}");
    message
}

fn train(dir: &Path, model: &Path, data: &Path, more: &[&str]) -> Output {
    let out = dir.join("out");
    let mut arguments = vec![
        "train",
        "--threads",
        "1",
        "--logging-steps",
        "1",
        "--geometry",
        "off",
    ];
    arguments.extend(more);
    let paths = [
        ("--model-name-or-path", model),
        ("--dataset-name", data),
        ("--output-dir", &*out),
    ];
    unbraid(&arguments, &paths)
}

#[track_caller]
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

fn edit_config(model: &Path, from: &str, to: &str) {
    let path = model.join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn a_missing_tensor_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = (model(dir.path()), data(dir.path(), PAIR));
    edit_config(
        &model,
        "\"num_hidden_layers\": 4",
        "\"num_hidden_layers\": 5",
    );
    let message = score_fails(dir.path(), &model, &data, &[]);
    says(&message, &["model.layers.4.", "is missing"]);
}

#[test]
fn a_wrong_shape_is_named_with_both_shapes() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = (model(dir.path()), data(dir.path(), PAIR));
    edit_config(
        &model,
        "\"intermediate_size\": 256",
        "\"intermediate_size\": 255",
    );
    let message = score_fails(dir.path(), &model, &data, &[]);
    says(&message, &["model.layers.0.mlp.", "255", "256"]);
}

#[test]
fn truncated_weights_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = (model(dir.path()), data(dir.path(), PAIR));
    let path = model.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let message = score_fails(dir.path(), &model, &data, &[]);
    says(&message, &["model.safetensors", "truncated"]);
}

#[test]
fn a_truncated_gguf_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path(), PAIR);
    let path = dir.path().join("model.gguf");
    fs::write(&path, b"GGUF\x03\0\0\0\xff\xff\xff\xff").unwrap();
    says(&score_fails(dir.path(), &path, &data, &[]), &["model.gguf"]);
    // Huge declared counts: 2⁶⁴ − 1 tensors.
    let mut header = b"GGUF\x03\0\0\0".to_vec();
    header.extend([0xff; 16]);
    fs::write(&path, header).unwrap();
    says(&score_fails(dir.path(), &path, &data, &[]), &["model.gguf"]);
}

#[test]
fn weights_that_are_not_numbers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = (model(dir.path()), data(dir.path(), PAIR));
    let path = model.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&0x7fc0u16.to_le_bytes()); // a bf16 NaN
    fs::write(&path, bytes).unwrap();
    says(
        &score_fails(dir.path(), &model, &data, &[]),
        &["NaN", "model."],
    );
}

#[test]
fn an_unsupported_architecture_lists_the_supported_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = (model(dir.path()), data(dir.path(), PAIR));
    edit_config(&model, "LlamaForCausalLM", "BertForMaskedLM");
    edit_config(&model, "\"llama\"", "\"bert\"");
    says(
        &score_fails(dir.path(), &model, &data, &[]),
        &["ert", "hint: supported are", "gpt2", "llama"],
    );
}

#[test]
fn a_malformed_line_is_named_with_file_and_number() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let data = data(
        dir.path(),
        &format!("{PAIR}\n{{\"prompt\": \"x\", \n{PAIR}\n"),
    );
    says(
        &score_fails(dir.path(), &model, &data, &[]),
        &["pairs.jsonl:2"],
    );
}

#[test]
fn an_empty_data_set_and_a_truncated_parquet_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let empty = data(dir.path(), "");
    says(
        &score_fails(dir.path(), &model, &empty, &[]),
        &["pairs.jsonl"],
    );
    let parquet = dir.path().join("pairs.parquet");
    fs::write(&parquet, b"PAR1\x15\x04\x15PAR1").unwrap();
    says(
        &score_fails(dir.path(), &model, &parquet, &[]),
        &["pairs.parquet"],
    );
}

#[test]
fn empty_completions_and_long_prompts_are_dropped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let empty = PAIR.replace(" It has a negative sentiment.", "");
    let long = PAIR.replace("The soup was warm.", &"The soup was warm. ".repeat(20));
    let pairs = data(dir.path(), &format!("{PAIR}\n{empty}\n{long}\n"));
    let out = dir.path().join("out");
    let paths = [
        ("--model-name-or-path", &*model),
        ("--dataset-name", &*pairs),
        ("--output-dir", &*out),
    ];
    let output = unbraid(&["score", "--max-length", "60"], &paths);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{message}");
    says(
        &message,
        &[
            "1 of 3 pairs dropped: a completion is empty",
            "1 of 3 pairs dropped: the prompt alone fills",
        ],
    );
    let rows = fs::read_to_string(out.join("scores.jsonl")).unwrap();
    assert_eq!(rows.lines().count(), 1);
    // With nothing left the run fails instead of writing an empty file.
    fs::remove_dir_all(&out).unwrap();
    let all_empty = data(dir.path(), &empty);
    says(
        &score_fails(dir.path(), &model, &all_empty, &[]),
        &["empty"],
    );
}

#[test]
fn identical_completions_are_kept_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let same = PAIR.replace("negative", "positive");
    let pairs = data(dir.path(), &same);
    let output = train(dir.path(), &model, &pairs, &["--max-steps", "1"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{message}");
    says(&message, &["identical chosen and rejected"]);
}

#[test]
fn sequences_longer_than_a_rotary_model_was_trained_for_are_noted() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let long = PAIR.replace("The soup was warm.", &"The soup was warm. ".repeat(60));
    let data = data(dir.path(), &long);
    let out = dir.path().join("out");
    let paths = [
        ("--model-name-or-path", &*model),
        ("--dataset-name", &*data),
        ("--output-dir", &*out),
    ];
    let output = unbraid(&["score", "--max-length", "1000"], &paths);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let note = "are longer than the model's max_position_embeddings (128), which it was not trained for; --max-length 128 cuts them";
    assert!(said.contains(note), "{said}");
}

#[test]
fn a_model_that_is_not_there_and_a_hub_that_is_not_reachable() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path(), PAIR);
    let missing = dir.path().join("nowhere");
    says(
        &score_fails(dir.path(), &missing, &data, &[]),
        &["no such file", "hint:"],
    );
    let output = Command::new(env!("CARGO_BIN_EXE_unbraid"))
        .args([
            "score",
            "--model-name-or-path",
            "some-org/some-model",
            "--output-dir",
        ])
        .arg(dir.path().join("out"))
        .arg("--dataset-name")
        .arg(&data)
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    says(
        &String::from_utf8_lossy(&output.stderr),
        &["some-org/some-model", "hint:"],
    );
}

#[test]
fn an_output_directory_in_use_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = (model(dir.path()), data(dir.path(), PAIR));
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("precious"), "x").unwrap();
    let output = train(dir.path(), &model, &data, &["--max-steps", "1"]);
    assert_eq!(output.status.code(), Some(1));
    says(
        &String::from_utf8_lossy(&output.stderr),
        &["is not empty", "hint:", "--overwrite-output-dir"],
    );
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

/// Warm-up makes the first step's rate 0, so checkpoint-1 is good; the second step ruins the model. Saving it is
/// refused, or, when nothing is saved there, the third step stops. A rate of 1e38 with as much decay is infinite in f32,
/// which makes the loss NaN; 1e38 alone leaves a finite loss (the norms flatten everything) with a gradient that is not.
#[test]
fn what_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint() {
    let cases = [
        (
            "decay",
            "1",
            vec!["is not finite after step 2", "checkpoint-1"],
        ),
        (
            "decay",
            "9",
            vec!["loss is NaN at step 3", "training rows 0 "],
        ),
        (
            "none",
            "9",
            vec!["gradient norm is NaN at step 3", "training rows 0 "],
        ),
    ];
    for (decay, save_steps, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (model, data) = (model(dir.path()), data(dir.path(), PAIR));
        let mut options = vec![
            "--max-steps",
            "9",
            "--learning-rate",
            "1e38",
            "--optim",
            "sgd",
        ];
        options.extend(["--save-steps", save_steps, "--warmup-steps", "2"]);
        options.extend(["--max-grad-norm", "0"]);
        if decay == "decay" {
            options.extend(["--weight-decay", "1e38"]);
        }
        let output = train(dir.path(), &model, &data, &options);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        says(&message, &expected);
        says(&message, &["hint:"]);
        let out = dir.path().join("out");
        let good = out.join("checkpoint-1/model.safetensors");
        assert_eq!(good.is_file(), save_steps == "1");
        assert!(!out.join("checkpoint-2").exists() && !out.join("model.safetensors").exists());
        let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        assert_eq!(metrics.lines().count(), 2);
    }
}

/// A file-size limit of 64 KiB stands in for a full disk: writing the model fails half-way.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = (model(dir.path()), data(dir.path(), PAIR));
    let out = dir.path().join("out");
    let script = format!(
        "trap '' XFSZ; ulimit -f 128; exec '{}' train --threads 1 --max-steps 1 --geometry off \
         --model-name-or-path '{}' --dataset-name '{}' --output-dir '{}'",
        env!("CARGO_BIN_EXE_unbraid"),
        model.display(),
        data.display(),
        out.display()
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    says(&message, &["cannot", "model.safetensors"]);
    let left: Vec<String> = fs::read_dir(&out)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("safetensors"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn wrong_usage_exits_with_2() {
    let output = unbraid(&["train", "--learning-rat", "1"], &[]);
    assert_eq!(output.status.code(), Some(2));
    says(
        &String::from_utf8_lossy(&output.stderr),
        &["learning-rat", "learning-rate"],
    );
}
