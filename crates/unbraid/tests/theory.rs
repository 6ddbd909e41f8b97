//! `unbraid theory`: what it writes, says and prints, and that a report can be made of it again.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::{done, refused, run, text};

fn theory(out: &Path, further: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unbraid"));
    command
        .args([
            "theory",
            "--instances",
            "2",
            "--threads",
            "1",
            "--output-dir",
            text(out),
        ])
        .args(further);
    command
}

#[test]
fn all_statements_hold_and_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let (output, said) = run(&mut theory(&out, &["--json", "--seed", "5"]));
    assert!(output.status.success(), "{said}");
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.stdout, fs::read(out.join("theory.json")).unwrap());
    assert_eq!(
        (&record["holds"], &record["seed"]),
        (&Value::from(true), &Value::from(5))
    );
    assert_eq!(record["statements"].as_array().unwrap().len(), 18);
    assert!(
        said.contains("All 18 statements") && said.contains("⟨g_w, g_l⟩ = −‖h‖²/M"),
        "{said}"
    );
    let page = fs::read(out.join("report.html")).unwrap();
    fs::remove_file(out.join("report.html")).unwrap();
    let mut again = Command::new(env!("CARGO_BIN_EXE_unbraid"));
    let said = done(again.args(["report", text(&out)]));
    assert!(said.contains("All 18 statements"), "{said}");
    assert_eq!(fs::read(out.join("report.html")).unwrap(), page);
    // Nothing is overwritten unasked, and before any work.
    refused(&mut theory(&out, &[]), 1, &["is not empty"]);
    let (output, said) = run(&mut theory(
        &out,
        &["--seed", "5", "--overwrite-output-dir"],
    ));
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{said}"
    );
}
