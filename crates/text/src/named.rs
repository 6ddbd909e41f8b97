//! A tokenizer's chat templates: the default, others by name, and templates that rows bring along.
//!
//! The named ones stand in `tokenizer_config.json` as a list, or in the files `additional_chat_templates/NAME.jinja`.
//! Which one renders is decided as in `PreTrainedTokenizerBase.get_chat_template` of `transformers` 5.23: the one that
//! the row asks for, by name or source; else `tool_use`, where there is one and the row has tools; else the default.
//! Tested in `tests/messages.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::chat_template::ChatTemplate;
use crate::error::{Result, TextError};
use crate::inputs::TemplateInputs;

/// The folder of named templates in a tokenizer's directory.
pub(crate) const FOLDER: &str = "additional_chat_templates/";

/// The template for conversations with tools.
const TOOL_USE: &str = "tool_use";

/// How many templates beside the default stay compiled.
const KEPT: usize = 8;

/// The name of the template in a file of [`FOLDER`].
pub(crate) fn template_name(file: &str) -> Option<&str> {
    file.strip_prefix(FOLDER)?.strip_suffix(".jinja")
}

/// All chat templates of a tokenizer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Templates {
    default: Option<Arc<ChatTemplate>>,
    /// Sources by name.
    named: BTreeMap<String, String>,
    /// The last templates beside the default that were compiled.
    compiled: Arc<Mutex<VecDeque<Arc<ChatTemplate>>>>,
}

impl Templates {
    /// Compiles the default; the named ones are compiled when a row needs them.
    /// Errors name `file`, where the default stands.
    pub(crate) fn new(
        default: Option<&str>,
        file: &str,
        named: BTreeMap<String, String>,
    ) -> Result<Self> {
        Ok(Self {
            default: default
                .map(|source| ChatTemplate::compile_from(source, file))
                .transpose()?
                .map(Arc::new),
            named,
            compiled: Arc::default(),
        })
    }

    /// Whether a conversation without tools can be rendered.
    pub(crate) fn has_default(&self) -> bool {
        self.default.is_some()
    }

    /// The template for a row.
    pub(crate) fn choose(&self, inputs: &TemplateInputs) -> Result<Arc<ChatTemplate>> {
        if let Some(wanted) = &inputs.chat_template {
            return self.compile(self.named.get(wanted).unwrap_or(wanted));
        }
        match self.named.get(TOOL_USE) {
            Some(source) if inputs.tools.is_some() => self.compile(source),
            _ => self.default.clone().ok_or(TextError::NoChatTemplate),
        }
    }

    fn compile(&self, source: &str) -> Result<Arc<ChatTemplate>> {
        // A poisoned lock holds whole templates all the same.
        let lock = || self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().iter().find(|known| known.source() == source) {
            return Ok(known.clone());
        }
        let template = Arc::new(ChatTemplate::compile(source)?);
        let mut compiled = lock();
        if compiled.len() == KEPT {
            compiled.pop_front();
        }
        compiled.push_back(template.clone());
        Ok(template)
    }
}
