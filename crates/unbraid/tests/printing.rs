//! What is printed where: people's lines that nobody takes are dropped, data that cannot be written is an error, and no text
//! of a file commands the terminal.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{demo, run, text, train};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

fn unbraid(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unbraid"));
    command.args(words).env("UNBRAID_CACHE", dir.join("cache"));
    command
}

fn full() -> Stdio {
    File::options()
        .write(true)
        .open("/dev/full")
        .unwrap()
        .into()
}

/// A pipe whose reader has gone.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_log_that_nobody_takes_costs_no_run() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name);
    let measuring = |command: &str, out: &Path| {
        let mut command = unbraid(dir.path(), &[command, "--threads", "1"]);
        command
            .args(["--model-name-or-path", &demo("model"), "--max-samples", "4"])
            .args(["--dataset-name", &demo("preferences.jsonl")])
            .args(["--output-dir", text(out)]);
        command
    };
    for (name, log) in [("full", full as fn() -> Stdio), ("closed", closed)] {
        let (a, b, c) = (out("train"), out("score"), out("diagnose"));
        let results = [
            (train(&a, &[]), a.join("report.html")),
            (measuring("score", &b), b.join("scores.jsonl")),
            (measuring("diagnose", &c), c.join("report.html")),
        ];
        for (mut command, result) in results {
            let status = command.stderr(log()).stdout(Stdio::null()).status();
            assert_eq!(status.unwrap().code(), Some(0), "{name}: {command:?}");
            assert!(result.is_file(), "{name}: {}", result.display());
        }
        for dir in [a, b, c] {
            fs::remove_dir_all(dir).unwrap();
        }
    }
    // An error nobody reads is one all the same.
    let mut command = unbraid(dir.path(), &["score", "--dataset-name", "nowhere.jsonl"]);
    command
        .args(["--model-name-or-path", &demo("model")])
        .args(["--output-dir", text(&out("x"))]);
    assert_eq!(command.stderr(closed()).status().unwrap().code(), Some(1));
}

#[test]
fn data_that_cannot_be_written_is_an_error_unless_its_reader_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let model = demo("model");
    let commands: [&[&str]; 4] = [
        &["objectives"],
        &["objectives", "--json"],
        &["train", "--help"],
        &["generate", "--model-name-or-path", &model, "--prompt", "a"],
    ];
    for words in commands {
        let (output, said) = run(unbraid(dir.path(), words).stdout(full()));
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        assert!(
            said.contains("error: cannot write to stdout: ") && said.contains("No space left"),
            "{words:?}: {said}"
        );
        let (output, said) = run(unbraid(dir.path(), words).stdout(closed()));
        assert_eq!(output.status.code(), Some(0), "{words:?}: {said}");
    }
}

/// A model directory whose tokenizer names a special token, and whose template says something.
fn model_with(dir: &Path, token: &str, template: &str) {
    fs::create_dir_all(dir).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer_config.json"] {
        fs::copy(Path::new(&demo("model")).join(name), dir.join(name)).unwrap();
    }
    let bytes = fs::read(Path::new(&demo("model")).join("tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&bytes).unwrap();
    let known = tokenizer["added_tokens"].as_array_mut().unwrap();
    let mut renamed = known[0].clone();
    renamed["content"] = token.into();
    renamed["special"] = true.into();
    // Under an id of the vocabulary's, which thereby gets another name.
    let id = tokenizer["model"]["vocab"].as_object().unwrap().len() - 1;
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let name = vocab
        .iter()
        .find(|(_, v)| **v == json!(id))
        .map(|(k, _)| k.clone());
    let name = name.unwrap();
    vocab.remove(&name);
    let merges = tokenizer["model"]["merges"].as_array_mut().unwrap();
    merges.retain(|merge| match merge {
        Value::String(pair) => pair.replace(' ', "") != name,
        pair => {
            pair.as_array()
                .unwrap()
                .iter()
                .filter_map(Value::as_str)
                .collect::<String>()
                != name
        }
    });
    renamed["id"] = id.into();
    let known = tokenizer["added_tokens"].as_array_mut().unwrap();
    known.push(renamed);
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(dir.join("chat_template.jinja"), template).unwrap();
}

#[test]
fn no_text_of_a_file_commands_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let token = "\u{1b}]0;owned\u{7}\u{1b}[31mred\u{202e}";
    model_with(
        &path("model"),
        token,
        "{{ raise_exception('\\x1b[31m' ~ '\\u202e') }}",
    );
    let row = json!({ "prompt": "Hi", "chosen": format!(" a {token} b"), "rejected": " c" });
    fs::write(path("pairs.jsonl"), format!("{row}\n")).unwrap();
    let chat = |text: &str| json!([{ "role": "user", "content": text }]);
    let row = json!({ "prompt": chat("p"), "chosen": chat("c"), "rejected": chat("r") });
    fs::write(path("chat.jsonl"), format!("{row}\n")).unwrap();
    fs::write(
        path("keys.jsonl"),
        "{\"a\\u001b[31m\\u202e\": 1, \"prompt\": \"p\"}\n",
    )
    .unwrap();
    fs::write(
        path("keys.csv"),
        "prompt,\u{1b}[31mchosen\u{202e},x\n1,2,3\n",
    )
    .unwrap();
    fs::write(path("recipe.yaml"), "beta: \"\\e[31m\\u202e\"\n").unwrap();
    fs::create_dir(path("adapter")).unwrap();
    fs::write(
        path("adapter/adapter_config.json"),
        json!({ "peft_type": "LORA", "base_model_name_or_path": "\u{1b}[31m/\u{202e}", "r": 1 })
            .to_string(),
    )
    .unwrap();
    fs::write(path("adapter/adapter_model.safetensors"), "").unwrap();
    let model = path("model");
    let (demo_model, adapter) = (demo("model"), path("adapter"));
    let cases: [(&str, &str, &str, i32); 5] = [
        ("inspect", text(&model), "pairs.jsonl", 0),
        ("inspect", text(&model), "chat.jsonl", 1),
        ("score", &demo_model, "keys.jsonl", 1),
        ("score", &demo_model, "keys.csv", 1),
        ("score", text(&adapter), "pairs.jsonl", 1),
    ];
    let check = |command: &mut Command, code: i32| {
        let (output, said) = run(command);
        let shown = String::from_utf8(output.stdout).unwrap() + &said;
        assert_eq!(output.status.code(), Some(code), "{command:?}: {shown}");
        assert!(
            !shown.contains(['\u{1b}', '\u{202e}', '\u{7}']),
            "{command:?}: {shown:?}"
        );
        assert!(shown.contains(r"\u{1b}[31m"), "{command:?}: {shown}");
    };
    for (command, model, data, code) in cases {
        let mut command = unbraid(dir.path(), &[command, "--model-name-or-path", model]);
        command.args(["--dataset-name", text(&path(data))]);
        if command.get_args().any(|word| word == "score") {
            command.args(["--output-dir", text(&path("out"))]);
        }
        check(&mut command, code);
    }
    check(
        &mut unbraid(dir.path(), &["train", text(&path("recipe.yaml"))]),
        2,
    );
}

/// A value of a million characters is no reason for a message of a million characters; its hint is still there.
#[test]
fn long_values_are_cut() {
    let dir = tempfile::tempdir().unwrap();
    let name = "x".repeat(1_000_000);
    let data = dir.path().join("rows.jsonl");
    fs::write(&data, json!({ "prompt": "p", name: 1 }).to_string()).unwrap();
    let mut command = unbraid(
        dir.path(),
        &["score", "--model-name-or-path", &demo("model")],
    );
    command.args(["--dataset-name", text(&data)]);
    let (output, said) = run(command.args(["--output-dir", text(&dir.path().join("out"))]));
    assert_eq!(output.status.code(), Some(1));
    assert!(said.len() < 5000, "{} bytes", said.len());
    assert!(
        said.contains("xxx … ") && said.contains("characters …"),
        "{said}"
    );
}

/// A page that the contract promises and the disk refuses is an error, after everything else was written.
#[test]
fn a_page_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let occupy = |name: &str| fs::create_dir_all(path(name).join("report.html/x")).unwrap();
    let failed = |command: &mut Command| {
        let (output, said) = run(command);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        assert!(said.contains("error: no report was written: "), "{said}");
        output
    };
    occupy("train");
    let output = failed(&mut train(
        &path("train"),
        &["--overwrite-output-dir", "--json"],
    ));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["step"], 2);
    assert!(path("train/model.safetensors").is_file());

    let mut command = unbraid(dir.path(), &["diagnose"]);
    command
        .args(["--model-name-or-path", &demo("model"), "--max-samples", "2"])
        .args([
            "--dataset-name",
            &demo("preferences.jsonl"),
            "--heatmap",
            "0",
        ])
        .args(["--output-dir", text(&path("diagnose"))]);
    common::done(&mut command);
    for name in ["diagnose/report.html", "diagnose/summary.json"] {
        fs::remove_file(path(name)).unwrap();
    }
    occupy("diagnose");
    failed(&mut command);
    assert!(path("diagnose/summary.json").is_file());

    occupy("theory");
    let words = [
        "theory",
        "--overwrite-output-dir",
        "--instances",
        "2",
        "--json",
    ];
    let output = failed(unbraid(dir.path(), &words).args(["--output-dir", text(&path("theory"))]));
    assert!(serde_json::from_slice::<Value>(&output.stdout).is_ok());

    // Neither an arm's page nor the experiment's keeps the other arms from being run.
    occupy("reproduce/sigmoid/seed-1");
    let words = "reproduce objectives --quick --threads 1 --max-steps 2 --seeds 1 --held-out 4 --measured 2 --arms sigmoid --arms diff";
    let words: Vec<&str> = words.split(' ').collect();
    let reproduce = || {
        let mut command = unbraid(dir.path(), &words);
        command.args(["--output-dir", text(&path("reproduce"))]);
        command
    };
    let refused = run(&mut reproduce());
    assert_eq!(refused.0.status.code(), Some(1), "{}", refused.1);
    fs::remove_dir_all(path("reproduce")).unwrap();
    let mut child = reproduce().stderr(Stdio::null()).spawn().unwrap();
    while !path("reproduce/sigmoid").exists() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let report = path("reproduce/report.html");
    fs::create_dir(&report).unwrap();
    fs::write(report.join("x"), "").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    for file in [
        "results.json",
        "sigmoid/seed-1/outcome.json",
        "sigmoid+diff/seed-1/outcome.json",
    ] {
        assert!(path("reproduce").join(file).is_file(), "{file}");
    }
    fs::remove_dir_all(report).unwrap();
    assert_eq!(run(&mut reproduce()).0.status.code(), Some(0));
    assert!(path("reproduce/report.html").is_file());
}

#[test]
fn a_cache_that_cannot_be_written_is_one_note() {
    let dir = tempfile::tempdir().unwrap();
    let (out, file) = (dir.path().join("out"), dir.path().join("file"));
    fs::write(&file, "").unwrap();
    let (output, said) = run(train(&out, &[]).env("UNBRAID_CACHE", &file));
    assert_eq!(output.status.code(), Some(0), "{said}");
    let notes = said
        .lines()
        .filter(|line| line.contains("cannot be kept in"));
    assert_eq!(notes.count(), 1, "{said}");
}
