//! Finding a checkpoint to go on from.
//!
//! A checkpoint is used only if every file has the length and SHA-256 that its `checksums.json` says, and if the run
//! that wrote it is the one that is to go on ([`RunIdentity`]). Tested in `tests/checkpoints.rs`.

use crate::checkpoint::{TRAINER_STATE, verify};
use crate::error::TrainError;
use crate::state::TrainerState;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

pub use crate::state::RunIdentity;

/// A checkpoint that was found whole, of the run that is to go on.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    path: PathBuf,
    pub(crate) state: TrainerState,
}

/// Reads a checkpoint whose files are whole; the error is the reason why it cannot be used.
fn read(path: &Path) -> Result<Checkpoint, String> {
    verify(path)?;
    let text = unbraid_input::read_to_string(&path.join(TRAINER_STATE))
        .map_err(|e| format!("{TRAINER_STATE} cannot be read: {e}"))?;
    let json: Value =
        serde_json::from_str(&text).map_err(|e| format!("{TRAINER_STATE} is damaged: {e}"))?;
    let state = TrainerState::from_json(&json).map_err(|e| format!("{TRAINER_STATE}: {e}"))?;
    Ok(Checkpoint {
        path: path.to_owned(),
        state,
    })
}

/// Checkpoints in a directory, newest first.
fn list(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(u64, PathBuf)> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let step = name.to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
            entry.path().is_dir().then(|| (step, entry.path()))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

impl Checkpoint {
    /// The checkpoint in `path`.
    ///
    /// # Errors
    /// [`TrainError::BadCheckpoint`] where it is damaged, [`TrainError::OtherRun`] where it is another run's.
    pub fn open(path: &Path, identity: &RunIdentity) -> Result<Self, TrainError> {
        if !path.is_dir() {
            return Err(TrainError::BadCheckpoint {
                path: path.to_owned(),
                reason: "there is no such directory".into(),
            });
        }
        let checkpoint = read(path).map_err(|reason| TrainError::BadCheckpoint {
            path: path.to_owned(),
            reason,
        })?;
        match checkpoint.state_differences(identity) {
            None => Ok(checkpoint),
            Some(differences) => Err(TrainError::OtherRun {
                path: path.to_owned(),
                differences,
            }),
        }
    }

    /// The newest checkpoint of this run in `output_dir` that is whole; `None` where there is no checkpoint at all.
    /// Newer ones that are passed over are told to `note`, with the reason.
    ///
    /// # Errors
    /// Where none can be used: [`TrainError::OtherRun`] if one is whole, else [`TrainError::NoUsableCheckpoint`].
    pub fn newest(
        output_dir: &Path,
        identity: &RunIdentity,
        note: &mut dyn FnMut(String),
    ) -> Result<Option<Self>, TrainError> {
        let mut reasons = Vec::new();
        let mut other_run = None;
        for path in list(output_dir) {
            match Checkpoint::open(&path, identity) {
                Ok(checkpoint) => {
                    reasons.into_iter().for_each(note);
                    return Ok(Some(checkpoint));
                }
                Err(error) => {
                    reasons.push(error.to_string().replace("\nhint: ", "; "));
                    if matches!(error, TrainError::OtherRun { .. }) && other_run.is_none() {
                        other_run = Some(error);
                    }
                }
            }
        }
        match (other_run, reasons) {
            (Some(error), _) => Err(error),
            (None, reasons) if reasons.is_empty() => Ok(None),
            (None, reasons) => Err(TrainError::NoUsableCheckpoint {
                dir: output_dir.to_owned(),
                reasons,
            }),
        }
    }

    fn state_differences(&self, identity: &RunIdentity) -> Option<Vec<String>> {
        let differences = identity.differences(&self.state.identity);
        (!differences.is_empty()).then_some(differences)
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Optimizer steps taken before it was saved.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.state.step
    }
}
