//! Predicted against realised directions: how often a step moved its own pairs the way plain gradient descent foretold.

use super::results::{Prediction, Results};
use crate::figure::{Cell, Figure, Kind, Panel, Role, Series, Table};

const SIDES: [(&str, &str, Role); 2] = [
    ("Chosen", "chosen", Role::Chosen),
    ("Rejected", "rejected", Role::Rejected),
];
/// Value of the column of seeds for all of them together.
const ALL: &str = "all";

/// Agreeing steps and measured steps, of chosen and of rejected.
type Counts = [(usize, usize); 2];

/// Bars of all arms; `None` where no step was measured.
pub(crate) fn figure(of: &Results) -> Option<Figure> {
    let mut table = Table::with_header(&[
        "arm",
        "seed",
        "chosen_steps",
        "chosen",
        "rejected_steps",
        "rejected",
    ]);
    let mut any = [false; 2];
    for arm in of.grouped_arms() {
        let of_seeds = arm
            .runs
            .iter()
            .map(|run| (run.seed.to_string(), counts(&run.predictions)));
        let of_seeds: Vec<(String, Counts)> = of_seeds.collect();
        let all = of_seeds.iter().fold(Counts::default(), |all, (_, one)| {
            [0, 1].map(|side| (all[side].0 + one[side].0, all[side].1 + one[side].1))
        });
        any = [0, 1].map(|side| any[side] || all[side].1 > 0);
        let rows = std::iter::once((ALL.to_string(), all)).chain(of_seeds);
        for (seed, counts) in rows.filter(|(_, counts)| counts[0].1 + counts[1].1 > 0) {
            let mut cells = vec![Cell::Text(arm.name.clone()), Cell::Text(seed)];
            for (agreeing, measured) in counts {
                let share = (measured > 0).then(|| agreeing as f64 / measured as f64);
                cells.push(Cell::Number(measured as f64));
                cells.push(share.map_or(Cell::Empty, Cell::Number));
            }
            table.push(&cells);
        }
    }
    let panels = SIDES.into_iter().zip(any).filter(|(_, any)| *any);
    let panels: Vec<Panel> = panels
        .map(|((title, column, role), _)| Panel {
            kind: Kind::Bars,
            percent: true,
            x_label: "share of measured steps".into(),
            series: vec![Series::new(column, role, ("seed", ALL), "arm", column)],
            ..Panel::over_steps(title, "steps whose realised change has the predicted sign")
        })
        .collect();
    (!panels.is_empty()).then(|| Figure {
        id: "directions".into(),
        title: "Predicted against realised directions".into(),
        caption: "Of the measured training steps: how often the mean change of the step's own pairs had the sign that the \
                  first order of plain gradient descent on each pair alone predicts. Half is chance where signs are balanced; \
                  where the step's optimizer or the other pairs of the batch decide, it may be less."
            .into(),
        command: of.command.clone(),
        panels,
        csv: table.into_csv(),
    })
}

fn counts(predictions: &[Prediction]) -> Counts {
    let agreeing = |side: fn(&Prediction) -> Option<(f64, f64)>| {
        let known = predictions.iter().filter_map(side);
        let agree: Vec<bool> = known
            .map(|(predicted, realised)| sign(predicted) == sign(realised))
            .collect();
        (agree.iter().filter(|agree| **agree).count(), agree.len())
    };
    [
        agreeing(|step| step.predicted_chosen.zip(step.realised_chosen)),
        agreeing(|step| step.predicted_rejected.zip(step.realised_rejected)),
    ]
}

/// −1, 0 or 1.
fn sign(value: f64) -> i8 {
    i8::from(value > 0.0) - i8::from(value < 0.0)
}
