//! One cell of an Arrow table as JSON: text, numbers, booleans, and lists and structs of them, nulls included.
//!
//! Text of the extension type `arrow.json`, which `datasets` 5 writes for objects whose keys differ from row to row,
//! is the value that it describes. A struct has all its fields in every row: those that a row does not give are null.
//! Left out: dates, decimals, binary, maps and unions, which no column of a preference row needs.
//! Tested in `tests/formats.rs` and `tests/whole_rows.rs`.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, Field};
use serde_json::{Map, Value};

use crate::limits::{Budget, MAX_RECORD};
use crate::parse::non_finite;

/// The value at `row` of a column; null for a null. The error names the type that is not supported, or says that the
/// value is too large for what is left of the budget.
pub(crate) fn cell(
    field: &Field,
    array: &dyn Array,
    row: usize,
    budget: &mut Budget,
) -> Result<Value, String> {
    let value = plain(array, row, budget)?;
    match field.extension_type_name() {
        Some("arrow.json") => described(value),
        _ => Ok(value),
    }
}

/// The value that JSON text describes; what is no text stays as it is.
pub(crate) fn described(value: Value) -> Result<Value, String> {
    match value {
        Value::String(text) => {
            serde_json::from_str(&text).map_err(|error| format!("its text is not JSON: {error}"))
        }
        other => Ok(other),
    }
}

/// The value as it is stored.
fn plain(array: &dyn Array, row: usize, budget: &mut Budget) -> Result<Value, String> {
    let text = match array.data_type() {
        _ if array.is_null(row) => 0,
        DataType::Utf8 => array.as_string::<i32>().value_length(row) as usize,
        DataType::LargeUtf8 => array.as_string::<i64>().value_length(row) as usize,
        DataType::Utf8View => array.as_string_view().value(row).len(),
        _ => 0,
    };
    if !budget.take(text) {
        return Err(format!(
            "it is longer than {} MiB, the most that is read of one",
            MAX_RECORD >> 20
        ));
    }
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    Ok(match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::from(array.as_boolean().value(row)),
        DataType::Utf8 => Value::from(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Value::from(array.as_string::<i64>().value(row)),
        DataType::Utf8View => Value::from(array.as_string_view().value(row)),
        DataType::Int8 => Value::from(array.as_primitive::<Int8Type>().value(row)),
        DataType::Int16 => Value::from(array.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => Value::from(array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => Value::from(array.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => Value::from(array.as_primitive::<UInt8Type>().value(row)),
        DataType::UInt16 => Value::from(array.as_primitive::<UInt16Type>().value(row)),
        DataType::UInt32 => Value::from(array.as_primitive::<UInt32Type>().value(row)),
        DataType::UInt64 => Value::from(array.as_primitive::<UInt64Type>().value(row)),
        DataType::Float32 => float(f64::from(array.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row)),
        DataType::List(item) => list(item, &array.as_list::<i32>().value(row), budget)?,
        DataType::LargeList(item) => list(item, &array.as_list::<i64>().value(row), budget)?,
        DataType::FixedSizeList(item, _) => {
            list(item, &array.as_fixed_size_list().value(row), budget)?
        }
        DataType::Struct(fields) => {
            let mut object = Map::new();
            for (field, column) in fields.iter().zip(array.as_struct().columns()) {
                let value = cell(field, column.as_ref(), row, budget)?;
                object.insert(field.name().clone(), value);
            }
            Value::Object(object)
        }
        DataType::Dictionary(..) => {
            let one = array.slice(row, 1);
            let dictionary = one.as_any_dictionary();
            let key = dictionary.normalized_keys()[0];
            plain(dictionary.values().as_ref(), key, budget)?
        }
        other => return Err(format!("unsupported type {other}")),
    })
}

fn list(item: &Field, items: &ArrayRef, budget: &mut Budget) -> Result<Value, String> {
    (0..items.len())
        .map(|at| cell(item, items.as_ref(), at, budget))
        .collect::<Result<Vec<_>, _>>()
        .map(Value::Array)
}

/// JSON has no infinities: they are kept as what no column accepts.
fn float(number: f64) -> Value {
    serde_json::Number::from_f64(number)
        .map_or_else(|| non_finite(&number.to_string()), Value::Number)
}
