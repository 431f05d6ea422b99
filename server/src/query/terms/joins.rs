//! Joins: INNER_JOIN, OUTER_JOIN, EQ_JOIN, ZIP.

use std::sync::Arc;

use photondb_plugin_sdk::Datum;

use super::Op;
use crate::query::error::{ErrorKind, ReqlError, Result};
use crate::query::eval::{Call, Context};
use crate::query::function::{Function, Missing, Prepared};
use crate::query::paths;
use crate::query::stream::{Fused, Stream};
use crate::query::value::{Shortcut, Value};

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(48, "inner_join", 3, 3, inner_join).with(Op::STREAM_FUNCTION),
    Op::new(49, "outer_join", 3, 3, outer_join).with(Op::STREAM_FUNCTION),
    Op::new(50, "eq_join", 3, 3, eq_join).with(Op::STREAM_FUNCTION).options(&["index", "ordered"]),
    Op::new(72, "zip", 1, 1, zip),
];

fn inner_join(call: &Call<'_>) -> Result<Value> {
    nested_loop(call, false)
}

fn outer_join(call: &Call<'_>) -> Result<Value> {
    nested_loop(call, true)
}

fn pair(left: &Datum, right: Option<&Datum>) -> Datum {
    match right {
        Some(right) => Datum::object([("left", left.clone()), ("right", right.clone())]),
        None => Datum::object([("left", left.clone())]),
    }
}

fn nested_loop(call: &Call<'_>, outer: bool) -> Result<Value> {
    let left = call.stream(0)?;
    // Read once: the elements are needed for every element of the left side.
    let right: Arc<[Datum]> = call.stream(1)?.collect_list(call.ctx())?.into();
    let function = call.function(2, Shortcut::None)?;
    let ctx = call.ctx().clone();
    let joined = left.map_rows(move |rows| {
        let pairs =
            rows.flat_map(move |row| match row.and_then(|row| matches_of(&ctx, &function, &row, &right, outer)) {
                Ok(pairs) => pairs.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(error) => vec![Err(error)],
            });
        Fused::new(pairs)
    });
    Ok(joined.into())
}

fn matches_of(
    ctx: &Arc<Context>,
    function: &Function,
    left: &Datum,
    right: &[Datum],
    outer: bool,
) -> Result<Vec<Datum>> {
    let mut pairs = Vec::new();
    for candidate in right {
        let call = Prepared::new(vec![left.clone().into(), candidate.clone().into()]);
        if function.matches(ctx, call, &Missing::Value(false)).map_err(|error| error.at(2))? {
            pairs.push(pair(left, Some(candidate)));
        }
    }
    if outer && pairs.is_empty() {
        pairs.push(pair(left, None));
    }
    Ok(pairs)
}

fn eq_join(call: &Call<'_>) -> Result<Value> {
    let left = call.stream(0)?;
    let key = call.function(1, Shortcut::Field)?;
    let table = call.table(2)?;
    let index = super::selection::index_option(call, &table)?;
    if let Some(index) = &index {
        table.check_index(index)?;
    }
    let ctx = call.ctx().clone();
    let joined = left.map_rows(move |rows| {
        let pairs = rows.flat_map(move |row| {
            let pairs = row.and_then(|row| {
                let key = match key.call_datum(&ctx, vec![row.clone()]) {
                    Ok(Datum::Null) => return Ok(Vec::new()),
                    Ok(key) => key,
                    Err(error) if error.kind() == ErrorKind::NonExistence => return Ok(Vec::new()),
                    Err(error) => return Err(error.at(1)),
                };
                let found = match &index {
                    None => table.get(&key)?.into_iter().collect(),
                    Some(index) => table.find(&ctx, index, &key)?.collect::<Result<Vec<_>>>()?,
                };
                Ok(found.iter().map(|found| pair(&row, Some(found))).collect())
            });
            match pairs {
                Ok(pairs) => pairs.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(error) => vec![Err(error)],
            }
        });
        Fused::new(pairs)
    });
    Ok(joined.into())
}

fn zip(call: &Call<'_>) -> Result<Value> {
    let zipped = call.stream(0)?.map_rows(|rows| rows.map(|row| merge_pair(&row?)));
    Ok(Stream::into(zipped))
}

fn merge_pair(row: &Datum) -> Result<Datum> {
    let left = row.get("left").ok_or_else(|| ReqlError::logic("ZIP can only be called on the result of a join."))?;
    Ok(match row.get("right") {
        Some(right) => paths::merge(left, right),
        None => left.clone(),
    })
}
