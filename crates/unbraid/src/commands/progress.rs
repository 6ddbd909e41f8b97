//! Progress on stderr: a bar on a terminal, plain lines elsewhere.

use super::Interrupt;
use crate::say;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};
use std::path::Path;
use std::time::{Duration, Instant};
use unbraid_train::{Averages, Observer};

/// A bar of `total` units.
pub(crate) fn bar(what: &str, total: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {elapsed} < {eta} {msg}")
            .expect("the template is well-formed");
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    bar.with_style(style).with_prefix(what.to_owned())
}

/// Shows pairs that are being measured: how many a second, and the time left; on no terminal, a line a minute.
pub(crate) struct PairsProgress {
    bar: ProgressBar,
    plain: bool,
    total: usize,
    /// Pairs that an earlier run had measured.
    before: usize,
    started: Instant,
    said: Instant,
}

impl PairsProgress {
    pub(crate) fn new(what: &str, total: usize, before: usize) -> Self {
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} pairs {msg}")
            .expect("the template is well-formed");
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
        let bar = bar.with_style(style).with_prefix(what.to_owned());
        bar.set_position(before as u64);
        PairsProgress {
            bar,
            plain: !say::is_terminal(),
            total,
            before,
            started: Instant::now(),
            said: Instant::now(),
        }
    }

    /// So many are done, those of an earlier run included.
    pub(crate) fn done(&mut self, done: usize) {
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = (done - self.before) as f64 / seconds.max(1e-9);
        let left = (self.total - done) as f64 / rate.max(1e-9);
        let message = format!("{} pairs/s, {} left", short(rate), duration(left));
        self.bar.set_message(message.clone());
        self.bar.set_position(done as u64);
        if self.plain && self.said.elapsed() >= PLAIN_EVERY {
            say!("{done} of {} pairs, {message}", self.total);
            self.said = Instant::now();
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Between two lines where there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(60);

/// Three digits or so.
fn short(rate: f64) -> String {
    match rate {
        r if r >= 100.0 => format!("{r:.0}"),
        r if r >= 1.0 => format!("{r:.1}"),
        r => format!("{r:.3}"),
    }
}

/// Hours, minutes and seconds, the two largest that count.
fn duration(seconds: f64) -> String {
    let seconds = seconds.min(1e9) as u64;
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest} s"),
        (0, _) => format!("{minutes} min {rest} s"),
        _ => format!("{hours} h {minutes} min"),
    }
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
            plain: !say::is_terminal(),
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Prints a line above the bar.
    pub(crate) fn say(&self, line: &str) {
        if self.plain {
            say!("{line}");
        } else {
            self.bar.println(say::prepared(line));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_are_short() {
        assert_eq!(duration(59.9), "59 s");
        assert_eq!(duration(61.0), "1 min 1 s");
        assert_eq!(duration(3725.0), "1 h 2 min");
        assert_eq!(
            [short(250.0), short(2.51), short(0.0333)],
            ["250", "2.5", "0.033"]
        );
    }
}
