use std::ops::Bound;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use super::super::build;
use super::super::catalog::Dropped;
use super::super::table::entries_keyspace;
use super::*;
use photondb_plugin_sdk::kinds::storage::KeyRange;

#[test]
fn an_index_built_during_writes_is_complete() {
    let (_directory, _store, table) = new_store();
    let document = |id: i32, v: i32| Datum::object([("id", id), ("v", v)]);
    put_all(&table, &(0..2000).map(|id| document(id, 0)).collect::<Vec<_>>());
    let built = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (table, built) = (&table, &built);
            scope.spawn(move || {
                let mut round = 0;
                // At least one round after the index exists, and on until it is built.
                while !built.load(Ordering::Acquire) || round < 3 {
                    round += 1;
                    put_all(
                        table,
                        &(0..100).map(|at| document((at * 37 + round * 3 + thread) % 2600, round)).collect::<Vec<_>>(),
                    );
                    delete_all(table, &[((round * 101 + thread) % 2600).into()]);
                }
            });
        }
        table.create_index(&index("v", "v")).unwrap();
        let status = table.wait_index("v", soon()).unwrap();
        assert!(status.ready && status.failure.is_none());
        built.store(true, Ordering::Release);
    });
    let mut expected = all(table.scan(&DatumRange::all(), Direction::Forward));
    expected.sort_by_key(|document| document.get("v").unwrap().clone());
    assert_eq!(all(table.index_scan("v", &DatumRange::all(), Direction::Forward)), expected);
}

/// Signals at a call of an index function, and waits for permission to go on.
struct Gated {
    calls: AtomicUsize,
    reached: Mutex<Sender<()>>,
    open: Arc<AtomicBool>,
}

struct GatedFunctions(Arc<Gated>);

impl IndexFunctions for GatedFunctions {
    fn compile(&self, source: &str) -> Result<Arc<dyn IndexFunction>, String> {
        struct Function(Arc<Gated>, Arc<dyn IndexFunction>);
        impl IndexFunction for Function {
            fn value(&self, document: &Datum) -> Option<Datum> {
                if self.0.calls.fetch_add(1, Ordering::Relaxed) == 300 {
                    self.0.reached.lock().unwrap().send(()).unwrap();
                    while !self.0.open.load(Ordering::Acquire) {
                        std::thread::yield_now();
                    }
                }
                self.1.value(document)
            }
        }
        Ok(Arc::new(Function(Arc::clone(&self.0), Fields.compile(source)?)))
    }
}

#[test]
fn a_build_that_was_cut_short_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (reached, has_reached) = channel();
    let open = Arc::new(AtomicBool::new(false));
    let gated = Arc::new(Gated { calls: AtomicUsize::new(0), reached: Mutex::new(reached), open: Arc::clone(&open) });
    let gated_options = StoreOptions { functions: Arc::new(GatedFunctions(Arc::clone(&gated))), ..options() };
    let store = Store::open(directory.path(), &gated_options).unwrap();
    store.create_table("test", "t", &TableOptions::default()).unwrap();
    let table = store.table("test", "t").unwrap();
    put_all(&table, &(0..1000).map(|id| Datum::object([("id", id), ("v", id % 7)])).collect::<Vec<_>>());
    table.create_index(&index("v", "v")).unwrap();
    has_reached.recv().unwrap();
    let status = table.index_status("v").unwrap();
    assert!(!status.ready && status.progress > 0.0 && status.progress < 1.0, "{status:?}");
    let early = table.index_scan("v", &DatumRange::all(), Direction::Forward).map(|_| ());
    assert_eq!(
        early.unwrap_err().to_string(),
        "Index `v` on table `test.t` was accessed before its construction was finished."
    );
    std::thread::scope(|scope| {
        scope.spawn(|| store.close());
        while !table.shared.is_closing() {
            std::thread::yield_now();
        }
        open.store(true, Ordering::Release);
    });
    let calls = gated.calls.load(Ordering::Relaxed);
    assert!(calls < 1000, "closing ends the build");
    drop((store, table));

    let store = Store::open(directory.path(), &gated_options).unwrap();
    let table = store.table("test", "t").unwrap();
    assert!(table.wait_index("v", soon()).unwrap().ready);
    assert_eq!(all(table.index_scan("v", &DatumRange::all(), Direction::Forward)).len(), 1000);
    assert!(gated.calls.load(Ordering::Relaxed) - calls < 1000, "it goes on where it was");
    drop((store, table));

    let table = Store::open(directory.path(), &options()).unwrap().table("test", "t").unwrap();
    assert!(table.index_status("v").unwrap().ready, "it is not built again");
}

#[test]
fn long_values_keep_their_order_and_ranges() {
    let (_directory, _store, table) = new_store();
    table.create_index(&index("v", "v")).unwrap();
    let value = |suffix: &str| Datum::from("x".repeat(2000) + suffix);
    // Against the order of the primary keys.
    let suffixes = ["", "a", "aa", "b", "c", "c"];
    let documents: Vec<Datum> = suffixes
        .iter()
        .enumerate()
        .map(|(at, suffix)| Datum::object([("id", Datum::from(-(at as i32))), ("v", value(suffix))]))
        .chain([
            Datum::object([("id", Datum::from(100)), ("v", "x".into())]),
            Datum::object([("id", Datum::from(101)), ("v", "y".into())]),
        ])
        .collect();
    put_all(&table, &documents);
    table.wait_index("v", soon()).unwrap();
    let found = |lower, upper, direction| -> Vec<i32> {
        let documents = ids(table.index_scan("v", &DatumRange { lower, upper }, direction));
        documents.iter().map(|id| id.as_number().unwrap() as i32).collect()
    };
    let forward = Direction::Forward;
    assert_eq!(found(Bound::Unbounded, Bound::Unbounded, forward), [100, 0, -1, -2, -3, -5, -4, 101]);
    assert_eq!(found(Bound::Unbounded, Bound::Unbounded, Direction::Backward), [101, -4, -5, -3, -2, -1, 0, 100]);
    let edge = |suffix: &str| KeyEdge::from(value(suffix));
    assert_eq!(found(Bound::Included(edge("a")), Bound::Excluded(edge("b")), forward), [-1, -2]);
    assert_eq!(found(Bound::Excluded(edge("a")), Bound::Included(edge("b")), forward), [-2, -3]);
    assert_eq!(found(Bound::Excluded(edge("c")), Bound::Unbounded, forward), [101]);
    assert_eq!(found(Bound::Unbounded, Bound::Excluded(edge("")), forward), [100]);
    // Deleting and changing finds the entries.
    delete_all(&table, &[(-2).into()]);
    put_all(&table, &[Datum::object([("id", Datum::from(-1)), ("v", value("zz"))])]);
    assert_eq!(found(Bound::Unbounded, Bound::Unbounded, forward), [100, 0, -3, -5, -4, -1, 101]);
}

#[test]
fn indexes_are_renamed_and_dropped() {
    let (directory, store, table) = new_store();
    put_all(&table, &(0..3000).map(|id| Datum::object([("id", id), ("a", -id), ("b", id % 2)])).collect::<Vec<_>>());
    table.create_index(&index("a", "a")).unwrap();
    table.create_index(&index("b", "b")).unwrap();
    let message = |result: Result<(), StoreError>| result.unwrap_err().to_string();
    assert_eq!(message(table.create_index(&index("a", "b")).map(drop)), "Index `a` already exists on table `test.t`.");
    assert_eq!(
        message(table.create_index(&index("id", "b")).map(drop)),
        "Index name conflict: `id` is the name of the primary key."
    );
    assert_eq!(message(table.drop_index("c")), "Index `c` does not exist on table `test.t`.");
    assert_eq!(message(table.wait_index("c", soon()).map(drop)), "Index `c` was not found on table `test.t`.");
    assert!(matches!(table.rename_index("a", "b", Overwrite::Refuse), Err(StoreError::IndexExists { .. })));
    assert!(!table.rename_index("a", "a", Overwrite::Refuse).unwrap());
    assert!(table.rename_index("a", "b", Overwrite::Drop).unwrap());
    table.wait_index("b", soon()).unwrap();
    drop((store, table));

    let store = Store::open(directory.path(), &options()).unwrap();
    let table = store.table("test", "t").unwrap();
    let names: Vec<(String, String)> = table.indexes().into_iter().map(|index| (index.name, index.source)).collect();
    assert_eq!(names, [("b".to_owned(), "a".to_owned())]);
    assert_eq!(ids(table.index_scan("b", &DatumRange::all(), Direction::Forward))[0], 2999.into());
    table.drop_index("b").unwrap();
    assert_eq!(table.indexes(), []);
    // What closing cut short is removed after the next start.
    drop((store, table));
    let store = Store::open(directory.path(), &options()).unwrap();
    let table = store.table("test", "t").unwrap();
    for number in 0..2 {
        let dropped = Dropped::Index { table: table.info().id, number, id: uuid::Uuid::new_v4() };
        build::remove(&table.shared, &table.backend, &dropped).unwrap();
    }
    let snapshot = table.backend.opened().unwrap().engine.snapshot().unwrap();
    let keyspace = entries_keyspace(table.info().id);
    assert_eq!(snapshot.scan(&keyspace, &KeyRange::default(), Direction::Forward).unwrap().count(), 0);
}

#[test]
fn a_function_that_does_not_compile_makes_no_index() {
    let (directory, store, table) = new_store();
    let error = table.create_index(&index("v", "")).unwrap_err().to_string();
    assert_eq!(error, "Index `v` can't be created: no field is named");
    assert_eq!(table.indexes(), []);

    // Stored by a version that understood it.
    struct Anything;
    impl IndexFunctions for Anything {
        fn compile(&self, _: &str) -> Result<Arc<dyn IndexFunction>, String> {
            Fields.compile("v")
        }
    }
    drop((store, table));
    let newer = StoreOptions { functions: Arc::new(Anything), ..options() };
    let store = Store::open(directory.path(), &newer).unwrap();
    store.table("test", "t").unwrap().create_index(&index("v", "")).unwrap();
    drop(store);
    let error = Store::open(directory.path(), &options()).map(drop).unwrap_err().to_string();
    assert!(error.starts_with("Index `v` of table") && error.contains("drop the index"), "{error}");
}

#[test]
fn documents_without_a_value_are_not_in_the_index() {
    let (_directory, _store, table) = new_store();
    table.create_index(&index("v", "v")).unwrap();
    put_all(
        &table,
        &[
            Datum::object([("id", 1)]),
            Datum::object([("id", Datum::from(2)), ("v", Datum::Null)]),
            Datum::object([("id", Datum::from(3)), ("v", Datum::object([("a", 1)]))]),
            Datum::object([("id", Datum::from(4)), ("v", Datum::array([1.into(), Datum::Null]))]),
            Datum::object([("id", Datum::from(5)), ("v", Datum::array([]))]),
        ],
    );
    table.wait_index("v", soon()).unwrap();
    assert_eq!(ids(table.index_scan("v", &DatumRange::all(), Direction::Forward)), [5.into()]);
}
