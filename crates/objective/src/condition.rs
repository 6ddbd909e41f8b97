//! What one gradient step does to a pair's two log-probs, and which case of the entanglement theory that is.
//!
//! Sign convention, metric and order, once for all: `∇ℓ = −d_w g_w + d_l g_l`, a plain gradient-descent step
//! of learning rate η (not Adam's metric), first order in η, this pair alone. Then (arXiv:2410.13828, section
//! 3.1)
//!
//! - Δa_w = η ( d_w‖g_w‖² − d_l⟨g_w,g_l⟩ ),   Δa_l = η ( d_w⟨g_w,g_l⟩ − d_l‖g_l‖² )
//! - chosen does not fall   ⇔ ⟨g_w,g_l⟩ ≤ (d_w/d_l)‖g_w‖²   (9)
//! - rejected does not rise ⇔ ⟨g_w,g_l⟩ ≤ (d_l/d_w)‖g_l‖²   (10)
//!
//! Both norms appear: for d_w = d_l (DPO), "both fall" is ‖g_w‖² < ⟨g_w,g_l⟩ and "both rise" is ‖g_l‖² < ⟨g_w,g_l⟩.
//! The Δ are the definition here and the conditions their rearrangement, because losses with a saturated or reversed
//! side have d ≤ 0, where dividing by d is wrong. Measuring the gradients is another crate's work; this one is handed
//! three numbers. Tested below and in `tests/conditions.rs`.

/// Inner products of one pair's two gradients over the trainable parameters: `g_w = ∇a_w`, `g_l = ∇a_l`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gram {
    /// ‖g_w‖².
    pub ww: f64,
    /// ‖g_l‖².
    pub ll: f64,
    /// ⟨g_w, g_l⟩.
    pub wl: f64,
}

impl Gram {
    /// ⟨g_w,g_l⟩ / (‖g_w‖‖g_l‖), held to [−1, 1]; 0 where a gradient vanishes.
    pub fn cosine(&self) -> f64 {
        let norms = self.chosen_norm() * self.rejected_norm();
        if norms > 0.0 {
            (self.wl / norms).clamp(-1.0, 1.0)
        } else {
            0.0
        }
    }

    /// ‖g_w‖.
    pub fn chosen_norm(&self) -> f64 {
        self.ww.sqrt()
    }

    /// ‖g_l‖.
    pub fn rejected_norm(&self) -> f64 {
        self.ll.sqrt()
    }

    /// ⟨g_w,g_l⟩ / ‖g_w‖², which (9) compares with d_w/d_l; `None` where g_w vanishes.
    pub fn chosen_ratio(&self) -> Option<f64> {
        (self.ww > 0.0).then(|| self.wl / self.ww)
    }

    /// ⟨g_w,g_l⟩ / ‖g_l‖², which (10) compares with d_l/d_w; `None` where g_l vanishes.
    pub fn rejected_ratio(&self) -> Option<f64> {
        (self.ll > 0.0).then(|| self.wl / self.ll)
    }

    /// Sum of two Grams over disjoint parameters.
    pub fn plus(self, other: Self) -> Self {
        Self {
            ww: self.ww + other.ww,
            ll: self.ll + other.ll,
            wl: self.wl + other.wl,
        }
    }
}

/// What a step does to the pair, to first order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Case {
    /// Chosen does not fall, rejected does not rise, and one of them moves: (9) and (10) hold.
    Ideal,
    /// Chosen falls, rejected does not rise: (9) fails.
    BothFall,
    /// Rejected rises, chosen does not fall: (10) fails.
    BothRise,
    /// Chosen falls and rejected rises. Cannot happen for d_w, d_l > 0, since d_wΔa_w − d_lΔa_l = η‖d_w g_w −
    /// d_l g_l‖² ≥ 0.
    Reversed,
    /// Neither moves (or the input was NaN).
    Still,
}

impl Case {
    /// All cases, in the order in which reports list them.
    pub const ALL: [Self; 5] = [
        Self::Ideal,
        Self::BothFall,
        Self::BothRise,
        Self::Reversed,
        Self::Still,
    ];

    /// `ideal`, `both_fall`, `both_rise`, `reversed` or `still`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ideal => "ideal",
            Self::BothFall => "both_fall",
            Self::BothRise => "both_rise",
            Self::Reversed => "reversed",
            Self::Still => "still",
        }
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Share of the terms' magnitude below which their difference is rounding noise: a few units in the last
/// place of `f64`. (Noise in the Gram itself, from f32 gradients, is larger and unknown here.)
const ROUNDING: f64 = 8.0 * f64::EPSILON;

/// `(Δa_w, Δa_l)` per unit of learning rate. A difference within rounding of cancelling is exactly 0.
pub fn predicted_change(gram: Gram, d_w: f64, d_l: f64) -> (f64, f64) {
    (
        difference(d_w * gram.ww, d_l * gram.wl),
        difference(d_w * gram.wl, d_l * gram.ll),
    )
}

/// The case of two predicted (or realised) changes; exact zeros count as "does not move", as the ≤ of (9) and
/// (10) has it.
pub fn classify(delta_chosen: f64, delta_rejected: f64) -> Case {
    let chosen_falls = delta_chosen < 0.0;
    let rejected_rises = delta_rejected > 0.0;
    match (chosen_falls, rejected_rises) {
        (true, true) => Case::Reversed,
        (true, false) => Case::BothFall,
        (false, true) => Case::BothRise,
        (false, false) if delta_chosen > 0.0 || delta_rejected < 0.0 => Case::Ideal,
        (false, false) => Case::Still,
    }
}

/// The case of a pair under coefficients `d_w`, `d_l`: [`classify`] of [`predicted_change`].
pub fn case(gram: Gram, d_w: f64, d_l: f64) -> Case {
    let (delta_chosen, delta_rejected) = predicted_change(gram, d_w, d_l);
    classify(delta_chosen, delta_rejected)
}

/// Condition (9): ⟨g_w,g_l⟩ ≤ (d_w/d_l)‖g_w‖², in the form without a division, `d_l⟨g_w,g_l⟩ ≤ d_w‖g_w‖²`;
/// that is, Δa_w ≥ 0.
pub fn chosen_does_not_fall(gram: Gram, d_w: f64, d_l: f64) -> bool {
    predicted_change(gram, d_w, d_l).0 >= 0.0
}

/// Condition (10): ⟨g_w,g_l⟩ ≤ (d_l/d_w)‖g_l‖², in the form without a division, `d_w⟨g_w,g_l⟩ ≤ d_l‖g_l‖²`;
/// that is, Δa_l ≤ 0.
pub fn rejected_does_not_rise(gram: Gram, d_w: f64, d_l: f64) -> bool {
    predicted_change(gram, d_w, d_l).1 <= 0.0
}

/// Ratios ρ = d_w/d_l > 0 under which (9) and (10) both hold: `[⟨g_w,g_l⟩/‖g_w‖², ‖g_l‖²/⟨g_w,g_l⟩]`, the
/// disentanglement band (Chen et al. 2026, arXiv:2604.18239). For ⟨g_w,g_l⟩ ≤ 0 every ratio does: `(0, ∞)`.
/// Never empty, by Cauchy–Schwarz: where rounding has the ends crossed, both are their geometric mean.
pub fn band(gram: Gram) -> (f64, f64) {
    if gram.wl <= 0.0 || gram.ww <= 0.0 || gram.ll <= 0.0 {
        return (0.0, f64::INFINITY);
    }
    let (low, high) = (gram.wl / gram.ww, gram.ll / gram.wl);
    if low <= high {
        (low, high)
    } else {
        ((gram.ll / gram.ww).sqrt(), (gram.ll / gram.ww).sqrt())
    }
}

fn difference(a: f64, b: f64) -> f64 {
    let difference = a - b;
    if difference.abs() <= ROUNDING * (a.abs() + b.abs()) {
        0.0
    } else {
        difference
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dpo_cases_by_hand() {
        // d_w = d_l = 1. ‖g_w‖² = 4, ‖g_l‖² = 9.
        let gram = |wl| Gram {
            ww: 4.0,
            ll: 9.0,
            wl,
        };
        // ⟨⟩ = 3: Δ = (4 − 3, 3 − 9) = (1, −6).
        assert_eq!(predicted_change(gram(3.0), 1.0, 1.0), (1.0, -6.0));
        assert_eq!(case(gram(3.0), 1.0, 1.0), Case::Ideal);
        // ⟨⟩ = 5 > ‖g_w‖²: Δ = (−1, −4).
        assert_eq!(case(gram(5.0), 1.0, 1.0), Case::BothFall);
        // The norms exchanged: Δ = (9 − 5, 5 − 4).
        assert_eq!(
            case(
                Gram {
                    ww: 9.0,
                    ll: 4.0,
                    wl: 5.0
                },
                1.0,
                1.0
            ),
            Case::BothRise
        );
        // Both coefficients negative (IPO past its target): the ideal reversed.
        assert_eq!(case(gram(3.0), -1.0, -1.0), Case::Reversed);
        assert_eq!(case(gram(3.0), 0.0, 0.0), Case::Still);
        // Equal gradients: nothing moves under DPO.
        assert_eq!(
            case(
                Gram {
                    ww: 2.0,
                    ll: 2.0,
                    wl: 2.0
                },
                0.3,
                0.3
            ),
            Case::Still
        );
    }

    #[test]
    fn ties_follow_the_conditions() {
        assert_eq!(classify(0.0, -1.0), Case::Ideal);
        assert_eq!(classify(1.0, 0.0), Case::Ideal);
        assert_eq!(classify(0.0, 1.0), Case::BothRise);
        assert_eq!(classify(-1.0, 0.0), Case::BothFall);
        assert_eq!(classify(-0.0, 0.0), Case::Still);
        assert_eq!(classify(f64::NAN, f64::NAN), Case::Still);
    }

    #[test]
    fn rounding_noise_is_zero() {
        // d_w‖g_w‖² and d_l⟨⟩ agree to the last bit but one.
        let gram = Gram {
            ww: 1.0,
            ll: 4.0,
            wl: 1.0 + 2.0 * f64::EPSILON,
        };
        assert_eq!(predicted_change(gram, 1.0, 1.0).0, 0.0);
        // Tiny numbers are not noise by themselves.
        assert_eq!(
            case(
                Gram {
                    ww: 2e-200,
                    ll: 2e-200,
                    wl: 1e-200
                },
                1e-50,
                1e-50
            ),
            Case::Ideal
        );
    }

    #[test]
    fn cosine_and_ratios() {
        let gram = Gram {
            ww: 4.0,
            ll: 9.0,
            wl: 3.0,
        };
        assert_eq!(gram.cosine(), 0.5);
        assert_eq!(
            (gram.chosen_ratio(), gram.rejected_ratio()),
            (Some(0.75), Some(3.0 / 9.0))
        );
        assert_eq!(band(gram), (0.75, 3.0));
        let still = Gram {
            ww: 0.0,
            ll: 9.0,
            wl: 0.0,
        };
        assert_eq!((still.cosine(), still.chosen_ratio()), (0.0, None));
    }
}
