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

/// The value at `row` of a column; null for a null. The error names the type that is not supported.
pub(crate) fn cell(field: &Field, array: &dyn Array, row: usize) -> Result<Value, String> {
    let value = plain(array, row)?;
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
fn plain(array: &dyn Array, row: usize) -> Result<Value, String> {
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
        DataType::List(item) => list(item, &array.as_list::<i32>().value(row))?,
        DataType::LargeList(item) => list(item, &array.as_list::<i64>().value(row))?,
        DataType::FixedSizeList(item, _) => list(item, &array.as_fixed_size_list().value(row))?,
        DataType::Struct(fields) => {
            let mut object = Map::new();
            for (field, column) in fields.iter().zip(array.as_struct().columns()) {
                object.insert(field.name().clone(), cell(field, column.as_ref(), row)?);
            }
            Value::Object(object)
        }
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            plain(
                dictionary.values().as_ref(),
                dictionary.normalized_keys()[row],
            )?
        }
        other => return Err(format!("unsupported type {other}")),
    })
}

fn list(item: &Field, items: &ArrayRef) -> Result<Value, String> {
    (0..items.len())
        .map(|at| cell(item, items.as_ref(), at))
        .collect::<Result<Vec<_>, _>>()
        .map(Value::Array)
}

/// JSON has no infinities: they are kept as text, which no numeric column accepts.
fn float(number: f64) -> Value {
    serde_json::Number::from_f64(number)
        .map_or_else(|| Value::from(number.to_string()), Value::Number)
}
