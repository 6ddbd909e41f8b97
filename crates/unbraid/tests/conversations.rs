//! The binary on rows of conversations: tools and template arguments reach the prompt in every command, and rows with
//! pictures are refused by every command.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{demo, done, refused, rows, text};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TEMPLATE: &str = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}{{ m | tojson }}\n\
                        {% endfor %}{% if add_generation_prompt %}{{ style }}: {% endif %}";

/// The demo's model with a chat template that shows all it is given.
fn model(dir: &Path) -> PathBuf {
    let model = dir.join("model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(demo("model")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    fs::write(model.join("chat_template.jinja"), TEMPLATE).unwrap();
    model
}

fn file(dir: &Path, name: &str, rows: &[Value]) -> PathBuf {
    let path = dir.join(name);
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    path
}

fn unbraid(command: &str, model: &Path, data: &Path) -> Command {
    let mut process = Command::new(env!("CARGO_BIN_EXE_unbraid"));
    process
        .args([command, "--model-name-or-path", text(model)])
        .args(["--dataset-name", text(data)])
        .env("UNBRAID_CACHE", model.parent().unwrap().join("cache"));
    process
}

fn said_of(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Two rows that differ in what their template is given, and in nothing else.
fn pairs() -> [Value; 2] {
    let pair = |town: &str, tool: Value, style: &str| {
        json!({
            "prompt": [{"role": "user", "content": "Rain?"}],
            "chosen": [{"role": "assistant", "content": null, "tool_calls": [{"function": {"arguments": {"town": town}}}]}],
            "rejected": [{"role": "assistant", "content": "Yes."}],
            "tools": tool,
            "chat_template_kwargs": {"style": style},
        })
    };
    let tools = json!([{"name": "rain"}]);
    [
        pair("Bern", tools.clone(), "A"),
        pair("Bern", json!(tools.to_string()), "A"),
    ]
}

#[test]
fn tools_and_arguments_reach_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let data = file(dir.path(), "pairs.jsonl", &pairs());
    let tokens = |pair: &Value, side: &str| -> String {
        let labels = pair[side]["tokens"].as_array().unwrap().iter();
        labels.map(|label| label.as_str().unwrap()).collect()
    };
    let shown = said_of(unbraid("inspect", &model, &data).arg("--json"));
    let chosen = tokens(&shown, "chosen");
    assert!(
        chosen.starts_with("{\"name\":␣\"rain\"}{\"role\":␣\"user\""),
        "{chosen}"
    );
    assert!(
        chosen.contains("\"tool_calls\":␣[{\"function\":␣{\"arguments\":␣{\"town\":␣\"Bern\"}"),
        "{chosen}"
    );
    assert!(!chosen.contains("content\":␣null"), "{chosen}");

    // As a list and as its JSON text, the tools are the same.
    let out = dir.path().join("scores");
    done(unbraid("score", &model, &data).args(["--output-dir", text(&out), "--threads", "1"]));
    let scores = rows(&out.join("scores.jsonl"));
    assert_eq!(scores[0]["chosen_logps"], scores[1]["chosen_logps"]);
    assert_eq!(scores[0]["chosen_len"], scores[1]["chosen_len"]);

    let mut generate = unbraid("generate", &model, &data);
    let generated = generate
        .args(["--json", "--max-new-tokens", "1"])
        .output()
        .unwrap();
    let first: Value =
        serde_json::from_slice(generated.stdout.split(|&b| b == b'\n').next().unwrap()).unwrap();
    let prompt = first["prompt"].as_str().unwrap();
    assert!(
        prompt.starts_with("{\"name\": \"rain\"}") && prompt.ends_with("A: "),
        "{prompt}"
    );
}

#[test]
fn training_takes_rows_with_tools() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let quick = [
        "--max-steps",
        "1",
        "--threads",
        "1",
        "--per-device-train-batch-size",
        "2",
        "--max-length",
        "1024",
    ];
    let data = file(dir.path(), "pairs.jsonl", &pairs());
    let out = dir.path().join("dpo");
    done(
        unbraid("train", &model, &data)
            .args(["--output-dir", text(&out), "--geometry", "off"])
            .args(quick),
    );

    let judged: Vec<Value> = pairs()
        .into_iter()
        .zip([true, false])
        .map(|(row, label)| {
            json!({"prompt": row["prompt"], "completion": row["chosen"], "label": label, "tools": row["tools"]})
        })
        .collect();
    let data = file(dir.path(), "judged.jsonl", &judged);
    let out = dir.path().join("kto");
    done(
        unbraid("train", &model, &data)
            .args(["--output-dir", text(&out), "--loss-type", "kto"])
            .args(quick),
    );

    let messages: Vec<Value> = pairs()
        .into_iter()
        .map(|row| {
            let turns: Vec<Value> = [&row["prompt"][0], &row["chosen"][0]].map(Value::clone).into();
            json!({"messages": turns, "tools": row["tools"], "chat_template_kwargs": {"style": "B"}})
        })
        .collect();
    let data = file(dir.path(), "messages.jsonl", &messages);
    let out = dir.path().join("sft");
    done(
        unbraid("sft", &model, &data)
            .args(["--output-dir", text(&out)])
            .args(quick),
    );
}

#[test]
fn pictures_are_refused_by_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let mut row = pairs()[0].clone();
    row["images"] = json!(["a.png"]);
    let data = file(dir.path(), "pairs.jsonl", &[row]);
    for command in [
        "train", "score", "diagnose", "inspect", "plan", "sft", "generate",
    ] {
        let out = dir.path().join(command);
        let mut process = unbraid(command, &model, &data);
        if !matches!(command, "inspect" | "plan" | "generate") {
            process.args(["--output-dir", text(&out)]);
        }
        refused(
            &mut process,
            1,
            &["pairs.jsonl:1: column `images`", "hint: "],
        );
        assert!(!out.join("model.safetensors").exists(), "{command}");
    }
}
