//! Chat templates: a conversation becomes one string, as `transformers` renders it.
//!
//! `transformers` compiles the template with Jinja2 under `trim_blocks`, `lstrip_blocks` and the loop-controls
//! extension, and gives it `messages`, `tools`, `documents`, `add_generation_prompt`, the special tokens
//! (`bos_token`, `eos_token`, ...), the functions `raise_exception` and `strftime_now` and a `tojson` that does not
//! escape HTML. The same is set up here on `minijinja`, with Python's string and list methods.
//! `{% generation %}` blocks only mark spans for assistant masks; they are rendered as their content.
//! Messages are whole (`message.rs`); what else a row gives is in `inputs.rs`. Left out: messages with images.
//! Source: `transformers/utils/chat_template_utils.py`, version 5. Tested in `tests/chat_template.rs`.

use std::collections::BTreeMap;

use crate::error::{Result, TextError};
use crate::inputs::TemplateInputs;
use crate::message::Message;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior};

/// A compiled chat template.
#[derive(Clone)]
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// Bounds time and memory of a rendering: templates come with models from strangers. A conversation of a thousand
/// turns takes well under a hundredth of it.
const FUEL: u64 = 10_000_000;

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`TextError::TemplateSyntax`] when it is not valid Jinja.
    pub fn compile(source: &str) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("the delimiters are the default ones");
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(python_format);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment
            .add_template_owned(NAME, without_generation_marks(source))
            .map_err(|error| TextError::TemplateSyntax {
                reason: describe(&error),
            })?;
        Ok(Self {
            source: source.to_owned(),
            environment,
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
        let failed = |error: Error| TextError::TemplateRender {
            reason: describe(&error),
            roles: messages
                .iter()
                .map(|message| message.role().to_owned())
                .collect(),
        };
        let mut context: BTreeMap<&str, Value> = special_tokens
            .iter()
            .map(|(name, token)| (name.as_str(), Value::from(token.as_str())))
            .collect();
        let given = inputs.variables.iter();
        context.extend(given.map(|(name, value)| (name.as_str(), Value::from(Serde(value)))));
        let messages: Vec<_> = messages.iter().map(Message::for_template).collect();
        context.insert("messages", Value::from(Serde(messages)));
        context.insert("tools", Value::from(Serde(&inputs.tools)));
        context.insert("documents", Value::from(Serde(&inputs.documents)));
        context.insert("add_generation_prompt", Value::from(add_generation_prompt));
        let template = self.environment.get_template(NAME).map_err(failed)?;
        template.render(Value::from_pairs(context)).map_err(failed)
    }
}

/// The error with its causes; `raise_exception`'s own words when that was the reason.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// Turns `{% generation %}` ... `{% endgeneration %}` into a block that is always rendered, keeping the marks that
/// control white space.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let Some(close) = rest[open..].find("%}").map(|at| open + at) else {
            break;
        };
        let inside = &rest[open + 2..close];
        let word = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        out.push_str(&rest[..open + 2]);
        match word {
            "generation" => out.push_str(&inside.replace("generation", "if true")),
            "endgeneration" => out.push_str(&inside.replace("endgeneration", "endif")),
            _ => out.push_str(inside),
        }
        out.push_str("%}");
        rest = &rest[close + 2..];
    }
    out.push_str(rest);
    out
}

/// Writes `True`, `False` and `None` as Python does; everything else as the engine does.
fn python_format(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    if value.is_none() {
        out.write_str("None").map_err(Error::from)
    } else if value.kind() == minijinja::value::ValueKind::Bool {
        out.write_str(if value.is_true() { "True" } else { "False" })
            .map_err(Error::from)
    } else {
        minijinja::escape_formatter(out, state, value)
    }
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The local time in a `strftime` format, as Python's `datetime.now().strftime`.
fn strftime_now(format: String) -> Result<String, Error> {
    jiff::fmt::strtime::format(&format, &jiff::Zoned::now()).map_err(|error| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("strftime_now: {error}"),
        )
    })
}

/// Python's `json.dumps(value, ensure_ascii=False, ...)`.
fn tojson(value: Value, options: Kwargs) -> Result<String, Error> {
    let _ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let json = serde_json::to_value(&value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, format!("tojson: {error}")))?;
    let (between, after_key) = match separators.as_deref() {
        Some([between, after_key]) => (between.clone(), after_key.clone()),
        Some(_) => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "tojson: `separators` takes two strings",
            ));
        }
        // Python leaves out the space after the comma when each item has a line of its own.
        None => (
            if indent.is_some() {
                ",".into()
            } else {
                ", ".into()
            },
            ": ".into(),
        ),
    };
    let style = JsonStyle {
        indent,
        between,
        after_key,
        sort_keys: sort_keys.unwrap_or(false),
    };
    let mut out = String::new();
    style.write(&json, 0, &mut out);
    Ok(out)
}

/// How `json.dumps` lays out what it writes.
struct JsonStyle {
    indent: Option<usize>,
    between: String,
    after_key: String,
    sort_keys: bool,
}

impl JsonStyle {
    fn write(&self, value: &serde_json::Value, depth: usize, out: &mut String) {
        use serde_json::Value as Json;
        match value {
            Json::Array(items) if !items.is_empty() => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    self.break_line(at > 0, depth + 1, out);
                    self.write(item, depth + 1, out);
                }
                self.break_line(false, depth, out);
                out.push(']');
            }
            Json::Object(fields) if !fields.is_empty() => {
                let mut fields: Vec<_> = fields.iter().collect();
                if self.sort_keys {
                    fields.sort_by_key(|(key, _)| *key);
                }
                out.push('{');
                for (at, (key, item)) in fields.into_iter().enumerate() {
                    self.break_line(at > 0, depth + 1, out);
                    out.push_str(&Json::from(key.as_str()).to_string());
                    out.push_str(&self.after_key);
                    self.write(item, depth + 1, out);
                }
                self.break_line(false, depth, out);
                out.push('}');
            }
            // Scalars, `[]` and `{}` look the same in both languages.
            other => out.push_str(&other.to_string()),
        }
    }

    fn break_line(&self, separate: bool, depth: usize, out: &mut String) {
        if separate {
            out.push_str(&self.between);
        }
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }
}
