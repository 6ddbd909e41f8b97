//! What the tests of this crate share.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::print_stderr, reason = "a helper says what it leaves out")]
#![allow(
    clippy::unwrap_used,
    reason = "a test helper that fails should stop the test"
)]

use std::path::{Path, PathBuf};

use serde_json::Value;
use unbraid_preference::{Content, DatasetSource, Result, Row, RowKind, load_rows};
use unbraid_text::Tokenizer;

pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// The tiny tokenizer of the text crate, with another post-processor or chat template where one is given.
pub fn tokenizer(post_processor: &Value, chat_template: Option<&str>) -> Tokenizer {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../text/tests/parity/tiny");
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap()
    };
    let mut json = read("tokenizer.json");
    json["post_processor"] = post_processor.clone();
    let template = chat_template.map(str::to_owned);
    Tokenizer::from_parts(
        json.to_string().as_bytes(),
        Some(&read("tokenizer_config.json")),
        template,
    )
    .unwrap()
}

pub fn plain() -> Tokenizer {
    tokenizer(&Value::Null, None)
}

pub fn load(path: &Path) -> Result<Vec<Row>> {
    load_split(path, "train", None)
}

pub fn load_split(path: &Path, split: &str, max_samples: Option<usize>) -> Result<Vec<Row>> {
    load_rows(&DatasetSource {
        mixture: None,
        name: path.display().to_string(),
        config: None,
        split: split.to_owned(),
        max_samples,
        text_field: None,
    })
}

/// The rows of JSON lines written to a file of that name.
pub fn load_text(name: &str, text: &str) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    load(&path)
}

pub fn row(value: &Value) -> Row {
    load_text("rows.jsonl", &value.to_string())
        .unwrap()
        .remove(0)
}

/// The message of a failure, with the temporary directory taken out.
pub fn message(result: Result<Vec<Row>>) -> String {
    let message = result.unwrap_err().to_string();
    let temporary = std::env::temp_dir().display().to_string();
    let words = message.split(' ').map(|word| match word.find(&temporary) {
        Some(at) => format!("{}{}", &word[..at], word.rsplit('/').next().unwrap()),
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Prompt, chosen and rejected of a row of plain text.
pub fn texts(row: &Row) -> [&str; 3] {
    match &row.kind {
        RowKind::Preference {
            prompt: Content::Text(prompt),
            chosen: Content::Text(chosen),
            rejected: Content::Text(rejected),
        } => [prompt, chosen, rejected],
        other => panic!("not a preference row of plain text: {other:?}"),
    }
}

/// Data beside the workspace that is not part of it; `None` (and a line) where it is absent.
pub fn shared(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared")
        .join(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}
