//! The hub: a small server on this machine, a cache as the hub's own programs lay it out, and no connection at all.
//! One test sets the environment, because the environment belongs to the whole process.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;

use unbraid_preference::hub::{fetch_model_repo, is_hub_id};
use unbraid_preference::{DatasetSource, load_rows};

#[test]
fn hub_ids_are_told_from_paths() {
    for id in ["org/name", "Anthropic/hh-rlhf", "a/b_c.d"] {
        assert!(is_hub_id(id), "{id}");
    }
    for path in [
        "name",
        "./dir/x",
        "a/b/c",
        "/abs/x",
        "org/",
        "dir/rows.jsonl",
        "dir/rows.json.gz",
        "a b/c",
        "../x",
    ] {
        assert!(!is_hub_id(path), "{path}");
    }
}

/// A hub of one repository on this machine: lists its files and serves them by byte range. Returns its address.
fn serve(files: &'static [(&'static str, &'static str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap())
                .lines()
                .map_while(Result::ok);
            let Some(request) = lines.next() else {
                continue;
            };
            let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let path = request.split(' ').nth(1).unwrap();
            let file = files
                .iter()
                .find(|(name, _)| path.ends_with(&format!("/{name}")));
            let listed = ["models", "datasets"].map(|kind| format!("/api/{kind}/org/served/"));
            let response = if listed.iter().any(|list| path.starts_with(list)) {
                let siblings: Vec<String> = files
                    .iter()
                    .map(|(name, _)| format!("{{\"rfilename\": \"{name}\"}}"))
                    .collect();
                let body = format!(
                    "{{\"sha\": \"c0ffee\", \"siblings\": [{}]}}",
                    siblings.join(", ")
                );
                format!(
                    "200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
            } else if let Some((name, text)) = file {
                let range = headers.iter().find_map(|line| {
                    line.to_ascii_lowercase()
                        .strip_prefix("range: bytes=")
                        .map(str::to_owned)
                });
                let range = range.unwrap_or_else(|| "0-".into());
                let (from, to) = range.split_once('-').unwrap();
                let from: usize = from.parse().unwrap();
                let to = to.parse().unwrap_or(usize::MAX).min(text.len() - 1);
                let body = &text[from..=to];
                format!(
                    "206 Partial Content\r\nETag: \"{}-1\"\r\nX-Repo-Commit: c0ffee\r\n\
                     Content-Range: bytes {from}-{to}/{}\r\nContent-Length: {}\r\n\r\n{body}",
                    name.replace('/', "-"),
                    text.len(),
                    body.len()
                )
            } else {
                "404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned()
            };
            let response = format!(
                "HTTP/1.1 {}",
                response.replacen("\r\n", "\r\nConnection: close\r\n", 1)
            );
            stream.write_all(response.as_bytes()).unwrap();
        }
    });
    address
}

/// Requests that a server saw: path and Authorization header.
type Seen = std::sync::Arc<std::sync::Mutex<Vec<(String, Option<String>)>>>;

/// A server that answers with what `respond` makes of a path, and keeps what was asked.
fn answer(respond: impl Fn(&str) -> String + Send + 'static) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let seen = Seen::default();
    let kept = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap())
                .lines()
                .map_while(Result::ok);
            let Some(request) = lines.next() else {
                continue;
            };
            let path = request.split(' ').nth(1).unwrap().to_owned();
            let authorization = lines
                .take_while(|line| !line.is_empty())
                .find(|line| line.to_ascii_lowercase().starts_with("authorization:"));
            let response = respond(&path);
            kept.lock().unwrap().push((path, authorization));
            stream.write_all(response.as_bytes()).unwrap();
        }
    });
    (address, seen)
}

fn body(status: &str, headers: &str, text: &str) -> String {
    let length = text.len();
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{text}"
    )
}

/// A hub that keeps its list to itself and redirects downloads to another host, as the real one does.
fn the_token_goes_to_the_hub_alone(home: &Path) {
    let (elsewhere, seen_elsewhere) = answer(|_| body("200 OK", "ETag: \"cdn\"\r\n", "bytes"));
    let target = elsewhere.clone();
    let (hub, seen) = answer(move |path| {
        if path.starts_with("/api/") {
            let list = r#"{"sha": "feed", "siblings": [{"rfilename": "config.json"}, {"rfilename": "model.safetensors"}]}"#;
            body("200 OK", "", list)
        } else if path.ends_with("config.json") {
            // A relative redirect stays at the hub.
            body(
                "307 Temporary Redirect",
                "ETag: \"c1\"\r\nLocation: /moved/here\r\n",
                "",
            )
        } else if path == "/moved/here" {
            body("200 OK", "ETag: \"c2\"\r\n", "{}")
        } else {
            let to = format!("X-Linked-Etag: \"w1\"\r\nLocation: {target}/blob?signature=1\r\n");
            body("302 Found", &to, "")
        }
    });
    set("HF_ENDPOINT", &hub);
    set("HF_TOKEN", "hf_loopbacksecret");
    let snapshot = fetch_model_repo("org/gated").unwrap();
    assert_eq!(snapshot, home.join("hub/models--org--gated/snapshots/feed"));
    let read = |name: &str| std::fs::read_to_string(snapshot.join(name)).unwrap();
    assert_eq!(
        (&*read("config.json"), &*read("model.safetensors")),
        ("{}", "bytes")
    );
    assert!(home.join("hub/models--org--gated/blobs/w1").is_file());

    let seen = seen.lock().unwrap();
    assert!(seen.len() >= 4, "{seen:?}");
    for (path, authorization) in seen.iter() {
        assert!(
            authorization
                .as_deref()
                .is_some_and(|line| line.ends_with("Bearer hf_loopbacksecret")),
            "{path}"
        );
    }
    let elsewhere = seen_elsewhere.lock().unwrap();
    assert!(!elsewhere.is_empty());
    for (path, authorization) in elsewhere.iter() {
        assert_eq!(*authorization, None, "{path}");
    }
}

/// Neither the token nor an address's user and password is in a message, whatever goes wrong.
fn messages_hold_no_secret() {
    let (hub, _) = answer(|_| body("403 Forbidden", "", "hf_loopbacksecret is not allowed"));
    let with_user = hub.replace("://", "://me:addresssecret@");
    for endpoint in [
        &*hub,
        &*with_user,
        "http://me:addresssecret@127.0.0.1:9",
        "ftp://me:addresssecret@host",
    ] {
        set("HF_ENDPOINT", endpoint);
        let error = fetch_model_repo("org/closed").unwrap_err();
        let message = format!("{error} {error:?}");
        assert!(!message.contains("secret"), "{message}");
        assert!(message.contains("org/closed"), "{message}");
    }
    set("HF_TOKEN", "");
}

/// A download that breaks off is gone on with, and one that stays short is an error.
fn a_download_that_breaks_off_is_gone_on_with() {
    let tries = std::sync::atomic::AtomicUsize::new(0);
    let (hub, _) = answer(move |path| {
        if path.starts_with("/api/models/org/broken") {
            return body(
                "200 OK",
                "",
                r#"{"sha": "dead", "siblings": [{"rfilename": "config.json"}]}"#,
            );
        }
        match tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => "HTTP/1.1 200 OK\r\nConnection: close\r\nETag: \"b1\"\r\nContent-Length: 10\r\n\r\n01234".into(),
            _ => body("206 Partial Content", "ETag: \"b1\"\r\nContent-Range: bytes 5-9/10\r\n", "56789"),
        }
    });
    set("HF_ENDPOINT", &hub);
    let snapshot = fetch_model_repo("org/broken").unwrap();
    assert_eq!(
        std::fs::read_to_string(snapshot.join("config.json")).unwrap(),
        "0123456789"
    );
}

/// A hub that takes every question and answers those about `path` alone, whose body it begins and never ends.
fn fall_silent(answers: &'static [(&'static str, &'static str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = String::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            lines.read_line(&mut request).unwrap();
            let answer = answers.iter().find(|(path, _)| request.contains(path));
            if let Some((_, answer)) = answer {
                stream.write_all(answer.as_bytes()).unwrap();
            }
            open.push(stream); // closed with the test
        }
    });
    address
}

fn a_hub_that_falls_silent_is_an_error_in_time() {
    set("HF_HUB_ETAG_TIMEOUT", "1");
    set("HF_HUB_DOWNLOAD_TIMEOUT", "1");
    let error = |name: &str| {
        let start = std::time::Instant::now();
        let error = fetch_model_repo(name).unwrap_err().to_string();
        assert!(start.elapsed().as_secs() < 8, "{:?}", start.elapsed());
        error
    };
    set("HF_ENDPOINT", &fall_silent(&[]));
    let said = error("org/silent");
    assert!(
        said.starts_with("cannot fetch `org/silent` from the hub: it does not answer within 1 s")
            && said.contains("hint:"),
        "{said}"
    );
    set(
        "HF_ENDPOINT",
        &fall_silent(&[
            (
                "/api/models/org/stuck",
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 59\r\n\r\n\
                 {\"sha\": \"c0ffee\", \"siblings\":[{\"rfilename\":\"config.json\"}]}",
            ),
            (
                "config.json",
                "HTTP/1.1 206 Partial Content\r\nConnection: close\r\nETag: \"c-1\"\r\nX-Repo-Commit: c0ffee\r\n\
                 Content-Range: bytes 0-99/100\r\nContent-Length: 100\r\n\r\n{",
            ),
        ]),
    );
    let said = error("org/stuck");
    assert!(
        said.contains("nothing of config.json comes for 1 s (HF_HUB_DOWNLOAD_TIMEOUT)"),
        "{said}"
    );
    // What the cache has is still good.
    set("HF_ENDPOINT", &fall_silent(&[]));
    assert!(fetch_model_repo("org/served").is_ok());
}

fn set(name: &str, value: &str) {
    // SAFETY: one test touches the environment, and the server's threads do not read it.
    unsafe { std::env::set_var(name, value) };
}

fn online_only_what_a_model_needs_is_fetched(home: &Path) {
    set(
        "HF_ENDPOINT",
        &serve(&[
            ("config.json", "{\"model_type\": \"llama\"}"),
            ("model.safetensors", "weights"),
            ("README.md", "text"),
            ("onnx/model.onnx", "other weights"),
            ("../outside.safetensors", "no"),
        ]),
    );
    let snapshot = fetch_model_repo("org/served").unwrap();
    assert_eq!(
        snapshot,
        home.join("hub/models--org--served/snapshots/c0ffee")
    );
    assert_eq!(
        std::fs::read_to_string(snapshot.join("model.safetensors")).unwrap(),
        "weights"
    );
    let mut names: Vec<_> = std::fs::read_dir(&snapshot)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors"]);
    let error = fetch_model_repo("org/absent").unwrap_err().to_string();
    assert!(
        error.starts_with("cannot fetch `org/absent` from the hub: request error")
            && error.contains("404"),
        "{error}"
    );

    // Without a connection the cache answers, and a repository that is not in it gives one error.
    set("HF_ENDPOINT", "http://127.0.0.1:9");
    assert_eq!(fetch_model_repo("org/served").unwrap(), snapshot);
    let error = fetch_model_repo("org/absent").unwrap_err().to_string();
    assert!(
        error.contains("hint: check the name and the connection"),
        "{error}"
    );
}

/// Only the split's files and the README that names them.
fn online_only_the_files_of_a_split_are_fetched(home: &Path) {
    set(
        "HF_ENDPOINT",
        &serve(&[
            (
                "README.md",
                "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: part/*-first*\n---\n",
            ),
            (
                "part/a-first.jsonl",
                r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#,
            ),
            (
                "part/b-first.jsonl",
                r#"{"prompt": "d", "chosen": "e", "rejected": "f"}"#,
            ),
            ("part/train.jsonl", "not fetched, whatever its name"),
        ]),
    );
    let source = DatasetSource {
        name: "org/served".into(),
        split: "train".into(),
        ..Default::default()
    };
    assert_eq!(load_rows(&source).unwrap().len(), 2);
    let snapshot = home.join("hub/datasets--org--served/snapshots/c0ffee");
    let mut names: Vec<_> = std::fs::read_dir(snapshot.join("part"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["a-first.jsonl", "b-first.jsonl"]);
    let test = DatasetSource {
        split: "test".into(),
        ..source.clone()
    };
    let error = load_rows(&test).unwrap_err().to_string();
    assert!(
        error.ends_with("no file for split `test`; data files there: train"),
        "{error}"
    );
    // The cache answers without a connection.
    set("HF_ENDPOINT", "http://127.0.0.1:9");
    assert_eq!(load_rows(&source).unwrap().len(), 2);
}

#[test]
fn the_hub_with_and_without_a_connection() {
    let home = tempfile::tempdir().unwrap();
    set("HF_HOME", &home.path().display().to_string());
    set("HF_HUB_CACHE", "");
    set("HF_HUB_OFFLINE", "0");
    online_only_what_a_model_needs_is_fetched(home.path());
    online_only_the_files_of_a_split_are_fetched(home.path());
    the_token_goes_to_the_hub_alone(home.path());
    messages_hold_no_secret();
    a_download_that_breaks_off_is_gone_on_with();
    a_hub_that_falls_silent_is_an_error_in_time();
    set("HF_HUB_OFFLINE", "1");
    offline_only_the_cache_is_looked_at(home.path());
}

fn offline_only_the_cache_is_looked_at(home: &Path) {
    let snapshot = |kind: &str| {
        let repo = home.join("hub").join(kind);
        let snapshot = repo.join("snapshots/0123abc");
        std::fs::create_dir_all(snapshot.join("data")).unwrap();
        std::fs::create_dir_all(repo.join("refs")).unwrap();
        std::fs::write(repo.join("refs/main"), "0123abc").unwrap();
        snapshot
    };
    let model = snapshot("models--org--small");
    std::fs::write(model.join("config.json"), "{}").unwrap();
    assert_eq!(fetch_model_repo("org/small").unwrap(), model);

    let rows = r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#;
    std::fs::write(
        snapshot("datasets--org--pairs").join("data/test.jsonl"),
        rows,
    )
    .unwrap();
    let source = |name: &str, split: &str| DatasetSource {
        name: name.into(),
        config: None,
        split: split.into(),
        max_samples: None,
        text_field: None,
        mixture: None,
    };
    assert_eq!(load_rows(&source("org/pairs", "test")).unwrap().len(), 1);
    let error = load_rows(&source("org/pairs", "train"))
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("no file for split `train`; data files there: data/test.jsonl"),
        "{error}"
    );
    let error = load_rows(&source("org/absent", "train"))
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "cannot fetch `org/absent` from the hub: HF_HUB_OFFLINE is set and the cache does not have it\n\
         hint: unset HF_HUB_OFFLINE, or give a local path"
    );
}
