//! Models and checkpoints on disk.
//!
//! `checkpoint-N/` holds the model or adapter in Hugging Face layout with its tokenizer, `optimizer.safetensors`,
//! `trainer_state.json`, what the task adds, and `checksums.json`: length and SHA-256 of every other file. It is
//! written under a temporary name, every file and the directory flushed to the disk, then renamed; a directory
//! of that name is whole unless something else changed it, which its checksums show. One that is in the way is moved
//! aside first, and one that is to be deleted is renamed first, so a kill leaves no half of a checkpoint either way.
//! Reading them back: `resume.rs`. Tested in `tests/checkpoints.rs` and, with kills, in the binary's `tests/resume.rs`.

use crate::error::TrainError;
use crate::resume::Checkpoint;
use crate::state::{RunIdentity, checkpoint_name, hex};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use unbraid_model::LanguageModel;
use unbraid_model::weights::{StoredDtype, write_file_atomic};
use unbraid_tensor::Backend;

/// File of lengths and hashes.
pub(crate) const CHECKSUMS: &str = "checksums.json";
/// File that says where the run stands.
pub(crate) const TRAINER_STATE: &str = "trainer_state.json";
/// File of the optimizer's buffers.
pub(crate) const OPTIMIZER: &str = "optimizer.safetensors";

/// Writes the files that belong beside the weights (tokenizer, chat template) into a directory.
pub type Companions<'a> = dyn Fn(&Path) -> Result<(), String> + 'a;

/// Where and how models are written, and from where a run goes on.
pub struct Files<'a> {
    /// The output directory.
    pub output_dir: PathBuf,
    /// Number format of the weights.
    pub dtype: StoredDtype,
    /// Writes the tokenizer's files.
    pub companions: &'a Companions<'a>,
    /// Keep only this many of the run's checkpoints, and the best one.
    pub save_total_limit: Option<usize>,
    /// What a run that goes on from these checkpoints must have in common with this one.
    pub identity: RunIdentity,
    /// The checkpoint to go on from.
    pub resume: Option<Checkpoint>,
}

impl Files<'_> {
    /// Writes the model and its companions into `dir`.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn save_model<B: Backend>(
        &self,
        model: &LanguageModel<B>,
        dir: &Path,
    ) -> Result<(), TrainError> {
        fs::create_dir_all(dir).map_err(|e| TrainError::io("create", dir, e))?;
        model.save(dir, self.dtype)?;
        (self.companions)(dir).map_err(TrainError::Companion)
    }

    /// The path of the checkpoint of a step.
    pub(crate) fn checkpoint_path(&self, step: u64) -> PathBuf {
        self.output_dir.join(checkpoint_name(step))
    }

    fn hidden(&self, step: u64, what: &str) -> PathBuf {
        self.output_dir.join(format!(".checkpoint-{step}.{what}"))
    }

    /// Writes `checkpoint-<step>`; `contents` adds files to the model's.
    ///
    /// # Errors
    /// What the file system refuses; no half-written checkpoint keeps its final name.
    pub(crate) fn save_checkpoint<B: Backend>(
        &self,
        model: &LanguageModel<B>,
        step: u64,
        contents: impl FnOnce(&Path) -> Result<(), TrainError>,
    ) -> Result<PathBuf, TrainError> {
        let (path, partial) = (self.checkpoint_path(step), self.hidden(step, "partial"));
        let _ = fs::remove_dir_all(&partial);
        let written = self
            .save_model(model, &partial)
            .and_then(|()| contents(&partial))
            .and_then(|()| seal(&partial))
            .and_then(|()| self.publish(&partial, &path, step));
        if let Err(error) = written {
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
        Ok(path)
    }

    /// Gives a complete checkpoint its name.
    fn publish(&self, partial: &Path, path: &Path, step: u64) -> Result<(), TrainError> {
        let aside = self.hidden(step, "replaced");
        let in_the_way = path.exists();
        if in_the_way {
            let _ = fs::remove_dir_all(&aside);
            fs::rename(path, &aside).map_err(|e| TrainError::io("replace", path, e))?;
        }
        fs::rename(partial, path).map_err(|e| TrainError::io("rename", partial, e))?;
        sync(&self.output_dir).map_err(|e| TrainError::io("write", &self.output_dir, e))?;
        if in_the_way {
            fs::remove_dir_all(&aside).map_err(|e| TrainError::io("remove", &aside, e))?;
        }
        Ok(())
    }

    /// Removes the oldest of the run's checkpoints `saved` (steps) beyond the limit, but neither the newest nor
    /// `best`; other runs' are left alone.
    ///
    /// # Errors
    /// What the file system refuses.
    pub(crate) fn prune(&self, saved: &mut Vec<u64>, best: Option<u64>) -> Result<(), TrainError> {
        let Some(limit) = self.save_total_limit else {
            return Ok(());
        };
        while saved.len() > limit.max(1) {
            let old = saved[..saved.len() - 1]
                .iter()
                .position(|&s| Some(s) != best);
            let Some(old) = old else { break };
            let step = saved.remove(old);
            let (path, doomed) = (self.checkpoint_path(step), self.hidden(step, "removed"));
            let _ = fs::remove_dir_all(&doomed);
            fs::rename(&path, &doomed)
                .and_then(|()| fs::remove_dir_all(&doomed))
                .map_err(|e| TrainError::io("remove", &path, e))?;
        }
        Ok(())
    }
}

/// Removes what a killed run left in its output directory under temporary names.
///
/// # Errors
/// What the file system refuses.
pub fn clear_leftovers(dir: &Path) -> Result<(), TrainError> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        let removed = if is_leftover_directory(&name) {
            fs::remove_dir_all(&path)
        } else if is_leftover_file(&name) {
            fs::remove_file(&path)
        } else {
            continue;
        };
        removed.map_err(|e| TrainError::io("remove", &path, e))?;
    }
    Ok(())
}

/// `.checkpoint-N.partial`, `.replaced` or `.removed`.
fn is_leftover_directory(name: &str) -> bool {
    let rest = name.strip_prefix(".checkpoint-");
    let parts = rest.and_then(|rest| rest.split_once('.'));
    parts.is_some_and(|(step, what)| {
        step.parse::<u64>().is_ok() && ["partial", "replaced", "removed"].contains(&what)
    })
}

/// `.NAME.PROCESS-COUNT.tmp` or `.NAME.PROCESS.tmp`: a file that was to be renamed.
#[must_use]
pub fn is_leftover_file(name: &str) -> bool {
    let inner = name.strip_prefix('.').and_then(|n| n.strip_suffix(".tmp"));
    let numbers = inner
        .and_then(|n| n.rsplit_once('.'))
        .map(|(_, numbers)| numbers);
    numbers.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
}

/// Every file below `dir` but the checksums: name relative to it, in order.
fn files(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let mut open = vec![(String::new(), dir.to_owned())];
    while let Some((prefix, dir)) = open.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                open.push((format!("{name}/"), entry.path()));
            } else if name != CHECKSUMS {
                found.push((name, entry.path()));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Length and SHA-256 of a file, read a stretch at a time.
fn measure(file: &mut File) -> io::Result<(u64, String)> {
    let (mut hash, mut length) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let taken = file.read(&mut buffer)?;
        if taken == 0 {
            return Ok((length, hex(&hash.finalize())));
        }
        hash.update(&buffer[..taken]);
        length += taken as u64;
    }
}

/// Flushes a file or directory to the disk. Systems other than Unix flush only what is open for writing.
fn sync(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(path)?.sync_all()
    } else {
        Ok(())
    }
}

/// Writes the checksums of a complete checkpoint and flushes all of it.
fn seal(dir: &Path) -> Result<(), TrainError> {
    let mut entries = Map::new();
    let listed = files(dir).map_err(|e| TrainError::io("read", dir, e))?;
    for (name, path) in listed {
        let measured = unbraid_input::open(&path).and_then(|mut file| measure(&mut file));
        let (bytes, sha256) = measured.map_err(|e| TrainError::io("read", &path, e))?;
        sync(&path).map_err(|e| TrainError::io("write", &path, e))?;
        entries.insert(name, json!({ "bytes": bytes, "sha256": sha256 }));
    }
    let text = format!("{:#}\n", json!({ "files": entries }));
    write_file_atomic(&dir.join(CHECKSUMS), text.as_bytes())?;
    sync(dir).map_err(|e| TrainError::io("write", dir, e))
}

/// Checks every file of a checkpoint; the error is the reason why it cannot be used.
pub(crate) fn verify(dir: &Path) -> Result<(), String> {
    let text = unbraid_input::read_to_string(&dir.join(CHECKSUMS))
        .map_err(|e| format!("{CHECKSUMS} cannot be read: {e}"))?;
    let json: Value =
        serde_json::from_str(&text).map_err(|e| format!("{CHECKSUMS} is damaged: {e}"))?;
    let damaged = || format!("{CHECKSUMS} is damaged: a length or a SHA-256 is missing");
    let entries = json["files"].as_object().ok_or_else(damaged)?;
    for name in [OPTIMIZER, TRAINER_STATE] {
        if !entries.contains_key(name) {
            return Err(format!("{CHECKSUMS} does not list {name}"));
        }
    }
    for (name, expected) in entries {
        let bytes = expected["bytes"].as_u64().ok_or_else(damaged)?;
        let sha256 = expected["sha256"].as_str().ok_or_else(damaged)?;
        let mut file = match unbraid_input::open(&dir.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(format!("{name} is missing"));
            }
            opened => opened.map_err(|e| format!("{name} cannot be read: {e}"))?,
        };
        let (found, hash) =
            measure(&mut file).map_err(|e| format!("{name} cannot be read: {e}"))?;
        if found != bytes {
            return Err(format!("{name} has {found} bytes, expected {bytes}"));
        }
        if hash != sha256 {
            return Err(format!(
                "{name} was altered: its SHA-256 is {hash}, expected {sha256}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_temporary_names_are_left_overs() {
        assert!(is_leftover_directory(".checkpoint-12.partial"));
        assert!(is_leftover_directory(".checkpoint-3.removed"));
        for name in [
            "checkpoint-12",
            ".checkpoint-x.partial",
            ".checkpoint-1.mine",
        ] {
            assert!(!is_leftover_directory(name), "{name}");
        }
        assert!(is_leftover_file(".model.safetensors.123-4.tmp"));
        assert!(is_leftover_file(".tokenizer.json.123.tmp"));
        for name in ["model.tmp", ".notes.tmp", ".a.b.tmp", ".tmp"] {
            assert!(!is_leftover_file(name), "{name}");
        }
    }
}
