//! Chat templates: a conversation becomes one string, as `transformers` renders it.
//!
//! `transformers` compiles the template with Jinja2 under `trim_blocks`, `lstrip_blocks` and the loop-controls
//! extension, and gives it `messages`, `tools`, `documents`, `add_generation_prompt`, the special tokens
//! (`bos_token`, `eos_token`, ...), the functions `raise_exception` and `strftime_now` and a `tojson` that does not
//! escape HTML. The same language is in `jinja/`, with Python's semantics and with limits.
//! `{% generation %}` blocks only mark spans for assistant masks; they are rendered as their content.
//! Messages are whole (`message.rs`); what else a row gives is in `inputs.rs`. Left out: messages with images.
//! Source: `transformers/utils/chat_template_utils.py`, version 5. Tested in `tests/chat_template.rs`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::error::{Result, TextError};
use crate::inputs::TemplateInputs;
use crate::jinja::Template;
use crate::message::Message;

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    file: String,
    template: Template,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`TextError::TemplateSyntax`] when it is not valid Jinja, or nests too deep.
    pub fn compile(source: &str) -> Result<Self> {
        Self::compile_from(source, "chat template")
    }

    /// Compiles a template; errors name the file that it stands in.
    pub(crate) fn compile_from(source: &str, file: &str) -> Result<Self> {
        let template = Template::parse(source).map_err(|error| TextError::TemplateSyntax {
            reason: format!("{file}: {error}"),
        })?;
        Ok(Self {
            source: source.to_owned(),
            file: file.to_owned(),
            template,
        })
    }

    /// The template as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation with what its row gives besides. `special_tokens` are variables such as `bos_token`, by
    /// name; the row's variables come before them.
    ///
    /// # Errors
    /// [`TextError::TemplateRender`] when the template fails or calls `raise_exception`.
    pub fn render(
        &self,
        messages: &[Message],
        inputs: &TemplateInputs,
        add_generation_prompt: bool,
        special_tokens: &BTreeMap<String, String>,
    ) -> Result<String> {
        let mut variables: Map<String, Value> = special_tokens
            .iter()
            .map(|(name, token)| (name.clone(), Value::from(token.as_str())))
            .collect();
        let given = inputs.variables.iter();
        variables.extend(given.map(|(name, value)| (name.clone(), value.clone())));
        let messages: Vec<_> = messages.iter().map(Message::for_template).collect();
        variables.insert("messages".to_owned(), json!(messages));
        variables.insert("tools".to_owned(), json!(inputs.tools));
        variables.insert("documents".to_owned(), json!(inputs.documents));
        variables.insert(
            "add_generation_prompt".to_owned(),
            Value::from(add_generation_prompt),
        );
        self.render_variables(&variables)
    }

    /// Renders the template with exactly these variables, among them `messages`.
    ///
    /// # Errors
    /// [`TextError::TemplateRender`] when the template fails or calls `raise_exception`.
    pub fn render_variables(&self, variables: &Map<String, Value>) -> Result<String> {
        self.template
            .render(variables)
            .map_err(|error| TextError::TemplateRender {
                reason: format!("{}: {error}", self.file),
                roles: roles(variables),
            })
    }
}

/// The roles of the conversation in order, for an error's words.
fn roles(variables: &Map<String, Value>) -> Vec<String> {
    let messages = variables.get("messages").and_then(Value::as_array);
    let roles = messages.into_iter().flatten();
    let roles = roles.map(|message| message["role"].as_str().unwrap_or("?").to_owned());
    roles.collect()
}
