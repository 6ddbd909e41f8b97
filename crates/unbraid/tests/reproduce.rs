//! `unbraid data sentiment` and `unbraid reproduce` through the binary.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{demo, done, refused, rows, text};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn unbraid(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unbraid"));
    command.args(words).env("UNBRAID_CACHE", dir.join("cache"));
    command
}

/// Some 200 made-up tweets; every fourth is neutral, one is empty, one is there three times.
fn tweets(dir: &Path) -> PathBuf {
    let mut csv = String::from("textID,text,sentiment\n");
    let (good, bad) = (["lovely", "great", "sunny"], ["awful", "sad", "rainy"]);
    for i in 0..200 {
        let (word, label) = match i % 4 {
            0 => ("plain", "neutral"),
            1 => (bad[i % 3], "negative"),
            _ => (good[i % 3], "positive"),
        };
        csv.push_str(&format!("id{i},\" {word} day no {i}, folks!\",{label}\n"));
    }
    csv.push_str("e,,positive\nr,\"lovely day no 3, folks!\",positive\nr,\"lovely day no 3, folks!\",positive\n");
    let path = dir.join("tweets.csv");
    fs::write(&path, csv).unwrap();
    path
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn sentiment_data_is_split_checked_and_the_same_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let tweets = tweets(dir.path());
    let make = |name: &str, further: &[&str]| -> (PathBuf, Value, String) {
        let out = dir.path().join(name);
        let mut words = vec!["data", "sentiment", "--tweets", text(&tweets), "--json"];
        words.extend(["--style", "prefix-suffix", "--output-dir", text(&out)]);
        words.extend(further);
        let output = unbraid(dir.path(), &words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        (out, serde_json::from_slice(&output.stdout).unwrap(), said)
    };
    let (a, result, said) = make("a", &["--model-name-or-path", &demo("model")]);
    let counts = &result["counts"];
    for (key, count) in [
        ("rows", 203),
        ("neutral", 50),
        ("empty", 1),
        ("repeated", 2),
    ] {
        assert_eq!(counts[key], count, "{key}");
    }
    assert_eq!(
        result["train"].as_u64().unwrap() + result["test"].as_u64().unwrap(),
        150
    );
    assert_eq!(result["tokens"]["one_token"], 150, "{said}");
    let pairs = rows(&a.join("preference/test.jsonl"));
    let right = |row: &Value| {
        let positive = ["lovely", "great", "sunny"]
            .iter()
            .any(|w| row["prompt"].as_str().unwrap().contains(w));
        let word = if positive { "positive" } else { "negative" };
        row["chosen"] == format!(" It has a {word} sentiment based on my judgement.")
    };
    assert!(pairs.iter().all(right));
    let (b, ..) = make("b", &[]);
    for file in ["sft/train.jsonl", "preference/test.jsonl"] {
        assert_eq!(
            fs::read(a.join(file)).unwrap(),
            fs::read(b.join(file)).unwrap()
        );
    }
    // Parquet holds the same rows: scoring reads both alike.
    let (p, ..) = make("p", &["--format", "parquet"]);
    let scores = |data: &Path, out: &str| {
        let out = dir.path().join(out);
        let words = [
            "score",
            "--model-name-or-path",
            &demo("model"),
            "--dataset-name",
            text(data),
        ];
        done(unbraid(dir.path(), &words).args(["--output-dir", text(&out)]));
        fs::read(out.join("scores.jsonl")).unwrap()
    };
    let parquet = scores(&p.join("preference/test.parquet"), "sp");
    assert_eq!(parquet, scores(&a.join("preference/test.jsonl"), "sj"));
}

#[test]
fn labels_of_several_tokens_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (tweets, out) = (tweets(dir.path()), dir.path().join("out"));
    let mut command = unbraid(
        dir.path(),
        &["data", "sentiment", "--tweets", text(&tweets)],
    );
    command.args(["--style", "short-suffix", "--output-dir", text(&out)]);
    // The demo's tokenizer has " positive", but no " Positive".
    let said = done(command.args(["--model-name-or-path", &demo("model")]));
    assert!(
        said.contains("in 0 of 150 rows") && said.contains("note: not so"),
        "{said}"
    );
}

#[test]
fn bad_tweets_are_refused_with_their_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.csv");
    fs::write(&file, "text,sentiment\nfine,positive\nodd,angry\n").unwrap();
    let out = dir.path().join("out");
    let words = [
        "data",
        "sentiment",
        "--tweets",
        text(&file),
        "--output-dir",
        text(&out),
    ];
    let mut command = unbraid(dir.path(), &words);
    refused(
        command.args(["--style", "short-suffix"]),
        1,
        &["t.csv:3", "angry"],
    );
    assert!(!out.exists());
    let mut command = unbraid(dir.path(), &words);
    refused(
        command.args(["--style", "longest"]),
        2,
        &["single-token, short-suffix"],
    );
}

/// The quick comparison of objectives, a few arms of three steps.
fn objectives(dir: &Path, further: &[&str]) -> Command {
    let out = dir.join("out");
    let words = [
        "reproduce",
        "objectives",
        "--quick",
        "--max-steps",
        "3",
        "--threads",
        "2",
    ];
    let mut command = unbraid(dir, &words);
    command.args([
        "--held-out",
        "8",
        "--measured",
        "4",
        "--output-dir",
        text(&out),
    ]);
    command.args(["--arms", "sppo,guarded,diff"]).args(further);
    command
}

#[test]
fn objectives_are_compared_and_the_same_command_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let said = done(&mut objectives(dir.path(), &[]));
    assert!(said.contains("run 3 of 3: sigmoid+diff, seed 42"), "{said}");
    let out = dir.path().join("out");
    let results = json(&out.join("results.json"));
    let arms = results["arms"].as_array().unwrap();
    let names: Vec<_> = arms.iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["sppo", "sigmoid+guarded", "sigmoid+diff"]);
    for arm in arms {
        let run = &arm["runs"][0];
        assert_eq!(run["outcome"]["chosen_change"].as_array().unwrap().len(), 8);
        assert!(run["outcome"]["kl"].as_f64().unwrap() >= -1e-9);
        let start = &run["evaluations"][0]["metrics"];
        assert_eq!(run["evaluations"][0]["step"], 0);
        assert!(start["geometry/cosine"].is_number());
        assert!(!run["predictions"].as_array().unwrap().is_empty());
        // Weights of arms are not kept.
        let dir = out.join(run["dir"].as_str().unwrap());
        assert!(!dir.join("adapter_model.safetensors").exists());
        assert!(dir.join("run.yaml").is_file());
    }
    // SPPO: chosen rises and rejected falls; guarded and diff likewise.
    assert_eq!(results["claims"].as_array().unwrap().len(), 7);
    assert!(out.join("report.html").is_file());

    // Again, with one more seed: what is done is read.
    let said = done(&mut objectives(dir.path(), &["--seeds", "42,43"]));
    assert_eq!(said.matches("done before").count(), 3, "{said}");
    let again = json(&out.join("results.json"));
    assert_eq!(again["arms"][0]["runs"][0], results["arms"][0]["runs"][0]);
    assert_eq!(again["arms"][0]["runs"][1]["seed"], 43);

    // Another experiment does not get the directory.
    let mut other = objectives(dir.path(), &["--learning-rate", "1e-3"]);
    refused(
        &mut other,
        1,
        &["rate", "hint: choose another --output-dir"],
    );
    refused(
        &mut objectives(dir.path(), &["--arms", "magic"]),
        2,
        &["magic", "sppo"],
    );
    let report = unbraid(dir.path(), &["report", text(&out)]);
    let mut report = report;
    assert!(done(&mut report).contains("claims"));
}

/// Names of all files below a directory, in order.
fn names(dir: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.file_type().unwrap().is_dir() {
            true => names(&entry.path(), &format!("{name}/"), found),
            false => found.push(name),
        }
    }
    found.sort();
}

/// Whatever moment a kill falls into, the same command ends with the same files.
#[cfg(unix)]
#[test]
fn killed_at_any_moment_it_ends_with_the_same_files() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let files = || {
        let mut found = Vec::new();
        names(&out, "", &mut found);
        found
    };
    let start = std::time::Instant::now();
    done(&mut objectives(dir.path(), &[]));
    let (time, whole) = (start.elapsed(), files());
    for moment in 1..8 {
        fs::remove_dir_all(&out).unwrap();
        let mut child = objectives(dir.path(), &[])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(time * moment / 8);
        child.kill().unwrap();
        child.wait().unwrap();
        done(&mut objectives(dir.path(), &[]));
        assert_eq!(files(), whole, "killed after {moment} eighths");
    }

    // The moments that are hard to meet: between a run's end and its page, between its outcome and the end of its weights,
    // and with files half written.
    let arm = out.join("sppo/seed-42");
    fs::remove_file(arm.join("report.html")).unwrap();
    fs::write(arm.join(".report.html.1.tmp"), "half").unwrap();
    fs::write(arm.join(".unbraid.lock"), "").unwrap();
    fs::write(arm.join("adapter_model.safetensors"), "").unwrap();
    fs::write(out.join(".report.html.1.tmp"), "half").unwrap();
    fs::write(out.join("data/.train.jsonl.1-1.tmp"), "half").unwrap();
    done(&mut objectives(dir.path(), &[]));
    assert_eq!(files(), whole);
    // An experiment that was killed before it could say what it is.
    fs::remove_dir_all(&out).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(out.join(".experiment.json.1-1.tmp"), "half").unwrap();
    done(&mut objectives(dir.path(), &[]));
    assert_eq!(files(), whole);
}

#[test]
fn without_files_the_hub_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    for (experiment, name) in [("objectives", "SmolLM2"), ("sentiment", "tweet_sentiment")] {
        let out = dir.path().join(experiment);
        let words = ["reproduce", experiment, "--output-dir", text(&out)];
        let mut command = unbraid(dir.path(), &words);
        command
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HOME", dir.path());
        refused(&mut command, 1, &[name, "HF_HUB_OFFLINE"]);
    }
    // Tweets are read before anything is made.
    assert!(!dir.path().join("sentiment").exists());
}

#[test]
fn sentiment_runs_from_tweets_to_claims() {
    let dir = tempfile::tempdir().unwrap();
    let real = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/data/tweet_sentiment/train.csv");
    let file = match real.is_file() {
        true => real,
        false => {
            eprintln!("no tweets beside the repository: this test runs on made-up ones");
            tweets(dir.path())
        }
    };
    let out = dir.path().join("out");
    let mut command = unbraid(
        dir.path(),
        &["reproduce", "sentiment", "--quick", "--tweets", text(&file)],
    );
    command.args([
        "--remedies",
        "guarded",
        "--seeds",
        "42",
        "--output-dir",
        text(&out),
    ]);
    done(&mut command);
    let results = json(&out.join("results.json"));
    let arms = results["arms"].as_array().unwrap();
    assert_eq!(arms.len(), 6, "four styles, and a remedy on two of them");
    let claims = results["claims"].as_array().unwrap();
    assert!(
        claims.iter().all(|c| c["measured"].is_number()),
        "{claims:?}"
    );
    assert!(claims.iter().any(|c| {
        c["claim"]
            .as_str()
            .unwrap()
            .contains("at the token that differs")
    }));
    for map in results["heat_maps"].as_array().unwrap() {
        assert!(out.join(map["file"].as_str().unwrap()).is_file());
    }
    let tokens = json(&out.join("data/single-token/tokens.json"));
    assert_eq!(tokens["one_token"], tokens["rows"]);
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("single-token") && page.contains("GPT-2"));
    // Guarding keeps every measured pair ideal to first order.
    let guarded = arms
        .iter()
        .find(|a| a["name"] == "long-suffix+guarded")
        .unwrap();
    for evaluation in guarded["runs"][0]["evaluations"].as_array().unwrap() {
        assert_eq!(evaluation["metrics"]["geometry/ideal"], 1.0);
    }
}
