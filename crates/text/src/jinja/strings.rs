//! The methods of Python's `str`.

use super::arguments::{Args, flag, integer, text};
use super::lexer::is_space;
use super::methods::not_supported;
use super::text_filters::escape;
use super::value::{Text, Value, char_count};
use super::vm::Vm;
use super::{Fail, Result, format, iterate, unicode};

/// Calls a method of a text.
pub(super) fn call(vm: &mut Vm, of: &Text, name: &str, args: Args) -> Result<Value> {
    vm.budget.bytes(of.text.len())?;
    let own: &str = &of.text;
    let again = |text: String| Ok(Value::text(text, of.markup));
    match name {
        "format" | "format_map" => return format::call(vm, of, name, args),
        "split" | "rsplit" => return split(vm, of, name, args),
        "replace" => return replace(vm, of, args),
        "join" => return join(vm, of, args),
        "splitlines" => {
            let [keep] = args.bind("splitlines()", ["keepends"], 0)?;
            return list_of(vm, of, lines(own, flag(keep.as_ref())));
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = args.positional(name, 0)?;
            let stripped = strip(own, name, chars.as_ref())?;
            return Ok(Value::text(stripped, of.markup));
        }
        "startswith" | "endswith" => return starts_or_ends(vm, own, name, args),
        "find" | "rfind" | "index" | "rindex" | "count" => return search(own, name, args),
        "partition" | "rpartition" => {
            let [separator] = args.positional(name, 1)?;
            let separator = separator.unwrap_or(Value::None);
            let separator = text(name, &separator)?;
            if separator.is_empty() {
                return Err(Fail::new("empty separator"));
            }
            let parts = if name == "partition" {
                own.split_once(separator)
                    .map_or([own, "", ""], |(a, b)| [a, separator, b])
            } else {
                own.rsplit_once(separator)
                    .map_or(["", "", own], |(a, b)| [a, separator, b])
            };
            return Value::tuple(parts.map(|part| Value::text(part, of.markup)).to_vec());
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = args.positional(name, 1)?;
            let affix = affix.unwrap_or(Value::None);
            let affix = text(name, &affix)?;
            let rest = if name == "removeprefix" {
                own.strip_prefix(affix)
            } else {
                own.strip_suffix(affix)
            };
            return again(rest.unwrap_or(own).to_owned());
        }
        "ljust" | "rjust" | "center" => return justify(vm, of, name, args),
        "zfill" => {
            let [width] = args.positional(name, 1)?;
            let width = integer(name, &width.unwrap_or(Value::None))?;
            return again(zfill(vm, own, width)?);
        }
        "expandtabs" => {
            let [size] = args.bind("expandtabs()", ["tabsize"], 0)?;
            let size = size.map_or(Ok(8), |size| integer("expandtabs()", &size))?;
            return again(expand_tabs(vm, own, size)?);
        }
        _ => {}
    }
    let [] = args.positional(name, 0)?;
    if let Some(is) = unicode::is_class(name, own) {
        return Ok(Value::Bool(is));
    }
    again(match name {
        "upper" => own.to_uppercase(),
        "lower" => own.to_lowercase(),
        "title" => unicode::title(own),
        "capitalize" => unicode::capitalize(own),
        "swapcase" => unicode::swapcase(own),
        "casefold" => unicode::casefold(own),
        _ => return Err(not_supported(name)),
    })
}

fn list_of(vm: &mut Vm, of: &Text, parts: Vec<&str>) -> Result<Value> {
    vm.budget.items(2 * parts.len())?;
    let parts = parts.into_iter().map(|part| Value::text(part, of.markup));
    Value::list(parts.collect())
}

/// Python's `splitlines`.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut start = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let ends = matches!(
            c,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        );
        if !ends {
            continue;
        }
        let mut end = at + c.len_utf8();
        if c == '\r' && chars.next_if(|&(_, next)| next == '\n').is_some() {
            end += 1;
        }
        lines.push(&text[start..if keep_ends { end } else { at }]);
        start = end;
    }
    if start < text.len() {
        lines.push(&text[start..]);
    }
    lines
}

/// `strip`, `lstrip` or `rstrip`, of white space or of the characters given.
pub(super) fn strip<'a>(own: &'a str, name: &str, chars: Option<&Value>) -> Result<&'a str> {
    let set = match chars {
        None | Some(Value::None) => None,
        Some(Value::Str(set)) => Some(&*set.text),
        Some(_) => return Err(Fail::new(format!("{name} arg must be None or str"))),
    };
    let drop = |c: char| set.map_or_else(|| is_space(c), |set| set.contains(c));
    Ok(match name {
        "strip" => own.trim_matches(drop),
        "lstrip" => own.trim_start_matches(drop),
        _ => own.trim_end_matches(drop),
    })
}

fn split(vm: &mut Vm, of: &Text, name: &str, args: Args) -> Result<Value> {
    let [separator, most] = args.bind(name, ["sep", "maxsplit"], 0)?;
    let most = most.map_or(Ok(-1), |most| integer(name, &most))?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let own: &str = &of.text;
    let parts: Vec<&str> = match &separator {
        None | Some(Value::None) if name == "split" => split_space(own, most),
        None | Some(Value::None) => rsplit_space(own, most),
        Some(separator) => {
            let separator = text(name, separator)?;
            if separator.is_empty() {
                return Err(Fail::new("empty separator"));
            }
            let most = most.saturating_add(1);
            if name == "split" {
                own.splitn(most, separator).collect()
            } else {
                let mut parts: Vec<_> = own.rsplitn(most, separator).collect();
                parts.reverse();
                parts
            }
        }
    };
    list_of(vm, of, parts)
}

fn split_space(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        if parts.len() == most {
            parts.push(rest);
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

fn rsplit_space(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        if parts.len() == most {
            parts.push(rest);
            break;
        }
        let start = rest
            .char_indices()
            .rfind(|&(_, c)| is_space(c))
            .map_or(0, |(at, c)| at + c.len_utf8());
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

/// Replaces a part of a text, counting what is made before it is made.
pub(super) fn replaced(vm: &mut Vm, own: &str, old: &str, new: &str, most: i128) -> Result<String> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    vm.budget.bytes(own.len())?;
    let found = own.matches(old).take(most).count();
    let length = (own.len() - found * old.len()).saturating_add(found.saturating_mul(new.len()));
    vm.budget.text(length)?;
    Ok(own.replacen(old, new, most))
}

fn replace(vm: &mut Vm, of: &Text, args: Args) -> Result<Value> {
    let [old, new, most] = args.positional("replace()", 2)?;
    let (old, new) = (old.unwrap_or(Value::None), new.unwrap_or(Value::None));
    let most = most.map_or(Ok(-1), |most| integer("replace()", &most))?;
    let (old, new) = (text("replace()", &old)?, markup_of(of, &new, "replace()")?);
    Ok(Value::text(
        replaced(vm, &of.text, old, &new, most)?,
        of.markup,
    ))
}

/// A text argument, escaped when the method's text is markup and it is not.
fn markup_of(of: &Text, value: &Value, what: &str) -> Result<String> {
    match value {
        Value::Str(part) if of.markup && !part.markup => Ok(escape(&part.text)),
        other => text(what, other).map(str::to_owned),
    }
}

fn join(vm: &mut Vm, of: &Text, args: Args) -> Result<Value> {
    let [items] = args.positional("join()", 1)?;
    let items = iterate::all(vm, &items.unwrap_or(Value::None))?;
    let mut out = String::new();
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            vm.budget.push(&mut out, &of.text)?;
        }
        if of.markup {
            let part = super::repr::str_of(vm, item)?;
            let part = Value::text(part, matches!(item, Value::Str(text) if text.markup));
            vm.budget.push(&mut out, &markup_of(of, &part, "join()")?)?;
            continue;
        }
        let Value::Str(part) = item else {
            return Err(Fail::new(format!(
                "join(): item {at} is {}, not str",
                item.type_name()
            )));
        };
        vm.budget.push(&mut out, &part.text)?;
    }
    Ok(Value::text(out, of.markup))
}

fn starts_or_ends(vm: &mut Vm, own: &str, name: &str, args: Args) -> Result<Value> {
    let [affix, start, stop] = args.positional(name, 1)?;
    let within = window(own, start.as_ref(), stop.as_ref())?.map(|(_, within)| within);
    let holds = |affix: &str| {
        within.is_some_and(|within| {
            if name == "startswith" {
                within.starts_with(affix)
            } else {
                within.ends_with(affix)
            }
        })
    };
    match affix.unwrap_or(Value::None) {
        Value::Str(affix) => Ok(Value::Bool(holds(&affix.text))),
        Value::Tuple(affixes) => {
            for affix in &affixes.items {
                vm.budget.steps(1)?;
                if holds(text(name, affix)?) {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        other => Err(Fail::new(format!(
            "{name} first arg must be str or a tuple of str, not {}",
            other.type_name()
        ))),
    }
}

/// The part of a text between two places in characters, with the place where it begins; `None` when it begins behind
/// the end.
fn window<'a>(
    own: &'a str,
    start: Option<&Value>,
    stop: Option<&Value>,
) -> Result<Option<(usize, &'a str)>> {
    let length = if start.is_none() && stop.is_none() {
        return Ok(Some((0, own)));
    } else {
        char_count(own)
    };
    let place = |value: Option<&Value>, otherwise: usize| match value {
        None | Some(Value::None) => Ok(otherwise as i128),
        Some(value) => {
            let at = integer("slice indices", value)?;
            Ok(if at < 0 {
                at.saturating_add(length as i128).max(0)
            } else {
                at
            })
        }
    };
    let start = place(start, 0)?;
    let stop = place(stop, length)?.min(length as i128);
    if start > length as i128 || start > stop {
        return Ok(None);
    }
    let (start, stop) = (start as usize, stop as usize);
    let byte = |at: usize| {
        own.char_indices()
            .nth(at)
            .map_or(own.len(), |(byte, _)| byte)
    };
    Ok(Some((start, &own[byte(start)..byte(stop)])))
}

fn search(own: &str, name: &str, args: Args) -> Result<Value> {
    let [part, start, stop] = args.positional(name, 1)?;
    let part = part.unwrap_or(Value::None);
    let part = text(name, &part)?;
    let within = window(own, start.as_ref(), stop.as_ref())?;
    if name == "count" {
        let count = within.map_or(0, |(_, within)| within.matches(part).count());
        return Ok(Value::from(count));
    }
    let found = within.and_then(|(start, within)| {
        let byte = if name.starts_with('r') {
            within.rfind(part)
        } else {
            within.find(part)
        };
        byte.map(|byte| start + char_count(&within[..byte]))
    });
    match found {
        Some(at) => Ok(Value::from(at)),
        None if name.ends_with("find") => Ok(Value::Int(-1)),
        None => Err(Fail::new("substring not found")),
    }
}

fn justify(vm: &mut Vm, of: &Text, name: &str, args: Args) -> Result<Value> {
    let [width, fill] = args.positional(name, 1)?;
    let width = integer(name, &width.unwrap_or(Value::None))?;
    let fill = match fill {
        None => ' ',
        Some(fill) => {
            let fill = markup_of(of, &fill, name)?;
            let mut chars = fill.chars();
            match (chars.next(), chars.next()) {
                (Some(fill), None) => fill,
                _ => {
                    return Err(Fail::new(
                        "the fill character must be exactly one character long",
                    ));
                }
            }
        }
    };
    Ok(Value::text(
        justified(vm, &of.text, name, width, fill)?,
        of.markup,
    ))
}

/// `ljust`, `rjust` or `center`.
pub(super) fn justified(
    vm: &mut Vm,
    own: &str,
    name: &str,
    width: i128,
    fill: char,
) -> Result<String> {
    let length = char_count(own);
    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
    let pad = width.saturating_sub(length);
    let left = match name {
        "ljust" => 0,
        "rjust" => pad,
        _ => pad / 2 + (pad & width & 1),
    };
    let mut out = String::new();
    vm.budget.push_many(&mut out, fill, left)?;
    vm.budget.push(&mut out, own)?;
    vm.budget.push_many(&mut out, fill, pad - left)?;
    Ok(out)
}

fn zfill(vm: &mut Vm, own: &str, width: i128) -> Result<String> {
    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
    let (sign, rest) = match own.as_bytes().first() {
        Some(b'+' | b'-') => own.split_at(1),
        _ => ("", own),
    };
    let mut out = sign.to_owned();
    let pad = width.saturating_sub(char_count(own));
    vm.budget.push_many(&mut out, '0', pad)?;
    vm.budget.push(&mut out, rest)?;
    Ok(out)
}

fn expand_tabs(vm: &mut Vm, own: &str, size: i128) -> Result<String> {
    let size = usize::try_from(size.max(0)).unwrap_or(usize::MAX);
    let mut out = String::new();
    let mut column = 0;
    for c in own.chars() {
        match c {
            '\t' if size > 0 => {
                let width = size - column % size;
                vm.budget.push_many(&mut out, ' ', width)?;
                column += width;
            }
            '\t' => {}
            _ => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') {
                    0
                } else {
                    column + 1
                };
            }
        }
    }
    Ok(out)
}
