//! Rows: what a data set says about one prompt, before tokenisation.
//!
//! A row is recognised by its columns, as TRL documents them; columns that no shape needs are ignored. Preference
//! columns come first: a row with `chosen` and `rejected` is a preference even when it also has `messages`.
//! Prompts that are only implied (the common beginning of chosen and rejected) are split off here; turns are common
//! when they agree in every field. What a conversation's row says to the chat template besides, `tools` and
//! `chat_template_kwargs`, is kept with it.
//!
//! Values are those of the file. `datasets` 5.2, which reads for TRL, changes some on the way: keys are put in the order
//! of the first row where all rows have the same ones, whole numbers become fractions beside fractions, text that looks
//! like a date becomes one where a whole column does, and in a column that mixes text with objects or lists, text that
//! is JSON is parsed; fractions beside other kinds are cut to ten digits. A template would show these changes.
//!
//! Rows with pictures are refused, by the column's name, as TRL refuses them beside a text model.
//! Tested in `tests/shapes.rs` and `tests/whole_rows.rs`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value};
use unbraid_text::{Message, TemplateInputs};

use crate::error::{PreferenceError, Result};
use crate::foreign::{Foreign, foreign};
use crate::parse::{non_finite_name, non_finite_within, without_non_finite};
use crate::prompt::{split_messages, split_prompt};
use crate::tokenize::at;

/// The shapes of rows that are accepted, for messages.
pub const ACCEPTED_SHAPES: &str = "{prompt, chosen, rejected}, {chosen, rejected} (the prompt is their common \
     beginning), {prompt, completion, label}, {prompt, completion}, {messages}, {text}; prompt, chosen, rejected and \
     completion are text or lists of {role, content, ...}; an optional numeric `weight`; with conversations optional \
     `tools` and `chat_template_kwargs`";

/// The columns that are read; all others are ignored.
pub(crate) const COLUMNS: [&str; 10] = [
    "prompt",
    "chosen",
    "rejected",
    "completion",
    "label",
    "messages",
    "text",
    "weight",
    TOOLS,
    KWARGS,
];

const TOOLS: &str = "tools";
const KWARGS: &str = "chat_template_kwargs";

/// Columns of rows that show pictures: TRL refuses the first two beside a text model, the others hold pictures that
/// a processor has read.
const PICTURES: [&str; 5] = [
    "image",
    "images",
    "pixel_values",
    "pixel_attention_mask",
    "image_grid_thw",
];

/// Where a row came from: shown as `file:12` for lines and `file, row 12` for rows, both counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    file: Arc<str>,
    number: usize,
    is_line: bool,
}

impl Location {
    /// A line of a text file, counted from 1.
    pub fn line(file: &Path, number: usize) -> Self {
        Self {
            file: file.display().to_string().into(),
            number,
            is_line: true,
        }
    }

    /// A row of a table or list, counted from 1.
    pub fn row(file: &Path, number: usize) -> Self {
        Self {
            is_line: false,
            ..Self::line(file, number)
        }
    }

    /// The same file at another line or row.
    pub(crate) fn at(&self, number: usize) -> Self {
        Self {
            number,
            ..self.clone()
        }
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let between = if self.is_line { ":" } else { ", row " };
        write!(f, "{}{between}{}", self.file, self.number)
    }
}

/// What a column says: plain text, or turns of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Turns in order; never empty for a prompt.
    Conversation(Vec<Message>),
}

/// The shapes of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum RowKind {
    /// A prompt with a preferred and a dispreferred completion; all three are text or all are conversations.
    Preference {
        /// The prompt, given or split off.
        prompt: Content,
        /// The preferred completion.
        chosen: Content,
        /// The dispreferred completion.
        rejected: Content,
    },
    /// A completion that was judged on its own.
    Unpaired {
        /// The prompt.
        prompt: Content,
        /// The completion.
        completion: Content,
        /// Whether it was liked.
        label: bool,
    },
    /// A completion to imitate.
    PromptCompletion {
        /// The prompt.
        prompt: Content,
        /// The completion.
        completion: Content,
    },
    /// A text to imitate.
    Text(String),
    /// A conversation to imitate.
    Messages(Vec<Message>),
}

impl RowKind {
    /// The kind in words, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Preference { .. } => "a preference row",
            Self::Unpaired { .. } => "an unpaired row (prompt, completion, label)",
            Self::PromptCompletion { .. } => "a prompt-completion row",
            Self::Text(_) => "a text row",
            Self::Messages(_) => "a messages row",
        }
    }
}

/// One row of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Where it came from.
    pub location: Location,
    /// Its weight in the loss: finite, not negative, 1 when the data set has no `weight`.
    pub weight: f64,
    /// What it says.
    pub kind: RowKind,
    /// What it gives the chat template beside its messages; nothing where it is plain text.
    pub inputs: TemplateInputs,
    /// All its columns as they were read, where they were asked for
    /// ([`stream_whole_rows`](crate::stream_whole_rows)).
    pub columns: Option<Map<String, Value>>,
}

impl Row {
    /// Recognises a row by its columns. Null counts as absent.
    pub(crate) fn from_columns(location: Location, columns: Columns) -> Result<Self> {
        let reader = Reader {
            location: &location,
            columns: &columns,
        };
        let has = |name: &str| {
            columns
                .values
                .get(name)
                .is_some_and(|value| !value.is_null())
        };
        if let Some(Foreign { form, hint }) = foreign(&columns) {
            return Err(PreferenceError::Foreign {
                location,
                form,
                hint,
            });
        }
        let kind = if has("chosen") || has("rejected") {
            reader.preference()?
        } else if has("completion") && has("label") {
            let (prompt, completion) = reader.prompt_completion()?;
            RowKind::Unpaired {
                prompt,
                completion,
                label: reader.label()?,
            }
        } else if has("completion") {
            let (prompt, completion) = reader.prompt_completion()?;
            RowKind::PromptCompletion { prompt, completion }
        } else if has("messages") {
            match reader.content("messages")? {
                Content::Conversation(messages) => RowKind::Messages(messages),
                Content::Text(text) => {
                    return Err(reader.mistyped(
                        "messages",
                        "a list of messages",
                        &Value::from(text),
                    ));
                }
            }
        } else if has("text") {
            match reader.content("text")? {
                Content::Text(text) => RowKind::Text(text),
                Content::Conversation(_) => {
                    return Err(reader.mistyped("text", "text", &columns.values["text"]));
                }
            }
        } else {
            return Err(PreferenceError::Shape {
                location,
                columns: columns.names,
            });
        };
        let weight = reader.weight()?;
        let inputs = reader.inputs(&kind)?;
        Ok(Self {
            location,
            weight,
            kind,
            inputs,
            columns: None,
        })
    }
}

/// Which column holds plain text: `text`, or the one that the user names; and whether rows keep all their columns.
#[derive(Debug, Clone, Default)]
pub(crate) struct TextField {
    name: Option<Arc<str>>,
    whole: bool,
    only: Option<Arc<Selection>>,
}

impl TextField {
    pub(crate) fn new(name: Option<&str>, whole: bool) -> Self {
        Self {
            name: name.filter(|name| *name != "text").map(Arc::from),
            whole,
            only: None,
        }
    }

    /// The same for rows of which only some columns count.
    pub(crate) fn of(self, only: Arc<Selection>) -> Self {
        Self {
            only: Some(only),
            ..self
        }
    }

    /// Whether a column is loaded from a table.
    pub(crate) fn loads(&self, column: &str) -> bool {
        self.whole || self.reads(column)
    }

    /// Whether a column is read at all.
    pub(crate) fn reads(&self, column: &str) -> bool {
        COLUMNS.contains(&column) || self.name.as_deref() == Some(column)
    }

    /// The row of these columns.
    pub(crate) fn row(&self, location: Location, mut columns: Columns) -> Result<Row> {
        // Rows read whole may be material for something else than a conversation.
        if !self.whole
            && let Some(column) = columns.names.iter().find(|name| is_picture(name))
        {
            return Err(PreferenceError::Pictures {
                location,
                what: format!("column `{column}`"),
            });
        }
        if let Some(only) = &self.only {
            only.apply(&mut columns);
        }
        let whole = self.whole.then(|| {
            let mut values = columns.values.clone();
            values.values_mut().for_each(without_non_finite);
            values
        });
        if let Some(name) = &self.name
            && let Some(text) = columns.values.remove(&**name)
        {
            columns.values.insert("text".into(), text);
        }
        let mut row = Row::from_columns(location, columns)?;
        row.columns = whole;
        Ok(row)
    }
}

fn is_picture(column: &str) -> bool {
    PICTURES.contains(&column)
}

/// The columns of a data set that count; others are as if they were not there.
#[derive(Debug)]
pub(crate) struct Selection {
    columns: Vec<String>,
    /// Which of them a row had.
    seen: Vec<AtomicBool>,
}

impl Selection {
    pub(crate) fn new(columns: Vec<String>) -> Self {
        let seen = columns.iter().map(|_| AtomicBool::new(false)).collect();
        Self { columns, seen }
    }

    fn apply(&self, columns: &mut Columns) {
        for (column, seen) in self.columns.iter().zip(&self.seen) {
            if !seen.load(Ordering::Relaxed) && columns.names.contains(column) {
                seen.store(true, Ordering::Relaxed);
            }
        }
        columns.names.retain(|name| self.columns.contains(name));
        columns.values.retain(|name, _| self.columns.contains(name));
    }

    /// A column that no row so far had.
    pub(crate) fn missing(&self) -> Option<&str> {
        let mut columns = self.columns.iter().zip(&self.seen);
        let missing = columns.find(|(_, seen)| !seen.load(Ordering::Relaxed));
        missing.map(|(column, _)| column.as_str())
    }
}

/// A row's columns as JSON, and the names of all columns that its file has.
pub(crate) struct Columns {
    pub values: Map<String, Value>,
    pub names: Vec<String>,
}

struct Reader<'a> {
    location: &'a Location,
    columns: &'a Columns,
}

impl Reader<'_> {
    fn value(&self, column: &'static str) -> Result<&Value> {
        match self.columns.values.get(column) {
            Some(value) if !value.is_null() => Ok(value),
            _ => Err(PreferenceError::MissingColumn {
                location: self.location.clone(),
                column,
                columns: self.columns.names.clone(),
            }),
        }
    }

    fn mistyped(
        &self,
        column: &'static str,
        expected: &'static str,
        got: &Value,
    ) -> PreferenceError {
        let mut got = non_finite_name(got).map_or_else(|| got.to_string(), str::to_owned);
        if got.chars().count() > 60 {
            got = got.chars().take(60).chain("…".chars()).collect();
        }
        PreferenceError::ColumnType {
            location: self.location.clone(),
            column,
            expected,
            got,
            columns: self.columns.names.clone(),
        }
    }

    fn content(&self, column: &'static str) -> Result<Content> {
        const EXPECTED: &str =
            "text or a list of messages, each an object with a `role` that is text";
        let value = self.value(column)?;
        match value {
            Value::String(text) => Ok(Content::Text(text.clone())),
            Value::Array(turns) if !turns.is_empty() => {
                self.check_finite(column)?;
                let turn = |turn: &Value| Message::from_fields(turn.as_object()?.clone());
                let turns: Option<Vec<Message>> = turns.iter().map(turn).collect();
                let turns = turns.ok_or_else(|| self.mistyped(column, EXPECTED, value))?;
                match turns.iter().find_map(Message::medium) {
                    None => Ok(Content::Conversation(turns)),
                    Some(kind) => Err(PreferenceError::Pictures {
                        location: self.location.clone(),
                        what: format!("a part of type `{kind}` in column `{column}`"),
                    }),
                }
            }
            other => Err(self.mistyped(column, EXPECTED, other)),
        }
    }

    /// Refuses a number that JSON has not, which a template would write.
    fn check_finite(&self, column: &'static str) -> Result<()> {
        let value = self.columns.values.get(column);
        match value.and_then(non_finite_within) {
            None => Ok(()),
            Some(number) => Err(self.mistyped(column, "without numbers that JSON has not", number)),
        }
    }

    /// The columns that the chat template sees beside the messages. Plain text goes through no template.
    fn inputs(&self, kind: &RowKind) -> Result<TemplateInputs> {
        let values = &self.columns.values;
        let conversational = match kind {
            RowKind::Preference { prompt, .. }
            | RowKind::Unpaired { prompt, .. }
            | RowKind::PromptCompletion { prompt, .. } => {
                matches!(prompt, Content::Conversation(_))
            }
            RowKind::Messages(_) => true,
            RowKind::Text(_) => false,
        };
        if !conversational {
            return Ok(TemplateInputs::default());
        }
        self.check_finite(TOOLS)?;
        self.check_finite(KWARGS)?;
        let inputs = TemplateInputs::new(values.get(TOOLS), values.get(KWARGS));
        let inputs = match kind {
            RowKind::Messages(_) => inputs,
            _ => inputs.and_then(TemplateInputs::for_prompts),
        };
        inputs.map_err(at(self.location))
    }

    fn preference(&self) -> Result<RowKind> {
        let (chosen, rejected) = (self.content("chosen")?, self.content("rejected")?);
        let given = self
            .columns
            .values
            .get("prompt")
            .is_some_and(|prompt| !prompt.is_null());
        let prompt = if given {
            Some(self.content("prompt")?)
        } else {
            None
        };
        let (prompt, chosen, rejected) = match (prompt, chosen, rejected) {
            (Some(Content::Text(p)), Content::Text(c), Content::Text(r)) => {
                (Content::Text(p), Content::Text(c), Content::Text(r))
            }
            (
                Some(Content::Conversation(p)),
                Content::Conversation(c),
                Content::Conversation(r),
            ) => (
                Content::Conversation(p),
                Content::Conversation(c),
                Content::Conversation(r),
            ),
            (None, Content::Text(c), Content::Text(r)) => {
                let cut = split_prompt(&c, &r);
                let text = |text: &str| Content::Text(text.to_owned());
                (text(&c[..cut]), text(&c[cut..]), text(&r[cut..]))
            }
            // A prompt as text beside whole conversations repeats their first turn: the conversations are complete.
            (
                None | Some(Content::Text(_)),
                Content::Conversation(mut c),
                Content::Conversation(mut r),
            ) => {
                let cut = split_messages(&c, &r);
                let (c_end, r_end) = (c.split_off(cut), r.split_off(cut));
                if c.is_empty() || c_end.is_empty() || r_end.is_empty() {
                    return Err(PreferenceError::WrongKind {
                        location: self.location.clone(),
                        got: "a pair of conversations without a common beginning",
                        needed: "chosen and rejected must share the prompt's turns and differ in the answer",
                    });
                }
                (
                    Content::Conversation(c),
                    Content::Conversation(c_end),
                    Content::Conversation(r_end),
                )
            }
            _ => {
                return Err(PreferenceError::MixedContent {
                    location: self.location.clone(),
                    columns: "`prompt`, `chosen` and `rejected`",
                });
            }
        };
        Ok(RowKind::Preference {
            prompt,
            chosen,
            rejected,
        })
    }

    fn prompt_completion(&self) -> Result<(Content, Content)> {
        match (self.content("prompt")?, self.content("completion")?) {
            both @ ((Content::Text(_), Content::Text(_))
            | (Content::Conversation(_), Content::Conversation(_))) => Ok(both),
            _ => Err(PreferenceError::MixedContent {
                location: self.location.clone(),
                columns: "`prompt` and `completion`",
            }),
        }
    }

    fn label(&self) -> Result<bool> {
        let value = self.value("label")?;
        match value {
            Value::Bool(label) => Ok(*label),
            Value::Number(number) if number.as_f64() == Some(1.0) => Ok(true),
            Value::Number(number) if number.as_f64() == Some(0.0) => Ok(false),
            Value::String(text) if matches!(text.trim(), "true" | "True" | "1") => Ok(true),
            Value::String(text) if matches!(text.trim(), "false" | "False" | "0") => Ok(false),
            other => Err(self.mistyped("label", "true or false", other)),
        }
    }

    fn weight(&self) -> Result<f64> {
        const EXPECTED: &str = "a finite number that is not negative";
        let value = match self.columns.values.get("weight") {
            None | Some(Value::Null) => return Ok(1.0),
            Some(value) => value,
        };
        let number = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        let usable = number.filter(|weight: &f64| weight.is_finite() && *weight >= 0.0);
        usable.ok_or_else(|| self.mistyped("weight", EXPECTED, value))
    }
}
