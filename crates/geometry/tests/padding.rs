//! The row of `pad_token_id`: transformers builds the token embedding of Llama, Mistral, Qwen2, Qwen3 and Gemma 2 with PyTorch's
//! `padding_idx`, so that looking it up gives that row no gradient; a tied head's part stays. Goldens of `parity/padding`, in f64.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::Arc;
use unbraid_geometry::{Cluster, GramSink};
use unbraid_model::weights::Weights;
use unbraid_model::{
    Accumulate, Batch, Forest, GradientPlan, Gradients, Keep, LanguageModel, LoraConfig,
    ModelConfig, Sequence, Storage, TargetModules,
};
use unbraid_tensor::NaiveBackend;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity")
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(root().join(path)).unwrap()).unwrap()
}

fn model(family: &str, padding: Value) -> LanguageModel<NaiveBackend> {
    let weights = Weights::open(&root().join("models").join(family)).unwrap();
    let mut map: Map<String, Value> =
        serde_json::from_value(json(&format!("models/{family}/config.json"))).unwrap();
    map.insert("pad_token_id".into(), padding);
    let config = ModelConfig::from_map(map, family).unwrap();
    LanguageModel::from_weights(Arc::new(NaiveBackend), config, &weights, Storage::Float32).unwrap()
}

fn first_pair(family: &str) -> Forest {
    let golden = json(&format!("models/{family}/golden.json"));
    let pair = &golden["pairs"][0];
    let ids = |key: &str| -> Vec<u32> { serde_json::from_value(pair[key].clone()).unwrap() };
    let prompt = ids("prompt");
    let full = ["chosen", "rejected"].map(|key| [prompt.clone(), ids(key)].concat());
    let sequences = full.each_ref().map(|ids| Sequence {
        ids,
        scored_from: prompt.len(),
    });
    let mut forest = Forest::new();
    forest.add_tree(&sequences, true);
    forest
}

fn close(what: &str, got: f64, want: f64, scale: f64) {
    let allowed = 1e-8 * scale; // Gemma's √width is a float32 number in transformers
    assert!(
        (got - want).abs() <= allowed,
        "{what}: {got} against {want}"
    );
}

#[test]
fn gradients_agree_with_transformers() {
    for case in json("padding/golden.json")["cases"].as_array().unwrap() {
        let family = case["family"].as_str().unwrap();
        let model = model(family, case["pad_token_id"].clone());
        let what = format!("{family}, pad_token_id {}", case["pad_token_id"]);
        let batch = Batch::new(&NaiveBackend, first_pair(family));
        let trained = |p| model.params.is_trainable(p);
        let cluster = |responses: Vec<usize>| Cluster {
            coefficients: vec![0.0; responses.len()],
            responses,
        };
        let clusters = [cluster(vec![0, 1])];
        let mut sink = GramSink::new(&model.params, trained, &clusters, None);
        let plan = GradientPlan::per_response(&NaiveBackend, &batch.forest);
        let ones = vec![1.0; batch.targets()];
        let forward = model.forward(&batch, Keep::All);
        model.backward(&batch, &plan, forward, &ones, &mut sink);
        let number = |key: &str| case[key].as_f64().unwrap();
        let (ww, ll) = (number("grad_sq_chosen"), number("grad_sq_rejected"));
        let gram = &sink.grams[0];
        close(&what, gram.total(0, 0), ww, ww);
        close(&what, gram.total(1, 1), ll, ll);
        close(
            &what,
            gram.total(0, 1),
            number("grad_inner"),
            (ww * ll).sqrt(),
        );

        let mut gradients = Gradients::zeros(&NaiveBackend, &model.params, trained);
        let plan = GradientPlan::summed(&NaiveBackend, &batch.forest);
        let chosen = batch.forest.responses[0].targets.clone();
        let seeds: Vec<f64> = (0..batch.targets())
            .map(|t| f64::from(u8::from(chosen.contains(&t))))
            .collect();
        let forward = model.forward(&batch, Keep::All);
        let mut sink = Accumulate(&mut gradients);
        model.backward(&batch, &plan, forward, &seeds, &mut sink);
        let table = model.params.find(model.config.table_name()).unwrap();
        let (d, token) = (
            model.config.hidden_size(),
            case["token"].as_u64().unwrap() as usize,
        );
        let row = &gradients.values[table.0].as_ref().unwrap()[token * d..(token + 1) * d];
        let squares: f64 = row.iter().map(|x| x * x).sum();
        close(&what, squares, number("row_sq_chosen"), ww);
    }
}

/// A table's adapter is looked up with the same padding row: A stands still there.
#[test]
fn the_tables_adapter_leaves_the_row_out_too() {
    let forest = first_pair("llama");
    let token = forest.ids[0];
    let mut model = model("llama", token.into());
    let config = LoraConfig {
        target_modules: TargetModules::Names(vec!["embed_tokens".into()]),
        ..LoraConfig::default()
    };
    model.attach_lora(config, 1).unwrap();
    let batch = Batch::new(&NaiveBackend, forest);
    let trained = |p| model.params.is_trainable(p);
    let mut gradients = Gradients::zeros(&NaiveBackend, &model.params, trained);
    let plan = GradientPlan::summed(&NaiveBackend, &batch.forest);
    let forward = model.forward(&batch, Keep::All);
    let ones = vec![1.0; batch.targets()];
    model.backward(
        &batch,
        &plan,
        forward,
        &ones,
        &mut Accumulate(&mut gradients),
    );
    let a = model.params.find("model.embed_tokens.lora_embedding_A");
    let gradient = gradients.values[a.unwrap().0].as_ref().unwrap();
    let row = |token: u32| &gradient[token as usize * 8..(token as usize + 1) * 8];
    assert!(row(token).iter().all(|x| *x == 0.0));
    let other = batch.forest.ids.iter().find(|id| **id != token);
    assert!(row(*other.unwrap()).iter().any(|x| *x != 0.0));
}

#[test]
fn what_is_no_row_of_the_embedding_is_refused() {
    let read = |padding: Value| {
        let mut map: Map<String, Value> =
            serde_json::from_value(json("models/llama/config.json")).unwrap();
        map.insert("pad_token_id".into(), padding);
        ModelConfig::from_map(map, "config.json")
    };
    for good in [
        Value::Null,
        0.into(),
        100.into(),
        (-1).into(),
        (-101).into(),
    ] {
        read(good).unwrap();
    }
    for bad in [101.into(), (-102).into(), "0".into(), 1.5.into()] {
        let message = read(bad).unwrap_err().to_string();
        assert!(message.contains("pad_token_id"), "{message}");
        assert!(message.contains("-101 to 100"), "{message}");
    }
}
