use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::margin::Scores;
use crate::nll::{Nll, NllAverage};
use crate::options::ObjectiveOptions;

/// RRHF: rank the mean token log-probs, and learn the chosen completion by likelihood.
///
/// ℓ = max(0, a_l/L_l − a_w/L_w) − λ a_w
///
/// - Coefficients: where the ranking is wrong, d_w = 1/L_w + λ, d_l = 1/L_l; where it is right (or tied), d_w
///   = λ, d_l = 0.
/// - Stability: piecewise linear; the slope at the tie is taken as 0, as PyTorch's relu does.
/// - Source: Yuan et al. 2023, arXiv:2304.05302, for two completions as in arXiv:2410.13828, Table 2.
/// - TRL 1.16 has no such loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rrhf {
    /// The likelihood term λ a_w.
    pub nll: Nll,
}

impl Default for Rrhf {
    fn default() -> Self {
        Self {
            nll: Nll {
                weight: 1.0,
                average: NllAverage::Sum,
            },
        }
    }
}

impl Rrhf {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "rrhf",
        aliases: &[],
        title: "Rank Responses to align Human Feedback (RRHF)",
        formula: "m(u) = min(0, u), h_w = a_w/L_w, h_l = a_l/L_l, Λ = λ a_w",
        loss: "max(0, a_l/L_l − a_w/L_w) − λ a_w",
        d_w: "[a_l/L_l > a_w/L_w] / L_w + λ",
        d_l: "[a_l/L_l > a_w/L_w] / L_l",
        defaults: &[
            ("rrhf_lambda", "1", "λ, weight of the likelihood term"),
            (
                "nll_average",
                "false",
                "true: the likelihood term is a mean over the batch's chosen tokens",
            ),
        ],
        needs_reference: false,
        source: "Yuan et al. 2023, arXiv:2304.05302, as in arXiv:2410.13828, eq. 6 with Table 2",
        trl_differences: Some("not in TRL"),
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        let default = Self::default();
        let average = match options.nll_average {
            Some(true) => NllAverage::BatchTokens,
            _ => default.nll.average,
        };
        Ok(Self {
            nll: Nll {
                weight: options.rrhf_lambda.unwrap_or(default.nll.weight),
                average,
            },
        })
    }

    /// Loss and coefficients of one pair, without the likelihood term.
    pub fn pair(&self, pair: &PairLogps) -> PairLoss {
        let scores = Scores::logps(pair, true);
        let wrong = -scores.margin();
        if wrong > 0.0 {
            scores.loss(wrong, 1.0)
        } else {
            PairLoss::default()
        }
    }
}

impl Loss for Rrhf {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        self.nll.validate("rrhf_lambda")
    }

    fn divides_by_length(&self) -> (bool, bool) {
        (true, true)
    }

    fn likelihood(&self) -> Nll {
        self.nll
    }

    fn evaluate(&self, batch: &[PairLogps]) -> Vec<PairLoss> {
        let mut losses: Vec<_> = batch.iter().map(|pair| self.pair(pair)).collect();
        self.nll.add_to(&mut losses, batch);
        losses
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
        // Means −2 and −1: wrong by 1. λ = 1: ℓ = 1 + 8, d_w = ¼ + 1, d_l = ½.
        let wrong = Rrhf::default().evaluate(&[pair(-8.0, -2.0, f64::NAN, f64::NAN)]);
        assert_eq!(
            wrong,
            [PairLoss {
                loss: 9.0,
                d_w: 1.25,
                d_l: 0.5
            }]
        );
        // Means −1 and −2: right; the likelihood term alone.
        let right = Rrhf::default().evaluate(&[pair(-4.0, -4.0, f64::NAN, f64::NAN)]);
        assert_eq!(
            right,
            [PairLoss {
                loss: 4.0,
                d_w: 1.0,
                d_l: 0.0
            }]
        );
    }
}
