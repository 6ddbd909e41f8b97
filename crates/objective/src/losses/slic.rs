use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::error::not_negative;
use crate::margin::Scores;
use crate::nll::{Nll, NllAverage};
use crate::options::ObjectiveOptions;

/// SLiC-HF: hinge on the difference of sequence log-probs, and likelihood of the chosen completion.
///
/// ℓ = max(0, δ − a_w + a_l) − λ a_w
///
/// - Coefficients: inside the hinge, a_w − a_l < δ, d_w = 1 + λ, d_l = 1; outside, d_w = λ, d_l = 0.
/// - Stability: piecewise linear; the slope at the corner is taken as 0.
/// - Source: Zhao et al. 2023, arXiv:2305.10425, section 2, with the chosen completion as the regularization
///   target: arXiv:2410.13828, Table 2.
/// - TRL 1.16 has no such loss; its `hinge` ([`Hinge`](super::Hinge)) is the margin loss on β-scaled log-ratios alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slic {
    /// δ ≥ 0, nats.
    pub delta: f64,
    /// The likelihood term λ a_w.
    pub nll: Nll,
}

impl Default for Slic {
    fn default() -> Self {
        Self {
            delta: 1.0,
            nll: Nll {
                weight: 0.1,
                average: NllAverage::Sum,
            },
        }
    }
}

impl Slic {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "slic",
        aliases: &["slic_hf"],
        title: "Sequence Likelihood Calibration with human feedback (SLiC-HF)",
        formula: "m(u) = min(0, u − δ), h_w = a_w, h_l = a_l, Λ = λ a_w",
        loss: "max(0, δ − a_w + a_l) − λ a_w",
        d_w: "[a_w − a_l < δ] + λ",
        d_l: "[a_w − a_l < δ]",
        defaults: &[
            ("slic_delta", "1", "δ, margin of the hinge, nats"),
            ("slic_lambda", "0.1", "λ, weight of the likelihood term"),
            (
                "nll_average",
                "false",
                "true: the likelihood term is a mean over the batch's chosen tokens",
            ),
        ],
        needs_reference: false,
        source: "Zhao et al. 2023, arXiv:2305.10425, section 2, as in arXiv:2410.13828, eq. 6 with Table 2",
        trl_differences: Some(
            "not in TRL; its hinge is max(0, 1 − βh) on log-ratios, without a likelihood term",
        ),
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        let default = Self::default();
        let average = match options.nll_average {
            Some(true) => NllAverage::BatchTokens,
            _ => default.nll.average,
        };
        Ok(Self {
            delta: options.slic_delta.unwrap_or(default.delta),
            nll: Nll {
                weight: options.slic_lambda.unwrap_or(default.nll.weight),
                average,
            },
        })
    }

    /// Loss and coefficients of one pair, without the likelihood term.
    pub fn pair(&self, pair: &PairLogps) -> PairLoss {
        let scores = Scores::logps(pair, false);
        let short = self.delta - scores.margin();
        if short > 0.0 {
            scores.loss(short, 1.0)
        } else {
            PairLoss::default()
        }
    }
}

impl Loss for Slic {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        not_negative("slic_delta", self.delta)?;
        self.nll.validate("slic_lambda")
    }

    fn divides_by_length(&self) -> (bool, bool) {
        (self.nll.reads_lengths(), false)
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
        // a_w − a_l = −1, δ = 1: short by 2; −λ a_w = 0.3: ℓ = 2.3, d_w = 1.1, d_l = 1.
        let inside = Slic::default().evaluate(&[pair(-3.0, -2.0, f64::NAN, f64::NAN)])[0];
        assert!((inside.loss - 2.3).abs() < 1e-15);
        assert_eq!((inside.d_w, inside.d_l), (1.1, 1.0));
        // Just inside, and at the corner, which counts as outside.
        let d_l =
            |rejected| Slic::default().evaluate(&[pair(-3.0, rejected, f64::NAN, f64::NAN)])[0].d_l;
        assert_eq!((d_l(-3.9), d_l(-4.0)), (1.0, 0.0));
        // a_w − a_l = 5 > δ: likelihood alone.
        let outside = Slic::default().evaluate(&[pair(-3.0, -8.0, f64::NAN, f64::NAN)])[0];
        assert_eq!((outside.d_w, outside.d_l), (0.1, 0.0));
    }
}
