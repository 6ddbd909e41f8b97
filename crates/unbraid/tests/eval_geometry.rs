//! `--eval-geometry`: the geometry of held-out pairs at every evaluation is that of a training step on the same pairs.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{done, rows, train};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The demo's first rows as a file of their own.
fn pairs(dir: &Path, count: usize) -> String {
    let text = fs::read_to_string(common::demo("preferences.jsonl")).unwrap();
    let first: Vec<&str> = text.lines().take(count).collect();
    let path = dir.join("pairs.jsonl");
    fs::write(&path, first.join("\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

fn run(dir: &Path, name: &str, further: &[&str]) -> Vec<Value> {
    let data = pairs(dir, 4);
    let out = dir.join(name);
    let mut words = vec![
        "--dataset-name",
        &data,
        "--eval-dataset",
        &data,
        "--eval-strategy",
        "steps",
        "--eval-steps",
        "1",
        "--eval-on-start",
        "true",
        "--per-device-train-batch-size",
        "4",
        "--geometry",
        "every",
        "--learning-rate",
        "1e-4",
    ];
    words.extend(further);
    done(&mut train(&out, &words));
    rows(&out.join("metrics.jsonl"))
}

#[test]
fn held_out_geometry_equals_a_steps_own_on_the_same_pairs() {
    let dir = tempfile::tempdir().unwrap();
    for (name, further) in [
        ("plain", &[][..]),
        ("guarded", &["--remedy", "guarded"]),
        ("masked", &["--token-mask", "head"]),
    ] {
        let words = [&["--eval-geometry", "4"], further].concat();
        let rows = run(dir.path(), name, &words);
        let step = rows.iter().find(|r| r.get("loss").is_some()).unwrap();
        let start = rows.iter().find(|r| r.get("eval_loss").is_some()).unwrap();
        assert_eq!((&start["step"], &step["step"]), (&0.into(), &1.into()));
        for key in [
            "cosine",
            "inner",
            "grad_sq_chosen",
            "d_w",
            "d_l",
            "ideal",
            "both_fall",
        ] {
            let own = step[format!("geometry/{key}")].as_f64().unwrap();
            let held_out = start[format!("eval_geometry/{key}")].as_f64().unwrap();
            // The same pairs in another order: the last bits of f32.
            let close = (own - held_out).abs() <= 1e-4 * own.abs().max(1e-3);
            assert!(close, "{name}: {key} {own} {held_out}");
        }
    }
}

#[test]
fn only_the_first_pairs_are_measured_and_none_by_default() {
    let dir = tempfile::tempdir().unwrap();
    let all = run(dir.path(), "none", &[]);
    let keys = |rows: &[Value]| -> Vec<String> {
        let eval = rows.iter().find(|r| r.get("eval_loss").is_some()).unwrap();
        eval.as_object().unwrap().keys().cloned().collect()
    };
    assert!(keys(&all).iter().all(|k| !k.contains("geometry")));
    let one = run(dir.path(), "one", &["--eval-geometry", "1"]);
    assert!(keys(&one).contains(&"eval_geometry/cosine".to_owned()));
    // What is measured changes nothing of what is not.
    let loss = |rows: &[Value]| rows.iter().find_map(|r| r["eval_loss"].as_f64()).unwrap();
    assert!((loss(&all) - loss(&one)).abs() < 1e-6);
}
