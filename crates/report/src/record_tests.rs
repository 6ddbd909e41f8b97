//! Records as a killed, resumed or foreign process may leave them.

use super::*;

fn read(lines: &str) -> Reading {
    let mut reading = Reading::default();
    reading.lines(lines.as_bytes()).unwrap();
    reading
}

fn steps(rows: &Rows) -> Vec<u64> {
    rows.iter().map(|(step, _)| step).collect()
}

#[test]
fn training_and_evaluation_rows_are_told_apart() {
    let reading = read(
        "{\"step\":10,\"epoch\":0.5,\"loss\":0.6}\n{\"step\":10,\"epoch\":0.5,\"eval_loss\":0.7}\n",
    );
    assert_eq!(reading.train.finite("loss"), [(10, 0.6)]);
    assert_eq!(reading.eval.finite("loss"), [(10, 0.7)]);
    assert_eq!((reading.train.len(), reading.eval.len()), (1, 1));
}

#[test]
fn an_evaluation_row_alone_makes_no_training_row() {
    let reading = read("{\"step\":0,\"epoch\":0,\"eval_loss\":0.7}\n");
    assert_eq!((reading.train.len(), reading.eval.len()), (0, 1));
}

#[test]
fn a_resumed_run_replaces_the_abandoned_steps() {
    // Killed after 40, resumed from a checkpoint at 20, then only as far as 30: 40 belongs to no run that exists.
    let lines = "{\"step\":10,\"loss\":1}\n{\"step\":20,\"loss\":2}\n{\"step\":20,\"eval_loss\":2.5}\n\
                 {\"step\":30,\"loss\":3}\n{\"step\":40,\"loss\":4}\n{\"step\":40,\"eval_loss\":4.5}\n\
                 {\"step\":30,\"loss\":33}\n";
    let reading = read(lines);
    assert_eq!(
        reading.train.finite("loss"),
        [(10, 1.0), (20, 2.0), (30, 33.0)]
    );
    assert_eq!(steps(&reading.eval), [20]);
    assert_eq!(reading.resumed, [(30, 3)]);
    assert!(reading.notes()[0].contains("from step 30 on replace 3"));
}

#[test]
fn the_same_step_told_twice_in_a_row_is_one_row_and_the_last_wins() {
    let reading = read("{\"step\":5,\"loss\":1,\"grad_norm\":7}\n{\"step\":5,\"loss\":2}\n");
    assert_eq!(reading.train.finite("loss"), [(5, 2.0)]);
    assert_eq!(reading.train.finite("grad_norm"), [(5, 7.0)]);
    assert!(reading.resumed.is_empty());
}

#[test]
fn a_cut_last_line_is_reported_and_a_complete_one_without_newline_is_kept() {
    let reading = read("{\"step\":1,\"loss\":1}\n{\"step\":2,\"lo");
    assert!(reading.last_line_cut);
    assert_eq!(steps(&reading.train), [1]);
    let reading = read("{\"step\":1,\"loss\":1}\n{\"step\":2,\"loss\":2}");
    assert!(!reading.last_line_cut);
    assert_eq!(steps(&reading.train), [1, 2]);
}

#[test]
fn unreadable_lines_are_counted_with_their_number() {
    let reading = read(
        "{\"step\":1,\"loss\":1}\nnot json\n\n[1]\n{\"loss\":1}\n{\"step\":-1}\n{\"step\":2,\"loss\":2}\n",
    );
    assert_eq!(reading.unreadable, [2, 4, 5, 6]);
    assert_eq!(steps(&reading.train), [1, 2]);
}

#[test]
fn a_line_of_several_megabytes_is_skipped_without_losing_the_next() {
    let lines = format!(
        "{{\"step\":1,\"x\":\"{}\"}}\n{{\"step\":2,\"loss\":2}}\n",
        "y".repeat(3 << 20)
    );
    let reading = read(&lines);
    assert_eq!(reading.unreadable, [1]);
    assert_eq!(steps(&reading.train), [2]);
}

#[test]
fn null_and_bare_nan_are_gaps_and_strings_stay_whole() {
    let reading = read(
        "{\"step\":1,\"loss\":null}\n{\"step\":2,\"loss\":NaN,\"note\":\"NaN \\\" -Infinity\"}\n",
    );
    assert!(reading.train.finite("loss").is_empty());
    assert_eq!(reading.not_finite["loss"], (1, 2));
    assert_eq!(
        without_bare_nan(r#"{"a\"NaN":-Infinity,"b":"NaN"}"#),
        r#"{"a\"NaN":null,"b":"NaN"}"#
    );
}

#[test]
fn derived_columns_follow_from_the_written_ones() {
    let lines = "{\"step\":1,\"logps/chosen\":-10,\"logps/rejected\":-12,\"geometry/ideal\":0.25,\
                 \"geometry/both_fall\":0.5,\"geometry/both_rise\":0}\n\
                 {\"step\":2,\"logps/chosen\":-11,\"logps/rejected\":-15}\n";
    let mut rows = read(lines).train;
    rows.derive_columns(|values| values.first().copied());
    assert_eq!(rows.values("change/chosen"), [0.0, -1.0]);
    assert_eq!(rows.values("change/rejected"), [0.0, -3.0]);
    assert_eq!(rows.values("logps/difference"), [2.0, 4.0]);
    assert_eq!(rows.values("geometry/other"), [0.25]);
}
