//! The likelihood term Λ(a_w) that several objectives add: −Λ is a negative log-likelihood of the chosen completion.
//!
//! The published losses differ in how they average it, and so do the trainers, by a factor as large as the completion's
//! length: so the choice is a type. Λ is linear in a_w here, `Λ = k·a_w`; [`Nll::coefficient`] gives k.

use crate::batch::{PairLogps, PairLoss};
use crate::error::{ObjectiveError, not_negative};
use crate::options::ObjectiveOptions;

/// Over what the negative log-likelihood is averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NllAverage {
    /// λ·a_w: the sequence's log-prob, as Λ stands in the entanglement paper's Table 2.
    Sum,
    /// λ·a_w / L_w: each completion's own mean over its tokens.
    PerCompletion,
    /// λ·B·a_w / ΣL_w: the mean over all chosen tokens of the batch given to `evaluate` (TRL: of the
    /// micro-batch), written as a share for each pair so that the mean over pairs gives it back. Long
    /// completions weigh more.
    BatchTokens,
}

/// λ and the averaging of a likelihood term.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nll {
    /// λ ≥ 0; 0 switches the term off.
    pub weight: f64,
    /// What the mean runs over.
    pub average: NllAverage,
}

impl Nll {
    /// No likelihood term.
    pub const OFF: Self = Self {
        weight: 0.0,
        average: NllAverage::Sum,
    };

    /// The term of `weight`, averaged as the options say: `nll_average` if given, else TRL's batch mean or, under the
    /// paper's semantics, `published`.
    pub(crate) fn from_options(
        weight: f64,
        published: NllAverage,
        options: &ObjectiveOptions,
    ) -> Self {
        let average = match options.nll_average {
            Some(true) => NllAverage::BatchTokens,
            Some(false) => NllAverage::Sum,
            None if options.paper() => published,
            None => NllAverage::BatchTokens,
        };
        Self { weight, average }
    }

    /// k in Λ = k·a_w, for one pair of `batch`.
    pub fn coefficient(&self, pair: &PairLogps, batch: &[PairLogps]) -> f64 {
        if self.weight == 0.0 {
            return 0.0;
        }
        match self.average {
            NllAverage::Sum => self.weight,
            NllAverage::PerCompletion => self.weight / pair.chosen_len as f64,
            NllAverage::BatchTokens => {
                let tokens: usize = batch.iter().map(|pair| pair.chosen_len).sum();
                self.weight * batch.len() as f64 / tokens as f64
            }
        }
    }

    /// Adds −Λ to every loss and Λ' to every d_w.
    pub(crate) fn add_to(&self, losses: &mut [PairLoss], batch: &[PairLogps]) {
        if self.weight == 0.0 {
            return;
        }
        for (loss, pair) in losses.iter_mut().zip(batch) {
            let k = self.coefficient(pair, batch);
            loss.loss -= k * pair.chosen;
            loss.d_w += k;
        }
    }

    /// Whether the term divides by a length.
    pub(crate) fn reads_lengths(&self) -> bool {
        self.weight != 0.0 && self.average != NllAverage::Sum
    }

    /// Whether λ is usable; `option` names it.
    pub(crate) fn validate(&self, option: &'static str) -> Result<(), ObjectiveError> {
        not_negative(option, self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_averages_by_hand() {
        // a_w = −6 over 2 tokens and −8 over 6 tokens, λ = 1: B = 2, ΣL = 8.
        //   sum: k = 1, 1;  per completion: k = 1/2, 1/6;  batch tokens: k = 2/8, 2/8, and the mean over pairs of
        //   −k·a is (6 + 8)/8 = 1.75, the mean over the 8 tokens.
        let pair = |chosen, chosen_len| PairLogps {
            chosen,
            rejected: 0.0,
            ref_chosen: 0.0,
            ref_rejected: 0.0,
            chosen_len,
            rejected_len: 1,
        };
        let batch = [pair(-6.0, 2), pair(-8.0, 6)];
        let k = |average, i: usize| {
            Nll {
                weight: 1.0,
                average,
            }
            .coefficient(&batch[i], &batch)
        };
        assert_eq!((k(NllAverage::Sum, 0), k(NllAverage::Sum, 1)), (1.0, 1.0));
        assert_eq!(
            (
                k(NllAverage::PerCompletion, 0),
                k(NllAverage::PerCompletion, 1)
            ),
            (0.5, 1.0 / 6.0)
        );
        assert_eq!(
            (k(NllAverage::BatchTokens, 0), k(NllAverage::BatchTokens, 1)),
            (0.25, 0.25)
        );
        let mut losses = [PairLoss::default(); 2];
        Nll {
            weight: 1.0,
            average: NllAverage::BatchTokens,
        }
        .add_to(&mut losses, &batch);
        assert_eq!((losses[0].loss + losses[1].loss) / 2.0, 1.75);
    }
}
