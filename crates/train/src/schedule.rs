//! Learning-rate schedules by transformers' names: a factor on the peak rate for each optimizer step.
//!
//! Steps count from 0, so the first step of a warm-up has factor 0 (as in transformers). Formulas and arguments
//! (`lr_scheduler_kwargs`) follow transformers' `optimization.py`. One default is ours: transformers demands
//! `num_decay_steps` for `warmup_stable_decay`; without it the last tenth of the run decays, as in the schedule's
//! source (Hu et al. 2024, arXiv 2404.06395). Left out: `reduce_lr_on_plateau` and `greedy`, which look at metrics.
//! Tested in `tests/schedules.rs` against values that transformers prints.

use serde::Serialize;
use std::f64::consts::PI;

/// How a rate goes from one level to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Ramp {
    /// Linearly.
    Linear,
    /// Along half a cosine (a decay: as many half cosines as its cycles say).
    Cosine,
    /// As 1 − √.
    OneMinusSqrt,
}

/// The shape of a schedule; each starts with a linear warm-up unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum ScheduleKind {
    /// Falls linearly to 0 at the last step.
    Linear,
    /// Falls along half a cosine to a share of the peak.
    Cosine {
        /// Waves of the cosine; ½ falls once.
        cycles: f64,
        /// The lowest rate, as a share of the peak.
        floor: f64,
    },
    /// Falls along half a cosine to 0, several times over.
    CosineWithRestarts {
        /// How many times.
        cycles: f64,
    },
    /// As [`ScheduleKind::Cosine`], one step ahead, and the warm-up does not start at 0.
    CosineWarmupWithMinLr {
        /// Waves of the cosine; ½ falls once.
        cycles: f64,
        /// The lowest rate after the warm-up, as a share of the peak.
        floor: f64,
        /// The first rate, as a share of the peak; without it 1 / warm-up steps.
        start: Option<f64>,
    },
    /// Always 1, warm-up ignored.
    Constant,
    /// 1 after the warm-up.
    ConstantWithWarmup,
    /// Falls polynomially to a rate at the last step.
    Polynomial {
        /// That rate.
        end: f64,
        /// Degree of the polynomial.
        power: f64,
    },
    /// Falls with the inverse square root of the step.
    InverseSqrt {
        /// Steps after which the rate has fallen to 1/√2; without it the warm-up, or 10,000.
        timescale: Option<f64>,
    },
    /// 1 after the warm-up, then a decay at the end of the run.
    WarmupStableDecay {
        /// Steps of the decay; without it a tenth of the run.
        decay_steps: Option<u64>,
        /// Steps at the peak; without it what warm-up and decay leave of the run.
        stable_steps: Option<u64>,
        /// Shape of the warm-up.
        warmup: Ramp,
        /// Shape of the decay.
        decay: Ramp,
        /// The lowest rate, as a share of the peak.
        floor: f64,
        /// Waves of a cosine decay; ½ falls once.
        cycles: f64,
    },
}

/// Schedules with the arguments that `lr_scheduler_kwargs` may hold.
const ARGUMENTS: &[(&str, &[&str])] = &[
    ("linear", &[]),
    ("cosine", &["num_cycles"]),
    ("cosine_with_restarts", &["num_cycles"]),
    (
        "cosine_with_min_lr",
        &["num_cycles", "min_lr", "min_lr_rate"],
    ),
    (
        "cosine_warmup_with_min_lr",
        &["num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"],
    ),
    ("constant", &[]),
    ("constant_with_warmup", &[]),
    ("polynomial", &["lr_end", "power"]),
    ("inverse_sqrt", &["timescale"]),
    (
        "warmup_stable_decay",
        &[
            "num_decay_steps",
            "num_stable_steps",
            "warmup_type",
            "decay_type",
            "min_lr_ratio",
            "num_cycles",
        ],
    ),
];

/// Arguments of one schedule, as text.
struct Arguments<'a> {
    name: &'a str,
    given: &'a [(String, String)],
}

impl Arguments<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        let found = self.given.iter().find(|(k, _)| k == key);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !matches!(*value, "null" | "None"))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, String> {
        let Some(text) = self.text(key) else {
            return Ok(None);
        };
        match text.parse::<f64>() {
            Ok(x) if x.is_finite() && x >= 0.0 => Ok(Some(x)),
            _ => Err(self.wrong(key, text, "a number of at least 0")),
        }
    }

    fn steps(&self, key: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.text(key) else {
            return Ok(None);
        };
        let steps = text.parse().map(Some);
        steps.map_err(|_| self.wrong(key, text, "a whole number of steps"))
    }

    fn ramp(&self, key: &str, default: Ramp) -> Result<Ramp, String> {
        match self.text(key) {
            None => Ok(default),
            Some("linear") => Ok(Ramp::Linear),
            Some("cosine") => Ok(Ramp::Cosine),
            Some("1-sqrt") => Ok(Ramp::OneMinusSqrt),
            Some(text) => Err(self.wrong(key, text, "linear, cosine or 1-sqrt")),
        }
    }

    fn wrong(&self, key: &str, found: &str, expected: &str) -> String {
        format!("{key} of {} is {found:?}, expected {expected}", self.name)
    }

    /// The lowest rate as a share of the peak, given as a rate or as a share.
    fn floor(&self, peak: f64) -> Result<f64, String> {
        match (self.number("min_lr")?, self.number("min_lr_rate")?) {
            (Some(_), Some(_)) => Err("min_lr and min_lr_rate are both given: give one".into()),
            (Some(rate), None) if peak > 0.0 => Ok(rate / peak),
            (Some(_), None) => Ok(0.0),
            (None, Some(share)) => Ok(share),
            (None, None) => Err(format!("{} needs min_lr or min_lr_rate", self.name)),
        }
    }
}

impl ScheduleKind {
    /// A schedule by transformers' name with its arguments (key and value as text); `peak` is the learning rate.
    ///
    /// # Errors
    /// An unknown name, an argument that the schedule does not take or lacks, a value of the wrong kind.
    pub fn from_name(name: &str, given: &[(String, String)], peak: f64) -> Result<Self, String> {
        let names = || ARGUMENTS.iter().map(|(n, _)| *n).collect::<Vec<_>>();
        let Some((name, known)) = ARGUMENTS.iter().find(|(n, _)| *n == name) else {
            return Err(format!(
                "unknown schedule {name}: expected one of {}",
                names().join(", ")
            ));
        };
        if let Some((key, _)) = given.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            let takes = match known {
                [] => "nothing".to_owned(),
                known => known.join(", "),
            };
            return Err(format!("{name} does not take {key}: it takes {takes}"));
        }
        let arguments = Arguments { name, given };
        let cycles =
            |default: f64| Ok::<f64, String>(arguments.number("num_cycles")?.unwrap_or(default));
        Ok(match *name {
            "linear" => ScheduleKind::Linear,
            "cosine" => ScheduleKind::Cosine {
                cycles: cycles(0.5)?,
                floor: 0.0,
            },
            "cosine_with_restarts" => ScheduleKind::CosineWithRestarts {
                cycles: cycles(1.0)?,
            },
            "cosine_with_min_lr" => ScheduleKind::Cosine {
                cycles: cycles(0.5)?,
                floor: arguments.floor(peak)?,
            },
            "cosine_warmup_with_min_lr" => ScheduleKind::CosineWarmupWithMinLr {
                cycles: cycles(0.5)?,
                floor: arguments.floor(peak)?,
                start: arguments.number("warmup_lr_rate")?,
            },
            "constant" => ScheduleKind::Constant,
            "constant_with_warmup" => ScheduleKind::ConstantWithWarmup,
            "polynomial" => ScheduleKind::Polynomial {
                end: arguments.number("lr_end")?.unwrap_or(1e-7),
                power: arguments.number("power")?.unwrap_or(1.0),
            },
            "inverse_sqrt" => ScheduleKind::InverseSqrt {
                timescale: arguments.number("timescale")?,
            },
            _ => ScheduleKind::WarmupStableDecay {
                decay_steps: arguments.steps("num_decay_steps")?,
                stable_steps: arguments.steps("num_stable_steps")?,
                warmup: arguments.ramp("warmup_type", Ramp::Linear)?,
                decay: arguments.ramp("decay_type", Ramp::Cosine)?,
                floor: arguments.number("min_lr_ratio")?.unwrap_or(0.0),
                cycles: cycles(0.5)?,
            },
        })
    }

    /// Whether a step's rate is the same however long the run is.
    pub(crate) fn ignores_total(self) -> bool {
        matches!(
            self,
            ScheduleKind::Constant
                | ScheduleKind::ConstantWithWarmup
                | ScheduleKind::InverseSqrt { .. }
        )
    }
}

/// A schedule of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Its shape.
    pub kind: ScheduleKind,
    /// Peak learning rate.
    pub peak: f64,
    /// Warm-up steps.
    pub warmup: u64,
    /// Optimizer steps of the whole run.
    pub total: u64,
}

/// A cosine from 1 to `floor` after `cycles` waves.
fn cosine(progress: f64, cycles: f64, floor: f64) -> f64 {
    let factor = 0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos());
    (factor * (1.0 - floor) + floor).max(0.0)
}

impl Schedule {
    /// Learning rate of 0-based step `step`.
    pub fn rate(&self, step: u64) -> f64 {
        self.peak * self.factor(step as f64)
    }

    fn factor(&self, step: f64) -> f64 {
        let (warmup, total) = (self.warmup as f64, self.total as f64);
        let rest = (total - warmup).max(1.0);
        let progress = (step - warmup) / rest;
        let warming = step < warmup;
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::WarmupStableDecay { .. } => self.warmup_stable_decay(step),
            ScheduleKind::CosineWarmupWithMinLr { start, .. } if warming => match start {
                None => (step + 1.0) / warmup,
                Some(start) => start + (1.0 - start) * step / (warmup - 1.0).max(1.0),
            },
            _ if warming => step / warmup,
            ScheduleKind::ConstantWithWarmup => 1.0,
            ScheduleKind::Linear => ((total - step) / rest).max(0.0),
            ScheduleKind::Cosine { cycles, floor } => cosine(progress, cycles, floor),
            ScheduleKind::CosineWithRestarts { .. } if progress >= 1.0 => 0.0,
            ScheduleKind::CosineWithRestarts { cycles } => {
                (0.5 * (1.0 + (PI * ((cycles * progress) % 1.0)).cos())).max(0.0)
            }
            ScheduleKind::CosineWarmupWithMinLr { cycles, floor, .. } => {
                cosine(progress + 1.0 / rest, cycles, floor)
            }
            ScheduleKind::Polynomial { end, power } => {
                // A peak below the end stays where it is.
                let end = (end / self.peak).min(1.0);
                if step > total {
                    end
                } else {
                    (1.0 - end) * (1.0 - progress).powf(power) + end
                }
            }
            ScheduleKind::InverseSqrt { timescale } => {
                let default = if self.warmup > 0 { warmup } else { 10_000.0 };
                let scale = timescale.unwrap_or(default);
                (scale / (step - warmup + scale)).sqrt()
            }
        }
    }

    fn warmup_stable_decay(&self, step: f64) -> f64 {
        let ScheduleKind::WarmupStableDecay {
            decay_steps,
            stable_steps,
            warmup: warmup_ramp,
            decay: decay_ramp,
            floor,
            cycles,
        } = self.kind
        else {
            unreachable!("called for this shape alone")
        };
        let tenth = self.total.div_ceil(10);
        let decay = decay_steps.unwrap_or(tenth.min(self.total.saturating_sub(self.warmup)));
        let left = self.total.saturating_sub(self.warmup + decay);
        let stable = stable_steps.unwrap_or(left) as f64;
        let (warmup, decay) = (self.warmup as f64, decay as f64);
        let factor = if step < warmup {
            let progress = step / warmup;
            match warmup_ramp {
                Ramp::Linear => progress,
                Ramp::Cosine => 0.5 * (1.0 - (PI * progress).cos()),
                Ramp::OneMinusSqrt => 1.0 - (1.0 - progress).sqrt(),
            }
        } else if step < warmup + stable {
            return 1.0;
        } else if step < warmup + stable + decay {
            let progress = (step - warmup - stable) / decay;
            match decay_ramp {
                Ramp::Linear => 1.0 - progress,
                Ramp::Cosine => 0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos()),
                Ramp::OneMinusSqrt => 1.0 - progress.sqrt(),
            }
        } else {
            return floor;
        };
        (factor * (1.0 - floor) + floor).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        owned.collect()
    }

    /// By hand from the formulas: warm-up 0, ½, then 1 at step 2, half-way at step 6, the end at step 10.
    #[test]
    fn each_shape_at_its_start_middle_and_end() {
        let root = |x: f64| (2.0 / (x + 2.0)).sqrt();
        for (name, want) in [
            ("linear", [0.0, 0.5, 1.0, 0.5, 0.0]),
            ("cosine", [0.0, 0.5, 1.0, 0.5, 0.0]),
            ("constant", [1.0; 5]),
            ("constant_with_warmup", [0.0, 0.5, 1.0, 1.0, 1.0]),
            ("polynomial", [0.0, 0.5, 1.0, 0.500_000_05, 1e-7]),
            ("inverse_sqrt", [0.0, 0.5, 1.0, root(4.0), root(8.0)]),
            ("warmup_stable_decay", [0.0, 0.5, 1.0, 1.0, 0.0]),
        ] {
            let schedule = Schedule {
                kind: ScheduleKind::from_name(name, &[], 1.0).unwrap(),
                peak: 1.0,
                warmup: 2,
                total: 10,
            };
            for (step, want) in [0, 1, 2, 6, 10].into_iter().zip(want) {
                let got = schedule.rate(step);
                assert!(
                    (got - want).abs() < 1e-12,
                    "{name} at {step}: {got} against {want}"
                );
            }
        }
    }

    #[test]
    fn wrong_arguments_are_named() {
        let refused = |name: &str, pairs: &[(&str, &str)]| {
            ScheduleKind::from_name(name, &given(pairs), 1e-3).unwrap_err()
        };
        assert!(refused("cosin", &[]).contains("expected one of linear, cosine"));
        assert_eq!(
            refused("linear", &[("num_cycles", "2")]),
            "linear does not take num_cycles: it takes nothing"
        );
        assert!(refused("polynomial", &[("power", "x")]).contains("power of polynomial is \"x\""));
        assert!(refused("cosine_with_min_lr", &[]).contains("needs min_lr or min_lr_rate"));
        let both = [("min_lr", "1e-5"), ("min_lr_rate", "0.1")];
        assert!(refused("cosine_with_min_lr", &both).contains("give one"));
        assert!(refused("warmup_stable_decay", &[("decay_type", "log")]).contains("1-sqrt"));
    }
}
