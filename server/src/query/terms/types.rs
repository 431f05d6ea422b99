//! Types: TYPE_OF, COERCE_TO, INFO, BINARY.

use std::sync::Arc;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::Object;

use super::Op;
use crate::query::error::{ReqlError, Result};
use crate::query::eval::{Call, array, string};
use crate::query::function::truthy;
use crate::query::output;
use crate::query::pseudo;
use crate::query::stream::Stream;
use crate::query::tables::TableRef;
use crate::query::value::{Database, Value};

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(52, "type_of", 1, 1, type_of).with(Op::UNGROUPED),
    Op::new(51, "coerce_to", 2, 2, coerce_to),
    Op::new(79, "info", 1, 1, info).with(Op::UNGROUPED),
    Op::new(155, "binary", 1, 1, binary),
];

fn type_of(call: &Call<'_>) -> Result<Value> {
    let value = call.arg(0)?;
    if let Value::Single(single) = &value
        && matches!(single.read()?, Datum::Null)
    {
        return Ok(Datum::from("NULL").into());
    }
    Ok(Datum::from(value.type_name()).into())
}

/// The names of the types that values can be coerced to, or at least be asked to.
const TYPES: &[&str] =
    &["ARRAY", "BINARY", "BOOL", "NULL", "NUMBER", "OBJECT", "STRING", "PTYPE<BINARY>", "PTYPE<TIME>"];

fn coerce_to(call: &Call<'_>) -> Result<Value> {
    let value = call.arg(0)?;
    let to = call.string(1)?.to_ascii_uppercase();
    if !TYPES.contains(&&*to) {
        return Err(ReqlError::logic(format!("Unknown Type: {to}")).at(1));
    }
    let to = to.strip_prefix("PTYPE<").and_then(|to| to.strip_suffix('>')).unwrap_or(&to);
    match value {
        value @ (Value::Datum(_) | Value::Single(_)) => Ok(coerce(value.into_datum(call.ctx())?, to)?.into()),
        value if value.is_sequence() => {
            let from = value.type_name();
            let stream = value.into_stream(call.ctx())?;
            match to {
                "ARRAY" => Ok(stream.collect_array(call.ctx())?.into()),
                "OBJECT" => Ok(pairs(stream)?.into()),
                "STRING" => Ok(Datum::from(output::text(&stream.collect_array(call.ctx())?)?).into()),
                "BOOL" => Ok(true.into()),
                to => Err(cannot(&from, to)),
            }
        }
        value => Err(cannot(&value.type_name(), to)),
    }
}

fn cannot(from: &str, to: &str) -> ReqlError {
    ReqlError::logic(format!("Cannot coerce {from} to {to}."))
}

fn coerce(datum: Datum, to: &str) -> Result<Datum> {
    let from = pseudo::type_name(&datum);
    let from = from.strip_prefix("PTYPE<").and_then(|from| from.strip_suffix('>')).unwrap_or(&from).to_owned();
    Ok(match (datum, to) {
        (datum, to) if from == to => datum,
        (datum, "BOOL") => truthy(&datum).into(),
        (Datum::Binary(bytes), "STRING") => match std::str::from_utf8(&bytes) {
            Ok(text) => text.into(),
            Err(_) => return Err(ReqlError::logic("The binary data is not valid UTF-8, so that it is no string.")),
        },
        (Datum::String(text), "BINARY") => Datum::Binary(text.as_bytes().into()),
        (Datum::Typed(typed), "STRING") => typed.text().into(),
        (Datum::Typed(typed), "NUMBER") => number_of(typed.text())?,
        (datum, "STRING") => output::text(&datum)?.into(),
        (Datum::String(text), "NUMBER") => number_of(text.trim())?,
        (Datum::Object(object), "ARRAY") => {
            Datum::array(object.iter().map(|(name, value)| Datum::array([Datum::String(name.clone()), value.clone()])))
        }
        (Datum::Array(elements), "OBJECT") => pairs(Stream::from_array(elements))?,
        (_, to) => return Err(cannot(&from, to)),
    })
}

fn number_of(text: &str) -> Result<Datum> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number.into()),
        _ => Err(ReqlError::logic(format!("Could not coerce `{text}` to NUMBER."))),
    }
}

/// The object of [name, value] pairs.
fn pairs(stream: Stream) -> Result<Datum> {
    let mut object = Object::new();
    for pair in stream.into_all_rows()? {
        let pair = array(&pair?)?;
        let [name, value] = &*pair else {
            let message = format!("Expected array of size 2, but got size {}.", pair.len());
            return Err(ReqlError::logic(message));
        };
        let name = string(name)?;
        if object.insert(name.clone(), value.clone()).is_some() {
            return Err(ReqlError::logic(format!("Duplicate key `{name}` in coerced object.")));
        }
    }
    Ok(object.into())
}

fn binary(call: &Call<'_>) -> Result<Value> {
    match call.datum(0)? {
        binary @ Datum::Binary(_) => Ok(binary.into()),
        other => Ok(Datum::Binary(string(&other).map_err(|error| error.at(0))?.as_bytes().into()).into()),
    }
}

fn info(call: &Call<'_>) -> Result<Value> {
    let value = call.arg(0)?;
    let kind = ("type", Datum::from(value.type_name()));
    Ok(match value {
        Value::Table(table) => table_info(&table)?,
        Value::Database(database) => database_info(&database),
        Value::Datum(_) | Value::Row(_) => {
            Datum::object([kind, ("value", output::text(&value.into_datum(call.ctx())?)?.into())])
        }
        Value::Slice(slice) => {
            let index: Arc<str> = slice.index.clone().unwrap_or_else(|| slice.table.primary_key().into());
            Datum::object([kind, ("table", table_info(&slice.table)?), ("index", Datum::String(index))])
        }
        Value::Selection(table, _) => Datum::object([kind, ("table", table_info(&table)?)]),
        Value::Single(single) => Datum::object([kind, ("table", table_info(&single.table)?)]),
        Value::Function(function) => Datum::object([kind, ("source_code", function.to_string().into())]),
        Value::Stream(_) | Value::Grouped(_) => Datum::object([kind]),
    }
    .into())
}

fn database_info(database: &Database) -> Datum {
    let name = Datum::String(database.name.clone());
    Datum::object([("type", "DB".into()), ("name", name), ("id", database.id.as_str().into())])
}

fn table_info(table: &TableRef) -> Result<Datum> {
    Ok(Datum::object([
        ("type", "TABLE".into()),
        ("name", table.name().into()),
        ("id", table.id().into()),
        ("primary_key", table.primary_key().into()),
        ("db", database_info(&table.database())),
        ("indexes", Datum::array(table.index_names()?.into_iter().map(Datum::from))),
        ("engine", table.engine().into()),
        ("doc_count_estimates", Datum::array([table.count_estimate()?.into()])),
    ]))
}
