//! Reading an encoded value in place, and parsing it.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{
    ARRAY, BINARY, DecodeError, F32S, F64S, FALSE, FORMAT_VERSION, INTEGER, Kind, MAX_DEPTH, NULL, NUMBER, OBJECT,
    STRING, TIME, TRUE, TYPED, WIDTH,
};
use crate::datum::{Datum, Object, Time, Typed};

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

    /// The value that [`write_part`](Self::write_part) wrote; `None` if there are no bytes.
    #[must_use]
    pub fn from_part(bytes: &'a [u8]) -> Option<Self> {
        Self::value(bytes)
    }

    /// Appends the value as it is within an object or array: without the byte of format version.
    pub fn write_part(&self, out: &mut Vec<u8>) {
        out.push(self.tag);
        out.extend_from_slice(self.body);
    }

    /// Compares in ReQL's total order, where both are numbers, both strings or both of something else that is valid; `None`
    /// where bytes are damaged.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        if let (Some(a), Some(b)) = (self.as_number(), other.as_number()) {
            return Some(Datum::Number(a).compare(&Datum::Number(b)));
        }
        if self.tag == STRING && other.tag == STRING {
            return Some(self.body.cmp(other.body));
        }
        Some(self.to_datum().ok()?.compare(&other.to_datum().ok()?))
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
            TYPED => Kind::Typed,
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

    /// How many bytes the value takes beside its tag: of a string its length.
    #[must_use]
    pub fn size(&self) -> usize {
        self.body.len()
    }

    /// Whether this is an array of numbers that are packed, so that [`elements`](Self::elements) has none of them.
    #[must_use]
    pub fn is_packed(&self) -> bool {
        matches!(self.tag, F32S | F64S)
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

    /// True or false, if this is one of them.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self.tag {
            FALSE => Some(false),
            TRUE => Some(true),
            _ => None,
        }
    }

    /// The elements of an array that is packed as f32, each little-endian.
    #[must_use]
    pub(crate) fn packed_f32s(&self) -> Option<&'a [[u8; 4]]> {
        let (elements, rest) = self.body.as_chunks();
        (self.tag == F32S && rest.is_empty()).then_some(elements)
    }

    /// What the value has in front of its [`body`](Self::body) when it is encoded on its own.
    #[must_use]
    pub(crate) fn head(&self) -> [u8; 2] {
        [FORMAT_VERSION, self.tag]
    }

    /// The bytes behind the tag: of a string its text.
    #[must_use]
    pub(crate) fn body(&self) -> &'a [u8] {
        self.body
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
            Kind::Typed => {
                self.parse_typed().map(Datum::from).ok_or(damaged("a value of a plugin's type is malformed"))
            }
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

    pub(super) fn tag(&self) -> u8 {
        self.tag
    }

    fn bare(&self, value: Datum) -> Result<Datum, DecodeError> {
        if self.body.is_empty() { Ok(value) } else { Err(DecodeError::Damaged("a null or bool has a body")) }
    }

    pub(super) fn parse_time(&self) -> Option<Time> {
        let (seconds, offset) = self.body.split_first_chunk::<8>()?;
        Time::new(f64::from_le_bytes(*seconds), i16::from_le_bytes(offset.try_into().ok()?)).ok()
    }

    fn parse_typed(&self) -> Option<Typed> {
        let ([name, key], rest) = self.body.split_first_chunk()?;
        let (name, rest) = rest.split_at_checked(usize::from(*name))?;
        let (key, text) = rest.split_at_checked(usize::from(*key))?;
        Typed::new(std::str::from_utf8(name).ok()?, key, std::str::from_utf8(text).ok()?).ok()
    }

    fn parse_array(&self, levels: usize) -> Result<Datum, DecodeError> {
        let table = self.array_table()?;
        let below = child_levels(levels, table.count)?;
        let mut elements = Vec::with_capacity(table.count);
        for element in table.values() {
            elements.push(element?.parse(below)?);
        }
        Ok(Datum::from(elements))
    }

    fn parse_object(&self, levels: usize) -> Result<Datum, DecodeError> {
        let object = self.object_table()?;
        let below = child_levels(levels, object.len())?;
        let mut fields: Vec<(Arc<str>, Datum)> = Vec::with_capacity(object.len());
        for field in object.fields() {
            let (name, value) = field?;
            fields.push((name.into(), value.parse(below)?));
        }
        Ok(Datum::from(Object { fields }))
    }

    /// The elements of an array that is not packed.
    pub(super) fn array_table(&self) -> Result<Table<'a>, DecodeError> {
        Table::parse(*self).filter(Table::is_filled).ok_or(ARRAY_TABLE)
    }

    pub(super) fn object_table(&self) -> Result<ObjectTable<'a>, DecodeError> {
        ObjectTable::parse(*self).filter(|object| object.values.is_filled()).ok_or(OBJECT_TABLE)
    }

    /// The elements of an array that is not packed, each read when it is asked for.
    ///
    /// # Errors
    /// When this is no such array, or its table is damaged; later damage is an item.
    pub fn elements(&self) -> Result<impl Iterator<Item = Result<Self, DecodeError>> + use<'a>, DecodeError> {
        self.array_table().map(Table::values)
    }

    /// The fields in the order of their names, each read when it is asked for.
    ///
    /// # Errors
    /// When this is no object, or its table is damaged; later damage is an item.
    pub fn fields(&self) -> Result<impl Iterator<Item = Result<(&'a str, Self), DecodeError>> + use<'a>, DecodeError> {
        self.object_table().map(ObjectTable::fields)
    }
}

const ARRAY_TABLE: DecodeError = DecodeError::Damaged("the table of an array is wrong");
const OBJECT_TABLE: DecodeError = DecodeError::Damaged("the table of an object is wrong");

/// How deep the children of a container may be nested.
pub(super) fn child_levels(levels: usize, children: usize) -> Result<usize, DecodeError> {
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
pub(super) struct Table<'a> {
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

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The elements of an array.
    pub(super) fn values(self) -> impl Iterator<Item = Result<DatumRef<'a>, DecodeError>> + use<'a> {
        (0..self.count).map(move |at| self.slot(at).and_then(DatumRef::value).ok_or(ARRAY_TABLE))
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
pub(super) struct ObjectTable<'a> {
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

    pub(super) fn len(&self) -> usize {
        self.names.count
    }

    /// Names, each above the one before it, and values.
    pub(super) fn fields(self) -> impl Iterator<Item = Result<(&'a str, DatumRef<'a>), DecodeError>> + use<'a> {
        let mut previous: Option<&[u8]> = None;
        (0..self.len()).map(move |at| {
            let name = self.names.slot(at).ok_or(OBJECT_TABLE)?;
            if previous.replace(name).is_some_and(|previous| previous >= name) {
                return Err(DecodeError::Damaged("field names are not in order"));
            }
            let value = self.values.slot(at).and_then(DatumRef::value).ok_or(OBJECT_TABLE)?;
            let name = std::str::from_utf8(name).map_err(|_| DecodeError::Damaged("a field name is not UTF-8"))?;
            Ok((name, value))
        })
    }
}

fn split_count(body: &[u8], width: u8) -> Option<(usize, &[u8])> {
    let (_, rest) = body.split_at_checked(1 << width)?;
    Some((read_number(body, 0, width)?, rest))
}

/// The number at a position of a table.
fn read_number(table: &[u8], at: usize, width: u8) -> Option<usize> {
    // A constant length in each arm: the compiler turns it into one load, which makes `get` three times as fast.
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
