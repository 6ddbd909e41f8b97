//! The page in a real browser: every panel is drawn and the console stays silent.
//!
//! Needs Chromium (`chromium`, `chromium-browser` or `google-chrome` on the path); without it the test says that it
//! is skipped and passes.

#![expect(clippy::unwrap_used, reason = "a failing step of a test should panic")]

mod diagnosis_files;
mod experiment_files;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use diagnosis_files::{write_diagnosis, write_gram, write_heat_map, write_series};
use experiment_files::{sentiment, write_experiment};
use serde_json::Value;
use unbraid_report::{
    write_comparison, write_diagnosis_report, write_experiment_report, write_run_report,
    write_series_report,
};

const LIMIT: Duration = Duration::from_secs(50);
/// Time in which a page of 5,000 pairs must stand, in milliseconds; it takes about one second on two idle cores.
const LOAD_LIMIT: f64 = 8_000.0;
/// Time in which its table must be sorted, searched or turned, in milliseconds; it takes about a tenth of that.
const TABLE_LIMIT: f64 = 500.0;

fn chromium() -> Option<&'static str> {
    let works = |name: &&str| {
        let found = Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        found.is_ok_and(|status| status.success())
    };
    ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(works)
}

/// The document after its scripts and timers ran, and the browser's log.
fn load(browser: &str, page: &Path, profile: &Path) -> (String, String) {
    load_with(browser, page, profile, &["--virtual-time-budget=3000"])
}

/// The same under further options. Without a budget of virtual time the clock is the wall's.
fn load_with(browser: &str, page: &Path, profile: &Path, more: &[&str]) -> (String, String) {
    let (document, log) = (profile.join("dom.html"), profile.join("log.txt"));
    fs::create_dir_all(profile).unwrap();
    let mut child = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--dump-dom",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ])
        .arg("--enable-logging=stderr")
        .args(more)
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}", page.display()))
        .stdout(fs::File::create(&document).unwrap())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    wait(&mut child);
    let read = |path: &Path| {
        let mut text = String::new();
        fs::File::open(path)
            .unwrap()
            .read_to_string(&mut text)
            .map(|_| text)
            .unwrap()
    };
    (read(&document), read(&log))
}

fn wait(child: &mut Child) {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > LIMIT {
            child.kill().unwrap();
            panic!("the browser did not finish within {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn write_run(dir: &Path) {
    let mut lines = String::new();
    for step in 1..=50 {
        let t = f64::from(step) / 50.0;
        lines += &format!(
            "{{\"step\":{step},\"loss\":{},\"learning_rate\":1e-6,\"grad_norm\":{t},\"logps/chosen\":{},\
             \"logps/rejected\":{},\"rewards/chosen\":{},\"rewards/rejected\":{},\"rewards/margins\":{t},\
             \"rewards/accuracies\":{t},\"geometry/cosine\":0.9,\"geometry/inner\":3.6,\"geometry/grad_norm_chosen\":2,\
             \"geometry/grad_norm_rejected\":2,\"geometry/ideal\":0.2,\"geometry/both_fall\":0.7,\
             \"geometry/both_rise\":0.1,\"geometry/predicted_chosen\":{t},\"geometry/realised_chosen\":{t},\
             \"geometry/predicted_rejected\":{t},\"geometry/realised_rejected\":{t},\
             \"mask/open\":{t},\"mask/mean\":{t}}}\n",
            1.0 - t,
            -50.0 - t,
            -60.0 - 2.0 * t,
            -t,
            -2.0 * t
        );
    }
    lines += "{\"step\":51,\"loss\":null}\n";
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("metrics.jsonl"), lines).unwrap();
    fs::write(dir.join("run.yaml"), "run_name: '</script><b>&'\n").unwrap();
    let gram = r#"{"step":10,"split":[{"response":"0/chosen","own":0.1,"partner":-0.2,"others":0},{"response":"0/rejected","own":-0.1,"partner":0.1,"others":0}]}"#;
    fs::write(dir.join("gram.jsonl"), format!("{gram}\n")).unwrap();
    let pair = r#"{"step":10,"index":0,"predicted_chosen":0.1,"update_chosen":0.2,"realised_chosen":0.2,"predicted_rejected":-0.1,"update_rejected":-0.2,"realised_rejected":-0.2}"#;
    fs::write(dir.join("predictions.jsonl"), format!("{pair}\n")).unwrap();
    let masked = r#"{"index":0,"prompt":"<b>&","chosen_tokens":["</s><b>&","\n"],"chosen_share":[1,0.4],"rejected_tokens":[],"rejected_share":[]}"#;
    fs::write(dir.join("token_mask.jsonl"), masked).unwrap();
}

#[test]
fn every_panel_is_drawn_and_the_console_is_silent() {
    let Some(browser) = chromium() else {
        println!("skipped: no chromium on the path");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    write_run(&a);
    write_run(&b);
    let run = write_run_report(&a).unwrap();
    let comparison = write_comparison(&[a, b], &dir.path().join("c.html")).unwrap();
    for (page, panels) in [(run, 21), (comparison, 12)] {
        let (document, log) = load(browser, &page, &dir.path().join(format!("profile{panels}")));
        let console: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("CONSOLE"))
            .collect();
        assert!(console.is_empty(), "{console:#?}");
        assert_eq!(document.matches("<div class=\"panel\">").count(), panels);
        assert!(
            document.matches("<svg").count() >= panels,
            "a panel has no drawing"
        );
        assert!(
            document.matches("<path").count() > 10 * panels,
            "the drawings are empty"
        );
        assert!(!document.contains("<b>&amp;"), "a record became markup");
        let tokens = document.matches("style=\"--s:").count();
        // Four in the legend, two in the pair.
        assert_eq!(tokens, if panels == 21 { 6 } else { 0 });
    }
}

/// Lines of the browser's log that a page caused.
fn console(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| line.contains("CONSOLE"))
        .collect()
}

/// A copy of the page that runs `script` at its end and leaves what it returns in the document as JSON.
fn probed(page: &Path, script: &str) -> std::path::PathBuf {
    let html = fs::read_to_string(page).unwrap();
    let end = html.rfind("</body>").unwrap();
    let probe = format!(
        "<script>{{ const out = (() => {{ {script} }})(); const box = document.createElement(\"pre\"); box.id = \"probe\"; \
         box.textContent = JSON.stringify(out); document.body.append(box); }}</script>"
    );
    let path = page.with_file_name("probed.html");
    fs::write(&path, format!("{}{probe}{}", &html[..end], &html[end..])).unwrap();
    path
}

fn probe_result(document: &str) -> Value {
    let text = document
        .split("<pre id=\"probe\">")
        .nth(1)
        .unwrap_or_else(|| panic!("the probe did not run"));
    serde_json::from_str(text.split("</pre>").next().unwrap()).unwrap()
}

#[test]
fn an_experiment_is_drawn_and_its_points_are_read_aloud() {
    let Some(browser) = chromium() else {
        println!("skipped: no chromium on the path");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    write_experiment(dir.path(), "sentiment", &sentiment(), &[0, 1]);
    let page = write_experiment_report(dir.path()).unwrap();
    let page = probed(
        &page,
        "const key = (node, key) => node.dispatchEvent(new KeyboardEvent('keydown', { key }));
         key(document.querySelector('#fig-outcomes .chart'), 'End');
         const live = document.getElementById('live').textContent;
         const tabs = [...document.querySelectorAll('#fig-tokens-long-suffix .tabs button')];
         tabs[1].click();
         const titles = [...document.querySelectorAll('#fig-tokens-long-suffix h3')].map((node) => node.textContent);
         const legend = document.querySelector('#fig-change .legend').textContent;
         return { live, tabs: tabs.length, titles, legend };",
    );
    let (document, log) = load(browser, &page, &dir.path().join("profile"));
    assert!(console(&log).is_empty(), "{log}");
    // Log-probs 4, change 2, gradients 2, tokens 2 of 4 in each of four figures, cases 4, directions 2, outcomes 1,
    // cost 1, remedies 2 of 4.
    assert_eq!(document.matches("<div class=\"panel\">").count(), 26);
    let out = probe_result(&document);
    let live = out["live"].as_str().unwrap();
    assert!(
        live.starts_with("prefix-suffix, guarded: change of the chosen log-prob, nats "),
        "{live}"
    );
    assert_eq!(out["tabs"], 2);
    assert_eq!(
        out["titles"],
        serde_json::json!(["pair 7, start", "pair 7, end"])
    );
    assert_eq!(
        out["legend"],
        "single-tokenshort-suffixlong-suffixprefix-suffix"
    );
}

#[test]
fn a_diagnosis_is_drawn_and_the_console_is_silent() {
    let Some(browser) = chromium() else {
        println!("skipped: no chromium on the path");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (pairs, series) = (dir.path().join("pairs"), dir.path().join("series"));
    write_diagnosis(&pairs, 5, 30);
    write_heat_map(&pairs, 1, 9);
    write_gram(&pairs);
    write_series(&series);
    let page = write_diagnosis_report(&pairs).unwrap();
    let (document, log) = load(browser, &page, &dir.path().join("profile"));
    assert!(console(&log).is_empty(), "{log}");
    // Cosines 2, map 1, what-if 1, sweeps 1 of 2, groups 3, proxies 1 of 6, prediction 2, Gram 1, split 2, tokens 1 of 4.
    assert_eq!(document.matches("<div class=\"panel\">").count(), 15);
    assert!(
        document.matches("<svg").count() >= 15,
        "a panel has no drawing"
    );
    // The map of tokens: nine by nine cells.
    assert!(
        document
            .split("id=\"fig-tokens-1\"")
            .nth(1)
            .unwrap()
            .matches("<path")
            .count()
            >= 81
    );
    assert_eq!(document.matches("role=\"tab\"").count(), 2 + 6 + 4);
    let page = write_series_report(&series).unwrap();
    let (document, log) = load(browser, &page, &dir.path().join("profile2"));
    assert!(console(&log).is_empty(), "{log}");
    assert_eq!(document.matches("<div class=\"panel\">").count(), 7);
}

#[test]
fn a_diagnosis_without_gradients_leaves_the_console_silent() {
    let Some(browser) = chromium() else {
        println!("skipped: no chromium on the path");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let row = |index: u32| format!("{{\"index\":{index},\"ches_normalized\":{index}}}\n");
    let rows: String = (0..9).map(row).collect();
    fs::write(dir.path().join("proxies.jsonl"), rows).unwrap();
    // As it is written then: a sweep over no pair.
    let point = r#"{"value":0.1,"cases":{"ideal":0},"delta_chosen":0,"delta_rejected":0}"#;
    let sweep = format!(r#"{{"objective":"sigmoid","parameter":"beta","points":[{point}]}}"#);
    fs::write(
        dir.path().join("summary.json"),
        format!("{{\"sweeps\":[{sweep}]}}"),
    )
    .unwrap();
    let page = write_diagnosis_report(dir.path()).unwrap();
    let script = "return { numbers: [3e-7, -2.5e8, 5e-4, 0.12345].map((v) => Charts.number(v)), \
                  legends: document.querySelectorAll('.legend button').length };";
    let probed = probed(&page, script);
    let (document, log) = load(browser, &probed, &dir.path().join("profile"));
    assert!(console(&log).is_empty(), "{log}");
    let out = probe_result(&document);
    assert_eq!(
        out["numbers"],
        serde_json::json!(["3×10⁻⁷", "−2.5×10⁸", "0.0005", "0.1235"])
    );
    assert_eq!(
        out["legends"], 0,
        "one plain series is named by the heading"
    );
}

#[test]
fn five_thousand_pairs_stay_fluid() {
    let Some(browser) = chromium() else {
        println!("skipped: no chromium on the path");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    write_diagnosis(dir.path(), 5_000, 90);
    let page = write_diagnosis_report(dir.path()).unwrap();
    let script = r#"
        const load = performance.now();
        const view = document.getElementById("pairs-view");
        const timed = (act) => { const start = performance.now(); act(); view.getBoundingClientRect(); return performance.now() - start; };
        const column = (key) => [...view.querySelectorAll("thead th")].findIndex((th) => th.dataset.key === key);
        const head = (key) => view.querySelectorAll("thead th")[column(key)];
        const read = (key) => [...view.querySelectorAll("tbody tr[data-index]")].map((tr) => tr.children[column(key)].textContent.replace("−", "-"));
        const search = view.querySelector("input[type=search]");
        const find = (words) => { search.value = words; search.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" })); };
        const out = { load, times: {} };
        out.times.sort = timed(() => head("grad_cosine").querySelector("button").click());
        out.falling = read("grad_cosine").map(Number);
        out.sorted = head("grad_cosine").getAttribute("aria-sort");
        out.times.again = timed(() => head("grad_cosine").querySelector("button").click());
        out.rising = read("grad_cosine").map(Number);
        out.times.text = timed(() => head("text").querySelector("button").click());
        out.times.turn = timed(() => view.querySelector(".pager").lastChild.click());
        out.second = view.querySelector(".count").textContent;
        out.times.search = timed(() => find("question number 8713:"));
        out.found = read("index");
        const row = view.querySelector("tbody tr");
        row.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
        out.marks = [...view.querySelectorAll(".detail mark")].map((mark) => mark.textContent);
        out.expanded = view.querySelector("tbody tr").getAttribute("aria-expanded");
        find("no such words");
        out.none = view.querySelector(".count").textContent;
        document.dispatchEvent(new CustomEvent("pair", { detail: 3 * 4321 + 1 }));
        out.opened = document.activeElement.dataset.index;
        return out;
    "#;
    let probed = probed(&page, script);
    let (document, log) = load_with(browser, &probed, &dir.path().join("profile"), &[]);
    assert!(console(&log).is_empty(), "{log}");
    let out = probe_result(&document);
    println!(
        "page of 5,000 pairs: {} ms to stand, {} (ms)",
        out["load"], out["times"]
    );
    assert!(out["load"].as_f64().unwrap() < LOAD_LIMIT, "{out}");
    for time in out["times"].as_object().unwrap().values() {
        assert!(time.as_f64().unwrap() < TABLE_LIMIT, "{out}");
    }
    let column = |key: &str| -> Vec<f64> {
        out[key]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_f64().unwrap())
            .collect()
    };
    let (falling, rising) = (column("falling"), column("rising"));
    assert!(
        falling.len() == 25 && falling.is_sorted_by(|a, b| a >= b) && rising.is_sorted(),
        "{out}"
    );
    assert!(
        falling[0] > 0.9 && rising[0] < 0.0,
        "the whole table is sorted, not the page of it: {out}"
    );
    assert_eq!(out["sorted"], "descending");
    assert_eq!(out["second"], "26–50 of 5000 pairs");
    assert_eq!(
        out["found"][0]
            .as_str()
            .unwrap()
            .trim_start_matches(['▸', '▾', ' ']),
        "8713"
    );
    assert_eq!(out["found"].as_array().unwrap().len(), 1);
    // Chosen has `the` where rejected has `no`, and rejected ends with a further word.
    let marks: Vec<&str> = out["marks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mark| mark.as_str().unwrap().trim())
        .collect();
    assert!(marks.contains(&"the") && marks.contains(&"no"), "{marks:?}");
    assert_eq!(out["expanded"], "true");
    assert_eq!(out["none"], "no pair matches");
    assert_eq!(out["opened"], "12964");
}
