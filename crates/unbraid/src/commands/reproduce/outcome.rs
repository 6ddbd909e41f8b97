//! What a run changed on held-out material, from its last model and the one that it started from.

use super::super::load;
use crate::cli::{DataArgs, MaxLength};
use crate::commands::device::Machine;
use anyhow::Result;
use std::collections::HashSet;
use std::path::Path;
use unbraid_diagnose::measure_pairs;
use unbraid_model::LanguageModel;
use unbraid_preference::{TokenizedPair, TokenizedSequence};
use unbraid_reproduce::{Outcome, drift};
use unbraid_text::Tokenizer;
use unbraid_train::{ScoredPair, score_pairs};

/// Pairs measured at a time.
const PAIRS_PER_BATCH: usize = 8;

/// What every run of one start model and data is measured on.
pub(super) struct HeldOut {
    start: String,
    pairs: Vec<TokenizedPair>,
    /// Token ids of prompts, each once.
    prompts: Vec<Vec<u32>>,
    /// Token ids of texts; empty: the prompts serve.
    texts: Vec<Vec<u32>>,
    measured: usize,
    before: Before,
}

/// What the start model says of the pairs.
struct Before {
    scored: Vec<ScoredPair>,
    cosine: Vec<f64>,
}

/// Options of data that lie in one file.
fn data_args(path: &Path, max_length: MaxLength) -> DataArgs {
    DataArgs {
        dataset_name: path.display().to_string(),
        datasets: None,
        dataset_config: None,
        dataset_train_split: "train".into(),
        dataset_test_split: "test".into(),
        max_samples: None,
        max_length,
    }
}

impl HeldOut {
    /// Tokenises the pairs of a file and scores them under the model that runs start from. Cosines are measured of
    /// whole models alone.
    pub(super) fn new(
        start: &str,
        (path, max_length): (&Path, MaxLength),
        texts: &[String],
        measured: usize,
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        let args = data_args(path, max_length);
        let pairs = load::pairs(&args.dataset_name, "train", &args, tokenizer)?.pairs;
        let model = load_model(start)?;
        load::check_fits(&model.config, load::pair_ids(&pairs))?;
        let prompt = |pair: &TokenizedPair| pair.chosen.ids[..pair.chosen.prompt_len].to_vec();
        let mut seen = HashSet::new();
        let prompts = pairs.iter().map(prompt);
        let prompts = prompts.filter(|prompt| seen.insert(prompt.clone()));
        let prompts = prompts.collect();
        let measured = measured.min(pairs.len());
        let encode = |text: &String| tokenizer.encode(text, true);
        let texts = texts.iter().map(encode).collect::<Result<_, _>>()?;
        let before = Before {
            scored: score(&model, &pairs),
            cosine: cosines(&model, &pairs[..measured]),
        };
        Ok(HeldOut {
            start: start.to_owned(),
            pairs,
            prompts,
            texts,
            measured,
            before,
        })
    }

    /// Sets the model in `trained` beside the start model.
    pub(super) fn outcome(&self, trained: &Path) -> Result<Outcome> {
        let start = load_model(&self.start)?;
        let model = load_model(&trained.display().to_string())?;
        let after = score(&model, &self.pairs);
        let before = &self.before.scored;
        let adapted = model.lora().is_some();
        let on_prompts = drift(&model, &start, &slices(&self.prompts));
        let on_texts = match self.texts.is_empty() {
            true => on_prompts,
            false => drift(&model, &start, &slices(&self.texts)),
        };
        let change = |of: &dyn Fn(&ScoredPair) -> f64| -> Vec<f64> {
            let both = before.iter().zip(&after);
            both.map(|(b, a)| of(a) - of(b)).collect()
        };
        let right = |scored: &[ScoredPair]| share(scored.iter().map(|s| s.chosen() > s.rejected()));
        let (chosen, rejected) = (change(&ScoredPair::chosen), change(&ScoredPair::rejected));
        Ok(Outcome {
            mean_chosen_change: change(&|s| s.chosen() / s.chosen_token_logps.len().max(1) as f64),
            mean_rejected_change: change(&|s| {
                s.rejected() / s.rejected_token_logps.len().max(1) as f64
            }),
            label_accuracy: (right(before), right(&after)),
            contested_mass: (
                contested_mass(&self.pairs, before),
                contested_mass(&self.pairs, &after),
            ),
            reward_accuracy: share(chosen.iter().zip(&rejected).map(|(w, l)| w > l)),
            cosine: match adapted {
                true => Default::default(),
                false => (
                    self.before.cosine.clone(),
                    cosines(&model, &self.pairs[..self.measured]),
                ),
            },
            chosen_change: chosen,
            rejected_change: rejected,
            kl: on_prompts.kl,
            text_logp: (on_texts.start_logp, on_texts.logp),
            prompt_tokens: on_prompts.tokens,
            text_tokens: on_texts.tokens,
        })
    }
}

fn load_model(name: &str) -> Result<LanguageModel<Machine>> {
    load::model(&load::open(name, None)?)
}

fn slices(all: &[Vec<u32>]) -> Vec<&[u32]> {
    all.iter().map(Vec::as_slice).collect()
}

fn share(of: impl Iterator<Item = bool>) -> f64 {
    let (hits, n) = of.fold((0, 0), |(hits, n), hit| (hits + usize::from(hit), n + 1));
    hits as f64 / f64::from(n.max(1))
}

fn score(model: &LanguageModel<Machine>, pairs: &[TokenizedPair]) -> Vec<ScoredPair> {
    let pairs: Vec<&TokenizedPair> = pairs.iter().collect();
    score_pairs(model, &pairs, |_| true)
}

/// Probability of the two tokens at which a pair first differs, together: mean over the pairs that differ.
fn contested_mass(pairs: &[TokenizedPair], scored: &[ScoredPair]) -> f64 {
    let of_pair = |(pair, scored): (&TokenizedPair, &ScoredPair)| {
        let completion = |s: &TokenizedSequence| s.ids[s.prompt_len..].to_vec();
        let (w, l) = (completion(&pair.chosen), completion(&pair.rejected));
        let at = w.iter().zip(&l).position(|(w, l)| w != l)?;
        let (w, l) = (
            scored.chosen_token_logps.get(at)?,
            scored.rejected_token_logps.get(at)?,
        );
        Some(w.exp() + l.exp())
    };
    let masses: Vec<f64> = pairs.iter().zip(scored).filter_map(of_pair).collect();
    masses.iter().sum::<f64>() / masses.len().max(1) as f64
}

/// Cosines of the pairs' gradients over all trainable parameters.
fn cosines(model: &LanguageModel<Machine>, pairs: &[TokenizedPair]) -> Vec<f64> {
    let pairs: Vec<&TokenizedPair> = pairs.iter().collect();
    let batches = pairs.chunks(PAIRS_PER_BATCH);
    let measured = batches.flat_map(|batch| measure_pairs(model, batch).pairs);
    measured.map(|pair| pair.gram.cosine()).collect()
}
