//! Measuring, batch by batch: pairs in, rows out, nothing kept.

use super::data::{Batches, Data, Survey};
use super::policy::Reference;
use super::resume::{self, GEOMETRY, PROXIES, RowFiles, TEXTS};
use super::setup::Plan;
use crate::commands::device::Machine;
use crate::commands::{Interrupt, progress};
use anyhow::{Context, Result, anyhow, bail};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use unbraid_diagnose::{
    Gradients, Measured, PairRow, SingleStep, WhatIf, edit_distance, measure_pairs,
    measure_proxies, shared_tokens,
};
use unbraid_model::{Cancel, LanguageModel};
use unbraid_preference::TokenizedPair;
use unbraid_train::ScoredPair;

/// What is measured, and where it goes.
pub(super) struct Measuring<'a> {
    pub dir: &'a Path,
    pub data: &'a Data<'a>,
    pub survey: &'a Survey,
    pub plan: &'a Plan,
    pub reference: &'a Reference,
    /// Only what a forward pass gives.
    pub proxies_only: bool,
    /// Whether the pairs' text is written too.
    pub texts: bool,
    /// On how many pairs a step is taken.
    pub step_pairs: usize,
    pub batch_tokens: usize,
    pub interrupt: &'a Interrupt,
}

/// How far it came.
pub(super) struct Progress {
    /// Whether every pair has its row.
    pub complete: bool,
    /// Wall-clock time of a pair's measurement, steps left aside; none where this run measured none.
    pub seconds_per_pair: Option<f64>,
}

impl Measuring<'_> {
    /// The file of rows.
    pub(super) fn file(&self) -> &'static str {
        match self.proxies_only {
            true => PROXIES,
            false => GEOMETRY,
        }
    }

    /// Measures what is not there yet.
    pub(super) fn run(&self, model: &mut LanguageModel<Machine>) -> Result<Progress> {
        let mut batches = self.data.batches(self.batch_tokens)?;
        let names = [self.file(), TEXTS];
        let names = &names[..if self.texts { 2 } else { 1 }];
        let mut files = RowFiles::open(self.dir, names, &mut batches)?;
        let mut table = self.plan.what_if.clone();
        if files.rows > 0 {
            let total = self.survey.pairs;
            say!("going on after {} of {total} pairs", files.rows);
            resume::read_rows(&self.dir.join(self.file()), |row| table.replay(&row))?;
        }
        let measured = self.measure(model, &mut batches, &mut files, &mut table)?;
        files.sync()?;
        for (name, pairs) in table.left_out() {
            note!("{name} is left out of the rows of {pairs} pairs: its numbers overflow there");
        }
        Ok(measured)
    }

    fn measure(
        &self,
        model: &mut LanguageModel<Machine>,
        batches: &mut Batches<'_>,
        files: &mut RowFiles,
        table: &mut WhatIf,
    ) -> Result<Progress> {
        let (total, before) = (self.survey.pairs, files.rows);
        let mut bar = progress::PairsProgress::new("measuring", total, before);
        let mut spent = Duration::ZERO;
        while !self.interrupt.pressed()
            && let Some(batch) = batches.next_batch()?
        {
            let started = Instant::now();
            let rows = Cancel::catch(|| -> Result<_> {
                let mut rows = self.rows(model, &batch, files.rows)?;
                let measured = started.elapsed();
                self.judge(model, &batch, &mut rows, files.rows, table)?;
                Ok((rows, measured))
            });
            // A model whose step was cancelled is not looked at again: the diagnosis is incomplete.
            let Some(rows) = rows else { break };
            let (rows, measured) = rows?;
            spent += measured;
            files.write(rows.len(), &self.lines(&rows, &batch)?)?;
            bar.done(files.rows);
        }
        bar.finish();
        let own = files.rows - before;
        Ok(Progress {
            complete: files.rows == total,
            seconds_per_pair: (own > 0).then(|| spent.as_secs_f64() / own as f64),
        })
    }

    /// One batch's numbers; `place` is its first pair's among the usable ones.
    fn rows(
        &self,
        model: &LanguageModel<Machine>,
        batch: &[TokenizedPair],
        place: usize,
    ) -> Result<Vec<PairRow>> {
        let pairs: Vec<&TokenizedPair> = batch.iter().collect();
        let mut rows = Vec::with_capacity(pairs.len());
        if self.proxies_only {
            for ((i, pair), (scored, hidden)) in
                pairs.iter().enumerate().zip(measure_proxies(model, &pairs))
            {
                let mut row = self.row(pair, place + i, &scored);
                row.set_hidden(&hidden);
                rows.push(row);
            }
        } else {
            let Measured {
                group_names,
                pairs: measured,
            } = measure_pairs(model, &pairs);
            for ((i, pair), numbers) in pairs.iter().enumerate().zip(measured) {
                let mut row = self.row(pair, place + i, &numbers.scored);
                row.set_hidden(&numbers.hidden);
                row.gradients = Some(Gradients::new(numbers.gram, &group_names, &numbers.groups));
                rows.push(row);
            }
        }
        check(&rows, place == 0)?;
        Ok(rows)
    }

    /// A row with what needs no gradient and no hidden state.
    fn row(&self, pair: &TokenizedPair, place: usize, scored: &ScoredPair) -> PairRow {
        let (chosen, rejected) = (pair.chosen.completion(), pair.rejected.completion());
        let policy = [scored.chosen(), scored.rejected()];
        let reference = self.reference.of(place, policy);
        let mut row = PairRow {
            index: pair.index,
            chosen_logps: policy[0],
            rejected_logps: policy[1],
            ref_chosen_logps: reference.map(|r| r[0]),
            ref_rejected_logps: reference.map(|r| r[1]),
            chosen_len: chosen.len(),
            rejected_len: rejected.len(),
            reward_chosen: 0.0,
            reward_rejected: 0.0,
            reward_margin: 0.0,
            gradients: None,
            ches: 0.0,
            ches_normalized: 0.0,
            edit_distance: edit_distance(chosen, rejected),
            shared_tokens: shared_tokens(chosen, rejected),
            head_inner: 0.0,
            head_cosine: 0.0,
            objectives: Default::default(),
            step: None,
        };
        let objective = self.plan.what_if.configured();
        (row.reward_chosen, row.reward_rejected) =
            objective.implicit_rewards(&row.logps(), self.plan.reward_beta);
        row.reward_margin = row.reward_chosen - row.reward_rejected;
        row
    }

    /// What the objectives would do to the batch's pairs, and what a step does.
    fn judge(
        &self,
        model: &mut LanguageModel<Machine>,
        batch: &[TokenizedPair],
        rows: &mut [PairRow],
        place: usize,
        table: &mut WhatIf,
    ) -> Result<()> {
        // Made for each batch that needs one: it holds two copies of the model.
        let mut stepper = None;
        for (i, (pair, row)) in batch.iter().zip(rows).enumerate() {
            let Some(gradients) = &row.gradients else {
                continue;
            };
            let gram = gradients.gram();
            let outcomes = table.evaluate(&row.logps(), gram);
            row.objectives = outcomes.with_context(|| format!("row {}", row.index))?;
            if !self.steps_on(place + i) {
                continue;
            }
            let judged = row.objectives.get(&self.plan.judged_by);
            let judged = judged.context("the configured objective is in every row")?;
            let stepper = stepper.get_or_insert_with(|| SingleStep::new(model, self.plan.step));
            let effect = stepper.take(model, pair, gram, judged.d_w, judged.d_l);
            row.step = effect.is_finite().then_some(effect);
            if row.step.is_none() {
                note!("row {}: the step overflows and is left out", row.index);
            }
        }
        Ok(())
    }

    /// Whether a step is taken on the pair at this place: `step_pairs` of them, spread evenly.
    fn steps_on(&self, place: usize) -> bool {
        let (wanted, total) = (self.step_pairs.min(self.survey.pairs), self.survey.pairs);
        // The places i·total/wanted: those where place·wanted/total reaches the next whole number.
        wanted > 0 && (place * wanted).div_ceil(total) * total / wanted == place
    }

    /// The batch's lines for each file.
    fn lines(&self, rows: &[PairRow], batch: &[TokenizedPair]) -> Result<Vec<Vec<u8>>> {
        let (mut numbers, mut texts) = (Vec::new(), Vec::new());
        for (row, pair) in rows.iter().zip(batch) {
            serde_json::to_writer(&mut numbers, row)?;
            numbers.push(b'\n');
            let text = pair.text.as_ref().context("the text was kept")?;
            let line = json!({
                "index": pair.index,
                "prompt": text.prompt,
                "chosen": text.chosen,
                "rejected": text.rejected,
            });
            serde_json::to_writer(&mut texts, &line)?;
            texts.push(b'\n');
        }
        Ok(vec![numbers, texts])
    }
}

/// Refuses numbers that are none, and a model that no pair moves.
fn check(rows: &[PairRow], first: bool) -> Result<()> {
    for row in rows {
        let groups = row.gradients.iter().flat_map(|g| &g.groups.0);
        let mut infinite = groups.filter(|(_, group)| !group.grad_inner.is_finite());
        let group = infinite
            .next()
            .map(|(name, g)| (name.as_str(), g.grad_inner));
        if let Some((name, value)) = row.not_finite().or(group) {
            return Err(anyhow!(
                "row {}: {name} is {value}, expected a finite number\n\
                 hint: a weight of the model is not finite, or so large that its gradients overflow",
                row.index
            ));
        }
    }
    let still = |row: &PairRow| {
        let gradients = row.gradients.as_ref();
        gradients.is_some_and(|g| g.grad_sq_chosen == 0.0 && g.grad_sq_rejected == 0.0)
    };
    if first && !rows.is_empty() && rows.iter().all(still) {
        bail!(
            "row {}: both gradients are exactly 0, as are those of the whole first batch: no trainable parameter moves \
             these log-probs\n\
             hint: the adapter may have nothing to train; --parameters all measures the whole model",
            rows[0].index
        );
    }
    Ok(())
}
