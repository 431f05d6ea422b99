//! Where rows and chunks lie in the embedded engine, and how they are read there.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `rows/K` | the key | 1 and the value; 0 alone: the chunk's row of this key is gone |
//! | `heads/K` | the first key of a chunk | its head |
//! | `chunks/K` | number of a chunk (u64), number of a piece (u32), both big-endian | a piece of its body |
//! | `packed` | `format` | 1 (u8) |
//! | | `next` | the number of the next chunk (u64) |
//! | | `space/K` | chunks, rows in them, bytes of those as they came, bytes of the chunks (u64 each) |
//!
//! Chunks of a keyspace do not overlap. A row wins over the chunk's row of the same key.

use std::ops::Range;
use std::sync::Arc;

use photondb_plugin_sdk::kinds::storage::{Direction, KeyRange, StorageError, StorageSnapshot, WriteBatch};

use crate::cache::Cache;
use crate::chunk::{self, Column, DamagedChunk, Head, Keys, WholeRows};

/// Bytes of a piece. A B-tree page of redb has a power of two of them, and takes some for itself: whole bodies would leave a
/// quarter of the file empty.
pub(crate) const PIECE: usize = (16 << 10) - 64;

/// The keyspace of what is not of one keyspace.
pub(crate) const META: &str = "packed";
pub(crate) const FORMAT: &[u8] = b"format";
pub(crate) const NEXT: &[u8] = b"next";
pub(crate) const FORMAT_VERSION: u8 = 1;

const GONE: u8 = 0;
const HERE: u8 = 1;

/// The keyspaces of the embedded engine that one keyspace has.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) rows: Arc<str>,
    pub(crate) heads: Arc<str>,
    pub(crate) chunks: Arc<str>,
    pub(crate) totals: Vec<u8>,
    outer: Arc<str>,
}

impl Names {
    pub(crate) fn of(keyspace: &str) -> Self {
        Self {
            rows: format!("rows/{keyspace}").into(),
            heads: format!("heads/{keyspace}").into(),
            chunks: format!("chunks/{keyspace}").into(),
            totals: [SPACE, keyspace.as_bytes()].concat(),
            outer: keyspace.into(),
        }
    }

    pub(crate) fn damaged(&self, what: DamagedChunk) -> StorageError {
        StorageError::Damaged { keyspace: self.outer.to_string(), message: format!("a chunk: {what}") }
    }
}

/// What the keys of the totals of keyspaces begin with.
pub(crate) const SPACE: &[u8] = b"space/";

/// The first key behind `key`.
pub(crate) fn behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// A row as it is stored.
pub(crate) fn here(value: &[u8]) -> Vec<u8> {
    [&[HERE], value].concat()
}

/// What hides a row of a chunk.
pub(crate) fn gone() -> Vec<u8> {
    vec![GONE]
}

/// The value of a row; `None` where it says that there is none.
pub(crate) fn value(names: &Names, mut row: Vec<u8>) -> Result<Option<Vec<u8>>, StorageError> {
    match row.first() {
        Some(&HERE) => {
            row.remove(0);
            Ok(Some(row))
        }
        Some(&GONE) if row.len() == 1 => Ok(None),
        _ => Err(StorageError::Damaged {
            keyspace: names.outer.to_string(),
            message: "a row has an unknown form".to_owned(),
        }),
    }
}

/// The values of a chunk, as they came.
#[derive(Debug)]
pub(crate) struct Values {
    ends: Vec<usize>,
    all: Vec<u8>,
}

impl Values {
    /// Puts all rows of a chunk together.
    pub(crate) fn assemble(
        rows: usize,
        whole: &WholeRows,
        columns: &[(Arc<str>, Column)],
    ) -> Result<Self, DamagedChunk> {
        let mut values = Self { ends: Vec::with_capacity(rows), all: Vec::new() };
        for row in 0..rows {
            match whole.get(row) {
                Some(value) => values.all.extend_from_slice(value),
                None => chunk::assemble(columns.iter().map(|(name, column)| (&**name, column)), row, &mut values.all),
            }
            values.ends.push(values.all.len());
            if values.all.len() > chunk::MAX_BYTES {
                return Err(DamagedChunk("values are longer than any that are written"));
            }
        }
        Ok(values)
    }

    pub(crate) fn get(&self, row: usize) -> &[u8] {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.all[start..self.ends[row]]
    }

    pub(crate) fn memory(&self) -> usize {
        self.ends.len() * size_of::<usize>() + self.all.len()
    }
}

/// One state of one keyspace.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) snapshot: Arc<dyn StorageSnapshot>,
    pub(crate) names: Names,
    pub(crate) cache: Arc<Cache>,
}

impl View {
    /// The values of keys.
    pub(crate) fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        let rows = self.snapshot.get_many(&self.names.rows, keys)?;
        keys.iter()
            .zip(rows)
            .map(|(key, row)| match row {
                Some(row) => value(&self.names, row),
                None => self.get_packed(key),
            })
            .collect()
    }

    fn get_packed(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let Some((_, head)) = self.head_at(key)? else { return Ok(None) };
        if *head.last_key < *key {
            return Ok(None);
        }
        let keys = match self.cache.keys.get(head.number) {
            Some(keys) => keys,
            None => {
                let keys = Arc::new(self.keys(&head)?);
                self.cache.keys.keep(head.number, Arc::clone(&keys), keys.memory());
                keys
            }
        };
        let row = keys.position(key);
        if row == keys.len() || keys.get(row) != key {
            return Ok(None);
        }
        let values = match self.cache.values.get(head.number) {
            Some(values) => values,
            None => {
                let values = Arc::new(self.values(&head)?);
                self.cache.values.keep(head.number, Arc::clone(&values), values.memory());
                values
            }
        };
        Ok(Some(values.get(row).to_vec()))
    }

    /// The last chunk whose first key is not behind `key`: that, and its head.
    pub(crate) fn head_at(&self, key: &[u8]) -> Result<Option<(Vec<u8>, Head)>, StorageError> {
        let range = KeyRange { start: Vec::new(), end: Some(behind(key)) };
        let last = self.snapshot.scan(&self.names.heads, &range, Direction::Backward)?.next().transpose()?;
        last.map(|(first, head)| Ok((first, self.head(&head)?))).transpose()
    }

    pub(crate) fn head(&self, bytes: &[u8]) -> Result<Head, StorageError> {
        Head::decode(bytes).map_err(|what| self.names.damaged(what))
    }

    pub(crate) fn keys(&self, head: &Head) -> Result<Keys, StorageError> {
        let section = self.body(head, &head.keys)?;
        chunk::read_keys(head, &section).map_err(|what| self.names.damaged(what))
    }

    /// All values of a chunk.
    pub(crate) fn values(&self, head: &Head) -> Result<Values, StorageError> {
        let start = head.whole.start;
        let sections = self.body(head, &(start..head.body_bytes()))?;
        let section = |range: &Range<usize>| &sections[range.start - start..range.end - start];
        let read = || {
            let whole = WholeRows::read(head, section(&head.whole))?;
            let mut budget = chunk::MAX_BYTES;
            let columns = head.columns.iter().map(|column| {
                Ok((Arc::clone(&column.name), chunk::read_column(head, section(&column.section), &mut budget)?))
            });
            let columns = columns.collect::<Result<Vec<_>, DamagedChunk>>()?;
            Values::assemble(head.rows as usize, &whole, &columns)
        };
        read().map_err(|what| self.names.damaged(what))
    }

    /// Bytes of the body of a chunk, which lie in its pieces.
    pub(crate) fn body(&self, head: &Head, range: &Range<usize>) -> Result<Vec<u8>, StorageError> {
        let (first, last) = (range.start / PIECE, range.end.saturating_sub(1) / PIECE);
        let keys: Vec<[u8; 12]> = (first..=last).map(|piece| piece_key(head.number, piece)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        let pieces = self.snapshot.get_many(&self.names.chunks, &keys)?;
        let mut bytes = Vec::with_capacity(pieces.iter().flatten().map(Vec::len).sum());
        for (at, piece) in (first..=last).zip(pieces) {
            let expected = PIECE.min(head.body_bytes() - at * PIECE);
            let piece = piece.filter(|piece| piece.len() == expected);
            bytes.extend_from_slice(&piece.ok_or_else(|| self.names.damaged(DamagedChunk("a piece is missing")))?);
        }
        bytes.drain(..range.start - first * PIECE);
        bytes.truncate(range.len());
        Ok(bytes)
    }
}

fn piece_key(chunk: u64, piece: usize) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&chunk.to_be_bytes());
    key[8..].copy_from_slice(&(piece as u32).to_be_bytes());
    key
}

/// Adds a chunk to what is committed.
pub(crate) fn put_chunk(batch: &mut WriteBatch, names: &Names, first: &[u8], head: &Head, body: &[u8]) -> u64 {
    let encoded = head.encode();
    let bytes = (encoded.len() + body.len()) as u64;
    batch.put(&names.heads, first, encoded);
    for (at, piece) in body.chunks(PIECE).enumerate() {
        batch.put(&names.chunks, piece_key(head.number, at), piece);
    }
    bytes
}

/// Adds the removal of a chunk to what is committed.
pub(crate) fn remove_chunk(batch: &mut WriteBatch, names: &Names, first: &[u8], head: &Head) {
    batch.delete(&names.heads, first);
    for piece in 0..head.body_bytes().div_ceil(PIECE) {
        batch.delete(&names.chunks, piece_key(head.number, piece));
    }
}
