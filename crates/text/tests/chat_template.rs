//! Chat templates against what Jinja2 under `transformers` rendered (`parity/generate.py`).

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

mod common;

use common::{expected, tiny, tiny_config, tiny_json};
use serde_json::json;
use unbraid_text::{Message, TextError, Tokenizer};

#[test]
fn renderings_are_those_of_transformers() {
    for case in expected()["chats"].as_array().unwrap() {
        let source = case["source"].as_str().unwrap().to_owned();
        let tokenizer =
            Tokenizer::from_parts(&tiny_json(), Some(&tiny_config()), Some(source)).unwrap();
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let rendered = tokenizer
            .apply_chat_template(&messages, case["add_generation_prompt"].as_bool().unwrap());
        match case["rendered"].as_str() {
            Some(text) => assert_eq!(
                rendered.unwrap(),
                text,
                "{} {:?}",
                case["template"],
                messages
            ),
            None => {
                let message = rendered.unwrap_err().to_string();
                assert!(
                    message.contains(case["rendered"]["error"].as_str().unwrap()),
                    "{message}"
                );
            }
        }
    }
}

#[test]
fn a_list_of_templates_gives_its_default() {
    let mut config = tiny_config();
    config["chat_template"] = json!([{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes{{ messages[0].role }}"}]);
    let tokenizer = Tokenizer::from_parts(&tiny_json(), Some(&config), None).unwrap();
    let messages = [Message::new("user", "x")];
    assert_eq!(
        tokenizer.apply_chat_template(&messages, false).unwrap(),
        "yesuser"
    );
}

#[test]
fn the_file_wins_over_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), tiny_json()).unwrap();
    std::fs::write(
        dir.path().join("tokenizer_config.json"),
        tiny_config().to_string(),
    )
    .unwrap();
    std::fs::write(dir.path().join("chat_template.jinja"), "from file\n").unwrap();
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(
        tokenizer.apply_chat_template(&[], false).unwrap(),
        "from file"
    );
}

#[test]
fn without_a_template_conversations_are_refused() {
    let tokenizer = Tokenizer::from_parts(&tiny_json(), None, None).unwrap();
    assert!(!tokenizer.has_chat_template() && tiny().has_chat_template());
    assert!(matches!(
        tokenizer.apply_chat_template(&[], false),
        Err(TextError::NoChatTemplate)
    ));
}

#[test]
fn strftime_now_gives_the_year() {
    let source = "{{ strftime_now('%Y') }}".to_owned();
    let tokenizer = Tokenizer::from_parts(&tiny_json(), None, Some(source)).unwrap();
    let year: u32 = tokenizer
        .apply_chat_template(&[], false)
        .unwrap()
        .parse()
        .unwrap();
    assert!((2024..2200).contains(&year), "{year}");
}

#[test]
fn a_template_that_never_ends_is_stopped() {
    let source = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}";
    let tokenizer = Tokenizer::from_parts(&tiny_json(), None, Some(source.to_owned())).unwrap();
    assert!(matches!(
        tokenizer.apply_chat_template(&[], false),
        Err(TextError::TemplateRender { .. })
    ));
}
