//! Exact decimal numbers: the type `decimal`.
//!
//! The numbers are those of the crate `rust_decimal`: 96 bits of digits, that is 28 and some more, of which up to 28 stand
//! behind the point. What takes more is refused, sums and differences too; products and quotients are rounded to 28
//! digits behind the point, half to even. The canonical text has no zeros that don't matter: `1.10` is `1.1`.
//!
//! - `order`: the order key.

#![forbid(unsafe_code)]

mod order;

use photondb_plugin_sdk::prelude::*;
use rust_decimal::{Decimal, RoundingStrategy};

/// The name of the type.
const NAME: &str = "decimal";
/// The longest text that is looked at: more digits than any decimal has, and an exponent.
const LONGEST: usize = 64;
/// The most digits behind the point.
const PLACES: u32 = 28;

/// The plugin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decimals;

impl Plugin for Decimals {
    fn name(&self) -> &str {
        NAME
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn register(&self, registry: &mut PluginRegistry) {
        registry.data_type(DecimalType).function(Round);
    }
}

/// The type.
#[derive(Clone, Copy, Debug)]
struct DecimalType;

impl DataTypePlugin for DecimalType {
    fn type_name(&self) -> &str {
        NAME
    }

    fn parse(&self, value: &Datum) -> Result<Typed, PluginError> {
        match value {
            Datum::String(text) => typed(read(text)?),
            number => typed(operand(number)?),
        }
    }

    fn operate(&self, operator: Operator, left: &Datum, right: &Datum) -> Result<Datum, PluginError> {
        compute(operator, operand(left)?, operand(right)?).and_then(typed).map(Datum::from)
    }

    fn sum(&self, values: &[Datum]) -> Result<Datum, PluginError> {
        let add = |sum, value| compute(Operator::Add, sum, operand(value)?);
        values.iter().try_fold(Decimal::ZERO, add).and_then(typed).map(Datum::from)
    }
}

/// `decimal_round(value, places)`: rounded to so many digits behind the point, half away from zero.
struct Round;

impl QueryFunctionPlugin for Round {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::pure("decimal_round", 2, 2)
    }

    fn invoke(&self, args: &[Datum]) -> Result<Datum, PluginError> {
        let places = args[1].as_number().filter(|places| places.fract() == 0.0 && (0.0..=28.0).contains(places));
        let places = places.ok_or_else(|| {
            PluginError::argument(format!(
                "decimal_round: `places` must be a whole number from 0 to {PLACES}, but found {}",
                shown(&args[1])
            ))
        })?;
        let rounded = operand(&args[0])?.round_dp_with_strategy(places as u32, RoundingStrategy::MidpointAwayFromZero);
        typed(rounded).map(Datum::from)
    }
}

/// The value of the type.
fn typed(number: Decimal) -> Result<Typed, PluginError> {
    let number = number.normalize();
    Ok(Typed::new(NAME, order::key(number), number.to_string())?)
}

/// The number that an operand is.
fn operand(value: &Datum) -> Result<Decimal, PluginError> {
    match value {
        Datum::Typed(typed) if typed.name() == NAME => read(typed.text()),
        // The shortest text that is this number: 0.1 means 0.1.
        Datum::Number(number) => read(&format!("{number:e}")),
        other => Err(PluginError::argument(format!(
            "a decimal is made of and computed with numbers, decimals, and texts like \"-12.50\", but found {}",
            shown(other)
        ))),
    }
}

fn read(text: &str) -> Result<Decimal, PluginError> {
    let refused = |why: &str| PluginError::argument(format!("{} is no decimal: {why}", shown(&text.into())));
    if text.len() > LONGEST {
        return Err(refused("it is too long"));
    }
    if text.bytes().any(|byte| !matches!(byte, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E')) {
        return Err(refused("write it as in \"-12.50\" or \"1e-9\""));
    }
    let too_large = || refused("it has too many digits; 28 and as many behind the point are exact");
    match text.split_once(['e', 'E']) {
        None => Decimal::from_str_exact(text)
            .map_err(|_| refused("it has too many digits, or is not written as in \"-12.50\"")),
        Some((digits, exponent)) => {
            let digits = Decimal::from_str_exact(digits).map_err(|_| too_large())?.normalize();
            let exponent: i64 = exponent.parse().map_err(|_| refused("its exponent is no whole number"))?;
            shifted(digits, exponent).ok_or_else(too_large)
        }
    }
}

/// `number` times ten to the power of `exponent`, if that is exact.
fn shifted(number: Decimal, exponent: i64) -> Option<Decimal> {
    if number.is_zero() {
        return Some(Decimal::ZERO);
    }
    let scale = i64::from(number.scale()).checked_sub(exponent)?;
    match u32::try_from(scale) {
        Ok(scale) if scale <= PLACES => Decimal::try_from_i128_with_scale(number.mantissa(), scale).ok(),
        Ok(_) => None,
        Err(_) => {
            let power = 10_i128.checked_pow(u32::try_from(scale.checked_neg()?).ok()?)?;
            Decimal::try_from_i128_with_scale(number.mantissa().checked_mul(power)?, 0).ok()
        }
    }
}

fn compute(operator: Operator, left: Decimal, right: Decimal) -> Result<Decimal, PluginError> {
    let result = match operator {
        Operator::Add => exact_sum(left, right),
        Operator::Sub => exact_sum(left, -right),
        Operator::Mul => left.checked_mul(right),
        Operator::Div if right.is_zero() => return Err(PluginError::argument("cannot divide a decimal by zero")),
        Operator::Div => left.checked_div(right),
    };
    result.ok_or_else(|| {
        let symbol = operator.symbol();
        PluginError::argument(format!("the result of {left} {symbol} {right} has more digits than a decimal"))
    })
}

/// The sum, if it has no more digits than a decimal. The crate rounds it otherwise; then taking away the greater of the two
/// does not leave the other one.
fn exact_sum(left: Decimal, right: Decimal) -> Option<Decimal> {
    let (greater, smaller) = if left.abs() >= right.abs() { (left, right) } else { (right, left) };
    greater.checked_add(smaller).filter(|sum| sum.checked_sub(greater) == Some(smaller))
}

/// A value in a message, cut where it gets long.
fn shown(value: &Datum) -> String {
    let mut text = value.to_json_string();
    text.truncate(text.floor_char_boundary(80));
    text
}

#[cfg(test)]
mod tests;
