//! Reading little-endian values off a byte slice, every step checked against its end.

use std::path::Path;

use crate::error::ModelError;

/// A position in a GGUF file's bytes.
pub(super) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, at: 0 }
    }

    /// Bytes from the start of the file.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// What has not been read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    pub(super) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// The next `n` bytes, which are `what`.
    pub(super) fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8], ModelError> {
        let taken = usize::try_from(n)
            .ok()
            .and_then(|n| self.bytes[self.at..].get(..n))
            .ok_or_else(|| ModelError::Truncated {
                path: self.path.to_owned(),
                detail: format!(
                    "{what} takes {n} bytes from offset {}, the file ends at {}",
                    self.at,
                    self.bytes.len()
                ),
            })?;
        self.at += taken.len();
        Ok(taken)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, ModelError> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_le_bytes(
            bytes.try_into().expect("four bytes taken"),
        ))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, ModelError> {
        let bytes = self.take(8, what)?;
        Ok(u64::from_le_bytes(
            bytes.try_into().expect("eight bytes taken"),
        ))
    }

    /// A length and that many bytes of UTF-8, at most `cap`.
    pub(super) fn text(&mut self, cap: u64, what: &str) -> Result<&'a str, ModelError> {
        let length = self.u64(what)?;
        if length > cap {
            return Err(self.invalid(format!(
                "{what} declares {length} bytes, the limit is {cap}"
            )));
        }
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|_| self.invalid(format!("{what} is not UTF-8")))
    }

    /// An error about a count for which the rest of the file has no room.
    pub(super) fn too_many(&self, count: u64, what: &str) -> ModelError {
        ModelError::Truncated {
            path: self.path.to_owned(),
            detail: format!(
                "declares {count} {what}, more than fit into the {} bytes after offset {}",
                self.remaining(),
                self.at
            ),
        }
    }

    /// An error about what was read last.
    pub(super) fn invalid(&self, detail: String) -> ModelError {
        super::invalid(self.path, format!("{detail} (near offset {})", self.at))
    }
}
