use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::divergence::Divergence;
use crate::error::{flip_probability, positive};
use crate::margin::Scores;
use crate::numeric::{sigmoid, softplus};
use crate::options::ObjectiveOptions;

/// Robust DPO: an unbiased estimate of DPO's loss when labels are flipped with probability ε.
///
/// ℓ = [ −(1−ε) log σ(βh) + ε log σ(−βh) ] / (1 − 2ε)
///
/// - Coefficients: d_w = d_l = β[(1−ε) σ(−βh) + ε σ(βh)]/(1−2ε); never below βε/(1−2ε), so the push does not end.
/// - Stability: softplus; finite for every finite h and ε < ½. Not bounded below: ℓ → −∞ as h → ∞.
/// - Source: Chowdhury et al. 2024, arXiv:2403.00409, section 3.1.
/// - TRL: `loss_type = "robust"`, the same. ε = 0 (TRL's default, and this one's) is DPO.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Robust {
    /// β > 0, per nat.
    pub beta: f64,
    /// ε in [0, ½).
    pub label_smoothing: f64,
    /// The divergence whose score stands for the log-ratio.
    pub divergence: Divergence,
}

impl Default for Robust {
    fn default() -> Self {
        Self {
            beta: 0.1,
            label_smoothing: 0.0,
            divergence: Divergence::ReverseKl,
        }
    }
}

impl Robust {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "robust",
        aliases: &[],
        title: "Robust DPO (unbiased under label noise)",
        formula: "m(u) = [(1−ε) log σ(u) − ε log σ(−u)]/(1−2ε), h_w = β(a_w − r_w), h_l = β(a_l − r_l), Λ = 0",
        loss: "[−(1−ε) log σ(βh) + ε log σ(−βh)] / (1−2ε)",
        d_w: "β [(1−ε) σ(−βh) + ε σ(βh)] / (1−2ε)",
        d_l: "β [(1−ε) σ(−βh) + ε σ(βh)] / (1−2ε)",
        defaults: &[
            ("beta", "0.1", "β, per nat"),
            (
                "label_smoothing",
                "0",
                "flip probability ε in [0, 0.5); 0 is DPO, the paper suggests 0.1",
            ),
            (
                "f_divergence_type",
                "reverse_kl",
                "divergence whose score stands for a − r",
            ),
        ],
        needs_reference: true,
        source: "Chowdhury et al. 2024, arXiv:2403.00409, section 3.1",
        trl_differences: None,
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        let default = Self::default();
        Ok(Self {
            beta: options.beta.unwrap_or(default.beta),
            label_smoothing: options.label_smoothing.unwrap_or(default.label_smoothing),
            divergence: Divergence::from_options(options)?,
        })
    }

    /// Loss and coefficients of one pair.
    pub fn pair(&self, pair: &PairLogps) -> PairLoss {
        let scores = Scores::log_ratios(pair, self.divergence, false);
        let (u, flip) = (self.beta * scores.margin(), self.label_smoothing);
        let scale = 1.0 - 2.0 * flip;
        let loss = ((1.0 - flip) * softplus(-u) - flip * softplus(u)) / scale;
        let c = ((1.0 - flip) * sigmoid(-u) + flip * sigmoid(u)) / scale;
        scores.loss(loss, self.beta * c)
    }
}

impl Loss for Robust {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)?;
        flip_probability("label_smoothing", self.label_smoothing)?;
        self.divergence.validate()
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
        // h = 0, ε = ¼, β = 1: ℓ = (¾ − ¼) log 2 / ½ = log 2; c = (¾·½ + ¼·½)/½ = 1.
        let robust = Robust {
            beta: 1.0,
            label_smoothing: 0.25,
            ..Robust::default()
        };
        let got = robust.pair(&pair(-4.0, -3.0, -4.0, -3.0));
        assert!((got.loss - std::f64::consts::LN_2).abs() < 1e-15);
        assert_eq!((got.d_w, got.d_l), (1.0, 1.0));
    }
}
