//! `--update-every` and `--gram-every` through the binary, on the demo's model: what is written, when, and what stays
//! behind when another run takes the directory.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{demo, rows, text};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Four steps of four pairs in two micro-batches; gives what was said.
fn train(out: &Path, words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_unbraid"))
        .args(["train", "--model-name-or-path", &demo("model")])
        .args(["--dataset-name", &demo("preferences.jsonl")])
        .args(["--output-dir", text(out), "--max-steps", "4"])
        .args([
            "--per-device-train-batch-size",
            "2",
            "--gradient-accumulation-steps",
            "2",
        ])
        .args(["--learning-rate", "1e-5", "--logging-steps", "1"])
        .args(words)
        .env(
            "UNBRAID_CACHE",
            std::env::temp_dir().join("unbraid-test-cache"),
        )
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn steps(rows: &[Value]) -> Vec<u64> {
    rows.iter().map(|r| r["step"].as_u64().unwrap()).collect()
}

#[test]
fn predictions_and_gram_matrices_are_written_and_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    train(
        &out,
        &[
            "--update-every",
            "3",
            "--gram-every",
            "2",
            "--geometry",
            "every",
        ],
    );
    let metrics = rows(&out.join("metrics.jsonl"));
    let predictions = rows(&out.join("predictions.jsonl"));
    let grams = rows(&out.join("gram.jsonl"));
    assert_eq!(steps(&predictions), [1, 1, 1, 1, 3, 3, 3, 3]);
    assert_eq!(steps(&grams), [1, 2, 4]);

    let number =
        |row: &Value, key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"));
    for (what, side) in [
        ("update", "chosen"),
        ("predicted", "rejected"),
        ("realised", "chosen"),
    ] {
        let of_pairs = predictions[..4]
            .iter()
            .map(|row| number(row, &format!("{what}_{side}")));
        let mean = of_pairs.sum::<f64>() / 4.0;
        let logged = number(&metrics[0], &format!("geometry/{what}_{side}"));
        assert!(
            (mean - logged).abs() <= 1e-12 + 1e-9 * mean.abs(),
            "{what}: {mean} {logged}"
        );
    }
    for part in ["own", "partner", "others"] {
        let split = grams[0]["split"].as_array().unwrap();
        let chosen = split.iter().step_by(2).map(|x| number(x, part));
        let mean = chosen.sum::<f64>() / 4.0;
        let logged = number(&metrics[0], &format!("geometry/{part}_chosen"));
        assert!(
            (mean - logged).abs() <= 1e-12 + 1e-9 * mean.abs(),
            "{part}: {mean} {logged}"
        );
        assert!(metrics[2].get(format!("geometry/{part}_chosen")).is_none());
    }
    let order = grams[0]["order"].as_array().unwrap();
    let index = predictions[0]["index"].as_u64().unwrap();
    assert_eq!(
        order[..2],
        [format!("{index}/chosen"), format!("{index}/rejected")]
    );

    // Another run in the same directory leaves no rows of this one; without geometry there are none of its own.
    train(&out, &["--geometry", "off", "--overwrite-output-dir"]);
    assert!(!out.join("predictions.jsonl").exists() && !out.join("gram.jsonl").exists());
    // By default the first step is explained.
    train(&out, &["--overwrite-output-dir"]);
    assert_eq!(rows(&out.join("predictions.jsonl")).len(), 4);
    assert!(!out.join("gram.jsonl").exists());
}

#[test]
fn it_goes_with_adapters_masks_remedies_and_a_moving_reference() {
    let dir = tempfile::tempdir().unwrap();
    let kinds: [&[&str]; 4] = [
        &[
            "--use-peft",
            "--lora-r",
            "4",
            "--lora-dropout",
            "0.2",
            "--disable-dropout",
            "false",
        ],
        &["--token-mask", "free", "--gradient-checkpointing", "true"],
        &[
            "--remedy",
            "guarded",
            "--ld-alpha",
            "0.5",
            "--rpo-alpha",
            "0.1",
        ],
        &[
            "--sync-ref-model",
            "true",
            "--ref-model-sync-steps",
            "1",
            "--token-mask",
            "head",
        ],
    ];
    for (i, kind) in kinds.iter().enumerate() {
        let out = dir.path().join(i.to_string());
        let every = ["--update-every", "2", "--gram-every", "4"];
        train(&out, &[&every, *kind].concat());
        let predictions = rows(&out.join("predictions.jsonl"));
        assert_eq!(steps(&predictions).len(), 12, "{kind:?}");
        for row in &predictions {
            let row = row.as_object().unwrap();
            assert!(row.values().all(Value::is_number), "{kind:?}: {row:?}");
        }
        assert_eq!(steps(&rows(&out.join("gram.jsonl"))), [1, 4], "{kind:?}");
    }
}
