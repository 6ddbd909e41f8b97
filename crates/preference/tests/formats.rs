//! The same rows from every file type and layout. Binary fixtures: `fixtures/generate.py`.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

mod common;

use std::io::Write;
use std::path::Path;

use common::{fixture, load, load_split, load_text, shared, texts};
use unbraid_preference::{Content, DatasetSource, Row, RowKind, stream_whole_rows};

const STANDARD: [[&str; 3]; 3] = [
    ["Q1", " good", " bad"],
    ["Q2", " bón", " mal"],
    ["Q3", " 好", " 坏"],
];

fn check_standard(rows: &[Row]) {
    assert_eq!(rows.iter().map(texts).collect::<Vec<_>>(), STANDARD);
    assert_eq!(
        rows.iter().map(|row| row.weight).collect::<Vec<_>>(),
        [1.0, 0.5, 1.0]
    );
}

fn lines() -> String {
    let rows = [
        ("Q1", " good", " bad", "1.0"),
        ("Q2", " bón", " mal", "0.5"),
        ("Q3", " 好", " 坏", "null"),
    ];
    let line = |(p, c, r, w): (&str, &str, &str, &str)| {
        format!(
            "{{\"prompt\": \"{p}\", \"chosen\": \"{c}\", \"rejected\": \"{r}\", \"weight\": {w}, \"id\": 7}}"
        )
    };
    rows.map(line).join("\n")
}

fn gz(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn json_lines_plain_and_compressed() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    check_standard(&load(&write("a.jsonl", lines().as_bytes())).unwrap());
    check_standard(&load(&write("a.jsonl.gz", &gz(&lines()))).unwrap());
    check_standard(
        &load(&write(
            "a.jsonl.zst",
            &zstd::encode_all(lines().as_bytes(), 1).unwrap(),
        ))
        .unwrap(),
    );
    // A byte order mark, Windows line ends and blank lines are no rows.
    let windows = format!("\u{FEFF}{}\r\n\r\n", lines().replace('\n', "\r\n"));
    check_standard(&load(&write("b.jsonl", windows.as_bytes())).unwrap());
}

#[test]
fn json_as_list_object_or_lines() {
    let list = format!("[{}]", lines().replace('\n', ",\n"));
    check_standard(&load_text("a.json", &list).unwrap());
    check_standard(&load_text("a.json", &format!("{{\"version\": 1, \"data\": {list}}}")).unwrap());
    check_standard(&load_text("a.json", &lines()).unwrap());
    let one = lines().lines().next().unwrap().to_owned();
    assert_eq!(texts(&load_text("a.json", &one).unwrap()[0]), STANDARD[0]);
}

#[test]
fn csv_with_quotes_and_line_breaks() {
    let text = "prompt,chosen,rejected,weight\nQ1,\" good, \"\"very\"\"\",\" bad\nend\",1\nQ2, bón, mal,0.5\n";
    let rows = load_text("a.csv", text).unwrap();
    assert_eq!(texts(&rows[0]), ["Q1", " good, \"very\"", " bad\nend"]);
    assert_eq!((texts(&rows[1])[1], rows[1].weight), (" bón", 0.5));
    assert!(
        rows[1].location.to_string().ends_with("a.csv:4"),
        "{}",
        rows[1].location
    );
}

#[test]
fn parquet_from_pyarrow() {
    check_standard(&load(&fixture("standard.parquet")).unwrap());
    let rows = load(&fixture("conversational.parquet")).unwrap();
    let RowKind::Preference {
        prompt: Content::Conversation(prompt),
        chosen: Content::Conversation(chosen),
        ..
    } = &rows[1].kind
    else {
        panic!("{:?}", rows[1].kind);
    };
    let roles: Vec<&str> = prompt.iter().map(|turn| turn.role()).collect();
    assert_eq!(roles, ["user", "assistant", "user"]);
    assert_eq!((prompt[2].text(), chosen[0].text()), (Some("c"), Some("d")));
    assert!(
        rows[1]
            .location
            .to_string()
            .ends_with("conversational.parquet, row 2"),
        "{}",
        rows[1].location
    );
}

/// Whole rows keep the columns that no shape needs, in their order, from every type of file.
#[test]
fn whole_rows_keep_every_column() {
    let dir = tempfile::tempdir().unwrap();
    let line = r#"{"z":[1,{"a":null}],"chosen":"Q good","n":1.50,"rejected":"Q bad"}"#;
    let files = [
        ("a.jsonl", line.to_owned(), line),
        ("a.json", format!("[{line}]"), line),
        (
            "a.csv",
            "z,chosen,rejected\n7,Q good,Q bad\n".to_owned(),
            r#"{"z":"7","chosen":"Q good","rejected":"Q bad"}"#,
        ),
    ];
    let whole = |path: &Path| -> Vec<Row> {
        let source = DatasetSource {
            name: path.display().to_string(),
            split: "train".into(),
            ..DatasetSource::default()
        };
        let rows = stream_whole_rows(&source).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    };
    for (name, content, expected) in files {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let rows = whole(&path);
        let columns: serde_json::Value = rows[0].columns.clone().unwrap().into();
        let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
        assert_eq!(columns.to_string(), expected.to_string(), "{name}");
        // The row itself is as it was read before.
        let plain = &load(&path).unwrap()[0];
        assert_eq!((&plain.kind, &plain.columns), (&rows[0].kind, &None));
    }
    for row in whole(&fixture("standard.parquet")) {
        let columns = row.columns.as_ref().unwrap();
        assert_eq!(columns["chosen"], texts(&row)[1]);
    }
    // JSON has no time.
    let last = whole(&fixture("conversational.parquet")).remove(1);
    let columns = last.columns.unwrap();
    assert_eq!(
        (&columns["score"], &columns["when"]),
        (&0.2.into(), &serde_json::Value::Null)
    );
}

#[test]
fn compressed_parquet_is_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet.zst");
    let bytes = std::fs::read(fixture("standard.parquet")).unwrap();
    std::fs::write(&path, zstd::encode_all(bytes.as_slice(), 1).unwrap()).unwrap();
    check_standard(&load(&path).unwrap());
}

#[test]
fn what_save_to_disk_wrote() {
    check_standard(&load(&fixture("saved")).unwrap());
    check_standard(&load(&fixture("saved_dict")).unwrap());
    let test = load_split(&fixture("saved_dict"), "test", None).unwrap();
    assert_eq!(test.iter().map(texts).collect::<Vec<_>>(), STANDARD[..1]);
    let message = load_split(&fixture("saved_dict"), "validation", None)
        .unwrap_err()
        .to_string();
    assert!(
        message.ends_with("no file for split `validation`; data files there: train, test"),
        "{message}"
    );
}

#[test]
fn a_directory_of_shards_is_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    let write =
        |name: &str, text: &str| std::fs::write(dir.path().join("data").join(name), text).unwrap();
    let all = lines();
    let rows: Vec<&str> = all.lines().collect();
    write("train-00001-of-00002.jsonl", rows[2]);
    write("train-00000-of-00002.jsonl", &rows[..2].join("\n"));
    write("test-00000-of-00001.jsonl", rows[0]);
    check_standard(&load(dir.path()).unwrap());
    assert_eq!(load_split(dir.path(), "test", None).unwrap().len(), 1);
}

#[test]
fn max_samples_stops_early() {
    for path in [fixture("standard.parquet"), fixture("saved")] {
        let rows = load_split(&path, "train", Some(2)).unwrap();
        assert_eq!(
            rows.iter().map(texts).collect::<Vec<_>>(),
            STANDARD[..2],
            "{}",
            path.display()
        );
    }
    let broken_after_two = format!(
        "{}\n{{broken",
        lines().lines().take(2).collect::<Vec<_>>().join("\n")
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    std::fs::write(&path, broken_after_two).unwrap();
    assert_eq!(load_split(&path, "train", Some(2)).unwrap().len(), 2);
    assert!(load_split(&path, "train", None).is_err());
}

#[test]
fn hh_rlhf_transcripts_from_a_directory() {
    let Some(dir) = shared("data/hh_rlhf_test") else {
        return;
    };
    for (name, count) in [
        ("harmless-base", 2312),
        ("helpful-online", 1137),
        ("helpful-rejection-sampled", 2749),
    ] {
        let rows = load(&dir.join(format!("{name}.test.jsonl.gz"))).unwrap();
        assert_eq!(rows.len(), count, "{name}");
        assert!(
            rows.iter()
                .all(|row| texts(row)[0].ends_with("\n\nAssistant:")),
            "{name}"
        );
    }
    // All four files mention the split.
    assert_eq!(
        load_split(Path::new(&dir), "test", None).unwrap().len(),
        8552
    );
}
