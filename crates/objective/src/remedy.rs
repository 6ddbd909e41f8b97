//! Remedies as coefficient rules: (d_w, d_l) and the pair's Gram in, (d_w', d_l') out.
//!
//! Conditions (9) and (10) both hold exactly when ρ = d_w/d_l lies in the [band] that the Gram spans. All
//! three rules move ρ into it or towards its middle √(‖g_l‖²/‖g_w‖²) and keep the product d_w·d_l (up to
//! a scale), so the objective still decides how hard a pair is pushed.
//!
//! - [`normalized`]: NPO, arXiv:2410.13828, section 5.1: unit gradients, so ρ is the band's geometric middle.
//! - [`guarded`] (**ours**): ρ is left alone inside the band and moved to just inside its nearest end otherwise.
//! - [`calibrated`]: reward calibration, Chen et al. 2026, arXiv:2604.18239: one slowly moving factor for all pairs.
//!
//! Where an objective asks for something else than "chosen up, rejected down", there is no ideal to restore:
//! - both coefficients negative (IPO, EXO past their target): the rule is applied to (−d_w, −d_l) and the
//!   signs put back, so that the pair moves exactly the other way;
//! - one zero or of the other sign (a saturated hinge with a likelihood term; SPPO with one side past its
//!   target): `guarded` and `calibrated` hand the coefficients back unchanged, `normalized` divides each by
//!   its own norm.
//!
//! Nearly collinear gradients (cosine 1 to rounding) have a band of one point, at which neither log-prob
//! moves: no rule can make that pair ideal, and none tries. Tested in `tests/remedies.rs`.

use crate::condition::{Gram, band};

/// What scale [`normalized`] gives the update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NpoScale {
    /// The paper's: −∇ℓ = C(g_w/‖g_w‖ − g_l/‖g_l‖).
    #[default]
    Unit,
    /// **Ours**: that times √(‖g_w‖‖g_l‖), so that the objective's usual learning rate still fits and
    /// d_w'·d_l' = d_w·d_l.
    Geometric,
}

/// Normalized preference optimization: d_w' = C/‖g_w‖, d_l' = C/‖g_l‖, C = √(d_w d_l), times √(‖g_w‖‖g_l‖) for
/// [`NpoScale::Geometric`]. A vanishing gradient gets coefficient 0.
pub fn normalized(d_w: f64, d_l: f64, gram: Gram, scale: NpoScale) -> (f64, f64) {
    let (chosen_norm, rejected_norm) = (gram.chosen_norm(), gram.rejected_norm());
    let (c_w, c_l) = match sign(d_w, d_l) {
        Some(sign) => {
            let c = sign * (d_w.abs().sqrt() * d_l.abs().sqrt());
            (c, c)
        }
        None => (d_w, d_l),
    };
    let over = |c: f64, own: f64, other: f64| match scale {
        _ if own <= 0.0 => 0.0,
        NpoScale::Unit => c / own,
        NpoScale::Geometric if other <= 0.0 => c,
        NpoScale::Geometric => c * (other / own).sqrt(),
    };
    (
        over(c_w, chosen_norm, rejected_norm),
        over(c_l, rejected_norm, chosen_norm),
    )
}

/// Guarded preference optimization: the smallest change of ρ = d_w/d_l, on a log scale, that puts it inside
/// the band; d_w·d_l is kept.
///
/// Inside the band nothing changes. Otherwise ρ becomes the nearest end, moved inwards by `slack` (κ in [0,
/// ½]; 0.05 by default) of the band's width in log ρ. One end may be infinitely far (⟨g_w,g_l⟩ ≤ 0): then
/// every ρ is inside.
pub fn guarded(d_w: f64, d_l: f64, gram: Gram, slack: f64) -> (f64, f64) {
    let Some(sign) = sign(d_w, d_l) else {
        return (d_w, d_l);
    };
    let ratio = d_w / d_l;
    let (low, high) = band(gram);
    if (low..=high).contains(&ratio) {
        return (d_w, d_l);
    }
    let inwards = slack.clamp(0.0, 0.5) * (high.ln() - low.ln());
    let target = if ratio < low {
        low.ln() + inwards
    } else {
        high.ln() - inwards
    };
    with_ratio(sign, d_w, d_l, target.exp())
}

/// κ's default: 5 % of the band's width in log ρ.
pub const GUARD_SLACK: f64 = 0.05;

/// The state of [`calibrated`]: an exponential moving average of log(r*/r), handed in and handed back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// The average of log(r*/r); `None` before the first observation, which it then takes whole.
    pub log_ratio: Option<f64>,
    /// Share of the old average that each observation keeps; 0.98 in the paper.
    pub decay: f64,
}

impl Default for Calibration {
    fn default() -> Self {
        Self {
            log_ratio: None,
            decay: 0.98,
        }
    }
}

impl Calibration {
    /// s = √(r*/r) as averaged so far: d_w is multiplied by it, d_l divided; 1 before the first observation.
    pub fn factor(&self) -> f64 {
        (0.5 * self.log_ratio.unwrap_or(0.0)).exp()
    }

    /// The state after a batch whose mean log(r*/r) is `observed`.
    pub fn after(self, observed: f64) -> Self {
        let log_ratio = match self.log_ratio {
            None => observed,
            Some(old) => self.decay * old + (1.0 - self.decay) * observed,
        };
        Self {
            log_ratio: Some(log_ratio),
            ..self
        }
    }
}

/// log(r*/r) of one pair, r = d_w/d_l, r* = ‖g_l‖/‖g_w‖; `None` where one of the four vanishes or the signs differ.
pub fn calibration_gap(d_w: f64, d_l: f64, gram: Gram) -> Option<f64> {
    sign(d_w, d_l)?;
    let gap = 0.5 * (gram.ll.ln() - gram.ww.ln()) - (d_w.abs().ln() - d_l.abs().ln());
    gap.is_finite().then_some(gap)
}

/// Reward calibration of a batch: every pair's d_w is multiplied and d_l divided by s = √(r*/r), where
/// log(r*/r) is first averaged over the batch's pairs (those that have one) and then over time. Hands back
/// the coefficients, in order, and the next state.
///
/// The published method averages log(d_w/d_l) and log(‖g_w‖/‖g_l‖) over time, with batch means of one layer's
/// gradients; the mean over the pairs of the log, over all parameters, is **ours** (the two averages are one,
/// being linear). It centres the batch, so single pairs may stay outside their own band: [`guarded`] and
/// [`normalized`] do not.
pub fn calibrated(
    pairs: &[(f64, f64, Gram)],
    state: Calibration,
) -> (Vec<(f64, f64)>, Calibration) {
    let gaps: Vec<f64> = pairs
        .iter()
        .filter_map(|&(d_w, d_l, gram)| calibration_gap(d_w, d_l, gram))
        .collect();
    let state = match gaps.len() {
        0 => state,
        count => state.after(gaps.iter().sum::<f64>() / count as f64),
    };
    let factor = state.factor();
    let scale = |&(d_w, d_l, _): &(f64, f64, Gram)| match sign(d_w, d_l) {
        Some(_) => (d_w * factor, d_l / factor),
        None => (d_w, d_l),
    };
    (pairs.iter().map(scale).collect(), state)
}

/// ±1 where both coefficients are positive or both negative.
fn sign(d_w: f64, d_l: f64) -> Option<f64> {
    match (d_w > 0.0, d_l > 0.0, d_w < 0.0, d_l < 0.0) {
        (true, true, ..) => Some(1.0),
        (.., true, true) => Some(-1.0),
        _ => None,
    }
}

/// Coefficients with the same product and signs, and d_w/d_l = `ratio`.
fn with_ratio(sign: f64, d_w: f64, d_l: f64, ratio: f64) -> (f64, f64) {
    let product = d_w.abs().sqrt() * d_l.abs().sqrt();
    (sign * product * ratio.sqrt(), sign * product / ratio.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ‖g_w‖² = 1, ‖g_l‖² = 16, ⟨g_w,g_l⟩ = 2: DPO's Δa_w = 1 − 2 < 0, both fall. Band [2, 8], middle 4.
    const GRAM: Gram = Gram {
        ww: 1.0,
        ll: 16.0,
        wl: 2.0,
    };

    #[test]
    fn normalized_by_hand() {
        // C = 1: unit (1, ¼); geometric times √(1·4) = 2: (2, ½), ratio 4, product 1.
        assert_eq!(normalized(1.0, 1.0, GRAM, NpoScale::Unit), (1.0, 0.25));
        assert_eq!(normalized(1.0, 1.0, GRAM, NpoScale::Geometric), (2.0, 0.5));
        // The objective's own ratio does not matter: C = √(4·¼) = 1.
        assert_eq!(normalized(4.0, 0.25, GRAM, NpoScale::Unit), (1.0, 0.25));
        assert_eq!(normalized(-1.0, -1.0, GRAM, NpoScale::Unit), (-1.0, -0.25));
        // A likelihood term alone keeps its pull.
        assert_eq!(normalized(3.0, 0.0, GRAM, NpoScale::Unit), (3.0, 0.0));
        assert_eq!(
            normalized(1.0, 1.0, Gram::default(), NpoScale::Unit),
            (0.0, 0.0)
        );
    }

    #[test]
    fn guarded_by_hand() {
        // ρ = 1 < 2: to the lower end without slack: (√2, 1/√2).
        let (d_w, d_l) = guarded(1.0, 1.0, GRAM, 0.0);
        assert!((d_w - 2f64.sqrt()).abs() < 1e-15 && (d_l - 0.5f64.sqrt()).abs() < 1e-15);
        // Slack ½ is the middle, ρ = 4.
        let (d_w, d_l) = guarded(1.0, 1.0, GRAM, 0.5);
        assert!((d_w - 2.0).abs() < 1e-14 && (d_l - 0.5).abs() < 1e-14);
        // From above: ρ = 16 > 8.
        let (d_w, d_l) = guarded(4.0, 0.25, GRAM, 0.0);
        assert!((d_w / d_l - 8.0).abs() < 1e-13 && (d_w * d_l - 1.0).abs() < 1e-14);
        // Inside, and for gradients that do not agree: untouched.
        assert_eq!(guarded(3.0, 1.0, GRAM, 0.05), (3.0, 1.0));
        assert_eq!(
            guarded(1.0, 9.0, Gram { wl: -2.0, ..GRAM }, 0.05),
            (1.0, 9.0)
        );
    }

    #[test]
    fn calibration_by_hand() {
        // r* = 4, r = 1: the first batch sets log 4, s = 2: (2, ½).
        let (scaled, state) = calibrated(&[(1.0, 1.0, GRAM)], Calibration::default());
        assert!((scaled[0].0 - 2.0).abs() < 1e-15 && (scaled[0].1 - 0.5).abs() < 1e-15);
        // A second one that is centred already (gap 0) shrinks the log by 0.98.
        let centred = Gram {
            ww: 1.0,
            ll: 1.0,
            wl: 0.0,
        };
        let (_, state) = calibrated(&[(1.0, 1.0, centred)], state);
        assert!((state.log_ratio.unwrap() - 0.98 * 4f64.ln()).abs() < 1e-15);
        // Nothing to observe: the state stays.
        assert_eq!(
            calibrated(&[(1.0, 0.0, GRAM)], state),
            (vec![(1.0, 0.0)], state)
        );
    }
}
