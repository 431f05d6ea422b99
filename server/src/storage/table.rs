//! A table: documents by primary key, and the indexes that follow them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::storage::{Direction, Durability, Selection, StorageEngine, StorageError, WriteBatch};
use uuid::Uuid;

use super::backend::{Backend, Follower, Opened};
use super::catalog::{self, Dropped, IndexRecord, TableRecord};
use super::document::Document;
use super::error::StoreError;
use super::indexes::{self, Index, IndexCore, IndexDefinition, IndexInfo, IndexStatus};
use super::keys::{self, DatumRange};
use super::locks::KeyLocks;
use super::scan::{Documents, View};
use super::store::DEFAULT_ENGINE;
use super::vectors::{DistanceDefinition, VectorDefinition, VectorIndexHook};
use super::writer::Counter;
use super::{Shared, build, upkeep};

/// Entries of an index in a plugin's engine that may have a long value's first bytes in common.
const MOST_OF_A_KEY: usize = 1 << 20;

/// The keyspace of a table's documents.
pub(super) fn documents_keyspace(table: Uuid) -> String {
    format!("{table}.documents")
}

/// The keyspace of the entries of all of a table's indexes.
pub(super) fn entries_keyspace(table: Uuid) -> String {
    format!("{table}.indexes")
}

/// The keyspace of a vector index.
pub(super) fn vectors_keyspace(index: Uuid) -> String {
    format!("{index}.vectors")
}

/// What is known about a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// The id; never used again.
    pub id: Uuid,
    /// The name.
    pub name: String,
    /// The name of its database.
    pub db: String,
    /// The id of its database.
    pub db_id: Uuid,
    /// The field that documents are stored by.
    pub primary_key: String,
    /// How durable writes are that don't say.
    pub durability: Durability,
}

/// Where a table is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineStatus {
    /// The engine's name.
    pub engine: String,
    /// Its options: an object.
    pub options: Datum,
    /// The plugin that provides it, and its version; `None` for the default engine.
    pub plugin: Option<(String, String)>,
    /// Whether the table can be read and written now.
    pub is_available: bool,
}

/// A vector index of a table, open.
#[derive(Clone)]
pub struct VectorIndexHandle {
    /// The index's id.
    pub id: Uuid,
    /// What it was created with.
    pub definition: VectorDefinition,
    /// What [`VectorIndexes::open`](super::VectorIndexes::open) gave.
    pub hook: Arc<dyn VectorIndexHook>,
}

/// A table.
pub struct Table {
    pub(super) shared: Arc<Shared>,
    /// Where the documents are, and all that follows from them.
    pub(super) backend: Arc<Backend>,
    info: TableInfo,
    pub(super) documents: Arc<str>,
    pub(super) entries: Arc<str>,
    pub(super) locks: KeyLocks,
    /// Held for reading by whoever changes documents; for writing while the set of indexes changes, so that no write works
    /// with an old set. Locked after `definitions`, before keys. Reads don't take it: a write may read its own table.
    gate: RwLock<()>,
    dropped: AtomicBool,
    indexes: RwLock<Arc<Vec<Index>>>,
    /// The number of the next index. Locked while definitions change.
    definitions: Mutex<u32>,
    pub(super) counter: Arc<Counter>,
    pub(super) upkeep: upkeep::Status,
}

impl Table {
    pub(super) fn new(
        shared: Arc<Shared>,
        backend: Arc<Backend>,
        record: TableRecord,
        db: String,
        documents: i64,
        indexes: Vec<Index>,
    ) -> Arc<Self> {
        let TableRecord { id, db: db_id, name, primary_key, durability, next_index, engine: _ } = record;
        let table = Arc::new(Self {
            shared,
            backend,
            documents: documents_keyspace(id).into(),
            entries: entries_keyspace(id).into(),
            locks: KeyLocks::new(),
            gate: RwLock::new(()),
            dropped: AtomicBool::new(false),
            indexes: RwLock::new(Arc::new(indexes)),
            definitions: Mutex::new(next_index),
            counter: Arc::new(Counter::new(catalog::count_key(id).into_bytes(), documents)),
            upkeep: upkeep::Status::default(),
            info: TableInfo { id, name, db, db_id, primary_key, durability },
        });
        if table.backend.of_table().is_some() {
            let weak = Arc::downgrade(&table);
            table.backend.follow(weak);
        }
        table
    }

    /// What is known about the table.
    #[must_use]
    pub fn info(&self) -> &TableInfo {
        &self.info
    }

    /// How many documents there are. Exact but for writes that are being committed.
    #[must_use]
    pub fn count_estimate(&self) -> u64 {
        // An engine of a plugin is opened when it is needed, and knows the number; without it, the last one known stays.
        let _ = self.know();
        self.counter.documents()
    }

    /// Sees to it that what is kept in memory of an engine of a plugin was read from it.
    fn know(&self) -> Result<(), StoreError> {
        if self.backend.of_table().is_some() { self.backend.opened().map(drop) } else { Ok(()) }
    }

    /// Where it is stored.
    #[must_use]
    pub fn engine_status(&self) -> EngineStatus {
        let Some(engine) = self.backend.of_table() else {
            let (engine, options) = (DEFAULT_ENGINE.to_owned(), Datum::object::<&str, Datum>([]));
            return EngineStatus { engine, options, plugin: None, is_available: true };
        };
        let definition = &engine.definition;
        let source = engine.engines.source(&definition.kind);
        EngineStatus {
            engine: definition.kind.clone(),
            options: definition.options.clone(),
            is_available: source.as_ref().is_some_and(|source| source.is_running),
            plugin: Some(match source {
                Some(source) => (source.plugin, source.version),
                None => (definition.plugin.clone(), definition.version.clone()),
            }),
        }
    }

    /// Sizes and counts of the engine that the table has for itself, for people; null where it has none, or none that is
    /// open.
    #[must_use]
    pub fn engine_statistics(&self) -> Datum {
        let own = self.backend.of_table().and_then(|_| self.backend.present());
        own.map_or(Datum::Null, |opened| opened.engine.statistics())
    }

    /// The document with a primary key.
    ///
    /// # Errors
    /// When the key can't be one, or the engine fails.
    pub fn get(&self, key: &Datum) -> Result<Option<Datum>, StoreError> {
        self.check_not_dropped()?;
        self.get_encoded(&keys::primary_key(key)?)?.map(Document::into_datum).transpose()
    }

    /// The documents in a range of primary keys, in their order.
    ///
    /// # Errors
    /// When the engine fails; later failures are items.
    pub fn scan(&self, range: &DatumRange, direction: Direction) -> Result<Documents, StoreError> {
        self.stream(|view| view.documents(range, direction))
    }

    /// Whether scans pay attention to a selection: those of an engine of a plugin may.
    #[must_use]
    pub fn takes_selections(&self) -> bool {
        self.backend.of_table().is_some()
    }

    /// The documents in a range of primary keys as of now, without what `selection` allows to leave out; which is asked for
    /// when the first document is. Of those that come, fields that were left out are read when they are needed.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    pub fn scan_selected(
        self: &Arc<Self>,
        range: DatumRange,
        direction: Direction,
        selection: impl FnOnce() -> Selection + Send + 'static,
    ) -> Result<Documents, StoreError> {
        self.check_not_dropped()?;
        let mut opened = self.backend.opened()?;
        let mut begun = self.view(&opened);
        if self.backend.is_lost(&opened, begun.as_ref().err()) {
            opened = self.backend.opened()?;
            begun = self.view(&opened);
        }
        let begun = begun.map_err(|error| self.backend.explain(error))?;
        let (table, backend) = (Arc::clone(self), Arc::clone(&self.backend));
        let documents = Documents::when_needed(move || {
            let selection = selection();
            let documents = begun.selected(&range, direction, &selection);
            match &documents {
                // Where the process ended meanwhile, once more in the next one.
                Err(StoreError::Storage(error)) if table.backend.is_lost(&opened, Some(error)) => {
                    table.view(&table.backend.opened()?)?.selected(&range, direction, &selection)
                }
                _ => documents,
            }
        });
        Ok(documents.map_errors(move |error| backend.explain_store(error)))
    }

    /// The documents in a range of an index, in its order; those with equal values in the order of primary keys.
    /// A document is found once for each of its entries.
    ///
    /// # Errors
    /// When there is no such index, it is not ready, or it is a vector index.
    pub fn index_scan(&self, index: &str, range: &DatumRange, direction: Direction) -> Result<Documents, StoreError> {
        let number = self.ordered_index(index)?;
        self.stream(|view| view.by_index(number, range, direction))
    }

    /// The distinct values in a range of an index, in order.
    ///
    /// # Errors
    /// As [`index_scan`](Self::index_scan).
    pub fn index_values(&self, index: &str, range: &DatumRange, direction: Direction) -> Result<Documents, StoreError> {
        let number = self.ordered_index(index)?;
        self.stream(|view| view.index_values(number, range, direction))
    }

    /// A vector index.
    ///
    /// # Errors
    /// When there is no such index, it is not ready, or it is another kind of index.
    pub fn vector_index(&self, name: &str) -> Result<VectorIndexHandle, StoreError> {
        let Index { core, .. } = self.ready_index(name)?;
        self.know()?;
        match (&core.record.vector, &core.hook) {
            (Some(definition), Some(hook)) => {
                Ok(VectorIndexHandle { id: core.record.id, definition: definition.clone(), hook: Arc::clone(hook) })
            }
            _ => Err(StoreError::IndexIsNotVector(name.to_owned())),
        }
    }

    /// The document of the encoded primary key that a vector index was given.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn get_encoded(&self, key: &[u8]) -> Result<Option<Document>, StoreError> {
        let document = self.backend.read(|engine| engine.get(&self.documents, key))?;
        Ok(document.map(|document| Document::new(&self.documents, document)))
    }

    /// Puts all earlier writes on the disk.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.backend.opened()?;
        self.backend.writer.sync(None).map_err(|error| self.backend.explain_store(error))
    }

    /// The distance of that name of some plugin, for a vector index over vectors of `dims` numbers.
    ///
    /// # Errors
    /// There is none, or the options are wrong.
    pub fn distance(&self, name: &str, dims: u32, options: Datum) -> Result<DistanceDefinition, StoreError> {
        self.shared.vectors.distance(name, dims, options)
    }

    /// Creates an index and starts to build it; [`wait_index`](Self::wait_index) tells when it is ready.
    ///
    /// # Errors
    /// When the name is taken, or the function or the vector's options are wrong.
    pub fn create_index(self: &Arc<Self>, definition: &IndexDefinition) -> Result<IndexInfo, StoreError> {
        let IndexDefinition { name, source, multi, vector } = definition;
        indexes::check_name(name, &self.info.primary_key)?;
        let invalid = |message| StoreError::IndexDefinition { index: name.clone(), message };
        let function = self.shared.functions.compile(source).map_err(invalid)?;
        if let Some(vector) = vector {
            self.shared.vectors.validate(vector)?;
        }
        let mut next_index = self.lock_definitions();
        if self.find_index(name).is_some() {
            return Err(StoreError::IndexExists {
                index: name.clone(),
                db: self.info.db.clone(),
                table: self.info.name.clone(),
            });
        }
        let record = IndexRecord {
            id: Uuid::new_v4(),
            table: self.info.id,
            name: name.clone(),
            number: *next_index,
            source: source.clone(),
            multi: *multi && vector.is_none(),
            ready: false,
            vector: vector.clone(),
        };
        // Its plugin has to be there: the index is built from what is stored.
        self.backend.opened()?;
        let hook = self.shared.open_vector_index(&self.backend, &record)?;
        let index = Index { name: name.clone(), core: Arc::new(IndexCore::new(record.clone(), function, hook)) };
        self.add_index(&index, &mut next_index).inspect_err(|_| {
            // The table was dropped meanwhile, say: nobody else knows of the vector index.
            let IndexRecord { id, table, number, .. } = record;
            let dropped = Dropped::Index { table, number, id };
            self.shared.remove_in_background(vec![(dropped, Arc::clone(&self.backend))]);
        })?;
        drop(next_index);
        self.start_build(&index)?;
        Ok(index.info())
    }

    fn add_index(&self, index: &Index, next_index: &mut u32) -> Result<(), StoreError> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.check_not_dropped()?;
        let mut batch = WriteBatch::default();
        let record = &index.core.record;
        batch.put(catalog::KEYSPACE, record.key(), record.value());
        let table = self.record(*next_index + 1);
        batch.put(catalog::KEYSPACE, table.key(), table.value());
        self.shared.commit(batch)?;
        *next_index += 1;
        self.change_indexes(|indexes| indexes.push(index.clone()));
        Ok(())
    }

    /// Drops an index; its data is removed in the background.
    ///
    /// # Errors
    /// [`StoreError::IndexAbsent`] when there is none.
    pub fn drop_index(&self, name: &str) -> Result<(), StoreError> {
        let definitions = self.lock_definitions();
        let index = self.find_index(name).ok_or_else(|| self.index_absent(name))?;
        let gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.check_not_dropped()?;
        let mut batch = WriteBatch::default();
        let dropped = self.stage_drop_index(&index, &mut batch);
        self.shared.commit(batch)?;
        self.change_indexes(|indexes| indexes.retain(|other| other.name != name));
        // Before the gate opens: the build must not go on behind it.
        index.forget();
        drop((gate, definitions));
        self.shared.remove_in_background(vec![(dropped, Arc::clone(&self.backend))]);
        Ok(())
    }

    /// Adds the removal of an index's record to `batch`; its data is for [`build::remove`].
    pub(super) fn stage_drop_index(&self, index: &Index, batch: &mut WriteBatch) -> Dropped {
        let IndexRecord { id, number, table, .. } = index.core.record;
        let dropped = Dropped::Index { table, number, id };
        batch.delete(catalog::KEYSPACE, index.core.record.key());
        batch.delete(catalog::KEYSPACE, catalog::build_key(id));
        batch.put(catalog::KEYSPACE, dropped.key(), []);
        dropped
    }

    /// Gives an index another name; `false` when it has it already.
    ///
    /// # Errors
    /// When there is no such index, or the name is taken and `overwrite` is not set.
    pub fn rename_index(&self, from: &str, to: &str, overwrite: Overwrite) -> Result<bool, StoreError> {
        indexes::check_name(to, &self.info.primary_key)?;
        let definitions = self.lock_definitions();
        let index = self.find_index(from).ok_or_else(|| self.index_absent(from))?;
        if from == to {
            return Ok(false);
        }
        let replaced = self.find_index(to);
        if replaced.is_some() && overwrite == Overwrite::Refuse {
            return Err(StoreError::IndexExists {
                index: to.to_owned(),
                db: self.info.db.clone(),
                table: self.info.name.clone(),
            });
        }
        let gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.check_not_dropped()?;
        let mut batch = WriteBatch::default();
        let record = IndexRecord { name: to.to_owned(), ready: index.is_ready(), ..index.core.record.clone() };
        batch.put(catalog::KEYSPACE, record.key(), record.value());
        let dropped = replaced.as_ref().map(|replaced| self.stage_drop_index(replaced, &mut batch));
        self.shared.commit(batch)?;
        self.change_indexes(|indexes| {
            indexes.retain(|other| other.name != from && other.name != to);
            indexes.push(Index { name: to.to_owned(), core: Arc::clone(&index.core) });
        });
        if let Some(replaced) = &replaced {
            replaced.forget();
        }
        drop((gate, definitions));
        let dropped = dropped.into_iter().map(|dropped| (dropped, Arc::clone(&self.backend)));
        self.shared.remove_in_background(dropped.collect());
        Ok(true)
    }

    /// The indexes, by name.
    #[must_use]
    pub fn indexes(&self) -> Vec<IndexInfo> {
        let mut indexes: Vec<IndexInfo> = self.index_list().iter().map(Index::info).collect();
        indexes.sort_by(|a, b| a.name.cmp(&b.name));
        indexes
    }

    /// How far an index is.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn index_status(&self, name: &str) -> Result<IndexStatus, StoreError> {
        let index = self.find_index(name).ok_or_else(|| self.index_missing(name))?;
        Ok(index.status(self.count_estimate()))
    }

    /// How a vector index is and how large, for people: an object; `None` for another index. May ask its plugin.
    ///
    /// # Errors
    /// When there is no index of that name.
    pub fn describe_vector_index(&self, name: &str) -> Result<Option<Datum>, StoreError> {
        let index = self.find_index(name).ok_or_else(|| self.index_missing(name))?;
        Ok(index.core.hook.as_ref().map(|hook| hook.describe()))
    }

    /// Waits until an index is ready, or its build has failed.
    ///
    /// # Errors
    /// When there is none of that name, or the deadline comes first.
    pub fn wait_index(&self, name: &str, deadline: Instant) -> Result<IndexStatus, StoreError> {
        let index = self.find_index(name).ok_or_else(|| self.index_missing(name))?;
        if !index.core.wait(deadline) {
            return Err(StoreError::Deadline(name.to_owned()));
        }
        if index.core.with_state(|state| state.dropped) {
            return Err(self.index_missing(name));
        }
        Ok(index.status(self.count_estimate()))
    }

    /// Starts to build an index that is not ready.
    pub(super) fn start_build(self: &Arc<Self>, index: &Index) -> Result<(), StoreError> {
        let (table, index) = (Arc::clone(self), index.clone());
        self.shared.in_background("index-build", move || build::build(&table, &index))
    }

    /// Takes part in the changes of documents: indexes stay as they are until the guard is dropped.
    pub(super) fn enter(&self) -> Result<RwLockReadGuard<'_, ()>, StoreError> {
        let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.check_not_dropped()?;
        Ok(gate)
    }

    /// Lets no more changes in, once those in progress are done.
    pub(super) fn mark_dropped(&self) {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        // Release: pairs with the Acquire in `check_not_dropped`, for reads, which have no gate.
        self.dropped.store(true, Ordering::Release);
    }

    pub(super) fn lock_definitions(&self) -> MutexGuard<'_, u32> {
        self.definitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn index_list(&self) -> Arc<Vec<Index>> {
        Arc::clone(&self.indexes.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn index_name(&self, id: Uuid) -> Option<String> {
        self.index_list().iter().find(|index| index.core.record.id == id).map(|index| index.name.clone())
    }

    fn change_indexes(&self, change: impl FnOnce(&mut Vec<Index>)) {
        let mut indexes = self.indexes.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut indexes));
    }

    fn record(&self, next_index: u32) -> TableRecord {
        let TableInfo { id, db_id, name, primary_key, durability, .. } = self.info.clone();
        let engine = self.backend.of_table().map(|engine| engine.definition.clone());
        TableRecord { id, db: db_id, name, primary_key, durability, next_index, engine }
    }

    /// The present state.
    fn view(&self, opened: &Opened) -> Result<View, StorageError> {
        Ok(View {
            snapshot: opened.engine.snapshot()?.into(),
            documents: Arc::clone(&self.documents),
            entries: Arc::clone(&self.entries),
            // They are held in memory, and an engine of a plugin may give them without end.
            most_of_a_key: if self.backend.of_table().is_some() { MOST_OF_A_KEY } else { usize::MAX },
        })
    }

    /// Begins a scan of a snapshot. Where the engine's process ends meanwhile, once more in the next one.
    fn stream(&self, begin: impl Fn(View) -> Result<Documents, StoreError>) -> Result<Documents, StoreError> {
        self.check_not_dropped()?;
        let begin = |opened: &Opened| begin(self.view(opened)?);
        let opened = self.backend.opened()?;
        let mut begun = begin(&opened);
        if let Err(StoreError::Storage(error)) = &begun
            && self.backend.is_lost(&opened, Some(error))
        {
            begun = begin(&self.backend.opened()?);
        }
        let documents = begun.map_err(|error| self.backend.explain_store(error))?;
        if self.backend.of_table().is_none() {
            return Ok(documents);
        }
        let backend = Arc::clone(&self.backend);
        Ok(documents.map_errors(move |error| backend.explain_store(error)))
    }

    fn find_index(&self, name: &str) -> Option<Index> {
        self.index_list().iter().find(|index| index.name == name).cloned()
    }

    fn ready_index(&self, name: &str) -> Result<Index, StoreError> {
        let index = self.find_index(name).ok_or_else(|| self.index_missing(name))?;
        if index.is_ready() {
            return Ok(index);
        }
        let (db, table) = (self.info.db.clone(), self.info.name.clone());
        Err(StoreError::IndexNotReady { index: name.to_owned(), db, table })
    }

    /// The number of an index that can be scanned.
    fn ordered_index(&self, name: &str) -> Result<u32, StoreError> {
        let Index { core, .. } = self.ready_index(name)?;
        if core.record.vector.is_some() {
            Err(StoreError::IndexIsVector(name.to_owned()))
        } else {
            Ok(core.record.number)
        }
    }

    fn index_missing(&self, name: &str) -> StoreError {
        let (db, table) = (self.info.db.clone(), self.info.name.clone());
        StoreError::IndexMissing { index: name.to_owned(), db, table }
    }

    fn index_absent(&self, name: &str) -> StoreError {
        let (db, table) = (self.info.db.clone(), self.info.name.clone());
        StoreError::IndexAbsent { index: name.to_owned(), db, table }
    }

    fn check_not_dropped(&self) -> Result<(), StoreError> {
        if self.dropped.load(Ordering::Acquire) {
            let (db, table) = (self.info.db.clone(), self.info.name.clone());
            return Err(StoreError::TableMissing { db, table });
        }
        Ok(())
    }
}

impl Follower for Table {
    fn reopened(&self, engine: &dyn StorageEngine) -> Result<(), StorageError> {
        let documents = match engine.get(catalog::KEYSPACE, self.counter.key())? {
            None => 0,
            Some(stored) => i64::from_le_bytes(stored.try_into().map_err(|_| StorageError::Damaged {
                keyspace: catalog::KEYSPACE.to_owned(),
                message: "the number of documents is none".to_owned(),
            })?),
        };
        self.counter.set(documents);
        let indexes = self.index_list();
        indexes.iter().filter_map(|index| index.core.hook.as_ref()).try_for_each(|hook| hook.reload(engine))
    }
}

/// What happens to an index whose name another one is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// It is dropped.
    Drop,
    /// It stays, and the rename is refused.
    Refuse,
}
