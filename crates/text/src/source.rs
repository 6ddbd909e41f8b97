//! Reading a tokenizer's files: what `tokenizer_config.json` and its neighbours add to `tokenizer.json`.
//!
//! Order of precedence as in `transformers`: `chat_template.jinja`, then `chat_template` in the configuration (a
//! string, or a list of named templates of which `default` is taken); special tokens from `tokenizer_config.json`,
//! then `special_tokens_map.json`. Tested in `tests/tokenizer.rs`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Result, TextError};

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

/// What the configuration says beside the vocabulary.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// `tokenizer_class`, when the configuration has it.
    pub class: Option<String>,
    /// `bos_token`, `eos_token`, `pad_token`, `unk_token`, ... with their text.
    pub special_tokens: BTreeMap<String, String>,
    /// Special tokens that the configuration sets to `null`.
    pub unset: Vec<&'static str>,
    /// `add_bos_token`, when the configuration has it.
    pub add_bos: Option<bool>,
    /// `add_eos_token`, when the configuration has it.
    pub add_eos: Option<bool>,
    /// The chat template's source.
    pub chat_template: Option<String>,
    /// The file that the chat template stands in.
    pub chat_template_file: String,
}

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
    Ok(files)
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

/// Builds the description of a GPT-2 tokenizer from `vocab.json` and `merges.txt`.
pub(crate) fn from_vocab_and_merges(
    dir: &Path,
    vocab: &[u8],
    merges: &[u8],
    settings: &Settings,
) -> Result<Value> {
    let vocab = parse(&dir.join("vocab.json").display().to_string(), vocab)?;
    let merges = String::from_utf8_lossy(merges);
    let merges: Vec<&str> = merges
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("#version"))
        .collect();
    let with_id = |name: &str| {
        let text = settings.special_tokens.get(name)?;
        Some((
            text.as_str(),
            u32::try_from(vocab.get(text)?.as_u64()?).ok()?,
        ))
    };
    let bos = with_id("bos_token").filter(|_| settings.add_bos == Some(true));
    let eos = with_id("eos_token").filter(|_| settings.add_eos == Some(true));
    let post_processor = surround(bos, eos);
    let added: Vec<Value> = match vocab.get("<|endoftext|>").and_then(Value::as_u64) {
        Some(id) => vec![added_token(id, "<|endoftext|>", true)],
        None => Vec::new(),
    };
    let mut json = byte_level_bpe(
        vocab,
        json!(merges),
        added,
        byte_level(true),
        Value::Null,
        false,
    );
    json["post_processor"] = post_processor;
    Ok(json)
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

impl Settings {
    /// Reads `tokenizer_config.json`, `special_tokens_map.json` and the chat template's own file.
    pub(crate) fn of_files(files: &Files) -> Result<Self> {
        let mut settings = match file(files, "tokenizer_config.json") {
            Some(bytes) => Self::read(
                "tokenizer_config.json",
                &parse("tokenizer_config.json", bytes)?,
            )?,
            None => Self::default(),
        };
        if let Some(bytes) = file(files, "special_tokens_map.json") {
            let map = parse("special_tokens_map.json", bytes)?;
            for (name, token) in special_tokens("special_tokens_map.json", &map)? {
                settings.special_tokens.entry(name).or_insert(token);
            }
        }
        if let Some(bytes) = file(files, "chat_template.jinja") {
            let text = std::str::from_utf8(bytes).map_err(|error| TextError::TemplateSyntax {
                reason: format!("chat_template.jinja is not UTF-8: {error}"),
            })?;
            settings.chat_template = Some(text.to_owned());
            settings.chat_template_file = "chat_template.jinja".to_owned();
        }
        settings.add_class_defaults();
        Ok(settings)
    }

    /// Reads `tokenizer_config.json` where it stands alone.
    pub(crate) fn of_config(what: &str, config: &Value) -> Result<Self> {
        let mut settings = Self::read(what, config)?;
        settings.add_class_defaults();
        Ok(settings)
    }

    fn read(what: &str, config: &Value) -> Result<Self> {
        Ok(Self {
            class: config["tokenizer_class"].as_str().map(str::to_owned),
            special_tokens: special_tokens(what, config)?,
            unset: SPECIAL
                .into_iter()
                .filter(|name| config.get(name).is_some_and(Value::is_null))
                .collect(),
            add_bos: flag(what, config, "add_bos_token")?,
            add_eos: flag(what, config, "add_eos_token")?,
            chat_template: chat_template(what, config)?,
            chat_template_file: what.to_owned(),
        })
    }

    /// The named class, unless it is GPT-2's.
    pub(crate) fn other_class(&self) -> Option<&str> {
        let class = self.class.as_deref();
        class.filter(|class| !class.starts_with(GPT2))
    }

    /// Special tokens that configurations of some classes leave out, because the class has them.
    fn add_class_defaults(&mut self) {
        if let Some(class) = self.class.clone() {
            self.default_to(&class);
        }
    }

    /// GPT-2 begins and ends documents with one token.
    pub(crate) fn default_to_gpt2(&mut self) {
        self.default_to(GPT2);
    }

    /// Classes are named with and without "Fast". `null` in the configuration stands against a default.
    fn default_to(&mut self, class: &str) {
        let known = CLASS_DEFAULTS
            .iter()
            .find(|(name, _)| class.starts_with(name));
        for &(name, token) in known.map_or(&[][..], |(_, tokens)| *tokens) {
            if !self.unset.contains(&name) {
                let entry = self.special_tokens.entry(name.to_owned());
                entry.or_insert_with(|| token.to_owned());
            }
        }
    }
}

const GPT2: &str = "GPT2Tokenizer";

/// Special tokens by class, as the classes of `transformers` 5 have them. Not here: `LlamaTokenizer`, which it takes for
/// a plain tokenizer when the files hold a `tokenizer.json`.
const CLASS_DEFAULTS: &[(&str, &[(&str, &str)])] = &[
    (
        GPT2,
        &[
            ("bos_token", "<|endoftext|>"),
            ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
        ],
    ),
    (
        "GPTNeoXTokenizer",
        &[
            ("bos_token", "<|endoftext|>"),
            ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
            ("pad_token", "<|padding|>"),
        ],
    ),
    (
        "Qwen2Tokenizer",
        &[
            ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
            ("pad_token", "<|endoftext|>"),
        ],
    ),
    (
        "GemmaTokenizer",
        &[
            ("bos_token", "<bos>"),
            ("eos_token", "<eos>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
        ],
    ),
];

/// The special tokens that have a name.
const SPECIAL: [&str; 7] = [
    "bos_token",
    "eos_token",
    "pad_token",
    "unk_token",
    "sep_token",
    "cls_token",
    "mask_token",
];

/// Every `*_token` key: a string, or an object with `content`.
fn special_tokens(what: &str, config: &Value) -> Result<BTreeMap<String, String>> {
    let Value::Object(config) = config else {
        return Err(mistyped(what, "(the whole file)", "an object", config));
    };
    let mut tokens = BTreeMap::new();
    for name in SPECIAL {
        let text = match config.get(name) {
            None | Some(Value::Null) => continue,
            Some(Value::String(text)) => text.clone(),
            Some(value) => match value.get("content").and_then(Value::as_str) {
                Some(text) => text.to_owned(),
                None => {
                    return Err(mistyped(
                        what,
                        name,
                        "a string or an object with `content`",
                        value,
                    ));
                }
            },
        };
        tokens.insert(name.to_owned(), text);
    }
    Ok(tokens)
}

fn flag(what: &str, config: &Value, key: &str) -> Result<Option<bool>> {
    match &config[key] {
        Value::Null => Ok(None),
        Value::Bool(flag) => Ok(Some(*flag)),
        other => Err(mistyped(what, key, "true or false", other)),
    }
}

/// `chat_template`: a string, or a list of `{name, template}` of which `default` (else the only one) is taken.
fn chat_template(what: &str, config: &Value) -> Result<Option<String>> {
    let expected = "a string or a list of named templates with one called `default`";
    let templates = match &config["chat_template"] {
        Value::Null => return Ok(None),
        Value::String(text) => return Ok(Some(text.clone())),
        Value::Array(templates) => templates,
        other => return Err(mistyped(what, "chat_template", expected, other)),
    };
    let chosen = match templates.as_slice() {
        [only] => Some(only),
        several => several
            .iter()
            .find(|template| template["name"] == "default"),
    };
    match chosen.and_then(|template| template["template"].as_str()) {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(mistyped(
            what,
            "chat_template",
            expected,
            &config["chat_template"],
        )),
    }
}

fn mistyped(what: &str, key: &str, expected: &'static str, got: &Value) -> TextError {
    let mut got = got.to_string();
    if got.chars().count() > 60 {
        got = got.chars().take(60).chain("…".chars()).collect();
    }
    TextError::Field {
        what: what.to_owned(),
        key: key.to_owned(),
        expected,
        got,
    }
}
