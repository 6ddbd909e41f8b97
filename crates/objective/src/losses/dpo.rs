use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::divergence::Divergence;
use crate::error::{flip_probability, positive};
use crate::margin::Scores;
use crate::numeric::logistic;
use crate::options::ObjectiveOptions;

/// Direct Preference Optimization: logistic loss on the reference-relative margin.
///
/// ℓ = −log σ(βh),   h = x_w − x_l = (a_w − r_w) − (a_l − r_l)
///
/// - Coefficients: d_w = d_l = β σ(−βh). With an f-divergence, x becomes s(x) and each side gains its own s'(x).
/// - Stability: softplus(−βh); finite for every finite h, coefficients accurate in both tails.
/// - Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; f-divergences: Wang et al. 2023, arXiv:2309.16240.
/// - TRL: `loss_type = "sigmoid"`, which reads no `label_smoothing`; parity in `tests/parity/`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dpo {
    /// β > 0, per nat.
    pub beta: f64,
    /// ε in [0, ½): with ε > 0 this is [`Cdpo`](super::Cdpo).
    pub label_smoothing: f64,
    /// The divergence whose score stands for the log-ratio.
    pub divergence: Divergence,
}

impl Default for Dpo {
    fn default() -> Self {
        Self {
            beta: 0.1,
            label_smoothing: 0.0,
            divergence: Divergence::ReverseKl,
        }
    }
}

impl Dpo {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "sigmoid",
        aliases: &["dpo"],
        title: "Direct Preference Optimization (DPO)",
        formula: "m(u) = log σ(u), h_w = β(a_w − r_w), h_l = β(a_l − r_l), Λ = 0",
        loss: "−log σ(βh),  h = (a_w − r_w) − (a_l − r_l)",
        d_w: "β σ(−βh)",
        d_l: "β σ(−βh)",
        defaults: &[
            (
                "beta",
                "0.1",
                "β, per nat: how dearly the policy pays for leaving the reference",
            ),
            (
                "label_smoothing",
                "0",
                "flip probability ε; read under semantics = paper only",
            ),
            (
                "f_divergence_type",
                "reverse_kl",
                "divergence whose score stands for a − r",
            ),
        ],
        needs_reference: true,
        source: "Rafailov et al. 2023, arXiv:2305.18290, eq. 7",
        trl_differences: Some(
            "TRL's sigmoid ignores label_smoothing, and so does this under semantics = trl; cdpo reads it always",
        ),
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        let default = Self::default();
        let smoothing = options.label_smoothing.filter(|_| options.paper());
        Ok(Self {
            beta: options.beta.unwrap_or(default.beta),
            label_smoothing: smoothing.unwrap_or(default.label_smoothing),
            divergence: Divergence::from_options(options)?,
        })
    }

    /// Loss and coefficients of one pair.
    pub fn pair(&self, pair: &PairLogps) -> PairLoss {
        let scores = Scores::log_ratios(pair, self.divergence, false);
        let (loss, c) = logistic(self.beta * scores.margin(), self.label_smoothing);
        scores.loss(loss, self.beta * c)
    }
}

impl Loss for Dpo {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)?;
        flip_probability("label_smoothing", self.label_smoothing)?;
        self.divergence.validate()
    }

    fn evaluate(&self, batch: &[PairLogps]) -> Vec<PairLoss> {
        batch.iter().map(|pair| self.pair(pair)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // x_w = −10 − (−12) = 2, x_l = −9 − (−10) = 1, h = 1, β = 1:
        // ℓ = log(1 + e^−1) = 0.31326168751822286, d = σ(−1) = 0.2689414213699951.
        let pair = PairLogps {
            chosen: -10.0,
            rejected: -9.0,
            ref_chosen: -12.0,
            ref_rejected: -10.0,
            chosen_len: 3,
            rejected_len: 5,
        };
        let got = Dpo {
            beta: 1.0,
            ..Dpo::default()
        }
        .pair(&pair);
        assert!((got.loss - 0.313_261_687_518_222_86).abs() < 1e-15);
        assert!((got.d_w - 0.268_941_421_369_995_1).abs() < 1e-15);
        assert_eq!(got.d_w, got.d_l);
    }

    #[test]
    fn forward_kl_seeds_differ_by_side() {
        // x_w = log 2, x_l = 0: s = 1 − ½ = ½ and 0, slopes ½ and 1; β = 1, u = ½, c = σ(−½) = 0.3775406687981454.
        let pair = PairLogps {
            chosen: std::f64::consts::LN_2,
            rejected: 0.0,
            ref_chosen: 0.0,
            ref_rejected: 0.0,
            chosen_len: 1,
            rejected_len: 1,
        };
        let got = Dpo {
            beta: 1.0,
            divergence: Divergence::ForwardKl,
            ..Dpo::default()
        }
        .pair(&pair);
        assert!((got.d_w - 0.5 * 0.377_540_668_798_145_4).abs() < 1e-15);
        assert!((got.d_l - 0.377_540_668_798_145_4).abs() < 1e-15);
    }
}
