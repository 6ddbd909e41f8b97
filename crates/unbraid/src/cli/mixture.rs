//! Recipes that name several data sets: TRL's `datasets`, alignment-handbook's `dataset_mixture` and `dataset_mixer`.
//!
//! Each becomes one setting, `datasets`, whose value is a [`Mixture`] as JSON, which is also how `run.yaml` keeps it; every
//! mistake has its line. Keys and defaults as in TRL 1.16 `DatasetMixtureConfig` and alignment-handbook's `ScriptArguments`
//! and `DataArguments`. Tested in `tests/cli_mixture.rs`.

use std::collections::BTreeMap;

use unbraid_preference::{DataFiles, Mixture, MixturePart, MixtureStyle, TestSize};

use super::error::{CliError, Place};
use super::recipe::{Setting, Tree, Value};

/// Keys whose value is a tree.
pub(super) const TREES: &[&str] = &["datasets", "dataset_mixture", "dataset_mixer"];

/// Stands in `dataset_name` where a mixture is read.
pub(super) const NAME: &str = "datasets";

/// Turns the keys of a mixture into one setting; gives notes on them.
///
/// # Errors
/// [`CliError::InvalidValue`] with the line, [`CliError::Conflict`].
pub(super) fn gather(settings: &mut Vec<Setting>) -> Result<Vec<String>, CliError> {
    let mut notes = Vec::new();
    let mut take = |key: &str| {
        let at = settings.iter().rposition(|setting| setting.key == key)?;
        let setting = settings.remove(at);
        let nothing = match &setting.value {
            Value::Null => true,
            Value::List(items) => items.is_empty(),
            Value::Tree(Tree::List(items, _)) => items.is_empty(),
            _ => false,
        };
        (!nothing).then_some(setting)
    };
    let mut found: Vec<Setting> = TREES.iter().filter_map(|key| take(key)).collect();
    let (size, splits, configs) = (
        take("test_split_size"),
        take("dataset_splits"),
        take("dataset_configs"),
    );
    if let [first, second, ..] = found.as_slice() {
        return Err(CliError::Conflict {
            message: format!(
                "{}{} and {} both name the data sets",
                second.place, first.key, second.key
            ),
            hint: "give one of the two".into(),
        });
    }
    let Some(setting) = found.pop() else {
        let lone = [&size, &splits, &configs];
        for setting in lone.into_iter().flatten() {
            notes.push(format!("{} has no effect without datasets", setting.key));
        }
        return Ok(notes);
    };
    let seed = last_word(settings, "seed").and_then(|seed| seed.parse().ok());
    let reader = Reader {
        place: &setting.place,
        key: &setting.key,
    };
    let mut mixture = match (&*setting.key, &setting.value) {
        ("datasets", Value::Tree(tree @ Tree::List(..))) => reader.trl(tree, seed.unwrap_or(42))?,
        ("datasets", Value::Tree(tree @ Tree::Map(..))) => reader.recorded(tree)?,
        ("datasets", Value::One(text)) => reader.json(text)?,
        ("dataset_mixture", Value::Tree(tree)) => reader.handbook(tree)?,
        ("dataset_mixer", Value::Tree(tree)) => {
            reader.mixer(tree, splits.as_ref(), configs.as_ref())?
        }
        _ => return Err(reader.wrong(None, "expected a list of data sets")),
    };
    if let Some(size) = &size {
        let Value::One(text) = &size.value else {
            return Err(wrong(size, "expected a number"));
        };
        let size = test_size(text).ok_or_else(|| {
            wrong(
                size,
                "expected a share between 0 and 1, or a number of rows",
            )
        })?;
        mixture.test_split_size = Some(size);
    }
    let streaming =
        last_word(settings, "streaming").is_some_and(|w| w.eq_ignore_ascii_case("true"));
    if mixture.style == MixtureStyle::Concatenated {
        let fractions = mixture.parts.iter().any(|part| part.share.is_some());
        if streaming && (fractions || mixture.test_split_size.is_some()) {
            return Err(CliError::Conflict {
                message: format!(
                    "{}streaming goes neither with fraction nor with test_split_size",
                    setting.place
                ),
                hint: "leave streaming out: rows are read as they are needed anyway".into(),
            });
        }
        if mixture.test_split_size.is_some() {
            notes.push(format!(
                "test_split_size: TRL holds rows out by chance, without a seed; here the draw is train_test_split's with \
                 seed {}",
                mixture.seed
            ));
        }
        if streaming {
            notes.push(
                "streaming: TRL trains on a streamed mixture in the order of its rows; say train_sampling_strategy: \
                 sequential for that order"
                    .into(),
            );
        }
    } else {
        notes.push(format!(
            "{}: rows are mixed and shuffled as alignment-handbook does; what else its scripts do to the data is left out",
            setting.key
        ));
    }
    if last_word(settings, "dataset_name").is_some_and(|name| name != NAME) {
        notes.push(format!(
            "dataset_name is not read: {} names the data, as in TRL",
            setting.key
        ));
    }
    settings.retain(|setting| setting.key != "dataset_name");
    let place = setting.place;
    let json = serde_json::to_string(&mixture).expect("a mixture is plain data");
    for (key, value) in [("dataset_name", NAME.to_owned()), ("datasets", json)] {
        settings.push(Setting {
            key: key.into(),
            value: Value::One(value),
            place: place.clone(),
        });
    }
    Ok(notes)
}

fn last_word(settings: &[Setting], key: &str) -> Option<String> {
    let setting = settings.iter().rfind(|setting| setting.key == key)?;
    match &setting.value {
        Value::One(word) => Some(word.clone()),
        Value::List(words) => words.last().cloned(),
        _ => None,
    }
}

fn wrong(setting: &Setting, reason: &str) -> CliError {
    let reader = Reader {
        place: &setting.place,
        key: &setting.key,
    };
    reader.wrong(None, reason)
}

/// As Python reads it: a number without a point is a count.
fn test_size(text: &str) -> Option<TestSize> {
    if let Ok(rows) = text.parse() {
        return Some(TestSize::Rows(rows));
    }
    let share: f64 = text.parse().ok()?;
    (share > 0.0 && share < 1.0).then_some(TestSize::Share(share))
}

/// Reads the value of one key.
struct Reader<'a> {
    place: &'a Place,
    key: &'a str,
}

impl Reader<'_> {
    /// What is wrong, at the line of `at`.
    fn wrong(&self, at: Option<&Tree>, reason: &str) -> CliError {
        let line = at.map(Tree::line);
        let place = match (self.place, line) {
            (Place::Recipe { file, .. }, Some(line)) => Place::Recipe {
                file: file.clone(),
                line,
            },
            (place, _) => place.clone(),
        };
        let value = match at {
            Some(Tree::Scalar(Some(text), _)) => text.clone(),
            _ => "{…}".to_owned(),
        };
        CliError::InvalidValue {
            place,
            name: self.key.to_owned(),
            value,
            reason: reason.to_owned(),
        }
    }

    fn fields<'t>(&self, tree: &'t Tree, known: &[&str]) -> Result<Fields<'t>, CliError> {
        let Tree::Map(pairs, _) = tree else {
            return Err(self.wrong(Some(tree), "expected `key: value` lines"));
        };
        for (key, value) in pairs {
            if !known.contains(&key.as_str()) {
                let reason = format!("unknown key {key}; known are {}", known.join(", "));
                return Err(self.wrong(Some(value), &reason));
            }
        }
        Ok(Fields(pairs))
    }

    fn items<'t>(&self, tree: &'t Tree) -> Result<&'t [Tree], CliError> {
        match tree {
            Tree::List(items, _) if !items.is_empty() => Ok(items),
            _ => Err(self.wrong(Some(tree), "expected a list of data sets")),
        }
    }

    fn text(&self, tree: Option<&Tree>) -> Result<Option<String>, CliError> {
        match tree {
            None | Some(Tree::Scalar(None, _)) => Ok(None),
            Some(Tree::Scalar(Some(text), _)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong(Some(other), "expected one value")),
        }
    }

    fn number(&self, tree: Option<&Tree>) -> Result<Option<f64>, CliError> {
        let Some(text) = self.text(tree)? else {
            return Ok(None);
        };
        let number: Option<f64> = text.parse().ok();
        let number = number.filter(|number| number.is_finite() && *number >= 0.0);
        let reason = "expected a number that is not negative";
        number.map(Some).ok_or_else(|| self.wrong(tree, reason))
    }

    fn words(&self, tree: Option<&Tree>) -> Result<Option<Vec<String>>, CliError> {
        match tree {
            None | Some(Tree::Scalar(None, _)) => Ok(None),
            Some(Tree::Scalar(Some(text), _)) => Ok(Some(vec![text.clone()])),
            Some(Tree::List(items, _)) => {
                let word = |item| {
                    let text = self.text(Some(item))?;
                    text.ok_or_else(|| self.wrong(Some(item), "expected a name"))
                };
                items.iter().map(word).collect::<Result<_, _>>().map(Some)
            }
            Some(other) => Err(self.wrong(Some(other), "expected a list of names")),
        }
    }

    fn size(&self, tree: Option<&Tree>) -> Result<Option<TestSize>, CliError> {
        let Some(text) = self.text(tree)? else {
            return Ok(None);
        };
        let reason = "expected a share between 0 and 1, or a number of rows";
        let size = test_size(&text).ok_or_else(|| self.wrong(tree, reason))?;
        Ok(Some(size))
    }

    /// `datasets` of TRL.
    fn trl(&self, tree: &Tree, seed: u64) -> Result<Mixture, CliError> {
        const KNOWN: &[&str] = &[
            "path",
            "name",
            "data_dir",
            "data_files",
            "split",
            "columns",
            "fraction",
        ];
        let mut parts = Vec::new();
        for item in self.items(tree)? {
            let fields = self.fields(item, KNOWN)?;
            let path = self.text(fields.get("path"))?;
            let data_files = match fields.get("data_files") {
                Some(Tree::Map(splits, _)) => {
                    let mut files = BTreeMap::new();
                    for (split, names) in splits {
                        files.insert(split.clone(), self.words(Some(names))?.unwrap_or_default());
                    }
                    Some(DataFiles::Splits(files))
                }
                other => self.words(other)?.map(DataFiles::Train),
            };
            parts.push(MixturePart {
                path: path.ok_or_else(|| self.wrong(Some(item), "a data set needs a path"))?,
                name: self.text(fields.get("name"))?,
                data_dir: self.text(fields.get("data_dir"))?,
                data_files,
                split: self.text(fields.get("split"))?.unwrap_or("train".into()),
                columns: self.words(fields.get("columns"))?,
                share: self.number(fields.get("fraction"))?,
            });
        }
        Ok(Mixture {
            style: MixtureStyle::Concatenated,
            parts,
            test_split_size: None,
            seed,
        })
    }

    /// `dataset_mixture` of alignment-handbook.
    fn handbook(&self, tree: &Tree) -> Result<Mixture, CliError> {
        let fields = self.fields(tree, &["datasets", "seed", "test_split_size"])?;
        let list = fields.get("datasets");
        let list =
            list.ok_or_else(|| self.wrong(Some(tree), "expected a list under `datasets`"))?;
        let mut parts: Vec<MixturePart> = Vec::new();
        for item in self.items(list)? {
            let fields = self.fields(item, &["id", "config", "split", "columns", "weight"])?;
            let path = self.text(fields.get("id"))?;
            let columns = self.words(fields.get("columns"))?;
            let sorted = |columns: &[String]| {
                let mut columns = columns.to_vec();
                columns.sort();
                columns
            };
            let earlier = parts.iter().find_map(|part| part.columns.as_deref());
            if let (Some(a), Some(b)) = (earlier, &columns)
                && sorted(a) != sorted(b)
            {
                let reason = "`columns` must be the same for all data sets of the mixture";
                return Err(self.wrong(Some(item), reason));
            }
            // A weight that is left out is 1, which shuffles; null takes the rows as they are.
            let share = match fields.get("weight") {
                None => Some(1.0),
                given => self.number(given)?,
            };
            parts.push(MixturePart {
                path: path.ok_or_else(|| self.wrong(Some(item), "a data set needs an id"))?,
                name: self.text(fields.get("config"))?,
                data_dir: None,
                data_files: None,
                split: self.text(fields.get("split"))?.unwrap_or("train".into()),
                columns,
                share,
            });
        }
        let seed = self.text(fields.get("seed"))?.unwrap_or("0".into());
        let whole = seed.parse().ok();
        Ok(Mixture {
            style: MixtureStyle::Shuffled,
            parts,
            test_split_size: self.size(fields.get("test_split_size"))?,
            seed: whole.ok_or_else(|| self.wrong(fields.get("seed"), "expected a whole number"))?,
        })
    }

    /// `dataset_mixer` of alignment-handbook, with `dataset_splits` and `dataset_configs`.
    fn mixer(
        &self,
        tree: &Tree,
        splits: Option<&Setting>,
        configs: Option<&Setting>,
    ) -> Result<Mixture, CliError> {
        let Tree::Map(pairs, _) = tree else {
            return Err(self.wrong(Some(tree), "expected lines `data set: fraction`"));
        };
        let list = |setting: Option<&Setting>| match setting.map(|setting| &setting.value) {
            None => Ok(Vec::new()),
            Some(Value::List(words)) => Ok(words.clone()),
            Some(Value::One(word)) => Ok(vec![word.clone()]),
            Some(_) => Err(self.wrong(
                None,
                "dataset_splits and dataset_configs are lists of names",
            )),
        };
        let (mut splits, configs) = (list(splits)?, list(configs)?);
        if splits.is_empty() {
            splits = vec!["train".into(), "test".into()];
        }
        let trains = |split: &&String| split.contains("train");
        if splits.iter().filter(trains).count() != 1 {
            let reason = "dataset_splits needs one split whose name has `train`";
            return Err(self.wrong(None, reason));
        }
        if let Some(split) = splits
            .iter()
            .find(|s| !s.contains("train") && !s.contains("test"))
        {
            let reason =
                format!("dataset_splits: {split} is neither a train nor a test split by its name");
            return Err(self.wrong(None, &reason));
        }
        if !configs.is_empty() && configs.len() != pairs.len() {
            let reason = "dataset_configs needs one entry for each data set";
            return Err(self.wrong(None, reason));
        }
        let mut parts = Vec::new();
        for (at, (path, share)) in pairs.iter().enumerate() {
            let share = self.number(Some(share))?.unwrap_or(1.0);
            let part = |split: &String| MixturePart {
                path: path.clone(),
                name: configs.get(at).cloned(),
                data_dir: None,
                data_files: None,
                split: split.clone(),
                columns: None,
                share: Some(share),
            };
            parts.extend(splits.iter().map(part));
        }
        Ok(Mixture {
            style: MixtureStyle::Mixer,
            parts,
            test_split_size: None,
            seed: 42,
        })
    }

    /// What `run.yaml` keeps.
    fn recorded(&self, tree: &Tree) -> Result<Mixture, CliError> {
        let reason = "expected a list of data sets, each with a path, or what run.yaml records";
        serde_json::from_value(tree.to_json()).map_err(|_| self.wrong(Some(tree), reason))
    }

    fn json(&self, text: &str) -> Result<Mixture, CliError> {
        let reason = "expected a list of data sets in a recipe";
        serde_json::from_str(text).map_err(|_| self.wrong(None, reason))
    }
}

/// Keys with their values.
struct Fields<'t>(&'t [(String, Tree)]);

impl<'t> Fields<'t> {
    fn get(&self, key: &str) -> Option<&'t Tree> {
        let pair = self.0.iter().find(|(known, _)| known == key);
        pair.map(|(_, value)| value)
    }
}
