//! Prediction against reality and the batch Gram matrix of training steps, on the parity models in f64.
//!
//! Two ways to one number: the split of a step's predicted changes (from inner products of gradients) against the
//! derivative along the parameters' actual change (no gradient formed), which must agree for plain gradient descent to
//! [`EXACT`]; and both against what a small step really does, to [`FIRST_ORDER`], the size of its second order.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{model, pairs, reference};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use unbraid_model::weights::StoredDtype;
use unbraid_model::{Gradients, Keep, LanguageModel, LoraConfig, TargetModules};
use unbraid_objective::remedy::NpoScale;
use unbraid_objective::{Objective, ObjectiveOptions};
use unbraid_preference::TokenizedPair;
use unbraid_tensor::{Backend, CpuBackend, NaiveBackend};
use unbraid_train::{
    Averages, Files, MaskSettings, MovingReference, Observer, Optimizer, OptimizerKind,
    PreferenceSettings, PreferenceTask, ReferencedPairs, Remedy, Sampler, SamplingOrder, Schedule,
    ScheduleKind, Settings, Snapshot, StepRecord, Task, TokenMask, TrainingPlan, clip_factor,
    effects, run, score_pairs,
};

type Model = LanguageModel<NaiveBackend>;

/// Relative; the same sums in f64, through θ + Δθ − θ.
const EXACT: f64 = 1e-9;
/// Relative; the second order of a step of [`SMALL`].
const FIRST_ORDER: f64 = 1e-3;
const SMALL: f64 = 1e-6;

const SGD: OptimizerKind = OptimizerKind::Sgd { momentum: 0.0 };
const ADAMW: OptimizerKind = OptimizerKind::AdamW {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
};
const MASK: MaskSettings = MaskSettings {
    epsilon: 0.5,
    sharpness: 4.0,
    l1: 0.0,
    learning_rate_factor: 1.0,
};

fn dpo() -> PreferenceSettings {
    let objective = Objective::from_name("sigmoid", &ObjectiveOptions::default()).unwrap();
    PreferenceSettings::new(objective, 0.1)
}

/// One optimizer step to be taken and explained.
struct Step<'a> {
    case: &'a str,
    micro_batches: &'a [Vec<usize>],
    optimizer: OptimizerKind,
    rate: f64,
    /// Whether the geometry is measured in the step itself.
    measure: bool,
    moving: bool,
}

const STEP: Step<'static> = Step {
    case: "llama",
    micro_batches: &[],
    optimizer: SGD,
    rate: SMALL,
    measure: true,
    moving: false,
};

struct Explained {
    predictions: StepRecord,
    gram: StepRecord,
    metrics: Averages,
}

/// Rows of f64 by key.
fn numbers(record: &StepRecord, key: &str) -> Vec<f64> {
    let number = |row: &serde_json::Map<String, Value>| row[key].as_f64().unwrap();
    record.rows.iter().map(number).collect()
}

impl Explained {
    /// Chosen and rejected changes of every pair, one after the other.
    fn changes(&self, what: &str) -> Vec<f64> {
        let [chosen, rejected] =
            ["chosen", "rejected"].map(|s| numbers(&self.predictions, &format!("{what}_{s}")));
        let both = chosen.iter().zip(rejected).flat_map(|(w, l)| [*w, l]);
        both.collect()
    }

    /// A part of every response's split.
    fn split(&self, part: &str) -> Vec<f64> {
        let split = self.gram.rows[0]["split"].as_array().unwrap();
        split.iter().map(|x| x[part].as_f64().unwrap()).collect()
    }
}

fn close(what: &str, found: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let scale = wanted.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    assert!(scale > 0.0, "{what}: nothing to compare");
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        let error = (f - w).abs() / scale;
        assert!(
            error <= tolerance,
            "{what} {i}: {f} against {w}, error {error:e}"
        );
    }
}

impl Step<'_> {
    fn take(
        &self,
        build: impl FnOnce(&mut Model, &[TokenizedPair]) -> PreferenceSettings,
    ) -> Explained {
        let b = &NaiveBackend;
        let pairs = pairs(self.case);
        let (base, mut policy) = (model(self.case), model(self.case));
        let settings = build(&mut policy, &pairs);
        // A model that has moved away from its reference, and a mask that is not flat.
        for id in policy.params.trainable().collect::<Vec<_>>() {
            let spec = &policy.params.specs[id.0];
            let extra = spec.name.starts_with("mask.");
            let moved = |i: usize| {
                if extra {
                    0.05 * ((i * 7) % 11) as f64 - 0.9
                } else {
                    0.0
                }
            };
            let values = b.upload_f64(&(0..spec.len()).map(moved).collect::<Vec<_>>());
            b.axpy(1.0, &values, &mut policy.params.values[id.0]);
        }
        let train = ReferencedPairs::new(&pairs, reference(&base, &pairs), &settings);
        let none = ReferencedPairs::without_reference(&[]);
        let moving = self.moving.then(|| MovingReference {
            model: model(self.case),
            alpha: 0.5,
            every: 1,
        });
        let mut task = PreferenceTask::new(train, none, settings, moving);
        let params = &policy.params;
        let mut gradients = Gradients::zeros(b, params, |p| params.is_trainable(p));
        let mut metrics = task
            .accumulate(&policy, &mut gradients, 1, self.micro_batches, self.measure)
            .unwrap();
        let scale = clip_factor(gradients.squared_norm(b).sqrt(), 0.1);
        assert!(scale < 1.0, "clipping is part of it");
        let gram = task.batch_gram(&policy, self.rate, scale).unwrap();
        let mut snapshot = Snapshot::take(b, &policy.params);
        let mut optimizer = Optimizer::new(b, self.optimizer, 0.0, &policy.params, &gradients);
        optimizer.step(b, &mut policy.params, &gradients, self.rate, scale);
        if self.measure {
            metrics.merge(&task.after_step(&policy, self.rate, scale));
        }
        let after = policy.params.values.clone();
        let predictions =
            task.update_effects(&mut policy, &mut snapshot, &mut gradients, self.rate, scale);
        assert!(
            after == policy.params.values,
            "the model is left as it was found"
        );
        metrics.merge(&predictions.metrics);
        metrics.merge(&gram.metrics);
        Explained {
            predictions,
            gram,
            metrics,
        }
    }
}

/// What is the same for every way of training: the split is the update, and a small step does it.
fn holds(
    name: &str,
    step: &Step<'_>,
    build: impl FnOnce(&mut Model, &[TokenizedPair]) -> PreferenceSettings,
) {
    let explained = step.take(build);
    let update = explained.changes("update");
    close(
        &format!("{name}: split"),
        &explained.split("total"),
        &update,
        EXACT,
    );
    close(
        &format!("{name}: realised"),
        &explained.changes("realised"),
        &update,
        FIRST_ORDER,
    );
    let mean = |values: &[f64]| values.iter().step_by(2).sum::<f64>() / (values.len() / 2) as f64;
    let found = explained.metrics.get("geometry/update_chosen").unwrap();
    close(name, &[found], &[mean(&update)], 1e-12);
    let predicted = explained.changes("predicted");
    let own: Vec<f64> = explained.split("own");
    let pair: Vec<f64> = own
        .iter()
        .zip(explained.split("partner"))
        .map(|(a, b)| a + b)
        .collect();
    close(
        &format!("{name}: own and partner"),
        &predicted,
        &pair,
        EXACT,
    );
}

/// Accumulated micro-batches of unequal size, remedies, adapters, token weights, masks, a moving reference; measured in
/// the step or afterwards; activations kept or computed again.
#[test]
fn the_split_is_the_update_and_a_small_step_realises_it() {
    let batches = [vec![0, 3, 4], vec![2, 5]];
    let step = Step {
        micro_batches: &batches,
        ..STEP
    };
    for case in ["gpt2", "llama_tied", "gemma2"] {
        let step = Step { case, ..step };
        holds(case, &step, |_, _| dpo());
    }
    let unmeasured = Step {
        measure: false,
        ..step
    };
    holds("unmeasured", &unmeasured, |_, _| PreferenceSettings {
        keep: Keep::BlockInputs,
        ..dpo()
    });
    let moving = Step {
        moving: true,
        ..step
    };
    holds("moving reference", &moving, |_, _| dpo());
    for remedy in [
        Remedy::Guarded { slack: 0.05 },
        Remedy::Normalized(NpoScale::Geometric),
    ] {
        for step in [&step, &unmeasured] {
            holds("remedy", step, |_, _| PreferenceSettings {
                remedy,
                ..dpo()
            });
        }
    }
    holds("adapter", &step, |model, _| {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/lora/llama");
        model.load_adapter(&dir).unwrap();
        dpo()
    });
    holds("token weights", &step, |_, _| PreferenceSettings {
        ld_alpha: Some(0.4),
        mask: TokenMask::Diff,
        ..dpo()
    });
    for step in [&step, &unmeasured, &moving] {
        holds("head mask", step, |model, _| PreferenceSettings {
            mask: TokenMask::head(model, MASK),
            ..dpo()
        });
        holds("free mask", step, |model, pairs| PreferenceSettings {
            mask: TokenMask::free(model, MASK, pairs),
            ..dpo()
        });
    }
}

/// A pair alone moves by its own gradients only; beside another, that one's come in.
#[test]
fn others_count_only_where_there_are_others() {
    let alone = Step {
        micro_batches: &[vec![1]],
        ..STEP
    };
    let explained = alone.take(|_, _| dpo());
    assert_eq!(explained.split("others"), [0.0; 2]);
    close(
        "alone",
        &explained.changes("predicted"),
        &explained.changes("update"),
        EXACT,
    );
    let names = &explained.gram.rows[0]["order"];
    assert_eq!(*names, serde_json::json!(["1/chosen", "1/rejected"]));

    let two = Step {
        micro_batches: &[vec![1, 2]],
        ..STEP
    };
    let explained = two.take(|_, _| dpo());
    let (others, total) = (explained.split("others"), explained.split("total"));
    for (others, total) in others.iter().zip(total) {
        assert!(others.abs() > 1e-3 * total.abs(), "{others} of {total}");
    }
    let matrix = explained.gram.rows[0]["matrix"].as_array().unwrap();
    let entry = |i: usize, j: usize| matrix[i][j].as_f64().unwrap();
    assert_eq!(matrix.len(), 4);
    for i in 0..4 {
        assert!((0..4).all(|j| (entry(i, j) - entry(j, i)).abs() <= 1e-12 * entry(i, i)));
    }
    for (key, sign) in [("own_chosen", 1.0), ("own_rejected", -1.0)] {
        let own = explained.metrics.get(&format!("geometry/{key}")).unwrap();
        assert!(own * sign > 0.0, "{key}: {own}");
    }
}

/// AdamW's first step has nothing of the gradient's size: gradient descent's prediction is off by orders of magnitude,
/// the derivative along the update is not.
#[test]
fn adamw_is_foreseen_by_its_update_alone() {
    let step = Step {
        micro_batches: &[vec![0, 3], vec![4, 1]],
        optimizer: ADAMW,
        ..STEP
    };
    let explained = step.take(|_, _| dpo());
    let [predicted, update, realised] =
        ["predicted", "update", "realised"].map(|what| explained.changes(what));
    close("realised", &realised, &update, FIRST_ORDER);
    let size = |x: &[f64]| x.iter().map(|x| x.abs()).sum::<f64>();
    let ratio = size(&predicted) / size(&realised);
    assert!(!(0.1..=10.0).contains(&ratio), "{ratio}");
}

/// First order fails where the step is long: the update's derivative and reality part.
#[test]
fn a_long_step_bends() {
    let error = |rate: f64| {
        let step = Step {
            micro_batches: &[vec![0, 3, 4]],
            optimizer: ADAMW,
            rate,
            ..STEP
        };
        let explained = step.take(|_, _| dpo());
        let (update, realised) = (explained.changes("update"), explained.changes("realised"));
        let errors = update.iter().zip(&realised).map(|(u, r)| (u - r).abs());
        errors.fold(0.0, f64::max) / update.iter().fold(0.0f64, |m, x| m.max(x.abs()))
    };
    let (small, large) = (error(SMALL), error(0.03));
    assert!(small < FIRST_ORDER, "{small:e}");
    assert!(large > 0.1, "{large:e}");
}

/// The adapter's dropout is in the step and in its measured geometry, not in what is asked of the model afterwards.
#[test]
fn dropout_takes_no_part() {
    let step = Step {
        micro_batches: &[vec![0, 3]],
        ..STEP
    };
    let dropping = |model: &mut Model, dropout: f64| {
        let config = LoraConfig {
            base_model: "llama".into(),
            r: 4,
            alpha: 8.0,
            dropout,
            target_modules: TargetModules::AllLinear,
            modules_to_save: Vec::new(),
            use_rslora: false,
            ..LoraConfig::default()
        };
        model.attach_lora(config, 3).unwrap();
        PreferenceSettings {
            dropout_seed: (dropout > 0.0).then_some(9),
            ..dpo()
        }
    };
    let with = step.take(|model, _| dropping(model, 0.5));
    close(
        "realised",
        &with.changes("realised"),
        &with.changes("update"),
        FIRST_ORDER,
    );
    let without = step.take(|model, _| dropping(model, 0.0));
    let apart = |what: &str| {
        let (a, b) = (with.changes(what), without.changes(what));
        (a[0] - b[0]).abs() / b[0].abs()
    };
    assert!(
        apart("update") > 1e-3,
        "the step itself was taken with dropout"
    );
}

/// As the diagnosis uses it: plain sums, an update of any make, batches of bounded size.
#[test]
fn effects_are_those_of_any_update() {
    let pairs = pairs("gpt2");
    let all: Vec<&TokenizedPair> = (0..120).map(|i| &pairs[i % pairs.len()]).collect();
    let mut model = model("gpt2");
    let mut snapshot = Snapshot::take(&NaiveBackend, &model.params);
    let before = score_pairs(&model, &all, |_| true);
    for (i, value) in model.params.values.iter_mut().enumerate() {
        let moved = (0..value.len()).map(|e| 1e-7 * (((i + 3 * e) % 7) as f64 - 3.0));
        NaiveBackend.axpy(1.0, &moved.collect::<Vec<f64>>(), value);
    }
    let after = score_pairs(&model, &all, |_| true);
    let params = model.params.values.clone();
    let mut delta = Gradients::zeros(&NaiveBackend, &model.params, |_| true);
    let found = effects(&mut model, &mut snapshot, &mut delta, &all, Keep::All);
    assert!(params == model.params.values);
    let flat = |pairs: Vec<(f64, f64)>| {
        pairs
            .into_iter()
            .flat_map(|(w, l)| [w, l])
            .collect::<Vec<_>>()
    };
    let realised = before
        .iter()
        .zip(&after)
        .map(|(b, a)| (a.chosen() - b.chosen(), a.rejected() - b.rejected()));
    close(
        "effects",
        &flat(found),
        &flat(realised.collect()),
        FIRST_ORDER,
    );
}

/// Keeps every logged row.
#[derive(Default)]
struct Rows(Vec<serde_json::Map<String, Value>>);

impl Observer for Rows {
    fn on_step(&mut self, _: u64, _: &Averages, _: f64) {}
    fn on_row(&mut self, row: &serde_json::Map<String, Value>) {
        self.0.push(row.clone());
    }
    fn on_save(&mut self, _: &Path) {}
    fn stop(&mut self) -> bool {
        false
    }
}

/// Six AdamW steps in f32; the rows and everything that was written.
fn train(update_every: Option<u64>, gram_every: Option<u64>) -> (Rows, tempfile::TempDir) {
    let pairs = pairs("llama_tied");
    let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/models");
    let backend = Arc::new(CpuBackend::new());
    let mut policy = LanguageModel::load(backend, &models.join("llama_tied")).unwrap();
    let all: Vec<&TokenizedPair> = pairs.iter().collect();
    let reference = score_pairs(&policy, &all, |_| true);
    let train = ReferencedPairs::new(&pairs, reference, &dpo());
    let none = ReferencedPairs::without_reference(&[]);
    let mut task = PreferenceTask::new(train, none, dpo(), None);
    let settings = Settings {
        optimizer: ADAMW,
        weight_decay: 0.01,
        max_grad_norm: 1.0,
        schedule: Schedule {
            kind: ScheduleKind::Constant,
            peak: 1e-5,
            warmup: 0,
            total: 6,
        },
        logging_steps: 1,
        logging_first_step: false,
        evaluate: None,
        eval_on_start: false,
        save: None,
        geometry_every: Some(2),
        update_every,
        gram_every,
        attribution: None,
        best: None,
    };
    let plan = TrainingPlan {
        sampler: Sampler {
            order: SamplingOrder::Random,
            seed: 1,
            batch: 1,
            accumulation: 2,
            lengths: vec![1; pairs.len()],
        },
        total: 6,
    };
    let dir = tempfile::tempdir().unwrap();
    let files = Files {
        output_dir: dir.path().to_path_buf(),
        dtype: StoredDtype::F32,
        companions: &|_| Ok(()),
        save_total_limit: None,
        identity: Default::default(),
        resume: None,
    };
    let mut rows = Rows::default();
    run(&mut policy, &mut task, &plan, &settings, &files, &mut rows).unwrap();
    (rows, dir)
}

/// Looking does not change what is looked at: the same weights and the same other metrics, bit for bit, also where the
/// steps are not those of the geometry.
#[test]
fn training_is_the_same_to_the_bit() {
    let (plain, without) = train(None, None);
    let (rows, with) = train(Some(3), Some(4));
    let weights =
        |dir: &tempfile::TempDir| std::fs::read(dir.path().join("model.safetensors")).unwrap();
    assert!(weights(&without) == weights(&with));
    let own = ["update", "own", "partner", "others"];
    for (plain, row) in plain.0.iter().zip(&rows.0) {
        let mut row = row.clone();
        row.retain(|key, _| {
            !own.iter()
                .any(|part| key.starts_with(&format!("geometry/{part}_")))
        });
        let [mut plain, mut row] = [plain.clone(), row];
        plain.remove("tokens_per_second");
        row.remove("tokens_per_second");
        assert_eq!(plain, row);
    }
    assert!(!without.path().join("predictions.jsonl").exists());
    assert!(!without.path().join("gram.jsonl").exists());
    let read = |name: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(with.path().join(name)).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let steps = |rows: &[Value]| {
        rows.iter()
            .map(|r| r["step"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    let (predictions, grams) = (read("predictions.jsonl"), read("gram.jsonl"));
    assert_eq!(steps(&predictions), [1, 1, 3, 3, 6, 6]);
    assert_eq!(steps(&grams), [1, 4]);
    for row in &predictions {
        let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
        let wanted = [
            "step",
            "index",
            "predicted_chosen",
            "predicted_rejected",
            "update_chosen",
            "update_rejected",
            "realised_chosen",
            "realised_rejected",
        ];
        assert_eq!(keys, wanted);
        assert!(wanted.iter().all(|key| row[*key].is_number()), "{row}");
        // f32: a sum of log-probs of some tens of nats keeps five digits of a nat.
        let [update, realised] =
            ["update_chosen", "realised_chosen"].map(|k| row[k].as_f64().unwrap());
        assert!(
            (update - realised).abs() < 0.05 * update.abs() + 1e-4,
            "{row}"
        );
    }
    for row in &grams {
        assert_eq!(
            row["order"].as_array().unwrap().len(),
            4,
            "both micro-batches"
        );
        assert_eq!(row["matrix"].as_array().unwrap().len(), 4);
    }
}
