//! Dropout of the models themselves: gradients against central differences in f64 in every family, with a prompt that two
//! completions share; masks that do not depend on how the passes run; loss over masks against PyTorch
//! (`parity/dropout`, written by its `generate.py`).

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; a panic is a failed test"
)]

use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use unbraid_model::weights::Weights;
use unbraid_model::{
    Accumulate, Batch, Forest, GradientPlan, Gradients, Keep, LanguageModel, LoraConfig,
    ModelConfig, ParamId, Sequence, Storage, TargetModules,
};
use unbraid_tensor::{Backend, CpuBackend, NaiveBackend};

const SEED: u64 = 11;

fn parity() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity")
}

/// A model of `parity/models` with other settings.
fn model<B: Backend>(backend: B, case: &str, changes: &Value) -> LanguageModel<B> {
    let dir = parity().join("models").join(case);
    let text = std::fs::read_to_string(dir.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    let config = ModelConfig::from_json_str(&config.to_string(), "config.json").unwrap();
    let weights = Weights::open(&dir).unwrap();
    LanguageModel::from_weights(Arc::new(backend), config, &weights, Storage::Float32).unwrap()
}

/// Every family with all the dropout that it can have.
fn cases() -> Vec<(&'static str, Value)> {
    let attention = || json!({"attention_dropout": 0.3});
    let neox = || json!({"attention_dropout": 0.3, "hidden_dropout": 0.2});
    vec![
        (
            "gpt2",
            json!({"embd_pdrop": 0.1, "attn_pdrop": 0.3, "resid_pdrop": 0.2}),
        ),
        ("llama", attention()),
        ("mistral", attention()),
        ("qwen2", attention()),
        ("qwen3", attention()),
        ("gemma2", attention()),
        ("gpt_neox", neox()),
        ("gpt_neox_sequential", neox()),
    ]
}

/// A prompt with two completions, and a sequence of its own.
fn forest() -> Forest {
    let ids = |n: u32, of: u32| -> Vec<u32> { (0..n).map(|i| (i * 37 + of) % 101).collect() };
    let mut forest = Forest::new();
    let [a, b] = [3, 8].map(|of| [ids(4, 5), ids(3, of)].concat());
    let pair = [&a, &b].map(|ids| Sequence {
        ids,
        scored_from: 4,
    });
    forest.add_tree(&pair, true);
    let alone = ids(6, 50);
    let alone = Sequence {
        ids: &alone,
        scored_from: 1,
    };
    forest.add_tree(&[alone], true);
    forest
}

/// What is differentiated: Σ seed·log-prob with uneven seeds.
fn seeds(targets: usize) -> Vec<f64> {
    (0..targets).map(|t| ((t * 7) % 5) as f64 - 1.5).collect()
}

fn value(model: &LanguageModel<NaiveBackend>, batch: &Batch<NaiveBackend>) -> f64 {
    let forward = model.forward_training(batch, Keep::All, Some(SEED));
    let logps = forward.token_logps.iter();
    logps.zip(seeds(batch.targets())).map(|(l, s)| l * s).sum()
}

fn gradients<B: Backend>(model: &LanguageModel<B>, keep: Keep) -> Gradients<B> {
    let b = &*model.backend;
    let batch = Batch::new(b, forest());
    let trained = |p| model.params.is_trainable(p);
    let mut gradients = Gradients::zeros(b, &model.params, trained);
    let forward = model.forward_training(&batch, keep, Some(SEED));
    let plan = GradientPlan::summed(b, &batch.forest);
    let seeds = seeds(batch.targets());
    model.backward(
        &batch,
        &plan,
        forward,
        &seeds,
        &mut Accumulate(&mut gradients),
    );
    gradients
}

/// Checks a few elements of every trained parameter.
fn check_gradients(what: &str, mut model: LanguageModel<NaiveBackend>) {
    let batch = Batch::new(&NaiveBackend, forest());
    let exact = gradients(&model, Keep::All);
    let step = 1e-5;
    for id in model.params.trainable().collect::<Vec<ParamId>>() {
        let gradient = NaiveBackend.download_f64(exact.values[id.0].as_ref().unwrap());
        let data = NaiveBackend.download_f64(model.params.get(id));
        // Elements with a gradient: of a table most rows have none.
        let live = (0..data.len()).filter(|&e| gradient[e] != 0.0);
        for e in live.step_by(data.len() / 3 + 1) {
            let mut at = |delta: f64| {
                let mut moved = data.clone();
                moved[e] += delta;
                model.params.values[id.0] = NaiveBackend.upload_f64(&moved);
                value(&model, &batch)
            };
            let difference = (at(step) - at(-step)) / (2.0 * step);
            model.params.values[id.0] = NaiveBackend.upload_f64(&data);
            let error = (gradient[e] - difference).abs();
            assert!(
                error < 1e-6 * (1.0 + difference.abs()),
                "{what} {}[{e}]: {} {difference}",
                model.params.specs[id.0].name,
                gradient[e]
            );
        }
    }
}

#[test]
fn gradients_are_those_of_the_dropped_pass() {
    for (case, changes) in cases() {
        check_gradients(case, model(NaiveBackend, case, &changes));
    }
}

/// An adapter's dropout beside the model's: two masks over the same rows.
#[test]
fn gradients_of_an_adapter_beside_the_models_dropout() {
    let (case, changes) = &cases()[0];
    let mut adapted = model(NaiveBackend, case, changes);
    let config = LoraConfig {
        r: 2,
        alpha: 4.0,
        dropout: 0.25,
        target_modules: TargetModules::AllLinear,
        ..LoraConfig::default()
    };
    adapted.attach_lora(config, 5).unwrap();
    for id in adapted.params.trainable().collect::<Vec<ParamId>>() {
        let len = adapted.params.specs[id.0].len();
        let values: Vec<f64> = (0..len)
            .map(|e| ((e * 5) % 7) as f64 * 0.02 - 0.05)
            .collect();
        adapted.params.values[id.0] = NaiveBackend.upload_f64(&values);
    }
    check_gradients("adapter", adapted);
}

#[test]
fn masks_do_not_depend_on_how_a_pass_runs() {
    for (case, changes) in cases() {
        let naive = model(NaiveBackend, case, &changes);
        let all = gradients(&naive, Keep::All);
        let again = gradients(&naive, Keep::BlockInputs);
        let fast = model(CpuBackend::new(), case, &changes);
        let fast_gradients = gradients(&fast, Keep::All);
        let norm = all.squared_norm(&NaiveBackend).sqrt();
        for id in naive.params.trainable() {
            let name = &naive.params.specs[id.0].name;
            let of = |g: &Gradients<NaiveBackend>| {
                NaiveBackend.download_f64(g.values[id.0].as_ref().unwrap())
            };
            let whole = of(&all);
            assert_eq!(whole, of(&again), "{case} {name}: blocks computed again");
            let own = fast_gradients.values[id.0].as_ref().unwrap();
            for (x, y) in whole.iter().zip(&fast.backend.download_f64(own)) {
                assert!(
                    (x - y).abs() < 1e-4 * norm,
                    "{case} {name}, fast backend: {x} {y}"
                );
            }
        }
    }
}

/// Scoring and a pass without a seed drop nothing; a model without dropout has nothing to drop.
#[test]
fn nothing_is_dropped_outside_training() {
    for (case, changes) in cases() {
        let none: serde_json::Map<_, _> = changes
            .as_object()
            .unwrap()
            .keys()
            .map(|key| (key.clone(), json!(0.0)))
            .collect();
        let dropping = model(NaiveBackend, case, &changes);
        let plain = model(NaiveBackend, case, &Value::Object(none));
        assert!(dropping.drops() && !plain.drops(), "{case}");
        let batch = Batch::new(&NaiveBackend, forest());
        let expected = plain.token_logps(&batch);
        assert_eq!(dropping.token_logps(&batch), expected, "{case}");
        assert_eq!(dropping.forward(&batch, Keep::All).token_logps, expected);
        let trained = |model: &LanguageModel<NaiveBackend>, seed| {
            model
                .forward_training(&batch, Keep::All, Some(seed))
                .token_logps
        };
        assert_eq!(trained(&plain, 1), expected, "{case}");
        assert_ne!(trained(&dropping, 1), expected, "{case}");
        assert_ne!(trained(&dropping, 1), trained(&dropping, 2), "{case}");
        assert_eq!(trained(&dropping, 2), trained(&dropping, 2), "{case}");
    }
}

/// Keys that are absent mean transformers' defaults: a tenth everywhere in GPT-2, nothing in the others.
#[test]
fn absent_keys_mean_the_familys_defaults() {
    let gpt2 = json!({"embd_pdrop": null, "attn_pdrop": null, "resid_pdrop": null});
    let dropout = model(NaiveBackend, "gpt2", &gpt2).config.dropout();
    let shares = [dropout.embedding, dropout.attention, dropout.residual];
    assert_eq!(shares, [0.1; 3]);
    let others = json!({"attention_dropout": null, "hidden_dropout": null});
    for (case, _) in &cases()[1..] {
        let dropout = model(NaiveBackend, case, &others).config.dropout();
        assert!(!dropout.any(), "{case}");
    }
    for wrong in [json!(1.0), json!(-0.1), json!("0.1")] {
        let config = json!({"model_type": "gpt2", "vocab_size": 4, "n_embd": 4, "n_layer": 1, "n_head": 1, "attn_pdrop": wrong});
        let error = ModelConfig::from_json_str(&config.to_string(), "config.json");
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("attn_pdrop") && text.contains("not including, 1"),
            "{text}"
        );
    }
}

/// Mean and spread of a loss over masks. With n and N draws the means differ by less than 4.5 of their standard error in all
/// but one of 100,000 comparisons; the seeds are fixed.
#[test]
fn losses_over_masks_are_distributed_as_in_pytorch() {
    const DRAWS: u64 = 700;
    let text = std::fs::read_to_string(parity().join("dropout/golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let number = |v: &Value| v.as_f64().unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 12);
    let ids: Vec<u32> = (0..12).map(|i| (i * 37 + 5) % 101).collect();
    for case in cases {
        let (name, changes) = (case["model"].as_str().unwrap(), &case["changes"]);
        let model = model(CpuBackend::new(), name, changes);
        let mut forest = Forest::new();
        let sequence = Sequence {
            ids: &ids,
            scored_from: 1,
        };
        forest.add_tree(&[sequence], true);
        let batch = Batch::new(&*model.backend, forest);
        let loss = |seed: Option<u64>| {
            let logps = model.forward_training(&batch, Keep::All, seed).token_logps;
            -logps.iter().sum::<f64>() / logps.len() as f64
        };
        assert!(
            (loss(None) - number(&case["without"])).abs() < 1e-5,
            "{name}"
        );
        let drawn: Vec<f64> = (0..DRAWS).map(|seed| loss(Some(seed))).collect();
        let n = DRAWS as f64;
        let mean = drawn.iter().sum::<f64>() / n;
        let squares = drawn.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
        let deviation = (squares / (n - 1.0)).sqrt();
        let (wanted, spread) = (number(&case["mean"]), number(&case["standard_deviation"]));
        let error = spread * (1.0 / n + 1.0 / number(&golden["seeds"])).sqrt();
        let what = format!("{name} {changes}: {mean} ± {deviation}, PyTorch {wanted} ± {spread}");
        assert!((mean - wanted).abs() < 4.5 * error, "{what}");
        assert!((deviation / spread - 1.0).abs() < 0.15, "{what}");
    }
}
