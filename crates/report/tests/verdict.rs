//! What a verdict says of diagnoses made by hand, in the terminal and at the top of the page.

#![expect(clippy::unwrap_used, reason = "a failing step of a test should panic")]

mod diagnosis_files;

use std::fs;
use std::path::Path;

use diagnosis_files::{row_by_hand, write_by_hand, write_diagnosis, write_heat_map};
use serde_json::{Value, json};
use unbraid_report::{diagnosis_verdict, is_diagnosis, write_diagnosis_report};

fn page(dir: &Path) -> String {
    fs::read_to_string(write_diagnosis_report(dir).unwrap()).unwrap()
}

#[test]
fn the_verdict_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    write_by_hand(dir.path());
    assert!(is_diagnosis(dir.path()));
    let verdict = diagnosis_verdict(dir.path()).unwrap();
    for expected in [
        "3 of 4 pairs (75 %) are entangled under sigmoid: both log-probs fall in 2, both rise in 1; 1 is ideal.",
        // Cosines 0.25, 0.7071, 0.8333, 0.7071; inner over ‖g_w‖² 1/4, 3/2, 5/4, 1/3, over ‖g_l‖² 1/4, 1/3, 5/9, 3/2.
        "Gradient cosine of chosen and rejected: median 0.71",
        "rejected's gradient cancels 79 % of chosen's own rise, chosen's gradient cancels 44 % of rejected's own fall",
        // 0.01 · 1 nat.
        "One plain gradient step at learning rate 1e-2 on a pair alone moves chosen by +0.010 and rejected by -0.010 nats",
        // Equals are named together, whatever their scale.
        "More ideal pairs under another objective: 75 % ideal with rdpo or cpo, 25 % with sigmoid.",
        "Remedy: --remedy guarded makes 100 % ideal; with guarded the margin grows 0.50 times as fast as without.",
        "Later steps: sigmoid pushes the two sides in a fixed proportion",
        "(nearest: pair 10, 25 % cancelled)",
    ] {
        let flat = verdict.replace("\n  ", " ");
        assert!(flat.contains(expected), "{expected}\n{verdict}");
    }
    // Harm: 13 gains (3 − 2)/2 on rejected; 11 and 12 lose (3 − 2)/2 and (5 − 4)/2 on chosen; of equals the larger
    // cosine comes first.
    let worst: Vec<&str> = verdict
        .lines()
        .skip_while(|line| !line.starts_with("Worst"))
        .skip(1)
        .take(4)
        .collect();
    let index = |line: &str| line.split_whitespace().next().unwrap().to_string();
    assert_eq!(
        worst.iter().map(|line| index(line)).collect::<Vec<_>>(),
        ["12", "11", "13", "10"]
    );
}

#[test]
fn the_verdict_fits_a_screen() {
    let dir = tempfile::tempdir().unwrap();
    write_diagnosis(dir.path(), 60, 40);
    write_heat_map(dir.path(), 1, 8);
    let mut summary: Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("summary.json")).unwrap())
            .unwrap();
    summary["model"] = json!("a-model-with-a-long-name/".repeat(9));
    summary["worst"] = json!([1, 4, 7, 10, 13]);
    fs::write(dir.path().join("summary.json"), summary.to_string()).unwrap();
    let rows = fs::read_to_string(dir.path().join("pairs.jsonl")).unwrap();
    fs::write(
        dir.path().join("pairs.jsonl"),
        rows.replace("Question", "\\u001b[31mRed"),
    )
    .unwrap();
    let verdict = diagnosis_verdict(dir.path()).unwrap();
    assert!(verdict.lines().count() <= 24, "{verdict}");
    let paths = |line: &&str| line.starts_with("Report: ") || line.starts_with("Token ");
    for line in verdict.lines().filter(|line| !paths(line)) {
        assert!(line.chars().count() <= 100, "{line}");
    }
    assert!(!verdict.contains('\u{1b}'), "a record steers the terminal");
    for expected in [
        "Worst pairs",
        "Report: ",
        "pair-1.json",
        "adamw_torch, tried on 60",
    ] {
        assert!(verdict.contains(expected), "{expected}\n{verdict}");
    }
    // What does not fit is left out as a whole sentence.
    let body: Vec<&str> = verdict
        .lines()
        .take_while(|line| !line.starts_with("Worst"))
        .collect();
    assert!(body[body.len() - 1].ends_with('.'), "{verdict}");
    assert!(
        verdict.lines().count() > 18,
        "room is left unused\n{verdict}"
    );
    // The page has room for everything.
    let html = page(dir.path());
    for expected in [
        "Cheap filter to trust: ches_normalized",
        "foretells the real steps",
    ] {
        assert!(html.contains(expected), "{expected}");
    }
}

#[test]
fn pairs_that_are_ideal_are_told_by_how_nearly_they_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let rows = [
        row_by_hand(1, [4.0, 4.0], 1.0),
        row_by_hand(2, [4.0, 4.0], 3.8),
        row_by_hand(3, [4.0, 4.0], 3.0),
    ];
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(dir.path().join("geometry.jsonl"), text).unwrap();
    let ideal = json!({"cases": {"ideal": 3}, "delta_chosen": 1.0, "delta_rejected": -1.0});
    let summary = json!({"objective": "sigmoid", "learning_rate": 1e-6, "objectives": {"sigmoid": ideal, "sppo": ideal}});
    fs::write(dir.path().join("summary.json"), summary.to_string()).unwrap();
    let flat = diagnosis_verdict(dir.path()).unwrap().replace("\n  ", " ");
    for expected in [
        "No pair is entangled yet under sigmoid",
        "cancels 75 % of chosen's own rise",
        "Nothing to gain from another objective or a remedy at this point",
        "(nearest: pair 2, 95 % cancelled)",
        // 1e-6 nats are nothing to a reader.
        "moves chosen by 0.00000 and rejected by 0.00000 nats",
        "Most alike gradients (pair, cosine, case",
    ] {
        assert!(flat.contains(expected), "{expected}\n{flat}");
    }
    let html = page(dir.path());
    assert!(html.contains("class=\"verdict entangled\"") && html.contains("No pair is harmed"));
    let order: Vec<&str> = html
        .split("\"rows\":[[")
        .nth(1)
        .unwrap()
        .split("],[")
        .collect();
    assert!(
        order[0].starts_with('2') && html.contains("[3,\"ideal\""),
        "the largest cosine first"
    );
}

#[test]
fn a_loss_that_does_not_push_and_equal_texts_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows: Vec<Value> = (0..4)
        .map(|index| row_by_hand(index, [4.0, 9.0], 2.0))
        .collect();
    for row in &mut rows[..3] {
        row["objectives"]["sigmoid"]["d_l"] = json!(0.0);
    }
    rows[3]["objectives"]["sigmoid"]["case"] = json!("still");
    rows[3]["edit_distance"] = json!(0.0);
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(dir.path().join("geometry.jsonl"), text).unwrap();
    fs::write(
        dir.path().join("summary.json"),
        "{\"objective\": \"sigmoid\"}",
    )
    .unwrap();
    let flat = diagnosis_verdict(dir.path()).unwrap().replace("\n  ", " ");
    assert!(
        flat.contains("The loss does not push rejected down in 3 of 4 pairs."),
        "{flat}"
    );
    assert!(
        flat.contains("1 of 4 stand still: chosen and rejected are the same text."),
        "{flat}"
    );
}

#[test]
fn the_other_pairs_of_a_batch_are_counted_in() {
    let dir = tempfile::tempdir().unwrap();
    write_by_hand(dir.path());
    let part = |response: &str, own: f64, others: f64| json!({"response": response, "own": own, "partner": 0.0, "others": others, "total": own + others});
    let split = [
        part("10/chosen", 1.0, -2.0),
        part("10/rejected", -1.0, 0.5),
        part("11/chosen", 1.0, 0.5),
        part("11/rejected", -1.0, -0.5),
    ];
    let gram = json!({"order": [], "matrix": [], "objective": "sigmoid", "split": split});
    fs::write(dir.path().join("gram.json"), gram.to_string()).unwrap();
    let flat = diagnosis_verdict(dir.path()).unwrap().replace("\n  ", " ");
    let expected = "on a batch of 2 pairs, where the other pairs' gradients count too, chosen falls in 1 and rejected rises in 0.";
    assert!(flat.contains(expected), "{flat}");
}
