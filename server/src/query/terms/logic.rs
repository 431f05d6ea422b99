//! Logic: NOT, AND, OR.

use super::{MANY, Op};
use crate::query::error::Result;
use crate::query::eval::Call;
use crate::query::function::truthy;
use crate::query::value::Value;

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(23, "not", 1, 1, not),
    Op::new(66, "or", 0, MANY, or).with(Op::LAZY),
    Op::new(67, "and", 0, MANY, and).with(Op::LAZY),
];

fn not(call: &Call<'_>) -> Result<Value> {
    Ok((!truthy(&call.datum(0)?)).into())
}

/// The first argument whose truth is `decides`, or else the last.
fn first(call: &Call<'_>, decides: bool) -> Result<Value> {
    let mut last = (!decides).into();
    for position in 0..call.count() {
        last = call.datum(position)?;
        if truthy(&last) == decides {
            break;
        }
    }
    Ok(last.into())
}

fn or(call: &Call<'_>) -> Result<Value> {
    first(call, true)
}

fn and(call: &Call<'_>) -> Result<Value> {
    first(call, false)
}
