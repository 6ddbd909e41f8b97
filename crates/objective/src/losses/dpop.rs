use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::divergence::Divergence;
use crate::error::{not_negative, positive};
use crate::margin::Scores;
use crate::numeric::logistic;
use crate::options::ObjectiveOptions;

/// DPO-Positive: DPO with a penalty once the chosen completion is less likely than under the reference.
///
/// ℓ = −log σ(β(x_w − x_l − λ max(0, −x_w)))
///
/// - Coefficients: with c = σ(−u), d_l = βc; d_w = βc while x_w ≥ 0 and βc(1 + λ) once x_w < 0. The slope at
///   x_w = 0 (the first step, policy equal to reference) is DPO's.
/// - Stability: softplus; finite for every finite log-prob.
/// - Source: Pal et al. 2024 (Smaug), arXiv:2402.13228; arXiv:2410.13828, Table 2.
/// - TRL 1.16 has no such loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dpop {
    /// β > 0, per nat.
    pub beta: f64,
    /// λ ≥ 0; 0 is DPO.
    pub lambda: f64,
}

impl Default for Dpop {
    fn default() -> Self {
        Self {
            beta: 0.1,
            lambda: 50.0,
        }
    }
}

impl Dpop {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "dpop",
        aliases: &["pdpo", "dpo_positive"],
        title: "DPO-Positive (DPOP)",
        formula: "m(u) = log σ(u), h_w = β(a_w − r_w − λ max(0, r_w − a_w)), h_l = β(a_l − r_l), Λ = 0",
        loss: "−log σ(u),  u = β(h − λ max(0, r_w − a_w))",
        d_w: "β σ(−u) (1 + λ [a_w < r_w])",
        d_l: "β σ(−u)",
        defaults: &[
            ("beta", "0.1", "β, per nat (the paper trains with 0.3)"),
            ("dpop_lambda", "50", "λ, weight of the penalty"),
        ],
        needs_reference: true,
        source: "Pal et al. 2024, arXiv:2402.13228, as in arXiv:2410.13828, eq. 6 with Table 2",
        trl_differences: Some("not in TRL"),
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        let default = Self::default();
        Ok(Self {
            beta: options.beta.unwrap_or(default.beta),
            lambda: options.dpop_lambda.unwrap_or(default.lambda),
        })
    }

    /// Loss and coefficients of one pair.
    pub fn pair(&self, pair: &PairLogps) -> PairLoss {
        let scores = Scores::log_ratios(pair, Divergence::ReverseKl, false);
        let fallen = (-pair.chosen_log_ratio()).max(0.0);
        let penalty_slope = if fallen > 0.0 { self.lambda } else { 0.0 };
        let (loss, c) = logistic(self.beta * (scores.margin() - self.lambda * fallen), 0.0);
        let dpo = scores.loss(loss, self.beta * c);
        PairLoss {
            d_w: dpo.d_w * (1.0 + penalty_slope),
            ..dpo
        }
    }
}

impl Loss for Dpop {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)?;
        not_negative("dpop_lambda", self.lambda)
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
    fn by_hand() {
        // x_w = −1, x_l = −3: h = 2, penalty 2·1: u = 0, c = ½; β = 1, λ = 2: d_w = ½·3, d_l = ½.
        let dpop = Dpop {
            beta: 1.0,
            lambda: 2.0,
        };
        let got = dpop.pair(&pair(-1.0, -3.0, 0.0, 0.0));
        assert_eq!(
            got,
            PairLoss {
                loss: std::f64::consts::LN_2,
                d_w: 1.5,
                d_l: 0.5
            }
        );
        // At the reference itself the penalty has no slope.
        assert_eq!(dpop.pair(&pair(-1.0, -3.0, -1.0, -3.0)).d_w, 0.5);
    }
}
