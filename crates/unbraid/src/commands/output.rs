//! Output directories and files.

use super::lock::LOCK_FILE;
use crate::interrupt::traces;
use crate::redact;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use unbraid_model::weights::write_file_atomic;
use unbraid_train::is_leftover_file;

pub(crate) use crate::stdout::print;

/// Makes `dir`, refusing one that already holds something unless told to overwrite. A lock, and what a killed run left
/// under temporary names, is nothing.
pub(crate) fn prepare_dir(dir: &Path, overwrite: bool) -> Result<()> {
    if dir.exists() && !dir.is_dir() {
        bail!("--output-dir {}: this is a file", dir.display());
    }
    let content = |entry: std::io::Result<fs::DirEntry>| match entry {
        Ok(entry) => {
            let name = entry.file_name();
            name != LOCK_FILE && !is_leftover_file(&name.to_string_lossy())
        }
        Err(_) => true,
    };
    let occupied = fs::read_dir(dir).is_ok_and(|mut entries| entries.any(content));
    if occupied && !overwrite {
        let resume = match holds_checkpoint(dir) {
            true => ", or --resume-from-checkpoint true to go on from its newest checkpoint",
            false => "",
        };
        bail!(
            "--output-dir {}: the directory is not empty\n\
             hint: choose another, or say --overwrite-output-dir to write into it{resume}",
            dir.display()
        );
    }
    let made = !dir.exists();
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    traces::writes_into(dir, made);
    Ok(())
}

/// Whether a run has left a checkpoint in `dir`.
fn holds_checkpoint(dir: &Path) -> bool {
    let mut entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.any(|entry| {
        let name = entry.file_name();
        let step = name
            .to_str()
            .and_then(|name| name.strip_prefix("checkpoint-"));
        step.is_some_and(|step| step.parse::<u64>().is_ok()) && entry.path().is_dir()
    })
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

/// Removes what an earlier run recorded of its pairs and its token mask, which a fresh run might not write over: the
/// parts in `pairs.parquet/` (and it, if nothing else is in it), `token_mask.jsonl` and `token_mask.safetensors`.
pub(crate) fn remove_records(dir: &Path) -> Result<()> {
    let pairs = dir.join("pairs.parquet");
    let mut doomed = vec![
        dir.join("token_mask.jsonl"),
        dir.join("token_mask.safetensors"),
    ];
    for entry in fs::read_dir(&pairs).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let part = name.strip_prefix('.').unwrap_or(&name);
        let part = part.strip_suffix(".partial").unwrap_or(part);
        let step = part
            .strip_prefix("part-")
            .and_then(|part| part.strip_suffix(".parquet"));
        if step.is_some_and(|step| step.parse::<u64>().is_ok()) {
            doomed.push(entry.path());
        }
    }
    for path in doomed {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    let _ = fs::remove_dir(&pairs); // refused where something of the user's is left in it
    Ok(())
}

/// What `--json` prints of a run: the last training row and the last evaluation row of `metrics.jsonl`, null where
/// there is none.
pub(crate) fn run_result(dir: &Path, step: u64) -> Result<Value> {
    let path = dir.join("metrics.jsonl");
    let text = unbraid_input::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let (mut train, mut eval) = (Value::Null, Value::Null);
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).with_context(|| path.display().to_string())?;
        let mut keys = row.as_object().into_iter().flat_map(|row| row.keys());
        match keys.any(|key| key.starts_with("eval_")) {
            true => eval = row,
            false => train = row,
        }
    }
    Ok(json!({
        "output_dir": dir.display().to_string(),
        "step": step,
        "train": train,
        "eval": eval,
    }))
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
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let all = [("command", command_line()), ("version", version)];
    for (key, value) in all
        .iter()
        .map(|(k, v)| (*k, v))
        .chain(facts.iter().map(|(k, v)| (*k, v)))
    {
        // A JSON string is a YAML string.
        text.push_str(&format!("  {key}: {}\n", Value::from(value.as_str())));
    }
    let text = redact::text(&text);
    Ok(write_file_atomic(&dir.join("run.yaml"), text.as_bytes())?)
}

/// The command that runs, as one would type it, without secrets.
pub(crate) fn command_line() -> String {
    let given = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let words = redact::words(given);
    let shown: Vec<String> = words.iter().map(|word| shell_word(word)).collect();
    shown.join(" ")
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
        fs::write(dir.path().join(LOCK_FILE), "").unwrap();
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
