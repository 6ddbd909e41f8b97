//! Shared by the integration tests: random pairs and every objective in the configurations worth testing.

use proptest::prelude::*;
use unbraid_objective::{Objective, ObjectiveOptions, PairLogps, Semantics};

/// Every named objective on both sides, and those that take an f-divergence with each divergence. `kto` and
/// `bco_pair` get their batch statistic from outside, because it is held constant in their derivative.
pub fn every_objective() -> Vec<(String, Objective)> {
    let mut all = Vec::new();
    for name in Objective::all_names() {
        for semantics in [Semantics::Trl, Semantics::Paper] {
            for divergence in [
                None,
                Some("forward_kl"),
                Some("js_divergence"),
                Some("alpha_divergence"),
            ] {
                let options = ObjectiveOptions {
                    semantics,
                    kto_kl: Some(1.5),
                    bco_delta: Some(-0.4),
                    f_divergence_type: divergence.map(str::to_owned),
                    ..ObjectiveOptions::default()
                };
                if let Ok(objective) = Objective::from_name(name, &options) {
                    all.push((format!("{name}, {semantics:?}, {divergence:?}"), objective));
                } else {
                    assert!(divergence.is_some(), "{name} does not build");
                }
            }
        }
    }
    all
}

/// Log-probs of completions as models give them.
#[allow(dead_code, reason = "not every test binary draws pairs")]
pub fn any_pair() -> impl Strategy<Value = PairLogps> {
    (
        -90.0..-2.0f64,
        -90.0..-2.0f64,
        -4.0..4.0f64,
        -4.0..4.0f64,
        1..60usize,
        1..60usize,
    )
        .prop_map(
            |(chosen, rejected, x_w, x_l, chosen_len, rejected_len)| PairLogps {
                chosen,
                rejected,
                ref_chosen: chosen - x_w,
                ref_rejected: rejected - x_l,
                chosen_len,
                rejected_len,
            },
        )
}
