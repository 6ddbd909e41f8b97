//! `unbraid diagnose` on adapters, remedies, recipes, exports, odd data and wrong usage.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;
#[path = "common/diagnosis.rs"]
mod diagnosis;

use common::{demo, done, refused, rows, text, train};
use diagnosis::{diagnose, json_file, keys, near, number};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command as Process;
use unbraid::cli::Command;

/// Of every shape, with columns of its own, dropped rows between them.
#[test]
fn an_export_holds_the_rows_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(demo("model")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if \
                    add_generation_prompt %}assistant: {% endif %}";
    fs::write(model.join("chat_template.jinja"), template).unwrap();
    let user = json!({"role": "user", "content": "Was the film good?", "id": 3});
    let says = |text: &str| json!({"role": "assistant", "content": text});
    let data = [
        json!({"source": "a", "prompt": "The film was\nJudgement:", "chosen": " positive", "rejected": " negative", "n": 1.5}),
        json!({"prompt": "Q", "chosen": " ", "rejected": " b"}),
        json!({"chosen": [user, says("Yes.")], "rejected": [user, says("No.")], "score_chosen": 9, "tags": [{"x": null}]}),
        json!({"chosen": "The soup was warm", "rejected": "The soup was cold", "weight": 0.5}),
    ];
    let file = dir.path().join("data.jsonl");
    let lines: Vec<String> = data.iter().map(Value::to_string).collect();
    fs::write(&file, lines.join("\n")).unwrap();
    let (out, kept) = (dir.path().join("out"), dir.path().join("kept.jsonl.gz"));
    let export = [
        "--export-filtered",
        text(&kept),
        "--keep-below",
        "1",
        "--filter-by",
        "chosen_len",
    ];
    let paths = [
        "--model-name-or-path",
        text(&model),
        "--dataset-name",
        text(&file),
    ];
    let said = done(&mut diagnose(&out, &[&paths[..], &export].concat()));
    assert!(said.contains("kept 3 of 3 pairs"), "{said}");
    let mut unpacked = String::new();
    let mut reader = flate2::read::GzDecoder::new(fs::File::open(&kept).unwrap());
    std::io::Read::read_to_string(&mut reader, &mut unpacked).unwrap();
    let expected = [&lines[0], &lines[2], &lines[3]].map(|line| format!("{line}\n"));
    assert_eq!(unpacked, expected.concat());
    // Not over a file of the user's.
    let again = dir.path().join("again");
    let mut command = diagnose(&again, &[&paths[..], &export].concat());
    refused(&mut command, 1, &["kept.jsonl.gz: the file exists"]);
    assert!(!again.exists());
}

#[test]
fn adapters_are_measured_alone_or_merged() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = dir.path().join("adapter");
    done(&mut train(
        &adapter,
        &["--use-peft", "--learning-rate", "1e-2"],
    ));
    let quick = ["--step-pairs", "0", "--heatmap", "0"];
    let measure = |name: &str, further: &[&str]| {
        let out = dir.path().join(name);
        let said = done(&mut diagnose(&out, &[&quick[..], further].concat()));
        (
            rows(&out.join("geometry.jsonl")),
            json_file(&out.join("summary.json")),
            said,
        )
    };
    let (own, summary, _) = measure("own", &["--model-name-or-path", text(&adapter)]);
    assert_eq!(summary["parameters"], "lora");
    let lora = summary["trainable_parameters"].as_u64().unwrap();
    // The reference is the base: its log-probs are those of the model that the adapter was trained on.
    let (base, summary, _) = measure("base", &[]);
    let all = summary["trainable_parameters"].as_u64().unwrap();
    assert!(lora < all / 10, "{lora} of {all}");
    let (merged, summary, said) = measure(
        "merged",
        &[
            "--model-name-or-path",
            text(&adapter),
            "--parameters",
            "all",
        ],
    );
    assert!(said.contains("is merged into its base"), "{said}");
    assert_eq!(
        (
            &summary["parameters"],
            summary["trainable_parameters"].as_u64()
        ),
        (&json!("all"), Some(all))
    );
    for ((own, base), merged) in own.iter().zip(&base).zip(&merged) {
        assert_ne!(own["chosen_logps"], base["chosen_logps"]);
        for side in ["chosen", "rejected"] {
            let (logps, reference) = (format!("{side}_logps"), format!("ref_{side}_logps"));
            near(&own[&reference], &base[&logps], 1.0);
            near(&merged[&reference], &base[&logps], 1.0);
            near(&own[&logps], &merged[&logps], 1.0);
        }
        assert!(number(&own["grad_sq_chosen"]) < number(&merged["grad_sq_chosen"]));
    }
    // A fresh adapter changes nothing yet, so the model is its own reference.
    let (fresh, summary, _) = measure("fresh", &["--use-peft", "--lora-r", "2"]);
    assert_eq!(summary["parameters"], "lora");
    let (implied, ..) = measure("implied", &["--parameters", "lora", "--lora-r", "2"]);
    assert_eq!(fresh, implied);
    near(&fresh[0]["chosen_logps"], &base[0]["chosen_logps"], 1.0);
    assert_eq!(fresh[0]["chosen_logps"], fresh[0]["ref_chosen_logps"]);
}

#[test]
fn a_training_recipe_is_taken_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let said = done(&mut diagnose(
        &out,
        &[
            "--config",
            &demo("dpo.yaml"),
            "--reference-free",
            "--warmup-steps",
            "3",
        ],
    ));
    assert!(
        said.contains("accepted without effect here: ") && said.contains("warmup_steps"),
        "{said}"
    );
    let row = &rows(&out.join("geometry.jsonl"))[0];
    assert_eq!(row["ref_chosen_logps"], Value::Null);
    let recipe = fs::read_to_string(out.join("run.yaml")).unwrap();
    assert!(recipe.contains("learning_rate: 0.0001"), "{recipe}");
    // What it wrote is a recipe of its own.
    let again = dir.path().join("again");
    let (own, new) = (out.join("run.yaml"), text(&again));
    let mut command = Process::new(env!("CARGO_BIN_EXE_unbraid"));
    command.args(["diagnose", text(&own), "--output-dir", new]);
    done(&mut command);
    let [a, b] = [out, again].map(|out| fs::read(out.join("geometry.jsonl")).unwrap());
    assert!(a == b, "the recipe gives other rows");
}

/// Every key that TRL's own configuration has.
#[test]
fn a_recipe_with_all_of_trls_defaults_is_taken() {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/trl_dpo_defaults.yaml");
    let model = ["--model-name-or-path", "m", "--dataset-name", "d"];
    let words = [
        &["unbraid", "diagnose", text(&recipe)][..],
        &model,
        &["--output-dir", "o"],
    ];
    let parsed = unbraid::cli::parse(words.concat().iter().map(Into::into)).unwrap();
    assert!(
        parsed.notes[0].starts_with("accepted without effect here: "),
        "{:?}",
        parsed.notes
    );
    let Command::Diagnose(config) = parsed.command else {
        panic!("not diagnose: {:?}", parsed.command);
    };
    assert_eq!((config.learning_rate, config.step_pairs), (1e-6, 16));
}

#[test]
fn wrong_usage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let judged = dir.path().join("judged.jsonl");
    fs::write(
        &judged,
        r#"{"prompt": "a", "completion": "b", "label": true}"#,
    )
    .unwrap();
    #[rustfmt::skip]
    let cases: [(&[&str], i32, &[&str]); 12] = [
        (&["--dataset-name", text(&judged)], 1, &["judged.jsonl:1", "unpaired", "chosen"]),
        (&["--objectives", "dop"], 2, &["unknown objective `dop`", "did you mean `dpop`"]),
        (&["--sweep", "lambda=1"], 2, &["sigmoid has no lambda to sweep", "it has beta"]),
        (&["--sweep", "beta=1:0:3"], 2, &["invalid value", "above 0"]),
        (&["--sweep", "gamma=1", "--sweep-objective", "simp"], 2, &["simp has no gamma"]),
        (&["--heatmap-group", "layers.77"], 2, &["--heatmap-group layers.77", "the model has", "layers.0.mlp"]),
        (&["--export-filtered", "x.csv", "--keep-below", "0.5"], 2, &["x.csv", ".jsonl.gz"]),
        (&["--keep-below", "0.5"], 2, &["go together"]),
        (&["--export-filtered", "x.jsonl", "--keep-below", "0.5", "--filter-by", "grad_cosin"], 2, &["grad_cosin", "grad_cosine,"]),
        (&["--proxies-only", "--gram"], 2, &["gram needs gradients"]),
        (&["--parameters", "all", "--use-peft"], 2, &["parameters all"]),
        (&["--use-peft", "--lora-alpha", "0"], 1, &["both gradients are exactly 0", "no trainable parameter"]),
    ];
    for (further, code, parts) in cases {
        refused(&mut diagnose(&out, further), code, parts);
        let _ = fs::remove_dir_all(&out);
    }
    refused(
        Process::new(env!("CARGO_BIN_EXE_unbraid")).args([
            "diagnose",
            "--dataset-name",
            "d",
            "--output-dir",
            "o",
        ]),
        2,
        &["missing --model-name-or-path"],
    );
}

/// A weight near the end of single precision: the forward pass overflows.
#[test]
fn numbers_that_are_none_are_reported_with_their_row() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(demo("model")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let path = model.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let tensors: BTreeSet<&str> = keys(&header).into_iter().collect();
    let norm = tensors.iter().find(|name| name.contains("norm")).unwrap();
    let at = 8 + length + header[norm]["data_offsets"][0].as_u64().unwrap() as usize;
    // 3.4e38 in float32 and in bfloat16.
    bytes[at..at + 4].copy_from_slice(&[0x7f; 4]);
    fs::write(&path, bytes).unwrap();
    let out = dir.path().join("out");
    let mut command = diagnose(&out, &["--model-name-or-path", text(&model)]);
    refused(&mut command, 1, &["row 0: chosen_logps is ", "hint:"]);
}

#[test]
fn equal_completions_stand_still_and_come_last() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data.jsonl");
    let pair = |chosen: &str, rejected: &str| {
        json!({"prompt": "It was warm.\nJudgement:", "chosen": chosen, "rejected": rejected})
            .to_string()
    };
    let lines = [
        pair(" positive", " positive"),
        pair(" positive", " negative"),
    ];
    fs::write(&file, lines.join("\n")).unwrap();
    let out = dir.path().join("out");
    let said = done(&mut diagnose(
        &out,
        &["--dataset-name", text(&file), "--heatmap", "1"],
    ));
    assert!(said.contains("identical chosen and rejected"), "{said}");
    let rows = rows(&out.join("geometry.jsonl"));
    near(&rows[0]["grad_cosine"], &json!(1.0), 0.0);
    assert_eq!(
        (&rows[0]["edit_distance"], &rows[0]["shared_tokens"]),
        (&json!(0.0), &json!(1.0))
    );
    assert_eq!(rows[0]["objectives"]["sigmoid"]["case"], "still");
    assert_eq!(json_file(&out.join("summary.json"))["heatmaps"], json!([1]));
}

#[test]
fn a_remedy_is_what_pairs_are_judged_by() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    done(&mut diagnose(
        &out,
        &["--remedy", "guarded", "--step-pairs", "2", "--optim", "sgd"],
    ));
    let summary = json_file(&out.join("summary.json"));
    assert_eq!(summary["objective"], "sigmoid+guarded");
    assert_eq!(summary["step"]["optimizer"], "sgd");
    let cases = &summary["objectives"]["sigmoid+guarded"]["cases"];
    assert_eq!(cases["ideal"], 12);
    // Without clipping, a step of plain descent is its own prediction.
    let out = dir.path().join("plain");
    done(&mut diagnose(
        &out,
        &[
            "--step-pairs",
            "2",
            "--optim",
            "sgd",
            "--max-grad-norm",
            "0",
            "--learning-rate",
            "1e-3",
        ],
    ));
    for row in rows(&out.join("geometry.jsonl"))
        .iter()
        .filter(|r| r.get("step").is_some())
    {
        let step = &row["step"];
        let change = 1e-3 * number(&row["objectives"]["sigmoid"]["delta_chosen"]);
        near(&step["predicted_chosen"], &json!(change), 0.0);
        // The step is large enough not to be lost in the rounding of weights to single precision.
        let (predicted, update) = (
            number(&step["predicted_chosen"]),
            number(&step["update_chosen"]),
        );
        assert!(
            (update / predicted - 1.0).abs() < 0.01,
            "{update} against {predicted}"
        );
    }
}
