//! Keyspaces whose older rows lie in compressed chunks of columns, over any storage engine.
//!
//! [`PackedEngine`] is a storage engine over another one, which stays responsible for all that makes a database: atomic
//! batches, snapshots, what is left after a crash. New rows are rows in it. When enough of a run of keys are there, they become
//! a **chunk**, in one batch: a value of a few hundred kilobytes that holds a column for each top-level field of the documents,
//! each compressed on its own, with statistics. Later changes are rows again, and win, until the chunk is written anew with
//! them. Values come back byte for byte, whatever they are.
//!
//! ```
//! use std::sync::Arc;
//! use photondb_packed::{PackedEngine, PackedOptions};
//! use photondb_plugin_sdk::prelude::*;
//!
//! # let directory = tempfile::tempdir().unwrap();
//! # let config = StorageConfig { directory: directory.path().to_owned(), cache_bytes: 1 << 20, options: Datum::object::<&str, Datum>([]) };
//! let inner = photondb_plugin_redb::Redb.open(&config)?;
//! let engine = PackedEngine::open(Arc::from(inner), PackedOptions { chunk_rows: 100, ..PackedOptions::default() })?;
//! let mut batch = WriteBatch::default();
//! for number in 0..1000_u32 {
//!     batch.put("k", number.to_be_bytes(), Datum::object([("n", number)]).encoded());
//! }
//! engine.commit(&batch, Durability::Soft)?;
//! let chunks = engine.chunks("k")?;
//! assert!(chunks[0].rows == 100 && chunks[0].columns[0].1.greatest == Some(99.into()));
//! # Ok::<(), PluginError>(())
//! ```
//!
//! | what | where |
//! |---|---|
//! | open, list chunks with their statistics, remove whole ones | [`PackedEngine`], [`ChunkInfo`], [`ColumnStatistics`] |
//! | how large chunks are, what is packed | [`PackedOptions`] |
//! | scans that leave out chunks, rows and fields | [`StorageSnapshot::scan_selected`](photondb_plugin_sdk::kinds::storage::StorageSnapshot::scan_selected) |
//! | the form of a chunk, for tests and fuzzers | [`read_all`], [`pack_all`] |
//!
//! A commit packs up to a few chunks, some tens of milliseconds each, so that what is not packed stays in proportion: less than
//! a chunk's rows behind each chunk, and an eighth of them among its keys. Packing that fails is tried again with
//! later commits and shows in the statistics; the commit has succeeded.
//!
//! A point read of a packed row decodes its chunk, unless that was read of late: an engine for scans.

#![forbid(unsafe_code)]

mod cache;
mod chunk;
mod engine;
mod packer;
mod rows;
mod scan;

pub use chunk::{ColumnStatistics, DamagedChunk, pack_all, read_all};
pub use engine::{ChunkInfo, PackedEngine};
pub use packer::Totals;

/// Which keyspaces are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packs {
    /// Those of which at least half of the values are encoded objects, judged by the first that would be packed.
    Documents,
    /// All.
    Everything,
}

/// How an engine packs.
#[derive(Clone, Copy, Debug)]
pub struct PackedOptions {
    /// What the engine is called in its statistics.
    pub engine: &'static str,
    /// Rows of a chunk: 16 to 65,536.
    pub chunk_rows: usize,
    /// Bytes of the rows of a chunk, as they came: it ends with the row that reaches them.
    pub chunk_bytes: usize,
    /// Which keyspaces are packed.
    pub packs: Packs,
    /// Memory for what was read of chunks.
    pub cache_bytes: usize,
}

impl Default for PackedOptions {
    fn default() -> Self {
        Self { engine: "packed", chunk_rows: 4096, chunk_bytes: 4 << 20, packs: Packs::Documents, cache_bytes: 8 << 20 }
    }
}

impl PackedOptions {
    fn within_limits(self) -> Self {
        Self {
            chunk_rows: self.chunk_rows.clamp(16, chunk::MAX_ROWS),
            chunk_bytes: self.chunk_bytes.clamp(1 << 10, 64 << 20),
            ..self
        }
    }
}
