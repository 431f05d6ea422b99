//! Objects: BRACKET, GET_FIELD, PLUCK, WITHOUT, MERGE, HAS_FIELDS, KEYS, and so on.

use std::sync::Arc;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::Object;

use super::{MANY, Op};
use crate::query::bulk::Calls;
use crate::query::error::{ReqlError, Result};
use crate::query::eval::{Call, framed, string};
use crate::query::function::Function;
use crate::query::partial::{self, Use};
use crate::query::paths::{self, Path};
use crate::query::print::brief;
use crate::query::pseudo;
use crate::query::pseudotype;
use crate::query::pushdown::Fields;
use crate::query::row::Row;
use crate::query::stream::{Fused, Stream};
use crate::query::types;
use crate::query::value::{Shortcut, Value};

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(super::GET_FIELD, "get_field", 2, 2, get_field),
    Op::new(super::BRACKET, "bracket", 2, 2, bracket).with(Op::DROPS_EMPTY_GROUPS),
    Op::new(32, "has_fields", 1, MANY, has_fields),
    Op::new(96, "with_fields", 1, MANY, with_fields),
    Op::new(33, "pluck", 1, MANY, pluck),
    Op::new(34, "without", 1, MANY, without),
    Op::new(35, "merge", 1, MANY, merge).with(Op::STREAM_FUNCTION),
    Op::new(super::LITERAL, "literal", 0, 1, literal),
    Op::new(94, "keys", 1, 1, keys),
    Op::new(186, "values", 1, 1, values),
    Op::new(143, "object", 0, MANY, object),
];

/// An operation on an object, or on each object of a sequence, of which it needs the fields `used`; `part` decodes as much of one as matters to `change`.
/// `None` leaves an element out.
fn on_objects(
    call: &Call<'_>,
    source: Value,
    name: &'static str,
    used: Fields,
    part: impl Fn(Row) -> Result<Datum> + Send + 'static,
    change: impl Fn(&Datum) -> Result<Option<Datum>> + Send + 'static,
) -> Result<Value> {
    let source = match source {
        Value::Single(single) => Value::Datum(single.read()?),
        Value::Row(row) if !matches!(row, Row::List(_)) => Value::Datum(part(row).map_err(|error| error.at(0))?),
        other => other,
    };
    match &source {
        Value::Datum(datum) if !matches!(datum, Datum::Array(_)) => {
            paths::object(datum, name).map_err(|error| error.at(0))?;
            return Ok(change(datum)?.unwrap_or_default().into());
        }
        source if source.is_sequence() => {}
        other => return Err(other.wrong_kind("DATUM").at(0)),
    }
    let stream = framed(source.into_stream(call.ctx())?, 0);
    if let Some(scan) = stream.pending_scan() {
        scan.used(used);
    }
    Ok(each_object(stream, name, part, change).into())
}

fn each_object(
    stream: Stream,
    name: &'static str,
    part: impl Fn(Row) -> Result<Datum> + Send + 'static,
    change: impl Fn(&Datum) -> Result<Option<Datum>> + Send + 'static,
) -> Stream {
    stream.map_stored(move |rows| {
        let changed = rows.filter_map(move |row| {
            let row = row.and_then(&part).and_then(|row| checked_object(row, name));
            row.and_then(|row| change(&row)).transpose()
        });
        Fused::new(changed)
    })
}

fn get_field(call: &Call<'_>) -> Result<Value> {
    let source = call.row_arg(0)?;
    let field = call.string(1)?;
    field_of(call, source, field, "get_field")
}

fn field_of(call: &Call<'_>, source: Value, field: Arc<str>, name: &'static str) -> Result<Value> {
    let source = match source {
        Value::Single(single) => Value::Datum(single.read()?),
        Value::Row(row) if !matches!(row, Row::List(_)) => match row.field(&field) {
            Some(value) => return Value::row(value, call.ctx()),
            None => Value::Datum(row.into_datum().map_err(|error| error.at(0))?),
        },
        other => other,
    };
    if let Value::Datum(datum) = &source
        && !matches!(datum, Datum::Array(_))
    {
        let object = paths::object(datum, name)?;
        return match object.get(&field) {
            Some(value) => Ok(value.clone().into()),
            None => Err(paths::no_attribute(datum, &field)),
        };
    }
    if !source.is_sequence() {
        return Err(source.wrong_kind("DATUM").at(0));
    }
    let stream = framed(source.into_stream(call.ctx())?, 0);
    if let Some(scan) = stream.pending_scan() {
        scan.used_where_present(&field);
    }
    let fields = stream.pick(move |rows| {
        let fields = rows.filter_map(move |row| {
            let row = match row {
                Ok(row) => row,
                Err(error) => return Some(Err(error)),
            };
            // Where it is not found at once, the value says whether it is not there, or can't be.
            row.field(&field).map(Ok).or_else(|| {
                let object = row.into_datum().and_then(|row| checked_object(row, name));
                object.map(|row| row.get(&field).cloned().map(Row::from)).transpose()
            })
        });
        Fused::new(fields)
    });
    Ok(fields.into())
}

/// The row, if it is an object.
fn checked_object(row: Datum, name: &'static str) -> Result<Datum> {
    if matches!(row, Datum::Array(_)) {
        return Err(ReqlError::logic(format!("Cannot perform {name} on a sequence of sequences.")));
    }
    paths::object(&row, name)?;
    Ok(row)
}

fn bracket(call: &Call<'_>) -> Result<Value> {
    let source = call.row_arg(0)?;
    match call.datum(1)? {
        Datum::Number(_) => {
            let source = source.decoded().map_err(|error| error.at(0))?;
            let position = call.integer(1)?;
            if !source.is_sequence() && !matches!(source, Value::Single(_)) {
                // The message names the sequence that was expected.
                return Err(source
                    .into_stream(call.ctx())
                    .err()
                    .unwrap_or_else(|| ReqlError::internal("No sequence.")));
            }
            super::sequence::nth_of(call, source, position)
        }
        Datum::String(field) => field_of(call, source, field, "bracket"),
        other => Err(ReqlError::wrong_type("STRING", &other).at(1)),
    }
}

fn path(call: &Call<'_>) -> Result<Path> {
    Path::parse(&call.data(1)?)
}

/// Decodes what the path names.
fn kept(path: &Path) -> impl Fn(Row) -> Result<Datum> + Send + 'static {
    let path = path.clone();
    move |row| partial::datum(row, &path, Use::Keeps)
}

fn has_fields(call: &Call<'_>) -> Result<Value> {
    let source = call.arg(0)?;
    let path = path(call)?;
    if let Value::Single(_) | Value::Datum(_) = &source {
        let datum = source.into_datum(call.ctx())?;
        if !matches!(datum, Datum::Array(_)) {
            paths::object(&datum, "has_fields").map_err(|error| error.at(0))?;
            return Ok(paths::has(&datum, &path).into());
        }
        return with_all(call, datum.into(), path);
    }
    with_all(call, source, path)
}

/// The elements that have everything; still a selection, if the sequence was one.
fn with_all(call: &Call<'_>, source: Value, path: Path) -> Result<Value> {
    let table = source.table();
    let stream = framed(source.into_stream(call.ctx()).map_err(|error| error.at(0))?, 0);
    let kept =
        each_object(stream, "has_fields", Row::into_datum, move |row| Ok(paths::has(row, &path).then(|| row.clone())));
    Ok(match table {
        Some(table) => Value::Selection(table, kept),
        None => kept.into(),
    })
}

fn with_fields(call: &Call<'_>) -> Result<Value> {
    let source = call.row_arg(0)?;
    let path = path(call)?;
    let part = kept(&path);
    on_objects(call, source, "has_fields", Fields::of_path(&path), part, move |row| {
        Ok(paths::has(row, &path).then(|| paths::keep(row, &path)))
    })
}

fn pluck(call: &Call<'_>) -> Result<Value> {
    let source = call.row_arg(0)?;
    let path = path(call)?;
    let part = kept(&path);
    on_objects(call, source, "pluck", Fields::of_path(&path), part, move |row| Ok(Some(paths::keep(row, &path))))
}

fn without(call: &Call<'_>) -> Result<Value> {
    let source = call.row_arg(0)?;
    let path = path(call)?;
    let dropped = path.clone();
    let part = move |row| partial::datum(row, &dropped, Use::Drops);
    on_objects(call, source, "without", Fields::All, part, move |row| Ok(Some(paths::drop(row, &path))))
}

fn merge(call: &Call<'_>) -> Result<Value> {
    let source = call.arg(0)?;
    let source = match source {
        Value::Single(single) => Value::Datum(single.read()?),
        other => other,
    };
    let functions =
        (1..call.count()).map(|position| call.function(position, Shortcut::Constant)).collect::<Result<Vec<_>>>()?;
    if let Value::Datum(datum) = &source
        && !matches!(datum, Datum::Array(_))
    {
        paths::object(datum, "merge").map_err(|error| error.at(0))?;
        let mut merged = datum.clone();
        for (position, function) in functions.iter().enumerate() {
            let change = function.call_datum(call.ctx(), vec![merged.clone()]);
            let change = change.map_err(|error| error.at(position + 1))?;
            merged = merge_checked(&merged, &change).map_err(|error| error.at(position + 1))?;
        }
        return Ok(merged.into());
    }
    if !source.is_sequence() {
        return Err(source.wrong_kind("DATUM").at(0));
    }
    let mut stream =
        each_object(framed(source.into_stream(call.ctx())?, 0), "merge", Row::into_datum, |row| Ok(Some(row.clone())));
    for (position, function) in functions.into_iter().enumerate() {
        stream = merged_rows(call, stream, function, position + 1);
    }
    Ok(stream.into())
}

fn merged_rows(call: &Call<'_>, stream: Stream, function: Arc<Function>, position: usize) -> Stream {
    let (ctx, pace) = (call.ctx().clone(), stream.pace());
    stream.map_stored(move |rows| {
        let calls = Calls::new(rows.map(|row| row.map(|row| vec![row])), pace, function.clone(), ctx.clone());
        Fused::new(calls.map(move |prepared| {
            let prepared = prepared?;
            let row = prepared.row();
            let change = function.finish(&ctx, prepared).and_then(|value| value.into_datum(&ctx));
            change.and_then(|change| merge_checked(row.datum()?, &change)).map_err(|error| error.at(position))
        }))
    })
}

fn merge_checked(row: &Datum, change: &Datum) -> Result<Datum> {
    if !matches!(change, Datum::Object(_)) {
        return Err(paths::not_an_object(change, "merge"));
    }
    Ok(paths::merge(row, change))
}

fn literal(call: &Call<'_>) -> Result<Value> {
    let value = if call.count() == 0 { None } else { Some(call.datum(0)?) };
    if value.as_ref().is_some_and(|value| pseudo::as_literal(value).is_some()) {
        return Err(ReqlError::logic(
            "Stray literal keyword found: literal is only legal inside of the object passed to merge or update and cannot \
             nest inside another literal.",
        ));
    }
    Ok(pseudo::literal(value).into())
}

fn keys(call: &Call<'_>) -> Result<Value> {
    let datum = call.datum(0)?;
    let Datum::Object(object) = &datum else {
        let message = format!("Cannot call `keys` on objects of type `{}`.", pseudo::type_name(&datum));
        return Err(ReqlError::logic(message).at(0));
    };
    Ok(Datum::array(object.iter().map(|(name, _)| Datum::String(name.clone()))).into())
}

fn values(call: &Call<'_>) -> Result<Value> {
    let datum = call.datum(0)?;
    let Datum::Object(object) = &datum else {
        let message = format!("Cannot call `values` on objects of type `{}`.", pseudo::type_name(&datum));
        return Err(ReqlError::logic(message).at(0));
    };
    Ok(Datum::array(object.iter().map(|(_, value)| value.clone())).into())
}

fn object(call: &Call<'_>) -> Result<Value> {
    if !call.count().is_multiple_of(2) {
        let message = format!("OBJECT expects an even number of arguments (but found {}).", call.count());
        return Err(ReqlError::logic(message));
    }
    let mut object = Object::new();
    for position in (0..call.count()).step_by(2) {
        let name = string(&call.datum(position)?).map_err(|error| error.at(position))?;
        let value = call.datum(position + 1)?;
        if let Some(first) = object.insert(name.clone(), value.clone()) {
            return Err(ReqlError::logic(format!(
                "Duplicate key `{name}` in object.  (got `{}` and `{}` as values)",
                brief(&first),
                brief(&value)
            )));
        }
    }
    Ok(types::normalize(call.ctx(), pseudotype::normalize(object)?)?.into())
}
