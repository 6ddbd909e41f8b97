//! What can go wrong between text and token ids.

use std::path::PathBuf;

/// The result of every fallible function of this crate.
pub type Result<T, E = TextError> = std::result::Result<T, E>;

/// A tokenizer or chat template that could not be read, used or written.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A directory holds no tokenizer in a layout that is known here.
    #[error(
        "no tokenizer in {}: neither tokenizer.json nor vocab.json with merges.txt\n\
         hint: a slow tokenizer is converted with `AutoTokenizer.from_pretrained(...).save_pretrained(...)`",
        dir.display()
    )]
    Missing {
        /// The directory that was searched.
        dir: PathBuf,
    },
    /// A directory holds vocabulary files of a tokenizer that only its own class knows how to use.
    #[error(
        "no tokenizer.json in {}: vocab.json with merges.txt is understood for GPT-2 alone, and this is a {class}\n\
         hint: tokenizer.json is written by `AutoTokenizer.from_pretrained(...).save_pretrained(...)`",
        dir.display()
    )]
    OtherClass {
        /// The directory.
        dir: PathBuf,
        /// `tokenizer_class` of `tokenizer_config.json`.
        class: String,
    },
    /// A file is not the JSON it should be.
    #[error("{what} is not valid JSON: {source}")]
    Json {
        /// The file, or the part when it did not come from a file.
        what: String,
        /// Where and why reading stopped.
        source: serde_json::Error,
    },
    /// A key holds a value of the wrong kind.
    #[error("{what}: `{key}` should be {expected}, found {got}")]
    Field {
        /// The file, or the part when it did not come from a file.
        what: String,
        /// The key.
        key: String,
        /// What is accepted.
        expected: &'static str,
        /// What is there, shortened.
        got: String,
    },
    /// The `tokenizers` library refused the tokenizer's description.
    #[error("{what} does not describe a tokenizer: {reason}")]
    Tokenizer {
        /// The file, or the part when it did not come from a file.
        what: String,
        /// The library's reason.
        reason: String,
    },
    /// The vocabulary of a GGUF file contradicts itself.
    #[error("GGUF vocabulary: {reason}")]
    GgufVocabulary {
        /// What contradicts what.
        reason: String,
    },
    /// A GGUF tokenizer of a kind that is not known here.
    #[error("GGUF vocabulary: unsupported `{key}` value `{got}`, supported are {supported}")]
    GgufUnsupported {
        /// The metadata key.
        key: &'static str,
        /// Its value.
        got: String,
        /// The values that are supported.
        supported: String,
    },
    /// Text could not be turned into ids.
    #[error("cannot tokenise {excerpt:?}: {reason}")]
    Encode {
        /// The beginning of the text.
        excerpt: String,
        /// The library's reason.
        reason: String,
    },
    /// A long text has no place at which it could be cut for the few tokens that are asked for.
    #[error(
        "cannot cut {excerpt:?}… for its first {most} tokens: no boundary between tokens is certain in its first {read} \
         bytes\n\
         hint: is this one endless word? split it, or leave the row out"
    )]
    NoCut {
        /// The beginning of the text.
        excerpt: String,
        /// How many tokens were asked for.
        most: usize,
        /// How far the text was looked at.
        read: usize,
    },
    /// Ids could not be turned into text.
    #[error("cannot decode {count} token ids: {reason}")]
    Decode {
        /// How many ids were given.
        count: usize,
        /// The library's reason.
        reason: String,
    },
    /// Conversational text was given to a tokenizer without a chat template.
    #[error(
        "the tokenizer has no chat template, so conversations cannot be rendered\n\
         hint: put a chat_template.jinja beside tokenizer.json, or use rows of plain text"
    )]
    NoChatTemplate,
    /// A column of a row that the chat template is to see, and that cannot be used.
    #[error("column `{column}`: {reason}")]
    TemplateInput {
        /// `tools` or `chat_template_kwargs`.
        column: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The chat template is not valid Jinja.
    #[error("the chat template cannot be compiled: {reason}")]
    TemplateSyntax {
        /// The engine's reason, with the line.
        reason: String,
    },
    /// The chat template failed on these messages, or refused them with `raise_exception`.
    #[error("the chat template refused the conversation (roles {roles:?}): {reason}{}", role_hint(.roles))]
    TemplateRender {
        /// The engine's reason, or the template's own message.
        reason: String,
        /// The roles of the messages in order.
        roles: Vec<String>,
    },
}

fn role_hint(roles: &[String]) -> &'static str {
    if roles.iter().any(|role| role == "system") {
        "\nhint: if the model knows no system role, put that text at the start of the first user message"
    } else {
        ""
    }
}
