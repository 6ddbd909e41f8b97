//! The tokenizer: text to ids, ids to text, special tokens, chat template.
//!
//! Loading follows `transformers` 5: the class decides what is taken from `tokenizer.json` (`class.rs`); tokens that the
//! files beside it declare join the vocabulary, behind its end where it does not have them (`settings.rs`); truncation
//! and padding stored in `tokenizer.json` are ignored; its post-processor decides whether BOS surrounds a text, and
//! `add_bos_token` only counts where there is no such file. An id behind the embedding's end is refused when a text
//! has it, not before: `transformers` opens such models too.
//! The `tokenizers` crate is called behind a fence (`guard.rs`) after a check (`validate.rs`).
//! Tested in `tests/tokenizer.rs`, `tests/classes.rs`, `tests/bad_tokenizer.rs` and, for each family's kind,
//! `tests/families.rs`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokenizers::{NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use crate::class::{self, Class, FILL, Rebuilt};
use crate::cut::Adjacent;
use crate::error::{Result, TextError};
use crate::gguf::GgufVocabulary;
use crate::guard::fenced;
use crate::inputs::TemplateInputs;
use crate::label::{Spelling, visible};
use crate::message::Message;
use crate::named::Templates;
use crate::settings::Settings;
use crate::source::{self, Files};
use crate::validate::validate;

/// A tokenizer with its special tokens and chat template.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    pub(crate) inner: tokenizers::Tokenizer,
    spelling: Spelling,
    /// The text of the token that stands for what the vocabulary does not have.
    pub(crate) unknown: Option<String>,
    special_tokens: BTreeMap<String, String>,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    vocab_size: usize,
    templates: Templates,
    fingerprint: String,
    class: Class,
    clean_up: bool,
    notes: Vec<String>,
    /// Which characters stand side by side within a token; filled when a text is cut.
    pub(crate) adjacent: OnceLock<Adjacent>,
    /// What [`Tokenizer::save`] writes.
    pub(crate) files: Files,
}

impl Tokenizer {
    /// Opens the tokenizer of a directory in Hugging Face layout: `tokenizer.json`, or GPT-2's `vocab.json` with
    /// `merges.txt`; `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`, `chat_template.jinja` and
    /// `config.json` where present.
    ///
    /// # Errors
    /// [`TextError::Missing`] without a tokenizer, [`TextError::OtherClass`] for `vocab.json` with `merges.txt` of
    /// another class than GPT-2's, and an error that names the file when one cannot be read.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let files = source::read_files(dir)?;
        let model = source::model_config(dir);
        let settings = Settings::of_files(&files, model.as_ref())?;
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
        if let Some(class) = settings.class.as_deref()
            && !class.starts_with("GPT2Tokenizer")
        {
            return Err(TextError::OtherClass {
                dir: dir.to_owned(),
                class: class.to_owned(),
            });
        }
        let json = source::from_vocab_and_merges(dir, vocab, merges)?;
        Self::build(&shown("vocab.json"), json, settings, files)
    }

    /// Builds a tokenizer from the bytes of `tokenizer.json`, the parsed `tokenizer_config.json` and the source of
    /// a chat template, which wins over the one in `config`. This is the whole way from bytes to a tokenizer.
    ///
    /// # Errors
    /// [`TextError::Json`], [`TextError::Field`], [`TextError::Tokenizer`] or [`TextError::TemplateSyntax`].
    pub fn from_parts(
        tokenizer_json: &[u8],
        config: Option<&Value>,
        chat_template: Option<String>,
    ) -> Result<Self> {
        let json = source::parse("tokenizer.json", tokenizer_json)?;
        let mut files = vec![("tokenizer.json".to_owned(), tokenizer_json.to_vec())];
        let config = config
            .cloned()
            .unwrap_or_else(|| json!({"tokenizer_class": "PreTrainedTokenizerFast"}));
        files.push(("tokenizer_config.json".to_owned(), pretty(&config)));
        if let Some(template) = chat_template {
            files.push(("chat_template.jinja".to_owned(), template.into_bytes()));
        }
        let settings = Settings::of_files(&files, None)?;
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

    fn build(
        what: &str,
        mut json: Value,
        mut settings: Settings,
        mut files: Files,
    ) -> Result<Self> {
        let refused = |reason: String| TextError::Tokenizer {
            what: what.to_owned(),
            reason,
        };
        if !json.is_object() || !json["model"].is_object() {
            return Err(refused("it is not an object with a `model`".to_owned()));
        }
        validate(&json).map_err(refused)?;
        let from_json = source::file(&files, "tokenizer.json");
        let byte_level = from_json.is_some_and(names_byte_level);
        let class = match from_json {
            Some(_) => Class::choose(
                settings.class.as_deref(),
                settings.model_type.as_deref(),
                settings.own_code,
                byte_level,
            ),
            None => Class::Rebuilt(Rebuilt::Gpt2),
        };
        settings.complete(&class, &json);
        let mut notes = Vec::new();
        json["truncation"] = Value::Null;
        json["padding"] = Value::Null;
        if json["model"]["dropout"].as_f64().unwrap_or(0.0) != 0.0 {
            json["model"]["dropout"] = Value::Null;
            notes.push(format!(
                "{what}: `model.dropout` is left out: it would draw other ids each time"
            ));
        }
        match &class {
            Class::File => {}
            Class::Elsewhere(name) => notes.push(format!(
                "{what} is taken as it stands; transformers 5 builds a {name} from its vocabulary, whose ids may differ"
            )),
            Class::Rebuilt(rebuilt) => {
                let parts = match from_json {
                    Some(_) => json.clone(),
                    None => Value::Null,
                };
                json = rebuilt.rebuild(json, &settings);
                let changed = class::changed_parts(&parts, &json);
                if from_json.is_some() && !changed.is_empty() {
                    notes.push(format!(
                        "tokenizer_class {} brings its own {}, as in transformers 5; {what} has another, which would \
                         give other ids (with PreTrainedTokenizerFast it is taken as it stands)",
                        class.name(),
                        changed.join(" and "),
                    ));
                }
            }
        }
        let spelling = Spelling::of(&json);
        let unknown = match json["model"]["unk_id"].as_u64() {
            Some(id) => {
                let id = usize::try_from(id).unwrap_or(usize::MAX);
                json["model"]["vocab"][id][0].as_str()
            }
            None => json["model"]["unk_token"].as_str(),
        };
        let unknown = unknown.map(str::to_owned);
        let bytes = json.to_string().into_bytes();
        drop(json);
        let panicked =
            |message: String| refused(format!("the tokenizers library gave up: {message}"));
        let mut inner = fenced(|| tokenizers::Tokenizer::from_bytes(&bytes))
            .map_err(panicked)?
            .map_err(|error| refused(error.to_string()))?;
        fenced(|| add_tokens(&mut inner, &settings, &class))
            .map_err(panicked)?
            .map_err(|error| refused(error.to_string()))?;
        let surrounding = match (&class, from_json) {
            (Class::Rebuilt(Rebuilt::GptNeoX), Some(_)) => Some((false, false)),
            (Class::Rebuilt(Rebuilt::CodeLlama), Some(_)) => Some((true, false)),
            (_, Some(_)) => None,
            (_, None) => Some((settings.add_bos, settings.add_eos)),
        };
        if let Some((bos, eos)) = surrounding {
            let token = |wanted: bool, name| {
                let text = settings.text(name).filter(|_| wanted)?;
                Some((text, inner.token_to_id(text)?))
            };
            let template = source::surround(token(bos, "bos_token"), token(eos, "eos_token"));
            let template: Option<PostProcessorWrapper> =
                serde_json::from_value(template).map_err(|error| refused(error.to_string()))?;
            inner.with_post_processor(template);
        }
        inner.set_encode_special_tokens(settings.split_special_tokens);
        if let Err(message) = fenced(|| probe(&inner)) {
            return Err(refused(format!(
                "{}: {}",
                culprit(&inner),
                gave_up(&message)
            )));
        }
        if from_json.is_none() {
            let json = inner.to_string(false);
            let json = json.map_err(|error| refused(error.to_string()))?;
            files.push(("tokenizer.json".to_owned(), json.into_bytes()));
        }
        Self::assemble(
            Built {
                inner,
                bytes,
                spelling,
                unknown,
                class,
                notes,
            },
            settings,
            files,
        )
    }

    fn assemble(built: Built, settings: Settings, files: Files) -> Result<Self> {
        let Built {
            inner,
            bytes,
            spelling,
            unknown,
            class,
            notes,
        } = built;
        let id = |name: &str| {
            let text = settings.text(name)?;
            inner.token_to_id(text)
        };
        let highest = inner.get_vocab(true).into_values().max();
        let templates = Templates::new(
            settings.chat_template.as_deref(),
            &settings.chat_template_file,
            settings.named_templates.clone(),
        )?;
        let bpe = matches!(inner.get_model(), tokenizers::ModelWrapper::BPE(_));
        let named = settings.named.iter();
        Ok(Self {
            bos: id("bos_token"),
            eos: id("eos_token"),
            pad: id("pad_token"),
            vocab_size: highest.map_or(0, |id| id as usize + 1),
            templates,
            special_tokens: named
                .map(|(name, token)| (name.clone(), token.text().to_owned()))
                .collect(),
            fingerprint: fingerprint(&bytes, &inner),
            clean_up: settings.clean_up_spaces && (!bpe || settings.clean_up_spaces_of_bpe),
            inner,
            spelling,
            unknown,
            class,
            notes,
            adjacent: OnceLock::new(),
            files,
        })
    }

    /// What a user should be told about how the tokenizer was built, one line each; mostly empty.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The class under which `AutoTokenizer` should find the tokenizer.
    pub(crate) fn class(&self) -> &Class {
        &self.class
    }

    /// Refuses what `transformers` would not read as one text: Code Llama's mark of a gap.
    pub(crate) fn check_text(&self, text: &str) -> Result<()> {
        if self.class == Class::Rebuilt(Rebuilt::CodeLlama) && text.contains(FILL) {
            return Err(TextError::Encode {
                excerpt: text.chars().take(40).collect(),
                reason: format!("{FILL} marks a gap to fill, which is not supported"),
            });
        }
        Ok(())
    }

    /// The ids of a text. With `add_special_tokens` the tokenizer's own BOS (and EOS, where it adds one) surround
    /// it; special tokens written out in the text are recognised either way.
    ///
    /// # Errors
    /// [`TextError::Encode`] when the tokenizer's model has no token for a part of the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        self.check_text(text)?;
        let encoded = fenced(|| self.inner.encode_fast(text, add_special_tokens));
        match encoded {
            Ok(Ok(encoding)) => Ok(encoding.get_ids().to_vec()),
            Ok(Err(error)) => Err(not_encoded(text, error.to_string())),
            Err(panic) => Err(not_encoded(text, gave_up(&panic))),
        }
    }

    /// The text of ids; ids outside the vocabulary are left out, as are special tokens with `skip_special`.
    ///
    /// # Errors
    /// [`TextError::Decode`] when the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let failed = |reason: String| TextError::Decode {
            count: ids.len(),
            reason,
        };
        let text = fenced(|| self.inner.decode(ids, skip_special))
            .map_err(|panic| failed(gave_up(&panic)))?
            .map_err(|error| failed(error.to_string()))?;
        Ok(if self.clean_up {
            without_spaces(&text)
        } else {
            text
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

    /// SHA-256 of what the tokenizer was built from in hexadecimal digits: equal fingerprints give equal ids.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

/// What the library made, and what is remembered of how.
struct Built {
    inner: tokenizers::Tokenizer,
    /// What it was made from.
    bytes: Vec<u8>,
    spelling: Spelling,
    unknown: Option<String>,
    class: Class,
    notes: Vec<String>,
}

/// Adds what the files declare, as the class does.
fn add_tokens(
    inner: &mut tokenizers::Tokenizer,
    settings: &Settings,
    class: &Class,
) -> tokenizers::Result<()> {
    let known: Vec<String> = inner
        .get_added_tokens_decoder()
        .into_values()
        .map(|token| token.content)
        .collect();
    inner.add_tokens(settings.tokens_to_add(&known))?;
    if let Class::Rebuilt(rebuilt) = class {
        inner.add_tokens(settings.tokens_again(*rebuilt))?;
    }
    Ok(())
}

/// Encodes texts of many kinds, so that a description which makes the library panic is refused when it is read. That
/// a vocabulary has no token for some text is no fault.
fn probe(inner: &tokenizers::Tokenizer) {
    for text in [
        "",
        " ",
        "a",
        "Hello, world! It's 12345.\n\n\tEnd  ",
        "naïve ﬁancé — 日本語 🙂\u{200d} e\u{301}\r\n",
    ] {
        for add_special in [false, true] {
            // Errors are those of single texts; only a panic is looked for.
            let _ = inner.encode(text, add_special);
        }
    }
}

fn fingerprint(bytes: &[u8], inner: &tokenizers::Tokenizer) -> String {
    let mut hash = Sha256::new();
    hash.update(bytes);
    let added = inner.get_added_tokens_decoder();
    let added: BTreeMap<u32, _> = added.into_iter().collect();
    hash.update(format!("{added:?}{}", inner.get_encode_special_tokens()));
    let hash = hash.finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The part without which [`probe`] does not panic.
fn culprit(inner: &tokenizers::Tokenizer) -> &'static str {
    let without = |part: &str| {
        let mut inner = inner.clone();
        match part {
            "normalizer" => {
                inner.with_normalizer(None::<NormalizerWrapper>)?;
            }
            "pre_tokenizer" => {
                inner.with_pre_tokenizer(None::<PreTokenizerWrapper>);
            }
            _ => {
                inner.with_post_processor(None::<PostProcessorWrapper>);
            }
        }
        tokenizers::Result::Ok(fenced(|| probe(&inner)))
    };
    let fits = |part: &&str| matches!(without(part), Ok(Ok(())));
    let parts = ["normalizer", "pre_tokenizer", "post_processor"];
    parts.into_iter().find(fits).unwrap_or("model")
}

/// Whether the text of a `tokenizer.json` names `ByteLevel`, as `transformers` looks for it.
pub(crate) fn names_byte_level(json: &[u8]) -> bool {
    let name = b"\"ByteLevel\"";
    json.windows(name.len()).any(|window| window == name)
}

pub(crate) fn gave_up(panic: &str) -> String {
    format!("the tokenizers library gave up: {panic}")
}

pub(crate) fn not_encoded(text: &str, reason: String) -> TextError {
    TextError::Encode {
        excerpt: text.chars().take(40).collect(),
        reason,
    }
}

/// `clean_up_tokenization_spaces`: no space before punctuation and English endings.
fn without_spaces(text: &str) -> String {
    let endings = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    endings
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

pub(crate) fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
