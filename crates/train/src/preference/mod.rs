//! Preference training: a margin objective on pairs, with in-run geometry and remedies.
//!
//! One forward pass gives every token's log-prob; the objective turns the sums into a loss with d_w, d_l
//! (∇ℓ = −d_w g_w + d_l g_l, paper eq. 7, 8); these seed one backward pass. On measured steps the pass runs
//! with unit seeds and a [`GramSink`] that takes ‖g_w‖², ‖g_l‖², ⟨g_w,g_l⟩ of every pair exactly and applies
//! the coefficients when it accumulates, so training takes the same step either way. A remedy needs those
//! numbers before any weight's gradient can be scaled, and a learnt token mask has a penalty that belongs to
//! no completion's gradient: there the measurement is a walk of its own, over the same kept activations.

mod batch_gram;
mod evaluate;
mod moving_reference;
mod pushes;
mod remedy;
mod scored;
mod shares;
mod split;
mod step;
mod token_weights;
mod update;

use crate::attribution::Push;
use crate::error::TrainError;
use crate::metrics::Averages;
use crate::pack::{ROWS_AT_ONCE, draw_seed, pack_pairs, runs_within};
use crate::record::PairRecord;
use crate::score::ScoredPair;
use crate::snapshot::Snapshot;
use crate::trainer::{StepRecord, Task};
use pushes::SteppedRun;
use scored::Scored;
use std::path::Path;
use token_weights::{Constant, TokenWeights};
use unbraid_geometry::Cluster;
use unbraid_model::{Forest, Gradients, Keep, LanguageModel};
use unbraid_objective::condition::{classify, predicted_change};
use unbraid_objective::{Case, Gram, Objective, PairLogps, PairLoss};
use unbraid_preference::TokenizedPair;
use unbraid_tensor::Backend;

pub use moving_reference::MovingReference;
pub use remedy::Remedy;
pub use split::{ChangeSplit, split_changes};
pub(crate) use token_weights::shared_tokens;
pub use token_weights::{MaskSettings, TokenMask};

/// Summed log-probs of a pair under the reference.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReferenceLogps {
    /// log π_ref(y_w|x), in nats.
    pub chosen: f64,
    /// log π_ref(y_l|x), in nats.
    pub rejected: f64,
}

impl ReferenceLogps {
    /// Weighted sums of a pair's token log-probs.
    fn weighted(scored: &ScoredPair, (chosen, rejected): &(Vec<f64>, Vec<f64>)) -> Self {
        let sum =
            |logps: &[f64], weights: &[f64]| logps.iter().zip(weights).map(|(x, s)| x * s).sum();
        ReferenceLogps {
            chosen: sum(&scored.chosen_token_logps, chosen),
            rejected: sum(&scored.rejected_token_logps, rejected),
        }
    }
}

impl From<&ScoredPair> for ReferenceLogps {
    fn from(scored: &ScoredPair) -> Self {
        ReferenceLogps {
            chosen: scored.chosen(),
            rejected: scored.rejected(),
        }
    }
}

/// What a preference run minimises, and how.
#[derive(Clone, Debug)]
pub struct PreferenceSettings {
    /// What is minimised.
    pub objective: Objective,
    /// Factor of the implicit rewards β·(log π − log π_ref).
    pub reward_beta: f64,
    /// Remedy against gradient entanglement.
    pub remedy: Remedy,
    /// Weight of the tokens past the shorter completion's length (LD-DPO).
    pub ld_alpha: Option<f64>,
    /// Which tokens count.
    pub mask: TokenMask,
    /// Weigh pairs by the policy's own likelihood (WPO).
    pub use_weighting: bool,
    /// What a forward pass keeps.
    pub keep: Keep,
    /// Seed of what the model and its adapter drop.
    pub dropout_seed: Option<u64>,
    /// Keep a record of every pair of every step for [`Task::take_records`].
    pub log_pairs: bool,
    /// The first so many held-out pairs have their geometry measured at every evaluation.
    pub eval_geometry: usize,
    /// Pairs in an evaluation batch: what objectives that look across pairs see at once, and whose mean a metric counts once.
    pub eval_batch: usize,
}

impl PreferenceSettings {
    /// `objective` with its defaults: no remedy, every token counts, no dropout.
    pub fn new(objective: Objective, reward_beta: f64) -> Self {
        PreferenceSettings {
            objective,
            reward_beta,
            remedy: Remedy::None,
            ld_alpha: None,
            mask: TokenMask::None,
            use_weighting: false,
            keep: Keep::All,
            dropout_seed: None,
            log_pairs: false,
            eval_geometry: 0,
            eval_batch: 8,
        }
    }

    fn constant(&self) -> Constant {
        Constant {
            ld_alpha: self.ld_alpha,
            diff: self.mask == TokenMask::Diff,
        }
    }

    /// A micro-batch of `pairs` in runs of at most [`ROWS_AT_ONCE`] rows, where that changes neither losses nor gradient:
    /// what a pass keeps then stops growing with the batch.
    pub fn runs<'e>(&self, pairs: &[TokenizedPair], examples: &'e [usize]) -> Vec<&'e [usize]> {
        if self.objective.reads_batch() || self.remedy.is_active() {
            return vec![examples];
        }
        let rows = |&i: &usize| pack_pairs([&pairs[i]], true).ids.len();
        runs_within(examples, ROWS_AT_ONCE, rows)
    }
}

/// Pairs with what the frozen reference says of them.
pub struct ReferencedPairs<'a> {
    pairs: &'a [TokenizedPair],
    sums: Vec<ReferenceLogps>,
    /// Kept only where a learnt mask weighs them anew in each step.
    tokens: Vec<ScoredPair>,
}

impl<'a> ReferencedPairs<'a> {
    /// Pairs with their reference's token log-probs, one entry each (an empty entry counts as zero log-probs).
    pub fn new(
        pairs: &'a [TokenizedPair],
        reference: Vec<ScoredPair>,
        settings: &PreferenceSettings,
    ) -> Self {
        let constant = settings.constant();
        let sums = pairs.iter().zip(&reference);
        ReferencedPairs {
            sums: sums.map(|(pair, s)| constant.sums(pair, s)).collect(),
            tokens: match settings.mask.settings() {
                Some(_) => reference,
                None => Vec::new(),
            },
            pairs,
        }
    }

    /// Pairs of a run that reads no frozen reference: its log-probs count as 0.
    pub fn without_reference(pairs: &'a [TokenizedPair]) -> Self {
        ReferencedPairs {
            pairs,
            sums: vec![ReferenceLogps::default(); pairs.len()],
            tokens: Vec::new(),
        }
    }
}

/// What is known of a pair of the last step.
struct SteppedPair {
    example: usize,
    d_w: f64,
    d_l: f64,
    /// Factor of this pair's loss in the step's loss.
    share: f64,
    /// k of its likelihood term, as it was used.
    likelihood: f64,
    /// Whether d_w holds k too: it does where every token counts once.
    likelihood_in_d_w: bool,
    /// What was measured of it, in a measured step.
    measured: Option<Measured>,
}

impl SteppedPair {
    /// d_w of the margin alone.
    fn margin_d_w(&self) -> f64 {
        match self.likelihood_in_d_w {
            true => self.d_w - self.likelihood,
            false => self.d_w,
        }
    }
}

struct Measured {
    gram: Gram,
    /// What the objective reads of its two completions, before the step.
    before: (f64, f64),
    /// By how much the step changed that.
    realised: Option<(f64, f64)>,
}

/// A margin objective on pairs.
pub struct PreferenceTask<'a, B: Backend> {
    train: ReferencedPairs<'a>,
    eval: ReferencedPairs<'a>,
    settings: PreferenceSettings,
    moving: Option<MovingReference<B>>,
    /// Texts of tokens, one each, for what the run writes for people; without it no tokens are shown.
    pub decode: Option<Decode<'a>>,
    stepped: Vec<SteppedPair>,
    /// Which of them were computed together.
    runs: Vec<SteppedRun>,
    /// Micro-batches of the last step.
    micro_batches: usize,
    records: Vec<PairRecord>,
    /// The remedy before the step in flight: each micro-batch moves its average on.
    remedy_before: Remedy,
}

/// Gives each token's text.
pub type Decode<'a> = Box<dyn Fn(&[u32]) -> Vec<String> + 'a>;

/// What the objective says of a batch.
struct Judged {
    /// Loss and coefficients of each pair; where tokens are weighted, of the weighted sums alone.
    losses: Vec<PairLoss>,
    /// k of each pair's likelihood term −k·a_w over plain tokens; 0 where no token is weighted.
    likelihood: Vec<f64>,
}

/// Which pairs a batch is made of.
#[derive(Clone, Copy)]
enum Side {
    Training,
    HeldOut,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Training => "training",
            Side::HeldOut => "evaluation",
        }
    }
}

impl<'a, B: Backend> PreferenceTask<'a, B> {
    /// A task. `moving` replaces the frozen reference by one that follows the policy.
    pub fn new(
        train: ReferencedPairs<'a>,
        eval: ReferencedPairs<'a>,
        settings: PreferenceSettings,
        moving: Option<MovingReference<B>>,
    ) -> Self {
        PreferenceTask {
            train,
            eval,
            remedy_before: settings.remedy,
            settings,
            moving,
            decode: None,
            stepped: Vec::new(),
            runs: Vec::new(),
            micro_batches: 0,
            records: Vec::new(),
        }
    }

    fn side(&self, side: Side) -> &ReferencedPairs<'a> {
        match side {
            Side::Training => &self.train,
            Side::HeldOut => &self.eval,
        }
    }

    /// Loss and coefficients of a batch; names the rows when something is not finite.
    fn judge(&self, side: Side, examples: &[usize], scored: &Scored) -> Result<Judged, TrainError> {
        let bad = |finite: &dyn Fn(usize) -> bool, loss: f64| {
            let bad = (0..examples.len()).filter(|&i| !finite(i));
            TrainError::NonFiniteLoss {
                step: 0,
                loss,
                data: side.name(),
                rows: bad
                    .map(|i| self.side(side).pairs[examples[i]].index)
                    .collect(),
                checkpoint: None,
            }
        };
        let logps = &scored.logps;
        let sums = |i: usize| (logps[i].chosen + logps[i].rejected).is_finite();
        if !(0..examples.len()).all(sums) {
            return Err(bad(&sums, f64::NAN));
        }
        let mut losses = self.settings.objective.evaluate(logps)?;
        let mut likelihood = vec![0.0; losses.len()];
        if scored.weighted {
            // Λ counts every token once, whatever the margin's tokens weigh.
            likelihood = self.settings.objective.likelihood_coefficients(logps);
            for (i, k) in likelihood.iter().enumerate() {
                losses[i].loss += k * (logps[i].chosen - scored.sums[i].0);
                losses[i].d_w -= k;
            }
        }
        for (i, &weight) in scored.pair_weights.iter().enumerate() {
            if weight != 1.0 {
                losses[i] = losses[i].scaled(weight);
                likelihood[i] *= weight;
            }
        }
        let finite = |i: usize| (losses[i].loss + losses[i].d_w + losses[i].d_l).is_finite();
        match (0..examples.len()).find(|&i| !finite(i)) {
            Some(i) => Err(bad(&finite, losses[i].loss)),
            None => Ok(Judged { losses, likelihood }),
        }
    }

    /// TRL's metrics of one pair.
    fn record(
        &self,
        metrics: &mut Averages,
        weight: f64,
        p: &PairLogps,
        (chosen_sum, rejected_sum): (f64, f64),
        loss: f64,
    ) {
        let beta = self.settings.reward_beta;
        let (chosen, rejected) = self.settings.objective.implicit_rewards(p, beta);
        // LD-DPO's weights belong to the log-prob that TRL logs; a mask, which TRL does not have, leaves the plain sums.
        let (chosen_sum, rejected_sum) = match (&self.settings.mask, self.settings.ld_alpha) {
            (TokenMask::None, Some(_)) => (p.chosen, p.rejected),
            _ => (chosen_sum, rejected_sum),
        };
        metrics.add("loss", loss * weight);
        metrics.add("rewards/chosen", chosen);
        metrics.add("rewards/rejected", rejected);
        metrics.add("rewards/margins", chosen - rejected);
        metrics.add("rewards/accuracies", f64::from(u8::from(chosen > rejected)));
        metrics.add("logps/chosen", chosen_sum);
        metrics.add("logps/rejected", rejected_sum);
    }

    /// How much of a learnt mask is open.
    fn record_mask(&self, metrics: &mut Averages, weights: &TokenWeights) {
        if let (Some(settings), Some(learnt)) = (self.settings.mask.settings(), &weights.learnt) {
            let count = learnt.values.len() as f64;
            let open = learnt.values.iter().filter(|&&u| u >= settings.epsilon);
            let shares = learnt.values.iter().map(|&u| settings.share(u));
            metrics.add_weighted("mask/open", open.count() as f64 / count, count);
            metrics.add_weighted("mask/mean", shares.sum::<f64>() / count, count);
        }
    }
}

/// The geometry of one measured pair, under TRL-style keys (SPEC §4).
fn record_geometry(metrics: &mut Averages, (d_w, d_l): (f64, f64), gram: Gram) {
    let (chosen, rejected) = predicted_change(gram, d_w, d_l);
    let case = classify(chosen, rejected);
    let share = |c: Case| f64::from(u8::from(case == c));
    metrics.add("geometry/grad_norm_chosen", gram.ww.sqrt());
    metrics.add("geometry/grad_norm_rejected", gram.ll.sqrt());
    // Means of squares beside the mean inner product: Cauchy–Schwarz holds between these, not with squares of mean norms.
    metrics.add("geometry/grad_sq_chosen", gram.ww);
    metrics.add("geometry/grad_sq_rejected", gram.ll);
    metrics.add("geometry/inner", gram.wl);
    metrics.add("geometry/cosine", gram.cosine());
    metrics.add("geometry/d_w", d_w);
    metrics.add("geometry/d_l", d_l);
    metrics.add("geometry/ideal", share(Case::Ideal));
    metrics.add("geometry/both_fall", share(Case::BothFall));
    metrics.add("geometry/both_rise", share(Case::BothRise));
}

impl<B: Backend> Task<B> for PreferenceTask<'_, B> {
    fn accumulate(
        &mut self,
        model: &LanguageModel<B>,
        gradients: &mut Gradients<B>,
        step: u64,
        micro_batches: &[Vec<usize>],
        measure: bool,
    ) -> Result<Averages, TrainError> {
        let mut done = Vec::with_capacity(micro_batches.len());
        self.stepped.clear();
        self.runs.clear();
        self.micro_batches = micro_batches.len();
        self.records.clear();
        self.remedy_before = self.settings.remedy;
        let mut drawn = 0;
        for micro_batch in micro_batches {
            let mut metrics = Averages::default();
            for examples in self.settings.runs(self.train.pairs, micro_batch) {
                let share =
                    examples.len() as f64 / (micro_batch.len() * micro_batches.len()) as f64;
                let seed = self.settings.dropout_seed;
                let of_step = step::MicroBatch {
                    examples,
                    share,
                    measure,
                    dropout_seed: seed.map(|seed| draw_seed(seed, step, drawn)),
                };
                drawn += 1;
                self.micro_batch(model, gradients, &of_step, &mut metrics)?;
            }
            done.push(metrics);
        }
        let mut metrics = Averages::of_step(&done);
        if measure {
            for pair in &self.stepped {
                if let Some(measured) = &pair.measured {
                    record_geometry(&mut metrics, (pair.d_w, pair.d_l), measured.gram);
                }
            }
        }
        Ok(metrics)
    }

    fn abandon_step(&mut self) {
        self.settings.remedy = self.remedy_before;
    }

    /// Predicted: the first-order change under plain gradient descent with this step's learning rate and
    /// clipping, from the pair's own term of the loss. Realised: what the optimizer's step did. Both of what the
    /// objective reads: weighted sums, where tokens are weighted.
    fn after_step(
        &mut self,
        model: &LanguageModel<B>,
        learning_rate: f64,
        grad_scale: f64,
    ) -> Averages {
        let mut metrics = Averages::default();
        let after = self.readings(model);
        for (pair, after) in self.stepped.iter_mut().zip(after) {
            let rate = learning_rate * grad_scale * pair.share;
            let Some(measured) = &mut pair.measured else {
                continue;
            };
            let (chosen, rejected) = predicted_change(measured.gram, pair.d_w, pair.d_l);
            metrics.add("geometry/predicted_chosen", rate * chosen);
            metrics.add("geometry/predicted_rejected", rate * rejected);
            let before = measured.before;
            let (chosen, rejected) = (after.0 - before.0, after.1 - before.1);
            metrics.add("geometry/realised_chosen", chosen);
            metrics.add("geometry/realised_rejected", rejected);
            measured.realised = Some((chosen, rejected));
        }
        metrics
    }

    fn batch_gram(
        &mut self,
        model: &LanguageModel<B>,
        learning_rate: f64,
        grad_scale: f64,
    ) -> Option<StepRecord> {
        Some(self.record_gram(model, learning_rate * grad_scale))
    }

    fn explains_updates(&self) -> bool {
        true
    }

    fn update_effects(
        &mut self,
        model: &mut LanguageModel<B>,
        snapshot: &mut Snapshot<B>,
        delta: &mut Gradients<B>,
        learning_rate: f64,
        grad_scale: f64,
    ) -> StepRecord {
        self.explain_update(model, snapshot, delta, learning_rate * grad_scale)
    }

    fn pushes(&self, model: &LanguageModel<B>, directions: &[Gradients<B>; 2]) -> Vec<Push> {
        self.pushes_of_step(model, directions)
    }

    fn on_step_end(&mut self, model: &LanguageModel<B>, step: u64) -> Result<(), TrainError> {
        if let Some(moving) = &mut self.moving {
            moving.follow(model, step);
        }
        Ok(())
    }

    fn evaluate(
        &mut self,
        model: &LanguageModel<B>,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Averages>, TrainError> {
        self.evaluate_pairs(model, stop)
    }

    fn rows(&self, micro_batches: &[Vec<usize>]) -> Vec<usize> {
        let examples = micro_batches.iter().flatten();
        examples.map(|&i| self.train.pairs[i].index).collect()
    }

    fn tokens(&self, micro_batches: &[Vec<usize>]) -> usize {
        let pair = |&i: &usize| {
            let pair = &self.train.pairs[i];
            pair.chosen.ids.len() + pair.rejected.ids.len()
        };
        micro_batches.iter().flatten().map(pair).sum()
    }

    fn take_records(&mut self) -> Vec<PairRecord> {
        std::mem::take(&mut self.records)
    }

    fn finish(&mut self, model: &LanguageModel<B>, dir: &Path) -> Result<(), TrainError> {
        self.write_shares(model, dir)
    }

    fn save_state(&self, dir: &Path) -> Result<(), TrainError> {
        if let Remedy::Calibrated(state) = self.settings.remedy {
            step::save_calibration(&state, dir)?;
        }
        self.moving
            .as_ref()
            .map_or(Ok(()), |moving| moving.save(dir))
    }

    fn load_state(&mut self, dir: &Path) -> Result<(), TrainError> {
        if let Remedy::Calibrated(state) = &mut self.settings.remedy {
            step::load_calibration(state, dir)?;
        }
        self.moving
            .as_mut()
            .map_or(Ok(()), |moving| moving.load(dir))
    }
}

/// Targets of a response, for [`unbraid_geometry::row_coefficients`].
fn targets(forest: &Forest) -> impl Fn(usize) -> std::ops::Range<usize> + '_ {
    |p| forest.responses[p].targets.clone()
}

/// The two responses of every pair with their factors in the training gradient.
fn clusters(losses: &[PairLoss], factors: &[f64]) -> Vec<Cluster> {
    let pairs = losses.iter().zip(factors).enumerate();
    let cluster = |(i, (loss, factor)): (usize, (&PairLoss, &f64))| Cluster {
        responses: vec![2 * i, 2 * i + 1],
        coefficients: vec![-loss.d_w * factor, loss.d_l * factor],
    };
    pairs.map(cluster).collect()
}
