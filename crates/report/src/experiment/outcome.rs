//! What an arm's training did on held-out material, over its seeds.

use super::estimate::{Estimate, mean};
use super::results::{Arm, Outcome, Run};
use crate::diagnosis::Case;

/// One arm judged.
pub(crate) struct Judged<'a> {
    /// The arm.
    pub(crate) arm: &'a Arm,
    /// Change of chosen and of rejected, nats.
    pub(crate) change: [Option<Estimate>; 2],
    /// The same per token.
    pub(crate) mean_change: [Option<Estimate>; 2],
    /// Change of chosen minus change of rejected, nats: the log-ratio margin against the model of the start.
    pub(crate) margin: Option<Estimate>,
    /// Gradient cosine of the measured pairs, before and after.
    pub(crate) cosine: [Option<Estimate>; 2],
    /// Share of pairs.
    pub(crate) reward_accuracy: Option<f64>,
    /// Share of pairs, before and after.
    pub(crate) label_accuracy: [Option<f64>; 2],
    /// Nats a token.
    pub(crate) kl: Option<f64>,
    /// Nats a token, before and after.
    pub(crate) text_logp: [Option<f64>; 2],
    /// Of one run.
    pub(crate) seconds: Option<f64>,
}

impl<'a> Judged<'a> {
    /// Everything of one arm.
    pub(crate) fn of(arm: &'a Arm) -> Self {
        let over = |pick: fn(&Outcome) -> Vec<f64>| {
            let seeds: Vec<Vec<f64>> = arm.runs.iter().map(|run| pick(&run.outcome)).collect();
            Estimate::of(&seeds)
        };
        let average = |pick: &dyn Fn(&Run) -> Option<f64>| {
            let values: Vec<f64> = arm.runs.iter().filter_map(pick).collect();
            (!values.is_empty()).then(|| mean(&values))
        };
        let both = |pick: fn(&Outcome) -> &[Option<f64>; 2]| {
            [0, 1].map(|at| average(&|run| pick(&run.outcome)[at]))
        };
        Self {
            arm,
            change: [
                over(|outcome| finite(&outcome.chosen_change)),
                over(|outcome| finite(&outcome.rejected_change)),
            ],
            mean_change: [
                over(|outcome| finite(&outcome.mean_chosen_change)),
                over(|outcome| finite(&outcome.mean_rejected_change)),
            ],
            margin: over(|outcome| {
                let pairs = pairs(outcome);
                pairs.map(|(chosen, rejected)| chosen - rejected).collect()
            }),
            cosine: [
                over(|outcome| finite(&outcome.cosine[0])),
                over(|outcome| finite(&outcome.cosine[1])),
            ],
            reward_accuracy: average(&|run| run.outcome.reward_accuracy),
            label_accuracy: both(|outcome| &outcome.label_accuracy),
            kl: average(&|run| run.outcome.kl),
            text_logp: both(|outcome| &outcome.text_logp),
            seconds: average(&|run| run.seconds),
        }
    }

    /// Both mean changes, where both are known.
    pub(crate) fn changes(&self) -> Option<(&Estimate, &Estimate)> {
        self.change[0].as_ref().zip(self.change[1].as_ref())
    }

    /// The case of the two mean changes; `None` where an interval has both signs or is not known.
    pub(crate) fn case(&self) -> Option<Case> {
        let (chosen, rejected) = self.changes()?;
        case(f64::from(chosen.side()), f64::from(rejected.side()))
    }
}

/// The case of two changes; `None` where one of them is zero.
pub(crate) fn case(chosen: f64, rejected: f64) -> Option<Case> {
    match (chosen > 0.0, chosen < 0.0, rejected > 0.0, rejected < 0.0) {
        (true, _, _, true) => Some(Case::Ideal),
        (_, true, _, true) => Some(Case::BothFall),
        (true, _, true, _) => Some(Case::BothRise),
        (_, true, true, _) => Some(Case::Reversed),
        _ => None,
    }
}

/// Changes of chosen and rejected of the pairs that have both.
pub(crate) fn pairs(outcome: &Outcome) -> impl Iterator<Item = (f64, f64)> {
    let both = outcome.chosen_change.iter().zip(&outcome.rejected_change);
    both.filter_map(|(chosen, rejected)| Some(((*chosen)?, (*rejected)?)))
}

fn finite(values: &[Option<f64>]) -> Vec<f64> {
    values.iter().flatten().copied().collect()
}
