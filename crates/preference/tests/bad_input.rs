//! Every kind of bad input gives one clear message: which file, which line or row, what was expected.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

mod common;

use common::{fixture, load, load_split, load_text, message};
use serde_json::json;
use unbraid_preference::{DatasetSource, load_rows};

const GOOD: &str = r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#;

#[test]
fn a_malformed_line_has_file_and_line() {
    let text = format!("{GOOD}\n\n{{\"prompt\": \"a\", \"chosen\": \n{GOOD}\n");
    assert_eq!(
        message(load_text("a.jsonl", &text)),
        "a.jsonl:3: malformed JSON: EOF while parsing a value at column 25"
    );
    assert_eq!(
        message(load_text("a.jsonl", "{'a': 1}")),
        "a.jsonl:1: malformed JSON: key must be a string at column 2"
    );
    let list = format!("[{GOOD},\n{GOOD}\n{GOOD}]");
    assert_eq!(
        message(load_text("a.json", &list)),
        "a.json:3: malformed JSON: expected `,` or `]` at column 1"
    );
}

#[test]
fn a_line_that_is_no_object_is_refused() {
    let text = message(load_text("a.jsonl", "[1, 2]"));
    assert!(text.starts_with("a.jsonl:1: unknown row shape with columns (none: the row is a list, not an object)\nhint: accepted are"), "{text}");
    assert_eq!(
        message(load_text("a.json", "{\"rows\": 3}")),
        "a.json: expected a list of rows, or an object with a list under `data`, found an object without a list under `data`"
    );
}

#[test]
fn nothing_in_it_is_an_error() {
    for (name, text) in [
        ("a.jsonl", ""),
        ("a.jsonl", "\n\n"),
        ("a.json", "[]"),
        ("a.csv", "prompt,chosen,rejected\n"),
    ] {
        assert!(
            message(load_text(name, text)).ends_with("(split `train`) has no rows"),
            "{name} {text:?}"
        );
    }
    assert!(
        load_split(&fixture("standard.parquet"), "train", Some(0))
            .unwrap_err()
            .to_string()
            .contains("has no rows")
    );
}

#[test]
fn an_unknown_shape_lists_the_accepted_ones() {
    let text = message(load_text("a.jsonl", r#"{"first": "a", "second": "b"}"#));
    assert!(text.starts_with("a.jsonl:1: unknown row shape with columns first, second\nhint: accepted are {prompt, chosen, rejected}, {chosen, rejected}"), "{text}");
    assert!(
        text.contains("{prompt, completion, label}") && text.contains("{messages}, {text}"),
        "{text}"
    );
}

#[test]
fn a_missing_column_is_named_beside_those_present() {
    let row = |value: serde_json::Value| message(load_text("a.jsonl", &format!("{GOOD}\n{value}")));
    let no_rejected = "a.jsonl:2: column `rejected` is missing or null; columns present: ";
    assert_eq!(
        row(json!({"prompt": "a", "chosen": "b"})),
        format!("{no_rejected}prompt, chosen")
    );
    assert_eq!(
        row(json!({"chosen": "b", "rejected": null})),
        format!("{no_rejected}chosen, rejected")
    );
    assert_eq!(
        row(json!({"completion": "b"})),
        "a.jsonl:2: column `prompt` is missing or null; columns present: completion"
    );
}

#[test]
fn a_mistyped_column_is_named_with_what_it_holds() {
    let row = |value: serde_json::Value| message(load_text("a.jsonl", &value.to_string()));
    let content =
        "should be text or a list of messages, each an object with a `role` that is text, found";
    assert_eq!(
        row(json!({"chosen": 3, "rejected": "b"})),
        format!("a.jsonl:1: column `chosen` {content} 3; columns present: chosen, rejected")
    );
    let turns = json!([{"content": "x"}]);
    assert!(
        row(json!({"chosen": "a", "rejected": turns})).contains(&format!(
            "column `rejected` {content} [{{\"content\":\"x\"}}]"
        ))
    );
    assert!(
        row(json!({"prompt": "a", "chosen": "b", "rejected": []}))
            .contains(&format!("column `rejected` {content} []"))
    );
    assert!(
        row(json!({"prompt": "a", "completion": "b", "label": 2}))
            .contains("`label` should be true or false, found 2")
    );
    for weight in [json!(-1), json!("heavy"), json!([1])] {
        let text = row(json!({"chosen": "ab", "rejected": "ac", "weight": weight}));
        assert!(
            text.contains("`weight` should be a finite number that is not negative"),
            "{text}"
        );
    }
    let mixed =
        json!({"prompt": "a", "chosen": "b", "rejected": [{"role": "assistant", "content": "c"}]});
    assert_eq!(
        row(mixed),
        "a.jsonl:1: `prompt`, `chosen` and `rejected` must all be text or all be conversations"
    );
    let apart = json!({"chosen": [{"role": "user", "content": "c"}], "rejected": [{"role": "user", "content": "d"}]});
    assert!(row(apart).contains("chosen and rejected must share the prompt's turns"));
    assert!(
        row(json!({"messages": "text"})).contains("column `messages` should be a list of messages")
    );
}

#[test]
fn truncated_and_foreign_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        message(load(&path))
    };
    let parquet = std::fs::read(fixture("standard.parquet")).unwrap();
    for cut in [0, 3, parquet.len() / 2, parquet.len() - 1] {
        let text = refused("a.parquet", &parquet[..cut]);
        assert!(
            text.starts_with("a.parquet: not a readable Parquet file:"),
            "{text}"
        );
    }
    let arrow = std::fs::read(fixture("saved/data-00000-of-00002.arrow")).unwrap();
    for cut in [10, arrow.len() / 2] {
        let text = refused("a.arrow", &arrow[..cut]);
        assert!(
            text.starts_with("a.arrow: not a readable Arrow file:"),
            "{text}"
        );
    }
    let mut damaged = parquet.clone();
    let footer = damaged.len() - 8;
    damaged[footer..footer + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(refused("b.parquet", &damaged).starts_with("b.parquet: not a readable Parquet file:"));
    assert!(refused("a.jsonl.gz", b"not gzip").starts_with("cannot read a.jsonl.gz:"));
    assert!(refused("a.jsonl.zst", b"not zstd").starts_with("cannot read a.jsonl.zst:"));
    let text = refused("a.csv", b"prompt,chosen,rejected\na,b,c\na,b\n");
    assert_eq!(
        text,
        "a.csv: not a readable CSV file: line 3 has 2 fields, the first line has 3"
    );
    assert!(
        refused("b.csv", b"prompt,chosen,rejected\na,\xFF,c\n").contains("line 2 is not UTF-8")
    );
    assert!(
        refused("b.jsonl", b"{\"text\": \"\xFF\"}")
            .contains("b.jsonl:1: malformed JSON: invalid unicode")
    );
}

#[test]
fn damaged_tables_give_an_error_or_rows() {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "standard.parquet",
        "conversational.parquet",
        "saved/data-00000-of-00002.arrow",
    ] {
        let path = dir.path().join(name.rsplit('/').next().unwrap());
        let good = std::fs::read(fixture(name)).unwrap();
        let mut refused = 0;
        for at in (0..good.len()).step_by(5) {
            let mut damaged = good.clone();
            damaged[at] ^= 0xFF;
            std::fs::write(&path, &damaged).unwrap();
            // Some bytes are text, or statistics that nobody reads: then rows come back.
            refused += usize::from(load(&path).is_err());
        }
        assert!(
            refused > good.len() / 50,
            "{name}: {refused} of {} refused",
            good.len()
        );
    }
}

#[test]
fn names_that_lead_nowhere_are_explained() {
    let of = |name: &str| {
        load_rows(&DatasetSource {
            name: name.into(),
            config: None,
            split: "train".into(),
            max_samples: None,
            text_field: None,
            mixture: None,
        })
        .unwrap_err()
        .to_string()
    };
    assert!(of("no/such/file.jsonl").starts_with(
        "no data set `no/such/file.jsonl`: there is no such file or directory\nhint:"
    ));
    assert!(of("missing.jsonl").contains("there is no such file"));
    let dir = tempfile::tempdir().unwrap();
    let strange = dir.path().join("a.txt");
    std::fs::write(&strange, "x").unwrap();
    assert!(
        message(load(&strange))
            .starts_with("a.txt: unknown file type\nhint: .jsonl, .json, .parquet")
    );
    std::fs::write(dir.path().join("test.jsonl"), GOOD).unwrap();
    let text = load_split(dir.path(), "train", None)
        .unwrap_err()
        .to_string();
    assert!(
        text.ends_with("no file for split `train`; data files there: test.jsonl"),
        "{text}"
    );
}
