//! `unbraid diagnose` on the demo's model: what its files hold, and what changes nothing.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;
#[path = "common/diagnosis.rs"]
mod diagnosis;

use common::{demo, done, rows, run, text, train};
use diagnosis::{diagnose, json_file, keys, near, number};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// Two files of rows hold the same numbers but for rounding.
#[track_caller]
fn same_rows(a: &[Value], b: &[Value]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert_eq!(keys(a), keys(b));
        let scale = number(&a["grad_sq_chosen"]).max(number(&a["grad_sq_rejected"]));
        for (key, value) in a.as_object().unwrap() {
            match key.as_str() {
                "groups" | "objectives" | "step" => {}
                "grad_cosine" | "head_cosine" => near(value, &b[key], 10.0),
                _ => near(value, &b[key], scale),
            }
        }
    }
}

const ROW: [&str; 21] = [
    "index",
    "chosen_logps",
    "rejected_logps",
    "ref_chosen_logps",
    "ref_rejected_logps",
    "chosen_len",
    "rejected_len",
    "reward_chosen",
    "reward_rejected",
    "reward_margin",
    "grad_sq_chosen",
    "grad_sq_rejected",
    "grad_inner",
    "grad_cosine",
    "groups",
    "ches",
    "ches_normalized",
    "edit_distance",
    "shared_tokens",
    "head_inner",
    "head_cosine",
];

#[test]
fn rows_hold_what_the_contract_says() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let said = done(&mut diagnose(&out, &["--step-pairs", "3", "--beta", "0.2"]));
    assert!(said.contains("12 pairs"), "{said}");
    let geometry = rows(&out.join("geometry.jsonl"));
    assert_eq!(geometry.len(), 12);
    let mut stepped = Vec::new();
    for row in &geometry {
        let expected = ROW.iter().copied().chain(["objectives"]);
        let expected: Vec<&str> = match row.get("step") {
            Some(step) => {
                stepped.push(row["index"].as_u64().unwrap());
                assert_eq!(keys(step).len(), 6);
                expected.chain(["step"]).collect()
            }
            None => expected.collect(),
        };
        assert_eq!(keys(row), expected);
        // The groups are a partition.
        for field in ["grad_sq_chosen", "grad_sq_rejected", "grad_inner"] {
            let groups = row["groups"].as_object().unwrap().values();
            let sum: f64 = groups.map(|group| number(&group[field])).sum();
            let total = number(&row[field]);
            assert!((sum - total).abs() < 1e-9 * total.abs().max(1.0), "{field}");
        }
        // The policy is its own reference.
        assert_eq!(row["chosen_logps"], row["ref_chosen_logps"]);
        assert_eq!(row["reward_margin"], 0.0);
        // DPO at its start: d = β/2, Δ = β/2 (ww − wl), β/2 (wl − ll).
        let dpo = &row["objectives"]["sigmoid"];
        assert_eq!(
            keys(dpo),
            [
                "loss",
                "d_w",
                "d_l",
                "case",
                "delta_chosen",
                "delta_rejected"
            ]
        );
        let [ww, ll, wl] =
            ["grad_sq_chosen", "grad_sq_rejected", "grad_inner"].map(|key| number(&row[key]));
        near(&dpo["d_w"], &json!(0.1), 0.0);
        near(&dpo["delta_chosen"], &json!(0.1 * (ww - wl)), 0.0);
        near(&dpo["delta_rejected"], &json!(0.1 * (wl - ll)), 0.0);
        let objectives = keys(&row["objectives"]);
        assert_eq!(
            objectives[..4],
            [
                "sigmoid",
                "sigmoid+normalized",
                "sigmoid+guarded",
                "sigmoid+calibrated"
            ]
        );
        assert_eq!(objectives.len(), 3 + 26);
        // The user's β is the configured objective's alone.
        near(&row["objectives"]["rdpo"]["d_w"], &json!(0.05), 10.0);
    }
    // Three of twelve, spread evenly.
    assert_eq!(stepped, [0, 4, 8]);
    let texts = rows(&out.join("pairs.jsonl"));
    assert_eq!(texts.len(), 12);
    let data = rows(Path::new(&demo("preferences-test.jsonl")));
    for (i, row) in texts.iter().enumerate() {
        assert_eq!(keys(row), ["index", "prompt", "chosen", "rejected"]);
        assert_eq!(row["index"], i);
        assert_eq!(row["rejected"], data[i]["rejected"]);
    }
}

#[test]
fn log_probs_are_those_of_score() {
    let dir = tempfile::tempdir().unwrap();
    let (out, scores) = (dir.path().join("out"), dir.path().join("scores"));
    let reference = dir.path().join("trained");
    done(&mut train(&reference, &["--learning-rate", "1e-3"]));
    let common = ["--ref-model", text(&reference)];
    done(&mut diagnose(&out, &common));
    let mut score = Command::new(env!("CARGO_BIN_EXE_unbraid"));
    score.args([
        "score",
        "--output-dir",
        text(&scores),
        "--max-samples",
        "12",
    ]);
    score
        .args(["--model-name-or-path", &demo("model")])
        .args(common);
    score.args(["--dataset-name", &demo("preferences-test.jsonl")]);
    done(&mut score);
    let scores = rows(&scores.join("scores.jsonl"));
    let geometry = rows(&out.join("geometry.jsonl"));
    assert_ne!(geometry[0]["chosen_logps"], geometry[0]["ref_chosen_logps"]);
    for (a, b) in geometry.iter().zip(&scores) {
        for (key, value) in b.as_object().unwrap() {
            near(&a[key], value, 1.0);
        }
    }
    // Objectives that read a reference read this one: ℓ = softplus(−β h).
    let row = &geometry[0];
    let margin = number(&row["reward_margin"]);
    let loss = (-margin).exp().ln_1p();
    near(&row["objectives"]["sigmoid"]["loss"], &json!(loss), 0.0);
}

#[test]
fn the_summary_follows_from_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let further = [
        "--json",
        "--loss-type",
        "simpo",
        "--sweep",
        "gamma=0,1",
        "--sweep",
        "beta=1:4:3",
        "--objectives",
        "cpo,dpo",
        "--step-pairs",
        "4",
        "--heatmap",
        "0",
    ];
    let (output, said) = run(&mut diagnose(&out, &further));
    assert!(output.status.success(), "{said}");
    let summary = json_file(&out.join("summary.json"));
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed, summary);
    for key in [
        "command",
        "model",
        "data",
        "objective",
        "parameters",
        "trainable_parameters",
        "complete",
        "seconds_per_pair",
        "learning_rate",
        "peak_memory_bytes",
        "pairs",
        "means",
        "medians",
        "quantiles",
        "objectives",
        "groups",
        "sweeps",
        "proxies",
        "step",
        "worst",
        "heatmaps",
    ] {
        assert!(summary.get(key).is_some(), "{key}");
    }
    assert_eq!(
        (
            &summary["objective"],
            &summary["parameters"],
            &summary["complete"],
            &summary["pairs"]
        ),
        (&json!("simpo"), &json!("all"), &json!(true), &json!(12))
    );
    let geometry = rows(&out.join("geometry.jsonl"));
    let mean = |of: &dyn Fn(&Value) -> f64| geometry.iter().map(of).sum::<f64>() / 12.0;
    near(
        &summary["means"]["grad_inner"],
        &json!(mean(&|r| number(&r["grad_inner"]))),
        1.0,
    );
    let ratio = |r: &Value| number(&r["grad_inner"]) / number(&r["grad_sq_chosen"]);
    near(&summary["means"]["chosen_ratio"], &json!(mean(&ratio)), 1.0);
    let names = keys(&summary["objectives"]);
    let remedies = ["simpo+normalized", "simpo+guarded", "simpo+calibrated"];
    assert_eq!(
        names,
        [&["simpo"][..], &remedies, &["cpo", "sigmoid"]].concat()
    );
    for name in names {
        let cases = &summary["objectives"][name]["cases"];
        let count = |case: &str| {
            geometry
                .iter()
                .filter(|r| r["objectives"][name]["case"] == case)
                .count()
        };
        for case in ["ideal", "both_fall", "both_rise", "reversed", "still"] {
            assert_eq!(cases[case], count(case), "{name} {case}");
        }
        let delta = mean(&|r| number(&r["objectives"][name]["delta_chosen"]));
        near(
            &summary["objectives"][name]["delta_chosen"],
            &json!(delta),
            0.0,
        );
    }
    let sweeps = summary["sweeps"].as_array().unwrap();
    assert_eq!(sweeps.len(), 2);
    assert_eq!(
        (&sweeps[0]["objective"], &sweeps[0]["parameter"]),
        (&json!("simpo"), &json!("gamma"))
    );
    let values = |sweep: &Value| -> Vec<f64> {
        sweep["points"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| number(&p["value"]))
            .collect()
    };
    assert_eq!(values(&sweeps[0]), [0.0, 1.0]);
    assert_eq!(values(&sweeps[1]), [1.0, 2.0, 4.0]);
    // β = 2 is SimPO's own.
    assert_eq!(
        sweeps[1]["points"][1]["cases"],
        summary["objectives"]["simpo"]["cases"]
    );
    near(
        &sweeps[1]["points"][1]["delta_chosen"],
        &summary["objectives"]["simpo"]["delta_chosen"],
        0.0,
    );
    assert_eq!(summary["step"]["pairs"], 4);
    assert_eq!(summary["step"]["optimizer"], "adamw_torch");
    // At this rate the update is small enough for first order.
    assert!(number(&summary["step"]["chosen"]["update_correlation"]) > 0.99);
    assert_eq!(keys(&summary["proxies"]).len(), 6);
    let shares: f64 = summary["groups"]
        .as_object()
        .unwrap()
        .values()
        .map(|g| number(&g["share"]))
        .sum();
    assert!((shares - 1.0).abs() < 1e-9, "{shares}");
    assert!(!out.join("heatmaps").exists() && out.join("report.html").is_file());
}

#[test]
fn heat_maps_and_gram_agree_with_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let further = [
        "--heatmap",
        "2",
        "--heatmap-tokens",
        "5",
        "--heatmap-group",
        "layers.1,embedding",
    ];
    done(&mut diagnose(
        &out,
        &[&further[..], &["--gram", "--gram-pairs", "3"]].concat(),
    ));
    let summary = json_file(&out.join("summary.json"));
    let mapped = summary["heatmaps"].as_array().unwrap();
    assert_eq!(mapped.len(), 2);
    assert_eq!(mapped[..], summary["worst"].as_array().unwrap()[..2]);
    for index in mapped {
        let map = json_file(&out.join(format!("heatmaps/pair-{index}.json")));
        assert_eq!(map["index"], *index);
        let labels = map["chosen_tokens"].as_array().unwrap();
        let shown = labels.len();
        assert_eq!(shown as u64, map["chosen_len"].as_u64().unwrap().min(5));
        assert!(labels[0].as_str().unwrap().starts_with('␣'), "{labels:?}");
        assert_eq!(map["cosine"].as_array().unwrap().len(), shown);
        assert_eq!(map["chosen_norms"].as_array().unwrap().len(), shown);
        near(&map["chosen_self"][0][0], &json!(1.0), 0.0);
        assert_eq!(keys(&map["groups"]), ["layers.1", "embedding"]);
        near(
            &map["groups"]["layers.1"]["rejected_self"][1][1],
            &json!(1.0),
            0.0,
        );
        assert_ne!(map["groups"]["layers.1"]["cosine"], map["cosine"]);
    }
    let gram = json_file(&out.join("gram.json"));
    assert_eq!(
        gram["order"],
        json!([
            "0/chosen",
            "0/rejected",
            "1/chosen",
            "1/rejected",
            "2/chosen",
            "2/rejected"
        ])
    );
    let geometry = rows(&out.join("geometry.jsonl"));
    for (i, row) in geometry.iter().take(3).enumerate() {
        near(&gram["matrix"][2 * i][2 * i], &row["grad_sq_chosen"], 0.0);
        let scale = number(&row["grad_sq_chosen"]);
        near(&gram["matrix"][2 * i + 1][2 * i], &row["grad_inner"], scale);
        // A batch of three averages: a third of the pair's own change.
        let split = &gram["split"][2 * i];
        let own = number(&split["own"]) + number(&split["partner"]);
        near(
            &json!(3.0 * own),
            &row["objectives"]["sigmoid"]["delta_chosen"],
            scale,
        );
        let total = own + number(&split["others"]);
        near(&json!(total), &split["total"], 0.0);
    }
}

#[test]
fn the_size_of_batches_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let [one, many] = ["one", "many"].map(|name| dir.path().join(name));
    let plain = ["--step-pairs", "0", "--heatmap", "0", "--batch-tokens"];
    done(&mut diagnose(&one, &[&plain[..], &["1"]].concat()));
    done(&mut diagnose(&many, &[&plain[..], &["4096"]].concat()));
    let [one, many] = [one, many].map(|out| rows(&out.join("geometry.jsonl")));
    same_rows(&one, &many);
}

#[test]
fn proxies_alone_are_those_of_the_full_run() {
    let dir = tempfile::tempdir().unwrap();
    let [full, cheap] = ["full", "cheap"].map(|name| dir.path().join(name));
    let kept = dir.path().join("kept.jsonl");
    done(&mut diagnose(
        &full,
        &["--step-pairs", "0", "--heatmap", "0"],
    ));
    let export = [
        "--proxies-only",
        "--export-filtered",
        text(&kept),
        "--keep-below",
        "0.25",
    ];
    done(&mut diagnose(&cheap, &export));
    assert!(!cheap.join("geometry.jsonl").exists());
    let full = rows(&full.join("geometry.jsonl"));
    let proxies = rows(&cheap.join("proxies.jsonl"));
    assert_eq!(full.len(), proxies.len());
    for (full, row) in full.iter().zip(&proxies) {
        assert!(
            keys(row)
                .iter()
                .all(|key| !key.starts_with("grad") && *key != "objectives")
        );
        for (key, value) in row.as_object().unwrap() {
            near(value, &full[key], 10.0);
        }
    }
    let summary = json_file(&cheap.join("summary.json"));
    assert_eq!(summary["complete"], true);
    assert!(summary["means"].get("ches").is_some() && summary["means"].get("grad_inner").is_none());
    // The quarter with the lowest ches_normalized, in the order of the data.
    let mut sorted: Vec<f64> = proxies
        .iter()
        .map(|r| number(&r["ches_normalized"]))
        .collect();
    sorted.sort_by(f64::total_cmp);
    let data = rows(Path::new(&demo("preferences-test.jsonl")));
    let wanted = proxies
        .iter()
        .filter(|r| number(&r["ches_normalized"]) <= sorted[2]);
    let wanted: Vec<&Value> = wanted
        .map(|r| &data[r["index"].as_u64().unwrap() as usize])
        .collect();
    assert_eq!(rows(&kept).iter().collect::<Vec<_>>(), wanted);
}
