//! The one binary form of a [`Datum`]: on disk, in shared memory, in caches.
//!
//! It is read without a parse: a field of an object is found by binary search over a table of names, an element of
//! an array by its position, and both are values of the same form. Lengths come from the outside (a value knows
//! where it ends because whatever holds it says so), so that strings and bytes carry none.
//!
//! An encoded datum is one byte of format version ([`FORMAT_VERSION`]), then a value:
//!
//! | tag | value | body (all numbers little-endian) |
//! |---|---|---|
//! | `00` | null | |
//! | `01` `02` | false, true | |
//! | `03` | integer, \|n\| ≤ 2^53, not -0 | two's complement in as few bytes as hold it: 0 (zero) to 7 |
//! | `04` | number | f64 |
//! | `05` | string | UTF-8 |
//! | `06` | binary | bytes |
//! | `07` | time | f64 seconds since 1970, i16 minutes east of UTC |
//! | `08` | array of numbers, each exact in f32 | f32 each |
//! | `09` | array of numbers | f64 each |
//! | `10`+w | array | count, end of each element, elements |
//! | `20`+w | object | count, end of each name, end of each value, names (ascending by bytes), values |
//!
//! Counts and ends have 2^w bytes, w = 0 to 3; ends count from the start of the names, elements or values. An array
//! of numbers takes a packed form: embeddings usually come from f32, so half of what f64 takes is lossless.
//!
//! Bytes may come from a plugin or a damaged disk. Nothing here panics on any input, a value costs memory in
//! proportion to its bytes, and nesting ends at [`MAX_DEPTH`].

use std::cmp::Ordering;

use thiserror::Error;

use super::{Datum, Object, Time};

/// The first byte of an encoded datum.
pub const FORMAT_VERSION: u8 = 1;

/// How deep values may be nested: a number in an array in an object has depth 2.
pub const MAX_DEPTH: usize = 500;

const NULL: u8 = 0x00;
const FALSE: u8 = 0x01;
const TRUE: u8 = 0x02;
const INTEGER: u8 = 0x03;
const NUMBER: u8 = 0x04;
const STRING: u8 = 0x05;
const BINARY: u8 = 0x06;
const TIME: u8 = 0x07;
const F32S: u8 = 0x08;
const F64S: u8 = 0x09;
const ARRAY: u8 = 0x10;
const OBJECT: u8 = 0x20;
/// The bits of a container's tag that hold the width of its table.
const WIDTH: u8 = 0x03;

const MAX_INTEGER: f64 = 9_007_199_254_740_992.0;

/// Why bytes are not an encoded datum.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// Written by a later version, or not a datum at all.
    #[error(
        "the datum has format version {found}, this program reads version {FORMAT_VERSION}: it is damaged, or from a newer PhotonDB"
    )]
    Version {
        /// The first byte.
        found: u8,
    },
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("the datum is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// The bytes contradict the format.
    #[error("the datum is damaged: {0}")]
    Damaged(&'static str),
}

/// The type of a value, without the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// JSON null.
    Null,
    /// True or false.
    Bool,
    /// A number.
    Number,
    /// Text.
    String,
    /// Bytes.
    Binary,
    /// An instant.
    Time,
    /// A list.
    Array,
    /// Named fields.
    Object,
}

impl Datum {
    /// Appends the binary form. Values nested deeper than [`MAX_DEPTH`] encode, but don't decode again: whoever stores
    /// what others built asks [`exceeds_depth`](Self::exceeds_depth) first.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut tags = Vec::new();
        let size = plan(self, &mut tags);
        out.reserve(size.saturating_add(1));
        out.push(FORMAT_VERSION);
        write(self, &mut tags.iter(), out);
    }

    /// The binary form.
    #[must_use]
    pub fn encoded(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// Reads the binary form back, all of it.
    ///
    /// # Errors
    /// When the bytes are anything else than one encoded datum.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        DatumRef::new(bytes)?.to_datum()
    }

    /// Whether the value is nested deeper than `levels`.
    #[must_use]
    pub fn exceeds_depth(&self, levels: usize) -> bool {
        match self {
            Self::Array(elements) => match levels.checked_sub(1) {
                Some(rest) => elements.iter().any(|element| element.exceeds_depth(rest)),
                None => !elements.is_empty(),
            },
            Self::Object(object) => match levels.checked_sub(1) {
                Some(rest) => object.iter().any(|(_, value)| value.exceeds_depth(rest)),
                None => !object.is_empty(),
            },
            _ => false,
        }
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

/// An encoded value, read in place.
///
/// Damaged bytes show as absent fields and `None`; only [`to_datum`](Self::to_datum) tells what is wrong.
#[derive(Clone, Copy, Debug)]
pub struct DatumRef<'a> {
    tag: u8,
    body: &'a [u8],
}

impl<'a> DatumRef<'a> {
    /// The value that [`Datum::encode`] wrote. Looks at two bytes.
    ///
    /// # Errors
    /// When the version is unknown or there is no value.
    pub fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        match bytes {
            [FORMAT_VERSION, tag, body @ ..] => Ok(Self { tag: *tag, body }),
            [FORMAT_VERSION] | [] => Err(DecodeError::Damaged("it is empty")),
            [found, ..] => Err(DecodeError::Version { found: *found }),
        }
    }

    fn value(bytes: &'a [u8]) -> Option<Self> {
        bytes.split_first().map(|(tag, body)| Self { tag: *tag, body })
    }

    /// The type; `None` when the bytes are damaged.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        Some(match self.tag {
            NULL => Kind::Null,
            FALSE | TRUE => Kind::Bool,
            INTEGER | NUMBER => Kind::Number,
            STRING => Kind::String,
            BINARY => Kind::Binary,
            TIME => Kind::Time,
            F32S | F64S => Kind::Array,
            tag if tag & !WIDTH == ARRAY => Kind::Array,
            tag if tag & !WIDTH == OBJECT => Kind::Object,
            _ => return None,
        })
    }

    /// The value of the field `name`, if this is an object that has it. Logarithmic in the number of fields.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Self> {
        let object = ObjectTable::parse(*self)?;
        let (mut low, mut high) = (0, object.names.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match object.names.slot(middle)?.cmp(name.as_bytes()) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Self::value(object.values.slot(middle)?),
            }
        }
        None
    }

    /// How many elements or fields an array or object has.
    #[must_use]
    pub fn len(&self) -> Option<usize> {
        match self.tag {
            F32S => Some(self.body.len() / 4),
            F64S => Some(self.body.len() / 8),
            tag if tag & !WIDTH == ARRAY => Table::parse(*self).map(|table| table.count),
            _ => ObjectTable::parse(*self).map(|object| object.names.count),
        }
    }

    /// Whether this is an array or object without elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// The number, if this is one.
    #[must_use]
    pub fn as_number(&self) -> Option<f64> {
        match self.tag {
            INTEGER if self.body.len() < 8 => {
                let sign = self.body.last().map_or(0, |byte| if byte & 0x80 == 0 { 0 } else { 0xff });
                let mut bytes = [sign; 8];
                bytes[..self.body.len()].copy_from_slice(self.body);
                Some(i64::from_le_bytes(bytes) as f64)
            }
            NUMBER => Some(f64::from_le_bytes(self.body.try_into().ok()?)).filter(|number| number.is_finite()),
            _ => None,
        }
    }

    /// The text, if this is a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&'a str> {
        (self.tag == STRING).then(|| std::str::from_utf8(self.body).ok()).flatten()
    }

    /// Appends the elements of an array of numbers to `out`; on `false` it is something else and `out` is as before.
    /// Numbers beyond the range of f32 become infinite.
    pub fn f32s(&self, out: &mut Vec<f32>) -> bool {
        match self.tag {
            F32S if self.body.len().is_multiple_of(4) => {
                out.extend(self.body.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
                true
            }
            F64S if self.body.len().is_multiple_of(8) => {
                out.extend(self.body.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32));
                true
            }
            tag if tag & !WIDTH == ARRAY => {
                // The packed forms take every other array of numbers.
                Table::parse(*self).is_some_and(|table| table.count == 0)
            }
            _ => false,
        }
    }

    /// Parses the whole value.
    ///
    /// # Errors
    /// When any byte of it contradicts the format.
    pub fn to_datum(&self) -> Result<Datum, DecodeError> {
        self.parse(MAX_DEPTH)
    }

    fn parse(&self, levels: usize) -> Result<Datum, DecodeError> {
        let damaged = DecodeError::Damaged;
        match self.kind().ok_or(damaged("a value has an unknown tag"))? {
            Kind::Null => self.bare(Datum::Null),
            Kind::Bool => self.bare(Datum::Bool(self.tag == TRUE)),
            Kind::Number => {
                self.as_number().map(Datum::Number).ok_or(damaged("a number is not finite or has a wrong length"))
            }
            Kind::String => self.as_str().map(Datum::from).ok_or(damaged("a string is not UTF-8")),
            Kind::Binary => Ok(Datum::Binary(self.body.into())),
            Kind::Time => self.parse_time().map(Datum::Time).ok_or(damaged("a time is out of range")),
            Kind::Array if self.tag == F32S => {
                let (chunks, rest) = self.body.as_chunks::<4>();
                packed(chunks.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))), rest)
            }
            Kind::Array if self.tag == F64S => {
                let (chunks, rest) = self.body.as_chunks::<8>();
                packed(chunks.iter().map(|bytes| f64::from_le_bytes(*bytes)), rest)
            }
            Kind::Array => self.parse_array(levels),
            Kind::Object => self.parse_object(levels),
        }
    }

    fn bare(&self, value: Datum) -> Result<Datum, DecodeError> {
        if self.body.is_empty() { Ok(value) } else { Err(DecodeError::Damaged("a null or bool has a body")) }
    }

    fn parse_time(&self) -> Option<Time> {
        let (seconds, offset) = self.body.split_first_chunk::<8>()?;
        Time::new(f64::from_le_bytes(*seconds), i16::from_le_bytes(offset.try_into().ok()?)).ok()
    }

    fn parse_array(&self, levels: usize) -> Result<Datum, DecodeError> {
        const DAMAGED: DecodeError = DecodeError::Damaged("the table of an array is wrong");
        let table = Table::parse(*self).filter(Table::is_filled).ok_or(DAMAGED)?;
        let below = child_levels(levels, table.count)?;
        let mut elements = Vec::with_capacity(table.count);
        for at in 0..table.count {
            elements.push(table.slot(at).and_then(Self::value).ok_or(DAMAGED)?.parse(below)?);
        }
        Ok(Datum::from(elements))
    }

    fn parse_object(&self, levels: usize) -> Result<Datum, DecodeError> {
        const DAMAGED: DecodeError = DecodeError::Damaged("the table of an object is wrong");
        let object = ObjectTable::parse(*self).filter(|object| object.values.is_filled()).ok_or(DAMAGED)?;
        let count = object.names.count;
        let below = child_levels(levels, count)?;
        let mut fields: Vec<(std::sync::Arc<str>, Datum)> = Vec::with_capacity(count);
        for at in 0..count {
            let name = object.names.slot(at).ok_or(DAMAGED)?;
            let name = std::str::from_utf8(name).map_err(|_| DecodeError::Damaged("a field name is not UTF-8"))?;
            if fields.last().is_some_and(|(previous, _)| previous.as_bytes() >= name.as_bytes()) {
                return Err(DecodeError::Damaged("field names are not in order"));
            }
            let value = object.values.slot(at).and_then(Self::value).ok_or(DAMAGED)?;
            fields.push((name.into(), value.parse(below)?));
        }
        Ok(Datum::from(Object { fields }))
    }
}

/// How deep the children of a container may be nested.
fn child_levels(levels: usize, children: usize) -> Result<usize, DecodeError> {
    match levels.checked_sub(1) {
        None if children > 0 => Err(DecodeError::TooDeep),
        below => Ok(below.unwrap_or(0)),
    }
}

fn packed(numbers: impl ExactSizeIterator<Item = f64>, rest: &[u8]) -> Result<Datum, DecodeError> {
    if !rest.is_empty() {
        return Err(DecodeError::Damaged("a packed array has a wrong length"));
    }
    let mut elements = Vec::with_capacity(numbers.len());
    for number in numbers {
        if !number.is_finite() {
            return Err(DecodeError::Damaged("a packed array holds a number that is not finite"));
        }
        elements.push(Datum::Number(number));
    }
    Ok(Datum::from(elements))
}

/// The ends and the payload of one column of a container.
struct Table<'a> {
    count: usize,
    width: u8,
    ends: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Table<'a> {
    fn parse(value: DatumRef<'a>) -> Option<Self> {
        if value.tag & !WIDTH != ARRAY {
            return None;
        }
        let width = value.tag & WIDTH;
        let (count, rest) = split_count(value.body, width)?;
        let (ends, payload) = rest.split_at_checked(count.checked_mul(1 << width)?)?;
        Some(Self { count, width, ends, payload })
    }

    /// The bytes of an element; `None` behind the end and where the table is damaged.
    fn slot(&self, at: usize) -> Option<&'a [u8]> {
        let start = match at.checked_sub(1) {
            Some(before) => read_number(self.ends, before, self.width)?,
            None => 0,
        };
        self.payload.get(start..read_number(self.ends, at, self.width)?)
    }

    /// Whether the last element ends where the payload does.
    fn is_filled(&self) -> bool {
        let end = match self.count.checked_sub(1) {
            Some(last) => read_number(self.ends, last, self.width),
            None => Some(0),
        };
        end == Some(self.payload.len())
    }
}

/// The two columns of an object.
struct ObjectTable<'a> {
    names: Table<'a>,
    values: Table<'a>,
}

impl<'a> ObjectTable<'a> {
    fn parse(value: DatumRef<'a>) -> Option<Self> {
        if value.tag & !WIDTH != OBJECT {
            return None;
        }
        let width = value.tag & WIDTH;
        let (count, rest) = split_count(value.body, width)?;
        let column = count.checked_mul(1 << width)?;
        let (name_ends, rest) = rest.split_at_checked(column)?;
        let (value_ends, rest) = rest.split_at_checked(column)?;
        let names_end = match count.checked_sub(1) {
            Some(last) => read_number(name_ends, last, width)?,
            None => 0,
        };
        let (names, values) = rest.split_at_checked(names_end)?;
        Some(Self {
            names: Table { count, width, ends: name_ends, payload: names },
            values: Table { count, width, ends: value_ends, payload: values },
        })
    }
}

fn split_count(body: &[u8], width: u8) -> Option<(usize, &[u8])> {
    let (_, rest) = body.split_at_checked(1 << width)?;
    Some((read_number(body, 0, width)?, rest))
}

/// The number at a position of a table.
fn read_number(table: &[u8], at: usize, width: u8) -> Option<usize> {
    // A constant length in each arm: the compiler turns it into one load. That halves the time of `get`.
    fn load<const LENGTH: usize>(table: &[u8], at: usize) -> Option<&[u8; LENGTH]> {
        table.get(at.checked_mul(LENGTH)?..)?.first_chunk()
    }
    match width {
        0 => table.get(at).map(|byte| usize::from(*byte)),
        1 => load(table, at).map(|bytes| usize::from(u16::from_le_bytes(*bytes))),
        2 => usize::try_from(u32::from_le_bytes(*load(table, at)?)).ok(),
        _ => usize::try_from(u64::from_le_bytes(*load(table, at)?)).ok(),
    }
}

#[cfg(test)]
mod tests;
