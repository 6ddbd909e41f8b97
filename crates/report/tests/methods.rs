//! Pages, comparisons and summaries of runs that are more than plain training on pairs: token masks, remedies,
//! adapters, rows without partners.

#![expect(clippy::unwrap_used, reason = "a failing step of a test should panic")]

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use unbraid_report::{terminal_summary, write_comparison, write_run_report};

fn write_run(dir: &Path, rows: &[Value], yaml: &str) {
    fs::create_dir_all(dir).unwrap();
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(dir.join("metrics.jsonl"), lines).unwrap();
    fs::write(dir.join("run.yaml"), yaml).unwrap();
}

fn page(dir: &Path) -> String {
    fs::read_to_string(write_run_report(dir).unwrap()).unwrap()
}

fn figures(html: &str) -> Vec<Value> {
    let start = "<script type=\"application/json\" id=\"figures\">";
    let data = html.split_once(start).unwrap().1;
    serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap()
}

fn ids(figures: &[Value]) -> Vec<&str> {
    figures
        .iter()
        .map(|figure| figure["id"].as_str().unwrap())
        .collect()
}

fn figure<'a>(figures: &'a [Value], id: &str) -> &'a Value {
    figures.iter().find(|figure| figure["id"] == id).unwrap()
}

fn names(panel: &Value) -> Vec<&str> {
    let series = panel["series"].as_array().unwrap().iter();
    series.map(|one| one["name"].as_str().unwrap()).collect()
}

/// Every series of every panel has a finite number to draw.
fn no_chart_is_empty(figures: &[Value]) {
    for figure in figures {
        let lines: Vec<Vec<&str>> = figure["csv"]
            .as_str()
            .unwrap()
            .lines()
            .map(|line| line.split(',').collect())
            .collect();
        for series in figure["panels"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|panel| panel["series"].as_array().unwrap())
        {
            let at = |name: &str| lines[0].iter().position(|head| *head == name).unwrap();
            let (y, labels) = (
                at(series["y"].as_str().unwrap()),
                series["rows"].as_object().unwrap(),
            );
            let mine = lines[1..]
                .iter()
                .filter(|line| labels.iter().all(|(k, v)| line[at(k)] == v));
            let drawn = mine.filter(|line| line[y].parse().is_ok_and(f64::is_finite));
            assert!(drawn.count() > 0, "{} has nothing to draw", series["name"]);
        }
    }
}

/// Ten steps with a learnt mask that closes from all to half of the tokens.
fn mask_rows() -> Vec<Value> {
    let mut rows = Vec::new();
    for step in 1..=10 {
        let t = f64::from(step) / 10.0;
        rows.push(json!({
            "step": step, "loss": 0.7 - 0.2 * t, "rewards/chosen": -t, "rewards/rejected": -2.0 * t,
            "rewards/margins": t, "rewards/accuracies": 0.5, "logps/chosen": -50.0 - t,
            "logps/rejected": -60.0 - 2.0 * t, "mask/open": 1.0 - 0.5 * t, "mask/mean": 0.99 - 0.4 * t,
        }));
        if step % 5 == 0 {
            rows.push(json!({
                "step": step, "eval_loss": 0.7, "eval_logps/chosen": -51.0 - t, "eval_logps/rejected": -61.0 - t,
                "eval_mask/open": 0.9 - 0.4 * t, "eval_mask/mean": 0.8 - 0.4 * t,
            }));
        }
    }
    rows
}

const PAIR: &str = r#"{"index":3,"prompt":"Say\nit","chosen_tokens":["To"," be"," not"],"chosen_share":[1.0,0.5,0.125],"rejected_tokens":["No"],"rejected_share":[0.0]}"#;

#[test]
fn the_tokens_of_a_mask_stand_in_the_page_with_their_shares() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), &mask_rows(), "token_mask: head\n");
    assert!(
        !page(dir.path()).contains("Which tokens count"),
        "without the file no section"
    );
    let second = PAIR.replace("\"index\":3,\"prompt\":\"Say\\nit\",", "\"index\":4,");
    fs::write(
        dir.path().join("token_mask.jsonl"),
        format!("{PAIR}\n{second}\n"),
    )
    .unwrap();
    let html = page(dir.path());
    assert!(html.contains("<section class=\"sheet\" id=\"tokens\"><h2>Which tokens count</h2>"));
    assert!(html.contains("<li><a href=\"#tokens\">Which tokens count</a></li>"));
    assert!(html.contains("<h3>Pair 3</h3>") && html.contains("<h3>Pair 4</h3>"));
    assert_eq!(
        html.matches("<p class=\"prompt\"").count(),
        1,
        "the second pair has no prompt"
    );
    assert!(html.contains("Say<span class=\"break\">↵</span>\nit</p>"));
    assert_eq!(
        html.matches("2 of 3 tokens at or above one half").count(),
        2
    );
    assert_eq!(
        html.matches("0 of 1 tokens at or above one half").count(),
        2
    );
    assert!(html.contains("<span style=\"--s:1.000\" title=\"1\">To</span>"));
    assert!(html.contains("<span style=\"--s:0.500\" title=\"0.5\"> be</span>"));
    assert!(html.contains("<s style=\"--s:0.125\" title=\"0.12\"> not</s>"));
    assert!(html.contains("<s style=\"--s:0.000\" title=\"0\">No</s>"));
    assert!(
        html == page(dir.path()),
        "the same records give the same bytes"
    );
}

#[test]
fn token_texts_are_text() {
    let dir = tempfile::tempdir().unwrap();
    let evil = "</s></p><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u{0}\u{1b}[31m";
    let row = json!({
        "index": 0, "prompt": evil, "chosen_tokens": [evil, ""], "chosen_share": [1, 0.1],
        "rejected_tokens": [evil], "rejected_share": [0.2],
    });
    write_run(dir.path(), &mask_rows(), "token_mask: free\n");
    fs::write(dir.path().join("token_mask.jsonl"), row.to_string()).unwrap();
    let html = page(dir.path());
    assert!(!html.contains("<script>alert") && !html.contains("<img src=x"));
    assert!(!html.contains('\u{1b}') && !html.contains('\u{0}'));
    let escaped = "&lt;/s&gt;&lt;/p&gt;&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=alert(2)&gt;&quot;&#39;&amp;";
    assert_eq!(html.matches(escaped).count(), 3, "prompt, chosen, rejected");
    assert!(
        html.contains("title=\"0.1\">∅</s>"),
        "an empty token is still seen"
    );
}

#[test]
fn a_damaged_mask_file_costs_its_section_and_a_note_only() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), &mask_rows(), "token_mask: head\n");
    let path = dir.path().join("token_mask.jsonl");
    let cases = [
        (
            format!("{PAIR}\n{{\"index\": 4, \"cho"),
            "line 2 is no pair",
        ),
        (PAIR.replace("0.125", "1.5"), "line 1 is no pair"),
        (PAIR.replace("[0.0]", "[]"), "line 1 is no pair"),
        ("[]\n".into(), "line 1 is no pair"),
        (
            format!("{PAIR}\n").repeat(30_000),
            "is longer than 4194304 bytes",
        ),
    ];
    for (text, why) in cases {
        fs::write(&path, text).unwrap();
        let html = page(dir.path());
        assert!(!html.contains("id=\"tokens\""), "{why}");
        assert!(
            html.contains(&format!("<li>token_mask.jsonl {why}")),
            "{why}"
        );
        assert!(
            terminal_summary(dir.path())
                .unwrap()
                .contains("note: token_mask.jsonl")
        );
    }
    fs::write(&path, [0xff, 0xfe, b'\n']).unwrap();
    assert!(page(dir.path()).contains("<li>token_mask.jsonl cannot be read"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(page(dir.path()).contains("<li>token_mask.jsonl cannot be read"));
}

#[test]
fn the_mask_is_charted_for_training_and_held_out_pairs() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), &mask_rows(), "token_mask: head\n");
    let html = page(dir.path());
    let figures = figures(&html);
    let mask = figure(&figures, "mask");
    let panels = mask["panels"].as_array().unwrap();
    assert_eq!(names(&panels[0]), ["open, training", "open, held-out"]);
    assert_eq!(
        names(&panels[1]),
        ["mean share, training", "mean share, held-out"]
    );
    let csv: Vec<&str> = mask["csv"].as_str().unwrap().lines().collect();
    assert_eq!(csv[0], "split,step,mask/open,mask/mean");
    assert_eq!((csv[1], csv[12]), ("train,1,0.95,0.95", "eval,10,0.5,0.4"));
    assert!(html.contains("<dt>Open tokens, held-out pairs</dt>"));
    assert!(html.contains("70 % <span class=\"arrow\">→</span> 50 %"));
    let summary = terminal_summary(dir.path()).unwrap();
    let line = "  open tokens              70 % -> 50 %        -20 points";
    assert!(summary.contains(line), "{summary}");
    no_chart_is_empty(&figures);
}

const FULL: &str = "model_name_or_path: m\nloss_type: [sigmoid]\nbeta: 0.1\nremedy: normalized\nnpo_scale: unit\n\
                    token_mask: head\nuse_peft: true\nlora_r: 16\nsync_ref_model: false\nresume_from_checkpoint: false\n\
                    unbraid:\n  parameters: \"136284864\"\n  trainable_parameters: \"1769472\"\n";

#[test]
fn the_method_stands_below_the_heading_and_in_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), &mask_rows(), &format!("run_name: full\n{FULL}"));
    let facts = "m · objective sigmoid · remedy normalized (unit scale) · token mask head · LoRA rank 16 · trains \
                 1,769,472 of 136,284,864 parameters (1.3 %) · β 0.1";
    assert!(page(dir.path()).contains(&format!("<p class=\"facts\">{facts}</p>")));
    let summary = terminal_summary(dir.path()).unwrap();
    let first =
        "full: 10 steps of sigmoid + normalized + mask head + LoRA 16, measured on held-out pairs";
    assert_eq!(summary.lines().next().unwrap(), first);
}

#[test]
fn runs_of_one_name_are_labelled_and_grouped_by_method() {
    let dir = tempfile::tempdir().unwrap();
    let plain = "run_name: out\nloss_type: [sigmoid]\nremedy: none\n";
    let guarded = "run_name: out\nloss_type: [sigmoid]\nremedy: guarded\n";
    let dirs = ["a", "b", "c"].map(|name| dir.path().join(name));
    for (dir, yaml) in dirs.iter().zip([plain, guarded, plain]) {
        write_run(dir, &mask_rows(), yaml);
    }
    let out = dir.path().join("c.html");
    write_comparison(&dirs, &out).unwrap();
    let html = fs::read_to_string(&out).unwrap();
    let figures = figures(&html);
    let panel = &figure(&figures, "log-probs")["panels"][0];
    let [a, b, c] = &dirs;
    let expected = [
        format!("out: sigmoid, {}", a.display()),
        format!("out: sigmoid, {}", c.display()),
        "out: sigmoid + guarded".to_string(),
    ];
    assert_eq!(names(panel), expected);
    let command = format!(
        "unbraid report {} {} {}",
        a.display(),
        b.display(),
        c.display()
    );
    assert!(
        html.contains(&command),
        "the command keeps the order that was asked for"
    );
    assert!(html.contains("<div class=\"method\">sigmoid + guarded</div>"));
    let mask = &figure(&figures, "mask")["panels"][0];
    assert_eq!(names(mask), expected);
    assert_eq!(mask["series"][0]["rows"]["run"], expected[0]);
    assert!(
        figure(&figures, "mask")["csv"]
            .as_str()
            .unwrap()
            .contains(",eval,10,0.5,")
    );
}

/// KTO on rows without partners: every third step has good rows only, and no step has accuracies.
fn unpaired_rows(held_out: bool) -> Vec<Value> {
    let mut rows = Vec::new();
    for step in 1..=12 {
        let t = f64::from(step) / 12.0;
        let mut row = json!({
            "step": step, "learning_rate": 1e-6, "loss": 0.5 - 0.1 * t, "kl": 0.3 * t, "grad_norm": 1.0,
            "rewards/chosen": -0.1 * t, "logps/chosen": -20.0 - t,
        });
        if step % 3 != 0 {
            row["rewards/rejected"] = json!(-0.5 * t);
            row["logps/rejected"] = json!(-30.0 - 5.0 * t);
            row["rewards/margins"] = json!(0.4 * t);
        }
        rows.push(row);
        if held_out && step % 6 == 0 {
            rows.push(json!({
                "step": step, "eval_loss": 0.5, "eval_kl": 0.2 * t, "eval_rewards/chosen": -0.1 * t,
                "eval_rewards/rejected": -t, "eval_rewards/margins": 0.9 * t, "eval_logps/chosen": -20.0 - t,
                "eval_logps/rejected": -30.0 - 10.0 * t,
            }));
        }
    }
    rows
}

#[test]
fn rows_without_partners_make_a_page_without_gaps_in_its_sense() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), &unpaired_rows(false), "loss_type: [kto]\n");
    let html = page(dir.path());
    let figures = figures(&html);
    assert_eq!(
        ids(&figures),
        ["log-probs", "change", "learning", "kl", "optimizer"]
    );
    no_chart_is_empty(&figures);
    assert_eq!(
        figure(&figures, "learning")["panels"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert!(html.contains("<h2>Loss</h2>"));
    let csv = figure(&figures, "log-probs")["csv"].as_str().unwrap();
    assert!(
        csv.contains("\ntrain,3,-20.25,,\n"),
        "a side that a step lacks is an empty cell: {csv}"
    );
    assert!(html.contains("judged single rows, not pairs") && !html.contains("--geometry every"));
    assert!(html.contains("both fell; rows without partners have no pair of gradients"));
    assert!(html.contains("<dt>KL estimate, training batches</dt>"));
    let words = html.split("<script").next().unwrap();
    assert!(!words.contains("NaN") && !words.contains("not finite"));
}

#[test]
fn the_terminal_copes_with_rows_without_partners() {
    let dir = tempfile::tempdir().unwrap();
    write_run(
        dir.path(),
        &unpaired_rows(true),
        "run_name: k\nloss_type: [kto]\n",
    );
    let summary = terminal_summary(dir.path()).unwrap();
    let expected = "k: 12 steps of kto, measured on held-out rows
  chosen log-prob        -20.50 -> -21.00      -0.5000
  rejected log-prob      -35.00 -> -40.00      -5.000
  reward margin          0.4500 -> 0.9000      +0.4500
  loss                   0.5000 -> 0.5000      0
  KL estimate            0.1000 -> 0.2000      +0.1000
Chosen and rejected both fell; rows without partners have no pair of gradients
that could show why.";
    assert_eq!(summary, expected);
    let html = page(dir.path());
    assert!(html.contains(
        "Rests on log-probs of the same held-out rows, first against last of 2 evaluations."
    ));
    let figures = figures(&html);
    let kl = &figure(&figures, "kl")["panels"][0];
    assert_eq!(
        names(kl),
        ["KL estimate, training", "KL estimate, held-out"]
    );
    no_chart_is_empty(&figures);
}

#[test]
fn data_of_one_kind_only_are_judged_by_their_side() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = unpaired_rows(true);
    for row in &mut rows {
        let row = row.as_object_mut().unwrap();
        row.retain(|key, _| !key.contains("rejected") && !key.contains("margins"));
    }
    write_run(dir.path(), &rows, "loss_type: [kto]\n");
    let html = page(dir.path());
    assert!(html.contains("Chosen fell; the records hold too little of rejected to judge it."));
    assert!(html.contains("<section class=\"verdict bad\""));
    let all = figures(&html);
    no_chart_is_empty(&all);
    assert_eq!(
        figure(&all, "log-probs")["panels"]
            .as_array()
            .unwrap()
            .len(),
        1,
        "no margin"
    );
    assert!(
        terminal_summary(dir.path())
            .unwrap()
            .contains("Chosen fell; the records")
    );
    let out = dir.path().join("c.html");
    write_comparison(&[dir.path().to_path_buf()], &out).unwrap();
    let all = figures(&fs::read_to_string(&out).unwrap());
    no_chart_is_empty(&all);
    assert_eq!(names(&figure(&all, "ends")["panels"][0]), ["chosen"]);
}

#[test]
fn held_out_rows_that_lack_a_side_do_not_hide_the_training_rows() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = unpaired_rows(true);
    for row in &mut rows {
        row.as_object_mut()
            .unwrap()
            .retain(|key, _| key != "eval_logps/rejected");
    }
    write_run(dir.path(), &rows, "loss_type: [kto]\n");
    let summary = terminal_summary(dir.path()).unwrap();
    assert!(
        summary.contains("measured on training batches"),
        "{summary}"
    );
    assert!(
        summary.contains("Chosen and rejected both fell"),
        "{summary}"
    );
}

#[test]
fn a_comparison_of_paired_and_unpaired_runs_draws_what_each_has() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    write_run(&a, &mask_rows(), FULL);
    write_run(&b, &unpaired_rows(true), "loss_type: [kto]\n");
    let out = dir.path().join("c.html");
    write_comparison(&[a, b], &out).unwrap();
    let html = fs::read_to_string(&out).unwrap();
    let figures = figures(&html);
    assert_eq!(
        ids(&figures),
        [
            "ends",
            "log-probs",
            "change",
            "margin",
            "loss",
            "mask",
            "kl"
        ]
    );
    assert_eq!(names(&figure(&figures, "mask")["panels"][0]), ["a"]);
    assert_eq!(names(&figure(&figures, "kl")["panels"][0]), ["b"]);
    no_chart_is_empty(&figures);
    assert!(html.contains("LoRA 16, trains 1,769,472 of 136,284,864 parameters (1.3 %)</div>"));
    assert!(!html.split("<script").next().unwrap().contains("NaN"));
}

#[test]
fn a_run_without_log_probs_has_no_bars_in_a_comparison() {
    let dir = tempfile::tempdir().unwrap();
    let rows = [
        json!({"step": 1, "loss": 2.0}),
        json!({"step": 2, "loss": 1.5}),
    ];
    write_run(dir.path(), &rows, "");
    let out = dir.path().join("c.html");
    write_comparison(&[dir.path().to_path_buf()], &out).unwrap();
    let figures = figures(&fs::read_to_string(&out).unwrap());
    assert_eq!(ids(&figures), ["loss"]);
}
