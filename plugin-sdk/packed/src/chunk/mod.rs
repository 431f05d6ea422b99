//! Chunks: a run of rows, a column for each top-level field of their documents.
//!
//! A chunk is a **head**, which has statistics and says where all else lies, and a **body** of sections: the keys, the rows
//! that are kept whole, and the columns in the order of their names. Each section can be read without the others.
//!
//! | head | |
//! |---|---|
//! | version (u8) | 1 |
//! | number (u64), rows (u32), rows kept whole (u32), bytes as they came (u64) | |
//! | last key (short: u16 length and bytes) | the first one is the key that the head is stored under |
//! | bytes of the keys and of the rows kept whole (u32 each) | |
//! | columns (u16), each: name (short), rows that have it, rows that are null, bytes (u32 each), least and greatest value (short each: an encoded datum, or nothing) | |
//! | checksum (u32) | CRC-32 of all before it |
//!
//! A section ends with such a checksum too. [`blocks`], [`keys`] and [`column`] say what is in one. Rows kept whole: bits of the
//! rows that are, then lengths and bytes.

mod blocks;
mod column;
mod head;
mod keys;

use std::collections::BTreeMap;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::{DatumRef, Kind};
use photondb_plugin_sdk::kinds::storage::Entry;
use thiserror::Error;

use blocks::{Bits, Reader, Runs, put_runs};
use column::Values;

pub(crate) use blocks::MAX_BYTES;
pub(crate) use column::Column;
pub use column::ColumnStatistics;
pub(crate) use head::{ColumnHead, Head, MAX_ROWS};
pub(crate) use keys::Keys;

const VERSION: u8 = 1;
/// Documents with fields beyond the most frequent ones are kept whole.
pub(crate) const MAX_COLUMNS: usize = 256;

/// Bytes are no chunk: what was found.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct DamagedChunk(pub(crate) &'static str);

/// Adds the checksum of all bytes from `start` on.
fn seal(out: &mut Vec<u8>, start: usize) {
    let checksum = crc32fast::hash(&out[start..]);
    out.extend_from_slice(&checksum.to_le_bytes());
}

/// The bytes in front of their checksum.
fn checked(bytes: &[u8]) -> Result<&[u8], DamagedChunk> {
    let (bytes, checksum) = bytes.split_last_chunk().ok_or(DamagedChunk("it is cut off"))?;
    // A fuzzer would get no further.
    if !cfg!(fuzzing) && crc32fast::hash(bytes) != u32::from_le_bytes(*checksum) {
        return Err(DamagedChunk("a checksum is wrong"));
    }
    Ok(bytes)
}

/// The fields of a document that is encoded in the one way in which it would be again.
fn fields(value: &[u8]) -> Option<Vec<(&str, DatumRef<'_>)>> {
    let document = DatumRef::new(value).ok().filter(|document| document.kind() == Some(Kind::Object))?;
    let fields: Vec<_> = document.fields().ok()?.collect::<Result<_, _>>().ok()?;
    let mut again = Vec::with_capacity(value.len());
    Datum::encode_fields(&fields, &mut again);
    (again == value).then_some(fields)
}

/// Makes a chunk of rows: at least one and at most [`MAX_ROWS`], their keys ascending.
pub(crate) fn pack(number: u64, entries: &[Entry]) -> (Head, Vec<u8>) {
    let mut documents: Vec<Option<Vec<(&str, DatumRef<'_>)>>> =
        entries.iter().map(|(_, value)| fields(value)).collect();
    keep_most_frequent(&mut documents);
    let mut columns: BTreeMap<&[u8], (&str, Values<'_>)> = BTreeMap::new();
    for (row, document) in documents.iter().enumerate() {
        for (name, value) in document.iter().flatten() {
            let new = || (*name, Values { rows: entries.len(), values: Vec::new() });
            columns.entry(name.as_bytes()).or_insert_with(new).1.values.push((row as u32, *value));
        }
    }
    let mut body = Vec::new();
    let mut section = |put: &dyn Fn(&mut Vec<u8>)| {
        let start = body.len();
        put(&mut body);
        seal(&mut body, start);
        start..body.len()
    };
    let keys = section(&|out| keys::put(entries.iter().map(|(key, _)| key.as_slice()), out));
    let whole = section(&|out| {
        Bits::of(documents.iter().map(Option::is_none)).put(out);
        let whole = entries.iter().zip(&documents).filter(|(_, document)| document.is_none());
        put_runs(out, whole.map(|((_, value), _)| value.as_slice()));
    });
    let column = |(name, values): (&str, Values<'_>)| ColumnHead {
        name: name.into(),
        statistics: values.statistics(),
        section: section(&|out| values.put(out)),
    };
    let columns = columns.into_values().map(column).collect();
    let head = Head {
        number,
        last_key: entries.last().map(|(key, _)| key.clone()).unwrap_or_default(),
        rows: entries.len() as u32,
        whole_rows: documents.iter().filter(|document| document.is_none()).count() as u32,
        raw_bytes: entries.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum(),
        keys,
        whole,
        columns,
    };
    (head, body)
}

/// Leaves documents whole that have a field which too few others have.
fn keep_most_frequent(documents: &mut [Option<Vec<(&str, DatumRef<'_>)>>]) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, _) in documents.iter().flatten().flatten() {
        *counts.entry(name).or_default() += 1;
    }
    if counts.len() <= MAX_COLUMNS {
        return;
    }
    let mut by_count: Vec<(&str, usize)> = counts.into_iter().collect();
    by_count.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let rare: std::collections::HashSet<&str> = by_count[MAX_COLUMNS..].iter().map(|(name, _)| *name).collect();
    for document in documents {
        if document.iter().flatten().any(|(name, _)| rare.contains(name)) {
            *document = None;
        }
    }
}

/// Reads the keys of a chunk from their section.
pub(crate) fn read_keys(head: &Head, section: &[u8]) -> Result<Keys, DamagedChunk> {
    Keys::read(checked(section)?, head.rows as usize)
}

/// Reads a column from its section. All columns of a chunk that are read share a `budget` of memory, at first
/// [`MAX_BYTES`].
pub(crate) fn read_column(head: &Head, section: &[u8], budget: &mut usize) -> Result<Column, DamagedChunk> {
    let column = Column::read(checked(section)?, head.rows as usize)?;
    *budget =
        budget.checked_sub(column.value_bytes()).ok_or(DamagedChunk("columns are longer than any that are written"))?;
    Ok(column)
}

/// The rows that are kept whole.
pub(crate) struct WholeRows {
    rows: Bits,
    /// How many of the rows before each are whole, so that its value is found.
    before: Vec<u32>,
    values: Runs,
}

impl WholeRows {
    pub(crate) fn read(head: &Head, section: &[u8]) -> Result<Self, DamagedChunk> {
        let (rows, mut reader) = (head.rows as usize, Reader(checked(section)?));
        let bits = reader.bits(rows)?;
        let values = Runs::read(&mut reader, head.whole_rows as usize)?;
        let mut count = 0;
        let before = (0..rows).map(|row| {
            let before = count;
            count += u32::from(bits.get(row));
            before
        });
        let before = before.collect();
        if count != head.whole_rows {
            return Err(DamagedChunk("rows that are kept whole are missing"));
        }
        Ok(Self { rows: bits, before, values })
    }

    pub(crate) fn memory(&self) -> usize {
        self.before.len() * 4 + self.values.memory()
    }

    pub(crate) fn get(&self, row: usize) -> Option<&[u8]> {
        self.rows.get(row).then(|| self.values.get(self.before[row] as usize))
    }
}

/// Appends the document that the row's fields make up.
pub(crate) fn assemble<'a>(columns: impl Iterator<Item = (&'a str, &'a Column)>, row: usize, out: &mut Vec<u8>) {
    let fields: Vec<_> = columns.filter_map(|(name, column)| Some((name, column.get(row)?))).collect();
    Datum::encode_fields(&fields, out);
}

/// Reads all rows of a chunk, whatever the bytes are: what a fuzzer calls. Each check that a reader of the engine relies on
/// is made here; the first one that fails is the error.
///
/// # Errors
/// What was found.
pub fn read_all(head: &[u8], body: &[u8]) -> Result<Vec<Entry>, DamagedChunk> {
    let head = Head::decode(head)?;
    let section = |range: &std::ops::Range<usize>| body.get(range.clone()).ok_or(DamagedChunk("it is cut off"));
    let keys = read_keys(&head, section(&head.keys)?)?;
    let whole = WholeRows::read(&head, section(&head.whole)?)?;
    let mut budget = MAX_BYTES;
    let columns = head.columns.iter().map(|column| {
        let section = section(&column.section)?;
        Ok((&*column.name, read_column(&head, section, &mut budget)?))
    });
    let columns: Vec<(&str, Column)> = columns.collect::<Result<_, DamagedChunk>>()?;
    let mut bytes = 0;
    let row = |row: usize| {
        let value = match whole.get(row) {
            Some(value) => value.to_vec(),
            None => {
                let mut value = Vec::new();
                assemble(columns.iter().map(|(name, column)| (*name, column)), row, &mut value);
                value
            }
        };
        bytes += value.len();
        if bytes > MAX_BYTES {
            return Err(DamagedChunk("values are longer than any that are written"));
        }
        Ok((keys.get(row).to_vec(), value))
    };
    (0..keys.len()).map(row).collect()
}

/// Makes a chunk of rows, as [`read_all`] reads it: its head and its body.
#[must_use]
pub fn pack_all(entries: &[Entry]) -> (Vec<u8>, Vec<u8>) {
    let (head, body) = pack(0, entries);
    (head.encode(), body)
}

#[cfg(test)]
mod tests;
