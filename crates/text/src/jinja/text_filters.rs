//! Filters that give text.

use super::arguments::{Args, flag, integer, text};
use super::iterate::all;
use super::lexer::is_space;
use super::value::{Text, Value, char_count};
use super::vm::Vm;
use super::{Fail, Result, repr, strings, unicode};

/// Text with HTML's special characters escaped.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

/// The value as text: itself when it is text, else `str(value)`.
pub(super) fn soft(vm: &mut Vm, value: &Value) -> Result<Value> {
    match value {
        Value::Str(_) => Ok(value.clone()),
        other => Ok(Value::from(repr::str_of(vm, other)?)),
    }
}

fn soft_text(vm: &mut Vm, value: &Value) -> Result<Text> {
    match soft(vm, value)? {
        Value::Str(text) => Ok(text),
        _ => Err(Fail::new("no text")),
    }
}

fn escaped(vm: &mut Vm, text: &str) -> Result<Value> {
    vm.budget.text(text.len().saturating_mul(2))?;
    let text = escape(text);
    vm.budget.text(text.len())?;
    Ok(Value::text(text, true))
}

/// Applies one of these filters.
pub(super) fn apply(vm: &mut Vm, name: &str, value: &Value, args: Args) -> Result<Value> {
    match name {
        "replace" => return replace(vm, value, args),
        "trim" => {
            let [chars] = args.bind(name, ["chars"], 0)?;
            let text = soft_text(vm, value)?;
            vm.budget.bytes(text.text.len())?;
            let stripped = strings::strip(&text.text, "strip", chars.as_ref())?;
            return Ok(Value::text(stripped, text.markup));
        }
        "center" => {
            let [width] = args.bind(name, ["width"], 0)?;
            let width = width.map_or(Ok(80), |width| integer(name, &width))?;
            let text = soft_text(vm, value)?;
            let centred = strings::justified(vm, &text.text, name, width, ' ')?;
            return Ok(Value::text(centred, text.markup));
        }
        "indent" => return indent(vm, value, args),
        "truncate" => return truncate(vm, value, args),
        "wordwrap" => return Err(Fail::new("the filter 'wordwrap' is not supported")),
        "xmlattr" => return xmlattr(vm, value, args),
        _ => {}
    }
    let [] = args.bind(name, [], 0)?;
    if name == "urlencode" {
        return urlencode(vm, value);
    }
    let text = soft_text(vm, value)?;
    vm.budget.text(text.text.len())?;
    let own: &str = &text.text;
    match name {
        "safe" => Ok(Value::text(own, true)),
        "e" | "escape" if text.markup => Ok(value.clone()),
        "e" | "escape" | "forceescape" => escaped(vm, own),
        "string" => Ok(Value::Str(text)),
        "lower" => Ok(Value::text(own.to_lowercase(), text.markup)),
        "upper" => Ok(Value::text(own.to_uppercase(), text.markup)),
        "capitalize" => Ok(Value::text(unicode::capitalize(own), text.markup)),
        "title" => Ok(Value::from(title(own))),
        "wordcount" => {
            let word = |c: char| {
                c == '_' || unicode::is_class("isalnum", c.encode_utf8(&mut [0; 4])) == Some(true)
            };
            let words = own.split(|c| !word(c)).filter(|part| !part.is_empty());
            Ok(Value::from(words.count()))
        }
        _ => striptags(own),
    }
}

/// Jinja2's own title case: the first character of each word, words beginning after white space and brackets.
fn title(text: &str) -> String {
    let begins = |c: char| is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let delimiter = begins(first);
        let end = rest.find(|c| begins(c) != delimiter).unwrap_or(rest.len());
        let (item, after) = rest.split_at(end);
        out.extend(first.to_uppercase());
        out.push_str(&item[first.len_utf8()..].to_lowercase());
        rest = after;
    }
    out
}

/// Without tags and with white space collapsed, where nothing needs HTML's table of entities.
fn striptags(own: &str) -> Result<Value> {
    let mut kept = String::new();
    let mut rest = own;
    while let Some(open) = rest.find('<') {
        let close = if rest[open..].starts_with("<!--") {
            rest[open + 4..].find("-->").map(|at| open + 4 + at + 3)
        } else {
            rest[open..].find('>').map(|at| open + at + 1)
        };
        let Some(close) = close else { break };
        kept.push_str(&rest[..open]);
        rest = &rest[close..];
    }
    kept.push_str(rest);
    if kept.contains('&') {
        return Err(Fail::new("striptags: HTML entities are not supported"));
    }
    let words: Vec<&str> = kept
        .split(is_space)
        .filter(|word| !word.is_empty())
        .collect();
    Ok(Value::from(words.join(" ")))
}

fn replace(vm: &mut Vm, value: &Value, args: Args) -> Result<Value> {
    let [old, new, count] = args.bind("replace", ["old", "new", "count"], 2)?;
    let own = repr::str_of(vm, value)?;
    let old = repr::str_of(vm, &old.unwrap_or(Value::None))?;
    let new = repr::str_of(vm, &new.unwrap_or(Value::None))?;
    let count = match count {
        None | Some(Value::None) => -1,
        Some(count) => integer("replace", &count)?,
    };
    strings::replaced(vm, &own, &old, &new, count).map(Value::from)
}

fn indent(vm: &mut Vm, value: &Value, args: Args) -> Result<Value> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"], 0)?;
    let mut indention = String::new();
    match width {
        None => indention.push_str("    "),
        Some(Value::Str(text)) => indention.push_str(&text.text),
        Some(width) => {
            let width = integer("indent", &width)?.max(0);
            let width = usize::try_from(width).unwrap_or(usize::MAX);
            vm.budget.push_many(&mut indention, ' ', width)?;
        }
    }
    let Value::Str(own) = value else {
        return Err(Fail::new(format!(
            "indent expects a string, found {}",
            value.type_name()
        )));
    };
    let with_end = format!("{}\n", own.text);
    vm.budget.text(with_end.len())?;
    let mut out = String::new();
    if flag(first.as_ref()) {
        vm.budget.push(&mut out, &indention)?;
    }
    for (at, line) in strings::lines(&with_end, false).into_iter().enumerate() {
        if at > 0 {
            vm.budget.push(&mut out, "\n")?;
            if flag(blank.as_ref()) || !line.is_empty() {
                vm.budget.push(&mut out, &indention)?;
            }
        }
        vm.budget.push(&mut out, line)?;
    }
    Ok(Value::text(out, own.markup))
}

fn truncate(vm: &mut Vm, value: &Value, args: Args) -> Result<Value> {
    let names = ["length", "killwords", "end", "leeway"];
    let [length, killwords, end, leeway] = args.bind("truncate", names, 0)?;
    let end = end.unwrap_or_else(|| Value::from("..."));
    let end = text("truncate", &end)?;
    let length = length.map_or(Ok(255), |length| integer("truncate", &length))?;
    let leeway = match leeway {
        None | Some(Value::None) => 5,
        Some(leeway) => integer("truncate", &leeway)?,
    };
    let room = length - char_count(end) as i128;
    if room < 0 || leeway < 0 {
        return Err(Fail::new("truncate: length and leeway are too small"));
    }
    // Whatever has a length passes through where it is short enough.
    if let Some(count) = value.length()
        && count as i128 <= length.saturating_add(leeway)
    {
        return Ok(value.clone());
    }
    let own = text("truncate", value)?;
    vm.budget.text(own.len())?;
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let kept: String = own.chars().take(room).collect();
    let kept = if flag(killwords.as_ref()) {
        &kept
    } else {
        kept.rsplit_once(' ').map_or(&*kept, |(before, _)| before)
    };
    let markup = matches!(value, Value::Str(text) if text.markup);
    let end = if markup { escape(end) } else { end.to_owned() };
    Ok(Value::text(format!("{kept}{end}"), markup))
}

fn xmlattr(vm: &mut Vm, value: &Value, args: Args) -> Result<Value> {
    let [autospace] = args.bind("xmlattr", ["autospace"], 0)?;
    let Value::Dict(dict) = value else {
        return Err(Fail::new("xmlattr expects a mapping"));
    };
    let mut out = String::new();
    for (key, item) in &dict.entries {
        if matches!(item, Value::None | Value::Undefined(_)) {
            continue;
        }
        let key = text("xmlattr", key)?;
        let bad = |c: char| c.is_ascii_whitespace() || matches!(c, '\x0b' | '/' | '>' | '=');
        if key.contains(bad) {
            return Err(Fail::new(format!(
                "invalid character in attribute name: '{key}'"
            )));
        }
        let item = soft_text(vm, item)?;
        let item = if item.markup {
            item.text.to_string()
        } else {
            escape(&item.text)
        };
        let first = out.is_empty() && !autospace.as_ref().is_none_or(Value::truthy);
        let space = if first { "" } else { " " };
        vm.budget
            .push(&mut out, &format!("{space}{}=\"{item}\"", escape(key)))?;
    }
    Ok(Value::from(out))
}

fn quote(vm: &mut Vm, text: &str, query: bool, out: &mut String) -> Result<()> {
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '~') || c == '/' && !query {
            out.push(c);
        } else if c == ' ' && query {
            out.push('+');
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    vm.budget.text(out.len())
}

fn urlencode(vm: &mut Vm, value: &Value) -> Result<Value> {
    let mut out = String::new();
    if matches!(value, Value::Str(_)) || !super::iterate::is_iterable(value) {
        let text = repr::str_of(vm, value)?;
        quote(vm, &text, false, &mut out)?;
        return Ok(Value::from(out));
    }
    let pairs = match value {
        Value::Dict(dict) => Value::View(super::value::View::Items, dict.clone()),
        other => other.clone(),
    };
    for (at, pair) in all(vm, &pairs)?.into_iter().enumerate() {
        let Ok([key, item]) = <[Value; 2]>::try_from(all(vm, &pair)?) else {
            return Err(Fail::new("urlencode expects pairs"));
        };
        if at > 0 {
            out.push('&');
        }
        let (key, item) = (repr::str_of(vm, &key)?, repr::str_of(vm, &item)?);
        quote(vm, &key, true, &mut out)?;
        out.push('=');
        quote(vm, &item, true, &mut out)?;
    }
    Ok(Value::from(out))
}
