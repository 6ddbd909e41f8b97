//! `unbraid diagnose`, interrupted and taken up again, and over a series of checkpoints.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{demo, done, less, refused, rows, text, train};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

fn diagnose(out: &Path, further: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unbraid"));
    let data = demo("preferences-test.jsonl");
    let own = [
        "--dataset-name",
        &data,
        "--step-pairs",
        "3",
        "--heatmap",
        "1",
    ];
    let own: Vec<String> = own.map(str::to_owned).into();
    command
        .args(["diagnose", "--output-dir", text(out), "--threads", "1"])
        .args(less(&own, further))
        .args(further)
        .env("UNBRAID_CACHE", out.parent().unwrap().join("cache"));
    command
}

/// Of one model, in many small batches.
fn single(out: &Path, further: &[&str]) -> Command {
    let model = demo("model");
    let own = ["--model-name-or-path", &model, "--batch-tokens", "100"];
    diagnose(out, &[&own[..], further].concat())
}

fn summary(out: &Path) -> Value {
    let mut summary: Value =
        serde_json::from_slice(&fs::read(out.join("summary.json")).unwrap()).unwrap();
    for key in [
        "command",
        "seconds_per_pair",
        "heatmap_seconds",
        "peak_memory_bytes",
    ] {
        summary.as_object_mut().unwrap().remove(key);
    }
    summary
}

#[track_caller]
fn same(a: &Path, b: &Path) {
    for name in ["geometry.jsonl", "pairs.jsonl"] {
        let [a, b] = [a, b].map(|dir| fs::read(dir.join(name)).unwrap());
        assert!(a == b, "{name} differs");
    }
    assert_eq!(summary(a), summary(b));
}

/// Whatever a kill leaves of the two files, the rest is measured as if nothing had happened.
#[test]
fn what_a_kill_leaves_is_taken_up_at_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let options = ["--max-samples", "14", "--remedy", "calibrated"];
    done(&mut single(&whole, &options));
    let [geometry, pairs] =
        ["geometry.jsonl", "pairs.jsonl"].map(|name| fs::read(whole.join(name)).unwrap());
    let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!((lines(&geometry), lines(&pairs)), (14, 14));
    for (kept_geometry, kept_pairs) in [
        (geometry.len() / 2, pairs.len()),
        (geometry.len() - 1, pairs.len() / 3),
        (geometry.len(), pairs.len()),
        (geometry.len() / 7, 0),
        (10, pairs.len()),
    ] {
        let out = dir.path().join(format!("{kept_geometry}-{kept_pairs}"));
        fs::create_dir(&out).unwrap();
        fs::copy(whole.join("identity.json"), out.join("identity.json")).unwrap();
        fs::write(out.join("geometry.jsonl"), &geometry[..kept_geometry]).unwrap();
        fs::write(out.join("pairs.jsonl"), &pairs[..kept_pairs]).unwrap();
        let said = done(&mut single(&out, &options));
        let resumed = said.contains("going on after");
        assert_eq!(resumed, kept_pairs > 0 && kept_geometry > 10, "{said}");
        same(&whole, &out);
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_between_batches_and_the_same_command_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, out) = (dir.path().join("whole"), dir.path().join("out"));
    // The same pairs many times, so that there is time to press.
    let data = dir.path().join("data.jsonl");
    let text_of = fs::read_to_string(demo("preferences-test.jsonl")).unwrap();
    fs::write(&data, text_of.repeat(6)).unwrap();
    let options = ["--dataset-name", text(&data)];
    let model = demo("model");
    let command = |out: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_unbraid"));
        command.args(["diagnose", "--output-dir", text(out), "--threads", "1"]);
        command
            .args(["--model-name-or-path", &model, "--batch-tokens", "100"])
            .args(options);
        command.args(["--step-pairs", "3", "--heatmap", "1"]);
        command
    };
    done(&mut command(&whole));
    let mut child = command(&out).stderr(Stdio::null()).spawn().unwrap();
    let geometry = out.join("geometry.jsonl");
    while !fs::read_to_string(&geometry).is_ok_and(|t| t.lines().count() > 4) {
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
    }
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let partial = summary(&out);
    assert_eq!(partial["complete"], false);
    assert_eq!(partial["pairs"], rows(&geometry).len());
    assert!(rows(&geometry).len() < rows(&whole.join("geometry.jsonl")).len());
    let said = done(&mut command(&out));
    assert!(said.contains("going on after"), "{said}");
    same(&whole, &out);
}

/// What follows from the rows is added to a complete diagnosis without measuring again.
#[test]
fn a_complete_diagnosis_takes_further_results() {
    let dir = tempfile::tempdir().unwrap();
    let (out, kept) = (dir.path().join("out"), dir.path().join("kept.jsonl"));
    let own = ["--max-samples", "4", "--heatmap", "1"];
    done(&mut single(&out, &own));
    let before = fs::read(out.join("geometry.jsonl")).unwrap();
    assert!(!out.join("gram.json").exists());
    let kept_path = kept.to_str().unwrap();
    let export = ["--export-filtered", kept_path, "--keep-below", "0.5"];
    let more = ["--gram", "--heatmap", "2", "--max-samples", "4"];
    done(&mut single(&out, &[&more[..], &export].concat()));
    assert!(out.join("gram.json").exists());
    assert_eq!(fs::read_dir(out.join("heatmaps")).unwrap().count(), 2);
    assert_eq!(rows(&kept).len(), 2);
    assert!(before == fs::read(out.join("geometry.jsonl")).unwrap());
    assert_eq!(summary(&out)["complete"], true);
    // Not over a file that is there.
    refused(
        &mut single(&out, &[&own[..], &export].concat()),
        1,
        &["the file exists"],
    );
}

/// A command that is refused leaves what is there, whatever it would overwrite.
#[test]
fn a_refused_command_overwrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    done(&mut single(&out, &["--max-samples", "4"]));
    let before = fs::read(out.join("geometry.jsonl")).unwrap();
    let bad_group = ["--heatmap-group", "layers.99", "--overwrite-output-dir"];
    refused(
        &mut single(&out, &[&["--max-samples", "4"], &bad_group[..]].concat()),
        2,
        &["layers.99"],
    );
    assert!(before == fs::read(out.join("geometry.jsonl")).unwrap());
    let data = dir.path().join("data.jsonl");
    fs::copy(demo("preferences-test.jsonl"), &data).unwrap();
    let data = data.to_str().unwrap();
    let over = [
        "--dataset-name",
        data,
        "--export-filtered",
        data,
        "--keep-below",
        "0.5",
        "--overwrite-output-dir",
    ];
    refused(
        &mut single(&out, &over),
        1,
        &["that is the data set itself"],
    );
}

#[test]
fn another_diagnosis_or_a_complete_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    done(&mut single(&out, &["--max-samples", "4"]));
    refused(
        &mut single(&out, &["--max-samples", "4"]),
        1,
        &["this diagnosis is complete", "--overwrite-output-dir"],
    );
    refused(
        &mut single(
            &out,
            &[
                "--max-samples",
                "4",
                "--beta",
                "0.3",
                "--dataset-train-split",
                "x",
            ],
        ),
        1,
        &[
            "holds another diagnosis",
            "beta is 0.3, was not set",
            "--overwrite-output-dir",
        ],
    );
    refused(
        &mut single(&out, &["--max-samples", "5"]),
        1,
        &["data_fingerprint is", "max_samples is 5, was 4"],
    );
    fs::write(out.join("notes.txt"), "mine").unwrap();
    done(&mut single(
        &out,
        &[
            "--max-samples",
            "5",
            "--heatmap",
            "0",
            "--overwrite-output-dir",
        ],
    ));
    assert_eq!(rows(&out.join("geometry.jsonl")).len(), 5);
    // What is not a diagnosis' own stays; what is goes.
    assert!(out.join("notes.txt").exists());
    assert_eq!(
        fs::read_dir(out.join("heatmaps")).map_or(0, Iterator::count),
        0
    );
    let occupied = dir.path().join("occupied");
    fs::create_dir(&occupied).unwrap();
    fs::write(occupied.join("x"), "").unwrap();
    refused(&mut single(&occupied, &[]), 1, &["not empty"]);
}

#[test]
fn a_series_is_measured_by_step_against_one_reference() {
    let dir = tempfile::tempdir().unwrap();
    let (trained, out) = (dir.path().join("trained"), dir.path().join("out"));
    let rate = [
        "--learning-rate",
        "1e-3",
        "--max-steps",
        "3",
        "--save-steps",
        "2",
    ];
    done(&mut train(&trained, &rate));
    let options = ["--checkpoints", text(&trained), "--max-samples", "6"];
    let said = done(&mut diagnose(&out, &options));
    assert!(said.contains("which the run's run.yaml names"), "{said}");
    let series = rows(&out.join("series.jsonl"));
    let of = |key: &str| {
        series
            .iter()
            .map(|row| row[key].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("step"), [2, 3].map(Value::from));
    // The last step's checkpoint is the final model.
    let names = ["checkpoint-2", "checkpoint-3"];
    assert_eq!(of("checkpoint"), names.map(Value::from));
    for (row, name) in series.iter().zip(names) {
        let geometry = rows(&out.join(name).join("geometry.jsonl"));
        let mean = |of: &dyn Fn(&Value) -> f64| geometry.iter().map(of).sum::<f64>() / 6.0;
        let near = |key: &str, expected: f64| {
            let got = row[key].as_f64().unwrap();
            assert!(
                (got - expected).abs() < 1e-9 * (1.0 + expected.abs()),
                "{key}: {got}"
            );
        };
        let field = |key: &'static str| move |r: &Value| r[key].as_f64().unwrap();
        near("chosen_logps", mean(&field("chosen_logps")));
        near("grad_cosine", mean(&field("grad_cosine")));
        near(
            "grad_norm_chosen",
            mean(&|r| field("grad_sq_chosen")(r).sqrt()),
        );
        let ideal = |r: &Value| f64::from(u8::from(r["objectives"]["sigmoid"]["case"] == "ideal"));
        near("ideal", mean(&ideal));
        // The reference is the model that training began with, not the checkpoint.
        assert_ne!(geometry[0]["chosen_logps"], geometry[0]["ref_chosen_logps"]);
        assert!(out.join(name).join("summary.json").is_file());
    }
    assert!(out.join("report.html").is_file() && out.join("run.yaml").is_file());
    assert_eq!(summary(&out)["complete"], true);
    refused(
        &mut diagnose(&out, &options),
        1,
        &["this diagnosis is complete"],
    );

    // A checkpoint that was not finished is finished, one that came later is added.
    let name = out.join("checkpoint-3/geometry.jsonl");
    let half = fs::read(&name).unwrap();
    fs::write(&name, &half[..half.len() / 2]).unwrap();
    fs::remove_file(out.join("checkpoint-3/summary.json")).unwrap();
    done(&mut diagnose(&out, &options));
    assert_eq!(rows(&out.join("series.jsonl")), series);
    assert_eq!(fs::read(&name).unwrap().len(), half.len());
}

#[test]
fn a_series_of_adapters_is_measured_against_its_base() {
    let dir = tempfile::tempdir().unwrap();
    let (trained, out) = (dir.path().join("trained"), dir.path().join("out"));
    let rate = ["--use-peft", "--learning-rate", "1e-2", "--save-steps", "1"];
    done(&mut train(&trained, &rate));
    // As another program's run: nothing of ours beside the checkpoints.
    fs::remove_file(trained.join("run.yaml")).unwrap();
    let options = ["--checkpoints", text(&trained), "--max-samples", "4"];
    let said = done(&mut diagnose(&out, &options));
    assert!(said.contains("the adapters' base"), "{said}");
    let series = rows(&out.join("series.jsonl"));
    // The directory's own adapter is the last checkpoint's.
    assert_eq!(
        series.iter().map(|r| r["step"].clone()).collect::<Vec<_>>(),
        [1, 2].map(Value::from)
    );
    assert_eq!(summary(&out)["parameters"], "lora");
    let own = |name: &str| rows(&out.join(name).join("geometry.jsonl"))[0].clone();
    assert_eq!(
        own("checkpoint-1")["ref_chosen_logps"],
        own("checkpoint-2")["ref_chosen_logps"]
    );
    assert_ne!(
        own("checkpoint-1")["chosen_logps"],
        own("checkpoint-2")["chosen_logps"]
    );
}

#[test]
fn without_a_record_the_first_checkpoint_is_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let (trained, out) = (dir.path().join("trained"), dir.path().join("out"));
    done(&mut train(
        &trained,
        &["--learning-rate", "1e-3", "--save-steps", "1"],
    ));
    fs::remove_file(trained.join("run.yaml")).unwrap();
    fs::create_dir(trained.join("checkpoint-7")).unwrap();
    let options = ["--checkpoints", text(&trained), "--max-samples", "4"];
    let said = done(&mut diagnose(&out, &options));
    assert!(
        said.contains("the reference is the first checkpoint"),
        "{said}"
    );
    assert!(said.contains("checkpoint-7 holds no model"), "{said}");
    let first = &rows(&out.join("series.jsonl"))[0];
    assert!(
        first["reward_margin"].as_f64().unwrap().abs() < 1e-5,
        "{first}"
    );
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let nothing = ["--checkpoints", text(&empty)];
    refused(
        &mut diagnose(&dir.path().join("x"), &nothing),
        1,
        &["no checkpoint-N"],
    );
    let both = ["--checkpoints", text(&trained), "--gram"];
    refused(
        &mut diagnose(&dir.path().join("x"), &both),
        2,
        &["gram is for one model"],
    );
}
