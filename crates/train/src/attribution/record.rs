//! What a measured step says, as values and as a row of `attribution.jsonl`.

use super::choose::Probes;
use super::probes::Levels;
use super::update::UpdateSplit;
use crate::metrics::Averages;
use crate::trainer::StepRecord;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// By whose gradient a mean log-prob moves, in nats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SideParts {
    /// Gradients of chosen completions, with the margin's coefficients after clipping, remedy and masks.
    pub chosen_side: f64,
    /// Gradients of rejected completions.
    pub rejected_side: f64,
    /// Likelihood terms (Λ, the NLL of `cpo`, `orpo`, `rpo_alpha` and the like).
    pub likelihood: f64,
    /// Anything else: masks and their penalty.
    pub other: f64,
}

impl SideParts {
    fn add(&mut self, other: &SideParts) {
        self.chosen_side += other.chosen_side;
        self.rejected_side += other.rejected_side;
        self.likelihood += other.likelihood;
        self.other += other.other;
    }

    /// All of them.
    pub fn total(&self) -> f64 {
        self.chosen_side + self.rejected_side + self.likelihood + self.other
    }
}

/// What one example of the step does to the probes' mean chosen and mean rejected log-prob.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Push {
    /// The example's row in the training data, counted from 0.
    pub index: usize,
    /// Its effect on the probes' (chosen, rejected) mean.
    pub on: [SideParts; 2],
}

/// A change of a mean log-prob and its parts, in nats; all but `remainder` are computed independently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Parts {
    /// What happened: after minus before.
    pub realised: f64,
    /// By gradients of chosen completions.
    pub chosen_side: f64,
    /// By gradients of rejected completions.
    pub rejected_side: f64,
    /// By likelihood terms.
    pub likelihood: f64,
    /// By masks and other terms of the loss.
    pub other: f64,
    /// By weight decay.
    pub decay: f64,
    /// By gradients of earlier steps, through the optimizer's momentum.
    pub momentum: f64,
    /// The update that was made minus the computed one.
    pub rounding: f64,
    /// `realised` minus all parts: what is beyond first order.
    pub remainder: f64,
}

impl Parts {
    /// Their names and values, `realised` and `remainder` apart.
    pub fn named(&self) -> [(&'static str, f64); 7] {
        [
            ("chosen_side", self.chosen_side),
            ("rejected_side", self.rejected_side),
            ("likelihood", self.likelihood),
            ("other", self.other),
            ("decay", self.decay),
            ("momentum", self.momentum),
            ("rounding", self.rounding),
        ]
    }

    /// The first order: all parts together, ⟨ḡ, Δθ⟩.
    pub fn first_order(&self) -> f64 {
        self.named().iter().map(|(_, value)| value).sum()
    }

    /// (|chosen side| + |rejected side|) / |their sum|: 1 where both push the same way, large where they cancel.
    pub fn cancellation(&self) -> f64 {
        let (raise, lower) = (self.chosen_side, self.rejected_side);
        (raise.abs() + lower.abs()) / (raise + lower).abs()
    }

    /// Adds `weight` times another's numbers.
    pub fn add(&mut self, weight: f64, other: &Parts) {
        self.realised += weight * other.realised;
        self.chosen_side += weight * other.chosen_side;
        self.rejected_side += weight * other.rejected_side;
        self.likelihood += weight * other.likelihood;
        self.other += weight * other.other;
        self.decay += weight * other.decay;
        self.momentum += weight * other.momentum;
        self.rounding += weight * other.rounding;
        self.remainder += weight * other.remainder;
    }

    fn new(realised: f64, sides: &SideParts, split: &UpdateSplit, side: usize) -> Self {
        let mut parts = Parts {
            realised,
            chosen_side: sides.chosen_side,
            rejected_side: sides.rejected_side,
            likelihood: sides.likelihood,
            other: sides.other,
            decay: split.decay[side],
            momentum: split.momentum[side],
            rounding: split.rounding[side],
            remainder: 0.0,
        };
        parts.remainder = realised - parts.first_order();
        parts
    }
}

/// Half the margin's growth and the common movement of (chosen, rejected): ΔM and ΔC.
pub(super) fn margin_and_common(chosen: f64, rejected: f64) -> (f64, f64) {
    (chosen - rejected, 0.5 * (chosen + rejected))
}

/// Sums over completions.
fn sums(levels: &[Vec<f64>]) -> Vec<f64> {
    levels.iter().map(|tokens| tokens.iter().sum()).collect()
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Change of the part of the mean that tokens with `shared == wanted` have.
fn of_tokens(
    before: &[Vec<f64>],
    after: &[Vec<f64>],
    shared: impl Iterator<Item = Vec<bool>>,
    wanted: bool,
) -> f64 {
    let mut change = 0.0;
    for ((before, after), shared) in before.iter().zip(after).zip(shared) {
        let tokens = before.iter().zip(after).zip(shared);
        change += tokens
            .filter(|(_, shared)| *shared == wanted)
            .map(|((before, after), _)| after - before)
            .sum::<f64>();
    }
    change / before.len().max(1) as f64
}

pub(super) fn step_record(
    probes: &Probes,
    (before, after): (&Levels, &Levels),
    split: &UpdateSplit,
    pushes: &[Push],
) -> StepRecord {
    let mut sides = [SideParts::default(); 2];
    for push in pushes {
        sides.iter_mut().zip(&push.on).for_each(|(s, p)| s.add(p));
    }
    let (from, to) = (before.sides().map(sums), after.sides().map(sums));
    let parts = [0, 1].map(|s| {
        let realised = mean(&to[s]) - mean(&from[s]);
        Parts::new(realised, &sides[s], split, s)
    });
    let (margin, common) = margin_and_common(parts[0].realised, parts[1].realised);
    let mut row = Map::new();
    for (name, parts) in ["chosen", "rejected"].iter().zip(&parts) {
        row.insert((*name).to_owned(), json!(parts));
    }
    row.insert("margin".into(), json!(margin));
    row.insert("common".into(), json!(common));
    let cancellation = parts.iter().map(Parts::cancellation);
    row.insert(
        "cancellation".into(),
        json!(cancellation.fold(1.0, f64::max)),
    );
    let both = |values: [f64; 2]| json!({ "chosen": values[0], "rejected": values[1] });
    let groups = split.groups.iter();
    let groups = groups.map(|(group, values)| (group.clone(), both(*values)));
    row.insert("groups".into(), Value::Object(groups.collect()));
    row.insert("plain".into(), both(split.plain));
    if let Some(shared) = &probes.shared {
        let change = |side: usize, wanted: bool| {
            let (before, after) = (before.sides()[side], after.sides()[side]);
            let masks = shared.iter().map(|(w, l)| if side == 0 { w } else { l });
            of_tokens(before, after, masks.cloned(), wanted)
        };
        let tokens = json!({
            "shared": both([change(0, true), change(1, true)]),
            "different": both([change(0, false), change(1, false)]),
        });
        row.insert("tokens".into(), tokens);
    }
    let pushes = pushes.iter().map(|push| {
        let [chosen, rejected] = push.on.map(|on| on.total());
        json!({ "index": push.index, "chosen": chosen, "rejected": rejected })
    });
    row.insert("pushes".into(), pushes.collect());
    let levels = |sums: &[Vec<f64>; 2]| json!({ "chosen": sums[0], "rejected": sums[1] });
    row.insert("before".into(), levels(&from));
    row.insert("after".into(), levels(&to));
    StepRecord {
        rows: vec![row],
        metrics: metrics(&parts, (margin, common)),
    }
}

/// `attribution/*` of the metrics.
fn metrics(parts: &[Parts; 2], (margin, common): (f64, f64)) -> Averages {
    let mut metrics = Averages::default();
    metrics.add("attribution/margin", margin);
    metrics.add("attribution/common", common);
    for (side, parts) in ["chosen", "rejected"].iter().zip(parts) {
        metrics.add(&format!("attribution/{side}/realised"), parts.realised);
        for (name, value) in parts.named() {
            metrics.add(&format!("attribution/{side}/{name}"), value);
        }
        metrics.add(&format!("attribution/{side}/remainder"), parts.remainder);
    }
    metrics
}
