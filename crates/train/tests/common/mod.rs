//! The parity models and their six pairs, as a preference task reads them.

#![allow(dead_code, reason = "not every test needs all of it")]

use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use unbraid_model::LanguageModel;
use unbraid_preference::{TokenizedPair, TokenizedSequence};
use unbraid_tensor::NaiveBackend;
use unbraid_train::{ScoredPair, score_pairs};

/// A tiny model, exact in f64.
pub fn model(case: &str) -> LanguageModel<NaiveBackend> {
    let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/models");
    LanguageModel::load(Arc::new(NaiveBackend), &models.join(case)).unwrap()
}

fn ids(v: &Value) -> Vec<u32> {
    let ids = v.as_array().unwrap().iter();
    ids.map(|x| x.as_u64().unwrap() as u32).collect()
}

/// The six pairs of the goldens.
pub fn pairs(case: &str) -> Vec<TokenizedPair> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/models");
    let golden: Value =
        serde_json::from_slice(&std::fs::read(path.join(case).join("golden.json")).unwrap())
            .unwrap();
    let pairs = golden["pairs"].as_array().unwrap().iter().enumerate();
    pairs
        .map(|(index, pair)| {
            let prompt = ids(&pair["prompt"]);
            let side = |key: &str| TokenizedSequence {
                ids: [prompt.clone(), ids(&pair[key])].concat(),
                prompt_len: prompt.len(),
            };
            TokenizedPair {
                index,
                chosen: side("chosen"),
                rejected: side("rejected"),
                weight: 1.0,
                text: None,
            }
        })
        .collect()
}

/// Token log-probs of pairs under a model, slightly off: a reference that is not the policy.
pub fn reference(model: &LanguageModel<NaiveBackend>, pairs: &[TokenizedPair]) -> Vec<ScoredPair> {
    let all: Vec<&TokenizedPair> = pairs.iter().collect();
    let mut scored = score_pairs(model, &all, |_| true);
    for (i, s) in scored.iter_mut().enumerate() {
        let moved = |(t, x): (usize, &mut f64)| *x += 0.3 * ((i + 2 * t) % 5) as f64 - 0.5;
        s.chosen_token_logps.iter_mut().enumerate().for_each(moved);
        s.rejected_token_logps
            .iter_mut()
            .enumerate()
            .for_each(moved);
    }
    scored
}
