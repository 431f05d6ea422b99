//! What engines want done to their documents, and what they may not want.

use std::collections::HashMap;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use photondb_plugin_memory::Memory;
use photondb_plugin_sdk::kinds::storage::{
    DocumentChange, Keyspace, StorageConfig, StorageEngine, StorageEnginePlugin, StorageError, StorageSnapshot, Upkeep,
    UpkeepRequest, WriteBatch,
};
use uuid::Uuid;

use super::*;

type Answer = Box<dyn FnOnce(&UpkeepRequest<'_>) -> Result<Option<Upkeep>, StorageError> + Send>;

/// Engines in memory, whose upkeep a test says; they outlive the store.
#[derive(Default)]
struct Wanting {
    engines: Mutex<HashMap<Uuid, Arc<dyn StorageEngine>>>,
    answers: Mutex<Vec<Answer>>,
}

struct Open(Arc<dyn StorageEngine>, Arc<Wanting>);

impl StorageEngines for Arc<Wanting> {
    fn validate(&self, kind: &str, _: &Datum) -> Result<EngineSource, StoreError> {
        Ok(self.source(kind).unwrap())
    }

    fn open(&self, _: &EngineDefinition, table: Uuid) -> Result<Arc<dyn OpenEngine>, String> {
        let mut engines = self.engines.lock().unwrap();
        let engine = engines.entry(table).or_insert_with(|| {
            let options = Datum::object::<&str, Datum>([]);
            let config = StorageConfig { directory: "".into(), cache_bytes: 0, options };
            Arc::from(Memory.open(&config).unwrap())
        });
        Ok(Arc::new(Open(Arc::clone(engine), Arc::clone(self))))
    }

    fn remove(&self, _: &str, table: Uuid) -> Result<(), String> {
        self.engines.lock().unwrap().remove(&table);
        Ok(())
    }

    fn source(&self, kind: &str) -> Option<EngineSource> {
        Some(EngineSource { plugin: kind.to_owned(), version: "1".to_owned(), is_running: true })
    }
}

impl OpenEngine for Open {
    fn is_current(&self) -> bool {
        true
    }

    fn close(&self) {}
}

impl StorageEngine for Open {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.0.get(keyspace, key)
    }

    fn commit(&self, batch: &WriteBatch, durability: Durability) -> Result<(), StorageError> {
        self.0.commit(batch, durability)
    }

    fn snapshot(&self) -> Result<Box<dyn StorageSnapshot>, StorageError> {
        self.0.snapshot()
    }

    fn drop_keyspace(&self, keyspace: Keyspace<'_>) -> Result<(), StorageError> {
        self.0.drop_keyspace(keyspace)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.0.flush()
    }

    fn statistics(&self) -> Datum {
        self.0.statistics()
    }

    fn upkeep(&self, request: &UpkeepRequest<'_>) -> Result<Option<Upkeep>, StorageError> {
        let answer = self.1.answers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        answer.map_or_else(|| Ok(Some(Upkeep::default())), |answer| answer(request))
    }
}

/// A store that asks all the time, with a table of a hundred documents and an index.
struct Place {
    _directory: TempDir,
    wanting: Arc<Wanting>,
    store: Store,
    table: Arc<Table>,
}

fn document(number: usize, group: usize) -> Datum {
    Datum::object([("id", number), ("group", group)])
}

impl Place {
    fn new() -> Self {
        let wanting = Arc::<Wanting>::default();
        let engines = Arc::new(Arc::clone(&wanting));
        let options = StoreOptions { engines, upkeep: Duration::from_millis(1), ..options() };
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), &options).unwrap();
        let of_plugin = TableOptions { engine: Some("wanting".to_owned()), ..TableOptions::default() };
        store.create_table("test", "t", &of_plugin).unwrap();
        let table = store.table("test", "t").unwrap();
        table.create_index(&index("group", "group")).unwrap();
        assert!(table.wait_index("group", soon()).unwrap().ready);
        put_all(&table, &(0..100).map(|number| document(number, number % 2)).collect::<Vec<_>>());
        Self { _directory: directory, wanting, store, table }
    }

    /// Gives one answer, and waits until what it wants was done or refused. The next one comes when the result is
    /// dropped.
    fn answer(&self, upkeep: Upkeep) -> Sender<()> {
        let ((asked, waits), (go_on, held)) = (channel(), channel::<()>());
        let again: Answer = Box::new(move |_| {
            asked.send(()).unwrap();
            held.recv().unwrap_err();
            Ok(Some(Upkeep::default()))
        });
        let first: Answer = Box::new(move |_| Ok(Some(upkeep)));
        // The last one is taken first.
        self.wanting.answers.lock().unwrap().extend([again, first]);
        waits.recv().unwrap();
        go_on
    }

    fn key(number: usize) -> Vec<u8> {
        keys::primary_key(&number.into()).unwrap()
    }

    fn change(number: usize, before: Option<Datum>, after: Option<Datum>) -> DocumentChange {
        let encoded = |document: Datum| document.encoded();
        DocumentChange { key: Self::key(number), before: before.map(encoded), after: after.map(encoded) }
    }

    fn in_group(&self, group: usize) -> usize {
        all(self.table.index_scan("group", &DatumRange::only(group.into()), Direction::Forward)).len()
    }

    fn status(&self, field: &str) -> Datum {
        self.table.upkeep_status().get(field).cloned().unwrap_or(Datum::Null)
    }
}

#[test]
fn what_an_engine_wants_is_an_ordinary_write() {
    let place = Place::new();
    let removed = (0..40).map(|number| Place::change(number, Some(document(number, number % 2)), None)).collect();
    let replaced = vec![
        Place::change(50, Some(document(50, 0)), Some(document(50, 7))),
        // It need not know how keys are made.
        DocumentChange { key: Vec::new(), ..Place::change(1000, None, Some(document(1000, 7))) },
        Place::change(51, Some(document(51, 1)), None),
    ];
    let held = place.answer(Upkeep { groups: vec![removed, replaced], has_more: true });
    assert_eq!(place.table.count_estimate(), 60);
    assert_eq!((place.in_group(0), place.in_group(1), place.in_group(7)), (29, 29, 2), "index entries follow");
    assert_eq!(place.table.get(&1000.into()).unwrap(), Some(document(1000, 7)));
    assert_eq!((place.status("removed"), place.status("written")), (41.into(), 2.into()));
    assert!(matches!(place.status("last"), Datum::Time(_)));
    drop(held);
    place.store.close();
}

#[test]
fn a_group_whose_documents_changed_meanwhile_is_left_out_as_a_whole() {
    let place = Place::new();
    let late = vec![
        Place::change(1, Some(document(1, 1)), None),
        Place::change(2, Some(document(2, 1)), None),
        Place::change(3, Some(document(3, 1)), None),
    ];
    let there = vec![Place::change(4, None, Some(document(4, 9)))];
    let gone = vec![Place::change(400, Some(document(400, 9)), None)];
    let good = vec![Place::change(5, Some(document(5, 1)), None)];
    let _held = place.answer(Upkeep { groups: vec![late, there, gone, good], has_more: false });
    assert_eq!(place.table.count_estimate(), 99);
    assert_eq!((place.in_group(0), place.in_group(1)), (50, 49));
    assert_eq!((place.status("passed_over"), place.status("removed")), (3.into(), 1.into()));
    assert_eq!(place.status("problem"), Datum::Null);
}

#[test]
fn what_is_no_write_is_refused() {
    let place = Place::new();
    let before = || Some(document(1, 1));
    let raw = |key: Vec<u8>, before: Option<Datum>, after: &[u8]| DocumentChange {
        key,
        before: before.map(|document| document.encoded()),
        after: Some(after.to_vec()),
    };
    let mut deep = Datum::from(1);
    (0..photondb_plugin_sdk::datum::MAX_DEPTH).for_each(|_| deep = Datum::array([deep.clone()]));
    let deep = Datum::object([("id", Datum::from(1)), ("deep", deep)]).encoded();
    let many = (0..300).map(|number| Place::change(number + 1000, None, Some(document(number + 1000, 1))));
    for (group, hint) in [
        (vec![Place::change(1, before(), Some(document(2, 1)))], "another key"),
        (vec![raw(Place::key(1), before(), &document(2, 1).encoded())], "another key"),
        (vec![raw(b"any key".to_vec(), None, &document(2, 1).encoded())], "another key"),
        (vec![Place::change(1, before(), Some(Datum::object([("group", 1)])))], "without its primary key"),
        (vec![Place::change(1, before(), Some(Datum::from(4)))], "without its primary key"),
        (vec![raw(Place::key(1), before(), b"\xff\xff")], "damaged"),
        (vec![raw(Place::key(1), before(), &deep)], "nested 500 levels"),
        (vec![Place::change(1, None, None)], "nothing to nothing"),
        (vec![Place::change(1, before(), None), Place::change(1, before(), None)], "twice"),
        (many.collect(), "more changes"),
    ] {
        // What comes behind it in the same answer is not done either.
        let behind = vec![Place::change(5, Some(document(5, 1)), None)];
        let _held = place.answer(Upkeep { groups: vec![group, behind], has_more: true });
        let problem = place.status("problem").to_json_string();
        assert!(problem.contains(hint), "{hint}: {problem}");
        assert_eq!((place.table.count_estimate(), place.in_group(1)), (100, 50), "{hint}");
    }
}

#[test]
fn an_engine_that_fails_is_asked_again_and_one_that_wants_nothing_has_no_status() {
    let place = Place::new();
    let failing: Answer = Box::new(|_| Err(StorageError::Failed("on purpose".to_owned())));
    let (told, waits) = channel();
    let then: Answer = Box::new(move |request| {
        told.send((request.primary_key.to_owned(), request.documents.to_owned())).unwrap();
        Ok(None)
    });
    place.wanting.answers.lock().unwrap().extend([then, failing]);
    let (primary_key, documents) = waits.recv().unwrap();
    assert_eq!((primary_key, documents), ("id".to_owned(), format!("{}.documents", place.table.info().id)));
    let default = place.store.create_table("test", "other", &TableOptions::default()).unwrap();
    assert_eq!(place.store.table_by_id(default.id).unwrap().upkeep_status(), Datum::Null);
}
