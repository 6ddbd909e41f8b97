//! Operators: arithmetic, comparison, membership and slices, as Python defines them on its types.

use std::cmp::Ordering;
use std::rc::Rc;

use super::syntax::{Binary, Comparison};
use super::text_filters::escape;
use super::value::{Range, Text, Value, View, char_count};
use super::vm::Vm;
use super::{Fail, Result, iterate, numbers, percent};

fn unsupported(op: &str, a: &Value, b: &Value) -> Fail {
    for value in [a, b] {
        if let Value::Undefined(missing) = value {
            return Fail::new(missing.message.clone());
        }
    }
    Fail::new(format!(
        "unsupported operand types for {op}: '{}' and '{}'",
        a.type_name(),
        b.type_name()
    ))
}

/// A binary operator.
pub(super) fn binary(vm: &mut Vm, op: Binary, a: &Value, b: &Value) -> Result<Value> {
    match op {
        Binary::Add => add(vm, a, b),
        Binary::Mul => multiply(vm, a, b),
        Binary::Mod if matches!(a, Value::Str(_)) => match a {
            Value::Str(text) => percent::format(vm, text, b),
            _ => Err(unsupported("%", a, b)),
        },
        _ => arithmetic(op, a, b),
    }
}

fn add(vm: &mut Vm, a: &Value, b: &Value) -> Result<Value> {
    match (a, b) {
        (Value::Str(x), Value::Str(y)) => {
            let markup = x.markup || y.markup;
            let escaped = |text: &Text| {
                if markup && !text.markup {
                    escape(&text.text).into()
                } else {
                    std::sync::Arc::clone(&text.text)
                }
            };
            let (x, y) = (escaped(x), escaped(y));
            let mut out = String::new();
            vm.budget.push(&mut out, &x)?;
            vm.budget.push(&mut out, &y)?;
            Ok(Value::text(out, markup))
        }
        (Value::List(x), Value::List(y)) => {
            vm.budget.items(x.items.len() + y.items.len())?;
            Value::list(x.items.iter().chain(&y.items).cloned().collect())
        }
        (Value::Tuple(x), Value::Tuple(y)) => {
            vm.budget.items(x.items.len() + y.items.len())?;
            Value::tuple(x.items.iter().chain(&y.items).cloned().collect())
        }
        _ => arithmetic(Binary::Add, a, b),
    }
}

fn multiply(vm: &mut Vm, a: &Value, b: &Value) -> Result<Value> {
    let (sequence, times) = match (a, b) {
        (Value::Str(_) | Value::List(_) | Value::Tuple(_), _) => (a, b.as_int()),
        (_, Value::Str(_) | Value::List(_) | Value::Tuple(_)) => (b, a.as_int()),
        _ => return arithmetic(Binary::Mul, a, b),
    };
    let Some(times) = times else {
        return Err(unsupported("*", a, b));
    };
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    match sequence {
        Value::Str(text) => {
            vm.budget.text(text.text.len().saturating_mul(times))?;
            let times = if text.text.is_empty() { 0 } else { times };
            Ok(Value::text(text.text.repeat(times), text.markup))
        }
        Value::List(of) | Value::Tuple(of) => {
            vm.budget.items(of.items.len().saturating_mul(times))?;
            let times = if of.items.is_empty() { 0 } else { times };
            let mut items = Vec::with_capacity(of.items.len() * times);
            for _ in 0..times {
                items.extend_from_slice(&of.items);
            }
            match sequence {
                Value::List(_) => Value::list(items),
                _ => Value::tuple(items),
            }
        }
        _ => Err(unsupported("*", a, b)),
    }
}

fn overflow() -> Fail {
    Fail::new("an integer of more than 128 bits")
}

/// Operators on numbers; `bool` counts as 0 and 1.
fn arithmetic(op: Binary, a: &Value, b: &Value) -> Result<Value> {
    let sign = match op {
        Binary::Add => "+",
        Binary::Sub => "-",
        Binary::Mul => "*",
        Binary::Div => "/",
        Binary::FloorDiv => "//",
        Binary::Mod => "%",
        Binary::Pow => "**",
    };
    if let (Some(x), Some(y)) = (a.as_int(), b.as_int()) {
        return integers(op, x, y);
    }
    match (a.as_number(), b.as_number()) {
        (Some(x), Some(y)) => floats(op, x, y),
        _ => Err(unsupported(sign, a, b)),
    }
}

fn integers(op: Binary, x: i128, y: i128) -> Result<Value> {
    let value = match op {
        Binary::Add => x.checked_add(y),
        Binary::Sub => x.checked_sub(y),
        Binary::Mul => x.checked_mul(y),
        Binary::Div | Binary::FloorDiv | Binary::Mod if y == 0 => {
            return Err(Fail::new("division by zero"));
        }
        Binary::Div => return Ok(Value::Float(x as f64 / y as f64)),
        Binary::FloorDiv => x.checked_div(y).map(|quotient| {
            let inexact = x % y != 0 && (x < 0) != (y < 0);
            quotient - i128::from(inexact)
        }),
        Binary::Mod => x.checked_rem(y).map(|rest| {
            if rest != 0 && (rest < 0) != (y < 0) {
                rest + y
            } else {
                rest
            }
        }),
        Binary::Pow if y < 0 => return floats(op, x as f64, y as f64),
        Binary::Pow => match u32::try_from(y) {
            Ok(exponent) => x.checked_pow(exponent),
            Err(_) if x.abs() <= 1 => Some(if y % 2 == 0 { x * x } else { x }),
            Err(_) => None,
        },
    };
    value.map(Value::Int).ok_or_else(overflow)
}

fn floats(op: Binary, x: f64, y: f64) -> Result<Value> {
    let zero = || Fail::new("float division by zero");
    Ok(Value::Float(match op {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::Mul => x * y,
        Binary::Div if y == 0.0 => return Err(zero()),
        Binary::Div => x / y,
        Binary::FloorDiv | Binary::Mod if y == 0.0 => return Err(zero()),
        Binary::FloorDiv => numbers::divmod(x, y).0,
        Binary::Mod => numbers::divmod(x, y).1,
        Binary::Pow if x == 0.0 && y < 0.0 => {
            return Err(Fail::new("0.0 cannot be raised to a negative power"));
        }
        Binary::Pow if x < 0.0 && x.is_finite() && y.is_finite() && y.fract() != 0.0 => {
            return Err(Fail::new("a power with a complex result"));
        }
        Binary::Pow => {
            let power = x.powf(y);
            if power.is_infinite() && x.is_finite() && y.is_finite() {
                return Err(Fail::new("a power that is too large"));
            }
            power
        }
    }))
}

/// `-a`.
pub(super) fn negative(a: &Value) -> Result<Value> {
    match (a, a.as_int()) {
        (_, Some(value)) => value.checked_neg().map(Value::Int).ok_or_else(overflow),
        (Value::Float(value), _) => Ok(Value::Float(-value)),
        _ => Err(bad_unary("-", a)),
    }
}

/// `+a`.
pub(super) fn positive(a: &Value) -> Result<Value> {
    match (a, a.as_int()) {
        (_, Some(value)) => Ok(Value::Int(value)),
        (Value::Float(value), _) => Ok(Value::Float(*value)),
        _ => Err(bad_unary("+", a)),
    }
}

fn bad_unary(op: &str, a: &Value) -> Fail {
    match a {
        Value::Undefined(missing) => Fail::new(missing.message.clone()),
        _ => Fail::new(format!(
            "bad operand type for unary {op}: '{}'",
            a.type_name()
        )),
    }
}

/// A comparison.
pub(super) fn compare(vm: &mut Vm, op: Comparison, a: &Value, b: &Value) -> Result<bool> {
    Ok(match op {
        Comparison::Eq => equal(vm, a, b)?,
        Comparison::Ne => !equal(vm, a, b)?,
        Comparison::In => contains(vm, b, a)?,
        Comparison::NotIn => !contains(vm, b, a)?,
        Comparison::Lt => order(vm, "<", a, b)? == Some(Ordering::Less),
        Comparison::Gt => order(vm, ">", a, b)? == Some(Ordering::Greater),
        Comparison::Le => order(vm, "<=", a, b)?.is_some_and(Ordering::is_le),
        Comparison::Ge => order(vm, ">=", a, b)?.is_some_and(Ordering::is_ge),
    })
}

fn numeric(a: &Value, b: &Value) -> Option<Option<Ordering>> {
    match (a.as_int(), b.as_int()) {
        (Some(x), Some(y)) => Some(Some(x.cmp(&y))),
        (Some(x), None) => match b {
            Value::Float(y) => Some(numbers::compare(x, *y)),
            _ => None,
        },
        (None, Some(y)) => match a {
            Value::Float(x) => Some(numbers::compare(y, *x).map(Ordering::reverse)),
            _ => None,
        },
        (None, None) => match (a, b) {
            (Value::Float(x), Value::Float(y)) => Some(x.partial_cmp(y)),
            _ => None,
        },
    }
}

/// Whether two values are the same object.
pub(super) fn identical(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::None, Value::None) => true,
        (Value::Bool(x), Value::Bool(y)) => x == y,
        (Value::List(x), Value::List(y)) | (Value::Tuple(x), Value::Tuple(y)) => Rc::ptr_eq(x, y),
        (Value::Dict(x), Value::Dict(y)) => Rc::ptr_eq(x, y),
        (Value::Undefined(x), Value::Undefined(y)) => Rc::ptr_eq(x, y),
        (Value::Lazy(x), Value::Lazy(y)) => Rc::ptr_eq(x, y),
        (Value::Loop(x), Value::Loop(y)) => Rc::ptr_eq(x, y),
        (Value::Method(x), Value::Method(y)) => Rc::ptr_eq(x, y),
        (Value::Namespace(x), Value::Namespace(y)) | (Value::Macro(x), Value::Macro(y)) => x == y,
        (Value::Function(x), Value::Function(y)) => x == y,
        (Value::Str(x), Value::Str(y)) => std::sync::Arc::ptr_eq(&x.text, &y.text),
        _ => false,
    }
}

/// `a == b`.
pub(super) fn equal(vm: &mut Vm, a: &Value, b: &Value) -> Result<bool> {
    vm.budget.steps(1)?;
    if let Some(order) = numeric(a, b) {
        return Ok(order == Some(Ordering::Equal));
    }
    Ok(match (a, b) {
        (Value::Undefined(_), Value::Undefined(_)) => true,
        (Value::Str(x), Value::Str(y)) => {
            vm.budget.bytes(x.text.len().min(y.text.len()))?;
            x.text == y.text
        }
        (Value::List(x), Value::List(y)) | (Value::Tuple(x), Value::Tuple(y)) => {
            if x.items.len() != y.items.len() {
                return Ok(false);
            }
            for (x, y) in x.items.iter().zip(&y.items) {
                if !identical(x, y) && !equal(vm, x, y)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Dict(x), Value::Dict(y)) => {
            if x.entries.len() != y.entries.len() {
                return Ok(false);
            }
            for (key, value) in &x.entries {
                match lookup(vm, &y.entries, key)? {
                    Some(other) if identical(value, &other) || equal(vm, value, &other)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Range(x), Value::Range(y)) => {
            let ends = |range: &Range| (range.start, range.at(range.length.saturating_sub(1)));
            x.length == y.length && (x.length == 0 || ends(x) == ends(y))
        }
        (Value::View(x, of), Value::View(y, other)) if x == y && Rc::ptr_eq(of, other) => {
            *x != View::Values
        }
        (Value::View(View::Keys | View::Items, _), Value::View(View::Keys | View::Items, _)) => {
            return Err(Fail::new(
                "comparing views of dictionaries is not supported",
            ));
        }
        _ => identical(a, b),
    })
}

/// The value of a key in a dictionary's entries.
pub(super) fn lookup(
    vm: &mut Vm,
    entries: &[(Value, Value)],
    key: &Value,
) -> Result<Option<Value>> {
    vm.budget.steps(1 + entries.len() / 16)?;
    if let Value::Str(key) = key {
        let found = entries
            .iter()
            .find(|(name, _)| name.as_str() == Some(&key.text));
        return Ok(found.map(|(_, value)| value.clone()));
    }
    key.hashable()?;
    for (name, value) in entries {
        if identical(name, key) || equal(vm, name, key)? {
            return Ok(Some(value.clone()));
        }
    }
    Ok(None)
}

/// The order of two values; `None` where a NaN takes part.
pub(super) fn order(vm: &mut Vm, op: &str, a: &Value, b: &Value) -> Result<Option<Ordering>> {
    vm.budget.steps(1)?;
    if let Some(order) = numeric(a, b) {
        return Ok(order);
    }
    match (a, b) {
        (Value::Str(x), Value::Str(y)) => {
            vm.budget.bytes(x.text.len().min(y.text.len()))?;
            Ok(Some(x.text.cmp(&y.text)))
        }
        (Value::List(x), Value::List(y)) | (Value::Tuple(x), Value::Tuple(y)) => {
            for (x, y) in x.items.iter().zip(&y.items) {
                if !identical(x, y) && !equal(vm, x, y)? {
                    return order(vm, op, x, y);
                }
            }
            Ok(Some(x.items.len().cmp(&y.items.len())))
        }
        (Value::View(..), Value::View(..)) => Err(Fail::new(
            "comparing views of dictionaries is not supported",
        )),
        _ => Err(match unsupported(op, a, b) {
            fail if a.is_undefined() || b.is_undefined() => fail,
            _ => Fail::new(format!(
                "'{op}' not supported between instances of '{}' and '{}'",
                a.type_name(),
                b.type_name()
            )),
        }),
    }
}

/// `needle in hay`.
pub(super) fn contains(vm: &mut Vm, hay: &Value, needle: &Value) -> Result<bool> {
    match hay {
        Value::Str(text) => match needle {
            Value::Str(part) => {
                vm.budget.bytes(text.text.len())?;
                Ok(text.text.contains(&*part.text))
            }
            _ => Err(Fail::new(format!(
                "'in <string>' requires string as left operand, not {}",
                needle.type_name()
            ))),
        },
        Value::Dict(dict) | Value::View(View::Keys, dict) => {
            Ok(lookup(vm, &dict.entries, needle)?.is_some())
        }
        Value::Range(range) if needle.as_int().is_some() => {
            let offset = needle.as_int().unwrap_or(0).checked_sub(range.start);
            Ok(offset.is_some_and(|offset| {
                offset % range.step == 0
                    && usize::try_from(offset / range.step).is_ok_and(|at| at < range.length)
            }))
        }
        Value::List(of) | Value::Tuple(of) => {
            let of = Rc::clone(of);
            for item in &of.items {
                if identical(item, needle) || equal(vm, item, needle)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Namespace(_) => {
            Err(Fail::new(format!(
                "argument of type '{}' is not iterable",
                hay.type_name()
            )))
        }
        _ => {
            for item in iterate::all(vm, hay)? {
                if identical(&item, needle) || equal(vm, &item, needle)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

/// Sorts stably with an order that can fail.
pub(super) fn sort(vm: &mut Vm, mut items: Vec<(Value, Value)>) -> Result<Vec<(Value, Value)>> {
    if items.len() < 2 {
        return Ok(items);
    }
    let right = items.split_off(items.len() / 2);
    vm.budget.items(2 * items.len() + 2 * right.len())?;
    let left = sort(vm, items)?;
    let right = sort(vm, right)?;
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let mut left = left.into_iter().peekable();
    let mut right = right.into_iter().peekable();
    loop {
        let from_right = match (left.peek(), right.peek()) {
            (Some(a), Some(b)) => order(vm, "<", &b.0, &a.0)? == Some(Ordering::Less),
            (None, None) => return Ok(merged),
            (a, _) => a.is_none(),
        };
        merged.extend(if from_right {
            right.next()
        } else {
            left.next()
        });
    }
}

/// The indices that a slice takes from a sequence of a length.
pub(super) fn slice_indices(bounds: &[Option<Value>; 3], length: usize) -> Result<Vec<usize>> {
    let bound = |at: usize| match &bounds[at] {
        None | Some(Value::None) => Ok(None),
        Some(value) => value
            .as_int()
            .map(Some)
            .ok_or_else(|| Fail::new("slice indices must be integers or None")),
    };
    let step = bound(2)?.unwrap_or(1);
    if step == 0 {
        return Err(Fail::new("slice step cannot be zero"));
    }
    let length = length as i128;
    let (lowest, highest) = if step > 0 {
        (0, length)
    } else {
        (-1, length - 1)
    };
    let place = |value: Option<i128>, otherwise: i128| match value {
        None => otherwise,
        Some(value) if value < 0 => value.saturating_add(length).clamp(lowest, highest),
        Some(value) => value.clamp(lowest, highest),
    };
    let (start, stop) = if step > 0 {
        (place(bound(0)?, lowest), place(bound(1)?, highest))
    } else {
        (place(bound(0)?, highest), place(bound(1)?, lowest))
    };
    let mut indices = Vec::new();
    let mut at = start;
    while if step > 0 { at < stop } else { at > stop } {
        indices.push(at as usize);
        at = at.saturating_add(step);
    }
    Ok(indices)
}

/// `of[start:stop:step]`.
pub(super) fn slice(vm: &mut Vm, of: &Value, bounds: &[Option<Value>; 3]) -> Result<Value> {
    match of {
        Value::Str(text) => {
            vm.budget.bytes(8 * text.text.len())?;
            let indices = slice_indices(bounds, char_count(&text.text))?;
            let out: String = if text.text.is_ascii() {
                let bytes = text.text.as_bytes();
                indices
                    .into_iter()
                    .map(|at| char::from(bytes[at]))
                    .collect()
            } else {
                let chars: Vec<char> = text.text.chars().collect();
                indices.into_iter().map(|at| chars[at]).collect()
            };
            Ok(Value::text(out, text.markup))
        }
        Value::List(items) | Value::Tuple(items) => {
            vm.budget.items(items.items.len())?;
            let indices = slice_indices(bounds, items.items.len())?;
            let taken = indices.into_iter().map(|at| items.items[at].clone());
            match of {
                Value::List(_) => Value::list(taken.collect()),
                _ => Value::tuple(taken.collect()),
            }
        }
        Value::Range(range) => {
            vm.budget.items(range.length)?;
            let indices = slice_indices(bounds, range.length)?;
            let step = match &bounds[2] {
                Some(value) => value.as_int().unwrap_or(1),
                None => 1,
            };
            Ok(Value::Range(Range {
                start: indices.first().map_or(range.start, |&at| range.at(at)),
                step: range.step.saturating_mul(step),
                length: indices.len(),
            }))
        }
        Value::Undefined(missing) => Err(Fail::new(missing.message.clone())),
        other => Err(Fail::new(format!(
            "'{}' object cannot be sliced",
            other.type_name()
        ))),
    }
}
