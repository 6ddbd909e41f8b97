//! The remedies' promises: which pairs become ideal, and what is kept.

use proptest::prelude::*;
use unbraid_objective::condition::{Case, Gram, band, case};
use unbraid_objective::remedy::{
    Calibration, GUARD_SLACK, NpoScale, calibrated, guarded, normalized,
};

/// A Gram of any sizes and angle except collinear to rounding, where no rule can help.
fn any_gram() -> impl Strategy<Value = Gram> {
    let angle = prop_oneof![
        -1.0..1.0f64,
        (-9.0..0.0f64).prop_map(|small| 1.0 - 10f64.powf(small))
    ];
    (-8.0..8.0f64, -8.0..8.0f64, angle).prop_map(|(w, l, cosine)| {
        let (ww, ll) = (10f64.powf(w), 10f64.powf(l));
        Gram {
            ww,
            ll,
            wl: cosine * (ww * ll).sqrt(),
        }
    })
}

fn any_coefficient() -> impl Strategy<Value = f64> {
    (-8.0..4.0f64).prop_map(|size| 10f64.powf(size))
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn normalized_makes_every_pair_ideal(gram in any_gram(), d_w in any_coefficient(), d_l in any_coefficient()) {
        for scale in [NpoScale::Unit, NpoScale::Geometric] {
            let (w, l) = normalized(d_w, d_l, gram, scale);
            prop_assert_eq!(case(gram, w, l), Case::Ideal);
            // The band's geometric middle.
            prop_assert!(near(w / l, (gram.ll / gram.ww).sqrt()));
        }
        let (w, l) = normalized(d_w, d_l, gram, NpoScale::Unit);
        // Both parts of the update are as long as each other: C = √(d_w d_l).
        let c = (d_w * d_l).sqrt();
        prop_assert!(near(w * gram.chosen_norm(), c) && near(l * gram.rejected_norm(), c));
        let (w, l) = normalized(d_w, d_l, gram, NpoScale::Geometric);
        prop_assert!(near(w * l, d_w * d_l));
    }

    #[test]
    fn guarded_makes_every_pair_ideal(gram in any_gram(), d_w in any_coefficient(), d_l in any_coefficient()) {
        let (w, l) = guarded(d_w, d_l, gram, GUARD_SLACK);
        prop_assert_eq!(case(gram, w, l), Case::Ideal);
        prop_assert!(near(w * l, d_w * d_l));
        // The smallest change: none where the pair was ideal, and otherwise no further than the slack demands.
        let (low, high) = band(gram);
        let (was, is) = ((d_w / d_l).ln(), (w / l).ln());
        if (low..=high).contains(&(d_w / d_l)) {
            prop_assert_eq!((w, l), (d_w, d_l));
        } else {
            let slack = GUARD_SLACK * (high.ln() - low.ln());
            let needed = if was < low.ln() { low.ln() - was } else { was - high.ln() };
            prop_assert!((is - was).abs() <= needed + slack + 1e-9);
        }
    }

    #[test]
    fn past_the_target_the_rules_mirror(gram in any_gram(), d_w in any_coefficient(), d_l in any_coefficient()) {
        let (w, l) = guarded(d_w, d_l, gram, GUARD_SLACK);
        prop_assert_eq!(guarded(-d_w, -d_l, gram, GUARD_SLACK), (-w, -l));
        prop_assert_eq!(case(gram, -w, -l), Case::Reversed);
        let (w, l) = normalized(d_w, d_l, gram, NpoScale::Unit);
        prop_assert_eq!(normalized(-d_w, -d_l, gram, NpoScale::Unit), (-w, -l));
        // One side saturated: nothing to restore.
        prop_assert_eq!(guarded(d_w, 0.0, gram, GUARD_SLACK), (d_w, 0.0));
        prop_assert_eq!(guarded(d_w, -d_l, gram, GUARD_SLACK), (d_w, -d_l));
    }

    #[test]
    fn calibration_reaches_the_middle_of_a_uniform_batch(gram in any_gram(), d_w in any_coefficient(), d_l in any_coefficient()) {
        let (scaled, state) = calibrated(&[(d_w, d_l, gram); 3], Calibration::default());
        for (w, l) in scaled {
            prop_assert!(near(w / l, (gram.ll / gram.ww).sqrt()) && near(w * l, d_w * d_l));
            prop_assert_eq!(case(gram, w, l), Case::Ideal);
        }
        prop_assert!(near(state.factor().powi(2), (gram.ll / gram.ww).sqrt() * d_l / d_w));
    }
}

#[test]
fn dpo_on_the_same_pairs_is_not_ideal() {
    // ⟨g_w,g_l⟩ above one of the squared norms: DPO fails, in both ways; the remedies do not.
    for (gram, without) in [
        (
            Gram {
                ww: 1.0,
                ll: 9.0,
                wl: 2.7,
            },
            Case::BothFall,
        ),
        (
            Gram {
                ww: 9.0,
                ll: 1.0,
                wl: 2.7,
            },
            Case::BothRise,
        ),
        (
            Gram {
                ww: 1.0,
                ll: 1.0 + 1e-3,
                wl: 1.0 + 1e-4,
            },
            Case::BothFall,
        ),
    ] {
        assert_eq!(case(gram, 0.05, 0.05), without);
        let (w, l) = normalized(0.05, 0.05, gram, NpoScale::Unit);
        assert_eq!(case(gram, w, l), Case::Ideal);
        let (w, l) = guarded(0.05, 0.05, gram, GUARD_SLACK);
        assert_eq!(case(gram, w, l), Case::Ideal);
    }
}

#[test]
fn degenerate_gradients_give_finite_coefficients() {
    let grams = [
        Gram::default(),
        Gram {
            ww: 1.0,
            ll: 0.0,
            wl: 0.0,
        },
        Gram {
            ww: 0.0,
            ll: 1.0,
            wl: 0.0,
        },
        // Collinear, and past Cauchy–Schwarz by rounding.
        Gram {
            ww: 1.0,
            ll: 4.0,
            wl: 2.0,
        },
        Gram {
            ww: 1.0,
            ll: 4.0,
            wl: 2.0 + 1e-15,
        },
    ];
    for gram in grams {
        for (d_w, d_l) in [
            (0.1, 0.1),
            (0.0, 0.1),
            (0.1, 0.0),
            (0.0, 0.0),
            (-0.1, 0.1),
            (1e-300, 1e-300),
        ] {
            let mut results = vec![guarded(d_w, d_l, gram, GUARD_SLACK)];
            results.extend(
                [NpoScale::Unit, NpoScale::Geometric]
                    .map(|scale| normalized(d_w, d_l, gram, scale)),
            );
            results.extend(calibrated(&[(d_w, d_l, gram)], Calibration::default()).0);
            for (w, l) in results {
                assert!(
                    w.is_finite() && l.is_finite(),
                    "{gram:?} {d_w} {d_l}: {w} {l}"
                );
            }
        }
    }
}
