use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::error::{check, not_negative, positive};
use crate::numeric::{sigmoid, sigmoid_slope};
use crate::options::ObjectiveOptions;

/// Kahneman–Tversky Optimization on pairs: each side against a reference point z, not against the other side.
///
/// ℓ = λ_w (1 − σ(βx_w − z)) + λ_l (1 − σ(z − βx_l)),   z = β·max(0, KL)
///
/// - Coefficients: d_w = λ_w β σ'(βx_w − z), d_l = λ_l β σ'(z − βx_l), with z held constant, as in the paper.
/// - z: from the KL that the caller estimated ([`KlEstimate::Given`]: mismatched completions, as TRL), or the
///   mean log-ratio of the batch's 2B completions (**ours**; no second scoring), never below 0.
/// - Unpaired rows: [`Kto::row`].
/// - Stability: logistic functions of both signs; saturates to 0 at both ends, so hopeless and settled rows
///   stop moving.
/// - Source: Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7; arXiv:2410.13828, Table 2, drops the constant λ_w + λ_l.
/// - TRL: `KTOTrainer` on unpaired rows; it takes the mean over rows, so a pair's coefficients there are half
///   of these, and z from completions shifted by one row within the batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kto {
    /// β > 0, per nat.
    pub beta: f64,
    /// λ_w ≥ 0.
    pub desirable_weight: f64,
    /// λ_l ≥ 0.
    pub undesirable_weight: f64,
    /// Where z comes from.
    pub kl: KlEstimate,
}

/// KTO's estimate of KL(π‖π_ref), the reference point over β.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KlEstimate {
    /// The mean log-ratio of all completions of the batch given to `evaluate`.
    Batch,
    /// The caller's, nats; negative counts as 0.
    Given(f64),
}

impl Default for Kto {
    fn default() -> Self {
        Self {
            beta: 0.1,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
            kl: KlEstimate::Batch,
        }
    }
}

impl Kto {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "kto",
        aliases: &["kto_pair"],
        title: "Kahneman–Tversky Optimization (KTO), paired",
        formula: "m(u) = u, h_w = λ_w σ(β(a_w − r_w) − z), h_l = −λ_l σ(z − β(a_l − r_l)), Λ = 0, z = β max(0, KL) held constant",
        loss: "λ_w (1 − σ(β(a_w − r_w) − z)) + λ_l (1 − σ(z − β(a_l − r_l)))",
        d_w: "λ_w β σ'(β(a_w − r_w) − z)",
        d_l: "λ_l β σ'(z − β(a_l − r_l))",
        defaults: &[
            ("beta", "0.1", "β, per nat"),
            ("desirable_weight", "1", "λ_w, weight of chosen completions"),
            (
                "undesirable_weight",
                "1",
                "λ_l, weight of rejected completions",
            ),
        ],
        needs_reference: true,
        source: "Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7, as in arXiv:2410.13828, eq. 6 with Table 2",
        trl_differences: Some(
            "TRL's KTO reads unpaired rows, averages over rows (half these coefficients for a pair) and estimates KL from completions shifted by one row; its former kto_pair is gone",
        ),
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        let default = Self::default();
        Ok(Self {
            beta: options.beta.unwrap_or(default.beta),
            desirable_weight: options.desirable_weight.unwrap_or(default.desirable_weight),
            undesirable_weight: options
                .undesirable_weight
                .unwrap_or(default.undesirable_weight),
            kl: options.kto_kl.map_or(default.kl, KlEstimate::Given),
        })
    }

    /// The reference point z = β·max(0, KL) for this batch.
    pub fn reference_point(&self, batch: &[PairLogps]) -> f64 {
        let kl = match self.kl {
            KlEstimate::Given(kl) => kl,
            KlEstimate::Batch if batch.is_empty() => 0.0,
            KlEstimate::Batch => {
                let ratios = batch
                    .iter()
                    .map(|p| p.chosen_log_ratio() + p.rejected_log_ratio());
                ratios.sum::<f64>() / (2 * batch.len()) as f64
            }
        };
        self.beta * kl.max(0.0)
    }

    /// One unpaired row: `(loss, c)` of a completion with log-ratio `x` (nats) that is desirable or not, against the
    /// reference point `z`. c is d_w for a desirable row and d_l for an undesirable one. The mean over rows
    /// is the caller's.
    pub fn row(&self, x: f64, desirable: bool, z: f64) -> (f64, f64) {
        let (weight, value) = if desirable {
            (self.desirable_weight, self.beta * x - z)
        } else {
            (self.undesirable_weight, z - self.beta * x)
        };
        (
            weight * sigmoid(-value),
            weight * self.beta * sigmoid_slope(value),
        )
    }
}

impl Loss for Kto {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)?;
        not_negative("desirable_weight", self.desirable_weight)?;
        not_negative("undesirable_weight", self.undesirable_weight)?;
        match self.kl {
            KlEstimate::Given(kl) => check("kto_kl", kl, true, "a finite number"),
            KlEstimate::Batch => Ok(()),
        }
    }

    fn reads_batch(&self) -> bool {
        true
    }

    fn evaluate(&self, batch: &[PairLogps]) -> Vec<PairLoss> {
        let z = self.reference_point(batch);
        let pair = |pair: &PairLogps| {
            let (chosen, d_w) = self.row(pair.chosen_log_ratio(), true, z);
            let (rejected, d_l) = self.row(pair.rejected_log_ratio(), false, z);
            PairLoss {
                loss: chosen + rejected,
                d_w,
                d_l,
            }
        };
        batch.iter().map(pair).collect()
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
        // x_w = 2, x_l = 0: KL = 1; β = 1: z = 1. ℓ = 1 − σ(1) + 1 − σ(1); d = σ(1)σ(−1) = 0.19661193324148185.
        let kto = Kto {
            beta: 1.0,
            ..Kto::default()
        };
        let got = kto.evaluate(&[pair(-1.0, -3.0, -3.0, -3.0)])[0];
        assert!((got.loss - 2.0 * 0.268_941_421_369_995_1).abs() < 1e-15);
        assert!((got.d_w - 0.196_611_933_241_481_85).abs() < 1e-15 && got.d_w == got.d_l);
        // A mean log-ratio below 0 gives z = 0.
        assert_eq!(kto.reference_point(&[pair(-5.0, -5.0, -3.0, -3.0)]), 0.0);
        assert_eq!(
            Kto {
                kl: KlEstimate::Given(0.5),
                ..kto
            }
            .reference_point(&[]),
            0.5
        );
    }
}
