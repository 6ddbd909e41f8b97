//! The Hugging Face hub: data sets and models by `org/name`, through the hub's own cache.
//!
//! `HF_HOME` (or `HF_HUB_CACHE`) says where the cache is, `HF_TOKEN` opens gated repositories, `HF_ENDPOINT` names a
//! mirror, and with `HF_HUB_OFFLINE` only the cache is looked at. This is the one place below the binary that reads
//! the environment, because the cache is shared with other programs by these names.
//! Tested in `tests/hub.rs` against a cache made by hand and a small server on this machine.

mod client;

use std::path::{Path, PathBuf};

use client::Client;
use hf_hub::{Cache, Repo, RepoType};

use crate::error::{PreferenceError, Result};
use crate::read::{FileType, unread};
use crate::split::{choose_files, files_of_directory};

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
    fetch(id, RepoType::Model, |names, _| {
        let wanted: Vec<String> = names
            .iter()
            .filter(|name| is_model_file(name))
            .cloned()
            .collect();
        let configured = |name: &String| name == "config.json" || name == "adapter_config.json";
        if wanted.iter().any(configured) {
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

/// Downloads the files of a split, and the README that may name them, unless the cache has them.
pub(crate) fn fetch_dataset_split(
    id: &str,
    config: Option<&str>,
    split: &str,
) -> Result<Vec<PathBuf>> {
    let snapshot = fetch(id, RepoType::Dataset, |names, get| {
        let mut readme = None;
        if names.iter().any(|name| name == "README.md") {
            let path = get("README.md")?;
            let bytes = unbraid_input::read(&path).map_err(unread(&path))?;
            readme = Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        let is_data = |name: &&String| FileType::of(Path::new(name)).is_some();
        let mut data: Vec<String> = names.iter().filter(is_data).cloned().collect();
        data.sort();
        choose_files(id, data, readme.as_deref(), config, split)
    })?;
    files_of_directory(&snapshot, config, split)
}

/// Files of a model repository that loading it can need: those at its top, and named chat templates.
fn is_model_file(name: &str) -> bool {
    const NAMES: [&str; 12] = [
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
    ];
    let named_template = name.starts_with("additional_chat_templates/") && name.ends_with(".jinja");
    NAMES.contains(&name)
        || (name.ends_with(".safetensors") && !name.contains('/'))
        || named_template
}

const HINT: &str =
    "check the name and the connection; a gated repository needs HF_TOKEN; or give a local path";

/// Downloads one file of a repository unless the cache has it.
type Get<'a> = dyn Fn(&str) -> Result<PathBuf> + 'a;

/// Fetches the files that `choose` picks from the repository's list, and returns the snapshot's directory.
fn fetch(
    id: &str,
    repo_type: RepoType,
    choose: impl FnOnce(&[String], &Get<'_>) -> Result<Vec<String>>,
) -> Result<PathBuf> {
    let cache = cache();
    let main = Repo::new(id.to_owned(), repo_type);
    let dir = cache.path().join(main.folder_name());
    if is_set("HF_HUB_OFFLINE") {
        const OFFLINE: &str = "unset HF_HUB_OFFLINE, or give a local path";
        let reason = "HF_HUB_OFFLINE is set and the cache does not have it".to_owned();
        return cached_snapshot(&dir).ok_or_else(|| fault(id, reason, OFFLINE));
    }
    let failed = |reason: String| fault(id, reason, HINT);
    let client = Client::new(&cache).map_err(failed)?;
    let info = match client.info(id, repo_type) {
        Ok(info) => info,
        // Without a connection what the cache has is still good.
        Err(reason) => return cached_snapshot(&dir).ok_or_else(|| failed(reason)),
    };
    let commit = info.sha;
    if commit.is_empty() || !commit.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(fault(
            id,
            format!("the hub names the odd commit {commit:?}"),
            HINT,
        ));
    }
    // Names become paths below the cache, so none may lead out of it.
    let inside = |name: &String| !name.starts_with('/') && name.split('/').all(|part| part != "..");
    let names: Vec<String> = info
        .siblings
        .into_iter()
        .map(|file| file.rfilename)
        .filter(inside)
        .collect();
    // All files of one commit, even when the branch moves meanwhile.
    let pinned = Repo::with_revision(id.to_owned(), repo_type, commit.clone());
    let keep = |repo: &Repo| {
        let kept = cache.repo(repo.clone()).create_ref(&commit);
        kept.map_err(|source| PreferenceError::Read {
            path: dir.clone(),
            source,
        })
    };
    keep(&pinned)?;
    let get = |name: &str| {
        let file = client.download(&cache, (id, repo_type), &commit, name);
        file.map_err(failed)
    };
    for name in choose(&names, &get)? {
        get(&name)?;
    }
    keep(&main)?;
    Ok(dir.join("snapshots").join(commit))
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

/// The snapshot that `refs/main` in a repository's cache directory names.
fn cached_snapshot(dir: &Path) -> Option<PathBuf> {
    let commit = std::fs::read_to_string(dir.join("refs/main")).ok()?;
    let snapshot = dir.join("snapshots").join(commit.trim());
    snapshot.is_dir().then_some(snapshot)
}
