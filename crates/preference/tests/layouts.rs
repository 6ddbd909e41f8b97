//! Data sets of many files and of more rows than fit: the hub's layout, saved data sets in shards, rows one at a time.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

mod common;

use std::path::Path;

use common::{fixture, load, load_split, load_text, message, plain, texts};
use unbraid_preference::{
    DatasetSource, PreferenceError, Row, data_fingerprint, load_rows, stream_pairs, stream_rows,
    tokenize_pairs,
};

fn source(path: &Path, config: Option<&str>, split: &str) -> DatasetSource {
    DatasetSource {
        name: path.display().to_string(),
        config: config.map(str::to_owned),
        split: split.to_owned(),
        max_samples: None,
        text_field: None,
        mixture: None,
    }
}

fn prompts(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| texts(row)[0]).collect()
}

#[test]
fn the_readme_of_a_hub_data_set_names_its_files() {
    let hub = fixture("hub");
    let of = |config, split| load_rows(&source(&hub, config, split));
    assert_eq!(prompts(&of(None, "train").unwrap()), ["Q1", "Q2", "Q3"]);
    assert_eq!(prompts(&of(Some("pairs"), "test").unwrap()), ["Q2"]);
    assert_eq!(prompts(&of(Some("tiny"), "train").unwrap()), ["Q3"]);
    let text = of(Some("big"), "train").unwrap_err().to_string();
    assert!(
        text.ends_with(
            "no configuration `big`; there: pairs, tiny\nhint: choose one with dataset_config"
        ),
        "{text}"
    );
    let text = of(Some("tiny"), "test").unwrap_err().to_string();
    assert!(
        text.ends_with("no file for split `test`; data files there: train"),
        "{text}"
    );
}

#[test]
fn without_a_readme_a_configuration_is_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["en", "fr"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        let row = format!(r#"{{"prompt": "{name}", "chosen": "b", "rejected": "c"}}"#);
        std::fs::write(dir.path().join(name).join("train.jsonl"), row).unwrap();
    }
    let of = |config| load_rows(&source(dir.path(), config, "train"));
    assert_eq!(prompts(&of(Some("fr")).unwrap()), ["fr"]);
    assert_eq!(prompts(&of(None).unwrap()), ["en", "fr"]);
    assert!(matches!(
        of(Some("de")),
        Err(PreferenceError::NoConfig { .. })
    ));
}

#[test]
fn sharded_parquet_and_arrow_are_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for at in 0..3 {
        let name = format!("train-{at:05}-of-00003.parquet");
        let from = fixture("hub/data").join(&name);
        std::fs::copy(from, dir.path().join(name)).unwrap();
    }
    assert_eq!(prompts(&load(dir.path()).unwrap()), ["Q1", "Q2", "Q3"]);
    let shards = std::fs::read_dir(fixture("saved_dict/train")).unwrap();
    let arrow = |entry: std::io::Result<std::fs::DirEntry>| {
        entry
            .unwrap()
            .path()
            .extension()
            .is_some_and(|e| e == "arrow")
    };
    assert_eq!(shards.map(arrow).filter(|&is| is).count(), 3);
    assert_eq!(
        prompts(&load(&fixture("saved_dict")).unwrap()),
        ["Q1", "Q2", "Q3"]
    );
}

#[test]
fn a_bad_weight_names_its_row() {
    for weight in ["-0.5", "\"much\"", "1e999"] {
        let text = format!(
            "{{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}}\n\
             {{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\", \"weight\": {weight}}}"
        );
        let said = message(load_text("a.jsonl", &text));
        assert!(said.starts_with("a.jsonl:2: "), "{said}");
    }
}

/// What comes behind is not looked at: it is no JSON, and a record with too many fields.
#[test]
fn rows_come_before_the_file_is_read_to_its_end() {
    let row = r#"{"prompt": "Q", "chosen": "b", "rejected": "c ] } \" , [ {"}"#;
    let dir = tempfile::tempdir().unwrap();
    let csv = "prompt,chosen,rejected\n";
    for (name, head, row) in [
        ("a.jsonl", "", format!("{row}\n")),
        ("a.json", "[", format!("{row},\n")),
        ("b.json", "", format!("{row}\n")),
        ("a.csv", csv, "Q,\"b, \"\"c\",d\n".to_owned()),
    ] {
        let path = dir.path().join(name);
        let text = format!("{head}{}{{ broken,,,,\n", row.repeat(3));
        std::fs::write(&path, text).unwrap();
        let mut rows = stream_rows(&source(&path, None, "train")).unwrap();
        let first: Vec<Row> = rows.by_ref().take(3).map(Result::unwrap).collect();
        assert_eq!(prompts(&first), ["Q"; 3]);
        assert!(rows.next().unwrap().is_err(), "{name}");
    }
}

#[test]
fn errors_inside_a_list_have_their_line_and_column() {
    let good = r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#;
    let of = |text: &str| message(load_text("a.json", text));
    let cases = [
        (
            format!("\n [ {good},\n  {{\"a\": }} ]"),
            "3: malformed JSON: expected value at column 9",
        ),
        (
            format!("[{good}"),
            "1: malformed JSON: EOF while parsing a list at column 49",
        ),
        (
            format!("[{good},"),
            "1: malformed JSON: EOF while parsing a list at column 50",
        ),
        (
            format!("[{good}] x"),
            "1: malformed JSON: trailing characters at column 51",
        ),
        (
            format!("[{good}, nux]"),
            "1: malformed JSON: expected ident at column 53",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(of(&text), format!("a.json:{expected}"), "{text}");
    }
    let said = of(&format!("[{good}, 3]"));
    assert!(
        said.starts_with(
            "a.json, row 2: unknown row shape with columns (none: the row is a number"
        ),
        "{said}"
    );
    assert_eq!(
        load_text("a.json", &format!(" \n[{good},{good} ] \n"))
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn the_first_error_ends_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    let good = r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#;
    std::fs::write(&path, format!("{good}\n{{broken\n{good}\n")).unwrap();
    let mut rows = stream_rows(&source(&path, None, "train")).unwrap();
    assert!(rows.next().unwrap().is_ok());
    assert!(rows.next().unwrap().is_err());
    assert!(rows.next().is_none());
}

#[test]
fn streamed_pairs_are_those_of_all_rows_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    // More than two blocks of rows, some of them dropped or cut.
    let line = |i: usize| {
        let chosen = [" yes", "", " a rather long answer that is cut"][i % 7 % 3];
        format!(r#"{{"prompt": "row {i}", "chosen": "{chosen}", "rejected": " no"}}"#)
    };
    let text: Vec<String> = (0..2345).map(line).collect();
    std::fs::write(&path, text.join("\n")).unwrap();
    let rows = load(&path).unwrap();
    let whole = tokenize_pairs(&rows, &plain(), Some(12)).unwrap();
    let stream = stream_rows(&source(&path, None, "train")).unwrap();
    let streamed = stream_pairs(stream, &plain(), Some(12), false).unwrap();
    assert_eq!(streamed.report, whole.report);
    assert_eq!(streamed.report.total, 2345);
    assert_eq!(data_fingerprint(&streamed), data_fingerprint(&whole));
    assert!(streamed.pairs.iter().all(|pair| pair.text.is_none()));
    assert!(whole.pairs.iter().all(|pair| pair.text.is_some()));
    // A bad row behind the first block is found and named.
    std::fs::write(&path, format!("{}\n{{\"text\": 1}}\n", text.join("\n"))).unwrap();
    let stream = stream_rows(&source(&path, None, "train")).unwrap();
    let said = stream_pairs(stream, &plain(), None, false)
        .unwrap_err()
        .to_string();
    assert!(said.contains("a.jsonl:2346: column `text`"), "{said}");
    assert_eq!(load_split(&path, "train", Some(2345)).unwrap().len(), 2345);
}
