//! Directional derivatives against central differences of the log-probs, against gradients that are formed, and the CPU
//! backend against the naive one: all families, tied and not, and adapters. Every parameter moves at random.
//!
//! Tolerances are relative to ‖g‖‖Δ‖ of each response. 1e-8 for differences of step [`STEP`]: their error is the third
//! derivative's. 1e-12 against formed gradients: the same f64 sums in another order. 1e-4 in f32, as for inner products.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use unbraid_geometry::DirectionSink;
use unbraid_model::{
    Accumulate, Batch, Forest, GradientPlan, Gradients, Keep, LanguageModel, ParamId, Sequence,
};
use unbraid_tensor::{Backend, CpuBackend, NaiveBackend};

const FAMILIES: [&str; 9] = [
    "gpt2",
    "llama",
    "llama_tied",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gpt_neox",
    "gpt_neox_sequential",
];
const ADAPTERS: [&str; 3] = ["lora/llama", "lora/gpt2", "lora/llama_whole"];

/// Length of the move in either direction, ‖Δ‖ = 1.
const STEP: f64 = 1e-4;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity")
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The family of a case, which may be an adapter's.
fn family(case: &str) -> String {
    match case.strip_prefix("lora/") {
        None => case.to_owned(),
        Some(_) => {
            let golden = json(root().join(case).join("golden.json"));
            golden["base"].as_str().unwrap().to_owned()
        }
    }
}

fn model<B: Backend>(backend: B, case: &str) -> LanguageModel<B> {
    let base = root().join("models").join(family(case));
    let mut model = LanguageModel::load(Arc::new(backend), &base).unwrap();
    if case.starts_with("lora/") {
        model.load_adapter(&root().join(case)).unwrap();
    }
    model
}

fn batch<B: Backend>(backend: &B, case: &str) -> Batch<B> {
    let ids = |v: &Value| -> Vec<u32> {
        let ids = v.as_array().unwrap().iter();
        ids.map(|x| x.as_u64().unwrap() as u32).collect()
    };
    let golden = json(root().join("models").join(family(case)).join("golden.json"));
    let mut forest = Forest::new();
    for pair in &golden["pairs"].as_array().unwrap()[..3] {
        let prompt = ids(&pair["prompt"]);
        let full = ["chosen", "rejected"].map(|k| [prompt.clone(), ids(&pair[k])].concat());
        let sequences = full.each_ref().map(|ids| Sequence {
            ids,
            scored_from: prompt.len(),
        });
        forest.add_tree(&sequences, true);
    }
    Batch::new(backend, forest)
}

/// A random unit vector over all trainable parameters.
fn direction<B: Backend>(model: &LanguageModel<B>) -> Vec<Option<B::Buffer>> {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let scale = (12.0 / model.params.trainable_count() as f64).sqrt();
    let specs = model.params.specs.iter().enumerate();
    specs
        .map(|(i, spec)| {
            let value = |_| scale * (random.random::<f64>() - 0.5);
            let values: Vec<f64> = (0..spec.len()).map(value).collect();
            let moves = model.params.is_trainable(ParamId(i));
            moves.then(|| model.backend.upload_f64(&values))
        })
        .collect()
}

/// A weight other than 1 for every target.
fn seeds<B: Backend>(batch: &Batch<B>) -> Vec<f64> {
    let seed = |t: usize| 1.0 - 0.3 * (t % 4) as f64;
    (0..batch.targets()).map(seed).collect()
}

fn changes<B: Backend>(model: &LanguageModel<B>, case: &str, keep: Keep) -> Vec<f64> {
    let b = &*model.backend;
    let (batch, delta) = (batch(b, case), direction(model));
    let plan = GradientPlan::per_response(b, &batch.forest);
    let mut sink = DirectionSink::new(&delta, batch.forest.responses.len());
    let forward = model.forward(&batch, keep);
    model.backward(&batch, &plan, forward, &seeds(&batch), &mut sink);
    sink.changes
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Weighted log-probs of all responses after a move of this length.
fn moved(case: &str, length: f64) -> Vec<f64> {
    let mut model = model(NaiveBackend, case);
    for (i, delta) in direction(&model).iter().enumerate() {
        if let Some(delta) = delta {
            NaiveBackend.axpy(length, delta, &mut model.params.values[i]);
        }
    }
    let batch = batch(&NaiveBackend, case);
    let (logps, seeds) = (model.token_logps(&batch), seeds(&batch));
    let responses = batch.forest.responses.iter();
    responses
        .map(|r| dot(&logps[r.targets.clone()], &seeds[r.targets.clone()]))
        .collect()
}

/// Gradient of one response, all trainable parameters end to end, formed.
fn gradient(model: &LanguageModel<NaiveBackend>, case: &str, response: usize) -> Vec<f64> {
    let batch = batch(&NaiveBackend, case);
    let mut own = vec![0.0; batch.targets()];
    let targets = batch.forest.responses[response].targets.clone();
    own[targets.clone()].copy_from_slice(&seeds(&batch)[targets]);
    let plan = GradientPlan::summed(&NaiveBackend, &batch.forest);
    let params = &model.params;
    let mut gradients = Gradients::zeros(&NaiveBackend, params, |p| params.is_trainable(p));
    let forward = model.forward(&batch, Keep::All);
    model.backward(
        &batch,
        &plan,
        forward,
        &own,
        &mut Accumulate(&mut gradients),
    );
    gradients.values.into_iter().flatten().flatten().collect()
}

#[test]
fn it_is_what_the_log_probs_do() {
    for case in FAMILIES.into_iter().chain(ADAPTERS) {
        let model = model(NaiveBackend, case);
        let found = changes(&model, case, Keep::All);
        let again = changes(&model, case, Keep::BlockInputs);
        let delta: Vec<f64> = direction(&model).into_iter().flatten().flatten().collect();
        let cpu = changes(&self::model(CpuBackend::new(), case), case, Keep::All);
        let (forth, back) = (moved(case, STEP), moved(case, -STEP));
        for (r, &found) in found.iter().enumerate() {
            let gradient = gradient(&model, case, r);
            let scale = (dot(&gradient, &gradient) * dot(&delta, &delta)).sqrt();
            let check = |what: &str, other: f64, tolerance: f64| {
                let error = (found - other).abs() / scale;
                assert!(
                    error <= tolerance,
                    "{case} {r}: {found} against {what} {other}, error {error:e}"
                );
            };
            check("differences", (forth[r] - back[r]) / (2.0 * STEP), 1e-8);
            check("the formed gradient", dot(&gradient, &delta), 1e-12);
            check("recomputed blocks", again[r], 1e-12);
            check("the CPU", cpu[r], 1e-4);
            assert!(found.abs() > 1e-6 * scale, "{case} {r}: nothing to see");
        }
    }
}

/// Probes of single tokens add up to their response; what does not move contributes nothing.
#[test]
fn tokens_add_up_and_frozen_parameters_do_not_count() {
    for case in ["gpt2", "llama_tied", "gemma2"] {
        let model = model(NaiveBackend, case);
        let (batch, mut delta) = (batch(&NaiveBackend, case), direction(&model));
        let targets = batch.forest.responses[1].targets.clone();
        let plan = GradientPlan::per_token(
            &NaiveBackend,
            &batch.forest,
            &targets.clone().collect::<Vec<_>>(),
        );
        let mut own = vec![0.0; batch.targets()];
        own[targets.clone()].copy_from_slice(&seeds(&batch)[targets.clone()]);
        let walk = |delta: &[Option<Vec<f64>>]| -> f64 {
            let mut sink = DirectionSink::new(delta, targets.len());
            let forward = model.forward(&batch, Keep::All);
            model.backward(&batch, &plan, forward, &own, &mut sink);
            sink.changes.iter().sum()
        };
        let (whole, tokens) = (changes(&model, case, Keep::All)[1], walk(&delta));
        assert!(
            (whole - tokens).abs() < 1e-12 * whole.abs().max(1.0),
            "{case}"
        );
        let gradient = gradient(&model, case, 1);
        let last = delta.len() - 1;
        let lost = delta[last].take().unwrap();
        let rest = walk(&delta);
        let own = dot(&gradient[gradient.len() - lost.len()..], &lost);
        assert!(
            (tokens - rest - own).abs() < 1e-12,
            "{case}: {tokens} {rest} {own}"
        );
    }
}
