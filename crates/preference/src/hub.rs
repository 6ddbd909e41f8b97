//! The Hugging Face hub: data sets and models by `org/name`, through the hub's own cache.
//!
//! `HF_HOME` (or `HF_HUB_CACHE`) says where the cache is, `HF_TOKEN` opens gated repositories, `HF_ENDPOINT` names a
//! mirror, and with `HF_HUB_OFFLINE` only the cache is looked at. This is the one place below the binary that reads
//! the environment, because the cache is shared with other programs by these names.
//! Tested in `tests/hub.rs` against a cache made by hand; downloading itself is the `hf-hub` crate's.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use crate::error::{PreferenceError, Result};
use crate::read::FileType;
use crate::split::{files_of_directory, files_of_split};

/// Whether a name could be a hub id: `org/name` of letters, digits, `-`, `_` and `.`, and no path.
pub fn is_hub_id(name: &str) -> bool {
    let good = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    let data_file = FileType::of(Path::new(name)).is_some();
    !data_file
        && name
            .split_once('/')
            .is_some_and(|(org, name)| good(org) && good(name))
}

/// Downloads what a model directory needs (configuration, safetensors, tokenizer, chat template) unless the cache
/// has it, and returns the snapshot's directory.
///
/// # Errors
/// [`PreferenceError::Hub`] when it is neither in the cache nor to be had.
pub fn fetch_model_repo(id: &str) -> Result<PathBuf> {
    fetch(id, RepoType::Model, |names| {
        let wanted: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| is_model_file(name))
            .collect();
        if wanted.contains(&"config.json") || wanted.contains(&"adapter_config.json") {
            Ok(wanted)
        } else {
            Err(fault(
                id,
                "the repository has no config.json".to_owned(),
                "is it a model in Hugging Face layout?",
            ))
        }
    })
}

/// Downloads the files of a split unless the cache has them.
pub(crate) fn fetch_dataset_split(id: &str, split: &str) -> Result<Vec<PathBuf>> {
    let snapshot = fetch(id, RepoType::Dataset, |names| {
        let found: Vec<String> = names
            .iter()
            .filter(|name| FileType::of(Path::new(name)).is_some())
            .cloned()
            .collect();
        let chosen: Vec<String> = files_of_split(&found, split)
            .into_iter()
            .map(str::to_owned)
            .collect();
        let wanted: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| chosen.iter().any(|c| c == name))
            .collect();
        if wanted.is_empty() {
            return Err(PreferenceError::NoSplit {
                dir: id.to_owned(),
                split: split.to_owned(),
                found,
            });
        }
        Ok(wanted)
    })?;
    files_of_directory(&snapshot, split)
}

/// Files at the top of a model repository that loading it can need.
fn is_model_file(name: &str) -> bool {
    const NAMES: [&str; 13] = [
        "config.json",
        "generation_config.json",
        "adapter_config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "chat_template.jinja",
        "README.md",
    ];
    NAMES.contains(&name) && name != "README.md"
        || (name.ends_with(".safetensors") && !name.contains('/'))
}

/// Fetches the files that `choose` picks from the repository's list, and returns the snapshot's directory.
fn fetch(
    id: &str,
    repo_type: RepoType,
    choose: impl FnOnce(&[String]) -> Result<Vec<&str>>,
) -> Result<PathBuf> {
    let cache = cache();
    if is_set("HF_HUB_OFFLINE") {
        return cached_snapshot(&cache, id, repo_type).ok_or_else(|| {
            fault(
                id,
                "HF_HUB_OFFLINE is set and the cache does not have it".to_owned(),
                "unset HF_HUB_OFFLINE, or give a local path",
            )
        });
    }
    let online = fetch_online(&cache, id, repo_type, choose);
    match online {
        // Without a connection what is in the cache is still good.
        Err(PreferenceError::Hub { .. }) => {
            cached_snapshot(&cache, id, repo_type).map_or(online, Ok)
        }
        other => other,
    }
}

fn fetch_online(
    cache: &Cache,
    id: &str,
    repo_type: RepoType,
    choose: impl FnOnce(&[String]) -> Result<Vec<&str>>,
) -> Result<PathBuf> {
    const HINT: &str = "check the name and the connection; a gated repository needs HF_TOKEN; or give a local path";
    let failed = |error: hf_hub::api::sync::ApiError| fault(id, error.to_string(), HINT);
    let mut builder = ApiBuilder::from_cache(cache.clone())
        .with_progress(false)
        .with_retries(2);
    if let Ok(endpoint) = std::env::var("HF_ENDPOINT") {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(token) = std::env::var("HF_TOKEN")
        .ok()
        .filter(|token| !token.is_empty())
    {
        builder = builder.with_token(Some(token));
    }
    let repo: ApiRepo = builder
        .build()
        .map_err(failed)?
        .repo(Repo::new(id.to_owned(), repo_type));
    let info = repo.info().map_err(failed)?;
    let names: Vec<String> = info
        .siblings
        .into_iter()
        .map(|file| file.rfilename)
        .collect();
    let mut snapshot = None;
    for name in choose(&names)? {
        let path = repo.get(name).map_err(failed)?;
        snapshot = path
            .ancestors()
            .nth(name.split('/').count())
            .map(Path::to_owned);
    }
    snapshot.ok_or_else(|| fault(id, "the repository is empty".to_owned(), HINT))
}

fn fault(id: &str, reason: String, hint: &'static str) -> PreferenceError {
    PreferenceError::Hub {
        id: id.to_owned(),
        reason,
        hint,
    }
}

fn is_set(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| {
        !matches!(
            value.to_ascii_lowercase().as_str(),
            "" | "0" | "false" | "no" | "off"
        )
    })
}

fn cache() -> Cache {
    match std::env::var("HF_HUB_CACHE") {
        Ok(path) if !path.is_empty() => Cache::new(path.into()),
        _ => Cache::from_env(),
    }
}

/// The snapshot that the cache's `refs/main` names.
fn cached_snapshot(cache: &Cache, id: &str, repo_type: RepoType) -> Option<PathBuf> {
    let dir = cache
        .path()
        .join(Repo::new(id.to_owned(), repo_type).folder_name());
    let commit = std::fs::read_to_string(dir.join("refs/main")).ok()?;
    let snapshot = dir.join("snapshots").join(commit.trim());
    snapshot.is_dir().then_some(snapshot)
}
