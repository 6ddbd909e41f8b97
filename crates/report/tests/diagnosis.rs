//! Reports of diagnoses made from files: what the page and the verdict say, and how they treat what is missing or damaged.

#![expect(clippy::unwrap_used, reason = "a failing step of a test should panic")]

mod diagnosis_files;

use std::fs;
use std::path::Path;

use diagnosis_files::{
    row_by_hand, write_by_hand, write_diagnosis, write_gram, write_heat_map, write_series,
};
use serde_json::{Value, json};
use unbraid_report::{
    ReportError, diagnosis_verdict, is_diagnosis, write_diagnosis_report, write_series_report,
};

/// The largest page: 5,000 pairs with 600 characters a text, their points and numbers.
const MAX_PAGE_BYTES: u64 = 20 << 20;

fn page(dir: &Path) -> String {
    fs::read_to_string(write_diagnosis_report(dir).unwrap()).unwrap()
}

/// The page's figures: id → description with its CSV.
fn figures(html: &str) -> Vec<Value> {
    let block = html
        .split("<script type=\"application/json\" id=\"figures\">")
        .nth(1)
        .unwrap();
    serde_json::from_str(block.split("</script>").next().unwrap()).unwrap()
}

fn figure(html: &str, id: &str) -> Value {
    let found = figures(html).into_iter().find(|figure| figure["id"] == id);
    found.unwrap_or_else(|| panic!("no figure {id}"))
}

fn csv(html: &str, id: &str) -> Vec<Vec<String>> {
    let figure = figure(html, id);
    let lines = figure["csv"].as_str().unwrap().lines();
    lines
        .map(|line| line.split(',').map(String::from).collect())
        .collect()
}

#[test]
fn the_page_holds_every_figure_and_no_markup_of_the_records() {
    let dir = tempfile::tempdir().unwrap();
    write_diagnosis(dir.path(), 5, 30);
    write_heat_map(dir.path(), 1, 6);
    write_gram(dir.path());
    let html = page(dir.path());
    let ids: Vec<String> = figures(&html)
        .iter()
        .map(|figure| figure["id"].as_str().unwrap().to_string())
        .collect();
    assert_eq!(
        ids,
        [
            "cosines",
            "map",
            "what-if",
            "sweeps",
            "groups",
            "proxies",
            "prediction",
            "gram",
            "split",
            "tokens-1"
        ]
    );
    assert!(html.contains("id=\"pairs-data\""));
    assert!(html.contains("Content-Security-Policy"));
    // The scripts may hold markup, the records may not.
    let words = html.split("<script>").next().unwrap();
    assert!(!words.contains("<b>") && words.contains("a &amp; &lt;b&gt;"));
    assert_eq!(
        html.matches("<code>unbraid diagnose --model-name-or-path gpt2")
            .count(),
        ids.len()
    );
    assert_eq!(
        html,
        page(dir.path()),
        "the same files must give the same bytes"
    );
    let tokens = figure(&html, "tokens-1");
    // Three matrices, and one of the only group's.
    assert_eq!(tokens["panels"].as_array().unwrap().len(), 4);
    assert!(html.contains("The first 6 of 13 chosen tokens are shown."));
}

#[test]
fn the_numbers_of_the_figures_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    write_by_hand(dir.path());
    let html = page(dir.path());
    let map = csv(&html, "map");
    assert_eq!(map[0], ["case", "index", "x", "y", "cosine"]);
    assert_eq!(map[1], ["ideal", "10", "0.25", "0.25", "0.25"]);
    assert_eq!(map[2][..4], ["both_fall", "11", "1.5", "0.3333333"]);
    assert!(
        figure(&html, "map")["panels"][0]["asinh"] == false,
        "no outlier: straight axes"
    );
    let what_if = csv(&html, "what-if");
    let order: Vec<&str> = what_if[1..].iter().map(|row| row[0].as_str()).collect();
    assert_eq!(order, ["sigmoid+guarded", "rdpo", "cpo", "sigmoid ◂"]);
    assert_eq!(what_if[4][1..4], ["0.25", "0.5", "0.25"]);
    // All four pairs are in some bin of the cosine.
    let bins = csv(&html, "cosines");
    let counted: f64 = bins[1..]
        .iter()
        .filter(|row| row[0] == "cosine")
        .flat_map(|row| &row[4..9])
        .map(|cell| cell.parse::<f64>().unwrap())
        .sum();
    assert_eq!(counted, 4.0);
}

#[test]
fn unequal_weights_put_the_lines_at_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut value = row_by_hand(3, [4.0, 9.0], 5.0);
    // d_w/d_l = 2: the limits are 2 for chosen and 1/2 for rejected; 5/4/2 and 5/9·2; −x·y is kept.
    value["objectives"]["sigmoid"]["d_w"] = json!(1.0);
    fs::write(dir.path().join("geometry.jsonl"), format!("{value}\n")).unwrap();
    let html = page(dir.path());
    assert_eq!(csv(&html, "map")[1][2..4], ["0.625", "1.111111"]);
    assert!(
        figure(&html, "map")["panels"][0]["x_label"]
            .as_str()
            .unwrap()
            .contains("d_l/d_w")
    );
}

#[test]
fn pairs_whose_weights_are_not_both_positive_have_no_place_on_the_map() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = [
        row_by_hand(0, [4.0, 9.0], 2.0),
        row_by_hand(1, [4.0, 9.0], 2.0),
    ];
    rows[1]["objectives"]["sigmoid"]["d_l"] = json!(0.0);
    let write = |rows: &[Value]| {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        fs::write(dir.path().join("geometry.jsonl"), text).unwrap();
        page(dir.path())
    };
    let html = write(&rows);
    assert_eq!(csv(&html, "map").len(), 2, "the heading and one pair");
    assert!(html.contains(" 1 pair is not drawn: there sigmoid does not push"));
    let html = write(&rows[1..]);
    assert!(figures(&html).iter().all(|figure| figure["id"] != "map"));
}

#[test]
fn a_stopped_diagnosis_shows_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    write_diagnosis(dir.path(), 40, 20);
    let whole = page(dir.path());
    let rows = fs::read_to_string(dir.path().join("geometry.jsonl")).unwrap();
    fs::remove_file(dir.path().join("summary.json")).unwrap();
    fs::remove_file(dir.path().join("pairs.jsonl")).unwrap();
    fs::write(
        dir.path().join("geometry.jsonl"),
        format!("{rows}[1, 2]\n\n{{\"index\": 7, \"grad_"),
    )
    .unwrap();
    let html = page(dir.path());
    for note in [
        "summary.json is missing",
        "pairs.jsonl is missing",
        "1 unreadable line in geometry.jsonl left out (first: line 41)",
        "the last line of geometry.jsonl is cut short",
    ] {
        assert!(html.contains(note), "{note}");
    }
    // The what-if table and the groups come from the rows then; the numbers agree with the summary's.
    let shares = |html: &str| {
        csv(html, "what-if")[1..]
            .iter()
            .map(|row| row[..7].to_vec())
            .collect::<Vec<_>>()
    };
    assert_eq!(shares(&html), shares(&whole));
    assert!(
        csv(&html, "groups")
            .iter()
            .any(|row| row[2] == "layers.11.mlp")
    );
    assert!(figures(&html).iter().all(|figure| figure["id"] != "sweeps"));
    assert!(
        diagnosis_verdict(dir.path())
            .unwrap()
            .contains("Gradient cosine of chosen and rejected")
    );
}

#[test]
fn a_summary_with_nulls_is_still_read() {
    let dir = tempfile::tempdir().unwrap();
    write_diagnosis(dir.path(), 6, 20);
    let path = dir.path().join("summary.json");
    let mut summary: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    // What was not finite is written as null: a share of a total of zero, a mean that overflowed.
    summary["groups"]["norm"] = json!({"grad_inner": 0.0, "share": null, "grad_cosine": null});
    summary["objectives"]["cpo"]["delta_chosen"] = Value::Null;
    summary["step"] = Value::Null;
    fs::write(path, summary.to_string()).unwrap();
    let html = page(dir.path());
    assert!(!html.contains("summary.json is"), "no note: it was read");
    let groups = csv(&html, "groups");
    let norm = groups.iter().find(|row| row[2] == "norm").unwrap();
    assert_eq!(norm[3..6], ["nan", "0", ""]);
    let cpo = csv(&html, "what-if");
    assert_eq!(cpo.iter().find(|row| row[0] == "cpo").unwrap()[7], "");
}

#[test]
fn proxies_alone_make_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let row = |index: u64| {
        json!({"index": index, "chosen_logps": -50.0, "rejected_logps": -60.0, "ches": -10.0 * index as f64, "ches_normalized": -0.1 * index as f64,
               "edit_distance": 0.5})
    };
    let rows: String = (0..9).map(|index| format!("{}\n", row(index))).collect();
    fs::write(dir.path().join("proxies.jsonl"), rows).unwrap();
    fs::write(
        dir.path().join("run.yaml"),
        "command: unbraid diagnose --proxies-only\n",
    )
    .unwrap();
    assert!(is_diagnosis(dir.path()));
    let html = page(dir.path());
    let ids: Vec<Value> = figures(&html)
        .iter()
        .map(|figure| figure["id"].clone())
        .collect();
    assert_eq!(ids, ["cosines"]);
    assert!(html.contains("no gradients were taken"));
    let verdict = diagnosis_verdict(dir.path()).unwrap();
    assert!(
        verdict.contains("--proxies-only") && verdict.contains("Largest CHES (pair, CHES/length,"),
        "{verdict}"
    );
    // Largest first: 0, −0.1, −0.2, …
    let listed = verdict
        .lines()
        .skip_while(|line| !line.starts_with("Largest"))
        .nth(1);
    assert!(
        listed.is_some_and(|line| line.trim_start().starts_with('0')),
        "{verdict}"
    );
    // A sweep over no pair is no figure: it would be an empty panel, at which the page's script stops.
    let nothing = json!({"value": 0.1, "cases": {}, "delta_chosen": 0.0, "delta_rejected": 0.0});
    let summary =
        json!({"sweeps": [{"objective": "sigmoid", "parameter": "beta", "points": [nothing]}]});
    fs::write(dir.path().join("summary.json"), summary.to_string()).unwrap();
    assert_eq!(figures(&page(dir.path())).len(), 1);
}

#[test]
fn what_is_no_diagnosis_is_said() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!is_diagnosis(dir.path()));
    assert!(matches!(
        write_diagnosis_report(dir.path()),
        Err(ReportError::NotADiagnosis { .. })
    ));
    assert!(matches!(
        diagnosis_verdict(dir.path()),
        Err(ReportError::NotADiagnosis { .. })
    ));
    fs::write(dir.path().join("geometry.jsonl"), "\nnot json\n").unwrap();
    assert!(
        !is_diagnosis(dir.path()),
        "rows alone, without summary or settings, may be anything"
    );
    assert!(matches!(
        write_diagnosis_report(dir.path()),
        Err(ReportError::NoPairs { .. })
    ));
    fs::write(dir.path().join("series.jsonl"), "{}\n").unwrap();
    assert!(matches!(
        write_series_report(dir.path()),
        Err(ReportError::NoPairs { .. })
    ));
}

#[test]
fn damaged_matrices_are_notes() {
    let dir = tempfile::tempdir().unwrap();
    write_by_hand(dir.path());
    fs::create_dir(dir.path().join("heatmaps")).unwrap();
    fs::write(
        dir.path().join("heatmaps/pair-10.json"),
        "{\"index\": 10, \"chosen_tokens\": 7}",
    )
    .unwrap();
    // Rows of unequal length, a value that was not finite, more tokens than rows: drawn as far as they go.
    let uneven = json!({"index": 11, "chosen_tokens": ["a", "b", "c"], "rejected_tokens": ["x", "y"], "cosine": [[0.5, null], [0.25]]});
    fs::write(dir.path().join("heatmaps/pair-11.json"), uneven.to_string()).unwrap();
    fs::write(dir.path().join("gram.json"), "[]").unwrap();
    let html = page(dir.path());
    assert!(
        html.contains("pair-10.json is not as expected")
            && html.contains("gram.json is not as expected")
    );
    let cells = csv(&html, "tokens-11");
    assert_eq!(cells[1], ["chosen × rejected", "1 a", "1 x", "0.5"]);
    assert_eq!(cells[2][3], "");
    assert_eq!(cells.len(), 4);
}

#[test]
fn five_thousand_pairs_are_kept_of_more() {
    let dir = tempfile::tempdir().unwrap();
    write_diagnosis(dir.path(), 5_100, 120);
    let path = write_diagnosis_report(dir.path()).unwrap();
    let bytes = fs::metadata(&path).unwrap().len();
    assert!(bytes < MAX_PAGE_BYTES, "{bytes} bytes");
    let html = fs::read_to_string(path).unwrap();
    assert!(html.contains("The 5000 most harmful of 5100 pairs are here"));
    let block = html.split("id=\"pairs-data\">").nth(1).unwrap();
    let block: Value = serde_json::from_str(block.split("</script>").next().unwrap()).unwrap();
    assert_eq!(block["rows"].as_array().unwrap().len(), 5_000);
    let longest = block["texts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text["chosen"].as_str().unwrap().chars().count());
    // 600 characters and the mark of the cut.
    assert_eq!(longest.max(), Some(602));
}

#[test]
fn a_series_shows_geometry_against_steps() {
    let dir = tempfile::tempdir().unwrap();
    write_series(dir.path());
    assert!(is_diagnosis(dir.path()));
    let html = fs::read_to_string(write_series_report(dir.path()).unwrap()).unwrap();
    let rows = csv(&html, "geometry");
    assert_eq!(rows[0][..3], ["checkpoint", "step", "grad_cosine"]);
    assert_eq!(rows[6][..3], ["checkpoint-100", "100", "0.85"]);
    let ids: Vec<Value> = figures(&html)
        .iter()
        .map(|figure| figure["id"].clone())
        .collect();
    assert_eq!(ids, ["geometry", "log-probs", "cases"]);
    let verdict = diagnosis_verdict(dir.path()).unwrap();
    assert!(
        verdict.contains("6 checkpoints, step 0 to 100, 100 pairs at each"),
        "{verdict}"
    );
    assert!(verdict.contains("The mean cosine rose from 0.60 to 0.85; chosen fell by 5.000 nats and rejected fell by 15.00."));
    assert!(verdict.lines().count() <= 24);
}
