//! Preference training: a margin objective on pairs, with in-run geometry.
//!
//! One forward pass gives every token's log-prob; the objective turns the sums into a loss with d_w, d_l
//! (∇ℓ = −d_w g_w + d_l g_l, paper eq. 7, 8); these seed one backward pass. On measured steps the pass runs
//! with unit seeds and a [`GramSink`] that takes ‖g_w‖², ‖g_l‖², ⟨g_w,g_l⟩ of every pair exactly and applies
//! the coefficients when it accumulates, so training takes the same step either way.

use crate::error::TrainError;
use crate::metrics::Averages;
use crate::pack::pack_pairs;
use crate::score::{ScoredPair, score_pairs};
use crate::trainer::Task;
use unbraid_geometry::{Cluster, GramSink, row_coefficients};
use unbraid_model::{Accumulate, Batch, Forest, GradientPlan, Gradients, Keep, LanguageModel};
use unbraid_objective::condition::{classify, predicted_change};
use unbraid_objective::{Case, Gram, Objective, PairLogps, PairLoss};
use unbraid_preference::TokenizedPair;
use unbraid_tensor::Backend;

/// Summed log-probs of a pair under the reference.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReferenceLogps {
    /// log π_ref(y_w|x), in nats.
    pub chosen: f64,
    /// log π_ref(y_l|x), in nats.
    pub rejected: f64,
}

impl From<&ScoredPair> for ReferenceLogps {
    fn from(scored: &ScoredPair) -> Self {
        ReferenceLogps {
            chosen: scored.chosen(),
            rejected: scored.rejected(),
        }
    }
}

/// What was measured of a pair in the last measured step.
struct Measured {
    example: usize,
    before: (f64, f64),
    gram: Gram,
    d_w: f64,
    d_l: f64,
    /// Factor of this pair's loss in the step's loss.
    share: f64,
}

/// A margin objective on pairs.
pub struct PreferenceTask<'a> {
    /// Training pairs.
    pub train: &'a [TokenizedPair],
    /// Reference log-probs of the training pairs.
    pub train_reference: Vec<ReferenceLogps>,
    /// Held-out pairs.
    pub eval: &'a [TokenizedPair],
    /// Reference log-probs of the held-out pairs.
    pub eval_reference: Vec<ReferenceLogps>,
    /// What is minimised.
    pub objective: Objective,
    /// Factor of the implicit rewards β·(log π − log π_ref).
    pub reward_beta: f64,
    /// What a forward pass keeps.
    pub keep: Keep,
    measured: Vec<Measured>,
}

impl<'a> PreferenceTask<'a> {
    /// A task; both references have one entry per pair.
    pub fn new(
        train: &'a [TokenizedPair],
        train_reference: Vec<ReferenceLogps>,
        eval: &'a [TokenizedPair],
        eval_reference: Vec<ReferenceLogps>,
        objective: Objective,
        reward_beta: f64,
        keep: Keep,
    ) -> Self {
        PreferenceTask {
            train,
            train_reference,
            eval,
            eval_reference,
            objective,
            reward_beta,
            keep,
            measured: Vec::new(),
        }
    }

    /// Loss and coefficients of a batch; names the rows when something is not finite.
    fn losses(
        &self,
        pairs: &[&TokenizedPair],
        logps: &[PairLogps],
        data: &'static str,
    ) -> Result<Vec<PairLoss>, TrainError> {
        let bad = |finite: &dyn Fn(usize) -> bool, loss: f64| TrainError::NonFiniteLoss {
            step: 0,
            loss,
            data,
            rows: (0..pairs.len())
                .filter(|&i| !finite(i))
                .map(|i| pairs[i].index)
                .collect(),
            checkpoint: None,
        };
        let sums = |i: usize| (logps[i].chosen + logps[i].rejected).is_finite();
        if !(0..pairs.len()).all(sums) {
            return Err(bad(&sums, f64::NAN));
        }
        let losses = self.objective.evaluate(logps)?;
        let finite = |i: usize| (losses[i].loss + losses[i].d_w + losses[i].d_l).is_finite();
        match (0..pairs.len()).find(|&i| !finite(i)) {
            Some(i) => Err(bad(&finite, losses[i].loss)),
            None => Ok(losses),
        }
    }

    /// TRL's metrics of one pair.
    fn record(&self, metrics: &mut Averages, pair: &TokenizedPair, p: &PairLogps, loss: &PairLoss) {
        let chosen = self.reward_beta * (p.chosen - p.ref_chosen);
        let rejected = self.reward_beta * (p.rejected - p.ref_rejected);
        metrics.add("loss", loss.loss * pair.weight);
        metrics.add("rewards/chosen", chosen);
        metrics.add("rewards/rejected", rejected);
        metrics.add("rewards/margins", chosen - rejected);
        metrics.add("rewards/accuracies", f64::from(u8::from(chosen > rejected)));
        metrics.add("logps/chosen", p.chosen);
        metrics.add("logps/rejected", p.rejected);
    }

    /// Forward, objective, backward of one micro-batch whose loss counts `share` in the step.
    fn micro_batch<B: Backend>(
        &mut self,
        model: &LanguageModel<B>,
        gradients: &mut Gradients<B>,
        examples: &[usize],
        share: f64,
        measure: bool,
        metrics: &mut Averages,
    ) -> Result<(), TrainError> {
        let pairs: Vec<&TokenizedPair> = examples.iter().map(|&i| &self.train[i]).collect();
        let forest = pack_pairs(pairs.iter().copied(), true);
        let batch = Batch::new(&*model.backend, forest);
        let forward = model.forward(&batch, self.keep);
        let logps: Vec<PairLogps> = response_sums(&batch.forest, &forward.token_logps)
            .zip(examples)
            .map(|(sums, &i)| pair_logps(sums, &self.train[i], &self.train_reference[i]))
            .collect();
        let losses = self.losses(&pairs, &logps, "training")?;
        let mut clusters = Vec::with_capacity(pairs.len());
        for (i, (pair, loss)) in pairs.iter().zip(&losses).enumerate() {
            self.record(metrics, pair, &logps[i], loss);
            let factor = share * pair.weight / pairs.len() as f64;
            clusters.push(Cluster {
                responses: vec![2 * i, 2 * i + 1],
                coefficients: vec![-loss.d_w * factor, loss.d_l * factor],
            });
        }
        if !measure {
            // The loss's derivative with respect to each token's log-prob is its response's coefficient.
            let targets = |p: usize| batch.forest.responses[p].targets.clone();
            let seeds = row_coefficients(&clusters, batch.targets(), targets);
            let plan = GradientPlan::summed(&*model.backend, &batch.forest);
            model.backward(&batch, &plan, forward, &seeds, &mut Accumulate(gradients));
            return Ok(());
        }
        let plan = GradientPlan::per_response(&*model.backend, &batch.forest);
        let ones = vec![1.0; batch.targets()];
        let mut sink = GramSink::new(&model.params, |_| true, &clusters, Some(gradients));
        model.backward(&batch, &plan, forward, &ones, &mut sink);
        for (i, gram) in sink.grams.iter().enumerate() {
            self.measured.push(Measured {
                example: examples[i],
                before: (logps[i].chosen, logps[i].rejected),
                gram: Gram {
                    ww: gram.total(0, 0),
                    ll: gram.total(1, 1),
                    wl: gram.total(0, 1),
                },
                d_w: losses[i].d_w,
                d_l: losses[i].d_l,
                share: share * pairs[i].weight / pairs.len() as f64,
            });
        }
        Ok(())
    }
}

/// (chosen, rejected) sums of token log-probs, and their counts, pair by pair.
fn response_sums<'f>(
    forest: &'f Forest,
    token_logps: &'f [f64],
) -> impl Iterator<Item = (f64, f64)> + 'f {
    let sum = |r: &unbraid_model::Response| token_logps[r.targets.clone()].iter().sum::<f64>();
    forest
        .responses
        .chunks_exact(2)
        .map(move |pair| (sum(&pair[0]), sum(&pair[1])))
}

fn pair_logps(
    (chosen, rejected): (f64, f64),
    pair: &TokenizedPair,
    reference: &ReferenceLogps,
) -> PairLogps {
    PairLogps {
        chosen,
        rejected,
        ref_chosen: reference.chosen,
        ref_rejected: reference.rejected,
        chosen_len: pair.chosen.completion().len(),
        rejected_len: pair.rejected.completion().len(),
    }
}

/// The geometry of one measured pair, under TRL-style keys (SPEC §4).
fn record_geometry(metrics: &mut Averages, m: &Measured) {
    let (chosen, rejected) = predicted_change(m.gram, m.d_w, m.d_l);
    let case = classify(chosen, rejected);
    let share = |c: Case| f64::from(u8::from(case == c));
    metrics.add("geometry/grad_norm_chosen", m.gram.ww.sqrt());
    metrics.add("geometry/grad_norm_rejected", m.gram.ll.sqrt());
    metrics.add("geometry/inner", m.gram.wl);
    metrics.add("geometry/cosine", m.gram.cosine());
    metrics.add("geometry/d_w", m.d_w);
    metrics.add("geometry/d_l", m.d_l);
    metrics.add("geometry/ideal", share(Case::Ideal));
    metrics.add("geometry/both_fall", share(Case::BothFall));
    metrics.add("geometry/both_rise", share(Case::BothRise));
}

impl<B: Backend> Task<B> for PreferenceTask<'_> {
    fn accumulate(
        &mut self,
        model: &LanguageModel<B>,
        gradients: &mut Gradients<B>,
        micro_batches: &[Vec<usize>],
        measure: bool,
    ) -> Result<Averages, TrainError> {
        let mut metrics = Averages::default();
        self.measured.clear();
        let share = 1.0 / micro_batches.len() as f64;
        for examples in micro_batches {
            self.micro_batch(model, gradients, examples, share, measure, &mut metrics)?;
        }
        for m in &self.measured {
            record_geometry(&mut metrics, m);
        }
        Ok(metrics)
    }

    /// Predicted: the first-order change under plain gradient descent with this step's learning rate and
    /// clipping, from the pair's own term of the loss. Realised: what the optimizer's step did.
    fn after_step(
        &mut self,
        model: &LanguageModel<B>,
        learning_rate: f64,
        grad_scale: f64,
    ) -> Averages {
        let mut metrics = Averages::default();
        let pairs: Vec<&TokenizedPair> = self
            .measured
            .iter()
            .map(|m| &self.train[m.example])
            .collect();
        let after = score_pairs(model, &pairs, |_| true);
        for (m, after) in self.measured.iter().zip(&after) {
            let rate = learning_rate * grad_scale * m.share;
            let (chosen, rejected) = predicted_change(m.gram, m.d_w, m.d_l);
            metrics.add("geometry/predicted_chosen", rate * chosen);
            metrics.add("geometry/predicted_rejected", rate * rejected);
            metrics.add("geometry/realised_chosen", after.chosen() - m.before.0);
            metrics.add("geometry/realised_rejected", after.rejected() - m.before.1);
        }
        metrics
    }

    fn evaluate(&mut self, model: &LanguageModel<B>) -> Result<Option<Averages>, TrainError> {
        if self.eval.is_empty() {
            return Ok(None);
        }
        let pairs: Vec<&TokenizedPair> = self.eval.iter().collect();
        let logps: Vec<PairLogps> = score_pairs(model, &pairs, |_| true)
            .iter()
            .zip(&pairs)
            .zip(&self.eval_reference)
            .map(|((s, pair), reference)| pair_logps((s.chosen(), s.rejected()), pair, reference))
            .collect();
        let losses = self.losses(&pairs, &logps, "evaluation")?;
        let mut metrics = Averages::default();
        for ((pair, p), loss) in pairs.iter().zip(&logps).zip(&losses) {
            self.record(&mut metrics, pair, p, loss);
        }
        Ok(Some(metrics))
    }

    fn rows(&self, micro_batches: &[Vec<usize>]) -> Vec<usize> {
        let examples = micro_batches.iter().flatten();
        examples.map(|&i| self.train[i].index).collect()
    }

    fn tokens(&self, micro_batches: &[Vec<usize>]) -> usize {
        let pair = |&i: &usize| self.train[i].chosen.ids.len() + self.train[i].rejected.ids.len();
        micro_batches.iter().flatten().map(pair).sum()
    }
}
