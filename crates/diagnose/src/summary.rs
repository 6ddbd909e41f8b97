//! A data set's diagnosis in numbers: `summary.json`, a function of the rows alone.
//!
//! Rows are taken in one by one. What stays of each are its scalars (for quantiles and rank correlations) and one cosine
//! a parameter group, about a kilobyte; texts, objectives and groups go into sums.

use crate::record::{FIELDS, Named, PairRow};
use crate::statistics::{mean, median, pearson, quantile, sorted, spearman};
use crate::step::StepEffect;
use crate::sweep::{Sweep, Tally};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use unbraid_objective::Case;

/// Cheap numbers whose rank correlation with the exact ones is reported.
pub const PROXIES: [&str; 6] = [
    "ches",
    "ches_normalized",
    "edit_distance",
    "shared_tokens",
    "head_inner",
    "head_cosine",
];

const QUANTILES: [(&str, f64); 7] = [
    ("p05", 0.05),
    ("p10", 0.10),
    ("p25", 0.25),
    ("p50", 0.50),
    ("p75", 0.75),
    ("p90", 0.90),
    ("p95", 0.95),
];

/// How many of the most harmed pairs are named.
const WORST: usize = 5;

/// What a summary says beside what follows from the rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Facts {
    /// The command line.
    pub command: String,
    /// The model's name.
    pub model: String,
    /// The reference's name; none without one.
    pub reference: Option<String>,
    /// The data set's name.
    pub data: String,
    /// The configured objective, with its remedy, as the rows name it.
    pub objective: String,
    /// `all` or `lora`.
    pub parameters: String,
    /// Number of trainable elements.
    pub trainable_parameters: usize,
    /// Whether every pair was measured.
    pub complete: bool,
    /// Wall-clock time a pair, of this run's own pairs.
    pub seconds_per_pair: Option<f64>,
    /// Mean wall-clock time of a heat map.
    pub heatmap_seconds: Option<f64>,
    /// Of the steps.
    pub learning_rate: f64,
    /// The optimizer of the steps.
    #[serde(skip)]
    pub optimizer: String,
    /// The process's largest resident set; none where the system does not tell.
    pub peak_memory_bytes: Option<u64>,
}

/// `summary.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// What was measured how.
    #[serde(flatten)]
    pub facts: Facts,
    /// Rows.
    pub pairs: usize,
    /// Mean of each of [`FIELDS`] that the rows have.
    pub means: Named<f64>,
    /// Median of each.
    pub medians: Named<f64>,
    /// Quantiles of each.
    pub quantiles: Named<Named<f64>>,
    /// Over the pairs, of each objective.
    pub objectives: Named<ObjectiveSummary>,
    /// Over the pairs, of each parameter group.
    pub groups: Named<GroupSummary>,
    /// Over the pairs, of each value of each sweep.
    pub sweeps: Vec<SweepSummary>,
    /// Rank correlations of [`PROXIES`].
    pub proxies: Named<ProxySummary>,
    /// Of the pairs on which a step was taken.
    pub step: Option<StepSummary>,
    /// The pairs with the largest harm, by index.
    pub worst: Vec<usize>,
    /// The pairs that have a heat map, by index.
    pub heatmaps: Vec<usize>,
}

/// Pairs by case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cases {
    /// Chosen up, rejected down.
    pub ideal: usize,
    /// Both down.
    pub both_fall: usize,
    /// Both up.
    pub both_rise: usize,
    /// Chosen down, rejected up.
    pub reversed: usize,
    /// No movement.
    pub still: usize,
}

impl From<[usize; 5]> for Cases {
    fn from(counts: [usize; 5]) -> Self {
        let of = |wanted: Case| {
            let named = Case::ALL.iter().zip(counts);
            named
                .filter(|(case, _)| **case == wanted)
                .map(|(_, n)| n)
                .sum()
        };
        Cases {
            ideal: of(Case::Ideal),
            both_fall: of(Case::BothFall),
            both_rise: of(Case::BothRise),
            reversed: of(Case::Reversed),
            still: of(Case::Still),
        }
    }
}

/// What an objective would do to the data set; means over the pairs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ObjectiveSummary {
    /// Counts.
    pub cases: Cases,
    /// Δa_w per unit of learning rate.
    pub delta_chosen: f64,
    /// Δa_l.
    pub delta_rejected: f64,
    /// Coefficient of chosen's gradient.
    pub d_w: f64,
    /// Coefficient of rejected's.
    pub d_l: f64,
}

/// A parameter group's part in the entanglement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GroupSummary {
    /// Mean ⟨g_w,g_l⟩ in the group.
    pub grad_inner: f64,
    /// That over the mean of the whole; none where that is 0.
    pub share: Option<f64>,
    /// Median of the group's cosine.
    pub grad_cosine: Option<f64>,
}

/// One parameter of one objective.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SweepSummary {
    /// The objective's name.
    pub objective: String,
    /// The parameter's.
    pub parameter: String,
    /// In the order given.
    pub points: Vec<PointSummary>,
}

/// One value of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PointSummary {
    /// Of the parameter.
    pub value: f64,
    /// Counts.
    pub cases: Cases,
    /// Mean Δa_w per unit of learning rate.
    pub delta_chosen: f64,
    /// Mean Δa_l.
    pub delta_rejected: f64,
}

/// Spearman's rank correlations of a cheap number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ProxySummary {
    /// With ⟨g_w,g_l⟩.
    pub inner: Option<f64>,
    /// With the cosine.
    pub cosine: Option<f64>,
    /// With the realised change of the chosen log-prob, over the pairs on which a step was taken.
    pub realised: Option<f64>,
}

/// Prediction against reality.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepSummary {
    /// The optimizer's name.
    pub optimizer: String,
    /// η.
    pub learning_rate: f64,
    /// How many pairs.
    pub pairs: usize,
    /// Of the chosen log-prob.
    pub chosen: Agreement,
    /// Of the rejected log-prob.
    pub rejected: Agreement,
}

/// How the two predictions of a change stand to what happened.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Pearson's, plain gradient descent against realised.
    pub predicted_correlation: Option<f64>,
    /// Pearson's, the actual update to first order against realised.
    pub update_correlation: Option<f64>,
    /// Median of realised over predicted.
    pub predicted_median_ratio: Option<f64>,
    /// Median of realised over the update's prediction.
    pub update_median_ratio: Option<f64>,
}

/// What has been taken in so far.
#[derive(Debug)]
pub struct SummaryBuilder {
    objective: String,
    indices: Vec<usize>,
    /// By field; NaN where a row has no such number.
    columns: Vec<Vec<f64>>,
    harms: Vec<f64>,
    objectives: Vec<(String, Tally)>,
    groups: Vec<Group>,
    sweeps: Vec<Sweep>,
    steps: Vec<(usize, StepEffect)>,
}

#[derive(Debug)]
struct Group {
    name: String,
    inner: f64,
    cosines: Vec<f64>,
}

impl SummaryBuilder {
    /// `objective` is the configured one, as the rows name it; by it pairs are harmed.
    pub fn new(objective: &str, sweeps: Vec<Sweep>) -> Self {
        SummaryBuilder {
            objective: objective.to_owned(),
            indices: Vec::new(),
            columns: vec![Vec::new(); FIELDS.len()],
            harms: Vec::new(),
            objectives: Vec::new(),
            groups: Vec::new(),
            sweeps,
            steps: Vec::new(),
        }
    }

    /// Takes a row in.
    pub fn add(&mut self, row: &PairRow) {
        self.indices.push(row.index);
        for (column, value) in self.columns.iter_mut().zip(row.values()) {
            column.push(value.unwrap_or(f64::NAN));
        }
        for (name, outcome) in &row.objectives.0 {
            entry(&mut self.objectives, name, Tally::default).add(outcome);
        }
        // Without gradients the best guess at what is harmed is CHES in its normalised form.
        let configured = row.objectives.get(&self.objective);
        self.harms
            .push(configured.map_or(row.ches_normalized, |outcome| outcome.harm()));
        if let Some(gradients) = &row.gradients {
            let logps = row.logps();
            for sweep in &mut self.sweeps {
                sweep.add(&logps, gradients.gram());
            }
            for (i, (name, group)) in gradients.groups.0.iter().enumerate() {
                if self.groups.get(i).is_none_or(|known| known.name != *name) {
                    let name = name.clone();
                    let fresh = Group {
                        name,
                        inner: 0.0,
                        cosines: Vec::new(),
                    };
                    self.groups.insert(i.min(self.groups.len()), fresh);
                }
                self.groups[i].inner += group.grad_inner;
                self.groups[i].cosines.push(group.gram().cosine());
            }
        }
        if let Some(step) = row.step {
            self.steps.push((self.indices.len() - 1, step));
        }
    }

    /// How many rows were taken in.
    pub fn pairs(&self) -> usize {
        self.indices.len()
    }

    /// Index and value of a field of every row that has it, in order.
    pub fn column(&self, field: &str) -> impl Iterator<Item = (usize, f64)> {
        let at = FIELDS.iter().position(|name| *name == field);
        let values = at.map_or(&[][..], |at| &self.columns[at]);
        let indexed = self.indices.iter().copied().zip(values.iter().copied());
        indexed.filter(|(_, value)| value.is_finite())
    }

    /// The `n` rows to look at first, by index: those with the largest harm, then those with the largest cosine; pairs of
    /// two equal completions last.
    pub fn most_harmed(&self, n: usize) -> Vec<usize> {
        let column = |field: &str| {
            let at = FIELDS.iter().position(|name| *name == field);
            &self.columns[at.expect("the field is in the list")]
        };
        let (cosine, distance) = (column("grad_cosine"), column("edit_distance"));
        let mut order: Vec<usize> = (0..self.indices.len()).collect();
        let key = |&i: &usize| (distance[i] == 0.0, -self.harms[i], -cosine[i]);
        order.sort_by(|a, b| {
            let (a, b) = (key(a), key(b));
            let by_harm = a.0.cmp(&b.0).then(a.1.total_cmp(&b.1));
            by_harm.then(a.2.total_cmp(&b.2))
        });
        order.truncate(n);
        order.into_iter().map(|i| self.indices[i]).collect()
    }

    /// The summary of what was taken in.
    pub fn finish(&self, facts: Facts, heatmaps: Vec<usize>) -> Summary {
        let mut means = Named::default();
        let (mut medians, mut quantiles) = (Named::default(), Named::default());
        for (name, column) in FIELDS.iter().zip(&self.columns) {
            let values: Vec<f64> = column.iter().copied().filter(|v| v.is_finite()).collect();
            let sorted = sorted(&values);
            let (Some(mean), Some(median)) = (mean(&values), quantile(&sorted, 0.5)) else {
                continue;
            };
            means.0.push(((*name).to_owned(), mean));
            medians.0.push(((*name).to_owned(), median));
            let at = QUANTILES.iter();
            let at = at.filter_map(|(p, q)| Some(((*p).to_owned(), quantile(&sorted, *q)?)));
            quantiles.0.push(((*name).to_owned(), Named(at.collect())));
        }
        let objectives = self.objectives.iter();
        let objectives = objectives.map(|(name, tally)| (name.clone(), of_objective(tally)));
        Summary {
            pairs: self.pairs(),
            means,
            medians,
            quantiles,
            objectives: Named(objectives.collect()),
            groups: self.groups(),
            // Without gradients nothing was swept.
            sweeps: match self.groups.is_empty() {
                true => Vec::new(),
                false => self.sweeps.iter().map(of_sweep).collect(),
            },
            proxies: self.proxies(),
            step: self.step(&facts),
            worst: self.most_harmed(WORST),
            heatmaps,
            facts,
        }
    }

    fn groups(&self) -> Named<GroupSummary> {
        let pairs = self.pairs() as f64;
        let total: f64 = self.groups.iter().map(|group| group.inner).sum();
        let of = |group: &Group| {
            let summary = GroupSummary {
                grad_inner: group.inner / pairs,
                share: (total != 0.0).then(|| group.inner / total),
                grad_cosine: median(&group.cosines),
            };
            (group.name.clone(), summary)
        };
        Named(self.groups.iter().map(of).collect())
    }

    fn proxies(&self) -> Named<ProxySummary> {
        if self.groups.is_empty() {
            return Named::default();
        }
        let column = |field: &str| -> HashMap<usize, f64> { self.column(field).collect() };
        let realised = self.steps.iter();
        let realised: HashMap<usize, f64> = realised
            .map(|(at, step)| (self.indices[*at], step.realised_chosen))
            .collect();
        let (inner, cosine) = (column("grad_inner"), column("grad_cosine"));
        let of = |name: &str| {
            let with = |other: &HashMap<usize, f64>| {
                let both = self.column(name);
                let both = both.filter_map(|(index, x)| Some((x, *other.get(&index)?)));
                let (x, y): (Vec<f64>, Vec<f64>) = both.unzip();
                spearman(&x, &y)
            };
            ProxySummary {
                inner: with(&inner),
                cosine: with(&cosine),
                realised: with(&realised),
            }
        };
        Named(PROXIES.iter().map(|&n| (n.to_owned(), of(n))).collect())
    }

    fn step(&self, facts: &Facts) -> Option<StepSummary> {
        if self.steps.is_empty() {
            return None;
        }
        type Of = fn(&StepEffect) -> [f64; 3];
        let agreement = |of: Of| {
            let rows: Vec<[f64; 3]> = self.steps.iter().map(|(_, step)| of(step)).collect();
            let column = |i: usize| rows.iter().map(|row| row[i]).collect::<Vec<f64>>();
            let (predicted, update, realised) = (column(0), column(1), column(2));
            let ratio = |prediction: &[f64]| {
                let ratios = realised.iter().zip(prediction).map(|(r, p)| r / p);
                median(&ratios.filter(|r| r.is_finite()).collect::<Vec<_>>())
            };
            Agreement {
                predicted_correlation: pearson(&predicted, &realised),
                update_correlation: pearson(&update, &realised),
                predicted_median_ratio: ratio(&predicted),
                update_median_ratio: ratio(&update),
            }
        };
        Some(StepSummary {
            optimizer: facts.optimizer.clone(),
            learning_rate: facts.learning_rate,
            pairs: self.steps.len(),
            chosen: agreement(|s| [s.predicted_chosen, s.update_chosen, s.realised_chosen]),
            rejected: agreement(|s| [s.predicted_rejected, s.update_rejected, s.realised_rejected]),
        })
    }
}

fn entry<'a, T>(entries: &'a mut Vec<(String, T)>, name: &str, new: fn() -> T) -> &'a mut T {
    let found = entries.iter().position(|(known, _)| known == name);
    let at = found.unwrap_or_else(|| {
        entries.push((name.to_owned(), new()));
        entries.len() - 1
    });
    &mut entries[at].1
}

fn of_objective(tally: &Tally) -> ObjectiveSummary {
    let pairs = tally.pairs() as f64;
    ObjectiveSummary {
        cases: tally.cases.into(),
        delta_chosen: tally.delta_chosen / pairs,
        delta_rejected: tally.delta_rejected / pairs,
        d_w: tally.d_w / pairs,
        d_l: tally.d_l / pairs,
    }
}

fn of_sweep(sweep: &Sweep) -> SweepSummary {
    let point = |(value, tally): (f64, Tally)| {
        let pairs = tally.pairs().max(1) as f64;
        PointSummary {
            value,
            cases: tally.cases.into(),
            delta_chosen: tally.delta_chosen / pairs,
            delta_rejected: tally.delta_rejected / pairs,
        }
    };
    SweepSummary {
        objective: sweep.objective.clone(),
        parameter: sweep.parameter.clone(),
        points: sweep.points().map(point).collect(),
    }
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
