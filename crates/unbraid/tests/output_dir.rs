//! Output directories that are in use, or were used before.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{done, refused, text, train};
use std::fs::{self, File};
use std::process::Stdio;
use std::time::Duration;

#[test]
fn a_checkpoint_elsewhere_is_no_leave_to_overwrite() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    done(&mut train(&first, &["--save-steps", "1"]));
    let checkpoint = first.join("checkpoint-1");
    let from = ["--resume-from-checkpoint", text(&checkpoint)];
    fs::create_dir(&second).unwrap();
    fs::write(second.join("precious"), "x").unwrap();
    refused(
        &mut train(&second, &from),
        1,
        &["is not empty", "--overwrite-output-dir"],
    );
    assert_eq!(fs::read_dir(&second).unwrap().count(), 1);
    let said = done(&mut train(
        &second,
        &[&from[..], &["--overwrite-output-dir"]].concat(),
    ));
    assert!(
        said.contains("going on from") && second.join("precious").is_file(),
        "{said}"
    );
    // Its own directory, by another name, and one that is empty.
    let same = dir.path().join("second/../first");
    done(&mut train(&same, &from));
    done(&mut train(&dir.path().join("third"), &from));
}

#[test]
fn one_run_at_a_time_writes_into_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let held = "another run is writing there";
    let mut first = train(&out, &["--max-steps", "100000"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !out.join("metrics.jsonl").exists() {
        std::thread::sleep(Duration::from_millis(5));
        assert!(
            first.try_wait().unwrap().is_none(),
            "the run ended too early"
        );
    }
    for further in [
        &[][..],
        &["--overwrite-output-dir"],
        &["--resume-from-checkpoint"],
        &["--max-steps", "100000", "--resume-from-checkpoint"],
    ] {
        refused(&mut train(&out, further), 1, &[held, "hint:"]);
    }
    first.kill().unwrap();
    first.wait().unwrap();
    let lock = out.join(".unbraid.lock");
    assert!(
        lock.exists(),
        "the second run did not remove the first one's"
    );
    let said = done(&mut train(&out, &["--resume-from-checkpoint"]));
    assert!(said.contains("starting from the first step"), "{said}");
    assert!(!lock.exists());

    // A file without a lock is no content; a run that is refused leaves a directory as it was.
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join(".unbraid.lock"), "").unwrap();
    let file = File::open(empty.join(".unbraid.lock")).unwrap();
    file.try_lock().unwrap();
    refused(&mut train(&empty, &[]), 1, &[held]);
    file.unlock().unwrap();
    done(&mut train(&empty, &[]));
    assert!(!empty.join(".unbraid.lock").exists());
    let new = dir.path().join("new");
    refused(
        &mut train(&new, &["--resume-from-checkpoint", "nowhere"]),
        1,
        &["nowhere"],
    );
    assert!(!new.exists());
}

#[test]
fn a_fresh_run_leaves_no_records_of_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let recorded = [
        "pairs.parquet",
        "token_mask.jsonl",
        "token_mask.safetensors",
    ];
    let there = || recorded.map(|name| out.join(name).exists());
    done(&mut train(
        &out,
        &["--token-mask", "head", "--log-pairs", "--save-steps", "1"],
    ));
    assert_eq!(there(), [true; 3]);
    fs::write(out.join("precious"), "x").unwrap();
    // Going on keeps what is there.
    let on = ["--token-mask", "head", "--resume-from-checkpoint"];
    done(&mut train(&out, &on));
    assert_eq!(there(), [true; 3]);
    // So does what fails before it starts.
    refused(&mut train(&out, &[]), 1, &["is not empty"]);
    assert_eq!(there(), [true; 3]);
    done(&mut train(&out, &["--overwrite-output-dir"]));
    assert_eq!(there(), [false; 3]);
    assert!(out.join("precious").is_file() && out.join("checkpoint-1").is_dir());

    // Files of the user's are not touched, whatever their folder is called.
    let table = out.join("pairs.parquet");
    fs::create_dir(&table).unwrap();
    for name in [
        "mine.parquet",
        "part-00000001.parquet",
        ".part-00000002.parquet.partial",
    ] {
        fs::write(table.join(name), "x").unwrap();
    }
    done(&mut train(&out, &["--overwrite-output-dir"]));
    let left: Vec<_> = fs::read_dir(&table)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["mine.parquet"]);
    fs::remove_dir_all(&table).unwrap();
    fs::write(&table, "a file of the user's").unwrap();
    done(&mut train(&out, &["--overwrite-output-dir"]));
    assert!(table.is_file());
}
