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
//! | `0a` | value of a plugin's type | length of the name, length of the order key, name, order key, UTF-8 text |
//! | `10`+w | array | count, end of each element, elements |
//! | `20`+w | object | count, end of each name, end of each value, names (ascending by bytes), values |
//!
//! Counts and ends have 2^w bytes, w = 0 to 3; ends count from the start of the names, elements or values. An array
//! of numbers takes a packed form: embeddings usually come from f32, so half of what f64 takes is lossless.
//!
//! Bytes may come from a plugin or a damaged disk. Nothing here panics on any input, a value costs memory in
//! proportion to its bytes, and nesting ends at [`MAX_DEPTH`].

mod text;
mod view;
mod write;

use thiserror::Error;

use super::Datum;

pub use view::DatumRef;

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
const TYPED: u8 = 0x0a;
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
    /// A value of a plugin's type.
    Typed,
    /// A list.
    Array,
    /// Named fields.
    Object,
}

impl Datum {
    /// Appends the binary form. Values nested deeper than [`MAX_DEPTH`] encode, but don't decode again: whoever stores
    /// what others built asks [`exceeds_depth`](Self::exceeds_depth) first.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write::encode(self, out);
    }

    /// The binary form.
    #[must_use]
    pub fn encoded(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// Appends the value as it is within an object or array: [`encode`](Self::encode) without the byte of format version.
    pub fn encode_part(&self, out: &mut Vec<u8>) {
        write::encode_part(self, out);
    }

    /// Appends the binary form of an object of values that are encoded already: the same bytes as if they had been decoded.
    /// The names ascend by bytes.
    pub fn encode_fields(fields: &[(&str, DatumRef<'_>)], out: &mut Vec<u8>) {
        write::encode_fields(fields, out);
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

#[cfg(test)]
pub(crate) mod tests;
