//! Filters on lists, dictionaries and whatever else a loop takes.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::rc::Rc;

use super::arguments::{Args, flag, text};
use super::attributes::{self, Path, follow, path};
use super::iterate::{Lazy, Step, all};
use super::value::{Items, Value};
use super::vm::Vm;
use super::{Fail, Result, filters, ops, repr};

/// Applies one of these filters.
pub(super) fn apply(vm: &mut Vm, name: &str, value: Value, args: Args) -> Result<Value> {
    match name {
        "map" => map(value, args),
        "select" | "reject" => select(value, args, false, name == "reject"),
        "selectattr" | "rejectattr" => select(value, args, true, name == "rejectattr"),
        "unique" => {
            let [case, attribute] = args.bind(name, ["case_sensitive", "attribute"], 0)?;
            let path = path(attribute.as_ref());
            Lazy::value(
                value,
                Step::Unique(path, flag(case.as_ref()), RefCell::default()),
            )
        }
        "batch" | "slice" => {
            let count = if name == "batch" {
                "linecount"
            } else {
                "slices"
            };
            let [count, fill] = args.bind(name, [count, "fill_with"], 1)?;
            let count = count.unwrap_or(Value::None);
            Lazy::value(
                value,
                if name == "batch" {
                    Step::Batch(count, fill)
                } else {
                    Step::Slice(count, fill)
                },
            )
        }
        "items" => {
            let [] = args.bind(name, [], 0)?;
            Lazy::value(value, Step::Pairs)
        }
        "list" => {
            let [] = args.bind(name, [], 0)?;
            Value::list(all(vm, &value)?)
        }
        "first" | "last" | "reverse" => {
            let [] = args.bind(name, [], 0)?;
            ends(vm, name, value)
        }
        "join" => join(vm, &value, args),
        "sort" => sort(vm, &value, args),
        "dictsort" => dictsort(vm, &value, args),
        "min" | "max" => extreme(vm, name, &value, args),
        "groupby" => groupby(vm, &value, args),
        "attr" => {
            let [attribute] = args.bind(name, ["name"], 1)?;
            let attribute = attribute.unwrap_or(Value::None);
            attributes::own_attribute(vm, &value, text(name, &attribute)?)
        }
        _ => Err(Fail::new(format!("no filter named '{name}'"))),
    }
}

fn map(value: Value, mut args: Args) -> Result<Value> {
    let by_attribute =
        args.positional.is_empty() && args.named.iter().any(|(name, _)| **name == *"attribute");
    if by_attribute {
        let [attribute, default] = args.bind("map", ["attribute", "default"], 0)?;
        return Lazy::value(value, Step::MapAttribute(path(attribute.as_ref()), default));
    }
    if args.positional.is_empty() {
        // Refused when the generator is asked for its first item, as in Python.
        return Lazy::value(value, Step::Map("map without a filter".into(), args));
    }
    match args.positional.remove(0) {
        Value::Str(name) => Lazy::value(value, Step::Map(name.text, args)),
        _ => Err(Fail::new("map requires the name of a filter")),
    }
}

fn select(value: Value, mut args: Args, by_attribute: bool, negated: bool) -> Result<Value> {
    let path = if by_attribute {
        if args.positional.is_empty() {
            return Err(Fail::new("missing parameter for attribute name"));
        }
        path(Some(&args.positional.remove(0)))
    } else {
        Path::new()
    };
    let test = if args.positional.is_empty() {
        None
    } else {
        match args.positional.remove(0) {
            Value::Str(name) => Some((name.text, args)),
            _ => return Err(Fail::new("the name of a test is a string")),
        }
    };
    Lazy::value(value, Step::Select(path, test, negated))
}

fn ends(vm: &mut Vm, name: &str, value: Value) -> Result<Value> {
    if name == "first" {
        let first = match &value {
            Value::Lazy(lazy) => lazy.next(vm)?,
            Value::List(items) | Value::Tuple(items) => items.items.first().cloned(),
            other => all(vm, other)?.into_iter().next(),
        };
        let empty = || Value::undefined("no first item, sequence was empty");
        return Ok(first.unwrap_or_else(empty));
    }
    if name == "last" {
        let last = match &value {
            Value::Lazy(_) => {
                return Err(Fail::new("'generator' object is not reversible"));
            }
            Value::List(items) | Value::Tuple(items) => items.items.last().cloned(),
            other => all(vm, other)?.pop(),
        };
        let empty = || Value::undefined("no last item, sequence was empty");
        return Ok(last.unwrap_or_else(empty));
    }
    match &value {
        Value::Str(text) => {
            vm.budget.text(text.text.len())?;
            let reversed: String = text.text.chars().rev().collect();
            Ok(Value::text(reversed, text.markup))
        }
        _ => {
            let mut items = all(vm, &value)?;
            items.reverse();
            let items = Value::list(items)?;
            match value {
                Value::Lazy(_) => Ok(items),
                _ => Lazy::value(items, Step::Plain),
            }
        }
    }
}

fn join(vm: &mut Vm, value: &Value, args: Args) -> Result<Value> {
    let [separator, attribute] = args.bind("join", ["d", "attribute"], 0)?;
    let separator = match separator {
        Some(separator) => repr::str_of(vm, &separator)?,
        None => String::new(),
    };
    let path = path(attribute.as_ref());
    let mut out = String::new();
    for (at, item) in all(vm, value)?.into_iter().enumerate() {
        if at > 0 {
            vm.budget.push(&mut out, &separator)?;
        }
        let item = follow(vm, item, &path, None)?;
        repr::write_str(vm, &item, &mut out)?;
    }
    Ok(Value::from(out))
}

/// Sorts items by keys; equal keys keep their order, in reverse too.
fn sorted(vm: &mut Vm, mut keyed: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<Value>> {
    if reverse {
        keyed.reverse();
    }
    let keyed = ops::sort(vm, keyed)?;
    let mut items: Vec<_> = keyed.into_iter().map(|(_, item)| item).collect();
    if reverse {
        items.reverse();
    }
    Ok(items)
}

fn sort(vm: &mut Vm, value: &Value, args: Args) -> Result<Value> {
    let names = ["reverse", "case_sensitive", "attribute"];
    let [reverse, case, attribute] = args.bind("sort", names, 0)?;
    let paths: Vec<Path> = match &attribute {
        Some(Value::Str(several)) => several
            .text
            .split(',')
            .map(|one| path(Some(&Value::from(one))))
            .collect(),
        other => vec![path(other.as_ref())],
    };
    let mut keyed = Vec::new();
    for item in all(vm, value)? {
        let mut keys = Vec::with_capacity(paths.len());
        for path in &paths {
            let key = follow(vm, item.clone(), path, None)?;
            keys.push(if flag(case.as_ref()) {
                key
            } else {
                filters::ignore_case(vm, key)?
            });
        }
        vm.budget.items(2 + keys.len())?;
        keyed.push((Value::list(keys)?, item));
    }
    Value::list(sorted(vm, keyed, flag(reverse.as_ref()))?)
}

fn dictsort(vm: &mut Vm, value: &Value, args: Args) -> Result<Value> {
    let names = ["case_sensitive", "by", "reverse"];
    let [case, by, reverse] = args.bind("dictsort", names, 0)?;
    let by_value = match by.as_ref().map_or(Some("key"), Value::as_str) {
        Some("key") => false,
        Some("value") => true,
        _ => {
            return Err(Fail::new(
                "you can only sort by either \"key\" or \"value\"",
            ));
        }
    };
    let Value::Dict(dict) = value else {
        return Err(Fail::new(format!(
            "'{}' object has no attribute 'items'",
            value.type_name()
        )));
    };
    let mut keyed = Vec::new();
    for (key, value) in &dict.entries {
        let sort_key = if by_value { value } else { key }.clone();
        let sort_key = if flag(case.as_ref()) {
            sort_key
        } else {
            filters::ignore_case(vm, sort_key)?
        };
        vm.budget.items(4)?;
        keyed.push((sort_key, Value::tuple(vec![key.clone(), value.clone()])?));
    }
    Value::list(sorted(vm, keyed, flag(reverse.as_ref()))?)
}

fn extreme(vm: &mut Vm, name: &str, value: &Value, args: Args) -> Result<Value> {
    let [case, attribute] = args.bind(name, ["case_sensitive", "attribute"], 0)?;
    let path = path(attribute.as_ref());
    let mut best: Option<(Value, Value)> = None;
    for item in all(vm, value)? {
        let mut key = follow(vm, item.clone(), &path, None)?;
        if !flag(case.as_ref()) {
            key = filters::ignore_case(vm, key)?;
        }
        let better = match &best {
            None => true,
            Some((kept, _)) if name == "min" => {
                ops::order(vm, "<", &key, kept)? == Some(Ordering::Less)
            }
            Some((kept, _)) => ops::order(vm, ">", &key, kept)? == Some(Ordering::Greater),
        };
        if better {
            best = Some((key, item));
        }
    }
    let empty = || Value::undefined("no aggregated item, sequence was empty");
    Ok(best.map_or_else(empty, |(_, item)| item))
}

fn groupby(vm: &mut Vm, value: &Value, args: Args) -> Result<Value> {
    let names = ["attribute", "default", "case_sensitive"];
    let [attribute, default, case] = args.bind("groupby", names, 1)?;
    let (path, case) = (path(attribute.as_ref()), flag(case.as_ref()));
    let mut keyed = Vec::new();
    for item in all(vm, value)? {
        let grouper = follow(vm, item.clone(), &path, default.as_ref())?;
        let key = if case {
            grouper.clone()
        } else {
            filters::ignore_case(vm, grouper.clone())?
        };
        vm.budget.items(4)?;
        keyed.push((key, Value::tuple(vec![grouper, item])?));
    }
    let keyed = ops::sort(vm, keyed)?;
    let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
    for (key, pair) in keyed {
        let Value::Tuple(pair) = pair else { continue };
        let item = pair.items[1].clone();
        let same = match groups.last() {
            Some((last, ..)) => ops::equal(vm, last, &key)?,
            None => false,
        };
        match groups.last_mut() {
            Some((_, _, items)) if same => items.push(item),
            _ => groups.push((key, pair.items[0].clone(), vec![item])),
        }
    }
    let groups = groups.into_iter().map(|(_, grouper, items)| {
        let pair = Items::pair(grouper, Value::list(items)?)?;
        Ok(Value::Tuple(Rc::new(pair)))
    });
    Value::list(groups.collect::<Result<_>>()?)
}
