//! Pairs: what is dropped, counted and shown, and the HH-RLHF transcripts where they are at hand.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

mod common;

use common::{load, plain, row, shared, tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};
use unbraid_preference::{
    DatasetSource, PairBlocks, PairFingerprint, PreferenceError, Row, TokenizedDataset,
    data_fingerprint, stream_rows, tokenize_pairs,
};
use unbraid_text::Tokenizer;

fn rows(values: &[Value]) -> Vec<Row> {
    values.iter().map(row).collect()
}

fn pair(prompt: &str, chosen: &str, rejected: &str) -> Value {
    json!({"prompt": prompt, "chosen": chosen, "rejected": rejected})
}

fn tokenise(values: &[Value], max_length: usize) -> TokenizedDataset {
    tokenize_pairs(&rows(values), &plain(), Some(max_length)).unwrap()
}

/// Blocks are the whole in pieces: pairs, report and fingerprint.
#[test]
fn blocks_are_the_data_set_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    let line = |i: usize| match i % 7 {
        3 => pair("Q", " ", " b").to_string(),
        n => pair(&format!("Q{i}"), &" a".repeat(n + 1), " b").to_string(),
    };
    let lines: Vec<String> = (0..2345).map(line).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    let whole = tokenize_pairs(&load(&path).unwrap(), &plain(), Some(8)).unwrap();
    let source = DatasetSource {
        name: path.display().to_string(),
        split: "train".into(),
        ..DatasetSource::default()
    };
    let tok = plain();
    let rows = stream_rows(&source).unwrap();
    let mut blocks = PairBlocks::new(rows, &tok, Some(8), true).unwrap();
    let (mut pairs, mut lengths) = (Vec::new(), Vec::new());
    let mut fingerprint = PairFingerprint::default();
    while let Some(block) = blocks.next_block().unwrap() {
        lengths.push(block.len());
        block.iter().for_each(|pair| fingerprint.add(pair));
        pairs.extend(block);
    }
    assert_eq!(lengths.len(), 3);
    assert_eq!(pairs, whole.pairs);
    assert_eq!(blocks.report(), &whole.report);
    assert_eq!(fingerprint.finish(), data_fingerprint(&whole));
}

#[test]
fn rows_keep_their_index_and_weight_when_others_are_dropped() {
    let long = "word ".repeat(50);
    let mut weighted = pair("Hi", " there", " you");
    weighted["weight"] = json!(0.25);
    let dataset = tokenise(
        &[
            pair(&long, " a", " b"),
            pair("Q", " ", " b"),
            weighted,
            pair("", "a", "b"),
        ],
        20,
    );
    assert_eq!(dataset.pairs.len(), 1);
    assert_eq!((dataset.pairs[0].index, dataset.pairs[0].weight), (2, 0.25));
    let report = &dataset.report;
    assert_eq!((report.total, report.dropped()), (4, 3));
    assert_eq!(
        (
            report.dropped_long_prompt,
            report.dropped_empty_completion,
            report.dropped_empty_prompt
        ),
        (1, 1, 1)
    );
    assert_eq!(report.warnings().len(), 3);
    assert_eq!(
        report.warnings()[1],
        "1 of 4 pairs dropped: a completion is empty or white space"
    );
}

#[test]
fn completions_end_with_eos_unless_cut() {
    let dataset = tokenise(&[pair("Hi", " there", &" you".repeat(30))], 16);
    let eos = plain().eos_id().unwrap();
    let pair = &dataset.pairs[0];
    assert_eq!(pair.chosen.ids.last(), Some(&eos));
    assert_eq!(
        pair.chosen.completion(),
        &pair.chosen.ids[pair.chosen.prompt_len..]
    );
    assert_eq!(pair.rejected.ids.len(), 16);
    assert_ne!(pair.rejected.ids.last(), Some(&eos));
    assert_eq!(dataset.report.truncated, 1);
}

#[test]
fn a_completion_of_nothing_but_eos_is_empty() {
    let dataset = tokenise(
        &[
            pair("Hi", "<|im_end|>", " b"),
            pair("Hi", " a", " b"),
            pair("Hi", " a", " \n\u{3000}"),
        ],
        20,
    );
    assert_eq!(
        (dataset.pairs.len(), dataset.report.dropped_empty_completion),
        (1, 2)
    );
    let conversation = json!({"prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": " "}], "rejected": [{"role": "assistant", "content": "b"}]});
    let error = tokenize_pairs(&rows(&[conversation]), &plain(), None)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "no usable row is left of 1: 1 of 1 pairs dropped: a completion is empty or white space"
    );
}

#[test]
fn identical_completions_are_kept_and_counted() {
    let dataset = tokenise(&[pair("Q", " same", " same"), pair("Q", " a", " b")], 20);
    assert_eq!((dataset.pairs.len(), dataset.report.identical), (2, 1));
    assert!(dataset.report.warnings()[0].contains("identical chosen and rejected"));
}

#[test]
fn a_boundary_that_merges_is_counted_and_shown() {
    let dataset = tokenise(
        &[
            pair("Q:", " a", " b"),
            pair("The capital of Fran", "ce", "k"),
        ],
        20,
    );
    assert_eq!(dataset.report.boundary_mismatches, 1);
    let first = dataset.report.first_mismatch.as_ref().unwrap();
    assert_eq!((first.index, first.left_out.as_str()), (1, " Fran"));
    assert!(dataset.report.warnings()[0].contains("in row 1 the prompt loses \" Fran\""));
}

#[test]
fn bos_is_not_doubled() {
    let processor = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}});
    let bos = tokenizer(&processor, None);
    let of = |prompt: &str| {
        let dataset = tokenize_pairs(&rows(&[pair(prompt, " there", " you")]), &bos, None).unwrap();
        dataset.pairs[0].chosen.ids.clone()
    };
    assert_eq!(of("Hi")[0], 0);
    assert_eq!(of("<|endoftext|>Hi"), of("Hi"));
}

#[test]
fn text_shows_conversations_as_rendered() {
    let conversation = json!({"prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "Hello"}], "rejected": [{"role": "assistant", "content": "Bye"}]});
    let pair = tokenise(&[conversation], 64).pairs.remove(0);
    let text = pair.text.unwrap();
    assert_eq!(
        text.prompt,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(
        (text.chosen.as_str(), text.rejected.as_str()),
        ("Hello<|im_end|>\n", "Bye<|im_end|>\n")
    );
}

#[test]
fn what_cannot_be_tokenised_is_refused() {
    let message = |value: Value, tok: &Tokenizer, limit| {
        tokenize_pairs(&rows(&[value]), tok, limit).unwrap_err()
    };
    let wrong = message(json!({"text": "a"}), &plain(), None).to_string();
    assert!(
        wrong.contains(
            "rows.jsonl:1: a text row cannot be used here, rows need `chosen` and `rejected`"
        ),
        "{wrong}"
    );
    let limit = message(pair("a", "b", "c"), &plain(), Some(1)).to_string();
    assert!(
        limit.starts_with("max_length is 1, at least 2 tokens are needed"),
        "{limit}"
    );
    let refusing = tokenizer(
        &Value::Null,
        Some("{{ raise_exception('no system role') }}"),
    );
    let conversation = json!({"prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]});
    let refused = message(conversation, &refusing, None).to_string();
    assert!(
        refused.contains("rows.jsonl:1: the chat template refused")
            && refused.contains("no system role"),
        "{refused}"
    );
}

#[test]
fn a_tokenizer_without_eos_is_refused() {
    let dir = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../text/tests/parity/tiny/tokenizer.json"
    );
    let bare = Tokenizer::from_parts(&std::fs::read(dir).unwrap(), None, None).unwrap();
    let result = tokenize_pairs(&rows(&[pair("a", "b", "c")]), &bare, None);
    assert!(matches!(result, Err(PreferenceError::NoEos)));
}

#[test]
fn fingerprints_follow_the_content() {
    let base = [pair("Q", " a", " b"), pair("R", " c", " d")];
    let of = |values: &[Value]| data_fingerprint(&tokenise(values, 20));
    assert_eq!(of(&base), of(&base));
    let swapped = [pair("Q", " b", " a"), base[1].clone()];
    let mut weighted = base.clone();
    weighted[0]["weight"] = json!(2.0);
    let reordered = [base[1].clone(), base[0].clone()];
    for other in [&swapped[..], &weighted, &reordered, &base[..1]] {
        assert_ne!(of(&base), of(other));
    }
}

#[test]
fn helpful_base_has_2350_usable_pairs() {
    let Some(path) = shared("data/hh_rlhf_test/helpful-base.test.jsonl.gz") else {
        return;
    };
    let Some(gpt2) = shared("data/tokenizer_gpt2") else {
        return;
    };
    let rows = load(&path).unwrap();
    assert_eq!(rows.len(), 2354);
    let dataset = tokenize_pairs(&rows, &Tokenizer::from_dir(&gpt2).unwrap(), Some(1024)).unwrap();
    assert_eq!(dataset.pairs.len(), 2350);
    // Four rejected answers are a single space; two pairs have equal answers and stay.
    let kept: std::collections::HashSet<usize> =
        dataset.pairs.iter().map(|pair| pair.index).collect();
    let dropped: Vec<usize> = (0..2354).filter(|index| !kept.contains(index)).collect();
    assert_eq!(dropped, [120, 740, 1214, 2063]);
    assert_eq!(
        (
            dataset.report.dropped_empty_completion,
            dataset.report.identical
        ),
        (4, 2)
    );
    assert!(dataset.pairs.iter().all(|pair| {
        pair.text
            .as_ref()
            .unwrap()
            .prompt
            .ends_with("\n\nAssistant:")
    }));
}

proptest! {
    #[test]
    fn sequences_share_their_prompt_and_fit(
        prompt in "[ -~\n]{1,30}", chosen in ".{1,30}", rejected in ".{1,30}", max_length in 2usize..40,
    ) {
        let value = pair(&prompt, &chosen, &rejected);
        match tokenize_pairs(&rows(&[value]), &plain(), Some(max_length)) {
            Ok(dataset) => {
                let pair = &dataset.pairs[0];
                let shared = pair.chosen.prompt_len;
                prop_assert_eq!(shared, pair.rejected.prompt_len);
                prop_assert_eq!(&pair.chosen.ids[..shared], &pair.rejected.ids[..shared]);
                for sequence in [&pair.chosen, &pair.rejected] {
                    prop_assert!(shared >= 1 && shared < sequence.ids.len() && sequence.ids.len() <= max_length);
                }
            }
            Err(error) => prop_assert!(matches!(error, PreferenceError::NothingLeft { .. }), "{}", error),
        }
    }
}
