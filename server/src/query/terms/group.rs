//! Groups: GROUP and UNGROUP.

use std::collections::BTreeMap;
use std::sync::Arc;

use photondb_plugin_sdk::Datum;

use super::{MANY, Op};
use crate::query::bulk::{batches, prepare};
use crate::query::error::{ErrorKind, ReqlError, Result};
use crate::query::eval::{Call, Context, framed};
use crate::query::function::{Function, Prepared};
use crate::query::order::Ordered;
use crate::query::row::Row;
use crate::query::stream::{Fused, Stream};
use crate::query::value::{Groups, Shortcut, Value};

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(144, "group", 1, MANY, group).with(Op::STREAM_FUNCTION | Op::UNGROUPED).options(&["index", "multi"]),
    Op::new(150, "ungroup", 1, 1, ungroup).with(Op::UNGROUPED),
];

/// Most rows whose groups are computed together, so that plugins get batches.
const CHUNK: usize = 1024;

fn group(call: &Call<'_>) -> Result<Value> {
    let source = call.arg(0)?;
    if matches!(source, Value::Grouped(_)) {
        return Err(ReqlError::logic("Cannot call `group` on the output of `group` (did you mean to `ungroup`?)."));
    }
    let table = source.table();
    let functions =
        (1..call.count()).map(|position| call.function(position, Shortcut::Field)).collect::<Result<Vec<_>>>()?;
    let multi = call.option_flag("multi")?;
    let index = match (&table, call.option_node("index").is_some()) {
        (_, false) => None,
        (Some(table), true) => {
            let index = super::selection::index_option(call, table)?;
            Some(table.index_function(call.ctx(), index.as_deref())?)
        }
        (None, true) => {
            return Err(ReqlError::logic("Indexed group can only be performed on a TABLE or TABLE_SLICE."));
        }
    };
    if functions.is_empty() && index.is_none() {
        return Err(ReqlError::logic("Cannot group by nothing."));
    }
    let single = functions.len() + usize::from(index.is_some()) == 1;
    let stream = framed(source.into_stream(call.ctx()).map_err(|error| error.at(0))?, 0);
    let mut rows = Fused::new(stream.into_all_stored()?);
    let mut groups: BTreeMap<Ordered, Vec<Row>> = BTreeMap::new();
    let chunk = if functions.iter().any(|function| batches(function)) { CHUNK } else { 1 };
    loop {
        let rows = rows.by_ref().take(chunk).collect::<Result<Vec<_>>>()?;
        if rows.is_empty() {
            break;
        }
        let mut keys: Vec<Vec<Vec<Datum>>> = vec![Vec::with_capacity(functions.len() + 1); rows.len()];
        for (position, function) in functions.iter().enumerate() {
            let calls = prepare(function, call.ctx(), rows.iter().map(|row| vec![row.clone()]).collect());
            for (keys, prepared) in keys.iter_mut().zip(calls) {
                let key = group_key(function, call.ctx(), prepared).map_err(|error| error.at(position + 1))?;
                keys.push(alternatives(key, multi));
            }
        }
        for (mut keys, row) in keys.into_iter().zip(rows) {
            if let Some(index) = &index {
                let Some(value) = index.value(row.datum()?) else { continue };
                keys.push(if index.is_multi() { alternatives(value, true) } else { vec![value] });
            }
            let count = keys.iter().fold(1_usize, |count, alternatives| count.saturating_mul(alternatives.len()));
            call.ctx().check_length(count)?;
            for key in combinations(&keys) {
                let key = if single { key.into_iter().next().unwrap_or_default() } else { key.into() };
                call.ctx().keep_row(&row)?;
                groups.entry(Ordered(key)).or_default().push(row.clone());
            }
        }
    }
    let groups =
        groups.into_iter().map(|(key, rows)| (key.0, Value::Stream(Stream::of_stored(rows.into_iter().map(Ok)))));
    Ok(Value::Grouped(Groups { open: true, groups: groups.collect() }))
}

/// The group that a function puts a row in; null where something is missing.
fn group_key(function: &Function, ctx: &Arc<Context>, call: Prepared) -> Result<Datum> {
    match function.finish(ctx, call).and_then(|value| value.into_datum(ctx)) {
        Err(error) if error.kind() == ErrorKind::NonExistence => Ok(Datum::Null),
        other => other,
    }
}

/// With `multi`, each element of an array is a group of its own.
fn alternatives(key: Datum, multi: bool) -> Vec<Datum> {
    match key {
        Datum::Array(elements) if multi && elements.is_empty() => vec![Datum::Null],
        Datum::Array(elements) if multi => elements.to_vec(),
        key => vec![key],
    }
}

/// Every way to take one alternative from each list.
fn combinations(keys: &[Vec<Datum>]) -> Vec<Vec<Datum>> {
    keys.iter().fold(vec![Vec::new()], |combined, alternatives| {
        combined
            .iter()
            .flat_map(|prefix| {
                alternatives.iter().map(move |alternative| {
                    let mut key = prefix.clone();
                    key.push(alternative.clone());
                    key
                })
            })
            .collect()
    })
}

fn ungroup(call: &Call<'_>) -> Result<Value> {
    let groups = call.with(0, |value| match value {
        Value::Grouped(groups) => Ok(groups),
        other => Err(other.wrong_kind("GROUPED_DATA")),
    })?;
    let rows = closed(groups, call.ctx())?
        .into_iter()
        .map(|(group, reduction)| Datum::object([("group", group), ("reduction", reduction)]));
    Ok(call.ctx().array(rows.collect())?.into())
}

/// The groups with plain values.
pub fn closed(groups: Groups, ctx: &Arc<Context>) -> Result<Vec<(Datum, Datum)>> {
    let limit = ctx.array_limit();
    let mut total = 0;
    let mut closed = Vec::with_capacity(groups.groups.len());
    for (group, value) in groups.groups {
        let value = match value {
            value @ (Value::Stream(_) | Value::Selection(..)) => {
                let rows = value.into_stream(ctx)?.into_all_rows()?;
                let kept = rows.map(|row| row.and_then(|row| ctx.keep(&row).map(|()| row)));
                let elements = kept.collect::<Result<Vec<_>>>()?;
                total += elements.len();
                elements.into()
            }
            value => value.into_datum(ctx)?,
        };
        if total > limit || closed.len() >= limit {
            return Err(ReqlError::limit(format!(
                "Grouped data over size limit `{limit}`.  Try putting a reduction (like `.reduce` or `.count`) on the end."
            )));
        }
        closed.push((group, value));
    }
    Ok(closed)
}
