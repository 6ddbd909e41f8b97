//! Judged completions for KTO: what the recordings of TRL do not cover.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

mod common;

use common::{fixture, load, plain, row};
use serde_json::{Value, json};
use unbraid_preference::{
    PreferenceError, UnpairedDataset, tokenize_unpaired, unpaired_fingerprint,
};

fn judged(prompt: &str, completion: &str, label: Value) -> Value {
    json!({"prompt": prompt, "completion": completion, "label": label})
}

fn tokenise(rows: &[Value], block: usize) -> Result<UnpairedDataset, PreferenceError> {
    let rows = rows.iter().map(|value| Ok(row(value)));
    tokenize_unpaired(rows, &plain(), Some(24), block, true)
}

#[test]
fn the_neighbours_completion_follows_the_own_prompt() {
    let rows = [
        judged("one", " cat", json!(1)),
        judged("two", " dog sat", json!(0)),
        judged("three", " cow", json!(true)),
    ];
    let examples = tokenise(&rows, 2).unwrap().examples;
    for (at, neighbour) in [(0, 1), (1, 0), (2, 2)] {
        let (own, other) = (&examples[at], &examples[neighbour].sequence);
        let prompt = &own.sequence.ids[..own.sequence.prompt_len];
        let expected = [prompt, other.completion()].concat();
        assert_eq!(own.mismatched.ids, expected, "example {at}");
        assert_eq!(own.mismatched.prompt_len, own.sequence.prompt_len);
    }
    let labels: Vec<bool> = examples.iter().map(|e| e.desirable).collect();
    assert_eq!(labels, [true, false, true]);
    assert_eq!(examples[1].text.as_ref().unwrap().completion, " dog sat");
}

#[test]
fn the_neighbours_completion_is_not_the_truncated_one() {
    let long = " the river was low and the children walked across it on the stones again";
    let rows = [
        judged("Tell me what happened", long, json!(1)),
        judged("a", " b", json!(0)),
    ];
    let examples = tokenise(&rows, 2).unwrap().examples;
    assert_eq!(examples[0].sequence.ids.len(), 24, "it is cut");
    let kept = examples[0].sequence.completion();
    let moved = examples[1].mismatched.completion();
    assert!(moved.starts_with(kept) && moved.len() > kept.len());
}

#[test]
fn dropped_completions_make_no_gap_in_the_blocks() {
    let rows = [
        judged("one", " cat", json!(1)),
        judged("two", "  ", json!(0)),
        judged("three", " cow", json!(0)),
    ];
    let dataset = tokenise(&rows, 2).unwrap();
    let indices: Vec<usize> = dataset.examples.iter().map(|e| e.index).collect();
    assert_eq!(indices, [0, 2]);
    assert_eq!(
        dataset.examples[0].mismatched.completion(),
        dataset.examples[1].sequence.completion()
    );
    let report = &dataset.report;
    assert_eq!(
        (report.dropped_empty_completion, report.without_neighbour),
        (1, 0)
    );
}

#[test]
fn a_poor_kl_estimate_is_said() {
    let alone = tokenise(&[judged("one", " cat", json!(1))], 8).unwrap();
    let lines = alone.report.warnings().join("\n");
    assert!(
        lines.contains("1 of 1 completions have no neighbour"),
        "{lines}"
    );
    assert!(
        lines.contains("all 1 completions have label true"),
        "{lines}"
    );
    let same = [
        judged("one", " cat", json!(1)),
        judged("one", " dog", json!(0)),
    ];
    let lines = tokenise(&same, 2).unwrap().report.warnings().join("\n");
    assert!(
        lines.contains("2 of 2 completions have a neighbour with the same prompt"),
        "{lines}"
    );
    let fine = [
        judged("one", " cat", json!(1)),
        judged("two", " dog", json!(0)),
    ];
    assert!(tokenise(&fine, 2).unwrap().report.warnings().is_empty());
}

#[test]
fn weights_come_along_and_text_need_not() {
    let rows = load(&fixture("judged.parquet")).unwrap();
    let dataset = tokenize_unpaired(rows.into_iter().map(Ok), &plain(), None, 2, false).unwrap();
    let weights: Vec<f64> = dataset.examples.iter().map(|e| e.weight).collect();
    assert_eq!(weights, [2.0, 0.5]);
    assert!(dataset.examples.iter().all(|e| e.text.is_none()));
    let pair = json!({"prompt": "p", "chosen": " c", "rejected": " r", "weight": 3});
    let both = tokenise(&[pair], 2).unwrap().examples;
    assert_eq!(
        both.iter().map(|e| e.weight).collect::<Vec<_>>(),
        [3.0, 3.0]
    );
}

#[test]
fn rows_without_a_judgement_are_refused() {
    let message = tokenise(&[json!({"text": "x"})], 2)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("rows.jsonl:1: a text row cannot be used here"),
        "{message}"
    );
    let message = tokenise(&[judged("p", " ", json!(1))], 2)
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("no usable row is left of 1"),
        "{message}"
    );
}

#[test]
fn the_fingerprint_knows_labels_and_mismatched_completions() {
    let rows = |label: u8| {
        [
            judged("one", " cat", json!(label)),
            judged("two", " dog", json!(0)),
        ]
    };
    let of = |label, block| unpaired_fingerprint(&tokenise(&rows(label), block).unwrap());
    assert_eq!(of(1, 2), of(1, 2));
    assert_ne!(of(1, 2), of(0, 2), "a label");
    assert_ne!(of(1, 2), of(1, 1), "a block");
}
