//! Remedies in a training run: the coefficient rules of `unbraid-objective`, applied to measured pairs.

use unbraid_objective::remedy::{Calibration, NpoScale, calibrated, guarded, normalized};
use unbraid_objective::{Gram, PairLoss};

/// Which remedy against gradient entanglement a run applies, with its state.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Remedy {
    /// The objective's own coefficients.
    #[default]
    None,
    /// Normalized preference optimization (arXiv:2410.13828, §5.1).
    Normalized(NpoScale),
    /// The smallest change of d_w/d_l that makes every pair ideal to first order (**ours**).
    Guarded {
        /// κ, the slack inside the band.
        slack: f64,
    },
    /// Reward calibration (Chen et al. 2026, arXiv:2604.18239) with its moving average.
    Calibrated(Calibration),
}

impl Remedy {
    /// Whether it needs the pairs' gradient norms.
    pub fn is_active(&self) -> bool {
        *self != Remedy::None
    }

    /// Replaces the coefficients of a micro-batch; the moving average takes the micro-batch in.
    pub(crate) fn apply(&mut self, losses: &mut [PairLoss], grams: &[Gram]) {
        let each = |losses: &mut [PairLoss], rule: &dyn Fn(f64, f64, Gram) -> (f64, f64)| {
            for (loss, &gram) in losses.iter_mut().zip(grams) {
                (loss.d_w, loss.d_l) = rule(loss.d_w, loss.d_l, gram);
            }
        };
        match self {
            Remedy::None => {}
            Remedy::Normalized(scale) => {
                let scale = *scale;
                each(losses, &|w, l, gram| normalized(w, l, gram, scale));
            }
            Remedy::Guarded { slack } => {
                let slack = *slack;
                each(losses, &|w, l, gram| guarded(w, l, gram, slack));
            }
            Remedy::Calibrated(state) => {
                let pairs: Vec<_> = losses
                    .iter()
                    .zip(grams)
                    .map(|(loss, &gram)| (loss.d_w, loss.d_l, gram))
                    .collect();
                let (coefficients, next) = calibrated(&pairs, *state);
                *state = next;
                for (loss, (d_w, d_l)) in losses.iter_mut().zip(coefficients) {
                    (loss.d_w, loss.d_l) = (d_w, d_l);
                }
            }
        }
    }
}
