//! Pages and summaries of the paper's experiments, from synthetic results.

#![expect(clippy::unwrap_used, reason = "a failing step of a test should panic")]

mod experiment_files;

use std::fs;
use std::path::{Path, PathBuf};

use experiment_files::{Course, objectives, results, sentiment, write_experiment};
use roxmltree::Document;
use serde_json::{Value, json};
use unbraid_report::{
    ReportError, experiment_summary, is_experiment, write_experiment_report, write_figures,
    write_report,
};

/// Writes a page for looking at when `UNBRAID_KEEP_PAGES` names a directory.
fn page(dir: &Path, name: &str) -> String {
    let path = write_experiment_report(dir).unwrap();
    let html = fs::read_to_string(path).unwrap();
    if let Ok(keep) = std::env::var("UNBRAID_KEEP_PAGES") {
        fs::write(Path::new(&keep).join(format!("{name}.html")), &html).unwrap();
    }
    html
}

/// The figures of a page by their anchors.
fn figures(html: &str) -> Vec<(String, Value)> {
    let start = "<script type=\"application/json\" id=\"figures\">";
    let data = html
        .split_once(start)
        .unwrap()
        .1
        .split_once("</script>")
        .unwrap()
        .0;
    let figures: Vec<Value> = serde_json::from_str(data).unwrap();
    let named = figures.into_iter();
    named
        .map(|figure| (figure["id"].as_str().unwrap().to_string(), figure))
        .collect()
}

fn ids(html: &str) -> Vec<String> {
    figures(html).into_iter().map(|(id, _)| id).collect()
}

fn figure(html: &str, id: &str) -> Value {
    figures(html)
        .into_iter()
        .find(|(known, _)| known == id)
        .unwrap()
        .1
}

/// What stands between the body's start and the figures' data.
fn body(html: &str) -> &str {
    html.split_once("<main")
        .unwrap()
        .1
        .split_once("</main>")
        .unwrap()
        .0
}

#[test]
fn the_sentiment_page_shows_claims_curves_maps_and_remedies() {
    let dir = tempfile::tempdir().unwrap();
    write_experiment(dir.path(), "sentiment", &sentiment(), &[0, 1, 2]);
    let html = page(dir.path(), "sentiment");
    let expected = [
        "log-probs",
        "change",
        "gradients",
        "tokens-single-token",
        "tokens-short-suffix",
        "tokens-long-suffix",
        "tokens-prefix-suffix",
        "cases",
        "directions",
        "outcomes",
        "cost",
        "remedies",
    ];
    assert_eq!(ids(&html), expected);
    assert!(html.contains("gpt2 · 124,439,808 parameters · AMD EPYC"));
    let body = body(&html);
    for text in [
        "2 of 4 claims hold, 1 does not, 1 is unclear.",
        "with the seeds 0, 1 and 2",
        "4 styles, and 5 more times with a remedy",
        "Batches of 8 instead of 32",
        "0.181 [0.143, 0.219]",
        "\u{2212}0.430 [\u{2212}0.520, \u{2212}0.340]",
        "<span aria-hidden=\"true\">✗</span> does not",
        "not measured",
        "<code>single-token</code>",
        "Gradient cosine over all parameters",
        "&lt;normalized&gt; &amp; friends",
        "95 % interval over 3 seeds",
        "reproduce sentiment --output_dir &#39;&lt;out&gt; &amp; more&#39;",
        "<span class=\"key ideal\"></span>ideal",
        "86 %<div class=\"detail\">from 78 %</div>",
    ] {
        assert!(body.contains(text), "{text} is missing");
    }
    let log_probs = figure(&html, "log-probs");
    let panels = log_probs["panels"].as_array().unwrap();
    assert_eq!(panels.len(), 4);
    assert!(
        panels
            .iter()
            .all(|panel| panel["y_range"] == panels[0]["y_range"] && panel["y_range"].is_array())
    );
    // Two means, and three seeds of each behind them.
    let series = panels[2]["series"].as_array().unwrap();
    assert_eq!(series.len(), 8);
    assert_eq!(series.iter().filter(|one| one["faint"] == true).count(), 6);
    assert_eq!(
        series[0]["rows"],
        json!({ "arm": "long-suffix", "seed": "mean" })
    );
    let maps = figure(&html, "tokens-long-suffix");
    let tabs: Vec<&Value> = maps["panels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|panel| &panel["tab"])
        .collect();
    assert_eq!(tabs, ["pair 0", "pair 0", "pair 7", "pair 7"]);
}

#[test]
fn means_are_plain_averages_over_seeds() {
    let dir = tempfile::tempdir().unwrap();
    let run = |seed: u64, values: [f64; 2]| {
        let at = |step: u64, value: f64| json!({ "step": step, "metrics": { "logps/chosen": value, "logps/rejected": null } });
        json!({ "seed": seed, "evaluations": [at(0, values[0]), at(10, values[1])] })
    };
    let arm = json!({ "name": "a", "style": "a", "objective": "sigmoid", "remedy": "none",
        "runs": [run(1, [-3.0, -4.0]), run(2, [-5.0, -4.5])] });
    let results = json!({ "kind": "sentiment", "arms": [arm] });
    fs::write(dir.path().join("results.json"), results.to_string()).unwrap();
    let html = page(dir.path(), "two-seeds");
    let csv = figure(&html, "log-probs")["csv"]
        .as_str()
        .unwrap()
        .to_string();
    assert_eq!(
        csv,
        "arm,seed,step,logps/chosen,logps/rejected\na,mean,0,-4,\na,mean,10,-4.25,\na,1,0,-3,\na,1,10,-4,\na,2,0,-5,\na,2,10,-4.5,\n"
    );
    assert!(
        figure(&html, "change")["csv"]
            .as_str()
            .unwrap()
            .contains("a,mean,10,-0.25")
    );
}

#[test]
fn the_objectives_page_has_a_panel_an_objective_and_per_token_changes() {
    let dir = tempfile::tempdir().unwrap();
    write_experiment(dir.path(), "objectives", &objectives(), &[4]);
    let html = page(dir.path(), "objectives");
    assert_eq!(
        ids(&html),
        [
            "log-probs",
            "change",
            "gradients",
            "cases",
            "directions",
            "outcomes",
            "cost",
            "remedies"
        ]
    );
    for id in ["log-probs", "change"] {
        let panels = figure(&html, id)["panels"].as_array().unwrap().len();
        assert_eq!(panels, 12, "{id}");
    }
    let cases = figure(&html, "cases");
    let titles: Vec<&str> = cases["panels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|panel| panel["title"].as_str().unwrap())
        .collect();
    assert_eq!(
        titles,
        [
            "Foretold at the start (step 0)",
            "Foretold in the middle (step 60)",
            "Foretold at the end (step 120)",
            "What training did"
        ]
    );
    let body = body(&html);
    for text in [
        "Objectives and remedies judged",
        "a token</div>",
        "10 objectives, and 2 more times",
        "once, with seed 4",
        "interval over 24 pairs",
        "both rise",
    ] {
        assert!(body.contains(text), "{text} is missing");
    }
    // A single seed needs no mean.
    let series = figure(&html, "log-probs")["panels"][0]["series"].clone();
    assert_eq!(series.as_array().unwrap().len(), 2);
    assert_eq!(series[0]["rows"]["seed"], "4");
}

#[test]
fn an_experiment_that_goes_on_has_a_page_of_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let write =
        |results: &Value| fs::write(dir.path().join("results.json"), results.to_string()).unwrap();
    let mut first = results("sentiment", &sentiment()[..1], &[0]);
    first["claims"] = json!([]);
    write(&first);
    let html = page(dir.path(), "partial");
    assert!(body(&html).contains("No claim has been judged yet."));
    assert!(body(&html).contains("heat map heatmaps/single-token-start/pair-0.json is missing"));
    assert!(!ids(&html).contains(&"remedies".to_string()));
    // A run that lacks everything but its seed, and no arm at all.
    first["arms"] = json!([{ "name": "x", "runs": [{ "seed": 1 }] }]);
    write(&first);
    assert!(ids(&page(dir.path(), "bare")).is_empty());
    assert!(
        experiment_summary(dir.path())
            .unwrap()
            .ends_with("  x  1 seed")
    );
    write(&json!({ "kind": "objectives" }));
    assert!(body(&page(dir.path(), "empty")).contains("no arm has finished yet"));
    assert!(
        experiment_summary(dir.path())
            .unwrap()
            .contains("no arm has finished yet")
    );
}

#[test]
fn damage_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let missing = write_experiment_report(dir.path()).unwrap_err();
    assert!(
        matches!(missing, ReportError::NotAnExperiment { .. })
            && missing.to_string().contains("hint:")
    );
    assert!(!is_experiment(dir.path()));
    let path = dir.path().join("results.json");
    for (text, word) in [
        ("{\"kind\":\"sentiment\",\"arms\":[", "EOF"),
        ("{\"kind\":\"poems\"}", "kind `poems` is unknown"),
        ("{\"arms\":[]}", "kind"),
        ("\u{0}\u{1}", "expected"),
    ] {
        fs::write(&path, text).unwrap();
        assert!(
            is_experiment(dir.path()),
            "so that the report names the damage"
        );
        let error = write_report(&[dir.path().to_path_buf()], None).unwrap_err();
        assert!(matches!(error, ReportError::DamagedResults { .. }));
        assert!(
            error.to_string().contains(word) && error.to_string().contains("results.json"),
            "{error}"
        );
        assert!(experiment_summary(dir.path()).is_err());
    }
    // Another program's file in a run's directory is no experiment.
    fs::write(
        dir.path().join("metrics.jsonl"),
        "{\"step\":1,\"loss\":1}\n",
    )
    .unwrap();
    assert!(!is_experiment(dir.path()));
    write_report(&[dir.path().to_path_buf()], None).unwrap();
}

#[test]
fn a_damaged_heat_map_is_noted_and_none_is_read_from_outside() {
    let dir = tempfile::tempdir().unwrap();
    write_experiment(dir.path(), "sentiment", &sentiment()[..2], &[0]);
    let mut results = results("sentiment", &sentiment()[..2], &[0]);
    fs::write(
        dir.path().join("heatmaps/single-token-start/pair-0.json"),
        "{",
    )
    .unwrap();
    results["heat_maps"][1]["file"] = json!("../secret.json");
    fs::write(dir.path().join("results.json"), results.to_string()).unwrap();
    let html = page(dir.path(), "damaged-map");
    assert!(body(&html).contains("pair-0.json is not as expected"));
    assert!(body(&html).contains("heat map ../secret.json lies outside the experiment"));
    assert_eq!(
        figure(&html, "tokens-single-token")["panels"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn the_same_files_give_the_same_bytes_and_the_right_route() {
    let dir = tempfile::tempdir().unwrap();
    write_experiment(dir.path(), "sentiment", &sentiment(), &[0, 1]);
    let one = page(dir.path(), "again");
    let path = write_report(&[dir.path().to_path_buf()], None).unwrap();
    assert_eq!(one, fs::read_to_string(path).unwrap());
    let both: [PathBuf; 2] = [dir.path().to_path_buf(), dir.path().to_path_buf()];
    let error = write_report(&both, None).unwrap_err();
    assert!(matches!(error, ReportError::ExperimentToCompare { .. }));
}

#[test]
fn every_panel_becomes_a_drawing() {
    for (kind, courses, seeds) in [
        ("sentiment", sentiment(), &[0, 1, 2][..]),
        ("objectives", objectives(), &[4][..]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write_experiment(dir.path(), kind, &courses, seeds);
        let html = page(dir.path(), kind);
        let panels = figures(&html)
            .iter()
            .map(|(_, figure)| figure["panels"].as_array().unwrap().len())
            .sum::<usize>();
        let files = write_figures(&[dir.path().to_path_buf()], None).unwrap();
        assert_eq!(files.len(), panels);
        for file in &files {
            let text = fs::read_to_string(file).unwrap();
            let document = Document::parse(&text).unwrap();
            assert!(
                !text.contains("NaN") && !text.contains("inf\""),
                "{}",
                file.display()
            );
            let described = document
                .descendants()
                .find(|node| node.has_tag_name("desc"))
                .unwrap();
            assert!(described.text().unwrap().contains("unbraid reproduce"));
        }
        let text = fs::read_to_string(
            dir.path()
                .join("figures/outcomes-change-of-chosen-and-rejected.svg"),
        )
        .unwrap();
        let document = Document::parse(&text).unwrap();
        let words: Vec<&str> = document
            .descendants()
            .filter_map(|node| node.text())
            .collect();
        assert!(words.contains(&"ideal"), "{words:?}");
        let points = if kind == "sentiment" {
            "guarded"
        } else {
            "sigmoid+guarded"
        };
        assert!(words.contains(&points), "{words:?}");
        if let Ok(keep) = std::env::var("UNBRAID_KEEP_PAGES") {
            fs::write(Path::new(&keep).join(format!("{kind}.svg")), text).unwrap();
        }
    }
}

#[test]
fn the_summary_fits_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    write_experiment(dir.path(), "sentiment", &sentiment(), &[0, 1, 2]);
    let summary = experiment_summary(dir.path()).unwrap();
    assert!(
        summary.lines().all(|line| line.chars().count() <= 100),
        "{summary}"
    );
    for line in [
        "2 of 4 claims hold, 1 does not, 1 is unclear.",
        "  The chosen log-prob rises for single-token -> 0.181 [0.143, 0.219] -> holds",
        "    -> -0.430 [-0.520, -0.340] -> holds",
    ] {
        assert!(
            summary.lines().any(|found| found == line),
            "{line}\n{summary}"
        );
    }
    let arms = summary
        .lines()
        .filter(|line| line.contains("3 seeds"))
        .count();
    assert_eq!(arms, sentiment().len(), "{summary}");
    let strange = Course {
        name: "\u{1b}[31mred",
        style: None,
        ..sentiment().remove(0)
    };
    write_experiment(dir.path(), "objectives", &[strange], &[0]);
    assert!(!experiment_summary(dir.path()).unwrap().contains('\u{1b}'));
}
