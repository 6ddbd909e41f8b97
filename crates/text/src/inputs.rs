//! What a row gives the chat template beside its messages: the columns `tools` and `chat_template_kwargs`.
//!
//! As TRL 1.16 reads them: `tools` is a list of JSON schemas or the JSON text of one; `chat_template_kwargs` are the
//! keyword arguments of `apply_chat_template`. Most of them are variables of the template. A few names are arguments
//! of the function: `tools` and `documents` (in place of the row's), `chat_template` (another template, by its source
//! or its name) and, where a whole conversation is rendered, `add_generation_prompt`. The other arguments concern
//! tokenisation; they are refused unless their value changes nothing.
//! Source: `tokenize_fn` in `trl/trainer/{dpo,kto,sft}_trainer.py`, `PreTrainedTokenizerBase.apply_chat_template` of
//! `transformers` 5.23. Tested in `tests/messages.rs`.

use serde_json::{Map, Value};

use crate::error::{Result, TextError};

const TOOLS: &str = "tools";
const KWARGS: &str = "chat_template_kwargs";

/// What a row gives the chat template beside its messages; the default is nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TemplateInputs {
    /// Schemas of the tools, in the order of the data. An empty list is not the same as none.
    pub tools: Option<Vec<Value>>,
    /// Documents to answer from.
    pub documents: Option<Vec<Value>>,
    /// The template to render with: its source, or its name among the tokenizer's templates.
    pub chat_template: Option<String>,
    /// Whether a whole conversation ends with the generation prompt; prompts always do.
    pub add_generation_prompt: Option<bool>,
    /// Variables of the template.
    pub variables: Map<String, Value>,
}

impl TemplateInputs {
    /// Reads the two columns of a row; null counts as absent.
    ///
    /// # Errors
    /// [`TextError::TemplateInput`] for tools that are no list of objects, and for arguments that would change what
    /// the row's ids are in another way than through the template.
    pub fn new(tools: Option<&Value>, kwargs: Option<&Value>) -> Result<Self> {
        let mut inputs = Self {
            tools: read_tools(tools)?,
            ..Self::default()
        };
        match kwargs {
            None | Some(Value::Null) => {}
            Some(Value::Object(kwargs)) => {
                for (name, value) in kwargs {
                    inputs.set(name, value)?;
                }
            }
            Some(other) => {
                return Err(refused(
                    KWARGS,
                    format!(
                        "should be an object of values for the chat template, found {}",
                        short(other)
                    ),
                ));
            }
        }
        Ok(inputs)
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<()> {
        let wrong = |expected: &str| {
            let got = short(value);
            refused(
                KWARGS,
                format!("`{name}` should be {expected}, found {got}"),
            )
        };
        let off = value.is_null() || value == &Value::Bool(false);
        match name {
            TOOLS => self.tools = schemas(value).ok_or_else(|| wrong("a list of JSON schemas"))?,
            "documents" => {
                self.documents = schemas(value).ok_or_else(|| wrong("a list of objects"))?;
            }
            "chat_template" => {
                self.chat_template = match value {
                    Value::Null => None,
                    Value::String(template) => Some(template.clone()),
                    _ => return Err(wrong("the text or the name of a template")),
                }
            }
            "add_generation_prompt" => {
                let given = value.as_bool().ok_or_else(|| wrong("true or false"))?;
                self.add_generation_prompt = Some(given);
            }
            "continue_final_message"
            | "sanitize_control_tokens"
            | "truncation"
            | "padding"
            | "max_length"
            | "return_tensors"
            | "return_assistant_tokens_mask"
            | "tokenizer_kwargs"
                if off => {}
            "continue_final_message"
            | "sanitize_control_tokens"
            | "truncation"
            | "padding"
            | "max_length"
            | "return_tensors"
            | "return_assistant_tokens_mask"
            | "tokenizer_kwargs"
            | "tokenize"
            | "return_dict"
            | "conversation"
            | "conversations"
            | "messages"
            | "processing_class"
            | "input"
            | "self" => {
                return Err(refused(
                    KWARGS,
                    format!(
                        "`{name}` is an argument of tokenisation and no variable of the template; it cannot be set by \
                         a row\nhint: take it out of the column"
                    ),
                ));
            }
            _ => {
                self.variables.insert(name.to_owned(), value.clone());
            }
        }
        Ok(())
    }

    /// Refuses a generation prompt that the row asks for or forbids: a prompt always ends with it.
    ///
    /// # Errors
    /// [`TextError::TemplateInput`].
    pub fn for_prompts(self) -> Result<Self> {
        match self.add_generation_prompt {
            None => Ok(self),
            Some(_) => Err(refused(
                KWARGS,
                "`add_generation_prompt` is set, but a prompt always ends with the generation prompt and prompt + \
                 completion never does\nhint: take it out of the column"
                    .to_owned(),
            )),
        }
    }
}

fn read_tools(tools: Option<&Value>) -> Result<Option<Vec<Value>>> {
    const EXPECTED: &str = "should be a list of JSON schemas (objects), or the JSON text of one";
    let wrong = |got: &Value| refused(TOOLS, format!("{EXPECTED}, found {}", short(got)));
    match tools {
        None => Ok(None),
        Some(Value::String(text)) => {
            let parsed: Value = serde_json::from_str(text).map_err(|error| {
                refused(TOOLS, format!("{EXPECTED}; its text is not JSON: {error}"))
            })?;
            schemas(&parsed).ok_or_else(|| wrong(&parsed))
        }
        Some(value) => schemas(value).ok_or_else(|| wrong(value)),
    }
}

/// A list of objects; `None` for anything else but null.
fn schemas(value: &Value) -> Option<Option<Vec<Value>>> {
    match value {
        Value::Null => Some(None),
        Value::Array(items) if items.iter().all(Value::is_object) => Some(Some(items.clone())),
        _ => None,
    }
}

fn refused(column: &'static str, reason: String) -> TextError {
    TextError::TemplateInput { column, reason }
}

fn short(value: &Value) -> String {
    let mut got = value.to_string();
    if got.chars().count() > 60 {
        got = got.chars().take(60).chain("…".chars()).collect();
    }
    got
}
