//! The hub without a connection: a cache as the hub's own programs lay it out, and the message when it lacks something.
//! One test, because the environment belongs to the whole process.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

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

#[test]
fn offline_only_the_cache_is_looked_at() {
    let home = tempfile::tempdir().unwrap();
    // SAFETY: the other test of this process does not touch the environment, and none starts a thread that does.
    unsafe {
        std::env::set_var("HF_HOME", home.path());
        std::env::remove_var("HF_HUB_CACHE");
        std::env::set_var("HF_HUB_OFFLINE", "1");
    }
    let snapshot = |kind: &str| {
        let repo = home.path().join("hub").join(kind);
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
        split: split.into(),
        max_samples: None,
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
