use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::divergence::Divergence;
use crate::error::{check, positive};
use crate::margin::Scores;
use crate::numeric::logistic;
use crate::options::ObjectiveOptions;

/// R-DPO: DPO whose margin is corrected for the difference in length.
///
/// ℓ = −log σ(βh + α(L_w − L_l))
///
/// - Coefficients: d_w = d_l = β σ(−u), u = βh + α(L_w − L_l): a pair whose chosen completion is longer weighs less.
/// - Stability: softplus; finite for every finite h and length.
/// - Source: Park et al. 2024, "Disentangling Length from Quality in DPO", arXiv:2403.19159;
///   arXiv:2410.13828, Table 2; α 0.2 for TL;DR as in arXiv:2410.13828, appendix C.
/// - TRL 1.16 has no such loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RDpo {
    /// β > 0, per nat.
    pub beta: f64,
    /// α, reward per token of length difference; 0 is DPO.
    pub alpha: f64,
}

impl Default for RDpo {
    fn default() -> Self {
        Self {
            beta: 0.1,
            alpha: 0.2,
        }
    }
}

impl RDpo {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "rdpo",
        aliases: &["r_dpo"],
        title: "Length-regularized DPO (R-DPO)",
        formula: "m(u) = log σ(u + α(L_w − L_l)), h_w = β(a_w − r_w), h_l = β(a_l − r_l), Λ = 0",
        loss: "−log σ(u),  u = βh + α(L_w − L_l)",
        d_w: "β σ(−u)",
        d_l: "β σ(−u)",
        defaults: &[
            ("beta", "0.1", "β, per nat"),
            (
                "rdpo_alpha",
                "0.2",
                "α, reward per token by which the chosen completion is longer",
            ),
        ],
        needs_reference: true,
        source: "Park et al. 2024, arXiv:2403.19159, as in arXiv:2410.13828, eq. 6 with Table 2",
        trl_differences: Some("not in TRL"),
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        let default = Self::default();
        Ok(Self {
            beta: options.beta.unwrap_or(default.beta),
            alpha: options.rdpo_alpha.unwrap_or(default.alpha),
        })
    }

    /// Loss and coefficients of one pair.
    pub fn pair(&self, pair: &PairLogps) -> PairLoss {
        let scores = Scores::log_ratios(pair, Divergence::ReverseKl, false);
        let longer = pair.chosen_len as f64 - pair.rejected_len as f64;
        let (loss, c) = logistic(self.beta * scores.margin() + self.alpha * longer, 0.0);
        scores.loss(loss, self.beta * c)
    }
}

impl Loss for RDpo {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)?;
        check("rdpo_alpha", self.alpha, true, "a finite number")
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
        // h = −1, β = 1, α = ½, L_w − L_l = 2: u = −1 + 1 = 0, ℓ = log 2, d = ½.
        let got = RDpo {
            beta: 1.0,
            alpha: 0.5,
        }
        .pair(&pair(-3.0, -2.0, -2.0, -2.0));
        assert_eq!(
            got,
            PairLoss {
                loss: std::f64::consts::LN_2,
                d_w: 0.5,
                d_l: 0.5
            }
        );
    }
}
