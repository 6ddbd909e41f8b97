//! The verdict in the terminal: at most a screen, no colour, in the order in which a person acts on it.

use std::collections::HashSet;
use std::path::Path;

use super::findings::Findings;
use super::record::{Diagnosis, Pair};
use super::series::Series;
use super::texts::{self, Texts, shared_start};
use crate::error::Result;
use crate::page::four_digits;

/// Longest line.
const WIDTH: usize = 100;
/// Most lines.
const LINES: usize = 24;

/// What a diagnosis found, in at most 24 lines of at most 100 characters: how many pairs are entangled, which way they
/// will move under the configured objective, what would be better, which parameters carry it, which cheap measure to
/// trust, whether a real step went as predicted, the worst five pairs, and where to look next. Of a series of
/// checkpoints, how the geometry changed from the first to the last. No newline at the end.
///
/// # Errors
/// [`ReportError::NotADiagnosis`](crate::ReportError::NotADiagnosis) without a file of rows,
/// [`ReportError::NoPairs`](crate::ReportError::NoPairs) when it holds none,
/// [`ReportError::Io`](crate::ReportError::Io) when reading fails.
pub fn diagnosis_verdict(dir: &Path) -> Result<String> {
    let lines = if super::is_series(dir) {
        Series::read(dir)?.verdict()
    } else {
        lines(&Diagnosis::read(dir)?)?
    };
    let lines = lines.into_iter().take(LINES);
    Ok(lines
        .map(|line| fitted(&line))
        .collect::<Vec<_>>()
        .join("\n"))
}

fn lines(diagnosis: &Diagnosis) -> Result<Vec<String>> {
    let findings = Findings {
        of: diagnosis,
        number: |value| four_digits(value),
    };
    let mut body = vec![heading(diagnosis)];
    let sentences = [findings.entangled(), findings.cosine(), findings.movement()];
    let sentences = sentences.into_iter().flatten().chain(findings.better());
    let more = [
        findings.carriers(),
        findings.proxy(),
        findings.first_order(),
    ];
    for sentence in sentences.chain(more.into_iter().flatten()) {
        body.extend(wrapped(&sentence));
    }
    if diagnosis.proxies_only {
        body.extend(wrapped(
            "Only cheap measures were taken, no gradients: a diagnosis of some hundred pairs without --proxies-only tells which \
             of them to trust.",
        ));
    }
    let worst = worst(diagnosis)?;
    let next = next(diagnosis);
    body.truncate(LINES - worst.len() - next.len());
    Ok(body.into_iter().chain(worst).chain(next).collect())
}

fn heading(diagnosis: &Diagnosis) -> String {
    let summary = &diagnosis.summary;
    let mut parts = vec![format!("{} pairs", diagnosis.pairs.len())];
    parts.extend(summary.seconds_per_pair.map(|s| {
        if s < 0.1 {
            format!("{:.1} ms a pair", 1e3 * s)
        } else {
            format!("{s:.2} s a pair")
        }
    }));
    if summary.complete == Some(false) {
        parts.push("incomplete".into());
    }
    let parts = parts.join(", ");
    match &summary.model {
        Some(model) => format!("{model}: {parts}"),
        None => format!("{}: {parts}", diagnosis.name()),
    }
}

/// The worst five: index, cosine, start of the text.
fn worst(diagnosis: &Diagnosis) -> Result<Vec<String>> {
    let worst = diagnosis.worst();
    let wanted: HashSet<u64> = worst.iter().map(|pair| pair.index).collect();
    let texts = texts::read(&diagnosis.dir, &wanted, &mut Vec::new())?;
    let mut lines = vec!["Worst pairs (index, cosine, text):".to_string()];
    if diagnosis.proxies_only {
        lines[0] = "Worst pairs by CHES (index, CHES, text):".to_string();
    }
    let starts = starts(&worst, &texts);
    for (pair, start) in worst.iter().zip(starts) {
        let measure = if diagnosis.proxies_only {
            "ches"
        } else {
            "grad_cosine"
        };
        let value = pair
            .get(measure)
            .map_or("-".into(), |value| format!("{value:.2}"));
        let case = pair.outcome.map_or("", |outcome| outcome.case.name());
        lines.push(format!(
            "  {:>6}  {value:>7}  {case:<9}  {start}",
            pair.index
        ));
    }
    Ok(lines)
}

/// The prompts from where they begin to differ; the chosen completion where there is no prompt.
pub(crate) fn starts(pairs: &[&Pair], texts: &Texts) -> Vec<String> {
    let text = |pair: &&Pair| {
        let text = texts.get(&pair.index)?;
        let prompt = text.prompt.trim();
        Some(if prompt.is_empty() {
            text.chosen.trim()
        } else {
            prompt
        })
    };
    let found: Vec<&str> = pairs.iter().filter_map(text).collect();
    let from = shared_start(&found);
    let cut = |text: &str| {
        let rest = text.get(from..).unwrap_or(text);
        let words: Vec<&str> = rest.split_whitespace().collect();
        let mark = if from > 0 { "… " } else { "" };
        format!("{mark}{}", words.join(" "))
    };
    pairs
        .iter()
        .map(|pair| text(pair).map_or_else(String::new, cut))
        .collect()
}

fn next(diagnosis: &Diagnosis) -> Vec<String> {
    let mut lines = vec![format!(
        "Report: {}",
        diagnosis.dir.join("report.html").display()
    )];
    match super::heat_map::files(&diagnosis.dir).as_slice() {
        [] => {}
        [only] => lines.push(format!("Token heat map, drawn there: {}", only.display())),
        [first, rest @ ..] => lines.push(format!(
            "Token heat maps, drawn there: {} and {} more",
            first.display(),
            rest.len()
        )),
    }
    lines
}

/// Lines of at most [`WIDTH`] characters; the further ones are indented.
pub(crate) fn wrapped(sentence: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    // A number keeps its per-cent sign.
    let sentence = sentence.replace(" %", "\u{a0}%");
    for word in sentence.split(' ') {
        let line = lines.last_mut().expect("there is always a line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(format!("  {word}"));
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
        .iter()
        .map(|line| line.replace('\u{a0}', " "))
        .collect()
}

/// Text comes from files: no control character may steer the reader's terminal, no line may be longer than it.
fn fitted(line: &str) -> String {
    let printable = line
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c });
    let printable: Vec<char> = printable.collect();
    if printable.len() <= WIDTH {
        return printable.into_iter().collect();
    }
    // The end of a path says more than its beginning, the beginning of a text more than its end.
    if line.starts_with("Report: ") || line.starts_with("Token ") {
        return printable.into_iter().collect();
    }
    printable
        .into_iter()
        .take(WIDTH - 2)
        .chain(" …".chars())
        .collect()
}
