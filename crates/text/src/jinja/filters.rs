//! The filters by name.

use super::arguments::{Args, flag};
use super::value::Value;
use super::vm::Vm;
use super::{Fail, Result, json, lazy_filters, number_filters, percent, text_filters};

const NAMES: [&str; 54] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "items",
    "map",
    "min",
    "max",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
    "tojson",
];

/// Whether a filter has this name.
pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Applies a filter.
pub(super) fn apply(vm: &mut Vm, name: &str, value: Value, args: Args) -> Result<Value> {
    vm.budget.steps(1)?;
    match name {
        "tojson" => json::tojson(vm, &value, args),
        "format" => percent::filter(vm, &value, args),
        "default" | "d" => {
            let [default, boolean] = args.bind("default", ["default_value", "boolean"], 0)?;
            let missing = value.is_undefined() || flag(boolean.as_ref()) && !value.truthy();
            Ok(if missing {
                default.unwrap_or_else(|| Value::from(""))
            } else {
                value
            })
        }
        "length" | "count" => {
            let [] = args.positional(name, 0)?;
            match value.length() {
                Some(length) => Ok(Value::from(length)),
                None => Err(Fail::new(format!(
                    "object of type '{}' has no len()",
                    value.type_name()
                ))),
            }
        }
        "abs" | "float" | "int" | "round" | "sum" | "filesizeformat" => {
            number_filters::apply(vm, name, &value, args)
        }
        "capitalize" | "center" | "e" | "escape" | "forceescape" | "indent" | "lower"
        | "replace" | "safe" | "string" | "striptags" | "title" | "trim" | "truncate" | "upper"
        | "urlencode" | "wordcount" | "wordwrap" | "xmlattr" => {
            text_filters::apply(vm, name, &value, args)
        }
        "pprint" | "random" | "urlize" => {
            Err(Fail::new(format!("the filter '{name}' is not supported")))
        }
        _ if exists(name) => lazy_filters::apply(vm, name, value, args),
        _ => Err(Fail::new(format!("no filter named '{name}'"))),
    }
}

/// The key that comparisons without case use.
pub(super) fn ignore_case(vm: &mut Vm, value: Value) -> Result<Value> {
    match &value {
        Value::Str(text) => {
            vm.budget.text(2 * text.text.len())?;
            Ok(Value::text(text.text.to_lowercase(), text.markup))
        }
        _ => Ok(value),
    }
}
