//! Low-rank adapters against PEFT (`parity/lora`, written by its `generate.py` in f64), and invariants of ours.
//!
//! Tolerances as in `parity.rs`: 1e-9 relative for the naive backend, which computes the same f64 arithmetic in
//! another order; 1e-5 (log-probs) and 1e-4 (inner products, relative to the norms) for the f32 backend.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use unbraid_geometry::{Cluster, GramSink};
use unbraid_model::weights::StoredDtype;
use unbraid_model::{
    Accumulate, Batch, Forest, GradientPlan, Gradients, Keep, LanguageModel, LoraConfig, ParamKind,
    Sequence, TargetModules,
};
use unbraid_tensor::{Backend, CpuBackend, NaiveBackend};

/// Every golden, with what its own float32 costs: a base that PEFT changes is decomposed in float32, and Gemma's √width is one.
const CASES: [(&str, f64); 13] = [
    ("llama", 0.0),
    ("gpt2", 0.0),
    ("llama_whole", 0.0),
    ("llama_head", 0.0),
    ("gemma2_tables", 1e-6),
    ("qwen2_table", 0.0),
    ("llama_tied_table", 0.0),
    ("gpt2_head", 0.0),
    ("qwen2_tied", 0.0),
    ("gpt_neox_head", 0.0),
    ("mistral_pissa", 1e-5),
    ("gpt2_pissa", 1e-5),
    ("qwen3_olora", 1e-5),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity")
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn base<B: Backend>(backend: B, name: &str) -> LanguageModel<B> {
    LanguageModel::load(Arc::new(backend), &root().join("models").join(name)).unwrap()
}

/// The base with the golden's adapter, and the golden.
fn adapted<B: Backend>(backend: B, case: &str) -> (LanguageModel<B>, Value) {
    let dir = root().join("lora").join(case);
    let golden = json(&dir.join("golden.json"));
    let mut model = base(backend, golden["base"].as_str().unwrap());
    model.load_adapter(&dir).unwrap();
    (model, golden)
}

fn ids(v: &Value) -> Vec<u32> {
    let ids = v.as_array().unwrap().iter();
    ids.map(|x| x.as_u64().unwrap() as u32).collect()
}

fn pack(base: &str) -> Forest {
    let mut forest = Forest::new();
    let golden = json(&root().join("models").join(base).join("golden.json"));
    for pair in golden["pairs"].as_array().unwrap() {
        let prompt = ids(&pair["prompt"]);
        let full = ["chosen", "rejected"].map(|k| [prompt.clone(), ids(&pair[k])].concat());
        let sequences = full.each_ref().map(|ids| Sequence {
            ids,
            scored_from: prompt.len(),
        });
        forest.add_tree(&sequences, true);
    }
    forest
}

fn close(what: &str, got: f64, want: f64, allowed: f64) {
    let error = (got - want).abs();
    assert!(
        error <= allowed,
        "{what}: {got} against {want}, error {error:e}, allowed {allowed:e}"
    );
}

fn log_probs<B: Backend>(backend: B, case: &str, tolerance: f64) {
    let (mut model, golden) = adapted(backend, case);
    let trained = golden["trainable_parameters"].as_u64().unwrap();
    assert_eq!(model.params.trainable_count() as u64, trained);
    let batch = Batch::new(&*model.backend, pack(golden["base"].as_str().unwrap()));
    let check = |logps: &[f64], response: usize, want: &Value| {
        let own = &logps[batch.forest.responses[response].targets.clone()];
        for (got, want) in own.iter().zip(want.as_array().unwrap()) {
            let want = want.as_f64().unwrap();
            close(
                &format!("{case} {response}"),
                *got,
                want,
                tolerance * want.abs().max(1.0),
            );
        }
    };
    let logps = model.token_logps(&batch);
    for (i, pair) in golden["per_pair"].as_array().unwrap().iter().enumerate() {
        check(&logps, 2 * i, &pair["chosen_token_logps"]);
        check(&logps, 2 * i + 1, &pair["rejected_token_logps"]);
    }
    model.merge_adapter();
    check(
        &model.token_logps(&batch),
        0,
        &golden["merged_chosen_token_logps"],
    );
}

#[test]
fn log_probs_agree_with_peft_before_and_after_merging() {
    for (case, float32) in CASES {
        log_probs(NaiveBackend, case, 1e-9 + float32);
        log_probs(CpuBackend::new(), case, 1e-5 + float32);
    }
}

fn inner_products<B: Backend>(backend: B, case: &str, tolerance: f64) {
    let (model, golden) = adapted(backend, case);
    let batch = Batch::new(&*model.backend, pack(golden["base"].as_str().unwrap()));
    let clusters: Vec<Cluster> = (0..batch.forest.responses.len() / 2)
        .map(|i| Cluster {
            responses: vec![2 * i, 2 * i + 1],
            coefficients: vec![-1.0, 1.0],
        })
        .collect();
    let plan = GradientPlan::per_response(&*model.backend, &batch.forest);
    let mut gradients = Gradients::zeros(&*model.backend, &model.params, |p| {
        model.params.is_trainable(p)
    });
    let mut sink = GramSink::new(
        &model.params,
        |p| model.params.is_trainable(p),
        &clusters,
        Some(&mut gradients),
    );
    let ones = vec![1.0; batch.targets()];
    model.backward(
        &batch,
        &plan,
        model.forward(&batch, Keep::BlockInputs),
        &ones,
        &mut sink,
    );
    for (i, (gram, want)) in sink
        .grams
        .iter()
        .zip(golden["per_pair"].as_array().unwrap())
        .enumerate()
    {
        let number = |key: &str| want[key].as_f64().unwrap();
        let (ww, ll) = (number("grad_sq_chosen"), number("grad_sq_rejected"));
        close(
            &format!("{case} {i} ww"),
            gram.total(0, 0),
            ww,
            tolerance * ww,
        );
        close(
            &format!("{case} {i} ll"),
            gram.total(1, 1),
            ll,
            tolerance * ll,
        );
        let wl = number("grad_inner");
        close(
            &format!("{case} {i} wl"),
            gram.total(0, 1),
            wl,
            tolerance * (ww * ll).sqrt(),
        );
    }
    // Training's own sink accumulates the same.
    let mut summed = Gradients::zeros(&*model.backend, &model.params, |p| {
        model.params.is_trainable(p)
    });
    let seeds = unbraid_geometry::row_coefficients(&clusters, batch.targets(), |p| {
        batch.forest.responses[p].targets.clone()
    });
    let plan = GradientPlan::summed(&*model.backend, &batch.forest);
    let forward = model.forward(&batch, Keep::All);
    model.backward_again(
        &batch,
        &plan,
        &forward,
        &seeds,
        &mut Accumulate(&mut summed),
    );
    let (a, b) = (
        gradients.squared_norm(&*model.backend),
        summed.squared_norm(&*model.backend),
    );
    close(&format!("{case} accumulated"), a, b, 10.0 * tolerance * b);
}

#[test]
fn inner_products_agree_with_peft() {
    for (case, float32) in CASES {
        inner_products(NaiveBackend, case, 1e-9 + 10.0 * float32);
        inner_products(CpuBackend::new(), case, 1e-4 + 10.0 * float32);
    }
}

fn fresh(dropout: f64, modules_to_save: &[&str]) -> LoraConfig {
    LoraConfig {
        base_model: "somewhere".into(),
        r: 2,
        alpha: 4.0,
        dropout,
        target_modules: TargetModules::AllLinear,
        modules_to_save: modules_to_save.iter().map(|&m| m.into()).collect(),
        use_rslora: false,
        ..LoraConfig::default()
    }
}

#[test]
fn a_fresh_adapter_changes_nothing_and_a_written_one_comes_back() {
    let mut model = base(NaiveBackend, "llama");
    let batch = Batch::new(&NaiveBackend, pack("llama"));
    let before = model.token_logps(&batch);
    model.attach_lora(fresh(0.1, &["lm_head"]), 7).unwrap();
    assert_eq!(model.token_logps(&batch), before);
    // Train it a little: every trainable parameter moves.
    let trainable: Vec<_> = model.params.trainable().collect();
    for id in trainable {
        let mut data = NaiveBackend.download(model.params.get(id));
        data.iter_mut()
            .enumerate()
            .for_each(|(i, x)| *x += 0.01 * (i % 7) as f32);
        model.params.import(&NaiveBackend, id, &data);
    }
    let trained = model.token_logps(&batch);
    assert_ne!(trained, before);
    model.set_adapter_enabled(false);
    assert_eq!(
        model.token_logps(&batch),
        before,
        "the adapter off is the base"
    );
    model.set_adapter_enabled(true);
    assert_eq!(model.token_logps(&batch), trained);

    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path(), StoredDtype::Bf16).unwrap();
    assert!(!dir.path().join("model.safetensors").exists());
    let mut other = base(NaiveBackend, "llama");
    other.load_adapter(dir.path()).unwrap();
    assert_eq!(
        other.token_logps(&batch),
        trained,
        "adapters are written exactly"
    );
    let mut resumed = base(NaiveBackend, "llama");
    resumed.attach_lora(fresh(0.1, &["lm_head"]), 8).unwrap();
    resumed.restore(dir.path()).unwrap();
    assert_eq!(resumed.token_logps(&batch), trained);
    assert_eq!(model.params.of_kind(ParamKind::Adapter).count(), 2 * 14);
}

/// dA and dB through dropout, against central differences: the mask is drawn again, the same, in the backward,
/// also where a shared prompt has a gradient row per response.
#[test]
fn gradients_through_dropout_agree_with_differences() {
    differences("llama", TargetModules::AllLinear);
    let names = ["embed_tokens", "lm_head", "down_proj"].map(String::from);
    differences("llama_tied", TargetModules::Names(names.to_vec()));
    differences("gemma2", TargetModules::Names(names.to_vec()));
}

fn differences(name: &str, target_modules: TargetModules) {
    let mut model = base(NaiveBackend, name);
    let config = LoraConfig {
        target_modules,
        ..fresh(0.4, &[])
    };
    model.attach_lora(config, 7).unwrap();
    let adapters: Vec<_> = model.params.of_kind(ParamKind::Adapter).collect();
    for &id in &adapters {
        let mut data = NaiveBackend.download(model.params.get(id));
        data.iter_mut()
            .enumerate()
            .for_each(|(i, x)| *x += 0.1 * ((i * 5) % 7) as f32 - 0.3);
        model.params.import(&NaiveBackend, id, &data);
    }
    let batch = Batch::new(&NaiveBackend, pack(name));
    let seed = Some(5);
    let weights: Vec<f64> = (0..batch.targets())
        .map(|t| 0.1 * (t % 5) as f64 - 0.1)
        .collect();
    let value = |model: &LanguageModel<NaiveBackend>| -> f64 {
        let forward = model.forward_training(&batch, Keep::All, seed);
        forward
            .token_logps
            .iter()
            .zip(&weights)
            .map(|(x, w)| x * w)
            .sum()
    };
    let mut gradients = Gradients::zeros(&NaiveBackend, &model.params, |p| {
        model.params.is_trainable(p)
    });
    let plan = GradientPlan::summed(&NaiveBackend, &batch.forest);
    let forward = model.forward_training(&batch, Keep::BlockInputs, seed);
    model.backward(
        &batch,
        &plan,
        forward,
        &weights,
        &mut Accumulate(&mut gradients),
    );
    assert_ne!(value(&model), {
        let plain = model.forward(&batch, Keep::All);
        plain
            .token_logps
            .iter()
            .zip(&weights)
            .map(|(x, w)| x * w)
            .sum::<f64>()
    });
    // Per response the gradients add up to the same.
    let per_response = GradientPlan::per_response(&NaiveBackend, &batch.forest);
    let clusters: Vec<Cluster> = (0..batch.forest.responses.len())
        .map(|p| Cluster {
            responses: vec![p],
            coefficients: vec![1.0],
        })
        .collect();
    let mut apart = Gradients::zeros(&NaiveBackend, &model.params, |p| {
        model.params.is_trainable(p)
    });
    let mut sink = GramSink::new(
        &model.params,
        |p| model.params.is_trainable(p),
        &clusters,
        Some(&mut apart),
    );
    let forward = model.forward_training(&batch, Keep::All, seed);
    model.backward(&batch, &per_response, forward, &weights, &mut sink);

    let step = 1e-5;
    for &id in &adapters {
        let analytic = NaiveBackend.download_f64(gradients.values[id.0].as_ref().unwrap());
        let own = NaiveBackend.download_f64(apart.values[id.0].as_ref().unwrap());
        let i = analytic.len() / 3;
        close(
            "per response",
            own[i],
            analytic[i],
            1e-9 * (1.0 + analytic[i].abs()),
        );
        let data = NaiveBackend.download_f64(model.params.get(id));
        let mut at = |x: f64| {
            let mut moved = data.clone();
            moved[i] = x;
            model.params.values[id.0] = NaiveBackend.upload_f64(&moved);
            value(&model)
        };
        // Of fourth order: curvature is strong where dropout thins the sums.
        let mut apart = |h: f64| at(data[i] + h) - at(data[i] - h);
        let numeric = (8.0 * apart(step) - apart(2.0 * step)) / (12.0 * step);
        at(data[i]);
        let name = &model.params.specs[id.0].name;
        close(name, analytic[i], numeric, 1e-7 * (1.0 + numeric.abs()));
    }
}

#[test]
fn what_cannot_be_adapted_is_refused_by_name() {
    let refused = |config: LoraConfig, model: &str| {
        base(NaiveBackend, model)
            .attach_lora(config, 0)
            .unwrap_err()
            .to_string()
    };
    let named = |names: &[&str]| LoraConfig {
        target_modules: TargetModules::Names(names.iter().map(|&n| n.into()).collect()),
        ..fresh(0.0, &[])
    };
    let message = refused(named(&["q_proj", "q_porj"]), "llama");
    assert!(
        message.contains("\"q_porj\"") && message.contains("gate_proj"),
        "{message}"
    );
    let message = refused(named(&["norm"]), "llama");
    assert!(message.contains("\"norm\""), "{message}");
    let message = refused(fresh(0.0, &["proj"]), "llama");
    assert!(message.contains("modules_to_save"), "{message}");
    let message = refused(fresh(0.0, &["no_such"]), "llama");
    assert!(message.contains("\"no_such\""), "{message}");
    let pattern = |text: &str| LoraConfig {
        target_modules: TargetModules::Pattern(text.into()),
        ..fresh(0.0, &[])
    };
    let message = refused(pattern(r"model\.layers\.0.*"), "llama");
    assert!(message.contains("no linear map and no token"), "{message}");
    let message = refused(pattern(r"(?=(.*.*)*#)\1"), "llama");
    assert!(message.contains("takes too long"), "{message}");
    let message = base(NaiveBackend, "gpt2")
        .load_adapter(&root().join("lora/llama"))
        .unwrap_err();
    assert!(
        message.to_string().contains("do not belong together"),
        "{message}"
    );
}

/// A single name, which TRL hands to PEFT as a pattern, still is one where no whole path matches.
#[test]
fn patterns_and_single_names_find_their_modules() {
    let adapted = |text: &str| {
        let mut model = base(NaiveBackend, "llama");
        let config = LoraConfig {
            target_modules: TargetModules::Pattern(text.into()),
            ..fresh(0.0, &[])
        };
        model.attach_lora(config, 0).unwrap();
        (
            model.params.of_kind(ParamKind::Adapter).count(),
            model.lora().unwrap().target_modules.clone(),
        )
    };
    let pattern = r".*\.(q|v)_proj";
    assert_eq!(
        adapted(pattern),
        (8, TargetModules::Pattern(pattern.into()))
    );
    let not_first = r"(?!.*layers\.0\.).*\.(q|v)_proj";
    assert_eq!(adapted(not_first).0, 4);
    let names = TargetModules::Names(vec!["q_proj".into()]);
    assert_eq!(adapted("q_proj"), (4, names));
}

/// Written again, an adapter has the tensors that PEFT writes, settings that mean the same, and gives the same numbers.
#[test]
fn written_adapters_have_the_tensors_that_peft_writes() {
    for (case, _) in CASES {
        let (model, golden) = adapted(NaiveBackend, case);
        let Some(tensors) = golden["tensors"].as_object() else {
            continue; // older goldens do not list them
        };
        let dir = tempfile::tempdir().unwrap();
        model.save(dir.path(), StoredDtype::F32).unwrap();
        let file = dir.path().join("adapter_model.safetensors");
        let written = unbraid_model::weights::Weights::open(&file).unwrap();
        let names: Vec<&str> = written.names().collect();
        let wanted: Vec<&str> = tensors.keys().map(String::as_str).collect();
        assert_eq!(names, wanted, "{case}");
        for (name, shape) in tensors {
            let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
            assert_eq!(written.shape(name).unwrap(), shape, "{case} {name}");
        }
        let settings = |dir: &Path| json(&dir.join("adapter_config.json"));
        let (ours, peft) = (
            settings(dir.path()),
            settings(&root().join("lora").join(case)),
        );
        for key in [
            "r",
            "init_lora_weights",
            "use_rslora",
            "ensure_weight_tying",
        ] {
            assert_eq!(ours[key], peft[key], "{case} {key}");
        }
        let mut again = base(NaiveBackend, golden["base"].as_str().unwrap());
        again.load_adapter(dir.path()).unwrap();
        let batch = Batch::new(&NaiveBackend, pack(golden["base"].as_str().unwrap()));
        assert_eq!(
            again.token_logps(&batch),
            model.token_logps(&batch),
            "{case}"
        );
        // Merged and written as a whole model, it comes back too, as two matrices where it has to.
        let mut merged = again;
        merged.merge_adapter();
        let whole = tempfile::tempdir().unwrap();
        merged.save(whole.path(), StoredDtype::F32).unwrap();
        let read = LanguageModel::load(Arc::new(NaiveBackend), whole.path()).unwrap();
        let logps = model.token_logps(&batch);
        for (got, want) in read.token_logps(&batch).iter().zip(&logps) {
            close(case, *got, *want, 1e-5);
        }
    }
}

/// Fresh adapters of table and head change nothing, and off they leave no trace.
#[test]
fn adapters_of_table_and_head_start_at_nothing() {
    for case in ["llama", "llama_tied", "gemma2", "gpt2", "gpt_neox"] {
        let mut model = base(NaiveBackend, case);
        let table = match case {
            "gpt2" => "wte",
            "gpt_neox" => "embed_in",
            _ => "embed_tokens",
        };
        let batch = Batch::new(&NaiveBackend, pack(case));
        let before = model.token_logps(&batch);
        let config = LoraConfig {
            target_modules: TargetModules::Names(vec![table.into(), "lm_head".into()]),
            ..fresh(0.0, &[])
        };
        model.attach_lora(config, 3).unwrap();
        let after = model.token_logps(&batch);
        let largest = before.iter().zip(&after).map(|(x, y)| (x - y).abs());
        assert!(largest.fold(0.0, f64::max) < 1e-12, "{case}");
        model.set_adapter_enabled(false);
        assert_eq!(model.token_logps(&batch), before, "{case}");
    }
}

#[test]
fn a_whole_model_saved_over_an_adapter_is_not_shadowed_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = base(NaiveBackend, "llama");
    model.attach_lora(fresh(0.0, &[]), 7).unwrap();
    model.save(dir.path(), StoredDtype::F32).unwrap();
    assert!(dir.path().join("adapter_config.json").exists());
    model.merge_adapter();
    model.save(dir.path(), StoredDtype::F32).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        assert!(!dir.path().join(name).exists(), "{name}");
    }
}

#[test]
fn damaged_adapters_are_refused_by_tensor() {
    use unbraid_model::weights::save_safetensors_file;
    let dir = tempfile::tempdir().unwrap();
    let source = root().join("lora/llama");
    std::fs::copy(
        source.join("adapter_config.json"),
        dir.path().join("adapter_config.json"),
    )
    .unwrap();
    let path = "base_model.model.model.layers.0.self_attn.q_proj";
    for (a, b, message) in [
        (vec![], vec![32, 3], "has shape [], expected [r, 32]"),
        (vec![0, 32], vec![32, 0], "with r at least 1"),
        (
            vec![3, 32],
            vec![32, 2],
            "lora_B.weight has shape [32, 2], expected [32, 3]",
        ),
    ] {
        let tensors = [
            (format!("{path}.lora_A.weight"), a),
            (format!("{path}.lora_B.weight"), b),
        ];
        let fetch = |i: usize| Ok(vec![0.5; tensors[i].1.iter().product()]);
        let file = dir.path().join("adapter_model.safetensors");
        save_safetensors_file(&file, &tensors, fetch, StoredDtype::F32).unwrap();
        let said = base(NaiveBackend, "llama")
            .load_adapter(dir.path())
            .unwrap_err()
            .to_string();
        assert!(said.contains(message), "{said}");
    }
}
