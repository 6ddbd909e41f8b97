//! Chat templates in Jinja, with Python's semantics, bounded in depth, memory and work.
//!
//! `transformers` renders chat templates with Jinja2 in an immutable sandbox, and the templates in use lean on Python:
//! `'%s' % x`, `rsplit`, `none is iterable`, how a float or a list prints. So this is Jinja2's language over values
//! that behave as Python's: integers and floats apart, dictionaries in order of insertion, methods before keys in
//! `d.items`, generators that run once, and the errors that Python raises. Rust's engines keep their own semantics in
//! operators and printing, where no hook reaches.
//!
//! Templates come with models from strangers. [`vm::Budget`] counts the steps of a rendering and the bytes it makes
//! before it makes them; the parser bounds nesting, and values know how deep they nest. Parsing and rendering
//! run on a thread with a stack of known size.
//!
//! Left out, with an error that says so: other templates (`include`, `extends`, `import`), `autoescape`, bytes, integers of
//! more than 128 bits, and printing what Python shows with an address. `{% generation %}` is rendered as its content.
//!
//! Source: Jinja2 3.1.6 and `transformers/utils/chat_template_utils.py`, version 5.23. Tested in `tests/jinja.rs`
//! against what Jinja2 rendered (`tests/parity/jinja.py`).

mod arguments;
mod attributes;
mod check;
mod clock;
mod filters;
mod format;
mod iterate;
mod json;
mod lazy_filters;
mod lexer;
mod methods;
mod number_filters;
mod numbers;
mod ops;
mod parser;
mod percent;
mod repr;
mod statements;
mod strings;
mod syntax;
mod tests;
mod text_filters;
mod unicode;
mod value;
mod vm;

use std::sync::Arc;

/// The result of every step.
type Result<T, E = Fail> = std::result::Result<T, E>;

/// Why a template was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fail {
    message: String,
    line: Option<u32>,
}

impl Fail {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            line: None,
        }
    }

    fn at(line: u32, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            line: Some(line),
        }
    }

    /// The line of the template, where none is known yet.
    fn or_at(mut self, line: u32) -> Self {
        self.line.get_or_insert(line);
        self
    }
}

impl std::fmt::Display for Fail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{} (line {line})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Bytes of stack for parsing and rendering: the limits on nesting need less than a quarter of it. Pages that are not
/// touched cost nothing.
const STACK: usize = 128 << 20;

/// The longest template, in bytes. The longest in use are about 20 kB.
const MAX_SOURCE: usize = 4 << 20;

/// A parsed template.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    body: Arc<Vec<syntax::Statement>>,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// When it is no valid Jinja, or nests too deep.
    pub(crate) fn parse(source: &str) -> Result<Self> {
        if source.len() > MAX_SOURCE {
            return Err(Fail::new(format!(
                "a template of {} bytes; the limit is {MAX_SOURCE}",
                source.len()
            )));
        }
        let body = on_large_stack(|| parser::parse(source))?;
        Ok(Self {
            body: Arc::new(body),
        })
    }

    /// Renders the template with variables by name.
    ///
    /// # Errors
    /// When the template fails, calls `raise_exception`, or passes a limit.
    pub(crate) fn render(
        &self,
        variables: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<String> {
        on_large_stack(|| vm::render(&self.body, variables))
    }
}

/// Runs a part that recurses on a thread whose stack is large enough for every limit here.
fn on_large_stack<T: Send>(part: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("chat template".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, part)
            .map_err(|error| Fail::new(format!("no thread for the template: {error}")))?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
