use super::Loss;
use crate::ObjectiveError;
use crate::batch::{PairLogps, PairLoss};
use crate::describe::Description;
use crate::error::{check, positive};
use crate::numeric::{sigmoid, softplus};
use crate::options::ObjectiveOptions;

/// Binary Classifier Optimization on pairs: chosen rewards above a shift δ, rejected ones below.
///
/// ℓ = −log σ(βx_w − δ) − log σ(−(βx_l − δ))
///
/// - Coefficients: d_w = β σ(δ − βx_w), d_l = β σ(βx_l − δ), with δ held constant.
/// - δ: 0, the batch's mean reward, or what the caller's [`RunningMean`] gives (the paper's moving average).
/// - Stability: softplus; finite for every finite log-prob.
/// - Source: Jung et al. 2024, arXiv:2404.04656, section 4 (reward shift δ = ½(E r_w + E r_l)).
/// - TRL: `loss_type = "bco_pair"` has no shift (δ = 0), the default here; under semantics = paper, the batch's mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BcoPair {
    /// β > 0, per nat.
    pub beta: f64,
    /// Where δ comes from.
    pub shift: RewardShift,
}

/// BCO's reward shift δ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RewardShift {
    /// δ = 0, as TRL 1.16.
    Zero,
    /// Half the sum of the batch's mean chosen and mean rejected rewards.
    Batch,
    /// The caller's, in units of reward (β·nats).
    Given(f64),
}

/// A mean over all rewards seen so far, as a value: [`RunningMean::after`] hands back the next state.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RunningMean {
    /// The mean; 0 before the first value.
    pub mean: f64,
    /// How many values it is of.
    pub count: u64,
}

impl RunningMean {
    /// The state after also seeing `values` (Welford's update; none: unchanged).
    pub fn after(mut self, values: impl IntoIterator<Item = f64>) -> Self {
        for value in values {
            self.count += 1;
            self.mean += (value - self.mean) / self.count as f64;
        }
        self
    }
}

impl Default for BcoPair {
    fn default() -> Self {
        Self {
            beta: 0.1,
            shift: RewardShift::Zero,
        }
    }
}

impl BcoPair {
    pub(crate) const DESCRIPTION: Description = Description {
        name: "bco_pair",
        aliases: &["bco"],
        title: "Binary Classifier Optimization (BCO), pairwise",
        formula: "m(u) = u, h_w = log σ(β(a_w − r_w) − δ), h_l = −log σ(δ − β(a_l − r_l)), Λ = 0, δ held constant",
        loss: "−log σ(β(a_w − r_w) − δ) − log σ(δ − β(a_l − r_l))",
        d_w: "β σ(δ − β(a_w − r_w))",
        d_l: "β σ(β(a_l − r_l) − δ)",
        defaults: &[
            ("beta", "0.1", "β, per nat"),
            (
                "bco_delta",
                "0",
                "δ, reward shift; under semantics = paper the batch's mean reward",
            ),
        ],
        needs_reference: true,
        source: "Jung et al. 2024, arXiv:2404.04656, section 4",
        trl_differences: Some(
            "TRL's bco_pair has no reward shift (δ = 0); the paper's is a running mean of the rewards",
        ),
    };

    pub(crate) fn from_options(options: &ObjectiveOptions) -> Result<Self, ObjectiveError> {
        let shift = match options.bco_delta {
            Some(delta) => RewardShift::Given(delta),
            None if options.paper() => RewardShift::Batch,
            None => RewardShift::Zero,
        };
        Ok(Self {
            beta: options.beta.unwrap_or(Self::default().beta),
            shift,
        })
    }

    /// δ for this batch.
    pub fn delta(&self, batch: &[PairLogps]) -> f64 {
        match self.shift {
            RewardShift::Zero => 0.0,
            RewardShift::Given(delta) => delta,
            RewardShift::Batch => {
                let ratios = batch
                    .iter()
                    .map(|p| p.chosen_log_ratio() + p.rejected_log_ratio());
                self.beta * ratios.sum::<f64>() / (2 * batch.len().max(1)) as f64
            }
        }
    }
}

impl Loss for BcoPair {
    fn description(&self) -> &'static Description {
        &Self::DESCRIPTION
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        positive("beta", self.beta)?;
        match self.shift {
            RewardShift::Given(delta) => check("bco_delta", delta, true, "a finite number"),
            RewardShift::Zero | RewardShift::Batch => Ok(()),
        }
    }

    fn reads_batch(&self) -> bool {
        true
    }

    fn evaluate(&self, batch: &[PairLogps]) -> Vec<PairLoss> {
        let delta = self.delta(batch);
        let pair = |pair: &PairLogps| {
            let chosen = self.beta * pair.chosen_log_ratio() - delta;
            let rejected = self.beta * pair.rejected_log_ratio() - delta;
            PairLoss {
                loss: softplus(-chosen) + softplus(rejected),
                d_w: self.beta * sigmoid(-chosen),
                d_l: self.beta * sigmoid(rejected),
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
        // x_w = 3, x_l = 1, β = 1. δ = 0: d_w = σ(−3), d_l = σ(1). δ = mean = 2: d_w = d_l = σ(−1), ℓ =
        // 2·log(1 + e^−1).
        let batch = [pair(3.0, 1.0, 0.0, 0.0)];
        let plain = BcoPair {
            beta: 1.0,
            shift: RewardShift::Zero,
        }
        .evaluate(&batch)[0];
        assert!((plain.d_w - 0.047_425_873_177_566_78).abs() < 1e-15);
        assert!((plain.d_l - 0.731_058_578_630_004_9).abs() < 1e-15);
        let shifted = BcoPair {
            beta: 1.0,
            shift: RewardShift::Batch,
        }
        .evaluate(&batch)[0];
        assert!((shifted.loss - 2.0 * 0.313_261_687_518_222_86).abs() < 1e-15);
        assert_eq!(shifted.d_w, shifted.d_l);
    }

    #[test]
    fn running_mean_is_the_mean_of_all() {
        let state = RunningMean::default()
            .after([1.0, 2.0])
            .after([])
            .after([6.0]);
        assert_eq!(
            state,
            RunningMean {
                mean: 3.0,
                count: 3
            }
        );
    }
}
