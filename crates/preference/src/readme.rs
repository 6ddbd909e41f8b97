//! Configurations of a data set, as the hub's `README.md` declares them, and the file patterns they name.
//!
//! ```yaml
//! configs:                      # between the `---` lines at the top
//! - config_name: default
//!   default: true               # optional
//!   data_files:                 # one pattern, a list of them (split train), or a list of
//!   - split: train              #   {split, path: one pattern or a list}
//!     path: data/train-*.parquet
//! ```
//!
//! Patterns know `*`, `?` (within a name) and `**` (across directories). Without `configs` a configuration is a
//! directory. Left out: `data_dir`, character classes, and everything else in that header. Tested here.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    configs: Vec<Config>,
}

/// One configuration.
#[derive(Deserialize, Debug)]
pub(crate) struct Config {
    #[serde(default = "default_name")]
    config_name: String,
    #[serde(default)]
    default: bool,
    data_files: Option<DataFiles>,
}

fn default_name() -> String {
    "default".to_owned()
}

#[derive(Deserialize, Debug)]
#[serde(untagged)]
enum DataFiles {
    Train(Patterns),
    Splits(Vec<SplitFiles>),
    Named(BTreeMap<String, Patterns>),
}

#[derive(Deserialize, Debug)]
struct SplitFiles {
    split: String,
    path: Patterns,
}

#[derive(Deserialize, Debug, Clone)]
#[serde(untagged)]
enum Patterns {
    One(String),
    Many(Vec<String>),
}

impl Patterns {
    fn list(&self) -> Vec<String> {
        match self {
            Self::One(pattern) => vec![pattern.clone()],
            Self::Many(patterns) => patterns.clone(),
        }
    }
}

impl Config {
    pub(crate) fn name(&self) -> &str {
        &self.config_name
    }

    /// Splits with their patterns.
    pub(crate) fn splits(&self) -> Vec<(String, Vec<String>)> {
        match &self.data_files {
            None => Vec::new(),
            Some(DataFiles::Train(patterns)) => vec![("train".to_owned(), patterns.list())],
            Some(DataFiles::Splits(splits)) => splits
                .iter()
                .map(|s| (s.split.clone(), s.path.list()))
                .collect(),
            Some(DataFiles::Named(splits)) => splits
                .iter()
                .map(|(split, path)| (split.clone(), path.list()))
                .collect(),
        }
    }
}

/// The configurations that name data files; none for a README without such a header, or with one that is no YAML.
pub(crate) fn configs(readme: &str) -> Vec<Config> {
    let text = readme.strip_prefix('\u{FEFF}').unwrap_or(readme);
    let header = text
        .strip_prefix("---")
        .and_then(|rest| rest.split_once("\n---"));
    let Some((header, _)) = header else {
        return Vec::new();
    };
    let header: Header = serde_saphyr::from_str(header).unwrap_or(Header {
        configs: Vec::new(),
    });
    let named = header.configs.into_iter();
    named.filter(|config| config.data_files.is_some()).collect()
}

/// The configuration of that name; without a name the only one, the one marked `default`, or the one called so.
pub(crate) fn choose<'a>(configs: &'a [Config], name: Option<&str>) -> Option<&'a Config> {
    if let Some(name) = name {
        return configs.iter().find(|config| config.config_name == name);
    }
    let only = (configs.len() == 1).then(|| &configs[0]);
    only.or_else(|| configs.iter().find(|config| config.default))
        .or_else(|| {
            configs
                .iter()
                .find(|config| config.config_name == "default")
        })
}

/// Whether a relative path fits a pattern.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    fits(pattern.trim_start_matches("./").as_bytes(), path.as_bytes())
}

fn fits(pattern: &[u8], path: &[u8]) -> bool {
    match pattern {
        [] => path.is_empty(),
        [b'*', b'*', b'/', rest @ ..] if fits(rest, path) => true,
        [b'*', b'*', rest @ ..] => (0..=path.len()).any(|n| fits(rest, &path[n..])),
        [b'*', rest @ ..] => {
            let name = path.iter().position(|&b| b == b'/').unwrap_or(path.len());
            (0..=name).any(|n| fits(rest, &path[n..]))
        }
        [b'?', rest @ ..] => path
            .split_first()
            .is_some_and(|(&b, path)| b != b'/' && fits(rest, path)),
        [byte, rest @ ..] => path
            .split_first()
            .is_some_and(|(b, path)| b == byte && fits(rest, path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_hubs_do() {
        for (pattern, path, fit) in [
            ("data/train-*", "data/train-00000-of-00001.parquet", true),
            ("data/train-*", "data/test-00000-of-00001.parquet", false),
            ("*.jsonl", "a.jsonl", true),
            ("*.jsonl", "b/a.jsonl", false),
            ("**/*.jsonl", "a.jsonl", true),
            ("**/*.jsonl", "c/b/a.jsonl", true),
            ("./a?.csv", "a1.csv", true),
            ("a?.csv", "a.csv", false),
        ] {
            assert_eq!(matches(pattern, path), fit, "{pattern} {path}");
        }
    }

    #[test]
    fn every_way_to_write_data_files_is_read() {
        let readme = "---\nlicense: mit\nconfigs:\n- config_name: a\n  data_files: a.csv\n- config_name: b\n  default: true\n  \
                      data_files:\n  - split: train\n    path: [b1.csv, b2.csv]\n  - split: test\n    path: t.csv\n\
                      - config_name: c\n  data_files: [c1.csv, c2.csv]\n- config_name: none\n---\n# Text\n";
        let configs = configs(readme);
        let names: Vec<&str> = configs.iter().map(Config::name).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let owned = |s: &str, p: &[&str]| (s.to_owned(), p.iter().map(|&p| p.to_owned()).collect());
        assert_eq!(configs[0].splits(), [owned("train", &["a.csv"])]);
        assert_eq!(
            configs[1].splits(),
            [
                owned("train", &["b1.csv", "b2.csv"]),
                owned("test", &["t.csv"])
            ]
        );
        assert_eq!(configs[2].splits(), [owned("train", &["c1.csv", "c2.csv"])]);
        assert_eq!(choose(&configs, None).map(Config::name), Some("b"));
        assert_eq!(choose(&configs, Some("c")).map(Config::name), Some("c"));
        assert!(choose(&configs, Some("d")).is_none());
    }

    #[test]
    fn a_readme_without_such_a_header_names_nothing() {
        for readme in [
            "",
            "# Title",
            "---\nlicense: mit\n---\n",
            "---\n{broken\n---\n",
            "---\nconfigs: 3\n---\n",
        ] {
            assert!(configs(readme).is_empty(), "{readme:?}");
        }
    }
}
