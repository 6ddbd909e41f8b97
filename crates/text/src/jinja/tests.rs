//! The tests after `is`.

use super::arguments::Args;
use super::syntax::{Binary, Comparison};
use super::value::Value;
use super::vm::Vm;
use super::{Fail, Result, filters, iterate, ops, repr, unicode};

const NAMES: [&str; 39] = [
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    ">",
    "gt",
    "greaterthan",
    "ge",
    ">=",
    "<",
    "lt",
    "lessthan",
    "<=",
    "le",
];

/// Whether a test has this name.
pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Applies a test.
pub(super) fn apply(vm: &mut Vm, name: &str, value: &Value, args: Args) -> Result<bool> {
    let comparison = match name {
        "==" | "eq" | "equalto" => Some(Comparison::Eq),
        "!=" | "ne" => Some(Comparison::Ne),
        ">" | "gt" | "greaterthan" => Some(Comparison::Gt),
        ">=" | "ge" => Some(Comparison::Ge),
        "<" | "lt" | "lessthan" => Some(Comparison::Lt),
        "<=" | "le" => Some(Comparison::Le),
        _ => None,
    };
    if let Some(op) = comparison {
        let [other] = args.positional(name, 1)?;
        return ops::compare(vm, op, value, &other.unwrap_or(Value::None));
    }
    match name {
        "divisibleby" => {
            let [by] = args.bind(name, ["num"], 1)?;
            return remainder_is(vm, value, &by.unwrap_or(Value::None), 0);
        }
        "sameas" => {
            let [other] = args.bind(name, ["other"], 1)?;
            return same(value, &other.unwrap_or(Value::None));
        }
        "in" => {
            let [seq] = args.bind(name, ["seq"], 1)?;
            return ops::contains(vm, &seq.unwrap_or(Value::None), value);
        }
        _ => {
            let [] = args.bind(name, [], 0)?;
        }
    }
    Ok(match name {
        "odd" => return remainder_is(vm, value, &Value::Int(2), 1),
        "even" => return remainder_is(vm, value, &Value::Int(2), 0),
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "filter" => named(value, filters::exists)?,
        "test" => named(value, exists)?,
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "false" => matches!(value, Value::Bool(false)),
        "true" => matches!(value, Value::Bool(true)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.as_number().is_some(),
        "string" => matches!(value, Value::Str(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "lower" | "upper" => {
            let text = repr::str_of(vm, value)?;
            if name == "lower" {
                unicode::is_lower(&text)
            } else {
                unicode::is_upper(&text)
            }
        }
        "sequence" => matches!(
            value,
            Value::Undefined(_)
                | Value::Str(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
        ),
        "iterable" => iterate::is_iterable(value),
        "callable" => matches!(
            value,
            Value::Undefined(_)
                | Value::Macro(_)
                | Value::Method(_)
                | Value::Function(_)
                | Value::Loop(_)
        ),
        "escaped" => matches!(value, Value::Str(text) if text.markup),
        _ => return Err(Fail::new(format!("no test named '{name}'"))),
    })
}

fn named(value: &Value, exists: impl Fn(&str) -> bool) -> Result<bool> {
    value.hashable()?;
    Ok(value.as_str().is_some_and(exists))
}

fn remainder_is(vm: &mut Vm, value: &Value, by: &Value, rest: i128) -> Result<bool> {
    let remainder = ops::binary(vm, Binary::Mod, value, by)?;
    ops::equal(vm, &remainder, &Value::Int(rest))
}

/// `a is b` in Python, where it does not depend on how Python keeps its texts and numbers.
fn same(a: &Value, b: &Value) -> Result<bool> {
    match (a, b) {
        (Value::Int(x), Value::Int(y)) if x == y && (-5..=256).contains(x) => Ok(true),
        (Value::Str(x), Value::Str(y)) if x.text == y.text => Err(Fail::new(
            "whether two equal texts are the same object is not defined",
        )),
        (Value::Int(x), Value::Int(y)) if x == y => Err(Fail::new(
            "whether two equal numbers are the same object is not defined",
        )),
        (Value::Float(x), Value::Float(y)) if x.to_bits() == y.to_bits() => Err(Fail::new(
            "whether two equal numbers are the same object is not defined",
        )),
        _ => Ok(ops::identical(a, b)),
    }
}
