//! What every storage engine has to keep to.
//!
//! ```no_run
//! # use photondb_plugin_sdk::prelude::*;
//! # fn open() -> Box<dyn StorageEngine> { unimplemented!() }
//! use photondb_plugin_sdk::testing::engine::{Persistence, check};
//!
//! check(Persistence::Durable, &mut || open());
//! ```

pub mod crash;

use std::collections::BTreeMap;

use crate::Datum;
use crate::kinds::storage::{
    Direction, Durability, Entry, KeyRange, StorageEngine, StorageError, StorageSnapshot, WriteBatch,
};

/// What is left of an engine that is closed and opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// All that was flushed.
    Durable,
    /// Nothing.
    Volatile,
}

/// Opens an engine: the same one each time, which is empty at first and which nobody else has open. The one before is
/// dropped before.
pub type Open<'a> = dyn FnMut() -> Box<dyn StorageEngine> + 'a;

/// One part of the contract.
#[derive(Clone, Copy)]
pub struct Check {
    /// What it checks, for people.
    pub name: &'static str,
    run: Run,
}

#[derive(Clone, Copy)]
enum Run {
    /// Of an engine that is open.
    Opened(fn(&dyn StorageEngine)),
    /// Of one that is opened several times.
    Opening(fn(Persistence, &mut Open<'_>)),
}

impl Check {
    /// Runs it. An engine may go through several checks, one after the other.
    ///
    /// # Panics
    /// Where the engine does not keep to it; the message says in what.
    pub fn run(&self, persistence: Persistence, open: &mut Open<'_>) {
        match self.run {
            Run::Opened(run) => run(&*open()),
            Run::Opening(run) => run(persistence, open),
        }
    }
}

/// The whole contract.
pub const CHECKS: [Check; 9] = {
    use Run::{Opened, Opening};
    [
        Check { name: "keys are ordered by their bytes", run: Opened(keys_are_ordered_by_their_bytes) },
        Check { name: "batches are atomic", run: Opened(batches_are_atomic_and_the_later_change_wins) },
        Check { name: "snapshots do not change", run: Opened(snapshots_do_not_change) },
        Check { name: "ranges are half-open, both ways", run: Opened(ranges_are_half_open_in_both_directions) },
        Check { name: "dropped keyspaces are empty", run: Opened(dropped_keyspaces_are_empty) },
        Check { name: "large values come back", run: Opened(large_values_come_back) },
        Check { name: "statistics are an object", run: Opened(statistics_are_an_object) },
        Check { name: "what was flushed is there later", run: Opening(what_was_flushed_is_there_after_reopening) },
        Check { name: "600 random steps, as of a map", run: Opening(a_model_agrees) },
    ]
};

/// Holds an engine to the whole contract.
///
/// # Panics
/// Where the engine does not keep to it; the message says in what.
pub fn check(persistence: Persistence, open: &mut Open<'_>) {
    CHECKS.iter().for_each(|check| check.run(persistence, open));
}

fn commit(engine: &dyn StorageEngine, batch: &WriteBatch, durability: Durability) {
    engine.commit(batch, durability).expect("the batch is committed");
}

fn all(snapshot: &dyn StorageSnapshot, keyspace: &str, range: &KeyRange, direction: Direction) -> Vec<Entry> {
    let entries = snapshot.scan(keyspace, range, direction).expect("the scan begins");
    entries.collect::<Result<_, StorageError>>().expect("the scan goes to its end")
}

fn everything(engine: &dyn StorageEngine, keyspace: &str) -> Vec<Entry> {
    all(&*engine.snapshot().expect("a snapshot"), keyspace, &KeyRange::default(), Direction::Forward)
}

fn keys_are_ordered_by_their_bytes(engine: &dyn StorageEngine) {
    let longest = vec![b'k'; usize::from(u16::MAX)];
    let mut keys: Vec<Vec<u8>> =
        vec![vec![0], vec![0, 0], vec![0, 1], vec![1], b"a".to_vec(), b"a\0".to_vec(), b"ab".to_vec(), vec![255; 3]];
    keys.push(longest);
    let mut batch = WriteBatch::default();
    keys.iter().rev().for_each(|key| batch.put("order", key.clone(), key.clone()));
    commit(engine, &batch, Durability::Hard);
    keys.sort();
    let found: Vec<Vec<u8>> = everything(engine, "order").into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, keys, "a scan gives the keys in the order of their bytes");
    for key in &keys {
        assert_eq!(engine.get("order", key).expect("a read").as_ref(), Some(key), "every key is found");
    }
    assert_eq!(engine.get("order", b"absent").expect("a read"), None);
    assert_eq!(engine.get("no such keyspace", b"a").expect("a read"), None, "a keyspace need not exist");
    let many: Vec<&[u8]> = [&b"ab"[..], b"absent", b"a", b"ab"].to_vec();
    let values = engine.get_many("order", &many).expect("a read");
    assert_eq!(
        values,
        [Some(b"ab".to_vec()), None, Some(b"a".to_vec()), Some(b"ab".to_vec())],
        "in the order asked for"
    );
}

fn batches_are_atomic_and_the_later_change_wins(engine: &dyn StorageEngine) {
    let mut batch = WriteBatch::default();
    batch.put("one", *b"a", *b"1");
    batch.put("two", *b"a", *b"2");
    batch.put("one", *b"b", *b"3");
    batch.put("one", *b"a", *b"4");
    batch.delete("one", *b"b");
    batch.delete("one", *b"never there");
    batch.put("two", *b"empty", *b"");
    commit(engine, &batch, Durability::Soft);
    assert_eq!(engine.get("one", b"a").expect("a read"), Some(b"4".to_vec()), "the later change of a key wins");
    assert_eq!(engine.get("one", b"b").expect("a read"), None, "the later change of a key wins");
    assert_eq!(engine.get("two", b"a").expect("a read"), Some(b"2".to_vec()), "a batch changes several keyspaces");
    assert_eq!(engine.get("two", b"empty").expect("a read"), Some(Vec::new()), "an empty value is a value");
    let mut wrong = WriteBatch::default();
    wrong.put("one", *b"c", *b"5");
    wrong.put("one", *b"", *b"6");
    let refused = engine.commit(&wrong, Durability::Soft);
    assert!(matches!(refused, Err(StorageError::Failed(_))), "an empty key is refused: {refused:?}");
    assert_eq!(engine.get("one", b"c").expect("a read"), None, "nothing of a batch that failed is there");
}

fn snapshots_do_not_change(engine: &dyn StorageEngine) {
    let mut batch = WriteBatch::default();
    (0..100_u8).for_each(|number| batch.put("view", [number], [number]));
    commit(engine, &batch, Durability::Soft);
    let before = engine.snapshot().expect("a snapshot");
    let mut running = before.scan("view", &KeyRange::default(), Direction::Forward).expect("a scan");
    let first = running.next().expect("an entry").expect("an entry");
    assert_eq!(first.0, [0]);
    let mut batch = WriteBatch::default();
    (0..100_u8).filter(|number| number % 2 == 0).for_each(|number| batch.delete("view", [number]));
    batch.put("view", [1], *b"changed");
    batch.put("view", [200], *b"new");
    batch.put("view of later", *b"k", *b"v");
    commit(engine, &batch, Durability::Hard);
    assert_eq!(before.get("view", &[2]).expect("a read"), Some(vec![2]), "a snapshot keeps what was removed later");
    assert_eq!(before.get("view", &[1]).expect("a read"), Some(vec![1]), "a snapshot keeps what was changed later");
    assert_eq!(before.get("view", &[200]).expect("a read"), None, "a snapshot does not see what came later");
    assert_eq!(before.get("view of later", b"k").expect("a read"), None, "nor a keyspace that came later");
    assert_eq!(running.count(), 99, "a scan that runs sees its snapshot");
    assert_eq!(all(&*before, "view", &KeyRange::default(), Direction::Backward).len(), 100);
    drop(before);
    assert_eq!(everything(engine, "view").len(), 51, "a new snapshot sees everything");
}

fn ranges_are_half_open_in_both_directions(engine: &dyn StorageEngine) {
    let mut batch = WriteBatch::default();
    // Enough for many pages of a scan over a lane.
    (0..20_000_u32).for_each(|number| batch.put("range", number.to_be_bytes(), vec![number as u8; 40]));
    commit(engine, &batch, Durability::Soft);
    let snapshot = engine.snapshot().expect("a snapshot");
    let key = |number: u32| number.to_be_bytes().to_vec();
    let numbers = |start: Vec<u8>, end: Option<Vec<u8>>, direction| -> Vec<u32> {
        let entries = all(&*snapshot, "range", &KeyRange { start, end }, direction);
        entries.iter().map(|(key, _)| u32::from_be_bytes(key.as_slice().try_into().expect("four bytes"))).collect()
    };
    assert!(numbers(Vec::new(), None, Direction::Forward).into_iter().eq(0..20_000));
    assert!(numbers(Vec::new(), None, Direction::Backward).into_iter().eq((0..20_000).rev()));
    assert!(numbers(key(5), Some(key(9)), Direction::Forward).into_iter().eq(5..9), "the end is not part of a range");
    assert!(numbers(key(5), Some(key(9)), Direction::Backward).into_iter().eq((5..9).rev()));
    assert!(numbers(key(19_990), None, Direction::Backward).into_iter().eq((19_990..20_000).rev()));
    assert!(numbers(vec![0, 0, 0], Some(vec![0, 0, 1]), Direction::Forward).into_iter().eq(0..256), "of any length");
    for (start, end) in [(9, 9), (9, 5), (30_000, 40_000)] {
        assert!(numbers(key(start), Some(key(end)), Direction::Forward).is_empty(), "an empty range is no error");
        assert!(numbers(key(start), Some(key(end)), Direction::Backward).is_empty());
    }
    let values = snapshot.scan_values("range", &KeyRange { start: key(7), end: None }, Direction::Forward);
    let first = values.expect("a scan").next().expect("a value").expect("a value");
    assert_eq!(first, vec![7; 40], "a scan of values gives those of the entries");
}

fn dropped_keyspaces_are_empty(engine: &dyn StorageEngine) {
    let mut batch = WriteBatch::default();
    batch.put("dropped", *b"k", *b"v");
    batch.put("kept", *b"k", *b"v");
    commit(engine, &batch, Durability::Hard);
    engine.drop_keyspace("dropped").expect("dropping a keyspace");
    engine.drop_keyspace("dropped").expect("an absent keyspace is no error");
    assert_eq!(engine.get("dropped", b"k").expect("a read"), None);
    assert_eq!(everything(engine, "dropped"), []);
    let mut batch = WriteBatch::default();
    batch.delete("dropped", *b"k");
    commit(engine, &batch, Durability::Soft);
    let mut batch = WriteBatch::default();
    batch.put("dropped", *b"n", *b"v");
    commit(engine, &batch, Durability::Soft);
    assert_eq!(everything(engine, "dropped").len(), 1, "a keyspace that was dropped can be used again");
    assert_eq!(everything(engine, "kept").len(), 1, "others stay");
}

fn large_values_come_back(engine: &dyn StorageEngine) {
    let value = |bytes: usize| -> Vec<u8> { (0..bytes).map(|at| (at * 31 % 251) as u8).collect() };
    // Around what one message of a lane takes, and several of them.
    let sizes = [0, 1, 65_536, (1 << 20) - 65_560, (1 << 20) - 6, 1 << 20, (1 << 20) + 1, 5_000_000];
    let mut batch = WriteBatch::default();
    for (number, bytes) in (0_u8..).zip(sizes) {
        batch.put("large", [number], value(bytes));
    }
    commit(engine, &batch, Durability::Hard);
    let keys: Vec<[u8; 1]> = (0..sizes.len() as u8).map(|number| [number]).collect();
    let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    let values = engine.get_many("large", &keys).expect("a read");
    for (found, bytes) in values.iter().zip(sizes) {
        assert!(found.as_ref() == Some(&value(bytes)), "a value of {bytes} bytes comes back");
    }
    let snapshot = engine.snapshot().expect("a snapshot");
    for direction in [Direction::Forward, Direction::Backward] {
        let entries = all(&*snapshot, "large", &KeyRange::default(), direction);
        assert_eq!(entries.len(), sizes.len());
        for (key, found) in entries {
            assert!(found == value(sizes[usize::from(key[0])]), "a scan gives values of any size");
        }
    }
    engine.drop_keyspace("large").expect("dropping a keyspace");
}

fn statistics_are_an_object(engine: &dyn StorageEngine) {
    let statistics = engine.statistics();
    assert!(matches!(statistics, Datum::Object(_)), "statistics are an object, found {statistics:?}");
}

fn what_was_flushed_is_there_after_reopening(persistence: Persistence, open: &mut Open<'_>) {
    let engine = open();
    let mut batch = WriteBatch::default();
    batch.put("reopened", *b"soft", *b"1");
    commit(&*engine, &batch, Durability::Soft);
    engine.flush().expect("a flush");
    let mut batch = WriteBatch::default();
    batch.put("reopened", *b"hard", *b"2");
    commit(&*engine, &batch, Durability::Hard);
    drop(engine);
    let found = everything(&*open(), "reopened");
    let expected = match persistence {
        Persistence::Durable => vec![(b"hard".to_vec(), b"2".to_vec()), (b"soft".to_vec(), b"1".to_vec())],
        Persistence::Volatile => Vec::new(),
    };
    assert_eq!(found, expected, "after it was closed and opened again");
}

/// A generator of the same numbers each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        // Xorshift (Marsaglia 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn key(&mut self) -> Vec<u8> {
        let bytes = 1 + self.below(3);
        (0..bytes).map(|_| [0, 1, b'a', 255][self.below(4) as usize]).collect()
    }

    fn keyspace(&mut self) -> &'static str {
        ["model a", "model b", "model c"][self.below(3) as usize]
    }
}

type Model = BTreeMap<(&'static str, Vec<u8>), Vec<u8>>;

fn model_range(model: &Model, keyspace: &'static str, range: &KeyRange, direction: Direction) -> Vec<Entry> {
    let is_within = |key: &Vec<u8>| *key >= range.start && range.end.as_ref().is_none_or(|end| key < end);
    let mut entries: Vec<Entry> = model
        .iter()
        .filter(|((space, key), _)| *space == keyspace && is_within(key))
        .map(|((_, key), value)| (key.clone(), value.clone()))
        .collect();
    if direction == Direction::Backward {
        entries.reverse();
    }
    entries
}

/// Random operations, after each of which the engine holds what a map in memory holds.
fn a_model_agrees(persistence: Persistence, open: &mut Open<'_>) {
    let (mut numbers, mut model) = (Numbers(0x9e37_79b9_7f4a_7c15), Model::new());
    let mut engine = open();
    let mut held: Option<(Box<dyn StorageSnapshot>, Model)> = None;
    for step in 0..600 {
        match numbers.below(10) {
            0..5 => {
                let mut batch = WriteBatch::default();
                for _ in 0..1 + numbers.below(6) {
                    let (keyspace, key) = (numbers.keyspace(), numbers.key());
                    if numbers.below(3) == 0 {
                        batch.delete(keyspace, key.clone());
                        model.remove(&(keyspace, key));
                    } else {
                        let value = vec![step as u8; numbers.below(50) as usize];
                        batch.put(keyspace, key.clone(), value.clone());
                        model.insert((keyspace, key), value);
                    }
                }
                let durability = if numbers.below(8) == 0 { Durability::Hard } else { Durability::Soft };
                commit(&*engine, &batch, durability);
            }
            5 => held = Some((engine.snapshot().expect("a snapshot"), model.clone())),
            6 if numbers.below(8) == 0 => {
                let keyspace = numbers.keyspace();
                // Snapshots need not survive it.
                held = None;
                engine.drop_keyspace(keyspace).expect("dropping a keyspace");
                model.retain(|(space, _), _| *space != keyspace);
            }
            7 if numbers.below(12) == 0 => {
                held = None;
                engine.flush().expect("a flush");
                drop(engine);
                engine = open();
                if persistence == Persistence::Volatile {
                    model.clear();
                }
            }
            _ => {}
        }
        let (keyspace, key) = (numbers.keyspace(), numbers.key());
        let found = engine.get(keyspace, &key).expect("a read");
        assert_eq!(found.as_ref(), model.get(&(keyspace, key)), "step {step}: a key");
        let end = (numbers.below(3) > 0).then(|| numbers.key());
        let range = KeyRange { start: if numbers.below(3) == 0 { Vec::new() } else { numbers.key() }, end };
        let direction = if numbers.below(2) == 0 { Direction::Forward } else { Direction::Backward };
        let present = engine.snapshot().expect("a snapshot");
        assert_eq!(
            all(&*present, keyspace, &range, direction),
            model_range(&model, keyspace, &range, direction),
            "step {step}: {range:?} {direction:?}"
        );
        if let Some((snapshot, model)) = &held {
            assert_eq!(
                all(&**snapshot, keyspace, &range, direction),
                model_range(model, keyspace, &range, direction),
                "step {step}: a snapshot from before: {range:?} {direction:?}"
            );
        }
    }
}
