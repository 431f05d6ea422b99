//! The seam to storage engines that plugins provide.

use std::sync::Arc;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::storage::StorageEngine;
use uuid::Uuid;

use super::error::StoreError;

/// The engine that a table is stored in, as its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineDefinition {
    /// The engine's name.
    pub kind: String,
    /// `options` of `table_create`: an object.
    pub options: Datum,
    /// The plugin that provided it when the table was created.
    pub plugin: String,
    /// That plugin's version then.
    pub version: String,
}

/// Who provides an engine now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSource {
    /// The plugin.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// Whether it can be called now.
    pub is_running: bool,
}

/// Who makes storage engines.
pub trait StorageEngines: Send + Sync {
    /// Checks what a table is to be created with.
    ///
    /// # Errors
    /// [`StoreError::EngineMissing`], or [`StoreError::EngineOptions`] with what is wrong.
    fn validate(&self, kind: &str, options: &Datum) -> Result<EngineSource, StoreError>;

    /// Opens the engine of a table, which is not open. Waits for a plugin that is being started.
    ///
    /// # Errors
    /// Why it can't be opened, and what to do.
    fn open(&self, definition: &EngineDefinition, table: Uuid) -> Result<Arc<dyn OpenEngine>, String>;

    /// Removes everything that the engine of a table, which is not open, has stored. There may be nothing.
    ///
    /// # Errors
    /// Why it can't be removed.
    fn remove(&self, kind: &str, table: Uuid) -> Result<(), String>;

    /// Who provides an engine now; `None` where nobody does.
    fn source(&self, kind: &str) -> Option<EngineSource>;

    /// The engine of tables that name none; `None`: the embedded one.
    fn of_unnamed(&self) -> Option<&str> {
        None
    }
}

/// An engine that is open in some process.
pub trait OpenEngine: StorageEngine {
    /// Whether calls still make sense: the process lives, and no other one has taken its place.
    fn is_current(&self) -> bool;

    /// Flushes and closes it, if its process lives.
    fn close(&self);
}

/// Offers no engine beside the embedded one.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoStorageEngines;

impl StorageEngines for NoStorageEngines {
    fn validate(&self, kind: &str, _: &Datum) -> Result<EngineSource, StoreError> {
        Err(StoreError::EngineMissing { engine: kind.to_owned(), problem: "there is no plugin".to_owned() })
    }

    fn open(&self, definition: &EngineDefinition, _: Uuid) -> Result<Arc<dyn OpenEngine>, String> {
        Err(format!("no plugin provides the storage engine `{}`", definition.kind))
    }

    fn remove(&self, kind: &str, _: Uuid) -> Result<(), String> {
        Err(format!("no plugin provides the storage engine `{kind}`"))
    }

    fn source(&self, _: &str) -> Option<EngineSource> {
        None
    }
}
