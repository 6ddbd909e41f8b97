//! `unbraid report` as a user runs it: the page, the drawings, and what it says to a machine.

#![expect(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{done, refused, run, text};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

fn report(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unbraid"));
    command.arg("report").args(words);
    command
}

fn write_run(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let row = |step: u32| {
        let t = f64::from(step);
        format!(
            "{{\"step\":{step},\"loss\":{},\"logps/chosen\":{},\"logps/rejected\":{}}}\n",
            1.0 / t,
            -50.0 - t,
            -60.0 - t
        )
    };
    fs::write(
        dir.join("metrics.jsonl"),
        (1..9).map(row).collect::<String>(),
    )
    .unwrap();
}

fn write_diagnosis(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let rows = (0..4).map(|index| {
        format!(
            "{{\"index\":{index},\"grad_sq_chosen\":4,\"grad_sq_rejected\":9,\"grad_inner\":{index},\"grad_cosine\":{},\
             \"objectives\":{{\"sigmoid\":{{\"loss\":0.6,\"d_w\":-0.1,\"d_l\":0.1,\"case\":\"ideal\",\"delta_chosen\":0.1,\
             \"delta_rejected\":-0.1}}}}}}\n",
            f64::from(index) / 6.0
        )
    });
    fs::write(dir.join("geometry.jsonl"), rows.collect::<String>()).unwrap();
    fs::write(dir.join("summary.json"), "{\"objective\":\"sigmoid\"}").unwrap();
}

#[test]
fn one_directory_gets_its_page_and_its_drawings() {
    let dir = tempfile::tempdir().unwrap();
    let (a_run, a_diagnosis) = (dir.path().join("run"), dir.path().join("diagnosis"));
    write_run(&a_run);
    write_diagnosis(&a_diagnosis);
    for of in [&a_run, &a_diagnosis] {
        let said = done(&mut report(&[text(of)]));
        assert!(said.contains(&format!("report: {}", of.join("report.html").display())));
        assert!(of.join("report.html").is_file());
        done(&mut report(&[text(of), "--format", "svg"]));
        let first = fs::read_dir(of.join("figures")).unwrap().next().unwrap();
        let drawing = fs::read_to_string(first.unwrap().path()).unwrap();
        assert!(drawing.contains("<svg xmlns=\"http://www.w3.org/2000/svg\""));
    }
}

#[test]
fn several_are_compared_where_the_user_says() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["a", "b"] {
        write_run(&at(name));
        write_diagnosis(&at(&format!("d{name}")));
    }
    for (one, other, title) in [
        ("a", "b", "2 runs compared"),
        ("da", "db", "2 diagnoses compared"),
    ] {
        let out = at(&format!("out-{one}"));
        let words = [
            text(&at(one)).to_owned(),
            text(&at(other)).to_owned(),
            "--output-dir".to_owned(),
            text(&out).to_owned(),
        ];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        done(&mut report(&words));
        let page = fs::read_to_string(out.join("report.html")).unwrap();
        assert!(page.contains(title), "{title}");
    }
    let (run, diagnosis) = (at("a"), at("da"));
    refused(
        &mut report(&[text(&run), text(&diagnosis)]),
        1,
        &[
            "is a run and",
            "a diagnosis",
            "hint: give either runs or diagnoses",
        ],
    );
}

#[test]
fn a_machine_is_told_every_file() {
    let dir = tempfile::tempdir().unwrap();
    let a_run = dir.path().join("run");
    write_run(&a_run);
    let out = dir.path().join("drawings");
    let words = [
        text(&a_run),
        "--format",
        "svg",
        "--output-dir",
        text(&out),
        "--json",
    ];
    let (output, _) = run(&mut report(&words));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let files = said["figures"].as_array().unwrap();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let file = Path::new(file.as_str().unwrap());
        assert!(file.is_file() && file.starts_with(&out), "{file:?}");
    }
    assert!(
        said["runs"][0]["summary"]
            .as_str()
            .unwrap()
            .contains("8 steps")
    );
}
