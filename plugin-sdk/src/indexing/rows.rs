//! Sets of rows.

use crate::kinds::vector::{AllowBitmap, RowId};

/// The rows that can be found, a bit each, as in an [`AllowBitmap`].
#[derive(Clone, Debug, Default)]
pub struct RowSet {
    bits: Vec<u8>,
    count: usize,
}

impl RowSet {
    /// How many rows there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether the row is there.
    #[must_use]
    pub fn contains(&self, row: RowId) -> bool {
        AllowBitmap(&self.bits).allows(row)
    }

    /// Adds a row. Takes memory for all rows before it, a bit each.
    pub fn insert(&mut self, row: RowId) {
        let byte = row as usize / 8;
        if byte >= self.bits.len() {
            self.bits.resize(byte + 1, 0);
        }
        self.count += usize::from(!self.contains(row));
        self.bits[byte] |= 1 << (row % 8);
    }

    /// Removes a row, if it is there.
    pub fn remove(&mut self, row: RowId) {
        if self.contains(row) {
            self.bits[row as usize / 8] &= !(1 << (row % 8));
            self.count -= 1;
        }
    }

    /// How many of the rows are allowed.
    #[must_use]
    pub fn count_allowed(&self, allow: AllowBitmap<'_>) -> usize {
        self.bits.iter().zip(allow.0).map(|(live, allowed)| (live & allowed).count_ones() as usize).sum()
    }

    /// The rows that are allowed, in order; `None` allows all.
    pub fn allowed<'a>(&'a self, allow: Option<AllowBitmap<'a>>) -> impl Iterator<Item = RowId> + 'a {
        let bytes = self.bits.iter().enumerate().map(move |(at, live)| {
            let allowed = allow.map_or(u8::MAX, |allow| allow.0.get(at).copied().unwrap_or(0));
            (at as u32 * 8, live & allowed)
        });
        bytes
            .filter(|&(_, byte)| byte != 0)
            .flat_map(|(first, byte)| (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| first + bit))
    }

    /// The memory that the set takes, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bits.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_and_go() {
        let mut rows = RowSet::default();
        [3, 17, 3, 8].into_iter().for_each(|row| rows.insert(row));
        rows.remove(8);
        rows.remove(1000);
        assert_eq!((rows.count(), rows.contains(17), rows.contains(8)), (2, true, false));
        assert_eq!(rows.allowed(None).collect::<Vec<_>>(), [3, 17]);
        // Rows beyond the end of a bitmap are not allowed.
        let allow = AllowBitmap(&[0xff]);
        assert_eq!((rows.count_allowed(allow), rows.allowed(Some(allow)).collect::<Vec<_>>()), (1, vec![3]));
    }
}
