//! JSON straight from the encoded form: the text of [`Datum::write_json`](super::Datum::write_json), without the datum.

use super::view::child_levels;
use super::{DatumRef, DecodeError, F32S, F64S, Kind, MAX_DEPTH};
use crate::datum::json;

impl DatumRef<'_> {
    /// Appends the JSON that [`Datum::write_json`](super::Datum::write_json) would write of the decoded value.
    ///
    /// # Errors
    /// As [`to_datum`](Self::to_datum), for the same bytes; `out` then ends with a part of the text.
    pub fn write_json(&self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        self.write(MAX_DEPTH, out)
    }

    fn write(&self, levels: usize, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        match self.kind() {
            Some(Kind::String) => {
                json::write_string(self.as_str().ok_or(DecodeError::Damaged("a string is not UTF-8"))?, out);
                Ok(())
            }
            Some(Kind::Array) if self.tag() == F32S => {
                let (chunks, rest) = self.body().as_chunks();
                write_packed(chunks, rest, |bytes| f64::from(f32::from_le_bytes(bytes)), out)
            }
            Some(Kind::Array) if self.tag() == F64S => {
                let (chunks, rest) = self.body().as_chunks();
                write_packed(chunks, rest, f64::from_le_bytes, out)
            }
            Some(Kind::Array) => self.write_array(levels, out),
            Some(Kind::Object) => self.write_object(levels, out),
            // What has no parts costs nothing to decode.
            _ => {
                self.to_datum()?.write_json(out);
                Ok(())
            }
        }
    }

    fn write_array(&self, levels: usize, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let table = self.array_table()?;
        let below = child_levels(levels, table.len())?;
        out.push(b'[');
        for (at, element) in table.values().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            element?.write(below, out)?;
        }
        out.push(b']');
        Ok(())
    }

    fn write_object(&self, levels: usize, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let object = self.object_table()?;
        let below = child_levels(levels, object.len())?;
        out.push(b'{');
        for (at, field) in object.fields().enumerate() {
            let (name, value) = field?;
            if at > 0 {
                out.push(b',');
            }
            json::write_string(name, out);
            out.push(b':');
            value.write(below, out)?;
        }
        out.push(b'}');
        Ok(())
    }
}

fn write_packed<const LENGTH: usize>(
    numbers: &[[u8; LENGTH]],
    rest: &[u8],
    number: impl Fn([u8; LENGTH]) -> f64,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    /// A number of an embedding, with the comma.
    const USUAL_LENGTH: usize = 22;
    if !rest.is_empty() {
        return Err(DecodeError::Damaged("a packed array has a wrong length"));
    }
    out.reserve(numbers.len().saturating_mul(USUAL_LENGTH));
    out.push(b'[');
    for (at, bytes) in numbers.iter().enumerate() {
        let number = number(*bytes);
        if !number.is_finite() {
            return Err(DecodeError::Damaged("a packed array holds a number that is not finite"));
        }
        if at > 0 {
            out.push(b',');
        }
        json::write_number(number, out);
    }
    out.push(b']');
    Ok(())
}
