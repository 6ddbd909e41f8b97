//! The two scores whose difference a margin loss reads, with their slopes: the chain rule written once.
//!
//! Nearly every pairwise loss is ℓ = f(s_w − s_l) with s_w a function of a_w alone and s_l of a_l alone, so
//! d_w = −f'·s_w' and d_l = −f'·s_l' (arXiv:2410.13828, eq. 7 and 8, with Λ = 0). Tested through the losses.

use crate::batch::{PairLogps, PairLoss};
use crate::divergence::Divergence;

/// Scores s_w, s_l and their derivatives with respect to a_w, a_l.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scores {
    chosen: f64,
    rejected: f64,
    chosen_slope: f64,
    rejected_slope: f64,
}

impl Scores {
    /// s = f-divergence's score of the log-ratio, divided by the completion's length if `average`.
    pub(crate) fn log_ratios(pair: &PairLogps, divergence: Divergence, average: bool) -> Self {
        let (chosen, chosen_slope) = divergence.score(pair.chosen_log_ratio());
        let (rejected, rejected_slope) = divergence.score(pair.rejected_log_ratio());
        let whole = Self {
            chosen,
            rejected,
            chosen_slope,
            rejected_slope,
        };
        if average {
            whole.per_token(pair)
        } else {
            whole
        }
    }

    /// s = a, without a reference, divided by the completion's length if `average`.
    pub(crate) fn logps(pair: &PairLogps, average: bool) -> Self {
        let whole = Self {
            chosen: pair.chosen,
            rejected: pair.rejected,
            chosen_slope: 1.0,
            rejected_slope: 1.0,
        };
        if average {
            whole.per_token(pair)
        } else {
            whole
        }
    }

    /// s passed through `f`, which gives a value and a slope.
    pub(crate) fn map(self, f: impl Fn(f64) -> (f64, f64)) -> Self {
        let (chosen, f_chosen) = f(self.chosen);
        let (rejected, f_rejected) = f(self.rejected);
        Self {
            chosen,
            rejected,
            chosen_slope: self.chosen_slope * f_chosen,
            rejected_slope: self.rejected_slope * f_rejected,
        }
    }

    /// s_w − s_l.
    pub(crate) fn margin(&self) -> f64 {
        self.chosen - self.rejected
    }

    /// The pair's loss and coefficients, given ℓ and c = −∂ℓ/∂(s_w − s_l).
    pub(crate) fn loss(&self, loss: f64, c: f64) -> PairLoss {
        PairLoss {
            loss,
            d_w: c * self.chosen_slope,
            d_l: c * self.rejected_slope,
        }
    }

    fn per_token(self, pair: &PairLogps) -> Self {
        let (chosen_len, rejected_len) = (pair.chosen_len as f64, pair.rejected_len as f64);
        Self {
            chosen: self.chosen / chosen_len,
            rejected: self.rejected / rejected_len,
            chosen_slope: self.chosen_slope / chosen_len,
            rejected_slope: self.rejected_slope / rejected_len,
        }
    }
}
