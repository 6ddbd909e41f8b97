use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::losses::Dpo;
use crate::nll::{Nll, NllAverage};
use crate::options::ObjectiveOptions;

/// Iterative RPO's loss: DPO and the likelihood of the chosen completion.
///
/// ℓ = −log σ(βh) − Λ(a_w),   Λ = α a_w/L_w, or α B a_w/ΣL_w averaged over the batch's tokens
///
/// - Coefficients: d_w = β σ(−βh) + Λ', d_l = β σ(−βh).
/// - Stability: as DPO.
/// - Source: Pang et al. 2024, arXiv:2404.19733, eq. 1, with the likelihood normalised by the completion's length.
/// - TRL 1.16 has no `rpo_alpha` any more; its way is `loss_type = ["sigmoid", "sft"]` with `loss_weights =
///   [1, α]`, whose likelihood is a mean over the micro-batch's chosen tokens: the default here, the paper's
///   under semantics = paper.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rpo {
    /// The preference term.
    pub dpo: Dpo,
    /// The likelihood term.
    pub nll: Nll,
}

impl Default for Rpo {
    fn default() -> Self {
        Self {
            dpo: Dpo::default(),
            nll: Nll {
                weight: 1.0,
                average: NllAverage::BatchTokens,
            },
        }
    }
}

impl Rpo {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "rpo",
        aliases: &["dpo_sft"],
        title: "DPO with a likelihood term (iterative RPO)",
        formula: "m(u) = log σ(u), h_w = β(a_w − r_w), h_l = β(a_l − r_l), Λ = α B a_w/ΣL_w (paper: α a_w/L_w)",
        loss: "−log σ(βh) − Λ(a_w)",
        d_w: "β σ(−βh) + α B/ΣL_w",
        d_l: "β σ(−βh)",
        defaults: &[
            ("beta", "0.1", "β, per nat"),
            ("rpo_alpha", "1", "α, weight of the likelihood term"),
            (
                "nll_average",
                "true",
                "the likelihood term is a mean over the batch's chosen tokens; under semantics = paper, each completion's own mean",
            ),
            (
                "f_divergence_type",
                "reverse_kl",
                "divergence whose score stands for a − r",
            ),
        ],
        needs_reference: true,
        source: "Pang et al. 2024, arXiv:2404.19733, eq. 1",
        trl_differences: Some(
            "TRL has dropped rpo_alpha; loss_type = [sigmoid, sft] with loss_weights = [1, α] is this one, with the mean over the micro-batch's chosen tokens",
        ),
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        let weight = options.rpo_alpha.unwrap_or(Self::default().nll.weight);
        Ok(Self {
            dpo: Dpo::from_options(options)?,
            nll: Nll::from_options(weight, NllAverage::PerCompletion, options),
        })
    }
}

impl Loss for Rpo {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        self.dpo.validate()?;
        self.nll.validate("rpo_alpha")
    }

    fn divides_by_length(&self) -> (bool, bool) {
        (self.nll.reads_lengths(), false)
    }

    fn likelihood(&self) -> Nll {
        self.nll
    }

    fn evaluate(&self, batch: &[PairLogps]) -> Vec<PairLoss> {
        let mut losses = self.dpo.evaluate(batch);
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
        // h = 0: DPO's log 2 and β/2 = 0.05; a_w = −8 over 4 tokens, α = ½: +1 to the loss, +⅛ to d_w.
        let rpo = Rpo {
            nll: Nll {
                weight: 0.5,
                average: NllAverage::PerCompletion,
            },
            ..Rpo::default()
        };
        let got = rpo.evaluate(&[pair(-8.0, -3.0, -8.0, -3.0)])[0];
        assert_eq!(
            got,
            PairLoss {
                loss: std::f64::consts::LN_2 + 1.0,
                d_w: 0.175,
                d_l: 0.05
            }
        );
    }
}
