//! Which completions are watched, and how often.

use crate::preference::shared_tokens;
use crate::trainer::TrainingPlan;
use serde::{Deserialize, Serialize};
use unbraid_model::Keep;
use unbraid_preference::{TokenizedPair, TokenizedSequence, UnpairedExample};

/// Probes of a run that says nothing.
const DEFAULT_PROBES: usize = 32;
/// Where a run is too short for so many, it has at least these.
const FEWEST_PROBES: usize = 8;
/// Share of a run's time that attribution may take.
const SHARE_OF_TIME: f64 = 0.1;
/// Steps that are measured whatever they cost.
const FEWEST_STEPS: u64 = 5;

/// Where the probes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeSource {
    /// The evaluation data.
    HeldOut,
    /// Training data that the run's steps never reach.
    NeverVisited,
    /// Training data, the last that the first epoch visits: held out until then, and trained on afterwards.
    VisitedLast,
}

impl ProbeSource {
    /// As a message names it.
    pub fn describe(self) -> &'static str {
        match self {
            ProbeSource::HeldOut => "held-out pairs",
            ProbeSource::NeverVisited => "training pairs that no step visits",
            ProbeSource::VisitedLast => "training pairs that the first epoch visits last",
        }
    }
}

/// The completions whose log-probs are watched.
#[derive(Clone, Debug, PartialEq)]
pub struct Probes {
    /// Where they come from.
    pub source: ProbeSource,
    /// Their rows in that data, counted from 0.
    pub rows: Vec<usize>,
    /// Chosen completions (of KTO: liked ones), with their prompts.
    pub chosen: Vec<TokenizedSequence>,
    /// Rejected completions (disliked ones).
    pub rejected: Vec<TokenizedSequence>,
    /// Of each pair the tokens that an alignment finds in both completions, (chosen, rejected); `None` without pairs.
    pub shared: Option<Vec<(Vec<bool>, Vec<bool>)>>,
}

/// `count` numbers below `n`, evenly spread.
fn spread(n: usize, count: usize) -> Vec<usize> {
    let count = count.min(n);
    (0..count).map(|k| k * n / count).collect()
}

/// The numbers of examples that may serve as probes: held-out ones, evenly spread, or the training data's last.
fn candidates(held_out: usize, plan: &TrainingPlan, count: usize) -> (ProbeSource, Vec<usize>) {
    if held_out > 0 {
        return (ProbeSource::HeldOut, spread(held_out, count));
    }
    let order = plan.sampler.epoch(0);
    let visited = (plan.total as usize).saturating_mul(plan.sampler.per_step());
    let unvisited = &order[visited.min(order.len())..];
    if unvisited.len() >= count {
        let chosen = spread(unvisited.len(), count);
        let rows = chosen.iter().map(|&k| unvisited[k]).collect();
        return (ProbeSource::NeverVisited, rows);
    }
    let first = order.len() - count.min(order.len());
    (ProbeSource::VisitedLast, order[first..].to_vec())
}

impl Probes {
    /// `count` of the held-out pairs, or of the training pairs where there are none.
    pub fn of_pairs(
        held_out: &[TokenizedPair],
        train: &[TokenizedPair],
        plan: &TrainingPlan,
        count: usize,
    ) -> Self {
        let (source, numbers) = candidates(held_out.len(), plan, count);
        let data = if held_out.is_empty() { train } else { held_out };
        let pairs: Vec<&TokenizedPair> = numbers.iter().map(|&i| &data[i]).collect();
        Probes {
            source,
            rows: pairs.iter().map(|p| p.index).collect(),
            chosen: pairs.iter().map(|p| p.chosen.clone()).collect(),
            rejected: pairs.iter().map(|p| p.rejected.clone()).collect(),
            shared: Some(pairs.iter().map(|p| shared_tokens(p)).collect()),
        }
    }

    /// The same of judged completions: liked ones are the chosen side.
    pub fn of_examples(
        held_out: &[UnpairedExample],
        train: &[UnpairedExample],
        plan: &TrainingPlan,
        count: usize,
    ) -> Self {
        let (source, numbers) = candidates(held_out.len(), plan, count);
        let data = if held_out.is_empty() { train } else { held_out };
        let examples: Vec<&UnpairedExample> = numbers.iter().map(|&i| &data[i]).collect();
        let side = |desirable: bool| {
            let of_side = examples.iter().filter(|e| e.desirable == desirable);
            of_side.map(|e| e.sequence.clone()).collect()
        };
        Probes {
            source,
            rows: examples.iter().map(|e| e.index).collect(),
            chosen: side(true),
            rejected: side(false),
            shared: None,
        }
    }

    /// Tokens that a walk over all of them computes.
    fn tokens(&self) -> usize {
        let sides = self.chosen.iter().chain(&self.rejected);
        sides.map(|s| s.ids.len()).sum()
    }
}

/// Which steps are measured, on which probes.
#[derive(Clone, Debug, PartialEq)]
pub struct AttributionPlan {
    /// Every so many steps; the first and the last are always measured.
    pub every: u64,
    /// What is watched.
    pub probes: Probes,
    /// Estimated share of the run's time, from counted tokens.
    pub share_of_time: f64,
    /// What a walk over the probes keeps of its forward pass.
    pub keep: Keep,
}

impl AttributionPlan {
    /// A plan for a run. Without `every` it is the smallest interval that takes at most a tenth of the run's time, but at
    /// least five steps are measured; without `count` there are 32 probes, fewer (at least eight) where that is what
    /// keeps the cost down. `None` where nothing can be watched. `step_tokens` are a step's tokens, prompts once.
    pub fn new(
        every: Option<u64>,
        count: Option<usize>,
        plan: &TrainingPlan,
        step_tokens: f64,
        mut probes: impl FnMut(usize) -> Probes,
    ) -> Option<Self> {
        let mut counts = match count {
            Some(count) => vec![count],
            None => vec![DEFAULT_PROBES, DEFAULT_PROBES / 2, FEWEST_PROBES],
        }
        .into_iter()
        .peekable();
        let steps = plan.total.max(1);
        while let Some(count) = counts.next() {
            let probes = probes(count);
            if probes.chosen.is_empty() && probes.rejected.is_empty() {
                return None;
            }
            // In units of a token's forward pass: a step is forward and twice that backward; a measured one walks over the
            // probes before and after, and over its own completions forward, back, and along two directions.
            let step = 3.0 * step_tokens.max(1.0);
            let own = 6.0 * probes.tokens() as f64 + 5.0 * step_tokens;
            let cost = own / step;
            let wanted = (cost / SHARE_OF_TIME).ceil().max(1.0) as u64;
            let most = (steps / FEWEST_STEPS).max(1);
            let interval = every.unwrap_or_else(|| wanted.min(most));
            let measured = steps.div_ceil(interval.max(1)) as f64 + 1.0;
            let share = measured * cost / (measured * cost + steps as f64);
            if every.is_none() && share > SHARE_OF_TIME && counts.peek().is_some() {
                continue;
            }
            return Some(AttributionPlan {
                every: interval.max(1),
                probes,
                share_of_time: share,
                keep: Keep::All,
            });
        }
        None
    }

    /// Whether this step (the first is 1) is measured.
    pub fn due(&self, step: u64, total: u64) -> bool {
        step == 1 || step == total || step.is_multiple_of(self.every)
    }
}
