//! Remedies in training: with `normalized` and with `guarded` every pair's first-order change has the ideal signs
//! (arXiv:2410.13828, conditions 9 and 10) where plain DPO's has not, and a small step of gradient descent
//! realises it.
//!
//! In f64 on the parity models, each pair as a step of its own. Tolerance of the realised change: 1e-3 of the
//! predicted one, the second-order term of a step of [`RATE`].

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{model, pairs, reference};
use unbraid_model::{Gradients, LanguageModel};
use unbraid_objective::remedy::{Calibration, GUARD_SLACK, NpoScale};
use unbraid_objective::{Objective, ObjectiveOptions};
use unbraid_preference::TokenizedPair;
use unbraid_tensor::{Backend, NaiveBackend};
use unbraid_train::{Averages, PreferenceSettings, PreferenceTask, ReferencedPairs, Remedy, Task};

const MODELS: [&str; 3] = ["gpt2", "llama", "llama_tied"];
const RATE: f64 = 1e-6;

fn settings(name: &str, remedy: Remedy) -> PreferenceSettings {
    let objective = Objective::from_name(name, &ObjectiveOptions::default()).unwrap();
    PreferenceSettings {
        remedy,
        ..PreferenceSettings::new(objective, 0.1)
    }
}

type Model = LanguageModel<NaiveBackend>;

fn task<'a>(
    model: &Model,
    pairs: &'a [TokenizedPair],
    settings: PreferenceSettings,
) -> PreferenceTask<'a, NaiveBackend> {
    let train = ReferencedPairs::new(pairs, reference(model, pairs), &settings);
    PreferenceTask::new(
        train,
        ReferencedPairs::without_reference(&[]),
        settings,
        None,
    )
}

/// One measured step of gradient descent on some pairs: the metrics of the step and of what it did.
fn descend(
    model: &mut Model,
    task: &mut PreferenceTask<'_, NaiveBackend>,
    examples: &[usize],
) -> Averages {
    let mut gradients = Gradients::zeros(&NaiveBackend, &model.params, |p| {
        model.params.is_trainable(p)
    });
    let mut metrics = task
        .accumulate(model, &mut gradients, 1, &[examples.to_vec()], true)
        .unwrap();
    for (value, gradient) in model.params.values.iter_mut().zip(&gradients.values) {
        NaiveBackend.axpy(-RATE, gradient.as_ref().unwrap(), value);
    }
    metrics.merge(&task.after_step(model, RATE, 1.0));
    metrics
}

/// How many single-pair steps were ideal, of how many, checking each realised change against its prediction.
fn ideal_steps(name: &str, remedy: Remedy) -> (usize, usize) {
    let (mut ideal, mut all) = (0, 0);
    for case in MODELS {
        let pairs = pairs(case);
        for i in 0..pairs.len() {
            let mut model = model(case);
            let mut task = task(&model, &pairs, settings(name, remedy));
            let metrics = descend(&mut model, &mut task, &[i]);
            let get = |key: &str| metrics.get(&format!("geometry/{key}")).unwrap();
            for side in ["chosen", "rejected"] {
                let (predicted, realised) = (
                    get(&format!("predicted_{side}")),
                    get(&format!("realised_{side}")),
                );
                let scale = get("predicted_chosen")
                    .abs()
                    .max(get("predicted_rejected").abs());
                assert!(
                    (predicted - realised).abs() <= 1e-3 * scale.max(1e-9),
                    "{name} {case} {i} {side}: predicted {predicted}, realised {realised}"
                );
            }
            let is_ideal = get("realised_chosen") > 0.0 && get("realised_rejected") < 0.0;
            assert_eq!(is_ideal, get("ideal") == 1.0, "{name} {case} {i}");
            (ideal, all) = (ideal + usize::from(is_ideal), all + 1);
        }
    }
    (ideal, all)
}

#[test]
fn normalized_and_guarded_make_every_pair_ideal_and_plain_dpo_does_not() {
    let (ideal, all) = ideal_steps("sigmoid", Remedy::None);
    assert!(
        ideal < all,
        "the pairs must contain some that plain DPO fails: {ideal} of {all}"
    );
    for remedy in [
        Remedy::Normalized(NpoScale::Unit),
        Remedy::Normalized(NpoScale::Geometric),
        Remedy::Guarded { slack: GUARD_SLACK },
    ] {
        let (ideal, all) = ideal_steps("sigmoid", remedy);
        assert_eq!(ideal, all, "{remedy:?}");
    }
}

/// Every objective whose coefficients are both positive at these log-probs becomes ideal; others keep their own
/// meaning (see `unbraid_objective::remedy`).
#[test]
fn remedies_go_with_other_objectives() {
    for name in [
        "rdpo", "simpo", "cpo", "hinge", "exo_pair", "apo_down", "orpo",
    ] {
        for remedy in [
            Remedy::Normalized(NpoScale::Unit),
            Remedy::Guarded { slack: GUARD_SLACK },
        ] {
            let pairs = pairs("llama");
            for i in 0..pairs.len() {
                let mut model = model("llama");
                let mut task = task(&model, &pairs, settings(name, remedy));
                let metrics = descend(&mut model, &mut task, &[i]);
                let get = |key: &str| metrics.get(&format!("geometry/{key}")).unwrap();
                let both_pull = get("d_w") > 0.0 && get("d_l") > 0.0;
                assert!(!both_pull || get("ideal") == 1.0, "{name} {remedy:?} {i}");
            }
        }
    }
}

/// A remedy that leaves a pair alone takes exactly the plain step: the walk apart and the fused one agree.
#[test]
fn guarded_changes_nothing_where_every_pair_is_ideal() {
    let pairs = pairs("gpt2");
    let plain = |i: usize| {
        let mut model = model("gpt2");
        let mut task = task(&model, &pairs, settings("sigmoid", Remedy::None));
        descend(&mut model, &mut task, &[i]).get("geometry/ideal") == Some(1.0)
    };
    let ideal: Vec<usize> = (0..pairs.len()).filter(|&i| plain(i)).collect();
    assert!(ideal.len() >= 2, "{ideal:?}");
    let gradient = |remedy| {
        let model = model("gpt2");
        let mut task = task(&model, &pairs, settings("sigmoid", remedy));
        let mut gradients = Gradients::zeros(&NaiveBackend, &model.params, |_| true);
        task.accumulate(
            &model,
            &mut gradients,
            1,
            std::slice::from_ref(&ideal),
            false,
        )
        .unwrap();
        gradients
    };
    let (a, b) = (
        gradient(Remedy::None),
        gradient(Remedy::Guarded { slack: GUARD_SLACK }),
    );
    for (a, b) in a.values.iter().flatten().zip(b.values.iter().flatten()) {
        let (a, b) = (NaiveBackend.download_f64(a), NaiveBackend.download_f64(b));
        let worst = a
            .iter()
            .zip(&b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(worst < 1e-12, "{worst:e}");
    }
}

#[test]
fn calibration_goes_on_after_a_checkpoint() {
    let pairs = pairs("llama");
    let fresh = || settings("sigmoid", Remedy::Calibrated(Calibration::default()));
    let ratio = |task: &mut PreferenceTask<'_, NaiveBackend>, model: &mut Model| {
        let metrics = descend(model, task, &[0, 2]);
        metrics.get("geometry/d_w").unwrap() / metrics.get("geometry/d_l").unwrap()
    };
    let mut whole_model = model("llama");
    let mut whole = task(&whole_model, &pairs, fresh());
    ratio(&mut whole, &mut whole_model);
    let dir = tempfile::tempdir().unwrap();
    whole.save_state(dir.path()).unwrap();
    let mut model = model("llama");
    let mut resumed = task(&model, &pairs, fresh());
    resumed.load_state(dir.path()).unwrap();
    // The second observation moves the average by 2 %; without the first it would be taken whole.
    let (a, b) = (
        ratio(&mut whole, &mut whole_model),
        ratio(&mut resumed, &mut model),
    );
    assert!((a / b - 1.0).abs() < 1e-4, "{a} {b}");
    let text = std::fs::read_to_string(dir.path().join("calibration.json")).unwrap();
    assert!(text.contains("log_ratio"), "{text}");
}

/// A step that was cancelled half-way is taken again: its micro-batches must not have moved the average on.
#[test]
fn an_abandoned_step_leaves_the_calibration_as_it_was() {
    let pairs = pairs("llama");
    let calibrated = Remedy::Calibrated(Calibration::default());
    let mut model = model("llama");
    let mut task = task(&model, &pairs, settings("sigmoid", calibrated));
    descend(&mut model, &mut task, &[0]);
    let state = |task: &PreferenceTask<'_, NaiveBackend>| {
        let dir = tempfile::tempdir().unwrap();
        task.save_state(dir.path()).unwrap();
        std::fs::read_to_string(dir.path().join("calibration.json")).unwrap()
    };
    let before = state(&task);
    let mut gradients = Gradients::zeros(&NaiveBackend, &model.params, |p| {
        model.params.is_trainable(p)
    });
    let batches = [vec![0], vec![2]];
    task.accumulate(&model, &mut gradients, 2, &batches, false)
        .unwrap();
    assert_ne!(state(&task), before, "the step has moved it");
    task.abandon_step();
    assert_eq!(state(&task), before);
}

/// ‖∇ℓ‖² = d_w²‖g_w‖² + d_l²‖g_l‖² − 2 d_w d_l ⟨g_w,g_l⟩ with the coefficients that a remedy gave: in a whole model,
/// which is walked twice, and under an adapter, whose gradients are kept from the one walk.
#[test]
fn the_update_is_made_of_the_measured_gradients() {
    let lora = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/lora/llama");
    for adapted in [false, true] {
        for remedy in [
            Remedy::Normalized(NpoScale::Unit),
            Remedy::Guarded { slack: GUARD_SLACK },
            Remedy::Calibrated(Calibration::default()),
        ] {
            let pairs = pairs("llama");
            for i in 0..pairs.len() {
                let mut model = model("llama");
                let mut task = task(&model, &pairs, settings("sigmoid", remedy));
                if adapted {
                    model.load_adapter(&lora).unwrap();
                }
                let mut gradients = Gradients::zeros(&NaiveBackend, &model.params, |p| {
                    model.params.is_trainable(p)
                });
                let batch = [vec![i]];
                let metrics = task
                    .accumulate(&model, &mut gradients, 1, &batch, true)
                    .unwrap();
                let get = |key: &str| metrics.get(&format!("geometry/{key}")).unwrap();
                let (w, l) = (
                    get("d_w") * get("grad_norm_chosen"),
                    get("d_l") * get("grad_norm_rejected"),
                );
                let wanted = w * w + l * l - 2.0 * get("d_w") * get("d_l") * get("inner");
                let got = gradients.squared_norm(&NaiveBackend);
                assert!(
                    (got - wanted).abs() <= 1e-9 * (w * w + l * l),
                    "adapted {adapted} {remedy:?} {i}: {got} {wanted}"
                );
            }
        }
    }
}
