//! Aggregations: COUNT, SUM, AVG, MIN, MAX, REDUCE.

use std::sync::Arc;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::data_type::Operator;

use super::Op;
use super::sequence::{accepts, advance, predicate};
use crate::query::bulk::Calls;
use crate::query::error::{ErrorKind, ReqlError, Result};
use crate::query::eval::{Call, framed};
use crate::query::function::{Function, Missing, Prepared};
use crate::query::order::compare;
use crate::query::pushdown::Fields;
use crate::query::row::Row;
use crate::query::stream::{Fused, Stream};
use crate::query::tables::Order;
use crate::query::types::{self, Sum};
use crate::query::value::{Shortcut, Value};

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(43, "count", 1, 2, count).with(Op::STREAM_FUNCTION),
    Op::new(145, "sum", 1, 2, sum).with(Op::STREAM_FUNCTION | Op::DROPS_EMPTY_GROUPS),
    Op::new(146, "avg", 1, 2, avg).with(Op::STREAM_FUNCTION | Op::DROPS_EMPTY_GROUPS),
    Op::new(147, "min", 1, 2, min).with(Op::STREAM_FUNCTION | Op::DROPS_EMPTY_GROUPS).options(&["index"]),
    Op::new(148, "max", 1, 2, max).with(Op::STREAM_FUNCTION | Op::DROPS_EMPTY_GROUPS).options(&["index"]),
    Op::new(37, "reduce", 2, 2, reduce).with(Op::STREAM_FUNCTION | Op::DROPS_EMPTY_GROUPS),
];

fn count(call: &Call<'_>) -> Result<Value> {
    let source = match call.row_arg(0)? {
        Value::Single(single) => Value::Datum(single.read()?),
        Value::Row(Row::List(list)) if call.count() == 1 => return Ok((list.rows().len() as f64).into()),
        source => source.decoded().map_err(|error| error.at(0))?,
    };
    if call.count() == 1 {
        let length = match &source {
            Value::Datum(Datum::String(text)) => Some(text.chars().count()),
            Value::Datum(Datum::Binary(bytes)) => Some(bytes.len()),
            Value::Datum(Datum::Array(elements)) => Some(elements.len()),
            Value::Datum(Datum::Object(object)) => Some(object.len()),
            _ => None,
        };
        if let Some(length) = length {
            return Ok((length as f64).into());
        }
    }
    let stream = framed(source.into_stream(call.ctx()).map_err(|error| error.at(0))?, 0);
    let function = if call.count() > 1 { Some(predicate(call, 1)?) } else { None };
    let pace = stream.pace();
    if let Some(scan) = stream.pending_scan() {
        if let Some(function) = function.as_ref().filter(|function| !matches!(***function, Function::Constant(_))) {
            scan.filtered(function, &Missing::Value(false));
        }
        scan.used(if let Some(Function::Constant(_)) = function.as_deref() { Fields::All } else { Fields::default() });
    }
    let rows = Fused::new(stream.into_all_stored()?);
    let mut count = 0_u64;
    match function {
        None => {
            for row in rows {
                row?;
                count += 1;
            }
        }
        Some(function) => {
            for prepared in
                Calls::new(rows.map(|row| row.map(|row| vec![row])), pace, function.clone(), call.ctx().clone())
            {
                count += u64::from(accepts(&function, call.ctx(), prepared?).map_err(|error| error.at(1))?);
            }
        }
    }
    Ok(Datum::from(count).into())
}

/// The elements, each with the value that the aggregation is about; those without one are left out.
fn keyed(call: &Call<'_>, stream: Stream) -> Result<impl Iterator<Item = Result<(Row, Datum)>>> {
    let function = if call.count() > 1 { Some(call.function(1, Shortcut::Field)?) } else { None };
    let pace = stream.pace();
    match (stream.pending_scan(), function.as_deref()) {
        (Some(scan), Some(Function::Field(field))) => scan.used_where_present(field),
        (Some(scan), Some(function)) => scan.used(Fields::of_function(function)),
        _ => {}
    }
    let rows = Fused::new(stream.into_all_stored()?).map(|row| row.map(|row| vec![row]));
    let ctx = call.ctx().clone();
    let itself = Arc::new(Function::Constant(Datum::Null));
    let calls = Calls::new(rows, pace, function.clone().unwrap_or(itself), ctx.clone());
    Ok(calls.filter_map(move |prepared| {
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Some(Err(error)),
        };
        let row = prepared.row();
        let Some(function) = &function else { return Some(row.datum().cloned().map(|value| (row.clone(), value))) };
        match value_of(function, &ctx, prepared) {
            Ok(Some(value)) => Some(Ok((row, value))),
            Ok(None) => None,
            Err(error) => Some(Err(error.at(1))),
        }
    }))
}

/// The result of a prepared call; nothing where something is missing.
fn value_of(function: &Function, ctx: &Arc<crate::query::eval::Context>, call: Prepared) -> Result<Option<Datum>> {
    match function.finish(ctx, call).and_then(|value| value.into_datum(ctx)) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NonExistence => Ok(None),
        Err(error) => Err(error),
    }
}

fn sum(call: &Call<'_>) -> Result<Value> {
    let mut sum = Sum::default();
    for pair in keyed(call, call.stream(0)?)? {
        sum.add(call.ctx(), pair?.1)?;
    }
    // Without groups nothing sums up to 0; a group without values has no sum.
    if sum.count() == 0 && call.is_in_group() {
        return Err(empty("sum"));
    }
    Ok(sum.finish(call.ctx())?.into())
}

fn avg(call: &Call<'_>) -> Result<Value> {
    let mut sum = Sum::default();
    for pair in keyed(call, call.stream(0)?)? {
        sum.add(call.ctx(), pair?.1)?;
    }
    let count = sum.count();
    if count == 0 {
        return Err(empty("avg"));
    }
    Ok(match sum.finish(call.ctx())? {
        Datum::Number(sum) => types::finite(sum / count as f64)?.into(),
        sum => types::operate(call.ctx(), Operator::Div, &sum, &count.into()).unwrap_or(Ok(sum))?.into(),
    })
}

fn empty(term: &str) -> ReqlError {
    let what = if term == "avg" { "average" } else { term };
    ReqlError::missing(format!(
        "Cannot take the {what} of an empty stream.  (If you passed `{term}` a field name, it may be that no elements of \
         the stream had that field.)"
    ))
}

fn min(call: &Call<'_>) -> Result<Value> {
    extreme(call, Order::Ascending, "min")
}

fn max(call: &Call<'_>) -> Result<Value> {
    extreme(call, Order::Descending, "max")
}

/// The element that comes first in the order; of equal ones the first.
fn extreme(call: &Call<'_>, order: Order, name: &str) -> Result<Value> {
    let by_index = call.option_node("index").is_some();
    let source = match call.arg(0)? {
        // Without a function, a table's documents compare by their primary keys.
        Value::Table(table) if by_index || call.count() == 1 => {
            let mut slice = super::selection::whole(table.clone());
            slice.index = super::selection::index_option(call, &table)?;
            slice.order = Some(order);
            let first = table.scan(call.ctx(), &slice)?.into_rows().next().transpose()?;
            return Ok(first.ok_or_else(|| empty(name))?.into());
        }
        other if by_index => return Err(other.wrong_kind("TABLE").at(0)),
        other => framed(other.into_stream(call.ctx()).map_err(|error| error.at(0))?, 0),
    };
    let mut best: Option<(Row, Datum)> = None;
    for pair in keyed(call, source)? {
        let pair = pair?;
        let better = best.as_ref().is_none_or(|best| match order {
            Order::Ascending => compare(&pair.1, &best.1).is_lt(),
            Order::Descending => compare(&pair.1, &best.1).is_gt(),
        });
        if better {
            best = Some(pair);
        }
    }
    Ok(best.ok_or_else(|| empty(name))?.0.into_datum()?.into())
}

fn reduce(call: &Call<'_>) -> Result<Value> {
    let mut rows = Fused::new(call.stream(0)?.into_all_rows()?);
    let function = call.function(1, Shortcut::None)?;
    if let Function::Plugin(plugin) = &*function
        && plugin.is_aggregate()
    {
        return Ok(plugin.aggregate(call.ctx(), rows).map_err(|error| error.at(1))?.into());
    }
    let mut result = rows.next().ok_or_else(|| ReqlError::missing("Cannot reduce over an empty stream."))??;
    for row in rows {
        result = advance(&function, call.ctx(), result, row?).map_err(|error| error.at(1))?;
    }
    Ok(result.into())
}
