use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::error::{check, flip_probability, positive};
use crate::margin::Scores;
use crate::nll::{Nll, NllAverage};
use crate::numeric::logistic;
use crate::options::ObjectiveOptions;

/// SimPO: logistic loss on the difference of mean token log-probs, with a target margin and no reference.
///
/// ℓ = −log σ(β(a_w/L_w − a_l/L_l) − γ)
///
/// - Coefficients: with c = σ(−u), d_w = βc/L_w, d_l = βc/L_l; so d_w/d_l = L_l/L_w.
/// - Stability: softplus; finite for every finite log-prob and length ≥ 1.
/// - Source: Meng et al. 2024, arXiv:2405.14734, eq. 6; arXiv:2410.13828, Table 2.
/// - TRL: the experimental CPO trainer with `loss_type = "simpo"`: β 0.1 and γ 0.5 there by default,
///   `label_smoothing` read, and, unless `cpo_alpha = 0` is said, a likelihood term of weight 1 added
///   (CPO-SimPO).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SimPo {
    /// β > 0, per nat of mean token log-prob.
    pub beta: f64,
    /// γ, the target margin, in units of reward (not divided by β).
    pub gamma: f64,
    /// ε in [0, ½).
    pub label_smoothing: f64,
    /// Likelihood term, off by default.
    pub nll: Nll,
}

impl Default for SimPo {
    fn default() -> Self {
        Self {
            beta: 2.0,
            gamma: 0.5,
            label_smoothing: 0.0,
            nll: Nll::OFF,
        }
    }
}

impl SimPo {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "simpo",
        aliases: &[],
        title: "Simple Preference Optimization (SimPO)",
        formula: "m(u) = log σ(u − γ), h_w = β a_w/L_w, h_l = β a_l/L_l, Λ = 0",
        loss: "−log σ(u),  u = β(a_w/L_w − a_l/L_l) − γ",
        d_w: "β σ(−u) / L_w",
        d_l: "β σ(−u) / L_l",
        defaults: &[
            ("beta", "2", "β, per nat of mean token log-prob"),
            ("simpo_gamma", "0.5", "γ, target margin of the rewards"),
            ("label_smoothing", "0", "flip probability ε"),
        ],
        needs_reference: false,
        source: "Meng et al. 2024, arXiv:2405.14734, eq. 6, as in arXiv:2410.13828, eq. 6 with Table 2",
        trl_differences: Some(
            "TRL's CPO trainer defaults to beta 0.1 (gamma 0.5) and adds a likelihood term of weight 1 unless cpo_alpha = 0; here beta is 2 and there is none unless semantics = trl and cpo_alpha is given",
        ),
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        let default = Self::default();
        let nll = options.cpo_alpha.filter(|_| !options.paper());
        Ok(Self {
            beta: options.beta.unwrap_or(default.beta),
            gamma: options.simpo_gamma.unwrap_or(default.gamma),
            label_smoothing: options.label_smoothing.unwrap_or(default.label_smoothing),
            nll: nll.map_or(default.nll, |weight| {
                Nll::from_options(weight, NllAverage::Sum, options)
            }),
        })
    }

    /// Loss and coefficients of one pair, without the likelihood term.
    pub fn pair(&self, pair: &PairLogps) -> PairLoss {
        let scores = Scores::logps(pair, true);
        let (loss, c) = logistic(
            self.beta * scores.margin() - self.gamma,
            self.label_smoothing,
        );
        scores.loss(loss, self.beta * c)
    }
}

impl Loss for SimPo {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)?;
        check("simpo_gamma", self.gamma, true, "a finite number")?;
        flip_probability("label_smoothing", self.label_smoothing)?;
        self.nll.validate("cpo_alpha")
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
        // Means −1 and −1.25, β = 2: 0.5 − γ = 0, c = ½: d_w = 2·½/4 = ¼, d_l = 2·½/2 = ½.
        let got = SimPo::default().pair(&pair(-4.0, -2.5, f64::NAN, f64::NAN));
        assert_eq!(
            got,
            PairLoss {
                loss: std::f64::consts::LN_2,
                d_w: 0.25,
                d_l: 0.5
            }
        );
    }
}
