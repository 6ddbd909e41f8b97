//! `attribution.json`: the run's sums over `attribution.jsonl`.
//!
//! The first and the last step are always measured, so the probes' change over the run is known exactly. Steps between
//! two measured ones are not: each measured step stands for half the way to its neighbours (the trapezoid rule in time),
//! and what the estimate misses is a part of its own, `unmeasured`. With every step measured it is zero.

use super::choose::AttributionPlan;
use super::record::{Parts, margin_and_common, mean};
use crate::error::TrainError;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use unbraid_model::weights::write_file_atomic;

/// Version of both files' layout.
const FORMAT: u32 = 1;

#[derive(Deserialize)]
struct Levels {
    chosen: Vec<f64>,
    rejected: Vec<f64>,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct Both {
    chosen: f64,
    rejected: f64,
}

#[derive(Deserialize)]
struct Tokens {
    shared: Both,
    different: Both,
}

#[derive(Deserialize)]
struct Row {
    step: u64,
    chosen: Parts,
    rejected: Parts,
    groups: BTreeMap<String, Both>,
    plain: Both,
    tokens: Option<Tokens>,
    before: Levels,
    after: Levels,
}

fn read(path: &Path) -> Result<Vec<Row>, TrainError> {
    let failed = |e: std::io::Error| TrainError::io("read", path, e);
    let file = match std::fs::File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.map_err(failed)?,
    };
    let mut rows = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line.map_err(failed)?;
        let row = serde_json::from_str(&line);
        rows.push(row.map_err(|e| failed(std::io::Error::other(e)))?);
    }
    Ok(rows)
}

/// How many steps each measured one stands for: half the way to its neighbours, the first and the last none beyond.
fn weights(rows: &[Row]) -> Vec<f64> {
    let step = |i: usize| rows[i].step as f64;
    (0..rows.len())
        .map(|i| {
            let before = if i == 0 {
                0.5
            } else {
                0.5 * (step(i) - step(i - 1))
            };
            let last = i + 1 == rows.len();
            before
                + if last {
                    0.5
                } else {
                    0.5 * (step(i + 1) - step(i))
                }
        })
        .collect()
}

/// Mean and 95 % interval over probes of a change (normal; a single probe has none).
fn interval(change: &[f64]) -> Value {
    let n = change.len() as f64;
    let mean = mean(change);
    if change.len() < 2 {
        return json!({ "mean": mean });
    }
    let variance = change.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = 1.96 * (variance / n).sqrt();
    json!({ "mean": mean, "low": mean - half, "high": mean + half })
}

fn change(before: &[f64], after: &[f64]) -> Vec<f64> {
    before.iter().zip(after).map(|(b, a)| a - b).collect()
}

/// A weighted sum of both sides' parts over rows.
fn total(rows: &[Row], weights: &[f64]) -> [Parts; 2] {
    let mut sums = [Parts::default(); 2];
    for (row, &weight) in rows.iter().zip(weights) {
        sums[0].add(weight, &row.chosen);
        sums[1].add(weight, &row.rejected);
    }
    sums
}

fn described(sums: &[Parts; 2], unmeasured: Option<[f64; 2]>) -> Value {
    let mut object = Map::new();
    for (side, name) in ["chosen", "rejected"].iter().enumerate() {
        let mut parts = json!(sums[side]);
        if let Some(unmeasured) = unmeasured {
            parts["unmeasured"] = json!(unmeasured[side]);
        }
        parts["cancellation"] = json!(sums[side].cancellation());
        object.insert((*name).to_owned(), parts);
    }
    let (margin, common) = margin_and_common(sums[0].realised, sums[1].realised);
    object.insert("margin".into(), json!(margin));
    object.insert("common".into(), json!(common));
    let cancellation = sums.iter().map(Parts::cancellation).fold(1.0, f64::max);
    object.insert("cancellation".into(), json!(cancellation));
    Value::Object(object)
}

/// Sums a run's `attribution.jsonl` into `attribution.json`; nothing is written where no step was measured.
///
/// # Errors
/// Rows that cannot be read, or what the file system refuses.
pub fn write_sums(dir: &Path, plan: &AttributionPlan, steps: u64) -> Result<(), TrainError> {
    let rows = read(&dir.join("attribution.jsonl"))?;
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return Ok(());
    };
    let weights = weights(&rows);
    let measured = total(&rows, &vec![1.0; rows.len()]);
    let mut run = total(&rows, &weights);
    let changes = [
        change(&first.before.chosen, &last.after.chosen),
        change(&first.before.rejected, &last.after.rejected),
    ];
    let mut unmeasured = [0.0; 2];
    for (side, parts) in run.iter_mut().enumerate() {
        let estimated = parts.first_order() + parts.remainder;
        parts.realised = mean(&changes[side]);
        unmeasured[side] = parts.realised - estimated;
    }
    let (mut groups, mut plain) = (BTreeMap::<&str, Both>::new(), Both::default());
    let mut tokens: Option<[Both; 2]> = None;
    for (row, weight) in rows.iter().zip(&weights) {
        let add = |sum: &mut Both, x: &Both| {
            sum.chosen += weight * x.chosen;
            sum.rejected += weight * x.rejected;
        };
        for (group, both) in &row.groups {
            add(groups.entry(group).or_default(), both);
        }
        add(&mut plain, &row.plain);
        if let Some(of_row) = &row.tokens {
            let sums = tokens.get_or_insert_with(Default::default);
            add(&mut sums[0], &of_row.shared);
            add(&mut sums[1], &of_row.different);
        }
    }
    let both = |b: &Both| json!({ "chosen": b.chosen, "rejected": b.rejected });
    let groups = groups.iter().map(|(name, b)| ((*name).to_owned(), both(b)));
    let margins: Vec<f64> = changes[0]
        .iter()
        .zip(&changes[1])
        .map(|(w, l)| w - l)
        .collect();
    let commons = changes[0].iter().zip(&changes[1]);
    let commons: Vec<f64> = commons.map(|(w, l)| 0.5 * (w + l)).collect();
    let paired = plan.probes.shared.is_some();
    let mut summary = json!({
        "format": FORMAT,
        "mode": "light",
        "every": plan.every,
        "steps": steps,
        "measured_steps": rows.len(),
        "probes": {
            "source": plan.probes.source,
            "chosen": plan.probes.chosen.len(),
            "rejected": plan.probes.rejected.len(),
            "rows": plan.probes.rows,
        },
        "change": {
            "chosen": interval(&changes[0]),
            "rejected": interval(&changes[1]),
            "margin": if paired { interval(&margins) } else { Value::Null },
            "common": if paired { interval(&commons) } else { Value::Null },
        },
        "levels": {
            "chosen": { "before": mean(&first.before.chosen), "after": mean(&last.after.chosen) },
            "rejected": { "before": mean(&first.before.rejected), "after": mean(&last.after.rejected) },
        },
        "run": described(&run, Some(unmeasured)),
        "measured": described(&measured, None),
        "groups": Value::Object(groups.collect()),
        "plain": both(&plain),
    });
    if let Some([shared, different]) = &tokens {
        summary["tokens"] = json!({ "shared": both(shared), "different": both(different) });
    }
    let path = dir.join("attribution.json");
    Ok(write_file_atomic(
        &path,
        format!("{summary:#}\n").as_bytes(),
    )?)
}
