//! Every schedule with its arguments at every step against the values that transformers prints (`parity/train`).
//!
//! Tolerance 1e-12 of the peak: the same formulas in another order of operations.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use unbraid_train::{Schedule, ScheduleKind};

#[test]
fn rates_are_transformers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/train/schedules.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut names = BTreeSet::new();
    for case in golden["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        names.insert(name);
        let given: Vec<(String, String)> = case["kwargs"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(k, v)| {
                (
                    k.clone(),
                    v.as_str().map_or_else(|| v.to_string(), str::to_owned),
                )
            })
            .collect();
        let peak = case["peak"].as_f64().unwrap();
        let schedule = Schedule {
            kind: ScheduleKind::from_name(name, &given, peak).unwrap(),
            peak,
            warmup: case["warmup"].as_u64().unwrap(),
            total: case["total"].as_u64().unwrap(),
        };
        for (step, want) in case["rates"].as_array().unwrap().iter().enumerate() {
            let (got, want) = (schedule.rate(step as u64), want.as_f64().unwrap());
            assert!(
                (got - want).abs() <= 1e-12 * peak,
                "{name} {given:?} warm-up {} at {step}: {got} against {want}",
                schedule.warmup
            );
        }
    }
    assert_eq!(names.len(), 10, "{names:?}");
}

/// transformers demands num_decay_steps; without it the last tenth of the run, rounded up, decays here.
#[test]
fn a_tenth_of_the_run_decays_by_default() {
    let rates = |given: &[(String, String)]| {
        let schedule = Schedule {
            kind: ScheduleKind::from_name("warmup_stable_decay", given, 1.0).unwrap(),
            peak: 1.0,
            warmup: 3,
            total: 21,
        };
        (0..23).map(|step| schedule.rate(step)).collect::<Vec<_>>()
    };
    assert_eq!(rates(&[]), rates(&[("num_decay_steps".into(), "3".into())]));
}
