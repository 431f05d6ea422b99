//! The store as its users see it, over real directories.

mod indexes;
mod recovery;
mod upkeep;
mod vectors;
mod writes;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use photondb_plugin_sdk::Datum;
use tempfile::TempDir;

use super::*;

/// Index functions for tests: the source is a field's name, or several with commas between for an array of them.
pub(super) struct Fields;

struct FieldsFunction(Vec<String>);

impl IndexFunctions for Fields {
    fn compile(&self, source: &str) -> Result<Arc<dyn IndexFunction>, String> {
        if source.is_empty() {
            return Err("no field is named".to_owned());
        }
        Ok(Arc::new(FieldsFunction(source.split(',').map(str::to_owned).collect())))
    }
}

impl IndexFunction for FieldsFunction {
    fn value(&self, document: &Datum) -> Option<Datum> {
        let mut values: Vec<Datum> = self.0.iter().map(|field| document.get(field).cloned()).collect::<Option<_>>()?;
        if values.len() == 1 { values.pop() } else { Some(values.into()) }
    }
}

pub(super) fn options() -> StoreOptions {
    StoreOptions {
        cache_bytes: 1 << 20,
        functions: Arc::new(Fields),
        vectors: Arc::new(NoVectorIndexes),
        engines: Arc::new(NoStorageEngines),
        upkeep: Duration::from_secs(3600),
    }
}

/// A store in a directory of its own, with the table `test.t`.
fn new_store() -> (TempDir, Store, Arc<Table>) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), &options()).unwrap();
    store.create_table("test", "t", &TableOptions::default()).unwrap();
    let table = store.table("test", "t").unwrap();
    (directory, store, table)
}

fn index(name: &str, source: &str) -> IndexDefinition {
    IndexDefinition { name: name.into(), source: source.into(), multi: false, vector: None }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn put_all(table: &Table, documents: &[Datum]) {
    let keys: Vec<Datum> = documents.iter().map(|document| document.get("id").unwrap().clone()).collect();
    let outcomes =
        table.replace::<Infallible>(&keys, Durability::Soft, &mut |at, _| Ok(Some(documents[at].clone()))).unwrap();
    for outcome in outcomes {
        assert!(matches!(outcome, Outcome::Changed { .. } | Outcome::Unchanged(_)), "{outcome:?}");
    }
}

fn delete_all(table: &Table, keys: &[Datum]) {
    table.replace::<Infallible>(keys, Durability::Soft, &mut |_, _| Ok(None)).unwrap();
}

fn all(documents: Result<Documents, StoreError>) -> Vec<Datum> {
    documents.unwrap().collect::<Result<_, _>>().unwrap()
}

fn ids(documents: Result<Documents, StoreError>) -> Vec<Datum> {
    all(documents).iter().map(|document| document.get("id").unwrap().clone()).collect()
}

#[test]
fn databases_and_tables_come_and_go() {
    let (directory, store, _) = new_store();
    store.create_database("d").unwrap();
    let info = store
        .create_table(
            "d",
            "x",
            &TableOptions { primary_key: "k".into(), durability: Durability::Soft, ..TableOptions::default() },
        )
        .unwrap();
    assert_eq!(store.create_database("d").unwrap_err().to_string(), "Database `d` already exists.");
    assert_eq!(
        store.create_table("d", "x", &TableOptions::default()).unwrap_err().to_string(),
        "Table `d.x` already exists."
    );
    assert_eq!(
        store.create_database("%").unwrap_err().to_string(),
        "Database name `%` invalid (Use A-Z, a-z, 0-9, _ and - only)."
    );
    assert_eq!(store.tables("e").unwrap_err().to_string(), "Database `e` does not exist.");
    drop(store);

    let store = Store::open(directory.path(), &options()).unwrap();
    let names: Vec<String> = store.databases().into_iter().map(|database| database.name).collect();
    assert_eq!(names, ["d", "test"]);
    assert_eq!(store.table_by_id(info.id).unwrap().info(), &info);
    let table = store.table("d", "x").unwrap();
    let (_, dropped) = store.drop_database("d").unwrap();
    assert_eq!(dropped, std::slice::from_ref(&info));
    let write = table.replace::<Infallible>(&[1.into()], Durability::Soft, &mut |_, _| Ok(None));
    assert_eq!(write.unwrap_err().to_string(), "Table `d.x` does not exist.");
    assert_eq!(store.drop_table("test", "x").unwrap_err().to_string(), "Table `test.x` does not exist.");
    store.drop_table("test", "t").unwrap();
    drop((store, table));

    let store = Store::open(directory.path(), &options()).unwrap();
    assert_eq!(store.databases().len(), 1);
    assert_eq!(store.tables("test").unwrap(), []);
    store.close();
    let left = Datum::from(1);
    assert_eq!(store.statistics().get("keyspaces"), Some(&left), "only the catalog is left");
}
