//! `unbraid diagnose` as tests run it, and numbers in its files.

#![allow(dead_code, reason = "not every test needs all of it")]

use crate::common::{demo, text};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Single precision, summed in another order.
pub const F32: f64 = 2e-5;

pub fn diagnose(out: &Path, further: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unbraid"));
    command.args(["diagnose", "--output-dir", text(out), "--threads", "1"]);
    let given = |option: &str| further.contains(&option);
    if !given("--model-name-or-path") {
        command.args(["--model-name-or-path", &demo("model")]);
    }
    if !given("--dataset-name") {
        command.args(["--dataset-name", &demo("preferences-test.jsonl")]);
        command.args(["--max-samples", "12"]);
    }
    command.args(further);
    command.env("UNBRAID_CACHE", out.parent().unwrap().join("cache"));
    command
}

pub fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

pub fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

#[track_caller]
pub fn near(a: &Value, b: &Value, scale: f64) {
    let (a, b) = (number(a), number(b));
    assert!(
        (a - b).abs() <= F32 * (scale + a.abs().max(b.abs())),
        "{a} against {b}"
    );
}
