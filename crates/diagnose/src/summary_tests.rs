//! Summaries by hand.

use super::*;
use crate::record::tests::row;
use crate::record::{Gradients, Outcome};
use unbraid_objective::Gram;

fn with(index: usize, wl: f64, delta_chosen: f64, ches: f64) -> PairRow {
    let gram = Gram {
        ww: 4.0,
        ll: 9.0,
        wl,
    };
    let half = Gram {
        ww: 1.0,
        ll: 1.0,
        wl: wl / 4.0,
    };
    let rest = Gram {
        wl: wl * 0.75,
        ..gram
    };
    let outcome = Outcome {
        loss: 0.7,
        d_w: 0.1,
        d_l: 0.1,
        case: Case::BothFall,
        delta_chosen,
        delta_rejected: -1.0,
    };
    PairRow {
        gradients: Some(Gradients::new(
            gram,
            &["embedding".into(), "head".into()],
            &[half, rest],
        )),
        objectives: Named(vec![("sigmoid".into(), outcome)]),
        ches,
        ..row(index)
    }
}

#[test]
fn three_rows_by_hand() {
    let mut builder = SummaryBuilder::new("sigmoid", Vec::new());
    builder.add(&with(0, 1.0, -0.5, 10.0));
    builder.add(&with(3, 2.0, -2.0, 20.0));
    let mut alike = with(4, 3.0, -9.0, 30.0);
    alike.edit_distance = 0.0;
    builder.add(&alike);
    let summary = builder.finish(Facts::default(), vec![3]);
    assert_eq!(summary.pairs, 3);
    assert_eq!(summary.means.get("grad_inner"), Some(&2.0));
    assert_eq!(summary.medians.get("chosen_ratio"), Some(&0.5));
    assert_eq!(
        summary.quantiles.get("ches").unwrap().get("p25"),
        Some(&15.0)
    );
    // No row has a rejected reference log-prob.
    assert_eq!(summary.means.get("ref_rejected_logps"), None);
    let sigmoid = summary.objectives.get("sigmoid").unwrap();
    assert_eq!(sigmoid.cases.both_fall, 3);
    assert!((sigmoid.delta_chosen + 11.5 / 3.0).abs() < 1e-15);
    assert_eq!(summary.groups.get("embedding").unwrap().share, Some(0.25));
    assert_eq!(
        summary.groups.get("embedding").unwrap().grad_cosine,
        Some(0.5)
    );
    // The most harmed is a pair of equal completions, so it comes last.
    assert_eq!(summary.worst, [3, 0, 4]);
    assert_eq!(summary.proxies.get("ches").unwrap().inner, Some(1.0));
    assert_eq!(summary.proxies.get("head_cosine").unwrap().cosine, None);
    assert_eq!(summary.proxies.get("ches").unwrap().realised, None);
    assert!(summary.step.is_none());
}

#[test]
fn steps_compare_with_both_predictions() {
    let mut builder = SummaryBuilder::new("sigmoid", Vec::new());
    for (i, realised) in [1.0, 2.0, 4.0].into_iter().enumerate() {
        let mut row = with(i, 1.0, -1.0, i as f64);
        row.step = Some(StepEffect {
            predicted_chosen: realised / 2.0,
            predicted_rejected: 0.0,
            update_chosen: -realised,
            update_rejected: 1.0,
            realised_chosen: realised,
            realised_rejected: 1.0,
        });
        builder.add(&row);
    }
    builder.add(&with(9, 1.0, -1.0, -1.0));
    let summary = builder.finish(Facts::default(), Vec::new());
    let step = summary.step.unwrap();
    assert_eq!(step.pairs, 3);
    assert_eq!(step.chosen.predicted_correlation, Some(1.0));
    assert_eq!(step.chosen.update_correlation, Some(-1.0));
    assert_eq!(step.chosen.predicted_median_ratio, Some(2.0));
    assert_eq!(step.rejected.predicted_median_ratio, None);
    assert_eq!(step.rejected.update_median_ratio, Some(1.0));
    assert_eq!(step.rejected.update_correlation, None);
    assert_eq!(summary.proxies.get("ches").unwrap().realised, Some(1.0));
}

#[test]
fn without_gradients_there_is_no_what_if() {
    let mut builder = SummaryBuilder::new("sigmoid", Vec::new());
    for (index, ches_normalized) in [(0, 0.1), (1, 0.9)] {
        builder.add(&PairRow {
            gradients: None,
            ches_normalized,
            ..row(index)
        });
    }
    let summary = builder.finish(Facts::default(), Vec::new());
    assert_eq!(summary.worst, [1, 0]);
    assert!(summary.objectives.is_empty() && summary.proxies.is_empty());
    assert_eq!(summary.means.get("grad_cosine"), None);
}
