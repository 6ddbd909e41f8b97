//! Filters that give numbers.

use super::arguments::{Args, flag, integer};
use super::attributes::{follow, path};
use super::iterate::all;
use super::syntax::Binary;
use super::unicode::ascii_digits;
use super::value::Value;
use super::vm::Vm;
use super::{Fail, Result, numbers, ops};

/// Applies one of these filters.
pub(super) fn apply(vm: &mut Vm, name: &str, value: &Value, args: Args) -> Result<Value> {
    match name {
        "abs" => {
            let [] = args.positional(name, 0)?;
            match (value, value.as_int()) {
                (_, Some(whole)) => whole
                    .checked_abs()
                    .map(Value::Int)
                    .ok_or_else(|| Fail::new("an integer of more than 128 bits")),
                (Value::Float(number), _) => Ok(Value::Float(number.abs())),
                _ => Err(Fail::new(format!(
                    "bad operand type for abs(): '{}'",
                    value.type_name()
                ))),
            }
        }
        "float" => {
            let [default] = args.bind(name, ["default"], 0)?;
            Ok(match to_float(vm, value)? {
                Some(number) => Value::Float(number),
                None => default.unwrap_or(Value::Float(0.0)),
            })
        }
        "int" => int(vm, value, args),
        "round" => round(value, args),
        "sum" => {
            let [attribute, start] = args.bind(name, ["attribute", "start"], 0)?;
            let path = path(attribute.as_ref());
            let mut total = start.unwrap_or(Value::Int(0));
            if matches!(total, Value::Str(_)) {
                return Err(Fail::new("sum() can't sum strings"));
            }
            for item in all(vm, value)? {
                let item = follow(vm, item, &path, None)?;
                total = ops::binary(vm, Binary::Add, &total, &item)?;
            }
            Ok(total)
        }
        _ => filesize(vm, value, args),
    }
}

/// Python's `float(value)`; `None` where it raises what the filter catches.
fn to_float(vm: &mut Vm, value: &Value) -> Result<Option<f64>> {
    match value {
        Value::Undefined(missing) => Err(Fail::new(missing.message.clone())),
        Value::Str(text) => {
            vm.budget.bytes(text.text.len())?;
            Ok(parse_float(&text.text))
        }
        other => Ok(other.as_number()),
    }
}

fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let between = |at: usize| {
        at > 0
            && bytes[at - 1].is_ascii_digit()
            && bytes.get(at + 1).is_some_and(u8::is_ascii_digit)
    };
    let stray = (0..bytes.len()).any(|at| bytes[at] == b'_' && !between(at));
    (!stray).then(|| text.replace('_', ""))
}

fn parse_float(text: &str) -> Option<f64> {
    without_underscores(&ascii_digits(text))?.parse().ok()
}

/// Python's `int(text, base)`.
fn parse_int(text: &str, base: i128) -> Result<Option<i128>> {
    let base = match u32::try_from(base) {
        Ok(base @ (0 | 2..=36)) => base,
        _ => return Ok(None),
    };
    let text = ascii_digits(text).to_ascii_lowercase();
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, &text[..]),
    };
    let prefix = match digits.get(..2) {
        Some("0x") => 16,
        Some("0o") => 8,
        Some("0b") => 2,
        _ => 0,
    };
    let prefixed = prefix != 0 && (base == prefix || base == 0);
    let digits = if prefixed {
        let digits = &digits[2..];
        digits.strip_prefix('_').unwrap_or(digits)
    } else {
        digits
    };
    let radix = match base {
        0 if prefixed => prefix,
        0 => 10,
        base => base,
    };
    let good = |byte: u8| char::from(byte).is_digit(radix);
    let bytes = digits.as_bytes();
    let fits = !bytes.is_empty()
        && (0..bytes.len()).all(|at| {
            good(bytes[at])
                || bytes[at] == b'_'
                    && at > 0
                    && good(bytes[at - 1])
                    && bytes.get(at + 1).is_some_and(|&next| good(next))
        });
    let digits = digits.replace('_', "");
    let zero_first = base == 0 && !prefixed && digits.starts_with('0');
    if !fits || zero_first && digits.bytes().any(|byte| byte != b'0') {
        return Ok(None);
    }
    let signed = if negative {
        format!("-{digits}")
    } else {
        digits
    };
    match i128::from_str_radix(&signed, radix) {
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(Fail::new("an integer of more than 128 bits")),
    }
}

fn truncated(number: f64) -> Result<Option<i128>> {
    if !number.is_finite() {
        return Ok(None);
    }
    if number.abs() >= 1.7e38 {
        return Err(Fail::new("an integer of more than 128 bits"));
    }
    Ok(Some(number.trunc() as i128))
}

fn int(vm: &mut Vm, value: &Value, args: Args) -> Result<Value> {
    let [default, base] = args.bind("int", ["default", "base"], 0)?;
    let default = default.unwrap_or(Value::Int(0));
    let whole = match value {
        Value::Undefined(missing) => return Err(Fail::new(missing.message.clone())),
        Value::Str(text) => {
            vm.budget.bytes(text.text.len())?;
            let base = base.map_or(Ok(10), |base| integer("int: base", &base))?;
            match parse_int(&text.text, base)? {
                Some(whole) => Some(whole),
                None => parse_float(&text.text).map_or(Ok(None), truncated)?,
            }
        }
        Value::Float(number) if number.is_infinite() => {
            return Err(Fail::new("cannot convert float infinity to integer"));
        }
        Value::Float(number) => truncated(*number)?,
        other => other.as_int(),
    };
    Ok(whole.map_or(default, Value::Int))
}

fn round(value: &Value, args: Args) -> Result<Value> {
    let [precision, method] = args.bind("round", ["precision", "method"], 0)?;
    let method = method.as_ref().map_or(Some("common"), Value::as_str);
    let method = method.filter(|method| matches!(*method, "common" | "ceil" | "floor"));
    let Some(method) = method else {
        return Err(Fail::new("method must be common, ceil or floor"));
    };
    let precision = precision.unwrap_or(Value::Int(0));
    if value.as_number().is_none() {
        return Err(Fail::new(format!(
            "type {} cannot be rounded",
            value.type_name()
        )));
    }
    if method == "common" {
        if let (Some(whole), Value::None) = (value.as_int(), &precision) {
            return Ok(Value::Int(whole));
        }
        if let (Value::Float(number), Value::None) = (value, &precision) {
            return match truncated(numbers::round(*number, 0))? {
                Some(whole) => Ok(Value::Int(whole)),
                None => Err(Fail::new("cannot convert float to integer")),
            };
        }
        let digits = integer("round", &precision)?;
        return match (value, value.as_int()) {
            (_, Some(whole)) => numbers::round_integer(whole, digits)
                .map(Value::Int)
                .ok_or_else(|| Fail::new("an integer of more than 128 bits")),
            (Value::Float(number), _) => Ok(Value::Float(numbers::round(*number, digits))),
            _ => Err(Fail::new("round expects a number")),
        };
    }
    let digits = integer("round", &precision)?;
    let Ok(digits) = i32::try_from(digits) else {
        return Err(Fail::new("round: a precision that is too large"));
    };
    let unit: f64 = format!("1e{digits}").parse().unwrap_or(f64::INFINITY);
    let scaled = value.as_number().unwrap_or(f64::NAN) * unit;
    if !scaled.is_finite() {
        return Err(Fail::new("cannot convert float to integer"));
    }
    let whole = if method == "ceil" {
        scaled.ceil()
    } else {
        scaled.floor()
    };
    // Python's integers know no negative zero.
    Ok(Value::Float((whole + 0.0) / unit))
}

fn filesize(vm: &mut Vm, value: &Value, args: Args) -> Result<Value> {
    let [binary] = args.bind("filesizeformat", ["binary"], 0)?;
    let binary = flag(binary.as_ref());
    let Some(bytes) = to_float(vm, value)? else {
        return Err(Fail::new("filesizeformat expects a number"));
    };
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Ok(Value::from("1 Byte"));
    }
    if bytes < base {
        return match truncated(bytes)? {
            Some(whole) => Ok(Value::from(format!("{whole} Bytes"))),
            None => Err(Fail::new("cannot convert float to integer")),
        };
    }
    let mut unit = base;
    let mut name = "";
    for prefix in ["k", "M", "G", "T", "P", "E", "Z", "Y"] {
        unit *= base;
        name = prefix;
        if bytes < unit {
            break;
        }
    }
    let name = match (name, binary) {
        ("k", true) => "KiB".to_owned(),
        (name, true) => format!("{name}iB"),
        (name, false) => format!("{name}B"),
    };
    let size = numbers::fixed(base * bytes / unit, 1);
    Ok(Value::from(format!("{size} {name}")))
}
