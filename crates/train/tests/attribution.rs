//! Attribution: parts that add up to what the optimizer's real update does to held-out completions.
//!
//! On the parity models in f64. A wrapper of the task keeps the parameters before and after each step, so that every
//! number is found a second way: ⟨ḡ, Δθ⟩ by directional derivatives along the parameters' actual change (`effects`), and
//! the sides under gradient descent from gradients computed alone.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{model, pairs, reference};
use serde_json::Value;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use unbraid_model::weights::StoredDtype;
use unbraid_model::{Accumulate, Batch, GradientPlan, Gradients, Keep, LanguageModel};
use unbraid_objective::remedy::NpoScale;
use unbraid_objective::{Objective, ObjectiveOptions};
use unbraid_preference::TokenizedPair;
use unbraid_tensor::NaiveBackend;
use unbraid_train::{
    AttributionPlan, Averages, Files, MaskSettings, Observer, OptimizerKind, Parts,
    PreferenceSettings, PreferenceTask, ProbeSource, Probes, Push, ReferencedPairs, Remedy,
    Sampler, SamplingOrder, Schedule, ScheduleKind, Settings, Snapshot, Task, TokenMask,
    TrainError, TrainingPlan, effects, pack_pairs, run, score_pairs,
};

type Model = LanguageModel<NaiveBackend>;
type Values = Vec<Vec<f64>>;

/// The parts' sum against ⟨ḡ, Δθ⟩ found by other means, relative to the largest part: sums in f64.
const EXACT: f64 = 1e-6;

const ADAMW: OptimizerKind = OptimizerKind::AdamW {
    beta1: 0.9,
    beta2: 0.99,
    epsilon: 1e-8,
};
const SGD: OptimizerKind = OptimizerKind::Sgd { momentum: 0.0 };
const MASK: MaskSettings = MaskSettings {
    epsilon: 0.5,
    sharpness: 4.0,
    l1: 1e-2,
    learning_rate_factor: 1.0,
};

fn objective(name: &str) -> PreferenceSettings {
    let objective = Objective::from_name(name, &ObjectiveOptions::default()).unwrap();
    PreferenceSettings::new(objective, 0.1)
}

/// Parameters before and after each step.
type Seen = Rc<RefCell<Vec<(Values, Values)>>>;

/// A task that writes down the parameters around each step.
struct Watching<'a> {
    inner: PreferenceTask<'a, NaiveBackend>,
    seen: Seen,
}

impl Task<NaiveBackend> for Watching<'_> {
    fn accumulate(
        &mut self,
        model: &Model,
        gradients: &mut Gradients<NaiveBackend>,
        step: u64,
        micro_batches: &[Vec<usize>],
        measure: bool,
    ) -> Result<Averages, TrainError> {
        let before = model.params.values.clone();
        self.seen.borrow_mut().push((before, Vec::new()));
        self.inner
            .accumulate(model, gradients, step, micro_batches, measure)
    }
    fn after_step(&mut self, model: &Model, rate: f64, scale: f64) -> Averages {
        self.inner.after_step(model, rate, scale)
    }
    fn pushes(&self, model: &Model, directions: &[Gradients<NaiveBackend>; 2]) -> Vec<Push> {
        self.inner.pushes(model, directions)
    }
    fn evaluate(
        &mut self,
        model: &Model,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Averages>, TrainError> {
        self.inner.evaluate(model, stop)
    }
    fn rows(&self, micro_batches: &[Vec<usize>]) -> Vec<usize> {
        Task::<NaiveBackend>::rows(&self.inner, micro_batches)
    }
    fn tokens(&self, micro_batches: &[Vec<usize>]) -> usize {
        Task::<NaiveBackend>::tokens(&self.inner, micro_batches)
    }
    fn on_step_end(&mut self, model: &Model, step: u64) -> Result<(), TrainError> {
        let after = model.params.values.clone();
        self.seen.borrow_mut().last_mut().unwrap().1 = after;
        self.inner.on_step_end(model, step)
    }
}

struct Quiet;

impl Observer for Quiet {
    fn on_step(&mut self, _: u64, _: &Averages, _: f64) {}
    fn on_row(&mut self, _: &serde_json::Map<String, Value>) {}
    fn on_save(&mut self, _: &Path) {}
    fn stop(&mut self) -> bool {
        false
    }
}

/// A run of four steps: the first two pairs are trained on, the last three are probes.
struct Run {
    rows: Vec<Value>,
    summary: Value,
    seen: Vec<(Values, Values)>,
    probes: Vec<TokenizedPair>,
}

struct Shape {
    case: &'static str,
    optimizer: OptimizerKind,
    rate: f64,
    decay: f64,
    every: u64,
    steps: u64,
}

const SHAPE: Shape = Shape {
    case: "llama_tied",
    optimizer: ADAMW,
    rate: 1e-4,
    decay: 0.1,
    every: 1,
    steps: 4,
};

impl Shape {
    fn run(&self, build: impl FnOnce(&mut Model, &[TokenizedPair]) -> PreferenceSettings) -> Run {
        let all = pairs(self.case);
        let (train, probes) = all.split_at(3);
        let mut policy = model(self.case);
        let base = model(self.case);
        let settings = build(&mut policy, train);
        let keep = settings.keep;
        let referenced = ReferencedPairs::new(train, reference(&base, train), &settings);
        let none = ReferencedPairs::without_reference(&[]);
        let seen = Seen::default();
        let mut task = Watching {
            inner: PreferenceTask::new(referenced, none, settings, None),
            seen: Rc::clone(&seen),
        };
        let plan = TrainingPlan {
            sampler: Sampler {
                order: SamplingOrder::Sequential,
                seed: 0,
                batch: 2,
                accumulation: 2,
                lengths: vec![1; train.len()],
            },
            total: self.steps,
        };
        let mut attribution = AttributionPlan::new(Some(self.every), None, &plan, 20.0, |count| {
            Probes::of_pairs(probes, train, &plan, count)
        })
        .unwrap();
        attribution.keep = keep;
        let settings = Settings {
            optimizer: self.optimizer,
            weight_decay: self.decay,
            max_grad_norm: 0.5,
            schedule: Schedule {
                kind: ScheduleKind::Linear,
                peak: self.rate,
                warmup: 0,
                total: self.steps + 1,
            },
            logging_steps: 1,
            logging_first_step: false,
            evaluate: None,
            eval_on_start: false,
            save: None,
            geometry_every: None,
            update_every: None,
            gram_every: None,
            attribution: Some(attribution),
            best: None,
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
        run(&mut policy, &mut task, &plan, &settings, &files, &mut Quiet).unwrap();
        drop(task);
        let text = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        let rows = text("attribution.jsonl");
        Run {
            rows: rows
                .lines()
                .map(|l| serde_json::from_str(l).unwrap())
                .collect(),
            summary: serde_json::from_str(&text("attribution.json")).unwrap(),
            seen: Rc::try_unwrap(seen).unwrap().into_inner(),
            probes: probes.to_vec(),
        }
    }
}

fn parts(row: &Value, side: &str) -> Parts {
    serde_json::from_value(row[side].clone()).unwrap()
}

/// Mean over pairs of ⟨∇a, Δθ⟩ for (chosen, rejected), the gradients taken halfway between both ends (trapezoid).
fn first_order(
    case: &str,
    extra: impl Fn(&mut Model),
    ends: &(Values, Values),
    probes: &[TokenizedPair],
) -> [f64; 2] {
    let probes: Vec<&TokenizedPair> = probes.iter().collect();
    let mut sums = [0.0; 2];
    for (here, there, sign) in [(&ends.0, &ends.1, 1.0), (&ends.1, &ends.0, -1.0)] {
        let mut policy = model(case);
        extra(&mut policy);
        policy.params.values = here.clone();
        let b = std::sync::Arc::clone(&policy.backend);
        let mut snapshot = Snapshot::take(&*b, &policy.params);
        policy.params.values = there.clone();
        let params = &policy.params;
        let mut delta = Gradients::zeros(&*b, params, |p| params.is_trainable(p));
        for (w, l) in effects(&mut policy, &mut snapshot, &mut delta, &probes, Keep::All) {
            sums[0] += 0.5 * sign * w / probes.len() as f64;
            sums[1] += 0.5 * sign * l / probes.len() as f64;
        }
    }
    sums
}

fn adds_up(name: &str, shape: &Shape, extra: impl Fn(&mut Model), run: &Run) {
    assert_eq!(run.rows.len(), run.seen.len(), "{name}");
    for (row, ends) in run.rows.iter().zip(&run.seen) {
        let wanted = first_order(shape.case, &extra, ends, &run.probes);
        for (side, wanted) in ["chosen", "rejected"].iter().zip(wanted) {
            let parts = parts(row, side);
            let scale = parts
                .named()
                .iter()
                .fold(0.0f64, |m, (_, x)| m.max(x.abs()));
            assert!(scale > 0.0, "{name}: nothing moved");
            let error = (parts.first_order() - wanted).abs() / scale;
            assert!(
                error < EXACT,
                "{name} {side}: {parts:?} against {wanted}: {error:e}"
            );
            assert!(
                parts.rounding.abs() < 1e-9 * scale,
                "{name}: f64 does not round: {parts:?}"
            );
            let whole = parts.first_order() + parts.remainder;
            assert!(
                (whole - parts.realised).abs() <= 1e-12 * scale,
                "{name}: it adds up"
            );
        }
        let groups = row["groups"].as_object().unwrap();
        let sum: f64 = groups.values().map(|g| g["chosen"].as_f64().unwrap()).sum();
        let whole = parts(row, "chosen").first_order();
        assert!(
            (sum - whole).abs() < 1e-9 * whole.abs().max(1e-6),
            "{name}: groups add up"
        );
    }
}

#[test]
fn parts_add_up_to_the_update_under_every_optimizer() {
    let optimizers = [
        ("adamw", ADAMW, 1e-4),
        ("sgd", SGD, 1e-2),
        ("momentum", OptimizerKind::Sgd { momentum: 0.9 }, 1e-2),
        ("adafactor", OptimizerKind::Adafactor, 1e-4),
        (
            "lion",
            OptimizerKind::Lion {
                beta1: 0.9,
                beta2: 0.99,
            },
            1e-4,
        ),
    ];
    for (name, optimizer, rate) in optimizers {
        for case in ["llama_tied", "gpt2"] {
            let shape = Shape {
                optimizer,
                rate,
                case,
                ..SHAPE
            };
            let run = shape.run(|_, _| objective("sigmoid"));
            adds_up(name, &shape, |_| {}, &run);
            let momentum = parts(run.rows.last().unwrap(), "chosen").momentum;
            let carries = !matches!(optimizer, SGD | OptimizerKind::Adafactor);
            assert_eq!(momentum != 0.0, carries, "{name}: {momentum}");
        }
    }
}

#[test]
fn parts_add_up_for_every_way_of_training() {
    let likelihood = |name: &str, wanted: bool, settings: PreferenceSettings| {
        let run = SHAPE.run(|_, _| settings);
        adds_up(name, &SHAPE, |_| {}, &run);
        let parts = parts(&run.rows[0], "chosen");
        assert_eq!(parts.likelihood != 0.0, wanted, "{name}: {parts:?}");
    };
    likelihood("cpo", true, objective("cpo"));
    likelihood("ipo", false, objective("ipo"));
    likelihood(
        "ld",
        true,
        PreferenceSettings {
            ld_alpha: Some(0.4),
            ..objective("cpo")
        },
    );
    likelihood(
        "diff",
        false,
        PreferenceSettings {
            mask: TokenMask::Diff,
            ..objective("sigmoid")
        },
    );
    for remedy in [
        Remedy::Guarded { slack: 0.05 },
        Remedy::Normalized(NpoScale::Geometric),
    ] {
        likelihood(
            "remedy",
            true,
            PreferenceSettings {
                remedy,
                ..objective("cpo")
            },
        );
    }
    let kept = PreferenceSettings {
        keep: Keep::BlockInputs,
        use_weighting: true,
        ..objective("cpo")
    };
    likelihood("checkpointing, WPO", true, kept);

    let run = SHAPE.run(|model, _| PreferenceSettings {
        mask: TokenMask::head(model, MASK),
        ..objective("sigmoid")
    });
    adds_up(
        "head mask",
        &SHAPE,
        |m| drop(TokenMask::head(m, MASK)),
        &run,
    );
    assert!(
        parts(&run.rows[1], "chosen").other != 0.0,
        "a mask reaches the model's hidden states"
    );

    let adapter = |model: &mut Model| {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/lora/llama");
        model.load_adapter(&dir).unwrap();
    };
    let shape = Shape {
        case: "llama",
        ..SHAPE
    };
    let run = shape.run(|model, _| {
        adapter(model);
        objective("sigmoid")
    });
    adds_up("adapter", &shape, adapter, &run);
}

/// Sum over pairs of the gradients of one side's log-probs, each times its seed.
fn side_gradient(
    policy: &Model,
    pairs: &[TokenizedPair],
    side: usize,
    seeds: &[f64],
) -> Gradients<NaiveBackend> {
    let b = &*policy.backend;
    let params = &policy.params;
    let mut gradients = Gradients::zeros(b, params, |p| params.is_trainable(p));
    let batch = Batch::new(b, pack_pairs(pairs, true));
    let forward = policy.forward(&batch, Keep::All);
    let mut rows = vec![0.0; batch.targets()];
    for (pair, seed) in batch.forest.responses.chunks_exact(2).zip(seeds) {
        rows[pair[side].targets.clone()].fill(*seed);
    }
    let plan = GradientPlan::summed(b, &batch.forest);
    policy.backward(
        &batch,
        &plan,
        forward,
        &rows,
        &mut Accumulate(&mut gradients),
    );
    gradients
}

fn inner(a: &Gradients<NaiveBackend>, b: &Gradients<NaiveBackend>) -> f64 {
    let both = a.values.iter().flatten().zip(b.values.iter().flatten());
    both.map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>())
        .sum()
}

/// Under gradient descent a side's part is η·c·⟨ḡ, Σ ±d·g⟩ over that side's completions alone: here from gradients that are
/// computed alone, with DPO's coefficients from scored log-probs. A small step, so that both ends have the same ḡ.
#[test]
fn sides_are_the_gradients_of_their_own_terms() {
    const RATE: f64 = 1e-7;
    let shape = Shape {
        optimizer: SGD,
        rate: RATE,
        decay: 0.0,
        steps: 1,
        ..SHAPE
    };
    let run = shape.run(|_, _| objective("sigmoid"));
    let (row, policy, all) = (&run.rows[0], model(SHAPE.case), pairs(SHAPE.case));
    let (train, probes) = all.split_at(3);
    let old = reference(&policy, train);
    let now = score_pairs(&policy, &train.iter().collect::<Vec<_>>(), |_| true);
    // Micro-batches of two pairs and of one, each a mean, and the mean of both.
    let shares = [0.25, 0.25, 0.5];
    let d = |i: usize| {
        let h = now[i].chosen() - old[i].chosen() - now[i].rejected() + old[i].rejected();
        shares[i] * 0.1 / (1.0 + (0.1 * h).exp())
    };
    let d: Vec<f64> = (0..3).map(d).collect();
    let minus: Vec<f64> = d.iter().map(|x| -x).collect();
    let sides = [
        side_gradient(&policy, train, 0, &d),
        side_gradient(&policy, train, 1, &minus),
    ];
    let square = inner(&sides[0], &sides[0])
        + 2.0 * inner(&sides[0], &sides[1])
        + inner(&sides[1], &sides[1]);
    let scale = RATE * (0.5 / (square.sqrt() + 1e-6)).min(1.0);
    for (at, side) in ["chosen", "rejected"].iter().enumerate() {
        let parts = parts(row, side);
        let mean = side_gradient(&policy, probes, at, &[1.0 / 3.0; 3]);
        let wanted = sides.each_ref().map(|g| scale * inner(&mean, g));
        let size = wanted[0].abs().max(wanted[1].abs());
        let found = [parts.chosen_side, parts.rejected_side];
        for (found, wanted) in found.iter().zip(wanted) {
            assert!(
                (found - wanted).abs() < 1e-4 * size,
                "{side}: {found} against {wanted}"
            );
        }
        let pushes = row["pushes"].as_array().unwrap();
        let sum: f64 = pushes.iter().map(|p| p[*side].as_f64().unwrap()).sum();
        assert!(
            (sum - found[0] - found[1]).abs() < 1e-12 * size,
            "pairs add up"
        );
        let plain = row["plain"][*side].as_f64().unwrap();
        assert!(
            (plain - found[0] - found[1]).abs() < 1e-9 * size,
            "gradient descent is plain"
        );
        assert!(parts.remainder.abs() < 1e-3 * size, "{parts:?}");
    }
    // A loss that is the likelihood of chosen completions has no sides.
    let run = shape.run(|_, _| objective("sft"));
    let parts = parts(&run.rows[0], "chosen");
    let sides = parts.chosen_side.abs() + parts.rejected_side.abs();
    assert!(sides < 1e-12 * parts.likelihood, "{parts:?}");
    assert!(parts.likelihood > 0.0);
}

#[test]
fn a_run_is_summed_over_measured_steps() {
    let whole = SHAPE.run(|_, _| objective("sigmoid"));
    let sum = |run: &Run, side: &str| parts(&run.summary["run"], side);
    for side in ["chosen", "rejected"] {
        let own = sum(&whole, side);
        let rows: f64 = whole.rows.iter().map(|r| parts(r, side).realised).sum();
        assert!((own.realised - rows).abs() < 1e-12);
        let unmeasured = whole.summary["run"][side]["unmeasured"].as_f64().unwrap();
        assert!(
            unmeasured.abs() < 1e-12,
            "every step was measured: {unmeasured}"
        );
    }
    assert_eq!(whole.summary["measured_steps"], 4);
    assert_eq!(whole.summary["probes"]["source"], "held_out");
    let some = Shape {
        every: 3,
        steps: 8,
        ..SHAPE
    }
    .run(|_, _| objective("sigmoid"));
    let steps: Vec<u64> = some
        .rows
        .iter()
        .map(|r| r["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [1, 3, 6, 8]);
    let side = &some.summary["run"]["chosen"];
    let own: Parts = serde_json::from_value(side.clone()).unwrap();
    let unmeasured = side["unmeasured"].as_f64().unwrap();
    let total = own.first_order() + own.remainder + unmeasured;
    assert!(
        (total - own.realised).abs() < 1e-12,
        "it adds up with what was not measured"
    );
    assert!(unmeasured.abs() < 0.5 * own.realised.abs(), "{side}");
}

/// Looking changes nothing.
#[test]
fn a_measured_run_ends_with_the_same_bits() {
    let every = SHAPE.run(|_, _| objective("sigmoid"));
    let once = Shape {
        every: 100,
        ..SHAPE
    }
    .run(|_, _| objective("sigmoid"));
    assert_eq!(once.rows.len(), 2, "the first and the last step");
    assert!(every.seen == once.seen);
}

#[test]
fn probes_are_held_out_or_the_last_to_be_trained_on() {
    let all = pairs("gpt2");
    let plan = |total: u64| TrainingPlan {
        sampler: Sampler {
            order: SamplingOrder::Random,
            seed: 3,
            batch: 1,
            accumulation: 1,
            lengths: vec![1; all.len()],
        },
        total,
    };
    let held_out = Probes::of_pairs(&all, &[], &plan(4), 2);
    assert_eq!(
        (held_out.source, held_out.rows),
        (ProbeSource::HeldOut, vec![0, 3])
    );
    let plan_of = plan(4);
    let unvisited = Probes::of_pairs(&[], &all, &plan_of, 2);
    assert_eq!(unvisited.source, ProbeSource::NeverVisited);
    let touched = plan_of.sampler.touched(4);
    assert!(unvisited.rows.iter().all(|row| !touched.contains(row)));
    let last = Probes::of_pairs(&[], &all, &plan(12), 2);
    assert_eq!(last.source, ProbeSource::VisitedLast);
    assert_eq!(last.rows, plan(12).sampler.epoch(0)[4..]);
    let shared = last.shared.unwrap();
    assert_eq!(shared.len(), 2);
}

/// The interval is the smallest that costs a tenth, but five steps are measured; short runs have fewer probes.
#[test]
fn the_cost_decides_how_often() {
    let all = pairs("gpt2");
    let many: Vec<TokenizedPair> = all.iter().cycle().take(60).cloned().collect();
    let plan = |total: u64| TrainingPlan {
        sampler: Sampler {
            order: SamplingOrder::Sequential,
            seed: 0,
            batch: 8,
            accumulation: 1,
            lengths: vec![1; many.len()],
        },
        total,
    };
    let choose = |total: u64, every: Option<u64>| {
        let plan = plan(total);
        AttributionPlan::new(every, None, &plan, 200.0, |count| {
            Probes::of_pairs(&many, &[], &plan, count)
        })
        .unwrap()
    };
    let long = choose(10_000, None);
    assert_eq!(long.probes.chosen.len(), 32);
    assert!(
        long.share_of_time <= 0.1 && long.share_of_time > 0.05,
        "{}",
        long.share_of_time
    );
    let short = choose(20, None);
    assert_eq!((short.every, short.probes.chosen.len()), (4, 8));
    assert!(
        short.share_of_time > 0.1,
        "it is told: {}",
        short.share_of_time
    );
    assert_eq!(choose(20, Some(1)).every, 1);
    let due: Vec<u64> = (1..=10)
        .filter(|&s| choose(10, Some(4)).due(s, 10))
        .collect();
    assert_eq!(due, [1, 4, 8, 10]);
}
