//! One run to an output directory: an exclusive lock on `.unbraid.lock` in it.
//!
//! The lock is the operating system's, so it goes with the process however that ends; the file alone means nothing, and
//! one that a killed run left is taken over. It is removed while the lock is still held. A run that had opened it before
//! would then hold a lock that nobody sees, so a lock counts only if its file is still the one under that name (on
//! Unix; elsewhere the standard library cannot tell, and an open file keeps its name anyway).
//! Tested in `tests/output_dir.rs`; `kill -9` in `tests/resume.rs`.

use super::output;
use crate::interrupt::traces;
use anyhow::{Context, Result, bail};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// The file's name; it is no content of a directory.
pub(crate) const LOCK_FILE: &str = ".unbraid.lock";

/// The right to write into an output directory, until it is dropped.
pub(crate) struct DirLock {
    dir: PathBuf,
    /// Whether the directory was made for it.
    made: bool,
    /// The lock itself.
    _file: File,
}

impl DirLock {
    /// Makes `dir` if it is not there, and locks it.
    pub(crate) fn take(dir: &Path) -> Result<Self> {
        let made = !dir.exists();
        output::prepare_dir(dir, true)?;
        let path = dir.join(LOCK_FILE);
        loop {
            let options = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path);
            let file = options.with_context(|| format!("cannot create {}", path.display()))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => bail!(
                    "--output-dir {}: another run is writing there\n\
                     hint: wait until it has ended, or choose another directory",
                    dir.display()
                ),
                Err(TryLockError::Error(error)) => note!(
                    "{} cannot be locked ({error}): another run in this directory would go unnoticed",
                    path.display()
                ),
            }
            if still_there(&file, &path) {
                traces::locks(&path);
                return Ok(DirLock {
                    dir: dir.to_owned(),
                    made,
                    _file: file,
                });
            }
        }
    }
}

/// Whether the open file is the one under this name.
#[cfg(unix)]
fn still_there(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let (Ok(held), Ok(named)) = (file.metadata(), fs::metadata(path)) else {
        return false;
    };
    (held.dev(), held.ino()) == (named.dev(), named.ino())
}

#[cfg(not(unix))]
fn still_there(_: &File, _: &Path) -> bool {
    true
}

/// Removes a lock that a killed run left in `dir`; one that is held stays.
pub(crate) fn clear_stale(dir: &Path) {
    let path = dir.join(LOCK_FILE);
    // Not made if it is not there.
    let Ok(file) = File::options().write(true).open(&path) else {
        return;
    };
    if file.try_lock().is_ok() && still_there(&file, &path) {
        let _ = fs::remove_file(&path); // harmless if it stays
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // A file that stays is harmless.
        let path = self.dir.join(LOCK_FILE);
        let _ = fs::remove_file(&path);
        traces::unlocks(&path);
        if self.made {
            // Only an empty directory goes: a start that failed leaves no trace.
            let _ = fs::remove_dir(&self.dir);
        }
    }
}
