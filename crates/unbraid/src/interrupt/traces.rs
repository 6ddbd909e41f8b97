//! What a command that is ended from outside would leave behind: files under temporary names, locks, empty directories.
//!
//! Everything is written under a temporary name that has the process's number in it (`.NAME.PROCESS.tmp`,
//! `.NAME.PROCESS-COUNT.tmp`) and renamed, so what is left over can be told from everybody else's by its name, in the directories
//! that the command writes into. `kill -9` leaves all this; the next run removes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Directories and locks of this process.
struct Traces {
    /// Directories written into, and whether they were made for it.
    dirs: BTreeMap<PathBuf, bool>,
    locks: BTreeSet<PathBuf>,
}

static TRACES: Mutex<Traces> = Mutex::new(Traces {
    dirs: BTreeMap::new(),
    locks: BTreeSet::new(),
});

fn traces() -> MutexGuard<'static, Traces> {
    TRACES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The command writes into `dir`, which it has `made` or found.
pub(crate) fn writes_into(dir: &Path, made: bool) {
    let mut traces = traces();
    let known = traces.dirs.entry(dir.to_owned()).or_default();
    *known |= made;
}

/// The command holds this lock file.
pub(crate) fn locks(file: &Path) {
    traces().locks.insert(file.to_owned());
}

/// It is gone.
pub(crate) fn unlocks(file: &Path) {
    traces().locks.remove(file);
}

/// Removes what is there. What cannot be removed stays, as after `kill -9`.
pub(super) fn remove() {
    let traces = traces();
    for dir in traces.dirs.keys() {
        clear(dir, 2);
    }
    for lock in &traces.locks {
        let _ = fs::remove_file(lock);
    }
    // Inner directories come behind their outer ones.
    for (dir, _) in traces.dirs.iter().rev().filter(|(_, made)| **made) {
        let _ = fs::remove_dir(dir); // refused unless it is empty
    }
}

/// Removes this process's temporary files from `dir` and the directories in it.
fn clear(dir: &Path, levels: usize) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir && levels > 1 {
            clear(&entry.path(), levels - 1);
        } else if !is_dir && is_temporary(&name.to_string_lossy(), std::process::id()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether a file of this name is one that the process was writing.
fn is_temporary(name: &str, process: u32) -> bool {
    let inner = name.strip_prefix('.').and_then(|n| n.strip_suffix(".tmp"));
    let number = inner.and_then(|n| n.rsplit_once('.')).map(|(_, n)| n);
    let number = number.map(|n| n.split_once('-').map_or(n, |(process, _)| process));
    number == Some(process.to_string().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_temporary_files_are_removed() {
        for name in [".report.html.12.tmp", ".model.safetensors.12-3.tmp"] {
            assert!(is_temporary(name, 12), "{name}");
        }
        for name in [
            ".a.12-3.tmp.x",
            ".a.123.tmp",
            ".a.1-12.tmp",
            "a.12.tmp",
            ".12.tmp",
        ] {
            assert!(!is_temporary(name, 12), "{name}");
        }
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let own = format!(".x.{}-1.tmp", std::process::id());
        for path in [
            dir.path().join(&own),
            inner.join(&own),
            inner.join("x"),
            inner.join(".x.1.tmp"),
        ] {
            fs::write(path, "").unwrap();
        }
        clear(dir.path(), 2);
        let left = fs::read_dir(&inner).unwrap().count();
        assert_eq!((left, fs::read_dir(dir.path()).unwrap().count()), (2, 1));
    }
}
