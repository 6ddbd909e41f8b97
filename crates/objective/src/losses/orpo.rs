use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::error::positive;
use crate::margin::Scores;
use crate::nll::{Nll, NllAverage};
use crate::numeric::{log_1m_exp, logistic};
use crate::options::ObjectiveOptions;

/// Odds Ratio Preference Optimization: likelihood of the chosen completion, and the log-odds of its mean
/// token log-prob.
///
/// ℓ = −Λ(a_w) − λ log σ(o_w − o_l),   o = p − log(1 − e^p), p = a/L
///
/// - Coefficients: with c = σ(−(o_w − o_l)), d_w = λc/(L_w(1 − e^p_w)) + Λ', d_l = λc/(L_l(1 − e^p_l)).
/// - Stability: log(1 − e^p) by expm1 or log1p; p is held at −1e-12 (a completion that certain has no odds to
///   speak of), with the slope there.
/// - Source: Hong et al. 2024, arXiv:2403.07691, eq. 4 and 7; λ 0.1.
/// - TRL: the experimental ORPO trainer, λ under the name `beta`, in float32. Its likelihood term runs over
///   *prompt and completion* tokens of the micro-batch, which sums over the completion cannot express: here
///   the completion's alone (mean over the batch's chosen tokens; under semantics = paper, each completion's
///   own mean).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Orpo {
    /// λ > 0, weight of the odds-ratio term.
    pub beta: f64,
    /// The likelihood term.
    pub nll: Nll,
}

impl Default for Orpo {
    fn default() -> Self {
        Self {
            beta: 0.1,
            nll: Nll {
                weight: 1.0,
                average: NllAverage::BatchTokens,
            },
        }
    }
}

impl Orpo {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "orpo",
        aliases: &[],
        title: "Odds Ratio Preference Optimization (ORPO)",
        formula: "m(u) = λ log σ(u), h_w = o(a_w/L_w), h_l = o(a_l/L_l), o(p) = p − log(1 − e^p), Λ = B a_w/ΣL_w",
        loss: "−Λ(a_w) − λ log σ(u),  u = o(a_w/L_w) − o(a_l/L_l)",
        d_w: "λ σ(−u) / (L_w (1 − e^{a_w/L_w})) + B/ΣL_w",
        d_l: "λ σ(−u) / (L_l (1 − e^{a_l/L_l}))",
        defaults: &[
            (
                "beta",
                "0.1",
                "λ, weight of the odds-ratio term (TRL's name for it)",
            ),
            (
                "nll_average",
                "true",
                "the likelihood term is a mean over the batch's chosen tokens; under semantics = paper, each completion's own mean",
            ),
        ],
        needs_reference: false,
        source: "Hong et al. 2024, arXiv:2403.07691, eq. 4 and 7",
        trl_differences: Some(
            "TRL's likelihood term also runs over the prompt's tokens; here, over the completion's alone",
        ),
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        Ok(Self {
            beta: options.beta.unwrap_or(Self::default().beta),
            nll: Nll::from_options(1.0, NllAverage::PerCompletion, options),
        })
    }

    /// Loss and coefficients of one pair, without the likelihood term.
    pub fn pair(&self, pair: &PairLogps) -> PairLoss {
        let scores = Scores::logps(pair, true).map(log_odds);
        let (loss, c) = logistic(scores.margin(), 0.0);
        scores.loss(self.beta * loss, self.beta * c)
    }
}

/// log( e^p / (1 − e^p) ) and its slope 1/(1 − e^p).
fn log_odds(p: f64) -> (f64, f64) {
    let p = p.min(-1e-12);
    (p - log_1m_exp(p), -1.0 / p.exp_m1())
}

impl Loss for Orpo {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)?;
        self.nll.validate("nll")
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
        // Mean log-probs −log 2 both: odds 1, u = 0, c = ½, slope 1/(1 − ½) = 2; λ = 1:
        // d_w = ½·2/4 + 1/4 (likelihood over the batch's 4 tokens), d_l = ½·2/2; ℓ = log 2 + log 2.
        let ln_2 = std::f64::consts::LN_2;
        let orpo = Orpo {
            beta: 1.0,
            ..Orpo::default()
        };
        let got = orpo.evaluate(&[pair(-4.0 * ln_2, -2.0 * ln_2, f64::NAN, f64::NAN)])[0];
        assert!((got.loss - 2.0 * ln_2).abs() < 1e-15);
        assert!((got.d_w - 0.5).abs() < 1e-15 && (got.d_l - 0.5).abs() < 1e-15);
    }

    #[test]
    fn certain_completions_stay_finite() {
        for got in Orpo::default().evaluate(&[
            pair(0.0, 0.0, 0.0, 0.0),
            pair(0.0, -9.0, 0.0, 0.0),
            pair(-9.0, 0.0, 0.0, 0.0),
        ]) {
            assert!(
                got.loss.is_finite() && got.d_w.is_finite() && got.d_l.is_finite(),
                "{got:?}"
            );
        }
    }
}
