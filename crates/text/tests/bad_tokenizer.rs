//! Damaged and hostile `tokenizer.json`: one error each, never a panic, a hang or an allocation without bound.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

mod common;

use std::time::{Duration, Instant};

use common::tiny_json;
use serde_json::{Value, json};
use unbraid_text::Tokenizer;

fn tiny() -> Value {
    serde_json::from_slice(&tiny_json()).unwrap()
}

fn open(json: &Value) -> Result<Tokenizer, String> {
    Tokenizer::from_parts(json.to_string().as_bytes(), None, None).map_err(|e| e.to_string())
}

/// A part that is put in place of the tokenizer's own, and a word of the error.
#[test]
fn wrong_parts_are_refused_by_name() {
    let mut deep = json!({"type": "NFC"});
    for _ in 0..40 {
        deep = json!({"type": "Sequence", "normalizers": [deep]});
    }
    let doubling =
        vec![json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}); 40];
    let template = |single: Value, tokens: Value| json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": tokens});
    let a = json!({"Sequence": {"id": "A", "type_id": 0}});
    for (part, value, word) in [
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": ""}),
            "precompiled_charsmap",
        ),
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
            "precompiled_charsmap",
        ),
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAA="}),
            "normalizer",
        ),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"String": ""}, "content": "xy"}),
            "empty pattern",
        ),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "\\b"}, "content": "q"}),
            "normalizer",
        ),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "x*"}, "content": "q"}),
            "normalizer",
        ),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "("}, "content": "q"}),
            "tokenizer",
        ),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"String": "a"}, "content": "b".repeat(5000)}),
            "normalizer",
        ),
        (
            "normalizer",
            json!({"type": "Sequence", "normalizers": doubling}),
            "lengthen",
        ),
        (
            "normalizer",
            json!({"type": "Prepend", "prepend": ""}),
            "Prepend",
        ),
        ("normalizer", deep, "nested"),
        (
            "pre_tokenizer",
            json!({"type": "FixedLength", "length": 0}),
            "FixedLength",
        ),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": false}),
            "empty pattern",
        ),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(?=a)((b(?=c)){1000}){1000}{1000}"}, "behavior": "Isolated", "invert": false}),
            "repeats",
        ),
        (
            "post_processor",
            template(
                json!([{"SpecialToken": {"id": "nope", "type_id": 0}}, a]),
                json!({}),
            ),
            "nope",
        ),
        (
            "post_processor",
            template(json!([{"Sequence": {"id": "B", "type_id": 0}}]), json!({})),
            "sequence B",
        ),
        (
            "post_processor",
            template(json!(vec![a.clone(); 100]), json!({})),
            "pieces",
        ),
        (
            "post_processor",
            template(
                json!([a]),
                json!({"x": {"id": "x", "ids": [1, 2], "tokens": ["x"]}}),
            ),
            "ids",
        ),
        ("model", Value::Null, "model"),
        (
            "model",
            json!({"type": "BPE", "vocab": {"a": 4294967295u32}, "merges": []}),
            "id",
        ),
        (
            "model",
            json!({"type": "BPE", "vocab": {"a": 0, "##b": 1, "ab": 2}, "merges": [["a", "a"]], "continuing_subword_prefix": "##"}),
            "merges[0]",
        ),
        (
            "model",
            json!({"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}),
            "tokenizer",
        ),
        (
            "model",
            json!({"type": "Unigram", "vocab": [], "unk_id": 3}),
            "tokenizer",
        ),
        (
            "added_tokens",
            json!([{"id": 4294967295u32, "content": "x", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}]),
            "added_tokens",
        ),
    ] {
        let mut json = tiny();
        json[part] = value.clone();
        let error = open(&json).expect_err(&format!("{part}: {value}"));
        assert!(
            error.contains(word) && error.contains("tokenizer.json"),
            "{value}: {error}"
        );
        assert!(error.len() < 1000, "{error}");
    }
}

/// Padding, truncation and dropout of a file do not count, whatever they say.
#[test]
fn what_does_not_count_is_not_allocated() {
    let mut json = tiny();
    json["padding"] = json!({"strategy": {"Fixed": u64::MAX}, "direction": "Right", "pad_to_multiple_of": 1u64 << 60,
                             "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"});
    json["truncation"] =
        json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 5});
    json["model"]["dropout"] = json!(0.5);
    let tokenizer = open(&json).unwrap();
    assert_eq!(tokenizer.notes().len(), 1, "{:?}", tokenizer.notes());
    let plain = open(&tiny()).unwrap();
    let text = "The capital of France is Paris.";
    assert_eq!(
        tokenizer.encode(text, true).unwrap(),
        plain.encode(text, true).unwrap()
    );
}

#[test]
fn a_decoder_that_panics_is_an_error() {
    let mut json = tiny();
    json["decoder"] = json!({"type": "Strip", "content": "a", "start": 0, "stop": 9});
    let tokenizer = open(&json).unwrap();
    let ids = tokenizer.encode("aaa", false).unwrap();
    let error = tokenizer.decode(&ids, false).unwrap_err().to_string();
    assert!(error.contains("gave up"), "{error}");
}

/// A small generator of numbers: the same each time.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }
}

/// Values that are put in place of others.
fn odd(draw: &mut Draw) -> Value {
    let step = |kind: &str| json!({"type": kind});
    let kind = ["NFKC", "Nmt", "Fuse", "Digits", "Punctuation", "Strip"][draw.below(6)];
    let content = ["", "a", " ", "é", "<|endoftext|>"][draw.below(5)];
    match draw.below(34) {
        0 => Value::Null,
        1 => json!(0),
        2 => json!(-1),
        3 => json!(u64::MAX),
        4 => json!(1e300),
        5 => json!(""),
        6 => json!("a"),
        7 => json!("\u{301}"),
        8 => json!("▁"),
        9 => json!([]),
        10 => json!({}),
        11 => json!(true),
        12 => json!({"Regex": "(a+)+$"}),
        13 => json!({"Regex": "(?=.)"}),
        14 => json!({"Regex": "\\s+(?!\\S)|"}),
        15 => json!({"String": "a"}),
        16 => {
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})
        }
        17 => {
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true})
        }
        18 => json!({"type": "Replace", "pattern": {"Regex": "[a-z]"}, "content": ""}),
        19 => {
            json!({"type": "Split", "pattern": {"Regex": "."}, "behavior": "Removed", "invert": true})
        }
        20 => json!({"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8AYWJj"}),
        21 => json!({"type": "FixedLength", "length": 1}),
        22 => json!({"type": "Strip", "strip_left": true, "strip_right": true}),
        23 => json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                     "max_input_chars_per_word": 3, "vocab": {"a": 0, "##b": 1}}),
        24 => {
            json!({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0], ["é", -1e308]], "byte_fallback": true})
        }
        25 => json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"}),
        26 => {
            json!({"type": "RobertaProcessing", "sep": ["x", 7], "cls": ["y", 4294967295u32], "trim_offsets": true, "add_prefix_space": true})
        }
        27 => json!({"type": "BertProcessing", "sep": ["x", 7], "cls": ["y", 8]}),
        28 => {
            json!({"type": "Sequence", "normalizers": [step("NFD"), step("StripAccents"), step("Lowercase")]})
        }
        29 => {
            json!({"type": "Sequence", "pretokenizers": [step("Whitespace"), step("UnicodeScripts"), step("BertPreTokenizer")]})
        }
        30 => json!({"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": true}),
        31 => step("ByteFallback"),
        32 => step(kind),
        _ => {
            json!([{"id": draw.below(500), "content": content, "single_word": true,
                     "lstrip": true, "rstrip": true, "normalized": true, "special": false}])
        }
    }
}

/// Changes one place of a description: it is replaced, removed, doubled, or exchanged for another.
fn mutate(json: &mut Value, draw: &mut Draw) {
    const PARTS: [&str; 7] = [
        "normalizer",
        "pre_tokenizer",
        "post_processor",
        "decoder",
        "model",
        "added_tokens",
        "padding",
    ];
    let mut path = format!("/{}", PARTS[draw.below(PARTS.len())]);
    while draw.below(3) > 0 {
        let step = match json.pointer_mut(&path) {
            Some(Value::Object(keys)) if !keys.is_empty() => {
                let key = keys.keys().nth(draw.below(keys.len())).unwrap().clone();
                if draw.below(12) == 0 {
                    keys.shift_remove(&key);
                    return;
                }
                key.replace('~', "~0").replace('/', "~1")
            }
            Some(Value::Array(list)) if !list.is_empty() => {
                let (one, other) = (draw.below(list.len()), draw.below(list.len()));
                match draw.below(10) {
                    0 => return list.swap(one, other),
                    1 => return list.push(list[one].clone()),
                    2 => {
                        list.remove(one);
                        return;
                    }
                    _ => one.to_string(),
                }
            }
            _ => break,
        };
        path = format!("{path}/{step}");
    }
    if let Some(place) = json.pointer_mut(&path) {
        *place = odd(draw);
    }
}

/// Thousands of descriptions, each with a few places changed: whatever they are, they end in a tokenizer or an error,
/// soon. `UNBRAID_MUTATIONS` sets another number.
#[test]
fn mutated_descriptions_end_in_a_tokenizer_or_an_error() {
    let count: u64 = match std::env::var("UNBRAID_MUTATIONS") {
        Ok(count) => count.parse().unwrap(),
        Err(_) => 400,
    };
    let bases: Vec<Value> = [
        "families/mistral",
        "families/gemma",
        "families/qwen",
        "tiny",
    ]
    .iter()
    .map(|base| {
        let path = common::tiny_dir()
            .with_file_name(base)
            .join("tokenizer.json");
        small(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
    })
    .collect();
    let (mut opened, mut refused) = (0, 0);
    for seed in 0..count {
        let mut draw = Draw(seed * 7919 + 1);
        let mut json = bases[draw.below(bases.len())].clone();
        for _ in 0..1 + draw.below(3) {
            mutate(&mut json, &mut draw);
        }
        let started = Instant::now();
        match open(&json) {
            Err(error) => {
                assert!(error.contains("tokenizer.json"), "seed {seed}: {error}");
                refused += 1;
            }
            Ok(tokenizer) => {
                opened += 1;
                for text in [
                    "Hello aaaaaaaaaaaaaaaaaaaaaaaa!",
                    "e\u{301}日本 🙂\r\n\r\n x",
                    "</s><|endoftext|> a</s>",
                ] {
                    for add in [false, true] {
                        let Ok(ids) = tokenizer.encode(text, add) else {
                            continue;
                        };
                        let _ = tokenizer.decode(&ids, add);
                        let _: Vec<String> =
                            ids.iter().map(|id| tokenizer.token_label(*id)).collect();
                    }
                }
                let long = "the river was low ".repeat(4000);
                let _ = tokenizer.encode_start(&[&long], true, 32);
            }
        }
        let took = started.elapsed();
        assert!(took < Duration::from_secs(30), "seed {seed} took {took:?}");
    }
    assert!(
        opened > count / 8 && refused > count / 8,
        "{opened} opened, {refused} refused"
    );
}

/// A description with a vocabulary of a hundred tokens, which is quick to read in a debug build.
fn small(mut json: Value) -> Value {
    let merges = json["model"]["merges"].as_array_mut().unwrap();
    merges.truncate(20);
    json
}
