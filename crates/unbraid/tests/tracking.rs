//! What a run writes beside `metrics.jsonl`, and the cache it keeps, on the demo's model.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use unbraid::cli::{Command as Parsed, TrainConfig, parse};

fn parsed(words: &[&str]) -> (TrainConfig, Vec<String>) {
    let needed = ["unbraid", "train", "--model-name-or-path", "m"];
    let data = ["--dataset-name", "d", "--output-dir", "o"];
    let words = needed.iter().chain(&data).chain(words).map(Into::into);
    let parsed = parse(words).unwrap();
    match parsed.command {
        Parsed::Train(config) => (*config, parsed.notes),
        other => panic!("not train: {other:?}"),
    }
}

#[test]
fn trackers_that_are_there_are_used_and_others_noted() {
    for name in ["tensorboard", "TensorBoard", "all", "none,tensorboard"] {
        let (config, notes) = parsed(&["--report_to", name, "--logging_dir", "logs"]);
        assert!(config.trainer.reports_to_tensorboard(), "{name}");
        assert!(notes.is_empty(), "{name}: {notes:?}");
        assert_eq!(config.trainer.logging_dir, Some("logs".into()));
    }
    let (config, notes) = parsed(&["--report_to", "wandb", "tensorboard"]);
    assert!(config.trainer.reports_to_tensorboard());
    assert!(notes[0].starts_with("no tracking to wandb:"), "{notes:?}");
    let (config, _) = parsed(&[]);
    assert!(!config.trainer.reports_to_tensorboard() && !config.log_pairs);
    assert!(parsed(&["--log_pairs"]).0.log_pairs);
    let (config, _) = parsed(&["--dataset_config", "en"]);
    assert_eq!(config.data.dataset_config.as_deref(), Some("en"));
}

/// Four steps of two pairs on the demo's model, with its own cache; gives what was said.
fn run(out: &Path, cache: &Path, words: &[&str]) -> String {
    let demo = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../demo");
    let pairs = out.parent().unwrap().join("pairs.jsonl");
    let row = |i: usize| {
        format!(
            r#"{{"prompt": "Review {i}:", "chosen": " a good film", "rejected": " a bad one"}}"#
        )
    };
    fs::write(&pairs, (0..8).map(row).collect::<Vec<_>>().join("\n")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_unbraid"))
        .args(["train", "--model-name-or-path"])
        .arg(demo.join("model"))
        .arg("--dataset-name")
        .arg(&pairs)
        .arg("--output-dir")
        .arg(out)
        .args(["--max-steps", "4", "--per-device-train-batch-size", "2"])
        .args(["--logging-steps", "1", "--learning-rate", "1e-4"])
        .args(words)
        .env("UNBRAID_CACHE", cache)
        .env_remove("TENSORBOARD_LOGGING_DIR")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn events_and_pairs_are_written_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (out, cache) = (dir.path().join("run"), dir.path().join("cache"));
    let asked = [
        "--report-to",
        "tensorboard",
        "--log-pairs",
        "--geometry",
        "2",
        "--save-steps",
        "3",
    ];
    run(&out, &cache, &asked);

    // Four rows and the header; tests of the report crate read such a file field by field.
    let events = names(&out.join("runs/run"));
    assert!(
        events.len() == 1 && events[0].starts_with("events.out.tfevents."),
        "{events:?}"
    );
    let bytes = fs::read(out.join("runs/run").join(&events[0])).unwrap();
    let count = |tag: &[u8]| bytes.windows(tag.len()).filter(|w| *w == tag).count();
    assert_eq!(count(b"train/rewards/margins"), 4);
    assert_eq!(count(b"brain.Event:2"), 1);

    let table = out.join("pairs.parquet");
    assert_eq!(
        names(&table),
        ["part-00000001.parquet", "part-00000004.parquet"]
    );
    let mut rows = Vec::new();
    for part in names(&table) {
        let reader = SerializedFileReader::new(File::open(table.join(part)).unwrap()).unwrap();
        for row in reader.get_row_iter(None).unwrap() {
            let row = row.unwrap();
            let measured = row.get_string(11).is_ok();
            assert_eq!(
                row.get_double(14).is_ok(),
                measured,
                "case and ⟨g_w,g_l⟩ come together"
            );
            rows.push((row.get_long(0).unwrap(), row.get_long(1).unwrap(), measured));
        }
    }
    let measured: Vec<(i64, bool)> = rows.iter().map(|&(step, _, m)| (step, m)).collect();
    let expected = [(1, true), (2, true), (3, false), (4, true)];
    assert_eq!(
        measured,
        expected.map(|e| [e, e]).concat(),
        "two pairs a step"
    );
    let mut seen: Vec<i64> = rows.iter().map(|row| row.1).collect();
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6, 7], "an epoch");
}

#[test]
fn a_known_reference_changes_nothing_and_a_damaged_one_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let train = |name: &str, cache: &Path| {
        let out = dir.path().join(name);
        let said = run(&out, cache, &[]);
        let model = fs::read(out.join("model.safetensors")).unwrap();
        assert!(!out.join("runs").exists() && !out.join("pairs.parquet").exists());
        (said, model)
    };
    let (_, fresh) = train("fresh", &cache);
    let files = names(&cache.join("reference"));
    let file = files.iter().find(|name| name.ends_with(".logps")).unwrap();
    let file = cache.join("reference").join(file);
    let written = fs::read(&file).unwrap();
    assert!(train("known", &cache).1 == fresh, "the same bits");

    fs::write(&file, &written[..written.len() / 2]).unwrap();
    let (said, rebuilt) = train("rebuilt", &cache);
    assert!(
        said.contains("is not used and will be written anew"),
        "{said}"
    );
    assert!(rebuilt == fresh && fs::read(&file).unwrap() == written);
}
