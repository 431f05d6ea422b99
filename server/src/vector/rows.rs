//! Which row of a column belongs to which document. Kept in the index's keyspace, in the commits of the documents:
//!
//! | key | value |
//! |---|---|
//! | `r` + row (4 bytes, big-endian) | encoded primary key |
//! | `k` + encoded primary key | row (4 bytes, big-endian) |
//! | `n` | the next row (4 bytes, big-endian): numbers are never used again |

use fixedbitset::FixedBitSet;
use photondb_plugin_sdk::kinds::storage::{Direction, KeyRange, StorageEngine, StorageError, WriteBatch};
use photondb_plugin_sdk::kinds::vector::RowId;

const NEXT: &[u8] = b"n";

/// The present rows, in memory: a search needs them all the time.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// The key of each live row.
    keys: Vec<Option<Box<[u8]>>>,
    live: FixedBitSet,
    count: usize,
}

impl Rows {
    /// Reads the keyspace of an index whose column has room for `limit` rows.
    ///
    /// # Errors
    /// When the engine fails, or holds what was never written.
    pub(super) fn load(engine: &dyn StorageEngine, keyspace: &str, limit: u64) -> Result<Self, StorageError> {
        let damaged =
            |message: &str| StorageError::Damaged { keyspace: keyspace.to_owned(), message: message.to_owned() };
        let mut rows = Self::default();
        let range = KeyRange { start: b"r".to_vec(), end: Some(b"s".to_vec()) };
        for entry in engine.snapshot()?.scan(keyspace, &range, Direction::Forward)? {
            let (row, key) = entry?;
            let row = row_of(&row[1..]).ok_or_else(|| damaged("a row number that is none"))?;
            // An engine of a plugin may say anything: nothing may grow with it.
            if u64::from(row) >= limit {
                return Err(damaged("a row that its column does not have"));
            }
            rows.set(row, key.into());
        }
        let next = match engine.get(keyspace, NEXT)? {
            None => 0,
            Some(bytes) => row_of(&bytes).ok_or_else(|| damaged("the next row is no number"))?,
        };
        if (next as usize) < rows.keys.len() || u64::from(next) > limit {
            return Err(damaged("a next row that is none of its column"));
        }
        rows.grow(next as usize);
        Ok(rows)
    }

    /// The number that the next row gets.
    pub(super) fn next(&self) -> RowId {
        self.keys.len() as RowId
    }

    /// How many rows are live.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// One bit a row: whether it is live.
    pub(super) fn live(&self) -> &FixedBitSet {
        &self.live
    }

    /// The encoded primary key of a live row.
    pub(super) fn key(&self, row: RowId) -> Option<&[u8]> {
        self.keys.get(row as usize)?.as_deref()
    }

    pub(super) fn set(&mut self, row: RowId, key: Box<[u8]>) {
        self.grow(row as usize + 1);
        if self.keys[row as usize].replace(key).is_none() {
            self.count += 1;
        }
        self.live.insert(row as usize);
    }

    pub(super) fn remove(&mut self, row: RowId) {
        if self.keys.get_mut(row as usize).is_some_and(|key| key.take().is_some()) {
            self.count -= 1;
            self.live.set(row as usize, false);
        }
    }

    /// Rows up to this number have been given out, whether they are live or not.
    pub(super) fn grow(&mut self, rows: usize) {
        if rows > self.keys.len() {
            self.keys.resize(rows, None);
            self.live.grow(rows);
        }
    }
}

/// The row that is stored for a key.
///
/// # Errors
/// When the engine fails.
pub(super) fn stored_row(
    engine: &dyn StorageEngine,
    keyspace: &str,
    key: &[u8],
) -> Result<Option<RowId>, StorageError> {
    Ok(engine.get(keyspace, &key_entry(key))?.as_deref().and_then(row_of))
}

/// Stores that `row` is `key`'s, and the last one.
pub(super) fn stage_insert(batch: &mut WriteBatch, keyspace: &str, row: RowId, key: &[u8]) {
    batch.put(keyspace, row_entry(row), key);
    batch.put(keyspace, key_entry(key), row.to_be_bytes());
    batch.put(keyspace, NEXT, (row + 1).to_be_bytes());
}

/// Stores that `key` has no row any more.
pub(super) fn stage_remove(batch: &mut WriteBatch, keyspace: &str, row: RowId, key: &[u8]) {
    batch.delete(keyspace, row_entry(row));
    batch.delete(keyspace, key_entry(key));
}

fn row_entry(row: RowId) -> Vec<u8> {
    [&b"r"[..], &row.to_be_bytes()].concat()
}

fn key_entry(key: &[u8]) -> Vec<u8> {
    [b"k", key].concat()
}

fn row_of(bytes: &[u8]) -> Option<RowId> {
    bytes.try_into().ok().map(RowId::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_not_used_again() {
        let mut rows = Rows::default();
        rows.set(0, Box::from(&b"a"[..]));
        rows.set(1, Box::from(&b"b"[..]));
        rows.remove(1);
        rows.remove(1);
        assert_eq!((rows.len(), rows.next(), rows.key(0), rows.key(1)), (1, 2, Some(&b"a"[..]), None));
        assert_eq!(rows.live().ones().collect::<Vec<_>>(), [0]);
    }
}
