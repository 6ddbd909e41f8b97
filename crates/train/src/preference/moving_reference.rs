//! TR-DPO (Gorbatovski et al. 2024, arXiv 2404.09656, eq. 6): a reference that follows the policy.
//!
//! Every so many steps θ_ref ← α·θ + (1 − α)·θ_ref (TRL's `sync_ref_model`). The reference is then a second
//! model in memory, and its log-probs are computed with every batch instead of once.

use crate::error::TrainError;
use std::path::Path;
use unbraid_model::LanguageModel;
use unbraid_model::weights::StoredDtype;
use unbraid_tensor::Backend;

/// A reference model that is moved towards the policy.
pub struct MovingReference<B: Backend> {
    /// The reference.
    pub model: LanguageModel<B>,
    /// Share α of the policy in each move.
    pub alpha: f64,
    /// Optimizer steps between two moves.
    pub every: u64,
}

/// Folder of a checkpoint that holds it.
const FOLDER: &str = "reference";

impl<B: Backend> MovingReference<B> {
    /// Moves the reference when the step is due.
    pub(crate) fn follow(&mut self, policy: &LanguageModel<B>, step: u64) {
        if !step.is_multiple_of(self.every.max(1)) {
            return;
        }
        let b = &*policy.backend;
        let own = self.model.params.values.iter_mut();
        for (reference, policy) in own.zip(&policy.params.values) {
            b.scale(1.0 - self.alpha, reference);
            b.axpy(self.alpha, policy, reference);
        }
    }

    pub(crate) fn save(&self, dir: &Path) -> Result<(), TrainError> {
        // Exact, so that a resumed run goes on with the same reference.
        Ok(self.model.save(&dir.join(FOLDER), StoredDtype::F32)?)
    }

    pub(crate) fn load(&mut self, dir: &Path) -> Result<(), TrainError> {
        Ok(self.model.restore(&dir.join(FOLDER))?)
    }
}
