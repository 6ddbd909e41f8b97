use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::divergence::Divergence;
use crate::error::positive;
use crate::margin::Scores;
use crate::numeric::logistic;
use crate::options::ObjectiveOptions;

/// Length-normalized DPO: each log-ratio is divided by its completion's length.
///
/// ℓ = −log σ(β(x_w/L_w − x_l/L_l))
///
/// - Coefficients: with c = σ(−u), d_w = βc/L_w, d_l = βc/L_l; so d_w/d_l = L_l/L_w, not 1.
/// - Stability: softplus; finite for every finite log-prob and length ≥ 1.
/// - Source: Lambert et al. 2024 (Tülu 3), arXiv:2411.15124, section 5 (length-normalized DPO).
/// - TRL: `loss_type = "sigmoid_norm"`, the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SigmoidNorm {
    /// β > 0, per nat per token.
    pub beta: f64,
    /// The divergence whose score stands for the log-ratio (before the division).
    pub divergence: Divergence,
}

impl Default for SigmoidNorm {
    fn default() -> Self {
        Self {
            beta: 0.1,
            divergence: Divergence::ReverseKl,
        }
    }
}

impl SigmoidNorm {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "sigmoid_norm",
        aliases: &["dpo_norm"],
        title: "Length-normalized DPO",
        formula: "m(u) = log σ(u), h_w = β(a_w − r_w)/L_w, h_l = β(a_l − r_l)/L_l, Λ = 0",
        loss: "−log σ(u),  u = β((a_w − r_w)/L_w − (a_l − r_l)/L_l)",
        d_w: "β σ(−u) / L_w",
        d_l: "β σ(−u) / L_l",
        defaults: &[
            (
                "beta",
                "0.1",
                "β, per nat of mean token log-ratio (Tülu 3 trains with 5)",
            ),
            (
                "f_divergence_type",
                "reverse_kl",
                "divergence whose score stands for a − r",
            ),
        ],
        needs_reference: true,
        source: "Lambert et al. 2024, arXiv:2411.15124, section 5 (length-normalized DPO)",
        trl_differences: None,
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        Ok(Self {
            beta: options.beta.unwrap_or(Self::default().beta),
            divergence: Divergence::from_options(options)?,
        })
    }

    /// Loss and coefficients of one pair.
    pub fn pair(&self, pair: &PairLogps) -> PairLoss {
        let scores = Scores::log_ratios(pair, self.divergence, true);
        let (loss, c) = logistic(self.beta * scores.margin(), 0.0);
        scores.loss(loss, self.beta * c)
    }
}

impl Loss for SigmoidNorm {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)?;
        self.divergence.validate()
    }

    fn divides_by_length(&self) -> (bool, bool) {
        (true, true)
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
        // x_w = 4 over 4 tokens, x_l = 2 over 2: means 1 and 1, u = 0, c = ½; β = 2: d_w = 2·½/4, d_l = 2·½/2.
        let got = SigmoidNorm {
            beta: 2.0,
            ..SigmoidNorm::default()
        }
        .pair(&pair(-1.0, -1.0, -5.0, -3.0));
        assert_eq!(got.loss, std::f64::consts::LN_2);
        assert_eq!((got.d_w, got.d_l), (0.25, 0.5));
    }
}
