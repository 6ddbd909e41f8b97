//! KTO on judged completions (Ethayarajh et al. 2024, arXiv 2402.01306, eq. 7): every row stands against the
//! reference point z = β·max(0, KL), KL estimated as TRL does, by the mean log-ratio of the batch's prompts with
//! completions of their neighbours. z is held constant in the backward pass; the mean runs over rows.
//!
//! There are no pairs, so no geometry. Metrics are TRL's: rewards and log-probs of liked (`chosen`) and disliked
//! (`rejected`) rows apart, and `kl`.

use crate::attribution::{Push, SideParts};
use crate::error::TrainError;
use crate::metrics::Averages;
use crate::pack::{draw_seed, fitting, pack_completions};
use crate::reference::{ReferenceCache, SequenceKey};
use crate::score::ROWS_PER_BATCH;
use crate::trainer::Task;
use unbraid_geometry::DirectionSink;
use unbraid_model::{Accumulate, Batch, Forest, GradientPlan, Gradients, Keep, LanguageModel};
use unbraid_objective::losses::Kto;
use unbraid_preference::{TokenizedSequence, UnpairedExample};
use unbraid_tensor::Backend;

/// Judged completions with what the reference says of them.
pub struct ReferencedExamples<'a> {
    examples: &'a [UnpairedExample],
    /// (own, mismatched) sums of each example, in nats.
    reference: Vec<(f64, f64)>,
}

impl<'a> ReferencedExamples<'a> {
    /// Examples with the sums that `known` holds; those that it does not know count 0 and must not be touched.
    pub fn new(examples: &'a [UnpairedExample], known: &ReferenceCache) -> Self {
        let sum = |sequence: &TokenizedSequence| {
            let logps = known.get(&SequenceKey::from(sequence));
            logps.map_or(0.0, |logps| logps.iter().sum())
        };
        let reference = examples
            .iter()
            .map(|e| (sum(&e.sequence), sum(&e.mismatched)));
        ReferencedExamples {
            reference: reference.collect(),
            examples,
        }
    }
}

/// KTO on judged completions.
pub struct UnpairedTask<'a> {
    /// Training rows.
    pub train: ReferencedExamples<'a>,
    /// Held-out rows.
    pub eval: ReferencedExamples<'a>,
    /// β and the two weights.
    pub kto: Kto,
    /// What a forward pass keeps.
    pub keep: Keep,
    /// Rows in an evaluation batch: the KL is estimated in each.
    pub eval_batch: usize,
    /// Seed of what the model and its adapter drop.
    pub dropout_seed: Option<u64>,
    /// What the last step did with its rows.
    pub stepped: Vec<SteppedRows>,
}

/// Rows of a micro-batch as they entered the step.
pub struct SteppedRows {
    rows: Vec<usize>,
    /// ∂ℓ/∂log π of each, its share in the step's loss included.
    seeds: Vec<f64>,
    dropout_seed: Option<u64>,
}

fn sums(forest: &Forest, logps: &[f64]) -> Vec<f64> {
    let sum = |r: &unbraid_model::Response| logps[r.targets.clone()].iter().sum();
    forest.responses.iter().map(sum).collect()
}

/// The policy's sums of sequences, keeping nothing.
fn score<B: Backend>(model: &LanguageModel<B>, sequences: &[&TokenizedSequence]) -> Vec<f64> {
    let mut out = Vec::with_capacity(sequences.len());
    let mut rest = sequences;
    while !rest.is_empty() {
        let count = fitting(rest.iter().copied(), ROWS_PER_BATCH);
        let forest = pack_completions(rest[..count].iter().copied());
        let batch = Batch::new(&*model.backend, forest);
        out.extend(sums(&batch.forest, &model.token_logps(&batch)));
        rest = &rest[count..];
    }
    out
}

impl UnpairedTask<'_> {
    /// z, from the mismatched completions of these examples.
    fn reference_point<B: Backend>(
        &self,
        model: &LanguageModel<B>,
        data: &ReferencedExamples<'_>,
        rows: &[usize],
        metrics: &mut Averages,
    ) -> f64 {
        let sequences: Vec<_> = rows.iter().map(|&i| &data.examples[i].mismatched).collect();
        let policy = score(model, &sequences);
        let ratios = policy
            .iter()
            .zip(rows)
            .map(|(p, &i)| p - data.reference[i].1);
        let kl = (ratios.sum::<f64>() / rows.len().max(1) as f64).max(0.0);
        metrics.add("kl", kl);
        self.kto.beta * kl
    }

    /// Losses and signed coefficients (∂ℓ/∂log π, negative for a liked row) of a batch.
    fn losses(
        &self,
        data: &ReferencedExamples<'_>,
        rows: &[usize],
        policy: &[f64],
        z: f64,
        metrics: &mut Averages,
        split: &'static str,
    ) -> Result<Vec<f64>, TrainError> {
        // (rewards, log-probs, rows) of liked and of disliked rows
        let (mut coefficients, mut sides) = (Vec::new(), [(0.0, 0.0, 0.0); 2]);
        for (&i, &logp) in rows.iter().zip(policy) {
            let example = &data.examples[i];
            let ratio = logp - data.reference[i].0;
            let (loss, c) = self.kto.row(ratio, example.desirable, z);
            if !(loss.is_finite() && logp.is_finite()) {
                return Err(TrainError::NonFiniteLoss {
                    step: 0,
                    loss,
                    data: split,
                    rows: vec![example.index],
                    checkpoint: None,
                });
            }
            let (sign, side) = match example.desirable {
                true => (-1.0, &mut sides[0]),
                false => (1.0, &mut sides[1]),
            };
            coefficients.push(sign * c * example.weight);
            *side = (side.0 + self.kto.beta * ratio, side.1 + logp, side.2 + 1.0);
            metrics.add("loss", loss * example.weight);
        }
        // Where a batch has rows of a kind, its mean over them counts, as in TRL.
        for (name, (reward, logp, rows)) in ["chosen", "rejected"].iter().zip(sides) {
            if rows > 0.0 {
                metrics.add(&format!("rewards/{name}"), reward / rows);
                metrics.add(&format!("logps/{name}"), logp / rows);
            }
        }
        let [chosen, rejected] = sides;
        if chosen.2 > 0.0 && rejected.2 > 0.0 {
            let margin = chosen.0 / chosen.2 - rejected.0 / rejected.2;
            metrics.add("rewards/margins", margin);
        }
        Ok(coefficients)
    }
}

impl<B: Backend> Task<B> for UnpairedTask<'_> {
    fn accumulate(
        &mut self,
        model: &LanguageModel<B>,
        gradients: &mut Gradients<B>,
        step: u64,
        micro_batches: &[Vec<usize>],
        _measure: bool,
    ) -> Result<Averages, TrainError> {
        let mut done = Vec::with_capacity(micro_batches.len());
        self.stepped.clear();
        for (k, rows) in micro_batches.iter().enumerate() {
            let mut metrics = Averages::default();
            let z = self.reference_point(model, &self.train, rows, &mut metrics);
            let sequences = rows.iter().map(|&i| &self.train.examples[i].sequence);
            let batch = Batch::new(&*model.backend, pack_completions(sequences));
            let dropout = self.dropout_seed.map(|seed| draw_seed(seed, step, k));
            let forward = model.forward_training(&batch, self.keep, dropout);
            let policy = sums(&batch.forest, &forward.token_logps);
            let coefficients =
                self.losses(&self.train, rows, &policy, z, &mut metrics, "training")?;
            let share = 1.0 / (micro_batches.len() * rows.len()) as f64;
            let own: Vec<f64> = coefficients.iter().map(|c| c * share).collect();
            let mut seeds = vec![0.0; batch.targets()];
            for (response, c) in batch.forest.responses.iter().zip(&own) {
                seeds[response.targets.clone()].fill(*c);
            }
            self.stepped.push(SteppedRows {
                rows: rows.clone(),
                seeds: own,
                dropout_seed: dropout,
            });
            let plan = GradientPlan::summed(&*model.backend, &batch.forest);
            model.backward(&batch, &plan, forward, &seeds, &mut Accumulate(gradients));
            done.push(metrics);
        }
        Ok(Averages::of_step(&done))
    }

    fn after_step(&mut self, _: &LanguageModel<B>, _: f64, _: f64) -> Averages {
        Averages::default()
    }

    fn pushes(&self, model: &LanguageModel<B>, directions: &[Gradients<B>; 2]) -> Vec<Push> {
        let mut pushes = Vec::new();
        for stepped in &self.stepped {
            let sequences = stepped
                .rows
                .iter()
                .map(|&i| &self.train.examples[i].sequence);
            let batch = Batch::new(&*model.backend, pack_completions(sequences));
            let forward = model.forward_training(&batch, self.keep, stepped.dropout_seed);
            let plan = GradientPlan::per_response(&*model.backend, &batch.forest);
            let along = directions.iter().map(|q| &q.values[..]).collect();
            let mut sink = DirectionSink::along(along, stepped.rows.len());
            let ones = vec![1.0; batch.targets()];
            model.backward(&batch, &plan, forward, &ones, &mut sink);
            for (r, (&i, seed)) in stepped.rows.iter().zip(&stepped.seeds).enumerate() {
                let example = &self.train.examples[i];
                let on = [0, 1].map(|direction| {
                    let push = -seed * sink.changes[direction * stepped.rows.len() + r];
                    let mut parts = SideParts::default();
                    match example.desirable {
                        true => parts.chosen_side = push,
                        false => parts.rejected_side = push,
                    }
                    parts
                });
                pushes.push(Push {
                    index: example.index,
                    on,
                });
            }
        }
        pushes
    }

    fn evaluate(
        &mut self,
        model: &LanguageModel<B>,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Averages>, TrainError> {
        if self.eval.examples.is_empty() {
            return Ok(None);
        }
        let mut metrics = Averages::default();
        let all: Vec<usize> = (0..self.eval.examples.len()).collect();
        for rows in all.chunks(self.eval_batch.max(1)) {
            if stop() {
                return Ok(None);
            }
            let mut own = Averages::default();
            let z = self.reference_point(model, &self.eval, rows, &mut own);
            let sequences: Vec<_> = rows
                .iter()
                .map(|&i| &self.eval.examples[i].sequence)
                .collect();
            let policy = score(model, &sequences);
            self.losses(&self.eval, rows, &policy, z, &mut own, "evaluation")?;
            metrics.add_evaluation_batch(&own, rows.len());
        }
        Ok(Some(metrics))
    }

    fn rows(&self, micro_batches: &[Vec<usize>]) -> Vec<usize> {
        let examples = micro_batches.iter().flatten();
        examples.map(|&i| self.train.examples[i].index).collect()
    }

    fn tokens(&self, micro_batches: &[Vec<usize>]) -> usize {
        let examples = micro_batches.iter().flatten();
        examples
            .map(|&i| self.train.examples[i].sequence.ids.len())
            .sum()
    }
}
