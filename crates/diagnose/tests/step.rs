//! Single optimizer steps on the parity models, in f64: gradient descent is what first order predicts, AdamW is what its
//! own update says, a long step is neither; and the model is never changed.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use unbraid_diagnose::{SingleStep, StepEffect, StepSettings, measure_pairs};
use unbraid_model::LanguageModel;
use unbraid_preference::{TokenizedPair, TokenizedSequence};
use unbraid_tensor::NaiveBackend;
use unbraid_train::OptimizerKind;

/// Relative; the second order of a step of length 1e-6.
const FIRST_ORDER: f64 = 1e-3;
const SGD: OptimizerKind = OptimizerKind::Sgd { momentum: 0.0 };
const ADAMW: OptimizerKind = OptimizerKind::AdamW {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
};

fn model(case: &str) -> LanguageModel<NaiveBackend> {
    let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/models");
    LanguageModel::load(Arc::new(NaiveBackend), &models.join(case)).unwrap()
}

fn pairs(case: &str) -> Vec<TokenizedPair> {
    let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/models");
    let text = std::fs::read(models.join(case).join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&text).unwrap();
    let ids = |v: &Value| -> Vec<u32> { serde_json::from_value(v.clone()).unwrap() };
    let pair = |(index, pair): (usize, &Value)| {
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
    };
    let pairs = golden["pairs"].as_array().unwrap().iter().enumerate();
    pairs.map(pair).collect()
}

fn steps(case: &str, settings: StepSettings) -> Vec<StepEffect> {
    let (mut model, pairs) = (model(case), pairs(case));
    let params = model.params.values.clone();
    let all: Vec<&TokenizedPair> = pairs.iter().collect();
    let measured = measure_pairs(&model, &all).pairs;
    let mut single = SingleStep::new(&model, settings);
    let taken = pairs.iter().zip(&measured).enumerate();
    let effects: Vec<StepEffect> = taken
        .map(|(i, (pair, m))| {
            let (d_w, d_l) = (0.05 + 0.01 * i as f64, 0.05);
            let effect = single.take(&mut model, pair, m.gram, d_w, d_l);
            assert!(
                model.params.values == params,
                "{case} {i}: the model is changed"
            );
            let mut fresh = SingleStep::new(&model, settings);
            let again = fresh.take(&mut model, pair, m.gram, d_w, d_l);
            assert_eq!(
                again, effect,
                "{case} {i}: a step depends on those before it"
            );
            effect
        })
        .collect();
    effects
}

fn settings(optimizer: OptimizerKind, learning_rate: f64) -> StepSettings {
    StepSettings {
        optimizer,
        learning_rate,
        weight_decay: 0.0,
        max_grad_norm: 0.1,
    }
}

/// Largest distance of two changes over all pairs, relative to the largest second one.
fn distance(effects: &[StepEffect], of: fn(&StepEffect) -> [f64; 4]) -> f64 {
    let (mut error, mut scale) = (0.0f64, 0.0f64);
    for effect in effects {
        let [a_w, a_l, b_w, b_l] = of(effect);
        error = error.max((a_w - b_w).abs()).max((a_l - b_l).abs());
        scale = scale.max(b_w.abs()).max(b_l.abs());
    }
    error / scale
}

fn predicted_update(e: &StepEffect) -> [f64; 4] {
    [
        e.predicted_chosen,
        e.predicted_rejected,
        e.update_chosen,
        e.update_rejected,
    ]
}

fn realised_update(e: &StepEffect) -> [f64; 4] {
    [
        e.realised_chosen,
        e.realised_rejected,
        e.update_chosen,
        e.update_rejected,
    ]
}

#[test]
fn gradient_descent_does_what_first_order_predicts() {
    for case in ["gpt2", "llama_tied"] {
        let effects = steps(case, settings(SGD, 1e-6));
        assert!(distance(&effects, predicted_update) < 1e-9, "{case}");
        assert!(distance(&effects, realised_update) < FIRST_ORDER, "{case}");
    }
}

#[test]
fn adamw_does_what_its_update_says_until_the_step_is_long() {
    let small = steps("llama", settings(ADAMW, 1e-6));
    assert!(distance(&small, predicted_update) > 0.5);
    assert!(distance(&small, realised_update) < FIRST_ORDER);
    let large = steps("llama", settings(ADAMW, 0.03));
    assert!(distance(&large, realised_update) > 0.1);
    // Decay moves the weights as well; the update knows.
    let decayed = StepSettings {
        weight_decay: 10.0,
        ..settings(ADAMW, 1e-6)
    };
    let decayed = steps("llama", decayed);
    assert!(distance(&decayed, realised_update) < FIRST_ORDER);
    assert!((decayed[0].update_chosen - small[0].update_chosen).abs() > 1e-9);
}
