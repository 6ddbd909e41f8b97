//! All statements on instances that the command's default does not see, and what a reader of the record relies on.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use unbraid_theory::{CURVATURE, check};

const SEED: u64 = 20_241_013;

#[test]
fn every_statement_holds_on_twenty_instances() {
    let record = check(SEED, 20);
    assert!(record.holds, "{}", record.disagreements().join("\n"));
    let ids: Vec<&str> = record.statements.iter().map(|s| s.id).collect();
    assert_eq!(ids.len(), 18);
    for s in &record.statements {
        assert_eq!(s.random, 20, "{}", s.id);
        assert!(s.adversarial > 10 && s.values >= 20, "{}", s.id);
        assert!(
            s.f64.worst.error < s.f32.worst.error || s.f32.worst.error == 0.0,
            "{}",
            s.id
        );
        if let Some(order) = s.step_order {
            assert!(
                (order - 1.0).abs() < 0.1,
                "{}: error of order {order}",
                s.id
            );
        }
        for pair in s.steps.windows(2) {
            assert!(pair[1].median_error <= pair[0].median_error, "{}", s.id);
        }
        for step in &s.steps {
            assert!(step.worst_error <= CURVATURE * step.nats + 1e-9, "{}", s.id);
        }
    }
    // What is sure of the curves: without a prefix the head alone makes every pair ideal; ‖P‖² turns the inner product.
    let (first, last) = (
        record.prefix_curve.first().unwrap(),
        record.prefix_curve.last().unwrap(),
    );
    assert_eq!((first.head.both_fall, first.head.both_rise), (0.0, 0.0));
    assert_eq!(
        (first.head.inner_positive, last.head.inner_positive),
        (0.0, 1.0)
    );
    assert!(
        record
            .prefix_curve
            .iter()
            .all(|row| row.last_token_ideal == 1.0)
    );
    for pair in record.suffix_curve.windows(2) {
        assert!(
            pair[1].predicted < pair[0].predicted,
            "a longer suffix falls further"
        );
        assert!((pair[1].predicted - pair[1].computed).abs() < 1e-9);
    }
}

#[test]
fn the_same_seed_gives_the_same_record_and_a_failure_is_told() {
    let mut record = check(7, 3);
    assert_eq!(record, check(7, 3));
    assert_ne!(
        record.statements[0].points,
        check(8, 3).statements[0].points
    );
    assert!(record.disagreements().is_empty());
    record.statements[2].f64.within = false;
    let lines = record.disagreements();
    assert!(
        lines.len() == 1 && lines[0].starts_with("theorem1.norm_l: ‖g_l‖²"),
        "{lines:?}"
    );
    assert!(lines[0].contains("instance \"") && lines[0].ends_with("(seed 7)"));
}
