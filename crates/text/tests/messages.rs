//! What a template sees of messages and of a row's other columns; which of a tokenizer's templates renders them.
//! Ids against TRL's are in `crates/preference/tests/whole_rows.rs`.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

mod common;

use common::{tiny_config, tiny_json};
use serde_json::{Value, json};
use unbraid_text::{Message, TemplateInputs, TextError, Tokenizer};

fn with_template(template: Value) -> Tokenizer {
    let mut config = tiny_config();
    config["chat_template"] = template;
    Tokenizer::from_parts(&tiny_json(), Some(&config), None).unwrap()
}

fn message(value: Value) -> Message {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_template_sees_every_field_in_its_order_but_nulls() {
    let tokenizer = with_template(json!("{{ messages[0] | tojson }}"));
    for (given, seen) in [
        (
            r#"{"z": 1, "role": "assistant", "content": null, "tool_calls": [{"b": null, "a": 1.5}]}"#,
            r#"{"z": 1, "role": "assistant", "tool_calls": [{"b": null, "a": 1.5}]}"#,
        ),
        (
            r#"{"role": "assistant", "reasoning": "x", "content": "y"}"#,
            r#"{"thinking": "x", "role": "assistant", "reasoning": "x", "content": "y", "reasoning_content": "x"}"#,
        ),
        (
            r#"{"role": "assistant", "reasoning_content": null, "content": "y", "thinking": "x"}"#,
            r#"{"thinking": "x", "role": "assistant", "content": "y", "reasoning_content": "x"}"#,
        ),
        (
            r#"{"role": "assistant", "reasoning_content": "x", "thinking": "w"}"#,
            r#"{"thinking": "w", "role": "assistant", "reasoning_content": "x"}"#,
        ),
    ] {
        let message: Message = serde_json::from_str(given).unwrap();
        assert_eq!(
            tokenizer.apply_chat_template(&[message], false).unwrap(),
            seen
        );
    }
}

#[test]
fn messages_are_equal_whatever_the_order_of_their_fields() {
    let a = message(json!({"role": "user", "content": "x", "name": "n"}));
    let b = message(json!({"name": "n", "role": "user", "content": "x"}));
    assert_eq!(a, b);
    assert_ne!(a, Message::new("user", "x"));
    assert!(serde_json::from_value::<Message>(json!({"content": "x"})).is_err());
}

#[test]
fn variables_come_before_special_tokens_and_after_the_conversation() {
    let tokenizer = with_template(json!("{{ eos_token }}{{ messages | length }}{{ a }}"));
    let kwargs = json!({"eos_token": "E", "a": 2, "max_length": null});
    let inputs = TemplateInputs::new(None, Some(&kwargs)).unwrap();
    let turns = [Message::new("user", "x")];
    assert_eq!(tokenizer.render_row(&turns, &inputs, false).unwrap(), "E12");
    let kwargs = json!({"messages": []});
    assert!(matches!(
        TemplateInputs::new(None, Some(&kwargs)),
        Err(TextError::TemplateInput {
            column: "chat_template_kwargs",
            ..
        })
    ));
}

/// Named templates in files of their own, as `transformers` saves them, survive being saved.
#[test]
fn named_templates_are_read_from_their_folder_and_saved_there() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("tokenizer.json", &tiny_json());
    write(
        "tokenizer_config.json",
        tiny_config().to_string().as_bytes(),
    );
    write("chat_template.jinja", b"plain");
    std::fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    write(
        "additional_chat_templates/tool_use.jinja",
        b"{{ tools | tojson }}",
    );
    let saved = tempfile::tempdir().unwrap();
    Tokenizer::from_dir(dir.path())
        .unwrap()
        .save(saved.path())
        .unwrap();
    let tools = TemplateInputs::new(Some(&json!("[]")), None).unwrap();
    let by_name = TemplateInputs::new(None, Some(&json!({"chat_template": "tool_use"}))).unwrap();
    for tokenizer in [dir.path(), saved.path()].map(|dir| Tokenizer::from_dir(dir).unwrap()) {
        let turns = [Message::new("user", "x")];
        let render = |inputs: &TemplateInputs| tokenizer.render_row(&turns, inputs, false).unwrap();
        assert_eq!(render(&TemplateInputs::default()), "plain");
        assert_eq!(render(&tools), "[]");
        assert_eq!(render(&by_name), "null");
    }
}
