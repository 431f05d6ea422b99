//! Arrays and sets: APPEND to SPLICE_AT, SET_INSERT to SET_DIFFERENCE.

use std::collections::BTreeSet;

use photondb_plugin_sdk::Datum;

use super::Op;
use crate::query::error::{ReqlError, Result};
use crate::query::eval::Call;
use crate::query::order::Ordered;
use crate::query::value::Value;

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(29, "append", 2, 2, append),
    Op::new(80, "prepend", 2, 2, prepend),
    Op::new(95, "difference", 2, 2, difference),
    Op::new(88, "set_insert", 2, 2, set_insert),
    Op::new(89, "set_intersection", 2, 2, set_intersection),
    Op::new(90, "set_union", 2, 2, set_union),
    Op::new(91, "set_difference", 2, 2, set_difference),
    Op::new(82, "insert_at", 3, 3, insert_at),
    Op::new(83, "delete_at", 2, 3, delete_at),
    Op::new(84, "change_at", 3, 3, change_at),
    Op::new(85, "splice_at", 3, 3, splice_at),
];

fn list(call: &Call<'_>, position: usize) -> Result<Vec<Datum>> {
    // Sequences that are arrays by nature (the result of a `map` of an array) count as arrays.
    Ok(call.array(position)?.to_vec())
}

fn append(call: &Call<'_>) -> Result<Value> {
    let mut elements = array_or_stream(call)?;
    elements.push(call.datum(1)?);
    Ok(call.ctx().array(elements)?.into())
}

/// The array that the first argument is; a stream, as RethinkDB has it, is collected.
fn array_or_stream(call: &Call<'_>) -> Result<Vec<Datum>> {
    match call.arg(0)? {
        Value::Datum(datum) => Ok(crate::query::eval::array(&datum).map_err(|error| error.at(0))?.to_vec()),
        value => value.into_stream(call.ctx()).and_then(|stream| stream.collect_list(call.ctx())).map_err(|e| e.at(0)),
    }
}

fn prepend(call: &Call<'_>) -> Result<Value> {
    let mut elements = array_or_stream(call)?;
    elements.insert(0, call.datum(1)?);
    Ok(call.ctx().array(elements)?.into())
}

fn difference(call: &Call<'_>) -> Result<Value> {
    let mut elements = array_or_stream(call)?;
    let removed: BTreeSet<Ordered> = list(call, 1)?.into_iter().map(Ordered).collect();
    elements.retain(|element| !removed.contains(&Ordered(element.clone())));
    Ok(Datum::from(elements).into())
}

/// The elements without repetitions, in their order.
fn unique(elements: impl IntoIterator<Item = Datum>) -> Vec<Datum> {
    let mut seen = BTreeSet::new();
    elements.into_iter().filter(|element| seen.insert(Ordered(element.clone()))).collect()
}

fn set_insert(call: &Call<'_>) -> Result<Value> {
    let mut elements = list(call, 0)?;
    elements.push(call.datum(1)?);
    Ok(call.ctx().array(unique(elements))?.into())
}

fn set_intersection(call: &Call<'_>) -> Result<Value> {
    let (left, right) = (list(call, 0)?, list(call, 1)?);
    let left: BTreeSet<Ordered> = left.into_iter().map(Ordered).collect();
    let both = right.into_iter().filter(|element| left.contains(&Ordered(element.clone())));
    Ok(Datum::from(unique(both)).into())
}

fn set_union(call: &Call<'_>) -> Result<Value> {
    let mut elements = list(call, 0)?;
    elements.extend(list(call, 1)?);
    Ok(call.ctx().array(unique(elements))?.into())
}

fn set_difference(call: &Call<'_>) -> Result<Value> {
    let elements = list(call, 0)?;
    let removed: BTreeSet<Ordered> = list(call, 1)?.into_iter().map(Ordered).collect();
    let kept = elements.into_iter().filter(|element| !removed.contains(&Ordered(element.clone())));
    Ok(Datum::from(unique(kept)).into())
}

/// The position that an index means; negative ones count from `end`.
fn place(index: i64, end: usize, size: usize, largest: usize) -> Result<usize> {
    let position = if index < 0 { usize::try_from(index + end as i64).ok() } else { usize::try_from(index).ok() };
    match position {
        Some(position) if position <= largest => Ok(position),
        Some(_) => Err(ReqlError::missing(format!("Index `{index}` out of bounds for array of size: `{size}`."))),
        None => Err(ReqlError::missing(format!("Index out of bounds: {index}"))),
    }
}

fn insert_at(call: &Call<'_>) -> Result<Value> {
    let mut elements = list(call, 0)?;
    let size = elements.len();
    // Behind the last element is a place too, which -1 stands for.
    let at = place(call.integer(1)?, size + 1, size, size).map_err(|error| error.at(1))?;
    elements.insert(at, call.datum(2)?);
    Ok(call.ctx().array(elements)?.into())
}

fn splice_at(call: &Call<'_>) -> Result<Value> {
    let mut elements = list(call, 0)?;
    let size = elements.len();
    let at = place(call.integer(1)?, size + 1, size, size).map_err(|error| error.at(1))?;
    elements.splice(at..at, list(call, 2)?);
    Ok(call.ctx().array(elements)?.into())
}

fn delete_at(call: &Call<'_>) -> Result<Value> {
    let mut elements = list(call, 0)?;
    let size = elements.len();
    let index = call.integer(1)?;
    if call.count() == 2 {
        if size == 0 && index < 0 {
            return Err(ReqlError::missing(format!("Index out of bounds: {index}")).at(1));
        }
        let at = place(index, size, size, size.saturating_sub(1)).map_err(|error| error.at(1))?;
        if at >= size {
            let message = format!("Index `{index}` out of bounds for array of size: `{size}`.");
            return Err(ReqlError::missing(message).at(1));
        }
        elements.remove(at);
    } else {
        let start = place(index, size, size, size).map_err(|error| error.at(1))?;
        let end = place(call.integer(2)?, size, size, size).map_err(|error| error.at(2))?;
        if start > end {
            let message = format!("Start index `{start}` is greater than end index `{end}`.");
            return Err(ReqlError::missing(message));
        }
        elements.drain(start..end);
    }
    Ok(Datum::from(elements).into())
}

fn change_at(call: &Call<'_>) -> Result<Value> {
    let mut elements = list(call, 0)?;
    let size = elements.len();
    let index = call.integer(1)?;
    let at = place(index, size, size, size).map_err(|error| error.at(1))?;
    let value = call.datum(2)?;
    match elements.get_mut(at) {
        Some(element) => *element = value,
        None => {
            let message = format!("Index `{index}` out of bounds for array of size: `{size}`.");
            return Err(ReqlError::missing(message).at(1));
        }
    }
    Ok(Datum::from(elements).into())
}
