//! The order key of a decimal.
//!
//! | number | bytes |
//! |---|---|
//! | positive | `02`, 64 + the exponent, the digits as ASCII |
//! | zero | `01` |
//! | negative | `00`, then as of its magnitude with all bits turned, `ff` |
//!
//! The number is 0.DIGITS times ten to the power of the exponent; the first digit is not zero, nor is the last one. Of two
//! positive numbers the one with the greater exponent is greater, then the one whose digits come later in the dictionary.
//! The closing `ff` puts a negative number with more digits before one whose digits it continues.

use rust_decimal::Decimal;

const NEGATIVE: u8 = 0;
const ZERO: u8 = 1;
const POSITIVE: u8 = 2;
/// Exponents are from -27 to 29.
const BIAS: i32 = 64;

/// The key of a number.
pub(crate) fn key(number: Decimal) -> Vec<u8> {
    if number.is_zero() {
        return vec![ZERO];
    }
    let number = number.normalize();
    let digits = number.mantissa().unsigned_abs().to_string();
    let exponent = digits.len() as i32 - number.scale() as i32;
    let mut key = vec![POSITIVE, (BIAS + exponent) as u8];
    key.extend_from_slice(digits.trim_end_matches('0').as_bytes());
    if number.is_sign_negative() {
        key.iter_mut().for_each(|byte| *byte = !*byte);
        key[0] = NEGATIVE;
        key.push(0xff);
    }
    key
}
