//! Alignment via optimal transport: the batch's quantiles are compared, so both losses sort it.

use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::error::{flip_probability, positive};
use crate::numeric::logistic;
use crate::options::ObjectiveOptions;

/// Paired AOT: the policy's margins dominate the reference's, quantile by quantile.
///
/// ℓ_k = −(1−ε) log σ(u_k) − ε log σ(−u_k),   u_k = β( (a_w − a_l)_(k) − (r_w − r_l)_(k) ), k-th smallest of
/// each in the batch
///
/// - Coefficients: the pair whose margin has rank k gets d_w = d_l = β(σ(−u_k) − ε). With one pair this is DPO.
/// - Ties are ranked in batch order. The loss is not smooth where two margins cross; the coefficients are
///   continuous elsewhere.
/// - Stability: softplus; finite for every finite log-prob.
/// - Source: Melnyk et al. 2024, arXiv:2406.05882, section 3.
/// - TRL: `loss_type = "aot"` (called `aot_pair` in earlier versions); it keeps losses in sorted order, here each
///   stays with its pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aot {
    /// β > 0, per nat.
    pub beta: f64,
    /// ε in [0, ½).
    pub label_smoothing: f64,
}

impl Default for Aot {
    fn default() -> Self {
        Self {
            beta: 0.1,
            label_smoothing: 0.0,
        }
    }
}

impl Aot {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "aot",
        aliases: &["aot_pair"],
        title: "Alignment via Optimal Transport (AOT), paired",
        formula: "over the batch's quantiles k: m(u) = log σ(u), u_k = β((a_w − a_l)_(k) − (r_w − r_l)_(k)), each sorted by itself",
        loss: "−log σ(u_k), k the rank of the pair's a_w − a_l in the batch",
        d_w: "β σ(−u_k)",
        d_l: "β σ(−u_k)",
        defaults: &[
            ("beta", "0.1", "β, per nat"),
            ("label_smoothing", "0", "flip probability ε"),
        ],
        needs_reference: true,
        source: "Melnyk et al. 2024, arXiv:2406.05882, section 3",
        trl_differences: Some(
            "earlier versions of TRL called this aot_pair, and gave the name aot to what is now aot_unpaired",
        ),
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        let default = Self::default();
        Ok(Self {
            beta: options.beta.unwrap_or(default.beta),
            label_smoothing: options.label_smoothing.unwrap_or(default.label_smoothing),
        })
    }
}

impl Loss for Aot {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)?;
        flip_probability("label_smoothing", self.label_smoothing)
    }

    fn reads_batch(&self) -> bool {
        true
    }

    fn evaluate(&self, batch: &[PairLogps]) -> Vec<PairLoss> {
        let policy = ranks(batch, |pair| pair.chosen - pair.rejected);
        let reference = ranks(batch, |pair| pair.ref_chosen - pair.ref_rejected);
        let mut losses = vec![PairLoss::default(); batch.len()];
        for (&i, &j) in policy.iter().zip(&reference) {
            let margin = (batch[i].chosen - batch[i].rejected)
                - (batch[j].ref_chosen - batch[j].ref_rejected);
            let (loss, c) = logistic(self.beta * margin, self.label_smoothing);
            losses[i] = PairLoss {
                loss,
                d_w: self.beta * c,
                d_l: self.beta * c,
            };
        }
        losses
    }
}

/// Unpaired AOT: the chosen log-ratios dominate the rejected ones, quantile by quantile.
///
/// ℓ_k = −(1−ε) log σ(u_k) − ε log σ(−u_k),   u_k = β( (x_w)_(k) − (x_l)_(k) ), k-th smallest of each in the batch
///
/// - Coefficients: the chosen side with rank k gets d_w = β(σ(−u_k) − ε), the rejected side with rank k the
///   same as its d_l; the two may belong to different pairs, so a pair's d_w and d_l differ. The loss is
///   shown with the chosen side's pair.
/// - Ties are ranked in batch order. With one pair this is DPO.
/// - Stability: softplus; finite for every finite log-prob.
/// - Source: Melnyk et al. 2024, arXiv:2406.05882, section 3.
/// - TRL: `loss_type = "aot_unpaired"` (called `aot` in earlier versions).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AotUnpaired {
    /// β > 0, per nat.
    pub beta: f64,
    /// ε in [0, ½).
    pub label_smoothing: f64,
}

impl Default for AotUnpaired {
    fn default() -> Self {
        Self {
            beta: 0.1,
            label_smoothing: 0.0,
        }
    }
}

impl AotUnpaired {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "aot_unpaired",
        aliases: &[],
        title: "Alignment via Optimal Transport (AOT), unpaired",
        formula: "over the batch's quantiles k: m(u) = log σ(u), u_k = β((a_w − r_w)_(k) − (a_l − r_l)_(k)), each sorted by itself",
        loss: "−log σ(u_k), k the rank of the pair's a_w − r_w in the batch",
        d_w: "β σ(−u_k), k the rank of a_w − r_w",
        d_l: "β σ(−u_j), j the rank of a_l − r_l",
        defaults: &[
            ("beta", "0.1", "β, per nat"),
            ("label_smoothing", "0", "flip probability ε"),
        ],
        needs_reference: true,
        source: "Melnyk et al. 2024, arXiv:2406.05882, section 3",
        trl_differences: Some("earlier versions of TRL called this aot"),
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        let default = Self::default();
        Ok(Self {
            beta: options.beta.unwrap_or(default.beta),
            label_smoothing: options.label_smoothing.unwrap_or(default.label_smoothing),
        })
    }
}

impl Loss for AotUnpaired {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)?;
        flip_probability("label_smoothing", self.label_smoothing)
    }

    fn reads_batch(&self) -> bool {
        true
    }

    fn evaluate(&self, batch: &[PairLogps]) -> Vec<PairLoss> {
        let chosen = ranks(batch, PairLogps::chosen_log_ratio);
        let rejected = ranks(batch, PairLogps::rejected_log_ratio);
        let mut losses = vec![PairLoss::default(); batch.len()];
        for (&i, &j) in chosen.iter().zip(&rejected) {
            let margin = batch[i].chosen_log_ratio() - batch[j].rejected_log_ratio();
            let (loss, c) = logistic(self.beta * margin, self.label_smoothing);
            losses[i].loss = loss;
            losses[i].d_w = self.beta * c;
            losses[j].d_l = self.beta * c;
        }
        losses
    }
}

/// Indices of the batch's pairs in ascending order of `key`; ties in batch order.
fn ranks(batch: &[PairLogps], key: impl Fn(&PairLogps) -> f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..batch.len()).collect();
    order.sort_by(|&i, &j| key(&batch[i]).total_cmp(&key(&batch[j])));
    order
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
    fn quantiles_by_hand() {
        // Margins 3 and 1, reference margins 0 and 2 (β = 1). Sorted: 1, 3 against 0, 2: u = 1 for both.
        let batch = [pair(3.0, 0.0, 0.0, 0.0), pair(1.0, 0.0, 2.0, 0.0)];
        let got = Aot {
            beta: 1.0,
            ..Aot::default()
        }
        .evaluate(&batch);
        for loss in &got {
            assert!((loss.loss - 0.313_261_687_518_222_86).abs() < 1e-15);
            assert!((loss.d_w - 0.268_941_421_369_995_1).abs() < 1e-15 && loss.d_w == loss.d_l);
        }
    }

    #[test]
    fn unpaired_quantiles_by_hand() {
        // x_w = 2, 0; x_l = 0, 1. Sorted: 0, 2 against 0, 1: u = 0 (chosen of pair 1, rejected of pair 0) and
        // 1 (the others).
        let batch = [pair(2.0, 0.0, 0.0, 0.0), pair(0.0, 1.0, 0.0, 0.0)];
        let got = AotUnpaired {
            beta: 1.0,
            ..AotUnpaired::default()
        }
        .evaluate(&batch);
        let c1 = 0.268_941_421_369_995_1;
        assert!((got[0].d_w - c1).abs() < 1e-15 && (got[0].d_l - 0.5).abs() < 1e-15);
        assert!((got[1].d_w - 0.5).abs() < 1e-15 && (got[1].d_l - c1).abs() < 1e-15);
        assert_eq!(got[1].loss, std::f64::consts::LN_2);
    }

    #[test]
    fn one_pair_is_dpo() {
        let one = [pair(-3.0, -2.5, -1.0, -4.0)];
        let dpo = crate::losses::Dpo::default().evaluate(&one);
        assert_eq!(Aot::default().evaluate(&one), dpo);
        assert_eq!(AotUnpaired::default().evaluate(&one), dpo);
    }
}
