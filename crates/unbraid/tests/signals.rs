//! What a signal does to a command: one ends it within two seconds, training saves its last finished step, and nothing is left
//! over. The moments of a run at which it can come are met at random by `resume.rs`.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{demo, run, text, train};
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn unbraid(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unbraid"));
    command.args(words).env("UNBRAID_CACHE", dir.join("cache"));
    command
}

fn signal(child: &Child, name: &str) {
    let kill = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
}

/// Starts a command, waits until `ready` and a moment longer, sends a signal, and gives exit code, seconds and stderr.
fn stopped(command: &mut Command, name: &str, ready: impl Fn() -> bool) -> (i32, f64, String) {
    let mut child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !ready() {
        std::thread::sleep(Duration::from_millis(5));
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
        assert!(start.elapsed().as_secs() < 60, "it never got ready");
    }
    std::thread::sleep(Duration::from_millis(300));
    signal(&child, name);
    let asked = Instant::now();
    let code = child.wait().unwrap().code();
    let seconds = asked.elapsed().as_secs_f64();
    let mut said = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    (code.unwrap_or(-1), seconds, said)
}

#[track_caller]
fn ends_soon((code, seconds, said): (i32, f64, String)) -> String {
    assert_eq!(code, 130, "{said}");
    // Two, and a little for a machine that has other things to do.
    assert!(seconds < 3.0, "{seconds} s: {said}");
    said
}

#[test]
fn a_command_with_nothing_to_save_ends_at_once_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("theory");
    let words = ["theory", "--instances", "1000000", "--threads", "1"];
    for name in ["-TERM", "-INT", "-HUP"] {
        let mut command = unbraid(dir.path(), &words);
        let said = ends_soon(stopped(
            command.args(["--output-dir", text(&out)]),
            name,
            || out.is_dir(),
        ));
        assert_eq!(said, "interrupted\n", "{name}");
        assert!(!out.exists(), "{name}: an empty directory is left");
    }
}

/// Rows are counted and tokenised before there is anything to save.
#[test]
fn reading_rows_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("rows.jsonl"), dir.path().join("out"));
    let row =
        |i: usize| format!("{{\"prompt\": \"a{i}\", \"chosen\": \" b\", \"rejected\": \" c\"}}\n");
    fs::write(&data, (0..400_000).map(row).collect::<String>()).unwrap();
    let mut command = train(&out, &["--dataset-name", text(&data)]);
    ends_soon(stopped(&mut command, "-TERM", || true));
    assert!(!out.exists());
}

#[test]
fn a_hub_that_does_not_answer_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let mut command = unbraid(dir.path(), &["score", "--model-name-or-path", "org/none"]);
    command
        .args(["--dataset-name", &demo("preferences.jsonl")])
        .args(["--output-dir", text(&dir.path().join("out"))])
        .env("HF_ENDPOINT", address)
        .env("HF_HOME", dir.path())
        .env_remove("HF_HUB_OFFLINE");
    ends_soon(stopped(&mut command, "-TERM", || true));
}

/// An optimizer step of many minutes: the weights are those of the step before, and the run goes on from there.
#[test]
fn a_step_in_flight_is_abandoned() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let long = ["--gradient-accumulation-steps", "20000"];
    let resume = ["--resume-from-checkpoint", "true"];
    let started = || out.join("metrics.jsonl").exists();
    let said = ends_soon(stopped(&mut train(&out, &long), "-TERM", started));
    assert!(
        said.contains("interrupted after step 0; its checkpoint is saved"),
        "{said}"
    );
    assert!(out.join("checkpoint-0/model.safetensors").is_file());
    let left = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name());
    let hidden: Vec<_> = left
        .filter(|name| name.to_string_lossy().starts_with('.'))
        .collect();
    assert!(hidden.is_empty(), "{hidden:?}");
    let locked = || out.join(".unbraid.lock").exists();
    let again = stopped(train(&out, &long).args(resume), "-HUP", locked);
    let said = ends_soon(again);
    assert!(said.contains("going on from"), "{said}");
}

#[test]
fn a_signal_that_is_ignored_from_the_start_stays_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let command = train(&out, &["--max-steps", "40"]);
    let mut under = Command::new("sh");
    under.args(["-c", "trap '' HUP INT; exec \"$@\"", "sh"]);
    under.arg(command.get_program()).args(command.get_args());
    under.env("UNBRAID_CACHE", dir.path().join("cache"));
    let mut child = under.stderr(Stdio::null()).spawn().unwrap();
    while !fs::read_to_string(out.join("metrics.jsonl")).is_ok_and(|t| t.lines().count() > 1) {
        std::thread::sleep(Duration::from_millis(2));
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
    }
    signal(&child, "-HUP");
    signal(&child, "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(common::rows(&out.join("metrics.jsonl")).len(), 40);
}

/// A file that outgrows the process's limit is an error that names it, not a death by SIGXFSZ.
#[test]
fn the_limit_of_file_sizes_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let command = train(&out, &[]);
    let mut under = Command::new("sh");
    under.args(["-c", "ulimit -f 20; exec \"$@\"", "sh"]);
    under.arg(command.get_program()).args(command.get_args());
    under.env("UNBRAID_CACHE", dir.path().join("cache"));
    let (output, said) = run(&mut under);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("error: ") && said.contains("model.safetensors"),
        "{said}"
    );
    let left = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name());
    let left: Vec<_> = left.collect();
    assert!(
        !left.iter().any(|n| n.to_string_lossy().ends_with(".tmp")),
        "{left:?}"
    );
}

/// Whoever reads the log has stopped to read and holds the pipe open: the run waits for them, but not once it is told to end.
#[test]
fn a_log_that_nobody_reads_holds_up_no_signal() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut command = train(&out, &["--max-steps", "100000"]);
    let mut child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines = || fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |t| t.lines().count());
    let mut before = 0;
    loop {
        std::thread::sleep(Duration::from_millis(600));
        let now = lines();
        if now > 100 && now == before {
            break; // the pipe is full
        }
        before = now;
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
    }
    signal(&child, "-TERM");
    let asked = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(asked.elapsed().as_secs_f64() < 4.0, "{:?}", asked.elapsed());
    let step = lines();
    assert!(out.join(format!("checkpoint-{step}")).is_dir());
}
