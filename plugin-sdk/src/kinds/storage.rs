//! Storage engines: ordered maps from bytes to bytes, changed in atomic batches.
//!
//! Every table that names an engine (`table_create("t", engine=NAME, options={...})`) gets one that is opened for it
//! alone, in a directory of its own below the plugin's private one (permission `state`). One writer commits at a time;
//! reads come from any number of threads.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

pub use super::selection::{FieldRange, Selection};
use crate::{Datum, PluginError};

/// What an engine is opened with.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// The engine's own directory, which exists; nobody else writes there. Empty for a plugin without the permission
    /// `state`.
    pub directory: PathBuf,
    /// Memory for caches, in bytes.
    pub cache_bytes: u64,
    /// `options` of `table_create`, which [`validate`](StorageEnginePlugin::validate) has accepted: an object.
    pub options: Datum,
}

impl StorageConfig {
    /// The directory, for an engine that keeps files.
    ///
    /// # Errors
    /// Without one: what the operator of the plugin `plugin` has to grant.
    pub fn directory_for(&self, plugin: &str) -> Result<&Path, PluginError> {
        if self.directory.as_os_str().is_empty() {
            return Err(PluginError::init(format!(
                "the engine `{plugin}` keeps files: grant its plugin the permission `state`, with `state = true` under \
                 [plugins.grants.{plugin}]"
            )));
        }
        Ok(&self.directory)
    }
}

/// The error of an option of an engine whose value is not `accepted`.
#[must_use]
pub fn wrong_option(key: &str, value: &Datum, accepted: &str) -> PluginError {
    PluginError::argument(format!("`{key}` is {}; it must be {accepted}", value.to_json_string()))
}

/// The value of an option of an engine that is a whole number of that range.
///
/// # Errors
/// As [`wrong_option`], where it is not.
pub fn whole_option(key: &str, value: &Datum, range: RangeInclusive<u32>) -> Result<u64, PluginError> {
    let (least, most) = (f64::from(*range.start()), f64::from(*range.end()));
    let number = value.as_number().filter(|number| number.fract() == 0.0 && (least..=most).contains(number));
    let number = number.map(|number| number as u64);
    number.ok_or_else(|| wrong_option(key, value, &format!("a whole number from {least} to {most}")))
}

/// A kind of storage engine.
pub trait StorageEnginePlugin: Send + Sync {
    /// The name that `table_create(..., engine=NAME)` picks it by.
    fn engine_type(&self) -> &str;

    /// Checks the options of a table that is about to be created: an object.
    ///
    /// # Errors
    /// [`PluginError::argument`], naming the key and what it accepts. An engine that does not implement this has no
    /// options.
    fn validate(&self, options: &Datum) -> Result<(), PluginError> {
        let first = options.as_object().and_then(|options| options.iter().next());
        first.map_or(Ok(()), |(key, _)| {
            let engine = self.engine_type();
            Err(PluginError::argument(format!("unknown option `{key}`: the engine `{engine}` has no options")))
        })
    }

    /// Opens the engine's directory, or makes a new engine there.
    ///
    /// # Errors
    /// When the directory can't be read or written, or holds something else. [`Busy`](crate::Cause::Busy) where another process has it
    /// open: one that was replaced or lost its server, and is about to end. The server then tries again for some seconds.
    fn open(&self, config: &StorageConfig) -> Result<Box<dyn StorageEngine>, PluginError>;
}

/// When a commit counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On the disk.
    Hard,
    /// In memory; on the disk soon. When the power fails before that, all that was done later is lost with it, keyspaces
    /// that were dropped included: what is left is what was there at some moment.
    Soft,
}

/// Why an operation on an engine failed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Nothing was changed.
    #[error("storage: {0}")]
    Failed(String),
    /// Nothing was changed: the engine is not open any more, and may be opened again.
    #[error("storage: {0}")]
    Closed(String),
    /// The change may or may not have happened: the engine failed before it acknowledged.
    #[error("storage: outcome unknown: {0}")]
    Unknown(String),
    /// What is stored is damaged.
    #[error("storage: {keyspace}: damaged: {message}")]
    Damaged {
        /// Where.
        keyspace: String,
        /// What was found.
        message: String,
    },
}

/// An ordered map within an engine, by name. Keyspaces come into being with their first key.
pub type Keyspace<'a> = &'a str;

/// Changes that are applied together or not at all, in order.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    /// The changes, in order; the later one wins.
    pub changes: Vec<Change>,
}

/// One change of a [`WriteBatch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The keyspace.
    pub keyspace: Arc<str>,
    /// The key: 1 to 65,535 bytes.
    pub key: Vec<u8>,
    /// The new value; `None` removes the key.
    pub value: Option<Vec<u8>>,
}

impl WriteBatch {
    /// Sets a key.
    pub fn put(&mut self, keyspace: Keyspace<'_>, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.push(keyspace, key.into(), Some(value.into()));
    }

    /// Removes a key; it need not exist.
    pub fn delete(&mut self, keyspace: Keyspace<'_>, key: impl Into<Vec<u8>>) {
        self.push(keyspace, key.into(), None);
    }

    fn push(&mut self, keyspace: Keyspace<'_>, key: Vec<u8>, value: Option<Vec<u8>>) {
        // A batch changes few keyspaces in turn: most names are those of one of the last changes.
        let known =
            self.changes.iter().rev().take(4).map(|change| &change.keyspace).find(|known| ***known == *keyspace);
        let keyspace = known.map_or_else(|| Arc::from(keyspace), Arc::clone);
        self.changes.push(Change { keyspace, key, value });
    }
}

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the smallest key on.
    Forward,
    /// From the largest key on.
    Backward,
}

/// Keys from `start` on, up to but not including `end`; `None` is unbounded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub start: Vec<u8>,
    /// The first key behind the range.
    pub end: Option<Vec<u8>>,
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);
/// The entries of a scan. Owns what it needs, so that it can wait in a cursor between two requests of a client.
pub type EntryIterator = Box<dyn Iterator<Item = Result<Entry, StorageError>> + Send>;

/// The values of a scan.
pub type ValueIterator = Box<dyn Iterator<Item = Result<Vec<u8>, StorageError>> + Send>;

/// The most changes of a group of an [`Upkeep`].
pub const MOST_CHANGES: usize = 256;

/// What an engine is asked about its upkeep.
#[derive(Clone, Copy, Debug)]
pub struct UpkeepRequest<'a> {
    /// The keyspace of the documents: [encoded](Datum::encoded) objects.
    pub documents: Keyspace<'a>,
    /// The field of a document that its key is made of.
    pub primary_key: &'a str,
    /// The time, in seconds since 1970.
    pub now: f64,
    /// About how many changes the server takes at once.
    pub most: usize,
}

/// A document that an engine wants changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentChange {
    /// Its key in the engine; empty where the engine does not know it: the server makes it of the primary key.
    pub key: Vec<u8>,
    /// The value as it is stored now, byte for byte; `None` where there must be none.
    pub before: Option<Vec<u8>>,
    /// The encoded document that is to take its place, with the same primary key; `None` removes it.
    pub after: Option<Vec<u8>>,
}

/// What an engine wants done to its documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// Up to [`MOST_CHANGES`] changes each, of different documents, which happen together or not at all.
    pub groups: Vec<Vec<DocumentChange>>,
    /// Whether it wants to be asked again as soon as these are done.
    pub has_more: bool,
}

/// An open engine. All methods may be called from any thread.
pub trait StorageEngine: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// When the engine fails; an absent key is `None`.
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;

    /// The values of several keys, in their order. One key after the other unless the engine knows better.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn get_many(&self, keyspace: Keyspace<'_>, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        keys.iter().map(|key| self.get(keyspace, key)).collect()
    }

    /// Applies all changes atomically, across keyspaces. With [`Durability::Hard`] they are on the disk on return.
    ///
    /// # Errors
    /// [`StorageError::Failed`]: nothing changed. [`StorageError::Unknown`]: it may have.
    fn commit(&self, batch: &WriteBatch, durability: Durability) -> Result<(), StorageError>;

    /// A view of the present state, which later commits don't change. Costs the engine space while it is held.
    ///
    /// # Errors
    /// When the engine fails.
    fn snapshot(&self) -> Result<Box<dyn StorageSnapshot>, StorageError>;

    /// Removes a keyspace and everything in it.
    ///
    /// # Errors
    /// When the engine fails; an absent keyspace is no error.
    fn drop_keyspace(&self, keyspace: Keyspace<'_>) -> Result<(), StorageError>;

    /// Puts every commit so far on the disk.
    ///
    /// # Errors
    /// When the engine fails: then soft commits since the last flush may be lost.
    fn flush(&self) -> Result<(), StorageError>;

    /// Sizes and counts, for people.
    fn statistics(&self) -> Datum;

    /// Which documents the engine wants removed, or written: it must not do so by itself, since their index entries, vectors
    /// and number are the server's. Asked every half a minute or so; `None` from an engine that never wants anything.
    ///
    /// The server makes an ordinary write of each group, unless one of its documents has changed since: then the group
    /// is left out, and the engine is asked again. A call takes a few seconds at most: an engine that has more to do
    /// says so.
    ///
    /// # Errors
    /// When the engine fails.
    fn upkeep(&self, request: &UpkeepRequest<'_>) -> Result<Option<Upkeep>, StorageError> {
        let _ = request;
        Ok(None)
    }
}

/// A consistent view of an engine.
pub trait StorageSnapshot: Send + Sync {
    /// The value of a key in this view.
    ///
    /// # Errors
    /// When the engine fails.
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;

    /// The values of several keys, in their order. One key after the other unless the engine knows better.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn get_many(&self, keyspace: Keyspace<'_>, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        keys.iter().map(|key| self.get(keyspace, key)).collect()
    }

    /// The entries of a range in key order, or against it.
    ///
    /// # Errors
    /// When the engine fails to start the scan; later failures are items.
    fn scan(
        &self,
        keyspace: Keyspace<'_>,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<EntryIterator, StorageError>;

    /// The values of such a scan, for whoever needs no keys.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    fn scan_values(
        &self,
        keyspace: Keyspace<'_>,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<ValueIterator, StorageError> {
        Ok(Box::new(self.scan(keyspace, range, direction)?.map(|entry| entry.map(|(_, value)| value))))
    }

    /// The entries of such a scan that the selection does not allow to leave out; of those, it may leave out fields.
    /// All of every entry unless the engine knows better: whoever asks checks what comes.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    fn scan_selected(
        &self,
        keyspace: Keyspace<'_>,
        range: &KeyRange,
        direction: Direction,
        selection: &Selection,
    ) -> Result<EntryIterator, StorageError> {
        let _ = selection;
        self.scan(keyspace, range, direction)
    }
}
