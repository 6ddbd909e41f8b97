//! Anchored Preference Optimization: both rewards are held to an absolute level, not only their difference.

use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::error::positive;
use crate::numeric::{sigmoid, sigmoid_slope};
use crate::options::ObjectiveOptions;

/// APO-zero: chosen up, rejected down, for chosen completions better than the model's own.
///
/// ℓ = 1 − σ(βx_w) + σ(βx_l)
///
/// - Coefficients: d_w = β σ'(βx_w), d_l = β σ'(βx_l); both vanish far from the reference.
/// - Stability: bounded; σ' as σ(u)σ(−u) keeps its tails.
/// - Source: D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7.
/// - TRL: `loss_type = "apo_zero"`, the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ApoZero {
    /// β > 0, per nat.
    pub beta: f64,
}

impl Default for ApoZero {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl ApoZero {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "apo_zero",
        aliases: &[],
        title: "Anchored Preference Optimization, zero (APO-zero)",
        formula: "m(u) = u, h_w = σ(β(a_w − r_w)), h_l = σ(β(a_l − r_l)), Λ = 0",
        loss: "1 − σ(β(a_w − r_w)) + σ(β(a_l − r_l))",
        d_w: "β σ'(β(a_w − r_w))",
        d_l: "β σ'(β(a_l − r_l))",
        defaults: &[("beta", "0.1", "β, per nat")],
        needs_reference: true,
        source: "D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7",
        trl_differences: None,
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        Ok(Self {
            beta: options.beta.unwrap_or(Self::default().beta),
        })
    }

    /// Loss and coefficients of one pair.
    pub fn pair(&self, pair: &PairLogps) -> PairLoss {
        let (chosen, rejected) = (
            self.beta * pair.chosen_log_ratio(),
            self.beta * pair.rejected_log_ratio(),
        );
        PairLoss {
            loss: sigmoid(-chosen) + sigmoid(rejected),
            d_w: self.beta * sigmoid_slope(chosen),
            d_l: self.beta * sigmoid_slope(rejected),
        }
    }
}

impl Loss for ApoZero {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)
    }

    fn evaluate(&self, batch: &[PairLogps]) -> Vec<PairLoss> {
        batch.iter().map(|pair| self.pair(pair)).collect()
    }
}

/// APO-down: chosen down, rejected down further, for chosen completions worse than the model's own.
///
/// ℓ = σ(βx_w) + 1 − σ(βh),   h = x_w − x_l
///
/// - Coefficients: d_w = β(σ'(βh) − σ'(βx_w)), d_l = β σ'(βh). At the reference d_w = 0; it is negative
///   wherever |h| > |x_w|: this objective asks for the chosen log-prob to fall.
/// - Not of the form h_w(a_w) − h_l(a_l) + Λ(a_w) with m = u, but with Λ = −σ(βx_w): m(u) = σ(u), h = βx.
/// - Stability: bounded.
/// - Source: D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 8.
/// - TRL: `loss_type = "apo_down"`, the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ApoDown {
    /// β > 0, per nat.
    pub beta: f64,
}

impl Default for ApoDown {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl ApoDown {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "apo_down",
        aliases: &[],
        title: "Anchored Preference Optimization, down (APO-down)",
        formula: "m(u) = σ(u), h_w = β(a_w − r_w), h_l = β(a_l − r_l), Λ = −σ(β(a_w − r_w))",
        loss: "σ(β(a_w − r_w)) + 1 − σ(βh)",
        d_w: "β (σ'(βh) − σ'(β(a_w − r_w)))",
        d_l: "β σ'(βh)",
        defaults: &[("beta", "0.1", "β, per nat")],
        needs_reference: true,
        source: "D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 8",
        trl_differences: None,
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        Ok(Self {
            beta: options.beta.unwrap_or(Self::default().beta),
        })
    }

    /// Loss and coefficients of one pair.
    pub fn pair(&self, pair: &PairLogps) -> PairLoss {
        let (chosen, margin) = (
            self.beta * pair.chosen_log_ratio(),
            self.beta * pair.margin(),
        );
        PairLoss {
            loss: sigmoid(chosen) + sigmoid(-margin),
            d_w: self.beta * (sigmoid_slope(margin) - sigmoid_slope(chosen)),
            d_l: self.beta * sigmoid_slope(margin),
        }
    }
}

impl Loss for ApoDown {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)
    }

    fn evaluate(&self, batch: &[PairLogps]) -> Vec<PairLoss> {
        batch.iter().map(|pair| self.pair(pair)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Log-probs by hand; lengths 4 and 2.
    fn pair(chosen: f64, rejected: f64, ref_chosen: f64, ref_rejected: f64) -> PairLogps {
        PairLogps {
            chosen,
            rejected,
            ref_chosen,
            ref_rejected,
            chosen_len: 4,
            rejected_len: 2,
        }
    }

    #[test]
    fn at_the_reference() {
        // x = 0, β = 1: zero: ℓ = ½ + ½, d = ¼ both. Down: ℓ = ½ + ½, d_w = ¼ − ¼, d_l = ¼.
        let same = pair(-4.0, -3.0, -4.0, -3.0);
        assert_eq!(
            ApoZero { beta: 1.0 }.pair(&same),
            PairLoss {
                loss: 1.0,
                d_w: 0.25,
                d_l: 0.25
            }
        );
        assert_eq!(
            ApoDown { beta: 1.0 }.pair(&same),
            PairLoss {
                loss: 1.0,
                d_w: 0.0,
                d_l: 0.25
            }
        );
        // x_w = 0, x_l = −2: h = 2: σ'(2) < ¼: chosen is asked to fall.
        assert!(ApoDown { beta: 1.0 }.pair(&pair(0.0, -2.0, 0.0, 0.0)).d_w < 0.0);
    }
}
