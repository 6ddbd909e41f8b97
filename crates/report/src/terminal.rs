//! The summary in the terminal: one screen of lines of at most about eighty characters, plain ASCII digits, no colour.

use std::fmt::Write as _;
use std::path::Path;

use crate::error::Result;
use crate::page::four_digits;
use crate::record::RunRecord;
use crate::verdict::{Basis, FURTHER, Geometry, Trend, further_trend, judge, percent};

/// Longest line of the verdict.
const WIDTH: usize = 80;

/// What happened in a run, in one screen: start → end of chosen, rejected, margin and accuracy, shares of
/// cases, and a verdict derived from the numbers only. Log-probs in nats per completion. No newline at the end.
///
/// Held-out pairs are used when the run has two evaluations or more, otherwise the completions that attribution watched,
/// otherwise the rewards of the first and the last tenth of the logged training batches.
///
/// # Errors
/// As [`write_run_report`](crate::write_run_report), except that nothing is written.
pub fn terminal_summary(run_dir: &Path) -> Result<String> {
    let run = RunRecord::read(run_dir)?;
    let basis = Basis::of(&run);
    let mut lines = vec![format!(
        "{}: {} steps{}, measured on {}",
        run.name(),
        run.last_step(),
        method(&run),
        measured_on(&run, basis)
    )];
    let watched = run
        .attribution
        .as_ref()
        .filter(|_| basis == Basis::Training);
    for (label, before, after, change) in watched.iter().flat_map(|found| found.rows()) {
        let (start, end) = (four_digits(before), four_digits(after));
        lines.push(format!("  {label:<18}{start:>11} -> {end:<11} {change}"));
    }
    // Log-probs of two training batches are of different completions: their difference says nothing.
    let sides = match basis {
        Basis::HeldOut => [
            ("chosen log-prob", "logps/chosen"),
            ("rejected log-prob", "logps/rejected"),
        ],
        Basis::Training => [
            ("chosen reward", "rewards/chosen"),
            ("rejected reward", "rewards/rejected"),
        ],
    };
    let rows = [
        sides[0],
        sides[1],
        ("reward margin", "rewards/margins"),
        ("reward accuracy", "rewards/accuracies"),
        ("loss", "loss"),
    ];
    for (label, key) in rows {
        lines.extend(
            basis
                .trend(&run, key)
                .map(|trend| trend_line(label, key, trend)),
        );
    }
    for (label, key, _) in FURTHER {
        let found = further_trend(&run, basis, key);
        lines.extend(found.map(|(_, trend)| trend_line(label, key, trend)));
    }
    lines.extend(geometry_line(&Geometry::of(&run)));
    if !run.notes.is_empty() {
        let count = run.notes.len();
        let more = if count > 1 {
            format!(" (and {} more, see the report)", count - 1)
        } else {
            String::new()
        };
        lines.push(format!("  note: {}{more}", run.notes[0]));
    }
    if let Some(verdict) = judge(&run, basis) {
        lines.extend(wrapped(&verdict.sentence));
        lines.extend(verdict.why.iter().flat_map(|why| wrapped(why)));
    }
    Ok(lines
        .iter()
        .map(|line| printable(line))
        .collect::<Vec<_>>()
        .join("\n"))
}

/// What the run was measured on, for the first line.
fn measured_on(run: &RunRecord, basis: Basis) -> String {
    match (&run.attribution, basis) {
        (Some(attribution), Basis::Training) => attribution.watched(),
        _ => basis.label(run).to_string(),
    }
}

/// First → last and the change of one column.
fn trend_line(label: &str, key: &str, trend: Trend) -> String {
    let (start, end, change) = match key {
        "rewards/accuracies" | "mask/open" => (
            percent(trend.start),
            percent(trend.end),
            format!("{:+.0} points", 100.0 * trend.change()),
        ),
        _ => (
            four_digits(trend.shown(trend.start)),
            four_digits(trend.shown(trend.end)),
            signed(trend.shown(trend.change())),
        ),
    };
    format!("  {label:<18}{start:>11} -> {end:<11} {change}")
}

/// How the run was trained, for the first line.
fn method(run: &RunRecord) -> String {
    let label = run.method().label();
    if label.is_empty() {
        label
    } else {
        format!(" of {label}")
    }
}

/// Lines of at most [`WIDTH`] characters; a verdict takes three at the most.
fn wrapped(sentence: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in sentence.split(' ') {
        let line = lines.last_mut().expect("there is always a line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(word.to_string());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// Names come from files: a control character in one must not steer the reader's terminal.
pub(crate) fn printable(line: &str) -> String {
    line.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn geometry_line(geometry: &Geometry) -> Option<String> {
    let mut line = format!("  gradients over {} steps:", geometry.steps);
    let mut put = |piece: std::fmt::Arguments<'_>| {
        line.write_fmt(piece)
            .expect("writing to a string cannot fail")
    };
    if let Some(cosine) = geometry.cosine {
        put(format_args!(" cosine {cosine:.2},"));
    }
    if let Some([ideal, both_fall, both_rise]) = geometry.cases {
        let [ideal, both_fall, both_rise] = [ideal, both_fall, both_rise].map(percent);
        put(format_args!(
            " ideal {ideal}, both fall {both_fall}, both rise {both_rise},"
        ));
    }
    (geometry.steps > 0).then(|| line.trim_end_matches([',', ':']).to_string())
}

fn signed(change: f64) -> String {
    let sign = if change > 0.0 { "+" } else { "" };
    format!("{sign}{}", four_digits(change))
}
