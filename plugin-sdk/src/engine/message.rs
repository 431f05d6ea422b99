//! Bytes of requests and replies.

use std::ops::Bound;
use std::sync::Arc;

use super::{ABSENT, LARGEST_SELECTION, PRESENT};
use crate::calls::protocol;
use crate::kinds::storage::{Change, DocumentChange, FieldRange, MOST_CHANGES, Selection, WriteBatch};
use crate::{Datum, PluginError};

/// Reads what lies one behind the other. Whatever the bytes are, it stays within them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8], PluginError> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PluginError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, PluginError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, PluginError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, PluginError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, PluginError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn short(&mut self) -> Result<&'a [u8], PluginError> {
        let bytes = self.u16()?;
        self.take(bytes.into())
    }

    pub(super) fn long(&mut self) -> Result<&'a [u8], PluginError> {
        let bytes = self.u32()?;
        self.take(bytes as usize)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, PluginError> {
        std::str::from_utf8(self.short()?).map_err(|_| protocol("a name that is no text"))
    }
}

fn cut_off() -> PluginError {
    protocol("a message of a storage engine that is cut off")
}

/// Writes into a buffer of fixed size.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn left(&self) -> usize {
        self.buffer.len() - self.len
    }

    /// Writes all of it or nothing; whether it fitted.
    pub(super) fn put(&mut self, parts: &[&[u8]]) -> bool {
        if parts.iter().map(|part| part.len()).sum::<usize>() > self.left() {
            return false;
        }
        for part in parts {
            self.buffer[self.len..self.len + part.len()].copy_from_slice(part);
            self.len += part.len();
        }
        true
    }

    /// Writes bytes behind their length, or nothing; whether they fitted.
    pub(super) fn put_short(&mut self, bytes: &[u8]) -> bool {
        u16::try_from(bytes.len()).is_ok_and(|length| self.put(&[&length.to_le_bytes(), bytes]))
    }
}

/// Adds bytes behind their length. Keys and names are shorter than that says: longer ones are cut, and then refused.
pub(super) fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
    out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(super) fn put_long(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// A batch as bytes.
///
/// # Errors
/// A sentence, where a key or a value is longer than an engine takes.
pub(super) fn encode_batch(batch: &WriteBatch) -> Result<Vec<u8>, String> {
    let mut keyspaces: Vec<&str> = Vec::new();
    let mut numbers = Vec::with_capacity(batch.changes.len());
    let mut bytes = 2;
    for Change { keyspace, key, value } in &batch.changes {
        if key.is_empty() || key.len() > usize::from(u16::MAX) {
            return Err(format!("a key has 1 to 65,535 bytes, found {}", key.len()));
        }
        let value_bytes = value.as_ref().map_or(0, Vec::len);
        if u32::try_from(value_bytes).is_err() {
            return Err(format!("a value has less than 4 GiB, found {value_bytes} bytes"));
        }
        // A handful: the last ones are the likeliest.
        let number = keyspaces.iter().rposition(|known| **known == **keyspace).unwrap_or_else(|| {
            keyspaces.push(keyspace);
            bytes += 2 + keyspace.len();
            keyspaces.len() - 1
        });
        numbers.push(u16::try_from(number).map_err(|_| "a batch changes more than 65,535 keyspaces".to_owned())?);
        bytes += 9 + key.len() + value_bytes;
    }
    let mut out = Vec::with_capacity(bytes);
    out.extend_from_slice(&(keyspaces.len() as u16).to_le_bytes());
    keyspaces.iter().for_each(|keyspace| put_short(&mut out, keyspace.as_bytes()));
    for (Change { key, value, .. }, number) in batch.changes.iter().zip(numbers) {
        out.extend_from_slice(&number.to_le_bytes());
        put_short(&mut out, key);
        match value {
            None => out.push(ABSENT),
            Some(value) => {
                out.push(PRESENT);
                put_long(&mut out, value);
            }
        }
    }
    Ok(out)
}

/// Reads a batch.
pub(super) fn decode_batch(bytes: &[u8]) -> Result<WriteBatch, PluginError> {
    let mut reader = Reader(bytes);
    let count = reader.u16()?;
    let keyspaces: Vec<Arc<str>> = (0..count).map(|_| reader.text().map(Arc::from)).collect::<Result<_, _>>()?;
    let mut batch = WriteBatch::default();
    while !reader.is_empty() {
        let keyspace = keyspaces.get(usize::from(reader.u16()?)).ok_or_else(|| protocol("a keyspace out of range"))?;
        let key = reader.short()?.to_vec();
        let value = match reader.u8()? {
            ABSENT => None,
            _ => Some(reader.long()?.to_vec()),
        };
        batch.changes.push(Change { keyspace: Arc::clone(keyspace), key, value });
    }
    Ok(batch)
}

/// Adds a group of changes.
pub(super) fn put_group(out: &mut Vec<u8>, group: &[DocumentChange]) {
    out.extend_from_slice(&(group.len() as u16).to_le_bytes());
    for DocumentChange { key, before, after } in group {
        put_short(out, key);
        for value in [before, after] {
            match value {
                None => out.push(ABSENT),
                Some(value) => {
                    out.push(PRESENT);
                    put_long(out, value);
                }
            }
        }
    }
}

/// Reads groups up to the end.
pub(super) fn read_groups(bytes: &[u8]) -> Result<Vec<Vec<DocumentChange>>, PluginError> {
    let mut reader = Reader(bytes);
    let mut groups = Vec::new();
    while !reader.is_empty() {
        let count = usize::from(reader.u16()?);
        if !(1..=MOST_CHANGES).contains(&count) {
            return Err(protocol(format!("a group of {count} changes: it must have 1 to {MOST_CHANGES}")));
        }
        let value = |reader: &mut Reader<'_>| match reader.u8()? {
            ABSENT => Ok(None),
            PRESENT => reader.long().map(|value| Some(value.to_vec())),
            _ => Err(protocol("a document that is neither there nor not there")),
        };
        let mut change = || {
            let key = reader.short()?.to_vec();
            Ok(DocumentChange { key, before: value(&mut reader)?, after: value(&mut reader)? })
        };
        groups.push((0..count).map(|_| change()).collect::<Result<_, PluginError>>()?);
    }
    Ok(groups)
}

/// What a bound of a range begins with.
const UNBOUNDED: u8 = 0;
const INCLUDED: u8 = 1;
const EXCLUDED: u8 = 2;

/// Adds a selection, unless it says nothing or too much.
pub(super) fn put_selection(out: &mut Vec<u8>, selection: &Selection) {
    if selection.is_everything() {
        return;
    }
    let start = out.len();
    match &selection.fields {
        None => out.push(ABSENT),
        Some(fields) => {
            out.push(PRESENT);
            out.extend_from_slice(&(fields.len() as u16).to_le_bytes());
            fields.iter().for_each(|field| put_short(out, field.as_bytes()));
        }
    }
    for FieldRange { field, lower, upper } in &selection.filter {
        put_short(out, field.as_bytes());
        for bound in [lower, upper] {
            let (kind, datum) = match bound {
                Bound::Unbounded => (UNBOUNDED, None),
                Bound::Included(datum) => (INCLUDED, Some(datum)),
                Bound::Excluded(datum) => (EXCLUDED, Some(datum)),
            };
            out.push(kind);
            if let Some(datum) = datum {
                put_long(out, &datum.encoded());
            }
        }
    }
    // Shorter ones have fewer fields, and shorter names, than their lengths can say.
    if out.len() - start > LARGEST_SELECTION {
        out.truncate(start);
    }
}

/// Reads a selection; none is one that wants everything.
pub(super) fn read_selection(mut reader: Reader<'_>) -> Result<Selection, PluginError> {
    let mut selection = Selection::default();
    if reader.is_empty() {
        return Ok(selection);
    }
    if reader.u8()? != ABSENT {
        let count = reader.u16()?;
        selection.fields = Some((0..count).map(|_| reader.text().map(Arc::from)).collect::<Result<_, _>>()?);
    }
    while !reader.is_empty() {
        let field = Arc::from(reader.text()?);
        let (lower, upper) = (read_bound(&mut reader)?, read_bound(&mut reader)?);
        selection.filter.push(FieldRange { field, lower, upper });
    }
    Ok(selection)
}

fn read_bound(reader: &mut Reader<'_>) -> Result<Bound<Datum>, PluginError> {
    let kind = reader.u8()?;
    if kind == UNBOUNDED {
        return Ok(Bound::Unbounded);
    }
    let datum = Datum::decode(reader.long()?).map_err(|error| protocol(error.to_string()))?;
    match kind {
        INCLUDED => Ok(Bound::Included(datum)),
        EXCLUDED => Ok(Bound::Excluded(datum)),
        _ => Err(protocol("a bound of a range is neither in it nor outside")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selections_come_back_or_are_left_away() {
        let range = |lower, upper| FieldRange { field: "é".into(), lower, upper };
        let filter = vec![
            range(Bound::Included(1.into()), Bound::Excluded("x".into())),
            range(Bound::Unbounded, Bound::Included(Datum::Null)),
        ];
        for fields in [None, Some(Vec::new()), Some(vec!["a".into(), "".into()])] {
            for filter in [Vec::new(), filter.clone()] {
                let (selection, mut bytes) = (Selection { fields: fields.clone(), filter }, Vec::new());
                put_selection(&mut bytes, &selection);
                assert_eq!(bytes.is_empty(), selection.is_everything());
                assert_eq!(read_selection(Reader(&bytes)).expect("a selection"), selection);
                for end in 1..bytes.len() {
                    // Fewer ranges, or an error; never a panic.
                    let _ = read_selection(Reader(&bytes[..end]));
                }
            }
        }
        let mut bytes = Vec::new();
        let long = Selection { fields: Some(vec!["x".repeat(LARGEST_SELECTION).into()]), filter };
        put_selection(&mut bytes, &long);
        assert_eq!(read_selection(Reader(&bytes)).expect("a selection"), Selection::default());
        assert!(read_selection(Reader(&[0, 0, 0, 3, 0, 0, 0, 0])).is_err());
    }

    #[test]
    fn batches_come_back() {
        let mut batch = WriteBatch::default();
        batch.put("a", *b"k", *b"v");
        batch.delete("b", *b"k");
        batch.put("a", vec![7; 65_535], vec![1; 100_000]);
        batch.put("", *b"x", *b"");
        let bytes = encode_batch(&batch).expect("short keys");
        let decoded = decode_batch(&bytes).expect("a batch");
        assert_eq!(decoded.changes, batch.changes);
        for end in 0..200 {
            // Whole changes, or an error; never a panic.
            let _ = decode_batch(&bytes[..end]);
        }
    }

    #[test]
    fn groups_come_back() {
        let change = |key: &[u8], before: Option<&[u8]>, after: Option<&[u8]>| DocumentChange {
            key: key.to_vec(),
            before: before.map(<[u8]>::to_vec),
            after: after.map(<[u8]>::to_vec),
        };
        let groups = [
            vec![change(b"a", Some(b"1"), None), change(b"b", None, Some(b""))],
            vec![change(b"c", Some(b"2"), Some(b"3"))],
        ];
        let mut bytes = Vec::new();
        groups.iter().for_each(|group| put_group(&mut bytes, group));
        assert_eq!(read_groups(&bytes).expect("groups"), groups);
        assert_eq!((0..bytes.len()).filter(|end| read_groups(&bytes[..*end]).is_ok()).count(), 2, "whole groups alone");
        for count in [0_u16, 257] {
            assert!(read_groups(&count.to_le_bytes()).expect_err("a bad number").message().contains("1 to 256"));
        }
    }

    #[test]
    fn keys_have_a_length() {
        for key in [vec![], vec![0; 65_536]] {
            let mut batch = WriteBatch::default();
            batch.put("a", key, *b"v");
            assert!(encode_batch(&batch).expect_err("a bad key").contains("65,535"));
        }
    }
}
