//! `run.yaml` as free-form YAML: shown as it stands, and asked for a few well-known keys.
//!
//! The report must open runs of other versions, so nothing here depends on the file's layout: a key is looked for
//! at every depth, and a file that does not parse is still shown as text.

use std::path::Path;

use serde_json::Value;

use crate::error::{ReportError, Result};

/// A recipe is a few kilobytes; more than this is cut on the page.
const MAX_SHOWN_BYTES: usize = 100_000;

/// What `run.yaml` says; empty when the file is absent.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// The file as it stands, cut at [`MAX_SHOWN_BYTES`].
    pub(crate) text: String,
    /// The parsed file; null when absent or not YAML.
    value: Value,
    /// Why the file could not be used, for the page.
    pub(crate) note: Option<String>,
}

impl Settings {
    /// Reads `path`. An absent file is no error.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = match unbraid_input::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let note =
                    Some("run.yaml is missing: the settings of this run are not known".to_string());
                return Ok(Self {
                    note,
                    ..Self::default()
                });
            }
            Err(error) => return Err(ReportError::io("read", path)(error)),
        };
        Ok(Self::of_text(&String::from_utf8_lossy(&bytes)))
    }

    /// The settings that stand in `text`.
    pub(crate) fn of_text(text: &str) -> Self {
        let mut text = text.to_string();
        let (value, mut note) = match serde_saphyr::from_str::<Value>(&text) {
            Ok(value) => (value, None),
            Err(_) => (
                Value::Null,
                Some("run.yaml is not valid YAML: shown as text only".to_string()),
            ),
        };
        if text.len() > MAX_SHOWN_BYTES {
            let cut = (0..=MAX_SHOWN_BYTES)
                .rev()
                .find(|at| text.is_char_boundary(*at))
                .unwrap_or(0);
            text.truncate(cut);
            note = note.or(Some(format!(
                "run.yaml is long: shown up to {MAX_SHOWN_BYTES} bytes"
            )));
        }
        Self { text, value, note }
    }

    /// The first value under `key`, the shallowest first, as text. Lists are joined by spaces, so that a command
    /// line may be written as a list of words.
    pub(crate) fn get(&self, key: &str) -> Option<String> {
        plain(self.find(key)?)
    }

    /// The same as a list: of one entry where the value is no list, empty where there is none.
    pub(crate) fn list(&self, key: &str) -> Vec<String> {
        match self.find(key) {
            Some(Value::Array(items)) => items.iter().filter_map(plain).collect(),
            Some(value) => plain(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    fn find(&self, key: &str) -> Option<&Value> {
        let mut level = vec![&self.value];
        while !level.is_empty() {
            if let Some(found) = level.iter().find_map(|value| value.get(key)) {
                return Some(found);
            }
            level = level.into_iter().flat_map(children).collect();
        }
        None
    }

    /// Every leaf with its dotted key, in the file's order.
    pub(crate) fn leaves(&self) -> Vec<(String, String)> {
        let mut leaves = Vec::new();
        collect_leaves("", &self.value, &mut leaves);
        leaves
    }
}

fn children(value: &Value) -> Vec<&Value> {
    value
        .as_object()
        .map(|object| object.values().collect())
        .unwrap_or_default()
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Object(_) => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => Some(
            items
                .iter()
                .filter_map(plain)
                .map(|word| quoted(&word))
                .collect::<Vec<_>>()
                .join(" "),
        ),
        other => Some(other.to_string()),
    }
}

/// A word as a shell would take it back.
pub(crate) fn quoted(word: &str) -> String {
    let safe = |c: char| c.is_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(safe) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn collect_leaves(prefix: &str, value: &Value, leaves: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let key = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                collect_leaves(&key, value, leaves);
            }
        }
        Value::Null => leaves.push((prefix.to_string(), "null".to_string())),
        other => leaves.push((prefix.to_string(), plain(other).unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.yaml");
        std::fs::write(&path, text).unwrap();
        Settings::read(&path).unwrap()
    }

    #[test]
    fn keys_are_found_at_any_depth_the_shallowest_first() {
        let settings =
            settings("recipe:\n  beta: 0.1\n  deep: {command: inner}\ncommand: unbraid train\n");
        assert_eq!(settings.get("beta").as_deref(), Some("0.1"));
        assert_eq!(settings.get("command").as_deref(), Some("unbraid train"));
        assert_eq!(settings.get("absent"), None);
        assert_eq!(
            settings.get("recipe"),
            None,
            "an object is not a value to print"
        );
    }

    #[test]
    fn a_value_is_a_list_of_one() {
        let settings = settings("a: [x, y z]\nb: x y\nc: null\n");
        assert_eq!(settings.list("a"), ["x", "y z"]);
        assert_eq!(settings.list("b"), ["x y"]);
        assert!(settings.list("c").is_empty() && settings.list("d").is_empty());
    }

    #[test]
    fn a_command_given_as_words_is_quoted_for_a_shell() {
        let settings = settings("command: [unbraid, train, --run-name, \"it's new\"]\n");
        assert_eq!(
            settings.get("command").as_deref(),
            Some(r"unbraid train --run-name 'it'\''s new'")
        );
    }

    #[test]
    fn broken_yaml_is_kept_as_text_and_noted() {
        let settings = settings("a: [1, 2\nb: }");
        assert_eq!(settings.text, "a: [1, 2\nb: }");
        assert!(
            settings
                .note
                .as_deref()
                .is_some_and(|note| note.contains("not valid YAML"))
        );
        assert_eq!(settings.get("a"), None);
    }

    #[test]
    fn an_absent_file_is_noted() {
        let settings = Settings::read(Path::new("/nonexistent/run.yaml")).unwrap();
        assert!(
            settings
                .note
                .as_deref()
                .is_some_and(|note| note.contains("missing"))
        );
    }
}
