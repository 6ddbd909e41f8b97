//! Writing a file so that a reader sees the old one or the new one, never half of one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{ReportError, Result};

/// Writes `text` to a temporary file beside `path`, flushes it to the disk and renames it to `path`.
pub(crate) fn write_atomically(path: &Path, text: &str) -> Result<()> {
    let temporary = temporary_name(path);
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&temporary)
        .and_then(|file| fill(file, text))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| {
        // The first failure is the one worth telling; a left-over temporary file is not.
        let _ = fs::remove_file(&temporary);
        ReportError::io("write", path)(source)
    })
}

fn fill(mut file: File, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// In the same directory, since a rename is atomic only inside one file system.
fn temporary_name(path: &Path) -> PathBuf {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}
