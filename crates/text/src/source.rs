//! Reading a tokenizer's files, and the pieces of JSON that describe tokenizers. What the files say beside the
//! vocabulary is read in `settings.rs`. Tested in `tests/tokenizer.rs`.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Result, TextError};
use crate::named;

/// Files that belong to a tokenizer and are copied when it is saved.
const FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "tokenizer.model",
];

/// A tokenizer's files, by name.
pub(crate) type Files = Vec<(String, Vec<u8>)>;

/// Reads every tokenizer file that a directory has.
pub(crate) fn read_files(dir: &Path) -> Result<Files> {
    let mut files = Vec::new();
    for name in FILES {
        let path = dir.join(name);
        match unbraid_input::read(&path) {
            Ok(bytes) => files.push((name.to_owned(), bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(TextError::Read { path, source }),
        }
    }
    files.extend(read_named_templates(dir)?);
    Ok(files)
}

/// The named chat templates of a directory, in the order of their names.
fn read_named_templates(dir: &Path) -> Result<Files> {
    let Ok(entries) = std::fs::read_dir(dir.join(named::FOLDER)) else {
        return Ok(Files::new());
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut names: Vec<String> = names
        .filter_map(|name| Some(format!("{}{}", named::FOLDER, name.to_str()?)))
        .filter(|name| named::template_name(name).is_some())
        .collect();
    names.sort();
    let read = |name: String| {
        let path = dir.join(&name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok((name, bytes)),
            Err(source) => Err(TextError::Read { path, source }),
        }
    };
    names.into_iter().map(read).collect()
}

/// One file by name.
pub(crate) fn file<'a>(files: &'a Files, name: &str) -> Option<&'a [u8]> {
    files
        .iter()
        .find(|(file, _)| file == name)
        .map(|(_, bytes)| bytes.as_slice())
}

/// Parses JSON, naming the source in the error.
pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|source| TextError::Json {
        what: what.to_owned(),
        source,
    })
}

/// `vocab.json` and `merges.txt` as the model of a `tokenizer.json`.
pub(crate) fn from_vocab_and_merges(dir: &Path, vocab: &[u8], merges: &[u8]) -> Result<Value> {
    let vocab = parse(&dir.join("vocab.json").display().to_string(), vocab)?;
    let merges = String::from_utf8_lossy(merges);
    let merges: Vec<&str> = merges
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("#version"))
        .collect();
    Ok(json!({"model": {"type": "BPE", "vocab": vocab, "merges": merges}}))
}

/// `config.json` beside a tokenizer, where there is one: its `model_type` takes part in the choice of the class.
/// A file that cannot be understood says nothing: the model's reader has the word about it.
pub(crate) fn model_config(dir: &Path) -> Option<Value> {
    let bytes = std::fs::read(dir.join("config.json")).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// An entry of `added_tokens`.
pub(crate) fn added_token(id: u64, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": false, "special": special})
}

/// GPT-2's byte-level pre-tokenizer, with or without its regular expression.
pub(crate) fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

/// The description of a byte-level BPE tokenizer.
pub(crate) fn byte_level_bpe(
    vocab: Value,
    merges: Value,
    added: Vec<Value>,
    pre_tokenizer: Value,
    normalizer: Value,
    ignore_merges: bool,
) -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges},
    })
}

/// A post-processor that puts `bos` before and `eos` after the text; null for neither.
pub(crate) fn surround(bos: Option<(&str, u32)>, eos: Option<(&str, u32)>) -> Value {
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let special = |token: &str, kind: u32| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let sequence = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    let half = |name: &str, kind: u32| -> Vec<Value> {
        let mut parts = Vec::new();
        parts.extend(bos.map(|(token, _)| special(token, kind)));
        parts.push(sequence(name, kind));
        parts.extend(eos.map(|(token, _)| special(token, kind)));
        parts
    };
    let mut tokens = Map::new();
    for (token, id) in [bos, eos].into_iter().flatten() {
        tokens.insert(
            token.to_owned(),
            json!({"id": token, "ids": [id], "tokens": [token]}),
        );
    }
    let pair = [half("A", 0), half("B", 1)].concat();
    json!({"type": "TemplateProcessing", "single": half("A", 0), "pair": pair, "special_tokens": tokens})
}
