//! What the tests of this crate share.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::print_stderr, reason = "a helper says what it leaves out")]

use std::path::PathBuf;

use serde_json::Value;
use unbraid_text::Tokenizer;

/// The committed tokenizer: 420 byte-level tokens, single digits, three special tokens.
pub fn tiny_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parity/tiny")
}

pub fn tiny() -> Tokenizer {
    Tokenizer::from_dir(&tiny_dir()).unwrap()
}

pub fn tiny_json() -> Vec<u8> {
    std::fs::read(tiny_dir().join("tokenizer.json")).unwrap()
}

pub fn tiny_config() -> Value {
    serde_json::from_slice(&std::fs::read(tiny_dir().join("tokenizer_config.json")).unwrap())
        .unwrap()
}

/// What `parity/generate.py` recorded.
pub fn expected() -> Value {
    let path = tiny_dir().with_file_name("expected.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
        .collect()
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
