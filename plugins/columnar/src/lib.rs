//! A storage engine whose documents lie in columns: chunks of `photondb-packed`, in a file of `redb`.
//!
//! Scans read the columns that a query needs, and leave out chunks whose statistics say that no document matches.

#![forbid(unsafe_code)]

use std::sync::Arc;

use photondb_packed::{PackedEngine, PackedOptions};
use photondb_plugin_redb::Redb;
use photondb_plugin_sdk::kinds::storage::whole_option;
use photondb_plugin_sdk::prelude::*;

/// The option for the rows of a chunk.
const CHUNK_ROWS: &str = "chunk_rows";
/// The option for caches.
const CACHE_MB: &str = "cache_mb";

/// The plugin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Columnar;

impl Plugin for Columnar {
    fn name(&self) -> &str {
        "columnar"
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn register(&self, registry: &mut PluginRegistry) {
        registry.storage_engine(Self);
    }
}

impl StorageEnginePlugin for Columnar {
    fn engine_type(&self) -> &str {
        "columnar"
    }

    fn validate(&self, options: &Datum) -> Result<(), PluginError> {
        Options::read(options, 0).map(drop)
    }

    fn open(&self, config: &StorageConfig) -> Result<Box<dyn StorageEngine>, PluginError> {
        config.directory_for("columnar")?;
        let Options { chunk_rows, cache_bytes } = Options::read(&config.options, config.cache_bytes)?;
        let options = Datum::object::<&str, Datum>([]);
        // One half for pages of the file, the other for what was read of chunks.
        let inner = StorageConfig { cache_bytes: cache_bytes / 2, options, ..config.clone() };
        let cache_bytes = usize::try_from(cache_bytes / 2).unwrap_or(usize::MAX);
        let options = PackedOptions { engine: "columnar", chunk_rows, cache_bytes, ..PackedOptions::default() };
        Ok(Box::new(PackedEngine::open(Arc::from(Redb.open(&inner)?), options)?))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    chunk_rows: usize,
    cache_bytes: u64,
}

impl Options {
    fn read(options: &Datum, cache_bytes: u64) -> Result<Self, PluginError> {
        let mut read = Self { chunk_rows: PackedOptions::default().chunk_rows, cache_bytes };
        for (key, value) in options.as_object().into_iter().flat_map(|options| options.iter()) {
            match &**key {
                CHUNK_ROWS => read.chunk_rows = whole_option(key, value, 256..=65_536)? as usize,
                CACHE_MB => read.cache_bytes = whole_option(key, value, 1..=65_536)? << 20,
                _ => {
                    let message =
                        format!("unknown option `{key}`; the engine `columnar` knows `{CACHE_MB}` and `{CHUNK_ROWS}`");
                    return Err(PluginError::argument(message));
                }
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let read = |options: Datum| Options::read(&options, 7);
        assert_eq!(read(Datum::Null), Ok(Options { chunk_rows: 4096, cache_bytes: 7 }));
        let options = Datum::object([(CACHE_MB, 64), (CHUNK_ROWS, 1024)]);
        assert_eq!(read(options), Ok(Options { chunk_rows: 1024, cache_bytes: 64 << 20 }));
        for (options, hint) in [
            (Datum::object([("cache", 16)]), "unknown option `cache`; the engine `columnar` knows `cache_mb` and"),
            (Datum::object([(CACHE_MB, 0)]), "`cache_mb` is 0; it must be a whole number from 1 to 65536"),
            (
                Datum::object([(CHUNK_ROWS, 255.5)]),
                "`chunk_rows` is 255.5; it must be a whole number from 256 to 65536",
            ),
        ] {
            let error = Columnar.validate(&options).expect_err(hint);
            assert!(error.message().contains(hint), "{error}");
        }
    }

    #[test]
    fn without_a_directory_it_says_what_to_grant() {
        let config = StorageConfig { directory: std::path::PathBuf::new(), cache_bytes: 0, options: Datum::Null };
        let error = Columnar.open(&config).map(drop).expect_err("no directory");
        assert!(error.message().contains("[plugins.grants.columnar]"), "{error}");
    }
}
