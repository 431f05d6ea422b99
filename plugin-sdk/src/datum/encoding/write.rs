//! Encoding, in two passes: the first chooses the form of every container, the second writes.

use super::{
    ARRAY, BINARY, F32S, F64S, FALSE, FORMAT_VERSION, INTEGER, MAX_INTEGER, NULL, NUMBER, OBJECT, STRING, TIME, TRUE,
    TYPED, WIDTH,
};
use crate::datum::{Datum, DatumRef, Object};

/// Appends version and value.
pub(super) fn encode(value: &Datum, out: &mut Vec<u8>) {
    out.push(FORMAT_VERSION);
    encode_part(value, out);
}

/// Appends the value.
pub(super) fn encode_part(value: &Datum, out: &mut Vec<u8>) {
    let mut tags = Vec::new();
    let size = plan(value, &mut tags);
    out.reserve(size);
    write(value, &mut tags.iter(), out);
}

/// Appends version and an object of values that are encoded already.
pub(super) fn encode_fields(fields: &[(&str, DatumRef<'_>)], out: &mut Vec<u8>) {
    let names: usize = fields.iter().map(|(name, _)| name.len()).sum();
    let values: usize = fields.iter().map(|(_, value)| 1 + value.size()).sum();
    let width = width_for(names.max(values).max(fields.len()));
    out.reserve(2 + ((1 + 2 * fields.len()) << width) + names + values);
    out.extend_from_slice(&[FORMAT_VERSION, OBJECT | width]);
    let mut table = TableWriter::start(out, width, fields.len(), 2);
    let start = out.len();
    for (name, _) in fields {
        out.extend_from_slice(name.as_bytes());
        table.end(out, start);
    }
    let start = out.len();
    for (_, value) in fields {
        value.write_part(out);
        table.end(out, start);
    }
}

/// Chooses the tag of every container below `value`, in the order in which the second pass meets them, and returns
/// the size of the value in bytes.
fn plan(value: &Datum, tags: &mut Vec<u8>) -> usize {
    1 + match value {
        Datum::Null | Datum::Bool(_) => 0,
        Datum::Number(number) => integer_bytes(*number).map_or(8, |(_, length)| length),
        Datum::String(text) => text.len(),
        Datum::Binary(bytes) => bytes.len(),
        Datum::Time(_) => 10,
        Datum::Typed(typed) => 2 + typed.name().len() + typed.order_key().len() + typed.text().len(),
        Datum::Array(elements) => plan_array(elements, tags),
        Datum::Object(object) => plan_object(object, tags),
    }
}

fn plan_array(elements: &[Datum], tags: &mut Vec<u8>) -> usize {
    if let Some(tag) = packed_form(elements) {
        tags.push(tag);
        return elements.len() * if tag == F32S { 4 } else { 8 };
    }
    let at = tags.len();
    tags.push(ARRAY);
    let payload: usize = elements.iter().map(|element| plan(element, tags)).sum();
    let width = width_for(payload.max(elements.len()));
    tags[at] = ARRAY | width;
    ((1 + elements.len()) << width) + payload
}

fn plan_object(object: &Object, tags: &mut Vec<u8>) -> usize {
    let at = tags.len();
    tags.push(OBJECT);
    let (mut names, mut values) = (0, 0);
    for (name, value) in object.iter() {
        names += name.len();
        values += plan(value, tags);
    }
    let width = width_for(names.max(values).max(object.len()));
    tags[at] = OBJECT | width;
    ((1 + 2 * object.len()) << width) + names + values
}

/// The packed form that holds these elements without loss, if they are all numbers.
fn packed_form(elements: &[Datum]) -> Option<u8> {
    if elements.is_empty() {
        return None;
    }
    let mut form = F32S;
    for element in elements {
        let Datum::Number(number) = element else { return None };
        if f64::from(*number as f32) != *number {
            form = F64S;
        }
    }
    Some(form)
}

/// Log2 of the bytes that a number up to `largest` takes in a table.
fn width_for(largest: usize) -> u8 {
    match largest as u64 {
        0..=0xff => 0,
        0x100..=0xffff => 1,
        0x1_0000..=0xffff_ffff => 2,
        _ => 3,
    }
}

/// The bytes of an integer and how many of them matter; `None` for numbers that need the f64 form.
fn integer_bytes(number: f64) -> Option<([u8; 8], usize)> {
    if number.fract() != 0.0 || number.abs() > MAX_INTEGER || (number == 0.0 && number.is_sign_negative()) {
        return None;
    }
    let integer = number as i64;
    // The sign has to fit as well, hence one bit more than the magnitude takes.
    let bits = 64 - (if integer < 0 { !integer } else { integer }).leading_zeros() as usize;
    let length = if integer == 0 { 0 } else { bits / 8 + 1 };
    Some((integer.to_le_bytes(), length))
}

fn write(value: &Datum, tags: &mut std::slice::Iter<'_, u8>, out: &mut Vec<u8>) {
    match value {
        Datum::Null => out.push(NULL),
        Datum::Bool(false) => out.push(FALSE),
        Datum::Bool(true) => out.push(TRUE),
        Datum::Number(number) => match integer_bytes(*number) {
            Some((bytes, length)) => {
                out.push(INTEGER);
                out.extend_from_slice(&bytes[..length]);
            }
            None => {
                out.push(NUMBER);
                out.extend_from_slice(&number.to_le_bytes());
            }
        },
        Datum::String(text) => {
            out.push(STRING);
            out.extend_from_slice(text.as_bytes());
        }
        Datum::Binary(bytes) => {
            out.push(BINARY);
            out.extend_from_slice(bytes);
        }
        Datum::Time(time) => {
            out.push(TIME);
            out.extend_from_slice(&time.epoch_seconds().to_le_bytes());
            out.extend_from_slice(&time.offset_minutes().to_le_bytes());
        }
        Datum::Typed(typed) => {
            let (name, key) = (typed.name().as_bytes(), typed.order_key());
            // Both lengths are bounded where the value is made.
            out.extend_from_slice(&[TYPED, name.len() as u8, key.len() as u8]);
            out.extend_from_slice(name);
            out.extend_from_slice(key);
            out.extend_from_slice(typed.text().as_bytes());
        }
        Datum::Array(elements) => write_array(elements, tags, out),
        Datum::Object(object) => write_object(object, tags, out),
    }
}

fn next_tag(tags: &mut std::slice::Iter<'_, u8>) -> u8 {
    *tags.next().expect("the first pass chose a tag for every container")
}

fn write_array(elements: &[Datum], tags: &mut std::slice::Iter<'_, u8>, out: &mut Vec<u8>) {
    let tag = next_tag(tags);
    out.push(tag);
    let numbers = elements.iter().filter_map(Datum::as_number);
    match tag {
        F32S => numbers.for_each(|number| out.extend_from_slice(&(number as f32).to_le_bytes())),
        F64S => numbers.for_each(|number| out.extend_from_slice(&number.to_le_bytes())),
        _ => {
            let mut table = TableWriter::start(out, tag & WIDTH, elements.len(), 1);
            let start = out.len();
            for element in elements {
                write(element, tags, out);
                table.end(out, start);
            }
        }
    }
}

fn write_object(object: &Object, tags: &mut std::slice::Iter<'_, u8>, out: &mut Vec<u8>) {
    let tag = next_tag(tags);
    out.push(tag);
    let mut table = TableWriter::start(out, tag & WIDTH, object.len(), 2);
    let names = out.len();
    for (name, _) in object.iter() {
        out.extend_from_slice(name.as_bytes());
        table.end(out, names);
    }
    let values = out.len();
    for (_, value) in object.iter() {
        write(value, tags, out);
        table.end(out, values);
    }
}

/// Fills the table of ends while the payload behind it grows.
struct TableWriter {
    next: usize,
    bytes: usize,
}

impl TableWriter {
    fn start(out: &mut Vec<u8>, width: u8, count: usize, columns: usize) -> Self {
        let bytes = 1 << width;
        out.extend_from_slice(&(count as u64).to_le_bytes()[..bytes]);
        let next = out.len();
        out.resize(next + columns * count * bytes, 0);
        Self { next, bytes }
    }

    fn end(&mut self, out: &mut [u8], start: usize) {
        let end = (out.len() - start) as u64;
        out[self.next..self.next + self.bytes].copy_from_slice(&end.to_le_bytes()[..self.bytes]);
        self.next += self.bytes;
    }
}
