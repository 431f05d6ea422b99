//! Where the data of tables lies: an open engine, and the one writer that changes it.
//!
//! The embedded engine is open as long as the store. An engine of a plugin belongs to one process: when that ends, the
//! next one who needs the engine opens it in the process that follows. Every opening begins a new **epoch**. What was not
//! flushed may be gone then, so what the server keeps in memory (counts, rows of vector indexes) is read again, and a
//! change that was computed from what was read in an earlier epoch is refused: it would belong to another state.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::storage::{
    Durability, Keyspace, StorageEngine, StorageError, StorageSnapshot, Upkeep, UpkeepRequest, WriteBatch,
};
use uuid::Uuid;

use super::engines::{EngineDefinition, OpenEngine, StorageEngines};
use super::error::StoreError;
use super::writer::Writer;

/// Those who may wait for an engine that somebody else opens: each holds a thread of those that queries run on.
const PATIENT: usize = 32;
/// How long they wait, and how long any further one does.
const PATIENCE: Duration = Duration::from_secs(5);
const IMPATIENCE: Duration = Duration::from_millis(250);

/// An engine as it was open at some moment.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) epoch: u64,
    pub(super) engine: Arc<dyn StorageEngine>,
    /// The same engine, where it is a plugin's.
    of_plugin: Option<Arc<dyn OpenEngine>>,
    /// It failed, and is to be opened anew.
    is_retired: Arc<AtomicBool>,
}

impl Opened {
    fn new(epoch: u64, engine: Arc<dyn StorageEngine>, of_plugin: Option<Arc<dyn OpenEngine>>) -> Self {
        Self { epoch, engine, of_plugin, is_retired: Arc::default() }
    }

    fn is_current(&self) -> bool {
        !self.is_retired() && self.of_plugin.as_ref().is_none_or(|engine| engine.is_current())
    }

    /// Whether it must not be changed any more: what it holds is not known.
    pub(super) fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Acquire)
    }

    /// Whoever needs the engine next opens it anew. An engine that is open as long as the store stays as it is.
    pub(super) fn retire(&self) {
        if self.of_plugin.is_some() {
            self.is_retired.store(true, Ordering::Release);
        }
    }
}

/// Somebody who keeps in memory what an engine holds.
pub(super) trait Follower: Send + Sync {
    /// The engine was opened anew: read again what is stored. No change is under way.
    ///
    /// # Errors
    /// When the engine fails.
    fn reopened(&self, engine: &dyn StorageEngine) -> Result<(), StorageError>;
}

/// An engine of a plugin, which one table has for itself.
pub(super) struct TableEngine {
    pub(super) engines: Arc<dyn StorageEngines>,
    pub(super) definition: EngineDefinition,
    pub(super) table: Uuid,
    /// How people call the table: `db.name`.
    pub(super) name: String,
}

impl TableEngine {
    fn unavailable(&self, problem: String) -> StoreError {
        StoreError::TableUnavailable {
            table: self.name.clone(),
            engine: self.definition.kind.clone(),
            plugin: self.definition.plugin.clone(),
            problem,
        }
    }
}

/// An engine and its writer.
pub(super) struct Backend {
    core: Arc<Core>,
    pub(super) writer: Writer,
}

/// The engine's part of a backend, which the writer's thread shares.
pub(super) struct Core {
    of_plugin: Option<TableEngine>,
    opened: RwLock<Option<Opened>>,
    /// Held by the writer during a commit, and by whoever opens the engine anew.
    changes: Mutex<()>,
    opening: Mutex<Opening>,
    opening_ended: Condvar,
    follower: OnceLock<Weak<dyn Follower>>,
    is_shut: AtomicBool,
}

#[derive(Default)]
struct Opening {
    is_under_way: bool,
    epoch: u64,
    waiting: usize,
    /// Why the last try failed: those who waited for it fail as well.
    failure: Option<StoreError>,
}

impl Backend {
    /// Over the engine that is open as long as the store.
    pub(super) fn embedded(engine: Arc<dyn StorageEngine>) -> Result<Arc<Self>, StoreError> {
        Self::start(Core::embedded(engine))
    }

    /// Over an engine that is opened when it is needed.
    pub(super) fn of_plugin(engine: TableEngine) -> Result<Arc<Self>, StoreError> {
        Self::start(Core::new(Some(engine), None))
    }

    fn start(core: Arc<Core>) -> Result<Arc<Self>, StoreError> {
        Ok(Arc::new(Self { writer: Writer::start(Arc::clone(&core))?, core }))
    }

    /// Tells `follower` from now on when the engine is opened anew. Once.
    pub(super) fn follow(&self, follower: Weak<dyn Follower>) {
        // A second one would be a mistake of ours, and changes nothing.
        let _ = self.core.follower.set(follower);
    }

    /// The definition of the engine, where it is a plugin's.
    pub(super) fn of_table(&self) -> Option<&TableEngine> {
        self.core.of_plugin.as_ref()
    }

    /// The engine, opened where it is not. Waits for a process that is being started.
    ///
    /// # Errors
    /// Why it can't be opened, and what to do.
    pub(super) fn opened(&self) -> Result<Opened, StoreError> {
        self.core.opened()
    }

    /// The engine if it is open now.
    pub(super) fn present(&self) -> Option<Opened> {
        self.core.present().filter(Opened::is_current)
    }

    /// Reads. Where the process ends meanwhile, once more in the next one.
    pub(super) fn read<T>(
        &self,
        read: impl Fn(&dyn StorageEngine) -> Result<T, StorageError>,
    ) -> Result<T, StoreError> {
        let opened = self.opened()?;
        let outcome = read(&*opened.engine);
        if !self.is_lost(&opened, outcome.as_ref().err()) {
            return outcome.map_err(|error| self.explain(error));
        }
        read(&*self.opened()?.engine).map_err(|error| self.explain(error))
    }

    /// Whether an error of `opened` means that the engine has to be opened anew; and takes care that it will be.
    pub(super) fn is_lost(&self, opened: &Opened, error: Option<&StorageError>) -> bool {
        let is_lost = opened.of_plugin.is_some() && matches!(error, Some(StorageError::Closed(_)));
        if is_lost {
            opened.retire();
        }
        is_lost
    }

    /// The error, said of the table.
    pub(super) fn explain(&self, error: StorageError) -> StoreError {
        if let (Some(TableEngine { name, definition, .. }), StorageError::Damaged { keyspace, message }) =
            (self.of_table(), &error)
        {
            tracing::error!(table = name, engine = definition.kind, keyspace, message, "what is stored is damaged");
        }
        match self.of_table() {
            None => error.into(),
            Some(TableEngine { name, definition, .. }) => StoreError::TableEngine {
                table: name.clone(),
                engine: definition.kind.clone(),
                plugin: definition.plugin.clone(),
                error,
            },
        }
    }

    /// The same, of an error of the writer.
    pub(super) fn explain_store(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Storage(error) => self.explain(error),
            other => other,
        }
    }

    /// The engine as it is open at the moment of each call, for those that the writer calls.
    pub(super) fn current_engine(&self) -> Arc<dyn StorageEngine> {
        match self.core.present() {
            Some(Opened { engine, of_plugin: None, .. }) => engine,
            _ => Arc::new(Current(Arc::clone(&self.core))),
        }
    }

    /// Whether the table is gone, and its engine with it.
    pub(super) fn is_shut(&self) -> bool {
        self.core.is_shut.load(Ordering::Acquire)
    }

    /// Puts everything on the disk, takes no more changes, and lets go of a plugin's engine.
    pub(super) fn shut(&self) {
        if self.of_table().is_some() {
            self.core.is_shut.store(true, Ordering::Release);
        }
        self.writer.stop();
        if self.of_table().is_some() {
            // One that is being opened is closed by whoever opens it.
            self.core.close();
        }
    }
}

impl Core {
    /// Of an engine that is open as long as the store.
    pub(super) fn embedded(engine: Arc<dyn StorageEngine>) -> Arc<Self> {
        Self::new(None, Some(Opened::new(0, engine, None)))
    }

    fn new(of_plugin: Option<TableEngine>, opened: Option<Opened>) -> Arc<Self> {
        Arc::new(Self {
            of_plugin,
            opened: RwLock::new(opened),
            changes: Mutex::default(),
            opening: Mutex::default(),
            opening_ended: Condvar::new(),
            follower: OnceLock::new(),
            is_shut: AtomicBool::new(false),
        })
    }

    /// Keeps the engine from being opened anew, for as long as a commit takes.
    pub(super) fn lock_changes(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine as it was opened last; its process may have ended.
    pub(super) fn present(&self) -> Option<Opened> {
        self.opened.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a failure is for the next opening to mend, and not for a person.
    pub(super) fn can_be_reopened(&self) -> bool {
        self.of_plugin.is_some()
    }

    fn set(&self, opened: Option<Opened>) -> Option<Opened> {
        std::mem::replace(&mut *self.opened.write().unwrap_or_else(PoisonError::into_inner), opened)
    }

    fn close(&self) {
        let _changes = self.lock_changes();
        if let Some(engine) = self.set(None).and_then(|opened| opened.of_plugin) {
            engine.close();
        }
    }

    fn opened(&self) -> Result<Opened, StoreError> {
        if let Some(opened) = self.present().filter(Opened::is_current) {
            return Ok(opened);
        }
        let Some(of_plugin) = &self.of_plugin else {
            return Err(StoreError::Unavailable("it is closed".to_owned()));
        };
        let mut opening = self.lock_opening();
        if opening.is_under_way {
            opening = self.wait_for_opening(opening);
            match &opening.failure {
                _ if opening.is_under_way => {
                    let problem = "it is being opened, which takes long; try again".to_owned();
                    return Err(of_plugin.unavailable(problem));
                }
                Some(failure) => return Err(failure.clone()),
                None => {}
            }
        }
        if self.is_shut.load(Ordering::Acquire) {
            return Err(of_plugin.unavailable("the table or the server is being closed".to_owned()));
        }
        if let Some(opened) = self.present().filter(Opened::is_current) {
            return Ok(opened);
        }
        opening.is_under_way = true;
        opening.epoch += 1;
        let epoch = opening.epoch;
        drop(opening);
        let ended = OpeningEnded(self);
        let outcome = self.open(of_plugin, epoch);
        self.lock_opening().failure = outcome.as_ref().err().cloned();
        drop(ended);
        outcome
    }

    fn lock_opening(&self) -> MutexGuard<'_, Opening> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody opens the engine, or not any longer.
    fn wait_for_opening<'a>(&self, mut opening: MutexGuard<'a, Opening>) -> MutexGuard<'a, Opening> {
        opening.waiting += 1;
        let patience = if opening.waiting <= PATIENT { PATIENCE } else { IMPATIENCE };
        let waited = self.opening_ended.wait_timeout_while(opening, patience, |opening| opening.is_under_way);
        let (mut opening, _) = waited.unwrap_or_else(PoisonError::into_inner);
        opening.waiting -= 1;
        opening
    }

    fn open(&self, of_plugin: &TableEngine, epoch: u64) -> Result<Opened, StoreError> {
        let TableEngine { engines, definition, table, name } = of_plugin;
        let unavailable = |problem| of_plugin.unavailable(problem);
        // Where the old process goes on, for instance because a new version was started beside it: its files come free.
        self.close();
        let engine = engines.open(definition, *table).map_err(unavailable)?;
        let opened = Opened::new(epoch, Arc::clone(&engine) as _, Some(Arc::clone(&engine)));
        let _changes = self.lock_changes();
        if let Some(follower) = self.follower.get().and_then(Weak::upgrade) {
            let read = follower.reopened(&*opened.engine);
            read.inspect_err(|_| engine.close()).map_err(|error| unavailable(error.to_string()))?;
        }
        self.set(Some(opened.clone()));
        if self.is_shut.load(Ordering::Acquire) {
            self.set(None);
            engine.close();
            return Err(unavailable("the table or the server is being closed".to_owned()));
        }
        tracing::debug!(table = name, engine = definition.kind, epoch, "a storage engine is open");
        Ok(opened)
    }
}

/// Ends an opening, well or badly.
struct OpeningEnded<'a>(&'a Core);

impl Drop for OpeningEnded<'_> {
    fn drop(&mut self) {
        self.0.lock_opening().is_under_way = false;
        self.0.opening_ended.notify_all();
    }
}

/// The engine as it is open at the moment of each call.
struct Current(Arc<Core>);

impl Current {
    fn engine(&self) -> Result<Arc<dyn StorageEngine>, StorageError> {
        let present = self.0.present().map(|opened| opened.engine);
        present.ok_or_else(|| StorageError::Closed("the storage engine of the table is not open".to_owned()))
    }
}

impl StorageEngine for Current {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.engine()?.get(keyspace, key)
    }

    fn get_many(&self, keyspace: Keyspace<'_>, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        self.engine()?.get_many(keyspace, keys)
    }

    fn commit(&self, batch: &WriteBatch, durability: Durability) -> Result<(), StorageError> {
        self.engine()?.commit(batch, durability)
    }

    fn snapshot(&self) -> Result<Box<dyn StorageSnapshot>, StorageError> {
        self.engine()?.snapshot()
    }

    fn drop_keyspace(&self, keyspace: Keyspace<'_>) -> Result<(), StorageError> {
        self.engine()?.drop_keyspace(keyspace)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.engine()?.flush()
    }

    fn statistics(&self) -> Datum {
        self.engine().map_or(Datum::Null, |engine| engine.statistics())
    }

    fn upkeep(&self, request: &UpkeepRequest<'_>) -> Result<Option<Upkeep>, StorageError> {
        self.engine()?.upkeep(request)
    }
}
