//! Each command once, as a user runs it, on the demo's model.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{rows, text};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn demo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../demo")
}

fn unbraid(words: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_unbraid"))
        .args(words)
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words:?}: {message}");
    output
}

#[test]
fn the_demo_goes_from_nothing_to_a_report() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo");
    unbraid(&["demo", "--output-dir", text(&out)]);
    let run = out.join("run");
    for name in [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "run.yaml",
        "report.html",
    ] {
        assert!(run.join(name).is_file(), "{name}");
    }
    let rows = rows(&run.join("metrics.jsonl"));
    let steps: Vec<&Value> = rows.iter().filter(|r| r.get("loss").is_some()).collect();
    for key in [
        "step",
        "epoch",
        "learning_rate",
        "loss",
        "grad_norm",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
        "logps/rejected",
        "tokens_per_second",
        "geometry/grad_norm_chosen",
        "geometry/grad_norm_rejected",
        "geometry/inner",
        "geometry/cosine",
        "geometry/d_w",
        "geometry/d_l",
        "geometry/ideal",
        "geometry/both_fall",
        "geometry/both_rise",
        "geometry/predicted_chosen",
        "geometry/predicted_rejected",
        "geometry/realised_chosen",
        "geometry/realised_rejected",
    ] {
        assert!(steps[0][key].is_number(), "{key}");
    }
    let held_out: Vec<&Value> = rows
        .iter()
        .filter(|r| r.get("eval_loss").is_some())
        .collect();
    let (first, last) = (held_out[0], held_out[held_out.len() - 1]);
    assert_eq!(first["step"], 0);
    let change = |key: &str| last[key].as_f64().unwrap() - first[key].as_f64().unwrap();
    // What the demo is there to show: the margin grows and chosen falls with rejected.
    assert!(change("eval_rewards/margins") > 0.3);
    assert!(
        change("eval_logps/chosen") < -0.3,
        "{}",
        change("eval_logps/chosen")
    );
    assert!(change("eval_logps/rejected") < -3.0);
    // The written model is the trained one: scoring it gives the last evaluation again.
    let scores = dir.path().join("scores");
    let json = unbraid(&[
        "score",
        "--model-name-or-path",
        text(&run),
        "--dataset-name",
        text(&out.join("data/test.jsonl")),
        "--output-dir",
        text(&scores),
        "--json",
    ]);
    let summary: Value = serde_json::from_slice(&json.stdout).unwrap();
    let again = summary["chosen_logps"].as_f64().unwrap();
    let trained = last["eval_logps/chosen"].as_f64().unwrap();
    assert!((again - trained).abs() < 1e-4, "{again} against {trained}");
}

#[test]
fn score_writes_the_fields_of_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = (demo().join("model"), demo().join("preferences-test.jsonl"));
    unbraid(&[
        "score",
        "--model-name-or-path",
        text(&model),
        "--ref-model",
        text(&model),
        "--dataset-name",
        text(&data),
        "--max-samples",
        "5",
        "--token-logps",
        "--output-dir",
        text(dir.path()),
    ]);
    let rows = rows(&dir.path().join("scores.jsonl"));
    assert_eq!(rows.len(), 5);
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(row["index"], i);
        assert_eq!(row["chosen_logps"], row["ref_chosen_logps"]);
        assert_eq!(row["reward_margin"], 0.0);
        let tokens = row["chosen_token_logps"].as_array().unwrap();
        assert_eq!(tokens.len() as u64, row["chosen_len"].as_u64().unwrap());
        let sum: f64 = tokens.iter().map(|t| t.as_f64().unwrap()).sum();
        assert!((sum - row["chosen_logps"].as_f64().unwrap()).abs() < 1e-9);
    }
}

#[test]
fn generate_inspect_and_objectives_answer() {
    let (model, data) = (demo().join("model"), demo().join("preferences-test.jsonl"));
    let prompt = "The soup was warm and tasty.\nJudgement:";
    let greedy = |_| {
        let output = unbraid(&[
            "generate",
            "--model-name-or-path",
            text(&model),
            "--prompt",
            prompt,
            "--max-new-tokens",
            "16",
        ]);
        String::from_utf8(output.stdout).unwrap()
    };
    let texts: Vec<String> = (0..2).map(greedy).collect();
    assert_eq!(texts[0], texts[1]);
    assert!(texts[0].starts_with(" It "), "{:?}", texts[0]);

    let output = unbraid(&[
        "inspect",
        "--model-name-or-path",
        text(&model),
        "--dataset-name",
        text(&data),
        "--index",
        "3",
        "--json",
    ]);
    let pair: Value = serde_json::from_slice(&output.stdout).unwrap();
    for side in ["chosen", "rejected"] {
        let (ids, mask) = (
            pair[side]["ids"].as_array().unwrap(),
            &pair[side]["completion_mask"],
        );
        let scored = mask.as_array().unwrap().iter().filter(|m| **m == 1).count();
        let prompt_len = pair[side]["prompt_len"].as_u64().unwrap() as usize;
        assert_eq!(scored, ids.len() - prompt_len);
        assert_eq!(ids[ids.len() - 1], 0, "EOS is part of the completion");
    }

    let output = unbraid(&["objectives", "ipo"]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("d_w") && shown.contains("TRL"), "{shown}");
}

/// Two runs give the same model, byte for byte, and an interrupted one saves a checkpoint and exits with 130.
#[cfg(unix)]
#[test]
fn runs_repeat_exactly_and_ctrl_c_saves() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = (demo().join("model"), demo().join("preferences.jsonl"));
    let train = |out: &Path, steps: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_unbraid"));
        command.args([
            "train",
            "--threads",
            "2",
            "--model-name-or-path",
            text(&model),
        ]);
        command.args(["--dataset-name", text(&data), "--output-dir", text(out)]);
        command.args([
            "--learning-rate",
            "1e-4",
            "--max-steps",
            steps,
            "--logging-steps",
            "1",
        ]);
        command.stderr(Stdio::null());
        command
    };
    let outs = ["a", "b"].map(|name| dir.path().join(name));
    for out in &outs {
        assert!(train(out, "5").status().unwrap().success());
    }
    let [a, b] = outs.map(|out| fs::read(out.join("model.safetensors")).unwrap());
    assert!(a == b, "the two models differ");

    let out = dir.path().join("c");
    let mut run = train(&out, "1000000").spawn().unwrap();
    let metrics = out.join("metrics.jsonl");
    while !fs::read_to_string(&metrics).is_ok_and(|t| t.lines().count() > 2) {
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(run.try_wait().unwrap().is_none(), "the run ended too early");
    }
    let pid = run.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(run.wait().unwrap().code(), Some(130));
    let step = rows(&metrics).len();
    let checkpoint = out.join(format!("checkpoint-{step}"));
    assert!(
        checkpoint.join("model.safetensors").is_file(),
        "{}",
        checkpoint.display()
    );
    assert!(checkpoint.join("tokenizer.json").is_file());
    assert!(out.join("report.html").is_file());
}

/// `save_total_limit` counts the run's own checkpoints; an older run's in the same directory are left alone.
/// An epoch that is not finished still ends with an evaluation and a checkpoint.
#[test]
fn checkpoints_of_other_runs_are_left_alone_and_epochs_end() {
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = (demo().join("model"), demo().join("preferences.jsonl"));
    let (out, held_out) = (
        dir.path().join("out"),
        demo().join("preferences-test.jsonl"),
    );
    fs::create_dir_all(out.join("checkpoint-900")).unwrap();
    let common = [
        "--model-name-or-path",
        text(&model),
        "--dataset-name",
        text(&data),
    ];
    let train = |more: &[&str]| {
        let fixed = [
            "train",
            "--overwrite-output-dir",
            "--output-dir",
            text(&out),
        ];
        unbraid(&[&fixed[..], &common, more].concat());
    };
    train(&[
        "--max-steps",
        "3",
        "--save-steps",
        "1",
        "--save-total-limit",
        "1",
    ]);
    assert!(out.join("checkpoint-3").is_dir() && out.join("checkpoint-900").is_dir());
    assert!(!out.join("checkpoint-1").exists() && !out.join("checkpoint-2").exists());
    train(&[
        "--max-steps",
        "2",
        "--eval-strategy",
        "epoch",
        "--save-strategy",
        "epoch",
        "--eval-dataset",
        text(&held_out),
    ]);
    assert!(out.join("checkpoint-2").is_dir());
    let rows = rows(&out.join("metrics.jsonl"));
    assert!(
        rows.iter()
            .any(|r| r["step"] == 2 && r["eval_loss"].is_number())
    );
}

/// `unbraid objectives | head -1`: a reader that goes away is no error.
#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_error() {
    let script = format!(
        "'{}' objectives | true; '{0}' objectives simpo | head -1",
        env!("CARGO_BIN_EXE_unbraid")
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        !message.contains("panicked") && !message.contains("error"),
        "{message}"
    );
}
