//! How values print: Python's `str` and `repr`.

use std::rc::Rc;

use super::numbers;
use super::unicode::is_printable;
use super::value::{Items, Value, View};
use super::vm::Vm;
use super::{Fail, Result};

/// Appends `str(value)`.
pub(super) fn write_str(vm: &mut Vm, value: &Value, out: &mut String) -> Result<()> {
    match value {
        Value::Str(text) => vm.budget.push(out, &text.text),
        Value::Undefined(_) => Ok(()),
        other => write_repr(vm, other, out),
    }
}

/// `str(value)`.
pub(super) fn str_of(vm: &mut Vm, value: &Value) -> Result<String> {
    let mut out = String::new();
    write_str(vm, value, &mut out)?;
    Ok(out)
}

/// `repr(value)`.
pub(super) fn repr_of(vm: &mut Vm, value: &Value) -> Result<String> {
    let mut out = String::new();
    write_repr(vm, value, &mut out)?;
    Ok(out)
}

/// Appends `repr(value)`.
pub(super) fn write_repr(vm: &mut Vm, value: &Value, out: &mut String) -> Result<()> {
    write(vm, value, 0, out)
}

/// How deep namespaces within namespaces may be printed; lists and dictionaries are bounded when they are made.
const MAX_DEPTH: u32 = 1_000;

fn write(vm: &mut Vm, value: &Value, depth: u32, out: &mut String) -> Result<()> {
    vm.budget.steps(1)?;
    if depth > MAX_DEPTH {
        return Err(Fail::new("a value nests too deep to be printed"));
    }
    match value {
        Value::Undefined(_) => vm.budget.push(out, "Undefined"),
        Value::None => vm.budget.push(out, "None"),
        Value::Bool(true) => vm.budget.push(out, "True"),
        Value::Bool(false) => vm.budget.push(out, "False"),
        Value::Int(value) => vm.budget.push(out, &value.to_string()),
        Value::Float(value) => vm.budget.push(out, &numbers::repr(*value)),
        Value::Str(text) if text.markup => {
            vm.budget.push(out, "Markup(")?;
            quote(vm, &text.text, out)?;
            vm.budget.push(out, ")")
        }
        Value::Str(text) => quote(vm, &text.text, out),
        Value::List(items) => sequence(vm, ["[", "]"], items, depth, out),
        Value::Tuple(items) => {
            let close = if items.items.len() == 1 { ",)" } else { ")" };
            sequence(vm, ["(", close], items, depth, out)
        }
        Value::Dict(dict) => pairs(vm, &Rc::clone(dict).entries, depth, out),
        Value::View(view, dict) => {
            vm.budget.push(out, value.type_name())?;
            vm.budget.push(out, "([")?;
            for (at, (key, item)) in dict.entries.iter().enumerate() {
                if at > 0 {
                    vm.budget.push(out, ", ")?;
                }
                match view {
                    View::Keys => write(vm, key, depth + 1, out)?,
                    View::Values => write(vm, item, depth + 1, out)?,
                    View::Items => {
                        vm.budget.push(out, "(")?;
                        write(vm, key, depth + 1, out)?;
                        vm.budget.push(out, ", ")?;
                        write(vm, item, depth + 1, out)?;
                        vm.budget.push(out, ")")?;
                    }
                }
            }
            vm.budget.push(out, "])")
        }
        Value::Range(range) => {
            let stop = range.at(range.length);
            let text = if range.step == 1 {
                format!("range({}, {stop})", range.start)
            } else {
                return Err(no_text("a range with a step"));
            };
            vm.budget.push(out, &text)
        }
        Value::Namespace(number) => {
            vm.budget.push(out, "<Namespace ")?;
            let attributes = vm.namespaces[*number].clone();
            let entries: Vec<_> = attributes
                .into_iter()
                .map(|(name, value)| (Value::text(name, false), value))
                .collect();
            pairs(vm, &entries, depth + 1, out)?;
            vm.budget.push(out, ">")
        }
        Value::Macro(number) => {
            let text = format!("<Macro '{}'>", vm.macros[*number].0.name);
            vm.budget.push(out, &text)
        }
        Value::Loop(state) => {
            let text = format!(
                "<LoopContext {}/{}>",
                state.index.get() + 1,
                state.items.len()
            );
            vm.budget.push(out, &text)
        }
        Value::Lazy(_) => Err(no_text("a generator")),
        Value::Method(_) | Value::Function(_) => Err(no_text("a function")),
    }
}

/// What Python shows with an address has no text that could be equal.
fn no_text(what: &str) -> Fail {
    Fail::new(format!("{what} has no text of its own to print"))
}

fn sequence(
    vm: &mut Vm,
    [open, close]: [&str; 2],
    items: &Rc<Items>,
    depth: u32,
    out: &mut String,
) -> Result<()> {
    vm.budget.push(out, open)?;
    for (at, item) in items.items.iter().enumerate() {
        if at > 0 {
            vm.budget.push(out, ", ")?;
        }
        write(vm, item, depth + 1, out)?;
    }
    vm.budget.push(out, close)
}

fn pairs(vm: &mut Vm, entries: &[(Value, Value)], depth: u32, out: &mut String) -> Result<()> {
    vm.budget.push(out, "{")?;
    for (at, (key, value)) in entries.iter().enumerate() {
        if at > 0 {
            vm.budget.push(out, ", ")?;
        }
        write(vm, key, depth + 1, out)?;
        vm.budget.push(out, ": ")?;
        write(vm, value, depth + 1, out)?;
    }
    vm.budget.push(out, "}")
}

/// A string literal: single quotes unless the text has them and no double ones.
fn quote(vm: &mut Vm, text: &str, out: &mut String) -> Result<()> {
    let mark = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut quoted = String::new();
    vm.budget.bytes(text.len())?;
    quoted.push(mark);
    for c in text.chars() {
        match c {
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c == mark => {
                quoted.push('\\');
                quoted.push(c);
            }
            c if is_printable(c) => quoted.push(c),
            c => quoted.push_str(&match c as u32 {
                code @ 0..=0xff => format!("\\x{code:02x}"),
                code @ 0x100..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    quoted.push(mark);
    vm.budget.push(out, &quoted)
}

/// `ascii(value)`: `repr` with what is not ASCII escaped.
pub(super) fn ascii_of(vm: &mut Vm, value: &Value) -> Result<String> {
    let text = repr_of(vm, value)?;
    if text.is_ascii() {
        return Ok(text);
    }
    vm.budget.text(text.len().saturating_mul(4))?;
    let mut out = String::new();
    for c in text.chars() {
        match c as u32 {
            0..=0x7f => out.push(c),
            code @ 0x80..=0xff => out.push_str(&format!("\\x{code:02x}")),
            code @ 0x100..=0xffff => out.push_str(&format!("\\u{code:04x}")),
            code => out.push_str(&format!("\\U{code:08x}")),
        }
    }
    Ok(out)
}
