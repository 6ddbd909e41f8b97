//! Reading the files of a diagnosis: `summary.json`, and `geometry.jsonl` or `proxies.jsonl` line by line.
//!
//! A file of rows may hold a hundred thousand pairs with some ten kilobytes each, so a row is reduced at once: its
//! scalars are kept, as is its outcome under the configured objective; what it says of the other objectives and of
//! parameter groups goes into sums. The sums serve when `summary.json` is missing, because the diagnosis was
//! stopped: then the page shows what there is. A missing field is no error, a damaged line is noted.
//!
//! `pairs.jsonl`, heat maps and the Gram matrix are read by `texts.rs` and `matrices.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::figures::PROXIES;
use super::files::for_each_line;
use super::statistics::spearman;
use super::summary::{Cases, GroupShare, Spearman, Summary, Totals};
use crate::error::{ReportError, Result};
use crate::figure::Role;
use crate::settings::Settings;

/// Scalars of a row, by the names that the files use.
pub(crate) const FIELDS: [&str; 19] = [
    "chosen_logps",
    "rejected_logps",
    "ref_chosen_logps",
    "ref_rejected_logps",
    "chosen_len",
    "rejected_len",
    "reward_chosen",
    "reward_rejected",
    "reward_margin",
    "grad_sq_chosen",
    "grad_sq_rejected",
    "grad_inner",
    "grad_cosine",
    "ches",
    "ches_normalized",
    "edit_distance",
    "shared_tokens",
    "head_inner",
    "head_cosine",
];

/// Case of SPEC table 1, with the two outcomes that only degenerate coefficients have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Case {
    /// Chosen up, rejected down.
    Ideal,
    /// Both down.
    BothFall,
    /// Both up.
    BothRise,
    /// Chosen down, rejected up.
    Reversed,
    /// No movement, or a name that this version does not know.
    #[serde(other)]
    Still,
}

impl Case {
    /// All, in the order in which they are drawn.
    pub(crate) const ALL: [Self; 5] = [
        Self::Ideal,
        Self::BothFall,
        Self::BothRise,
        Self::Reversed,
        Self::Still,
    ];

    /// Of a row that does not say.
    fn unknown() -> Self {
        Self::Still
    }

    /// As the files write it.
    pub(crate) fn key(self) -> &'static str {
        ["ideal", "both_fall", "both_rise", "reversed", "still"][self as usize]
    }

    /// As a reader reads it.
    pub(crate) fn name(self) -> &'static str {
        ["ideal", "both fall", "both rise", "reversed", "still"][self as usize]
    }

    /// Its colour in a figure.
    pub(crate) fn role(self) -> Role {
        match self {
            Self::Ideal => Role::Ideal,
            Self::BothFall => Role::BothFall,
            Self::BothRise => Role::BothRise,
            Self::Reversed => Role::Reversed,
            Self::Still => Role::Other,
        }
    }
}

/// What an objective would do to a pair; deltas in nats per unit learning rate.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Outcome {
    /// Weight of chosen's gradient.
    #[serde(default, deserialize_with = "number")]
    pub(crate) d_w: f64,
    /// Weight of rejected's gradient.
    #[serde(default, deserialize_with = "number")]
    pub(crate) d_l: f64,
    /// Where the pair goes.
    #[serde(default = "Case::unknown")]
    pub(crate) case: Case,
    /// First-order change of the chosen log-prob.
    #[serde(default, deserialize_with = "number")]
    pub(crate) delta_chosen: f64,
    /// First-order change of the rejected log-prob.
    #[serde(default, deserialize_with = "number")]
    pub(crate) delta_rejected: f64,
}

/// Prediction and outcome of a real step, in nats.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default)]
pub(crate) struct Step {
    /// Plain gradient descent on the pair alone.
    #[serde(deserialize_with = "number")]
    pub(crate) predicted_chosen: f64,
    /// The same of rejected.
    #[serde(deserialize_with = "number")]
    pub(crate) predicted_rejected: f64,
    /// First order of the update that was made.
    #[serde(deserialize_with = "number")]
    pub(crate) update_chosen: f64,
    /// The same of rejected.
    #[serde(deserialize_with = "number")]
    pub(crate) update_rejected: f64,
    /// Scored again.
    #[serde(deserialize_with = "number")]
    pub(crate) realised_chosen: f64,
    /// Scored again.
    #[serde(deserialize_with = "number")]
    pub(crate) realised_rejected: f64,
}

impl Default for Step {
    fn default() -> Self {
        Self {
            predicted_chosen: f64::NAN,
            predicted_rejected: f64::NAN,
            update_chosen: f64::NAN,
            update_rejected: f64::NAN,
            realised_chosen: f64::NAN,
            realised_rejected: f64::NAN,
        }
    }
}

/// `null` and an absent value are not a number.
pub(super) fn number<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

/// One pair.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    /// Row of the data set.
    pub(crate) index: u64,
    values: [f64; FIELDS.len()],
    /// Under the configured objective.
    pub(crate) outcome: Option<Outcome>,
    /// Of a real step, if one was taken on this pair.
    pub(crate) step: Option<Step>,
}

impl Pair {
    /// The finite value of one of [`FIELDS`].
    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        let at = FIELDS.iter().position(|field| *field == name)?;
        Some(self.values[at]).filter(|value| value.is_finite())
    }

    /// ⟨g_w,g_l⟩/‖g_w‖² and ⟨g_w,g_l⟩/‖g_l‖², if finite.
    pub(crate) fn ratios(&self) -> Option<(f64, f64)> {
        let inner = self.get("grad_inner")?;
        let chosen = inner / self.get("grad_sq_chosen")?;
        let rejected = inner / self.get("grad_sq_rejected")?;
        (chosen.is_finite() && rejected.is_finite()).then_some((chosen, rejected))
    }

    /// d_w/d_l under the configured objective, where both are positive.
    pub(crate) fn weight_ratio(&self) -> Option<f64> {
        let outcome = self.outcome?;
        let ratio = outcome.d_w / outcome.d_l;
        (outcome.d_w > 0.0 && outcome.d_l > 0.0 && ratio.is_finite()).then_some(ratio)
    }

    /// How much a step harms the pair: what chosen loses and rejected gains, in nats per unit learning rate;
    /// length-normalised CHES where no gradient was measured.
    pub(crate) fn harm(&self) -> f64 {
        let harm = match self.outcome {
            Some(outcome) => (-outcome.delta_chosen).max(0.0) + outcome.delta_rejected.max(0.0),
            None => self
                .get("grad_cosine")
                .or_else(|| self.get("ches_normalized"))
                .or_else(|| self.get("ches"))
                .unwrap_or(f64::NEG_INFINITY),
        };
        if harm.is_nan() {
            f64::NEG_INFINITY
        } else {
            harm
        }
    }
}

/// A diagnosis as its files tell it.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// `summary.json`, completed by sums over the rows.
    pub(crate) summary: Summary,
    /// `run.yaml`.
    pub(crate) settings: Settings,
    /// The rows, in the file's order.
    pub(crate) pairs: Vec<Pair>,
    /// Whether only scores and proxies were measured.
    pub(crate) proxies_only: bool,
    /// What a reader must know about gaps in the files.
    pub(crate) notes: Vec<String>,
}

impl Diagnosis {
    /// Reads the files in `dir`.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let (path, proxies_only) =
            match ["geometry.jsonl", "proxies.jsonl"].map(|name| dir.join(name)) {
                [geometry, _] if geometry.is_file() => (geometry, false),
                [_, proxies] if proxies.is_file() => (proxies, true),
                _ => {
                    return Err(ReportError::NotADiagnosis {
                        dir: dir.to_path_buf(),
                    });
                }
            };
        let mut notes = Vec::new();
        let settings = Settings::read(&dir.join("run.yaml"))?;
        notes.extend(settings.note.clone());
        let mut summary = Summary::read(dir, &mut notes);
        let configured = summary
            .objective
            .clone()
            .or_else(|| settings.get("objective"))
            .or_else(|| settings.get("loss_type"));
        let mut reading = Reading {
            configured,
            ..Reading::default()
        };
        notes.extend(for_each_line(&path, |line| reading.row(line))?);
        if reading.pairs.is_empty() {
            return Err(ReportError::NoPairs { path });
        }
        reading.complete(&mut summary);
        if summary.complete == Some(false) {
            notes.push("the diagnosis was stopped before its last pair: everything here is about the pairs measured so far".into());
        }
        Ok(Self {
            dir: dir.to_path_buf(),
            summary,
            settings,
            pairs: reading.pairs,
            proxies_only,
            notes,
        })
    }

    /// Name of the directory.
    pub(crate) fn name(&self) -> String {
        directory_name(&self.dir)
    }

    /// The configured objective's name.
    pub(crate) fn objective(&self) -> &str {
        self.summary.objective.as_deref().unwrap_or("sigmoid")
    }

    /// Finite values of one field over all pairs.
    pub(crate) fn values(&self, name: &str) -> Vec<f64> {
        self.pairs
            .iter()
            .filter_map(|pair| pair.get(name))
            .collect()
    }

    /// Positions of the pairs, the most harmful first, then those with the largest cosine; two equal texts last.
    pub(crate) fn by_harm(&self) -> Vec<usize> {
        let key = |pair: &Pair| {
            let cosine = pair.get("grad_cosine").unwrap_or(f64::NEG_INFINITY);
            (
                pair.get("edit_distance") == Some(0.0),
                -pair.harm(),
                -cosine,
            )
        };
        let keys: Vec<_> = self.pairs.iter().map(key).collect();
        let mut order: Vec<usize> = (0..self.pairs.len()).collect();
        order.sort_by(|a, b| {
            let (a, b) = (keys[*a], keys[*b]);
            let by_harm = a.0.cmp(&b.0).then(a.1.total_cmp(&b.1));
            by_harm.then(a.2.total_cmp(&b.2))
        });
        order
    }

    /// The pairs that the summary calls worst, otherwise the five most harmful.
    pub(crate) fn worst(&self) -> Vec<&Pair> {
        let named = self.summary.worst.iter();
        let named: Vec<&Pair> = named
            .filter_map(|index| self.pairs.iter().find(|pair| pair.index == *index))
            .take(5)
            .collect();
        if !named.is_empty() {
            return named;
        }
        let order = self.by_harm().into_iter().take(5);
        order.map(|at| &self.pairs[at]).collect()
    }

    /// Counts of cases under the configured objective.
    pub(crate) fn cases(&self) -> Option<Cases> {
        let mut cases = Cases::default();
        self.pairs
            .iter()
            .filter_map(|pair| pair.outcome)
            .for_each(|outcome| cases.add(outcome.case));
        (cases.total() > 0.0).then_some(cases)
    }
}

/// The last part of a directory's full name.
pub(crate) fn directory_name(dir: &Path) -> String {
    let full = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    full.file_name().map_or_else(
        || "diagnosis".to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// A row before it is reduced.
#[derive(Deserialize)]
struct Row {
    index: u64,
    #[serde(default)]
    objectives: BTreeMap<String, Outcome>,
    #[serde(default)]
    groups: BTreeMap<String, Value>,
    step: Option<Step>,
    #[serde(flatten)]
    scalars: BTreeMap<String, Value>,
}

/// The state while rows are read.
#[derive(Default)]
struct Reading {
    configured: Option<String>,
    pairs: Vec<Pair>,
    totals: BTreeMap<String, Totals>,
    groups: BTreeMap<String, f64>,
}

impl Reading {
    /// Takes one line; `false` if it is no row.
    fn row(&mut self, line: &[u8]) -> bool {
        let Ok(row) = serde_json::from_slice::<Row>(line) else {
            return false;
        };
        if self.configured.is_none() {
            let sigmoid = row.objectives.get_key_value("sigmoid");
            let first = sigmoid.or_else(|| row.objectives.iter().next());
            self.configured = first.map(|(name, _)| name.clone());
        }
        let outcome = self
            .configured
            .as_ref()
            .and_then(|name| row.objectives.get(name))
            .copied();
        let values = FIELDS.map(|name| {
            let value = row.scalars.get(name).and_then(Value::as_f64);
            value.unwrap_or(f64::NAN)
        });
        self.pairs.push(Pair {
            index: row.index,
            values,
            outcome,
            step: row.step,
        });
        for (name, outcome) in row.objectives {
            self.totals.entry(name).or_default().add(&outcome);
        }
        for (name, group) in row.groups {
            let inner = group.get("grad_inner").and_then(Value::as_f64);
            *self.groups.entry(name).or_default() += inner.unwrap_or(0.0);
        }
        true
    }

    /// Rank correlations of a cheap measure with what is exact.
    fn spearman(&self, field: &str) -> Spearman {
        let with = |exact: &dyn Fn(&Pair) -> Option<f64>| {
            let points = self
                .pairs
                .iter()
                .filter_map(|pair| Some((pair.get(field)?, exact(pair)?)));
            spearman(&points.filter(|p| p.1.is_finite()).collect::<Vec<_>>())
        };
        Spearman {
            inner: with(&|pair| pair.get("grad_inner")),
            cosine: with(&|pair| pair.get("grad_cosine")),
            realised: with(&|pair| pair.step.map(|step| step.realised_chosen)),
        }
    }

    /// Fills what the summary lacks.
    fn complete(&self, summary: &mut Summary) {
        if summary.objective.is_none() {
            summary.objective.clone_from(&self.configured);
        }
        if summary.objectives.is_empty() {
            let finished = self
                .totals
                .iter()
                .map(|(name, totals)| (name.clone(), totals.clone().averaged()));
            summary.objectives = finished.collect();
        }
        if summary.groups.is_empty() {
            let count = self.pairs.len() as f64;
            let total: f64 = self.groups.values().sum();
            let shares = self.groups.iter().map(|(name, inner)| {
                let share = GroupShare {
                    grad_inner: inner / count,
                    share: inner / total,
                    grad_cosine: None,
                };
                (name.clone(), share)
            });
            summary.groups = shares.collect();
        }
        if summary.proxies.is_empty() {
            let ranked = PROXIES
                .iter()
                .map(|(field, _)| ((*field).to_string(), self.spearman(field)));
            summary.proxies = ranked.filter(|(_, rho)| rho.cosine.is_some()).collect();
        }
    }
}
