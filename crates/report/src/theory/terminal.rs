//! A check of the theory in the terminal: a line a statement, then what happens without each assumption. No colour.

use std::path::Path;

use super::record::{Claim, Relaxed, Statement, Theory};
use crate::error::Result;
use crate::terminal::printable;

/// Width of the first column.
const WIDTH: usize = 52;

/// One line for each statement: values, largest errors, sign, median errors of the largest and the smallest real step; then the
/// claims that break without an assumption. No newline at the end.
///
/// # Errors
/// As [`write_theory_report`](crate::write_theory_report), except that nothing is written.
pub fn theory_summary(dir: &Path) -> Result<String> {
    let of = Theory::read(dir)?;
    let mut lines = vec![format!(
        "{} ({} random instances each and adversarial ones, seed {})",
        of.sentence(),
        of.random_instances,
        of.seed
    )];
    lines.push(format!(
        "{:WIDTH$} {:>6} {:>8} {:>8}  {:16} {}",
        "statement", "values", "f64", "f32", "sign", "real steps"
    ));
    let mut theorem = "";
    for s in &of.statements {
        if s.theorem != theorem {
            theorem = &s.theorem;
            lines.push(theorem.to_string());
        }
        lines.push(statement_line(s));
    }
    lines.push(
        "where an assumption fails, claims that are broken to first order (after a real step)"
            .into(),
    );
    of.relaxed
        .iter()
        .for_each(|r| lines.extend(relaxed_lines(r)));
    let lines = lines
        .iter()
        .map(|line| printable(line).trim_end().to_string());
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// `text` in exactly `width` characters.
fn fitted(text: &str, width: usize) -> String {
    if text.chars().count() > width {
        return text.chars().take(width - 1).chain(['…']).collect();
    }
    format!("{text:width$}")
}

/// Two digits, as a programmer writes them.
pub(super) fn brief(value: Option<f64>) -> String {
    match value {
        Some(0.0) => "0".into(),
        Some(value) => format!("{value:.1e}"),
        None => "nan".into(),
    }
}

fn statement_line(s: &Statement) -> String {
    let whole = format!("  {} = {}", s.quantity, s.predicted);
    let name = match whole.chars().count() > WIDTH {
        true => format!("  {}, {}", s.quantity, s.source),
        false => whole,
    };
    let name = fitted(&name, WIDTH);
    let sign = s
        .sign
        .as_ref()
        .map(|x| format!("{} {}/{}", x.claim, x.held, x.of));
    let steps = match (s.steps.first(), s.steps.last()) {
        (Some(first), Some(last)) => {
            format!(
                "{} … {}",
                brief(first.median_error),
                brief(last.median_error)
            )
        }
        _ => String::new(),
    };
    let fails = if s.holds { "" } else { "  FAILS" };
    format!(
        "{name} {:>6} {:>8} {:>8}  {:16} {steps}{fails}",
        s.values,
        brief(s.f64.worst.error),
        brief(s.f32.worst.error),
        sign.unwrap_or_default()
    )
}

fn relaxed_lines(r: &Relaxed) -> Vec<String> {
    let claim = |c: &Claim| {
        let after = c.broken_realised.map(|n| format!("({n})"));
        let broken = format!("{} of {} {}", c.broken, c.of, after.unwrap_or_default());
        format!("    {broken:23} {}", c.claim)
    };
    let mut lines = vec![match r.assumption.as_str() {
        "none" => format!("  {}: {}", r.theorem, r.instead),
        given_up => format!("  {} without \"{given_up}\": {}", r.theorem, r.instead),
    }];
    lines.extend(r.claims.iter().map(claim));
    lines
}
