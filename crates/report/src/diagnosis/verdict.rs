//! The verdict in the terminal: at most a screen, no colour, in the order in which a person acts on it.

use std::collections::HashSet;
use std::path::Path;

use super::findings::Findings;
use super::record::Diagnosis;
use super::series::Series;
use super::texts;
use crate::error::Result;
use crate::page::four_digits;

/// Longest line.
const WIDTH: usize = 100;
/// Most lines.
const LINES: usize = 24;

/// What a diagnosis found, in at most 24 lines of at most 100 characters: how many pairs are entangled, how near the others
/// are, which way a plain and a real step move them, what would be better, which parameters carry it, which cheap measure
/// to trust, the five pairs to look at first, and where to look next; what does not fit is in the report. Of a series of
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
    let worst = worst(diagnosis)?;
    let next = next(diagnosis);
    let room = LINES - worst.len() - next.len();
    if diagnosis.proxies_only {
        body.extend(wrapped(
            "Only cheap measures were taken, no gradients: nothing is said on cases. A diagnosis of some hundred of these pairs \
             without --proxies-only tells which measure to trust; --export-filtered FILE --keep-below 0.9 then drops the tenth \
             that it suspects most.",
        ));
    }
    // A sentence is told whole or not at all; those further down give way first, but a short one may still fit.
    for sentence in findings.in_order() {
        let lines = wrapped(&sentence);
        if body.len() + lines.len() <= room {
            body.extend(lines);
        }
    }
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
    let of = match (&summary.model, &summary.data) {
        (Some(model), Some(data)) => format!("{model} on {data}"),
        (Some(model), None) => model.clone(),
        _ => diagnosis.name(),
    };
    // A long name is cut at the line's end: the numbers come first.
    format!("{}: {of}", parts.join(", "))
}

/// The pairs to look at first: index, cosine, case, and what they are about.
fn worst(diagnosis: &Diagnosis) -> Result<Vec<String>> {
    let worst = diagnosis.worst();
    let wanted: HashSet<u64> = worst.iter().map(|pair| pair.index).collect();
    let texts = texts::read(&diagnosis.dir, &wanted, &mut Vec::new())?;
    let harmed = worst.iter().any(|pair| pair.harm() > 0.0);
    let (what, measure, name) = match (diagnosis.proxies_only, harmed) {
        (true, _) => ("Largest CHES", "ches_normalized", "CHES/length"),
        (false, true) => ("Worst pairs", "grad_cosine", "cosine"),
        (false, false) => ("Most alike gradients", "grad_cosine", "cosine"),
    };
    let case = if diagnosis.proxies_only { "" } else { "case, " };
    let mut lines = vec![format!(
        "{what} (pair, {name}, {case}end of the prompt [chosen | rejected where they part]):"
    )];
    let names = worst
        .iter()
        .filter_map(|pair| Some(pair.outcome?.case.name().len()));
    let wide = names.max().unwrap_or(0);
    for (pair, glimpse) in worst.iter().zip(texts::glimpses(&worst, &texts)) {
        let value = pair
            .get(measure)
            .map_or("-".into(), |value| format!("{value:.2}"));
        let case = pair.outcome.map_or("", |outcome| outcome.case.name());
        let start = format!("{:>6}  {value:>6}  {case:<wide$}", pair.index);
        lines.push(if wide == 0 {
            format!("{}  {glimpse}", start.trim_end())
        } else {
            format!("{start}  {glimpse}")
        });
    }
    Ok(lines)
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
