//! Reading little-endian values off the start of a file, every step checked against the file's end.

use std::path::Path;

use crate::error::ModelError;

/// What a [`ModelError::Truncated`] says when the file goes on but the bytes at hand do not.
const NOT_YET_READ: &str = "the header goes on";

/// A position in a GGUF file.
pub(super) struct Cursor<'a> {
    path: &'a Path,
    /// What was read of the file.
    bytes: &'a [u8],
    /// How long the file is.
    length: u64,
    at: usize,
}

/// Whether an error only means that more of the file has to be read.
pub(super) fn wants_more(error: &ModelError) -> bool {
    matches!(error, ModelError::Truncated { detail, .. } if detail == NOT_YET_READ)
}

impl<'a> Cursor<'a> {
    /// A cursor over the first `bytes` of a file of `length`.
    pub(super) fn new(path: &'a Path, bytes: &'a [u8], length: u64) -> Self {
        Self {
            path,
            bytes,
            length,
            at: 0,
        }
    }

    /// Another cursor over what has not been read yet.
    pub(super) fn ahead(&self) -> Self {
        Self::new(self.path, &self.bytes[self.at..], self.remaining())
    }

    /// Bytes from the start of the file.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Bytes between here and the end of the file.
    pub(super) fn remaining(&self) -> u64 {
        self.length.saturating_sub(self.at as u64)
    }

    /// The next `n` bytes, which are `what`.
    pub(super) fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8], ModelError> {
        let taken = usize::try_from(n)
            .ok()
            .and_then(|n| self.bytes[self.at..].get(..n))
            .ok_or_else(|| ModelError::Truncated {
                path: self.path.to_owned(),
                detail: match n <= self.remaining() {
                    true => NOT_YET_READ.to_owned(),
                    false => format!(
                        "{what} takes {n} bytes from offset {}, the file ends at {}",
                        self.at, self.length
                    ),
                },
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
