//! The page in a real browser: every panel is drawn and the console stays silent.
//!
//! Needs Chromium (`chromium`, `chromium-browser` or `google-chrome` on the path); without it the test says that it
//! is skipped and passes.

#![expect(clippy::unwrap_used, reason = "a failing step of a test should panic")]

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use unbraid_report::{write_comparison, write_run_report};

const LIMIT: Duration = Duration::from_secs(50);

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

/// The document after its scripts ran, and the browser's log.
fn load(browser: &str, page: &Path, profile: &Path) -> (String, String) {
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
        .args(["--enable-logging=stderr", "--virtual-time-budget=3000"])
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
    for (page, panels) in [(run, 16), (comparison, 12)] {
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
        assert_eq!(tokens, if panels == 16 { 6 } else { 0 });
    }
}
