use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::divergence::Divergence;
use crate::losses::Dpo;
use crate::options::ObjectiveOptions;

/// Conservative DPO: DPO for labels of which a share ε is flipped.
///
/// ℓ = −(1−ε) log σ(βh) − ε log σ(−βh)
///
/// - Coefficients: d_w = d_l = β(σ(−βh) − ε). They change sign at βh = log((1−ε)/ε), the margin at which the
///   model is as sure as the labels are: past it the step is the ideal one reversed.
/// - Stability: two softplus terms; finite for every finite h.
/// - Source: Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO", the loss with
///   smoothed labels.
/// - TRL 1.16's DPO has no such loss: its `sigmoid` ignores `label_smoothing`, its `robust` is another loss. The
///   experimental CPO and TPO trainers do smooth their sigmoid in this way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cdpo {
    /// β > 0, per nat.
    pub beta: f64,
    /// ε in [0, ½).
    pub label_smoothing: f64,
    /// The divergence whose score stands for the log-ratio.
    pub divergence: Divergence,
}

impl Default for Cdpo {
    fn default() -> Self {
        Self {
            beta: 0.1,
            label_smoothing: 0.1,
            divergence: Divergence::ReverseKl,
        }
    }
}

impl Cdpo {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "cdpo",
        aliases: &["conservative_dpo"],
        title: "Conservative DPO (label smoothing)",
        formula: "m(u) = (1−ε) log σ(u) + ε log σ(−u), h_w = β(a_w − r_w), h_l = β(a_l − r_l), Λ = 0",
        loss: "−(1−ε) log σ(βh) − ε log σ(−βh)",
        d_w: "β (σ(−βh) − ε)",
        d_l: "β (σ(−βh) − ε)",
        defaults: &[
            ("beta", "0.1", "β, per nat"),
            ("label_smoothing", "0.1", "flip probability ε in [0, 0.5)"),
            (
                "f_divergence_type",
                "reverse_kl",
                "divergence whose score stands for a − r",
            ),
        ],
        needs_reference: true,
        source: "Mitchell 2023, A note on DPO with noisy preferences and relationship to IPO (the loss with smoothed labels)",
        trl_differences: Some(
            "not in TRL's DPO: sigmoid there ignores label_smoothing, robust is the debiased loss",
        ),
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        let default = Self::default();
        Ok(Self {
            beta: options.beta.unwrap_or(default.beta),
            label_smoothing: options.label_smoothing.unwrap_or(default.label_smoothing),
            divergence: Divergence::from_options(options)?,
        })
    }

    /// Loss and coefficients of one pair.
    pub fn pair(&self, pair: &PairLogps) -> PairLoss {
        self.smoothed().pair(pair)
    }

    fn smoothed(&self) -> Dpo {
        Dpo {
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            divergence: self.divergence,
        }
    }
}

impl Loss for Cdpo {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        self.smoothed().validate()
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
        // h = 0, ε = 0.1, β = 1: ℓ = log 2, d = ½ − 0.1.
        let got = Cdpo {
            beta: 1.0,
            ..Cdpo::default()
        }
        .pair(&pair(-4.0, -3.0, -4.0, -3.0));
        assert!((got.loss - std::f64::consts::LN_2).abs() < 1e-15);
        assert!((got.d_w - 0.4).abs() < 1e-15 && got.d_w == got.d_l);
        // σ(−h) = ε at h = log 9: the coefficients vanish, and are negative beyond.
        let at = |h: f64| {
            Cdpo {
                beta: 1.0,
                ..Cdpo::default()
            }
            .pair(&pair(h, 0.0, 0.0, 0.0))
            .d_w
        };
        assert!(at(9.0f64.ln()).abs() < 1e-15);
        assert!(at(9.0f64.ln() + 1.0) < 0.0);
    }
}
