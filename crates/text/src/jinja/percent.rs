//! `text % values`: Python's printf-style formatting.

use super::text_filters::escape;
use super::value::{Text, Value, char_count};
use super::vm::{MAX_TEXT, Vm};
use super::{Fail, Result, numbers, ops, repr};

/// One conversion: `%[(key)][flags][width][.precision]type`.
#[derive(Default)]
struct Conversion {
    left: bool,
    plus: bool,
    space: bool,
    zero: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

/// The values that conversions take in turn.
struct Values<'a> {
    all: &'a [Value],
    next: usize,
    mapping: Option<&'a Value>,
}

impl Values<'_> {
    fn take(&mut self) -> Result<Value> {
        let value = self.all.get(self.next).cloned();
        self.next += 1;
        value.ok_or_else(|| Fail::new("not enough arguments for format string"))
    }
}

/// Formats a text with a value, or with the values of a tuple.
pub(super) fn format(vm: &mut Vm, of: &Text, value: &Value) -> Result<Value> {
    let single = std::slice::from_ref(value);
    let mut values = match value {
        Value::Tuple(items) => Values {
            all: &items.items,
            next: 0,
            mapping: None,
        },
        Value::Dict(_) | Value::List(_) | Value::Range(_) | Value::Undefined(_) => Values {
            all: single,
            next: 0,
            mapping: Some(value),
        },
        _ => Values {
            all: single,
            next: 0,
            mapping: None,
        },
    };
    let mut out = String::new();
    let mut rest: &str = &of.text;
    while let Some(at) = rest.find('%') {
        vm.budget.push(&mut out, &rest[..at])?;
        rest = convert(vm, of.markup, &rest[at + 1..], &mut values, &mut out)?;
    }
    vm.budget.push(&mut out, rest)?;
    if values.next < values.all.len() && values.mapping.is_none() {
        return Err(Fail::new(
            "not all arguments converted during string formatting",
        ));
    }
    Ok(Value::text(out, of.markup))
}

/// A number in a format, or `*` for one of the values.
fn number<'a>(rest: &'a str, values: &mut Values<'_>) -> Result<(Option<i128>, &'a str)> {
    if let Some(rest) = rest.strip_prefix('*') {
        let value = values.take()?;
        return match value.as_int() {
            Some(value) => Ok((Some(value), rest)),
            None => Err(Fail::new("* wants int")),
        };
    }
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return Ok((None, rest));
    }
    let value = rest[..digits].parse().unwrap_or(i128::MAX);
    Ok((Some(value), &rest[digits..]))
}

/// A width or precision that a text may have.
fn size(value: i128) -> Result<usize> {
    usize::try_from(value)
        .ok()
        .filter(|&value| value <= MAX_TEXT)
        .ok_or_else(|| Fail::new(format!("a width or precision of more than {MAX_TEXT}")))
}

fn convert<'a>(
    vm: &mut Vm,
    markup: bool,
    mut rest: &'a str,
    values: &mut Values<'_>,
    out: &mut String,
) -> Result<&'a str> {
    let mut keyed = None;
    if rest.starts_with('(') {
        let mut depth = 0;
        let close = rest.bytes().position(|byte| {
            depth += match byte {
                b'(' => 1,
                b')' => -1,
                _ => 0,
            };
            depth == 0
        });
        let Some(close) = close else {
            return Err(Fail::new("incomplete format key"));
        };
        let Some(Value::Dict(dict)) = values.mapping else {
            return Err(Fail::new("format requires a mapping"));
        };
        let key = &rest[1..close];
        keyed = Some(
            dict.get_str(key)
                .cloned()
                .ok_or_else(|| Fail::new(format!("format: no key '{key}'")))?,
        );
        rest = &rest[close + 1..];
    }
    let mut spec = Conversion::default();
    loop {
        match rest.bytes().next() {
            Some(b'-') => spec.left = true,
            Some(b'+') => spec.plus = true,
            Some(b' ') => spec.space = true,
            Some(b'0') => spec.zero = true,
            Some(b'#') => spec.alternate = true,
            _ => break,
        }
        rest = &rest[1..];
    }
    let (width, after) = number(rest, values)?;
    rest = after;
    if let Some(width) = width {
        spec.left |= width < 0;
        spec.width = size(width.abs())?;
    }
    if let Some(after) = rest.strip_prefix('.') {
        let (precision, after) = number(after, values)?;
        spec.precision = Some(size(precision.unwrap_or(0).max(0))?);
        rest = after;
    }
    rest = rest.trim_start_matches(['h', 'l', 'L']);
    let Some(kind) = rest.chars().next() else {
        return Err(Fail::new("incomplete format"));
    };
    rest = &rest[kind.len_utf8()..];
    if kind == '%' {
        vm.budget.push(out, "%")?;
        return Ok(rest);
    }
    let value = match keyed {
        Some(value) => value,
        None => values.take()?,
    };
    let (sign, prefix, body, numeric) = spec.body(vm, kind, &value, markup)?;
    spec.pad(vm, out, &sign, &prefix, &body, numeric)?;
    Ok(rest)
}

impl Conversion {
    /// Sign, prefix and digits of a value, and whether it is a number.
    fn body(
        &self,
        vm: &mut Vm,
        kind: char,
        value: &Value,
        markup: bool,
    ) -> Result<(String, String, String, bool)> {
        let plain = |text: String| Ok((String::new(), String::new(), text, false));
        match kind {
            's' | 'r' | 'a' => {
                let safe = matches!(value, Value::Str(text) if text.markup);
                let mut text = match kind {
                    's' => repr::str_of(vm, value)?,
                    'r' => repr::repr_of(vm, value)?,
                    _ => repr::ascii_of(vm, value)?,
                };
                if markup && !(safe && kind == 's') {
                    text = escape(&text);
                }
                if let Some(precision) = self.precision {
                    text = text.chars().take(precision).collect();
                }
                plain(text)
            }
            'c' => match value {
                Value::Str(text) if char_count(&text.text) == 1 => plain(text.text.to_string()),
                _ => {
                    let code = value.as_int().and_then(|code| u32::try_from(code).ok());
                    match code.and_then(char::from_u32) {
                        Some(c) => plain(c.to_string()),
                        None => Err(Fail::new("%c requires int or char")),
                    }
                }
            },
            'd' | 'i' | 'u' | 'x' | 'X' | 'o' => self.integer(vm, kind, value),
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => self.float(vm, kind, value),
            other => Err(Fail::new(format!("unsupported format character '{other}'"))),
        }
    }

    fn sign(&self, negative: bool) -> String {
        match () {
            () if negative => "-",
            () if self.plus => "+",
            () if self.space => " ",
            () => "",
        }
        .to_owned()
    }

    fn integer(
        &self,
        vm: &mut Vm,
        kind: char,
        value: &Value,
    ) -> Result<(String, String, String, bool)> {
        let decimal = matches!(kind, 'd' | 'i' | 'u');
        let whole = match value {
            Value::Float(value) if decimal && value.is_finite() && value.abs() < 1e38 => {
                *value as i128
            }
            other => other.as_int().ok_or_else(|| {
                Fail::new(format!(
                    "%{kind} format: a number is required, not {}",
                    value.type_name()
                ))
            })?,
        };
        let size = whole.unsigned_abs();
        let (prefix, mut digits) = match kind {
            'x' => ("0x", format!("{size:x}")),
            'X' => ("0X", format!("{size:X}")),
            'o' => ("0o", format!("{size:o}")),
            _ => ("", size.to_string()),
        };
        if let Some(pad) = self.precision.and_then(|p| p.checked_sub(digits.len())) {
            vm.budget.text(pad)?;
            digits.insert_str(0, &"0".repeat(pad));
        }
        let prefix = if self.alternate { prefix } else { "" };
        Ok((self.sign(whole < 0), prefix.to_owned(), digits, true))
    }

    fn float(
        &self,
        vm: &mut Vm,
        kind: char,
        value: &Value,
    ) -> Result<(String, String, String, bool)> {
        let Some(number) = value.as_number() else {
            return Err(Fail::new(format!(
                "must be real number, not {}",
                value.type_name()
            )));
        };
        let precision = self.precision.unwrap_or(6);
        vm.budget.text(precision)?;
        let size = number.abs();
        let mut text = if !number.is_finite() {
            if number.is_nan() { "nan" } else { "inf" }.to_owned()
        } else {
            match kind {
                'e' | 'E' => numbers::exponential(size, precision),
                'f' | 'F' => numbers::fixed(size, precision),
                _ => numbers::general(size, precision, self.alternate),
            }
        };
        if self.alternate && number.is_finite() && !text.contains('.') {
            return Err(Fail::new(
                "the flag # on a float without fraction is not supported",
            ));
        }
        if kind.is_ascii_uppercase() {
            text = text.to_uppercase();
        }
        let negative = number.is_sign_negative() && !number.is_nan();
        Ok((self.sign(negative), String::new(), text, true))
    }

    fn pad(
        &self,
        vm: &mut Vm,
        out: &mut String,
        sign: &str,
        prefix: &str,
        body: &str,
        numeric: bool,
    ) -> Result<()> {
        let length = sign.len() + prefix.len() + char_count(body);
        let pad = self.width.saturating_sub(length);
        let zeros = self.zero && numeric && !self.left;
        if !zeros && !self.left {
            vm.budget.push_many(out, ' ', pad)?;
        }
        vm.budget.push(out, sign)?;
        vm.budget.push(out, prefix)?;
        if zeros {
            vm.budget.push_many(out, '0', pad)?;
        }
        vm.budget.push(out, body)?;
        if self.left {
            vm.budget.push_many(out, ' ', pad)?;
        }
        Ok(())
    }
}

/// `text | format(...)`: the filter.
pub(super) fn filter(vm: &mut Vm, of: &Value, args: super::arguments::Args) -> Result<Value> {
    let Value::Str(text) = super::text_filters::soft(vm, of)? else {
        return Err(Fail::new("format: no text"));
    };
    let value = if args.named.is_empty() {
        Value::tuple(args.positional)?
    } else if args.positional.is_empty() {
        let named = args.named.into_iter();
        Value::dict(
            named
                .map(|(name, value)| (Value::text(name, false), value))
                .collect(),
        )?
    } else {
        return Err(Fail::new(
            "can't handle positional and keyword arguments at the same time",
        ));
    };
    ops::binary(vm, super::syntax::Binary::Mod, &Value::Str(text), &value)
}
