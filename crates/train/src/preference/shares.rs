//! Which tokens a mask let count, written down for people: `token_mask.jsonl`.

use super::{PreferenceTask, Side, TokenMask};
use crate::error::TrainError;
use crate::pack::pack_pairs;
use serde_json::json;
use std::path::Path;
use unbraid_model::weights::write_file_atomic;
use unbraid_model::{Batch, LanguageModel};
use unbraid_tensor::Backend;

/// File in the output directory.
const FILE: &str = "token_mask.jsonl";
/// Training pairs that are shown.
const SHOWN: usize = 8;

impl<B: Backend> PreferenceTask<'_, B> {
    /// Writes the token shares of the first training pairs, when there is a mask and a way to show tokens.
    pub(super) fn write_shares(
        &self,
        model: &LanguageModel<B>,
        dir: &Path,
    ) -> Result<(), TrainError> {
        let (Some(decode), true) = (&self.decode, self.settings.mask != TokenMask::None) else {
            return Ok(());
        };
        let pairs = &self.train.pairs[..SHOWN.min(self.train.pairs.len())];
        let examples: Vec<usize> = (0..pairs.len()).collect();
        let batch = Batch::new(&*model.backend, pack_pairs(pairs, true));
        let forward = model.score(&batch);
        let weights = self.weights(model, &batch.forest, &forward, Side::Training, &examples);
        let mut text = String::new();
        for (pair, responses) in pairs.iter().zip(batch.forest.responses.chunks_exact(2)) {
            let share = |i: usize| &weights.weights[responses[i].targets.clone()];
            let row = json!({
                "index": pair.index,
                "prompt": decode(&pair.chosen.ids[..pair.chosen.prompt_len]).concat(),
                "chosen_tokens": decode(pair.chosen.completion()),
                "chosen_share": share(0),
                "rejected_tokens": decode(pair.rejected.completion()),
                "rejected_share": share(1),
            });
            text += &format!("{row}\n");
        }
        Ok(write_file_atomic(&dir.join(FILE), text.as_bytes())?)
    }
}
