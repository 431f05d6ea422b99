//! A packed engine over redb keeps to the contract of storage engines, whatever is packed when.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use photondb_packed::{PackedEngine, PackedOptions, Packs};
use photondb_plugin_redb::Redb;
use photondb_plugin_sdk::kinds::storage::{Entry, FieldRange};
use photondb_plugin_sdk::prelude::*;
use photondb_plugin_sdk::testing::engine::{Persistence, check};
use proptest::prelude::*;

fn redb(directory: &Path) -> Arc<dyn StorageEngine> {
    let options = Datum::object::<&str, Datum>([]);
    let config = StorageConfig { directory: directory.to_owned(), cache_bytes: 8 << 20, options };
    Arc::from(Redb.open(&config).expect("opens"))
}

fn open(directory: &Path, chunk_rows: usize) -> PackedEngine {
    let options = PackedOptions { chunk_rows, packs: Packs::Everything, cache_bytes: 1 << 20, ..Default::default() };
    PackedEngine::open(redb(directory), options).expect("opens")
}

#[test]
fn it_keeps_to_the_contract() {
    let directory = tempfile::tempdir().expect("a directory");
    check(Persistence::Durable, &mut || Box::new(open(directory.path(), 16)));
    let engine = open(directory.path(), 16);
    assert!(engine.totals().chunks > 1000, "{:?}", engine.totals());
    assert_eq!(engine.statistics().get("packing_failure"), Some(&Datum::Null));
}

fn document(number: u32, step: u32) -> Vec<u8> {
    let group = ["a", "b", "c"][number as usize % 3];
    let step = if step.is_multiple_of(5) { "none".into() } else { Datum::from(step) };
    Datum::object([("id", Datum::from(number)), ("group", group.into()), ("step", step)]).encoded()
}

#[derive(Clone, Debug)]
enum Step {
    Put { first: u32, count: u32, every: u32 },
    Remove { first: u32, count: u32, every: u32 },
    Reopen,
    DropChunks { nth: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let run = || (0..400_u32, 1..120_u32, 1..4_u32);
    let step = prop_oneof![
        8 => run().prop_map(|(first, count, every)| Step::Put { first, count, every }),
        4 => run().prop_map(|(first, count, every)| Step::Remove { first, count, every }),
        1 => Just(Step::Reopen),
        1 => (0..4_usize).prop_map(|nth| Step::DropChunks { nth }),
    ];
    prop::collection::vec(step, 1..25)
}

fn selections() -> impl Strategy<Value = Selection> {
    let edge = prop_oneof![(0..25_u32).prop_map(Datum::from), Just(Datum::from("none")), Just(Datum::from("b"))];
    let bound = || {
        edge.clone().prop_flat_map(|edge| {
            prop::sample::select(vec![Bound::Included(edge.clone()), Bound::Excluded(edge), Bound::Unbounded])
        })
    };
    let field = || prop::sample::select(vec!["id", "group", "step", "absent"]);
    let range =
        (field(), bound(), bound()).prop_map(|(field, lower, upper)| FieldRange { field: field.into(), lower, upper });
    let fields = prop::option::of(prop::collection::vec(field().prop_map(Arc::from), 0..3));
    (fields, prop::collection::vec(range, 0..3)).prop_map(|(fields, filter)| Selection { fields, filter })
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn scanned(
    snapshot: &dyn StorageSnapshot,
    range: &KeyRange,
    direction: Direction,
    selection: &Selection,
) -> Vec<Entry> {
    let entries = snapshot.scan_selected("k", range, direction, selection).expect("a scan");
    entries.collect::<Result<_, _>>().expect("entries")
}

fn expected(model: &Model, range: &KeyRange, direction: Direction, selection: &Selection) -> Vec<Entry> {
    let end = range.end.clone().map_or(Bound::Unbounded, Bound::Excluded);
    if range.end.as_ref().is_some_and(|end| *end <= range.start) {
        return Vec::new();
    }
    let within = model.range((Bound::Included(range.start.clone()), end));
    let mut entries: Vec<Entry> = within
        .filter(|(_, value)| !selection.excludes(value))
        .map(|(key, value)| (key.clone(), selection.project(value.clone())))
        .collect();
    if direction == Direction::Backward {
        entries.reverse();
    }
    entries
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn packing_changes_nothing(steps in steps(), selection in selections(), start in 0..420_u32, end in prop::option::of(0..420_u32)) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut engine = open(directory.path(), 16);
        let mut model = Model::new();
        let range = KeyRange { start: start.to_be_bytes().to_vec(), end: end.map(|end| end.to_be_bytes().to_vec()) };
        let mut held: Vec<(Box<dyn StorageSnapshot>, Model)> = Vec::new();
        for (number, step) in (0..).zip(&steps) {
            let mut batch = WriteBatch::default();
            match step {
                Step::Put { first, count, every } => {
                    for key in (*first..first + count * every).step_by(*every as usize) {
                        batch.put("k", key.to_be_bytes(), document(key, number));
                        model.insert(key.to_be_bytes().to_vec(), document(key, number));
                    }
                }
                Step::Remove { first, count, every } => {
                    for key in (*first..first + count * every).step_by(*every as usize) {
                        batch.delete("k", key.to_be_bytes());
                        model.remove(&key.to_be_bytes()[..]);
                    }
                }
                Step::Reopen => {
                    held.clear();
                    engine.flush().expect("a flush");
                    drop(engine);
                    engine = open(directory.path(), 16);
                }
                Step::DropChunks { nth } => {
                    if let Some(chunk) = engine.chunks("k").expect("chunks").into_iter().nth(*nth) {
                        // What was changed since lies as rows and stays: so is it known what is left.
                        let before = engine.snapshot().expect("a snapshot");
                        engine.remove_chunks("k", &[&chunk.first_key]).expect("removes");
                        let after = engine.snapshot().expect("a snapshot");
                        let all = |view: &dyn StorageSnapshot| {
                            scanned(view, &KeyRange::default(), Direction::Forward, &Selection::default())
                        };
                        let (before, after) = (all(&*before), all(&*after));
                        let is_in_chunk = |key: &Vec<u8>| (&chunk.first_key..=&chunk.last_key).contains(&key);
                        prop_assert!(before.iter().all(|entry| after.contains(entry) || is_in_chunk(&entry.0)));
                        prop_assert!(after.iter().all(|entry| before.contains(entry)));
                        prop_assert!(before.len() - after.len() <= chunk.rows as usize);
                        model = after.into_iter().collect();
                    }
                }
            }
            engine.commit(&batch, Durability::Soft).expect("commits");
            if number % 4 == 0 {
                held.push((engine.snapshot().expect("a snapshot"), model.clone()));
            }
        }
        prop_assert_eq!(engine.statistics().get("packing_failure").cloned(), Some(Datum::Null));
        held.push((engine.snapshot().expect("a snapshot"), model.clone()));
        for (snapshot, model) in &held {
            for direction in [Direction::Forward, Direction::Backward] {
                let found = scanned(&**snapshot, &range, direction, &selection);
                prop_assert_eq!(found, expected(model, &range, direction, &selection));
            }
            let keys: Vec<[u8; 4]> = (0..450_u32).map(u32::to_be_bytes).collect();
            let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
            let values = snapshot.get_many("k", &keys).expect("reads");
            for (key, value) in keys.iter().zip(values) {
                prop_assert_eq!(value.as_ref(), model.get(*key));
            }
        }
        let chunks = engine.chunks("k").expect("chunks");
        prop_assert!(chunks.windows(2).all(|pair| pair[0].last_key < pair[1].first_key));
        prop_assert_eq!(engine.totals().chunks, chunks.len() as u64);
        prop_assert_eq!(engine.totals().rows, chunks.iter().map(|chunk| u64::from(chunk.rows)).sum::<u64>());
    }
}

fn fill(engine: &PackedEngine, rows: u32) {
    for first in (0..rows).step_by(100) {
        let mut batch = WriteBatch::default();
        (first..first + 100).for_each(|key| batch.put("k", key.to_be_bytes(), document(key, key)));
        engine.commit(&batch, Durability::Soft).expect("commits");
    }
}

#[test]
fn ascending_keys_are_packed_once_and_few_rows_are_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let engine = open(directory.path(), 256);
    fill(&engine, 10_000);
    let chunks = engine.chunks("k").expect("chunks");
    assert_eq!(chunks.len(), 10_000 / 256);
    assert!(chunks.iter().all(|chunk| chunk.rows == 256 && chunk.whole_rows == 0));
    let id = &chunks[3].columns.iter().find(|(name, _)| &**name == "id").expect("a column").1;
    assert_eq!((&id.least, &id.greatest), (&Some(768.into()), &Some(1023.into())));
    let totals = engine.totals();
    assert!(totals.stored_bytes * 4 < totals.raw_bytes, "{totals:?}");
}

#[test]
fn removed_rows_leave_no_small_chunks() {
    let directory = tempfile::tempdir().expect("a directory");
    let engine = open(directory.path(), 256);
    fill(&engine, 10_000);
    for first in (0..10_000_u32).step_by(100) {
        let mut batch = WriteBatch::default();
        (first..first + 100).filter(|key| key % 20 != 0).for_each(|key| batch.delete("k", key.to_be_bytes()));
        engine.commit(&batch, Durability::Soft).expect("commits");
    }
    let totals = engine.totals();
    assert!(totals.chunks < 12, "{totals:?}");
    let snapshot = engine.snapshot().expect("a snapshot");
    let all = scanned(&*snapshot, &KeyRange::default(), Direction::Forward, &Selection::default());
    assert!(all.into_iter().map(|(key, _)| key).eq((0..10_000_u32).step_by(20).map(|key| key.to_be_bytes().to_vec())));
}

#[test]
fn what_is_no_document_is_left_alone_unless_everything_is_packed() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = PackedOptions { chunk_rows: 16, ..PackedOptions::default() };
    let engine = PackedEngine::open(redb(directory.path()), options).expect("opens");
    for first in (0..1000_u32).step_by(100) {
        let mut batch = WriteBatch::default();
        for key in first..first + 100 {
            batch.put("documents", key.to_be_bytes(), document(key, 1));
            batch.put("entries", key.to_be_bytes(), Datum::from(key).encoded());
        }
        engine.commit(&batch, Durability::Soft).expect("commits");
    }
    assert!(engine.chunks("documents").expect("chunks").len() > 50);
    assert_eq!(engine.chunks("entries").expect("chunks"), []);
}

#[test]
fn damaged_chunks_are_errors_of_those_who_read_them() {
    let directory = tempfile::tempdir().expect("a directory");
    fill(&open(directory.path(), 256), 1000);
    let inner = redb(directory.path());
    let mut batch = WriteBatch::default();
    {
        let snapshot = inner.snapshot().expect("a snapshot");
        let mut pieces = snapshot.scan("chunks/k", &KeyRange::default(), Direction::Forward).expect("a scan");
        let (key, mut piece) = pieces.next().expect("a piece").expect("a piece");
        piece[40] ^= 1;
        batch.put("chunks/k", key, piece);
    }
    inner.commit(&batch, Durability::Hard).expect("commits");
    drop(inner);
    let engine = open(directory.path(), 256);
    let damaged = |result: Result<(), StorageError>| match result {
        Err(StorageError::Damaged { keyspace, message }) => {
            assert!(keyspace == "k" && message.contains("checksum"), "{message}")
        }
        other => panic!("no damage: {other:?}"),
    };
    damaged(engine.get("k", &5_u32.to_be_bytes()).map(drop));
    let snapshot = engine.snapshot().expect("a snapshot");
    let mut scan = snapshot.scan("k", &KeyRange::default(), Direction::Forward).expect("a scan");
    damaged(scan.next().expect("an item").map(drop));
    assert!(scan.next().is_none(), "behind an error there is nothing");
    assert!(engine.get("k", &700_u32.to_be_bytes()).expect("another chunk").is_some());
}
