//! Tokenisation against what TRL's trainers did with the same rows (`parity/generate.py`).

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

mod common;

use common::{row, tokenizer};
use serde_json::Value;
use unbraid_preference::{
    PreferenceError, Row, SftOptions, TokenizedSequence, UnpairedDataset, pack_best_fit,
    tokenize_pairs, tokenize_sft, tokenize_unpaired,
};
use unbraid_text::Tokenizer;

/// Cases in which this crate departs from TRL, with the reason in `tokenize.rs`; each has a test in `pairs.rs`.
const DEPARTURES: [&str; 2] = ["empty completion", "BOS is written and added"];

fn expected() -> Value {
    serde_json::from_str(include_str!("parity/expected.json")).unwrap()
}

fn variant(expected: &Value, case: &Value) -> Tokenizer {
    let variant = &expected["variants"][case["variant"].as_str().unwrap()];
    tokenizer(
        &variant["post_processor"],
        variant["chat_template"].as_str(),
    )
}

fn numbers(value: &Value) -> Vec<usize> {
    serde_json::from_value(value.clone()).unwrap()
}

fn check(name: &str, got: &TokenizedSequence, expected: &Value) {
    let ids: Vec<u32> = serde_json::from_value(expected["ids"].clone()).unwrap();
    assert_eq!(got.ids, ids, "{name}: ids");
    assert_eq!(
        got.prompt_len as u64,
        expected["prompt_len"].as_u64().unwrap(),
        "{name}: prompt_len"
    );
}

#[test]
fn pairs_are_tokenised_as_trl_does() {
    let expected = expected();
    let mut checked = 0;
    for case in expected["pairs"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        if DEPARTURES.contains(&name) {
            continue;
        }
        let tok = variant(&expected, case);
        let max_length = case["max_length"]
            .as_u64()
            .map(|limit| usize::try_from(limit).unwrap());
        let dataset = tokenize_pairs(&[row(&case["row"])], &tok, max_length);
        if case["expected"].is_null() {
            assert!(
                matches!(dataset, Err(PreferenceError::NothingLeft { .. })),
                "{name}: TRL drops it"
            );
        } else {
            let dataset = dataset.unwrap_or_else(|error| panic!("{name}: {error}"));
            let pair = &dataset.pairs[0];
            check(name, &pair.chosen, &case["expected"]["chosen"]);
            check(name, &pair.rejected, &case["expected"]["rejected"]);
            let shared = pair.chosen.prompt_len;
            assert_eq!(
                pair.chosen.ids[..shared],
                pair.rejected.ids[..shared],
                "{name}: one prompt"
            );
        }
        checked += 1;
    }
    assert!(checked >= 30, "only {checked} cases");
}

fn unpaired(
    rows: &[Value],
    tok: &Tokenizer,
    limit: Option<usize>,
    batch: usize,
) -> UnpairedDataset {
    let rows = rows.iter().map(|value| Ok(row(value)));
    tokenize_unpaired(rows, tok, limit, batch, false).unwrap()
}

#[test]
fn judged_completions_and_their_mismatched_ones_are_those_of_trl() {
    let expected = expected();
    let cases = expected["unpaired"].as_array().unwrap();
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let limit: Option<usize> = serde_json::from_value(case["max_length"].clone()).unwrap();
        let batch = serde_json::from_value(case["batch"].clone()).unwrap();
        let rows = case["rows"].as_array().unwrap();
        let dataset = unpaired(rows, &variant(&expected, case), limit, batch);
        let recorded = case["expected"].as_array().unwrap();
        assert_eq!(dataset.examples.len(), recorded.len(), "{name}: kept rows");
        for (got, want) in dataset.examples.iter().zip(recorded) {
            let of = format!("{name}, row {}", got.index);
            assert_eq!(got.index as u64, want["index"].as_u64().unwrap(), "{of}");
            assert_eq!(got.desirable, want["label"].as_bool().unwrap(), "{of}");
            check(&of, &got.sequence, &want["sequence"]);
            check(
                &format!("{of}, mismatched"),
                &got.mismatched,
                &want["mismatched"],
            );
        }
    }
    assert!(cases.len() >= 12, "only {} cases", cases.len());
}

#[test]
fn pairs_are_taken_apart_in_the_order_of_trl() {
    let expected = expected();
    for case in expected["unpaired_order"].as_array().unwrap() {
        let count = usize::try_from(case["rows"].as_u64().unwrap()).unwrap();
        let pair = row(&serde_json::json!({"prompt": "p", "chosen": " c", "rejected": " r"}));
        let rows = std::iter::repeat_n(pair, count).map(Ok);
        let plain = tokenizer(&Value::Null, None);
        let dataset = tokenize_unpaired(rows, &plain, Some(64), 4, false).unwrap();
        let mut examples = dataset.examples.iter();
        for run in case["runs"].as_array().unwrap() {
            let (label, first) = (run[0].as_bool().unwrap(), run[1].as_u64().unwrap());
            for index in first..first + run[2].as_u64().unwrap() {
                let example = examples.next().unwrap();
                assert_eq!((example.index as u64, example.desirable), (index, label));
            }
        }
        assert!(examples.next().is_none());
    }
}

#[test]
fn sft_sequences_are_those_of_trl() {
    let expected = expected();
    for case in expected["sft"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let rows: Vec<Row> = case["rows"].as_array().unwrap().iter().map(row).collect();
        let max_length = usize::try_from(case["max_length"].as_u64().unwrap()).unwrap();
        let options = SftOptions {
            completion_only: case["completion_only"].as_bool().unwrap(),
            ..Default::default()
        };
        let dataset =
            tokenize_sft(&rows, &variant(&expected, case), Some(max_length), options).unwrap();
        let recorded: Vec<&Value> = case["expected"].as_array().unwrap().iter().collect();
        assert_eq!(dataset.sequences.len(), recorded.len(), "{name}: kept rows");
        for (got, want) in dataset.sequences.iter().zip(recorded) {
            let ids: Vec<u32> = serde_json::from_value(want["ids"].clone()).unwrap();
            assert_eq!(
                (got.index as u64, &got.ids),
                (want["index"].as_u64().unwrap(), &ids),
                "{name}"
            );
            let labels: Vec<i64> = serde_json::from_value(want["labels"].clone()).unwrap();
            // TRL's first label has no context and is shifted away: the loss really starts at 1.
            let start = labels
                .iter()
                .position(|&label| label != -100)
                .unwrap()
                .max(1);
            assert_eq!(got.loss_mask_start, start, "{name}: where the loss starts");
            assert!(
                labels[start..].iter().all(|&label| label != -100),
                "{name}: loss on all that follows"
            );
        }
    }
}

#[test]
fn packs_are_those_of_trl() {
    for case in expected()["packs"].as_array().unwrap() {
        let mut packs = pack_best_fit(
            &numbers(&case["lengths"]),
            usize::try_from(case["capacity"].as_u64().unwrap()).unwrap(),
        );
        packs.iter_mut().for_each(|pack| pack.sort_unstable());
        let recorded: Vec<Vec<usize>> = case["packs"]
            .as_array()
            .unwrap()
            .iter()
            .map(numbers)
            .collect();
        assert_eq!(packs, recorded, "lengths {}", case["lengths"]);
    }
}
