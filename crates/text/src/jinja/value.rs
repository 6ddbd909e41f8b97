//! The values of a template, with the types that Python gives them.
//!
//! Lists, tuples and dictionaries cannot change after they are made (the sandbox of `transformers` forbids it), so
//! they are shared. Each one knows how deep it nests: nothing deeper than [`MAX_DEPTH`] is made, which keeps
//! recursion over values bounded. Namespaces and macros, which could hold themselves, live in the renderer and are
//! named by an index here. Integers have 128 bits; what leaves that range is refused.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::iterate::Lazy;
use super::syntax::ForLoop;
use super::vm::Scope;
use super::{Fail, Result};

/// How deep values may nest. Python's own limit for printing them is about the same.
pub(super) const MAX_DEPTH: u32 = 500;

/// Text; `markup` when it came from the `safe` or `escape` filter and so escapes what is joined to it.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub text: Arc<str>,
    pub markup: bool,
}

/// The items of a list or tuple.
#[derive(Debug)]
pub(super) struct Items {
    pub items: Vec<Value>,
    pub depth: u32,
    /// Whether Python could hash a tuple of these.
    pub hashable: bool,
    /// A pair of `groupby`, which also has the attributes `grouper` and `list`.
    pub group: bool,
}

/// A dictionary in order of insertion.
#[derive(Debug)]
pub(super) struct Dict {
    pub entries: Vec<(Value, Value)>,
    pub depth: u32,
}

/// Why a value is undefined; shown when it is used.
#[derive(Debug)]
pub(super) struct Missing {
    pub message: String,
}

/// What `d.keys()`, `d.values()` and `d.items()` give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Keys,
    Values,
    Items,
}

/// The functions that every template has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Range,
    Dict,
    Namespace,
    RaiseException,
    StrftimeNow,
    /// Known to Jinja2 and refused here when called: `cycler`, `joiner`, `lipsum`.
    Unsupported(&'static str),
}

/// `range(...)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub start: i128,
    pub step: i128,
    pub length: usize,
}

impl Range {
    /// The item at an index below `length`.
    pub fn at(&self, index: usize) -> i128 {
        self.start + self.step * index as i128
    }
}

/// The variable `loop`.
#[derive(Debug)]
pub(super) struct Loop {
    pub items: Vec<Value>,
    pub index: Cell<usize>,
    /// How deep the items nest, and one more.
    pub depth: u32,
    pub depth0: usize,
    pub changed: RefCell<Option<Vec<Value>>>,
    /// What `loop(...)` runs again, and where, in a recursive loop.
    pub again: Option<(Arc<ForLoop>, Rc<Scope>)>,
}

/// A value of the template.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Undefined(Rc<Missing>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    Dict(Rc<Dict>),
    View(View, Rc<Dict>),
    Range(Range),
    Lazy(Rc<Lazy>),
    Namespace(usize),
    Macro(usize),
    Method(Rc<(Value, Arc<str>)>),
    Function(Function),
    Loop(Rc<Loop>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(Text {
            text: text.into(),
            markup: false,
        })
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Str(Text {
            text: text.into(),
            markup: false,
        })
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i128> for Value {
    fn from(value: i128) -> Self {
        Self::Int(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Int(value as i128)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl Value {
    /// Text that is markup when `markup` says so.
    pub fn text(text: impl Into<Arc<str>>, markup: bool) -> Self {
        Self::Str(Text {
            text: text.into(),
            markup,
        })
    }

    pub fn undefined(message: impl Into<String>) -> Self {
        Self::Undefined(Rc::new(Missing {
            message: message.into(),
        }))
    }

    pub fn list(items: Vec<Value>) -> Result<Self> {
        Ok(Self::List(Rc::new(Items::new(items)?)))
    }

    pub fn tuple(items: Vec<Value>) -> Result<Self> {
        Ok(Self::Tuple(Rc::new(Items::new(items)?)))
    }

    pub fn dict(entries: Vec<(Value, Value)>) -> Result<Self> {
        let depth = entries
            .iter()
            .map(|(key, value)| key.depth().max(value.depth()))
            .max();
        let depth = nested(depth)?;
        Ok(Self::Dict(Rc::new(Dict { entries, depth })))
    }

    /// A bound method.
    pub fn method(of: Value, name: &str) -> Result<Self> {
        nested(Some(of.depth()))?;
        Ok(Self::Method(Rc::new((of, name.into()))))
    }

    /// How deep the value nests; 0 for one that holds no other.
    pub fn depth(&self) -> u32 {
        match self {
            Self::List(items) | Self::Tuple(items) => items.depth,
            Self::Dict(dict) => dict.depth,
            Self::View(_, dict) => dict.depth + 1,
            Self::Lazy(lazy) => lazy.depth,
            Self::Method(bound) => bound.0.depth() + 1,
            Self::Loop(state) => state.depth,
            _ => 0,
        }
    }

    /// The value of a JSON document.
    pub fn from_json(json: &serde_json::Value) -> Result<Self> {
        use serde_json::Value as Json;
        Ok(match json {
            Json::Null => Self::None,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Self::Int(value.into()),
                (None, Some(value)) => Self::Int(value.into()),
                (None, None) => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::from(text.as_str()),
            Json::Array(items) => {
                Self::list(items.iter().map(Self::from_json).collect::<Result<_>>()?)?
            }
            Json::Object(fields) => Self::dict(
                fields
                    .iter()
                    .map(|(key, value)| Ok((Self::from(key.as_str()), Self::from_json(value)?)))
                    .collect::<Result<_>>()?,
            )?,
        })
    }

    /// The name of the type in Python.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(text) if text.markup => "Markup",
            Self::Str(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(View::Keys, _) => "dict_keys",
            Self::View(View::Values, _) => "dict_values",
            Self::View(View::Items, _) => "dict_items",
            Self::Range(_) => "range",
            Self::Lazy(_) => "generator",
            Self::Namespace(_) => "TemplateNamespace",
            Self::Macro(_) => "Macro",
            Self::Method(_) => "builtin_function_or_method",
            Self::Function(_) => "function",
            Self::Loop(_) => "LoopContext",
        }
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    /// Python's `bool(value)`.
    pub fn truthy(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Str(text) => !text.text.is_empty(),
            Self::List(items) | Self::Tuple(items) => !items.items.is_empty(),
            Self::Dict(dict) | Self::View(_, dict) => !dict.entries.is_empty(),
            Self::Range(range) => range.length > 0,
            Self::Loop(state) => !state.items.is_empty(),
            _ => true,
        }
    }

    /// An integer where Python takes one: `int` or `bool`.
    pub fn as_int(&self) -> Option<i128> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Bool(value) => Some(i128::from(*value)),
            _ => None,
        }
    }

    /// A number as `f64`.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            other => other.as_int().map(|value| value as f64),
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(&text.text),
            _ => None,
        }
    }

    /// `len(value)`, where Python has it.
    pub fn length(&self) -> Option<usize> {
        Some(match self {
            Self::Undefined(_) => 0,
            Self::Str(text) => char_count(&text.text),
            Self::List(items) | Self::Tuple(items) => items.items.len(),
            Self::Dict(dict) | Self::View(_, dict) => dict.entries.len(),
            Self::Range(range) => range.length,
            Self::Loop(state) => state.items.len(),
            _ => return None,
        })
    }

    /// The key as a dictionary takes it; fails for what Python cannot hash.
    pub fn hashable(&self) -> Result<()> {
        match self {
            Self::List(_) | Self::Dict(_) | Self::View(View::Keys | View::Items, _) => Err(
                Fail::new(format!("unhashable type: '{}'", self.type_name())),
            ),
            Self::Tuple(items) if !items.hashable => {
                Err(Fail::new("unhashable type within a tuple"))
            }
            _ => Ok(()),
        }
    }
}

impl Items {
    fn new(items: Vec<Value>) -> Result<Self> {
        let depth = nested(items.iter().map(Value::depth).max())?;
        let hashable = items.iter().all(|item| item.hashable().is_ok());
        Ok(Self {
            items,
            depth,
            hashable,
            group: false,
        })
    }

    /// A pair as `groupby` gives it.
    pub fn pair(grouper: Value, list: Value) -> Result<Self> {
        let mut items = Self::new(vec![grouper, list])?;
        items.group = true;
        Ok(items)
    }
}

impl Dict {
    /// The value of a text key.
    pub fn get_str(&self, key: &str) -> Option<&Value> {
        self.entries
            .iter()
            .find(|(name, _)| name.as_str() == Some(key))
            .map(|(_, value)| value)
    }
}

/// The depth of a value whose deepest part has `inner`.
pub(super) fn nested(inner: Option<u32>) -> Result<u32> {
    let depth = inner.map_or(1, |inner| inner + 1);
    if depth > MAX_DEPTH {
        return Err(Fail::new(format!(
            "a value nests deeper than {MAX_DEPTH} levels"
        )));
    }
    Ok(depth)
}

/// The number of characters, as Python's `len`.
pub(super) fn char_count(text: &str) -> usize {
    if text.is_ascii() {
        text.len()
    } else {
        text.chars().count()
    }
}
