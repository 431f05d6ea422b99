//! The engine: commits go to the rows, and pack some of them now and then.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::storage::{
    Direction, Durability, EntryIterator, KeyRange, Keyspace, Selection, StorageEngine, StorageError, StorageSnapshot,
    WriteBatch,
};

use crate::PackedOptions;
use crate::cache::Cache;
use crate::chunk::ColumnStatistics;
use crate::packer::{Packer, Totals};
use crate::rows::{Names, View};
use crate::scan::Scan;

/// A storage engine whose keyspaces are packed into chunks, over another one.
pub struct PackedEngine {
    inner: Arc<dyn StorageEngine>,
    cache: Arc<Cache>,
    packer: Mutex<Packer>,
    name: &'static str,
}

/// What is known of a chunk without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkInfo {
    /// The key of its first row.
    pub first_key: Vec<u8>,
    /// The key of its last row.
    pub last_key: Vec<u8>,
    /// Its rows, those among them that were changed or removed since.
    pub rows: u32,
    /// Rows that are kept whole, and of which the statistics know nothing.
    pub whole_rows: u32,
    /// Bytes of keys and values as they came.
    pub raw_bytes: u64,
    /// Bytes of the body of the chunk.
    pub stored_bytes: u64,
    /// Top-level fields of documents, by name.
    pub columns: Vec<(Arc<str>, ColumnStatistics)>,
}

impl PackedEngine {
    /// Packs what is, or will be, in `inner`, which nobody else changes.
    ///
    /// # Errors
    /// When `inner` fails, or holds what a later version wrote.
    pub fn open(inner: Arc<dyn StorageEngine>, options: PackedOptions) -> Result<Self, StorageError> {
        let cache = Arc::new(Cache::new(options.cache_bytes));
        let name = options.engine;
        let packer = Packer::open(Arc::clone(&inner), Arc::clone(&cache), options)?;
        Ok(Self { inner, cache, packer: Mutex::new(packer), name })
    }

    fn lock(&self) -> MutexGuard<'_, Packer> {
        self.packer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self, keyspace: &str) -> Result<View, StorageError> {
        let snapshot = Arc::from(self.inner.snapshot()?);
        Ok(View { snapshot, names: Names::of(keyspace), cache: Arc::clone(&self.cache) })
    }

    /// The chunks of a keyspace, in the order of their keys.
    ///
    /// # Errors
    /// When the engine fails, or a chunk is damaged.
    pub fn chunks(&self, keyspace: Keyspace<'_>) -> Result<Vec<ChunkInfo>, StorageError> {
        let view = self.view(keyspace)?;
        let heads = view.snapshot.scan(&view.names.heads, &KeyRange::default(), Direction::Forward)?;
        let info = |entry: Result<(Vec<u8>, Vec<u8>), StorageError>| {
            let (first_key, head) = entry?;
            let head = view.head(&head)?;
            Ok(ChunkInfo {
                first_key,
                rows: head.rows,
                whole_rows: head.whole_rows,
                raw_bytes: head.raw_bytes,
                stored_bytes: head.body_bytes() as u64,
                columns: head.columns.into_iter().map(|column| (column.name, column.statistics)).collect(),
                last_key: head.last_key,
            })
        };
        heads.map(info).collect()
    }

    /// Removes chunks by their first keys, without reading them. Rows that were put since they were packed stay; a key that
    /// no chunk begins with is no error.
    ///
    /// # Errors
    /// When the engine fails: then none is removed, or that is not known.
    pub fn remove_chunks(&self, keyspace: Keyspace<'_>, first_keys: &[&[u8]]) -> Result<(), StorageError> {
        self.lock().remove_chunks(keyspace, first_keys)
    }

    /// What is packed in all keyspaces.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.lock().totals()
    }
}

impl StorageEngine for PackedEngine {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.get_many(keyspace, &[key])?.pop().flatten())
    }

    fn get_many(&self, keyspace: Keyspace<'_>, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        // Out of one snapshot: what leaves the rows is in a chunk, but not in every order of reading.
        self.view(keyspace)?.get_many(keys)
    }

    fn commit(&self, batch: &WriteBatch, durability: Durability) -> Result<(), StorageError> {
        self.lock().commit(batch, durability)
    }

    fn snapshot(&self) -> Result<Box<dyn StorageSnapshot>, StorageError> {
        Ok(Box::new(Snapshot { inner: Arc::from(self.inner.snapshot()?), cache: Arc::clone(&self.cache) }))
    }

    fn drop_keyspace(&self, keyspace: Keyspace<'_>) -> Result<(), StorageError> {
        self.lock().drop_keyspace(keyspace)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.inner.flush()
    }

    fn statistics(&self) -> Datum {
        let packer = self.lock();
        let Totals { chunks, rows, raw_bytes, stored_bytes } = packer.totals();
        let disk_bytes = self.inner.statistics().get("disk_bytes").cloned();
        Datum::object([
            ("engine", Datum::from(self.name)),
            ("chunks", chunks.into()),
            ("packed_rows", rows.into()),
            ("raw_bytes", raw_bytes.into()),
            ("packed_bytes", stored_bytes.into()),
            ("disk_bytes", disk_bytes.into()),
            ("packing_failure", packer.failure().into()),
        ])
    }
}

struct Snapshot {
    inner: Arc<dyn StorageSnapshot>,
    cache: Arc<Cache>,
}

impl Snapshot {
    fn view(&self, keyspace: &str) -> View {
        View { snapshot: Arc::clone(&self.inner), names: Names::of(keyspace), cache: Arc::clone(&self.cache) }
    }
}

impl StorageSnapshot for Snapshot {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.get_many(keyspace, &[key])?.pop().flatten())
    }

    fn get_many(&self, keyspace: Keyspace<'_>, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        self.view(keyspace).get_many(keys)
    }

    fn scan(
        &self,
        keyspace: Keyspace<'_>,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<EntryIterator, StorageError> {
        self.scan_selected(keyspace, range, direction, &Selection::default())
    }

    fn scan_selected(
        &self,
        keyspace: Keyspace<'_>,
        range: &KeyRange,
        direction: Direction,
        selection: &Selection,
    ) -> Result<EntryIterator, StorageError> {
        Ok(Box::new(Scan::begin(self.view(keyspace), range, direction, selection)?))
    }
}
