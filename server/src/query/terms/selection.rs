//! Documents of tables: DB, TABLE, GET, GET_ALL, BETWEEN, FILTER.

use std::ops::Bound;
use std::sync::Arc;

use photondb_plugin_sdk::Datum;

use super::{MANY, Op};
use crate::query::bulk::Calls;
use crate::query::compile::Node;
use crate::query::error::{Frame, ReqlError, Result};
use crate::query::eval::{Call, framed};
use crate::query::function::{Function, Missing};
use crate::query::order::compare;
use crate::query::pseudo::{self, Special};
use crate::query::stream::{Fused, Stream};
use crate::query::tables::{self, Identifiers, TableRef};
use crate::query::value::{Shortcut, Single, Slice, Value};

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(super::DB, "db", 1, 1, db).with(Op::UNGROUPED | Op::VOLATILE),
    Op::new(15, "table", 1, 2, table).with(Op::UNGROUPED | Op::VOLATILE).options(&[
        "read_mode",
        "identifier_format",
        "use_outdated",
    ]),
    Op::new(16, "get", 2, 2, get).with(Op::UNGROUPED),
    Op::new(78, "get_all", 1, MANY, get_all).with(Op::UNGROUPED).options(&["index", "read_mode"]),
    Op::new(182, "between", 3, 3, between).with(Op::UNGROUPED).options(&["index", "left_bound", "right_bound"]),
    Op::new(36, "between", 3, 3, between_deprecated).with(Op::UNGROUPED).options(&[
        "index",
        "left_bound",
        "right_bound",
    ]),
    Op::new(39, "filter", 2, 2, filter).with(Op::STREAM_FUNCTION).options(&["default"]),
];

fn db(call: &Call<'_>) -> Result<Value> {
    let name = call.string(0)?;
    Ok(Value::Database(tables::database(call.ctx(), &name)?))
}

/// The database that the first argument is, or the query's, and where the other arguments begin.
pub(super) fn database_argument(call: &Call<'_>, with_name: usize) -> Result<(Arc<str>, usize)> {
    if call.count() < with_name {
        let db = call.ctx().options.db_name();
        return Ok((db, 0));
    }
    let name = call.with(0, |value| match value {
        Value::Database(database) => Ok(database.name),
        other => Err(other.wrong_kind("DATABASE")),
    })?;
    Ok((name, 1))
}

fn table(call: &Call<'_>) -> Result<Value> {
    let (db, next) = database_argument(call, 2)?;
    let name = call.string(next)?;
    if let Some(mode) = call.option_string("read_mode").map_err(|error| error.within(option("read_mode")))?
        && !["majority", "single", "outdated"].contains(&&*mode)
    {
        return Err(ReqlError::logic(format!(
            "Read mode `{mode}` unrecognized (options are \"majority\", \"single\", and \"outdated\")."
        )));
    }
    let identifiers = match call.option_string("identifier_format")?.as_deref() {
        None | Some("name") => Identifiers::Names,
        Some("uuid") => Identifiers::Uuids,
        Some(other) => {
            return Err(ReqlError::logic(format!(
                "Identifier format `{other}` unrecognized (options are \"name\" and \"uuid\")."
            )));
        }
    };
    Ok(Value::Table(TableRef::open(call.ctx(), &db, &name, identifiers)?))
}

fn option(name: &str) -> Frame {
    Frame::Option(name.into())
}

fn get(call: &Call<'_>) -> Result<Value> {
    let table = call.table(0)?;
    let key = call.datum(1)?;
    if matches!(key, Datum::Null) {
        return Err(ReqlError::missing("Keys cannot be NULL.").at(1));
    }
    table.check_key(&key).map_err(|error| error.at(1))?;
    Ok(Value::Single(Single { table, key, document: None }))
}

/// The name of the index that the term uses; `None` for the primary key.
pub(super) fn index_option(call: &Call<'_>, table: &TableRef) -> Result<Option<Arc<str>>> {
    let name = call.option_string("index").map_err(|error| error.within(option("index")))?;
    Ok(name.filter(|name| **name != *table.primary_key()))
}

fn get_all(call: &Call<'_>) -> Result<Value> {
    let table = call.table(0)?;
    let index = index_option(call, &table)?;
    if let Some(index) = &index {
        table.check_index(index)?;
    }
    let keys = call.data(1)?;
    for (position, key) in keys.iter().enumerate() {
        if matches!(key, Datum::Null) {
            return Err(ReqlError::missing("Keys cannot be NULL.").at(position + 1));
        }
        if pseudo::type_name(key) == "PTYPE<GEOMETRY>" {
            return Err(ReqlError::logic(
                "Cannot use a geospatial index with `get_all`. Use `get_intersecting` instead.",
            ));
        }
    }
    let ctx = call.ctx().clone();
    let from = table.clone();
    let documents = keys.into_iter().flat_map(move |key| -> Box<dyn Iterator<Item = Result<Datum>> + Send> {
        let found = match &index {
            None => return Box::new(from.get(&key).transpose().into_iter()),
            Some(index) => from.scan(
                &ctx,
                &Slice {
                    table: from.clone(),
                    index: Some(index.clone()),
                    low: Bound::Included(key.clone()),
                    high: Bound::Included(key),
                    order: None,
                    bounded: true,
                },
            ),
        };
        match found {
            Ok(stream) => Box::new(stream),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    });
    Ok(Value::Selection(table, Stream::new(Fused::new(documents))))
}

fn between(call: &Call<'_>) -> Result<Value> {
    between_bounds(call, false)
}

fn between_deprecated(call: &Call<'_>) -> Result<Value> {
    between_bounds(call, true)
}

fn between_bounds(call: &Call<'_>, null_is_unbounded: bool) -> Result<Value> {
    let mut slice = call.with(0, |value| match value {
        Value::Table(table) => Ok(whole(table)),
        Value::Slice(slice) => Ok(slice),
        other => Err(other.wrong_kind("TABLE_SLICE")),
    })?;
    let bound = |position: usize, name: &str, default: &str| -> Result<Bound<Datum>> {
        let value = call.datum(position)?;
        if matches!(value, Datum::Null) {
            if null_is_unbounded {
                return Ok(Bound::Unbounded);
            }
            return Err(ReqlError::logic(
                "Cannot use `null` in BETWEEN, use `r.minval` or `r.maxval` to denote unboundedness.",
            )
            .at(position));
        }
        Ok(if is_closed(call, name, default)? { Bound::Included(value) } else { Bound::Excluded(value) })
    };
    let low = bound(1, "left_bound", "closed")?;
    let high = bound(2, "right_bound", "open")?;
    let index = index_option(call, &slice.table)?;
    if slice.bounded {
        return Err(ReqlError::logic("Cannot perform multiple BETWEENs on the same table."));
    }
    if slice.order.is_some() && slice.index != index {
        return Err(ReqlError::logic(format!(
            "Cannot use between on index `{}` with order_by on index `{}`.",
            index.as_deref().unwrap_or("id"),
            slice.index.as_deref().unwrap_or("id")
        )));
    }
    if let Some(index) = &index {
        slice.table.check_index(index)?;
    }
    (slice.index, slice.low, slice.high, slice.bounded) = (index, low, high, true);
    Ok(Value::Slice(slice))
}

/// Whether an end of a range belongs to it.
pub(super) fn is_closed(call: &Call<'_>, name: &str, default: &str) -> Result<bool> {
    let bound = call.option_string(name).map_err(|error| error.within(option(name)))?;
    match bound.as_deref().unwrap_or(default) {
        "closed" => Ok(true),
        "open" => Ok(false),
        other => Err(ReqlError::logic(format!("Expected `open` or `closed` for optarg `{name}` (got `\"{other}\"`)."))),
    }
}

/// All of a table, as a slice of it.
pub fn whole(table: TableRef) -> Slice {
    Slice { table, index: None, low: Bound::Unbounded, high: Bound::Unbounded, order: None, bounded: false }
}

/// Whether no value can lie in the range.
pub fn is_empty_range(low: &Bound<Datum>, high: &Bound<Datum>) -> bool {
    let value = |bound: &Bound<Datum>| match bound {
        Bound::Included(value) | Bound::Excluded(value) => Some(value.clone()),
        Bound::Unbounded => None,
    };
    let (Some(first), Some(last)) = (value(low), value(high)) else { return false };
    if pseudo::special_of(&first) == Some(Special::Max) || pseudo::special_of(&last) == Some(Special::Min) {
        return true;
    }
    match compare(&first, &last) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Equal => !matches!((low, high), (Bound::Included(_), Bound::Included(_))),
        std::cmp::Ordering::Less => false,
    }
}

/// What `filter` makes of a missing field.
fn missing_option(call: &Call<'_>) -> Result<Missing> {
    let Some(node) = call.option_node("default") else { return Ok(Missing::Value(false)) };
    match node {
        Node::Call(error) if error.op.number == 12 && error.args.is_empty() => Ok(Missing::Raise),
        node => Ok(Missing::Value(crate::query::function::truthy(
            &call.env.datum(node).map_err(|error| error.within(option("default")))?,
        ))),
    }
}

/// The elements of `stream` that the function accepts.
pub(super) fn filtered(
    call: &Call<'_>,
    stream: Stream,
    function: Arc<Function>,
    missing: Missing,
    position: usize,
) -> Stream {
    let (ctx, pace, scan) = (call.ctx().clone(), stream.pace(), stream.pending_scan().cloned());
    if let Some(scan) = &scan {
        scan.filtered(&function, &missing);
    }
    let kept = stream.pick(move |rows| {
        let calls = Calls::new(rows.map(|row| row.map(|row| vec![row])), pace, function.clone(), ctx.clone());
        let kept = calls.filter_map(move |prepared| {
            let prepared = match prepared {
                Ok(prepared) => prepared,
                Err(error) => return Some(Err(error)),
            };
            let row = prepared.row();
            match function.matches(&ctx, prepared, &missing) {
                Ok(true) => Some(Ok(row)),
                Ok(false) => None,
                Err(error) => Some(Err(error.at(position))),
            }
        });
        Fused::new(kept)
    });
    kept.of_scan(scan)
}

fn filter(call: &Call<'_>) -> Result<Value> {
    let source = call.arg(0)?;
    let table = source.table();
    let single = matches!(source, Value::Single(_));
    let stream = framed(source.into_stream(call.ctx()).map_err(|error| error.at(0))?, 0);
    let function = call.function(1, Shortcut::Constant)?;
    let kept = filtered(call, stream, function, missing_option(call)?, 1);
    Ok(match table.filter(|_| !single) {
        Some(table) => Value::Selection(table, kept),
        None => Value::Stream(kept),
    })
}
