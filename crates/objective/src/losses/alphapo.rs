use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::divergence::bounded_exp;
use crate::error::{check, flip_probability, positive};
use crate::margin::Scores;
use crate::numeric::logistic;
use crate::options::ObjectiveOptions;

/// AlphaPO: SimPO with a reward whose shape α bends.
///
/// ℓ = −log σ(β(ρ_w − ρ_l) − γ),   ρ = (1 − e^{−αp})/α, p = a/L;  α = 0: ρ = p, which is SimPO
///
/// - Coefficients: with c = σ(−u), d_w = βc e^{−αp_w}/L_w, d_l = βc e^{−αp_l}/L_l: for α > 0 unlikely
///   completions are pushed harder.
/// - Stability: softplus; the exponent −αp is held at 80, slope 0 beyond.
/// - Source: Gupta et al. 2025, arXiv:2501.03884. α 0.25 is one of the paper's settings (Table 3); β and γ
///   are this crate's SimPO.
/// - TRL: the experimental CPO trainer with `loss_type = "alphapo"` (which is "simpo" without likelihood
///   term) and `alpha`; its α is 0 and β 0.1 unless said, and it computes e^p before the power, which
///   underflows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AlphaPo {
    /// β > 0.
    pub beta: f64,
    /// γ, the target margin, in units of reward.
    pub gamma: f64,
    /// α, the reward's shape, no unit.
    pub alpha: f64,
    /// ε in [0, ½).
    pub label_smoothing: f64,
}

impl Default for AlphaPo {
    fn default() -> Self {
        Self {
            beta: 2.0,
            gamma: 0.5,
            alpha: 0.25,
            label_smoothing: 0.0,
        }
    }
}

impl AlphaPo {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "alphapo",
        aliases: &[],
        title: "AlphaPO (reward shape)",
        formula: "m(u) = log σ(u − γ), h_w = β ρ(a_w/L_w), h_l = β ρ(a_l/L_l), ρ(p) = (1 − e^{−αp})/α, Λ = 0",
        loss: "−log σ(u),  u = β(ρ(a_w/L_w) − ρ(a_l/L_l)) − γ",
        d_w: "β σ(−u) e^{−α a_w/L_w} / L_w",
        d_l: "β σ(−u) e^{−α a_l/L_l} / L_l",
        defaults: &[
            ("beta", "2", "β, reward scale"),
            ("simpo_gamma", "0.5", "γ, target margin of the rewards"),
            (
                "alphapo_alpha",
                "0.25",
                "α, shape of the reward; 0 is simpo",
            ),
            ("label_smoothing", "0", "flip probability ε"),
        ],
        needs_reference: false,
        source: "Gupta et al. 2025, arXiv:2501.03884",
        trl_differences: Some("TRL's alpha is 0 (SimPO) and its beta 0.1 unless said"),
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        let default = Self::default();
        Ok(Self {
            beta: options.beta.unwrap_or(default.beta),
            gamma: options.simpo_gamma.unwrap_or(default.gamma),
            alpha: options.alpha.unwrap_or(default.alpha),
            label_smoothing: options.label_smoothing.unwrap_or(default.label_smoothing),
        })
    }

    /// Loss and coefficients of one pair.
    pub fn pair(&self, pair: &PairLogps) -> PairLoss {
        let scores = Scores::logps(pair, true).map(|p| self.reward(p));
        let (loss, c) = logistic(
            self.beta * scores.margin() - self.gamma,
            self.label_smoothing,
        );
        scores.loss(loss, self.beta * c)
    }

    /// β·ρ of the chosen and of the rejected completion.
    pub fn rewards(&self, pair: &PairLogps) -> (f64, f64) {
        let reward = |p| self.beta * self.reward(p).0;
        (reward(pair.chosen_mean()), reward(pair.rejected_mean()))
    }

    /// ρ and ρ' at mean log-prob `p`.
    fn reward(&self, p: f64) -> (f64, f64) {
        if self.alpha == 0.0 {
            return (p, 1.0);
        }
        let (power, slope) = bounded_exp(-self.alpha * p);
        ((1.0 - power) / self.alpha, slope)
    }
}

impl Loss for AlphaPo {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)?;
        check("simpo_gamma", self.gamma, true, "a finite number")?;
        check("alphapo_alpha", self.alpha, true, "a finite number")?;
        flip_probability("label_smoothing", self.label_smoothing)
    }

    fn divides_by_length(&self) -> (bool, bool) {
        (true, true)
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
        // α = 1, p_w = p_l = −log 2: ρ = 1 − 2 = −1 both, slope 2; γ = 0, β = 1: u = 0, c = ½: d_w = ½·2/4,
        // d_l = ½·2/2.
        let ln_2 = std::f64::consts::LN_2;
        let got = AlphaPo {
            beta: 1.0,
            gamma: 0.0,
            alpha: 1.0,
            label_smoothing: 0.0,
        }
        .pair(&pair(-4.0 * ln_2, -2.0 * ln_2, f64::NAN, f64::NAN));
        assert!((got.loss - ln_2).abs() < 1e-15);
        assert!((got.d_w - 0.25).abs() < 1e-15 && (got.d_l - 0.5).abs() < 1e-15);
    }

    #[test]
    fn alpha_zero_is_simpo() {
        let some = pair(-7.0, -2.5, f64::NAN, f64::NAN);
        let alpha = AlphaPo {
            alpha: 0.0,
            ..AlphaPo::default()
        }
        .pair(&some);
        assert_eq!(alpha, crate::losses::SimPo::default().pair(&some));
    }
}
