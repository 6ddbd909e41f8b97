use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::divergence::Divergence;
use crate::error::positive;
use crate::margin::Scores;
use crate::options::ObjectiveOptions;

/// Identity Preference Optimization: the margin is regressed onto 1/(2β).
///
/// ℓ = (h − 1/(2β))²,   h = x_w/L_w − x_l/L_l with `length_average`, else x_w − x_l
///
/// - Coefficients: with k = 2(1/(2β) − h), d_w = k/L_w, d_l = k/L_l averaged; d_w = d_l = k otherwise. Past
///   the target, h > 1/(2β), both are negative: the gradient is reversed and pulls the margin back.
/// - Stability: a square; finite for every finite log-prob.
/// - Source: Azar et al. 2023, arXiv:2310.12036, eq. 17 (β here is τ there), where the log-probs are sums.
/// - TRL: `loss_type = "ipo"` averages over tokens, so d_w/d_l = L_l/L_w; the default here, off under
///   semantics = paper.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ipo {
    /// β > 0 (τ in the paper), per nat.
    pub beta: f64,
    /// Divide each log-ratio by its completion's length.
    pub length_average: bool,
    /// The divergence whose score stands for the log-ratio.
    pub divergence: Divergence,
}

impl Default for Ipo {
    fn default() -> Self {
        Self {
            beta: 0.1,
            length_average: true,
            divergence: Divergence::ReverseKl,
        }
    }
}

impl Ipo {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "ipo",
        aliases: &[],
        title: "Identity Preference Optimization (IPO)",
        formula: "m(u) = −(u − 1/(2β))², h_w = (a_w − r_w)/L_w, h_l = (a_l − r_l)/L_l, Λ = 0 (without length_average: no division)",
        loss: "(h − 1/(2β))²,  h = (a_w − r_w)/L_w − (a_l − r_l)/L_l",
        d_w: "2(1/(2β) − h) / L_w",
        d_l: "2(1/(2β) − h) / L_l",
        defaults: &[
            (
                "beta",
                "0.1",
                "β (τ in the paper), per nat; the target margin is 1/(2β)",
            ),
            (
                "length_average",
                "true",
                "divide by the lengths; false under semantics = paper",
            ),
            (
                "f_divergence_type",
                "reverse_kl",
                "divergence whose score stands for a − r",
            ),
        ],
        needs_reference: true,
        source: "Azar et al. 2023, arXiv:2310.12036, eq. 17, as in arXiv:2410.13828, eq. 6 with Table 2",
        trl_differences: Some(
            "TRL averages over tokens, so d_w/d_l = L_l/L_w instead of 1; the paper's margin is of sums. Both reverse their gradient past the target",
        ),
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        Ok(Self {
            beta: options.beta.unwrap_or(Self::default().beta),
            length_average: options.length_average.unwrap_or(!options.paper()),
            divergence: Divergence::from_options(options)?,
        })
    }

    /// Loss and coefficients of one pair.
    pub fn pair(&self, pair: &PairLogps) -> PairLoss {
        let scores = Scores::log_ratios(pair, self.divergence, self.length_average);
        let short = 0.5 / self.beta - scores.margin();
        scores.loss(short * short, 2.0 * short)
    }
}

impl Loss for Ipo {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)?;
        self.divergence.validate()
    }

    fn divides_by_length(&self) -> (bool, bool) {
        (self.length_average, self.length_average)
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
        // β = ½: target 1. x_w = 2 over 4 tokens, x_l = −1 over 2: h = ½ + ½ = 1, at the target: no loss, no gradient.
        let averaged = Ipo {
            beta: 0.5,
            ..Ipo::default()
        };
        assert_eq!(
            averaged.pair(&pair(2.0, -1.0, 0.0, 0.0)),
            PairLoss::default()
        );
        // Sums: h = 3, loss (1 − 3)² = 4, k = 2(1 − 3) = −4: reversed.
        let summed = Ipo {
            length_average: false,
            ..averaged
        };
        assert_eq!(
            summed.pair(&pair(2.0, -1.0, 0.0, 0.0)),
            PairLoss {
                loss: 4.0,
                d_w: -4.0,
                d_l: -4.0
            }
        );
        // Averaged at h = 0: k = 2, d_w = 2/4, d_l = 2/2, ratio L_l/L_w = ½.
        assert_eq!(
            averaged.pair(&pair(0.0, 0.0, 0.0, 0.0)),
            PairLoss {
                loss: 1.0,
                d_w: 0.5,
                d_l: 1.0
            }
        );
    }
}
