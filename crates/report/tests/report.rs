//! Whole pages from whole run directories: what a reader gets, and what damage or malice in the records does not do.

#![expect(clippy::unwrap_used, reason = "a failing step of a test should panic")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use unbraid_report::{ReportError, terminal_summary, write_comparison, write_run_report};

/// A run of twenty steps: chosen falls by 4, rejected by 10 nats on held-out pairs; gradients at every fifth step.
fn run_rows() -> Vec<Value> {
    let mut rows = Vec::new();
    for step in 0..=20 {
        let t = f64::from(step) / 20.0;
        if step > 0 {
            let mut row = json!({
                "step": step, "epoch": t, "learning_rate": 1e-6 * (1.0 - t), "loss": 0.69 - 0.2 * t, "grad_norm": 3.0,
                "rewards/chosen": -0.4 * t, "rewards/rejected": -t, "rewards/margins": 0.6 * t,
                "rewards/accuracies": 0.5 + 0.4 * t, "logps/chosen": -50.0 - 4.0 * t,
                "logps/rejected": -60.0 - 10.0 * t, "tokens_per_second": 1000.0,
            });
            if step % 5 == 0 {
                let geometry = json!({
                    "geometry/grad_norm_chosen": 2.0, "geometry/grad_norm_rejected": 3.0, "geometry/inner": 5.58,
                    "geometry/cosine": 0.93, "geometry/d_w": 0.05, "geometry/d_l": 0.05, "geometry/ideal": 0.25,
                    "geometry/both_fall": 0.75, "geometry/both_rise": 0.0, "geometry/predicted_chosen": -0.1 * t,
                    "geometry/predicted_rejected": -0.2 * t, "geometry/realised_chosen": -0.12 * t,
                    "geometry/realised_rejected": -0.21 * t,
                });
                row.as_object_mut()
                    .unwrap()
                    .extend(geometry.as_object().unwrap().clone());
            }
            rows.push(row);
        }
        if step % 10 == 0 {
            rows.push(json!({
                "step": step, "eval_loss": 0.69 - 0.2 * t, "eval_logps/chosen": -51.0 - 4.0 * t,
                "eval_logps/rejected": -61.0 - 10.0 * t, "eval_rewards/margins": 0.6 * t,
                "eval_rewards/accuracies": 0.5 + 0.4 * t,
            }));
        }
    }
    rows
}

fn write_run(dir: &Path, rows: &[Value], yaml: &str) {
    fs::create_dir_all(dir).unwrap();
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(dir.join("metrics.jsonl"), lines).unwrap();
    if !yaml.is_empty() {
        fs::write(dir.join("run.yaml"), yaml).unwrap();
    }
}

const YAML: &str = "command: unbraid train recipe.yaml --seed 7\nrecipe:\n  beta: 0.1\n  seed: 7\n";

fn page(dir: &Path) -> String {
    fs::read_to_string(write_run_report(dir).unwrap()).unwrap()
}

/// The figures' data as the page's scripts read it.
fn figures(html: &str) -> Vec<Value> {
    let start = "<script type=\"application/json\" id=\"figures\">";
    let data = html
        .split_once(start)
        .unwrap()
        .1
        .split_once("</script>")
        .unwrap()
        .0;
    serde_json::from_str(data).unwrap()
}

fn ids(figures: &[Value]) -> Vec<&str> {
    figures
        .iter()
        .map(|figure| figure["id"].as_str().unwrap())
        .collect()
}

fn csv<'a>(figures: &'a [Value], id: &str) -> &'a str {
    figures.iter().find(|figure| figure["id"] == id).unwrap()["csv"]
        .as_str()
        .unwrap()
}

/// The page without its scripts: what the browser takes as markup.
fn markup(html: &str) -> String {
    let mut out = String::new();
    let mut rest = html;
    while let Some((before, after)) = rest.split_once("<script") {
        out.push_str(before);
        rest = after.split_once("</script>").unwrap().1;
    }
    out + rest
}

#[test]
fn a_run_gives_one_page_with_seven_figures_and_its_verdict() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), &run_rows(), YAML);
    let html = page(dir.path());
    let all = [
        "log-probs",
        "change",
        "learning",
        "optimizer",
        "geometry",
        "cases",
        "prediction",
    ];
    assert_eq!(ids(&figures(&html)), all);
    assert!(
        html.contains("Chosen and rejected both fell: gradient entanglement (mean cosine 0.93).")
    );
    for id in all {
        assert!(
            html.contains(&format!("<figure class=\"figure\" id=\"fig-{id}\">")),
            "{id} has no place in the page"
        );
    }
    assert_eq!(
        html.matches("Made by <code>unbraid train recipe.yaml --seed 7</code>")
            .count(),
        all.len()
    );
    assert!(html.contains("<summary>Settings of the run (run.yaml)</summary>"));
    assert!(html.len() < 1_300_000, "{} bytes", html.len());
}

#[test]
fn the_page_loads_nothing() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), &run_rows(), YAML);
    let html = page(dir.path());
    assert!(html.contains("http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';"));
    let markup = markup(&html);
    for loader in [
        "src=",
        "srcset=",
        "@import",
        "url(",
        "<link rel=\"stylesheet\"",
        "<iframe",
        "<object",
        "http://",
        "https://",
    ] {
        assert!(!markup.contains(loader), "`{loader}` in the page's markup");
    }
    for href in markup.split("href=\"").skip(1) {
        assert!(
            href.starts_with('#') || href.starts_with("data:"),
            "a link leads out: {}",
            &href[..40]
        );
    }
    // Own scripts must not fetch either; the policy would stop them, and the reader would see an error.
    for script in [
        include_str!("../assets/charts.js"),
        include_str!("../assets/page.js"),
    ] {
        assert!(
            !script.contains("fetch(")
                && !script.contains("XMLHttpRequest")
                && !script.contains("import(")
        );
    }
}

#[test]
fn the_numbers_are_csv_of_what_was_logged() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), &run_rows(), YAML);
    let figures = figures(&page(dir.path()));
    let text = csv(&figures, "log-probs");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "split,step,logps/chosen,logps/rejected,rewards/margins"
    );
    assert_eq!(lines[1], "train,1,-50.2,-60.5,0.03");
    assert_eq!(lines[20], "train,20,-54,-70,0.6");
    assert_eq!(
        lines[21..],
        [
            "eval,0,-51,-61,0",
            "eval,10,-53,-66,0.3",
            "eval,20,-55,-71,0.6"
        ]
    );
    let change: Vec<&str> = csv(&figures, "change").lines().collect();
    assert_eq!(
        change[0],
        "split,step,change/chosen,change/rejected,rewards/chosen,rewards/rejected"
    );
    assert_eq!(
        *change.last().unwrap(),
        "eval,20,-4,-10,,",
        "rewards were not evaluated: empty cells"
    );
    let cases: Vec<&str> = csv(&figures, "cases").lines().collect();
    assert_eq!(cases.len(), 5, "only the measured steps");
    assert_eq!(cases[1], "train,5,0.25,0.75,0,0");
}

#[test]
fn the_same_records_give_the_same_bytes_and_no_file_is_left_over() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), &run_rows(), YAML);
    let (first, second) = (page(dir.path()), page(dir.path()));
    assert!(first == second);
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["metrics.jsonl", "report.html", "run.yaml"]);
}

#[test]
fn markup_in_the_records_stays_text() {
    let dir = tempfile::tempdir().unwrap();
    let evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)> ü 漢 \u{2028}\"'&";
    let mut rows = run_rows();
    rows[3]
        .as_object_mut()
        .unwrap()
        .insert(evil.to_string(), Value::Null);
    let yaml = format!(
        "run_name: {0}\ncommand: {0}\nnote: {0}\n",
        serde_json::to_string(evil).unwrap()
    );
    write_run(dir.path(), &rows, &yaml);
    fs::write(
        dir.path().join("summary.json"),
        format!("{{\"x\": \"{evil}\"}}"),
    )
    .unwrap();
    let html = page(dir.path());
    assert!(!html.contains("<script>alert") && !html.contains("<img src=x"));
    assert!(html.contains("&lt;/script&gt;&lt;script&gt;alert(1)"));
    assert_eq!(
        html.matches("</script>").count(),
        4,
        "one block of data and three scripts"
    );
    assert_eq!(figures(&html).len(), 7);
    // A run of that name in a comparison stands in the CSV and in the legend.
    let out = dir.path().join("two.html");
    write_comparison(&[dir.path().to_path_buf()], &out).unwrap();
    let html = fs::read_to_string(out).unwrap();
    assert!(!html.contains("<script>alert") && !html.contains("<img src=x"));
    let series = &figures(&html)[1]["panels"][0]["series"][0];
    assert_eq!(series["name"], evil);
    assert_eq!(series["rows"]["run"], evil);
}

#[test]
fn a_value_that_is_not_finite_is_a_gap_and_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = run_rows();
    for row in rows.iter_mut().filter(|row| row["step"] == 7) {
        row["loss"] = Value::Null;
    }
    write_run(dir.path(), &rows, YAML);
    let html = page(dir.path());
    assert!(html.contains("loss is not finite in 1 rows, first at step 7: drawn as a gap"));
    let figures = figures(&html);
    assert!(
        csv(&figures, "learning")
            .lines()
            .any(|line| line.starts_with("train,7,nan,"))
    );
}

#[test]
fn a_single_row_is_a_page_without_a_verdict_on_change() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), &run_rows()[1..2], "");
    let html = page(dir.path());
    assert!(html.contains("One logged step only"));
    assert!(html.contains("run.yaml is missing"));
    assert!(
        terminal_summary(dir.path())
            .unwrap()
            .contains("One logged step only")
    );
}

#[test]
fn without_geometry_its_figures_are_left_out_and_the_page_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<Value> = run_rows()
        .into_iter()
        .filter(|row| row.get("geometry/cosine").is_none())
        .collect();
    write_run(dir.path(), &rows, YAML);
    let html = page(dir.path());
    assert_eq!(
        ids(&figures(&html)),
        ["log-probs", "change", "learning", "optimizer"]
    );
    assert!(html.contains("no gradients were measured in this run"));
    assert!(html.contains("both fell; this run measured no gradients"));
}

#[test]
fn rows_without_log_probs_still_make_a_page() {
    let dir = tempfile::tempdir().unwrap();
    write_run(
        dir.path(),
        &[
            json!({"step": 1, "loss": 2.0}),
            json!({"step": 2, "loss": 1.5}),
        ],
        "",
    );
    let html = page(dir.path());
    assert_eq!(ids(&figures(&html)), ["learning"]);
    assert!(html.contains("neither log-probs nor rewards"));
}

#[test]
fn a_cut_last_line_and_a_resumed_run_are_noted() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = run_rows();
    rows.push(json!({"step": 15, "loss": 0.5}));
    write_run(dir.path(), &rows, YAML);
    let path = dir.path().join("metrics.jsonl");
    let text = fs::read_to_string(&path).unwrap() + "{\"step\": 16, \"lo";
    fs::write(&path, text).unwrap();
    let html = page(dir.path());
    assert!(html.contains("the last line of metrics.jsonl is cut short"));
    assert!(html.contains("the run was resumed: rows from step 15 on replace 7 earlier ones"));
}

#[test]
fn a_long_run_is_thinned_and_keeps_its_last_step() {
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<Value> = (1..=4000)
        .map(|step| json!({"step": step, "loss": 1.0 / f64::from(step)}))
        .collect();
    write_run(dir.path(), &rows, YAML);
    let html = page(dir.path());
    let figures = figures(&html);
    let lines: Vec<&str> = csv(&figures, "learning").lines().collect();
    // Every third of 4,000: 1, 4, …, 4000 (which is the last as well), and the header.
    assert_eq!(lines.len(), 1 + 1334);
    assert_eq!(*lines.last().unwrap(), "train,4000,0.00025,");
    assert!(html.contains("one in 3 logged steps"));
}

#[test]
fn a_directory_without_metrics_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = write_run_report(dir.path()).unwrap_err();
    assert!(matches!(error, ReportError::NotARun { .. }));
    let message = error.to_string();
    assert!(
        message.contains("is not a run: it holds no metrics.jsonl\nhint: "),
        "{message}"
    );
    assert!(!dir.path().join("report.html").exists());
}

#[test]
fn empty_or_unreadable_metrics_are_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    for (text, unreadable) in [("", 0), ("\n\n", 0), ("garbage\n[]\n", 2)] {
        fs::write(dir.path().join("metrics.jsonl"), text).unwrap();
        match write_run_report(dir.path()).unwrap_err() {
            ReportError::NoSteps {
                unreadable: got, ..
            } => assert_eq!(got, unreadable),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn an_unwritable_place_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), &run_rows(), YAML);
    let out = dir.path().join("no/such/directory/out.html");
    let message = write_comparison(&[dir.path().to_path_buf()], &out)
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("cannot write `") && message.contains("no/such/directory/out.html"),
        "{message}"
    );
}

#[test]
fn two_runs_are_compared_on_held_out_pairs() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    write_run(&a, &run_rows(), YAML);
    let mut better = run_rows();
    for row in &mut better {
        if let Some(logps) = row.get("eval_logps/chosen").and_then(Value::as_f64) {
            // Chosen rises by 4 instead of falling by 4.
            row["eval_logps/chosen"] = json!(-102.0 - logps);
        }
    }
    write_run(&b, &better, &YAML.replace("seed: 7", "seed: 8"));
    let path = write_comparison(&[a.clone(), b.clone()], dir.path()).unwrap();
    assert_eq!(path, dir.path().join("comparison.html"));
    let html = fs::read_to_string(path).unwrap();
    let figures = figures(&html);
    assert_eq!(
        ids(&figures),
        ["ends", "log-probs", "change", "margin", "loss", "geometry"]
    );
    assert_eq!(
        csv(&figures, "ends"),
        "run,split,chosen,rejected\na,eval,-4,-10\nb,eval,4,-10\n"
    );
    assert!(csv(&figures, "log-probs").contains("\na,eval,20,-55,-71\n"));
    assert!(html.contains("<b>a</b>: Chosen and rejected both fell"));
    assert!(html.contains("<b>b</b>: Chosen rose and rejected fell: the ideal case"));
    assert!(html.contains(
        "<th scope=\"row\">recipe.seed</th><td class=\"text\">7</td><td class=\"text\">8</td>"
    ));
    assert!(
        !html.contains("recipe.beta</th>"),
        "settings that agree are not listed"
    );
    assert!(html.contains(&format!("unbraid report {} {}", a.display(), b.display())));
}

#[test]
fn runs_of_the_same_name_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("x/out"), dir.path().join("y/out"));
    write_run(&a, &run_rows(), "");
    write_run(&b, &run_rows(), "");
    let out = dir.path().join("c.html");
    write_comparison(&[a.clone(), b.clone(), a.clone()], &out).unwrap();
    let figures = figures(&fs::read_to_string(&out).unwrap());
    let panels = figures[1]["panels"][0]["series"].as_array().unwrap();
    let names: Vec<&str> = panels
        .iter()
        .map(|series| series["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            a.display().to_string(),
            b.display().to_string(),
            format!("{} (3)", a.display())
        ]
    );
}

#[test]
fn comparing_nothing_or_a_missing_run_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        write_comparison(&[], dir.path()),
        Err(ReportError::NoRuns)
    ));
    let missing = PathBuf::from("/nonexistent/run");
    assert!(matches!(
        write_comparison(&[missing], dir.path()),
        Err(ReportError::NotARun { .. })
    ));
}

#[test]
fn the_terminal_summary_is_short_and_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    write_run(
        dir.path(),
        &run_rows(),
        &format!("run_name: \"demo\\e[31m\"\n{YAML}"),
    );
    let summary = terminal_summary(dir.path()).unwrap();
    let expected = "demo\u{fffd}[31m: 20 steps, measured on held-out pairs
  chosen log-prob        -51.00 -> -55.00      -4.000
  rejected log-prob      -61.00 -> -71.00      -10.00
  reward margin               0 -> 0.6000      +0.6000
  reward accuracy          50 % -> 90 %        +40 points
  loss                   0.6900 -> 0.4900      -0.2000
  gradients over 4 steps: cosine 0.93, ideal 25 %, both fall 75 %, both rise 0 %
Chosen and rejected both fell: gradient entanglement (mean cosine 0.93).";
    assert_eq!(summary, expected);
}

#[test]
fn the_terminal_summary_never_exceeds_twelve_lines() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = run_rows();
    for row in rows
        .iter_mut()
        .filter(|row| row.get("geometry/cosine").is_some())
    {
        (row["geometry/both_fall"], row["geometry/ideal"]) = (json!(0.2), json!(0.8));
    }
    write_run(dir.path(), &rows, "broken: [");
    let summary = terminal_summary(dir.path()).unwrap();
    assert!(summary.contains("only 20 % of the"), "{summary}");
    assert!(summary.lines().count() <= 12, "{summary}");
}
