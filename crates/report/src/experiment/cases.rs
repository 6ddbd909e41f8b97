//! Cases of held-out pairs (paper Table 1): what the gradients foretell at three moments, and what training did.

use super::outcome::{case, pairs};
use super::results::{Arm, Results, Subject};
use crate::diagnosis::Case;
use crate::figure::{Cell, Figure, Kind, Panel, Series, Table};

/// Shares in the order of [`Case::ALL`].
type Shares = [f64; 5];

const FORETOLD: [&str; 3] = ["geometry/ideal", "geometry/both_fall", "geometry/both_rise"];
const MOMENTS: [&str; 4] = ["start", "middle", "end", "realised"];

/// Stacked bars of all arms, a panel a moment.
pub(crate) fn figure(of: &Results) -> Option<Figure> {
    let arms = of.grouped_arms();
    let header = ["when", "arm", "step"].into_iter();
    let header: Vec<&str> = header.chain(Case::ALL.map(Case::key)).collect();
    let mut table = Table::with_header(&header);
    let mut panels = Vec::new();
    for (at, when) in MOMENTS.into_iter().enumerate() {
        let found = arms.iter().filter_map(|arm| {
            let (step, shares) = match when {
                "realised" => (None, realised(arm)?),
                _ => foretold(arm, at).map(|(step, shares)| (Some(step), shares))?,
            };
            Some((arm, step, shares))
        });
        let found: Vec<_> = found.collect();
        for (arm, step, shares) in &found {
            let mut cells = vec![Cell::Text(when.into()), Cell::Text(arm.name.clone())];
            cells.push(step.map_or(Cell::Empty, |step| Cell::Number(step as f64)));
            cells.extend(shares.map(Cell::Number));
            table.push(&cells);
        }
        let present = |case: &Case| {
            found
                .iter()
                .any(|(_, _, shares)| shares[*case as usize] > 0.0)
        };
        let cases = Case::ALL.into_iter().filter(present);
        let series = cases
            .map(|case| Series::new(case.name(), case.role(), ("when", when), "arm", case.key()));
        let steps = found.iter().filter_map(|(_, step, _)| *step);
        let panel = Panel {
            kind: Kind::StackedBars,
            percent: true,
            x_label: "share of pairs".into(),
            series: series.collect(),
            ..Panel::over_steps(&title(when, steps), unit(when))
        };
        panels.extend(Some(panel).filter(|panel| !panel.series.is_empty()));
    }
    let each = match of.subject() {
        Subject::Sentiment => "style, with and without remedies",
        Subject::Objectives => "objective and remedy",
    };
    (!panels.is_empty()).then(|| Figure {
        id: "cases".into(),
        title: "Cases of the held-out pairs".into(),
        caption: format!(
            "For each {each}: which way one step of plain gradient descent on a pair alone would move its two log-probs to first \
             order, at the start, in the middle and at the end of training, and which way the whole training moved them. \
             Adam's steps, the pairs of a batch and the pairs' common tokens make the two differ."
        ),
        command: of.command.clone(),
        panels,
        csv: table.into_csv(),
    })
}

fn title(when: &str, steps: impl Iterator<Item = u64>) -> String {
    let mut steps: Vec<u64> = steps.collect();
    steps.sort_unstable();
    steps.dedup();
    match (when, &steps[..]) {
        ("realised", _) => "What training did".into(),
        (_, [step]) => format!("Foretold at the {when} (step {step})")
            .replace("at the middle", "in the middle"),
        _ => format!("Foretold at the {when}").replace("at the middle", "in the middle"),
    }
}

fn unit(when: &str) -> &'static str {
    match when {
        "realised" => "signs of the changes from start to end",
        _ => "signs of the first-order changes",
    }
}

/// Shares at the first, the middle or the last evaluation with gradients; none where that repeats another one.
fn foretold(arm: &Arm, moment: usize) -> Option<(u64, Shares)> {
    let means = FORETOLD.map(|key| arm.means(key));
    let complete = means[0]
        .keys()
        .filter(|step| means.iter().all(|of_key| of_key.contains_key(step)));
    let steps: Vec<u64> = complete.copied().collect();
    let (first, last) = (*steps.first()?, *steps.last()?);
    let inner = || {
        let inner = steps.iter().filter(|step| **step > first && **step < last);
        inner.min_by_key(|step| (first + last).abs_diff(2 * **step))
    };
    let step = match moment {
        0 => first,
        1 => *inner()?,
        _ => Some(last).filter(|last| *last > first)?,
    };
    let mut shares = [0.0; 5];
    for (share, of_key) in shares.iter_mut().zip(&means) {
        *share = of_key[&step];
    }
    // What is none of the three stands still or moves in reverse: the evaluation does not tell the two apart.
    let rest = 1.0 - shares.iter().sum::<f64>();
    shares[Case::Still as usize] = if rest > 0.005 { rest } else { 0.0 };
    Some((step, shares))
}

/// Shares of what training did to the pairs of all seeds.
fn realised(arm: &Arm) -> Option<Shares> {
    let mut counts = [0.0; 5];
    let outcomes = arm.runs.iter().map(|run| &run.outcome);
    for (chosen, rejected) in outcomes.flat_map(pairs) {
        counts[case(chosen, rejected).unwrap_or(Case::Still) as usize] += 1.0;
    }
    let total: f64 = counts.iter().sum();
    (total > 0.0).then(|| counts.map(|count| count / total))
}
