//! `a.b`, `a[b]` and the global functions.
//!
//! Python's attribute comes first and the dictionary's key second in `a.b`, the other way round in `a['b']`. Methods that
//! change lists and dictionaries are undefined, as in the sandbox.

use std::sync::Arc;

use super::arguments::{Args, integer, text};
use super::methods;
use super::value::{Function, Range, Value, View};
use super::vm::{Vm, set_attribute};
use super::{Fail, Result, clock, iterate, ops};

/// The parts of an attribute path: `"a.b.0"`.
pub(super) type Path = Vec<Value>;

/// The longest `range`, as in Jinja2's sandbox.
const MAX_RANGE: i128 = 100_000;

/// The path that a filter's `attribute` names.
pub(super) fn path(attribute: Option<&Value>) -> Path {
    match attribute {
        None | Some(Value::None) => Vec::new(),
        Some(Value::Str(text)) => text
            .text
            .split('.')
            .map(|part| {
                let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
                match part.parse::<i128>() {
                    Ok(index) if digits => Value::Int(index),
                    _ => Value::from(part),
                }
            })
            .collect(),
        Some(other) => vec![other.clone()],
    }
}

/// Follows a path; where it ends in nothing, `default` stands in.
pub(super) fn follow(
    vm: &mut Vm,
    mut item: Value,
    path: &Path,
    default: Option<&Value>,
) -> Result<Value> {
    for part in path {
        item = self::item(vm, &item, part)?;
        if let Some(default) = default
            && item.is_undefined()
            && !matches!(default, Value::None)
        {
            item = default.clone();
        }
    }
    Ok(item)
}

/// Adds an entry to a dictionary's entries, or replaces the value of a key that is there.
pub(super) fn insert(
    vm: &mut Vm,
    entries: &mut Vec<(Value, Value)>,
    (key, value): (Value, Value),
) -> Result<()> {
    key.hashable()?;
    vm.budget.steps(1 + entries.len() / 16)?;
    if let Value::Str(text) = &key {
        let found = entries
            .iter_mut()
            .find(|(name, _)| name.as_str() == Some(&text.text));
        match found {
            Some((_, slot)) => *slot = value,
            None => entries.push((key, value)),
        }
        return Ok(());
    }
    for (name, slot) in entries.iter_mut() {
        if ops::identical(name, &key) || ops::equal(vm, name, &key)? {
            *slot = value;
            return Ok(());
        }
    }
    entries.push((key, value));
    Ok(())
}

fn shown(of: &Value) -> String {
    match of {
        Value::None => "None".to_owned(),
        other => format!("{} object", other.type_name()),
    }
}

/// Python's `getattr`, as far as the sandbox lets it through.
fn own(vm: &Vm, of: &Value, name: &str) -> Result<Option<Value>> {
    if let Some(kind) = methods::kind(of, name) {
        return Ok(Some(match kind {
            methods::Kind::Allowed => Value::method(of.clone(), name)?,
            methods::Kind::Changes => Value::undefined(format!(
                "access to attribute '{name}' of '{}' object is unsafe",
                of.type_name()
            )),
        }));
    }
    Ok(match of {
        Value::Namespace(number) => vm.namespaces[*number]
            .iter()
            .find(|(known, _)| **known == *name)
            .map(|(_, value)| value.clone()),
        Value::Tuple(pair) if pair.group => match name {
            "grouper" => Some(pair.items[0].clone()),
            "list" => Some(pair.items[1].clone()),
            _ => None,
        },
        Value::Int(_) | Value::Bool(_) => match name {
            "real" | "numerator" => of.as_int().map(Value::Int),
            "imag" => Some(Value::Int(0)),
            "denominator" => Some(Value::Int(1)),
            _ => None,
        },
        Value::Float(value) => match name {
            "real" => Some(Value::Float(*value)),
            "imag" => Some(Value::Float(0.0)),
            _ => None,
        },
        Value::Loop(state) => loop_attribute(state, name),
        Value::Macro(number) => {
            let decl = &vm.macros[*number].0;
            match name {
                "name" => Some(Value::text(Arc::clone(&decl.name), false)),
                "arguments" => Some(Value::tuple(
                    decl.parameters
                        .iter()
                        .map(|name| Value::text(Arc::clone(name), false))
                        .collect(),
                )?),
                "catch_kwargs" => Some(Value::Bool(decl.uses_kwargs)),
                "catch_varargs" => Some(Value::Bool(decl.uses_varargs)),
                "caller" => Some(Value::Bool(decl.uses_caller)),
                _ => None,
            }
        }
        Value::Range(range) if range.length > 0 => match name {
            "start" => Some(Value::Int(range.start)),
            "step" => Some(Value::Int(range.step)),
            _ => None,
        },
        _ => None,
    })
}

fn loop_attribute(state: &super::value::Loop, name: &str) -> Option<Value> {
    let (index, length) = (state.index.get(), state.items.len());
    let at = |index: Option<usize>, what: &str| {
        index
            .and_then(|index| state.items.get(index).cloned())
            .unwrap_or_else(|| Value::undefined(format!("there is no {what} item")))
    };
    Some(match name {
        "index" => Value::from(index + 1),
        "index0" => Value::from(index),
        "revindex" => Value::from(length - index),
        "revindex0" => Value::from(length - index - 1),
        "first" => Value::Bool(index == 0),
        "last" => Value::Bool(index + 1 == length),
        "length" => Value::from(length),
        "depth" => Value::from(state.depth0 + 1),
        "depth0" => Value::from(state.depth0),
        "previtem" => at(index.checked_sub(1), "previous"),
        "nextitem" => at(Some(index + 1), "next"),
        _ => return None,
    })
}

/// `of.name`.
pub(super) fn attribute(vm: &mut Vm, of: &Value, name: &str) -> Result<Value> {
    if let Value::Undefined(missing) = of {
        return Err(Fail::new(missing.message.clone()));
    }
    if let Some(value) = own(vm, of, name)? {
        return Ok(value);
    }
    if let Value::Dict(dict) = of {
        vm.budget.steps(1 + dict.entries.len() / 16)?;
        if let Some(value) = dict.get_str(name) {
            return Ok(value.clone());
        }
    }
    Ok(Value::undefined(format!(
        "'{}' has no attribute '{name}'",
        shown(of)
    )))
}

/// `of | attr(name)`: the attribute, never the key.
pub(super) fn own_attribute(vm: &mut Vm, of: &Value, name: &str) -> Result<Value> {
    if let Value::Undefined(missing) = of {
        return Err(Fail::new(missing.message.clone()));
    }
    Ok(own(vm, of, name)?
        .unwrap_or_else(|| Value::undefined(format!("'{}' has no attribute '{name}'", shown(of)))))
}

/// `of[key]`.
pub(super) fn item(vm: &mut Vm, of: &Value, key: &Value) -> Result<Value> {
    if let Value::Undefined(missing) = of {
        return Err(Fail::new(missing.message.clone()));
    }
    if let Some(value) = subscript(vm, of, key)? {
        return Ok(value);
    }
    if let Value::Str(name) = key {
        if let Some(value) = own(vm, of, &name.text)? {
            return Ok(value);
        }
        return Ok(Value::undefined(format!(
            "'{}' has no attribute '{}'",
            shown(of),
            name.text
        )));
    }
    Ok(Value::undefined(format!(
        "{} has no such element",
        shown(of)
    )))
}

fn subscript(vm: &mut Vm, of: &Value, key: &Value) -> Result<Option<Value>> {
    let place = |length: usize| {
        let index = key.as_int()?;
        let index = if index < 0 {
            index.checked_add(length as i128)?
        } else {
            index
        };
        usize::try_from(index).ok().filter(|&index| index < length)
    };
    Ok(match of {
        Value::Dict(dict) => {
            if key.hashable().is_err() {
                return Ok(None);
            }
            ops::lookup(vm, &dict.entries, key)?
        }
        Value::List(items) | Value::Tuple(items) => {
            place(items.items.len()).map(|at| items.items[at].clone())
        }
        Value::Range(range) => place(range.length).map(|at| Value::Int(range.at(at))),
        Value::Str(text) if text.text.is_ascii() => {
            place(text.text.len()).map(|at| Value::text(&text.text[at..=at], text.markup))
        }
        Value::Str(text) => {
            vm.budget.bytes(text.text.len())?;
            place(super::value::char_count(&text.text))
                .and_then(|at| text.text.chars().nth(at))
                .map(|c| Value::text(c.to_string(), text.markup))
        }
        _ => None,
    })
}

/// Calls one of the functions that every template has.
pub(super) fn call_function(vm: &mut Vm, function: Function, args: Args) -> Result<Value> {
    match function {
        Function::Range => range(args),
        Function::Dict => Value::dict(dict_entries(vm, args)?),
        Function::Namespace => {
            let mut attributes = Vec::new();
            for (key, value) in dict_entries(vm, args)? {
                let Value::Str(name) = key else {
                    return Err(Fail::new("a namespace's names are strings"));
                };
                set_attribute(&mut attributes, &name.text, value)?;
            }
            vm.budget.items(2 + 2 * attributes.len())?;
            vm.namespaces.push(attributes);
            Ok(Value::Namespace(vm.namespaces.len() - 1))
        }
        Function::RaiseException => {
            let [message] = args.bind("raise_exception()", ["message"], 1)?;
            let message = super::repr::str_of(vm, &message.unwrap_or(Value::None))?;
            Err(Fail::new(message))
        }
        Function::StrftimeNow => {
            let [format] = args.bind("strftime_now()", ["format"], 1)?;
            let format = format.unwrap_or(Value::None);
            clock::now(text("strftime_now()", &format)?).map(Value::from)
        }
        Function::Unsupported(name) => Err(Fail::new(format!("{name}() is not supported"))),
    }
}

/// `dict(...)`: a mapping or pairs, then keywords.
fn dict_entries(vm: &mut Vm, mut args: Args) -> Result<Vec<(Value, Value)>> {
    if args.positional.len() > 1 {
        return Err(Fail::new("dict() takes at most one positional argument"));
    }
    let mut entries = Vec::new();
    match args.positional.pop() {
        None => {}
        Some(Value::Dict(dict)) => {
            vm.budget.items(2 * dict.entries.len())?;
            entries.extend_from_slice(&dict.entries);
        }
        Some(value) => {
            for pair in iterate::all(vm, &value)? {
                let pair = iterate::all(vm, &pair)?;
                let Ok([key, value]) = <[Value; 2]>::try_from(pair) else {
                    return Err(Fail::new("dict() takes pairs of a key and a value"));
                };
                vm.budget.items(2)?;
                insert(vm, &mut entries, (key, value))?;
            }
        }
    }
    for (name, value) in args.named {
        insert(vm, &mut entries, (Value::text(name, false), value))?;
    }
    Ok(entries)
}

fn range(args: Args) -> Result<Value> {
    let bounds: [Option<Value>; 3] = args.positional("range()", 1)?;
    let mut numbers = [0; 3];
    for (slot, bound) in numbers.iter_mut().zip(&bounds) {
        if let Some(bound) = bound {
            let number = integer("range()", bound)?;
            *slot = i64::try_from(number)
                .map_err(|_| Fail::new("range() with a number of more than 64 bits"))?
                .into();
        }
    }
    let [first, second, third] = numbers;
    let (start, stop) = if bounds[1].is_some() {
        (first, second)
    } else {
        (0, first)
    };
    let step: i128 = if bounds[2].is_some() { third } else { 1 };
    let length = match step {
        0 => return Err(Fail::new("range() step must not be zero")),
        1.. => (stop - start + step - 1).max(0) / step,
        _ => (start - stop - step - 1).max(0) / -step,
    };
    if length > MAX_RANGE {
        return Err(Fail::new(format!(
            "range too big: the sandbox blocks ranges larger than {MAX_RANGE}"
        )));
    }
    Ok(Value::Range(Range {
        start,
        step,
        length: length as usize,
    }))
}

/// The view that `keys`, `values` or `items` names.
pub(super) fn view(name: &str) -> View {
    match name {
        "keys" => View::Keys,
        "values" => View::Values,
        _ => View::Items,
    }
}
