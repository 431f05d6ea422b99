//! The store: what exists, and the parts that all tables share.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::storage::{Durability, StorageConfig, StorageEngine, WriteBatch};
use uuid::Uuid;

use super::backend::{Backend, TableEngine};
use super::build;
use super::catalog::{self, DatabaseRecord, Dropped, IndexRecord, Records, TableRecord};
use super::engine_fjall::FjallEngine;
use super::engines::{EngineDefinition, StorageEngines};
use super::error::StoreError;
use super::indexes::{Index, IndexCore, IndexFunctions};
use super::table::{Table, TableInfo, vectors_keyspace};
use super::upkeep;
use super::vectors::{VectorDefinition, VectorIndexContext, VectorIndexHook, VectorIndexes};

/// The database that exists from the start.
const FIRST_DATABASE: &str = "test";
/// The embedded engine, which tables use unless they, or the operator, say otherwise.
pub(super) const DEFAULT_ENGINE: &str = "default";

/// What a store is opened with.
#[derive(Clone)]
pub struct StoreOptions {
    /// Memory for the engine's cache, in bytes.
    pub cache_bytes: u64,
    /// Compiles the functions of indexes.
    pub functions: Arc<dyn IndexFunctions>,
    /// Makes vector indexes.
    pub vectors: Arc<dyn VectorIndexes>,
    /// Makes the storage engines that tables ask for by name.
    pub engines: Arc<dyn StorageEngines>,
    /// How often those are asked what they want done to their documents.
    pub upkeep: Duration,
}

/// What a table is created with.
#[derive(Clone, Debug)]
pub struct TableOptions {
    /// The field that documents are stored by.
    pub primary_key: String,
    /// How durable writes are that don't say.
    pub durability: Durability,
    /// The storage engine, by name; `None` for what the operator chose, the embedded one as a rule.
    pub engine: Option<String>,
    /// The engine's options: an object.
    pub engine_options: Datum,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self {
            primary_key: "id".to_owned(),
            durability: Durability::Hard,
            engine: None,
            engine_options: Datum::object::<&str, Datum>([]),
        }
    }
}

/// A database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseInfo {
    /// The id; never used again.
    pub id: Uuid,
    /// The name.
    pub name: String,
}

pub(super) struct Database {
    info: DatabaseInfo,
    tables: BTreeMap<String, Arc<Table>>,
}

impl Database {
    pub(super) fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.tables.values()
    }
}

/// What all tables share.
pub(super) struct Shared {
    /// The embedded engine: the catalog, and the tables that name no other.
    pub(super) embedded: Arc<Backend>,
    pub(super) engines: Arc<dyn StorageEngines>,
    pub(super) functions: Arc<dyn IndexFunctions>,
    pub(super) vectors: Arc<dyn VectorIndexes>,
    directory: PathBuf,
    closing: AtomicBool,
    /// For whoever waits until the store is being closed.
    waiting: (Mutex<()>, Condvar),
    background: Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    pub(super) fn is_closing(&self) -> bool {
        // Relaxed: background work may notice a little later.
        self.closing.load(Ordering::Relaxed)
    }

    /// Waits so long; whether the store is being closed.
    pub(super) fn wait_for_closing(&self, most: Duration) -> bool {
        let (lock, closing) = &self.waiting;
        let waiting = lock.lock().unwrap_or_else(PoisonError::into_inner);
        drop(closing.wait_timeout_while(waiting, most, |()| !self.is_closing()));
        self.is_closing()
    }

    fn begin_closing(&self) {
        let (lock, closing) = &self.waiting;
        let _waiting = lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.closing.store(true, Ordering::Relaxed);
        closing.notify_all();
    }

    /// The directory of a vector index.
    pub(super) fn vector_directory(&self, index: Uuid) -> PathBuf {
        self.directory.join("vectors").join(index.to_string())
    }

    /// Commits a change of the catalog.
    pub(super) fn commit(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.embedded.writer.commit(batch)
    }

    /// Where the data of a table lies, or is to lie.
    fn backend(&self, record: &TableRecord, db: &str) -> Result<Arc<Backend>, StoreError> {
        match &record.engine {
            None => Ok(Arc::clone(&self.embedded)),
            Some(definition) => Backend::of_plugin(TableEngine {
                engines: Arc::clone(&self.engines),
                definition: definition.clone(),
                table: record.id,
                name: format!("{db}.{}", record.name),
            }),
        }
    }

    pub(super) fn open_vector_index(
        &self,
        backend: &Backend,
        record: &IndexRecord,
    ) -> Result<Option<Arc<dyn VectorIndexHook>>, StoreError> {
        let Some(definition) = record.vector.clone() else { return Ok(None) };
        let context = VectorIndexContext {
            engine: backend.current_engine(),
            keyspace: vectors_keyspace(record.id),
            directory: self.vector_directory(record.id),
            table_id: record.table,
            index_id: record.id,
            definition,
        };
        self.vectors.open(&context).map(Some)
    }

    /// Runs `work` on a thread that closing the store waits for.
    pub(super) fn in_background(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
        let mut background = self.background.lock().unwrap_or_else(PoisonError::into_inner);
        background.retain(|thread| !thread.is_finished());
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .map_err(|error| StoreError::Unavailable(format!("a background thread did not start: {error}")))?;
        background.push(thread);
        Ok(())
    }

    /// Removes the data of what was dropped, each from where it lies. What fails is tried again when the store is opened
    /// the next time.
    pub(super) fn remove_in_background(self: &Arc<Self>, dropped: Vec<(Dropped, Arc<Backend>)>) {
        if dropped.is_empty() {
            return;
        }
        let shared = Arc::clone(self);
        let work = move || {
            for (dropped, backend) in &dropped {
                if let Err(error) = build::remove(&shared, backend, dropped) {
                    tracing::warn!(dropped = dropped.key(), %error, "dropped data was not removed; the next start tries again");
                }
            }
        };
        if let Err(error) = self.in_background("storage-removal", work) {
            tracing::warn!(%error, "dropped data was not removed; the next start tries again");
        }
    }

    fn close(&self) {
        self.begin_closing();
        let background = std::mem::take(&mut *self.background.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in background {
            if thread.join().is_err() {
                tracing::error!("a background thread of the store panicked");
            }
        }
        self.embedded.shut();
    }
}

struct StoreInner {
    shared: Arc<Shared>,
    databases: Arc<RwLock<BTreeMap<String, Database>>>,
    /// Held while databases and tables come and go.
    definitions: Mutex<()>,
    /// Locked until the store is dropped.
    _lock: File,
}

impl Drop for StoreInner {
    fn drop(&mut self) {
        self.close();
    }
}

impl StoreInner {
    fn close(&self) {
        // Before what they wait for: a build writes until it is told to stop.
        self.shared.begin_closing();
        let databases = self.databases.read().unwrap_or_else(PoisonError::into_inner);
        let tables = databases.values().flat_map(|database| database.tables.values());
        tables.filter(|table| table.backend.of_table().is_some()).for_each(|table| table.backend.shut());
        drop(databases);
        self.shared.close();
    }
}

/// An open data directory. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<StoreInner>);

impl Store {
    /// Opens a data directory, or makes a new one, with a database `test`. Builds of indexes that were cut short go on.
    ///
    /// # Errors
    /// When the directory is in use, can't be read or written, or holds damaged data.
    pub fn open(directory: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        let storage = directory.join("storage");
        std::fs::create_dir_all(&storage).map_err(|error| StoreError::Directory {
            path: storage.clone(),
            message: format!("can't be made: {error}"),
        })?;
        let lock = lock_directory(directory)?;
        let config = StorageConfig { directory: storage, cache_bytes: options.cache_bytes, options: Datum::Null };
        let engine: Arc<dyn StorageEngine> = Arc::new(FjallEngine::open(&config)?);
        Self::open_engine(directory, options, engine, lock)
    }

    /// Opens a store over an engine that is open.
    pub(super) fn open_engine(
        directory: &Path,
        options: &StoreOptions,
        engine: Arc<dyn StorageEngine>,
        lock: File,
    ) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared {
            embedded: Backend::embedded(engine)?,
            engines: Arc::clone(&options.engines),
            functions: Arc::clone(&options.functions),
            vectors: Arc::clone(&options.vectors),
            directory: directory.to_owned(),
            closing: AtomicBool::new(false),
            waiting: Default::default(),
            background: Mutex::default(),
        });
        let records = Records::load(&*shared.embedded.opened()?.engine.snapshot()?)?;
        let dropped = records.dropped.clone();
        let inner = StoreInner {
            databases: Arc::new(RwLock::new(open_databases(&shared, directory, records)?)),
            definitions: Mutex::default(),
            _lock: lock,
            shared,
        };
        let store = Self(Arc::new(inner));
        for table in store.all_tables() {
            for index in table.index_list().iter().filter(|index| !index.is_ready()) {
                table.start_build(index)?;
            }
        }
        let (shared, databases) = (Arc::clone(&store.0.shared), Arc::clone(&store.0.databases));
        let every = options.upkeep;
        store.0.shared.in_background("storage-upkeep", move || upkeep::run(&shared, &databases, every))?;
        let tables = store.all_tables();
        let lies_in = |dropped: Dropped| {
            let of =
                |id: Uuid| tables.iter().find(|table| table.info().id == id).map(|table| Arc::clone(&table.backend));
            let backend = match dropped {
                Dropped::Index { table, .. } => of(table),
                Dropped::Table(..) => None,
            };
            (dropped, backend.unwrap_or_else(|| Arc::clone(&store.0.shared.embedded)))
        };
        store.0.shared.remove_in_background(dropped.into_iter().map(lies_in).collect());
        Ok(store)
    }

    /// The databases, by name.
    #[must_use]
    pub fn databases(&self) -> Vec<DatabaseInfo> {
        self.with_databases(|databases| databases.values().map(|database| database.info.clone()).collect())
    }

    /// A database.
    ///
    /// # Errors
    /// [`StoreError::DatabaseMissing`].
    pub fn database(&self, name: &str) -> Result<DatabaseInfo, StoreError> {
        self.with_databases(|databases| databases.get(name).map(|database| database.info.clone()))
            .ok_or_else(|| StoreError::DatabaseMissing(name.to_owned()))
    }

    /// Creates a database.
    ///
    /// # Errors
    /// When the name is taken or has other characters than letters, digits, `_` and `-`.
    pub fn create_database(&self, name: &str) -> Result<DatabaseInfo, StoreError> {
        check_name("Database", name)?;
        let _definitions = self.lock_definitions();
        if self.with_databases(|databases| databases.contains_key(name)) {
            return Err(StoreError::DatabaseExists(name.to_owned()));
        }
        let record = DatabaseRecord { id: Uuid::new_v4(), name: name.to_owned() };
        let mut batch = WriteBatch::default();
        batch.put(catalog::KEYSPACE, record.key(), record.value());
        self.0.shared.commit(batch)?;
        let info = DatabaseInfo { id: record.id, name: record.name };
        let database = Database { info: info.clone(), tables: BTreeMap::new() };
        self.change_databases(|databases| databases.insert(name.to_owned(), database));
        Ok(info)
    }

    /// Drops a database with all its tables, and returns what was dropped.
    ///
    /// # Errors
    /// [`StoreError::DatabaseMissing`].
    pub fn drop_database(&self, name: &str) -> Result<(DatabaseInfo, Vec<TableInfo>), StoreError> {
        let _definitions = self.lock_definitions();
        let found = self.with_databases(|databases| {
            databases.get(name).map(|found| (found.info.clone(), found.tables.values().cloned().collect::<Vec<_>>()))
        });
        let (info, tables) = found.ok_or_else(|| StoreError::DatabaseMissing(name.to_owned()))?;
        let record = DatabaseRecord { id: info.id, name: info.name.clone() };
        let mut batch = WriteBatch::default();
        batch.delete(catalog::KEYSPACE, record.key());
        self.drop_tables(batch, &tables)?;
        self.change_databases(|databases| databases.remove(name));
        Ok((info, tables.iter().map(|table| table.info().clone()).collect()))
    }

    /// The tables of a database, by name.
    ///
    /// # Errors
    /// [`StoreError::DatabaseMissing`].
    pub fn tables(&self, db: &str) -> Result<Vec<TableInfo>, StoreError> {
        self.with_databases(|databases| {
            let database = databases.get(db).ok_or_else(|| StoreError::DatabaseMissing(db.to_owned()))?;
            Ok(database.tables.values().map(|table| table.info().clone()).collect())
        })
    }

    /// All tables of all databases.
    #[must_use]
    pub fn all_tables(&self) -> Vec<Arc<Table>> {
        self.with_databases(|databases| {
            databases.values().flat_map(|database| database.tables.values().cloned()).collect()
        })
    }

    /// The tables, as `db.name`, whose engines this plugin provides.
    #[must_use]
    pub fn tables_stored_by(&self, plugin: &str) -> Vec<String> {
        let is_stored_by =
            |table: &&Arc<Table>| table.engine_status().plugin.is_some_and(|(provider, _)| provider == plugin);
        let tables = self.all_tables();
        let names =
            tables.iter().filter(is_stored_by).map(|table| format!("{}.{}", table.info().db, table.info().name));
        names.collect()
    }

    /// The vector indexes, as `db.table.index`, that `is_wanted` accepts.
    pub fn vector_indexes(&self, is_wanted: impl Fn(&VectorDefinition) -> bool) -> Vec<String> {
        let of_table = |table: &Arc<Table>| {
            let name = format!("{}.{}", table.info().db, table.info().name);
            let is_wanted = |index: &&Index| index.info().vector.is_some_and(|vector| is_wanted(&vector));
            table
                .index_list()
                .iter()
                .filter(is_wanted)
                .map(|index| format!("{name}.{}", index.name))
                .collect::<Vec<_>>()
        };
        self.all_tables().iter().flat_map(of_table).collect()
    }

    /// Creates a table.
    ///
    /// # Errors
    /// When there is no such database, the name is taken or wrong, or there is no such engine.
    pub fn create_table(&self, db: &str, name: &str, options: &TableOptions) -> Result<TableInfo, StoreError> {
        check_name("Table", name)?;
        let engine = self.engine_definition(options)?;
        let check_free = || match self.table(db, name) {
            Ok(_) => Err(StoreError::TableExists { db: db.to_owned(), table: name.to_owned() }),
            Err(_) => self.database(db),
        };
        let database = check_free()?;
        let record = TableRecord {
            id: Uuid::new_v4(),
            db: database.id,
            name: name.to_owned(),
            primary_key: options.primary_key.clone(),
            durability: options.durability,
            next_index: 0,
            engine,
        };
        let mut batch = WriteBatch::default();
        batch.put(catalog::KEYSPACE, record.key(), record.value());
        let shared = &self.0.shared;
        let (backend, dropped) = (shared.backend(&record, db)?, record.dropped());
        // Opened before the lock: a plugin may take its time.
        let opened = backend.opened().map(|_| self.lock_definitions());
        let created = opened.and_then(|definitions| {
            check_free()?;
            shared.commit(batch).map(|()| definitions)
        });
        let _definitions = created.inspect_err(|_| {
            if backend.of_table().is_some() {
                shared.remove_in_background(vec![(dropped, Arc::clone(&backend))]);
            }
        })?;
        let table = Table::new(Arc::clone(shared), backend, record, db.to_owned(), 0, Vec::new());
        let info = table.info().clone();
        self.change_databases(|databases| {
            databases.get_mut(db).map(|database| database.tables.insert(name.to_owned(), table))
        });
        Ok(info)
    }

    /// The engine of a plugin that the options ask for.
    fn engine_definition(&self, options: &TableOptions) -> Result<Option<EngineDefinition>, StoreError> {
        let named = options.engine.as_deref().or_else(|| self.0.shared.engines.of_unnamed());
        let (kind, options) = (named.unwrap_or(DEFAULT_ENGINE), &options.engine_options);
        if kind != DEFAULT_ENGINE {
            let source = self.0.shared.engines.validate(kind, options)?;
            return Ok(Some(EngineDefinition {
                kind: kind.to_owned(),
                options: options.clone(),
                plugin: source.plugin,
                version: source.version,
            }));
        }
        match options.as_object().and_then(|options| options.iter().next()) {
            None => Ok(None),
            Some((key, _)) => Err(StoreError::EngineOptions {
                engine: DEFAULT_ENGINE.to_owned(),
                problem: format!("unknown option `{key}`: the default engine has no options"),
            }),
        }
    }

    /// Drops a table. Its data is removed in the background; scans that read it come to their end.
    ///
    /// # Errors
    /// When there is no such table.
    pub fn drop_table(&self, db: &str, name: &str) -> Result<TableInfo, StoreError> {
        let _definitions = self.lock_definitions();
        let table = self.table(db, name)?;
        self.drop_tables(WriteBatch::default(), std::slice::from_ref(&table))?;
        self.change_databases(|databases| databases.get_mut(db).map(|database| database.tables.remove(name)));
        Ok(table.info().clone())
    }

    /// A table.
    ///
    /// # Errors
    /// When there is no such database or table.
    pub fn table(&self, db: &str, name: &str) -> Result<Arc<Table>, StoreError> {
        self.with_databases(|databases| {
            let database = databases.get(db).ok_or_else(|| StoreError::DatabaseMissing(db.to_owned()))?;
            let missing = || StoreError::TableMissing { db: db.to_owned(), table: name.to_owned() };
            database.tables.get(name).cloned().ok_or_else(missing)
        })
    }

    /// The table with an id.
    #[must_use]
    pub fn table_by_id(&self, id: Uuid) -> Option<Arc<Table>> {
        self.all_tables().into_iter().find(|table| table.info().id == id)
    }

    /// Puts all writes on the disk.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn flush(&self) -> Result<(), StoreError> {
        let tables = self.all_tables();
        let of_plugins = tables.iter().filter(|table| table.backend.of_table().is_some());
        of_plugins.map(|table| table.sync()).fold(self.0.shared.embedded.writer.sync(None), Result::and)
    }

    /// Sizes and counts, for people.
    #[must_use]
    pub fn statistics(&self) -> Datum {
        self.0.shared.embedded.current_engine().statistics()
    }

    /// Stops builds, puts all writes on the disk, and takes no more. Builds go on when the store is opened again.
    pub fn close(&self) {
        self.0.close();
    }

    /// Commits `batch` and the removal of the tables' records, and starts to remove their data.
    fn drop_tables(&self, mut batch: WriteBatch, tables: &[Arc<Table>]) -> Result<(), StoreError> {
        let mut dropped = Vec::new();
        let mut indexes = Vec::new();
        for table in tables {
            // No write may follow the commit, so the gate closes first. If the commit fails, the store is failing.
            table.mark_dropped();
            let id = table.info().id;
            batch.delete(catalog::KEYSPACE, format!("table/{id}"));
            batch.delete(catalog::KEYSPACE, catalog::count_key(id));
            for index in table.index_list().iter() {
                dropped.push((table.stage_drop_index(index, &mut batch), Arc::clone(&self.0.shared.embedded)));
                indexes.push(index.clone());
            }
            let record = Dropped::Table(id, table.backend.of_table().map(|engine| engine.definition.kind.clone()));
            batch.put(catalog::KEYSPACE, record.key(), record.value());
            dropped.push((record, Arc::clone(&table.backend)));
        }
        self.0.shared.commit(batch)?;
        indexes.iter().for_each(Index::forget);
        // Tables first: then there are no entries of indexes left to remove one by one.
        dropped.sort_by_key(|(dropped, _)| matches!(dropped, Dropped::Index { .. }));
        self.0.shared.remove_in_background(dropped);
        Ok(())
    }

    fn with_databases<T>(&self, read: impl FnOnce(&BTreeMap<String, Database>) -> T) -> T {
        read(&self.0.databases.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change_databases<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Database>) -> T) {
        change(&mut self.0.databases.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn lock_definitions(&self) -> MutexGuard<'_, ()> {
        self.0.definitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Locks a data directory for this process, as long as the file is open.
pub(super) fn lock_directory(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join("photondb.lock");
    let failed = |error: std::io::Error| StoreError::Directory {
        path: path.clone(),
        message: format!("can't be locked: {error}"),
    };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(directory.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn check_name(kind: &'static str, name: &str) -> Result<(), StoreError> {
    let is_valid = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if is_valid { Ok(()) } else { Err(StoreError::Name { kind, name: name.to_owned() }) }
}

/// What the records describe; for a new directory, what exists from the start.
fn open_databases(
    shared: &Arc<Shared>,
    directory: &Path,
    records: Records,
) -> Result<BTreeMap<String, Database>, StoreError> {
    let mut databases = BTreeMap::new();
    match records.format {
        Some(catalog::FORMAT) => {}
        Some(other) => {
            let message =
                format!("has data of format {other}, this program reads {}: use a newer PhotonDB", catalog::FORMAT);
            return Err(StoreError::Directory { path: directory.to_owned(), message });
        }
        None => {
            let record = DatabaseRecord { id: Uuid::new_v4(), name: FIRST_DATABASE.to_owned() };
            let mut batch = WriteBatch::default();
            batch.put(catalog::KEYSPACE, catalog::FORMAT_KEY, Datum::Number(catalog::FORMAT).encoded());
            batch.put(catalog::KEYSPACE, record.key(), record.value());
            shared.commit(batch)?;
            insert_database(&mut databases, record);
        }
    }
    for record in records.databases {
        insert_database(&mut databases, record);
    }
    for record in records.tables {
        let documents =
            records.counts.iter().find(|(table, _)| *table == record.id).map_or(0, |(_, documents)| *documents);
        let database = databases.values_mut().find(|database| database.info.id == record.db).ok_or_else(|| {
            StoreError::damaged(
                catalog::KEYSPACE,
                format!("table `{}` is in no database: restore a backup", record.name),
            )
        })?;
        let (name, db) = (record.name.clone(), database.info.name.clone());
        let backend = shared.backend(&record, &db)?;
        let indexes = records.indexes.iter().filter(|index| index.table == record.id);
        let indexes = indexes.map(|index| open_index(shared, &backend, index)).collect::<Result<_, _>>()?;
        let table = Table::new(Arc::clone(shared), backend, record, db, documents, indexes);
        database.tables.insert(name, table);
    }
    Ok(databases)
}

fn insert_database(databases: &mut BTreeMap<String, Database>, record: DatabaseRecord) {
    let info = DatabaseInfo { id: record.id, name: record.name.clone() };
    databases.insert(record.name, Database { info, tables: BTreeMap::new() });
}

fn open_index(shared: &Shared, backend: &Backend, record: &IndexRecord) -> Result<Index, StoreError> {
    let function = shared.functions.compile(&record.source).map_err(|message| StoreError::IndexFunction {
        index: record.name.clone(),
        table: record.table.to_string(),
        message,
    })?;
    let hook = shared.open_vector_index(backend, record)?;
    Ok(Index { name: record.name.clone(), core: Arc::new(IndexCore::new(record.clone(), function, hook)) })
}
