//! Held-out pairs: TRL's metrics of all of them, and the geometry of the first ones where it is asked for.

use super::{PreferenceTask, Scored, Side, record_geometry};
use crate::error::TrainError;
use crate::metrics::Averages;
use crate::pack::pack_pairs;
use crate::score::batches;
use unbraid_model::{Batch, LanguageModel};
use unbraid_objective::Gram;
use unbraid_preference::TokenizedPair;
use unbraid_tensor::Backend;

impl<B: Backend> PreferenceTask<'_, B> {
    /// Means over the held-out pairs in batches of [`super::PreferenceSettings::eval_batch`], each of which is one batch to
    /// objectives that look across pairs; `None` without any, or when `stop` said so. How many are computed at once is
    /// another matter and changes nothing.
    ///
    /// The geometry is that of the first [`super::PreferenceSettings::eval_geometry`] pairs, with the coefficients that
    /// training on them would have after the remedy (whose moving average, if it has one, stays as it is).
    pub(super) fn evaluate_pairs(
        &self,
        model: &LanguageModel<B>,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Averages>, TrainError> {
        if self.eval.pairs.is_empty() {
            return Ok(None);
        }
        let all: Vec<&TokenizedPair> = self.eval.pairs.iter().collect();
        let measured = self.settings.eval_geometry.min(all.len());
        let mut metrics = Averages::default();
        let mut whole = Scored::default();
        let mut grams: Vec<Gram> = Vec::new();
        // No batch has both kinds of pairs.
        let (first, rest) = all.split_at(measured);
        let ranges = batches(first).into_iter();
        let rest = batches(rest).into_iter();
        let ranges = ranges.chain(rest.map(|r| r.start + measured..r.end + measured));
        for range in ranges {
            if stop() {
                return Ok(None);
            }
            let examples: Vec<usize> = range.clone().collect();
            let measure = range.start < measured;
            let forest = pack_pairs(all[range].iter().copied(), true);
            let batch = Batch::new(&*model.backend, forest);
            let forward = match measure {
                true => model.forward(&batch, self.settings.keep),
                false => model.score(&batch),
            };
            let scored = self.score(model, &batch, &forward, Side::HeldOut, &examples);
            if measure {
                grams.extend(self.measure(model, &batch, &forward, &scored, false).0);
            }
            self.record_mask(&mut metrics, &scored.weights);
            whole.append(scored);
        }
        let examples: Vec<usize> = (0..all.len()).collect();
        let mut losses = Vec::with_capacity(all.len());
        for examples in examples.chunks(self.settings.eval_batch.max(1)) {
            let scored = whole.pairs(examples[0]..examples[0] + examples.len());
            let judged = self.judge(Side::HeldOut, examples, &scored)?.losses;
            let mut own = Averages::default();
            for (i, (&example, loss)) in examples.iter().zip(&judged).enumerate() {
                let (weight, loss) = (all[example].weight, loss.loss + scored.penalties[i]);
                self.record(&mut own, weight, &scored.logps[i], scored.sums[i], loss);
            }
            metrics.add_evaluation_batch(&own, examples.len());
            losses.extend(judged);
        }
        losses.truncate(grams.len());
        let mut remedy = self.settings.remedy;
        remedy.apply(&mut losses, &grams);
        for (loss, gram) in losses.iter().zip(grams) {
            record_geometry(&mut metrics, (loss.d_w, loss.d_l), gram);
        }
        Ok(Some(metrics))
    }
}
