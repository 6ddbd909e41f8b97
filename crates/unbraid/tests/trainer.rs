//! The trainer's options through the binary, on the demo's model: TRL's recipes, adapters, remedies, token masks, KTO
//! on judged completions, a moving reference, and what does not go together.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{demo, rows, text};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn run(words: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_unbraid"))
        .args(words)
        .env(
            "UNBRAID_CACHE",
            std::env::temp_dir().join("unbraid-test-cache"),
        )
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, message)
}

fn done(words: &[&str]) -> String {
    let (output, message) = run(words);
    assert!(output.status.success(), "{words:?}: {message}");
    message
}

fn refused(words: &[&str]) -> String {
    let (output, message) = run(words);
    assert!(!output.status.success(), "{words:?} went through");
    assert!(!message.contains("panicked"), "{message}");
    message
}

/// `unbraid train` on the demo's pairs, four steps, with further options.
fn train(out: &Path, further: &[&str]) -> Vec<String> {
    let (model, data) = (demo("model"), demo("preferences.jsonl"));
    let mut words: Vec<String> = [
        "train",
        "--model-name-or-path",
        &model,
        "--dataset-name",
        &data,
        "--output-dir",
        text(out),
        "--max-steps",
        "4",
        "--logging-steps",
        "1",
        "--per-device-train-batch-size",
        "4",
        "--save-strategy",
        "no",
        "--learning-rate",
        "1e-3",
    ]
    .map(str::to_owned)
    .into();
    words = common::less(&words, further);
    words.extend(further.iter().map(|&w| w.to_owned()));
    words
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn last(out: &Path, key: &str) -> f64 {
    let rows = rows(&out.join("metrics.jsonl"));
    rows.last().unwrap()[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key}: {:?}", rows.last()))
}

/// The recipes as they stand, but for hub ids and length.
#[test]
fn trl_recipes_run() {
    let dir = tempfile::tempdir().unwrap();
    let splits = dir.path().join("splits");
    fs::create_dir(&splits).unwrap();
    fs::copy(demo("preferences.jsonl"), splits.join("train.jsonl")).unwrap();
    fs::copy(demo("preferences-test.jsonl"), splits.join("test.jsonl")).unwrap();
    let prefs = dir.path().join("prefs");
    fs::create_dir(&prefs).unwrap();
    fs::copy(demo("preferences.jsonl"), prefs.join("train_prefs.jsonl")).unwrap();
    fs::copy(
        demo("preferences-test.jsonl"),
        prefs.join("test_prefs.jsonl"),
    )
    .unwrap();
    let texts = dir.path().join("texts.jsonl");
    let corpus = fs::read_to_string(demo("corpus.jsonl")).unwrap();
    let content = corpus.lines().take(64).map(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        format!("{}\n", json!({ "content": row["text"] }))
    });
    fs::write(&texts, content.collect::<String>()).unwrap();

    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recipes");
    for (command, recipe, data, adapter) in [
        ("train", "dpo_lora.yaml", &splits, true),
        ("train", "dpo_full.yaml", &splits, false),
        ("train", "dpo_splits.yaml", &prefs, false),
        ("train", "dpo_weighted.yaml", &splits, false),
        ("sft", "sft_packing.yaml", &texts, false),
    ] {
        let out = dir.path().join(recipe);
        let (path, model) = (fixtures.join(recipe), demo("model"));
        let message = done(&[
            command,
            text(&path),
            "--model_name_or_path",
            &model,
            "--dataset_name",
            text(data),
            "--output_dir",
            text(&out),
            "--max_steps",
            "3",
            "--max_length",
            "256",
        ]);
        assert!(
            message.contains("accepted without effect here") || recipe == "sft_packing.yaml",
            "{message}"
        );
        let bf16 = message.matches("note: bf16:").count();
        let asked = fs::read_to_string(&path)
            .unwrap()
            .to_lowercase()
            .contains("bf16: true");
        assert_eq!(
            bf16,
            usize::from(asked),
            "{recipe}: said once where asked: {message}"
        );
        assert!(!rows(&out.join("metrics.jsonl")).is_empty(), "{recipe}");
        assert_eq!(
            out.join("adapter_config.json").is_file(),
            adapter,
            "{recipe}"
        );
        assert_eq!(
            out.join("model.safetensors").is_file(),
            !adapter,
            "{recipe}"
        );
    }
}

#[test]
fn an_adapter_is_trained_scored_merged_and_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let (out, data) = (dir.path().join("run"), demo("preferences-test.jsonl"));
    let lora = [
        "--use-peft",
        "true",
        "--lora-r",
        "4",
        "--lora-target-modules",
        "all-linear",
    ];
    done(&words(&train(
        &out,
        &[
            &lora[..],
            &["--lora-dropout", "0.1", "--disable-dropout", "false"],
        ]
        .concat(),
    )));
    let settings: Value =
        serde_json::from_slice(&fs::read(out.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(
        (&settings["peft_type"], &settings["r"]),
        (&json!("LORA"), &json!(4))
    );
    let weights = fs::read(out.join("adapter_model.safetensors")).unwrap();

    let score = |model: &str, out: &Path| {
        done(&[
            "score",
            "--model-name-or-path",
            model,
            "--dataset-name",
            &data,
            "--max-samples",
            "8",
            "--output-dir",
            text(out),
        ]);
        rows(&out.join("scores.jsonl"))
    };
    let adapted = score(text(&out), &dir.path().join("a"));
    let merged_dir = dir.path().join("merged");
    done(&[
        "merge",
        "--model-name-or-path",
        text(&out),
        "--output-dir",
        text(&merged_dir),
    ]);
    let merged = score(text(&merged_dir), &dir.path().join("m"));
    let base = score(&demo("model"), &dir.path().join("b"));
    let mut moved = false;
    for ((a, m), b) in adapted.iter().zip(&merged).zip(&base) {
        let get = |row: &Value| row["chosen_logps"].as_f64().unwrap();
        // Rounding of W + BA in f32 against x Wᵀ + (x Aᵀ) Bᵀ.
        assert!(
            (get(a) - get(m)).abs() < 1e-3 * get(a).abs(),
            "{} {}",
            get(a),
            get(m)
        );
        moved |= (get(a) - get(b)).abs() > 1e-2 * get(a).abs();
    }
    assert!(moved, "training did something");

    // The same again is the same; the adapter can be trained on; a second one on top is refused.
    let again = dir.path().join("again");
    done(&words(&train(
        &again,
        &[
            &lora[..],
            &["--lora-dropout", "0.1", "--disable-dropout", "false"],
        ]
        .concat(),
    )));
    assert!(fs::read(again.join("adapter_model.safetensors")).unwrap() == weights);
    let on = dir.path().join("on");
    let model = ["--model-name-or-path", text(&out)];
    done(&words(&train(&on, &model)));
    assert!(on.join("adapter_model.safetensors").is_file());
    let message = refused(&words(&train(
        &dir.path().join("no"),
        &[&model[..], &lora[..]].concat(),
    )));
    assert!(message.contains("has an adapter already"), "{message}");
    let message = refused(&[
        "merge",
        "--model-name-or-path",
        &demo("model"),
        "--output-dir",
        text(&dir.path().join("x")),
    ]);
    assert!(message.contains("nothing to merge"), "{message}");
    fs::write(
        out.join("adapter_config.json"),
        r#"{"peft_type": "LORA", "use_dora": true}"#,
    )
    .unwrap();
    let message = refused(&[
        "score",
        "--model-name-or-path",
        text(&out),
        "--base-model",
        &demo("model"),
        "--dataset-name",
        &data,
        "--output-dir",
        text(&dir.path().join("y")),
    ]);
    assert!(
        message.contains("\"use_dora\" = true is not supported"),
        "{message}"
    );
}

#[test]
fn remedies_and_masks_go_with_training() {
    let dir = tempfile::tempdir().unwrap();
    for remedy in ["normalized", "guarded"] {
        let out = dir.path().join(remedy);
        done(&words(&train(
            &out,
            &[
                "--remedy",
                remedy,
                "--npo-scale",
                "geometric",
                "--geometry",
                "every",
            ],
        )));
        for row in rows(&out.join("metrics.jsonl")) {
            assert_eq!(row["geometry/ideal"], 1.0, "{remedy} {row}");
        }
    }
    let out = dir.path().join("calibrated");
    done(&words(&train(
        &out,
        &["--remedy", "calibrated", "--geometry", "off"],
    )));
    for mask in ["head", "free", "diff"] {
        let out = dir.path().join(mask);
        done(&words(&train(
            &out,
            &["--token-mask", mask, "--log-pairs", "true"],
        )));
        assert!(last(&out, "loss").is_finite());
        assert_eq!(
            out.join("token_mask.safetensors").is_file(),
            mask != "diff",
            "{mask}"
        );
        let shown = rows(&out.join("token_mask.jsonl"));
        assert_eq!(shown.len(), 8, "{mask}");
        for row in &shown {
            let count = |key: &str| row[key].as_array().unwrap().len();
            assert_eq!(count("chosen_tokens"), count("chosen_share"));
            assert_eq!(count("rejected_tokens"), count("rejected_share"));
            let shares = row["chosen_share"].as_array().unwrap().iter();
            assert!(
                shares
                    .map(|s| s.as_f64().unwrap())
                    .all(|s| (0.0..=1.0).contains(&s))
            );
        }
    }
    let combined = dir.path().join("all");
    done(&words(&train(
        &combined,
        &[
            "--remedy",
            "guarded",
            "--token-mask",
            "head",
            "--use-peft",
            "true",
            "--lora-r",
            "2",
            "--ld-alpha",
            "0.5",
            "--use-weighting",
            "true",
            "--gradient-checkpointing",
            "true",
        ],
    )));
}

#[test]
fn what_does_not_go_together_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    for (options, message) in [
        (
            &["--remedy", "guarded", "--loss-type", "sft"][..],
            "reads the chosen one alone",
        ),
        (
            &["--token-mask", "diff", "--loss-type", "simpo"],
            "reads no reference",
        ),
        (
            &["--use-weighting", "true", "--loss-type", "aot"],
            "sorts the batch's pairs apart",
        ),
        (
            &["--sync-ref-model", "true", "--use-peft", "true"],
            "needs a reference with weights of its own",
        ),
        (
            &["--sync-ref-model", "true", "--loss-type", "simpo"],
            "reads none",
        ),
        (
            &[
                "--use-peft",
                "true",
                "--lora-target-modules",
                "no_such_proj",
            ],
            "names no linear map",
        ),
        (
            &[
                "--use-peft",
                "true",
                "--lora-modules-to-save",
                "no_such_module",
            ],
            "names no module of the model",
        ),
        (
            &["--sync-ref-model", "true", "--reference-free", "true"],
            "reads none",
        ),
        // Without a driver there is no device at all, with one no such number.
        (&["--device", "cuda:99"], "--device cuda:99: "),
        (&["--loss-weights", "0"], "nothing would be trained"),
        (
            &[
                "--f-divergence-type",
                "js_divergence",
                "--loss-type",
                "simpo",
            ],
            "js_divergence",
        ),
    ] {
        let (output, said) = run(&words(&train(&out, options)));
        assert!(said.contains(message), "{options:?}: {said}");
        assert_eq!(output.status.code(), Some(2), "{options:?}: {said}");
        assert!(!out.exists(), "{options:?}: nothing is written");
    }
}

#[test]
fn kto_learns_from_judged_completions() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("judged.jsonl");
    let mut lines = String::new();
    for (i, row) in rows(Path::new(&demo("preferences.jsonl")))
        .iter()
        .take(32)
        .enumerate()
    {
        let (side, label) = if i % 2 == 0 {
            ("chosen", true)
        } else {
            ("rejected", false)
        };
        lines += &format!(
            "{}\n",
            json!({ "prompt": row["prompt"], "completion": row[side], "label": label })
        );
    }
    fs::write(&path, lines).unwrap();
    let out = dir.path().join("kto");
    let further = [
        "--dataset-name",
        text(&path),
        "--loss-type",
        "kto",
        "--max-steps",
        "16",
        "--desirable-weight",
        "1.2",
    ];
    done(&words(&train(&out, &further)));
    let rows = rows(&out.join("metrics.jsonl"));
    assert_eq!(rows.len(), 16);
    assert!(
        (rows[0]["loss"].as_f64().unwrap() - 0.55).abs() < 0.06,
        "σ(0) = ½ times the weights 1.2 and 1: {}",
        rows[0]
    );
    assert!(rows.iter().all(|r| r["kl"].as_f64().unwrap() >= 0.0));
    // The same batch an epoch later: the order is the file's.
    assert!(rows[8]["loss"].as_f64().unwrap() < rows[0]["loss"].as_f64().unwrap());
    let message = refused(&words(&train(
        &dir.path().join("no"),
        &["--dataset-name", text(&path)],
    )));
    assert!(message.contains("are for kto"), "{message}");
}

#[test]
fn the_reference_is_kept_between_runs_and_may_move() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let go = |out: &str, further: &[&str]| {
        let out = dir.path().join(out);
        let output = Command::new(env!("CARGO_BIN_EXE_unbraid"))
            .args(train(&out, further))
            .env("UNBRAID_CACHE", &cache)
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{message}");
        (fs::read(out.join("model.safetensors")).unwrap(), message)
    };
    let (first, _) = go("first", &[]);
    let files: Vec<_> = fs::read_dir(cache.join("reference"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    let kept = files
        .iter()
        .max_by_key(|p| fs::metadata(p).unwrap().len())
        .unwrap();
    let (second, _) = go("second", &["--precompute-ref-log-probs", "true"]);
    assert!(first == second, "the same, cached or not");
    let mut bytes = fs::read(kept).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(kept, bytes).unwrap();
    let (third, message) = go("third", &[]);
    assert!(
        message.contains("note:") && message.contains("reference"),
        "a damaged cache is said: {message}"
    );
    assert!(first == third, "and not used");
    let (moved, _) = go(
        "moved",
        &["--sync-ref-model", "true", "--ref-model-sync-steps", "2"],
    );
    assert!(moved != first);
}
