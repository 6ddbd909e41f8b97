//! Iteration, and the generators that some filters give: they work item by item and run once.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::arguments::Args;
use super::attributes::{Path, follow};
use super::value::{Value, View, nested};
use super::vm::Vm;
use super::{Fail, Result, filters, ops, tests};

/// A generator.
#[derive(Debug)]
pub(super) struct Lazy {
    source: RefCell<Source>,
    step: Step,
    pub depth: u32,
}

#[derive(Debug)]
enum Source {
    /// Not yet begun.
    Pending(Value),
    Items(std::vec::IntoIter<Value>),
    Lazy(Rc<Lazy>),
}

/// What a generator does with each item.
#[derive(Debug)]
pub(super) enum Step {
    /// Gives it as it is.
    Plain,
    /// `map('filter', ...)`.
    Map(Arc<str>, Args),
    /// `map(attribute=..., default=...)`.
    MapAttribute(Path, Option<Value>),
    /// `select`, `reject`, `selectattr`, `rejectattr`: the attribute, the test, and whether it is turned around.
    Select(Path, Option<(Arc<str>, Args)>, bool),
    /// `unique`: the attribute, whether case counts, and the keys seen.
    Unique(Path, bool, RefCell<Vec<Value>>),
    /// The pairs of a dictionary.
    Pairs,
    /// `batch(n, fill)`.
    Batch(Value, Option<Value>),
    /// `slice(n, fill)`.
    Slice(Value, Option<Value>),
}

impl Lazy {
    /// A generator over a value. Nothing is done before its first item is asked for.
    pub fn value(source: Value, step: Step) -> Result<Value> {
        let args = match &step {
            Step::Map(_, args) | Step::Select(_, Some((_, args)), _) => {
                let named = args.named.iter().map(|(_, value)| value);
                let depths = args.positional.iter().chain(named).map(Value::depth);
                depths.max().unwrap_or(0)
            }
            Step::MapAttribute(_, Some(value))
            | Step::Batch(_, Some(value))
            | Step::Slice(_, Some(value)) => value.depth(),
            _ => 0,
        };
        let depth = nested(Some(source.depth().max(args)))?;
        Ok(Value::Lazy(Rc::new(Self {
            source: RefCell::new(Source::Pending(source)),
            step,
            depth,
        })))
    }

    fn begin(&self, vm: &mut Vm) -> Result<()> {
        let pending = match &*self.source.borrow() {
            Source::Pending(value) => value.clone(),
            _ => return Ok(()),
        };
        let falsy_is_empty = matches!(
            self.step,
            Step::Map(..) | Step::MapAttribute(..) | Step::Select(..)
        );
        let begun = match (&self.step, pending) {
            (_, value) if falsy_is_empty && !value.truthy() => {
                Source::Items(Vec::new().into_iter())
            }
            (Step::Pairs, Value::Dict(dict)) => {
                Source::Items(all(vm, &Value::View(View::Items, dict))?.into_iter())
            }
            (Step::Pairs, Value::Undefined(_)) => Source::Items(Vec::new().into_iter()),
            (Step::Pairs, _) => return Err(Fail::new("can only get item pairs from a mapping")),
            (Step::Batch(count, fill), value) => {
                Source::Items(batch(vm, &value, count, fill.as_ref())?.into_iter())
            }
            (Step::Slice(count, fill), value) => {
                Source::Items(slices(vm, &value, count, fill.as_ref())?.into_iter())
            }
            (_, Value::Lazy(lazy)) => Source::Lazy(lazy),
            (_, value) => Source::Items(all(vm, &value)?.into_iter()),
        };
        *self.source.borrow_mut() = begun;
        Ok(())
    }

    fn raw(&self, vm: &mut Vm) -> Result<Option<Value>> {
        let inner = match &mut *self.source.borrow_mut() {
            Source::Items(items) => return Ok(items.next()),
            Source::Lazy(lazy) => Rc::clone(lazy),
            Source::Pending(_) => return Ok(None),
        };
        inner.next(vm)
    }

    /// The next item.
    pub fn next(&self, vm: &mut Vm) -> Result<Option<Value>> {
        self.begin(vm)?;
        loop {
            vm.budget.steps(1)?;
            let Some(item) = self.raw(vm)? else {
                return Ok(None);
            };
            match &self.step {
                Step::Map(name, args) => {
                    return filters::apply(vm, name, item, args.clone()).map(Some);
                }
                Step::MapAttribute(path, default) => {
                    return follow(vm, item, path, default.as_ref()).map(Some);
                }
                Step::Select(path, test, negated) => {
                    let tested = follow(vm, item.clone(), path, None)?;
                    let holds = match test {
                        Some((name, args)) => tests::apply(vm, name, &tested, args.clone())?,
                        None => tested.truthy(),
                    };
                    if holds != *negated {
                        return Ok(Some(item));
                    }
                }
                Step::Unique(path, case_sensitive, seen) => {
                    let mut key = follow(vm, item.clone(), path, None)?;
                    if !case_sensitive {
                        key = filters::ignore_case(vm, key)?;
                    }
                    key.hashable()?;
                    let known = seen.borrow().clone();
                    vm.budget.items(known.len())?;
                    let known = Value::list(known)?;
                    if !ops::contains(vm, &known, &key)? {
                        seen.borrow_mut().push(key);
                        return Ok(Some(item));
                    }
                }
                Step::Plain | Step::Pairs | Step::Batch(..) | Step::Slice(..) => {
                    return Ok(Some(item));
                }
            }
        }
    }
}

fn count_of(value: &Value) -> Result<i128> {
    super::arguments::integer("the number of items", value)
}

fn batch(vm: &mut Vm, value: &Value, count: &Value, fill: Option<&Value>) -> Result<Vec<Value>> {
    let items = all(vm, value)?;
    if items.is_empty() {
        return Ok(items);
    }
    let count = count_of(count)?;
    // A count of 0 or less is never reached, except that 0 gives an empty batch first.
    let size = usize::try_from(count).ok().filter(|&size| size > 0);
    let Some(size) = size else {
        let mut batches = Vec::new();
        if count == 0 {
            batches.push(Value::list(Vec::new())?);
        }
        batches.push(Value::list(items)?);
        return Ok(batches);
    };
    let mut batches = Vec::new();
    for chunk in items.chunks(size) {
        let mut chunk = chunk.to_vec();
        if let Some(fill) = fill.filter(|fill| !matches!(fill, Value::None)) {
            vm.budget.items(size)?;
            chunk.resize(size, fill.clone());
        }
        batches.push(Value::list(chunk)?);
    }
    Ok(batches)
}

fn slices(vm: &mut Vm, value: &Value, count: &Value, fill: Option<&Value>) -> Result<Vec<Value>> {
    let items = all(vm, value)?;
    let count = count_of(count)?;
    if count == 0 {
        return Err(Fail::new("integer division or modulo by zero"));
    }
    let Ok(count) = usize::try_from(count) else {
        return Ok(Vec::new());
    };
    vm.budget.items(count)?;
    vm.budget.steps(count)?;
    let (each, longer) = (items.len() / count, items.len() % count);
    let mut start = 0;
    let mut slices = Vec::with_capacity(count);
    for number in 0..count {
        let end = start + each + usize::from(number < longer);
        let mut slice = items[start..end].to_vec();
        if let Some(fill) = fill.filter(|fill| !matches!(fill, Value::None))
            && number >= longer
        {
            slice.push(fill.clone());
        }
        slices.push(Value::list(slice)?);
        start = end;
    }
    Ok(slices)
}

/// All items of a value, as a `for` loop takes them.
pub(super) fn all(vm: &mut Vm, value: &Value) -> Result<Vec<Value>> {
    match value {
        Value::Undefined(_) => Ok(Vec::new()),
        Value::Str(text) => {
            vm.budget.items(2 * text.text.len())?;
            let mut buffer = [0; 4];
            Ok(text
                .text
                .chars()
                .map(|c| Value::from(&*c.encode_utf8(&mut buffer)))
                .collect())
        }
        Value::List(items) | Value::Tuple(items) => {
            vm.budget.items(items.items.len())?;
            Ok(items.items.clone())
        }
        Value::Dict(dict) => {
            vm.budget.items(dict.entries.len())?;
            Ok(dict.entries.iter().map(|(key, _)| key.clone()).collect())
        }
        Value::View(view, dict) => {
            vm.budget.items(3 * dict.entries.len())?;
            let entries = dict.entries.iter();
            entries
                .map(|(key, value)| match view {
                    View::Keys => Ok(key.clone()),
                    View::Values => Ok(value.clone()),
                    View::Items => Value::tuple(vec![key.clone(), value.clone()]),
                })
                .collect()
        }
        Value::Range(range) => {
            vm.budget.items(range.length)?;
            Ok((0..range.length)
                .map(|at| Value::Int(range.at(at)))
                .collect())
        }
        Value::Lazy(lazy) => {
            let mut items = Vec::new();
            while let Some(item) = lazy.next(vm)? {
                vm.budget.items(1)?;
                items.push(item);
            }
            Ok(items)
        }
        other => Err(Fail::new(format!(
            "'{}' object is not iterable",
            other.type_name()
        ))),
    }
}

/// Whether a `for` loop takes the value.
pub(super) fn is_iterable(value: &Value) -> bool {
    matches!(
        value,
        Value::Undefined(_)
            | Value::Str(_)
            | Value::List(_)
            | Value::Tuple(_)
            | Value::Dict(_)
            | Value::View(..)
            | Value::Range(_)
            | Value::Lazy(_)
            | Value::Loop(_)
    )
}
