use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::divergence::Divergence;
use crate::error::positive;
use crate::margin::Scores;
use crate::options::ObjectiveOptions;

/// Hinge on the reward margin.
///
/// ℓ = max(0, 1 − βh),   h = x_w − x_l
///
/// - Coefficients: d_w = d_l = β inside the hinge (βh < 1), 0 outside.
/// - Stability: piecewise linear; the slope at the corner is taken as 0, as PyTorch's relu does.
/// - Source: Liu et al. 2023 (RSO), arXiv:2309.06657 (hinge-norm); after SLiC, Zhao et al. 2023,
///   arXiv:2305.10425, section 2.
/// - TRL: `loss_type = "hinge"`, the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hinge {
    /// β > 0, per nat; the reciprocal of the margin.
    pub beta: f64,
    /// The divergence whose score stands for the log-ratio.
    pub divergence: Divergence,
}

impl Default for Hinge {
    fn default() -> Self {
        Self {
            beta: 0.1,
            divergence: Divergence::ReverseKl,
        }
    }
}

impl Hinge {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "hinge",
        aliases: &[],
        title: "Hinge on the reward margin (SLiC normalised by a reference)",
        formula: "m(u) = min(0, u − 1), h_w = β(a_w − r_w), h_l = β(a_l − r_l), Λ = 0",
        loss: "max(0, 1 − βh),  h = (a_w − r_w) − (a_l − r_l)",
        d_w: "β [βh < 1]",
        d_l: "β [βh < 1]",
        defaults: &[
            ("beta", "0.1", "β, per nat"),
            (
                "f_divergence_type",
                "reverse_kl",
                "divergence whose score stands for a − r",
            ),
        ],
        needs_reference: true,
        source: "Liu et al. 2023, arXiv:2309.06657 (hinge-norm); after Zhao et al. 2023, arXiv:2305.10425, section 2",
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
        let scores = Scores::log_ratios(pair, self.divergence, false);
        let short = 1.0 - self.beta * scores.margin();
        if short > 0.0 {
            scores.loss(short, self.beta)
        } else {
            PairLoss::default()
        }
    }
}

impl Loss for Hinge {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)?;
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
        // h = 2, β = ¼: 1 − ½; d = ¼. h = 4: at the corner, nothing.
        let hinge = Hinge {
            beta: 0.25,
            ..Hinge::default()
        };
        assert_eq!(
            hinge.pair(&pair(-1.0, -3.0, -2.0, -2.0)),
            PairLoss {
                loss: 0.5,
                d_w: 0.25,
                d_l: 0.25
            }
        );
        assert_eq!(
            hinge.pair(&pair(0.0, -4.0, -2.0, -2.0)),
            PairLoss::default()
        );
    }
}
