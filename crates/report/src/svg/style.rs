//! How a drawing for print looks: colours, dashes and marks of the series, and how wide a text is.
//!
//! Colours are the page's on white. Each line of a panel has its own dash and each role its own mark, so that a copy
//! without colours can still be read; a mark is hollow where the page dashes the line (held-out, predicted).

use crate::figure::{Dash, Kind, Panel, Role};

/// Black of text and axes.
pub(crate) const INK: &str = "#1d2430";
/// Of units and guides.
pub(crate) const SOFT: &str = "#5b6472";
/// Of grid lines.
pub(crate) const RULE: &str = "#dfe3e9";

const RUNS: [&str; 8] = [
    "#0063a8", "#c94f00", "#00805e", "#a8487f", "#8a6d00", "#3d8fc9", "#5b6472", "#6a4fb0",
];
const DASHES: [&str; 6] = ["", "7 3", "2 2.2", "9 3 2 3", "12 4", "5 2 1.5 2 1.5 2"];

/// A shape at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// ●
    Circle,
    /// ▲
    Triangle,
    /// ◆
    Diamond,
    /// ■
    Square,
    /// ▼
    Wedge,
}

/// The look of one series.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    /// Colour.
    pub(crate) ink: &'static str,
    /// `stroke-dasharray`; empty for a whole line.
    pub(crate) dash: &'static str,
    /// Shape.
    pub(crate) mark: Mark,
    /// Draw the shape's outline only.
    pub(crate) hollow: bool,
}

/// The look of the panel's series number `at`.
pub(crate) fn style(panel: &Panel, at: usize) -> Style {
    let series = &panel.series[at];
    Style {
        ink: ink(series.role),
        dash: DASHES[at % DASHES.len()],
        mark: mark(series.role),
        hollow: series.dash == Dash::Dashed && panel.kind == Kind::Lines,
    }
}

fn ink(role: Role) -> &'static str {
    match role {
        Role::Chosen => "#0063a8",
        Role::Rejected => "#c94f00",
        Role::Margin => "#00805e",
        Role::Plain => "#4a5364",
        Role::Ideal => "#2a8f5b",
        Role::BothFall => "#8b2f62",
        Role::BothRise => "#d9bd57",
        Role::Reversed => "#3b4a63",
        Role::Other => "#b4bac4",
        Role::Run(at) => RUNS[at % RUNS.len()],
    }
}

fn mark(role: Role) -> Mark {
    let marks = [
        Mark::Circle,
        Mark::Triangle,
        Mark::Diamond,
        Mark::Square,
        Mark::Wedge,
    ];
    match role {
        Role::Chosen | Role::Ideal => Mark::Circle,
        Role::Rejected | Role::BothFall => Mark::Triangle,
        Role::Margin | Role::BothRise => Mark::Diamond,
        Role::Reversed => Mark::Wedge,
        Role::Plain | Role::Other => Mark::Square,
        Role::Run(at) => marks[at % marks.len()],
    }
}

/// Path data of a mark of radius `r` around a point.
pub(crate) fn shape(mark: Mark, x: f64, y: f64, r: f64) -> String {
    let corners = |corners: &[(f64, f64)]| {
        let places = corners
            .iter()
            .map(|(dx, dy)| format!("{:.1} {:.1}", x + r * dx, y + r * dy));
        format!("M{}Z", places.collect::<Vec<_>>().join("L"))
    };
    match mark {
        Mark::Circle => format!(
            "M{:.1} {y:.1}a{r:.1} {r:.1} 0 1 0 {d:.1} 0a{r:.1} {r:.1} 0 1 0 -{d:.1} 0Z",
            x - r,
            d = 2.0 * r
        ),
        Mark::Triangle => corners(&[(0.0, -1.25), (1.15, 0.85), (-1.15, 0.85)]),
        Mark::Wedge => corners(&[(0.0, 1.25), (1.15, -0.85), (-1.15, -0.85)]),
        Mark::Diamond => corners(&[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)]),
        Mark::Square => corners(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
    }
}

/// Width of a text in a sans-serif face of the given size: an estimate that rather errs to the wide side.
pub(crate) fn width(text: &str, size: f64) -> f64 {
    let em = |c: char| match c {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | '\u{2009}' => 0.28,
        'f' | 't' | 'r' | ' ' | '(' | ')' | '[' | ']' | '/' | '-' | '²' => 0.36,
        'm' | 'w' | 'M' | 'W' | '%' | '@' | '—' | '…' => 0.9,
        c if c.is_ascii_uppercase() => 0.7,
        c if u32::from(c) < 0x2e80 => 0.57,
        _ => 1.0,
    };
    size * text.chars().map(em).sum::<f64>()
}

/// Text in at most `lines` lines of about `room`; the last one is cut where even that is too little.
pub(crate) fn wrapped(text: &str, size: f64, room: f64, lines: usize) -> Vec<String> {
    let mut out = vec![String::new()];
    for word in text.split_whitespace() {
        let count = out.len();
        let line = &mut out[count - 1];
        let longer = format!("{line} {word}");
        if line.is_empty() {
            *line = word.to_string();
        } else if width(&longer, size) <= room || count == lines {
            *line = longer;
        } else {
            out.push(word.to_string());
        }
    }
    out.iter().map(|line| cut(line, size, room)).collect()
}

/// The text, or as much of it as fits, with an ellipsis.
fn cut(text: &str, size: f64, room: f64) -> String {
    if width(text, size) <= room {
        return text.to_string();
    }
    let mut kept = String::new();
    for c in text.chars() {
        if width(&kept, size) + width(&c.to_string(), size) + width("…", size) > room {
            break;
        }
        kept.push(c);
    }
    kept + "…"
}

/// Text as XML allows it.
pub(crate) fn xml(text: &str) -> String {
    crate::page::escape(text).replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_then_cut() {
        let text = "log-prob of a completion in nats since the first evaluation";
        let lines = wrapped(text, 10.0, 120.0, 2);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("log-prob of a") && lines[1].ends_with('…'));
        assert!(lines.iter().all(|line| width(line, 10.0) <= 120.0));
        assert_eq!(wrapped("short", 10.0, 120.0, 2), ["short"]);
        assert_eq!(wrapped("", 10.0, 120.0, 2), [""]);
    }

    #[test]
    fn xml_takes_no_forbidden_character() {
        assert_eq!(
            xml("<a&\"\u{1}\u{ffff}"),
            "&lt;a&amp;&quot;\u{fffd}\u{fffd}"
        );
    }
}
