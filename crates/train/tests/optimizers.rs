//! Optimizers step by step against PyTorch's and transformers' (`parity/train`, float64), on GPT-2's parameters: matrices
//! stored either way round, biases and norm weights, which weight decay spares.
//!
//! Tolerances: 1e-11 relative on the naive f64 backend. On the f32 backend 1e-5, and 1e-3 for the projection of a Lion
//! trajectory, where a sign that rounding flips moves one element by two steps.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use unbraid_model::{Gradients, LanguageModel, ParamId};
use unbraid_tensor::{Backend, CpuBackend, NaiveBackend};
use unbraid_train::{Optimizer, OptimizerKind};

fn parity() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity")
}

/// The generator's formula, in the checkpoint's orientation.
fn gradient(number: usize, step: usize, len: usize) -> Vec<f64> {
    let (number, step) = (number as f64, step as f64);
    let value = |i: f64| {
        0.01 * (0.7 * i + 1.3 * number + 0.9 * step).sin() * (1.0 + (0.03 * i + step).cos())
    };
    (0..len).map(|i| value(i as f64)).collect()
}

fn transposed(data: &[f64], shape: &[usize]) -> Vec<f64> {
    let (rows, cols) = (shape[0], shape[1]);
    let element = |k: usize| data[k % rows * cols + k / rows];
    (0..data.len()).map(element).collect()
}

fn kind(name: &str) -> OptimizerKind {
    match name {
        "adamw" => OptimizerKind::AdamW {
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
        },
        "sgd" => OptimizerKind::Sgd { momentum: 0.0 },
        "sgd_momentum" => OptimizerKind::Sgd { momentum: 0.9 },
        "adafactor" => OptimizerKind::Adafactor,
        "lion" => OptimizerKind::Lion {
            beta1: 0.9,
            beta2: 0.99,
        },
        other => panic!("the golden has an unknown optimizer {other}"),
    }
}

fn check<B: Backend>(make: impl Fn() -> B, tolerance: f64, lion: f64) {
    let text = std::fs::read(parity().join("train/optimizers.json")).unwrap();
    let golden: Value = serde_json::from_slice(&text).unwrap();
    let decay = golden["settings"]["weight_decay"].as_f64().unwrap();
    for (name, steps) in golden["optimizers"].as_object().unwrap() {
        let tolerance = if name == "lion" { lion } else { tolerance };
        let backend = Arc::new(make());
        let mut model =
            LanguageModel::load(Arc::clone(&backend), &parity().join("models/gpt2")).unwrap();
        let mut gradients = Gradients::zeros(&*backend, &model.params, |_| true);
        let mut optimizer = Optimizer::new(&*backend, kind(name), decay, &model.params, &gradients);
        let mut order: Vec<usize> = (0..model.params.specs.len()).collect();
        order.sort_by(|&a, &b| model.params.specs[a].name.cmp(&model.params.specs[b].name));
        for (k, step) in steps.as_array().unwrap().iter().enumerate() {
            for (number, &i) in order.iter().enumerate() {
                let spec = &model.params.specs[i];
                let mut data = gradient(number, k, spec.len());
                if spec.transposed {
                    data = transposed(&data, &spec.shape);
                }
                gradients.values[i] = Some(backend.upload_f64(&data));
            }
            let (rate, scale) = (step["rate"].as_f64(), step["scale"].as_f64());
            let (rate, scale) = (rate.unwrap(), scale.unwrap());
            optimizer.step(&backend, &mut model.params, &gradients, rate, scale);
            for &i in &order {
                let spec = &model.params.specs[i];
                let mut data = backend.download_f64(model.params.get(ParamId(i)));
                if spec.transposed {
                    data = transposed(&data, &[spec.shape[1], spec.shape[0]]);
                }
                let square: f64 = data.iter().map(|x| x * x).sum();
                let projected = data.iter().enumerate().map(|(i, x)| x * (i as f64).cos());
                let want = &step["parameters"][&spec.name];
                for (got, want) in [(square, &want[0]), (projected.sum(), &want[1])] {
                    let want = want.as_f64().unwrap();
                    let error = (got - want).abs() / want.abs().max(1.0);
                    assert!(
                        error <= tolerance,
                        "{name} step {k} {}: {got} against {want}, relative error {error:e}",
                        spec.name
                    );
                }
            }
        }
    }
}

#[test]
fn steps_agree_with_pytorch_on_the_naive_backend() {
    check(|| NaiveBackend, 1e-11, 1e-11);
}

#[test]
fn steps_agree_with_pytorch_on_the_cpu_backend() {
    check(CpuBackend::new, 1e-5, 1e-3);
}
