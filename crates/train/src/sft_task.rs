//! Maximum likelihood on token sequences (supervised fine-tuning): loss = −Σ log p / number of tokens, over all
//! tokens of the optimizer step, as transformers averages with gradient accumulation. A row's weight multiplies its Σ log p.
//!
//! An evaluation's loss is that of TRL: each batch's mean over its tokens, weighed by the batch's examples.

use crate::error::TrainError;
use crate::metrics::Averages;
use crate::pack::{draw_seed, pack_sequences};
use crate::trainer::Task;
use unbraid_model::{Accumulate, Batch, Forest, GradientPlan, Gradients, Keep, LanguageModel};
use unbraid_preference::SftDataset;
use unbraid_tensor::Backend;

/// Maximum likelihood; an example is a pack of sequences (one sequence each without packing).
pub struct SftTask<'a> {
    /// Training sequences and packs.
    pub train: &'a SftDataset,
    /// Held-out sequences and packs.
    pub eval: Option<&'a SftDataset>,
    /// What a forward pass keeps.
    pub keep: Keep,
    /// Packs in an evaluation batch.
    pub eval_batch: usize,
    /// Seed of what the model and its adapter drop.
    pub dropout_seed: Option<u64>,
}

fn forest(data: &SftDataset, packs: &[usize]) -> Forest {
    let sequences = packs.iter().flat_map(|&p| &data.packs[p]);
    pack_sequences(sequences.map(|&s| &data.sequences[s]))
}

/// The weight of every sequence of some packs.
fn weights<'d>(data: &'d SftDataset, packs: &'d [usize]) -> impl Iterator<Item = f64> + 'd {
    let sequences = packs.iter().flat_map(|&p| &data.packs[p]);
    sequences.map(|&s| data.sequences[s].weight)
}

impl SftTask<'_> {
    /// Number of examples of the training set.
    pub fn examples(&self) -> usize {
        self.train.packs.len()
    }

    /// −Σ weight·log p over the sequences of some packs, whose responses `forest` holds in order.
    fn weighted_loss(data: &SftDataset, packs: &[usize], forest: &Forest, logps: &[f64]) -> f64 {
        let weights = weights(data, packs).zip(&forest.responses);
        let sum = weights.map(|(weight, response)| {
            let own = logps[response.targets.clone()].iter();
            weight * own.sum::<f64>()
        });
        -sum.sum::<f64>()
    }

    /// Tokens of one training example.
    pub fn length(&self, pack: usize) -> usize {
        let sequences = self.train.packs[pack].iter();
        sequences.map(|&s| self.train.sequences[s].ids.len()).sum()
    }
}

impl<B: Backend> Task<B> for SftTask<'_> {
    fn accumulate(
        &mut self,
        model: &LanguageModel<B>,
        gradients: &mut Gradients<B>,
        step: u64,
        micro_batches: &[Vec<usize>],
        _measure: bool,
    ) -> Result<Averages, TrainError> {
        let forests: Vec<Forest> = micro_batches
            .iter()
            .map(|b| forest(self.train, b))
            .collect();
        let tokens: usize = forests.iter().map(|f| f.targets.len()).sum();
        let mut loss = 0.0;
        for (i, (forest, packs)) in forests.into_iter().zip(micro_batches).enumerate() {
            let batch = Batch::new(&*model.backend, forest);
            let dropout = self.dropout_seed.map(|seed| draw_seed(seed, step, i));
            let forward = model.forward_training(&batch, self.keep, dropout);
            let sum: f64 = forward.token_logps.iter().sum();
            if !sum.is_finite() {
                return Err(TrainError::NonFiniteLoss {
                    step: 0,
                    loss: -sum,
                    data: "training",
                    rows: Task::<B>::rows(self, std::slice::from_ref(packs)),
                    checkpoint: None,
                });
            }
            let logps = &forward.token_logps;
            loss += Self::weighted_loss(self.train, packs, &batch.forest, logps);
            let weights = weights(self.train, packs);
            let mut seeds = vec![0.0; batch.targets()];
            for (response, weight) in batch.forest.responses.iter().zip(weights) {
                seeds[response.targets.clone()].fill(-weight / tokens.max(1) as f64);
            }
            let plan = GradientPlan::summed(&*model.backend, &batch.forest);
            model.backward(&batch, &plan, forward, &seeds, &mut Accumulate(gradients));
        }
        let mut metrics = Averages::default();
        metrics.add("loss", loss / tokens.max(1) as f64);
        Ok(metrics)
    }

    fn after_step(&mut self, _: &LanguageModel<B>, _: f64, _: f64) -> Averages {
        Averages::default()
    }

    fn evaluate(
        &mut self,
        model: &LanguageModel<B>,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Averages>, TrainError> {
        let Some(eval) = self.eval else {
            return Ok(None);
        };
        let mut metrics = Averages::default();
        let packs: Vec<usize> = (0..eval.packs.len()).collect();
        for packs in packs.chunks(self.eval_batch.max(1)) {
            if stop() {
                return Ok(None);
            }
            let batch = Batch::new(&*model.backend, forest(eval, packs));
            let logps = model.token_logps(&batch);
            let loss = Self::weighted_loss(eval, packs, &batch.forest, &logps);
            let mut own = Averages::default();
            own.add("loss", loss / logps.len().max(1) as f64);
            metrics.add_evaluation_batch(&own, packs.len());
        }
        Ok(Some(metrics))
    }

    fn rows(&self, micro_batches: &[Vec<usize>]) -> Vec<usize> {
        let sequences = micro_batches
            .iter()
            .flatten()
            .flat_map(|&p| &self.train.packs[p]);
        sequences.map(|&s| self.train.sequences[s].index).collect()
    }

    fn tokens(&self, micro_batches: &[Vec<usize>]) -> usize {
        micro_batches
            .iter()
            .flatten()
            .map(|&p| self.length(p))
            .sum()
    }
}
