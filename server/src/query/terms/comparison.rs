//! Comparisons: EQ to GE.

use std::cmp::Ordering;

use super::{MANY, Op};
use crate::query::error::Result;
use crate::query::eval::Call;
use crate::query::types::compare;
use crate::query::value::Value;

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(17, "eq", 1, MANY, eq),
    Op::new(18, "ne", 1, MANY, ne),
    Op::new(19, "lt", 1, MANY, lt),
    Op::new(20, "le", 1, MANY, le),
    Op::new(21, "gt", 1, MANY, gt),
    Op::new(22, "ge", 1, MANY, ge),
];

/// Whether `holds` for each neighbouring pair of arguments.
fn neighbours(call: &Call<'_>, holds: impl Fn(Ordering) -> bool) -> Result<bool> {
    let data = call.data(0)?;
    for pair in data.windows(2) {
        if !holds(compare(call.ctx(), &pair[0], &pair[1])?) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn eq(call: &Call<'_>) -> Result<Value> {
    Ok(neighbours(call, Ordering::is_eq)?.into())
}

fn ne(call: &Call<'_>) -> Result<Value> {
    Ok((!neighbours(call, Ordering::is_eq)?).into())
}

fn lt(call: &Call<'_>) -> Result<Value> {
    Ok(neighbours(call, Ordering::is_lt)?.into())
}

fn le(call: &Call<'_>) -> Result<Value> {
    Ok(neighbours(call, Ordering::is_le)?.into())
}

fn gt(call: &Call<'_>) -> Result<Value> {
    Ok(neighbours(call, Ordering::is_gt)?.into())
}

fn ge(call: &Call<'_>) -> Result<Value> {
    Ok(neighbours(call, Ordering::is_ge)?.into())
}
