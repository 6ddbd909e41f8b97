//! Counts of a tiny model against counts by hand, and parameters of real configurations against known totals.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use std::path::Path;
use std::sync::Arc;
use unbraid_model::{Keep, LanguageModel, LoraConfig, ModelConfig, Storage, TargetModules};
use unbraid_objective::{Objective, ObjectiveOptions};
use unbraid_plan::{Kind, MeterBackend, RunShape, Simulation, simulate};
use unbraid_preference::{TokenizedPair, TokenizedSequence};
use unbraid_tensor::Backend;
use unbraid_train::{
    OptimizerKind, PreferenceSettings, Sampler, SamplingOrder, Schedule, ScheduleKind, Settings,
    TrainingPlan,
};

/// Two blocks of width 128 with 2 heads of 64, a feed-forward layer of 256; a vocabulary of 1,000.
fn tiny() -> ModelConfig {
    let text = r#"{"model_type":"llama","architectures":["LlamaForCausalLM"],"hidden_size":128,"intermediate_size":256,
        "num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":2,"vocab_size":1000,
        "max_position_embeddings":512,"rms_norm_eps":1e-5,"hidden_act":"silu","tie_word_embeddings":true}"#;
    ModelConfig::from_json_str(text, "tiny").unwrap()
}

/// Prompts of 60 tokens, completions of 30 and 20: 60 + 29 + 19 rows, 50 of them scored.
fn pairs(count: usize) -> Vec<TokenizedPair> {
    let sequence = |first: u32, token: u32, len: usize| {
        let mut ids = vec![token; 60 + len];
        ids[..60].fill(first);
        TokenizedSequence {
            ids,
            prompt_len: 60,
        }
    };
    let pair = |index: usize| TokenizedPair {
        index,
        chosen: sequence(10 + index as u32, 1, 30),
        rejected: sequence(10 + index as u32, 2, 20),
        weight: 1.0,
        text: None,
    };
    (0..count).map(pair).collect()
}

fn shape(pairs: &[TokenizedPair]) -> RunShape<'_> {
    let objective = Objective::from_names(&["sigmoid"], &[], &ObjectiveOptions::default()).unwrap();
    RunShape {
        config: tiny(),
        storage: Storage::Float32,
        lora: None,
        reference: None,
        moving: None,
        reads_reference: true,
        precompute: false,
        pairs,
        plan: TrainingPlan {
            sampler: Sampler {
                order: SamplingOrder::Sequential,
                seed: 1,
                batch: 1,
                accumulation: 1,
                lengths: vec![90; pairs.len()],
            },
            total: pairs.len() as u64,
        },
        task: PreferenceSettings::new(objective, 0.1),
        mask: None,
        settings: Settings {
            optimizer: OptimizerKind::AdamW {
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
            },
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            schedule: Schedule {
                kind: ScheduleKind::Constant,
                peak: 1e-6,
                warmup: 0,
                total: pairs.len() as u64,
            },
            logging_steps: 1,
            logging_first_step: false,
            evaluate: None,
            eval_on_start: false,
            save: None,
            geometry_every: None,
            update_every: None,
            gram_every: None,
            attribution: None,
            best: None,
        },
        threads: 2,
    }
}

fn adapter() -> LoraConfig {
    LoraConfig {
        base_model: String::new(),
        r: 4,
        alpha: 8.0,
        dropout: 0.0,
        target_modules: TargetModules::Names(vec!["q_proj".into()]),
        modules_to_save: Vec::new(),
        use_rslora: false,
        ..LoraConfig::default()
    }
}

const ROWS: f64 = 108.0;
const SCORED: f64 = 50.0;
/// Elements of two blocks' matrices: four of 128², three of 128·256.
const MATRICES: f64 = 2.0 * (4.0 * 16_384.0 + 3.0 * 32_768.0);
/// A table of 1,000, two blocks with two norms each, a final norm.
const PARAMETERS: usize = 128_000 + 327_680 + 4 * 128 + 128;
/// Rows that see each other: 1 + … + 60, 61 + … + 89, 61 + … + 79.
const VISIBLE: f64 = 1_830.0 + 2_175.0 + 1_330.0;

#[track_caller]
fn close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-9 * b.abs(), "{a} is not {b}");
}

fn plan(shape: &RunShape<'_>) -> Simulation {
    simulate(shape).unwrap()
}

#[test]
fn operations_of_a_step_are_those_counted_by_hand() {
    let pairs = pairs(1);
    let plan = plan(&shape(&pairs));
    assert_eq!((plan.parameters, plan.trainable), (PARAMETERS, PARAMETERS));
    assert_eq!(plan.sizes.largest_rows, 108);
    assert_eq!(plan.sizes.mean_targets, SCORED);
    let step = &plan.steps[0].work;
    let maps = 2.0 * ROWS * MATRICES;
    close(step.of(Kind::Forward), maps);
    close(step.of(Kind::InputGradient), maps);
    close(step.of(Kind::WeightGradient), maps);
    // Logits; hidden states' and weight's gradient.
    close(step.of(Kind::Head), 3.0 * 2.0 * SCORED * 128_000.0);
    // Two products forward, five backward, each 2·64 operations for each of 2 heads, in 2 blocks.
    close(step.of(Kind::Attention), 7.0 * 2.0 * 128.0 * VISIBLE * 2.0);
    assert_eq!(step.of(Kind::Grams), 0.0);
    // The gradient is cleared and its norm taken; AdamW reads four arrays and writes three.
    close(
        step.of(Kind::Sweep),
        4.0 * (1.0 + 1.0 + 7.0) * PARAMETERS as f64,
    );
    // The reference goes forward once.
    close(plan.reference.of(Kind::Forward), maps);
    close(plan.reference.of(Kind::Head), 2.0 * SCORED * 128_000.0);
}

#[test]
fn checkpointing_computes_the_blocks_again_and_keeps_their_inputs() {
    let pairs = pairs(1);
    let mut shape = shape(&pairs);
    let all = plan(&shape);
    shape.task.keep = Keep::BlockInputs;
    let inputs = plan(&shape);
    let forward = |plan: &Simulation| plan.steps[0].work.of(Kind::Forward);
    close(forward(&inputs), 2.0 * forward(&all));
    // x, q, k, v, attended, mid of width 128, gate and up of 256, two norms' statistics, a row's 2 log-sums:
    // 1,156 floats a row and block, against 128. Besides, 50 scored rows of the final norm and of the head, with
    // three numbers each.
    let row = |floats: u64| 4 * 2 * 108 * floats;
    let last = 4 * 50 * (2 * 128 + 1 + 1);
    // With the blocks the logits are kept.
    let logits = 4 * 50 * 1_000;
    assert_eq!(all.footprint.activations, row(1_284) + last + logits);
    assert_eq!(inputs.footprint.activations, row(128) + last);
}

#[test]
fn state_is_counted_by_what_is_trained_and_how() {
    let pairs = pairs(2);
    let mut shape = shape(&pairs);
    let bytes = 4 * PARAMETERS as u64;
    let full = plan(&shape).footprint;
    assert_eq!(
        (full.weights, full.gradients, full.optimizer),
        (bytes, bytes, 2 * bytes)
    );
    shape.settings.optimizer = OptimizerKind::Sgd { momentum: 0.0 };
    assert_eq!(plan(&shape).footprint.optimizer, 0);

    // Two adapters of rank 4 on maps of 128 × 128, and a base in bf16 but for its norms.
    shape.lora = Some(adapter());
    shape.storage = Storage::Bfloat16;
    let lora = plan(&shape);
    let trained = 2 * 2 * 4 * 128;
    assert_eq!(lora.trainable, trained);
    assert_eq!(lora.footprint.adapter, 4 * trained as u64);
    assert_eq!(lora.footprint.gradients, 4 * trained as u64);
    assert_eq!(
        lora.footprint.weights,
        2 * (128_000 + 327_680) + 4 * 5 * 128
    );
    let step = &lora.steps[0].work;
    assert_eq!(step.of(Kind::WeightGradient), 0.0, "the base is frozen");
    // Down and up; down again in the backward, dB, du, dA, dx: seven products of rows·4·128 for each map.
    close(step.of(Kind::Narrow), 2.0 * 7.0 * 2.0 * ROWS * 4.0 * 128.0);
}

#[test]
fn measured_steps_are_counted_apart() {
    let pairs = pairs(12);
    let mut shape = shape(&pairs);
    shape.settings.geometry_every = Some(5);
    let plan = plan(&shape);
    let counts: Vec<_> = plan.steps.iter().map(|s| (s.measured, s.count)).collect();
    assert_eq!(counts, [(false, 9), (true, 3)]);
    let [plain, measured] = &plan.steps[..] else {
        panic!("two kinds")
    };
    assert!(measured.work.of(Kind::Grams) > 0.0);
    // The forward pass after the update.
    close(
        measured.work.of(Kind::Forward),
        2.0 * plain.work.of(Kind::Forward),
    );
}

#[test]
fn a_long_run_is_sampled_and_says_the_same() {
    let (few, many) = (pairs(4), pairs(200));
    let (few, many) = (plan(&shape(&few)), plan(&shape(&many)));
    assert_eq!((many.steps[0].count, few.steps[0].count), (200, 4));
    assert!(many.steps[0].sampled < 50);
    for kind in Kind::ALL {
        close(many.steps[0].work.of(kind), few.steps[0].work.of(kind));
    }
    close(many.reference.flops(), 50.0 * few.reference.flops());
    assert_eq!(many.footprint.activations, few.footprint.activations);
}

#[test]
fn real_configurations_have_their_known_sizes() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/configs");
    if !dir.is_dir() {
        eprintln!("skipped: {} is not there", dir.display());
        return;
    }
    for (name, parameters) in [
        ("smollm2-135m-instruct", 134_515_008),
        ("llama-3-8b", 8_030_261_248),
        ("llama-3.2-1b", 1_235_814_400),
        ("mistral-7b-instruct-v0.3", 7_248_023_552),
        ("gpt2", 124_439_808),
        ("pythia-1.4b", 1_414_647_808),
        ("gemma-2-2b-it", 2_614_341_888),
        ("qwen2-0.5b-instruct", 494_032_768),
    ] {
        let text = std::fs::read_to_string(dir.join(format!("{name}.json"))).unwrap();
        let config = ModelConfig::from_json_str(&text, name).unwrap();
        let backend = Arc::new(MeterBackend::new(2));
        let model =
            LanguageModel::with_values(Arc::clone(&backend), config, Storage::Float32, |spec| {
                backend.empty(spec.len())
            });
        assert_eq!(model.params.count(), parameters, "{name}");
    }
}
