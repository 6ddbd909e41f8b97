use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::divergence::Divergence;
use crate::error::{check, positive};
use crate::margin::Scores;
use crate::numeric::{log_sigmoid, sigmoid, sigmoid_slope};
use crate::options::ObjectiveOptions;

/// EXO on pairs: reverse KL from the policy's two-way choice to the smoothed labels.
///
/// ℓ = q_w (log q_w − log(1−ε)) + q_l (log q_l − log ε),   q_w = σ(βh), q_l = σ(−βh)
///
/// - Coefficients: d_w = d_l = β σ'(βh) (log((1−ε)/ε) − βh). They are negative past the target βh =
///   log((1−ε)/ε), and vanish at both ends: a pair that is ranked very wrongly hardly moves.
/// - Stability: log q from softplus; q·log q → 0 at both ends.
/// - Source: Ji et al. 2024, arXiv:2402.00856, eq. 16.
/// - TRL: `loss_type = "exo_pair"`, the same; `label_smoothing = 0` is refused there and here (its target is
///   infinite). TRL's own default is 0, so it must be said there; here it is 1e-3, the paper's, which `unbraid train` notes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExoPair {
    /// β > 0, per nat.
    pub beta: f64,
    /// ε in (0, ½).
    pub label_smoothing: f64,
    /// The divergence whose score stands for the log-ratio.
    pub divergence: Divergence,
}

impl Default for ExoPair {
    fn default() -> Self {
        Self {
            beta: 0.1,
            label_smoothing: 1e-3,
            divergence: Divergence::ReverseKl,
        }
    }
}

impl ExoPair {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "exo_pair",
        aliases: &["exo"],
        title: "Efficient Exact Optimization (EXO), pairwise",
        formula: "m(u) = −KL((σ(u), σ(−u)) ‖ (1−ε, ε)), h_w = β(a_w − r_w), h_l = β(a_l − r_l), Λ = 0",
        loss: "q_w log(q_w/(1−ε)) + q_l log(q_l/ε),  q_w = σ(βh), q_l = σ(−βh)",
        d_w: "β σ'(βh) (log((1−ε)/ε) − βh)",
        d_l: "β σ'(βh) (log((1−ε)/ε) − βh)",
        defaults: &[
            ("beta", "0.1", "β, per nat"),
            (
                "label_smoothing",
                "0.001",
                "ε in (0, 0.5); the target margin is log((1−ε)/ε)",
            ),
            (
                "f_divergence_type",
                "reverse_kl",
                "divergence whose score stands for a − r",
            ),
        ],
        needs_reference: true,
        source: "Ji et al. 2024, arXiv:2402.00856, eq. 16",
        trl_differences: Some(
            "the formula is the same, past its target reversed in both; TRL's label_smoothing must be said, being 0 by default, which it refuses",
        ),
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
        let u = self.beta * scores.margin();
        let (log_p_w, log_p_l) = ((-self.label_smoothing).ln_1p(), self.label_smoothing.ln());
        let loss =
            sigmoid(u) * (log_sigmoid(u) - log_p_w) + sigmoid(-u) * (log_sigmoid(-u) - log_p_l);
        let c = sigmoid_slope(u) * (log_p_w - log_p_l - u);
        scores.loss(loss, self.beta * c)
    }
}

impl Loss for ExoPair {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)?;
        let flip = self.label_smoothing;
        check(
            "label_smoothing",
            flip,
            flip > 0.0 && flip < 0.5,
            "a number in (0, 0.5) for exo_pair, whose target is infinite at 0 (its paper recommends 1e-3)",
        )?;
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
        // h = 0, ε = 0.1, β = 1: ½(log ½ − log 0.9) + ½(log ½ − log 0.1) = −log 2 − ½ log 0.09 = 0.5108256237659907;
        // c = ¼ log 9 = 0.5493061443340549.
        let exo = ExoPair {
            beta: 1.0,
            label_smoothing: 0.1,
            ..ExoPair::default()
        };
        let got = exo.pair(&pair(0.0, 0.0, 0.0, 0.0));
        assert!((got.loss - 0.510_825_623_765_990_7).abs() < 1e-15);
        assert!((got.d_w - 0.549_306_144_334_054_9).abs() < 1e-15);
        // Past log 9 it is reversed.
        assert!(exo.pair(&pair(3.0, 0.0, 0.0, 0.0)).d_w < 0.0);
    }
}
