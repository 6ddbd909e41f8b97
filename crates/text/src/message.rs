//! A turn of a conversation, whole: what a row says beside role and content reaches the template too.
//!
//! A template sees a message as `transformers` 5.23 hands it on. Keys whose value is null are left out, so that
//! `content: null` beside `tool_calls` is the same as no content; nulls deeper down stay. A message that reasons under
//! one of the names `reasoning_content`, `thinking` and `reasoning` has the first of them under `reasoning_content`,
//! and under `thinking` where it has none. Source: `PreTrainedTokenizerBase.apply_chat_template` and
//! `transformers/utils/chat_template_utils.py`. Tested in `tests/messages.rs`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Names of the field in which a message reasons, the one that counts first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// One turn of a conversation: `role`, `content` and every other field, in the order of the data.
///
/// `content` may be text, a list of parts (`{"type": "text", "text": …}`), null, or missing beside `tool_calls`.
/// Two messages are equal when all their fields are, in whatever order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct Message {
    fields: Map<String, Value>,
}

impl Message {
    /// A turn of plain text.
    pub fn new(role: &str, content: &str) -> Self {
        let mut fields = Map::new();
        fields.insert("role".into(), role.into());
        fields.insert("content".into(), content.into());
        Self { fields }
    }

    /// The turn with these fields; `None` without a `role` that is text.
    pub fn from_fields(fields: Map<String, Value>) -> Option<Self> {
        fields
            .get("role")
            .is_some_and(Value::is_string)
            .then_some(Self { fields })
    }

    /// Who speaks: `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub fn role(&self) -> &str {
        self.fields["role"].as_str().unwrap_or_default()
    }

    /// What is said, where it is plain text.
    pub fn text(&self) -> Option<&str> {
        self.fields.get("content").and_then(Value::as_str)
    }

    /// All fields, in the order of the data.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// The kind of the first part of the content that is no text: `image`, `video`, `audio`.
    pub fn medium(&self) -> Option<&str> {
        let kinds = self.fields.get("content")?.as_array()?.iter();
        let mut kinds = kinds.filter_map(|part| part.get("type")?.as_str());
        kinds.find(|kind| {
            let kind = kind.strip_prefix("input_").unwrap_or(kind);
            matches!(
                kind,
                "image" | "image_url" | "video" | "video_url" | "audio" | "audio_url"
            )
        })
    }

    /// Whether nothing is said: every field but the role is null, an empty list or object, or text that `is_blank`. A
    /// tool call says something.
    pub fn is_silent(&self, is_blank: impl Fn(&str) -> bool) -> bool {
        let empty = |value: &Value| match value {
            Value::Null => true,
            Value::String(text) => is_blank(text),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        };
        let part = |part: &Value| match part {
            Value::Object(part) => part
                .iter()
                .all(|(key, value)| (key == "type" && value == "text") || empty(value)),
            other => empty(other),
        };
        self.fields
            .iter()
            .filter(|(key, _)| *key != "role")
            .all(|(key, value)| match value {
                Value::Array(parts) if key == "content" => parts.iter().all(part),
                value => empty(value),
            })
    }

    /// The fields as a template sees them.
    pub(crate) fn for_template(&self) -> Map<String, Value> {
        let given = |key: &&str| self.fields.get(*key).filter(|value| !value.is_null());
        let reasoning = REASONING.iter().find_map(given);
        let mut fields = Map::new();
        if let Some(reasoning) = reasoning {
            fields.insert("thinking".into(), reasoning.clone());
        }
        for (key, value) in self.fields.iter().filter(|(_, value)| !value.is_null()) {
            fields.insert(key.clone(), value.clone());
        }
        if let Some(reasoning) = reasoning {
            fields.insert("reasoning_content".into(), reasoning.clone());
        }
        fields
    }
}

impl TryFrom<Map<String, Value>> for Message {
    type Error = &'static str;

    fn try_from(fields: Map<String, Value>) -> Result<Self, Self::Error> {
        Self::from_fields(fields).ok_or("a message needs a `role` that is text")
    }
}

impl From<Message> for Map<String, Value> {
    fn from(message: Message) -> Self {
        message.fields
    }
}
