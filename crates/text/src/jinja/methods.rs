//! The methods of lists, dictionaries, numbers and loops, and which methods there are.

use std::rc::Rc;
use std::sync::Arc;

use super::arguments::{Args, integer};
use super::attributes::view;
use super::value::{Function, Loop, Value, View};
use super::vm::Vm;
use super::{Fail, Result, iterate, ops, strings};

/// Whether a method may be called.
pub(super) enum Kind {
    Allowed,
    /// It would change the value: undefined in the sandbox.
    Changes,
}

const STR: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];

/// Whether Python's type has the method.
pub(super) fn kind(of: &Value, name: &str) -> Option<Kind> {
    let (allowed, changes): (&[&str], &[&str]) = match of {
        Value::Str(text) if text.markup && matches!(name, "striptags" | "unescape" | "escape") => {
            (&["striptags", "unescape", "escape"], &[])
        }
        Value::Str(_) => (&STR, &[]),
        Value::List(_) => (
            &["copy", "count", "index"],
            &[
                "append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort",
            ],
        ),
        Value::Tuple(_) | Value::Range(_) => (&["count", "index"], &[]),
        Value::Dict(_) => (
            &["copy", "fromkeys", "get", "items", "keys", "values"],
            &["clear", "pop", "popitem", "setdefault", "update"],
        ),
        Value::Int(_) | Value::Bool(_) => (
            &[
                "as_integer_ratio",
                "bit_count",
                "bit_length",
                "conjugate",
                "from_bytes",
                "to_bytes",
            ],
            &[],
        ),
        Value::Float(_) => (
            &[
                "as_integer_ratio",
                "conjugate",
                "fromhex",
                "hex",
                "is_integer",
            ],
            &[],
        ),
        Value::View(View::Values, _) => (&["mapping"], &[]),
        Value::View(..) => (&["isdisjoint", "mapping"], &[]),
        Value::Loop(_) => (&["changed", "cycle"], &[]),
        Value::Lazy(_) => (&["close", "send", "throw"], &[]),
        Value::Function(Function::Dict) => (&["fromkeys"], &[]),
        _ => return None,
    };
    if allowed.contains(&name) {
        Some(Kind::Allowed)
    } else if changes.contains(&name) {
        Some(Kind::Changes)
    } else {
        None
    }
}

/// Calls a method.
pub(super) fn call(vm: &mut Vm, of: &Value, name: &Arc<str>, args: Args) -> Result<Value> {
    match (of, &**name) {
        (Value::Str(text), _) => strings::call(vm, text, name, args),
        (Value::Dict(_), "fromkeys") | (Value::Function(Function::Dict), "fromkeys") => {
            fromkeys(vm, args)
        }
        (Value::Dict(dict), "get") => {
            let [key, default] = args.positional("get()", 1)?;
            let found = ops::lookup(vm, &dict.entries, &key.unwrap_or(Value::None))?;
            Ok(found.or(default).unwrap_or(Value::None))
        }
        (Value::Dict(_) | Value::List(_), "copy") => {
            let [] = args.positional("copy()", 0)?;
            Ok(copy(vm, of)?)
        }
        (Value::Dict(dict), _) => {
            let [] = args.positional(name, 0)?;
            Ok(Value::View(view(name), Rc::clone(dict)))
        }
        (_, "count") => {
            let [wanted] = args.positional("count()", 1)?;
            let wanted = wanted.unwrap_or(Value::None);
            let mut count = 0;
            for item in iterate::all(vm, of)? {
                count +=
                    i128::from(ops::identical(&item, &wanted) || ops::equal(vm, &item, &wanted)?);
            }
            Ok(Value::Int(count))
        }
        (_, "index") => index(vm, of, args),
        (Value::Loop(state), _) => of_loop(vm, state, name, args),
        (Value::Int(_) | Value::Bool(_) | Value::Float(_), _) => {
            let [] = args.positional(name, 0)?;
            of_number(of, name)
        }
        _ => Err(not_supported(name)),
    }
}

/// A method that Python has and that is left out here.
pub(super) fn not_supported(name: &str) -> Fail {
    Fail::new(format!("the method {name}() is not supported"))
}

fn copy(vm: &mut Vm, of: &Value) -> Result<Value> {
    match of {
        Value::Dict(dict) => {
            vm.budget.items(2 * dict.entries.len())?;
            Value::dict(dict.entries.clone())
        }
        _ => Value::list(iterate::all(vm, of)?),
    }
}

fn fromkeys(vm: &mut Vm, args: Args) -> Result<Value> {
    let [keys, value] = args.positional("fromkeys()", 1)?;
    let value = value.unwrap_or(Value::None);
    let mut entries = Vec::new();
    for key in iterate::all(vm, &keys.unwrap_or(Value::None))? {
        vm.budget.items(2)?;
        super::attributes::insert(vm, &mut entries, (key, value.clone()))?;
    }
    Value::dict(entries)
}

fn index(vm: &mut Vm, of: &Value, args: Args) -> Result<Value> {
    let [wanted, start, stop] = args.positional("index()", 1)?;
    let wanted = wanted.unwrap_or(Value::None);
    let items = iterate::all(vm, of)?;
    let bounds = ops::slice_indices(&[start, stop, None], items.len())?;
    for at in bounds {
        let item = &items[at];
        if ops::identical(item, &wanted) || ops::equal(vm, item, &wanted)? {
            return Ok(Value::from(at));
        }
    }
    Err(Fail::new(format!(
        "the value is not in the {}",
        of.type_name()
    )))
}

fn of_number(of: &Value, name: &str) -> Result<Value> {
    match (of, name) {
        (Value::Float(value), "is_integer") => {
            Ok(Value::Bool(value.is_finite() && value.fract() == 0.0))
        }
        (Value::Float(value), "conjugate") => Ok(Value::Float(*value)),
        (_, "conjugate") => Ok(Value::Int(integer(name, of)?)),
        (Value::Int(_) | Value::Bool(_), "bit_length") => {
            let value = integer(name, of)?.unsigned_abs();
            Ok(Value::Int((128 - value.leading_zeros()).into()))
        }
        (Value::Int(_) | Value::Bool(_), "bit_count") => Ok(Value::Int(
            integer(name, of)?.unsigned_abs().count_ones().into(),
        )),
        (Value::Int(_) | Value::Bool(_), "as_integer_ratio") => {
            Value::tuple(vec![Value::Int(integer(name, of)?), Value::Int(1)])
        }
        _ => Err(not_supported(name)),
    }
}

fn of_loop(vm: &mut Vm, state: &Rc<Loop>, name: &str, args: Args) -> Result<Value> {
    if let Some((name, _)) = args.named.first() {
        return Err(Fail::new(format!("unexpected keyword argument '{name}'")));
    }
    let values = args.positional;
    match name {
        "cycle" if values.is_empty() => Err(Fail::new("no items for cycling given")),
        "cycle" => Ok(values[state.index.get() % values.len()].clone()),
        _ => {
            let before = state.changed.borrow().clone();
            if let Some(before) = before {
                let before = Value::tuple(before)?;
                if ops::equal(vm, &before, &Value::tuple(values.clone())?)? {
                    return Ok(Value::Bool(false));
                }
            }
            *state.changed.borrow_mut() = Some(values);
            Ok(Value::Bool(true))
        }
    }
}
