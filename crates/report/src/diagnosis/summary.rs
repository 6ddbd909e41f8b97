//! `summary.json` of a diagnosis: what was measured, the what-if table, groups, sweeps, proxies, the real step.
//!
//! Every field may be missing. Numbers that a file of another version names differently are simply not shown.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::files::read_json;
use super::record::{Case, Outcome, number};

/// A summary with thirty objectives, a hundred groups and sweeps is some hundred kilobytes.
const MAX_BYTES: u64 = 64 << 20;

/// Counts of pairs by case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Cases {
    ideal: f64,
    both_fall: f64,
    both_rise: f64,
    reversed: f64,
    still: f64,
}

impl Cases {
    /// Counts one pair.
    pub(crate) fn add(&mut self, case: Case) {
        *self.slot(case) += 1.0;
    }

    fn slot(&mut self, case: Case) -> &mut f64 {
        match case {
            Case::Ideal => &mut self.ideal,
            Case::BothFall => &mut self.both_fall,
            Case::BothRise => &mut self.both_rise,
            Case::Reversed => &mut self.reversed,
            Case::Still => &mut self.still,
        }
    }

    /// Pairs of one case.
    pub(crate) fn count(mut self, case: Case) -> f64 {
        *self.slot(case)
    }

    /// Pairs counted.
    pub(crate) fn total(self) -> f64 {
        Case::ALL.iter().map(|case| self.count(*case)).sum()
    }

    /// Share of one case, 0 without pairs.
    pub(crate) fn share(self, case: Case) -> f64 {
        self.count(case) / self.total().max(1.0)
    }
}

/// An objective over all pairs: cases and means.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Totals {
    /// Pairs by case.
    pub(crate) cases: Cases,
    /// Mean change of the chosen log-prob, nats per unit learning rate.
    pub(crate) delta_chosen: Option<f64>,
    /// Mean change of the rejected log-prob.
    pub(crate) delta_rejected: Option<f64>,
    /// Mean weight of chosen's gradient.
    pub(crate) d_w: Option<f64>,
    /// Mean weight of rejected's gradient.
    pub(crate) d_l: Option<f64>,
}

impl Totals {
    /// Adds one pair; the means are sums until [`Totals::averaged`].
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        self.cases.add(outcome.case);
        let add = |sum: &mut Option<f64>, value: f64| *sum = Some(sum.unwrap_or(0.0) + value);
        add(&mut self.delta_chosen, outcome.delta_chosen);
        add(&mut self.delta_rejected, outcome.delta_rejected);
        add(&mut self.d_w, outcome.d_w);
        add(&mut self.d_l, outcome.d_l);
    }

    /// Sums as means.
    pub(crate) fn averaged(self) -> Self {
        let count = self.cases.total();
        let mean = |sum: Option<f64>| sum.map(|sum| sum / count);
        Self {
            cases: self.cases,
            delta_chosen: mean(self.delta_chosen),
            delta_rejected: mean(self.delta_rejected),
            d_w: mean(self.d_w),
            d_l: mean(self.d_l),
        }
    }

    /// Mean change of the log-prob margin, nats per unit learning rate.
    pub(crate) fn margin(&self) -> Option<f64> {
        Some(self.delta_chosen? - self.delta_rejected?).filter(|margin| margin.is_finite())
    }
}

/// One parameter group's part in the inner product.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GroupShare {
    /// Mean inner product of the group's gradients.
    #[serde(deserialize_with = "number")]
    pub(crate) grad_inner: f64,
    /// Its part of the mean total; not a number where the total is zero.
    #[serde(deserialize_with = "number")]
    pub(crate) share: f64,
    /// Median cosine inside the group.
    pub(crate) grad_cosine: Option<f64>,
}

/// Cases of one objective against one of its parameters.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Sweep {
    /// Objective.
    pub(crate) objective: String,
    /// Parameter that varies.
    pub(crate) parameter: String,
    /// In order of the value.
    pub(crate) points: Vec<SweepPoint>,
}

/// One value of a sweep.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SweepPoint {
    /// The parameter's value.
    pub(crate) value: f64,
    /// Pairs by case.
    #[serde(default)]
    pub(crate) cases: Cases,
    /// Mean change of the chosen log-prob, nats per unit learning rate.
    pub(crate) delta_chosen: Option<f64>,
    /// Mean change of the rejected log-prob.
    pub(crate) delta_rejected: Option<f64>,
}

/// Rank correlations of a cheap measure.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Spearman {
    /// With the exact inner product.
    pub(crate) inner: Option<f64>,
    /// With the exact cosine.
    pub(crate) cosine: Option<f64>,
    /// With the realised change of the chosen log-prob.
    pub(crate) realised: Option<f64>,
}

/// A real optimizer step.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RealStep {
    /// Optimizer's name.
    pub(crate) optimizer: Option<String>,
    /// Its learning rate.
    pub(crate) learning_rate: Option<f64>,
    /// Pairs scored again.
    pub(crate) pairs: Option<u64>,
}

/// The file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Summary {
    /// Command line.
    pub(crate) command: Option<String>,
    /// Model.
    pub(crate) model: Option<String>,
    /// Data set.
    pub(crate) data: Option<String>,
    /// The configured objective.
    pub(crate) objective: Option<String>,
    /// `all` or `lora`.
    pub(crate) parameters: Option<String>,
    /// How many they are.
    pub(crate) trainable_parameters: Option<u64>,
    /// Whether every pair was measured.
    pub(crate) complete: Option<bool>,
    /// Time for a pair.
    pub(crate) seconds_per_pair: Option<f64>,
    /// The configured learning rate.
    pub(crate) learning_rate: Option<f64>,
    /// Largest resident memory.
    pub(crate) peak_memory_bytes: Option<u64>,
    /// What-if table.
    pub(crate) objectives: BTreeMap<String, Totals>,
    /// Parameter groups.
    pub(crate) groups: BTreeMap<String, GroupShare>,
    /// Sweeps.
    pub(crate) sweeps: Vec<Sweep>,
    /// Cheap measures.
    pub(crate) proxies: BTreeMap<String, Spearman>,
    /// Real step.
    pub(crate) step: Option<RealStep>,
    /// The most harmful pairs.
    pub(crate) worst: Vec<u64>,
}

impl Summary {
    /// Reads `summary.json` in `dir`; empty with a note when it is missing or not as expected.
    pub(crate) fn read(dir: &Path, notes: &mut Vec<String>) -> Self {
        let path = dir.join("summary.json");
        if !path.is_file() {
            notes.push("summary.json is missing: cases, groups and rank correlations are taken from the rows, sweeps are not known".into());
            return Self::default();
        }
        read_json(&path, MAX_BYTES, notes).unwrap_or_default()
    }
}
