//! What the files beside `tokenizer.json` say: special and added tokens, flags, the chat template.
//!
//! Precedence as in `transformers` 5: with `added_tokens_decoder` in `tokenizer_config.json`, its entries stand, with
//! their flags, and `special_tokens_map.json` and `added_tokens.json` are not read. Without it,
//! `special_tokens_map.json` overrides the configuration, and the added tokens are those of `added_tokens.json` and
//! of `tokenizer.json`, the latter winning. A named token that is also an added one takes the added one's flags.
//! Tokens join the vocabulary in that order: added tokens by id, named tokens, other special tokens. Their ids follow
//! from the order, not from what is written.
//! Source: `transformers` 5.23, `PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__`.
//! Tested in `tests/classes.rs` and `tests/tokenizer.rs`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::class::{Class, Rebuilt};
use crate::error::{Result, TextError};
use crate::named;
use crate::source::{Files, file, parse};

/// The special tokens that have a standard name, in the order in which they join a vocabulary.
const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// A special token as the files give it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    /// Its text alone.
    Text(String),
    /// With flags.
    Flagged(Flagged),
}

/// A token with its flags.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Flagged {
    token: AddedToken,
    /// Whether `normalized` was given; else it is the opposite of `special`.
    normalized_given: bool,
}

impl Token {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Flagged(flagged) => &flagged.token.content,
        }
    }

    /// A string, or an object with `content`; `None` for something else.
    fn read(value: &Value, special: Option<bool>) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::Text(text.clone())),
            value => Flagged::read(value, special).map(Self::Flagged),
        }
    }
}

impl Flagged {
    /// An object with `content` and flags; `special` overrules the object's.
    fn read(value: &Value, special: Option<bool>) -> Option<Self> {
        let flag = |name: &str| value[name].as_bool();
        let special = special.or(flag("special")).unwrap_or(false);
        let token = AddedToken::from(value["content"].as_str()?, special)
            .single_word(flag("single_word").unwrap_or(false))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false));
        let normalized = flag("normalized");
        Some(Self {
            token: token.normalized(normalized.unwrap_or(!special)),
            normalized_given: normalized.is_some(),
        })
    }

    fn into_special(mut self) -> AddedToken {
        self.token.special = true;
        if !self.normalized_given {
            self.token.normalized = false;
        }
        self.token
    }
}

/// What the configuration says beside the vocabulary.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// `tokenizer_class` of `tokenizer_config.json`, else of `config.json`.
    pub class: Option<String>,
    /// `model_type` of `config.json`.
    pub model_type: Option<String>,
    /// Whether the repository brings Python code of its own for its tokenizer.
    pub own_code: bool,
    /// Special tokens with a name (`bos_token`, ...) in the order in which they join the vocabulary.
    pub named: Vec<(String, Token)>,
    /// Named tokens that the configuration sets to `null`.
    unset: Vec<&'static str>,
    /// Special tokens without a name.
    pub extra: Vec<Token>,
    /// Added tokens by the ids that the files give them.
    added: BTreeMap<u64, Flagged>,
    pub add_bos: bool,
    pub add_eos: bool,
    pub add_prefix_space: Option<bool>,
    /// Llama's `legacy`: `▁` before every stretch of text, not the first alone.
    pub legacy: bool,
    /// Special tokens in a text are text.
    pub split_special_tokens: bool,
    /// Decoding takes spaces before punctuation away.
    pub clean_up_spaces: bool,
    /// The same with byte-pair encodings, which it damages.
    pub clean_up_spaces_of_bpe: bool,
    /// The chat template's source.
    pub chat_template: Option<String>,
    /// The file that the chat template stands in.
    pub chat_template_file: String,
    /// The sources of chat templates that have a name.
    pub named_templates: BTreeMap<String, String>,
}

const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";

impl Settings {
    /// Reads `tokenizer_config.json`, its neighbours, and `config.json` where it is given.
    pub(crate) fn of_files(files: &Files, model: Option<&Value>) -> Result<Self> {
        let config = match file(files, CONFIG) {
            Some(bytes) => object(CONFIG, parse(CONFIG, bytes)?)?,
            None => Map::new(),
        };
        let mut settings = Self::of_config(&config)?;
        if settings.class.is_none() {
            let class = model.and_then(|model| model["tokenizer_class"].as_str());
            settings.class = class.map(str::to_owned);
        }
        let model_type = model.and_then(|model| model["model_type"].as_str());
        settings.model_type = model_type.map(str::to_owned);
        if !config.contains_key("added_tokens_decoder") {
            settings.read_neighbours(files)?;
        }
        settings.add_template_files(files)?;
        settings.take_flags_of_added();
        Ok(settings)
    }

    /// Templates in files of their own take the place of those in the configuration.
    fn add_template_files(&mut self, files: &Files) -> Result<()> {
        const DEFAULT: &str = "chat_template.jinja";
        let mut found = BTreeMap::new();
        for (file, bytes) in files {
            let name = match named::template_name(file) {
                _ if file == DEFAULT => "default",
                Some(name) => name,
                None => continue,
            };
            let text = std::str::from_utf8(bytes).map_err(|error| TextError::TemplateSyntax {
                reason: format!("{file} is not UTF-8: {error}"),
            })?;
            found.insert(name.to_owned(), text.to_owned());
        }
        if !found.is_empty() {
            self.chat_template = found.get("default").cloned();
            self.chat_template_file = DEFAULT.to_owned();
            // A default alone has no name.
            let several = found.len() > 1 || self.chat_template.is_none();
            self.named_templates = if several { found } else { BTreeMap::new() };
        }
        Ok(())
    }

    /// What `tokenizer_config.json` itself says.
    fn of_config(config: &Map<String, Value>) -> Result<Self> {
        let flag = |key| flag(CONFIG, config, key);
        let mut settings = Self {
            class: config
                .get("tokenizer_class")
                .and_then(Value::as_str)
                .map(str::to_owned),
            own_code: config.contains_key("auto_map"),
            unset: NAMED
                .into_iter()
                .filter(|name| config.get(*name).is_some_and(Value::is_null))
                .collect(),
            add_bos: flag("add_bos_token")?.unwrap_or(false),
            add_eos: flag("add_eos_token")?.unwrap_or(false),
            add_prefix_space: flag("add_prefix_space")?,
            legacy: flag("legacy")?.unwrap_or(false),
            split_special_tokens: flag("split_special_tokens")?.unwrap_or(false),
            clean_up_spaces: flag("clean_up_tokenization_spaces")?.unwrap_or(false),
            clean_up_spaces_of_bpe: flag(
                "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
            )?
            .unwrap_or(false),
            chat_template: chat_template(CONFIG, config)?,
            chat_template_file: CONFIG.to_owned(),
            named_templates: named_templates(config),
            ..Self::default()
        };
        settings.read_named(CONFIG, config)?;
        let given = |key: &str| config.get(key).filter(|value| !is_empty(value));
        let extra = given("extra_special_tokens").or_else(|| given("additional_special_tokens"));
        match extra {
            Some(Value::Object(named)) => {
                for (name, value) in named {
                    settings.name(CONFIG, name, value)?;
                }
            }
            Some(list) => settings.extra = tokens(CONFIG, "extra_special_tokens", list)?,
            None => {}
        }
        if let Some(decoder) = config.get("added_tokens_decoder") {
            settings.read_added(decoder)?;
        }
        Ok(settings)
    }

    /// `special_tokens_map.json`, `added_tokens.json`, and the added tokens of `tokenizer.json`.
    fn read_neighbours(&mut self, files: &Files) -> Result<()> {
        if let Some(bytes) = file(files, MAP) {
            let map = object(MAP, parse(MAP, bytes)?)?;
            for name in NAMED {
                if map.get(name).is_some_and(Value::is_null) {
                    self.named.retain(|(known, _)| known != name);
                    self.unset.push(name);
                } else if map.contains_key(name) {
                    self.unset.retain(|unset| *unset != name);
                }
            }
            self.read_named(MAP, &map)?;
            match map.get("extra_special_tokens") {
                Some(Value::Object(named)) => {
                    for (name, value) in named {
                        self.name(MAP, name, value)?;
                    }
                }
                Some(list) if !list.is_null() => {
                    for token in tokens(MAP, "extra_special_tokens", list)? {
                        if !self.extra.contains(&token) {
                            self.extra.push(token);
                        }
                    }
                }
                _ => {}
            }
            if let Some(list) = map.get("additional_special_tokens")
                && self.extra.is_empty()
                && !is_empty(list)
            {
                self.extra = tokens(MAP, "additional_special_tokens", list)?;
            }
        }
        if let Some(bytes) = file(files, "added_tokens.json") {
            let what = "added_tokens.json";
            for (text, id) in &object(what, parse(what, bytes)?)? {
                let Some(id) = id.as_u64() else {
                    return Err(mistyped(what, text, "a token's id", id));
                };
                let named = self.named.iter().map(|(_, token)| token);
                let special = named.chain(&self.extra).any(|token| token.text() == text);
                let token = AddedToken::from(text.as_str(), special);
                let normalized_given = true;
                self.added.insert(
                    id,
                    Flagged {
                        token,
                        normalized_given,
                    },
                );
            }
        }
        if let Some(bytes) = file(files, "tokenizer.json") {
            let json = parse("tokenizer.json", bytes)?;
            for entry in json["added_tokens"].as_array().into_iter().flatten() {
                let read = Flagged::read(entry, None);
                let (Some(id), Some(token)) = (entry["id"].as_u64(), read) else {
                    let expected = "an object with `id` and `content`";
                    return Err(mistyped("tokenizer.json", "added_tokens", expected, entry));
                };
                self.added.insert(id, token);
            }
        }
        Ok(())
    }

    /// Every `*_token` key: a string, or an object with `content`. Of names of the repository's own, those with an
    /// object come first, as in `transformers`.
    fn read_named(&mut self, what: &str, config: &Map<String, Value>) -> Result<()> {
        for name in NAMED {
            if let Some(value) = config.get(name).filter(|value| !value.is_null()) {
                self.name(what, name, value)?;
            }
        }
        let own = |strings: bool| {
            config.iter().filter(move |(name, value)| {
                let shape = if strings {
                    value.is_string()
                } else {
                    value.is_object()
                };
                name.ends_with("_token") && !NAMED.contains(&name.as_str()) && shape
            })
        };
        for (name, value) in own(false).chain(own(true)) {
            self.name(what, name, value)?;
        }
        Ok(())
    }

    fn name(&mut self, what: &str, name: &str, value: &Value) -> Result<()> {
        let special = (what == MAP).then_some(true);
        let Some(token) = Token::read(value, special) else {
            let expected = "a string or an object with `content`";
            return Err(mistyped(what, name, expected, value));
        };
        match self.named.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = token,
            None => self.named.push((name.to_owned(), token)),
        }
        Ok(())
    }

    fn read_added(&mut self, decoder: &Value) -> Result<()> {
        let key = "added_tokens_decoder";
        let Value::Object(entries) = decoder else {
            return Err(mistyped(CONFIG, key, "an object of tokens by id", decoder));
        };
        for (id, entry) in entries {
            let (Ok(id), Some(token)) = (id.trim().parse(), Flagged::read(entry, None)) else {
                let expected = "an object with `content` under each id";
                return Err(mistyped(CONFIG, &format!("{key}.{id}"), expected, entry));
            };
            self.added.insert(id, token);
        }
        Ok(())
    }

    /// A named token that is an added token too has the added token's flags.
    fn take_flags_of_added(&mut self) {
        for (name, token) in &mut self.named {
            let standard = NAMED.contains(&name.as_str());
            let added = self
                .added
                .values()
                .rfind(|a| a.token.content == token.text());
            if let Some(added) = added.filter(|_| standard) {
                *token = Token::Flagged(added.clone());
            }
        }
    }

    /// Brings in the special tokens that a class has where the configuration is silent, and the padding token that
    /// `tokenizer.json` names.
    pub(crate) fn complete(&mut self, class: &Class, json: &Value) {
        let class = match class {
            Class::Rebuilt(class) => Some(*class),
            Class::File | Class::Elsewhere(_) => None,
        };
        for (name, text) in class.map_or(&[][..], Rebuilt::default_tokens) {
            self.default_to(name, text);
        }
        let own: Vec<(String, Token)> = class
            .map_or(&[][..], Rebuilt::own_tokens)
            .iter()
            .map(|(name, text)| ((*name).to_owned(), Token::Text((*text).to_owned())))
            .filter(|(name, _)| self.named.iter().all(|(known, _)| known != name))
            .collect();
        if let Some(pad) = json["padding"]["pad_token"].as_str() {
            self.default_to("pad_token", pad);
        }
        let place = |name: &str| {
            NAMED
                .iter()
                .position(|known| *known == name)
                .unwrap_or(NAMED.len())
        };
        self.named.sort_by_key(|(name, _)| place(name));
        let standard = self
            .named
            .partition_point(|(name, _)| place(name) < NAMED.len());
        self.named.splice(standard..standard, own);
    }

    fn default_to(&mut self, name: &str, text: &str) {
        let known = self.named.iter().any(|(known, _)| known == name);
        if !known && !self.unset.contains(&name) {
            let token = Token::Text(text.to_owned());
            self.named.push((name.to_owned(), token));
        }
    }

    /// The text of a named token.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let found = self.named.iter().find(|(known, _)| known == name);
        found.map(|(_, token)| token.text())
    }

    /// The tokens that join a tokenizer whose added tokens are `known`, in order.
    pub(crate) fn tokens_to_add(&self, known: &[String]) -> Vec<AddedToken> {
        let named: Vec<&str> = self.named.iter().map(|(_, token)| token.text()).collect();
        let mut tokens: Vec<AddedToken> = Vec::new();
        for added in self.added.values() {
            tokens.push(if named.contains(&added.token.content.as_str()) {
                added.clone().into_special()
            } else {
                added.token.clone()
            });
        }
        let declared = tokens.len();
        let others = self.named.iter().map(|(_, token)| token).chain(&self.extra);
        for token in others {
            let text = token.text();
            let listed = |tokens: &[AddedToken]| tokens.iter().any(|t| t.content == text);
            if known.iter().any(|k| k == text) || listed(&tokens[..declared]) {
                continue;
            }
            let token = match token {
                Token::Text(text) => AddedToken::from(text.as_str(), true),
                Token::Flagged(flagged) if named.contains(&text) => flagged.clone().into_special(),
                Token::Flagged(flagged) => flagged.token.clone(),
            };
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        tokens
    }

    /// What some classes do with all their special tokens once more: Qwen's plainly, Cohere's with their flags.
    pub(crate) fn tokens_again(&self, class: Rebuilt) -> Vec<AddedToken> {
        let all = self.named.iter().map(|(_, token)| token).chain(&self.extra);
        let again = |token: &Token| match (class, token) {
            (Rebuilt::Qwen2, token) => Some(AddedToken::from(token.text(), true)),
            (Rebuilt::Cohere, Token::Text(text)) => Some(AddedToken::from(text.as_str(), true)),
            (Rebuilt::Cohere, Token::Flagged(flagged)) => Some(flagged.clone().into_special()),
            _ => None,
        };
        all.filter_map(again).collect()
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(keys) => keys.is_empty(),
        _ => false,
    }
}

fn object(what: &str, value: Value) -> Result<Map<String, Value>> {
    match value {
        Value::Object(keys) => Ok(keys),
        other => Err(mistyped(what, "(the whole file)", "an object", &other)),
    }
}

/// A list of tokens.
fn tokens(what: &str, key: &str, list: &Value) -> Result<Vec<Token>> {
    let special = Some(true);
    let read = list.as_array().map(|list| {
        let tokens = list.iter().map(|value| Token::read(value, special));
        tokens.collect::<Option<Vec<Token>>>()
    });
    match read.flatten() {
        Some(tokens) => Ok(tokens),
        None => Err(mistyped(what, key, "a list of tokens", list)),
    }
}

fn flag(what: &str, config: &Map<String, Value>, key: &str) -> Result<Option<bool>> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(other) => Err(mistyped(what, key, "true or false", other)),
    }
}

/// `chat_template`: a string, or a list of `{name, template}` of which `default` (else the only one) is taken.
fn chat_template(what: &str, config: &Map<String, Value>) -> Result<Option<String>> {
    let expected = "a string or a list of named templates with one called `default`";
    let given = config.get("chat_template").unwrap_or(&Value::Null);
    let templates = match given {
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
        None => Err(mistyped(what, "chat_template", expected, given)),
    }
}

/// The templates of a list of `{name, template}`, by name.
fn named_templates(config: &Map<String, Value>) -> BTreeMap<String, String> {
    let given = config.get("chat_template").and_then(Value::as_array);
    let listed = given.into_iter().flatten();
    let named =
        listed.filter_map(|entry| Some((entry["name"].as_str()?, entry["template"].as_str()?)));
    named
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .collect()
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
