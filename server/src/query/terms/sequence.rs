//! Sequences: MAP, CONCAT_MAP, SLICE, SKIP, LIMIT, NTH, UNION, RANGE, and so on.

use std::sync::Arc;

use photondb_plugin_sdk::Datum;

use super::selection::is_closed;
use super::{MANY, Op};
use crate::query::bulk::Calls;
use crate::query::error::{ReqlError, Result};
use crate::query::eval::{Call, Context, framed};
use crate::query::function::{Function, Missing, Prepared};
use crate::query::order::{Ordered, equal};
use crate::query::pushdown::Fields;
use crate::query::row::Row;
use crate::query::stream::{Fused, Pace, Rows, StoredRows, Stream};
use crate::query::value::{Shortcut, Single, Value};

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(38, "map", 2, MANY, map).with(Op::STREAM_FUNCTION),
    Op::new(40, "concat_map", 2, 2, concat_map).with(Op::STREAM_FUNCTION),
    Op::new(30, "slice", 2, 3, slice).options(&["left_bound", "right_bound"]),
    Op::new(70, "skip", 2, 2, skip),
    Op::new(71, "limit", 2, 2, limit),
    Op::new(45, "nth", 2, 2, nth).with(Op::DROPS_EMPTY_GROUPS),
    Op::new(86, "is_empty", 1, 1, is_empty),
    Op::new(87, "offsets_of", 2, 2, offsets_of).with(Op::STREAM_FUNCTION),
    Op::new(93, "contains", 1, MANY, contains).with(Op::STREAM_FUNCTION),
    Op::new(81, "sample", 2, 2, sample).with(Op::VOLATILE),
    Op::new(173, "range", 0, 2, range),
    Op::new(42, "distinct", 1, 1, distinct).options(&["index"]),
    Op::new(187, "fold", 3, 3, fold).with(Op::STREAM_FUNCTION).options(&["emit", "final_emit"]),
];

fn map(call: &Call<'_>) -> Result<Value> {
    let sequences = call.count() - 1;
    if sequences == 1 {
        let stream = call.stream(0)?;
        let function = call.with(1, |value| match &value {
            Value::Datum(Datum::String(_)) => value.into_function(Shortcut::Field, call.ctx()),
            _ => value.into_function(Shortcut::None, call.ctx()),
        })?;
        check_map_arity(&function, 1)?;
        return Ok(mapped(call.ctx(), stream, function, 1).into());
    }
    let streams = (0..sequences).map(|position| call.stream(position)).collect::<Result<Vec<_>>>()?;
    let function = call.function(sequences, Shortcut::None)?;
    check_map_arity(&function, sequences)?;
    let array = streams.iter().all(Stream::is_array);
    let infinite = streams.iter().all(Stream::is_infinite);
    let mut rows: Vec<StoredRows> = streams.into_iter().map(Stream::into_stored).collect();
    let tuples = std::iter::from_fn(move || {
        let mut tuple = Vec::with_capacity(rows.len());
        for rows in &mut rows {
            match rows.next()? {
                Ok(row) => tuple.push(row),
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(tuple))
    });
    let results = called(call.ctx().clone(), tuples, Pace::Unknown, function, sequences);
    let results = results.map(|row| row?.into_datum());
    let stream = if infinite { Stream::infinite(results) } else { Stream::new(results) };
    Ok(stream.with_array(array).into())
}

fn check_map_arity(function: &Function, sequences: usize) -> Result<()> {
    let plural = |count: usize, one: &'static str, many: &'static str| if count == 1 { one } else { many };
    match function.arity() {
        Some(arity) if arity != sequences => Err(ReqlError::logic(format!(
            "The function passed to `map` expects {arity} argument{}, but {sequences} sequence{} found.",
            plural(arity, "", "s"),
            plural(sequences, " was", "s were")
        ))),
        _ => Ok(()),
    }
}

/// The results of the function for each element.
pub(super) fn mapped(ctx: &Arc<Context>, stream: Stream, function: Arc<Function>, position: usize) -> Stream {
    let (ctx, pace) = (ctx.clone(), stream.pace());
    if let Some(scan) = stream.pending_scan() {
        scan.used(Fields::of_function(&function));
    }
    stream.pick(move |rows| called(ctx, rows.map(|row| row.map(|row| vec![row])), pace, function, position))
}

/// The results of the function for each row of arguments.
fn called(
    ctx: Arc<Context>,
    rows: impl Iterator<Item = Result<Vec<Row>>> + Send + 'static,
    pace: Pace,
    function: Arc<Function>,
    position: usize,
) -> impl Iterator<Item = Result<Row>> + Send + 'static {
    let calls = Calls::new(rows, pace, function.clone(), ctx.clone());
    Fused::new(calls.map(move |prepared| {
        let value = function.finish(&ctx, prepared?).and_then(|value| value.into_row(&ctx));
        value.map_err(|error| error.at(position))
    }))
}

fn concat_map(call: &Call<'_>) -> Result<Value> {
    let stream = call.stream(0)?;
    let function = call.function(1, Shortcut::Field)?;
    let (ctx, pace) = (call.ctx().clone(), stream.pace());
    let concatenated = stream.map_stored(move |rows| {
        let calls = Calls::new(rows.map(|row| row.map(|row| vec![row])), pace, function.clone(), ctx.clone());
        let parts = calls.map(move |prepared| {
            let part = function.finish(&ctx, prepared?).and_then(|value| value.into_stream(&ctx));
            part.map_err(|error| error.at(1))
        });
        let elements = parts.flat_map(|part| -> Rows {
            match part {
                Ok(part) => part.into_rows(),
                Err(error) => Box::new(std::iter::once(Err(error))),
            }
        });
        Fused::new(elements)
    });
    Ok(concatenated.into())
}

/// Elements that are picked out of a sequence: still a selection, if the sequence was one.
fn picked(call: &Call<'_>, source: Value, change: impl FnOnce(Stream) -> Stream) -> Result<Value> {
    let table = if matches!(source, Value::Single(_)) { None } else { source.table() };
    let stream = framed(source.into_stream(call.ctx()).map_err(|error| error.at(0))?, 0);
    let scan = stream.pending_scan().cloned();
    if let Some(scan) = &scan {
        scan.counted_out();
    }
    let stream = change(stream).of_scan(scan);
    Ok(match table {
        Some(table) => Value::Selection(table, stream),
        None => stream.into(),
    })
}

fn count_argument(call: &Call<'_>, position: usize) -> Result<i64> {
    call.integer(position)
}

fn skip(call: &Call<'_>) -> Result<Value> {
    let source = call.arg(0)?;
    let count = count_argument(call, 1)?;
    slice_of(call, source, count, -1, true)
}

fn limit(call: &Call<'_>) -> Result<Value> {
    let source = call.arg(0)?;
    let count = count_argument(call, 1)?;
    let count = usize::try_from(count)
        .map_err(|_| ReqlError::logic(format!("LIMIT takes a non-negative argument (got {count})")).at(1))?;
    picked(call, source, |stream| stream.finite().pick(|rows| rows.take(count)))
}

fn slice(call: &Call<'_>) -> Result<Value> {
    let source = call.arg(0)?;
    let left = call.integer(1)? + i64::from(!is_closed(call, "left_bound", "closed")?);
    let (right, closed) =
        if call.count() > 2 { (call.integer(2)?, is_closed(call, "right_bound", "open")?) } else { (-1, true) };
    slice_of(call, source, left, right, closed)
}

/// From `left` up to `right`; both count from the end if they are negative.
fn slice_of(call: &Call<'_>, source: Value, left: i64, right: i64, closed: bool) -> Result<Value> {
    match &source {
        Value::Datum(Datum::String(text)) => {
            let characters: Vec<(usize, char)> = text.char_indices().collect();
            let (start, end) = resolve(characters.len(), left, right, closed);
            let at = |position: usize| characters.get(position).map_or(text.len(), |(at, _)| *at);
            return Ok(Datum::from(text.get(at(start)..at(end)).unwrap_or_default()).into());
        }
        Value::Datum(Datum::Binary(bytes)) => {
            let (start, end) = resolve(bytes.len(), left, right, closed);
            return Ok(Datum::Binary(bytes[start..end].into()).into());
        }
        Value::Datum(Datum::Array(elements)) => {
            let (start, end) = resolve(elements.len(), left, right, closed);
            return Ok(Datum::Array(elements[start..end].into()).into());
        }
        _ => {}
    }
    let is_array = matches!(&source, Value::Stream(stream) | Value::Selection(_, stream) if stream.is_array());
    if is_array && (left < 0 || right < -1 || (right == -1 && !closed)) {
        let table = source.table();
        let elements = source.into_stream(call.ctx())?.collect_list(call.ctx())?;
        let (start, end) = resolve(elements.len(), left, right, closed);
        let part = Stream::from_list(elements[start..end].to_vec());
        return Ok(match table {
            Some(table) => Value::Selection(table, part),
            None => part.into(),
        });
    }
    if left < 0 {
        return Err(ReqlError::logic("Cannot use a negative left index on a stream."));
    }
    if right < -1 {
        return Err(ReqlError::logic("Cannot use a right index < -1 on a stream."));
    }
    if right == -1 && !closed {
        return Err(ReqlError::logic("Cannot slice to an open right index of -1 on a stream."));
    }
    let start = usize::try_from(left).unwrap_or(usize::MAX);
    let count = match right {
        -1 => None,
        right => Some(usize::try_from(right + i64::from(closed) - left).unwrap_or(0)),
    };
    picked(call, source, |stream| match count {
        None => stream.pick(|rows| rows.skip(start)),
        Some(count) => stream.finite().pick(|rows| rows.skip(start).take(count)),
    })
}

/// The positions that a slice of `length` elements means: clamped, and start not behind end.
fn resolve(length: usize, left: i64, right: i64, closed: bool) -> (usize, usize) {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let from_start = |index: i64| if index < 0 { index + length } else { index };
    let end = from_start(right).saturating_add(i64::from(closed)).clamp(0, length);
    let start = from_start(left).clamp(0, end);
    (usize::try_from(start).unwrap_or(0), usize::try_from(end).unwrap_or(0))
}

fn nth(call: &Call<'_>) -> Result<Value> {
    let source = call.arg(0)?;
    let position = call.integer(1)?;
    nth_of(call, source, position)
}

/// The element at a position; of a selection it can still be written to.
pub(super) fn nth_of(call: &Call<'_>, source: Value, position: i64) -> Result<Value> {
    let out_of_bounds = || ReqlError::missing(format!("Index out of bounds: {position}"));
    if let Value::Datum(Datum::Array(elements)) = &source {
        let index = if position < 0 { position + elements.len() as i64 } else { position };
        let element = usize::try_from(index).ok().and_then(|index| elements.get(index));
        return element.cloned().map(Value::from).ok_or_else(out_of_bounds);
    }
    let table = if matches!(source, Value::Single(_)) { None } else { source.table() };
    let stream = framed(source.into_stream(call.ctx()).map_err(|error| error.at(0))?, 0);
    let element = match usize::try_from(position) {
        Ok(position) => {
            let mut rows = Fused::new(stream.into_rows());
            let mut found = None;
            for _ in 0..=position {
                found = Some(rows.next().ok_or_else(out_of_bounds)??);
            }
            found
        }
        Err(_) if stream.is_infinite() => {
            return Err(ReqlError::logic("Cannot use an index < 0 on an infinite stream."));
        }
        Err(_) => {
            // Only the last few elements are kept.
            let kept = usize::try_from(position.unsigned_abs()).unwrap_or(usize::MAX);
            let mut last = std::collections::VecDeque::new();
            for row in stream.into_rows() {
                let row = row?;
                call.ctx().keep(&row)?;
                last.push_back(row);
                if last.len() > kept {
                    last.pop_front();
                }
                call.ctx().check_length(last.len())?;
            }
            if last.len() < kept { None } else { last.pop_front() }
        }
    };
    let document = element.ok_or_else(out_of_bounds)?;
    Ok(match table {
        Some(table) => match document.get(table.primary_key()).cloned() {
            Some(key) => Value::Single(Single { table, key, document: Some(document) }),
            None => document.into(),
        },
        None => document.into(),
    })
}

fn is_empty(call: &Call<'_>) -> Result<Value> {
    Ok(call.stream(0)?.into_stored().next().transpose()?.is_none().into())
}

fn offsets_of(call: &Call<'_>) -> Result<Value> {
    let stream = call.stream(0)?;
    let function = predicate(call, 1)?;
    let (ctx, pace) = (call.ctx().clone(), stream.pace());
    let offsets = stream.map_stored(move |rows| {
        let calls = Calls::new(rows.map(|row| row.map(|row| vec![row])), pace, function.clone(), ctx.clone());
        let offsets = calls.enumerate().filter_map(move |(offset, prepared)| {
            match prepared.and_then(|prepared| accepts(&function, &ctx, prepared)) {
                Ok(true) => Some(Ok(Datum::from(offset))),
                Ok(false) => None,
                Err(error) => Some(Err(error.at(1))),
            }
        });
        Fused::new(offsets)
    });
    Ok(offsets.into())
}

/// A function as a predicate; a plain value accepts what equals it.
pub(super) fn predicate(call: &Call<'_>, position: usize) -> Result<Arc<Function>> {
    call.with(position, |value| match value {
        Value::Function(function) => Ok(function),
        value => Ok(Arc::new(Function::Constant(value.into_datum(call.ctx())?))),
    })
}

/// Whether the predicate accepts the first argument.
pub(super) fn accepts(function: &Function, ctx: &Arc<Context>, call: Prepared) -> Result<bool> {
    match function {
        Function::Constant(expected) => Ok(equal(expected, call.row().datum()?)),
        function => function.matches(ctx, call, &Missing::Value(false)),
    }
}

fn contains(call: &Call<'_>) -> Result<Value> {
    let stream = call.stream(0)?;
    let mut wanted =
        (1..call.count()).map(|position| Ok((position, predicate(call, position)?))).collect::<Result<Vec<_>>>()?;
    if wanted.is_empty() {
        return Ok(true.into());
    }
    for row in Fused::new(stream.into_stored()) {
        let row = row?;
        for (found, (position, function)) in wanted.iter().enumerate() {
            let accepted = accepts(function, call.ctx(), Prepared::of(row.clone()));
            if accepted.map_err(|error| error.at(*position))? {
                // An element counts for one argument only.
                wanted.swap_remove(found);
                break;
            }
        }
        if wanted.is_empty() {
            return Ok(true.into());
        }
    }
    Ok(false.into())
}

fn sample(call: &Call<'_>) -> Result<Value> {
    let source = call.arg(0)?;
    let count = call.integer(1)?;
    let count = usize::try_from(count).map_err(|_| {
        ReqlError::logic(format!("Number of items to sample must be non-negative, got `{count}`.")).at(1)
    })?;
    let array = matches!(&source, Value::Datum(_));
    let table = source.table();
    let rows = source.into_stream(call.ctx()).map_err(|error| error.at(0))?.into_all_rows()?;
    // Reservoir sampling: every element has the same chance, in one pass.
    let mut kept: Vec<Datum> = Vec::new();
    for (seen, row) in rows.enumerate() {
        let row = row?;
        if kept.len() < count {
            call.ctx().keep(&row)?;
            kept.push(row);
            call.ctx().check_length(kept.len())?;
            continue;
        }
        let place = crate::query::random::below(seen as u64 + 1);
        if let Some(place) = usize::try_from(place).ok().and_then(|place| kept.get_mut(place)) {
            *place = row;
        }
    }
    let stream = Stream::from_list(kept).with_array(array || table.is_some());
    Ok(match table {
        Some(table) => Value::Selection(table, stream),
        None => stream.into(),
    })
}

fn range(call: &Call<'_>) -> Result<Value> {
    let (start, end) = match call.count() {
        0 => (0, None),
        1 => (0, Some(call.integer(0)?)),
        _ => (call.integer(0)?, Some(call.integer(1)?)),
    };
    let ctx = call.ctx().clone();
    let numbers = (start..end.unwrap_or(i64::MAX)).map(move |number| {
        ctx.check_running()?;
        Ok(Datum::Number(number as f64))
    });
    Ok(if end.is_none() { Stream::infinite(numbers) } else { Stream::new(numbers) }.into())
}

fn distinct(call: &Call<'_>) -> Result<Value> {
    let source = call.arg(0)?;
    if call.option_node("index").is_some() {
        let Some(table) = source.table() else {
            return Err(ReqlError::logic("Can only perform an indexed distinct on a TABLE."));
        };
        let mut slice = match source {
            Value::Table(table) => super::selection::whole(table),
            Value::Slice(slice) => slice,
            _ => return Err(ReqlError::logic("Can only perform an indexed distinct on a TABLE.")),
        };
        let index = super::selection::index_option(call, &table)?;
        if slice.bounded && slice.index != index {
            // Of a range of another index: the values of those documents.
            let values = table.index_values_of(call.ctx(), Value::Slice(slice), index)?;
            return Ok(unique(call.ctx(), values.into_rows())?.into());
        }
        slice.index = index;
        let mut last: Option<Datum> = None;
        let values = table.index_values(call.ctx(), &slice)?;
        let values = values.filter(move |value| match value {
            Ok(value) if last.as_ref().is_some_and(|last| equal(last, value)) => false,
            Ok(value) => {
                last = Some(value.clone());
                true
            }
            Err(_) => true,
        });
        return Ok(Stream::new(values).into());
    }
    let documents = matches!(source, Value::Table(_) | Value::Slice(_));
    let stream = framed(source.into_stream(call.ctx()).map_err(|error| error.at(0))?, 0);
    Ok(unique(call.ctx(), stream.into_all_rows()?)?.with_array(!documents).into())
}

/// The different elements in ascending order.
fn unique(ctx: &Context, rows: Rows) -> Result<Stream> {
    let mut seen = std::collections::BTreeSet::new();
    for row in rows {
        let row = row?;
        ctx.keep(&row)?;
        seen.insert(Ordered(row));
        ctx.check_length(seen.len())?;
    }
    Ok(Stream::from_list(seen.into_iter().map(|value| value.0).collect()).with_array(false))
}

fn fold(call: &Call<'_>) -> Result<Value> {
    let stream = call.stream(0)?;
    let mut accumulator = call.datum(1)?;
    let step = call.function(2, Shortcut::None)?;
    let ctx = call.ctx().clone();
    let emit = call.option("emit")?.map(|value| value.into_function(Shortcut::None, &ctx)).transpose()?;
    let last = call.option("final_emit")?.map(|value| value.into_function(Shortcut::None, &ctx)).transpose()?;
    let Some(emit) = emit else {
        for row in Fused::new(stream.into_all_rows()?) {
            accumulator = advance(&step, &ctx, accumulator, row?).map_err(|error| error.at(2))?;
        }
        return match last {
            Some(last) => Ok(last.call_datum(&ctx, vec![accumulator])?.into()),
            None => Ok(accumulator.into()),
        };
    };
    let array = stream.is_array();
    let infinite = stream.is_infinite();
    let mut rows = stream.into_rows();
    let mut finished = false;
    let lists = std::iter::from_fn(move || {
        if finished {
            return None;
        }
        let list = match rows.next() {
            Some(Err(error)) => Err(error),
            Some(Ok(row)) => {
                advance(&step, &ctx, accumulator.clone(), row.clone()).map_err(|error| error.at(2)).and_then(|new| {
                    let old = std::mem::replace(&mut accumulator, new.clone());
                    emit.call_datum(&ctx, vec![old, row, new])
                })
            }
            None => {
                finished = true;
                last.as_ref()?.call_datum(&ctx, vec![std::mem::take(&mut accumulator)])
            }
        };
        Some(list.and_then(|list| crate::query::eval::array(&list)))
    });
    let elements = lists.flat_map(|list| -> Rows {
        match list {
            Ok(list) => Stream::from_array(list).into_rows(),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    });
    let elements = Fused::new(elements);
    let stream = if infinite { Stream::infinite(elements) } else { Stream::new(elements) };
    Ok(stream.with_array(array).into())
}

/// One step of a fold. What grows with each step is kept from getting too deep for any stack.
pub(super) fn advance(step: &Function, ctx: &Arc<Context>, accumulator: Datum, row: Datum) -> Result<Datum> {
    let next = step.call_datum(ctx, vec![accumulator, row])?;
    crate::query::pseudo::check_growth(&next)?;
    Ok(next)
}
