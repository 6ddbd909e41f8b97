//! Which files of a directory belong to a split.
//!
//! What `datasets.save_to_disk` wrote is recognised by its `dataset_dict.json` or `state.json`. Other directories are
//! searched two levels deep, and the first of these rules that fits any file decides, as the hub's own rules do:
//! the file's stem is the split or `SPLIT-00000-of-00001`; a directory is called like the split; the split's name
//! stands between other characters than letters and digits (`helpful-base.test.jsonl`); for `train`, all files when
//! no name mentions any split. A `README.md` whose header lists `data_files` comes before these rules (`readme.rs`).
//! Tested here and in `tests/formats.rs`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{PreferenceError, Result};
use crate::read::{FileType, unread};
use crate::readme;

/// The files of a split, in the order of their names.
pub(crate) fn files_of_directory(
    dir: &Path,
    config: Option<&str>,
    split: &str,
) -> Result<Vec<PathBuf>> {
    if dir.join("dataset_dict.json").is_file() {
        let splits = json(&dir.join("dataset_dict.json"))?;
        let found: Vec<String> = splits["splits"]
            .as_array()
            .map(|names| {
                names
                    .iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect()
            })
            .unwrap_or_default();
        if !found.iter().any(|name| name == split) {
            return Err(PreferenceError::NoSplit {
                dir: dir.display().to_string(),
                split: split.to_owned(),
                found,
            });
        }
        return saved_dataset(&dir.join(split));
    }
    if dir.join("state.json").is_file() && dir.join("dataset_info.json").is_file() {
        return saved_dataset(dir);
    }
    let mut names = Vec::new();
    list(dir, "", 2, &mut names)?;
    names.sort();
    let readme = dir.join("README.md");
    let readme = match readme.is_file() {
        true => Some(unbraid_input::read(&readme).map_err(unread(&readme))?),
        false => None,
    };
    let readme = readme.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let name = dir.display().to_string();
    let chosen = choose_files(&name, names, readme.as_deref(), config, split)?;
    Ok(chosen.into_iter().map(|name| dir.join(name)).collect())
}

/// The files that a pattern names, below `base` or absolute, in the order of their names.
pub(crate) fn files_of_pattern(base: &Path, pattern: &str) -> Result<Vec<PathBuf>> {
    let wild = pattern.find(['*', '?']).unwrap_or(pattern.len());
    let cut = pattern[..wild].rfind('/').map_or(0, |slash| slash + 1);
    let (dir, pattern) = pattern.split_at(cut);
    let dir = base.join(dir);
    let dir = match dir.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => dir,
    };
    let mut names = Vec::new();
    list(&dir, "", 8, &mut names)?;
    names.retain(|name| readme::matches(pattern, name));
    names.sort();
    if names.is_empty() {
        return Err(PreferenceError::NotFound {
            name: dir.join(pattern).display().to_string(),
        });
    }
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

/// The files of a split among `names`, relative to the data set `dir`, by its README or the rules above.
pub(crate) fn choose_files(
    dir: &str,
    names: Vec<String>,
    readme: Option<&str>,
    config: Option<&str>,
    split: &str,
) -> Result<Vec<String>> {
    let no_split = |found: Vec<String>| PreferenceError::NoSplit {
        dir: dir.to_owned(),
        split: split.to_owned(),
        found,
    };
    let no_config = |found: Vec<String>| PreferenceError::NoConfig {
        dir: dir.to_owned(),
        config: config.map(str::to_owned),
        found,
    };
    let configs = readme.map(readme::configs).unwrap_or_default();
    if !configs.is_empty() {
        let known = || configs.iter().map(|c| c.name().to_owned()).collect();
        let chosen = readme::choose(&configs, config).ok_or_else(|| no_config(known()))?;
        let splits = chosen.splits();
        let Some((_, patterns)) = splits.iter().find(|(name, _)| name == split) else {
            return Err(no_split(splits.into_iter().map(|(name, _)| name).collect()));
        };
        let fits = |name: &String| patterns.iter().any(|p| readme::matches(p, name));
        let chosen: Vec<String> = names.iter().filter(|name| fits(name)).cloned().collect();
        return match chosen.is_empty() {
            true => Err(no_split(names)),
            false => Ok(chosen),
        };
    }
    let inside = |name: &String, config: &str| {
        let mut directories = name.rsplit('/').skip(1);
        directories.any(|directory| directory == config)
    };
    let names = match config.filter(|&config| config != "default") {
        None => names,
        Some(config) => {
            let all = names.clone();
            let there: Vec<String> = names.into_iter().filter(|n| inside(n, config)).collect();
            if there.is_empty() {
                return Err(no_config(all));
            }
            there
        }
    };
    let chosen = files_of_split(&names, split);
    if chosen.is_empty() {
        return Err(no_split(names));
    }
    Ok(chosen.into_iter().map(str::to_owned).collect())
}

/// Chooses among file names relative to the data set, by the rules above.
fn files_of_split<'a>(names: &'a [String], split: &str) -> Vec<&'a str> {
    let matching = |rule: &dyn Fn(&str) -> bool| -> Vec<&'a str> {
        names
            .iter()
            .map(String::as_str)
            .filter(|name| rule(name))
            .collect()
    };
    let exact = |name: &str| {
        let stem = stem(name);
        stem == split || stem.strip_prefix(split).is_some_and(is_shard)
    };
    let in_directory = |name: &str| name.rsplit('/').skip(1).any(|dir| dir == split);
    let mentioned = |name: &str| mentions(name, split);
    let silent = |name: &str| split == "train" && !SPLITS.iter().any(|known| mentions(name, known));
    let rules: [&dyn Fn(&str) -> bool; 4] = [&exact, &in_directory, &mentioned, &silent];
    rules
        .into_iter()
        .map(matching)
        .find(|found| !found.is_empty())
        .unwrap_or_default()
}

const SPLITS: [&str; 7] = ["train", "test", "validation", "valid", "dev", "eval", "val"];

/// The file's name without its endings.
fn stem(name: &str) -> &str {
    let file = name.rsplit('/').next().unwrap_or(name);
    let file = file
        .strip_suffix(".gz")
        .or_else(|| file.strip_suffix(".zst"))
        .unwrap_or(file);
    file.rsplit_once('.').map_or(file, |(stem, _)| stem)
}

/// `-00000-of-00001`, with whatever a hash adds behind it.
fn is_shard(rest: &str) -> bool {
    let mut parts = rest.split('-').skip(1);
    let number = |part: Option<&str>| {
        part.is_some_and(|part| part.len() == 5 && part.bytes().all(|b| b.is_ascii_digit()))
    };
    rest.starts_with('-')
        && number(parts.next())
        && parts.next() == Some("of")
        && number(parts.next())
}

fn mentions(name: &str, split: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.match_indices(split).any(|(at, _)| {
        let before = name[..at].chars().next_back();
        let after = name[at + split.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

fn list(dir: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(unread(dir))? {
        let entry = entry.map_err(unread(dir))?;
        let file_name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if file_name.starts_with('.') {
            continue;
        }
        if path.is_dir() && depth > 0 {
            list(&path, &format!("{prefix}{file_name}/"), depth - 1, names)?;
        } else if !path.is_dir() && FileType::of(&path).is_some() {
            // What is no file there is refused by name when it is opened.
            names.push(format!("{prefix}{file_name}"));
        }
    }
    Ok(())
}

/// The Arrow files of one saved data set, in the order of its `state.json`.
fn saved_dataset(dir: &Path) -> Result<Vec<PathBuf>> {
    let path = dir.join("state.json");
    let state = json(&path)?;
    if state["_indices_data_files"]
        .as_array()
        .is_some_and(|files| !files.is_empty())
    {
        return Err(PreferenceError::Format {
            path,
            format: "Arrow",
            reason: "the data set was saved with an indices mapping\nhint: call `flatten_indices()` before `save_to_disk`"
                .to_owned(),
        });
    }
    let files = state["_data_files"].as_array().cloned().unwrap_or_default();
    Ok(files
        .iter()
        .filter_map(|file| file["filename"].as_str())
        .map(|name| dir.join(name))
        .collect())
}

fn json(path: &Path) -> Result<Value> {
    let bytes = unbraid_input::read(path).map_err(unread(path))?;
    serde_json::from_slice(&bytes).map_err(|error| PreferenceError::Json {
        location: crate::row::Location::line(path, error.line()),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(names: &[&str], split: &str) -> Vec<String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        files_of_split(&names, split)
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn an_exact_stem_or_a_shard_comes_first() {
        let names = [
            "data/test-00000-of-00001.parquet",
            "data/train-00000-of-00002-abc.parquet",
            "data/train-00001-of-00002-abc.parquet",
            "data/train_sft-00000-of-00001.parquet",
        ];
        assert_eq!(choose(&names, "train"), names[1..3]);
        assert_eq!(choose(&names, "train_sft"), names[3..]);
        assert_eq!(
            choose(&["test.jsonl.gz", "train.jsonl.gz"], "train"),
            ["train.jsonl.gz"]
        );
    }

    #[test]
    fn a_directory_or_a_mention_is_next() {
        assert_eq!(
            choose(&["train/a.jsonl", "test/a.jsonl"], "test"),
            ["test/a.jsonl"]
        );
        assert_eq!(
            choose(&["helpful.test.jsonl.gz", "helpful.train.jsonl.gz"], "test"),
            ["helpful.test.jsonl.gz"]
        );
        assert!(choose(&["latest.jsonl"], "test").is_empty());
    }

    #[test]
    fn train_takes_all_files_only_when_no_split_is_mentioned() {
        assert_eq!(
            choose(&["a.jsonl", "b.jsonl"], "train"),
            ["a.jsonl", "b.jsonl"]
        );
        assert!(choose(&["a.jsonl"], "test").is_empty());
        assert!(choose(&["test.jsonl"], "train").is_empty());
    }
}
