//! Reading the files of a diagnosis with bounded memory: lines one by one, and whole JSON files up to a size.
//!
//! Without its rows a diagnosis has no page, so a file of rows that cannot be read is an error; everything else that is
//! damaged becomes a note on the page.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

use serde::Deserialize;

use crate::error::{ReportError, Result};

/// No line of ours is longer; a longer one is noted and skipped.
const MAX_LINE_BYTES: u64 = 32 << 20;

/// Gives each line that is not blank to `take`; says as notes which ones it refused.
pub(crate) fn for_each_line(
    path: &Path,
    mut take: impl FnMut(&[u8]) -> bool,
) -> Result<Vec<String>> {
    let file = unbraid_input::open(path).map_err(ReportError::io("read", path))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let (mut line, mut refused, mut cut) = (Vec::new(), Vec::new(), false);
    for number in 1_u64.. {
        line.clear();
        let read = reader
            .by_ref()
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)
            .map_err(ReportError::io("read", path))?;
        if read == 0 {
            break;
        }
        let whole = line.last() == Some(&b'\n');
        if line.trim_ascii().is_empty() || take(&line) {
            continue;
        }
        if whole {
            refused.push(number);
        } else if reader
            .fill_buf()
            .map_err(ReportError::io("read", path))?
            .is_empty()
        {
            cut = true;
        } else {
            refused.push(number);
            reader
                .skip_until(b'\n')
                .map_err(ReportError::io("read", path))?;
        }
    }
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    let mut notes = Vec::new();
    if cut {
        notes.push(format!(
            "the last line of {name} is cut short: the diagnosis was stopped while writing"
        ));
    }
    if let Some(first) = refused.first() {
        let count = refused.len();
        let lines = if count == 1 { "line" } else { "lines" };
        notes.push(format!(
            "{count} unreadable {lines} in {name} left out (first: line {first})"
        ));
    }
    Ok(notes)
}

/// A whole JSON file of at most `limit` bytes; `None` when absent, with a note when it cannot be used.
pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(
    path: &Path,
    limit: u64,
    notes: &mut Vec<String>,
) -> Option<T> {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut bytes = Vec::new();
    let read =
        unbraid_input::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
    let why = match read {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => format!("cannot be read ({error})"),
        Ok(count) if count as u64 > limit => format!("is longer than {limit} bytes"),
        Ok(_) => match serde_json::from_slice(&bytes) {
            Ok(value) => return Some(value),
            Err(error) => format!("is not as expected ({error})"),
        },
    };
    notes.push(format!("{name} {why}: what it tells is not shown"));
    None
}
