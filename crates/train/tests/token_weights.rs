//! Token weights (LD-DPO, sparse masks), WPO and a moving reference, against central differences in f64.
//!
//! Differences are taken of the loss that the step reports, with steps of 1e-5: truncation and rounding together
//! stay below 1e-7 of the gradient's size here.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{model, pairs, reference};
use unbraid_model::{Gradients, LanguageModel, ParamId};
use unbraid_objective::{Objective, ObjectiveOptions};
use unbraid_preference::TokenizedPair;
use unbraid_tensor::{Backend, NaiveBackend};
use unbraid_train::{
    MaskSettings, MovingReference, Optimizer, OptimizerKind, PreferenceSettings, PreferenceTask,
    ReferencedPairs, Task, TokenMask,
};

type Model = LanguageModel<NaiveBackend>;

const MASK: MaskSettings = MaskSettings {
    epsilon: 0.5,
    sharpness: 4.0,
    l1: 0.01,
    learning_rate_factor: 1.0,
};

/// Adds `delta` to one element of a parameter.
fn nudge(model: &mut Model, id: ParamId, element: usize, delta: f64) {
    let mut data = NaiveBackend.download_f64(model.params.get(id));
    data[element] += delta;
    model.params.values[id.0] = NaiveBackend.upload_f64(&data);
}

fn dpo() -> PreferenceSettings {
    let objective = Objective::from_name("sigmoid", &ObjectiveOptions::default()).unwrap();
    PreferenceSettings::new(objective, 0.1)
}

fn task<'a>(
    base: &Model,
    pairs: &'a [TokenizedPair],
    settings: PreferenceSettings,
) -> PreferenceTask<'a, NaiveBackend> {
    let train = ReferencedPairs::new(pairs, reference(base, pairs), &settings);
    PreferenceTask::new(
        train,
        ReferencedPairs::without_reference(&[]),
        settings,
        None,
    )
}

fn step(
    model: &Model,
    task: &mut PreferenceTask<'_, NaiveBackend>,
    measure: bool,
) -> (f64, Gradients<NaiveBackend>) {
    let mut gradients = Gradients::zeros(&NaiveBackend, &model.params, |p| {
        model.params.is_trainable(p)
    });
    let batches = [vec![0, 3, 4], vec![2, 5]];
    let metrics = task
        .accumulate(model, &mut gradients, 1, &batches, measure)
        .unwrap();
    // The step's loss is the mean over micro-batches of their means, which are of 3 and of 2 pairs.
    let mut loss = 0.0;
    for batch in batches {
        let mut unused = Gradients::zeros(&NaiveBackend, &model.params, |p| {
            model.params.is_trainable(p)
        });
        let own = task
            .accumulate(model, &mut unused, 1, &[batch], false)
            .unwrap();
        loss += 0.5 * own.get("loss").unwrap();
    }
    assert!((metrics.get("loss").unwrap() - loss).abs() < 1e-12);
    (loss, gradients)
}

/// Gradients of some parameters against differences, measured and unmeasured.
fn check(name: &str, build: impl Fn(&mut Model, &[TokenizedPair]) -> PreferenceSettings) {
    let pairs = pairs("llama");
    let base = model("llama");
    let mut policy = model("llama");
    let settings = build(&mut policy, &pairs);
    let mut task = task(&base, &pairs, settings);
    // Away from the start, so that the mask is neither flat nor the same everywhere.
    for i in base.params.specs.len()..policy.params.specs.len() {
        let len = policy.params.specs[i].len();
        for e in 0..len {
            nudge(
                &mut policy,
                ParamId(i),
                e,
                0.05 * ((e * 7) % 11) as f64 - 0.9,
            );
        }
    }
    let (_, plain) = step(&policy, &mut task, false);
    let (_, measured) = step(&policy, &mut task, true);
    let probes = (0..policy.params.specs.len())
        .step_by(3)
        .chain(base.params.specs.len()..policy.params.specs.len());
    for i in probes {
        let analytic = NaiveBackend.download_f64(plain.values[i].as_ref().unwrap());
        let again = NaiveBackend.download_f64(measured.values[i].as_ref().unwrap());
        // An element that the batch reaches: the largest.
        let e = (0..analytic.len())
            .max_by(|&a, &b| analytic[a].abs().total_cmp(&analytic[b].abs()))
            .unwrap();
        let h = 1e-5;
        let mut at = |delta: f64| {
            nudge(&mut policy, ParamId(i), e, delta);
            let loss = step(&policy, &mut task, false).0;
            nudge(&mut policy, ParamId(i), e, -delta);
            loss
        };
        let numeric = (at(h) - at(-h)) / (2.0 * h);
        let what = format!("{name} {}", policy.params.specs[i].name);
        assert!(
            (analytic[e] - numeric).abs() <= 1e-6 * (1e-3 + numeric.abs()),
            "{what}: {} against {numeric}",
            analytic[e]
        );
        assert!(
            (analytic[e] - again[e]).abs() <= 1e-12 * (1.0 + numeric.abs()),
            "{what} measured"
        );
    }
}

#[test]
fn length_desensitisation_and_masks_agree_with_differences() {
    check("plain", |_, _| dpo());
    // The likelihood term counts every token once, as in TRL.
    let with_likelihood = |names: &[&str]| {
        let objective = Objective::from_names(names, &[], &ObjectiveOptions::default());
        PreferenceSettings {
            objective: objective.unwrap(),
            ..dpo()
        }
    };
    check("ld with likelihood", |_, _| PreferenceSettings {
        ld_alpha: Some(0.3),
        ..with_likelihood(&["sigmoid", "sft"])
    });
    check("diff with likelihood", |_, _| PreferenceSettings {
        mask: TokenMask::Diff,
        ..with_likelihood(&["rpo"])
    });
    check("head with likelihood", |model, _| PreferenceSettings {
        mask: TokenMask::head(model, MASK),
        ..with_likelihood(&["rpo"])
    });
    check("ld", |_, _| PreferenceSettings {
        ld_alpha: Some(0.3),
        ..dpo()
    });
    check("diff", |_, _| PreferenceSettings {
        mask: TokenMask::Diff,
        ..dpo()
    });
    check("head", |model, _| PreferenceSettings {
        mask: TokenMask::head(model, MASK),
        ..dpo()
    });
    check("free", |model, pairs| PreferenceSettings {
        mask: TokenMask::free(model, MASK, pairs),
        ld_alpha: Some(0.5),
        ..dpo()
    });
}

/// "Initialised so that s ≈ 1 and the first step is DPO's": within the 0.7 % that s lacks.
#[test]
fn a_fresh_mask_takes_nearly_the_plain_step() {
    let pairs = pairs("llama");
    let base = model("llama");
    let (_, plain) = step(&base, &mut task(&base, &pairs, dpo()), false);
    let mut policy = model("llama");
    let settings = PreferenceSettings {
        mask: TokenMask::head(&mut policy, MaskSettings { l1: 0.0, ..MASK }),
        ..dpo()
    };
    let (_, masked) = step(&policy, &mut task(&base, &pairs, settings), false);
    for i in 0..base.params.specs.len() {
        let [a, b] =
            [&plain, &masked].map(|g| NaiveBackend.download_f64(g.values[i].as_ref().unwrap()));
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
        let off = norm(&mut a.iter().zip(&b).map(|(x, y)| x - y));
        assert!(
            off <= 0.02 * norm(&mut a.iter().copied()) + 1e-12,
            "{} {off}",
            base.params.specs[i].name
        );
    }
}

/// The mask's own parameters move at their own rate.
#[test]
fn a_mask_has_its_own_learning_rate() {
    let pairs = pairs("llama");
    let mut policy = model("llama");
    let fast = MaskSettings {
        learning_rate_factor: 50.0,
        ..MASK
    };
    let mask = TokenMask::free(&mut policy, fast, &pairs);
    let values = policy.params.find("mask.values").unwrap();
    let gradients = {
        let mut gradients = Gradients::zeros(&NaiveBackend, &policy.params, |p| p == values);
        let len = policy.params.specs[values.0].len();
        gradients.values[values.0] = Some(NaiveBackend.upload_f64(&vec![2.0; len]));
        gradients
    };
    assert!(matches!(mask, TokenMask::Free { .. }));
    let before = NaiveBackend.download_f64(policy.params.get(values))[0];
    let sgd = OptimizerKind::Sgd { momentum: 0.0 };
    let mut optimizer = Optimizer::new(&NaiveBackend, sgd, 0.0, &policy.params, &gradients);
    optimizer.step(&NaiveBackend, &mut policy.params, &gradients, 1e-3, 1.0);
    let after = NaiveBackend.download_f64(policy.params.get(values))[0];
    assert!(
        (before - after - 50.0 * 1e-3 * 2.0).abs() < 1e-12,
        "{before} {after}"
    );
}

/// WPO multiplies a pair's loss and gradient by one number, at most about 1 where the text is the policy's own.
#[test]
fn weighting_scales_a_pairs_gradient() {
    let pairs = pairs("gpt2");
    let base = model("gpt2");
    let one = |use_weighting| {
        let settings = PreferenceSettings {
            use_weighting,
            ..dpo()
        };
        let mut task = task(&base, &pairs, settings);
        let mut gradients = Gradients::zeros(&NaiveBackend, &base.params, |_| true);
        let metrics = task
            .accumulate(&base, &mut gradients, 1, &[vec![0]], false)
            .unwrap();
        (
            metrics.get("loss").unwrap(),
            gradients.squared_norm(&NaiveBackend).sqrt(),
        )
    };
    let ((plain, g), (weighted, w)) = (one(false), one(true));
    assert!(weighted < plain && weighted > 0.0);
    assert!(
        (weighted / plain - w / g).abs() < 1e-12,
        "{} {}",
        weighted / plain,
        w / g
    );
}

/// θ_ref ← α·θ + (1 − α)·θ_ref at every second step, and a checkpoint brings it back.
#[test]
fn a_moving_reference_follows_the_policy() {
    let pairs = pairs("llama");
    let mut policy = model("llama");
    let moving = |model| MovingReference {
        model,
        alpha: 0.25,
        every: 2,
    };
    let empty = || ReferencedPairs::without_reference(&[]);
    let side = || ReferencedPairs::without_reference(&pairs);
    let mut task = PreferenceTask::new(side(), empty(), dpo(), Some(moving(model("llama"))));
    let loss = |task: &mut PreferenceTask<'_, NaiveBackend>, policy: &Model| {
        let mut gradients = Gradients::zeros(&NaiveBackend, &policy.params, |_| true);
        let metrics = task
            .accumulate(policy, &mut gradients, 1, &[vec![0, 1]], false)
            .unwrap();
        metrics.get("loss").unwrap()
    };
    assert!(
        (loss(&mut task, &policy) - 2f64.ln()).abs() < 1e-12,
        "the policy is its own reference"
    );
    nudge(&mut policy, ParamId(3), 5, 2.0);
    task.on_step_end(&policy, 1).unwrap();
    let before = loss(&mut task, &policy);
    task.on_step_end(&policy, 2).unwrap();
    let after = loss(&mut task, &policy);
    assert_ne!(before, after);
    // By hand: the reference's element moved by a quarter of 2.
    let mut expected = model("llama");
    nudge(&mut expected, ParamId(3), 5, 0.5);
    let mut by_hand = PreferenceTask::new(side(), empty(), dpo(), Some(moving(expected)));
    assert!((loss(&mut by_hand, &policy) - after).abs() < 1e-12);
    // The checkpoint stores f32.
    let dir = tempfile::tempdir().unwrap();
    task.save_state(dir.path()).unwrap();
    let mut resumed = PreferenceTask::new(side(), empty(), dpo(), Some(moving(model("llama"))));
    resumed.load_state(dir.path()).unwrap();
    assert!((loss(&mut resumed, &policy) - after).abs() < 1e-6);
}
