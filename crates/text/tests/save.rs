//! A saved tokenizer is the same tokenizer.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

mod common;

use common::{expected, tiny, tiny_config, tiny_dir, tiny_json};
use unbraid_text::{Message, TextError, Tokenizer};

fn same(a: &Tokenizer, b: &Tokenizer) {
    for case in expected()["plain"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(
            a.encode(text, true).unwrap(),
            b.encode(text, true).unwrap(),
            "{text:?}"
        );
    }
    let messages = [Message::new("user", "Hi")];
    assert_eq!(
        a.apply_chat_template(&messages, true).unwrap(),
        b.apply_chat_template(&messages, true).unwrap()
    );
    assert_eq!(
        (a.bos_id(), a.eos_id(), a.pad_id()),
        (b.bos_id(), b.eos_id(), b.pad_id())
    );
    assert_eq!(a.fingerprint(), b.fingerprint());
}

#[test]
fn files_of_a_directory_are_copied_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/place");
    tiny().save(&out).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(
            std::fs::read(out.join(name)).unwrap(),
            std::fs::read(tiny_dir().join(name)).unwrap(),
            "{name}"
        );
    }
    assert_eq!(
        std::fs::read_dir(&out).unwrap().count(),
        2,
        "no temporary file is left"
    );
    same(&tiny(), &Tokenizer::from_dir(&out).unwrap());
}

#[test]
fn parts_are_written_as_a_directory() {
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}".to_owned();
    let parts =
        Tokenizer::from_parts(&tiny_json(), Some(&tiny_config()), Some(template.clone())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    parts.save(dir.path()).unwrap();
    assert_eq!(
        std::fs::read_to_string(dir.path().join("chat_template.jinja")).unwrap(),
        template
    );
    same(&parts, &Tokenizer::from_dir(dir.path()).unwrap());
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    let error = tiny().save(&file.join("below")).unwrap_err();
    assert!(
        matches!(error, TextError::Write { .. }) && error.to_string().contains("file/below"),
        "{error}"
    );
}
