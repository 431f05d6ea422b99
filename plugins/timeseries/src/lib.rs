//! A storage engine for measurements: documents in [compressed chunks](photondb_packed) over a file of redb, which go by age or
//! size, and of which older ones are summed up (`summary`).
//!
//! Documents never go by the engine's own hand: index entries and counts are the server's. It is asked (`upkeep`) what is to
//! go, and gets it back as ordinary writes.

#![forbid(unsafe_code)]

mod options;
mod summary;
mod upkeep;

use std::sync::{Arc, Mutex, PoisonError};

use photondb_packed::{PackedEngine, PackedOptions, Totals};
use photondb_plugin_redb::Redb;
use photondb_plugin_sdk::prelude::*;

use options::Options;
use upkeep::{Answer, Looks};

/// The plugin.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimeSeries;

impl Plugin for TimeSeries {
    fn name(&self) -> &str {
        "timeseries"
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn register(&self, registry: &mut PluginRegistry) {
        registry.storage_engine(Self);
    }
}

impl StorageEnginePlugin for TimeSeries {
    fn engine_type(&self) -> &str {
        "timeseries"
    }

    fn validate(&self, options: &Datum) -> Result<(), PluginError> {
        Options::read(options, 0).map(drop)
    }

    fn open(&self, config: &StorageConfig) -> Result<Box<dyn StorageEngine>, PluginError> {
        config.directory_for("timeseries")?;
        let options = Options::read(&config.options, config.cache_bytes)?;
        // One half for pages of the file, the other for what was read of chunks.
        let cache_bytes = options.cache_bytes / 2;
        let inner = StorageConfig { cache_bytes, options: Datum::object::<&str, Datum>([]), ..config.clone() };
        let packed_options = PackedOptions {
            engine: "timeseries",
            chunk_rows: options.chunk_rows,
            cache_bytes: usize::try_from(cache_bytes).unwrap_or(usize::MAX),
            ..PackedOptions::default()
        };
        let packed = PackedEngine::open(Arc::from(Redb.open(&inner)?), packed_options)?;
        Ok(Box::new(Engine { packed, options, looks: Mutex::default() }))
    }
}

struct Engine {
    packed: PackedEngine,
    options: Options,
    looks: Mutex<Looks>,
}

impl StorageEngine for Engine {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.packed.get(keyspace, key)
    }

    fn get_many(&self, keyspace: Keyspace<'_>, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        self.packed.get_many(keyspace, keys)
    }

    fn commit(&self, batch: &WriteBatch, durability: Durability) -> Result<(), StorageError> {
        self.packed.commit(batch, durability)
    }

    fn snapshot(&self) -> Result<Box<dyn StorageSnapshot>, StorageError> {
        self.packed.snapshot()
    }

    fn drop_keyspace(&self, keyspace: Keyspace<'_>) -> Result<(), StorageError> {
        self.packed.drop_keyspace(keyspace)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.packed.flush()
    }

    fn statistics(&self) -> Datum {
        let Totals { raw_bytes, stored_bytes, .. } = self.packed.totals();
        let compression = (stored_bytes > 0).then(|| raw_bytes as f64 / stored_bytes as f64);
        let packed = self.packed.statistics();
        let packed = packed.as_object().into_iter().flat_map(|packed| packed.iter());
        let packed = packed.map(|(name, value)| (Arc::clone(name), value.clone()));
        Datum::object(packed.chain([("compression".into(), compression.into())]))
    }

    fn upkeep(&self, request: &UpkeepRequest<'_>) -> Result<Option<Upkeep>, StorageError> {
        if !self.options.want_upkeep() {
            return Ok(None);
        }
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        Answer::new(&self.packed, &self.options, request).upkeep(&mut looks).map(Some)
    }
}
