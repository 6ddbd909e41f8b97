//! Tokenizers and chat templates of the kinds that Gemma, Mistral, Qwen and GPT-NeoX models come with, against what
//! `transformers` recorded (`parity/families.py`): BOS once and once only, refused roles, ends of turns.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

mod common;

use common::{ids, tiny_dir};
use serde_json::Value;
use unbraid_text::{Message, TextError, Tokenizer};

/// Every kind's tokenizer with its record.
fn families() -> Vec<(Tokenizer, Value)> {
    let root = tiny_dir().with_file_name("families");
    let text = std::fs::read(root.with_extension("json")).unwrap();
    let record: Value = serde_json::from_slice(&text).unwrap();
    let families = record["families"].as_array().unwrap().iter();
    let open = |record: &Value| {
        let tokenizer = Tokenizer::from_dir(&root.join(record["kind"].as_str().unwrap()));
        (tokenizer.unwrap(), record.clone())
    };
    families.map(open).collect()
}

fn family(kind: &str) -> Tokenizer {
    let mut all = families().into_iter();
    all.find(|(_, record)| record["kind"] == kind).unwrap().0
}

fn turn(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

#[test]
fn ids_and_text_are_those_of_transformers() {
    for (tokenizer, record) in families() {
        let id = |name: &str| record[name].as_u64().map(|id| u32::try_from(id).unwrap());
        let special = (tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id());
        assert_eq!(
            special,
            (id("bos"), id("eos"), id("pad")),
            "{}",
            record["kind"]
        );
        for case in record["encoded"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let place = format!("{} {text:?}", record["kind"]);
            for (add, key) in [(true, "with_special"), (false, "without_special")] {
                let got = tokenizer.encode(text, add).unwrap();
                assert_eq!(got, ids(&case[key]), "{place} {key}");
            }
            let decoded = tokenizer.decode(&ids(&case["with_special"]), true).unwrap();
            assert_eq!(decoded, case["decoded"].as_str().unwrap(), "{place}");
        }
    }
}

/// A class has special tokens that its configurations may leave out; `null` means none.
#[test]
fn classes_bring_their_special_tokens() {
    let gemma = std::fs::read(tiny_dir().with_file_name("families/gemma/tokenizer.json")).unwrap();
    let open = |config: Value| {
        let tokenizer = Tokenizer::from_parts(&gemma, Some(&config), None).unwrap();
        (tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id())
    };
    let class = serde_json::json!({"tokenizer_class": "GemmaTokenizerFast"});
    assert_eq!(open(class), (Some(2), Some(1), Some(0)));
    let some = serde_json::json!({
        "tokenizer_class": "GemmaTokenizer", "eos_token": "<end_of_turn>", "pad_token": null,
    });
    assert_eq!(open(some), (Some(2), Some(6), None));
    let plain = serde_json::json!({"tokenizer_class": "PreTrainedTokenizerFast"});
    assert_eq!(open(plain), (None, None, None));
}

#[test]
fn conversations_are_those_of_transformers() {
    let (mut rendered, mut refused) = (0, 0);
    for (tokenizer, record) in families() {
        for case in record["chats"].as_array().unwrap() {
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            let add_generation_prompt = case["add_generation_prompt"].as_bool().unwrap();
            let got = tokenizer.apply_chat_template(&messages, add_generation_prompt);
            let want = &case["rendered"];
            let place = format!("{} {}", record["kind"], case["chat"]);
            match want["error"].as_str() {
                Some(reason) => {
                    let message = got.unwrap_err().to_string();
                    assert!(message.contains(reason), "{place}: {message}");
                    refused += 1;
                }
                None => {
                    let text = got.unwrap();
                    assert_eq!(text, want["text"].as_str().unwrap(), "{place}");
                    let got = tokenizer.encode(&text, false).unwrap();
                    assert_eq!(got, ids(&want["ids"]), "{place}");
                    rendered += 1;
                }
            }
        }
    }
    assert!(
        rendered >= 16 && refused >= 8,
        "{rendered} rendered, {refused} refused"
    );
}

/// The template writes BOS; the post-processor would write it again, were it asked.
#[test]
fn a_conversation_begins_with_one_bos() {
    for kind in ["gemma", "mistral"] {
        let tokenizer = family(kind);
        let text = tokenizer
            .apply_chat_template(&[turn("user", "Hi")], true)
            .unwrap();
        let bos = tokenizer.bos_id().unwrap();
        let count = |add| {
            let ids = tokenizer.encode(&text, add).unwrap();
            ids.into_iter().filter(|id| *id == bos).count()
        };
        assert_eq!((count(false), count(true)), (1, 2), "{kind}");
    }
    // Qwen has no BOS at all: nothing to double.
    let qwen = family("qwen");
    assert_eq!((qwen.bos_id(), qwen.bos_text()), (None, None));
}

#[test]
fn a_missing_system_role_is_explained() {
    let conversation = [turn("system", "Be short."), turn("user", "Hi")];
    let error = family("gemma")
        .apply_chat_template(&conversation, false)
        .unwrap_err();
    assert!(matches!(error, TextError::TemplateRender { .. }));
    let message = error.to_string();
    assert!(
        message.starts_with(
            "the chat template refused the conversation (roles [\"system\", \"user\"]): "
        ),
        "{message}"
    );
    assert!(message.contains("System role not supported"), "{message}");
    assert!(
        message.contains("\nhint: if the model knows no system role, put that text at the start"),
        "{message}"
    );
    // No such advice where no system message was given.
    let error = family("gemma")
        .apply_chat_template(&[turn("user", "a"), turn("user", "b")], false)
        .unwrap_err();
    assert!(!error.to_string().contains("hint:"), "{error}");
}

/// The ends of turns are single tokens that decoding leaves out, whether or not they are the EOS token.
#[test]
fn ends_of_turns_are_single_special_tokens() {
    for (kind, end, is_eos) in [
        ("gemma", "<end_of_turn>", false),
        ("mistral", "</s>", true),
        ("qwen", "<|im_end|>", true),
        ("gpt_neox", "<|endoftext|>", true),
    ] {
        let tokenizer = family(kind);
        let ids = tokenizer.encode(end, false).unwrap();
        assert_eq!(ids.len(), 1, "{kind}: {ids:?}");
        assert_eq!(tokenizer.eos_id() == Some(ids[0]), is_eos, "{kind}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "", "{kind}");
        assert_eq!(tokenizer.token_label(ids[0]), end, "{kind}");
    }
}

#[test]
fn labels_of_sentencepiece_vocabularies_show_spaces_and_bytes() {
    for kind in ["gemma", "mistral"] {
        let tokenizer = family(kind);
        let labels: Vec<String> = tokenizer
            .encode("the stones\n", false)
            .unwrap()
            .into_iter()
            .map(|id| tokenizer.token_label(id))
            .collect();
        let joined = labels.concat();
        assert!(
            joined.trim_start_matches('␣') == "the␣stones⏎",
            "{kind}: {labels:?}"
        );
        let emoji = tokenizer.encode("🙂", false).unwrap();
        let last = tokenizer.token_label(*emoji.last().unwrap());
        assert_eq!(last, "<0x82>", "{kind}");
    }
}

/// `vocab.json` and `merges.txt` describe a GPT-2 tokenizer only when no other class is named: Qwen2 splits text
/// otherwise.
#[test]
fn vocabulary_files_of_another_class_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let json: Value = serde_json::from_slice(&common::tiny_json()).unwrap();
    let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
    write("vocab.json", json["model"]["vocab"].to_string());
    write("merges.txt", "#version: 0.2\n".into());
    let open = |class: &str| {
        write(
            "tokenizer_config.json",
            format!("{{\"tokenizer_class\": \"{class}\"}}"),
        );
        Tokenizer::from_dir(dir.path())
    };
    assert!(open("GPT2Tokenizer").is_ok() && open("GPT2TokenizerFast").is_ok());
    let message = open("Qwen2Tokenizer").unwrap_err().to_string();
    assert!(
        message.contains("tokenizer.json") && message.contains("Qwen2Tokenizer"),
        "{message}"
    );
}
