//! The Hugging Face hub: data sets and models by `org/name`, through the hub's own cache.
//!
//! `HF_HOME` (or `HF_HUB_CACHE`) says where the cache is, `HF_TOKEN` opens gated repositories, `HF_ENDPOINT` names a
//! mirror, and with `HF_HUB_OFFLINE` only the cache is looked at. `HF_HUB_ETAG_TIMEOUT` and `HF_HUB_DOWNLOAD_TIMEOUT` say how
//! many seconds the hub may take to answer and may send nothing of a file (10 each). This
//! is the one place below the binary that reads the environment, because these names are shared with other programs.
//! Tested in `tests/hub.rs` against a cache made by hand and a small server on this machine.

mod client;

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

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
    let client = Arc::new(Client::new(&cache).map_err(failed)?);
    let limits = Limits::of_environment();
    let (asking, asked) = (Arc::clone(&client), id.to_owned());
    let info = within(limits.answer, limits.answer, move |_| {
        asking.info(&asked, repo_type)
    });
    let info = match info {
        Some(Ok(info)) => info,
        // Without a connection what the cache has is still good.
        Some(Err(reason)) => return cached_snapshot(&dir).ok_or_else(|| failed(reason)),
        None => {
            let seconds = limits.answer.as_secs();
            let reason = format!("it does not answer within {seconds} s (HF_HUB_ETAG_TIMEOUT)");
            return cached_snapshot(&dir).ok_or_else(|| failed(reason));
        }
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
    let get = |name: &str| -> Result<PathBuf> {
        let (asking, asked, file) = (Arc::clone(&client), id.to_owned(), name.to_owned());
        let (cache, commit) = (cache.clone(), commit.clone());
        let first = limits.answer + limits.silence;
        let got = within(first, limits.silence, move |goes| {
            asking.download(&cache, (&asked, repo_type), &commit, &file, goes)
        });
        let seconds = limits.silence.as_secs();
        let silent = format!("nothing of {name} comes for {seconds} s (HF_HUB_DOWNLOAD_TIMEOUT)");
        got.ok_or_else(|| failed(silent))?.map_err(failed)
    };
    for name in choose(&names, &get)? {
        get(&name)?;
    }
    keep(&main)?;
    Ok(dir.join("snapshots").join(commit))
}

/// How long the hub is waited for.
struct Limits {
    /// Until it answers a question.
    answer: Duration,
    /// While it sends nothing of a file.
    silence: Duration,
}

impl Limits {
    fn of_environment() -> Self {
        let seconds = |name: &str| {
            let given = std::env::var(name).ok().and_then(|text| text.parse().ok());
            Duration::from_secs(given.filter(|&seconds| seconds > 0).unwrap_or(10))
        };
        Limits {
            answer: seconds("HF_HUB_ETAG_TIMEOUT"),
            silence: seconds("HF_HUB_DOWNLOAD_TIMEOUT"),
        }
    }
}

/// What is heard of work on another thread.
enum News<T> {
    Goes,
    Done(T),
}

/// Runs `work` on a thread of its own; `None` when nothing was heard of it for `first`, or later for `then`. It calls what it
/// is given whenever something came. The client has no limit on silence of its own; a thread that is given up waits on and
/// ends with the process.
fn within<T: Send + 'static>(
    first: Duration,
    then: Duration,
    work: impl FnOnce(&dyn Fn()) -> T + Send + 'static,
) -> Option<T> {
    let (sender, news) = mpsc::channel();
    let report = move |sender: Sender<News<T>>| {
        let goes = || {
            let _ = sender.send(News::Goes); // who no longer listens has given up
        };
        let done = work(&goes);
        let _ = sender.send(News::Done(done));
    };
    let thread = std::thread::spawn(move || report(sender));
    let mut limit = first;
    loop {
        match news.recv_timeout(limit) {
            Ok(News::Goes) => limit = then,
            Ok(News::Done(done)) => return Some(done),
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => match thread.join() {
                Err(payload) => resume_unwind(payload),
                Ok(()) => return None,
            },
        }
    }
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
