use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::error::positive;
use crate::options::ObjectiveOptions;

/// Self-Play Preference Optimization with hard labels: each log-ratio is regressed onto its own target.
///
/// ℓ = (x_w − 1/(2β))² + (x_l + 1/(2β))²
///
/// - Coefficients: d_w = 2(1/(2β) − x_w), d_l = 2(x_l + 1/(2β)); each reverses its sign past its own target.
/// - Stability: squares; finite for every finite log-prob.
/// - Source: Wu et al. 2024, arXiv:2405.00675, eq. 4.7 (η = 1/β) with win probability 1 for chosen and 0 for rejected.
/// - TRL: `loss_type = "sppo_hard"`, the same, but β 0.1 by default (targets ±5 nats instead of ±500).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sppo {
    /// β > 0, per nat; the targets are ±1/(2β).
    pub beta: f64,
}

impl Default for Sppo {
    fn default() -> Self {
        Self { beta: 0.001 }
    }
}

impl Sppo {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "sppo",
        aliases: &["sppo_hard"],
        title: "Self-Play Preference Optimization (SPPO), hard labels",
        formula: "m(u) = u, h_w = −(a_w − r_w − 1/(2β))², h_l = (a_l − r_l + 1/(2β))², Λ = 0",
        loss: "(a_w − r_w − 1/(2β))² + (a_l − r_l + 1/(2β))²",
        d_w: "2(1/(2β) − (a_w − r_w))",
        d_l: "2((a_l − r_l) + 1/(2β))",
        defaults: &[("beta", "0.001", "β, per nat; the targets are ±1/(2β)")],
        needs_reference: true,
        source: "Wu et al. 2024, arXiv:2405.00675, eq. 4.7, as in arXiv:2410.13828, eq. 6 with Table 2",
        trl_differences: Some(
            "the formula is the same; TRL's beta is 0.1 unless said, for this loss as for all",
        ),
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        Ok(Self {
            beta: options.beta.unwrap_or(Self::default().beta),
        })
    }

    /// Loss and coefficients of one pair.
    pub fn pair(&self, pair: &PairLogps) -> PairLoss {
        let target = 0.5 / self.beta;
        let chosen = target - pair.chosen_log_ratio();
        let rejected = pair.rejected_log_ratio() + target;
        PairLoss {
            loss: chosen * chosen + rejected * rejected,
            d_w: 2.0 * chosen,
            d_l: 2.0 * rejected,
        }
    }
}

impl Loss for Sppo {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)
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
        // β = ¼: targets ±2. x_w = 3 is past it by 1, x_l = 1 is 3 above −2: ℓ = 1 + 9, d_w = −2, d_l = 6.
        let got = Sppo { beta: 0.25 }.pair(&pair(3.0, 1.0, 0.0, 0.0));
        assert_eq!(
            got,
            PairLoss {
                loss: 10.0,
                d_w: -2.0,
                d_l: 6.0
            }
        );
    }
}
