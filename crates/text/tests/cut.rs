//! The first ids of a text are the same whether or not the rest is looked at.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

mod common;

use common::tiny_dir;
use serde_json::json;
use unbraid_text::{TextError, Tokenizer};

/// Every tokenizer that is recorded here, and some that are split in other ways.
fn tokenizers() -> Vec<(String, Tokenizer)> {
    let mut all = Vec::new();
    for base in [
        "tiny",
        "families/mistral",
        "families/gemma",
        "families/qwen",
        "families/gpt_neox",
    ] {
        let dir = tiny_dir().with_file_name(base);
        all.push((base.to_owned(), Tokenizer::from_dir(&dir).unwrap()));
    }
    let mistral =
        std::fs::read(tiny_dir().with_file_name("families/mistral/tokenizer.json")).unwrap();
    let class = json!({"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": {
        "900": {"content": "</s>", "lstrip": true, "rstrip": true}, "901": {"content": "low", "normalized": true}}});
    let llama = Tokenizer::from_parts(&mistral, Some(&class), None).unwrap();
    all.push(("llama".to_owned(), llama));
    all
}

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

/// A random text of about `bytes` bytes: words, runs of spaces, digits and signs, special tokens, other scripts.
fn text(draw: &mut Draw, bytes: usize) -> String {
    const PIECES: [&str; 34] = [
        "the",
        " river",
        " was",
        " low",
        "low",
        " capital",
        "good",
        "  ",
        "\n",
        "\n\n",
        "\t ",
        "\r\n",
        "     ",
        "1",
        "23",
        "456 ",
        " 7:45",
        ".",
        ",",
        "!?",
        "...",
        "—",
        " — ",
        "'s",
        "I'LL",
        "é",
        "e\u{301}",
        "日本",
        "語。",
        "🙂",
        " Мир и снег",
        "</s>",
        "<|endoftext|>",
        "<|im_end|> ",
    ];
    let mut text = String::new();
    while text.len() < bytes {
        let piece = PIECES[draw.below(PIECES.len())];
        let times = if draw.below(40) == 0 {
            1 + draw.below(60)
        } else {
            1
        };
        text.push_str(&piece.repeat(times));
    }
    text
}

#[test]
fn the_first_ids_are_those_of_the_whole_text() {
    let mut cut = 0;
    for (name, tokenizer) in tokenizers() {
        let mut draw = Draw(9);
        for round in 0..4 {
            // The first look is at 32 KiB: texts on both sides of it, and of the second look.
            let bytes = [20_000, 40_000, 70_000, 140_000][round];
            let text = text(&mut draw, bytes);
            for add in [false, true] {
                let whole = tokenizer.encode(&text, add).unwrap();
                for most in [1, 100, 128 + draw.below(2000), 5000] {
                    let half = text.char_indices().nth(text.chars().count() / 3).unwrap().0;
                    let parts = [&text[..half], "", &text[half..]];
                    let got = tokenizer.encode_start(&parts, add, most).unwrap();
                    let want = &whole[..most.min(whole.len())];
                    assert!(got == want, "{name}, round {round}, {most} ids");
                    cut += usize::from(bytes > 70_000 && most < 1000);
                }
            }
        }
    }
    assert!(cut > 10);
}

/// Natural text of a size that could not be tokenised whole in this time.
#[test]
fn a_hundred_megabytes_are_cut_at_once() {
    let line = "Human: How do I keep tomatoes fresh? I'm sure we'll see.\n\nAssistant: Put them in a cool room, 12 or 13 °C.\n";
    let text = line.repeat(100 << 20 >> 7);
    assert!(text.len() > 80 << 20);
    let tokenizer = common::tiny();
    let ids = tokenizer.encode_start(&[&text], true, 129).unwrap();
    let whole = tokenizer.encode(&text[..line.len() * 100], true).unwrap();
    assert_eq!(ids, whole[..129]);
}

#[test]
fn one_endless_word_is_refused_with_its_beginning() {
    let tokenizer = common::tiny();
    let word = "abcdefgh".repeat(1 << 18);
    let error = tokenizer.encode_start(&[&word], true, 128).unwrap_err();
    assert!(
        matches!(error, TextError::NoCut { most: 128, .. }),
        "{error}"
    );
    let message = error.to_string();
    assert!(
        message.contains("abcdefgh") && message.contains("hint:"),
        "{message}"
    );
    // What is short enough is tokenised whole.
    let short = &word[..100_000];
    let whole = tokenizer.encode(short, true).unwrap();
    assert_eq!(
        tokenizer.encode_start(&[short], true, 128).unwrap(),
        whole[..128]
    );
}

/// A pattern that looks to the end of the text leaves no certain place.
#[test]
fn far_reaching_patterns_are_not_cut() {
    let mut json: serde_json::Value = serde_json::from_slice(&common::tiny_json()).unwrap();
    let pattern = r"\w+(?=.*END)|.";
    json["pre_tokenizer"]["pretokenizers"][0] = json!({"type": "Split", "pattern": {"Regex": pattern},
        "behavior": "Isolated", "invert": false});
    let tokenizer = Tokenizer::from_parts(json.to_string().as_bytes(), None, None).unwrap();
    let text = "the river was low ".repeat(1 << 17);
    let error = tokenizer.encode_start(&[&text], true, 128);
    assert!(matches!(error, Err(TextError::NoCut { .. })));
}
