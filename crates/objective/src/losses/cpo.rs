use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::error::{flip_probability, positive};
use crate::margin::Scores;
use crate::nll::{Nll, NllAverage};
use crate::numeric::logistic;
use crate::options::ObjectiveOptions;

/// Contrastive Preference Optimization: DPO with a uniform reference, and likelihood of the chosen completion.
///
/// ℓ = −log σ(β(a_w − a_l)) − λ a_w
///
/// - Coefficients: with c = σ(−u), d_w = βc + λ, d_l = βc.
/// - Stability: softplus; finite for every finite log-prob.
/// - Source: Xu et al. 2024, arXiv:2401.08417, eq. 3 with L_NLL; arXiv:2410.13828, Table 2.
/// - TRL: the experimental CPO trainer with `loss_type = "sigmoid"`: the likelihood term is a mean over the
///   chosen tokens of the micro-batch (smaller than λ a_w by the length, and long completions weigh more);
///   `label_smoothing` is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cpo {
    /// β > 0, per nat.
    pub beta: f64,
    /// ε in [0, ½).
    pub label_smoothing: f64,
    /// The likelihood term.
    pub nll: Nll,
}

impl Default for Cpo {
    fn default() -> Self {
        Self {
            beta: 0.1,
            label_smoothing: 0.0,
            nll: Nll {
                weight: 1.0,
                average: NllAverage::BatchTokens,
            },
        }
    }
}

impl Cpo {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "cpo",
        aliases: &[],
        title: "Contrastive Preference Optimization (CPO)",
        formula: "m(u) = log σ(u), h_w = β a_w, h_l = β a_l, Λ = λ a_w (nll_average: λ B a_w/ΣL_w)",
        loss: "−log σ(u) − Λ(a_w),  u = β(a_w − a_l)",
        d_w: "β σ(−u) + λ (nll_average: λ B/ΣL_w)",
        d_l: "β σ(−u)",
        defaults: &[
            ("beta", "0.1", "β, per nat"),
            ("cpo_alpha", "1", "λ, weight of the likelihood term"),
            (
                "nll_average",
                "true",
                "the likelihood term is a mean over the batch's chosen tokens; false under semantics = paper",
            ),
            ("label_smoothing", "0", "flip probability ε"),
        ],
        needs_reference: false,
        source: "Xu et al. 2024, arXiv:2401.08417, eq. 3 with L_NLL, as in arXiv:2410.13828, eq. 6 with Table 2",
        trl_differences: Some(
            "TRL averages the likelihood term over the chosen tokens of the micro-batch; the paper's is the sequence's log-prob",
        ),
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        let default = Self::default();
        let weight = options.cpo_alpha.unwrap_or(default.nll.weight);
        Ok(Self {
            beta: options.beta.unwrap_or(default.beta),
            label_smoothing: options.label_smoothing.unwrap_or(default.label_smoothing),
            nll: Nll::from_options(weight, NllAverage::Sum, options),
        })
    }

    /// Loss and coefficients of one pair, without the likelihood term.
    pub fn pair(&self, pair: &PairLogps) -> PairLoss {
        let scores = Scores::logps(pair, false);
        let (loss, c) = logistic(self.beta * scores.margin(), self.label_smoothing);
        scores.loss(loss, self.beta * c)
    }
}

impl Loss for Cpo {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)?;
        flip_probability("label_smoothing", self.label_smoothing)?;
        self.nll.validate("cpo_alpha")
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
        // a_w = a_l = −8, β = 1: c = ½. Sum: Λ = −8, d_w = 1.5. Mean over the batch's 4 tokens: Λ = −2, d_w = ½ + ¼.
        let tied = [pair(-8.0, -8.0, f64::NAN, f64::NAN)];
        let paper = Cpo {
            beta: 1.0,
            nll: Nll {
                weight: 1.0,
                average: NllAverage::Sum,
            },
            ..Cpo::default()
        };
        let ln_2 = std::f64::consts::LN_2;
        assert_eq!(
            paper.evaluate(&tied),
            [PairLoss {
                loss: ln_2 + 8.0,
                d_w: 1.5,
                d_l: 0.5
            }]
        );
        let trl = Cpo {
            beta: 1.0,
            ..Cpo::default()
        };
        assert_eq!(
            trl.evaluate(&tied),
            [PairLoss {
                loss: ln_2 + 2.0,
                d_w: 0.75,
                d_l: 0.5
            }]
        );
    }
}
