//! A storage engine that keeps tables in memory, and nowhere else.
//!
//! Each keyspace is a persistent B-tree (`imbl`): a snapshot is a copy of its root, and shares all else with what goes on.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use imbl::OrdMap;
use photondb_plugin_sdk::kinds::storage::{Change, Entry, whole_option};
use photondb_plugin_sdk::prelude::*;

/// Entries that a scan copies at a time.
const AT_A_TIME: usize = 128;
/// What an entry takes beside its bytes, roughly: two reference counts, two pointers, its share of a node.
const ENTRY_OVERHEAD: usize = 96;
/// The option that bounds a table.
const MAX_MB: &str = "max_mb";

/// The plugin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory;

impl Plugin for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn register(&self, registry: &mut PluginRegistry) {
        registry.storage_engine(Self);
    }
}

impl StorageEnginePlugin for Memory {
    fn engine_type(&self) -> &str {
        "memory"
    }

    fn validate(&self, options: &Datum) -> Result<(), PluginError> {
        max_bytes(options).map(drop)
    }

    fn open(&self, config: &StorageConfig) -> Result<Box<dyn StorageEngine>, PluginError> {
        Ok(Box::new(MemoryEngine { max_bytes: max_bytes(&config.options)?, contents: RwLock::default() }))
    }
}

fn max_bytes(options: &Datum) -> Result<usize, PluginError> {
    let mut max = usize::MAX;
    for (key, value) in options.as_object().into_iter().flat_map(|options| options.iter()) {
        if &**key != MAX_MB {
            let message = format!("unknown option `{key}`; the engine `memory` knows `{MAX_MB}`");
            return Err(PluginError::argument(message));
        }
        max = (whole_option(MAX_MB, value, 1..=1_048_576)? as usize) << 20;
    }
    Ok(max)
}

type Map = OrdMap<Arc<[u8]>, Arc<[u8]>>;
type Shared = (Arc<[u8]>, Arc<[u8]>);
type Keyspaces = OrdMap<Arc<str>, Map>;

#[derive(Clone, Default)]
struct Contents {
    keyspaces: Keyspaces,
    /// Of all entries, with what they take beside their bytes.
    bytes: usize,
}

/// A table, while its process lives.
#[derive(Default)]
struct MemoryEngine {
    max_bytes: usize,
    contents: RwLock<Contents>,
}

impl MemoryEngine {
    fn contents(&self) -> RwLockReadGuard<'_, Contents> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + ENTRY_OVERHEAD
}

impl Contents {
    fn apply(&mut self, change: &Change) {
        let key = &*change.key;
        let removed = match &change.value {
            Some(value) => {
                self.bytes += size(key, value);
                let map = self.keyspaces.entry(Arc::clone(&change.keyspace)).or_default();
                map.insert(key.into(), value.as_slice().into())
            }
            None => self.keyspaces.get_mut(&*change.keyspace).and_then(|map| map.remove(key)),
        };
        self.bytes -= removed.map_or(0, |removed| size(key, &removed));
    }
}

impl StorageEngine for MemoryEngine {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(value(&self.contents().keyspaces, keyspace, key))
    }

    fn get_many(&self, keyspace: Keyspace<'_>, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        let contents = self.contents();
        Ok(keys.iter().map(|key| value(&contents.keyspaces, keyspace, key)).collect())
    }

    fn commit(&self, batch: &WriteBatch, _: Durability) -> Result<(), StorageError> {
        if batch.changes.iter().any(|change| change.key.is_empty()) {
            return Err(StorageError::Failed("a key has 1 to 65,535 bytes, found 0".to_owned()));
        }
        let growth: usize = batch.changes.iter().filter_map(|c| Some(size(&c.key, c.value.as_ref()?))).sum();
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        // What it removes is not counted: an update of a table that is nearly full may be refused, a removal never.
        if growth > 0 && contents.bytes.saturating_add(growth) > self.max_bytes {
            let megabytes = self.max_bytes >> 20;
            return Err(StorageError::Failed(format!(
                "the table is full: it was created with `{MAX_MB}` {megabytes}; delete documents, or create a larger table"
            )));
        }
        // Readers see all of it or nothing: they wait.
        batch.changes.iter().for_each(|change| contents.apply(change));
        Ok(())
    }

    fn snapshot(&self) -> Result<Box<dyn StorageSnapshot>, StorageError> {
        Ok(Box::new(MemorySnapshot(self.contents().keyspaces.clone())))
    }

    fn drop_keyspace(&self, keyspace: Keyspace<'_>) -> Result<(), StorageError> {
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        let dropped = contents.keyspaces.remove(keyspace).unwrap_or_default();
        contents.bytes -= dropped.iter().map(|(key, value)| size(key, value)).sum::<usize>();
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn statistics(&self) -> Datum {
        let contents = self.contents();
        Datum::object([
            ("engine", Datum::from("memory")),
            ("entries", contents.keyspaces.values().map(OrdMap::len).sum::<usize>().into()),
            ("memory_bytes", contents.bytes.into()),
        ])
    }
}

fn value(keyspaces: &Keyspaces, keyspace: &str, key: &[u8]) -> Option<Vec<u8>> {
    keyspaces.get(keyspace)?.get(key).map(|value| value.to_vec())
}

/// All keyspaces at one moment.
struct MemorySnapshot(Keyspaces);

impl StorageSnapshot for MemorySnapshot {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(value(&self.0, keyspace, key))
    }

    fn scan(
        &self,
        keyspace: Keyspace<'_>,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<EntryIterator, StorageError> {
        let start = Bound::Included(Arc::from(range.start.as_slice()));
        let end = range.end.as_deref().map_or(Bound::Unbounded, |end| Bound::Excluded(Arc::from(end)));
        let map = self.0.get(keyspace).cloned().unwrap_or_default();
        let is_empty = range.end.as_ref().is_some_and(|end| *end <= range.start);
        let map = if is_empty { Map::default() } else { map };
        Ok(Box::new(MemoryScan { map, start, end, direction, read: VecDeque::new() }))
    }
}

/// A scan that owns its map, and so copies some entries at a time.
struct MemoryScan {
    map: Map,
    /// What is left of the range.
    start: Bound<Arc<[u8]>>,
    end: Bound<Arc<[u8]>>,
    direction: Direction,
    read: VecDeque<Shared>,
}

impl Iterator for MemoryScan {
    type Item = Result<Entry, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.read.is_empty() {
            let entries = self.map.range::<_, Arc<[u8]>>((self.start.clone(), self.end.clone()));
            let owned = |(key, value): (&Arc<[u8]>, &Arc<[u8]>)| (Arc::clone(key), Arc::clone(value));
            match self.direction {
                Direction::Forward => self.read.extend(entries.take(AT_A_TIME).map(owned)),
                Direction::Backward => self.read.extend(entries.rev().take(AT_A_TIME).map(owned)),
            }
            let last = self.read.back().map(|(key, _)| Bound::Excluded(Arc::clone(key)));
            match (last, self.direction) {
                (None, _) => self.map = Map::default(),
                (Some(last), Direction::Forward) => self.start = last,
                (Some(last), Direction::Backward) => self.end = last,
            }
            if matches!((&self.start, &self.end), (Bound::Excluded(start), Bound::Excluded(end)) if start >= end) {
                self.map = Map::default();
            }
        }
        let (key, value) = self.read.pop_front()?;
        Some(Ok((key.to_vec(), value.to_vec())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(options: Datum) -> Result<Box<dyn StorageEngine>, PluginError> {
        Memory.open(&StorageConfig { directory: std::path::PathBuf::new(), cache_bytes: 0, options })
    }

    #[test]
    fn options_are_checked() {
        assert!(Memory.validate(&Datum::object([(MAX_MB, 16)])).is_ok());
        for (options, hint) in [
            (Datum::object([("max_gb", 16)]), "unknown option `max_gb`"),
            (Datum::object([(MAX_MB, 0)]), "whole number from 1"),
            (Datum::object([(MAX_MB, "16")]), "`max_mb` is \"16\""),
        ] {
            let error = Memory.validate(&options).expect_err(hint);
            assert!(error.message().contains(hint), "{error}");
        }
    }

    #[test]
    fn a_full_table_takes_removals_and_says_so() {
        let engine = open(Datum::object([(MAX_MB, 1)])).expect("opens");
        let mut batch = WriteBatch::default();
        batch.put("k", *b"a", vec![0; 900_000]);
        engine.commit(&batch, Durability::Soft).expect("room");
        let error = engine.commit(&batch, Durability::Soft).expect_err("no room").to_string();
        assert!(error.contains("full") && error.contains("max_mb"), "{error}");
        let mut removal = WriteBatch::default();
        removal.delete("k", *b"a");
        engine.commit(&removal, Durability::Soft).expect("a removal");
        assert_eq!(engine.statistics().get("memory_bytes"), Some(&0.into()));
        engine.commit(&batch, Durability::Soft).expect("room again");
    }
}
