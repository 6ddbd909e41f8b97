//! Rows of LLaMA-Factory and axolotl are named, and never read as something else.
#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use unbraid_preference::{DatasetSource, load_rows};

fn read(row: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    std::fs::write(&path, format!("{row}\n")).unwrap();
    let source = DatasetSource {
        name: path.display().to_string(),
        split: "train".into(),
        ..DatasetSource::default()
    };
    match load_rows(&source) {
        Ok(rows) => format!("{:?}", rows[0].kind),
        Err(error) => error.to_string(),
    }
}

#[test]
fn forms_of_other_trainers_are_named() {
    let rows = [
        (
            r#"{"instruction": "Add.", "input": "1 1", "chosen": "2", "rejected": "3"}"#,
            "alpaca",
        ),
        (
            r#"{"instruction": "Add.", "input": "", "output": "2"}"#,
            "alpaca",
        ),
        (
            r#"{"conversations": [{"from": "human", "value": "Hi"}], "chosen": {"from": "gpt", "value": "Hello"},
                "rejected": {"from": "gpt", "value": "No"}}"#,
            "sharegpt",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "Hi"}], "chosen": {"role": "assistant", "content": "Hello"},
                "rejected": {"role": "assistant", "content": "No"}}"#,
            "axolotl's chat_template.default",
        ),
        (
            r#"{"system": "", "question": "1 + 1?", "chosen": "2", "rejected": "3"}"#,
            "axolotl's form with a `question`",
        ),
    ];
    for (row, form) in rows {
        let error = read(&row.replace('\n', " "));
        assert!(error.contains("rows.jsonl:1: this is"), "{error}");
        assert!(error.contains(form) && error.contains("hint: "), "{error}");
    }
}

#[test]
fn rows_of_ours_with_such_columns_beside_are_read() {
    for row in [
        r#"{"prompt": "p", "chosen": " a", "rejected": " b", "instruction": "i", "question": "q"}"#,
        r#"{"chosen": "p a", "rejected": "p b", "source": "x"}"#,
        r#"{"text": "t", "question": "q"}"#,
    ] {
        let read = read(row);
        assert!(!read.contains("hint"), "{read}");
    }
}
