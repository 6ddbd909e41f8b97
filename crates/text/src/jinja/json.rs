//! The filter `tojson` of `transformers`: Python's `json.dumps(value, ensure_ascii=False, ...)`.

use super::arguments::{Args, flag, text};
use super::numbers;
use super::value::Value;
use super::vm::Vm;
use super::{Fail, Result, iterate, ops};

struct Style {
    ensure_ascii: bool,
    indent: Option<String>,
    between: String,
    after_key: String,
    sort_keys: bool,
}

/// `value | tojson(...)`.
pub(super) fn tojson(vm: &mut Vm, value: &Value, args: Args) -> Result<Value> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ensure_ascii, indent, separators, sort_keys] = args.bind("tojson", names, 0)?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text.text.to_string()),
        Some(value) => {
            let width = super::arguments::integer("tojson: indent", &value)?;
            let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
            vm.budget.text(width)?;
            Some(" ".repeat(width))
        }
    };
    let (between, after_key) = match separators {
        None | Some(Value::None) => {
            let between = if indent.is_some() { "," } else { ", " };
            (between.to_owned(), ": ".to_owned())
        }
        Some(pair) => match &iterate::all(vm, &pair)?[..] {
            [between, after_key] => (
                text("tojson: separators", between)?.to_owned(),
                text("tojson: separators", after_key)?.to_owned(),
            ),
            _ => return Err(Fail::new("tojson: `separators` takes two strings")),
        },
    };
    let style = Style {
        ensure_ascii: flag(ensure_ascii.as_ref()),
        indent,
        between,
        after_key,
        sort_keys: flag(sort_keys.as_ref()),
    };
    let mut out = String::new();
    style.write(vm, value, 0, &mut out)?;
    Ok(Value::from(out))
}

impl Style {
    fn write(&self, vm: &mut Vm, value: &Value, depth: usize, out: &mut String) -> Result<()> {
        vm.budget.steps(1)?;
        match value {
            Value::None => vm.budget.push(out, "null"),
            Value::Bool(true) => vm.budget.push(out, "true"),
            Value::Bool(false) => vm.budget.push(out, "false"),
            Value::Int(value) => vm.budget.push(out, &value.to_string()),
            Value::Float(value) => vm.budget.push(out, &float(*value)),
            Value::Str(text) => self.quote(vm, &text.text, out),
            Value::List(items) | Value::Tuple(items) if items.items.is_empty() => {
                vm.budget.push(out, "[]")
            }
            Value::List(items) | Value::Tuple(items) => {
                vm.budget.push(out, "[")?;
                for (at, item) in items.items.iter().enumerate() {
                    self.break_line(vm, at > 0, depth + 1, out)?;
                    self.write(vm, item, depth + 1, out)?;
                }
                self.break_line(vm, false, depth, out)?;
                vm.budget.push(out, "]")
            }
            Value::Dict(dict) if dict.entries.is_empty() => vm.budget.push(out, "{}"),
            Value::Dict(dict) => {
                let mut entries = dict.entries.clone();
                vm.budget.items(2 * entries.len())?;
                if self.sort_keys {
                    entries = ops::sort(vm, entries)?;
                }
                vm.budget.push(out, "{")?;
                for (at, (key, item)) in entries.iter().enumerate() {
                    self.break_line(vm, at > 0, depth + 1, out)?;
                    let key = match key {
                        Value::Str(text) => text.text.to_string(),
                        Value::None => "null".to_owned(),
                        Value::Bool(value) => value.to_string(),
                        Value::Int(value) => value.to_string(),
                        Value::Float(value) => float(*value),
                        other => {
                            return Err(Fail::new(format!(
                                "tojson: keys must be str, int, float, bool or None, not {}",
                                other.type_name()
                            )));
                        }
                    };
                    self.quote(vm, &key, out)?;
                    vm.budget.push(out, &self.after_key)?;
                    self.write(vm, item, depth + 1, out)?;
                }
                self.break_line(vm, false, depth, out)?;
                vm.budget.push(out, "}")
            }
            other => Err(Fail::new(format!(
                "tojson: object of type {} is not JSON serializable",
                other.type_name()
            ))),
        }
    }

    fn break_line(
        &self,
        vm: &mut Vm,
        separate: bool,
        depth: usize,
        out: &mut String,
    ) -> Result<()> {
        if separate {
            vm.budget.push(out, &self.between)?;
        }
        if let Some(indent) = &self.indent {
            vm.budget.push(out, "\n")?;
            for _ in 0..depth {
                vm.budget.push(out, indent)?;
            }
        }
        Ok(())
    }

    fn quote(&self, vm: &mut Vm, text: &str, out: &mut String) -> Result<()> {
        vm.budget.bytes(text.len())?;
        let mut quoted = String::with_capacity(text.len() + 2);
        quoted.push('"');
        for c in text.chars() {
            match c {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                '\x08' => quoted.push_str("\\b"),
                '\x0c' => quoted.push_str("\\f"),
                '\0'..='\x1f' => quoted.push_str(&format!("\\u{:04x}", c as u32)),
                c if self.ensure_ascii && c as u32 > 0x7e => {
                    if c == '\x7f' {
                        quoted.push(c);
                        continue;
                    }
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        quoted.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => quoted.push(c),
            }
        }
        quoted.push('"');
        vm.budget.push(out, &quoted)
    }
}

fn float(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        numbers::repr(value)
    }
}
