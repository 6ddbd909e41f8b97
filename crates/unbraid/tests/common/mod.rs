//! The binary on the demo's model, as tests run it, and what it wrote.

#![allow(dead_code, reason = "not every test needs all of it")]

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub fn demo(name: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../demo");
    root.join(name).to_str().unwrap().to_owned()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Words of a command line, less the options that further words give anew.
pub fn less(words: &[String], further: &[&str]) -> Vec<String> {
    let name = |word: &str| word.split('=').next().unwrap_or_default().replace('_', "-");
    let given: Vec<String> = further.iter().map(|word| name(word)).collect();
    let mut dropped = false;
    let stays = |word: &&String| {
        if word.starts_with("--") {
            dropped = given.contains(&name(word));
        }
        !dropped
    };
    words.iter().filter(stays).cloned().collect()
}

/// The objects of a JSON-lines file.
pub fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

/// `unbraid train` on the demo's pairs, two steps, with further options in these ones' place.
pub fn train(out: &Path, further: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unbraid"));
    command.arg("train");
    for (option, value) in [
        ("--model-name-or-path", &*demo("model")),
        ("--dataset-name", &*demo("preferences.jsonl")),
        ("--output-dir", text(out)),
        ("--threads", "1"),
        ("--max-steps", "2"),
        ("--logging-steps", "1"),
        ("--per-device-train-batch-size", "2"),
        ("--geometry", "off"),
    ] {
        let name = |word: &&str| word.split('=').next().unwrap_or_default().replace('_', "-");
        if further.iter().all(|word| name(word) != option) {
            command.args([option, value]);
        }
    }
    command.args(further);
    // Every test has its own directory, and the cache is in it.
    command.env("UNBRAID_CACHE", out.parent().unwrap().join("cache"));
    command
}

pub fn run(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    (output, said)
}

pub fn done(command: &mut Command) -> String {
    let (output, said) = run(command);
    assert!(output.status.success(), "{said}");
    said
}

#[track_caller]
pub fn refused(command: &mut Command, code: i32, parts: &[&str]) {
    let (output, said) = run(command);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}
