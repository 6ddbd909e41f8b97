//! The Gram matrix of all pairs of an optimizer step, and whose gradients each response's predicted change comes from.
//!
//! Measured before the update by a pass of its own over all the step's micro-batches at once, without dropout, at the
//! parameters that the update starts from. With η the step's learning rate times its clipping factor, plain gradient
//! descent would move response i by η Σ_j c_j K_ij to first order, c = +d_w·share of a chosen, −d_l·share of a rejected
//! response, after the remedy. Of what the objective reads, as in `update.rs`; left out are a likelihood term over plain
//! tokens, a mask's penalty and a learning rate of the mask's own.
//!
//! Costs a forward and a backward pass over the step's pairs with 2B gradient streams whose (2B)² inner products are
//! taken for every weight, and the activations of all pairs at once; with more than one micro-batch only those between
//! blocks are kept, and each block is computed again. Tested in `tests/updates.rs`.

use super::{PreferenceTask, Side, split_changes};
use crate::trainer::StepRecord;
use serde_json::{Map, Value, json};
use unbraid_geometry::{Cluster, GramSink};
use unbraid_model::{GradientPlan, Keep, LanguageModel};
use unbraid_tensor::Backend;

impl<B: Backend> PreferenceTask<'_, B> {
    /// See [`crate::Task::batch_gram`]; `rate` is the learning rate times the clipping factor.
    pub(super) fn record_gram(&self, model: &LanguageModel<B>, rate: f64) -> StepRecord {
        let stepped = &self.stepped;
        let coefficients = stepped
            .iter()
            .flat_map(|p| [p.d_w * p.share, -p.d_l * p.share]);
        let coefficients: Vec<f64> = coefficients.collect();
        let matrix = self.gram_matrix(model);
        let indices = stepped.iter().map(|p| self.train.pairs[p.example].index);
        let names = indices.flat_map(|i| [format!("{i}/chosen"), format!("{i}/rejected")]);
        let names: Vec<String> = names.collect();
        let changes = split_changes(&matrix, &coefficients, rate);

        let mut record = StepRecord::default();
        for (i, change) in changes.iter().enumerate() {
            let side = ["chosen", "rejected"][i % 2];
            let mut add = |part: &str, value: f64| {
                let metrics = &mut record.metrics;
                metrics.add(&format!("geometry/{part}_{side}"), value);
            };
            add("own", change.own);
            add("partner", change.partner);
            add("others", change.others);
        }
        let split = names.iter().zip(&changes).map(|(name, change)| {
            json!({
                "response": name,
                "own": change.own,
                "partner": change.partner,
                "others": change.others,
                "total": change.total,
            })
        });
        let split: Vec<Value> = split.collect();
        let rows: Vec<&[f64]> = matrix.chunks_exact(names.len().max(1)).collect();
        record.rows.push(Map::from_iter([
            ("order".to_owned(), json!(names)),
            ("matrix".to_owned(), json!(rows)),
            ("coefficients".to_owned(), json!(coefficients)),
            ("split".to_owned(), json!(split)),
        ]));
        record
    }

    /// K of the last step's pairs, row-major.
    fn gram_matrix(&self, model: &LanguageModel<B>) -> Vec<f64> {
        let (b, params) = (&*model.backend, &model.params);
        let examples: Vec<usize> = self.stepped.iter().map(|pair| pair.example).collect();
        let batch = self.pack(model, &examples);
        let n = batch.forest.responses.len();
        let cluster = [Cluster::measured((0..n).collect())];
        let keep = match self.micro_batches {
            1 => self.settings.keep,
            _ => Keep::BlockInputs,
        };
        let forward = model.forward(&batch, keep);
        let tokens = self.by_token(model, &batch, &forward, Side::Training, &examples);
        let slopes = tokens.mask_slopes();
        let plan = GradientPlan::per_response(b, &batch.forest);
        let mut sink = GramSink::new(params, |p| params.is_trainable(p), &cluster, None);
        let seeds = self.seeds(&tokens.weights.weights, &slopes);
        model.backward(&batch, &plan, forward, seeds, &mut sink);
        let mut matrix = sink.grams[0].matrix();
        let free = self.free_norms(&batch.forest, &slopes);
        free.iter()
            .enumerate()
            .for_each(|(i, own)| matrix[i * n + i] += own);
        matrix
    }
}
