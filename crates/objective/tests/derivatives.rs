//! d_w and d_l of every objective against central differences of its loss, on random pairs and far outside.

mod common;

use common::{any_pair, every_objective};
use proptest::prelude::*;
use unbraid_objective::{Objective, PairLogps};

/// Step of the difference, nats. The truncation error is O(STEP²) of the loss's third derivative, the
/// rounding error ε·loss/STEP.
const STEP: f64 = 1e-4;
/// Relative to the batch's largest coefficient: above the truncation error of the sharpest loss here
/// (discopop, τ 0.05).
const RELATIVE: f64 = 2e-5;

fn total(objective: &Objective, batch: &[PairLogps]) -> f64 {
    objective
        .evaluate(batch)
        .expect("finite")
        .iter()
        .map(|l| l.loss)
        .sum()
}

/// Σℓ's derivative by the i-th pair's chosen (or rejected) log-prob.
fn slope(objective: &Objective, batch: &[PairLogps], i: usize, chosen: bool) -> f64 {
    let moved = |by: f64| {
        let mut batch = batch.to_vec();
        if chosen {
            batch[i].chosen += by
        } else {
            batch[i].rejected += by
        }
        total(objective, &batch)
    };
    (moved(STEP) - moved(-STEP)) / (2.0 * STEP)
}

/// A corner of a piecewise loss (or a crossing of two ranks) within the step: no derivative to compare.
fn at_a_corner(objective: &Objective, batch: &[PairLogps], i: usize, chosen: bool) -> bool {
    let at = |by: f64| {
        let mut batch = batch.to_vec();
        if chosen {
            batch[i].chosen += by
        } else {
            batch[i].rejected += by
        }
        let losses = objective.evaluate(&batch).expect("finite");
        losses
            .iter()
            .map(|l| l.d_w.abs() + l.d_l.abs())
            .sum::<f64>()
    };
    let (below, above) = (at(-2.0 * STEP), at(2.0 * STEP));
    (below - above).abs() > 0.02 * (below.abs() + above.abs()) && objective_has_corners(objective)
}

fn objective_has_corners(objective: &Objective) -> bool {
    ["hinge", "slic", "rrhf", "dpop", "aot", "aot_unpaired"].contains(&&*objective.name())
}

fn check(label: &str, objective: &Objective, batch: &[PairLogps]) {
    let losses = objective.evaluate(batch).expect("finite");
    let scale = losses
        .iter()
        .map(|l| l.d_w.abs().max(l.d_l.abs()))
        .fold(0.0, f64::max);
    let rounding = 8.0 * f64::EPSILON * losses.iter().map(|l| l.loss.abs()).sum::<f64>() / STEP;
    for (i, loss) in losses.iter().enumerate() {
        for (chosen, ours) in [(true, -loss.d_w), (false, loss.d_l)] {
            let numeric = slope(objective, batch, i, chosen);
            let tolerance = RELATIVE * scale + rounding + 1e-10;
            assert!(
                (numeric - ours).abs() <= tolerance || at_a_corner(objective, batch, i, chosen),
                "{label}, pair {i}, chosen {chosen}: closed form {ours:e}, difference {numeric:e}, tolerance {tolerance:e}\n{batch:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn closed_forms_are_the_derivatives(batch in prop::collection::vec(any_pair(), 1..5)) {
        for (label, objective) in every_objective() {
            check(&label, &objective, &batch);
        }
    }
}

/// β·h = ±500 with β = 0.1 and each side's log-ratio ±5000; lengths that make the means extreme too.
fn extreme_pairs() -> Vec<PairLogps> {
    let pair = |chosen: f64, rejected: f64, len: usize| PairLogps {
        chosen,
        rejected,
        ref_chosen: -10.0,
        ref_rejected: -10.0,
        chosen_len: len,
        rejected_len: len,
    };
    vec![
        pair(-10.0, -5010.0, 40),
        pair(-5010.0, -10.0, 40),
        pair(-5010.0, -5010.0, 1),
        // Not nearer to 0, where orpo's odds curve within the step; orpo.rs tests 0 itself.
        pair(-0.05, -5010.0, 1),
        pair(-5010.0, -0.05, 1),
        PairLogps {
            ref_chosen: -5010.0,
            ref_rejected: -5010.0,
            ..pair(-0.3, -0.6, 3)
        },
    ]
}

#[test]
fn extreme_margins_are_finite_and_still_derivatives() {
    for (label, objective) in every_objective() {
        for pair in extreme_pairs() {
            // `evaluate` refuses anything that is not finite.
            check(&label, &objective, &[pair]);
        }
        objective
            .evaluate(&extreme_pairs())
            .unwrap_or_else(|error| panic!("{label}: {error}"));
    }
}

#[test]
fn saturated_coefficients_keep_their_tail() {
    // βh = 500 with β = 0.1: d = β e^−500 (to the last bits), not 0.
    let dpo = Objective::from_name("dpo", &Default::default()).unwrap();
    let got = dpo.evaluate(&extreme_pairs()[..1]).unwrap()[0];
    let want = 0.1 * (-500.0f64).exp();
    assert!((got.d_w / want - 1.0).abs() < 1e-12, "{} {want}", got.d_w);
}
