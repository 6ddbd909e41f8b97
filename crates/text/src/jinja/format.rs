//! `text.format(...)` and the format specifications of `text`, numbers and everything else.

use super::arguments::Args;
use super::attributes;
use super::text_filters::escape;
use super::value::{Text, Value, char_count};
use super::vm::{MAX_TEXT, Vm};
use super::{Fail, Result, numbers, repr};

struct Fields<'a> {
    args: &'a Args,
    markup: bool,
    next: usize,
    automatic: Option<bool>,
}

/// `format` and `format_map`.
pub(super) fn call(vm: &mut Vm, of: &Text, name: &str, mut args: Args) -> Result<Value> {
    if name == "format_map" {
        let [mapping] = args.positional("format_map()", 1)?;
        let Some(Value::Dict(dict)) = mapping else {
            return Err(Fail::new("format_map() takes a mapping"));
        };
        args = Args::default();
        for (key, value) in &dict.entries {
            if let Value::Str(key) = key {
                args.named.push((key.text.clone(), value.clone()));
            }
        }
    }
    let mut fields = Fields {
        args: &args,
        markup: of.markup,
        next: 0,
        automatic: None,
    };
    let mut out = String::new();
    fields.expand(vm, &of.text, 2, &mut out)?;
    Ok(Value::text(out, of.markup))
}

impl Fields<'_> {
    fn expand(&mut self, vm: &mut Vm, text: &str, depth: u32, out: &mut String) -> Result<()> {
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            vm.budget.push(out, &rest[..at])?;
            let brace = rest.as_bytes()[at];
            rest = &rest[at + 1..];
            if rest.as_bytes().first() == Some(&brace) {
                vm.budget.push(out, if brace == b'{' { "{" } else { "}" })?;
                rest = &rest[1..];
                continue;
            }
            if brace == b'}' {
                return Err(Fail::new("single '}' encountered in format string"));
            }
            let mut open = 1;
            let close = rest.bytes().position(|byte| {
                open += match byte {
                    b'{' => 1,
                    b'}' => -1,
                    _ => 0,
                };
                open == 0
            });
            let Some(close) = close else {
                return Err(Fail::new("expected '}' before end of string"));
            };
            self.field(vm, &rest[..close], depth, out)?;
            rest = &rest[close + 1..];
        }
        vm.budget.push(out, rest)
    }

    fn field(&mut self, vm: &mut Vm, field: &str, depth: u32, out: &mut String) -> Result<()> {
        // `!` and `:` inside of brackets belong to the name.
        let mut brackets = false;
        let end = field.find(|c| {
            brackets = (brackets || c == '[') && c != ']';
            !brackets && matches!(c, '!' | ':')
        });
        let (name, rest) = field.split_at(end.unwrap_or(field.len()));
        let (conversion, spec) = match rest.strip_prefix('!') {
            None => (None, rest.strip_prefix(':').unwrap_or("")),
            Some(rest) => {
                let mut chars = rest.chars();
                let Some(kind) = chars.next() else {
                    return Err(Fail::new("end of format while looking for conversion"));
                };
                match chars.as_str() {
                    "" => (Some(kind), ""),
                    rest => match rest.strip_prefix(':') {
                        Some(spec) => (Some(kind), spec),
                        None => return Err(Fail::new("expected ':' after conversion specifier")),
                    },
                }
            }
        };
        let mut value = self.value(vm, name)?;
        value = match conversion {
            None => value,
            Some('s') => Value::from(repr::str_of(vm, &value)?),
            Some('r') => Value::from(repr::repr_of(vm, &value)?),
            Some('a') => Value::from(repr::ascii_of(vm, &value)?),
            Some(other) => {
                return Err(Fail::new(format!("unknown conversion specifier {other}")));
            }
        };
        if depth == 0 {
            return Err(Fail::new("max string recursion exceeded"));
        }
        let mut expanded = String::new();
        if !spec.is_empty() {
            self.expand(vm, spec, depth - 1, &mut expanded)?;
        }
        let safe = matches!(&value, Value::Str(text) if text.markup);
        if self.markup && safe && !expanded.is_empty() {
            return Err(Fail::new("unsupported format specification for Markup"));
        }
        let text = format_value(vm, &value, &expanded)?;
        if self.markup && !safe {
            let text = escape(&text);
            return vm.budget.push(out, &text);
        }
        vm.budget.push(out, &text)
    }

    fn value(&mut self, vm: &mut Vm, name: &str) -> Result<Value> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(end);
        // Only a field that is quite empty is numbered.
        if first.is_empty() && !rest.is_empty() {
            return Err(Fail::new("format: no value named ''"));
        }
        let digits = first.bytes().all(|byte| byte.is_ascii_digit());
        let mut value = if digits {
            let automatic = first.is_empty();
            if *self.automatic.get_or_insert(automatic) != automatic {
                return Err(Fail::new(
                    "cannot switch between manual field specification and automatic field numbering",
                ));
            }
            let index = if automatic {
                self.next += 1;
                self.next - 1
            } else {
                first.parse().unwrap_or(usize::MAX)
            };
            let found = self.args.positional.get(index).cloned();
            found.ok_or_else(|| Fail::new("replacement index out of range for positional args"))?
        } else {
            let found = self.args.named.iter().find(|(known, _)| **known == *first);
            let found = found.map(|(_, value)| value.clone());
            found.ok_or_else(|| Fail::new(format!("format: no value named '{first}'")))?
        };
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                if end == 0 {
                    return Err(Fail::new("empty attribute in format string"));
                }
                value = attributes::attribute(vm, &value, &after[..end])?;
                rest = &after[end..];
            } else if let Some(after) = rest.strip_prefix('[') {
                let Some(end) = after.find(']').filter(|&end| end > 0) else {
                    return Err(Fail::new("missing ']' in format string"));
                };
                let key = &after[..end];
                let key = match key.parse::<i128>() {
                    Ok(index) if key.bytes().all(|byte| byte.is_ascii_digit()) => Value::Int(index),
                    _ => Value::from(key),
                };
                value = attributes::item(vm, &value, &key)?;
                rest = &after[end + 1..];
            } else {
                return Err(Fail::new(
                    "only '.' or '[' may follow ']' in format field specifier",
                ));
            }
        }
        Ok(value)
    }
}

/// The widest number with separators between its digits.
const MAX_GROUPED: usize = 4096;

/// A format specification: `[[fill]align][sign][#][0][width][grouping][.precision][type]`.
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: char,
    alternate: bool,
    zero: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

fn digits_of(rest: &mut &str) -> Result<Option<usize>> {
    let count = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, after) = rest.split_at(count);
    *rest = after;
    if digits.is_empty() {
        return Ok(None);
    }
    match digits.parse() {
        Ok(value) if value <= MAX_TEXT => Ok(Some(value)),
        _ => Err(Fail::new(format!(
            "a width or precision of more than {MAX_TEXT}"
        ))),
    }
}

impl Spec {
    fn parse(text: &str) -> Result<Self> {
        let mut spec = Self {
            fill: None,
            align: None,
            sign: '-',
            alternate: false,
            zero: false,
            width: 0,
            grouping: None,
            precision: None,
            kind: None,
        };
        let is_align = |c: Option<char>| c.filter(|c| matches!(c, '<' | '>' | '=' | '^'));
        let mut chars = text.chars();
        let (first, second) = (chars.next(), chars.next());
        let mut rest = text;
        if let (Some(fill), Some(align)) = (first, is_align(second)) {
            (spec.fill, spec.align) = (Some(fill), Some(align));
            rest = &text[fill.len_utf8() + 1..];
        } else if let Some(align) = is_align(first) {
            spec.align = Some(align);
            rest = &text[1..];
        }
        if let Some(sign @ ('+' | '-' | ' ')) = rest.chars().next() {
            spec.sign = sign;
            rest = &rest[1..];
        }
        if let Some(after) = rest.strip_prefix('#') {
            spec.alternate = true;
            rest = after;
        }
        if let Some(after) = rest.strip_prefix('0') {
            spec.zero = true;
            rest = after;
        }
        spec.width = digits_of(&mut rest)?.unwrap_or(0);
        if let Some(grouping @ (',' | '_')) = rest.chars().next() {
            spec.grouping = Some(grouping);
            rest = &rest[1..];
        }
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            spec.precision = digits_of(&mut rest)?;
            if spec.precision.is_none() {
                return Err(Fail::new("format specifier missing precision"));
            }
        }
        let mut chars = rest.chars();
        spec.kind = chars.next();
        if !chars.as_str().is_empty() {
            return Err(Fail::new("invalid format specifier"));
        }
        Ok(spec)
    }
}

/// Python's `format(value, spec)`.
pub(super) fn format_value(vm: &mut Vm, value: &Value, spec: &str) -> Result<String> {
    if spec.is_empty() {
        return repr::str_of(vm, value);
    }
    let parsed = Spec::parse(spec)?;
    let unknown = |kind: char| {
        Fail::new(format!(
            "unknown format code '{kind}' for object of type '{}'",
            value.type_name()
        ))
    };
    match value {
        Value::Str(text) => parsed.text(vm, &text.text),
        Value::Int(_) | Value::Bool(_) => {
            let whole = value.as_int().unwrap_or(0);
            match parsed.kind {
                None | Some('b' | 'c' | 'd' | 'o' | 'x' | 'X' | 'n') => parsed.integer(vm, whole),
                Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => parsed.float(vm, whole as f64),
                Some(other) => Err(unknown(other)),
            }
        }
        Value::Float(number) => match parsed.kind {
            None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%' | 'n') => parsed.float(vm, *number),
            Some(other) => Err(unknown(other)),
        },
        other => Err(Fail::new(format!(
            "unsupported format string passed to {}.__format__",
            other.type_name()
        ))),
    }
}

impl Spec {
    fn text(&self, vm: &mut Vm, text: &str) -> Result<String> {
        let bad = self.sign != '-'
            || self.alternate
            || self.grouping.is_some()
            || self.align == Some('=')
            || !matches!(self.kind, None | Some('s'));
        if bad {
            return Err(Fail::new("a format specifier that texts do not take"));
        }
        let shortened: String;
        let text = match self.precision {
            Some(precision) => {
                vm.budget.bytes(text.len())?;
                shortened = text.chars().take(precision).collect();
                &shortened
            }
            None => text,
        };
        let fill = self.fill.unwrap_or(if self.zero { '0' } else { ' ' });
        self.place(vm, "", text, fill, self.align.unwrap_or('<'))
    }

    fn sign_of(&self, negative: bool) -> &'static str {
        match self.sign {
            _ if negative => "-",
            '+' => "+",
            ' ' => " ",
            _ => "",
        }
    }

    fn integer(&self, vm: &mut Vm, value: i128) -> Result<String> {
        if self.precision.is_some() {
            return Err(Fail::new(
                "precision not allowed in integer format specifier",
            ));
        }
        let size = value.unsigned_abs();
        let (prefix, digits, group) = match self.kind {
            Some('b') => ("0b", format!("{size:b}"), 4),
            Some('o') => ("0o", format!("{size:o}"), 4),
            Some('x') => ("0x", format!("{size:x}"), 4),
            Some('X') => ("0X", format!("{size:X}"), 4),
            Some('c') => {
                let c = u32::try_from(value).ok().and_then(char::from_u32);
                let c = c.ok_or_else(|| Fail::new("%c arg not in range(0x110000)"))?;
                return self.place(vm, "", &c.to_string(), ' ', self.align.unwrap_or('<'));
            }
            _ => ("", size.to_string(), 3),
        };
        if self.grouping == Some(',') && group == 4 {
            return Err(Fail::new("cannot specify ',' with this type"));
        }
        let prefix = if self.alternate { prefix } else { "" };
        let sign = format!("{}{prefix}", self.sign_of(value < 0));
        self.number(vm, &sign, &digits, "", group)
    }

    fn float(&self, vm: &mut Vm, value: f64) -> Result<String> {
        if self.alternate {
            return Err(Fail::new("the flag # on a float is not supported"));
        }
        let precision = self.precision.unwrap_or(6);
        vm.budget.text(precision)?;
        let size = value.abs();
        let upper = self.kind.is_some_and(|kind| kind.is_ascii_uppercase());
        let mut text = if value.is_nan() {
            "nan".to_owned()
        } else if size.is_infinite() {
            "inf".to_owned()
        } else {
            match self.kind {
                Some('e' | 'E') => numbers::exponential(size, precision),
                Some('f' | 'F') => numbers::fixed(size, precision),
                Some('%') => format!("{}%", numbers::fixed(size * 100.0, precision)),
                Some(_) => numbers::general(size, precision, false),
                None if self.precision.is_none() => numbers::repr(size),
                None => untyped(size, precision),
            }
        };
        if upper {
            text = text.to_uppercase();
        }
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (whole, rest) = text.split_at(end);
        let negative = value.is_sign_negative() && !value.is_nan();
        self.number(vm, self.sign_of(negative), whole, rest, 3)
    }

    /// Groups the digits before the point and pads.
    fn number(
        &self,
        vm: &mut Vm,
        sign: &str,
        digits: &str,
        rest: &str,
        group: usize,
    ) -> Result<String> {
        let fill = self.fill.unwrap_or(if self.zero { '0' } else { ' ' });
        let align = self.align.unwrap_or(if self.zero { '=' } else { '>' });
        let mut digits = digits.to_owned();
        if let Some(separator) = self.grouping
            && !digits.is_empty()
        {
            vm.budget.text(self.width)?;
            let other = sign.len() + rest.len();
            let grouped_length = |count: usize| count + (count - 1) / group;
            if self.width > MAX_GROUPED {
                return Err(Fail::new(format!(
                    "a grouped number wider than {MAX_GROUPED} characters"
                )));
            }
            if fill == '0' && align == '=' {
                let mut count = digits.len();
                while grouped_length(count) + other < self.width {
                    count += 1;
                }
                digits.insert_str(0, &"0".repeat(count - digits.len()));
            }
            let mut grouped = String::with_capacity(grouped_length(digits.len()));
            for (at, digit) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at).is_multiple_of(group) {
                    grouped.push(separator);
                }
                grouped.push(digit);
            }
            digits = grouped;
        }
        self.place(vm, sign, &format!("{digits}{rest}"), fill, align)
    }

    fn place(
        &self,
        vm: &mut Vm,
        sign: &str,
        body: &str,
        fill: char,
        align: char,
    ) -> Result<String> {
        let pad = self.width.saturating_sub(sign.len() + char_count(body));
        let (left, inner, right) = match align {
            '<' => (0, 0, pad),
            '^' => (pad / 2, 0, pad - pad / 2),
            '=' => (0, pad, 0),
            _ => (pad, 0, 0),
        };
        let mut out = String::new();
        vm.budget.push_many(&mut out, fill, left)?;
        vm.budget.push(&mut out, sign)?;
        vm.budget.push_many(&mut out, fill, inner)?;
        vm.budget.push(&mut out, body)?;
        vm.budget.push_many(&mut out, fill, right)?;
        Ok(out)
    }
}

/// A float with a precision and no type: as `g`, with a digit after the point, and an exponent one digit earlier.
fn untyped(size: f64, precision: usize) -> String {
    let precision = precision.max(1);
    let exponential = numbers::exponential(size, precision - 1);
    let (mantissa, exponent) = exponential.split_once('e').unwrap_or((&exponential, "0"));
    let exponent: i64 = exponent.parse().unwrap_or(0);
    if (-4..precision as i64 - 1).contains(&exponent) {
        let text = numbers::general(size, precision, false);
        return if text.contains('.') {
            text
        } else {
            format!("{text}.0")
        };
    }
    let mantissa = if mantissa.contains('.') {
        mantissa.trim_end_matches('0').trim_end_matches('.')
    } else {
        mantissa
    };
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}
