//! Checkpoints and going on from them, with a task whose every number is known.
//!
//! The task pulls the parameters towards a point that depends on the step, so any step taken twice, left out or taken
//! from other values changes the end; its metrics depend on the parameters. The binary's `tests/resume.rs` does the
//! same with real training and `kill -9`.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod pull;

use pull::{Case, From, Watch, case};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use unbraid_model::weights::StoredDtype;
use unbraid_train::{
    BestModel, Cadence, Checkpoint, OptimizerKind, Outcome, ScheduleKind, TrainError,
};

/// What must be equal at the end: weights, and rows but for the throughput.
fn end(dir: &Path) -> (Vec<u8>, Vec<Value>) {
    let text = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let rows = text.lines().map(|line| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row.as_object_mut().unwrap().remove("tokens_per_second");
        row
    });
    (
        fs::read(dir.join("model.safetensors")).unwrap(),
        rows.collect(),
    )
}

fn checkpoints(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
    let names = names.map(|n| n.to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|n| n.contains("checkpoint-")).collect();
    names.sort_by_key(|n| (n.len(), n.clone()));
    names
}

fn new() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Every moment at which the user can stop a run (with AdamW and f32; a fourth of them else): before a step, and in the
/// evaluations before the first step and after the 4th, 8th and 12th, which are saving steps too.
#[test]
fn stopped_anywhere_and_resumed_it_ends_the_same() {
    let adamw = case().settings.optimizer;
    let lion = OptimizerKind::Lion {
        beta1: 0.9,
        beta2: 0.99,
    };
    let momentum = OptimizerKind::Sgd { momentum: 0.9 };
    let plain = OptimizerKind::Sgd { momentum: 0.0 };
    for (optimizer, dtype) in [
        (adamw, StoredDtype::F32),
        (adamw, StoredDtype::Bf16),
        (lion, StoredDtype::Bf16),
        (momentum, StoredDtype::F32),
        (plain, StoredDtype::Bf16),
        (OptimizerKind::Adafactor, StoredDtype::F32),
    ] {
        let mut case = case();
        (case.settings.optimizer, case.dtype) = (optimizer, dtype);
        case.settings.save = Some(Cadence {
            every: 4,
            at_end: false,
        });
        let whole = new();
        let mut watch = Watch::default();
        case.run(whole.path(), From::Scratch, &mut watch).unwrap();
        let questions = watch.questions;
        assert_eq!(questions, 12 + 4, "one for each step and each evaluation");
        let all = (optimizer, dtype) == (adamw, StoredDtype::F32);
        let step = if all { 1 } else { 4 };
        for stop_at in (1..=questions).step_by(step) {
            let dir = new();
            let mut watch = Watch {
                stop_at: Some(stop_at),
                ..Watch::default()
            };
            let (outcome, _) = case.run(dir.path(), From::Scratch, &mut watch).unwrap();
            let Outcome::Interrupted { step } = outcome else {
                panic!("stopped at question {stop_at}, but {outcome:?}");
            };
            assert!(dir.path().join(format!("checkpoint-{step}")).is_dir());
            let mut watch = Watch::default();
            let (outcome, task) = case.run(dir.path(), From::Newest, &mut watch).unwrap();
            assert_eq!(outcome, Outcome::Finished);
            assert_eq!(watch.resumed.unwrap().0, step);
            assert!(
                end(dir.path()) == end(whole.path()),
                "{optimizer:?} stopped at question {stop_at} ends otherwise"
            );
            assert_eq!(task.seen, 12);
        }
    }
}

/// A window of 5 steps straddles the checkpoint after 3; the means must not notice.
#[test]
fn each_checkpoint_of_a_run_leads_to_its_end() {
    let (case, whole) = (case(), new());
    case.run(whole.path(), From::Scratch, &mut Watch::default())
        .unwrap();
    assert_eq!(
        checkpoints(whole.path()),
        [
            "checkpoint-3",
            "checkpoint-6",
            "checkpoint-9",
            "checkpoint-12"
        ]
    );
    for name in checkpoints(whole.path()) {
        // Into another directory: the history comes with the checkpoint.
        let dir = new();
        let from = whole.path().join(&name);
        case.run(dir.path(), From::Path(&from), &mut Watch::default())
            .unwrap();
        assert!(end(dir.path()) == end(whole.path()), "{name}");
        for file in ["model.safetensors", "optimizer.safetensors"] {
            let read = |dir: &Path| fs::read(dir.join("checkpoint-12").join(file)).unwrap();
            assert!(read(dir.path()) == read(whole.path()), "{name} {file}");
        }
    }
}

#[test]
fn damage_is_refused_with_its_reason_and_the_checkpoint_before_is_used() {
    let (case, whole) = (case(), new());
    case.run(whole.path(), From::Scratch, &mut Watch::default())
        .unwrap();
    let expected = end(whole.path());
    let newest = whole.path().join("checkpoint-12");
    let change = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let path = newest.join(name);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    };
    let flip = |at: usize| move |bytes: &mut Vec<u8>| bytes[at] ^= 0x10;
    let truncate = |bytes: &mut Vec<u8>| bytes.truncate(1000);
    let keep: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(&newest)
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|p| (p.clone(), fs::read(&p).unwrap()))
        .collect();
    let damages: [(&str, &dyn Fn()); 8] = [
        ("model.safetensors has 1000 bytes, expected", &|| {
            change("model.safetensors", &truncate)
        }),
        ("optimizer.safetensors was altered: its SHA-256 is", &|| {
            change("optimizer.safetensors", &flip(5000))
        }),
        ("trainer_state.json was altered", &|| {
            change("trainer_state.json", &flip(40))
        }),
        ("pull.txt is missing", &|| {
            fs::remove_file(newest.join("pull.txt")).unwrap()
        }),
        ("checksums.json cannot be read", &|| {
            fs::remove_file(newest.join("checksums.json")).unwrap()
        }),
        ("checksums.json is damaged", &|| {
            change("checksums.json", &|b| b.truncate(b.len() / 2))
        }),
        (
            "checksums.json does not list optimizer.safetensors",
            &|| fs::write(newest.join("checksums.json"), "{\"files\": {}}").unwrap(),
        ),
        ("checksums.json cannot be read", &|| {
            fs::remove_dir_all(&newest).unwrap();
            fs::create_dir(&newest).unwrap();
        }),
    ];
    for (reason, damage) in damages {
        damage();
        let refused = Checkpoint::open(&newest, &case.identity())
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains(reason) && refused.contains("checkpoint-12"),
            "{refused}"
        );
        let mut notes = Vec::new();
        let found = Checkpoint::newest(whole.path(), &case.identity(), &mut |n| notes.push(n));
        assert_eq!(found.unwrap().unwrap().step(), 9, "{reason}");
        assert!(notes.len() == 1 && notes[0].contains(reason), "{notes:?}");
        // Going on from the one before writes this one anew.
        case.run(whole.path(), From::Newest, &mut Watch::default())
            .unwrap();
        assert!(end(whole.path()) == expected, "after {reason}");
        Checkpoint::open(&newest, &case.identity()).unwrap();
        for (path, bytes) in &keep {
            fs::write(path, bytes).unwrap();
        }
    }
    for name in checkpoints(whole.path()) {
        fs::remove_file(whole.path().join(name).join("optimizer.safetensors")).unwrap();
    }
    let none = Checkpoint::newest(whole.path(), &case.identity(), &mut |_| {});
    let message = none.unwrap_err().to_string();
    assert!(message.contains("no checkpoint can be used"), "{message}");
    assert_eq!(
        message.matches("optimizer.safetensors is missing").count(),
        4,
        "{message}"
    );
}

#[test]
fn a_checkpoint_of_other_settings_is_refused_by_name() {
    let (base, dir) = (case(), new());
    base.run(dir.path(), From::Scratch, &mut Watch::default())
        .unwrap();
    let differ = |change: &dyn Fn(&mut Case), expected: &str| {
        let mut other = base.clone();
        change(&mut other);
        let error = Checkpoint::newest(dir.path(), &other.identity(), &mut |_| {}).unwrap_err();
        assert!(matches!(error, TrainError::OtherRun { .. }));
        let message = error.to_string();
        assert!(message.contains(expected), "{message}");
    };
    differ(
        &|c| c.plan.sampler.batch = 4,
        "per_device_train_batch_size is 4, was 2",
    );
    differ(
        &|c| c.plan.sampler.accumulation = 1,
        "gradient_accumulation_steps is 1, was 2",
    );
    differ(&|c| c.plan.sampler.seed = 6, "seed is 6, was 5");
    differ(&|c| c.plan.sampler.lengths[3] = 9, "example_lengths is ");
    differ(&|c| c.plan.total = 13, "total_steps is 13, was 12");
    differ(
        &|c| c.settings.optimizer = OptimizerKind::Adafactor,
        "optimizer is Adafactor, was {\"AdamW\"",
    );
    differ(
        &|c| c.settings.schedule.peak = 2e-2,
        "learning_rate is 0.02, was 0.01",
    );
    differ(
        &|c| c.settings.schedule.warmup = 0,
        "warmup_steps is 0, was 2",
    );
    differ(
        &|c| c.settings.geometry_every = None,
        "geometry is not set, was 2",
    );
    differ(
        &|c| drop(c.further.insert("data_fingerprint".into(), "ab".into())),
        "data_fingerprint is ab, was not set",
    );
    // When to log, evaluate and save is free to change.
    let mut other = base.clone();
    (other.settings.logging_steps, other.settings.save) = (1, None);
    let found = Checkpoint::newest(dir.path(), &other.identity(), &mut |_| {});
    assert_eq!(found.unwrap().unwrap().step(), 12);
    // So is the length of a run whose learning rate does not depend on it.
    let mut constant = base.clone();
    constant.settings.schedule.kind = ScheduleKind::Constant;
    let dir = new();
    constant
        .run(dir.path(), From::Scratch, &mut Watch::default())
        .unwrap();
    (constant.plan.total, constant.settings.schedule.total) = (15, 15);
    let (outcome, task) = constant
        .run(dir.path(), From::Newest, &mut Watch::default())
        .unwrap();
    assert_eq!((outcome, task.seen), (Outcome::Finished, 15));
}

/// Another run's newer checkpoint in the same directory is passed over.
#[test]
fn an_older_runs_checkpoint_does_not_hide_this_ones() {
    let (mut older, dir) = (case(), new());
    older.further.insert("beta".into(), 0.5.into());
    older
        .run(dir.path(), From::Scratch, &mut Watch::default())
        .unwrap();
    let mut watch = Watch {
        stop_at: Some(8),
        ..Watch::default()
    };
    case().run(dir.path(), From::Scratch, &mut watch).unwrap();
    let mut notes = Vec::new();
    let found = Checkpoint::newest(dir.path(), &case().identity(), &mut |n| notes.push(n));
    assert_eq!(found.unwrap().unwrap().step(), 5);
    assert!(
        notes.iter().all(|n| n.contains("beta is not set, was 0.5")),
        "{notes:?}"
    );
}

fn best(metric: &str, greater_is_better: bool) -> Option<BestModel> {
    Some(BestModel {
        metric: metric.into(),
        greater_is_better,
        load_at_end: true,
    })
}

#[test]
fn the_run_ends_with_the_best_checkpoint_and_keeps_it() {
    let mut case = case();
    case.settings.evaluate = Some(Cadence {
        every: 1,
        at_end: false,
    });
    case.settings.save = Some(Cadence {
        every: 2,
        at_end: false,
    });
    case.settings.best = best("quality", true);
    case.limit = Some(1);
    // Step 5 is better still, but has no checkpoint.
    case.quality = [(2, 0.1), (4, 0.7), (5, 0.9), (6, 0.2), (12, 0.6)].into();
    for dtype in [StoredDtype::F32, StoredDtype::Bf16] {
        case.dtype = dtype;
        let dir = new();
        case.run(dir.path(), From::Scratch, &mut Watch::default())
            .unwrap();
        assert_eq!(checkpoints(dir.path()), ["checkpoint-4", "checkpoint-12"]);
        let read = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
        assert!(read(dir.path()) == read(&dir.path().join("checkpoint-4")));
        assert!(read(dir.path()) != read(&dir.path().join("checkpoint-12")));
        let state = fs::read_to_string(dir.path().join("trainer_state.json")).unwrap();
        let state: Value = serde_json::from_str(&state).unwrap();
        assert_eq!(state["best_model_checkpoint"], "checkpoint-4");
        assert_eq!(state["best_metric"], 0.7);
        // Resumed past the best step it still knows it, also from elsewhere.
        for stop_at in [9, 20] {
            let stopped = new();
            let mut watch = Watch {
                stop_at: Some(stop_at),
                ..Watch::default()
            };
            case.run(stopped.path(), From::Scratch, &mut watch).unwrap();
            case.run(stopped.path(), From::Newest, &mut Watch::default())
                .unwrap();
            assert!(end(stopped.path()) == end(dir.path()), "{stop_at}");
        }
        let elsewhere = new();
        let from = dir.path().join("checkpoint-12");
        case.run(elsewhere.path(), From::Path(&from), &mut Watch::default())
            .unwrap();
        assert!(end(elsewhere.path()) == end(dir.path()));
    }
    // The loss (here the number of steps) should be low: the first checkpoint is best.
    case.settings.best = best("loss", false);
    let dir = new();
    case.run(dir.path(), From::Scratch, &mut Watch::default())
        .unwrap();
    assert_eq!(checkpoints(dir.path()), ["checkpoint-2", "checkpoint-12"]);
    case.settings.best = best("qualty", true);
    let error = case.run(new().path(), From::Scratch, &mut Watch::default());
    let message = error.err().unwrap().to_string();
    assert!(
        message.contains("qualty") && message.contains("loss, quality"),
        "{message}"
    );
}

#[test]
fn only_the_newest_are_kept_and_left_overs_go() {
    let (mut case, dir) = (case(), new());
    case.limit = Some(2);
    fs::create_dir_all(dir.path().join("checkpoint-900")).unwrap();
    fs::create_dir_all(dir.path().join(".checkpoint-7.partial/x")).unwrap();
    fs::write(dir.path().join(".metrics.jsonl.17-0.tmp"), "").unwrap();
    fs::write(dir.path().join(".mine"), "").unwrap();
    let mut watch = Watch::default();
    case.run(dir.path(), From::Scratch, &mut watch).unwrap();
    assert_eq!(
        checkpoints(dir.path()),
        ["checkpoint-9", "checkpoint-12", "checkpoint-900"]
    );
    assert!(
        dir.path().join(".mine").exists() && !dir.path().join(".metrics.jsonl.17-0.tmp").exists()
    );
    assert_eq!(watch.saved.len(), 5, "four checkpoints and the model");
    // A resumed run goes on counting the checkpoints that it already had.
    let stopped = new();
    let mut watch = Watch {
        stop_at: Some(10),
        ..Watch::default()
    };
    case.run(stopped.path(), From::Scratch, &mut watch).unwrap();
    case.run(stopped.path(), From::Newest, &mut Watch::default())
        .unwrap();
    assert_eq!(
        checkpoints(stopped.path()),
        ["checkpoint-9", "checkpoint-12"]
    );
}
