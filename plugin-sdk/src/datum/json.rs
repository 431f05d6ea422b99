//! The wire form of the ReQL protocol: JSON, with objects that have the key `$reql_type$` for times and bytes.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};
use thiserror::Error;

use super::{Datum, MAX_DEPTH, Object, TYPE_FIELD, Time, TimeError, VALUE_FIELD};

/// The field that marks a pseudotype.
pub const PSEUDOTYPE: &str = "$reql_type$";

/// Lenient about the last, incomplete byte of what it reads, as RethinkDB is.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The largest magnitude up to which all integers are numbers of ReQL.
const MAX_INTEGER: f64 = 9_007_199_254_740_992.0;

/// Why JSON is not a datum. The texts are those of the ReQL protocol, which clients compare.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum JsonError {
    /// A number that f64 can't hold.
    #[error("Non-finite number: {0}")]
    NotFinite(String),
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("Nesting depth limit of {MAX_DEPTH} exceeded.")]
    TooDeep,
    /// An object with `$reql_type$` that this server does not know.
    #[error("Unknown $reql_type$ `{0}`: objects with that field have to be of type TIME or BINARY.")]
    UnknownPseudotype(String),
    /// A pseudotype with missing, further or wrong fields.
    #[error("Invalid {0} pseudotype: {1}.")]
    Pseudotype(&'static str, String),
    /// The instant or zone of a time.
    #[error(transparent)]
    Time(#[from] TimeError),
    /// A character behind `=`.
    #[error("Invalid base64 format, data found after padding character '='.")]
    Base64Padding,
    /// A character of another alphabet.
    #[error("Invalid base64 character found: '{0}'.")]
    Base64Character(char),
    /// Six bits are left over.
    #[error("Invalid base64 length: 1 character remaining, cannot decode a full byte.")]
    Base64Length,
}

impl Datum {
    /// The datum that JSON from a client stands for; TIME and BINARY pseudotypes become values of their own.
    ///
    /// # Errors
    /// When a pseudotype is wrong or unknown, or values are nested deeper than [`MAX_DEPTH`].
    pub fn from_json(json: &Value) -> Result<Self, JsonError> {
        from_json(json, MAX_DEPTH)
    }

    /// Appends JSON: integral numbers without a fraction, fields in the byte order of their names.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(true) => out.extend_from_slice(b"true"),
            Self::Bool(false) => out.extend_from_slice(b"false"),
            Self::Number(number) => write_number(*number, out),
            Self::String(text) => write_string(text, out),
            Self::Binary(bytes) => {
                out.extend_from_slice(br#"{"$reql_type$":"BINARY","data":""#);
                out.extend_from_slice(BASE64.encode(bytes).as_bytes());
                out.extend_from_slice(b"\"}");
            }
            Self::Time(time) => {
                out.extend_from_slice(br#"{"$reql_type$":"TIME","epoch_time":"#);
                write_number(time.epoch_seconds(), out);
                out.extend_from_slice(br#","timezone":""#);
                out.extend_from_slice(time.zone().as_bytes());
                out.extend_from_slice(b"\"}");
            }
            Self::Typed(typed) => {
                out.push(b'{');
                write_string(TYPE_FIELD, out);
                out.push(b':');
                write_string(typed.name(), out);
                out.push(b',');
                write_string(VALUE_FIELD, out);
                out.push(b':');
                write_string(typed.text(), out);
                out.push(b'}');
            }
            Self::Array(elements) => {
                out.push(b'[');
                for (at, element) in elements.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    element.write_json(out);
                }
                out.push(b']');
            }
            Self::Object(object) => {
                out.push(b'{');
                for (at, (name, value)) in object.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    write_string(name, out);
                    out.push(b':');
                    value.write_json(out);
                }
                out.push(b'}');
            }
        }
    }

    /// The JSON text of [`write_json`](Self::write_json).
    #[must_use]
    pub fn to_json_string(&self) -> String {
        let mut out = Vec::new();
        self.write_json(&mut out);
        String::from_utf8(out).expect("all parts that are written are UTF-8")
    }
}

fn from_json(json: &Value, levels: usize) -> Result<Datum, JsonError> {
    Ok(match json {
        Value::Null => Datum::Null,
        Value::Bool(value) => Datum::Bool(*value),
        Value::Number(number) => match number.as_f64() {
            Some(finite) if finite.is_finite() => Datum::Number(finite),
            _ => return Err(JsonError::NotFinite(number.to_string())),
        },
        Value::String(text) => Datum::from(text.as_str()),
        Value::Array(elements) => {
            let below = below(levels, elements.is_empty())?;
            let elements: Result<Arc<[Datum]>, _> = elements.iter().map(|element| from_json(element, below)).collect();
            Datum::Array(elements?)
        }
        Value::Object(fields) => match fields.get(PSEUDOTYPE) {
            Some(kind) => from_pseudotype(kind, fields)?,
            None => {
                let below = below(levels, fields.is_empty())?;
                let fields: Result<Object, JsonError> =
                    fields.iter().map(|(name, value)| Ok((name.as_str(), from_json(value, below)?))).collect();
                Datum::from(fields?)
            }
        },
    })
}

fn below(levels: usize, is_empty: bool) -> Result<usize, JsonError> {
    match levels.checked_sub(1) {
        None if !is_empty => Err(JsonError::TooDeep),
        below => Ok(below.unwrap_or(0)),
    }
}

fn from_pseudotype(kind: &Value, fields: &Map<String, Value>) -> Result<Datum, JsonError> {
    match kind.as_str() {
        Some("TIME") => time_from_json(fields).map(Datum::Time),
        Some("BINARY") => {
            only("binary", fields, &["data"])?;
            let data = fields.get("data").ok_or_else(|| lacking("binary", "data"))?;
            let data = data.as_str().ok_or_else(|| wrong("binary", "data", "a string"))?;
            Ok(Datum::Binary(decode_base64(data)?.into()))
        }
        Some(unknown) => Err(JsonError::UnknownPseudotype(unknown.to_owned())),
        None => Err(JsonError::UnknownPseudotype(kind.to_string())),
    }
}

fn time_from_json(fields: &Map<String, Value>) -> Result<Time, JsonError> {
    only("time", fields, &["epoch_time", "timezone"])?;
    let seconds = fields.get("epoch_time").ok_or_else(|| lacking("time", "epoch_time"))?;
    let seconds = seconds.as_f64().ok_or_else(|| wrong("time", "epoch_time", "a number"))?;
    let zone = fields.get("timezone").ok_or_else(|| lacking("time", "timezone"))?;
    let zone = zone.as_str().ok_or_else(|| wrong("time", "timezone", "a string"))?;
    Ok(Time::new(seconds, Time::parse_zone(zone)?)?)
}

fn lacking(kind: &'static str, field: &str) -> JsonError {
    JsonError::Pseudotype(kind, format!("lacking `{field}` key"))
}

fn wrong(kind: &'static str, field: &str, expected: &str) -> JsonError {
    JsonError::Pseudotype(kind, format!("`{field}` is not {expected}"))
}

fn only(kind: &'static str, fields: &Map<String, Value>, known: &[&str]) -> Result<(), JsonError> {
    match fields.keys().find(|name| *name != PSEUDOTYPE && !known.contains(&name.as_str())) {
        Some(unknown) => Err(JsonError::Pseudotype(kind, format!("unknown key `{unknown}`"))),
        None => Ok(()),
    }
}

fn decode_base64(text: &str) -> Result<Vec<u8>, JsonError> {
    let data = text.trim_end_matches('=');
    if data.contains('=') {
        return Err(JsonError::Base64Padding);
    }
    BASE64.decode(data).map_err(|_| {
        let foreign = |c: &char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '/'));
        data.chars().find(foreign).map_or(JsonError::Base64Length, JsonError::Base64Character)
    })
}

pub(super) fn write_number(number: f64, out: &mut Vec<u8>) {
    let is_negative_zero = number == 0.0 && number.is_sign_negative();
    if number.fract() == 0.0 && number.abs() <= MAX_INTEGER && !is_negative_zero {
        out.extend_from_slice((number as i64).to_string().as_bytes());
    } else {
        write_serialized(&number, out);
    }
}

pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    write_serialized(text, out);
}

fn write_serialized<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("a number or string serializes, and a Vec takes every byte");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn round_trip(json: &Value) -> Value {
        serde_json::from_str(&Datum::from_json(json).unwrap().to_json_string()).unwrap()
    }

    #[test]
    fn json_comes_back() {
        for json in [
            json!(null),
            json!([1, -2.5, 9_007_199_254_740_992_i64, 1e300, "a\u{0}\"\n\u{1f600}", true]),
            json!({"b": {"a": []}, "a": {}}),
            json!({"$reql_type$": "TIME", "epoch_time": 1_375_147_296.68, "timezone": "-07:00"}),
            json!([{"$reql_type$": "BINARY", "data": "AP56"}, {"$reql_type$": "BINARY", "data": ""}]),
        ] {
            assert_eq!(round_trip(&json), json);
        }
    }

    #[test]
    fn text_is_canonical() {
        let datum =
            Datum::object([("é", Datum::from(1.0)), ("Z", (-0.0).into()), ("a", 1e21.into()), ("", 0.5.into())]);
        assert_eq!(datum.to_json_string(), r#"{"":0.5,"Z":-0.0,"a":1e+21,"é":1}"#);
    }

    proptest! {
        #[test]
        fn numbers_are_written_as_by_the_standard(number in any::<f64>().prop_filter("finite", |n| n.is_finite())) {
            for number in [number, number.trunc(), f64::from(number as f32), f64::from(number as i16)] {
                let mut out = Vec::new();
                write_number(number, &mut out);
                let is_integer = number.fract() == 0.0 && number.abs() <= MAX_INTEGER && number.to_bits() != 1 << 63;
                let expected =
                    if is_integer { format!("{number}") } else { serde_json::to_string(&number).unwrap() };
                prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
            }
        }
    }

    #[test]
    fn wrong_pseudotypes_are_refused_in_the_words_of_the_protocol() {
        for (json, message) in [
            (json!({"$reql_type$": "BINARY"}), "Invalid binary pseudotype: lacking `data` key."),
            (
                json!({"$reql_type$": "BINARY", "data": "ABCDEFGH==AA"}),
                "Invalid base64 format, data found after padding character '='.",
            ),
            (json!({"$reql_type$": "BINARY", "data": "A^CDEFGH"}), "Invalid base64 character found: '^'."),
            (
                json!({"$reql_type$": "BINARY", "data": "ABCDE"}),
                "Invalid base64 length: 1 character remaining, cannot decode a full byte.",
            ),
            (json!({"$reql_type$": "TIME", "epoch_time": 1}), "Invalid time pseudotype: lacking `timezone` key."),
            (
                json!({"$reql_type$": "TIME", "epoch_time": 1, "timezone": "+00:60"}),
                "Minutes out of range in `+00:60`.",
            ),
            (
                json!([{"$reql_type$": "TIME", "epoch_time": 1, "timezone": "Z", "x": 1}]),
                "Invalid time pseudotype: unknown key `x`.",
            ),
            (
                json!({"a": {"$reql_type$": 7}}),
                "Unknown $reql_type$ `7`: objects with that field have to be of type TIME or BINARY.",
            ),
        ] {
            assert_eq!(Datum::from_json(&json).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn base64_without_padding_is_read() {
        for (data, bytes) in [("AA", &[0_u8][..]), ("AAE=", &[0, 1]), ("AAE", &[0, 1]), ("AB==", &[0])] {
            assert_eq!(decode_base64(data).unwrap(), bytes, "{data}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nest = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        assert!(Datum::from_json(&nest(MAX_DEPTH)).is_ok());
        assert_eq!(Datum::from_json(&nest(MAX_DEPTH + 1)), Err(JsonError::TooDeep));
    }
}
