//! Preference steps of a model with dropout of its own: a measured step, whose shared prompt has a row of gradients for each
//! completion, accumulates the gradient of an unmeasured one; the loss of another seed is another.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{model, pairs, reference};
use unbraid_model::Gradients;
use unbraid_objective::{Objective, ObjectiveOptions};
use unbraid_tensor::{Backend, NaiveBackend};
use unbraid_train::{PreferenceSettings, PreferenceTask, ReferencedPairs, Task};

#[test]
fn a_measured_step_drops_what_an_unmeasured_one_does() {
    // Its configuration has a tenth of everything dropped, GPT-2's defaults.
    let model = model("gpt2");
    assert!(model.drops());
    let pairs = pairs("gpt2");
    let step = |seed: Option<u64>, measure: bool| {
        let objective = Objective::from_name("sigmoid", &ObjectiveOptions::default()).unwrap();
        let settings = PreferenceSettings {
            dropout_seed: seed,
            ..PreferenceSettings::new(objective, 0.1)
        };
        let train = ReferencedPairs::new(&pairs, reference(&model, &pairs), &settings);
        let none = ReferencedPairs::without_reference(&[]);
        let mut task = PreferenceTask::new(train, none, settings, None);
        let trained = |p| model.params.is_trainable(p);
        let mut gradients = Gradients::zeros(&NaiveBackend, &model.params, trained);
        let batches = [vec![0, 3, 4], vec![2, 5]];
        let metrics = task.accumulate(&model, &mut gradients, 1, &batches, measure);
        (metrics.unwrap().get("loss").unwrap(), gradients)
    };
    let ((loss, plain), (same, measured)) = (step(Some(3), false), step(Some(3), true));
    assert_eq!(loss, same);
    let norm = plain.squared_norm(&NaiveBackend).sqrt();
    for (id, (a, b)) in plain.values.iter().zip(&measured.values).enumerate() {
        let [a, b] = [a, b].map(|x| NaiveBackend.download_f64(x.as_ref().unwrap()));
        for (x, y) in a.iter().zip(&b) {
            let name = &model.params.specs[id].name;
            assert!((x - y).abs() < 1e-10 * norm, "{name}: {x} {y}");
        }
    }
    assert_ne!(step(Some(4), false).0, loss);
    assert_ne!(step(None, false).0, loss);
}
