//! `results.json` as far as the page needs it: whatever an older or an unfinished experiment lacks is empty here, and a
//! number that was not finite (`null`) is absent.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde::{Deserialize, Deserializer};

use crate::diagnosis::is_diagnosis;
use crate::error::{ReportError, Result};

const FILE: &str = "results.json";
/// Twenty arms of three seeds with a thousand held-out pairs are a tenth of this.
const MAX_BYTES: u64 = 64 << 20;

/// Which experiment it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Four sentence styles (paper §4.2).
    Sentiment,
    /// Objectives of Table 2 (paper §3.3).
    Objectives,
}

/// The file.
#[derive(Debug, Deserialize)]
pub(crate) struct Results {
    /// See [`Results::subject`].
    kind: String,
    /// The command that made it.
    pub(crate) command: Option<String>,
    /// Version of Unbraid.
    pub(crate) version: Option<String>,
    /// Processor, threads, arithmetic.
    pub(crate) machine: Option<String>,
    /// The model's name.
    pub(crate) model: Option<String>,
    /// Its size.
    pub(crate) parameters: Option<u64>,
    /// Departures from the authors' recipe.
    #[serde(default)]
    pub(crate) deviations: Vec<String>,
    /// Further facts.
    #[serde(default)]
    pub(crate) facts: Vec<String>,
    /// Those that have run.
    #[serde(default)]
    pub(crate) arms: Vec<Arm>,
    /// Judged statements.
    #[serde(default)]
    pub(crate) claims: Vec<Claim>,
    /// Token heat maps on the disk.
    #[serde(default)]
    pub(crate) heat_maps: Vec<HeatMapFile>,
}

/// A style or objective with or without a remedy, over its seeds.
#[derive(Debug, Deserialize)]
pub(crate) struct Arm {
    /// Unique among the arms.
    pub(crate) name: String,
    /// Of the sentiment experiment.
    pub(crate) style: Option<String>,
    /// Objective.
    pub(crate) objective: Option<String>,
    /// Remedy or mask; `none` for the bare objective.
    pub(crate) remedy: Option<String>,
    /// One a seed.
    #[serde(default)]
    pub(crate) runs: Vec<Run>,
}

/// One training run.
#[derive(Debug, Deserialize)]
pub(crate) struct Run {
    /// Its seed.
    pub(crate) seed: u64,
    /// Wall-clock time.
    pub(crate) seconds: Option<f64>,
    /// Held-out pairs against steps.
    #[serde(default)]
    pub(crate) evaluations: Vec<Evaluation>,
    /// Measured steps.
    #[serde(default)]
    pub(crate) predictions: Vec<Prediction>,
    /// The last model beside the first.
    #[serde(default)]
    pub(crate) outcome: Outcome,
}

/// Means over held-out pairs at one step.
#[derive(Debug, Deserialize)]
pub(crate) struct Evaluation {
    /// Optimizer step.
    pub(crate) step: u64,
    /// Finite values by key. [`Results::read`] adds `change/chosen`, `change/rejected` and `geometry/ratio_chosen`.
    #[serde(deserialize_with = "finite_values")]
    pub(crate) metrics: BTreeMap<String, f64>,
}

/// One measured step, nats.
#[derive(Debug, Deserialize)]
pub(crate) struct Prediction {
    /// First order of plain gradient descent.
    pub(crate) predicted_chosen: Option<f64>,
    /// Of the rejected log-prob.
    pub(crate) predicted_rejected: Option<f64>,
    /// What the step did.
    pub(crate) realised_chosen: Option<f64>,
    /// To the rejected log-prob.
    pub(crate) realised_rejected: Option<f64>,
}

/// What training changed; per held-out pair where it is a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Outcome {
    /// Of log π(y_w|x), nats.
    pub(crate) chosen_change: Vec<Option<f64>>,
    /// Of log π(y_l|x).
    pub(crate) rejected_change: Vec<Option<f64>>,
    /// Per token.
    pub(crate) mean_chosen_change: Vec<Option<f64>>,
    /// Per token.
    pub(crate) mean_rejected_change: Vec<Option<f64>>,
    /// Before and after.
    pub(crate) label_accuracy: [Option<f64>; 2],
    /// After training.
    pub(crate) reward_accuracy: Option<f64>,
    /// Gradient cosine of the measured pairs, before and after.
    pub(crate) cosine: [Vec<Option<f64>>; 2],
    /// Nats a token of the prompts, to the model of the start.
    pub(crate) kl: Option<f64>,
    /// Nats a token of held-out text, before and after.
    pub(crate) text_logp: [Option<f64>; 2],
}

/// What was found of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Finding {
    /// The interval lies on the claimed side.
    Holds,
    /// It lies on the other side.
    DoesNot,
    /// Both sides, or no interval.
    Unclear,
}

/// A judged statement.
#[derive(Debug, Deserialize)]
pub(crate) struct Claim {
    /// The statement.
    pub(crate) claim: String,
    /// Who makes it.
    #[serde(default)]
    pub(crate) source: String,
    /// What is measured.
    #[serde(default)]
    pub(crate) quantity: String,
    /// What the claim says of it.
    #[serde(default)]
    pub(crate) expected: String,
    /// Estimate.
    pub(crate) measured: Option<f64>,
    /// 95 %.
    pub(crate) interval: Option<[Option<f64>; 2]>,
    /// Over what the interval is.
    #[serde(default)]
    pub(crate) over: String,
    /// Judgement.
    pub(crate) verdict: Finding,
}

/// A token heat map.
#[derive(Debug, Deserialize)]
pub(crate) struct HeatMapFile {
    /// `start` or `end`.
    pub(crate) when: String,
    /// Its arm.
    pub(crate) arm: String,
    /// Relative to the experiment's directory.
    pub(crate) file: String,
}

/// Whether `dir` is the output of `unbraid reproduce`: it holds a `results.json` of a known `kind`.
///
/// A `results.json` that cannot be understood counts too where nothing says that the directory is something else, so
/// that its report names the damage.
pub fn is_experiment(dir: &Path) -> bool {
    #[derive(Deserialize)]
    struct Head {
        kind: String,
    }
    let head = read_bytes(dir).ok().and_then(|bytes| {
        let head = serde_json::from_slice::<Head>(&bytes);
        head.ok()
    });
    let known = head.is_some_and(|head| Subject::of(&head.kind).is_some());
    let other = dir.join("metrics.jsonl").is_file() || is_diagnosis(dir);
    known || (dir.join(FILE).is_file() && !other)
}

impl Subject {
    fn of(kind: &str) -> Option<Self> {
        match kind {
            "sentiment" => Some(Self::Sentiment),
            "objectives" => Some(Self::Objectives),
            _ => None,
        }
    }

    /// What an arm without a remedy is one of.
    pub(crate) fn group(self) -> &'static str {
        match self {
            Self::Sentiment => "style",
            Self::Objectives => "objective",
        }
    }
}

impl Results {
    /// Reads the file and adds what follows from the evaluations' own values.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let damaged = |why: String| ReportError::DamagedResults {
            path: path.clone(),
            why,
        };
        let bytes = read_bytes(dir).map_err(|error| match error.kind() {
            ErrorKind::NotFound => ReportError::NotAnExperiment { dir: dir.into() },
            ErrorKind::FileTooLarge => damaged(format!("longer than {MAX_BYTES} bytes")),
            _ => ReportError::io("read", &path)(error),
        })?;
        let mut results: Self =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if Subject::of(&results.kind).is_none() {
            return Err(damaged(format!("its kind `{}` is unknown", results.kind)));
        }
        let runs = results.arms.iter_mut().flat_map(|arm| &mut arm.runs);
        runs.for_each(Run::derive);
        Ok(results)
    }

    /// Which experiment it is.
    pub(crate) fn subject(&self) -> Subject {
        Subject::of(&self.kind).expect("read() refuses other kinds")
    }

    /// Styles or objectives in the order of their first arm, with their arms.
    pub(crate) fn groups(&self) -> Vec<(&str, Vec<&Arm>)> {
        let mut groups: Vec<(&str, Vec<&Arm>)> = Vec::new();
        for arm in &self.arms {
            let name = arm.group(self.subject());
            match groups.iter_mut().find(|(known, _)| *known == name) {
                Some((_, arms)) => arms.push(arm),
                None => groups.push((name, vec![arm])),
            }
        }
        groups
    }

    /// All arms, those of a group together.
    pub(crate) fn grouped_arms(&self) -> Vec<&Arm> {
        let groups = self.groups().into_iter();
        groups.flat_map(|(_, arms)| arms).collect()
    }

    /// The arms without a remedy.
    pub(crate) fn plain_arms(&self) -> Vec<&Arm> {
        self.arms.iter().filter(|arm| arm.is_plain()).collect()
    }
}

impl Arm {
    /// Style or objective.
    pub(crate) fn group(&self, subject: Subject) -> &str {
        let group = match subject {
            Subject::Sentiment => self.style.as_deref(),
            Subject::Objectives => self.objective.as_deref(),
        };
        let bare = || self.name.split('+').next().unwrap_or(&self.name);
        group.unwrap_or_else(bare)
    }

    /// Whether the bare objective was trained.
    pub(crate) fn is_plain(&self) -> bool {
        self.remedy() == "none"
    }

    /// Remedy or mask, `none` without.
    pub(crate) fn remedy(&self) -> &str {
        let named = self.remedy.as_deref().filter(|name| !name.is_empty());
        named.unwrap_or("none")
    }

    /// Whether an evaluation has a value.
    pub(crate) fn has(&self, key: &str) -> bool {
        let mut evaluations = self.runs.iter().flat_map(|run| &run.evaluations);
        evaluations.any(|evaluation| evaluation.metrics.contains_key(key))
    }

    /// Mean over seeds of a value at each step that has it.
    pub(crate) fn means(&self, key: &str) -> BTreeMap<u64, f64> {
        let mut sums: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        for evaluation in self.runs.iter().flat_map(|run| &run.evaluations) {
            if let Some(value) = evaluation.metrics.get(key) {
                let sum = sums.entry(evaluation.step).or_default();
                *sum = (sum.0 + value, sum.1 + 1.0);
            }
        }
        let means = sums.into_iter();
        means
            .map(|(step, (sum, count))| (step, sum / count))
            .collect()
    }
}

impl Run {
    fn derive(&mut self) {
        for side in ["chosen", "rejected"] {
            let key = format!("logps/{side}");
            let values = self.evaluations.iter();
            let start = values.filter_map(|at| at.metrics.get(&key)).next().copied();
            for evaluation in &mut self.evaluations {
                let change = evaluation.metrics.get(&key).zip(start);
                if let Some(change) = change.map(|(value, start)| value - start) {
                    evaluation.metrics.insert(format!("change/{side}"), change);
                }
            }
        }
        for metrics in self.evaluations.iter_mut().map(|at| &mut at.metrics) {
            let inner = metrics.get("geometry/inner");
            let ratio = inner.zip(metrics.get("geometry/grad_sq_chosen"));
            let ratio = ratio.map(|(inner, square)| inner / square);
            if let Some(ratio) = ratio.filter(|ratio| ratio.is_finite()) {
                metrics.insert("geometry/ratio_chosen".into(), ratio);
            }
        }
    }
}

fn read_bytes(dir: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = unbraid_input::open(&dir.join(FILE))?;
    let length = file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if length as u64 > MAX_BYTES {
        return Err(ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

fn finite_values<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<BTreeMap<String, f64>, D::Error> {
    let values = BTreeMap::<String, Option<f64>>::deserialize(from)?;
    let finite = values.into_iter();
    Ok(finite
        .filter_map(|(key, value)| Some((key, value?)))
        .collect())
}
