//! Files written whole or not at all, and small text files read with a cap.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::ModelError;

/// A file under a temporary name in its final directory; [`AtomicFile::commit`] gives it its name,
/// dropping it without that removes it.
pub(super) struct AtomicFile {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    committed: bool,
}

impl AtomicFile {
    pub(super) fn create(path: &Path) -> Result<Self, ModelError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0); // keeps threads of one process apart
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_file_name(format!(".{name}.{}-{number}.tmp", std::process::id()));
        let file = File::create(&temporary).map_err(|source| io("create", path, source))?;
        Ok(Self {
            file,
            temporary,
            path: path.to_owned(),
            committed: false,
        })
    }

    /// The open file, to write to.
    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Flushes to the disk, renames over `path`, and records the rename in the directory.
    pub(super) fn commit(mut self) -> Result<(), ModelError> {
        let path = &self.path;
        self.file
            .sync_all()
            .map_err(|source| io("write", path, source))?;
        fs::rename(&self.temporary, path).map_err(|source| io("rename to", path, source))?;
        self.committed = true;
        sync_directory(path)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing to report to: the error that led here is on its way already.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes `bytes` to `path` through a temporary file in the same directory: flushed, then renamed,
/// so that `path` is at every moment the old file or the new one.
///
/// # Errors
/// [`ModelError::Io`] naming `path`.
pub fn write_file_atomic(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let mut file = AtomicFile::create(path)?;
    file.file()
        .write_all(bytes)
        .map_err(|source| io("write", path, source))?;
    file.commit()
}

/// The text of a file no longer than `cap` bytes.
pub(crate) fn read_text_capped(path: &Path, cap: u64) -> Result<String, ModelError> {
    let read = || {
        let mut text = String::new();
        let taken = unbraid_input::open(path)?
            .take(cap + 1)
            .read_to_string(&mut text)?;
        if taken as u64 > cap {
            let message = format!("longer than {cap} bytes, too long for what it should be");
            return Err(std::io::Error::other(message));
        }
        Ok(text)
    };
    read().map_err(|source| io("read", path, source))
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> Result<(), ModelError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| io("write", parent, source))
}

/// Other systems have no way to flush a directory; the rename itself is atomic there too.
#[cfg(not(unix))]
fn sync_directory(_: &Path) -> Result<(), ModelError> {
    Ok(())
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> ModelError {
    ModelError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
