//! Tokenizers from GGUF metadata: byte-level ones against the directory with the same vocabulary, SentencePiece ones
//! against a plain implementation of its rule.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

mod common;

use common::{expected, tiny, tiny_config, tiny_json};
use serde_json::Value;
use unbraid_text::{GgufVocabulary, TextError, Tokenizer};

/// The tiny tokenizer as a GGUF converter would store it.
fn tiny_gguf() -> GgufVocabulary {
    let json: Value = serde_json::from_slice(&tiny_json()).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut tokens = vec![String::new(); vocab.len()];
    for (token, id) in vocab {
        tokens[usize::try_from(id.as_u64().unwrap()).unwrap()].clone_from(token);
    }
    let merge = |merge: &Value| match merge {
        Value::String(text) => text.clone(),
        pair => format!(
            "{} {}",
            pair[0].as_str().unwrap(),
            pair[1].as_str().unwrap()
        ),
    };
    GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("smollm".into()),
        token_types: Some(
            tokens
                .iter()
                .map(|token| if token.starts_with("<|") { 3 } else { 1 })
                .collect(),
        ),
        tokens,
        merges: json["model"]["merges"]
            .as_array()
            .unwrap()
            .iter()
            .map(merge)
            .collect(),
        bos: Some(0),
        eos: Some(2),
        pad: Some(0),
        add_bos: Some(false),
        chat_template: tiny_config()["chat_template"].as_str().map(str::to_owned),
        ..Default::default()
    }
}

#[test]
fn byte_level_metadata_gives_the_ids_of_the_directory() {
    let gguf = Tokenizer::from_gguf(tiny_gguf()).unwrap();
    for case in expected()["plain"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(
            gguf.encode(text, true).unwrap(),
            tiny().encode(text, true).unwrap(),
            "{text:?}"
        );
    }
    assert_eq!(
        (gguf.bos_id(), gguf.eos_id(), gguf.pad_id()),
        (Some(0), Some(2), Some(0))
    );
    assert!(gguf.has_chat_template());
    assert_eq!(gguf.token_label(1), "<|im_start|>");
}

#[test]
fn the_pre_tokenizer_decides_how_digits_stand() {
    let with = |pre: &str| {
        let mut vocabulary = tiny_gguf();
        vocabulary.pre = Some(pre.into());
        // A merge of two digits: only a pre-tokenizer that leaves them together can use it.
        vocabulary.merges.push("1 2".into());
        vocabulary.tokens.push("12".into());
        vocabulary.token_types.as_mut().unwrap().push(1);
        Tokenizer::from_gguf(vocabulary)
            .unwrap()
            .encode("1212", false)
            .unwrap()
            .len()
    };
    assert_eq!(with("smollm"), 4, "single digits");
    assert_eq!(with("qwen2"), 4, "single digits");
    assert_eq!(with("gpt-2"), 2, "12 12");
    assert_eq!(with("llama-bpe"), 3, "121 2, so 12 1 2");
}

#[test]
fn a_saved_gguf_tokenizer_opens_again() {
    let gguf = Tokenizer::from_gguf(GgufVocabulary {
        add_bos: Some(true),
        ..tiny_gguf()
    })
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    gguf.save(dir.path()).unwrap();
    let again = Tokenizer::from_dir(dir.path()).unwrap();
    let text = "The river, 12 stones <|im_end|>";
    let ids = gguf.encode(text, true).unwrap();
    assert_eq!(ids[0], 0, "BOS is added");
    assert_eq!(again.encode(text, true).unwrap(), ids);
    assert_eq!(again.fingerprint(), gguf.fingerprint());
    assert!(again.has_chat_template());
}

/// A SentencePiece vocabulary: `<unk>`, `<s>`, `</s>`, 256 bytes, then pieces with scores.
fn sentence_pieces() -> (GgufVocabulary, Vec<(String, f32)>) {
    let words = [
        "▁t", "he", "▁the", "in", "▁in", "er", "re", "▁re", "▁ri", "ver", "ri", "iv", "▁river",
        "th", "▁th", "ing", "▁s",
    ];
    let mut pieces: Vec<(String, f32)> = words
        .iter()
        .zip(1u8..)
        .map(|(w, n)| ((*w).to_owned(), -f32::from(n)))
        .collect();
    let letters = "▁abcdefghijklmnopqrstuvwxyz.,é";
    pieces.extend(
        letters
            .chars()
            .map(|c| c.to_string())
            .zip((100u8..).map(|n| -f32::from(n))),
    );
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    let mut types = vec![2, 3, 3];
    let mut scores = vec![0.0; 3];
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    types.extend([6; 256]);
    scores.extend([0.0; 256]);
    for (piece, score) in &pieces {
        // Every piece is built from single characters, and `▁river` from `▁ri` + `ver`.
        tokens.push(piece.clone());
        types.push(1);
        scores.push(*score);
    }
    let vocabulary = GgufVocabulary {
        model: "llama".into(),
        tokens,
        scores: Some(scores),
        token_types: Some(types),
        bos: Some(1),
        eos: Some(2),
        ..Default::default()
    };
    (vocabulary, pieces)
}

/// SentencePiece's rule as it is stated: join the adjacent pair whose union scores highest, the leftmost of equals,
/// until none is a piece; what is no piece then falls back to bytes.
fn join_by_score(text: &str, pieces: &[(String, f32)]) -> Vec<u32> {
    let id = |piece: &str| {
        pieces
            .iter()
            .position(|(p, _)| p == piece)
            .map(|at| u32::try_from(at).unwrap() + 259)
    };
    let score = |piece: &str| {
        pieces
            .iter()
            .find(|(p, _)| p == piece)
            .map(|(_, score)| *score)
    };
    let mut parts: Vec<String> = format!("▁{}", text.replace(' ', "▁"))
        .chars()
        .map(String::from)
        .collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for at in 0..parts.len().saturating_sub(1) {
            if let Some(score) = score(&format!("{}{}", parts[at], parts[at + 1]))
                && best.is_none_or(|(highest, _)| score > highest)
            {
                best = Some((score, at));
            }
        }
        let Some((_, at)) = best else { break };
        let right = parts.remove(at + 1);
        parts[at].push_str(&right);
    }
    let ids = parts.iter().flat_map(|part| match id(part) {
        Some(id) => vec![id],
        None => part.bytes().map(|byte| u32::from(byte) + 3).collect(),
    });
    ids.collect()
}

#[test]
fn scores_join_as_sentence_piece_joins() {
    let (vocabulary, pieces) = sentence_pieces();
    let tokenizer = Tokenizer::from_gguf(vocabulary).unwrap();
    for text in [
        "the river",
        "there is the thing in the river.",
        "  two  spaces ",
        "café 🙂 Ω",
        "reriver\nthe",
        "innerthing",
    ] {
        assert_eq!(
            tokenizer.encode(text, false).unwrap(),
            join_by_score(text, &pieces),
            "{text:?}"
        );
        let with_bos = tokenizer.encode(text, true).unwrap();
        assert_eq!(with_bos[0], 1, "BOS is added by default");
        assert_eq!(tokenizer.decode(&with_bos, true).unwrap(), text);
    }
    let labels: Vec<String> = tokenizer
        .encode("the\n🙂", false)
        .unwrap()
        .into_iter()
        .map(|id| tokenizer.token_label(id))
        .collect();
    assert_eq!(
        labels,
        ["␣the", "⏎", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>"]
    );
}

#[test]
fn contradictions_are_refused() {
    let message =
        |vocabulary: GgufVocabulary| Tokenizer::from_gguf(vocabulary).unwrap_err().to_string();
    let unknown = GgufVocabulary {
        pre: Some("moonlight".into()),
        ..tiny_gguf()
    };
    assert!(
        message(unknown).contains("`tokenizer.ggml.pre` value `moonlight`, supported are gpt-2")
    );
    let model = GgufVocabulary {
        model: "rwkv".into(),
        ..tiny_gguf()
    };
    assert!(message(model).contains("supported are gpt2 and llama"));
    let eos = GgufVocabulary {
        eos: Some(420),
        ..tiny_gguf()
    };
    assert_eq!(
        message(eos),
        "GGUF vocabulary: tokenizer.ggml.eos_token_id is 420, there are 420 tokens"
    );
    let types = GgufVocabulary {
        token_types: Some(vec![1]),
        ..tiny_gguf()
    };
    assert!(message(types).contains("token_type has 1 entries for 420 tokens"));
    let merge = GgufVocabulary {
        merges: vec!["abc".into()],
        ..tiny_gguf()
    };
    assert!(message(merge).contains("merges[0] is \"abc\""));
    let no_scores = GgufVocabulary {
        model: "llama".into(),
        scores: None,
        ..tiny_gguf()
    };
    assert!(message(no_scores).contains("needs tokenizer.ggml.scores"));
    assert!(matches!(
        Tokenizer::from_gguf(GgufVocabulary::default()),
        Err(TextError::GgufVocabulary { .. })
    ));
}
