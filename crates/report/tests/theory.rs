//! Pages and summaries of checks of the theory, from records made by hand.

#![expect(clippy::unwrap_used, reason = "a failing step of a test should panic")]

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use unbraid_report::{
    ReportError, is_theory, theory_summary, write_figures, write_report, write_theory_report,
};

fn agreement(error: f64) -> Value {
    json!({
        "tolerance": 1e-10, "reason": "rounding <of> sums", "within": error <= 1e-10,
        "worst": { "error": error, "predicted": -12.5, "computed": -12.5, "instance": "random 7 <b>" },
    })
}

fn statement(id: &str, theorem: &str, holds: bool) -> Value {
    let step = |nats: f64| {
        json!({
            "nats": nats, "values": 3, "median_error": 0.5 * nats, "worst_error": nats, "worst_instance": "random 1",
            "median_ratio": 1.0 + nats, "sign_held": 3,
        })
    };
    json!({
        "id": id, "theorem": theorem, "source": theorem, "quantity": "⟨g_w, g_l⟩", "predicted": "−‖h‖²/M",
        "random": 2, "adversarial": 1, "values": 3, "error_relative_to": "|predicted|",
        "f64": agreement(if holds { 1.8e-12 } else { 1e-3 }), "f32": agreement(1.7e-6),
        "sign": { "claim": "< 0", "held": 3, "of": 3, "first_failure": null },
        "steps": [step(1e-2), step(1e-4)], "step_order": 1.0, "point_unit": "‖h‖²",
        "points": [[-0.5, -0.5], [-0.25, -0.25], [-0.2, null]], "holds": holds,
    })
}

/// Theorem 1 with M = 2, 4, 5 and the two curves.
fn record(holds: bool) -> Value {
    let shares = |fall: f64| json!({ "inner_positive": 1.0, "both_fall": fall, "both_rise": 0.25, "median_cosine": 0.5 });
    json!({
        "command": "unbraid theory --seed 42", "unbraid": "0.1.0",
        "disagreements": if holds { json!([]) } else { json!(["theorem1.inner: off, instance \"a <i>\" (seed 42)"]) },
        "version": 1, "source": "arXiv 2410.13828", "seed": 42, "random_instances": 2, "step_nats": [1e-2, 1e-4],
        "holds": holds,
        "statements": [
            statement("theorem1.inner", "Theorem 1", holds), statement("corollary2.change_w", "Corollary 2", true),
            statement("theorem3.suffix_w", "Theorem 3", true),
        ],
        "relaxed": [{
            "id": "theorem1.peaked", "theorem": "Theorem 1", "assumption": "uniform", "instead": "any", "instances": 4,
            "closed_form": "‖h‖²", "worst_error": 2e-15,
            "claims": [{ "claim": "⟨g_w, g_l⟩ < 0", "broken": 3, "of": 4, "broken_realised": 2 }],
        }],
        "prefix_curve": [
            { "prefix": 0, "instances": 4, "head": shares(0.0), "all": shares(0.125), "last_token_ideal": 1.0 },
            { "prefix": 64, "instances": 4, "head": shares(0.375), "all": shares(0.5), "last_token_ideal": 1.0 },
        ],
        "suffix_curve": [{
            "suffix": 8, "instances": 4, "predicted": -0.75, "computed": -0.75, "chosen_falls": 0.95, "fresh_falls": 0.08,
            "tuned_falls": 0.25,
        }],
    })
}

fn write(dir: &Path, record: &Value) {
    fs::write(dir.join("theory.json"), record.to_string()).unwrap();
}

fn figures(html: &str) -> Vec<Value> {
    let start = "<script type=\"application/json\" id=\"figures\">";
    let data = html.split_once(start).unwrap().1;
    serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap()
}

fn csv(html: &str, id: &str) -> String {
    let found = figures(html).into_iter().find(|f| f["id"] == id).unwrap();
    found["csv"].as_str().unwrap().to_string()
}

#[test]
fn the_page_holds_statements_figures_and_broken_claims() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!is_theory(dir.path()));
    write(dir.path(), &record(true));
    assert!(is_theory(dir.path()));
    let path = write_theory_report(dir.path()).unwrap();
    let html = fs::read_to_string(&path).unwrap();
    let ids: Vec<Value> = figures(&html).iter().map(|f| f["id"].clone()).collect();
    assert_eq!(ids, ["agreement", "steps", "prefix", "suffix"]);
    for part in [
        "All 3 statements of Theorem 1, Corollary 2 and Theorem 3 hold within tolerance.",
        "⟨g_w, g_l⟩ = −‖h‖²/M",
        "&lt; 0: 3 of 3",
        "5.0×10⁻³ → 5.0×10⁻⁵",
        "order 1.00",
        "Theorem 1, without “uniform”",
        "<td>3</td><td>4</td><td>75 %</td><td>2</td>",
        "Made by <code>unbraid theory --seed 42</code>",
        "id=\"assumptions\"",
    ] {
        assert!(html.contains(part), "{part}");
    }
    // What a record holds is text.
    let words = html.split("<script").next().unwrap();
    assert!(
        !words.contains("<b>") && !words.contains("<of>") && words.contains("random 7 &lt;b&gt;")
    );
    assert_eq!(
        csv(&html, "agreement").lines().nth(1),
        Some("theorem1.inner,-0.5,-0.5")
    );
    assert_eq!(
        csv(&html, "agreement").lines().nth(3),
        Some("theorem1.inner,-0.2,nan")
    );
    assert_eq!(
        csv(&html, "steps").lines().nth(2),
        Some("theorem1.inner,0.0001,-4,-4.30103,-4")
    );
    assert_eq!(
        csv(&html, "prefix").lines().nth(2),
        Some("head,64,1,0.375,0.25,1,0.5")
    );
    assert_eq!(
        csv(&html, "suffix").lines().nth(1),
        Some("8,-0.75,-0.75,0.95,0.08,0.25")
    );
    // The same record by the general way, byte for byte.
    assert_eq!(
        fs::read_to_string(write_report(&[dir.path().into()], None).unwrap()).unwrap(),
        html
    );
    let drawings = write_figures(&[dir.path().into()], None).unwrap();
    assert_eq!(drawings.len(), 3 + 3 + 2 + 2);
}

#[test]
fn a_statement_that_fails_is_told() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &record(false));
    let html = fs::read_to_string(write_theory_report(dir.path()).unwrap()).unwrap();
    assert!(html.contains("2 of 3 statements hold, 1 does not."));
    assert!(html.contains("verdict bad") && html.contains("<span class=\"finding fails\">"));
    assert!(
        html.contains("<li>theorem1.inner: off, instance &quot;a &lt;i&gt;&quot; (seed 42)</li>")
    );
    let said = theory_summary(dir.path()).unwrap();
    assert!(said.lines().nth(3).unwrap().ends_with("FAILS"), "{said}");
    assert!(
        said.contains("3 of 4 (2)") && said.contains("< 0 3/3"),
        "{said}"
    );
    assert!(
        said.lines().all(|line| line.chars().count() <= 120),
        "{said}"
    );
}

#[test]
fn damaged_records_are_refused_with_their_path() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("theory.json"), "{\"seed\": 1").unwrap();
    let error = write_theory_report(dir.path()).unwrap_err();
    assert!(
        matches!(&error, ReportError::Io { path, .. } if path.ends_with("theory.json")),
        "{error}"
    );
    write(dir.path(), &json!({ "seed": 1 }));
    assert!(
        theory_summary(dir.path())
            .unwrap_err()
            .to_string()
            .contains("missing field")
    );
}
