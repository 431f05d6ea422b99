//! Storage engines: those that plugins provide, as the store uses them.
//!
//! An engine is open in one process of its plugin, by a number that the process never had before. When the process ends,
//! its calls fail as calls of an engine that is closed, and the store opens it anew, in the process that follows. A plugin
//! that is linked in is called directly.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use photondb_ipc_schema::lane::Lane;
use photondb_plugin_sdk::engine::{self, Connection, RemoteEngine};
use photondb_plugin_sdk::kinds::storage::{
    Durability, Keyspace, StorageConfig, StorageEngine, StorageEnginePlugin, StorageError, StorageSnapshot, Upkeep,
    UpkeepRequest, WriteBatch,
};
use photondb_plugin_sdk::runtime::Instance as Code;
use photondb_plugin_sdk::{Cause, Datum, PluginError};
use uuid::Uuid;

use crate::plugins::CALL_DEADLINE;
use crate::plugins::instance::Instance;
use crate::plugins::plugin::{Caller, Plugin};
use crate::plugins::registry::{Provider, Registry};
use crate::storage::{EngineDefinition, EngineSource, OpenEngine, StorageEngines, StoreError};

/// Memory for the cache of one table's engine; options of an engine may say something else.
const CACHE_BYTES: u64 = 16 << 20;
/// How long an engine that another process has open is waited for to be let go of there: a process of the same plugin that
/// is being replaced, or one that a killed server left behind.
const HANDOVER: Duration = Duration::from_secs(10);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Numbers of open engines: never used twice, whatever process they are for.
static NUMBERS: AtomicU32 = AtomicU32::new(0);

/// All storage engines of plugins.
pub struct EngineManager {
    registry: Arc<Registry>,
    /// The data directory, for engines that are linked in.
    data: PathBuf,
    /// The engine of tables that name none, where it is not the embedded one.
    of_unnamed: Option<String>,
}

impl EngineManager {
    /// Engines whose kinds come from the plugins of `registry`.
    #[must_use]
    pub fn new(registry: Arc<Registry>, data: PathBuf) -> Self {
        Self { registry, data, of_unnamed: None }
    }

    /// The same, with another engine for tables that name none.
    #[must_use]
    pub fn with_default(self, engine: Option<String>) -> Self {
        Self { of_unnamed: engine, ..self }
    }

    fn provider(&self, kind: &str) -> Result<Provider, String> {
        self.registry.storage_engine(kind).map_err(|error| error.message().to_owned())
    }

    fn connect(plugin: &Arc<Plugin>) -> Result<ProcessConnection, PluginError> {
        let caller = plugin.call();
        let instance = caller.instance(caller.turn_by(Instant::now() + CALL_DEADLINE))?;
        Ok(ProcessConnection { plugin: Arc::clone(plugin), instance })
    }

    /// Where an engine that is linked in keeps its files.
    fn directory(&self, plugin: &Plugin, table: Uuid) -> PathBuf {
        self.data.join("plugins").join(plugin.name()).join("engines").join(table.to_string())
    }

    fn open_in_process(
        plugin: &Arc<Plugin>,
        definition: &EngineDefinition,
        table: Uuid,
    ) -> Result<Arc<dyn OpenEngine>, PluginError> {
        let (deadline, mut is_second) = (Instant::now() + HANDOVER, false);
        let EngineDefinition { kind, options, .. } = definition;
        loop {
            let connection = Self::connect(plugin)?;
            let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
            let error = match RemoteEngine::open(connection, number, kind, &table.to_string(), CACHE_BYTES, options) {
                Ok(engine) => return Ok(Arc::new(RemoteTable(engine))),
                Err(error) => error,
            };
            if error.cause() == Cause::Busy && Instant::now() < deadline {
                thread::sleep(PAUSE);
            } else if error.cause().is_retryable() && !is_second {
                // The process ended, perhaps for another reason.
                is_second = true;
            } else {
                return Err(error);
            }
        }
    }
}

impl StorageEngines for EngineManager {
    fn validate(&self, kind: &str, options: &Datum) -> Result<EngineSource, StoreError> {
        let missing = |problem| StoreError::EngineMissing { engine: kind.to_owned(), problem };
        let Provider { plugin, code } = self.provider(kind).map_err(missing)?;
        let checked = match code {
            Some(code) => linked_in(&code, kind).and_then(|kind| kind.validate(options)),
            None => Self::connect(&plugin).and_then(|connection| engine::validate(&connection, kind, options)),
        };
        match checked {
            Ok(()) => Ok(source(&plugin)),
            Err(error) if error.cause() == Cause::Argument => {
                Err(StoreError::EngineOptions { engine: kind.to_owned(), problem: error.message().to_owned() })
            }
            Err(error) => Err(missing(error.of(plugin.name()).to_string())),
        }
    }

    fn open(&self, definition: &EngineDefinition, table: Uuid) -> Result<Arc<dyn OpenEngine>, String> {
        let EngineDefinition { kind, options, plugin: name, version } = definition;
        let Provider { plugin, code } = self.provider(kind).map_err(|_| {
            format!(
                "no running plugin provides it; install `{name}` (version {version} stored the table) into a plugin \
                 directory, or run `photondb plugin enable {name}`"
            )
        })?;
        let opened = match code {
            None => Self::open_in_process(&plugin, definition, table),
            Some(code) => {
                let config = StorageConfig {
                    directory: self.directory(&plugin, table),
                    cache_bytes: CACHE_BYTES,
                    options: options.clone(),
                };
                let made = std::fs::create_dir_all(&config.directory)
                    .map_err(|error| PluginError::init(format!("making {}: {error}", config.directory.display())));
                let engine = made.and_then(|()| linked_in(&code, kind)?.open(&config));
                engine.map(|engine| Arc::new(LinkedIn(engine)) as _)
            }
        };
        opened.map_err(|error| error.message().to_owned())
    }

    fn remove(&self, kind: &str, table: Uuid) -> Result<(), String> {
        let Provider { plugin, code } = self.provider(kind)?;
        if code.is_none() {
            let connection = Self::connect(&plugin).map_err(|error| error.to_string())?;
            return engine::remove(&connection, &table.to_string()).map_err(|error| error.to_string());
        }
        let directory = self.directory(&plugin, table);
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("removing {}: {error}", directory.display()))
            }
            _ => Ok(()),
        }
    }

    fn of_unnamed(&self) -> Option<&str> {
        self.of_unnamed.as_deref()
    }

    fn source(&self, kind: &str) -> Option<EngineSource> {
        self.registry.storage_engine(kind).ok().map(|provider| source(&provider.plugin))
    }
}

fn source(plugin: &Plugin) -> EngineSource {
    EngineSource { plugin: plugin.name().to_owned(), version: plugin.version(), is_running: plugin.can_be_called() }
}

/// The kind of engine of that name of a plugin that is linked in.
fn linked_in<'a>(code: &'a Code, kind: &str) -> Result<&'a dyn StorageEnginePlugin, PluginError> {
    let kinds = code.registry().storage_engines();
    let found = kinds.iter().find(|known| known.engine_type() == kind);
    found.map(|kind| &**kind).ok_or_else(|| PluginError::init(format!("there is no engine `{kind}`")))
}

/// The way to a process of a plugin.
struct ProcessConnection {
    plugin: Arc<Plugin>,
    instance: Arc<Instance>,
}

impl Connection for ProcessConnection {
    type Caller<'a> = Caller<'a>;

    fn caller(&self, deadline: Instant) -> (Caller<'_>, Instant) {
        let caller = self.plugin.call();
        let turn_by = caller.turn_by(deadline);
        (caller, turn_by)
    }

    fn read_lane(&self) -> &Arc<Lane> {
        self.instance.least_busy_lane()
    }

    fn write_lane(&self) -> &Arc<Lane> {
        self.instance.maintenance_lane()
    }

    fn judge(&self, error: PluginError) -> PluginError {
        self.instance.judge(error)
    }

    fn record(&self, answered: bool, took: Duration) {
        if answered {
            self.plugin.answered();
        }
        self.plugin.counters().record(took, answered);
    }
}

/// The engine of a table in a process of its plugin.
struct RemoteTable(RemoteEngine<ProcessConnection>);

impl OpenEngine for RemoteTable {
    fn is_current(&self) -> bool {
        let ProcessConnection { plugin, instance } = self.0.connection();
        plugin.running().is_some_and(|running| running.number() == instance.number())
    }

    fn close(&self) {
        if !self.0.connection().instance.has_ended()
            && let Err(error) = self.0.close()
        {
            tracing::warn!(plugin = self.0.connection().plugin.name(), %error, "a storage engine was not closed");
        }
    }
}

/// The engine of a table, linked in.
struct LinkedIn(Box<dyn StorageEngine>);

impl OpenEngine for LinkedIn {
    fn is_current(&self) -> bool {
        true
    }

    fn close(&self) {
        if let Err(error) = self.0.flush() {
            tracing::warn!(%error, "a storage engine was not flushed");
        }
    }
}

/// An engine that nobody else uses, closed when it is dropped.
pub struct ClosedOnDrop(pub Arc<dyn OpenEngine>);

impl Drop for ClosedOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Passes every method of [`StorageEngine`] on.
macro_rules! pass_on {
    ($engine:ty) => {
        impl StorageEngine for $engine {
            fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
                self.0.get(keyspace, key)
            }

            fn get_many(&self, keyspace: Keyspace<'_>, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
                self.0.get_many(keyspace, keys)
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
                self.0.upkeep(request)
            }
        }
    };
}

pass_on!(RemoteTable);
pass_on!(LinkedIn);
pass_on!(ClosedOnDrop);
