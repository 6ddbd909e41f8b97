//! How much of an input is held at once, and reading that stops there.
//!
//! Compression makes memory cheap to ask for: 70 kB of Zstandard can be one line of 2 GB. So every reader of this crate
//! holds at most [`MAX_RECORD`] bytes of one line, record, list element, page or cell, and at most [`MAX_WHOLE`] of what can only be
//! read whole; longer input is refused with file and line, before it is held. Values made of a record are counted too
//! ([`Budget`]), because a few bytes of JSON or Arrow can stand for many values.
//! Tested in `tests/bombs.rs`.

use std::io::{BufRead, Read, Result};

/// Most bytes of one line, CSV record, list element, Parquet page or table cell, and of the values made of it: 256 MiB.
pub(crate) const MAX_RECORD: usize = 256 << 20;

/// Most bytes of what is read whole: a `.json` document that is no list, a compressed Parquet file, a batch of a
/// compressed Arrow file: 1 GiB.
pub(crate) const MAX_WHOLE: usize = 1 << 30;

/// Most columns of a row or table.
pub(crate) const MAX_COLUMNS: usize = 100_000;

/// What one value costs beside its text, in bytes: more than a `serde_json::Value` with its place in an object.
const NODE: usize = 128;

/// Counts the memory of values while they are made.
pub(crate) struct Budget {
    left: usize,
    spent: bool,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Budget {
            left: bytes,
            spent: false,
        }
    }

    /// Takes one value with so many bytes of text; false when that is more than was left.
    pub(crate) fn take(&mut self, text: usize) -> bool {
        match self.left.checked_sub(text.saturating_add(NODE)) {
            Some(left) => self.left = left,
            None => self.spent = true,
        }
        !self.spent
    }

    /// Whether more was asked for than there was.
    pub(crate) fn is_spent(&self) -> bool {
        self.spent
    }
}

/// How a line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// With its line end, or with the file's.
    Whole,
    /// There was none.
    None,
    /// It has more bytes than the limit.
    TooLong,
}

/// Reads up to and with the next line end, behind what `line` holds.
pub(crate) fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> Result<Line> {
    let before = line.len();
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(match line.len() == before {
                true => Line::None,
                false => Line::Whole,
            });
        }
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let taken = end.map_or(buffer.len(), |end| end + 1);
        if line.len() + taken > MAX_RECORD {
            return Ok(Line::TooLong);
        }
        append(line, &buffer[..taken], MAX_RECORD);
        input.consume(taken);
        if end.is_some() {
            return Ok(Line::Whole);
        }
    }
}

/// All that is left of the input behind what `bytes` holds; false when that is more than `limit` bytes.
pub(crate) fn read_whole(input: &mut dyn Read, bytes: &mut Vec<u8>, limit: usize) -> Result<bool> {
    let mut piece = vec![0; 1 << 16];
    loop {
        let read = match input.read(&mut piece) {
            Ok(0) => return Ok(true),
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if bytes.len() + read > limit {
            return Ok(false);
        }
        append(bytes, &piece[..read], limit);
    }
}

/// Appends, doubling the space but never beyond `limit`, which the bytes must fit.
pub(crate) fn append(bytes: &mut Vec<u8>, more: &[u8], limit: usize) {
    let needed = bytes.len() + more.len();
    if needed > bytes.capacity() {
        let room = needed.max((2 * bytes.capacity()).min(limit));
        bytes.reserve_exact(room - bytes.len());
    }
    bytes.extend_from_slice(more);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_with_their_ends_and_the_last_without() {
        let mut input = &b"a\nbc"[..];
        let mut line = Vec::new();
        assert_eq!(read_line(&mut input, &mut line).unwrap(), Line::Whole);
        assert_eq!(line, b"a\n");
        assert_eq!(read_line(&mut input, &mut line).unwrap(), Line::Whole);
        assert_eq!(line, b"a\nbc");
        assert_eq!(read_line(&mut input, &mut line).unwrap(), Line::None);
    }

    #[test]
    fn what_is_read_whole_stops_at_its_limit() {
        for (limit, fits) in [(4, false), (5, true)] {
            let mut bytes = Vec::new();
            assert_eq!(
                read_whole(&mut &b"12345"[..], &mut bytes, limit).unwrap(),
                fits
            );
        }
    }

    #[test]
    fn a_budget_counts_values_and_text() {
        let mut budget = Budget::new(2 * NODE + 1);
        assert!(budget.take(0) && budget.take(1));
        assert!(!budget.take(0) && budget.is_spent());
    }
}
