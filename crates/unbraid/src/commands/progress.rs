//! Progress on stderr: a bar on a terminal, plain lines elsewhere.

use super::Interrupt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};
use std::io::IsTerminal;
use std::path::Path;
use unbraid_train::{Averages, Observer};

/// A bar of `total` units.
pub(crate) fn bar(what: &str, total: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {elapsed} < {eta} {msg}")
            .expect("the template is well-formed");
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    bar.with_style(style).with_prefix(what.to_owned())
}

/// Shows a training run.
pub(crate) struct TrainingProgress {
    bar: ProgressBar,
    interrupt: Interrupt,
    plain: bool,
}

impl TrainingProgress {
    pub(crate) fn new(total: u64, interrupt: &Interrupt) -> Self {
        TrainingProgress {
            bar: bar("training", total),
            interrupt: interrupt.clone(),
            plain: !std::io::stderr().is_terminal(),
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Prints a line above the bar.
    pub(crate) fn say(&self, line: &str) {
        if self.plain {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
    }
}

fn number(row: &Map<String, Value>, key: &str) -> Option<f64> {
    row.get(key).and_then(Value::as_f64)
}

impl Observer for TrainingProgress {
    fn on_step(&mut self, step: u64, metrics: &Averages, tokens_per_second: f64) {
        let mut message = String::new();
        for (label, key) in [("loss", "loss"), ("margin", "rewards/margins")] {
            if let Some(value) = metrics.get(key) {
                message.push_str(&format!("{label} {value:.4} "));
            }
        }
        message.push_str(&format!("{tokens_per_second:.0} tok/s"));
        self.bar.set_message(message);
        self.bar.set_position(step);
    }

    fn on_row(&mut self, row: &Map<String, Value>) {
        let keys = [
            ("step", "step"),
            ("loss", "loss"),
            ("eval loss", "eval_loss"),
            ("chosen", "logps/chosen"),
            ("rejected", "logps/rejected"),
            ("margin", "rewards/margins"),
            ("eval chosen", "eval_logps/chosen"),
            ("eval rejected", "eval_logps/rejected"),
            ("eval accuracy", "eval_rewards/accuracies"),
            ("cosine", "geometry/cosine"),
            ("both fall", "geometry/both_fall"),
        ];
        let parts: Vec<String> = keys
            .iter()
            .filter_map(|&(label, key)| {
                let value = number(row, key)?;
                Some(if key == "step" {
                    format!("step {value}")
                } else {
                    format!("{label} {value:.4}")
                })
            })
            .collect();
        self.say(&parts.join("  "));
    }

    fn on_save(&mut self, path: &Path) {
        self.say(&format!("saved {}", path.display()));
    }

    fn stop(&mut self) -> bool {
        self.interrupt.pressed()
    }
}
