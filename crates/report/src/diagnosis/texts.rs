//! `pairs.jsonl`: the text of the pairs that are shown, cut to a readable length.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::files::for_each_line;
use crate::error::Result;

/// Longer texts are cut: whoever needs all of it has the file.
const MAX_CHARS: usize = 600;

/// One pair's text.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct Text {
    #[serde(skip_serializing)]
    index: u64,
    /// Prompt; beginning and end when long.
    #[serde(default)]
    pub(crate) prompt: String,
    /// Preferred completion.
    #[serde(default)]
    pub(crate) chosen: String,
    /// Dispreferred completion.
    #[serde(default)]
    pub(crate) rejected: String,
}

/// Texts by the pair's index.
pub(crate) type Texts = HashMap<u64, Text>;

/// The texts of the wanted pairs; empty when the file is absent.
pub(crate) fn read(dir: &Path, wanted: &HashSet<u64>, notes: &mut Vec<String>) -> Result<Texts> {
    let path = dir.join("pairs.jsonl");
    let mut texts = Texts::new();
    if !path.is_file() {
        notes.push("pairs.jsonl is missing: the pairs are shown without their text".into());
        return Ok(texts);
    }
    let damaged = for_each_line(&path, |line| {
        let Ok(mut text) = serde_json::from_slice::<Text>(line) else {
            return false;
        };
        if wanted.contains(&text.index) {
            text.prompt = both_ends(&text.prompt);
            text.chosen = beginning(&text.chosen, MAX_CHARS);
            text.rejected = beginning(&text.rejected, MAX_CHARS);
            texts.insert(text.index, text);
        }
        true
    })?;
    notes.extend(damaged);
    Ok(texts)
}

/// The first `limit` characters.
pub(crate) fn beginning(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_string(),
    }
}

/// A conversation's end says more of what was asked than its middle.
fn both_ends(text: &str) -> String {
    let count = text.chars().count();
    if count <= MAX_CHARS {
        return text.to_string();
    }
    let head: String = text.chars().take(MAX_CHARS / 3).collect();
    let tail: String = text.chars().skip(count - MAX_CHARS * 2 / 3).collect();
    format!("{head} … {tail}")
}

/// Where texts that begin alike (a chat template's header, a system prompt) begin to differ, in bytes: at a word's start,
/// 0 when little is shared.
pub(crate) fn shared_start(texts: &[&str]) -> usize {
    let [first, rest @ ..] = texts else { return 0 };
    if rest.is_empty() {
        return 0;
    }
    let shared = first
        .char_indices()
        .find(|(at, c)| rest.iter().any(|text| !text[*at..].starts_with(*c)))
        .map_or(first.len(), |(at, _)| at);
    let word = first[..shared].rfind(char::is_whitespace).map_or(0, |at| {
        at + first[at..].chars().next().map_or(1, char::len_utf8)
    });
    if word < 12 { 0 } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_start_ends_where_a_word_begins() {
        let texts = [
            "<user>\nWrite a poem on oaks",
            "<user>\nWrite a poem on owls",
            "<user>\nWrite a letter",
        ];
        assert_eq!(&texts[0][shared_start(&texts)..], "poem on oaks");
        assert_eq!(shared_start(&["alpha", "beta"]), 0);
        assert_eq!(shared_start(&["one text only, of any length"]), 0);
        // A text that is the beginning of another.
        assert_eq!(
            shared_start(&["äöü äöü äöü", "äöü äöü äöü x"]),
            "äöü äöü ".len()
        );
    }

    #[test]
    fn long_texts_are_cut_at_characters() {
        assert_eq!(beginning("äöü", 2), "äö …");
        assert_eq!(beginning("äö", 2), "äö");
        let long = format!("A{}Z", "é".repeat(2000));
        let cut = both_ends(&long);
        assert!(cut.starts_with('A') && cut.ends_with('Z') && cut.chars().count() == MAX_CHARS + 3);
    }
}
