//! Arithmetic: ADD to MOD, rounding, bits, random numbers.

use std::sync::Arc;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::Time;
use photondb_plugin_sdk::kinds::data_type::Operator;

use super::{MANY, Op};
use crate::query::error::{ReqlError, Result};
use crate::query::eval::{Call, integer, number, string};
use crate::query::output::check_length;
use crate::query::types;
use crate::query::value::Value;

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(24, "add", 1, MANY, add),
    Op::new(25, "sub", 1, MANY, sub),
    Op::new(26, "mul", 1, MANY, mul),
    Op::new(27, "div", 1, MANY, div),
    Op::new(28, "mod", 2, 2, modulo),
    Op::new(183, "floor", 1, 1, floor),
    Op::new(184, "ceil", 1, 1, ceil),
    Op::new(185, "round", 1, 1, round),
    Op::new(191, "bit_and", 1, MANY, bit_and),
    Op::new(192, "bit_or", 1, MANY, bit_or),
    Op::new(193, "bit_xor", 1, MANY, bit_xor),
    Op::new(194, "bit_not", 1, 1, bit_not),
    Op::new(195, "bit_sal", 2, 2, bit_sal),
    Op::new(196, "bit_sar", 2, 2, bit_sar),
    Op::new(151, "random", 0, 2, random).with(Op::VOLATILE).options(&["float"]),
];

fn finite(value: f64) -> Result<Datum> {
    if value.is_finite() {
        return Ok(Datum::Number(value));
    }
    let text = if value.is_nan() {
        "nan"
    } else if value > 0.0 {
        "inf"
    } else {
        "-inf"
    };
    Err(ReqlError::logic(format!("Non-finite number: {text}")))
}

/// Combines all arguments from left to right. Values of plugins' types are combined by their plugins.
fn fold(call: &Call<'_>, operator: Operator, step: impl Fn(&Call<'_>, Datum, Datum) -> Result<Datum>) -> Result<Value> {
    let mut result = call.datum(0)?;
    for position in 1..call.count() {
        let operand = call.datum(position)?;
        let combined = types::operate(call.ctx(), operator, &result, &operand);
        result = combined.unwrap_or_else(|| step(call, result, operand)).map_err(|error| error.at(position))?;
    }
    Ok(result.into())
}

fn add(call: &Call<'_>) -> Result<Value> {
    let value = fold(call, Operator::Add, |call, left, right| match left {
        Datum::Number(left) => match right {
            Datum::Time(time) => later(time, left),
            right => finite(left + number(&right)?),
        },
        Datum::String(left) => {
            let right = string(&right)?;
            check_length(left.len() + right.len())?;
            let mut both = String::with_capacity(left.len() + right.len());
            both.push_str(&left);
            both.push_str(&right);
            Ok(both.into())
        }
        Datum::Array(left) => {
            let right = crate::query::eval::array(&right)?;
            let mut both = Vec::with_capacity(left.len() + right.len());
            both.extend_from_slice(&left);
            both.extend_from_slice(&right);
            call.ctx().array(both)
        }
        Datum::Time(time) => later(time, number(&right)?),
        other => Err(ReqlError::wrong_type("NUMBER", &other)),
    })?;
    match value {
        Value::Datum(Datum::Number(_) | Datum::String(_) | Datum::Array(_) | Datum::Time(_) | Datum::Typed(_)) => {
            Ok(value)
        }
        Value::Datum(other) => Err(ReqlError::wrong_type("NUMBER", &other).at(0)),
        other => Ok(other),
    }
}

fn later(time: Time, seconds: f64) -> Result<Datum> {
    let time = Time::new(time.epoch_seconds() + seconds, time.offset_minutes());
    Ok(Datum::Time(time.map_err(|error| ReqlError::logic(error.to_string()))?))
}

fn sub(call: &Call<'_>) -> Result<Value> {
    let value = fold(call, Operator::Sub, |_, left, right| match left {
        Datum::Time(left) => match right {
            Datum::Time(right) => finite(((left.epoch_seconds() - right.epoch_seconds()) * 1000.0).round() / 1000.0),
            right => later(left, -number(&right)?),
        },
        Datum::Number(left) => finite(left - number(&right)?),
        other => Err(ReqlError::wrong_type("NUMBER", &other)),
    })?;
    match value {
        Value::Datum(Datum::Number(_) | Datum::Time(_) | Datum::Typed(_)) => Ok(value),
        Value::Datum(other) => Err(ReqlError::wrong_type("NUMBER", &other).at(0)),
        other => Ok(other),
    }
}

fn mul(call: &Call<'_>) -> Result<Value> {
    let value = fold(call, Operator::Mul, |call, left, right| match (left, right) {
        (Datum::Array(elements), count) => repeat(call, &elements, &count),
        (count @ Datum::Number(_), Datum::Array(elements)) => repeat(call, &elements, &count),
        (left, right) => finite(number(&left)? * number(&right)?),
    })?;
    match value {
        Value::Datum(Datum::Number(_) | Datum::Array(_) | Datum::Typed(_)) => Ok(value),
        Value::Datum(other) => Err(ReqlError::wrong_type("NUMBER", &other).at(0)),
        other => Ok(other),
    }
}

fn repeat(call: &Call<'_>, elements: &Arc<[Datum]>, count: &Datum) -> Result<Datum> {
    let count = integer(count)?;
    let count =
        usize::try_from(count).map_err(|_| ReqlError::logic("Cannot multiply an ARRAY by a negative number."))?;
    let length = elements.len().saturating_mul(count);
    if length > call.ctx().array_limit() {
        return Err(crate::query::stream::array_too_long(call.ctx().array_limit()));
    }
    let repeated = std::iter::repeat_n(elements, if elements.is_empty() { 0 } else { count });
    Ok(Datum::array(repeated.flat_map(|elements| elements.iter().cloned())))
}

fn div(call: &Call<'_>) -> Result<Value> {
    let mut result = call.datum(0)?;
    if result.as_typed().is_none() {
        // It has to be a number even if it is alone.
        number(&result).map_err(|error| error.at(0))?;
    }
    for position in 1..call.count() {
        let operand = call.datum(position)?;
        let divided = types::operate(call.ctx(), Operator::Div, &result, &operand);
        let divided = divided.unwrap_or_else(|| quotient(number(&result)?, number(&operand)?));
        result = divided.map_err(|error| error.at(position))?;
    }
    match result {
        // Only the result has to be finite.
        Datum::Number(number) => Ok(finite(number)?.into()),
        other => Ok(other.into()),
    }
}

fn quotient(left: f64, right: f64) -> Result<Datum> {
    if right == 0.0 {
        return Err(ReqlError::logic("Cannot divide by zero."));
    }
    Ok(Datum::Number(left / right))
}

fn modulo(call: &Call<'_>) -> Result<Value> {
    let left = call.integer(0)?;
    let right = call.integer(1)?;
    match right {
        0 => Err(ReqlError::logic("Cannot take a number modulo 0.")),
        right => Ok(((left % right) as f64).into()),
    }
}

fn floor(call: &Call<'_>) -> Result<Value> {
    Ok(call.number(0)?.floor().into())
}

fn ceil(call: &Call<'_>) -> Result<Value> {
    Ok(call.number(0)?.ceil().into())
}

fn round(call: &Call<'_>) -> Result<Value> {
    Ok(call.number(0)?.round().into())
}

fn fold_integers(call: &Call<'_>, step: impl Fn(i64, i64) -> i64) -> Result<Value> {
    let mut result = call.integer(0)?;
    for position in 1..call.count() {
        result = step(result, call.integer(position)?);
    }
    Ok((result as f64).into())
}

fn bit_and(call: &Call<'_>) -> Result<Value> {
    fold_integers(call, |left, right| left & right)
}

fn bit_or(call: &Call<'_>) -> Result<Value> {
    fold_integers(call, |left, right| left | right)
}

fn bit_xor(call: &Call<'_>) -> Result<Value> {
    fold_integers(call, |left, right| left ^ right)
}

fn bit_not(call: &Call<'_>) -> Result<Value> {
    Ok((!call.integer(0)? as f64).into())
}

fn shift(call: &Call<'_>) -> Result<(i64, u32)> {
    let value = call.integer(0)?;
    let bits = call.integer(1)?;
    let bits = u32::try_from(bits)
        .map_err(|_| ReqlError::logic(format!("Cannot bit-shift by a negative value: {bits}")).at(1))?;
    Ok((value, bits))
}

fn bit_sal(call: &Call<'_>) -> Result<Value> {
    let (value, bits) = shift(call)?;
    // As a float: integers beyond 2^53 are still numbers, and nothing is shifted out silently.
    Ok(finite(value as f64 * 2_f64.powi(bits.min(4096) as i32))?.into())
}

fn bit_sar(call: &Call<'_>) -> Result<Value> {
    let (value, bits) = shift(call)?;
    Ok(((value >> bits.min(63)) as f64).into())
}

fn random(call: &Call<'_>) -> Result<Value> {
    let float = call.option_flag("float")?;
    let fraction = crate::query::random::fraction();
    if call.count() == 0 {
        return match call.option_node("float") {
            Some(_) if !float => {
                Err(ReqlError::logic("Random number must specify an upper bound unless `float` is true."))
            }
            _ => Ok(fraction.into()),
        };
    }
    if float {
        let (low, high) = if call.count() == 1 { (0.0, call.number(0)?) } else { (call.number(0)?, call.number(1)?) };
        return Ok(finite(low + (high - low) * fraction)?.into());
    }
    let (low, high) = if call.count() == 1 { (0, call.integer(0)?) } else { (call.integer(0)?, call.integer(1)?) };
    if low >= high {
        let message = format!("Lower bound ({low}) is not less than upper bound ({high}).");
        return Err(ReqlError::logic(message));
    }
    let width = u64::try_from(i128::from(high) - i128::from(low)).unwrap_or(u64::MAX);
    Ok(((low + crate::query::random::below(width) as i64) as f64).into())
}
