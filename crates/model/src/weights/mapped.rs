//! A file mapped read-only into memory.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::ModelError;

/// A mapped file, its path, and its handle to see whether its length still holds.
#[derive(Debug)]
pub(super) struct MappedFile {
    path: PathBuf,
    file: File,
    map: Mmap,
}

impl MappedFile {
    pub(super) fn open(path: &Path) -> Result<Self, ModelError> {
        let io = |action| {
            move |source| ModelError::Io {
                action,
                path: path.to_owned(),
                source,
            }
        };
        let file = unbraid_input::open(path).map_err(io("open"))?;
        let length = file.metadata().map_err(io("open"))?.len();
        if length == 0 {
            return Err(ModelError::Truncated {
                path: path.to_owned(),
                detail: "the file is empty".to_owned(),
            });
        }
        // SAFETY: the mapping is read-only and private to this struct, which keeps the file open.
        // Another process that writes to the file can change the bytes seen, which are plain data
        // decoded by value; the file's length is checked before each read (`check_unchanged`).
        let map = unsafe { Mmap::map(&file) }.map_err(io("map"))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            map,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// An error where the file no longer has the length it was mapped with: touching pages beyond
    /// its end would end the process.
    pub(super) fn check_unchanged(&self) -> Result<(), ModelError> {
        let now = self
            .file
            .metadata()
            .map_err(|source| ModelError::Io {
                action: "read",
                path: self.path.clone(),
                source,
            })?
            .len();
        let opened = self.map.len() as u64;
        if now == opened {
            return Ok(());
        }
        Err(ModelError::FileChanged {
            path: self.path.clone(),
            opened,
            now,
        })
    }
}
