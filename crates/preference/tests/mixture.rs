//! Mixtures of data sets: the same rows in the same order as TRL and alignment-handbook (`mixture/generate.py`).
#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use unbraid_preference::{
    Content, DataFiles, DatasetSource, Mixture, MixturePart, MixtureStyle, Result, RowKind,
    TestSize, load_rows,
};

fn expected() -> Value {
    serde_json::from_str(include_str!("mixture/expected.json")).unwrap()
}

/// A directory with `a.jsonl` of 10 rows and `b.jsonl` of 7.
fn files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, rows) in [("a", 10), ("b", 7)] {
        let line = |i| {
            format!("{{\"prompt\": \"{name}{i}\", \"chosen\": \" c\", \"rejected\": \" r\"}}\n")
        };
        let text: String = (0..rows).map(line).collect();
        std::fs::write(dir.path().join(format!("{name}.jsonl")), text).unwrap();
    }
    dir
}

fn part(dir: &Path, name: &str, share: Option<f64>) -> MixturePart {
    MixturePart {
        path: "json".into(),
        name: None,
        data_dir: None,
        data_files: Some(DataFiles::Train(vec![dir.join(name).display().to_string()])),
        split: "train".into(),
        columns: None,
        share,
    }
}

fn source(mixture: Mixture, split: &str) -> DatasetSource {
    DatasetSource {
        name: "datasets".into(),
        split: split.into(),
        mixture: Some(Arc::new(mixture)),
        ..DatasetSource::default()
    }
}

fn prompts(mixture: &Mixture, split: &str) -> Result<Vec<String>> {
    let prompt = |row: unbraid_preference::Row| match row.kind {
        RowKind::Preference {
            prompt: Content::Text(prompt),
            ..
        } => prompt,
        other => panic!("{other:?}"),
    };
    let rows = load_rows(&source(mixture.clone(), split))?;
    Ok(rows.into_iter().map(prompt).collect())
}

fn mixture(style: MixtureStyle, dir: &Path, shares: [Option<f64>; 2], seed: u64) -> Mixture {
    let [a, b] = shares;
    Mixture {
        style,
        parts: vec![part(dir, "a.jsonl", a), part(dir, "b.jsonl", b)],
        test_split_size: None,
        seed,
    }
}

#[test]
fn trls_mixtures_have_its_rows_in_its_order() {
    let (dir, expected) = (files(), expected());
    for (key, shares) in [
        ("concatenated", [None, None]),
        ("fractions_half", [Some(0.5), Some(0.5)]),
        ("fractions_third", [Some(1.0), Some(2.0)]),
        ("fractions_zero", [Some(0.3), Some(0.0)]),
    ] {
        let mixture = mixture(MixtureStyle::Concatenated, dir.path(), shares, 42);
        let got = prompts(&mixture, "train").unwrap();
        assert_eq!(Value::from(got), expected[key], "{key}");
    }
}

#[test]
fn rows_are_held_out_as_train_test_split_does() {
    let (dir, expected) = (files(), expected());
    for (seed, size) in [(42, TestSize::Share(0.25)), (3, TestSize::Rows(5))] {
        let mut mixture = mixture(MixtureStyle::Concatenated, dir.path(), [None, None], seed);
        mixture.test_split_size = Some(size);
        for split in ["train", "test"] {
            let got = prompts(&mixture, split).unwrap();
            assert_eq!(Value::from(got), expected["split"][seed.to_string()][split]);
        }
    }
}

#[test]
fn the_handbooks_mixtures_have_its_rows_in_its_order() {
    let (dir, expected) = (files(), expected());
    let shares = [Some(0.5), Some(1.0)];
    let whole = mixture(MixtureStyle::Shuffled, dir.path(), shares, 7);
    assert_eq!(
        Value::from(prompts(&whole, "train").unwrap()),
        expected["handbook"]["train"]
    );
    let mut split = mixture(MixtureStyle::Shuffled, dir.path(), [Some(1.0), None], 0);
    split.test_split_size = Some(TestSize::Share(0.2));
    for side in ["train", "test"] {
        let got = prompts(&split, side).unwrap();
        assert_eq!(Value::from(got), expected["handbook_split"][side], "{side}");
    }
}

#[test]
fn the_older_mixer_takes_shares_of_training_splits_only() {
    let (dir, expected) = (files(), expected());
    let mut mixture = mixture(MixtureStyle::Mixer, dir.path(), [Some(0.6), Some(0.5)], 42);
    for name in ["a.jsonl", "b.jsonl"] {
        let file = vec![dir.path().join(name).display().to_string()];
        mixture.parts.push(MixturePart {
            split: "test_prefs".into(),
            data_files: Some(DataFiles::Splits([("test_prefs".to_owned(), file)].into())),
            ..part(dir.path(), name, Some(0.6))
        });
    }
    for split in ["train", "test"] {
        let got = prompts(&mixture, split).unwrap();
        assert_eq!(Value::from(got), expected["mixer"][split], "{split}");
    }
}

#[test]
fn what_cannot_be_mixed_says_why() {
    let dir = files();
    let plain = |shares| mixture(MixtureStyle::Concatenated, dir.path(), shares, 42);
    let error = |mixture: &Mixture, split: &str| prompts(mixture, split).unwrap_err().to_string();
    let some = error(&plain([Some(0.5), None]), "train");
    assert!(some.contains("set for some data sets"), "{some}");
    let none = error(&plain([Some(0.0), Some(0.0)]), "train");
    assert!(none.contains("not 0 for all"), "{none}");
    let test = error(&plain([None, None]), "test");
    assert!(test.contains("no split `test`"), "{test}");
    let mut large = plain([None, None]);
    large.test_split_size = Some(TestSize::Rows(17));
    let large = error(&large, "train");
    assert!(large.contains("of 17 rows"), "{large}");
    let mut twice = plain([Some(1.5), Some(1.0)]);
    twice.style = MixtureStyle::Shuffled;
    assert!(error(&twice, "train").contains("from 0 to 1"));
}

#[test]
fn only_the_columns_that_are_named_count() {
    let dir = files();
    let mut mixture = mixture(MixtureStyle::Concatenated, dir.path(), [None, None], 42);
    mixture.parts.truncate(1);
    mixture.parts[0].columns = Some(vec!["chosen".into(), "rejected".into()]);
    // Without its column, the prompt is the common beginning.
    let first = prompts(&mixture, "train").unwrap().swap_remove(0);
    assert_eq!(first, "");
    mixture.parts[0].columns = Some(vec!["chosen".into(), "rejected".into(), "score".into()]);
    let error = prompts(&mixture, "train").unwrap_err().to_string();
    assert!(error.contains("`score`, which no row has"), "{error}");
}

#[test]
fn files_are_found_by_pattern_directory_and_name() {
    let dir = files();
    let mut one = part(dir.path(), "*.jsonl", None);
    let check = |part: &MixturePart, rows: usize| {
        let mixture = Mixture {
            style: MixtureStyle::Concatenated,
            parts: vec![part.clone()],
            test_split_size: None,
            seed: 0,
        };
        assert_eq!(prompts(&mixture, "train").unwrap().len(), rows);
    };
    check(&one, 17);
    one.data_files = Some(DataFiles::Train(vec!["b.jsonl".into()]));
    one.path = dir.path().display().to_string();
    check(&one, 7);
    one.data_files = None;
    check(&one, 17);
    one.path = dir.path().join("a.jsonl").display().to_string();
    check(&one, 10);
}
