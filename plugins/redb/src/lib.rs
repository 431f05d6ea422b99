//! A storage engine over redb: one file a table, copy-on-write B-trees, every keyspace a tree of its own.
//!
//! A soft commit is redb's `Durability::None`: visible at once, on the disk with the next durable one; a process that ends
//! in between loses all of them, and nothing else. Durable commits store what redb needs to open the file at once after
//! that ("quick repair"), instead of reading all of it.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::{fs, io};

use photondb_plugin_sdk::Cause;
use photondb_plugin_sdk::kinds::storage::{Entry, whole_option};
use photondb_plugin_sdk::prelude::*;
use redb::{
    Database, DatabaseError, Range, ReadOnlyTable, ReadTransaction, ReadableDatabase, TableDefinition, TableError,
    WriteTransaction,
};

/// The file in the engine's directory.
const FILE: &str = "table.redb";
/// The option for the cache.
const CACHE_MB: &str = "cache_mb";

/// The plugin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Redb;

impl Plugin for Redb {
    fn name(&self) -> &str {
        "redb"
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn register(&self, registry: &mut PluginRegistry) {
        registry.storage_engine(Self);
    }
}

impl StorageEnginePlugin for Redb {
    fn engine_type(&self) -> &str {
        "redb"
    }

    fn validate(&self, options: &Datum) -> Result<(), PluginError> {
        cache_bytes(options).map(drop)
    }

    fn open(&self, config: &StorageConfig) -> Result<Box<dyn StorageEngine>, PluginError> {
        let directory = config.directory_for("redb")?;
        let cache = cache_bytes(&config.options)?.unwrap_or(config.cache_bytes);
        let path = directory.join(FILE);
        let mut builder = Database::builder();
        builder.set_cache_size(usize::try_from(cache).unwrap_or(usize::MAX));
        let opened = create(&builder, &path).and_then(|()| builder.open(&path));
        let db = opened.map_err(|error| {
            let path = path.display();
            match error {
                DatabaseError::DatabaseAlreadyOpen => {
                    PluginError::runtime(Cause::Busy, format!("another process has {path} open"))
                }
                error => {
                    PluginError::init(format!("opening {path}: {error}; if it is damaged, restore a backup of it"))
                }
            }
        })?;
        Ok(Box::new(RedbEngine::over(db, path)))
    }
}

/// Makes the file where there is none: beside its place, and then whole, since redb can't open one whose creation was
/// interrupted.
fn create(builder: &redb::Builder, path: &Path) -> Result<(), DatabaseError> {
    if path.try_exists()? {
        return Ok(());
    }
    let unfinished = path.with_extension("new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    drop(builder.create(&unfinished)?);
    fs::rename(&unfinished, path)?;
    if let Some(directory) = path.parent() {
        fs::File::open(directory)?.sync_all()?;
    }
    Ok(())
}

fn cache_bytes(options: &Datum) -> Result<Option<u64>, PluginError> {
    let mut cache = None;
    for (key, value) in options.as_object().into_iter().flat_map(|options| options.iter()) {
        if &**key != CACHE_MB {
            let message = format!("unknown option `{key}`; the engine `redb` knows `{CACHE_MB}`");
            return Err(PluginError::argument(message));
        }
        cache = Some(whole_option(CACHE_MB, value, 1..=65_536)? << 20);
    }
    Ok(cache)
}

/// An open engine; also for plugins that put something between redb and its file.
pub struct RedbEngine {
    db: Database,
    path: PathBuf,
}

/// A keyspace is a table of this shape.
fn definition(keyspace: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(keyspace)
}

fn failed(error: impl Into<redb::Error>) -> StorageError {
    match error.into() {
        redb::Error::Corrupted(message) => StorageError::Damaged { keyspace: FILE.to_owned(), message },
        other => StorageError::Failed(other.to_string()),
    }
}

fn unknown(error: impl Display) -> StorageError {
    StorageError::Unknown(error.to_string())
}

impl RedbEngine {
    /// The engine over a database in the file `path`.
    #[must_use]
    pub fn over(db: Database, path: PathBuf) -> Self {
        Self { db, path }
    }

    /// The size of the file; `None` where it can't be read.
    #[must_use]
    pub fn disk_bytes(&self) -> Option<u64> {
        fs::metadata(&self.path).map(|file| file.len()).ok()
    }

    fn write(&self, durability: Durability) -> Result<WriteTransaction, StorageError> {
        let mut transaction = self.db.begin_write().map_err(failed)?;
        match durability {
            Durability::Hard => transaction.set_quick_repair(true),
            Durability::Soft => transaction.set_durability(redb::Durability::None).map_err(failed)?,
        }
        Ok(transaction)
    }

    fn view(&self) -> Result<View, StorageError> {
        self.db.begin_read().map(View).map_err(failed)
    }
}

impl StorageEngine for RedbEngine {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.view()?.get(keyspace, key)
    }

    fn get_many(&self, keyspace: Keyspace<'_>, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        self.view()?.get_many(keyspace, keys)
    }

    fn commit(&self, batch: &WriteBatch, durability: Durability) -> Result<(), StorageError> {
        if batch.changes.iter().any(|change| change.key.is_empty()) {
            return Err(StorageError::Failed("a key has 1 to 65,535 bytes, found 0".to_owned()));
        }
        let transaction = self.write(durability)?;
        let mut keyspaces: Vec<&str> = Vec::new();
        for change in &batch.changes {
            if !keyspaces.contains(&&*change.keyspace) {
                keyspaces.push(&change.keyspace);
            }
        }
        // A tree at a time: each is opened once, and the changes of a key stay in order. Dropped, the transaction is
        // taken back.
        for keyspace in keyspaces {
            let changes = || batch.changes.iter().filter(|change| &*change.keyspace == keyspace);
            if changes().all(|change| change.value.is_none()) && !exists(&transaction, keyspace)? {
                continue;
            }
            let mut table = transaction.open_table(definition(keyspace)).map_err(failed)?;
            for change in changes() {
                match &change.value {
                    Some(value) => table.insert(change.key.as_slice(), value.as_slice()).map(drop).map_err(failed)?,
                    None => table.remove(change.key.as_slice()).map(drop).map_err(failed)?,
                }
            }
        }
        transaction.commit().map_err(unknown)
    }

    fn snapshot(&self) -> Result<Box<dyn StorageSnapshot>, StorageError> {
        Ok(Box::new(self.view()?))
    }

    fn drop_keyspace(&self, keyspace: Keyspace<'_>) -> Result<(), StorageError> {
        let transaction = self.write(Durability::Soft)?;
        transaction.delete_table(definition(keyspace)).map_err(failed)?;
        transaction.commit().map_err(unknown)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.write(Durability::Hard)?.commit().map_err(unknown)
    }

    fn statistics(&self) -> Datum {
        Datum::object([("engine", Datum::from("redb")), ("disk_bytes", self.disk_bytes().into())])
    }
}

/// Whether there is such a keyspace: a removal must not make one.
fn exists(transaction: &WriteTransaction, keyspace: &str) -> Result<bool, StorageError> {
    use redb::TableHandle;
    Ok(transaction.list_tables().map_err(failed)?.any(|table| table.name() == keyspace))
}

type Table = ReadOnlyTable<&'static [u8], &'static [u8]>;
type Guard<'a> = redb::AccessGuard<'a, &'static [u8]>;

/// The tables at one moment.
struct View(ReadTransaction);

impl View {
    fn table(&self, keyspace: &str) -> Result<Option<Table>, StorageError> {
        match self.0.open_table(definition(keyspace)) {
            Ok(table) => Ok(Some(table)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }
}

impl StorageSnapshot for View {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let Some(table) = self.table(keyspace)? else { return Ok(None) };
        Ok(table.get(key).map_err(failed)?.map(|value| value.value().to_vec()))
    }

    fn get_many(&self, keyspace: Keyspace<'_>, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        let Some(table) = self.table(keyspace)? else { return Ok(vec![None; keys.len()]) };
        let value = |key: &&[u8]| Ok(table.get(*key).map_err(failed)?.map(|value| value.value().to_vec()));
        keys.iter().map(value).collect()
    }

    fn scan(
        &self,
        keyspace: Keyspace<'_>,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<EntryIterator, StorageError> {
        let Some(table) = self.table(keyspace)? else { return Ok(Box::new(std::iter::empty())) };
        let start = range.start.as_slice();
        let entries: Range<'static, &'static [u8], &'static [u8]> = match range.end.as_deref() {
            Some(end) if end <= start => return Ok(Box::new(std::iter::empty())),
            Some(end) => table.range(start..end),
            None => table.range(start..),
        }
        .map_err(failed)?;
        let entry = |found: Result<(Guard<'_>, Guard<'_>), _>| -> Result<Entry, _> {
            let (key, value) = found.map_err(|error: redb::StorageError| failed(error))?;
            Ok((key.value().to_vec(), value.value().to_vec()))
        };
        Ok(match direction {
            Direction::Forward => Box::new(entries.map(entry)),
            Direction::Backward => Box::new(entries.rev().map(entry)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        assert!(Redb.validate(&Datum::object([(CACHE_MB, 16)])).is_ok());
        for (options, hint) in [
            (Datum::object([("cache", 16)]), "unknown option `cache`; the engine `redb` knows `cache_mb`"),
            (Datum::object([(CACHE_MB, 0.5)]), "whole number from 1"),
        ] {
            let error = Redb.validate(&options).expect_err(hint);
            assert!(error.message().contains(hint), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_open_elsewhere_is_said_to_be() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = StorageConfig { directory: folder.path().into(), cache_bytes: 1 << 20, options: Datum::Null };
        let open = Redb.open(&config).expect("opens");
        let error = Redb.open(&config).map(drop).expect_err("it is open");
        assert_eq!(error.cause(), Cause::Busy, "{error}");
        drop(open);
        Redb.open(&config).expect("opens");
    }

    #[test]
    fn without_a_directory_it_says_what_to_grant() {
        let config = StorageConfig { directory: PathBuf::new(), cache_bytes: 0, options: Datum::Null };
        let error = Redb.open(&config).map(drop).expect_err("no directory");
        assert!(error.message().contains("state = true"), "{error}");
    }
}
