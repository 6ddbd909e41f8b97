//! An experiment in the terminal: claims, then a line an arm; at most a hundred characters a line, no colour.

use std::path::Path;

use super::claims::counted;
use super::estimate::{digits, signed_digits};
use super::outcome::Judged;
use super::results::{Arm, Claim, Results};
use crate::error::Result;
use crate::terminal::printable;
use crate::verdict::percent;

const WIDTH: usize = 100;

/// The claims, `claim -> measured [interval] -> holds | does not | unclear`, and one line for each arm that has run.
///
/// Lines have at most a hundred characters; a claim that needs more goes on in an indented one. No newline at the end.
///
/// # Errors
/// As [`write_experiment_report`](crate::write_experiment_report), except that nothing is written.
pub fn experiment_summary(dir: &Path) -> Result<String> {
    let results = Results::read(dir)?;
    let mut lines = vec![match results.claims.is_empty() {
        true => "no claim has been judged yet".to_string(),
        false => counted(&results.claims),
    }];
    results
        .claims
        .iter()
        .for_each(|claim| lines.extend(claim_lines(claim)));
    let arms = results.grouped_arms();
    let room = arms
        .iter()
        .map(|arm| arm.name.chars().count())
        .max()
        .unwrap_or(0);
    lines.extend(arms.into_iter().map(|arm| arm_line(arm, room.min(26))));
    if results.arms.is_empty() {
        lines.push("no arm has finished yet".into());
    }
    let lines = lines.iter().map(|line| printable(line));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// One line where it fits, otherwise the claim in lines of its own and the finding below.
fn claim_lines(claim: &Claim) -> Vec<String> {
    let found = format!("-> {} -> {}", claim.numbers(), claim.verdict.words());
    let one = format!("  {} {found}", claim.claim);
    if one.chars().count() <= WIDTH {
        return vec![one];
    }
    let mut lines = vec![String::from(" ")];
    for word in claim.claim.split_whitespace() {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 4 && line + 1 + word.chars().count() > WIDTH {
            lines.push("   ".into());
        }
        if let Some(line) = lines.last_mut() {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.push(format!("    {found}"));
    lines
}

fn arm_line(arm: &Arm, room: usize) -> String {
    let of = Judged::of(arm);
    let change = |at: usize| {
        of.change[at]
            .as_ref()
            .map(|change| signed_digits(change.mean))
    };
    let parts = [
        change(0).map(|text| format!("chosen {text}")),
        change(1).map(|text| format!("rejected {text}")),
        of.reward_accuracy
            .map(|share| format!("accuracy {}", percent(share))),
        of.kl.map(|kl| format!("KL {}", digits(kl))),
        Some(match arm.runs.len() {
            1 => "1 seed".to_string(),
            count => format!("{count} seeds"),
        }),
        of.seconds.map(|seconds| format!("{} s", digits(seconds))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let line = format!("  {:<room$}  {}", arm.name, parts.join(", "));
    line.replace('\u{a0}', " ").chars().take(WIDTH).collect()
}
