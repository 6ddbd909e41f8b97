//! `pairs.jsonl`: the text of the pairs that are shown, cut to a readable length.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::files::for_each_line;
use super::record::Pair;
use crate::error::Result;

/// Longer texts are cut: whoever needs all of it has the file.
const MAX_CHARS: usize = 600;

/// Less than this, in bytes, is shared by chance.
const SHARED: usize = 6;
/// Room of a prompt's end and of a completion's beginning in one line of a terminal.
const PROMPT_CHARS: usize = 30;
const COMPLETION_CHARS: usize = 17;

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
    if word < SHARED { 0 } else { word }
}

/// How many bytes texts that end alike (a chat template's turn of the assistant) share there, from a word's start on.
fn shared_end(texts: &[&str]) -> usize {
    let [first, rest @ ..] = texts else { return 0 };
    let common = |text: &&str| {
        let pairs = first.chars().rev().zip(text.chars().rev());
        let same = pairs.take_while(|(a, b)| a == b);
        same.map(|(a, _)| a.len_utf8()).sum::<usize>()
    };
    let Some(shared) = rest.iter().map(common).min() else {
        return 0;
    };
    let from = first.len() - shared;
    // A word that only ends alike is not shared.
    let tail = match first[..from].chars().next_back() {
        Some(c) if !c.is_whitespace() => {
            let cut = first[from..].find(char::is_whitespace);
            cut.map_or("", |at| &first[from + at..])
        }
        _ => &first[from..],
    };
    if tail.trim().len() < SHARED {
        0
    } else {
        tail.len()
    }
}

/// For each pair what it is about, in one line: the last words of the prompt, without what all prompts share at their end,
/// and the first words where the completions part.
pub(crate) fn glimpses(pairs: &[&Pair], texts: &Texts) -> Vec<String> {
    let prompts = pairs.iter().filter_map(|pair| texts.get(&pair.index));
    let prompts: Vec<&str> = prompts.map(|text| text.prompt.trim()).collect();
    let end = shared_end(&prompts);
    let glimpse = |pair: &&Pair| {
        let Some(text) = texts.get(&pair.index) else {
            return String::new();
        };
        let prompt = text.prompt.trim();
        let words = last_words(
            &prompt[..prompt.len() - end.min(prompt.len())],
            PROMPT_CHARS,
        );
        let parts = parting(&text.chosen, &text.rejected);
        format!("{words} [{parts}]").trim_start().to_string()
    };
    pairs.iter().map(glimpse).collect()
}

/// The last words of a text that fit into `room` characters, on one line.
fn last_words(text: &str, room: usize) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut kept = String::new();
    for (at, word) in words.iter().enumerate().rev() {
        let longer = format!("{word} {kept}");
        let longer = longer.trim_end();
        if longer.chars().count() > room && !kept.is_empty() {
            return format!("…{kept}");
        }
        kept = longer.to_string();
        if at == 0 {
            break;
        }
    }
    let count = kept.chars().count();
    if count <= room {
        return kept;
    }
    let tail: String = kept.chars().skip(count - room).collect();
    format!("…{tail}")
}

/// The first words of either completion after what they share at their start.
fn parting(chosen: &str, rejected: &str) -> String {
    let split = |text: &str| {
        text.split_whitespace()
            .map(String::from)
            .collect::<Vec<_>>()
    };
    let (chosen, rejected) = (split(chosen), split(rejected));
    if chosen == rejected {
        return "both the same".to_string();
    }
    let shared = chosen.iter().zip(&rejected);
    let shared = shared.take_while(|(a, b)| a == b).count();
    let start = |words: &[String]| {
        let mut out = if shared > 0 { "…" } else { "" }.to_string();
        let rest = &words[shared..];
        if rest.is_empty() {
            return out + "(ends)";
        }
        for (at, word) in rest.iter().enumerate() {
            let space = usize::from(at > 0);
            if out.chars().count() + space + word.chars().count() > COMPLETION_CHARS {
                let room = COMPLETION_CHARS.saturating_sub(out.chars().count() + space);
                if at == 0 {
                    out.extend(word.chars().take(room));
                }
                return out + "…";
            }
            out += if at > 0 { " " } else { "" };
            out += word;
        }
        out
    };
    format!("{} | {}", start(&chosen), start(&rejected))
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
    fn a_shared_end_begins_with_a_word() {
        let texts = ["How old?\n\nAssistant:", "How far?\n\nAssistant:"];
        assert_eq!(&texts[0][..texts[0].len() - shared_end(&texts)], "How old?");
        assert_eq!(shared_end(&["a cooking", "some looking"]), 0);
        assert_eq!(shared_end(&["one text only"]), 0);
        assert_eq!(
            shared_end(&["the same words", "the same words"]),
            "the same words".len()
        );
    }

    #[test]
    fn completions_are_shown_where_they_part() {
        assert_eq!(
            parting(
                " It has a negative sentiment.",
                " It has a positive sentiment."
            ),
            "…negative… | …positive…"
        );
        assert_eq!(
            parting("Yes.", "No, not at all today"),
            "Yes. | No, not at all…"
        );
        assert_eq!(parting("Yes.", "Yes. And more"), "…(ends) | …And more");
        assert_eq!(parting("same  text", "same text"), "both the same");
        assert_eq!(
            parting(&"x".repeat(40), "y"),
            format!("{}… | y", "x".repeat(17))
        );
    }

    #[test]
    fn prompts_are_shown_by_their_last_words() {
        assert_eq!(last_words("short one", 30), "short one");
        assert_eq!(
            last_words("What is the capital of France?", 18),
            "…capital of France?"
        );
        assert_eq!(last_words(&"z".repeat(40), 5), "…zzzzz");
        assert_eq!(last_words("", 5), "");
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
