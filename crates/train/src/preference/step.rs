//! One micro-batch: forward, objective, measurement, remedy, backward.

use super::pushes::{SteppedRun, likelihood_shares};
use super::scored::pair_targets;
use super::{
    Judged, Measured, PreferenceTask, Scored, Side, SteppedPair, TokenMask, clusters, targets,
};
use crate::error::TrainError;
use crate::metrics::Averages;
use crate::pack::pack_pairs;
use crate::record::PairRecord;
use serde_json::json;
use std::path::Path;
use unbraid_geometry::{Cluster, GramSink, OwnGradients, row_coefficients};
use unbraid_model::weights::write_file_atomic;
use unbraid_model::{
    Accumulate, Batch, Forest, Forward, GradientPlan, Gradients, LanguageModel, ProbeSeeds,
    Response, Seeds,
};
use unbraid_objective::condition::{classify, predicted_change};
use unbraid_objective::remedy::Calibration;
use unbraid_objective::{Gram, PairLoss};
use unbraid_tensor::Backend;

/// A remedy keeps the responses' own gradients while they have at most so many elements together (1 GiB in f32):
/// enough for adapters; a whole model is walked twice.
const KEPT_ELEMENTS: usize = 1 << 28;

/// What one micro-batch is asked for.
pub(super) struct MicroBatch<'a> {
    /// Numbers of the training pairs.
    pub examples: &'a [usize],
    /// Factor of its mean loss in the step's loss.
    pub share: f64,
    /// Whether the geometry is reported.
    pub measure: bool,
    /// Seed of what the model and its adapters drop.
    pub dropout_seed: Option<u64>,
}

impl<B: Backend> PreferenceTask<'_, B> {
    /// Adds one micro-batch's gradient.
    pub(super) fn micro_batch(
        &mut self,
        model: &LanguageModel<B>,
        gradients: &mut Gradients<B>,
        step: &MicroBatch<'_>,
        metrics: &mut Averages,
    ) -> Result<(), TrainError> {
        let pairs = step.examples.iter().map(|&i| &self.train.pairs[i]);
        let batch = Batch::new(&*model.backend, pack_pairs(pairs, true));
        let forward = model.forward_training(&batch, self.settings.keep, step.dropout_seed);
        let scored = self.score(model, &batch, &forward, Side::Training, step.examples);
        let judged = self.judge(Side::Training, step.examples, &scored)?;
        let factors: Vec<f64> = step
            .examples
            .iter()
            .map(|&i| step.share * self.train.pairs[i].weight / step.examples.len() as f64)
            .collect();
        for (i, loss) in judged.losses.iter().enumerate() {
            let weight = self.train.pairs[step.examples[i]].weight;
            let loss = loss.loss + scored.penalties[i];
            self.record(metrics, weight, &scored.logps[i], scored.sums[i], loss);
        }
        self.record_mask(metrics, &scored.weights);
        let before = step
            .measure
            .then(|| self.before(model, &batch, step, &scored));

        let likelihood = self.likelihood_of(&scored, &judged);
        let d_w_before: Vec<f64> = judged.losses.iter().map(|loss| loss.d_w).collect();
        let (losses, grams) = self.walk_back(
            model,
            &batch,
            forward,
            &scored,
            judged,
            &factors,
            (gradients, step),
        );
        let likelihood = likelihood_shares(&scored, likelihood, &d_w_before, &losses);
        let measured = before.zip(grams.as_ref());
        let first = self.stepped.len();
        self.runs.push(SteppedRun {
            pairs: first..first + step.examples.len(),
            dropout_seed: step.dropout_seed,
        });
        for (i, &example) in step.examples.iter().enumerate() {
            self.stepped.push(SteppedPair {
                example,
                d_w: losses[i].d_w,
                d_l: losses[i].d_l,
                share: factors[i],
                likelihood: likelihood[i],
                likelihood_in_d_w: !scored.weighted,
                measured: measured.as_ref().map(|(before, grams)| Measured {
                    gram: grams[i],
                    before: before[i],
                    realised: None,
                }),
            });
        }
        if self.settings.log_pairs {
            self.log_pairs(step, &scored, &losses, grams.as_deref());
        }
        Ok(())
    }

    /// k of each pair's likelihood term, with the factor that WPO gives the pair.
    fn likelihood_of(&self, scored: &Scored, judged: &Judged) -> Vec<f64> {
        if scored.weighted {
            return judged.likelihood.clone();
        }
        let plain = self
            .settings
            .objective
            .likelihood_coefficients(&scored.logps);
        let pairs = plain.into_iter().zip(&scored.pair_weights);
        pairs.map(|(k, weight)| k * weight).collect()
    }

    /// Adds the gradient of judged pairs, after the remedy; their final coefficients, and what was measured of them.
    fn walk_back(
        &mut self,
        model: &LanguageModel<B>,
        batch: &Batch<B>,
        forward: Forward<B>,
        scored: &Scored,
        judged: Judged,
        factors: &[f64],
        (gradients, step): (&mut Gradients<B>, &MicroBatch<'_>),
    ) -> (Vec<PairLoss>, Option<Vec<Gram>>) {
        let mut losses = judged.losses;
        let plain_likelihood = judged.likelihood.iter().any(|&k| k != 0.0);
        let unfused = scored.weights.learnt.is_some() || plain_likelihood;
        let grams = if self.settings.remedy.is_active() || unfused {
            let responses = batch.forest.responses.len();
            let one_walk = !unfused && GramSink::can_keep(&model.params, responses, KEPT_ELEMENTS);
            let measured = step.measure || self.settings.remedy.is_active();
            let (grams, own) = match measured {
                true => {
                    let (grams, own) = self.measure(model, batch, &forward, scored, one_walk);
                    (Some(grams), own)
                }
                false => (None, None),
            };
            if let Some(grams) = &grams {
                self.settings.remedy.apply(&mut losses, grams);
            }
            let update = Update {
                clusters: clusters(&losses, factors),
                likelihood: &judged.likelihood,
                factors,
            };
            match own {
                Some(own) => own.apply(&model.backend, &update.clusters, gradients),
                None => self.update(model, batch, forward, scored, &update, (gradients, step)),
            }
            grams
        } else {
            let clusters = clusters(&losses, factors);
            fused(
                model,
                batch,
                forward,
                scored,
                &clusters,
                step.measure,
                gradients,
            )
        };
        (losses, grams)
    }

    /// What the objective reads of the pairs, of the model as it is used: without dropout.
    fn before(
        &self,
        model: &LanguageModel<B>,
        batch: &Batch<B>,
        step: &MicroBatch<'_>,
        scored: &Scored,
    ) -> Vec<(f64, f64)> {
        if step.dropout_seed.is_none() {
            return scored.readings(&batch.forest);
        }
        let forward = model.score(batch);
        let tokens = self.by_token(model, batch, &forward, Side::Training, step.examples);
        tokens.readings(&batch.forest)
    }

    /// The pairs' Gram matrices from a walk that keeps the activations and changes nothing, and with `keep` the
    /// responses' own gradients.
    pub(super) fn measure(
        &self,
        model: &LanguageModel<B>,
        batch: &Batch<B>,
        forward: &Forward<B>,
        scored: &Scored,
        keep: bool,
    ) -> (Vec<Gram>, Option<OwnGradients<B>>) {
        let pairs = batch.forest.responses.len() / 2;
        let units = vec![
            PairLoss {
                loss: 0.0,
                d_w: -1.0,
                d_l: 1.0
            };
            pairs
        ];
        let clusters = clusters(&units, &vec![1.0; pairs]);
        let plan = GradientPlan::per_response(&*model.backend, &batch.forest);
        let params = &model.params;
        let mut sink = GramSink::new(params, |p| params.is_trainable(p), &clusters, None);
        if keep {
            sink = sink.keeping();
        }
        let slopes = scored.mask_slopes();
        let seeds = self.seeds(&scored.weights.weights, &slopes);
        model.backward_again(batch, &plan, forward, seeds, &mut sink);
        let mut grams = grams(&sink);
        let free = self.free_norms(&batch.forest, &slopes);
        for (gram, own) in grams.iter_mut().zip(free.chunks_exact(2)) {
            gram.ww += own[0];
            gram.ll += own[1];
        }
        (grams, sink.take_own())
    }

    /// What a `free` mask's numbers add to each response's squared gradient norm: they are parameters too, and a
    /// response's own are its alone.
    pub(super) fn free_norms(&self, forest: &Forest, slopes: &[f64]) -> Vec<f64> {
        let TokenMask::Free { .. } = self.settings.mask else {
            return vec![0.0; forest.responses.len()];
        };
        let squares = |r: &Response| slopes[r.targets.clone()].iter().map(|x| x * x).sum();
        forest.responses.iter().map(squares).collect()
    }

    /// The training gradient with coefficients that are final.
    fn update(
        &self,
        model: &LanguageModel<B>,
        batch: &Batch<B>,
        forward: Forward<B>,
        scored: &Scored,
        update: &Update<'_>,
        (gradients, step): (&mut Gradients<B>, &MicroBatch<'_>),
    ) {
        let m = batch.targets();
        let coefficients = row_coefficients(&update.clusters, m, targets(&batch.forest));
        let times = |values: &[f64]| -> Vec<f64> {
            coefficients
                .iter()
                .zip(values)
                .map(|(c, v)| c * v)
                .collect()
        };
        let mut token_seeds = times(&scored.weights.weights);
        for (i, k) in update.likelihood.iter().enumerate() {
            for t in batch.forest.responses[2 * i].targets.clone() {
                token_seeds[t] -= k * update.factors[i];
            }
        }
        let mut mask_seeds = times(&scored.mask_slopes());
        if let (Some(settings), Some(learnt)) =
            (self.settings.mask.settings(), &scored.weights.learnt)
        {
            // The penalty λ Σ|u| of both completions.
            for (responses, factor) in batch.forest.responses.chunks_exact(2).zip(update.factors) {
                for t in responses.iter().flat_map(|r| r.targets.clone()) {
                    mask_seeds[t] += settings.l1 * factor * learnt.values[t].signum();
                }
            }
        }
        let plan = GradientPlan::summed(&*model.backend, &batch.forest);
        let seeds = self.seeds(&token_seeds, &mask_seeds);
        model.backward(batch, &plan, forward, seeds, &mut Accumulate(gradients));
        if let TokenMask::Free {
            values, offsets, ..
        } = &self.settings.mask
            && let Some(gradient) = &mut gradients.values[values.0]
        {
            let b = &*model.backend;
            for (&example, responses) in step
                .examples
                .iter()
                .zip(batch.forest.responses.chunks_exact(2))
            {
                let own = b.upload_f64(&mask_seeds[pair_targets(responses)]);
                let (at, len) = (offsets[example], b.len(&own));
                b.copy_2d(&own, 0, len, gradient, at, len, 1, len);
            }
        }
    }

    /// Seeds of a walk; a `head` mask is a probe of the final hidden states.
    pub(super) fn seeds<'s>(&self, token_logps: &'s [f64], mask: &'s [f64]) -> Seeds<'s> {
        let probe = match self.settings.mask {
            TokenMask::Head { weight, bias, .. } => Some(ProbeSeeds {
                weight,
                bias,
                seeds: mask,
            }),
            _ => None,
        };
        Seeds { token_logps, probe }
    }

    /// Keeps a record of every pair, in the sums that the objective read.
    fn log_pairs(
        &mut self,
        step: &MicroBatch<'_>,
        scored: &Scored,
        losses: &[PairLoss],
        grams: Option<&[Gram]>,
    ) {
        let has_reference = self.settings.objective.logs_reference();
        for (i, &example) in step.examples.iter().enumerate() {
            let (loss, logps) = (losses[i], scored.logps[i]);
            let gram = grams.map(|g| g[i]);
            let case = gram.map(|gram| {
                let (chosen, rejected) = predicted_change(gram, loss.d_w, loss.d_l);
                classify(chosen, rejected)
            });
            self.records.push(PairRecord {
                index: self.train.pairs[example].index,
                chosen_logps: logps.chosen,
                rejected_logps: logps.rejected,
                ref_chosen_logps: has_reference.then_some(logps.ref_chosen),
                ref_rejected_logps: has_reference.then_some(logps.ref_rejected),
                chosen_len: logps.chosen_len,
                rejected_len: logps.rejected_len,
                loss: loss.loss,
                d_w: loss.d_w,
                d_l: loss.d_l,
                case,
                grad_sq_chosen: gram.map(|g| g.ww),
                grad_sq_rejected: gram.map(|g| g.ll),
                grad_inner: gram.map(|g| g.wl),
            });
        }
    }
}

/// Coefficients that are final.
struct Update<'a> {
    clusters: Vec<Cluster>,
    /// k of each pair's likelihood of plain tokens.
    likelihood: &'a [f64],
    /// Factor of each pair's loss in the step's loss.
    factors: &'a [f64],
}

/// Measurement, if any, and update in one walk: the coefficients are applied when weights accumulate.
fn fused<B: Backend>(
    model: &LanguageModel<B>,
    batch: &Batch<B>,
    forward: Forward<B>,
    scored: &Scored,
    clusters: &[Cluster],
    measure: bool,
    gradients: &mut Gradients<B>,
) -> Option<Vec<Gram>> {
    let weights = &scored.weights.weights;
    if !measure {
        // The loss's derivative with respect to a token's log-prob: its response's coefficient, its weight.
        let mut seeds = row_coefficients(clusters, batch.targets(), targets(&batch.forest));
        seeds
            .iter_mut()
            .zip(weights)
            .for_each(|(seed, s)| *seed *= s);
        let plan = GradientPlan::summed(&*model.backend, &batch.forest);
        model.backward(batch, &plan, forward, &seeds, &mut Accumulate(gradients));
        return None;
    }
    let plan = GradientPlan::per_response(&*model.backend, &batch.forest);
    let params = &model.params;
    let mut sink = GramSink::new(
        params,
        |p| params.is_trainable(p),
        clusters,
        Some(gradients),
    );
    model.backward(batch, &plan, forward, weights, &mut sink);
    Some(grams(&sink))
}

fn grams<B: Backend>(sink: &GramSink<'_, B>) -> Vec<Gram> {
    let of_pair = |gram: &unbraid_geometry::GroupedGram| Gram {
        ww: gram.total(0, 0),
        ll: gram.total(1, 1),
        wl: gram.total(0, 1),
    };
    sink.grams.iter().map(of_pair).collect()
}

/// File of a checkpoint that holds the moving average of `calibrated`.
const CALIBRATION: &str = "calibration.json";

pub(super) fn save_calibration(state: &Calibration, dir: &Path) -> Result<(), TrainError> {
    let text = format!("{}\n", json!({ "log_ratio": state.log_ratio }));
    Ok(write_file_atomic(&dir.join(CALIBRATION), text.as_bytes())?)
}

pub(super) fn load_calibration(state: &mut Calibration, dir: &Path) -> Result<(), TrainError> {
    let path = dir.join(CALIBRATION);
    let text = unbraid_input::read(&path).map_err(|e| TrainError::io("read", &path, e))?;
    let json: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|e| TrainError::io("read", &path, std::io::Error::other(e)))?;
    state.log_ratio = json["log_ratio"].as_f64();
    Ok(())
}
