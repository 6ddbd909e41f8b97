//! Metrics: means between two logged steps, and the JSON-lines file they go to.

use crate::error::TrainError;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

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
    /// Creates the file.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        let file = File::create(path).map_err(|e| TrainError::io("create", path, e))?;
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
        let mut line = serde_json::to_vec(row).expect("a map of JSON values serialises");
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(|e| TrainError::io("write", &self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
