//! Runs that are killed and resumed end with the bytes of the run that was never stopped.
//!
//! Three kinds of runs on the demo's model, each first to its end, then again and again with `kill -9` at a random
//! moment and `--resume-from-checkpoint true`: start, loading, reference, steps, evaluations, checkpoints and the final
//! save are all hit. Model files must be equal byte for byte, rows of `metrics.jsonl` but for the throughput. The seed
//! of the moments is printed (`KILL_SEED` sets another).
#![allow(clippy::print_stdout, reason = "the test says how many kills it tried")]
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::demo;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Kills of each kind of run; there are three kinds.
const KILLS: usize = 8;

/// A kind of run: the command's words, but for where it writes and from where it starts.
struct Run {
    words: Vec<String>,
    /// Its reference log-probs are kept here, so that no test reads another's.
    cache: tempfile::TempDir,
}

impl Run {
    fn new(words: &str) -> Self {
        let common = format!(
            "--threads 2 --model-name-or-path {} --learning-rate 1e-3 --max-steps 16 --logging-steps 5 \
             --save-steps 3 --per-device-train-batch-size 2 --max-samples 30",
            demo("model")
        );
        let words = format!("{words} {common}");
        Run {
            words: words.split_whitespace().map(str::to_owned).collect(),
            cache: tempfile::tempdir().unwrap(),
        }
    }

    /// Full fine-tuning with AdamW, accumulation, geometry, predictions, Gram matrices, and a logging window that straddles checkpoints.
    fn full() -> Self {
        Run::new(&format!(
            "train --dataset-name {} --eval-dataset {} --eval-strategy steps --eval-steps 6 --eval-on-start \
             --gradient-accumulation-steps 2 --geometry 4 --update-every 6 --gram-every 4 --weight-decay 0.01 \
             --warmup-steps 3",
            demo("preferences.jsonl"),
            demo("preferences-test.jsonl")
        ))
    }

    fn command(&self, out: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_unbraid"));
        command
            .args(common::less(&self.words, more))
            .arg("--output-dir")
            .arg(out)
            .args(more);
        command.env("UNBRAID_CACHE", self.cache.path());
        command
    }

    fn output(&self, out: &Path, more: &[&str]) -> Output {
        self.command(out, more).output().unwrap()
    }

    fn finish(&self, out: &Path, more: &[&str]) -> String {
        let output = self.output(out, more);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{more:?}: {message}");
        message
    }
}

const RESUME: [&str; 2] = ["--resume-from-checkpoint", "true"];

/// Files of a finished run that must be equal, by name: the model's, and those of the last checkpoint.
fn files(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let different = [
        "metrics.jsonl",
        "run.yaml",
        "report.html",
        "trainer_state.json",
        "checksums.json",
    ];
    for (prefix, dir) in [("", out.to_owned()), ("last ", out.join("checkpoint-16"))] {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_file() && !different.contains(&&*name) {
                found.insert(format!("{prefix}{name}"), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn rows(out: &Path) -> Vec<String> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let row = |line: &str| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row.as_object_mut().unwrap().remove("tokens_per_second");
        row.to_string()
    };
    text.lines().map(row).collect()
}

fn same(out: &Path, whole: &Path, what: &str) {
    assert_eq!(rows(out), rows(whole), "{what}: rows");
    let (found, expected) = (files(out), files(whole));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected), "{what}");
    for (name, bytes) in &found {
        assert!(*bytes == expected[name], "{what}: {name} differs");
    }
    let left = fs::read_dir(out).unwrap().map(|e| e.unwrap().file_name());
    let left: Vec<_> = left
        .filter(|n| n.to_string_lossy().starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{what}: {left:?} are left over");
}

/// Kills the run at random moments until it has been killed often enough and ends; gives the number of kills.
fn kill_and_resume(name: &str, run: &Run, random: &mut ChaCha8Rng) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let started = Instant::now();
    run.finish(&whole, &[]);
    let time = started.elapsed().as_secs_f64();
    let (mut kills, mut chains, mut with_checkpoint) = (0, 0, 0);
    while kills < KILLS {
        chains += 1;
        let out = dir.path().join(format!("killed-{chains}"));
        let mut here = 0;
        loop {
            let mut child = run
                .command(&out, &RESUME)
                .stderr(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            // A run that is killed ten times in vain is let go.
            if here < 10 {
                let moment = time * random.random_range(0.02..1.1);
                std::thread::sleep(Duration::from_secs_f64(moment));
                child.kill().unwrap();
            }
            let output = child.wait_with_output().unwrap();
            if output.status.success() {
                break;
            }
            let message = String::from_utf8_lossy(&output.stderr);
            assert_eq!(
                output.status.code(),
                None,
                "{name}: it failed by itself: {message}"
            );
            here += 1;
            with_checkpoint +=
                usize::from((3..=16).any(|step| out.join(format!("checkpoint-{step}")).exists()));
        }
        kills += here;
        same(&out, &whole, &format!("{name} after {here} kills"));
        fs::remove_dir_all(&out).unwrap();
    }
    println!(
        "{name}: {kills} kills ({with_checkpoint} behind a checkpoint) in {chains} runs of {time:.2} s, each ending as \
         the uninterrupted one"
    );
    kills
}

#[test]
fn killed_at_any_moment_it_ends_the_same() {
    let seed = std::env::var("KILL_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(3);
    println!("KILL_SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let adapter = Run::new(&format!(
        "train --dataset-name {} --eval-dataset {} --eval-strategy steps --eval-steps 3 --load-best-model-at-end \
         --metric-for-best-model rewards/margins --save-total-limit 1 --optim lion --lr-scheduler-type cosine \
         --dtype bfloat16 --use-peft --lora-r 4 --lora-dropout 0.1 --disable-dropout false \
         --lora-target-modules all-linear --geometry off",
        demo("preferences.jsonl"),
        demo("preferences-test.jsonl")
    ));
    let sft = Run::new(&format!(
        "sft --dataset-name {} --packing --max-length 48 --optim adafactor --lr-scheduler-type warmup_stable_decay",
        demo("corpus.jsonl")
    ));
    let kinds = [("full", Run::full()), ("adapter", adapter), ("sft", sft)];
    let kills = kinds
        .iter()
        .map(|(name, run)| kill_and_resume(name, run, &mut random));
    let kills: usize = kills.sum();
    println!("{kills} kills in all");
    assert!(kills >= 20);
}

/// The newest checkpoint is damaged in three ways; each is said with its reason, and the one before is used.
#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let (run, dir) = (Run::full(), tempfile::tempdir().unwrap());
    let (whole, out) = (dir.path().join("whole"), dir.path().join("out"));
    run.finish(&whole, &[]);
    run.finish(&out, &[]);
    let newest = out.join("checkpoint-16");
    let change = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(newest.join(name)).unwrap();
        change(&mut bytes);
        fs::write(newest.join(name), bytes).unwrap();
    };
    let damages: [(&str, &dyn Fn()); 3] = [
        ("model.safetensors has 70000 bytes, expected ", &|| {
            change("model.safetensors", &|bytes| bytes.truncate(70_000))
        }),
        (
            "optimizer.safetensors was altered: its SHA-256 is ",
            &|| change("optimizer.safetensors", &|bytes| bytes[100_000] ^= 1),
        ),
        ("tokenizer.json is missing", &|| {
            fs::remove_file(newest.join("tokenizer.json")).unwrap()
        }),
    ];
    for (reason, damage) in damages {
        damage();
        let message = run.finish(&out, &RESUME);
        let note = message
            .lines()
            .find(|l| l.starts_with("note: ") && l.contains("checkpoint-16"));
        assert!(note.is_some_and(|note| note.contains(reason)), "{message}");
        assert!(
            message.contains("going on from") && message.contains("step 15 of 16"),
            "{message}"
        );
        same(&out, &whole, reason);
    }
    let path = newest.to_str().unwrap();
    change("config.json", &|bytes| bytes[0] = b'[');
    let output = run.output(&out, &["--resume-from-checkpoint", path]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("config.json was altered"), "{message}");
}

#[test]
fn what_cannot_be_resumed_is_refused_with_its_reason() {
    let (run, dir) = (Run::full(), tempfile::tempdir().unwrap());
    let out = dir.path().join("out");
    let refused = |more: &[&str], code: i32| {
        let output = run.output(&out, more);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{more:?}: {message}");
        message
    };
    // No checkpoint and nothing else: the run starts, and says so.
    let message = run.finish(&out, &RESUME);
    assert!(
        message.contains("no checkpoint: starting from the first step"),
        "{message}"
    );
    let message = refused(&[], 1);
    assert!(message.contains("is not empty"), "{message}");
    for (word, value, expected) in [
        (
            "--gradient-accumulation-steps",
            "1",
            "gradient_accumulation_steps is 1, was 2",
        ),
        (
            "--per-device-train-batch-size",
            "3",
            "per_device_train_batch_size is 3, was 2",
        ),
        ("--beta", "0.3", "beta is 0.3, was not set"),
        ("--seed", "1", "seed is 1, was 42"),
        ("--max-samples", "29", "data_fingerprint is "),
        ("--optim", "lion", "optimizer is {\"Lion\""),
        ("--max-steps", "17", "total_steps is 17, was 16"),
        (
            "--model-name-or-path",
            out.to_str().unwrap(),
            "model_fingerprint is ",
        ),
    ] {
        let message = refused(&[&RESUME[..], &[word, value]].concat(), 1);
        assert!(
            message.contains(expected) && message.contains("hint:"),
            "{word}: {message}"
        );
    }
    // Without its checkpoints a finished run is not begun again.
    for step in [3, 6, 9, 12, 15, 16] {
        fs::remove_dir_all(out.join(format!("checkpoint-{step}"))).unwrap();
    }
    let message = refused(&RESUME, 1);
    assert!(message.contains("is not empty"), "{message}");
    let message = refused(&["--resume-from-checkpoint", "nowhere/checkpoint-3"], 1);
    assert!(
        message.contains("nowhere/checkpoint-3") && message.contains("no such directory"),
        "{message}"
    );
    let best = ["--load-best-model-at-end", "--save-steps"];
    let message = refused(&[&best[..], &["4"]].concat(), 2);
    assert!(
        message.contains("save_steps is 4 and eval_steps 6"),
        "{message}"
    );
    let message = refused(&["--load-best-model-at-end", "--save-strategy", "epoch"], 2);
    assert!(
        message.contains("needs an evaluation for each checkpoint"),
        "{message}"
    );
    let message = refused(&["--optim", "adamw_8bit"], 2);
    assert!(
        message.contains("what works: adamw_torch, sgd, adafactor, lion"),
        "{message}"
    );
    let message = refused(&["--optim-args", "beta3=0.9"], 2);
    assert!(message.contains("beta3 is not an argument"), "{message}");
    let message = refused(&["--lr-scheduler-kwargs", "{\"min_lr\": 0}"], 2);
    assert!(message.contains("linear does not take min_lr"), "{message}");
}

/// At a step or in an evaluation, wherever the signal meets it (`unbraid-train`'s tests stop at each of these moments).
#[test]
fn stopped_by_ctrl_c_it_ends_the_same() {
    let (run, dir) = (Run::full(), tempfile::tempdir().unwrap());
    let (whole, out) = (dir.path().join("whole"), dir.path().join("out"));
    run.finish(&whole, &[]);
    let mut child = run
        .command(&out, &[])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !fs::read_to_string(out.join("metrics.jsonl")).is_ok_and(|t| t.lines().count() > 1) {
        std::thread::sleep(Duration::from_millis(1));
        assert!(
            child.try_wait().unwrap().is_none(),
            "the run ended too early"
        );
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
    let message = run.finish(&out, &RESUME);
    assert!(message.contains("going on from"), "{message}");
    same(&out, &whole, "after Ctrl-C");
}

/// A remedy whose moving average each micro-batch moves on: a step that is abandoned half-way must leave no trace of itself.
#[test]
fn told_to_end_at_any_moment_it_ends_the_same() {
    let run = Run::new(&format!(
        "train --dataset-name {} --remedy calibrated --gradient-accumulation-steps 6 --geometry 3 --update-every 5",
        demo("preferences.jsonl")
    ));
    let dir = tempfile::tempdir().unwrap();
    let (whole, out) = (dir.path().join("whole"), dir.path().join("out"));
    let started = Instant::now();
    run.finish(&whole, &[]);
    let time = started.elapsed().as_secs_f64();
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut stops = 0;
    loop {
        let child = run
            .command(&out, &RESUME)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if stops < 6 {
            let moment = time * random.random_range(0.1..0.4);
            std::thread::sleep(Duration::from_secs_f64(moment));
            let pid = child.id().to_string();
            let kill = Command::new("kill").args(["-TERM", &pid]).status();
            assert!(kill.is_ok());
        }
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            break;
        }
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{message}");
        stops += 1;
    }
    assert!(stops >= 1, "{stops}");
    same(&out, &whole, &format!("after {stops} SIGTERM"));
}

/// `lr_scheduler_kwargs` as transformers' recipes give it, and `run.yaml` gives it back.
#[test]
fn arguments_of_schedule_and_optimizer_come_from_a_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let (recipe, out) = (dir.path().join("recipe.yaml"), dir.path().join("out"));
    let text = "optim: sgd\noptim_args: momentum=0.9\nlr_scheduler_type: cosine_with_min_lr\n\
                lr_scheduler_kwargs:\n  min_lr_rate: 0.1\n  num_cycles: 0.5\n";
    fs::write(&recipe, text).unwrap();
    let run = Run::full();
    let recipe = recipe.to_str().unwrap();
    run.finish(
        &out,
        &[
            "--config",
            recipe,
            "--max-steps",
            "4",
            "--logging-steps",
            "1",
        ],
    );
    let rates = rows(&out).into_iter().filter_map(|row| {
        let row: Value = serde_json::from_str(&row).unwrap();
        row["learning_rate"].as_f64()
    });
    // Warm-up of 3 steps of 4, then the peak.
    let rates: Vec<f64> = rates.collect();
    let expected = [0.0, 1e-3 / 3.0, 2e-3 / 3.0, 1e-3];
    assert!(
        rates
            .iter()
            .zip(expected)
            .all(|(a, b)| (a - b).abs() < 1e-12),
        "{rates:?}"
    );
    let written = fs::read_to_string(out.join("run.yaml")).unwrap();
    assert!(
        written.contains("optim_args: \"momentum=0.9\""),
        "{written}"
    );
    assert!(
        written.contains("lr_scheduler_kwargs: {\"min_lr_rate\":0.1,\"num_cycles\":0.5}"),
        "{written}"
    );
    let again = dir.path().join("again");
    let yaml = out.join("run.yaml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_unbraid"));
    command.args([
        "train",
        yaml.to_str().unwrap(),
        "--output-dir",
        again.to_str().unwrap(),
    ]);
    let output = command
        .env("UNBRAID_CACHE", run.cache.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(rows(&again), rows(&out));
}
