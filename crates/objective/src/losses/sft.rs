use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::nll::{Nll, NllAverage};
use crate::options::ObjectiveOptions;

/// Supervised fine-tuning on the chosen completion: nothing but the likelihood term.
///
/// ℓ = −Λ(a_w),   Λ = B a_w/ΣL_w: the mean over the pairs is the mean over the batch's chosen tokens
///
/// - Coefficients: d_w = B/ΣL_w, d_l = 0.
/// - Stability: linear.
/// - Source: maximum likelihood; as a term of preference losses, TRL's `sft`.
/// - TRL: `loss_type = "sft"`, the same (mean over the micro-batch's chosen tokens). With `nll_average =
///   false`, the sum: ℓ = −a_w.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sft {
    /// The likelihood term.
    pub nll: Nll,
}

impl Default for Sft {
    fn default() -> Self {
        Self {
            nll: Nll {
                weight: 1.0,
                average: NllAverage::BatchTokens,
            },
        }
    }
}

impl Sft {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "sft",
        aliases: &["nll"],
        title: "Supervised fine-tuning on the chosen completion",
        formula: "m = 0, Λ = B a_w/ΣL_w over a batch of B pairs (nll_average = false: a_w)",
        loss: "−B a_w/ΣL_w",
        d_w: "B/ΣL_w",
        d_l: "0",
        defaults: &[(
            "nll_average",
            "true",
            "mean over the batch's chosen tokens; false: the sum over the completion",
        )],
        needs_reference: false,
        source: "maximum likelihood; Λ of arXiv:2410.13828, eq. 6, alone",
        trl_differences: None,
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        Ok(Self {
            nll: Nll::from_options(1.0, NllAverage::BatchTokens, options),
        })
    }
}

impl Loss for Sft {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        self.nll.validate("nll")
    }

    fn divides_by_length(&self) -> (bool, bool) {
        (self.nll.reads_lengths(), false)
    }

    fn likelihood(&self) -> Nll {
        self.nll
    }

    fn evaluate(&self, batch: &[PairLogps]) -> Vec<PairLoss> {
        let mut losses = vec![PairLoss::default(); batch.len()];
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
    fn mean_over_tokens_by_hand() {
        // a_w = −8 and −4 over 4 tokens each: ΣL_w = 8, B = 2: losses 2 and 1, mean 1.5 = 12/8; d_w = ¼.
        let got = Sft::default().evaluate(&[pair(-8.0, 0.0, 0.0, 0.0), pair(-4.0, 0.0, 0.0, 0.0)]);
        assert_eq!(
            got[0],
            PairLoss {
                loss: 2.0,
                d_w: 0.25,
                d_l: 0.0
            }
        );
        assert_eq!(
            got[1],
            PairLoss {
                loss: 1.0,
                d_w: 0.25,
                d_l: 0.0
            }
        );
    }
}
