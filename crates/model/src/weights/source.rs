//! A file of weights, read where it is asked for.
//!
//! Files are read, not mapped: what is read is decoded into memory of our own anyway, and a mapped file that another
//! program cuts short ends the process (SIGBUS), where a read fails and is reported.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::ModelError;

/// How much is read at a time, about.
const STRETCH: usize = 1 << 20;

/// An open file, its path, and the length it had when opened.
#[derive(Debug)]
pub(super) struct SourceFile {
    path: PathBuf,
    file: Mutex<File>,
    length: u64,
}

impl SourceFile {
    pub(super) fn open(path: &Path) -> Result<Self, ModelError> {
        let io = |source| ModelError::Io {
            action: "open",
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        if length == 0 {
            return Err(ModelError::Truncated {
                path: path.to_owned(),
                detail: "the file is empty".to_owned(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(file),
            length,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes when it was opened.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// These bytes of the file; the caller has checked that they lie inside it and are few enough to hold.
    pub(super) fn read(&self, range: Range<usize>) -> Result<Vec<u8>, ModelError> {
        let mut bytes = vec![0; range.len()];
        self.fill(range.start as u64, &mut bytes)?;
        Ok(bytes)
    }

    /// Hands over these bytes of the file in order, a stretch at a time; every stretch but the last is a multiple of
    /// `unit` bytes.
    pub(super) fn stream(
        &self,
        range: Range<usize>,
        unit: usize,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), ModelError> {
        let step = (STRETCH / unit).max(1) * unit;
        let mut bytes = vec![0; step.min(range.len())];
        let mut at = range.start;
        while at < range.end {
            let stretch = &mut bytes[..step.min(range.end - at)];
            self.fill(at as u64, stretch)?;
            each(stretch);
            at += stretch.len();
        }
        Ok(())
    }

    /// Whether two ranges of the file hold the same bytes.
    pub(super) fn equal(&self, a: Range<usize>, b: Range<usize>) -> Result<bool, ModelError> {
        if a.len() != b.len() {
            return Ok(false);
        }
        for at in (0..a.len()).step_by(STRETCH) {
            let end = a.len().min(at + STRETCH);
            let part = |range: &Range<usize>| self.read(range.start + at..range.start + end);
            if part(&a)? != part(&b)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn fill(&self, at: u64, bytes: &mut [u8]) -> Result<(), ModelError> {
        // A panic while it was held left nothing behind but a position, which is set again.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let read = file
            .seek(SeekFrom::Start(at))
            .and_then(|_| file.read_exact(bytes));
        drop(file);
        match read {
            Ok(()) => Ok(()),
            Err(source) if source.kind() == ErrorKind::UnexpectedEof => {
                self.check_unchanged()?;
                Err(self.unreadable(source))
            }
            Err(source) => Err(self.unreadable(source)),
        }
    }

    fn unreadable(&self, source: std::io::Error) -> ModelError {
        ModelError::Io {
            action: "read",
            path: self.path.clone(),
            source,
        }
    }

    /// An error where the file no longer has the length it was opened with.
    pub(super) fn check_unchanged(&self) -> Result<(), ModelError> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let now = file.metadata().map_err(|source| self.unreadable(source))?;
        match now.len() == self.length {
            true => Ok(()),
            false => Err(ModelError::FileChanged {
                path: self.path.clone(),
                opened: self.length,
                now: now.len(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a mapped file answers with a signal.
    #[test]
    fn a_file_cut_short_during_a_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        let length = 3 * STRETCH;
        std::fs::write(&path, vec![7; length]).unwrap();
        let file = SourceFile::open(&path).unwrap();
        let mut seen = 0;
        let cut = |bytes: &[u8]| {
            seen += bytes.len();
            let writer = File::options().write(true).open(&path).unwrap();
            writer.set_len(STRETCH as u64 + 5).unwrap();
        };
        let error = file.stream(0..length, 4, cut).unwrap_err();
        assert_eq!(seen, STRETCH);
        assert!(matches!(error, ModelError::FileChanged { .. }), "{error}");
        let message = file.read(length - 8..length).unwrap_err().to_string();
        assert!(message.contains("changed while in use"), "{message}");
        assert!(file.equal(0..8, length - 8..length).is_err());
    }

    #[test]
    fn stretches_are_whole_units_and_join_to_the_range() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        let bytes: Vec<u8> = (0..2 * STRETCH + 100).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = SourceFile::open(&path).unwrap();
        let (mut joined, mut lengths) = (Vec::new(), Vec::new());
        file.stream(3..bytes.len(), 18, |part| {
            joined.extend_from_slice(part);
            lengths.push(part.len());
        })
        .unwrap();
        assert_eq!(joined, bytes[3..]);
        assert!(lengths[..lengths.len() - 1].iter().all(|n| n % 18 == 0));
        assert!(file.equal(0..251, 251..502).unwrap());
        assert!(!file.equal(0..251, 250..501).unwrap());
    }
}
