//! The tokenizer: text to ids, ids to text, special tokens, chat template.
//!
//! Loading follows `transformers` 5: truncation and padding stored in `tokenizer.json` are ignored; the named special
//! tokens are matched as special even when `tokenizer.json` lists them as ordinary entries; the post-processor of
//! `tokenizer.json` decides whether BOS surrounds a text, and `add_bos_token` only counts where there is no such file.
//! A named special token that the vocabulary does not have is left unset (adding it would need a larger embedding).
//! Tested in `tests/tokenizer.rs` and, for each family's kind, `tests/families.rs`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokenizers::AddedToken;

use crate::error::{Result, TextError};
use crate::gguf::GgufVocabulary;
use crate::inputs::TemplateInputs;
use crate::label::{Spelling, visible};
use crate::message::Message;
use crate::named::Templates;
use crate::source::{self, Files, Settings};

/// A tokenizer with its special tokens and chat template.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    spelling: Spelling,
    special_tokens: BTreeMap<String, String>,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    vocab_size: usize,
    templates: Templates,
    fingerprint: String,
    /// What [`Tokenizer::save`] writes.
    pub(crate) files: Files,
}

impl Tokenizer {
    /// Opens the tokenizer of a directory in Hugging Face layout: `tokenizer.json`, or GPT-2's `vocab.json` with
    /// `merges.txt`; `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja` where present.
    ///
    /// # Errors
    /// [`TextError::Missing`] without a tokenizer, [`TextError::OtherClass`] for `vocab.json` with `merges.txt` of
    /// another class than GPT-2's, and an error that names the file when one cannot be read.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let mut files = source::read_files(dir)?;
        let mut settings = Settings::of_files(&files)?;
        let shown = |name: &str| dir.join(name).display().to_string();
        if let Some(bytes) = source::file(&files, "tokenizer.json") {
            let json = source::parse(&shown("tokenizer.json"), bytes)?;
            return Self::build(&shown("tokenizer.json"), json, settings, files);
        }
        let (Some(vocab), Some(merges)) = (
            source::file(&files, "vocab.json"),
            source::file(&files, "merges.txt"),
        ) else {
            return Err(TextError::Missing {
                dir: dir.to_owned(),
            });
        };
        if let Some(class) = settings.other_class() {
            return Err(TextError::OtherClass {
                dir: dir.to_owned(),
                class: class.to_owned(),
            });
        }
        settings.default_to_gpt2();
        let json = source::from_vocab_and_merges(dir, vocab, merges, &settings)?;
        files.push(("tokenizer.json".to_owned(), json.to_string().into_bytes()));
        Self::build(&shown("vocab.json"), json, settings, files)
    }

    /// Builds a tokenizer from the bytes of `tokenizer.json`, the parsed `tokenizer_config.json` and the source of
    /// a chat template, which wins over the one in `config`.
    ///
    /// # Errors
    /// [`TextError::Json`], [`TextError::Field`], [`TextError::Tokenizer`] or [`TextError::TemplateSyntax`].
    pub fn from_parts(
        tokenizer_json: &[u8],
        config: Option<&Value>,
        chat_template: Option<String>,
    ) -> Result<Self> {
        let json = source::parse("tokenizer.json", tokenizer_json)?;
        let mut settings = match config {
            Some(config) => Settings::of_config("tokenizer_config.json", config)?,
            None => Settings::default(),
        };
        let mut files = vec![("tokenizer.json".to_owned(), tokenizer_json.to_vec())];
        let config = config
            .cloned()
            .unwrap_or_else(|| json!({"tokenizer_class": "PreTrainedTokenizerFast"}));
        files.push(("tokenizer_config.json".to_owned(), pretty(&config)));
        if let Some(template) = chat_template {
            files.push((
                "chat_template.jinja".to_owned(),
                template.clone().into_bytes(),
            ));
            settings.chat_template = Some(template);
            settings.chat_template_file = "chat_template.jinja".to_owned();
        }
        Self::build("tokenizer.json", json, settings, files)
    }

    /// Builds the tokenizer that a GGUF file describes in its metadata.
    ///
    /// # Errors
    /// [`TextError::GgufUnsupported`] for an unknown model or pre-tokenizer, [`TextError::GgufVocabulary`] when the
    /// arrays contradict each other, [`TextError::TemplateSyntax`] for a broken chat template.
    pub fn from_gguf(vocabulary: GgufVocabulary) -> Result<Self> {
        let (json, config) = vocabulary.describe()?;
        Self::from_parts(
            json.to_string().as_bytes(),
            Some(&config),
            vocabulary.chat_template,
        )
    }

    fn build(what: &str, mut json: Value, settings: Settings, files: Files) -> Result<Self> {
        let refused = |reason: String| TextError::Tokenizer {
            what: what.to_owned(),
            reason,
        };
        if !json.is_object() {
            return Err(refused("it is not an object".to_owned()));
        }
        json["truncation"] = Value::Null;
        json["padding"] = Value::Null;

        let spelling = Spelling::of(&json);
        let bytes = json.to_string().into_bytes();
        drop(json);
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|error| refused(error.to_string()))?;
        let known: Vec<AddedToken> = settings
            .special_tokens
            .values()
            .filter(|text| inner.token_to_id(text).is_some())
            .map(|text| AddedToken::from(text.as_str(), true).normalized(false))
            .collect();
        inner
            .add_special_tokens(known)
            .map_err(|error| refused(error.to_string()))?;

        let id = |name: &str| {
            settings
                .special_tokens
                .get(name)
                .and_then(|text| inner.token_to_id(text))
        };
        let highest = inner.get_vocab(true).into_values().max();
        let templates = Templates::new(
            settings.chat_template.as_deref(),
            &settings.chat_template_file,
            settings.named_templates,
        )?;
        Ok(Self {
            bos: id("bos_token"),
            eos: id("eos_token"),
            pad: id("pad_token"),
            vocab_size: highest.map_or(0, |id| id as usize + 1),
            special_tokens: settings.special_tokens,
            templates,
            fingerprint: Sha256::digest(&bytes)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            inner,
            spelling,
            files,
        })
    }

    /// The ids of a text. With `add_special_tokens` the tokenizer's own BOS (and EOS, where it adds one) surround
    /// it; special tokens written out in the text are recognised either way.
    ///
    /// # Errors
    /// [`TextError::Encode`] when the tokenizer's model has no token for a part of the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        match self.inner.encode_fast(text, add_special_tokens) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => Err(TextError::Encode {
                excerpt: text.chars().take(40).collect(),
                reason: error.to_string(),
            }),
        }
    }

    /// The text of ids; ids outside the vocabulary are left out, as are special tokens with `skip_special`.
    ///
    /// # Errors
    /// [`TextError::Decode`] when the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|error| TextError::Decode {
                count: ids.len(),
                reason: error.to_string(),
            })
    }

    /// One token as a reader should see it: a space is `␣`, a line feed `⏎`, a tab `⇥`, a byte that is no
    /// character on its own `<0xE2>`; special tokens as written; `<id 7>` outside the vocabulary.
    pub fn token_label(&self, id: u32) -> String {
        match self.inner.id_to_token(id) {
            None => format!("<id {id}>"),
            Some(token) if self.inner.get_added_vocabulary().is_special_token(&token) => token,
            Some(token) => visible(&self.spelling.bytes(&token)),
        }
    }

    /// The highest id plus one: a model's embedding needs at least this many rows.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of the token that begins a text.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// The id of the token that ends a text.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos
    }

    /// The id of the token that fills batches.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad
    }

    /// The text of the token that ends a text, when the vocabulary has it.
    pub fn eos_text(&self) -> Option<&str> {
        self.eos
            .and_then(|_| self.special_tokens.get("eos_token"))
            .map(String::as_str)
    }

    /// The text of the token that begins a text, when the vocabulary has it.
    pub fn bos_text(&self) -> Option<&str> {
        self.bos
            .and_then(|_| self.special_tokens.get("bos_token"))
            .map(String::as_str)
    }

    /// Whether conversations can be rendered.
    pub fn has_chat_template(&self) -> bool {
        self.templates.has_default()
    }

    /// Renders a conversation; with `add_generation_prompt` it ends where the assistant's answer begins.
    /// Encode the result with `add_special_tokens = false`: the template writes BOS itself.
    ///
    /// # Errors
    /// [`TextError::NoChatTemplate`], or [`TextError::TemplateRender`] when the template refuses the messages.
    pub fn apply_chat_template(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String> {
        self.render_row(messages, &TemplateInputs::default(), add_generation_prompt)
    }

    /// As [`Tokenizer::apply_chat_template`], with what the conversation's row gives the template besides: tools,
    /// documents, variables, or another template.
    ///
    /// # Errors
    /// As [`Tokenizer::apply_chat_template`], and [`TextError::TemplateSyntax`] for a template of the row's own.
    pub fn render_row(
        &self,
        messages: &[Message],
        inputs: &TemplateInputs,
        add_generation_prompt: bool,
    ) -> Result<String> {
        let template = self.templates.choose(inputs)?;
        template.render(
            messages,
            inputs,
            add_generation_prompt,
            &self.special_tokens,
        )
    }

    /// SHA-256 of the tokenizer's description in hexadecimal digits: equal fingerprints give equal ids.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
