use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use photondb_plugin_sdk::kinds::storage::{StorageEngine, StorageError, WriteBatch};
use photondb_plugin_sdk::kinds::vector::Metric;
use uuid::Uuid;

use super::*;

type Rows = BTreeMap<Vec<u8>, Datum>;
type Staged = Vec<(Vec<u8>, Option<Datum>)>;

/// Keeps what it is told, twice: in memory and in its keyspace.
struct Mirror {
    keyspace: String,
    rows: Mutex<(Rows, Staged)>,
}

impl VectorIndexHook for Mirror {
    fn stage(
        &self,
        batch: &mut WriteBatch,
        key: &[u8],
        _: Option<&Datum>,
        new: Option<&Datum>,
    ) -> Result<(), StorageError> {
        if new.is_some_and(|new| new.as_str().is_some()) {
            return Err(StorageError::Failed("not a vector".to_owned()));
        }
        match new {
            Some(new) => batch.put(&self.keyspace, key, new.encoded()),
            None => batch.delete(&self.keyspace, key),
        }
        self.rows.lock().unwrap().1.push((key.to_vec(), new.cloned()));
        Ok(())
    }

    fn committed(&self) {
        let (rows, staged) = &mut *self.rows.lock().unwrap();
        for (key, value) in staged.drain(..) {
            match value {
                Some(value) => drop(rows.insert(key, value)),
                None => drop(rows.remove(&key)),
            }
        }
    }

    fn aborted(&self) {
        self.rows.lock().unwrap().1.clear();
    }

    fn reload(&self, engine: &dyn StorageEngine) -> Result<(), StorageError> {
        *self.rows.lock().unwrap() = (stored(engine, &self.keyspace)?, Vec::new());
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn describe(&self) -> Datum {
        Datum::Null
    }

    fn progress(&self) -> f64 {
        1.0
    }

    fn is_built(&self) -> bool {
        true
    }

    fn wait_built(&self, _: Instant) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn stored(engine: &dyn StorageEngine, keyspace: &str) -> Result<Rows, StorageError> {
    let entries = engine.snapshot()?.scan(keyspace, &Default::default(), Direction::Forward)?;
    entries.map(|entry| entry.map(|(key, value)| (key, Datum::decode(&value).unwrap()))).collect()
}

#[derive(Default)]
struct Mirrors {
    dropped: Mutex<Vec<Uuid>>,
}

impl VectorIndexes for Mirrors {
    fn distance(&self, name: &str, dims: u32, options: Datum) -> Result<DistanceDefinition, StoreError> {
        NoVectorIndexes.distance(name, dims, options)
    }

    fn validate(&self, definition: &VectorDefinition) -> Result<(), StoreError> {
        if definition.kind == "mirror" { Ok(()) } else { NoVectorIndexes.validate(definition) }
    }

    fn open(&self, context: &VectorIndexContext) -> Result<Arc<dyn VectorIndexHook>, StoreError> {
        let rows = match stored(&*context.engine, &context.keyspace) {
            Err(StorageError::Closed(_)) => Rows::new(),
            rows => rows?,
        };
        std::fs::create_dir_all(&context.directory).unwrap();
        Ok(Arc::new(Mirror { keyspace: context.keyspace.clone(), rows: Mutex::new((rows, Vec::new())) }))
    }

    fn drop_index(&self, index_id: Uuid) {
        self.dropped.lock().unwrap().push(index_id);
    }
}

fn definition() -> IndexDefinition {
    let settings = Datum::object([("m", 4)]);
    let vector = VectorDefinition { kind: "mirror".into(), dims: 2, metric: Metric::L2, distance: None, settings };
    IndexDefinition { vector: Some(vector), ..index("emb", "emb") }
}

fn document(id: i32, x: i32) -> Datum {
    Datum::object([("id", Datum::from(id)), ("emb", Datum::array([x.into(), id.into()]))])
}

/// The values that the index holds, in the order of primary keys.
fn rows(table: &Table) -> Vec<Datum> {
    let handle = table.vector_index("emb").unwrap();
    let mirror = handle.hook.as_any().downcast_ref::<Mirror>().unwrap();
    mirror.rows.lock().unwrap().0.values().cloned().collect()
}

fn expected(table: &Table) -> Vec<Datum> {
    let documents = all(table.scan(&DatumRange::all(), Direction::Forward));
    documents.iter().filter_map(|document| document.get("emb").cloned()).collect()
}

#[test]
fn vector_indexes_follow_the_documents() {
    let directory = tempfile::tempdir().unwrap();
    let vectors = Arc::new(Mirrors::default());
    let options = StoreOptions { vectors: Arc::clone(&vectors) as Arc<dyn VectorIndexes>, ..options() };
    let store = Store::open(directory.path(), &options).unwrap();
    store.create_table("test", "t", &TableOptions::default()).unwrap();
    let table = store.table("test", "t").unwrap();
    put_all(&table, &(0..700).map(|id| document(id, 0)).collect::<Vec<_>>());
    let info = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 1..20 {
                put_all(&table, &(0..60).map(|at| document((at * 31 + round) % 800, round)).collect::<Vec<_>>());
                delete_all(&table, &[(round * 17).into()]);
            }
        });
        let info = table.create_index(&definition()).unwrap();
        table.wait_index("emb", soon()).unwrap();
        writer.join().unwrap();
        info
    });
    assert_eq!(rows(&table), expected(&table));
    let scan = table.index_scan("emb", &DatumRange::all(), Direction::Forward).map(drop).unwrap_err();
    assert!(matches!(scan, StoreError::IndexIsVector(_)));

    // One bad vector fails its own write and no other.
    let bad = Datum::object([("id", Datum::from(1)), ("emb", "text".into())]);
    let write = table.replace::<Infallible>(&[1.into()], Durability::Soft, &mut |_, _| Ok(Some(bad.clone())));
    assert_eq!(write.unwrap_err().to_string(), "storage: not a vector");
    put_all(&table, &[Datum::object([("id", 5)]), document(6, 99)]);
    assert_eq!(rows(&table), expected(&table));
    drop((store, table));

    let store = Store::open(directory.path(), &options).unwrap();
    let table = store.table("test", "t").unwrap();
    assert_eq!(rows(&table), expected(&table));
    assert_eq!(table.indexes(), std::slice::from_ref(&info));
    let path = table.shared.vector_directory(info.id);
    assert!(path.exists());
    store.drop_table("test", "t").unwrap();
    // Of the index that is not added, nothing stays.
    let other = table.create_index(&IndexDefinition { name: "other".into(), ..definition() });
    assert!(matches!(other, Err(StoreError::TableMissing { .. })));
    store.close();
    drop((store, table));
    // Closing may have come before the removal: then it happens at the next start.
    Store::open(directory.path(), &options).unwrap().close();
    let dropped = vectors.dropped.lock().unwrap();
    assert!(dropped.contains(&info.id) && dropped.iter().any(|id| *id != info.id), "{dropped:?}");
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
}

#[test]
fn a_drop_waits_for_no_plugin() {
    let directory = tempfile::tempdir().unwrap();
    let vectors = Arc::new(Mirrors::default());
    let options = StoreOptions { vectors: Arc::clone(&vectors) as Arc<dyn VectorIndexes>, ..options() };
    let store = Store::open(directory.path(), &options).unwrap();
    store.create_table("test", "t", &TableOptions::default()).unwrap();
    store.table("test", "t").unwrap().create_index(&definition()).unwrap();
    // What closes the index is held up until this is let go.
    let busy = vectors.dropped.lock().unwrap();
    store.drop_table("test", "t").unwrap();
    store.create_table("test", "t", &TableOptions::default()).unwrap();
    drop(busy);
    store.close();
    assert_eq!(vectors.dropped.lock().unwrap().len(), 1);
}

#[test]
fn unknown_kinds_are_refused() {
    let (_directory, _store, table) = new_store();
    let error = table.create_index(&definition()).unwrap_err();
    assert_eq!(error.to_string(), "No plugin provides vector indexes of type `mirror`.");
    assert_eq!(table.indexes(), []);
}
