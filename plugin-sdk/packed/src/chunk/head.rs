//! What is known of a chunk without reading its rows.

use std::ops::Range;
use std::sync::Arc;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::storage::Selection;

use super::blocks::{Reader, put_short};
use super::column::ColumnStatistics;
use super::{DamagedChunk, MAX_COLUMNS, VERSION, checked, seal};

/// The most rows of a chunk.
pub(crate) const MAX_ROWS: usize = 1 << 16;

/// A column, and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColumnHead {
    pub(crate) name: Arc<str>,
    pub(crate) statistics: ColumnStatistics,
    pub(crate) section: Range<usize>,
}

/// The head of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The chunk's number, which no other one of the engine has or had.
    pub(crate) number: u64,
    pub(crate) last_key: Vec<u8>,
    pub(crate) rows: u32,
    /// Rows that are no documents, or not such as would be encoded again as they are.
    pub(crate) whole_rows: u32,
    /// Bytes of keys and values as they came.
    pub(crate) raw_bytes: u64,
    pub(crate) keys: Range<usize>,
    pub(crate) whole: Range<usize>,
    /// In the order of their names.
    pub(crate) columns: Vec<ColumnHead>,
}

impl Head {
    /// Bytes of the chunk's body.
    pub(crate) fn body_bytes(&self) -> usize {
        self.columns.last().map_or(self.whole.end, |column| column.section.end)
    }

    /// Whether the selection allows to leave out all rows.
    pub(crate) fn is_excluded(&self, selection: &Selection) -> bool {
        // Where nothing is known of the values, some may be of a plugin's type.
        let is_known = |column: &ColumnHead| column.statistics.least.is_some() || column.statistics.greatest.is_some();
        self.whole_rows == 0
            && selection.filter.iter().all(|range| self.column(&range.field).is_none_or(is_known))
            && selection.filter.iter().any(|range| match self.column(&range.field) {
                None => true,
                Some(column) => {
                    let ColumnStatistics { least, greatest, .. } = &column.statistics;
                    range.excludes_between(least.as_ref(), greatest.as_ref())
                }
            })
    }

    pub(crate) fn column(&self, name: &str) -> Option<&ColumnHead> {
        let at = self.columns.binary_search_by(|column| column.name.as_bytes().cmp(name.as_bytes()));
        self.columns.get(at.ok()?)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&self.whole_rows.to_le_bytes());
        out.extend_from_slice(&self.raw_bytes.to_le_bytes());
        put_short(&mut out, &self.last_key);
        for section in [&self.keys, &self.whole] {
            out.extend_from_slice(&(section.len() as u32).to_le_bytes());
        }
        out.extend_from_slice(&(self.columns.len() as u16).to_le_bytes());
        for ColumnHead { name, statistics, section } in &self.columns {
            put_short(&mut out, name.as_bytes());
            out.extend_from_slice(&statistics.present.to_le_bytes());
            out.extend_from_slice(&statistics.nulls.to_le_bytes());
            out.extend_from_slice(&(section.len() as u32).to_le_bytes());
            for bound in [&statistics.least, &statistics.greatest] {
                put_short(&mut out, &bound.as_ref().map(Datum::encoded).unwrap_or_default());
            }
        }
        seal(&mut out, 0);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DamagedChunk> {
        let mut reader = Reader(checked(bytes)?);
        if reader.u8()? != VERSION {
            return Err(DamagedChunk("it has a format of another version"));
        }
        let (number, rows, whole_rows, raw_bytes) = (reader.u64()?, reader.u32()?, reader.u32()?, reader.u64()?);
        if rows == 0 || rows as usize > MAX_ROWS || whole_rows > rows {
            return Err(DamagedChunk("it has more rows than are written, or none"));
        }
        let last_key = reader.short()?.to_vec();
        let mut end = 0_usize;
        let mut section = |bytes: u32| {
            let start = end;
            end += bytes as usize;
            start..end
        };
        let keys = section(reader.u32()?);
        let whole = section(reader.u32()?);
        let mut columns: Vec<ColumnHead> = Vec::new();
        let count = reader.u16()?;
        if usize::from(count) > MAX_COLUMNS {
            return Err(DamagedChunk("it has more columns than are written"));
        }
        for _ in 0..count {
            let name = std::str::from_utf8(reader.short()?).map_err(|_| DamagedChunk("a name is no text"))?;
            if columns.last().is_some_and(|last| last.name.as_bytes() >= name.as_bytes()) {
                return Err(DamagedChunk("columns are not in order"));
            }
            let (present, nulls, bytes) = (reader.u32()?, reader.u32()?, reader.u32()?);
            let mut bound = || match reader.short()? {
                [] => Ok(None),
                bytes => Datum::decode(bytes).map(Some).map_err(|_| DamagedChunk("a bound is no value")),
            };
            let statistics = ColumnStatistics { present, nulls, least: bound()?, greatest: bound()? };
            columns.push(ColumnHead { name: name.into(), statistics, section: section(bytes) });
        }
        if !reader.0.is_empty() {
            return Err(DamagedChunk("a head is followed by something"));
        }
        Ok(Self { number, last_key, rows, whole_rows, raw_bytes, keys, whole, columns })
    }
}
