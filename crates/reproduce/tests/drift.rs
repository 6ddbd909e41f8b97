//! Drift of real (tiny) models against the plain way: the logits of each prefix, one after another.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use unbraid_model::{LanguageModel, Session};
use unbraid_reproduce::{drift, drift_in_slices};
use unbraid_tensor::{Backend, CpuBackend};

fn case(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/models");
    root.join(name)
}

fn load(name: &str) -> LanguageModel<CpuBackend> {
    LanguageModel::load(Arc::new(CpuBackend::new()), &case(name)).unwrap()
}

/// The same shape with weights that are all a little larger.
fn moved(name: &str) -> LanguageModel<CpuBackend> {
    let mut model = load(name);
    let backend = Arc::clone(&model.backend);
    for i in 0..model.params.specs.len() {
        let id = unbraid_model::ParamId(i);
        let values = backend.download(model.params.get(id));
        let values: Vec<f32> = values
            .iter()
            .enumerate()
            .map(|(i, x)| x * 1.05 + 0.002 * (i as f32).sin())
            .collect();
        model.params.import(&*backend, id, &values);
    }
    model
}

/// log softmax after each prefix.
fn log_probs(model: &LanguageModel<CpuBackend>, ids: &[u32]) -> Vec<Vec<f64>> {
    let mut session = Session::new(model, ids.len());
    let mut rows = Vec::new();
    for id in &ids[..ids.len() - 1] {
        let logits = session.read(&[*id]);
        let exp: f64 = logits.iter().map(|&z| f64::from(z).exp()).sum();
        let row = logits.iter().map(|&z| f64::from(z) - exp.ln());
        rows.push(row.collect());
    }
    rows
}

#[test]
fn drift_is_what_the_logits_of_every_prefix_say() {
    for name in ["gpt2", "llama", "gemma2"] {
        let (trained, start) = (moved(name), load(name));
        let sequences: Vec<Vec<u32>> = vec![
            (0..9).map(|i| (i * 37 + 5) % 101).collect(),
            (0..14).map(|i| (i * 11 + 3) % 101).collect(),
            vec![7],
        ];
        let slices: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let found = drift(&trained, &start, &slices);
        let (mut kl, mut logp, mut start_logp, mut n) = (0.0, 0.0, 0.0, 0);
        for ids in sequences.iter().filter(|ids| ids.len() > 1) {
            let (p, q) = (log_probs(&trained, ids), log_probs(&start, ids));
            for (t, (p, q)) in p.iter().zip(&q).enumerate() {
                let terms = p.iter().zip(q).map(|(p, q)| p.exp() * (p - q));
                kl += terms.sum::<f64>();
                logp += p[ids[t + 1] as usize];
                start_logp += q[ids[t + 1] as usize];
                n += 1;
            }
        }
        assert_eq!(found.tokens, n, "{name}");
        let n = n as f64;
        assert!(kl / n > 1e-3, "{name}: the models differ");
        // Logits are f32 with magnitudes of a few units: 1e-5 absolute.
        for (found, wanted) in [
            (found.kl, kl / n),
            (found.logp, logp / n),
            (found.start_logp, start_logp / n),
        ] {
            assert!((found - wanted).abs() < 1e-5, "{name}: {found} {wanted}");
        }
    }
}

#[test]
fn slices_change_nothing() {
    let (trained, start) = (moved("llama"), load("llama"));
    let ids: Vec<u32> = (0..20).map(|i| (i * 37 + 5) % 101).collect();
    let whole = drift(&trained, &start, &[&ids]);
    for rows in [1, 3, 7, 18] {
        let sliced = drift_in_slices(&trained, &start, &[&ids], rows * 101);
        // The same rows through products of other sizes: the last bits of f32 logits.
        assert!((sliced.kl - whole.kl).abs() < 1e-6, "{rows} {sliced:?}");
        assert_eq!((sliced.logp, sliced.tokens), (whole.logp, whole.tokens));
    }
}

#[test]
fn a_model_has_not_drifted_from_itself() {
    let model = load("gpt2");
    let ids = [1, 2, 3, 4, 5];
    let found = drift(&model, &model, &[&ids]);
    assert!(found.kl.abs() < 1e-6, "{}", found.kl);
    assert_eq!(found.logp, found.start_logp);
    let none = drift(&model, &model, &[]);
    assert_eq!((none.tokens, none.kl), (0, 0.0));
}
