//! Prediction against reality, pair by pair: `predictions.jsonl`.
//!
//! After a real optimizer step the pairs of its batch are scored again. A row sets three numbers in nats side by side,
//! for chosen and for rejected:
//!
//! ```text
//! predicted   first order, plain gradient descent at the step's rate, the pair's own gradients only
//! update      ⟨∇ log π, Δθ⟩ with Δθ what the optimizer did (AdamW, clipping, decay): exact first order
//! realised    the log-prob after the step minus before
//! ```
//!
//! `update` is wrong only where the log-prob bends over the length of the step; `predicted` is wrong besides wherever
//! the optimizer does not follow the gradient. The caption says which of the two holds, by the bounds of [`Fit::holds`].

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::diagnosis::{Fit, median};
use crate::figure::{Cell, Figure, Kind, MAX_ROWS, Panel, Role, Series, Table};
use crate::jsonl;
use crate::page::number;
use crate::record::RunRecord;

const FILE: &str = "predictions.jsonl";
const SIDES: [(&str, Role); 2] = [("chosen", Role::Chosen), ("rejected", Role::Rejected)];

/// Changes of this size, in nats, are not far from what rounding does to a sum of 32-bit log-probs.
const NEAR_ROUNDING: f64 = 1e-3;

/// One pair at one step, nats; what is not finite or not written is NaN.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prediction {
    predicted: [f64; 2],
    update: [f64; 2],
    realised: [f64; 2],
}

/// (step, row index) → the pair.
pub(crate) type Predictions = BTreeMap<(u64, u64), Prediction>;

#[derive(Deserialize)]
struct Row {
    step: u64,
    index: u64,
    predicted_chosen: Option<f64>,
    predicted_rejected: Option<f64>,
    update_chosen: Option<f64>,
    update_rejected: Option<f64>,
    realised_chosen: Option<f64>,
    realised_rejected: Option<f64>,
}

/// The run's rows, and notes on damage.
pub(crate) fn read(dir: &Path) -> (Predictions, Vec<String>) {
    let (rows, notes) = jsonl::read::<Row>(dir, FILE);
    let mut predictions = Predictions::new();
    for row in rows {
        let last = predictions.last_key_value().map(|((step, _), _)| *step);
        if last.is_some_and(|last| row.step < last) {
            // A resumed run: what the abandoned one had written from here on no longer counts.
            predictions.split_off(&(row.step, 0));
        }
        let pair =
            |chosen: Option<f64>, rejected| [chosen, rejected].map(|x| x.unwrap_or(f64::NAN));
        let prediction = Prediction {
            predicted: pair(row.predicted_chosen, row.predicted_rejected),
            update: pair(row.update_chosen, row.update_rejected),
            realised: pair(row.realised_chosen, row.realised_rejected),
        };
        predictions.insert((row.step, row.index), prediction);
    }
    (predictions, notes)
}

/// Its numbers for the caption.
fn numbers(fit: Fit) -> String {
    let (correlation, ratio) = (fit.correlation, number(fit.ratio));
    format!("correlation {correlation:.2}, median realised / expected {ratio}")
        .replace(" -", " \u{2212}")
}

fn points(
    predictions: &Predictions,
    side: usize,
    expected: fn(&Prediction) -> [f64; 2],
) -> Vec<(f64, f64)> {
    let points = predictions
        .values()
        .map(|pair| (expected(pair)[side], pair.realised[side]));
    points
        .filter(|(x, y)| x.is_finite() && y.is_finite())
        .collect()
}

/// One way of expecting a change.
struct Expectation {
    column: &'static str,
    title: &'static str,
    x_label: &'static str,
    of: fn(&Prediction) -> [f64; 2],
}

const EXPECTATIONS: [Expectation; 2] = [
    Expectation {
        column: "predicted",
        title: "Plain gradient step",
        x_label: "predicted for gradient descent, nats",
        of: |pair| pair.predicted,
    },
    Expectation {
        column: "update",
        title: "The update that was made",
        x_label: "first order of the actual update, nats",
        of: |pair| pair.update,
    },
];

/// The scatter of both expectations; `None` without pairs.
pub(crate) fn figure(predictions: &Predictions, run: &RunRecord) -> Option<Figure> {
    let mut caption = "Each point is a pair of a step's batch, scored again after the step. Left: what one step of plain \
                       gradient descent on that pair alone would do to first order. Right: the first order of the update \
                       that the optimizer made, ⟨∇ log π, Δθ⟩, in which its metric, clipping and the whole batch are \
                       contained. On the dashed line expectation and reality agree."
        .to_string();
    let mut panels = Vec::new();
    let mut fits = [[None; 2]; 2];
    for (which, expectation) in EXPECTATIONS.iter().enumerate() {
        let mut panel = Panel {
            kind: Kind::Scatter,
            guide: true,
            x_label: expectation.x_label.into(),
            ..Panel::over_steps(expectation.title, "realised change, nats")
        };
        let mut words = Vec::new();
        for (at, (side, role)) in SIDES.into_iter().enumerate() {
            let points = points(predictions, at, expectation.of);
            if points.is_empty() {
                continue;
            }
            let fit = Fit::of(&points);
            words.extend(fit.map(|fit| format!("{side} {}", numbers(fit))));
            fits[which][at] = fit;
            let (x, y) = (
                format!("{}_{side}", expectation.column),
                format!("realised_{side}"),
            );
            panel.series.push(Series {
                rows: BTreeMap::new(),
                ..Series::new(side, role, ("", ""), &x, &y)
            });
        }
        if !words.is_empty() {
            caption += &format!(" {}: {}.", expectation.title, words.join("; "));
        }
        panels.extend(Some(panel).filter(|panel| !panel.series.is_empty()));
    }
    if panels.is_empty() {
        return None;
    }
    caption += &format!(" {}", judgement(predictions, fits, run));
    let (csv, every) = table(predictions);
    if every > 1 {
        let count = predictions.len();
        caption += &format!(" One in {every} pairs is drawn; the numbers here are of all {count}.");
    }
    Some(Figure {
        id: "predictions".into(),
        title: "Prediction against reality, pair by pair".into(),
        caption,
        command: run.command(),
        panels,
        csv,
    })
}

/// Which of the two first orders held, and why one may not have.
fn judgement(predictions: &Predictions, fits: [[Option<Fit>; 2]; 2], run: &RunRecord) -> String {
    let failing = |which: usize| -> Option<Vec<&str>> {
        let known = fits[which].iter().zip(SIDES);
        let known: Vec<_> = known
            .filter_map(|(fit, (side, _))| Some(((*fit)?, side)))
            .collect();
        let failed = known.iter().filter(|(fit, _)| !fit.holds());
        (!known.is_empty()).then(|| failed.map(|(_, side)| *side).collect())
    };
    let (Some(plain), Some(update)) = (failing(0), failing(1)) else {
        return "Too few pairs were measured, or too few moved, to say whether first order holds."
            .to_string();
    };
    let optimizer = run
        .settings
        .get("optim")
        .unwrap_or_else(|| "the optimizer".to_string());
    let gradient_descent = optimizer == "sgd";
    let wrong_metric = if gradient_descent {
        "clipping, momentum and the other pairs of the batch are not in it".to_string()
    } else {
        format!(
            "{optimizer} steps in another metric than gradient descent, so that the prediction has the wrong scale \
             while the update's first order has not, and the other pairs of the batch are not in it"
        )
    };
    if update.is_empty() {
        return match plain.is_empty() {
            true => "First order holds for both.".to_string(),
            false => format!(
                "First order fails for the plain gradient step ({}) and holds for the update that was made: {wrong_metric}.",
                plain.join(" and ")
            ),
        };
    }
    let rate = run
        .settings
        .get("learning_rate")
        .map(|rate| format!(" (learning rate {rate})"))
        .unwrap_or_default();
    let why = if typical_change(predictions).is_some_and(|change| change < NEAR_ROUNDING) {
        "the changes are so small that rounding of the log-probs may hide them".to_string()
    } else {
        format!(
            "the step{rate} is so long that the log-probs bend on the way, and no straight line through its start can \
             tell its end; a smaller learning rate brings both closer"
        )
    };
    let also = if plain.is_empty() {
        ""
    } else {
        " For the plain gradient step it fails as well."
    };
    format!(
        "First order fails even for the update that was made ({}): {why}.{also}",
        update.join(" and ")
    )
}

/// Median size of a realised change.
fn typical_change(predictions: &Predictions) -> Option<f64> {
    let changes = predictions.values().flat_map(|pair| pair.realised);
    let finite = changes.filter(|change| change.is_finite());
    median(&finite.map(f64::abs).collect::<Vec<_>>())
}

/// The pairs as CSV, and the k for which one in k stands in it.
fn table(predictions: &Predictions) -> (String, usize) {
    let every = predictions.len().div_ceil(MAX_ROWS).max(1);
    let mut table = Table::with_header(&[
        "step",
        "index",
        "predicted_chosen",
        "update_chosen",
        "realised_chosen",
        "predicted_rejected",
        "update_rejected",
        "realised_rejected",
    ]);
    for ((step, index), pair) in predictions.iter().step_by(every) {
        let mut cells = vec![Cell::Number(*step as f64), Cell::Number(*index as f64)];
        for at in 0..SIDES.len() {
            let numbers = [pair.predicted[at], pair.update[at], pair.realised[at]];
            cells.extend(numbers.map(Cell::Number));
        }
        table.push(&cells);
    }
    (table.into_csv(), every)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    /// Ten pairs of which `predicted` = scale · realised and `update` = bend · realised.
    fn caption(yaml: &str, scale: f64, bend: f64, size: f64) -> String {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("metrics.jsonl"),
            "{\"step\":1,\"loss\":1}\n",
        )
        .unwrap();
        let mut lines = String::new();
        for index in 0..10 {
            let y = size * (f64::from(index) - 3.0);
            lines += &format!(
                "{{\"step\":1,\"index\":{index},\"predicted_chosen\":{},\"predicted_rejected\":{},\
                 \"update_chosen\":{},\"update_rejected\":{},\"realised_chosen\":{y},\"realised_rejected\":{y}}}\n",
                scale * y,
                scale * y,
                bend * y,
                bend * y,
            );
        }
        std::fs::write(dir.path().join(FILE), lines).unwrap();
        let mut run = RunRecord::read(dir.path()).unwrap();
        run.settings = Settings::of_text(yaml);
        let (predictions, notes) = read(dir.path());
        assert!(notes.is_empty());
        figure(&predictions, &run).unwrap().caption
    }

    #[test]
    fn where_first_order_holds_it_is_said() {
        let caption = caption("optim: sgd", 1.1, 0.9, 0.1);
        assert!(
            caption.ends_with("First order holds for both."),
            "{caption}"
        );
        assert!(caption.contains(
            "Plain gradient step: chosen correlation 1.00, median realised / expected 0.9091;"
        ));
    }

    #[test]
    fn an_optimizer_in_another_metric_is_named() {
        let adam = caption("optim: adamw_torch", 0.01, 1.0, 0.1);
        assert!(
            adam.contains("First order fails for the plain gradient step (chosen and rejected) and holds for the update")
                && adam.contains("adamw_torch steps in another metric")
                && adam.contains("median realised / expected 100.0"),
            "{adam}"
        );
        let sgd = caption("optim: sgd", 0.01, 1.0, 0.1);
        assert!(!sgd.contains("metric than") && sgd.contains("clipping, momentum"));
    }

    #[test]
    fn a_step_too_long_or_too_small_is_told_apart() {
        let long = caption("learning_rate: 0.01", 0.01, 2.0, 0.1);
        assert!(
            long.contains("fails even for the update that was made (chosen and rejected): the step (learning rate 0.01) is so long"),
            "{long}"
        );
        let small = caption("", 0.01, 2.0, 1e-5);
        assert!(
            small.contains("rounding of the log-probs may hide them"),
            "{small}"
        );
    }

    #[test]
    fn a_resumed_run_and_gaps_are_read_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let row = |step, index, chosen: &str| {
            format!("{{\"step\":{step},\"index\":{index},\"realised_chosen\":{chosen}}}\n")
        };
        let text =
            row(1, 4, "1") + &row(5, 4, "2") + &row(9, 2, "3") + &row(5, 4, "NaN") + "{\"step\":";
        std::fs::write(dir.path().join(FILE), text).unwrap();
        let (rows, notes) = read(dir.path());
        assert_eq!(rows.keys().copied().collect::<Vec<_>>(), [(1, 4), (5, 4)]);
        assert!(rows[&(5, 4)].realised[0].is_nan() && rows[&(1, 4)].update[1].is_nan());
        assert!(notes[0].contains("1 unreadable line in predictions.jsonl"));
        let run = {
            std::fs::write(
                dir.path().join("metrics.jsonl"),
                "{\"step\":1,\"loss\":1}\n",
            )
            .unwrap();
            RunRecord::read(dir.path()).unwrap()
        };
        assert!(
            figure(&rows, &run).is_none(),
            "no point has both coordinates"
        );
    }
}
