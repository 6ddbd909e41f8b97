//! Rows of every accepted shape, and prompts that are only implied.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

mod common;

use common::{load_text, row, texts};
use serde_json::{Value, json};
use unbraid_preference::{Content, RowKind};
use unbraid_text::Message;

fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn said(content: &Content) -> Vec<&str> {
    match content {
        Content::Text(text) => vec![text],
        Content::Conversation(turns) => turns.iter().filter_map(Message::text).collect(),
    }
}

fn preference(value: &Value) -> [Vec<String>; 3] {
    let RowKind::Preference {
        prompt,
        chosen,
        rejected,
    } = row(value).kind
    else {
        panic!("{value}")
    };
    [&prompt, &chosen, &rejected]
        .map(|content| said(content).into_iter().map(str::to_owned).collect())
}

#[test]
fn preferences_with_and_without_a_prompt() {
    let explicit =
        row(&json!({"prompt": "a", "chosen": "b", "rejected": "c", "weight": 2, "other": [1]}));
    assert_eq!((texts(&explicit), explicit.weight), (["a", "b", "c"], 2.0));
    let implicit =
        row(&json!({"chosen": "The sky is blue", "rejected": "The sky is green", "prompt": null}));
    assert_eq!(texts(&implicit), ["The sky is", " blue", " green"]);
    let transcript = row(
        &json!({"chosen": "\n\nHuman: x\n\nAssistant: same a", "rejected": "\n\nHuman: x\n\nAssistant: same b"}),
    );
    assert_eq!(
        texts(&transcript),
        ["\n\nHuman: x\n\nAssistant:", " same a", " same b"]
    );
}

#[test]
fn conversations_with_and_without_a_prompt() {
    let (user, yes, no) = (
        turn("user", "Q"),
        turn("assistant", "yes"),
        turn("assistant", "no"),
    );
    let want = [
        vec!["Q".to_owned()],
        vec!["yes".to_owned()],
        vec!["no".to_owned()],
    ];
    assert_eq!(
        preference(&json!({"prompt": [user], "chosen": [yes], "rejected": [no]})),
        want
    );
    assert_eq!(
        preference(&json!({"chosen": [user, yes], "rejected": [user, no]})),
        want
    );
    // As UltraFeedback has it: the prompt again as text.
    assert_eq!(
        preference(&json!({"prompt": "Q", "chosen": [user, yes], "rejected": [user, no]})),
        want
    );
    // Equal conversations leave their last turn as the completion.
    let [prompt, chosen, rejected] =
        preference(&json!({"chosen": [user, yes], "rejected": [user, yes]}));
    assert_eq!((prompt, chosen == rejected), (vec!["Q".to_owned()], true));
}

#[test]
fn unpaired_rows_read_their_label_in_several_spellings() {
    for (label, want) in [
        (json!(true), true),
        (json!(0), false),
        (json!("True"), true),
        (json!("0"), false),
    ] {
        let RowKind::Unpaired { label: got, .. } =
            row(&json!({"prompt": "a", "completion": "b", "label": label})).kind
        else {
            panic!("{label}")
        };
        assert_eq!(got, want, "{label}");
    }
    let rows = load_text("a.csv", "prompt,completion,label\na,b,True\n").unwrap();
    assert!(matches!(
        rows[0].kind,
        RowKind::Unpaired { label: true, .. }
    ));
}

#[test]
fn rows_to_imitate() {
    assert_eq!(row(&json!({"text": "a"})).kind, RowKind::Text("a".into()));
    let messages = vec![Message::new("user", "Q")];
    assert_eq!(
        row(&json!({"messages": [turn("user", "Q")]})).kind,
        RowKind::Messages(messages)
    );
    let kind = row(&json!({"prompt": "a", "completion": "b"})).kind;
    assert_eq!(
        kind,
        RowKind::PromptCompletion {
            prompt: Content::Text("a".into()),
            completion: Content::Text("b".into())
        }
    );
}

#[test]
fn preference_columns_come_first() {
    let both =
        json!({"chosen": "xa", "rejected": "xb", "messages": [turn("user", "Q")], "text": "t"});
    assert_eq!(texts(&row(&both)), ["x", "a", "b"]);
}
