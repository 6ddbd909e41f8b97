//! Saving models in Hugging Face layout: the final model and `checkpoint-N` directories.
//!
//! A checkpoint is written under a temporary name and renamed when complete, so a directory called
//! `checkpoint-N` is always whole. Left out so far: optimizer state, so a checkpoint can be loaded but not
//! resumed from.

use crate::error::TrainError;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use unbraid_model::LanguageModel;
use unbraid_model::weights::{StoredDtype, write_file_atomic};
use unbraid_tensor::Backend;

/// Writes the files that belong beside the weights (tokenizer, chat template) into a directory.
pub type Companions<'a> = dyn Fn(&Path) -> Result<(), String> + 'a;

/// Where and how models are written.
pub struct Files<'a> {
    /// The output directory.
    pub output_dir: PathBuf,
    /// Number format of the weights.
    pub dtype: StoredDtype,
    /// Writes the tokenizer's files.
    pub companions: &'a Companions<'a>,
    /// Keep only this many of the run's checkpoints.
    pub save_total_limit: Option<usize>,
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

    /// Writes `checkpoint-<step>`.
    ///
    /// # Errors
    /// What the file system refuses; no half-written checkpoint keeps its final name.
    pub fn save_checkpoint<B: Backend>(
        &self,
        model: &LanguageModel<B>,
        step: u64,
        state: &Value,
    ) -> Result<PathBuf, TrainError> {
        let path = self.output_dir.join(format!("checkpoint-{step}"));
        let partial = self.output_dir.join(format!(".checkpoint-{step}.partial"));
        let _ = fs::remove_dir_all(&partial);
        let written = self.save_model(model, &partial).and_then(|()| {
            let state = json!({ "global_step": step, "log_history": state });
            let text = format!("{state:#}\n");
            write_file_atomic(&partial.join("trainer_state.json"), text.as_bytes())?;
            if path.exists() {
                fs::remove_dir_all(&path).map_err(|e| TrainError::io("replace", &path, e))?;
            }
            fs::rename(&partial, &path).map_err(|e| TrainError::io("rename", &partial, e))
        });
        if let Err(error) = written {
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
        Ok(path)
    }

    /// Removes the oldest of the run's checkpoints `saved` beyond the limit; others' are left alone.
    ///
    /// # Errors
    /// What the file system refuses.
    pub(crate) fn prune(&self, saved: &mut Vec<PathBuf>) -> Result<(), TrainError> {
        let Some(limit) = self.save_total_limit else {
            return Ok(());
        };
        while saved.len() > limit.max(1) {
            let old = saved.remove(0);
            fs::remove_dir_all(&old).map_err(|e| TrainError::io("remove", &old, e))?;
        }
        Ok(())
    }
}
