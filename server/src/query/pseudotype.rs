//! Objects with the key `$reql_type$`: recognised, checked and turned into native values on input.

use photondb_plugin_sdk::datum::{Object, Time};
use photondb_plugin_sdk::Datum;

use super::error::{ReqlError, Result};
use super::print::pretty;
use super::pseudo::{self, REQL_TYPE};
use super::zone;

/// An object as the value that it stands for.
///
/// # Errors
/// When the object has the reserved key and is no valid pseudotype.
pub fn normalize(object: Object) -> Result<Datum> {
    let Some(kind) = object.get(REQL_TYPE) else { return Ok(object.into()) };
    let Some(name) = kind.as_str() else {
        return Err(ReqlError::logic(format!(
            "Field `{REQL_TYPE}` must be a string (got `{}` of type {}).",
            pretty(kind),
            pseudo::type_name(kind)
        )));
    };
    match name {
        "TIME" => time(&object),
        "BINARY" => binary(&object),
        "LITERAL" => Ok(pseudo::literal(object.get("value").cloned())),
        "GEOMETRY" => Ok(object.into()),
        other => Err(ReqlError::logic(format!("Unknown $reql_type$ `{other}`."))),
    }
}

fn time(object: &Object) -> Result<Datum> {
    let invalid = |what: &str| {
        ReqlError::logic(format!("Invalid time object constructed ({what}):\n{}", pretty(&object.clone().into())))
    };
    let epoch = object.get("epoch_time").ok_or_else(|| invalid("no field `epoch_time`"))?;
    let epoch = epoch.as_number().ok_or_else(|| invalid("field `epoch_time` must be a number"))?;
    let timezone = object.get("timezone").ok_or_else(|| invalid("no field `timezone`"))?;
    let timezone = timezone.as_str().ok_or_else(|| invalid("field `timezone` must be a string"))?;
    if object.len() > 3 {
        return Err(invalid("extra fields"));
    }
    let offset = zone::parse(timezone)?;
    Ok(Datum::Time(Time::new(epoch, offset).map_err(|error| ReqlError::logic(error.to_string()))?))
}

fn binary(object: &Object) -> Result<Datum> {
    let data = object
        .get("data")
        .ok_or_else(|| ReqlError::logic("Invalid binary pseudotype: lacking `data` key."))?
        .as_str()
        .ok_or_else(|| ReqlError::logic("Invalid binary pseudotype: the `data` key must be a string."))?;
    Ok(Datum::Binary(decode_base64(data)?.into()))
}

/// Decodes base64 with the messages that RethinkDB gives. Padding may be left out; line breaks are skipped.
fn decode_base64(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count, mut padded) = (0_u32, 0_u32, false);
    for character in text.chars() {
        let value = match character {
            'A'..='Z' => u32::from(character) - u32::from('A'),
            'a'..='z' => u32::from(character) - u32::from('a') + 26,
            '0'..='9' => u32::from(character) - u32::from('0') + 52,
            '+' => 62,
            '/' => 63,
            '\r' | '\n' => continue,
            '=' => {
                padded = true;
                continue;
            }
            _ if padded => 64,
            other => return Err(ReqlError::logic(format!("Invalid base64 character found: '{other}'."))),
        };
        if padded {
            return Err(ReqlError::logic("Invalid base64 format, data found after padding character '='."));
        }
        bits = bits << 6 | value;
        count += 1;
        if count == 4 {
            bytes.extend_from_slice(&bits.to_be_bytes()[1..]);
            (bits, count) = (0, 0);
        }
    }
    match count {
        1 => {
            let message = "Invalid base64 length: 1 character remaining, cannot decode a full byte.";
            return Err(ReqlError::logic(message));
        }
        2 => bytes.push((bits >> 4) as u8),
        3 => bytes.extend_from_slice(&((bits >> 2) as u16).to_be_bytes()),
        _ => {}
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_round_trips_at_every_length() {
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")] {
            assert_eq!(decode_base64(text).unwrap(), bytes.as_bytes());
        }
    }

    #[test]
    fn bad_base64_is_explained() {
        let message = |text| decode_base64(text).unwrap_err().message().to_owned();
        assert!(message("ABCDEF==$").starts_with("Invalid base64 format"));
        assert_eq!(message("A^CDEFGH"), "Invalid base64 character found: '^'.");
        assert!(message("ABCDE").starts_with("Invalid base64 length"));
    }

    #[test]
    fn unknown_pseudotypes_are_refused() {
        let object: Object = [(REQL_TYPE, "MINVAL")].into_iter().collect();
        assert!(normalize(object).is_err());
    }
}
