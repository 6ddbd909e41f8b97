//! Output directories and files.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;
use unbraid_model::weights::write_file_atomic;

/// Makes `dir`, refusing one that already holds something unless told to overwrite.
pub(crate) fn prepare_dir(dir: &Path, overwrite: bool) -> Result<()> {
    if dir.exists() && !dir.is_dir() {
        bail!("--output-dir {}: this is a file", dir.display());
    }
    let occupied = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if occupied && !overwrite {
        bail!(
            "--output-dir {}: the directory is not empty\n\
             hint: choose another, or say --overwrite-output-dir to write into it",
            dir.display()
        );
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))
}

/// Whether `dir` is empty, or holds a run that was stopped before it ended: its record, but no final state.
pub(crate) fn is_unfinished(dir: &Path) -> bool {
    let mut entries = fs::read_dir(dir).into_iter().flatten().flatten();
    // Left-overs under temporary names are no content.
    let empty = entries.all(|entry| entry.file_name().to_string_lossy().starts_with('.'));
    empty || (dir.join("run.yaml").is_file() && !dir.join("trainer_state.json").exists())
}

/// Refuses a directory that could not be written to, before the work that would fill it.
pub(crate) fn check_dir(dir: &Path) -> Result<()> {
    let existed = dir.exists();
    prepare_dir(dir, true)?;
    if !existed {
        fs::remove_dir(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(())
}

/// Prints data on stdout. A reader that has gone away (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done.context("cannot write to stdout"),
    }
}

/// Writes rows as JSON lines, all or nothing.
pub(crate) fn write_jsonl<T: Serialize>(path: &Path, rows: &[T]) -> Result<()> {
    let mut bytes = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut bytes, row)?;
        bytes.push(b'\n');
    }
    Ok(write_file_atomic(path, &bytes)?)
}

/// Writes `run.yaml`: the resolved recipe, and under `unbraid:` what a reader needs to know about the run.
pub(crate) fn write_run_yaml<C: Serialize>(
    dir: &Path,
    config: &C,
    facts: &[(&str, String)],
) -> Result<()> {
    let mut text = crate::cli::to_recipe(config)?;
    text.push_str("unbraid:\n");
    let command: Vec<String> = std::env::args().map(|a| shell_word(&a)).collect();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let all = [("command", command.join(" ")), ("version", version)];
    for (key, value) in all
        .iter()
        .map(|(k, v)| (*k, v))
        .chain(facts.iter().map(|(k, v)| (*k, v)))
    {
        // A JSON string is a YAML string.
        text.push_str(&format!(
            "  {key}: {}\n",
            serde_json::Value::from(value.as_str())
        ));
    }
    Ok(write_file_atomic(&dir.join("run.yaml"), text.as_bytes())?)
}

/// An argument as one would type it.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_split_them() {
        assert_eq!(shell_word("--beta=0.1"), "--beta=0.1");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
    }

    #[test]
    fn an_occupied_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        prepare_dir(dir.path(), false).unwrap();
        fs::write(dir.path().join("x"), "").unwrap();
        let message = prepare_dir(dir.path(), false).unwrap_err().to_string();
        assert!(
            message.contains("is not empty") && message.contains("hint:"),
            "{message}"
        );
        prepare_dir(dir.path(), true).unwrap();
        let file = dir.path().join("x");
        assert!(
            prepare_dir(&file, true)
                .unwrap_err()
                .to_string()
                .contains("is a file")
        );
    }
}
