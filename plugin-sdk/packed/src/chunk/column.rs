//! One field of the documents of a chunk.
//!
//! | part | |
//! |---|---|
//! | flags (u8) | 1: some rows lack the field; 2: some are null |
//! | bits of the rows that have it | if some lack it |
//! | bits of the rows that are null | if some are |
//! | form (u8), and the other values in it | |
//!
//! | form | |
//! |---|---|
//! | 0 bools | bits |
//! | 1 integers | numbers (i64) |
//! | 2 numbers | numbers (f64) |
//! | 3 times | numbers (f64: seconds), numbers (i16: minutes east of UTC) |
//! | 4 values | tag that all of them have (u8; `ff` if they don't), lengths (numbers), bytes |
//! | 5 words | how many (u32), those as in 4, then for each value which it is (numbers, u32) |
//!
//! Whatever is not written again as it was, bit for bit, is kept as values.

use std::collections::HashMap;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::{DatumRef, Kind, Time};

use super::DamagedChunk;
use super::blocks::{Bits, Reader, Runs, put_numbers, put_runs};

const LACKS: u8 = 1;
const NULLS: u8 = 2;

const BOOLS: u8 = 0;
const INTEGERS: u8 = 1;
const NUMBERS: u8 = 2;
const TIMES: u8 = 3;
const VALUES: u8 = 4;
const WORDS: u8 = 5;

/// No tag of a value.
const MIXED: u8 = 0xff;
/// The longest text whose first bytes stand for it in statistics.
const LONGEST_BOUND: usize = 64;

/// What is known of a column without reading it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnStatistics {
    /// How many rows have the field.
    pub present: u32,
    /// How many of them are null.
    pub nulls: u32,
    /// No value is smaller, in ReQL's order; `None` where that is not known.
    pub least: Option<Datum>,
    /// No value is greater; `None` where that is not known.
    pub greatest: Option<Datum>,
}

/// A value of each of some rows, in their order; each is a part of an encoded document.
pub(super) struct Values<'a> {
    pub(super) rows: usize,
    pub(super) values: Vec<(u32, DatumRef<'a>)>,
}

impl Values<'_> {
    pub(super) fn statistics(&self) -> ColumnStatistics {
        let nulls = self.values.iter().filter(|(_, value)| is_null(value)).count() as u32;
        let mut statistics = ColumnStatistics { present: self.values.len() as u32, nulls, ..Default::default() };
        let is_bounded = |value: &DatumRef<'_>| {
            value.kind().is_some_and(|kind| !matches!(kind, Kind::Array | Kind::Object | Kind::Typed))
        };
        if !self.values.iter().all(|(_, value)| is_bounded(value)) {
            return statistics;
        }
        let mut values = self.values.iter().map(|(_, value)| *value);
        let Some(first) = values.next() else { return statistics };
        let (mut least, mut greatest) = (first, first);
        for value in values {
            match (value.compare(&least), value.compare(&greatest)) {
                (Some(below), Some(above)) => {
                    if below.is_lt() {
                        least = value;
                    }
                    if above.is_gt() {
                        greatest = value;
                    }
                }
                _ => return statistics,
            }
        }
        statistics.least = least.to_datum().ok().and_then(lower_bound);
        statistics.greatest = greatest.to_datum().ok().filter(|greatest| text_bytes(greatest) <= LONGEST_BOUND);
        statistics
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let has = |wanted: &dyn Fn(&DatumRef<'_>) -> bool| {
            let mut bits = vec![false; self.rows];
            self.values.iter().filter(|(_, value)| wanted(value)).for_each(|(row, _)| bits[*row as usize] = true);
            Bits::of(bits.into_iter())
        };
        let values: Vec<DatumRef<'_>> =
            self.values.iter().map(|(_, value)| *value).filter(|value| !is_null(value)).collect();
        let lacks = self.values.len() < self.rows;
        let nulls = values.len() < self.values.len();
        out.push(if lacks { LACKS } else { 0 } | if nulls { NULLS } else { 0 });
        if lacks {
            has(&|_| true).put(out);
        }
        if nulls {
            has(&is_null).put(out);
        }
        put_values(&values, out);
    }
}

fn is_null(value: &DatumRef<'_>) -> bool {
    value.kind() == Some(Kind::Null) && value.size() == 0
}

fn text_bytes(value: &Datum) -> usize {
    match value {
        Datum::String(text) => text.len(),
        Datum::Binary(bytes) => bytes.len(),
        _ => 0,
    }
}

/// The value, or one that is smaller and short; `None` is smaller than all.
fn lower_bound(least: Datum) -> Option<Datum> {
    if text_bytes(&least) <= LONGEST_BOUND {
        return Some(least);
    }
    let text = least.as_str()?;
    Some(Datum::from(&text[..text.floor_char_boundary(LONGEST_BOUND)]))
}

fn put_values(values: &[DatumRef<'_>], out: &mut Vec<u8>) {
    let first = values.first().and_then(DatumRef::kind);
    let is_put = match first {
        Some(Kind::Bool) => put_bools(values, out),
        Some(Kind::Number) => put_all_numbers(values, out),
        Some(Kind::Time) => put_times(values, out),
        _ => false,
    };
    if !is_put {
        put_others(values, out);
    }
}

/// The values as `read` sees them, if it sees all of them and each would be written again as it is.
fn exact<'a, T>(
    values: &[DatumRef<'a>],
    read: impl Fn(&DatumRef<'a>) -> Option<T>,
    datum: impl Fn(&T) -> Datum,
) -> Option<Vec<T>> {
    let (mut is, mut would_be) = (Vec::new(), Vec::new());
    let value = |value: &DatumRef<'a>| {
        let found = read(value)?;
        is.clear();
        would_be.clear();
        value.write_part(&mut is);
        datum(&found).encode_part(&mut would_be);
        (is == would_be).then_some(found)
    };
    values.iter().map(value).collect()
}

fn put_bools(values: &[DatumRef<'_>], out: &mut Vec<u8>) -> bool {
    let Some(bools) = exact(values, DatumRef::as_bool, |value| Datum::Bool(*value)) else { return false };
    out.push(BOOLS);
    Bits::of(bools.into_iter()).put(out);
    true
}

fn put_all_numbers(values: &[DatumRef<'_>], out: &mut Vec<u8>) -> bool {
    let Some(numbers) = exact(values, DatumRef::as_number, |value| Datum::Number(*value)) else { return false };
    let integer = |number: &f64| {
        let integer = *number as i64;
        // -0 is another number than 0.
        ((integer as f64).to_bits() == number.to_bits()).then_some(integer)
    };
    match numbers.iter().map(integer).collect::<Option<Vec<i64>>>() {
        Some(integers) => {
            out.push(INTEGERS);
            put_numbers(out, &integers);
        }
        None => {
            out.push(NUMBERS);
            put_numbers(out, &numbers);
        }
    }
    true
}

fn put_times(values: &[DatumRef<'_>], out: &mut Vec<u8>) -> bool {
    let time = |value: &DatumRef<'_>| match value.to_datum() {
        Ok(Datum::Time(time)) => Some(time),
        _ => None,
    };
    let Some(times) = exact(values, time, |time| Datum::Time(*time)) else { return false };
    out.push(TIMES);
    put_numbers(out, &times.iter().map(Time::epoch_seconds).collect::<Vec<f64>>());
    put_numbers(out, &times.iter().map(Time::offset_minutes).collect::<Vec<i16>>());
    true
}

fn put_others(values: &[DatumRef<'_>], out: &mut Vec<u8>) {
    let mut parts = Runs::with_capacity(values.len());
    for value in values {
        // A chunk's values come from documents that lie in memory: they are not too long.
        let _ = parts.push(|out| value.write_part(out));
    }
    let (mut words, mut numbers) = (HashMap::new(), Vec::with_capacity(values.len()));
    let mut in_order = Vec::new();
    for at in 0..values.len() {
        let part = parts.get(at);
        let next = words.len() as u32;
        let number = *words.entry(part).or_insert_with(|| {
            in_order.push(part);
            next
        });
        numbers.push(number);
    }
    if in_order.len() <= values.len() / 2 {
        out.push(WORDS);
        out.extend_from_slice(&(in_order.len() as u32).to_le_bytes());
        put_parts(&in_order, out);
        put_numbers(out, &numbers);
    } else {
        out.push(VALUES);
        put_parts(&(0..values.len()).map(|at| parts.get(at)).collect::<Vec<_>>(), out);
    }
}

fn put_parts(parts: &[&[u8]], out: &mut Vec<u8>) {
    let tag = |part: &[u8]| part.first().copied().unwrap_or(MIXED);
    let common = parts.first().map_or(MIXED, |part| tag(part));
    if common != MIXED && parts.iter().all(|part| tag(part) == common) {
        out.push(common);
        put_runs(out, parts.iter().map(|part| &part[1..]));
    } else {
        out.push(MIXED);
        put_runs(out, parts.iter().copied());
    }
}

/// A column, decoded: for each row a part of a document, which is empty where the row lacks the field.
#[derive(Clone, Debug, Default)]
pub(crate) struct Column(Runs);

impl Column {
    /// Reads the column of a chunk of `rows` rows.
    pub(super) fn read(section: &[u8], rows: usize) -> Result<Self, DamagedChunk> {
        let mut reader = Reader(section);
        let flags = reader.u8()?;
        let has = if flags & LACKS == 0 { None } else { Some(reader.bits(rows)?) };
        let nulls = if flags & NULLS == 0 { None } else { Some(reader.bits(rows)?) };
        let is_present = |row: usize| has.as_ref().is_none_or(|has| has.get(row));
        let is_null = |row: usize| nulls.as_ref().is_some_and(|nulls| nulls.get(row));
        let count = (0..rows).filter(|row| is_present(*row) && !is_null(*row)).count();
        let mut parts = Parts::read(&mut reader, count)?;
        if !reader.0.is_empty() {
            return Err(DamagedChunk("a column is followed by something"));
        }
        let mut column = Runs::with_capacity(rows);
        for row in 0..rows {
            match (is_present(row), is_null(row)) {
                (true, false) => parts.next_into(&mut column)?,
                (true, true) => column.push(|out| Datum::Null.encode_part(out))?,
                (false, _) => column.push(|_| {})?,
            }
        }
        Ok(Self(column))
    }

    /// Bytes of all values.
    pub(super) fn value_bytes(&self) -> usize {
        self.0.bytes()
    }

    /// The value of a row; `None` where it lacks the field.
    pub(crate) fn get(&self, row: usize) -> Option<DatumRef<'_>> {
        DatumRef::from_part(self.0.get(row))
    }
}

/// The values of a column, before they have found their rows.
enum Parts {
    Bools(Bits, usize),
    Integers(std::vec::IntoIter<i64>),
    Numbers(std::vec::IntoIter<f64>),
    Times(std::vec::IntoIter<f64>, std::vec::IntoIter<i16>),
    Values { tag: Option<u8>, values: Runs, next: usize },
    Words { tag: Option<u8>, words: Runs, numbers: std::vec::IntoIter<u32> },
}

impl Parts {
    fn read(reader: &mut Reader<'_>, count: usize) -> Result<Self, DamagedChunk> {
        Ok(match reader.u8()? {
            BOOLS => Self::Bools(reader.bits(count)?, 0),
            INTEGERS => Self::Integers(reader.numbers(count)?.into_iter()),
            NUMBERS => Self::Numbers(reader.numbers(count)?.into_iter()),
            TIMES => Self::Times(reader.numbers(count)?.into_iter(), reader.numbers(count)?.into_iter()),
            VALUES => {
                let tag = Some(reader.u8()?).filter(|tag| *tag != MIXED);
                Self::Values { tag, values: Runs::read(reader, count)?, next: 0 }
            }
            WORDS => {
                let words = reader.u32()? as usize;
                if words > count {
                    return Err(DamagedChunk("a column has more words than values"));
                }
                let tag = Some(reader.u8()?).filter(|tag| *tag != MIXED);
                let words = Runs::read(reader, words)?;
                Self::Words { tag, words, numbers: reader.numbers(count)?.into_iter() }
            }
            _ => return Err(DamagedChunk("a column has an unknown form")),
        })
    }

    fn next_into(&mut self, column: &mut Runs) -> Result<(), DamagedChunk> {
        const MISSING: DamagedChunk = DamagedChunk("a column has too few values");
        match self {
            Self::Bools(bits, next) => {
                let value = Datum::Bool(bits.get(*next));
                *next += 1;
                column.push(|out| value.encode_part(out))
            }
            Self::Integers(integers) => {
                let value = Datum::Number(integers.next().ok_or(MISSING)? as f64);
                column.push(|out| value.encode_part(out))
            }
            Self::Numbers(numbers) => {
                let number = numbers.next().filter(|number| number.is_finite()).ok_or(MISSING)?;
                column.push(|out| Datum::Number(number).encode_part(out))
            }
            Self::Times(seconds, minutes) => {
                let (seconds, minutes) = (seconds.next().ok_or(MISSING)?, minutes.next().ok_or(MISSING)?);
                let time = Time::new(seconds, minutes).map_err(|_| DamagedChunk("a time is out of range"))?;
                column.push(|out| Datum::Time(time).encode_part(out))
            }
            Self::Values { tag, values, next } => {
                let part = values.get(*next);
                *next += 1;
                push_part(column, *tag, part)
            }
            Self::Words { tag, words, numbers } => {
                let number = numbers.next().ok_or(MISSING)? as usize;
                if number >= words.len() {
                    return Err(DamagedChunk("a column names a word that it does not have"));
                }
                push_part(column, *tag, words.get(number))
            }
        }
    }
}

fn push_part(column: &mut Runs, tag: Option<u8>, part: &[u8]) -> Result<(), DamagedChunk> {
    if tag.is_none() && part.is_empty() {
        return Err(DamagedChunk("a value of a column is empty"));
    }
    column.push(|out| {
        out.extend(tag);
        out.extend_from_slice(part);
    })
}
