//! Conditions (9) and (10), Condition 1 as its special case, and the five cases of Table 1 with its degenerate ones.

use proptest::prelude::*;
use unbraid_objective::condition::{
    Case, Gram, band, case, chosen_does_not_fall, classify, predicted_change,
    rejected_does_not_rise,
};

/// Two gradients over a few parameters, of very different sizes, at any angle.
fn any_gradients() -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
    let vector = || (prop::collection::vec(-1.0..1.0f64, 4), -6.0..6.0f64);
    (vector(), vector(), 0.0..1.0f64).prop_map(|((w, w_size), (l, l_size), mix)| {
        // The mixture makes nearly parallel gradients common.
        let l: Vec<f64> = w
            .iter()
            .zip(&l)
            .map(|(w, l)| mix * w + (1.0 - mix) * l)
            .collect();
        let scale = |v: &[f64], size: f64| v.iter().map(|x| x * 10f64.powf(size)).collect();
        (scale(&w, w_size), scale(&l, l_size))
    })
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn gram(w: &[f64], l: &[f64]) -> Gram {
    Gram {
        ww: dot(w, w),
        ll: dot(l, l),
        wl: dot(w, l),
    }
}

fn any_coefficient() -> impl Strategy<Value = f64> {
    (-5.0..5.0f64).prop_map(|size| 10f64.powf(size))
}

proptest! {
    #[test]
    fn the_prediction_is_the_step((w, l) in any_gradients(), d_w in -3.0..3.0f64, d_l in -3.0..3.0f64) {
        // a_w = ⟨w, θ⟩ and a_l = ⟨l, θ⟩ are linear, so a step of −∇ℓ = d_w w − d_l l moves them exactly as predicted.
        let step: Vec<f64> = w.iter().zip(&l).map(|(w, l)| d_w * w - d_l * l).collect();
        let (delta_w, delta_l) = predicted_change(gram(&w, &l), d_w, d_l);
        let size = |v: &[f64]| dot(v, v).sqrt();
        let terms = d_w.abs() * size(&w) + d_l.abs() * size(&l);
        prop_assert!((dot(&step, &w) - delta_w).abs() <= 1e-14 * size(&w) * terms);
        prop_assert!((dot(&step, &l) - delta_l).abs() <= 1e-14 * size(&l) * terms);
    }

    #[test]
    fn conditions_are_the_signs((w, l) in any_gradients(), d_w in any_coefficient(), d_l in any_coefficient()) {
        let gram = gram(&w, &l);
        let (nine, ten) = (chosen_does_not_fall(gram, d_w, d_l), rejected_does_not_rise(gram, d_w, d_l));
        // In the paper's own form, away from equality.
        let away = |a: f64, b: f64| (a - b).abs() > 1e-12 * (a.abs() + b.abs());
        if away(gram.wl, d_w / d_l * gram.ww) {
            prop_assert_eq!(nine, gram.wl <= d_w / d_l * gram.ww);
        }
        if away(gram.wl, d_l / d_w * gram.ll) {
            prop_assert_eq!(ten, gram.wl <= d_l / d_w * gram.ll);
        }
        let expected = match (nine, ten) {
            (true, true) => Case::Ideal,
            (false, true) => Case::BothFall,
            (true, false) => Case::BothRise,
            (false, false) => Case::Reversed,
        };
        let got = case(gram, d_w, d_l);
        prop_assert!(got == expected || got == Case::Still);
        // Cauchy–Schwarz: both cannot fail.
        prop_assert_ne!(got, Case::Reversed);
    }

    #[test]
    fn condition_one_is_the_special_case_of_dpo((w, l) in any_gradients(), d in any_coefficient()) {
        let gram = gram(&w, &l);
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * (a.abs() + b.abs());
        prop_assume!(!near(gram.wl, gram.ww) && !near(gram.wl, gram.ll));
        let expected = if gram.wl > gram.ww {
            Case::BothFall
        } else if gram.wl > gram.ll {
            Case::BothRise
        } else {
            Case::Ideal
        };
        prop_assert_eq!(case(gram, d, d), expected);
    }

    #[test]
    fn the_objectives_own_margin_never_shrinks((w, l) in any_gradients(), d_w in -3.0..3.0f64, d_l in -3.0..3.0f64) {
        let (delta_w, delta_l) = predicted_change(gram(&w, &l), d_w, d_l);
        let slack = 1e-12 * (d_w * d_w * dot(&w, &w) + d_l * d_l * dot(&l, &l));
        prop_assert!(d_w * delta_w - d_l * delta_l >= -slack);
    }

    #[test]
    fn the_band_is_where_both_hold((w, l) in any_gradients(), position in 0.01..0.99f64) {
        let gram = gram(&w, &l);
        prop_assume!(gram.cosine() < 1.0 - 1e-9);
        let (low, high) = band(gram);
        prop_assert!(low <= high);
        if gram.wl <= 0.0 {
            prop_assert_eq!((low, high), (0.0, f64::INFINITY));
            prop_assert_eq!(case(gram, 10f64.powf(8.0 * position - 4.0), 1.0), Case::Ideal);
        } else {
            let inside = (low.ln() + position * (high.ln() - low.ln())).exp();
            prop_assert_eq!(case(gram, inside, 1.0), Case::Ideal);
            prop_assert_eq!(case(gram, low * 0.999, 1.0), Case::BothFall);
            prop_assert_eq!(case(gram, high * 1.001, 1.0), Case::BothRise);
        }
    }
}

#[test]
fn every_case_is_reached_and_named() {
    let gram = |ww, ll, wl| Gram { ww, ll, wl };
    let reached = [
        case(gram(1.0, 1.0, -0.5), 1.0, 1.0),
        case(gram(1.0, 9.0, 2.0), 1.0, 1.0),
        case(gram(9.0, 1.0, 2.0), 1.0, 1.0),
        case(gram(1.0, 1.0, 0.5), -1.0, -1.0),
        case(gram(1.0, 1.0, 0.5), 0.0, 0.0),
    ];
    assert_eq!(reached, Case::ALL);
    let names: Vec<_> = Case::ALL.iter().map(|case| case.as_str()).collect();
    assert_eq!(
        names,
        ["ideal", "both_fall", "both_rise", "reversed", "still"]
    );
}

#[test]
fn saturated_sides_follow_the_signs() {
    let gram = Gram {
        ww: 1.0,
        ll: 1.0,
        wl: 0.5,
    };
    // A likelihood term alone pulls both up where the gradients agree, and is ideal where they do not.
    assert_eq!(case(gram, 1.0, 0.0), Case::BothRise);
    assert_eq!(case(Gram { wl: -0.5, ..gram }, 1.0, 0.0), Case::Ideal);
    assert_eq!(case(Gram { wl: 0.0, ..gram }, 1.0, 0.0), Case::Ideal);
    // Only a push on the rejected one.
    assert_eq!(case(gram, 0.0, 1.0), Case::BothFall);
    // SPPO with its chosen side past the target.
    assert_eq!(case(gram, -1.0, 0.1), Case::BothFall);
    assert_eq!(classify(-1.0, 1.0), Case::Reversed);
}
