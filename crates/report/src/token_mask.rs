//! Which tokens count under a token mask: `token_mask.jsonl`, read and shown (sparse preference optimization, the
//! paper's §5.2).
//!
//! One line per pair, with a share s in [0, 1] for each token of a completion:
//!
//! ```text
//! {"index": 3, "prompt": "…", "chosen_tokens": ["To", " be"], "chosen_share": [1.0, 0.2],
//!  "rejected_tokens": […], "rejected_share": […]}          `prompt` may be absent
//! ```
//!
//! The trainer replaces the file as a whole, so one damaged line means that something else wrote it: then nothing of
//! it is shown and a note says why, for a report must not fail on what only illustrates it. A share shows itself
//! twice, as tint and as type (closed tokens are struck through), so that no reader depends on colour.

use std::io::{ErrorKind, Read};
use std::path::Path;

use serde::Deserialize;

use crate::page::{Section, escape, push, short};

const FILE: &str = "token_mask.jsonl";
/// Eight pairs of a thousand tokens are a few hundred kilobytes; no page should grow by more than this.
const MAX_BYTES: u64 = 4 << 20;
/// From this share on a token counts as open.
const OPEN: f64 = 0.5;
/// Longer prompts lose their middle.
const MAX_PROMPT_CHARS: usize = 400;

/// One line of the file.
#[derive(Debug, Deserialize)]
pub(crate) struct MaskedPair {
    index: u64,
    prompt: Option<String>,
    chosen_tokens: Vec<String>,
    chosen_share: Vec<f64>,
    rejected_tokens: Vec<String>,
    rejected_share: Vec<f64>,
}

impl MaskedPair {
    fn is_sound(&self) -> bool {
        let side = |tokens: &[String], shares: &[f64]| {
            tokens.len() == shares.len() && shares.iter().all(|s| (0.0..=1.0).contains(s))
        };
        side(&self.chosen_tokens, &self.chosen_share)
            && side(&self.rejected_tokens, &self.rejected_share)
    }
}

/// The pairs in the run's directory; empty with a note when the file cannot be used, without one when it is absent.
pub(crate) fn read(dir: &Path) -> (Vec<MaskedPair>, Option<String>) {
    match read_text(&dir.join(FILE)).and_then(|text| parse(&text)) {
        Ok(pairs) => (pairs, None),
        Err(why) => {
            let note = format!("{FILE} {why}: which tokens count under the mask is not shown");
            (Vec::new(), Some(note))
        }
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = match unbraid_input::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(text),
        Err(error) => return Err(format!("cannot be read ({error})")),
    };
    match file.take(MAX_BYTES + 1).read_to_string(&mut text) {
        Ok(bytes) if bytes as u64 > MAX_BYTES => Err(format!("is longer than {MAX_BYTES} bytes")),
        Ok(_) => Ok(text),
        Err(error) => Err(format!("cannot be read ({error})")),
    }
}

fn parse(text: &str) -> Result<Vec<MaskedPair>, String> {
    let lines = text.lines().zip(1..);
    let lines = lines.filter(|(line, _)| !line.trim().is_empty());
    lines
        .map(|(line, number)| {
            serde_json::from_str::<MaskedPair>(line)
                .ok()
                .filter(MaskedPair::is_sound)
                .ok_or_else(|| {
                    format!("line {number} is no pair with a share from 0 to 1 for each token")
                })
        })
        .collect()
}

/// The section "Which tokens count"; `None` without pairs.
pub(crate) fn section(pairs: &[MaskedPair]) -> Option<Section> {
    if pairs.is_empty() {
        return None;
    }
    let mut html = String::from(
        "<p class=\"lead\">The loss multiplies a token's log-ratio by its share s from 0 to 1, shown as of the run's end. Pointing at a \
         token tells the number.</p>\n<p class=\"scale\">",
    );
    for (share, word) in [
        (1.0, "s = 1"),
        (0.75, "s = 0.75"),
        (0.25, "s = 0.25"),
        (0.0, "s = 0"),
    ] {
        html += &token(word, share);
        html.push(' ');
    }
    html += "Below one half a token is struck through.</p>\n";
    pairs.iter().for_each(|pair| html += &pair_html(pair));
    Some(Section {
        id: "tokens".into(),
        title: "Which tokens count".into(),
        html,
    })
}

fn pair_html(pair: &MaskedPair) -> String {
    let mut html = format!("<div class=\"pair\"><h3>Pair {}</h3>\n", pair.index);
    if let Some(prompt) = pair.prompt.as_deref().filter(|prompt| !prompt.is_empty()) {
        push(
            &mut html,
            format_args!(
                "<p class=\"prompt\" dir=\"auto\">{}</p>\n",
                visible(&excerpt(prompt))
            ),
        );
    }
    html += "<div class=\"sides\">";
    html += &side_html(
        pair.index,
        "chosen",
        &pair.chosen_tokens,
        &pair.chosen_share,
    );
    html += &side_html(
        pair.index,
        "rejected",
        &pair.rejected_tokens,
        &pair.rejected_share,
    );
    html + "</div></div>\n"
}

fn side_html(index: u64, side: &str, tokens: &[String], shares: &[f64]) -> String {
    let open = shares.iter().filter(|share| **share >= OPEN).count();
    let text: String = tokens
        .iter()
        .zip(shares)
        .map(|(text, share)| token(text, *share))
        .collect();
    format!(
        "<div class=\"side {side}\"><h4>{side} <span class=\"count\">{open} of {} tokens at or above one half</span></h4>\
         <p class=\"tokens\" dir=\"auto\" tabindex=\"0\" role=\"region\" aria-label=\"Pair {index}, {side}\">{text}</p></div>\n",
        tokens.len()
    )
}

/// A token with its tint; `s` is the element for what no longer counts.
fn token(text: &str, share: f64) -> String {
    let tag = if share >= OPEN { "span" } else { "s" };
    let text = if text.is_empty() { "∅" } else { text };
    format!(
        "<{tag} style=\"--s:{share:.3}\" title=\"{}\">{}</{tag}>",
        title(share),
        visible(text)
    )
}

/// Two decimals, unless they would put a share on the other side of one half or on an end it has not reached.
fn title(share: f64) -> String {
    let text = short(share);
    let shown: f64 = text.parse().unwrap_or(f64::NAN);
    if (shown >= OPEN) == (share >= OPEN) && (share == shown || (shown != 0.0 && shown != 1.0)) {
        text
    } else {
        format!("{share:.6}")
    }
}

/// Text with its line breaks kept and marked.
fn visible(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\u{240d}");
    escape(&text).replace('\n', "<span class=\"break\">↵</span>\n")
}

/// Beginning and end of a long text.
fn excerpt(text: &str) -> String {
    let count = text.chars().count();
    if count <= MAX_PROMPT_CHARS {
        return text.to_string();
    }
    let half = MAX_PROMPT_CHARS / 2;
    let head: String = text.chars().take(half).collect();
    let tail: String = text.chars().skip(count - half).collect();
    format!("{head} … {tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = r#"{"index":3,"chosen_tokens":["To"," be\n"],"chosen_share":[1,0.2],"rejected_tokens":["No"],"rejected_share":[0.5]}"#;

    #[test]
    fn rows_are_read_and_counted_by_side() {
        let pairs = parse(&format!("{ROW}\n\n{ROW}")).unwrap();
        assert_eq!(pairs.len(), 2);
        let html = section(&pairs).unwrap().html;
        assert_eq!(html.matches("<h3>Pair 3</h3>").count(), 2);
        assert!(html.contains("1 of 2 tokens at or above one half"));
        assert!(
            html.contains("1 of 1 tokens at or above one half"),
            "one half is open"
        );
        assert!(html.contains(
            "<s style=\"--s:0.200\" title=\"0.2\"> be<span class=\"break\">↵</span>\n</s>"
        ));
        assert!(html.contains("<span style=\"--s:1.000\" title=\"1\">To</span>"));
        assert!(!html.contains("class=\"prompt\""));
    }

    #[test]
    fn one_unsound_line_condemns_the_file() {
        let changed = |from: &str, to: &str| format!("{ROW}\n{}\n", ROW.replace(from, to));
        for text in [
            changed("[0.5]", "[1.01]"),
            changed("[0.5]", "[-0.1]"),
            changed("[0.5]", "[null]"),
            changed("[0.5]", "[]"),
            changed("\"chosen_share\":[1,0.2],", ""),
            changed("[\"No\"]", "[7]"),
            changed("}", ""),
        ] {
            let why = parse(&text).unwrap_err();
            assert!(why.starts_with("line 2 is no pair"), "{text} {why}");
        }
        assert!(parse("").unwrap().is_empty());
        assert!(section(&[]).is_none());
    }

    #[test]
    fn a_share_near_a_border_is_not_rounded_across_it() {
        let cases = [
            (0.0, "0"),
            (1.0, "1"),
            (0.5, "0.5"),
            (0.2345, "0.23"),
            (0.4999, "0.499900"),
            (0.999, "0.999000"),
            (0.001, "0.001000"),
        ];
        for (share, expected) in cases {
            assert_eq!(title(share), expected);
        }
    }

    #[test]
    fn long_prompts_keep_both_ends() {
        let text = format!("ä{}ö", "x".repeat(1000));
        let short = excerpt(&text);
        assert!(short.starts_with("äx") && short.ends_with("xö") && short.contains(" … "));
        assert_eq!(short.chars().count(), MAX_PROMPT_CHARS + 3);
        assert_eq!(excerpt("a\nb"), "a\nb");
        assert_eq!(
            visible("a\r\nb\r<"),
            "a<span class=\"break\">↵</span>\nb\u{240d}&lt;"
        );
    }
}
