//! Metrics: means between two logged steps, and the JSON-lines file they go to.

use crate::error::TrainError;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use unbraid_model::weights::write_file_atomic;

/// The metric that a step or an evaluation minimises or compares.
const LOSS: &str = "loss";

/// Running means by key. Keys keep the order of their first appearance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Averages {
    order: Vec<String>,
    sums: BTreeMap<String, (f64, f64)>,
}

impl Averages {
    /// Adds one observation of weight 1.
    pub fn add(&mut self, key: &str, value: f64) {
        self.add_weighted(key, value, 1.0);
    }

    /// Adds one observation.
    pub fn add_weighted(&mut self, key: &str, value: f64, weight: f64) {
        if !self.sums.contains_key(key) {
            self.order.push(key.to_owned());
        }
        let entry = self.sums.entry(key.to_owned()).or_insert((0.0, 0.0));
        entry.0 += value * weight;
        entry.1 += weight;
    }

    /// One optimizer step from its micro-batches, weighed as transformers' Trainer and TRL's trainers do: the loss that was
    /// stepped on, the mean of the micro-batches', counts once a step; any other mean counts once a micro-batch, however many
    /// examples that has.
    pub fn of_step(micro_batches: &[Averages]) -> Self {
        let mut step = Averages::default();
        let losses = micro_batches.iter().filter_map(|m| m.get(LOSS));
        step.add(LOSS, losses.sum::<f64>() / micro_batches.len() as f64);
        for micro_batch in micro_batches {
            step.add_others(micro_batch);
        }
        step
    }

    /// Adds the means of one evaluation batch of `rows` examples, weighed as there: transformers repeats a batch's loss for each
    /// of its examples, TRL counts any other mean once a batch.
    pub fn add_evaluation_batch(&mut self, batch: &Averages, rows: usize) {
        if let Some(loss) = batch.get(LOSS) {
            self.add_weighted(LOSS, loss, rows as f64);
        }
        self.add_others(batch);
    }

    /// Adds the means but the loss, each with weight 1.
    fn add_others(&mut self, batch: &Averages) {
        for (key, mean) in batch.iter().filter(|(key, _)| *key != LOSS) {
            self.add(key, mean);
        }
    }

    /// Adds all observations of another.
    pub fn merge(&mut self, other: &Averages) {
        for key in &other.order {
            let (sum, weight) = other.sums[key];
            if weight > 0.0 {
                self.add_weighted(key, sum / weight, weight);
            }
        }
    }

    /// The mean of a key.
    pub fn get(&self, key: &str) -> Option<f64> {
        self.sums.get(key).map(|(sum, weight)| sum / weight)
    }

    /// Keys with their means, in order of first appearance.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.order.iter().map(|k| {
            let (sum, weight) = self.sums[k];
            (k.as_str(), sum / weight)
        })
    }

    /// Means as JSON members, each key prefixed; numbers that are not finite become null.
    pub fn write_into(&self, prefix: &str, row: &mut Map<String, Value>) {
        for (key, mean) in self.iter() {
            row.insert(format!("{prefix}{key}"), Value::from(mean));
        }
    }

    /// Everything it holds, exactly: for each key its sum and weight, in order of first appearance. Sums that JSON
    /// has no number for become their names.
    pub(crate) fn to_json(&self) -> Value {
        let number = |x: f64| match Value::from(x) {
            Value::Null => Value::from(x.to_string()),
            number => number,
        };
        let entry = |key: &String| {
            let (sum, weight) = self.sums[key];
            Value::from(vec![Value::from(key.as_str()), number(sum), number(weight)])
        };
        self.order.iter().map(entry).collect()
    }

    /// What [`Averages::to_json`] wrote; `None` for anything else.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let number = |x: &Value| x.as_f64().or_else(|| x.as_str()?.parse().ok());
        let mut averages = Averages::default();
        for entry in value.as_array()? {
            let [key, sum, weight] = entry.as_array()?.as_slice() else {
                return None;
            };
            let key = key.as_str()?.to_owned();
            averages.order.push(key.clone());
            let sums = (number(sum)?, number(weight)?);
            averages.sums.insert(key, sums);
        }
        Some(averages)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Averages::default();
    }
}

/// `metrics.jsonl`: one JSON object per line, flushed line by line.
pub struct MetricsFile {
    file: File,
    path: PathBuf,
}

impl MetricsFile {
    /// Creates the file, or cuts an earlier one back to `rows`: what a run had logged when the checkpoint was saved
    /// from which it goes on.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn create(path: &Path, rows: &[Map<String, Value>]) -> Result<Self, TrainError> {
        let mut bytes = Vec::new();
        for row in rows {
            bytes.append(&mut line(row));
        }
        write_file_atomic(path, &bytes)?;
        let file = File::options().append(true).open(path);
        let file = file.map_err(|e| TrainError::io("open", path, e))?;
        Ok(MetricsFile {
            file,
            path: path.to_path_buf(),
        })
    }

    /// Appends one row.
    ///
    /// # Errors
    /// What the file system refuses (a full disk, say).
    pub fn write(&mut self, row: &Map<String, Value>) -> Result<(), TrainError> {
        self.file
            .write_all(&line(row))
            .map_err(|e| TrainError::io("write", &self.path, e))
    }
}

fn line(row: &Map<String, Value>) -> Vec<u8> {
    let mut line = serde_json::to_vec(row).expect("a map of JSON values serialises");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_survive_json_to_the_last_bit() {
        let mut a = Averages::default();
        a.add("z", 0.1);
        a.add_weighted("z", 1.0 / 3.0, 0.7);
        a.add("nan", f64::NAN);
        a.add("inf", -f64::INFINITY);
        a.add("a", -0.0);
        let text = a.to_json().to_string();
        let b = Averages::from_json(&serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(b.order, ["z", "nan", "inf", "a"]);
        for (key, (sum, weight)) in &a.sums {
            let bits = |x: f64| x.to_bits();
            assert_eq!(bits(b.sums[key].1), bits(*weight), "{key}");
            assert!(bits(b.sums[key].0) == bits(*sum) || sum.is_nan() && b.sums[key].0.is_nan());
        }
        assert_eq!(Averages::from_json(&Value::from("x")), None);
    }

    #[test]
    fn a_metrics_file_is_cut_back_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let row = |step: u64| {
            let value = serde_json::json!({"step": step, "x": 0.1});
            value.as_object().unwrap().clone()
        };
        let mut file = MetricsFile::create(&path, &[]).unwrap();
        for step in 1..=3 {
            file.write(&row(step)).unwrap();
        }
        let whole = std::fs::read_to_string(&path).unwrap();
        // A kill in the middle of a line.
        std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        let mut file = MetricsFile::create(&path, &[row(1), row(2)]).unwrap();
        file.write(&row(3)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
    }

    /// Steps of 3 + 1 and of 2 examples, by hand: each step's loss counts once, each micro-batch's reward once.
    #[test]
    fn steps_and_micro_batches_count_once_whatever_their_size() {
        let batch = |values: &[(f64, f64)]| {
            let mut own = Averages::default();
            for &(loss, reward) in values {
                own.add("loss", loss);
                own.add("reward", reward);
            }
            own
        };
        let (large, small) = (
            batch(&[(1.0, 3.0), (2.0, 6.0), (3.0, 9.0)]),
            batch(&[(8.0, 2.0)]),
        );
        let mut window = Averages::default();
        window.merge(&Averages::of_step(&[large.clone(), small.clone()]));
        window.merge(&Averages::of_step(&[batch(&[(4.0, 5.0), (6.0, 5.0)])]));
        // Steps: (2 + 8)/2 and 5; micro-batches: 6, 2 and 5.
        assert_eq!(window.get("loss"), Some(5.0));
        assert_eq!(window.get("reward"), Some(13.0 / 3.0));
        let mut evaluation = Averages::default();
        evaluation.add_evaluation_batch(&large, 3);
        evaluation.add_evaluation_batch(&small, 1);
        assert_eq!(evaluation.get("loss"), Some((2.0 * 3.0 + 8.0) / 4.0));
        assert_eq!(evaluation.get("reward"), Some(4.0));
    }

    #[test]
    fn means_are_weighted_and_merge() {
        let mut a = Averages::default();
        a.add("x", 1.0);
        a.add("x", 3.0);
        let mut b = Averages::default();
        b.add_weighted("x", 8.0, 2.0);
        b.add("y", 5.0);
        a.merge(&b);
        assert_eq!(a.get("x"), Some(5.0));
        let mut row = Map::new();
        a.write_into("eval_", &mut row);
        assert_eq!(row["eval_y"], 5.0);
        assert_eq!(row.keys().collect::<Vec<_>>(), ["eval_x", "eval_y"]);
    }
}
