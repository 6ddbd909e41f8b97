use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::divergence::Divergence;
use crate::error::positive;
use crate::margin::Scores;
use crate::numeric::{log_sigmoid, sigmoid, softplus};
use crate::options::ObjectiveOptions;

/// DiscoPOP: the log-ratio modulated loss that a language model found.
///
/// ℓ = (1 − s)·softplus(−u) + s·e^−u,   u = βh, s = σ(u/τ)
///
/// - Coefficients: d_w = d_l = βc, c = (1−s)σ(−u) + s e^−u + s'(softplus(−u) − e^−u), s' = s(1−s)/τ. Not
///   monotone: c is negative in a stretch below u = 0 when τ < 1, where the step is the ideal one reversed.
/// - Stability: s e^−u as exp(log s − u), which for τ ≤ 1 never exceeds 1; softplus elsewhere. Finite at u =
///   ±500, where the plain product 0·∞ is NaN.
/// - Source: Lu et al. 2024, arXiv:2406.08414, eq. 5.
/// - TRL: `loss_type = "discopop"`, the same formula, as a plain product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiscoPop {
    /// β > 0, per nat.
    pub beta: f64,
    /// τ > 0, the width of the blend, in units of reward.
    pub tau: f64,
    /// The divergence whose score stands for the log-ratio.
    pub divergence: Divergence,
}

impl Default for DiscoPop {
    fn default() -> Self {
        Self {
            beta: 0.1,
            tau: 0.05,
            divergence: Divergence::ReverseKl,
        }
    }
}

impl DiscoPop {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "discopop",
        aliases: &[],
        title: "Discovered Preference Optimization (DiscoPOP)",
        formula: "m(u) = −(1−s) softplus(−u) − s e^−u, s = σ(u/τ), h_w = β(a_w − r_w), h_l = β(a_l − r_l), Λ = 0",
        loss: "(1−s) softplus(−u) + s e^−u,  u = βh, s = σ(u/τ)",
        d_w: "β [(1−s) σ(−u) + s e^−u + (s(1−s)/τ)(softplus(−u) − e^−u)]",
        d_l: "β [(1−s) σ(−u) + s e^−u + (s(1−s)/τ)(softplus(−u) − e^−u)]",
        defaults: &[
            ("beta", "0.1", "β, per nat"),
            ("discopop_tau", "0.05", "τ, width of the blend"),
            (
                "f_divergence_type",
                "reverse_kl",
                "divergence whose score stands for a − r",
            ),
        ],
        needs_reference: true,
        source: "Lu et al. 2024, arXiv:2406.08414, eq. 5",
        trl_differences: Some(
            "the formula is the same; TRL multiplies e^−u by s directly, which is NaN once e^−u overflows",
        ),
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        let default = Self::default();
        Ok(Self {
            beta: options.beta.unwrap_or(default.beta),
            tau: options.discopop_tau.unwrap_or(default.tau),
            divergence: Divergence::from_options(options)?,
        })
    }

    /// Loss and coefficients of one pair.
    pub fn pair(&self, pair: &PairLogps) -> PairLoss {
        let scores = Scores::log_ratios(pair, self.divergence, false);
        let u = self.beta * scores.margin();
        let (blend, rest) = (sigmoid(u / self.tau), sigmoid(-u / self.tau));
        let (logistic, exponential) = (softplus(-u), (log_sigmoid(u / self.tau) - u).exp());
        let loss = rest * logistic + exponential;
        let c = rest * sigmoid(-u)
            + exponential
            + (blend * rest * logistic - exponential * rest) / self.tau;
        scores.loss(loss, self.beta * c)
    }
}

impl Loss for DiscoPop {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)?;
        positive("discopop_tau", self.tau)?;
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
        // u = 0, s = ½, τ = ½, β = 1: ℓ = ½ log 2 + ½; c = ¼ + ½ + ½(log 2 − 1) = ¼ + ½ log 2.
        let disco = DiscoPop {
            beta: 1.0,
            tau: 0.5,
            ..DiscoPop::default()
        };
        let got = disco.pair(&pair(-4.0, -3.0, -4.0, -3.0));
        let half_ln_2 = 0.5 * std::f64::consts::LN_2;
        assert!((got.loss - (half_ln_2 + 0.5)).abs() < 1e-15);
        assert!((got.d_w - (0.25 + half_ln_2)).abs() < 1e-15);
    }

    #[test]
    fn the_reversed_stretch_exists() {
        // τ = 0.05, u just below 0: the blend's own slope outweighs both components.
        let disco = DiscoPop {
            beta: 1.0,
            ..DiscoPop::default()
        };
        assert!(disco.pair(&pair(-0.05, 0.0, 0.0, 0.0)).d_w < 0.0);
        assert!(disco.pair(&pair(-1.0, 0.0, 0.0, 0.0)).d_w > 0.0);
    }
}
