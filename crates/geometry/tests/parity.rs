//! Log-probs and gradient inner products against PyTorch (`parity/models`, written by its `generate.py` in f64).
//!
//! Tolerances: the naive backend computes the same f64 arithmetic in another order (1e-9 relative); the CPU
//! backend works in f32, where sums over a few hundred terms of this size keep five digits (1e-4 relative to
//! √(‖g_p‖²‖g_q‖²), since an inner product may cancel).

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use unbraid_geometry::{Cluster, GramSink};
use unbraid_model::{
    Accumulate, Batch, Forest, GenerationConfig, GradientPlan, Gradients, Keep, LanguageModel,
    Sequence, Session,
};
use unbraid_tensor::{Backend, CpuBackend, NaiveBackend};

const CASES: [&str; 9] = [
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

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity")
}

fn golden(case: &str) -> Value {
    let path = root().join("models").join(case).join("golden.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn model<B: Backend>(backend: B, case: &str) -> LanguageModel<B> {
    LanguageModel::load(Arc::new(backend), &root().join("models").join(case)).unwrap()
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_u64().unwrap() as u32)
        .collect()
}

fn floats(v: &Value) -> Vec<f64> {
    v.as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect()
}

/// All pairs as one batch.
fn pack(pairs: &[Value], share: bool) -> Forest {
    let mut forest = Forest::new();
    for pair in pairs {
        let prompt = ids(&pair["prompt"]);
        let full = ["chosen", "rejected"].map(|k| [prompt.clone(), ids(&pair[k])].concat());
        let sequences = full.each_ref().map(|ids| Sequence {
            ids,
            scored_from: prompt.len(),
        });
        forest.add_tree(&sequences, share);
    }
    forest
}

fn check(what: &str, got: f64, want: f64, scale: f64, tolerance: f64) {
    let error = (got - want).abs();
    assert!(
        error <= tolerance * scale,
        "{what}: {got} against {want}, error {error:e}, allowed {:e}",
        tolerance * scale
    );
}

fn token_logps<B: Backend>(backend: B, case: &str, tolerance: f64) {
    let (model, golden) = (model(backend, case), golden(case));
    let pairs = golden["pairs"].as_array().unwrap();
    for share in [true, false] {
        let batch = Batch::new(&*model.backend, pack(pairs, share));
        let logps = model.token_logps(&batch);
        for (i, response) in batch.forest.responses.iter().enumerate() {
            let side = ["chosen_token_logps", "rejected_token_logps"][i % 2];
            let want = floats(&golden["per_pair"][i / 2][side]);
            let got = &logps[response.targets.clone()];
            assert_eq!(got.len(), want.len());
            for (t, (&got, want)) in got.iter().zip(want).enumerate() {
                check(
                    &format!("{case} {side} {i}/{t}"),
                    got,
                    want,
                    want.abs().max(1.0),
                    tolerance,
                );
            }
        }
    }
}

#[test]
fn token_logps_agree_with_pytorch() {
    for case in CASES {
        token_logps(NaiveBackend, case, 1e-9);
        token_logps(CpuBackend::new(), case, 1e-5);
    }
}

/// Every pair alone in a cluster; the same with all in one.
fn pair_geometry<B: Backend>(backend: B, case: &str, tolerance: f64) {
    let (model, golden) = (model(backend, case), golden(case));
    let pairs = golden["pairs"].as_array().unwrap();
    for (share, keep) in [(true, Keep::All), (false, Keep::BlockInputs)] {
        let batch = Batch::new(&*model.backend, pack(pairs, share));
        let clusters: Vec<Cluster> = (0..pairs.len())
            .map(|i| Cluster {
                responses: vec![2 * i, 2 * i + 1],
                coefficients: vec![0.0; 2],
            })
            .collect();
        let plan = GradientPlan::per_response(&*model.backend, &batch.forest);
        let forward = model.forward(&batch, keep);
        let ones = vec![1.0; batch.targets()];
        let mut sink = GramSink::new(&model.params, |_| true, &clusters, None);
        model.backward(&batch, &plan, forward, &ones, &mut sink);
        for (i, gram) in sink.grams.iter().enumerate() {
            let want = &golden["per_pair"][i];
            let number = |key: &str| want[key].as_f64().unwrap();
            let (ww, ll) = (number("grad_sq_chosen"), number("grad_sq_rejected"));
            check(
                &format!("{case} {i} ww"),
                gram.total(0, 0),
                ww,
                ww,
                tolerance,
            );
            check(
                &format!("{case} {i} ll"),
                gram.total(1, 1),
                ll,
                ll,
                tolerance,
            );
            let wl = number("grad_inner");
            check(
                &format!("{case} {i} wl"),
                gram.total(0, 1),
                wl,
                (ww * ll).sqrt(),
                tolerance,
            );
            // Group by group, from the parameters' own numbers.
            for (g, name) in sink.group_names.iter().enumerate() {
                let want: f64 = model
                    .params
                    .specs
                    .iter()
                    .filter(|s| s.group == *name)
                    .map(|s| want["parameters"][&s.name]["grad_inner"].as_f64().unwrap())
                    .sum();
                let got = gram.groups[g][1];
                check(
                    &format!("{case} {i} {name}"),
                    got,
                    want,
                    (ww * ll).sqrt(),
                    tolerance,
                );
            }
        }
    }
}

#[test]
fn pair_geometry_agrees_with_pytorch_on_the_naive_backend() {
    for case in CASES {
        pair_geometry(NaiveBackend, case, 1e-9);
    }
}

#[test]
fn pair_geometry_agrees_with_pytorch_on_the_cpu_backend() {
    for case in CASES {
        pair_geometry(CpuBackend::new(), case, 1e-4);
    }
}

#[test]
fn the_batch_gram_is_pytorchs_symmetric_and_obeys_cauchy_schwarz() {
    for case in CASES {
        let (model, golden) = (model(CpuBackend::new(), case), golden(case));
        let pairs = &golden["pairs"].as_array().unwrap()[..3];
        let batch = Batch::new(&*model.backend, pack(pairs, true));
        let clusters = [Cluster {
            responses: (0..6).collect(),
            coefficients: vec![0.0; 6],
        }];
        let plan = GradientPlan::per_response(&*model.backend, &batch.forest);
        let forward = model.forward(&batch, Keep::All);
        let mut sink = GramSink::new(&model.params, |_| true, &clusters, None);
        model.backward(
            &batch,
            &plan,
            forward,
            &vec![1.0; batch.targets()],
            &mut sink,
        );
        let gram = &sink.grams[0];
        for i in 0..6 {
            let want = floats(&golden["batch_gram"][i]);
            for (j, &want) in want.iter().enumerate() {
                let scale = (gram.total(i, i) * gram.total(j, j)).sqrt();
                check(
                    &format!("{case} K[{i}][{j}]"),
                    gram.total(i, j),
                    want,
                    scale,
                    1e-4,
                );
                assert_eq!(gram.total(i, j), gram.total(j, i));
                assert!(gram.total(i, j).abs() <= scale * (1.0 + 1e-6));
            }
        }
    }
}

/// Backward is linear in its seeds: the gradients of single tokens add up to the sequence's, and the plain
/// accumulation of both responses' coefficients is what the geometry's sink accumulates.
#[test]
fn token_gradients_add_up_and_both_sinks_accumulate_the_same() {
    for case in CASES {
        let (model, golden) = (model(NaiveBackend, case), golden(case));
        let b = &*model.backend;
        let pairs = &golden["pairs"].as_array().unwrap()[..1];
        let batch = Batch::new(b, pack(pairs, true));
        let plan = GradientPlan::summed(b, &batch.forest);
        let gradient = |seeds: &[f64]| {
            let mut gradients = Gradients::zeros(b, &model.params, |_| true);
            let forward = model.forward(&batch, Keep::All);
            model.backward(
                &batch,
                &plan,
                forward,
                seeds,
                &mut Accumulate(&mut gradients),
            );
            gradients
                .values
                .into_iter()
                .flatten()
                .flatten()
                .collect::<Vec<f64>>()
        };
        let chosen = batch.forest.responses[0].targets.clone();
        let mut seeds = vec![0.0; batch.targets()];
        seeds[chosen.clone()].fill(1.0);
        let whole = gradient(&seeds);
        let mut sum = vec![0.0; whole.len()];
        let token_inner = golden["token_inner"].as_array().unwrap();
        let mut tokens = Vec::new();
        for t in chosen {
            let mut one = vec![0.0; batch.targets()];
            one[t] = 1.0;
            let g = gradient(&one);
            sum.iter_mut().zip(&g).for_each(|(s, g)| *s += g);
            tokens.push(g);
        }
        let norm = whole.iter().map(|x| x * x).sum::<f64>().sqrt();
        let error = whole
            .iter()
            .zip(&sum)
            .map(|(a, b)| (a - b).powi(2))
            .sum::<f64>()
            .sqrt();
        assert!(error < 1e-12 * norm, "{case}: {error:e}");
        for (i, p) in tokens.iter().enumerate() {
            let want = floats(&token_inner[i]);
            for (j, q) in tokens.iter().enumerate() {
                let inner: f64 = p.iter().zip(q).map(|(a, b)| a * b).sum();
                let scale = (floats(&token_inner[i])[i] * floats(&token_inner[j])[j]).sqrt();
                check(
                    &format!("{case} token {i},{j}"),
                    inner,
                    want[j],
                    scale,
                    1e-9,
                );
            }
        }

        let clusters = [Cluster {
            responses: vec![0, 1],
            coefficients: vec![-0.7, 0.3],
        }];
        let mut seeds = vec![-0.7; batch.targets()];
        seeds[batch.forest.responses[1].targets.clone()].fill(0.3);
        let plain = gradient(&seeds);
        let streams = GradientPlan::per_response(b, &batch.forest);
        let mut gradients = Gradients::zeros(b, &model.params, |_| true);
        let mut sink = GramSink::new(&model.params, |_| true, &clusters, Some(&mut gradients));
        let forward = model.forward(&batch, Keep::All);
        model.backward(
            &batch,
            &streams,
            forward,
            &vec![1.0; batch.targets()],
            &mut sink,
        );
        let measured: Vec<f64> = gradients.values.into_iter().flatten().flatten().collect();
        let norm = plain.iter().map(|x| x * x).sum::<f64>().sqrt();
        let error = plain
            .iter()
            .zip(&measured)
            .map(|(a, b)| (a - b).powi(2))
            .sum::<f64>()
            .sqrt();
        assert!(error < 1e-12 * norm, "{case}: {error:e}");
    }
}

/// The prompt at once, then token by token from the cache: every position's logits, soft caps included. Both backends
/// hand logits out in f32; 1e-4 of their spread leaves room for the CPU backend's sums.
#[test]
fn logits_from_the_cache_agree_with_pytorch() {
    fn check_case<B: Backend>(backend: B, case: &str, tolerance: f64) {
        let (model, golden) = (model(backend, case), golden(case));
        let pair = &golden["pairs"][0];
        let (prompt, chosen) = (ids(&pair["prompt"]), ids(&pair["chosen"]));
        let mut session = Session::new(&model, prompt.len() + chosen.len());
        let mut reads = vec![(prompt.len() - 1, session.read(&prompt))];
        for (i, id) in chosen.iter().enumerate() {
            reads.push((prompt.len() + i, session.read(&[*id])));
        }
        for (position, logits) in reads {
            let want = floats(&golden["logits"][position]);
            for (token, (got, want)) in logits.iter().zip(&want).enumerate() {
                let place = format!("{case} logit {token} at {position}");
                check(&place, f64::from(*got), *want, 1.0, tolerance);
            }
        }
    }
    for case in CASES {
        check_case(NaiveBackend, case, 1e-6);
        check_case(CpuBackend::new(), case, 1e-4);
    }
}

#[test]
fn greedy_generation_agrees_with_transformers() {
    let mut rng = <rand_chacha::ChaCha8Rng as rand::SeedableRng>::seed_from_u64(0);
    for case in CASES {
        let model = model(CpuBackend::new(), case);
        let path = root().join("generate").join(format!("{case}.json"));
        let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for g in golden["generations"].as_array().unwrap() {
            let want = ids(&g["completion"]);
            let greedy = GenerationConfig::default();
            let prompt = ids(&g["prompt"]);
            let got = model.generate(&prompt, want.len(), &greedy, &mut rng, |_| true);
            assert_eq!(got, want, "{case}");
        }
    }
}
