//! One objective under many values of one of its hyper-parameters, from numbers that are there already.
//!
//! Of each value the cases are counted and the predicted changes averaged over the data. `beta`, `gamma`, `lambda` and
//! `delta` stand for the option by which an objective calls them; options' own names are understood too.

use crate::what_if::{alone, outcome};
use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use unbraid_objective::{
    Case, Gram, Objective, ObjectiveError, ObjectiveOptions, PairLogps, describe,
};

/// A parameter and its values, as the user writes them: `beta=0.05,0.1,0.5`, or `beta=0.01:1:9` for nine values from
/// 0.01 to 1 at equal ratios.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepSpec {
    /// `beta`, `gamma`, `lambda`, `delta`, or an option's own name.
    pub parameter: String,
    /// In the order given.
    pub values: Vec<f64>,
}

/// The most values that a range may ask for.
const MAX_VALUES: usize = 1000;

impl FromStr for SweepSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected NAME=V1,V2,… or NAME=FROM:TO:COUNT";
        let (name, values) = text.split_once('=').ok_or(EXPECTED)?;
        let number = |text: &str| match text.trim().parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(format!("{EXPECTED}: {text:?} is no finite number")),
        };
        let values = match values.split(':').collect::<Vec<_>>()[..] {
            [from, to, count] => {
                let count: usize = count
                    .trim()
                    .parse()
                    .map_err(|_| format!("{EXPECTED}: {count:?} is no count"))?;
                between(number(from)?, number(to)?, count)?
            }
            [list] => list.split(',').map(number).collect::<Result<_, _>>()?,
            _ => return Err(EXPECTED.into()),
        };
        Ok(SweepSpec {
            parameter: name.trim().to_lowercase().replace('-', "_"),
            values,
        })
    }
}

/// `count` values at equal ratios, both ends included.
fn between(from: f64, to: f64, count: usize) -> Result<Vec<f64>, String> {
    if !(from > 0.0 && to > 0.0) {
        return Err("FROM and TO of a range must be above 0: its values have equal ratios".into());
    }
    if !(2..=MAX_VALUES).contains(&count) {
        return Err(format!(
            "a range has from 2 to {MAX_VALUES} values, not {count}"
        ));
    }
    let last = count - 1;
    let at = |i: usize| match i {
        0 => from,
        i if i == last => to,
        i => from * (to / from).powf(i as f64 / last as f64),
    };
    Ok((0..count).map(at).collect())
}

impl fmt::Display for SweepSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values: Vec<String> = self.values.iter().map(f64::to_string).collect();
        write!(f, "{}={}", self.parameter, values.join(","))
    }
}

impl Serialize for SweepSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An objective's name, parameters and options, from which every point of a sweep is built.
#[derive(Clone, Debug)]
pub struct Swept {
    /// Names of its terms, as in `loss_type`.
    pub names: Vec<String>,
    /// Their weights; none: 1 each.
    pub weights: Vec<f64>,
    /// What does not vary.
    pub options: ObjectiveOptions,
}

/// Options that can be swept, with the short name that a paper's reader expects.
const PARAMETERS: [(&str, &str); 11] = [
    ("beta", "beta"),
    ("simpo_gamma", "gamma"),
    ("cpo_alpha", "lambda"),
    ("rpo_alpha", "lambda"),
    ("rrhf_lambda", "lambda"),
    ("slic_lambda", "lambda"),
    ("dpop_lambda", "lambda"),
    ("slic_delta", "delta"),
    ("bco_delta", "delta"),
    ("rdpo_alpha", "alpha"),
    ("alphapo_alpha", "alpha"),
];

impl Swept {
    /// The option that a parameter's name stands for, with the objective's own default of it.
    fn option(&self, parameter: &str) -> Option<(&'static str, &'static str)> {
        let mut known = self.known();
        known.find_map(|(option, short, default)| {
            (parameter == option || parameter == short).then_some((option, default))
        })
    }

    /// Options of its terms that can be swept, with their short names and defaults.
    fn known(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        let described = self.names.iter().filter_map(|name| describe(name));
        described.flat_map(|description| {
            let defaults = description.defaults.iter();
            defaults.filter_map(|(option, default, _)| {
                let (known, short) = PARAMETERS.iter().find(|(known, _)| known == option)?;
                Some((*known, *short, *default))
            })
        })
    }

    fn with(&self, option: &str, value: f64) -> Result<Objective, ObjectiveError> {
        let mut options = self.options.clone();
        let place = match option {
            "beta" => &mut options.beta,
            "simpo_gamma" => &mut options.simpo_gamma,
            "cpo_alpha" => &mut options.cpo_alpha,
            "rpo_alpha" => &mut options.rpo_alpha,
            "rrhf_lambda" => &mut options.rrhf_lambda,
            "slic_lambda" => &mut options.slic_lambda,
            "dpop_lambda" => &mut options.dpop_lambda,
            "slic_delta" => &mut options.slic_delta,
            "bco_delta" => &mut options.bco_delta,
            "rdpo_alpha" => &mut options.rdpo_alpha,
            _ => &mut options.alpha,
        };
        *place = Some(value);
        Objective::from_names(&self.names, &self.weights, &options)
    }

    /// A sweep of one parameter.
    ///
    /// # Errors
    /// [`SweepError`]: a parameter that the objective does not have, a value outside its range.
    pub fn sweep(&self, spec: &SweepSpec) -> Result<Sweep, SweepError> {
        let Some((option, _)) = self.option(&spec.parameter) else {
            let mut known: Vec<&str> = Vec::new();
            for (_, short, _) in self.known() {
                if !known.contains(&short) {
                    known.push(short);
                }
            }
            return Err(SweepError::NoParameter {
                objective: self.names.join("+"),
                parameter: spec.parameter.clone(),
                known: known.join(", "),
            });
        };
        let point = |&value: &f64| -> Result<Point, SweepError> {
            Ok(Point {
                value,
                objective: self.with(option, value)?,
                tally: Tally::default(),
            })
        };
        let points = spec
            .values
            .iter()
            .map(point)
            .collect::<Result<Vec<_>, _>>()?;
        let plain = Objective::from_names(&self.names, &self.weights, &self.options)?;
        Ok(Sweep {
            objective: plain.name().into_owned(),
            parameter: spec.parameter.clone(),
            points,
        })
    }

    /// The sweeps of whoever asks for none: β at nine values from a tenth to ten times the objective's own, and likewise
    /// γ, λ and δ at 0 and up to four times (λ: ten times) its own, where it has one that is not 0.
    ///
    /// # Errors
    /// As [`sweep`](Self::sweep).
    pub fn defaults(&self) -> Result<Vec<Sweep>, SweepError> {
        let mut sweeps = Vec::new();
        for parameter in ["beta", "gamma", "lambda", "delta"] {
            let Some((option, default)) = self.option(parameter) else {
                continue;
            };
            let Some(own) = self.given(option).or(default.parse().ok()) else {
                continue;
            };
            let values = match parameter {
                _ if own <= 0.0 => continue,
                "beta" => between(own / 10.0, own * 10.0, 9).unwrap_or_default(),
                "lambda" => [0.0, 0.1, 0.3, 1.0, 3.0, 10.0].map(|f| f * own).to_vec(),
                _ => [0.0, 0.5, 1.0, 2.0, 4.0].map(|f| f * own).to_vec(),
            };
            sweeps.push(self.sweep(&SweepSpec {
                parameter: parameter.to_owned(),
                values,
            })?);
        }
        Ok(sweeps)
    }

    /// The user's value of an option.
    fn given(&self, option: &str) -> Option<f64> {
        let o = &self.options;
        match option {
            "beta" => o.beta,
            "simpo_gamma" => o.simpo_gamma,
            "cpo_alpha" => o.cpo_alpha,
            "rpo_alpha" => o.rpo_alpha,
            "rrhf_lambda" => o.rrhf_lambda,
            "slic_lambda" => o.slic_lambda,
            "dpop_lambda" => o.dpop_lambda,
            "slic_delta" => o.slic_delta,
            "bco_delta" => o.bco_delta,
            _ => None,
        }
    }
}

/// Why there is no such sweep.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SweepError {
    /// The objective does not have the parameter.
    #[error("{objective} has no {parameter} to sweep\nhint: {}", listed(known))]
    NoParameter {
        /// The objective.
        objective: String,
        /// The parameter asked for.
        parameter: String,
        /// Those it has.
        known: String,
    },
    /// A value that the objective refuses.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
}

fn listed(known: &str) -> String {
    match known {
        "" => "it has nothing that could vary".to_owned(),
        known => format!("it has {known}"),
    }
}

/// Counts of cases and sums over pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Pairs by case, in the order of [`Case::ALL`].
    pub cases: [usize; 5],
    pub(crate) delta_chosen: f64,
    pub(crate) delta_rejected: f64,
    pub(crate) d_w: f64,
    pub(crate) d_l: f64,
}

impl Tally {
    /// Takes a pair in.
    pub fn add(&mut self, outcome: &crate::record::Outcome) {
        let at = Case::ALL.iter().position(|case| *case == outcome.case);
        self.cases[at.expect("every case is in the list")] += 1;
        self.delta_chosen += outcome.delta_chosen;
        self.delta_rejected += outcome.delta_rejected;
        self.d_w += outcome.d_w;
        self.d_l += outcome.d_l;
    }

    /// How many pairs were taken in.
    pub fn pairs(&self) -> usize {
        self.cases.iter().sum()
    }
}

/// One objective at several values of one parameter, with what it would do to the pairs seen so far.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// The objective's name.
    pub objective: String,
    /// The parameter, as the user calls it.
    pub parameter: String,
    points: Vec<Point>,
}

#[derive(Clone, Debug)]
struct Point {
    value: f64,
    objective: Objective,
    tally: Tally,
}

impl Sweep {
    /// Takes a pair in. A value at which the objective overflows does not count it.
    pub fn add(&mut self, logps: &PairLogps, gram: Gram) {
        for point in &mut self.points {
            if let Ok(loss) = alone(&point.objective, logps) {
                point.tally.add(&outcome(loss, gram));
            }
        }
    }

    /// Every value with its tally, in the order given.
    pub fn points(&self) -> impl Iterator<Item = (f64, Tally)> {
        self.points.iter().map(|point| (point.value, point.tally))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swept(name: &str) -> Swept {
        Swept {
            names: vec![name.into()],
            weights: Vec::new(),
            options: ObjectiveOptions::default(),
        }
    }

    #[test]
    fn lists_and_ranges_are_read() {
        let read = |text: &str| text.parse::<SweepSpec>();
        assert_eq!(read("beta=0.1, 1e-2").unwrap().values, [0.1, 0.01]);
        let range = read("Simpo-Gamma=0.01:1:3").unwrap();
        assert_eq!(range.parameter, "simpo_gamma");
        assert_eq!((range.values[0], range.values[2]), (0.01, 1.0));
        assert!((range.values[1] - 0.1).abs() < 1e-15);
        assert_eq!(read(&range.to_string()).unwrap(), range);
        for wrong in [
            "beta",
            "beta=",
            "beta=x",
            "beta=0:1:3",
            "beta=1:2",
            "beta=1:2:1",
            "beta=1:2:9999",
            "beta=inf",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lambda_decides_the_case_by_hand() {
        // slic past its margin (hinge at 0): only the likelihood is left. d_l = 0, d_w = λ: chosen and rejected rise.
        // Before it (a_w = a_l, δ = 1): d_l = 1, d_w = 1 + λ: Δa_w = (1 + λ)·4 − 5, Δa_l = (1 + λ)·5 − 9.
        let logps = PairLogps {
            chosen: -3.0,
            rejected: -3.0,
            ref_chosen: f64::NAN,
            ref_rejected: f64::NAN,
            chosen_len: 1,
            rejected_len: 1,
        };
        let gram = Gram {
            ww: 4.0,
            ll: 9.0,
            wl: 5.0,
        };
        let spec = "lambda=0,0.5,1".parse().unwrap();
        let mut sweep = swept("slic_hf").sweep(&spec).unwrap();
        sweep.add(&logps, gram);
        let cases: Vec<[usize; 5]> = sweep.points().map(|(_, tally)| tally.cases).collect();
        // λ = 0: −1, −4; λ = 0.5: 1, −1.5; λ = 1: 3, 1.
        assert_eq!(cases, [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 0, 0]]);
        let (_, last) = sweep.points().last().unwrap();
        assert_eq!((last.delta_chosen, last.delta_rejected), (3.0, 1.0));
        assert_eq!((&*sweep.objective, &*sweep.parameter), ("slic", "lambda"));
    }

    #[test]
    fn every_objective_has_its_defaults_and_no_others() {
        let names = |name: &str| -> Vec<String> {
            let sweeps = swept(name).defaults().unwrap();
            sweeps.into_iter().map(|s| s.parameter).collect()
        };
        assert_eq!(names("sigmoid"), ["beta"]);
        assert_eq!(names("simpo"), ["beta", "gamma"]);
        assert_eq!(names("cpo"), ["beta", "lambda"]);
        assert_eq!(names("slic"), ["lambda", "delta"]);
        assert_eq!(names("sft"), [""; 0]);
        for name in Objective::all_names() {
            swept(name).defaults().unwrap();
        }
        // Around the user's own value.
        let mut mine = swept("simpo");
        mine.options.beta = Some(4.0);
        let sweep = &mine.defaults().unwrap()[0];
        let values: Vec<f64> = sweep.points().map(|(value, _)| value).collect();
        assert_eq!((values.len(), values[0], values[8]), (9, 0.4, 40.0));
        assert!((values[4] - 4.0).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_swept_is_refused() {
        let spec = |text: &str| text.parse::<SweepSpec>().unwrap();
        let error = swept("simpo").sweep(&spec("delta=1")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "simpo has no delta to sweep\nhint: it has beta, gamma"
        );
        let error = swept("sigmoid").sweep(&spec("beta=0.1,-1")).unwrap_err();
        assert!(error.to_string().contains("`beta` is -1"), "{error}");
    }
}
