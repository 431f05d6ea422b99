//! The default engine: fjall, a log-structured merge tree with one journal.
//!
//! Settings follow from measurements on a million documents: small memtables bound the memory, LZ4 on all levels halves the disk, commits go
//! to the journal's file at once and to the disk when the writer asks.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use fjall::config::CompressionPolicy;
use fjall::{
    CompressionType, Guard, JournalRecoveryError as RecoveryError, KeyspaceCreateOptions, PersistMode, Readable,
    SingleWriterTxDatabase, SingleWriterTxKeyspace, Slice, Snapshot,
};
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::storage::{
    Direction, Durability, Entry, EntryIterator, KeyRange, Keyspace, StorageConfig, StorageEngine, StorageError,
    StorageSnapshot, ValueIterator, WriteBatch,
};

use super::error::StoreError;
use super::journal_tail::{self, Cut};

/// Sealed memtables queue behind busy cores, so a keyspace may hold several times this.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// When the journal is larger, the oldest memtables are written out.
const JOURNAL_BYTES: u64 = 256 << 20;

/// The names of keyspaces are ours; `None` stands for one that does not exist.
type Keyspaces = HashMap<String, SingleWriterTxKeyspace>;

/// An open fjall database.
pub struct FjallEngine {
    db: SingleWriterTxDatabase,
    keyspaces: RwLock<Keyspaces>,
}

impl FjallEngine {
    /// Opens the directory of `config`, or makes a new database there.
    ///
    /// # Errors
    /// When it is open somewhere else, can't be read or written, or is damaged.
    pub fn open(config: &StorageConfig) -> Result<Self, StoreError> {
        let failed = |error| open_error(config, error);
        if is_empty(&config.directory) {
            create(&config.directory).map_err(failed)?;
        }
        let open = || {
            let builder = SingleWriterTxDatabase::builder(&config.directory);
            builder.cache_size(config.cache_bytes).max_journaling_size(JOURNAL_BYTES).open()
        };
        let opened = match open() {
            Err(fjall::Error::JournalRecovery(RecoveryError::ChecksumMismatch))
                if cut_torn_end(&config.directory).map_err(failed)? =>
            {
                open()
            }
            opened => opened,
        };
        let db = opened.map_err(failed)?;
        let mut keyspaces = HashMap::new();
        for name in db.list_keyspace_names() {
            keyspaces.insert(name.to_string(), db.keyspace(&name, keyspace_options).map_err(failed)?);
        }
        Ok(Self { db, keyspaces: RwLock::new(keyspaces) })
    }

    fn existing(&self, name: &str) -> Option<SingleWriterTxKeyspace> {
        self.keyspaces.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn existing_or_new(&self, name: &str) -> Result<SingleWriterTxKeyspace, StorageError> {
        if let Some(keyspace) = self.existing(name) {
            return Ok(keyspace);
        }
        if name.is_empty() || name.len() > 255 {
            return Err(StorageError::Failed(format!(
                "a keyspace's name has 1 to 255 bytes, `{name}` has {}",
                name.len()
            )));
        }
        let mut keyspaces = self.keyspaces.write().unwrap_or_else(PoisonError::into_inner);
        let keyspace = self.db.keyspace(name, keyspace_options).map_err(|error| storage_error(name, error))?;
        Ok(keyspaces.entry(name.to_owned()).or_insert(keyspace).clone())
    }
}

/// Mends a journal that has a batch with a wrong checksum, if a power cut has left it so; whether it has.
fn cut_torn_end(directory: &Path) -> Result<bool, fjall::Error> {
    let Some(Cut { at, kept }) = journal_tail::cut(directory)? else { return Ok(false) };
    let (directory, kept) = (directory.display(), kept.display());
    tracing::warn!(
        %directory, at, %kept,
        "the journal ended in commits that a power cut kept off the disk: they were cut off, and are kept in a file"
    );
    Ok(true)
}

/// Whether there is nothing in a directory yet, or no directory.
fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none()) || !directory.exists()
}

/// Makes a database beside the directory that is to hold it, and moves it there when it is complete: fjall can't open one
/// whose creation was interrupted.
fn create(directory: &Path) -> Result<(), fjall::Error> {
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    // Whoever creates it at the same time would take ours for what an interrupted creation left.
    let parent_lock = File::open(parent)?;
    if let Err(TryLockError::WouldBlock) = parent_lock.try_lock() {
        return Err(fjall::Error::Locked);
    }
    let mut unfinished = directory.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    drop(SingleWriterTxDatabase::builder(&unfinished).open()?);
    // An empty directory gives way.
    fs::rename(&unfinished, directory)?;
    parent_lock.sync_all()?;
    Ok(())
}

fn keyspace_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(MEMTABLE_BYTES)
        .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
}

fn open_error(config: &StorageConfig, error: fjall::Error) -> StoreError {
    let message = match error {
        fjall::Error::Locked => return StoreError::Locked(config.directory.clone()),
        fjall::Error::Io(error) => format!("can't be opened: {error}"),
        // Skipping what is damaged would lose commits that were acknowledged, so that is for a person to decide.
        fjall::Error::JournalRecovery(found) => {
            format!(
                "the journal is damaged ({found:?}): restore a backup, or copy the directory to another disk and try there"
            )
        }
        fjall::Error::InvalidVersion(found) => {
            format!("written by another version of the storage engine ({found:?}): use the PhotonDB that wrote it")
        }
        other => format!("the stored data is damaged ({other:?}): restore a backup"),
    };
    StoreError::Directory { path: config.directory.clone(), message }
}

fn storage_error(keyspace: &str, error: fjall::Error) -> StorageError {
    match error {
        fjall::Error::Io(error) => StorageError::Failed(format!("{keyspace}: {error}")),
        fjall::Error::Poisoned => {
            StorageError::Failed("an earlier write failed, and the engine stopped; restart the server".to_owned())
        }
        fjall::Error::KeyspaceDeleted => StorageError::Failed(format!("{keyspace} was dropped")),
        fjall::Error::Storage(fjall::LsmError::Io(error)) => StorageError::Failed(format!("{keyspace}: {error}")),
        other => StorageError::Damaged { keyspace: keyspace.to_owned(), message: format!("{other:?}") },
    }
}

fn entry(keyspace: &str, guard: Guard) -> Result<Entry, StorageError> {
    let (key, value) = guard.into_inner().map_err(|error| storage_error(keyspace, error))?;
    Ok((key.to_vec(), value.to_vec()))
}

fn value(keyspace: &str, guard: Guard) -> Result<Vec<u8>, StorageError> {
    Ok(guard.value().map_err(|error| storage_error(keyspace, error))?.to_vec())
}

impl StorageEngine for FjallEngine {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let Some(tree) = self.existing(keyspace) else { return Ok(None) };
        let value = AsRef::<fjall::Keyspace>::as_ref(&tree).get(key);
        Ok(value.map_err(|error| storage_error(keyspace, error))?.map(|value| value.to_vec()))
    }

    fn commit(&self, batch: &WriteBatch, durability: Durability) -> Result<(), StorageError> {
        // Keyspaces first: making one can fail, and is not part of the transaction.
        let mut keyspaces: HashMap<&str, SingleWriterTxKeyspace> = HashMap::new();
        for change in &batch.changes {
            if change.key.is_empty() || change.key.len() > usize::from(u16::MAX) {
                return Err(StorageError::Failed(format!("a key has 1 to 65,535 bytes, found {}", change.key.len())));
            }
            if keyspaces.contains_key(&*change.keyspace) {
                continue;
            }
            let keyspace = match change.value {
                Some(_) => Some(self.existing_or_new(&change.keyspace)?),
                // A removal must not bring back a keyspace that was dropped.
                None => self.existing(&change.keyspace),
            };
            if let Some(keyspace) = keyspace {
                keyspaces.insert(&change.keyspace, keyspace);
            }
        }
        let mode = match durability {
            Durability::Hard => PersistMode::SyncData,
            Durability::Soft => PersistMode::Buffer,
        };
        let mut transaction = self.db.write_tx().durability(Some(mode));
        for change in &batch.changes {
            let Some(keyspace) = keyspaces.get(&*change.keyspace) else { continue };
            match &change.value {
                Some(value) => transaction.insert(keyspace, &change.key[..], &value[..]),
                None => transaction.remove(keyspace, &change.key[..]),
            }
        }
        transaction.commit().map_err(|error| match error {
            fjall::Error::Poisoned => storage_error("commit", error),
            // The journal may have taken it before the failure.
            other => StorageError::Unknown(format!("commit: {other:?}")),
        })
    }

    fn snapshot(&self) -> Result<Box<dyn StorageSnapshot>, StorageError> {
        // The snapshot first: a keyspace that is made in between is empty in it.
        let view = self.db.read_tx();
        let keyspaces = self.keyspaces.read().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Box::new(FjallSnapshot { view, keyspaces }))
    }

    fn drop_keyspace(&self, keyspace: Keyspace<'_>) -> Result<(), StorageError> {
        if self.existing(keyspace).is_none() {
            return Ok(());
        }
        // fjall puts this on the disk at once, and a power cut must not leave it without the soft commits before it.
        self.flush()?;
        let removed = self.keyspaces.write().unwrap_or_else(PoisonError::into_inner).remove(keyspace);
        let Some(tree) = removed else { return Ok(()) };
        let handle = AsRef::<fjall::Keyspace>::as_ref(&tree).clone();
        self.db.inner().delete_keyspace(handle).map_err(|error| storage_error(keyspace, error))
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.db.persist(PersistMode::SyncData).map_err(|error| StorageError::Unknown(format!("flush: {error:?}")))
    }

    fn statistics(&self) -> Datum {
        let db = self.db.inner();
        Datum::object([
            ("engine", Datum::from("fjall")),
            ("keyspaces", self.db.keyspace_count().into()),
            ("journals", self.db.journal_count().into()),
            ("disk_bytes", self.db.disk_space().ok().into()),
            ("write_buffer_bytes", self.db.write_buffer_size().into()),
            ("cache_bytes", db.cache_size().into()),
            ("cache_capacity_bytes", db.cache_capacity().into()),
            ("compactions", db.compactions_completed().into()),
        ])
    }
}

/// A view of all keyspaces at one moment.
struct FjallSnapshot {
    view: Snapshot,
    keyspaces: Keyspaces,
}

impl StorageSnapshot for FjallSnapshot {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let Some(tree) = self.keyspaces.get(keyspace) else { return Ok(None) };
        let value: Option<Slice> = self.view.get(tree, key).map_err(|error| storage_error(keyspace, error))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(
        &self,
        keyspace: Keyspace<'_>,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<EntryIterator, StorageError> {
        Ok(self.read(keyspace, range, direction, entry))
    }

    fn scan_values(
        &self,
        keyspace: Keyspace<'_>,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<ValueIterator, StorageError> {
        Ok(self.read(keyspace, range, direction, value))
    }
}

impl FjallSnapshot {
    fn read<T: 'static>(
        &self,
        keyspace: Keyspace<'_>,
        range: &KeyRange,
        direction: Direction,
        part: fn(&str, Guard) -> Result<T, StorageError>,
    ) -> Box<dyn Iterator<Item = Result<T, StorageError>> + Send> {
        let Some(tree) = self.keyspaces.get(keyspace) else { return Box::new(std::iter::empty()) };
        let entries = match &range.end {
            // The tree panics on a range that ends before it starts.
            Some(end) if *end <= range.start => return Box::new(std::iter::empty()),
            Some(end) => self.view.range(tree, range.start.clone()..end.clone()),
            None => self.view.range(tree, range.start.clone()..),
        };
        let name = keyspace.to_owned();
        match direction {
            Direction::Forward => Box::new(entries.map(move |guard| part(&name, guard))),
            Direction::Backward => Box::new(entries.rev().map(move |guard| part(&name, guard))),
        }
    }
}

#[cfg(test)]
mod tests {
    use photondb_plugin_sdk::testing::engine::{Persistence, check};

    use super::*;

    #[test]
    fn it_is_a_storage_engine() {
        let directory = tempfile::tempdir().unwrap();
        let config =
            StorageConfig { directory: directory.path().join("engine"), cache_bytes: 8 << 20, options: Datum::Null };
        check(Persistence::Durable, &mut || Box::new(FjallEngine::open(&config).unwrap()));
    }

    #[test]
    fn a_removal_brings_no_keyspace_back() {
        let directory = tempfile::tempdir().unwrap();
        let config =
            StorageConfig { directory: directory.path().join("engine"), cache_bytes: 1 << 20, options: Datum::Null };
        let engine = FjallEngine::open(&config).unwrap();
        let mut batch = WriteBatch::default();
        batch.put("kept", *b"k", *b"v");
        batch.put("dropped", *b"k", *b"v");
        engine.commit(&batch, Durability::Soft).unwrap();
        engine.drop_keyspace("dropped").unwrap();
        let mut batch = WriteBatch::default();
        batch.delete("dropped", *b"k");
        batch.delete("kept", *b"k");
        engine.commit(&batch, Durability::Soft).unwrap();
        assert_eq!(engine.get("kept", b"k").unwrap(), None);
        assert_eq!(engine.statistics().get("keyspaces"), Some(&Datum::from(1)));
    }
}
