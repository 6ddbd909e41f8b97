//! Several data sets as one: TRL's `datasets`, alignment-handbook's `dataset_mixture` and its older `dataset_mixer`.
//!
//! | style | each data set | together | held out |
//! |---|---|---|---|
//! | [`Concatenated`](MixtureStyle::Concatenated) | its first round(share · N) rows, N the largest size at which none runs out; all without shares | one after another | `train_test_split(size, seed)` |
//! | [`Shuffled`](MixtureStyle::Shuffled) | shuffled with the seed, its first ⌊share · rows⌋ | one after another, shuffled with the seed | `train_test_split(size, seed)` |
//! | [`Mixer`](MixtureStyle::Mixer) | its first ⌊share · rows⌋; of a test split all | one after another, shuffled with 42 | the test splits, shuffled alike |
//!
//! Orders are those of `datasets` 5.2, whose draws are NumPy's (`numpy.rs`). Without shuffling, rows are read as they are asked
//! for; a shuffled mixture is in memory as text.
//! Left out: slices (`train[:10%]`), and `data_dir` and `data_files` of a data set on the hub.
//! Source: `trl/scripts/utils.py` 1.16, `get_dataset`; alignment-handbook `src/alignment/data.py`, `get_dataset` (2025) and
//! `mix_datasets` (2023). Tested in `tests/mixture.rs` against both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{PreferenceError, Result};
use crate::numpy::permutation;
use crate::read::{FileType, Rows};
use crate::row::{Row, Selection, TextField};
use crate::source::{self, DatasetSource, RowReader};
use crate::split;

/// Seed of the older mixer.
const MIXER_SEED: u64 = 42;

/// Several data sets as one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixture {
    /// How they are put together.
    pub style: MixtureStyle,
    /// The data sets in their order.
    pub parts: Vec<MixturePart>,
    /// What is held out as split `test`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_split_size: Option<TestSize>,
    /// Seed of shuffling and of holding out.
    pub seed: u64,
}

/// Ways to put data sets together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixtureStyle {
    /// TRL's `datasets`.
    Concatenated,
    /// alignment-handbook's `dataset_mixture`.
    Shuffled,
    /// alignment-handbook's `dataset_mixer`.
    Mixer,
}

/// One data set of a mixture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixturePart {
    /// A file, a directory, a hub id, or one of `json`, `csv`, `parquet`, `arrow` with `data_files`.
    pub path: String,
    /// The configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A directory below the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<String>,
    /// Files by name or pattern.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_files: Option<DataFiles>,
    /// The split that is read.
    pub split: String,
    /// The columns that are kept; all without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// `fraction` of TRL, `weight` of the handbook, the mixer's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

/// Files of a data set: of the split `train`, or of named splits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DataFiles {
    /// Names or patterns of the split `train`.
    Train(Vec<String>),
    /// Names or patterns by split.
    Splits(BTreeMap<String, Vec<String>>),
}

/// How many rows are held out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestSize {
    /// So many.
    Rows(usize),
    /// A share of all, rounded up.
    Share(f64),
}

impl Mixture {
    /// The splits that it has.
    fn splits(&self) -> Vec<&'static str> {
        let tests = match self.style {
            MixtureStyle::Mixer => self.parts.iter().any(|part| !part.trains()),
            _ => self.test_split_size.is_some(),
        };
        if tests {
            vec!["train", "test"]
        } else {
            vec!["train"]
        }
    }
}

impl MixturePart {
    /// Whether the older mixer takes the part for training: its split's name says so.
    fn trains(&self) -> bool {
        self.split.contains("train")
    }
}

fn fault<T>(reason: impl Into<String>, hint: &'static str) -> Result<T> {
    Err(PreferenceError::Mixture {
        reason: reason.into(),
        hint,
    })
}

/// The rows of one split of a mixture.
pub(crate) fn rows(mixture: &Mixture, source: &DatasetSource, whole: bool) -> Result<Rows> {
    let splits = mixture.splits();
    let split = source.split.as_str();
    if !splits.contains(&split) {
        let hint =
            "a mixture has the split `train`, and `test` where test_split_size holds rows out";
        return fault(
            format!(
                "the mixture has no split `{split}`; it has {}",
                splits.join(", ")
            ),
            hint,
        );
    }
    let parts = |wanted: &dyn Fn(&MixturePart) -> bool| -> Vec<Opener> {
        let parts = mixture.parts.iter().filter(|part| wanted(part));
        parts
            .map(|part| Opener {
                part: part.clone(),
                text_field: source.text_field.clone(),
                whole,
            })
            .collect()
    };
    match mixture.style {
        MixtureStyle::Concatenated => {
            let all = concatenated(parts(&|_| true))?;
            match mixture.test_split_size {
                None => Ok(all),
                Some(size) => held_out(all, size, mixture.seed, split),
            }
        }
        MixtureStyle::Shuffled => {
            let mut all = Vec::new();
            for part in parts(&|_| true) {
                let rows = part.open()?.collect::<Result<Vec<_>>>()?;
                all.append(&mut match part.part.share {
                    None => rows,
                    Some(share) => {
                        let count = part.first(share, rows.len())?;
                        let order = permutation(mixture.seed, rows.len());
                        arranged(rows, &order[..count])
                    }
                });
            }
            let order = permutation(mixture.seed, all.len());
            let all = in_memory(arranged(all, &order));
            match mixture.test_split_size {
                None => Ok(all),
                Some(size) => held_out(all, size, mixture.seed, split),
            }
        }
        MixtureStyle::Mixer => {
            let train = split == "train";
            let mut all = Vec::new();
            for part in parts(&|part| part.trains() == train) {
                let mut rows = part.open()?.collect::<Result<Vec<_>>>()?;
                if train {
                    let count = part.first(part.part.share.unwrap_or(1.0), rows.len())?;
                    rows.truncate(count);
                }
                all.append(&mut rows);
            }
            let order = permutation(MIXER_SEED, all.len());
            Ok(in_memory(arranged(all, &order)))
        }
    }
}

/// One data set after another, of each the share that TRL keeps.
fn concatenated(parts: Vec<Opener>) -> Result<Rows> {
    let shares: Vec<f64> = parts.iter().filter_map(|part| part.part.share).collect();
    let mut counts = vec![usize::MAX; parts.len()];
    if !shares.is_empty() {
        if shares.len() != parts.len() {
            return fault(
                "`fraction` is set for some data sets of the mixture and not for others",
                "set it for all of them or for none",
            );
        }
        let sum: f64 = shares.iter().sum();
        if shares.iter().any(|share| *share < 0.0) || sum <= 0.0 || !sum.is_finite() {
            return fault(
                "`fraction` is a share of the mixture: not negative, and not 0 for all data sets",
                "0.5 and 0.5 take as many rows of one as of the other",
            );
        }
        let mut total = f64::INFINITY;
        let mut lengths = Vec::new();
        for (part, share) in parts.iter().zip(&shares) {
            let mut length = 0;
            for row in part.open()? {
                row?;
                length += 1;
            }
            if *share > 0.0 {
                total = total.min(length as f64 / (share / sum));
            }
            lengths.push(length);
        }
        // Python's `round` takes halves to even.
        let counted = shares.iter().zip(lengths).map(|(share, length)| {
            let count = (share / sum * total).round_ties_even() as usize;
            count.min(length)
        });
        counts = counted.collect();
    }
    let rows = parts.into_iter().zip(counts).flat_map(|(part, count)| {
        let opened: Rows = match part.open() {
            Ok(rows) => Box::new(rows.take(count)),
            Err(error) => Box::new(std::iter::once(Err(error))),
        };
        opened
    });
    Ok(Box::new(rows))
}

/// Either side of `train_test_split`.
fn held_out(rows: Rows, size: TestSize, seed: u64, split: &str) -> Result<Rows> {
    let rows = rows.collect::<Result<Vec<_>>>()?;
    let length = rows.len();
    let (test, fits) = match size {
        TestSize::Rows(count) => (count, count > 0 && count < length),
        TestSize::Share(share) => (
            (share * length as f64).ceil() as usize,
            share > 0.0 && share < 1.0,
        ),
    };
    if !fits || test >= length {
        let got = match size {
            TestSize::Rows(count) => count.to_string(),
            TestSize::Share(share) => share.to_string(),
        };
        return fault(
            format!(
                "test_split_size {got} leaves nothing to train on, or nothing to test, of {length} rows"
            ),
            "give a share above 0 and below 1, or a number of rows below that of the mixture",
        );
    }
    let order = permutation(seed, length);
    let (held, left) = order.split_at(test);
    Ok(in_memory(arranged(
        rows,
        if split == "test" { held } else { left },
    )))
}

/// The rows at these places, in this order; no place occurs twice.
fn arranged(rows: Vec<Row>, order: &[usize]) -> Vec<Row> {
    let mut rows: Vec<Option<Row>> = rows.into_iter().map(Some).collect();
    order.iter().filter_map(|&at| rows[at].take()).collect()
}

fn in_memory(rows: Vec<Row>) -> Rows {
    Box::new(rows.into_iter().map(Ok))
}

/// A part, ready to be read once or twice.
struct Opener {
    part: MixturePart,
    text_field: Option<String>,
    whole: bool,
}

impl Opener {
    fn open(&self) -> Result<Rows> {
        let part = &self.part;
        let selection = part.columns.clone().map(|c| Arc::new(Selection::new(c)));
        let text = TextField::new(self.text_field.as_deref(), self.whole);
        let text = match &selection {
            Some(selection) => text.of(Arc::clone(selection)),
            None => text,
        };
        let named = DatasetSource {
            name: part.path.clone(),
            config: part.name.clone(),
            split: part.split.clone(),
            ..DatasetSource::default()
        };
        let rows = RowReader::over(part.files(&named)?, text, named);
        let (Some(selection), MixturePart { path, .. }) = (selection, part) else {
            return Ok(Box::new(rows));
        };
        let path = path.clone();
        let check = std::iter::once_with(move || {
            selection.missing().map(|column| {
                fault(
                    format!("{path}: `columns` names `{column}`, which no row has"),
                    "name columns of the data set, or leave `columns` out",
                )
            })
        });
        Ok(Box::new(rows.chain(check.flatten())))
    }

    /// ⌊share · rows⌋.
    fn first(&self, share: f64, rows: usize) -> Result<usize> {
        let count = (share * rows as f64).floor();
        if !(share >= 0.0 && count <= rows as f64) {
            let path = &self.part.path;
            return fault(
                format!("{path}: a share of {share} of its {rows} rows"),
                "a share is a number from 0 to 1",
            );
        }
        Ok(count as usize)
    }
}

impl MixturePart {
    fn files(&self, named: &DatasetSource) -> Result<Vec<(PathBuf, FileType)>> {
        let builder = match self.path.as_str() {
            "json" => Some(FileType::Json),
            "csv" => Some(FileType::Csv),
            "parquet" => Some(FileType::Parquet),
            "arrow" => Some(FileType::Arrow),
            _ => None,
        };
        let builder = builder.filter(|_| self.data_files.is_some() || self.data_dir.is_some());
        if builder.is_none() && self.data_files.is_none() && self.data_dir.is_none() {
            return source::files(named);
        }
        let mut base = PathBuf::from(if builder.is_some() { "" } else { &*self.path });
        if builder.is_none() && !base.is_dir() {
            return fault(
                format!(
                    "{}: data_dir and data_files are read of local directories, and this is none",
                    self.path
                ),
                "give the path of a local copy",
            );
        }
        if let Some(dir) = &self.data_dir {
            base.push(dir);
        }
        let paths = match &self.data_files {
            None => split::files_of_directory(&base, self.name.as_deref(), &self.split)?,
            Some(files) => self.named_files(files, &base)?,
        };
        let typed = |path: PathBuf| match (FileType::of(&path), builder) {
            (Some(FileType::JsonLines), Some(FileType::Json)) => Ok((path, FileType::JsonLines)),
            (_, Some(builder)) => Ok((path, builder)),
            (Some(file_type), None) => Ok((path, file_type)),
            (None, None) => Err(PreferenceError::UnknownType { path }),
        };
        paths.into_iter().map(typed).collect()
    }

    fn named_files(&self, files: &DataFiles, base: &Path) -> Result<Vec<PathBuf>> {
        let patterns = match files {
            DataFiles::Train(patterns) if self.split == "train" => Some(patterns),
            DataFiles::Train(_) => None,
            DataFiles::Splits(splits) => splits.get(&self.split),
        };
        let Some(patterns) = patterns else {
            let found = match files {
                DataFiles::Train(_) => vec!["train".to_owned()],
                DataFiles::Splits(splits) => splits.keys().cloned().collect(),
            };
            return Err(PreferenceError::NoSplit {
                dir: self.path.clone(),
                split: self.split.clone(),
                found,
            });
        };
        let mut paths = Vec::new();
        for pattern in patterns {
            if pattern.contains(['*', '?']) {
                paths.append(&mut split::files_of_pattern(base, pattern)?);
            } else {
                paths.push(base.join(pattern));
            }
        }
        Ok(paths)
    }
}
