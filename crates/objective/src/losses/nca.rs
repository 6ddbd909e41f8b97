use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::error::positive;
use crate::numeric::{sigmoid, softplus};
use crate::options::ObjectiveOptions;

/// Noise Contrastive Alignment on pairs: raise the chosen reward itself, not only its lead.
///
/// ℓ = −log σ(βx_w) − ½ log σ(−βx_w) − ½ log σ(−βx_l)
///
/// - Coefficients: d_w = β(σ(−βx_w) − ½σ(βx_w)), d_l = ½β σ(βx_l). d_w turns negative past βx_w = log 2: the
///   chosen reward is held there.
/// - Stability: softplus; finite for every finite log-prob.
/// - Source: Chen et al. 2024, arXiv:2402.05369, section 4.1 with K = 2.
/// - TRL: `loss_type = "nca_pair"`, the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NcaPair {
    /// β > 0, per nat.
    pub beta: f64,
}

impl Default for NcaPair {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl NcaPair {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "nca_pair",
        aliases: &["nca"],
        title: "Noise Contrastive Alignment (NCA), pairwise",
        formula: "m(u) = u, h_w = log σ(β(a_w − r_w)) + ½ log σ(−β(a_w − r_w)), h_l = −½ log σ(−β(a_l − r_l)), Λ = 0",
        loss: "−log σ(βx_w) − ½ log σ(−βx_w) − ½ log σ(−βx_l),  x = a − r",
        d_w: "β (σ(−βx_w) − ½ σ(βx_w))",
        d_l: "½ β σ(βx_l)",
        defaults: &[("beta", "0.1", "β, per nat")],
        needs_reference: true,
        source: "Chen et al. 2024, arXiv:2402.05369, section 4.1 with K = 2",
        trl_differences: None,
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        Ok(Self {
            beta: options.beta.unwrap_or(Self::default().beta),
        })
    }

    /// Loss and coefficients of one pair.
    pub fn pair(&self, pair: &PairLogps) -> PairLoss {
        let chosen = self.beta * pair.chosen_log_ratio();
        let rejected = self.beta * pair.rejected_log_ratio();
        PairLoss {
            loss: softplus(-chosen) + 0.5 * softplus(chosen) + 0.5 * softplus(rejected),
            d_w: self.beta * (sigmoid(-chosen) - 0.5 * sigmoid(chosen)),
            d_l: 0.5 * self.beta * sigmoid(rejected),
        }
    }
}

impl Loss for NcaPair {
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
        // x_w = x_l = 0, β = 1: ℓ = 2 log 2, d_w = ½ − ¼, d_l = ¼.
        let nca = NcaPair { beta: 1.0 };
        let got = nca.pair(&pair(-4.0, -3.0, -4.0, -3.0));
        assert_eq!(
            got,
            PairLoss {
                loss: 2.0 * std::f64::consts::LN_2,
                d_w: 0.25,
                d_l: 0.25
            }
        );
        // σ(−x) = ½σ(x) at x = log 2.
        assert!(
            nca.pair(&pair(std::f64::consts::LN_2, 0.0, 0.0, 0.0))
                .d_w
                .abs()
                < 1e-15
        );
    }
}
