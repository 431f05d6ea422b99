//! Storage engines over a lane: an honest one keeps to the contract, and one that lies is caught.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use photondb_plugin_sdk::kinds::storage::Entry;
use photondb_plugin_sdk::prelude::*;
use photondb_plugin_sdk::testing::Harness;
use photondb_plugin_sdk::testing::engine::{Persistence, check};

type Maps = BTreeMap<Arc<str>, BTreeMap<Vec<u8>, Vec<u8>>>;

/// What an engine does to the entries of a scan.
type Lie = fn(Vec<Entry>) -> Vec<Entry>;

/// An engine that is a map, copied for each snapshot.
struct Map {
    maps: Mutex<Arc<Maps>>,
    lie: Lie,
}

struct View(Arc<Maps>, Lie);

impl StorageEngine for Map {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.snapshot()?.get(keyspace, key)
    }

    fn commit(&self, batch: &WriteBatch, _: Durability) -> Result<(), StorageError> {
        if batch.changes.iter().any(|change| change.key.is_empty()) {
            return Err(StorageError::Failed("an empty key".into()));
        }
        let mut maps = self.maps.lock().expect("no panic");
        for change in &batch.changes {
            let map = Arc::make_mut(&mut maps).entry(Arc::clone(&change.keyspace)).or_default();
            match change.value.clone() {
                Some(value) => map.insert(change.key.clone(), value),
                None => map.remove(&change.key),
            };
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<Box<dyn StorageSnapshot>, StorageError> {
        Ok(Box::new(View(Arc::clone(&self.maps.lock().expect("no panic")), self.lie)))
    }

    fn drop_keyspace(&self, keyspace: Keyspace<'_>) -> Result<(), StorageError> {
        Arc::make_mut(&mut self.maps.lock().expect("no panic")).remove(keyspace);
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn statistics(&self) -> Datum {
        Datum::object([("engine", "map")])
    }
}

impl StorageSnapshot for View {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.0.get(keyspace).and_then(|map| map.get(key)).cloned())
    }

    fn scan(
        &self,
        keyspace: Keyspace<'_>,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<EntryIterator, StorageError> {
        let is_within = |key: &Vec<u8>| *key >= range.start && range.end.as_ref().is_none_or(|end| key < end);
        let entries = self.0.get(keyspace).into_iter().flatten().filter(|(key, _)| is_within(key));
        let mut entries: Vec<Entry> = entries.map(|(key, value)| (key.clone(), value.clone())).collect();
        if direction == Direction::Backward {
            entries.reverse();
        }
        Ok(Box::new((self.1)(entries).into_iter().map(Ok)))
    }
}

struct Kind(Lie);

impl StorageEnginePlugin for Kind {
    fn engine_type(&self) -> &str {
        "map"
    }

    fn open(&self, _: &StorageConfig) -> Result<Box<dyn StorageEngine>, PluginError> {
        Ok(Box::new(Map { maps: Mutex::default(), lie: self.0 }))
    }
}

struct Engines(Lie);

impl Plugin for Engines {
    fn name(&self) -> &str {
        "maps"
    }

    fn version(&self) -> &str {
        "1.0.0"
    }

    fn register(&self, registry: &mut PluginRegistry) {
        registry.storage_engine(Kind(self.0));
    }
}

fn honest(entries: Vec<Entry>) -> Vec<Entry> {
    entries
}

#[test]
fn an_engine_over_a_lane_keeps_to_the_contract() {
    let harness = Harness::start(Engines(honest));
    check(Persistence::Volatile, &mut || {
        harness.open_engine("map", "d", &Datum::object::<&str, Datum>([])).expect("opens")
    });
}

#[test]
fn options_that_an_engine_does_not_know_are_named() {
    let harness = Harness::start(Engines(honest));
    let error = harness.open_engine("map", "d", &Datum::object([("size", 1)])).map(drop).expect_err("no options");
    assert!(error.message().contains("unknown option `size`") && error.message().contains("`map`"), "{error}");
    let none = harness.open_engine("map", "../d", &Datum::object::<&str, Datum>([])).map(drop).expect_err("no name");
    assert!(none.message().contains("directory"), "{none}");
}

#[test]
fn keys_out_of_order_or_out_of_range_end_the_process() {
    let lies: [Lie; 4] = [
        |mut entries| {
            entries.swap(3, 4);
            entries
        },
        |mut entries| {
            entries.insert(1, entries[0].clone());
            entries
        },
        |mut entries| {
            entries.push((vec![200], vec![]));
            entries
        },
        |mut entries| {
            entries.insert(0, (vec![], vec![]));
            entries
        },
    ];
    for lie in lies {
        let harness = Harness::start(Engines(lie));
        let engine = harness.open_engine("map", "d", &Datum::object::<&str, Datum>([])).expect("opens");
        let mut batch = WriteBatch::default();
        (0..100_u8).for_each(|number| batch.put("k", [number], [number]));
        engine.commit(&batch, Durability::Soft).expect("commits");
        let snapshot = engine.snapshot().expect("a snapshot");
        let range = KeyRange { start: vec![0], end: Some(vec![150]) };
        let failure = snapshot.scan("k", &range, Direction::Forward).expect("begins").find_map(Result::err);
        assert!(matches!(failure, Some(StorageError::Closed(_))), "{failure:?}");
        assert!(engine.get("k", &[1]).is_err(), "nobody calls it any more");
    }
}

#[test]
fn what_is_dropped_is_freed_in_the_process() {
    let harness = Harness::start(Engines(honest));
    let engine = harness.open_engine("map", "d", &Datum::object::<&str, Datum>([])).expect("opens");
    let mut batch = WriteBatch::default();
    (0..5000_u32).for_each(|number| batch.put("k", number.to_be_bytes(), [0; 100]));
    engine.commit(&batch, Durability::Soft).expect("commits");
    // More than may be open at a time.
    for _ in 0..10_000 {
        let snapshot = engine.snapshot().expect("a snapshot");
        let mut scan = snapshot.scan("k", &KeyRange::default(), Direction::Forward).expect("a scan");
        assert!(scan.next().is_some());
    }
    let held: Vec<_> = (0..4096).map(|_| engine.snapshot().expect("a snapshot")).collect();
    let error = engine.snapshot().map(drop).expect_err("too many").to_string();
    assert!(error.contains("4096"), "{error}");
    drop(held);
    engine.snapshot().expect("room again");
}
