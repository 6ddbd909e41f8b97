//! Rows in the forms of other trainers, so that an error can name them.
//!
//! LLaMA-Factory and axolotl keep preference data under other columns than TRL. Some of their rows would even be read: with
//! `instruction`, `chosen` and `rejected` the prompt would be taken for the completions' common beginning, and the
//! instruction would be left out without a word. So rows of these forms are refused, with what to do.
//! Sources: LLaMA-Factory's `data/README.md`, axolotl's documentation of preference data. Tested in `tests/foreign.rs`.

use serde_json::Value;

use crate::row::Columns;

/// A form of another trainer.
pub(crate) struct Foreign {
    /// Whose it is, and what it looks like.
    pub form: &'static str,
    /// What to do.
    pub hint: &'static str,
}

const ALPACA: Foreign = Foreign {
    form: "LLaMA-Factory's alpaca form (`instruction`, `input`)",
    hint: "join instruction and input to a column `prompt`; `output` is called `completion` here",
};

const SHAREGPT: Foreign = Foreign {
    form: "LLaMA-Factory's sharegpt form (`conversations` of {from, value})",
    hint: "give `prompt`, `chosen` and `rejected` as lists of {role, content}, with the roles system, user and assistant",
};

const QUESTION: Foreign = Foreign {
    form: "axolotl's form with a `question`",
    hint: "rename `question` to `prompt`; a `system` text is the first message of a conversational prompt",
};

const SINGLE_MESSAGE: Foreign = Foreign {
    form: "the form of axolotl's chat_template.default and of LLaMA-Factory (`chosen` and `rejected` are one message each)",
    hint: "call the conversation `prompt` and make `chosen` and `rejected` lists of one {role, content}",
};

/// The form of another trainer that a row has, if it has one and is none of ours.
pub(crate) fn foreign(columns: &Columns) -> Option<Foreign> {
    let has = |name: &str| columns.names.iter().any(|column| column == name);
    if has("prompt") {
        return None;
    }
    let pair = has("chosen") || has("rejected");
    let one_message = |side: &str| {
        let value = columns.values.get(side);
        value.is_some_and(|value| {
            value.is_object() && (value["value"].is_string() || value["content"].is_string())
        })
    };
    let single = one_message("chosen") || one_message("rejected");
    if has("conversations") && (single || !(pair || has("messages") || has("text"))) {
        return Some(SHAREGPT);
    }
    if single {
        return Some(SINGLE_MESSAGE);
    }
    if has("instruction") && (pair || has("output")) {
        return Some(ALPACA);
    }
    // `text` beside it: the row may be meant for something else.
    let text = |name: &str| matches!(columns.values.get(name), Some(Value::String(_)));
    (has("question") && pair && !has("messages") && text("chosen")).then_some(QUESTION)
}
