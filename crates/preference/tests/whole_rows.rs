//! Everything in a row reaches the chat template: ids against what TRL's trainers made of the same rows
//! (`parity/generate_whole_rows.py`), and rows that are refused.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

mod common;

use std::path::PathBuf;

use common::{load, load_text, message, row};
use serde_json::{Value, json};
use unbraid_preference::{
    DatasetSource, Row, RowKind, SftOptions, TokenizedPair, stream_whole_rows, tokenize_pairs,
    tokenize_sft, tokenize_unpaired,
};
use unbraid_text::{TextError, Tokenizer};

fn recorded() -> Value {
    serde_json::from_str(include_str!("parity/whole_rows.json")).unwrap()
}

fn tokenizer(chat_template: &Value) -> Tokenizer {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../text/tests/parity/tiny");
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let mut config: Value = serde_json::from_slice(&read("tokenizer_config.json")).unwrap();
    config["chat_template"] = chat_template.clone();
    Tokenizer::from_parts(&read("tokenizer.json"), Some(&config), None).unwrap()
}

/// The cases of a kind: name, tokenizer, rows, and what TRL made of them.
fn cases(recorded: &Value, kind: &str) -> Vec<(String, Tokenizer, Vec<Row>, Vec<Value>)> {
    let cases = recorded[kind].as_array().unwrap().iter();
    let case = |case: &Value| {
        let lines: Vec<String> = case["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(Value::to_string)
            .collect();
        (
            case["name"].as_str().unwrap().to_owned(),
            tokenizer(&recorded["templates"][case["template"].as_str().unwrap()]),
            load_text("rows.jsonl", &lines.join("\n")).unwrap(),
            case["expected"].as_array().unwrap().clone(),
        )
    };
    cases.map(case).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The text of ids, which says more than the ids when a test fails.
fn text(tok: &Tokenizer, ids: &[u32]) -> String {
    tok.decode(ids, false).unwrap()
}

fn check_pairs(name: &str, tok: &Tokenizer, pairs: &[TokenizedPair], expected: &[Value]) {
    assert_eq!(pairs.len(), expected.len(), "{name}: rows");
    for (pair, want) in pairs.iter().zip(expected) {
        let prompt = ids(&want["prompt"]);
        for (side, sequence) in [("chosen", &pair.chosen), ("rejected", &pair.rejected)] {
            let of = format!("{name}, row {}, {side}", pair.index);
            let whole = [prompt.clone(), ids(&want[side])].concat();
            assert_eq!(text(tok, &sequence.ids), text(tok, &whole), "{of}");
            assert_eq!(sequence.ids, whole, "{of}");
            assert_eq!(sequence.prompt_len, prompt.len(), "{of}");
        }
    }
}

#[test]
fn pairs_are_those_of_trl() {
    let recorded = recorded();
    let cases = cases(&recorded, "pairs");
    for (name, tok, rows, expected) in &cases {
        let dataset = tokenize_pairs(rows, tok, None).unwrap_or_else(|e| panic!("{name}: {e}"));
        check_pairs(name, tok, &dataset.pairs, expected);
    }
    assert!(cases.len() >= 20, "only {} cases", cases.len());
}

/// One schema for all rows, with nulls where a row has no such field; JSON text; and that in a saved data set.
#[test]
fn tables_are_read_as_trl_reads_them() {
    let recorded = recorded();
    let tok = tokenizer(&recorded["templates"]["whole"]);
    for table in recorded["tables"].as_array().unwrap() {
        let name = table["file"].as_str().unwrap();
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parity");
        let rows = load(&dir.join(name)).unwrap();
        let dataset = tokenize_pairs(&rows, &tok, None).unwrap();
        check_pairs(
            name,
            &tok,
            &dataset.pairs,
            table["expected"].as_array().unwrap(),
        );
    }
}

#[test]
fn judged_completions_are_those_of_trl() {
    let recorded = recorded();
    for (name, tok, rows, expected) in cases(&recorded, "judged") {
        let dataset = tokenize_unpaired(rows.into_iter().map(Ok), &tok, None, 8, false).unwrap();
        assert_eq!(dataset.examples.len(), expected.len(), "{name}");
        for (got, want) in dataset.examples.iter().zip(&expected) {
            let of = format!("{name}, row {}", got.index);
            let prompt = ids(&want["prompt"]);
            for (sequence, completion) in
                [(&got.sequence, "completion"), (&got.mismatched, "other")]
            {
                let whole = [prompt.clone(), ids(&want[completion])].concat();
                assert_eq!(text(&tok, &sequence.ids), text(&tok, &whole), "{of}");
                assert_eq!(sequence.ids, whole, "{of}");
                assert_eq!(sequence.prompt_len, prompt.len(), "{of}");
            }
            assert_eq!(got.desirable, want["label"].as_bool().unwrap(), "{of}");
        }
    }
}

#[test]
fn sft_sequences_are_those_of_trl() {
    let recorded = recorded();
    for (name, tok, rows, expected) in cases(&recorded, "sft") {
        let dataset = tokenize_sft(&rows, &tok, None, SftOptions::default()).unwrap();
        assert_eq!(dataset.sequences.len(), expected.len(), "{name}");
        for (got, want) in dataset.sequences.iter().zip(&expected) {
            let whole = ids(&want["ids"]);
            assert_eq!(text(&tok, &got.ids), text(&tok, &whole), "{name}");
            assert_eq!(got.ids, whole, "{name}");
            // TRL's first label has no context and is shifted away: the loss really starts at 1.
            let start = want["start"].as_u64().unwrap().max(1);
            assert_eq!(got.loss_mask_start as u64, start, "{name}");
        }
    }
}

#[test]
fn rows_that_trl_cannot_prepare_are_refused_with_their_column() {
    let recorded = recorded();
    let refused = recorded["refused"].as_array().unwrap();
    for case in refused {
        let name = case["name"].as_str().unwrap();
        let message = message(load_text("rows.jsonl", &case["row"].to_string()));
        let column = match name.starts_with("tools") {
            true => "rows.jsonl:1: column `tools`: ",
            false => "rows.jsonl:1: column `chat_template_kwargs`: ",
        };
        assert!(message.contains(column), "{name}: {message}");
    }
    assert!(refused.len() >= 12);
}

/// Plain text goes through no template, in TRL too.
#[test]
fn plain_text_leaves_tools_and_arguments_aside() {
    let value = json!({"prompt": "Q", "chosen": " a", "rejected": " b", "tools": ["x"], "chat_template_kwargs": 3});
    assert_eq!(row(&value).inputs, unbraid_text::TemplateInputs::default());
}

#[test]
fn a_completion_that_says_nothing_is_still_dropped() {
    let tok = tokenizer(&recorded()["templates"]["usual"]);
    let call = json!([{"type": "function", "function": {"name": "f", "arguments": {}}}]);
    for (answer, kept) in [
        (json!({"role": "assistant", "content": " \n"}), false),
        (json!({"role": "assistant", "content": null}), false),
        (json!({"role": "assistant"}), false),
        (
            json!({"role": "assistant", "content": [], "tool_calls": []}),
            false,
        ),
        (
            json!({"role": "assistant", "content": [{"type": "text", "text": " "}]}),
            false,
        ),
        (
            json!({"role": "assistant", "content": [{"type": "text", "text": "x"}]}),
            true,
        ),
        (
            json!({"role": "assistant", "content": null, "tool_calls": call}),
            true,
        ),
        (
            json!({"role": "assistant", "content": "", "thinking": "Hm"}),
            true,
        ),
    ] {
        let pair = row(&json!({
            "prompt": [{"role": "user", "content": "Q"}],
            "chosen": [{"role": "assistant", "content": "A"}],
            "rejected": [answer],
        }));
        assert_eq!(
            tokenize_pairs(&[pair], &tok, None).is_ok(),
            kept,
            "{answer}"
        );
    }
}

#[test]
fn pictures_are_refused_wherever_they_stand() {
    let text = json!({"prompt": "Q", "chosen": " a", "rejected": " b"});
    let turns = json!({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]});
    for mut value in [text, turns, json!({"text": "t"})] {
        for column in ["image", "images", "pixel_values"] {
            value[column] = Value::Null;
            let message = message(load_text("rows.jsonl", &value.to_string()));
            assert!(
                message.contains(&format!("rows.jsonl:1: column `{column}`")),
                "{message}"
            );
            value.as_object_mut().unwrap().remove(column);
        }
    }
    let header = message(load_text(
        "a.csv",
        "prompt,chosen,rejected,image\nQ, a, b,\n",
    ));
    assert!(header.contains("a.csv:2: column `image`"), "{header}");
    let part = json!({"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q"}]}]});
    let part = message(load_text("rows.jsonl", &part.to_string()));
    assert!(
        part.contains("a part of type `image` in column `messages`"),
        "{part}"
    );
}

/// Raw material that is read whole is no data set to train on yet.
#[test]
fn rows_read_whole_may_have_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    std::fs::write(&path, r#"{"text": "t", "image": "a.png"}"#).unwrap();
    let source = DatasetSource {
        name: path.display().to_string(),
        split: "train".into(),
        ..Default::default()
    };
    let rows: Vec<Row> = stream_whole_rows(&source)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(rows[0].columns.as_ref().unwrap()["image"], "a.png");
}

/// Python would write them; no template that writes JSON should.
#[test]
fn numbers_that_json_has_not_are_refused_inside_messages_and_tools() {
    let turn = r#""messages": [{"role": "user", "content": "Q"}]"#;
    for (column, line) in [
        ("tools", format!(r#"{{{turn}, "tools": [{{"max": NaN}}]}}"#)),
        (
            "chat_template_kwargs",
            format!(r#"{{{turn}, "chat_template_kwargs": {{"t": [Infinity]}}}}"#),
        ),
        (
            "messages",
            r#"{"messages": [{"role": "user", "content": "Q", "score": -Infinity}]}"#.to_owned(),
        ),
    ] {
        let message = message(load_text("rows.jsonl", &line));
        assert!(
            message.contains(&format!("column `{column}` should be without numbers")),
            "{message}"
        );
    }
}

#[test]
fn messages_need_a_role() {
    for turn in [
        json!({"content": "x"}),
        json!({"role": 1, "content": "x"}),
        json!("x"),
        Value::Null,
    ] {
        let message = message(load_text(
            "rows.jsonl",
            &json!({"messages": [turn]}).to_string(),
        ));
        assert!(message.contains("column `messages` should be"), "{message}");
    }
}

/// A template of a row's own that is no template stops with the row, and so does a tokenizer without one.
#[test]
fn the_rows_template_must_compile() {
    let turns = json!([{"role": "user", "content": "Q"}]);
    let broken =
        row(&json!({"messages": turns, "chat_template_kwargs": {"chat_template": "{% if"}}));
    assert!(matches!(broken.kind, RowKind::Messages(_)));
    let tok = tokenizer(&json!("{{ messages }}"));
    let error = tokenize_sft(&[broken], &tok, None, SftOptions::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("rows.jsonl:1: the chat template cannot be compiled"),
        "{error}"
    );
    let tool_use_alone = tokenizer(&Value::Null);
    let messages = [unbraid_text::Message::new("user", "Q")];
    assert!(matches!(
        tool_use_alone.apply_chat_template(&messages, true),
        Err(TextError::NoChatTemplate)
    ));
}
