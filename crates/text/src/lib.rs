//! Text in and out of a language model: tokenizer and chat template.
//!
//! Wraps the `tokenizers` library (with its pure-Rust regular expressions, so that nothing has to be installed)
//! and renders chat templates as `transformers` renders them with Jinja2 (`jinja/`). A tokenizer comes from
//! a directory in Hugging Face layout, from the bytes of its parts, or from the vocabulary stored in a GGUF file;
//! it is written back so that `transformers.AutoTokenizer` opens it to the same ids.
//!
//! Left out: slow (Python) tokenizers and SentencePiece `.model` files without a `tokenizer.json`; images in
//! conversations.
//!
//! Tested in `tests/`, against ids and renderings recorded from `transformers` (`tests/parity/generate.py`).

mod chat_template;
mod class;
mod cut;
mod error;
mod gguf;
mod guard;
mod inputs;
mod jinja;
mod label;
mod message;
mod named;
mod save;
mod settings;
mod source;
mod tokenizer;
mod train;
mod validate;

pub use chat_template::ChatTemplate;
pub use error::{Result, TextError};
pub use gguf::GgufVocabulary;
pub use guard::fenced;
pub use inputs::TemplateInputs;
pub use message::Message;
pub use tokenizer::Tokenizer;
