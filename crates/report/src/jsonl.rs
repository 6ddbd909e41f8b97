//! A file with one JSON object a line, read as far as it can be read.
//!
//! Such a file only illustrates a page (`predictions.jsonl`, `gram.jsonl`), so nothing about it is an error: absent
//! means empty, a damaged line is counted, a file that cannot be opened is noted. `NaN` as Python writes it is taken
//! as `null`. `metrics.jsonl`, without which there is no page, has its own reader in `record.rs`.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::record::without_bare_nan;

/// A Gram matrix of 128 pairs with all its digits is a megabyte and a half.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// The readable rows of `dir/file` in order, and what a reader must know about the others.
pub(crate) fn read<T: DeserializeOwned>(dir: &Path, file: &str) -> (Vec<T>, Vec<String>) {
    let mut rows = Vec::new();
    let (mut damaged, mut first) = (0_usize, 0_usize);
    let opened = unbraid_input::open(&dir.join(file)).map(BufReader::new);
    let read = opened.and_then(|mut reader| {
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let mut part = reader.by_ref().take(MAX_LINE_BYTES);
            if part.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let whole = line.len() as u64 != MAX_LINE_BYTES || line.last() == Some(&b'\n');
            if !whole {
                reader.skip_until(b'\n')?;
            }
            match parse(&line).filter(|_| whole) {
                Some(row) => rows.push(row),
                None if line.trim_ascii().is_empty() => {}
                None => {
                    first = if damaged == 0 { number } else { first };
                    damaged += 1;
                }
            }
        }
        Ok(())
    });
    let mut notes = Vec::new();
    if damaged > 0 {
        let lines = if damaged == 1 { "line" } else { "lines" };
        notes.push(format!(
            "{damaged} unreadable {lines} in {file} left out (first: line {first})"
        ));
    }
    match read {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            notes.push(format!("{file} cannot be read to its end ({error})"));
        }
        _ => {}
    }
    (rows, notes)
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(line).ok()?;
    serde_json::from_str(text)
        .or_else(|_| serde_json::from_str(&without_bare_nan(text)))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Row {
        step: u64,
        value: Option<f64>,
    }

    #[test]
    fn what_can_be_read_is_read_and_the_rest_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let text = "{\"step\":1,\"value\":2}\n\n{\"step\":\n{\"step\":2,\"value\":NaN}\n\u{7}\n{\"step\":3}";
        std::fs::write(dir.path().join("a.jsonl"), text).unwrap();
        let (rows, notes) = read::<Row>(dir.path(), "a.jsonl");
        let steps: Vec<_> = rows.iter().map(|row| (row.step, row.value)).collect();
        assert_eq!(steps, [(1, Some(2.0)), (2, None), (3, None)]);
        assert_eq!(
            notes,
            ["2 unreadable lines in a.jsonl left out (first: line 3)"]
        );
    }

    #[test]
    fn an_absent_file_is_no_news_and_an_unreadable_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let (rows, notes) = read::<Row>(dir.path(), "a.jsonl");
        assert!(rows.is_empty() && notes.is_empty());
        std::fs::create_dir(dir.path().join("a.jsonl")).unwrap();
        let (rows, notes) = read::<Row>(dir.path(), "a.jsonl");
        assert!(rows.is_empty() && notes[0].contains("cannot be read"));
    }
}
