//! Prediction against reality: what a step's update did to its own pairs.
//!
//! For every pair of an optimizer step, three changes of what the objective reads of a completion (its summed log-prob,
//! weighted where tokens are weighted): *predicted*, plain gradient descent on the pair's own term of the loss, to first
//! order; *update*, ⟨∇a, Δθ⟩ of the step that the optimizer took, all pairs' terms, AdamW, clipping and decay included,
//! exact first order at the parameters before the step; *realised*. The last two without dropout; so is the first where the
//! step's geometry, whose gradients it takes, was not measured anyway. Under a learnt mask what is read is
//! the weighted log-ratio, whose weights move too: the mask's own parameters count in all three. A likelihood term over
//! plain tokens and a mask's penalty act through the update alone.
//!
//! Costs one copy of the trainable parameters and, in time, a forward pass, a backward pass on a per-response plan with
//! one more product for every linear map, and the forward pass for the realised change, all in batches of bounded size;
//! where the step's geometry was not measured, one more walk back. Tested in `tests/updates.rs`.

use super::{PreferenceTask, Side, TokenMask};
use crate::pack::pack_pairs;
use crate::score::batches;
use crate::snapshot::Snapshot;
use crate::trainer::StepRecord;
use serde_json::{Map, json};
use std::ops::Range;
use unbraid_geometry::DirectionSink;
use unbraid_model::{Batch, Forest, GradientPlan, Gradients, LanguageModel};
use unbraid_objective::Gram;
use unbraid_objective::condition::predicted_change;
use unbraid_preference::TokenizedPair;
use unbraid_tensor::Backend;

/// What a walk at the parameters before the step says of a pair.
struct Explained {
    before: (f64, f64),
    update: (f64, f64),
    /// Where it was asked for.
    gram: Option<Gram>,
}

impl<B: Backend> PreferenceTask<'_, B> {
    /// Numbers of the last step's pairs, and ranges of them that make a batch each.
    fn stepped_batches(&self) -> (Vec<usize>, Vec<Range<usize>>) {
        let examples: Vec<usize> = self.stepped.iter().map(|pair| pair.example).collect();
        let pairs = examples.iter().map(|&i| &self.train.pairs[i]);
        let ranges = batches(&pairs.collect::<Vec<&TokenizedPair>>());
        (examples, ranges)
    }

    pub(super) fn pack(&self, model: &LanguageModel<B>, examples: &[usize]) -> Batch<B> {
        let pairs = examples.iter().map(|&i| &self.train.pairs[i]);
        Batch::new(&*model.backend, pack_pairs(pairs, true))
    }

    /// What the objective reads of the last step's pairs, without dropout.
    pub(super) fn readings(&self, model: &LanguageModel<B>) -> Vec<(f64, f64)> {
        let (examples, ranges) = self.stepped_batches();
        let read = |range: Range<usize>| {
            let examples = &examples[range];
            let batch = self.pack(model, examples);
            let forward = model.score(&batch);
            let tokens = self.by_token(model, &batch, &forward, Side::Training, examples);
            tokens.readings(&batch.forest)
        };
        ranges.into_iter().flat_map(read).collect()
    }

    /// See [`crate::Task::update_effects`]; `rate` is the learning rate times the clipping factor.
    pub(super) fn explain_update(
        &mut self,
        model: &mut LanguageModel<B>,
        snapshot: &mut Snapshot<B>,
        delta: &mut Gradients<B>,
        rate: f64,
    ) -> StepRecord {
        let unmeasured = self.stepped.iter().any(|pair| pair.measured.is_none());
        let after = unmeasured.then(|| self.readings(model));
        snapshot.difference(&model.backend, &model.params, delta);
        snapshot.swap(&mut model.params);
        let explained = self.explain(model, delta, unmeasured);
        snapshot.swap(&mut model.params);

        let mut record = StepRecord::default();
        for (i, (pair, explained)) in self.stepped.iter().zip(explained).enumerate() {
            let (gram, realised) = match (&pair.measured, &after) {
                (Some(measured), _) => (Some(measured.gram), measured.realised),
                (None, Some(after)) => {
                    let before = explained.before;
                    let realised = (after[i].0 - before.0, after[i].1 - before.1);
                    (explained.gram, Some(realised))
                }
                (None, None) => (explained.gram, None),
            };
            let predicted = gram.map(|gram| {
                let (chosen, rejected) = predicted_change(gram, pair.d_w, pair.d_l);
                (rate * pair.share * chosen, rate * pair.share * rejected)
            });
            let mut row = Map::new();
            row.insert("index".into(), self.train.pairs[pair.example].index.into());
            let mut insert = |what: &str, change: Option<(f64, f64)>| {
                row.insert(format!("{what}_chosen"), json!(change.map(|x| x.0)));
                row.insert(format!("{what}_rejected"), json!(change.map(|x| x.1)));
            };
            insert("predicted", predicted);
            insert("update", Some(explained.update));
            insert("realised", realised);
            record.rows.push(row);
            let metrics = &mut record.metrics;
            metrics.add("geometry/update_chosen", explained.update.0);
            metrics.add("geometry/update_rejected", explained.update.1);
        }
        record
    }

    /// Walks back from the last step's pairs at the parameters before it, along Δθ.
    fn explain(
        &self,
        model: &LanguageModel<B>,
        delta: &Gradients<B>,
        measure: bool,
    ) -> Vec<Explained> {
        let (examples, ranges) = self.stepped_batches();
        let mut explained = Vec::with_capacity(examples.len());
        for range in ranges {
            let b = &*model.backend;
            let examples = &examples[range];
            let batch = self.pack(model, examples);
            let forward = model.forward(&batch, self.settings.keep);
            let tokens = self.by_token(model, &batch, &forward, Side::Training, examples);
            let grams = measure.then(|| self.measure(model, &batch, &forward, &tokens, false).0);
            let (before, slopes) = (tokens.readings(&batch.forest), tokens.mask_slopes());
            let plan = GradientPlan::per_response(b, &batch.forest);
            let mut sink = DirectionSink::new(&delta.values, batch.forest.responses.len());
            let seeds = self.seeds(&tokens.weights.weights, &slopes);
            model.backward(&batch, &plan, forward, seeds, &mut sink);
            let mut changes = sink.changes;
            self.add_free_mask(b, &batch.forest, examples, &slopes, delta, &mut changes);
            let pairs = changes.chunks_exact(2).zip(before).enumerate();
            explained.extend(pairs.map(|(i, (change, before))| Explained {
                before,
                update: (change[0], change[1]),
                gram: grams.as_ref().map(|grams| grams[i]),
            }));
        }
        explained
    }

    /// Adds what a `free` mask's own numbers, which no walk reaches, change.
    fn add_free_mask(
        &self,
        b: &B,
        forest: &Forest,
        examples: &[usize],
        slopes: &[f64],
        delta: &Gradients<B>,
        changes: &mut [f64],
    ) {
        let TokenMask::Free {
            values, offsets, ..
        } = &self.settings.mask
        else {
            return;
        };
        let Some(delta) = &delta.values[values.0] else {
            return;
        };
        for (r, response) in forest.responses.iter().enumerate() {
            let targets = response.targets.clone();
            // A pair's numbers lie together, chosen before rejected.
            let first = forest.responses[r - r % 2].targets.start;
            let at = offsets[examples[r / 2]] + targets.start - first;
            let own = b.upload_f64(&slopes[targets.clone()]);
            changes[r] += b.dot(&own, 0, delta, at, targets.len());
        }
    }
}
