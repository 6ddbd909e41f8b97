//! Symmetries that whole families of objectives have.

mod common;

use common::{any_pair, every_objective};
use proptest::prelude::*;
use unbraid_objective::{Objective, ObjectiveOptions, PairLogps, PairLoss};

/// Sums in another order, log-probs up to 100 nats: a few hundred ulps of them.
const ROUNDING: f64 = 1e-11;

fn close(a: PairLoss, b: PairLoss, scale: f64) -> bool {
    let near = |a: f64, b: f64| (a - b).abs() <= ROUNDING * (scale + a.abs().max(b.abs()));
    near(a.loss, b.loss) && near(a.d_w, b.d_w) && near(a.d_l, b.d_l)
}

fn build(name: &str, options: &ObjectiveOptions) -> Objective {
    Objective::from_name(name, options).expect("a known name")
}

fn one(objective: &Objective, pair: PairLogps) -> PairLoss {
    objective.evaluate(&[pair]).expect("finite")[0]
}

proptest! {
    #[test]
    fn objectives_that_say_so_may_be_evaluated_in_parts(a in any_pair(), b in any_pair(), c in any_pair()) {
        for (name, objective) in every_objective() {
            let whole = objective.evaluate(&[a, b, c]).expect("finite");
            let alone: Vec<_> = [a, b, c].into_iter().map(|pair| one(&objective, pair)).collect();
            let same = whole.iter().zip(&alone).all(|(x, y)| close(*x, *y, 100.0));
            prop_assert!(same || objective.reads_batch(), "{}: {:?} {:?}", name, whole, alone);
        }
    }
}

proptest! {
    #[test]
    fn swapping_the_pair_negates_the_margin(pair in any_pair()) {
        prop_assert_eq!(pair.margin(), -pair.swapped().margin());
        // −log σ(u) + log σ(−u) = −u, and σ(u) + σ(−u) = 1: so the losses differ by the margin and the
        // weights add up to β.
        let options = ObjectiveOptions { beta: Some(0.3), simpo_gamma: Some(0.0), rdpo_alpha: Some(0.05), ..Default::default() };
        for name in ["sigmoid", "rdpo", "sigmoid_norm", "simpo"] {
            let objective = build(name, &options);
            let (straight, swapped) = (one(&objective, pair), one(&objective, pair.swapped()));
            let longer = pair.chosen_len as f64 - pair.rejected_len as f64;
            let (u, slope) = match name {
                "sigmoid" => (0.3 * pair.margin(), 0.3),
                "rdpo" => (0.3 * pair.margin() + 0.05 * longer, 0.3),
                "simpo" => (0.3 * (pair.chosen_mean() - pair.rejected_mean()), 0.3 / pair.chosen_len as f64),
                _ => {
                    let (w, l) = (pair.chosen_log_ratio() / pair.chosen_len as f64, pair.rejected_log_ratio() / pair.rejected_len as f64);
                    (0.3 * (w - l), 0.3 / pair.chosen_len as f64)
                }
            };
            prop_assert!((straight.loss - swapped.loss + u).abs() < ROUNDING * 100.0, "{}", name);
            // The swapped pair's rejected completion is this pair's chosen one.
            prop_assert!((straight.d_w + swapped.d_l - slope).abs() < ROUNDING, "{}", name);
        }
    }

    #[test]
    fn margin_losses_ignore_a_shift_of_both_logps(pair in any_pair(), shift in -50.0..50.0f64) {
        let moved = PairLogps { chosen: pair.chosen + shift, rejected: pair.rejected + shift, ..pair };
        let options = ObjectiveOptions { length_average: Some(false), label_smoothing: Some(0.1), ..Default::default() };
        for name in ["sigmoid", "cdpo", "robust", "rdpo", "ipo", "hinge", "exo_pair", "discopop", "aot"] {
            let objective = build(name, &options);
            let (a, b) = (one(&objective, pair), one(&objective, moved));
            // discopop multiplies the margin's rounding by 1/τ = 20.
            prop_assert!(close(a, b, 100.0), "{}: {:?} {:?}", name, a, b);
        }
    }

    #[test]
    fn only_the_log_ratio_of_each_side_counts(pair in any_pair(), shift in -50.0..50.0f64) {
        let moved = PairLogps { rejected: pair.rejected + shift, ref_rejected: pair.ref_rejected + shift, ..pair };
        for (label, objective) in every_objective() {
            if objective.needs_reference() && objective.name() != "aot" {
                let (a, b) = (one(&objective, pair), one(&objective, moved));
                // sppo's squares of 500 nats scale the rounding.
                prop_assert!(close(a, b, 1e3), "{}: {:?} {:?}", label, a, b);
            }
        }
    }

    #[test]
    fn order_and_company_of_the_batch_change_nothing(batch in prop::collection::vec(any_pair(), 2..6)) {
        let reversed: Vec<_> = batch.iter().rev().copied().collect();
        for (label, objective) in every_objective() {
            let together = objective.evaluate(&batch).unwrap();
            let mut backwards = objective.evaluate(&reversed).unwrap();
            backwards.reverse();
            for (a, b) in together.iter().zip(backwards) {
                prop_assert!(close(*a, b, 1.0), "{} depends on the order", label);
            }
            // These look across the batch by definition.
            if !["aot", "aot_unpaired", "cpo", "orpo", "rpo", "sft"].contains(&&*objective.name()) {
                for (pair, in_batch) in batch.iter().zip(&together) {
                    prop_assert_eq!(one(&objective, *pair), *in_batch, "{} depends on its company", label);
                }
            }
        }
    }

    #[test]
    fn a_weighted_sum_is_the_sum(batch in prop::collection::vec(any_pair(), 1..4), w in -2.0..2.0f64, v in -2.0..2.0f64) {
        let options = ObjectiveOptions::default();
        let sum = Objective::from_names(&["simpo", "sft"], &[w, v], &options).unwrap();
        let parts = (build("simpo", &options).evaluate(&batch).unwrap(), build("sft", &options).evaluate(&batch).unwrap());
        for (i, got) in sum.evaluate(&batch).unwrap().into_iter().enumerate() {
            prop_assert!(close(got, parts.0[i].scaled(w).plus(parts.1[i].scaled(v)), 1.0));
        }
    }

    #[test]
    fn margin_objectives_push_in_the_right_direction(pair in any_pair()) {
        // Those whose coefficients are never negative.
        for name in ["sigmoid", "robust", "sigmoid_norm", "rdpo", "simpo", "rrhf", "slic", "hinge", "cpo", "dpop", "kto", "bco_pair",
                     "apo_zero", "orpo", "rpo", "alphapo", "sft", "aot", "aot_unpaired"] {
            let got = one(&build(name, &ObjectiveOptions::default()), pair);
            prop_assert!(got.d_w >= 0.0 && got.d_l >= 0.0, "{}: {:?}", name, got);
        }
    }
}

#[test]
fn reversal_past_the_target() {
    // ipo: h = 20 past 1/(2β) = 5. exo: βh = 20 past log 999 = 6.9. sppo with β ½: both sides past ±1.
    let pair = PairLogps {
        chosen: 100.0,
        rejected: -100.0,
        ref_chosen: 0.0,
        ref_rejected: 0.0,
        chosen_len: 10,
        rejected_len: 10,
    };
    for (name, beta) in [
        ("ipo", 0.1),
        ("exo_pair", 0.1),
        ("sppo", 0.5),
        ("cdpo", 0.1),
    ] {
        let got = one(
            &build(
                name,
                &ObjectiveOptions {
                    beta: Some(beta),
                    ..Default::default()
                },
            ),
            pair,
        );
        assert!(got.d_w < 0.0 && got.d_l < 0.0, "{name}: {got:?}");
    }
}
