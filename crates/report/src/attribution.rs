//! Why held-out log-probs moved: `attribution.json` in words and as a figure.
//!
//! The file holds the change of the same completions over the run, and its parts, which add up to it. The headline is
//! an identity: a chosen log-prob's change is half the margin's growth plus the common movement of both completions,
//! Δa_w = ½ΔM + ΔC. What hurts is ΔC, so the reasons given are of ΔC. Sides (whose gradient it was) enter a sentence only
//! where they do not cancel: two large numbers of opposite sign explain nothing.

use crate::figure::{Cell, Figure, Kind, Panel, Role, Series, Table};
use crate::page::four_digits;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The summary is a few kilobytes; the rows of the probes are its longest part.
const MAX_BYTES: u64 = 1 << 24;
/// Version of the file that is read.
const FORMAT: u32 = 1;
/// Sides enter a sentence up to this cancellation.
const MOST_CANCELLATION: f64 = 5.0;
/// Parts smaller than this share of the change are not spoken of.
const SMALL: f64 = 0.1;
/// Changes up to this size (nats) are none.
const STILL: f64 = 0.01;

/// Mean change and its 95 % interval over the probes, where there are several.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Interval {
    /// Mean over the probes, in nats.
    pub(crate) mean: f64,
    low: Option<f64>,
    high: Option<f64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Changes {
    chosen: Interval,
    rejected: Interval,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct Both {
    chosen: f64,
    rejected: f64,
}

impl Both {
    fn common(self) -> f64 {
        0.5 * (self.chosen + self.rejected)
    }

    fn margin(self) -> f64 {
        self.chosen - self.rejected
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Parts {
    realised: f64,
    chosen_side: f64,
    rejected_side: f64,
    likelihood: f64,
    other: f64,
    decay: f64,
    momentum: f64,
    rounding: f64,
    remainder: f64,
    unmeasured: f64,
    cancellation: Option<f64>,
}

/// Parts that are gradients, of this step or of earlier ones.
const GRADIENTS: [&str; 3] = ["chosen side", "rejected side", "momentum"];

impl Parts {
    /// All gradients together.
    fn gradients(&self) -> f64 {
        self.chosen_side + self.rejected_side + self.momentum
    }

    /// Whether they are many times as large as what they add up to.
    fn gradients_cancel(&self) -> bool {
        let parts = [self.chosen_side, self.rejected_side, self.momentum];
        let most = parts.iter().fold(0.0f64, |most, part| most.max(part.abs()));
        most > MOST_CANCELLATION * self.realised.abs().max(self.gradients().abs())
    }

    /// Names as the page and the terminal show them, in their order.
    fn named(&self) -> [(&'static str, f64); 9] {
        [
            ("chosen side", self.chosen_side),
            ("rejected side", self.rejected_side),
            ("likelihood", self.likelihood),
            ("masks", self.other),
            ("momentum", self.momentum),
            ("weight decay", self.decay),
            ("rounding", self.rounding),
            ("beyond first order", self.remainder),
            ("steps not measured", self.unmeasured),
        ]
    }
}

#[derive(Debug, Clone, Deserialize)]
struct Sums {
    chosen: Parts,
    rejected: Parts,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Level {
    before: f64,
    after: f64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Levels {
    chosen: Level,
    rejected: Level,
}

#[derive(Debug, Clone, Deserialize)]
struct Source {
    source: String,
    chosen: usize,
    rejected: usize,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Tokens {
    shared: Both,
    different: Both,
}

/// What `attribution.json` says.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Attribution {
    format: u32,
    steps: u64,
    measured_steps: usize,
    probes: Source,
    change: Changes,
    levels: Levels,
    run: Sums,
    groups: BTreeMap<String, Both>,
    plain: Both,
    tokens: Option<Tokens>,
}

/// Reads the file, if the run has one; a note where it cannot be used.
pub(crate) fn read(dir: &Path) -> (Option<Attribution>, Option<String>) {
    let path = dir.join("attribution.json");
    let size = match std::fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(_) => return (None, None),
    };
    let refused = |why: String| (None, Some(format!("attribution.json is left out: {why}")));
    if size > MAX_BYTES {
        return refused(format!("{size} bytes are more than it ever has"));
    }
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) => return refused(error.to_string()),
    };
    match serde_json::from_slice::<Attribution>(&text) {
        Ok(found) if found.format == FORMAT => (Some(found), None),
        Ok(found) => refused(format!("format {} is not {FORMAT}", found.format)),
        Err(error) => refused(error.to_string()),
    }
}

fn signed(x: f64) -> String {
    let sign = if x > 0.0 { "+" } else { "" };
    format!("{sign}{}", four_digits(x))
}

fn moved(x: f64) -> String {
    match x {
        x if x > STILL => format!("rose by {} nats", four_digits(x)),
        x if x < -STILL => format!("fell by {} nats", four_digits(-x)),
        _ => "did not move".to_string(),
    }
}

impl Interval {
    fn text(self) -> String {
        match (self.low, self.high) {
            (Some(low), Some(high)) => format!(" [{}, {}]", signed(low), signed(high)),
            _ => String::new(),
        }
    }
}

impl Attribution {
    /// Which completions were watched, for a reader.
    pub(crate) fn watched(&self) -> String {
        let count = self.probes.chosen.max(self.probes.rejected);
        let what = match self.probes.source.as_str() {
            "held_out" => "held-out pairs",
            "never_visited" => "training pairs that the run never visits",
            _ => "training pairs, the last that the run visits",
        };
        format!("{count} {what}")
    }

    /// Chosen and rejected on the same completions before and after: label, before, after, change with interval.
    pub(crate) fn rows(&self) -> [(&'static str, f64, f64, String); 2] {
        let row = |label, level: Level, change: Interval| {
            let text = format!("{}{}", signed(change.mean), change.text());
            (label, level.before, level.after, text)
        };
        [
            row("chosen log-prob", self.levels.chosen, self.change.chosen),
            row(
                "rejected log-prob",
                self.levels.rejected,
                self.change.rejected,
            ),
        ]
    }

    /// (before, after) of the mean chosen and the mean rejected log-prob, in nats.
    pub(crate) fn ends(&self) -> [(f64, f64); 2] {
        let Levels { chosen, rejected } = self.levels;
        [chosen, rejected].map(|level| (level.before, level.after))
    }

    /// What happened and why, sentence by sentence, from what was measured only.
    pub(crate) fn sentences(&self) -> Vec<String> {
        let (chosen, rejected) = (self.change.chosen.mean, self.change.rejected.mean);
        let (margin, common) = (chosen - rejected, 0.5 * (chosen + rejected));
        let mut out = vec![format!(
            "On {}, chosen {} and rejected {}: the margin's growth gives chosen {}, the common movement of both {}.",
            self.watched(),
            moved(chosen),
            moved(rejected),
            signed(0.5 * margin),
            signed(common),
        )];
        if common.abs() <= STILL {
            return out;
        }
        if let Some(tokens) = &self.tokens {
            out.push(format!(
                "Of the common movement, {} is on tokens that both completions share, {} on tokens that differ.",
                signed(tokens.shared.common()),
                signed(tokens.different.common()),
            ));
        }
        out.extend(self.by_group(common));
        out.extend(self.by_optimizer(margin, common));
        out.extend(self.by_side());
        out.extend(self.rest(common));
        out
    }

    /// The kinds of parameters that carry the common movement.
    fn by_group(&self, common: f64) -> Option<String> {
        let mut kinds: BTreeMap<&str, f64> = BTreeMap::new();
        for (group, both) in &self.groups {
            let kind = group.rsplit('.').next().unwrap_or(group);
            *kinds.entry(kind).or_default() += both.common();
        }
        let mut kinds: Vec<(&str, f64)> = kinds.into_iter().collect();
        kinds.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        kinds.retain(|(_, value)| value.abs() > SMALL * common.abs());
        let shown = kinds.iter().take(3);
        let shown: Vec<String> = shown
            .map(|(kind, value)| format!("{kind} {}", signed(*value)))
            .collect();
        (!shown.is_empty()).then(|| format!("By parameters: {}.", shown.join(", ")))
    }

    /// What plain gradient descent would have done to both at the same growth of the margin.
    fn by_optimizer(&self, margin: f64, common: f64) -> Option<String> {
        let scale = margin / self.plain.margin();
        if !(scale > 0.0 && scale.is_finite()) || margin.abs() <= STILL {
            return None;
        }
        let plain = scale * self.plain.common();
        Some(format!(
            "Plain gradient descent would have moved both by {} at this margin, to first order: the optimizer's metric and \
             momentum account for {}.",
            signed(plain),
            signed(common - plain),
        ))
    }

    /// Whose gradients moved chosen, where they do not cancel.
    fn by_side(&self) -> Option<String> {
        let parts = &self.run.chosen;
        let cancellation = parts.cancellation?;
        (cancellation <= MOST_CANCELLATION).then(|| {
            format!(
                "Chosen was moved {} by gradients of chosen completions and {} by those of rejected ones.",
                signed(parts.chosen_side),
                signed(parts.rejected_side),
            )
        })
    }

    /// Parts of the chosen change that are no side's, where they count; one many times as large as the change cancels
    /// with another and explains nothing.
    fn rest(&self, common: f64) -> Option<String> {
        let parts = &self.run.chosen;
        let scale = parts.realised.abs().max(common.abs());
        let named = parts.named().into_iter().skip(2);
        let counts = SMALL * scale..=MOST_CANCELLATION * scale;
        let large = named.filter(|(_, value)| counts.contains(&value.abs()));
        let large: Vec<String> = large
            .map(|(name, value)| format!("{name} {}", signed(value)))
            .collect();
        let steps = format!(
            "{} of {} steps were measured",
            self.measured_steps, self.steps
        );
        Some(match large.is_empty() {
            true => format!("{}.", capital(&steps)),
            false => format!(
                "Further parts of chosen's change: {} ({steps}).",
                large.join(", ")
            ),
        })
    }

    /// The parts of both changes as bars that add up to what happened.
    pub(crate) fn figure(&self, command: Option<&String>) -> Figure {
        let panel = |title: &str, role: Role, column: &str| Panel {
            kind: Kind::Columns,
            x_label: String::new(),
            guide: true,
            series: vec![Series::new(column, role, ("kind", "part"), "part", column)],
            ..Panel::over_steps(title, "change of the mean log-prob, nats")
        };
        let mut table = Table::with_header(&["kind", "part", "chosen", "rejected"]);
        let (chosen, rejected) = (self.run.chosen, self.run.rejected);
        let mut row = |kind: &str, name: &str, w: f64, l: f64| {
            let text = |text: &str| Cell::Text(text.to_string());
            table.push(&[text(kind), text(name), Cell::Number(w), Cell::Number(l)]);
        };
        row("part", "realised", chosen.realised, rejected.realised);
        let cancels = chosen.gradients_cancel() || rejected.gradients_cancel();
        if cancels {
            row(
                "part",
                "all gradients",
                chosen.gradients(),
                rejected.gradients(),
            );
        }
        for ((name, w), (_, l)) in chosen.named().into_iter().zip(rejected.named()) {
            let drawn = !(cancels && GRADIENTS.contains(&name));
            row(if drawn { "part" } else { "cancelling" }, name, w, l);
        }
        Figure {
            id: "attribution".into(),
            title: "Why held-out log-probs moved".into(),
            caption: format!(
                "The realised change of the mean log-prob of {} and its parts, which add up to it: by gradients of chosen and \
                 of rejected completions, likelihood terms, masks, momentum carried from earlier steps, weight decay, \
                 rounding, what is beyond first order, and the steps between measured ones. Where sides and momentum are many \
                 times as large as the change they cancel; then only their sum is drawn, and the table has them apart.",
                self.watched()
            ),
            command: command.cloned(),
            panels: vec![
                panel("Chosen", Role::Chosen, "chosen"),
                panel("Rejected", Role::Rejected, "rejected"),
            ],
            csv: table.into_csv(),
        }
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]

    use super::*;
    use serde_json::{Value, json};

    /// A run in which chosen fell by 1 and rejected by 3: ½ΔM = +1, ΔC = −2.
    fn record(cancellation: f64, momentum: f64) -> Value {
        let parts = |realised: f64| {
            json!({
                "realised": realised, "chosen_side": 0.5, "rejected_side": -1.5 - momentum, "likelihood": 0.0,
                "other": 0.0, "decay": 0.0, "momentum": momentum, "rounding": 0.0, "remainder": 0.0, "unmeasured": 0.0,
                "cancellation": cancellation,
            })
        };
        json!({
            "format": 1, "steps": 20, "measured_steps": 5,
            "probes": { "source": "held_out", "chosen": 8, "rejected": 8 },
            "change": {
                "chosen": { "mean": -1.0, "low": -1.5, "high": -0.5 },
                "rejected": { "mean": -3.0, "low": -4.0, "high": -2.0 },
            },
            "levels": {
                "chosen": { "before": -10.0, "after": -11.0 }, "rejected": { "before": -12.0, "after": -15.0 },
            },
            "run": { "chosen": parts(-1.0), "rejected": parts(-3.0) },
            "groups": {
                "layers.0.mlp": { "chosen": -0.9, "rejected": -2.7 }, "norms": { "chosen": 0.0, "rejected": -0.1 },
            },
            "plain": { "chosen": 0.0, "rejected": -0.1 },
            "tokens": {
                "shared": { "chosen": -0.5, "rejected": -0.5 }, "different": { "chosen": -0.5, "rejected": -2.5 },
            },
        })
    }

    fn said(record: Value) -> String {
        let attribution: Attribution = serde_json::from_value(record).unwrap();
        attribution.sentences().join("\n")
    }

    #[test]
    fn the_headline_is_half_the_margin_and_the_common_movement() {
        let said = said(record(3.0, 0.0));
        assert!(
            said.contains("fell by 1.000 nats and rejected fell by 3.000 nats")
                && said.contains(
                    "the margin's growth gives chosen +1.000, the common movement of both -2.000"
                ),
            "{said}"
        );
        assert!(said.contains(
            "-0.5000 is on tokens that both completions share, -1.500 on tokens that differ"
        ));
        assert!(
            said.contains("By parameters: mlp -1.800."),
            "norms are too small: {said}"
        );
        // Plain: ΔM 0.1 and ΔC −0.05; at ΔM 2 it is −1.
        assert!(
            said.contains("moved both by -1.000 at this margin"),
            "{said}"
        );
        assert!(said.contains("5 of 20 steps were measured"), "{said}");
    }

    #[test]
    fn sides_and_parts_that_cancel_are_not_spoken_of() {
        assert!(said(record(3.0, 0.0)).contains("by gradients of chosen completions"));
        assert!(!said(record(5.1, 0.0)).contains("by gradients of chosen completions"));
        assert!(said(record(3.0, -0.5)).contains("momentum -0.5000"));
        for momentum in [-0.01, -100.0] {
            assert!(
                !said(record(3.0, momentum)).contains("momentum -"),
                "{momentum}"
            );
        }
    }

    #[test]
    fn nothing_is_explained_where_nothing_moved_together() {
        let mut still = record(3.0, 0.0);
        still["change"]["chosen"]["mean"] = json!(1.0);
        still["change"]["rejected"]["mean"] = json!(-1.0);
        assert_eq!(said(still).lines().count(), 1);
    }

    #[test]
    fn another_format_is_left_out_by_number() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).0.is_none() && read(dir.path()).1.is_none());
        let mut other = record(3.0, 0.0);
        other["format"] = json!(2);
        std::fs::write(dir.path().join("attribution.json"), other.to_string()).unwrap();
        let (found, note) = read(dir.path());
        assert!(found.is_none() && note.unwrap().contains("format 2"));
        std::fs::write(dir.path().join("attribution.json"), "{").unwrap();
        assert!(read(dir.path()).1.is_some());
    }
}
