//! Numbers that Python writes to JSON and JSON has not: read as `datasets` 5.2 reads them, where nobody reads them.

mod common;

use std::io::Write as _;

use common::load_text;

/// Each of the words, at every place where a column may hold it and no row reads it.
#[test]
fn columns_that_nobody_reads_may_hold_them() {
    for word in ["NaN", "Infinity", "-Infinity", "Inf", "-Inf", "-NaN"] {
        for other in [
            format!("\"score\": {word}"),
            format!("\"score\": {{\"a\": [1, {word}], \"b\": \"NaN \\\" {word}\"}}"),
            // A column that other shapes read, and this one does not.
            format!("\"label\": {word}, \"text\": {word}"),
        ] {
            let row = format!(
                "{{\"prompt\": \"NaN {word}\", \"chosen\": \"c\", {other}, \"rejected\": \"r\"}}"
            );
            let lines = format!("{row}\n{row}\n");
            assert_eq!(load_text("a.jsonl", &lines).unwrap().len(), 2, "{row}");
            let list = format!("[\n{row},\n{row}]");
            assert_eq!(load_text("a.json", &list).unwrap().len(), 2, "{row}");
            let document = format!("{{\"data\": [{row}]}}");
            assert_eq!(load_text("a.json", &document).unwrap().len(), 1, "{row}");
        }
    }
}

#[test]
fn compressed_files_are_no_exception() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl.gz");
    let file = std::fs::File::create(&path).unwrap();
    let mut gz = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    writeln!(
        gz,
        "{{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\", \"s\": NaN}}"
    )
    .unwrap();
    gz.finish().unwrap();
    assert_eq!(common::load(&path).unwrap().len(), 1);
}

#[test]
fn a_column_that_matters_refuses_them_by_name_and_line() {
    let good = "{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\"}\n";
    for (row, parts) in [
        (
            "{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\", \"weight\": NaN}",
            ["a.jsonl:2", "`weight`", "found NaN"],
        ),
        (
            "{\"prompt\": \"p\", \"completion\": \"c\", \"label\": -Infinity}",
            ["a.jsonl:2", "`label`", "found -Infinity"],
        ),
        (
            "{\"prompt\": \"p\", \"chosen\": Infinity, \"rejected\": \"r\"}",
            ["a.jsonl:2", "`chosen`", "found Infinity"],
        ),
    ] {
        let error = load_text("a.jsonl", &format!("{good}{row}\n"))
            .unwrap_err()
            .to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

/// Other spellings are refused, at their own column.
#[test]
fn other_words_are_no_numbers() {
    let row = "{\"prompt\": \"p\", \"score\": NaN, \"x\": nan}";
    let error = load_text("a.jsonl", row).unwrap_err().to_string();
    assert!(error.contains("a.jsonl:1"), "{error}");
    let column = row.find("nan").unwrap() + 1;
    let near = (column..column + 3).any(|c| error.contains(&format!("column {c}")));
    assert!(near, "{error}");
}
