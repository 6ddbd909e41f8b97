//! d_w and d_l of every objective against central differences of its loss, on random pairs and far outside.

mod common;

use common::{any_pair, every_objective};
use proptest::prelude::*;
use unbraid_objective::{Objective, PairLogps};

/// Step of the five-point difference, nats: truncation error O(STEP⁴), rounding error ε·loss/STEP.
const STEP: f64 = 1e-4;
/// Relative to the batch's largest coefficient: above the truncation error of the sharpest loss here
/// (discopop, τ 0.05, on forward-KL scores).
const RELATIVE: f64 = 2e-6;

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
    let (near, far) = (
        moved(STEP) - moved(-STEP),
        moved(2.0 * STEP) - moved(-2.0 * STEP),
    );
    (8.0 * near - far) / (12.0 * STEP)
}

/// A corner of a piecewise loss within the step: no derivative to compare.
fn at_a_corner(objective: &Objective, batch: &[PairLogps], i: usize, chosen: bool) -> bool {
    let at = |by: f64| {
        let mut batch = batch.to_vec();
        if chosen {
            batch[i].chosen += by
        } else {
            batch[i].rejected += by
        }
        let loss = objective.evaluate(&batch).expect("finite")[i];
        (loss.d_w, loss.d_l)
    };
    match &*objective.name() {
        // Either coefficient (of every such corner, one) changes by more than half.
        "hinge" | "slic" | "rrhf" | "dpop" => {
            let (below, above) = (at(-3.0 * STEP), at(3.0 * STEP));
            let jumps = |a: f64, b: f64| (a - b).abs() > 0.5 * a.abs().max(b.abs());
            jumps(below.0, above.0) || jumps(below.1, above.1)
        }
        "aot" => ranks_cross(batch, |pair| pair.chosen - pair.rejected),
        "aot_unpaired" => {
            ranks_cross(batch, PairLogps::chosen_log_ratio)
                || ranks_cross(batch, PairLogps::rejected_log_ratio)
        }
        _ => false,
    }
}

/// Whether two pairs are so near in `key` that the step can exchange their ranks.
fn ranks_cross(batch: &[PairLogps], key: impl Fn(&PairLogps) -> f64) -> bool {
    let mut keys: Vec<f64> = batch.iter().map(key).collect();
    keys.sort_by(f64::total_cmp);
    keys.windows(2)
        .any(|neighbours| neighbours[1] - neighbours[0] < 4.0 * STEP)
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
    // βh = 500 with β = 0.1: dpo's d = β e^−500 to the last bits, not 0; so is apo_zero's β σ'(∓500), on the lower side
    // and on the upper, where σ(1 − σ) rounds to 0.
    let tail = 0.1 * (-500.0f64).exp();
    let of = |name: &str, i: usize| {
        let objective = Objective::from_name(name, &Default::default()).unwrap();
        objective.evaluate(&extreme_pairs()[i..=i]).unwrap()[0]
    };
    let up = PairLogps {
        chosen: 4990.0,
        ..extreme_pairs()[0]
    };
    let zero = Objective::from_name("apo_zero", &Default::default()).unwrap();
    let saturated = zero.evaluate(&[up]).unwrap()[0].d_w;
    for got in [
        of("dpo", 0).d_w,
        of("apo_zero", 0).d_l,
        of("apo_zero", 1).d_w,
        saturated,
    ] {
        assert!((got / tail - 1.0).abs() < 1e-12, "{got:e} {tail:e}");
    }
}
