//! Everything that people read: one line after another on stderr.
//!
//! This is the one place that writes there; the workspace denies `eprintln!` and `io::stderr` everywhere else. What cannot be
//! written (a reader that has gone, a closed terminal, a full disk under a log) is dropped: a run is worth more than its
//! log. A reader that does not read holds up the program, as everywhere, but not one that was told to stop.
//!
//! Text comes from files as well (names of columns and tensors, tokens, a template's own message), and a terminal obeys what
//! it is sent. So control characters and those that turn the writing direction are shown escaped (`shown`), and a long
//! line or message is cut. Line breaks are ours and stay. Data for other programs goes to `stdout.rs`, as it is.

use crate::interrupt;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::{Mutex, PoisonError};

/// Prints a line on stderr; its arguments are those of `format!`.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::say::line(&format!($($text)*))
    };
}

/// Prints `note: …` on stderr; its arguments are those of `format!`.
macro_rules! note {
    ($($text:tt)*) => {
        $crate::say::note(&format!($($text)*))
    };
}

/// Longest line, in characters; of a longer one the middle is left out.
const LINE: usize = 1200;
/// Most lines of a note or an error; of a longer one the middle is left out.
const LINES: usize = 24;

/// Prints a line, or several.
pub(crate) fn line(text: &str) {
    write(&format!("{}\n", prepared(text)));
}

/// Prints `note: …`, of no more than a few lines.
pub fn note(text: &str) {
    line(&format!("note: {}", few_lines(text)));
}

/// As [`note`], but each text once in the life of the process.
pub(crate) fn note_once(text: &str) {
    static SAID: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.get_or_insert_default().insert(text.to_owned()) {
        note(text);
    }
}

/// Prints `error: …`, of no more than a few lines.
pub fn error(text: &str) {
    line(&format!("error: {}", few_lines(text)));
}

/// Whether a person sees it at once.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that looks at stderr"
)]
pub(crate) fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// A text as [`line`] shows it, for what draws on the terminal itself.
pub(crate) fn prepared(text: &str) -> String {
    let mut lines = text.split('\n').map(|line| match shown(line) {
        line if line.chars().count() <= LINE => line,
        line => Cow::Owned(without_middle(&line)),
    });
    let first = lines.next().unwrap_or_default().into_owned();
    lines.fold(first, |all, line| all + "\n" + &line)
}

/// A text with every character escaped that a terminal would obey rather than show: controls (but for line break and tab)
/// and those that change the direction of writing.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(is_command) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_command(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

fn is_command(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // Marks, embeddings, overrides and isolates of the bidirectional algorithm; line and paragraph separators; tags.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}' => {
            true
        }
        '\u{feff}' | '\u{e0000}'..='\u{e007f}' => true,
        c => c.is_control(),
    }
}

fn without_middle(line: &str) -> String {
    let chars: Vec<char> = line.chars().collect();
    let (head, tail) = (LINE * 2 / 3, LINE / 4);
    let left_out = chars.len() - head - tail;
    let mut out: String = chars[..head].iter().collect();
    let _ = write!(out, " … {left_out} characters … "); // a String takes everything
    out.extend(&chars[chars.len() - tail..]);
    out
}

fn few_lines(text: &str) -> Cow<'_, str> {
    let lines: Vec<&str> = text.split('\n').collect();
    if lines.len() <= LINES {
        return Cow::Borrowed(text);
    }
    // The hint, if any, is at the end.
    let (head, tail) = (LINES - 5, 4);
    let left_out = format!("… {} lines …", lines.len() - head - tail);
    let mut kept = lines[..head].to_vec();
    kept.push(&left_out);
    kept.extend(&lines[lines.len() - tail..]);
    Cow::Owned(kept.join("\n"))
}

/// So many bytes go into a pipe at once, or none.
const PIECE: usize = 4096;

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that writes to stderr"
)]
fn write(text: &str) {
    for piece in text.as_bytes().chunks(PIECE) {
        if !takes_more() {
            return;
        }
        if std::io::stderr().write_all(piece).is_err() {
            return;
        }
    }
}

/// Waits until stderr takes something; false where the program was told to stop and it does not.
#[cfg(unix)]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that writes to stderr"
)]
fn takes_more() -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    const PATIENCE: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: 200_000_000,
    };
    let stderr = std::io::stderr();
    loop {
        let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
        match poll(&mut ready, Some(&PATIENCE)) {
            Ok(0) if interrupt::pressed() => return false,
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            // Whatever else there is to know, the write will tell.
            _ => return true,
        }
    }
}

#[cfg(not(unix))]
fn takes_more() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        assert_eq!(shown("a\u{1b}[31mb\u{9b}\u{7}"), r"a\u{1b}[31mb\u{9b}\u{7}");
        assert_eq!(shown("x\u{202e}y\u{2066}\r"), r"x\u{202e}y\u{2066}\r");
        let plain = "naïve → 日本語 👩‍👩‍👧 \t…\nnext";
        assert!(matches!(shown(plain), Cow::Borrowed(same) if same == plain));
    }

    #[test]
    fn long_lines_and_messages_lose_their_middle() {
        let long = format!("{}\nhint: short", "é".repeat(5000));
        let text = prepared(&long);
        assert!(text.chars().count() < 1300, "{}", text.len());
        assert!(text.contains(" … 3900 characters … é") && text.ends_with("\nhint: short"));

        let many: Vec<String> = (0..100).map(|i| format!("line {i}")).collect();
        let few = few_lines(&many.join("\n")).into_owned();
        assert_eq!(few.lines().count(), LINES);
        assert!(few.starts_with("line 0\n") && few.ends_with("line 98\nline 99"));
        assert!(few.contains("line 18\n… 77 lines …\nline 96"), "{few}");
    }
}
