//! A storage engine whose files are encrypted: redb over a file of authenticated blocks (`blocks`), so that documents, keys
//! and index entries are all covered, and order, snapshots, atomicity and crash safety are redb's.
//!
//! Each table has a random key of its own, which lies beside it, wrapped (`keys`) by the operator's key. What was changed in
//! a file is found when it is read, and stops the table: nothing of it is answered.
//!
//! | file of a table | what it is |
//! |---|---|
//! | `table.blocks` | the blocks |
//! | `table.key` | the table's key, wrapped, and the name of the key that unwraps it |
//! | `table.lock` | is locked by the process that has the table open |
//! | `*.new` | what a crash may leave of a file that was being made |

#![forbid(unsafe_code)]

mod blocks;
#[cfg(test)]
mod crash;
mod engine;
mod keys;
mod seal;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;

use photondb_plugin_redb::RedbEngine;
use photondb_plugin_sdk::Cause;
use photondb_plugin_sdk::kinds::storage::{whole_option, wrong_option};
use photondb_plugin_sdk::prelude::*;
use redb::backends::FileBackend;
use redb::{Database, StorageBackend};

use blocks::{Blocks, Damage};
use engine::{EncryptedEngine, damage_of};
use keys::{Keyring, TableKey};
use seal::{Key, Sealer};

const BLOCKS: &str = "table.blocks";
const NEW_BLOCKS: &str = "table.blocks.new";
const LOCK: &str = "table.lock";
/// The options.
const CACHE_MB: &str = "cache_mb";
const VERIFY: &str = "verify";

/// The plugin.
#[derive(Default)]
pub struct Encrypted {
    keys: Arc<Keyring>,
}

impl Plugin for Encrypted {
    fn name(&self) -> &str {
        "encrypted"
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn configure(&mut self, settings: &Datum) -> Result<(), PluginError> {
        self.keys = Arc::new(Keyring::from_settings(settings)?);
        Ok(())
    }

    fn register(&self, registry: &mut PluginRegistry) {
        registry.storage_engine(Kind { keys: Arc::clone(&self.keys) });
    }
}

struct Kind {
    keys: Arc<Keyring>,
}

impl StorageEnginePlugin for Kind {
    fn engine_type(&self) -> &str {
        "encrypted"
    }

    fn validate(&self, options: &Datum) -> Result<(), PluginError> {
        Options::read(options)?;
        self.keys.active().map(drop)
    }

    fn open(&self, config: &StorageConfig) -> Result<Box<dyn StorageEngine>, PluginError> {
        let directory = config.directory_for("encrypted")?;
        let options = Options::read(&config.options)?;
        let cache = options.cache_bytes.unwrap_or(config.cache_bytes);
        let lock = lock(&directory.join(LOCK))?;
        let table = match TableKey::load(directory, &self.keys)? {
            Some(table) => table,
            None => create(directory, &self.keys)?,
        };
        let path = directory.join(BLOCKS);
        let new = directory.join(NEW_BLOCKS);
        if !exists(&path)? && exists(&new)? {
            // The key is there, so all of it was on the disk.
            rename(directory, &new, &path)?;
        }
        if !exists(&path)? {
            let message = format!("{} is missing: restore it from a backup", path.display());
            return Err(StorageError::Damaged { keyspace: BLOCKS.to_owned(), message }.into());
        }
        let damage = Damage::default();
        let db = open_blocks(&path, &table.key, cache, options.verify, &damage)?;
        let engine = RedbEngine::over(db, path);
        Ok(Box::new(EncryptedEngine::new(engine, damage, table.wrapped_by, lock)))
    }
}

/// Options of a table.
struct Options {
    cache_bytes: Option<u64>,
    verify: Verify,
}

impl Options {
    fn read(options: &Datum) -> Result<Self, PluginError> {
        let mut read = Self { cache_bytes: None, verify: Verify::No };
        for (key, value) in options.as_object().into_iter().flat_map(|options| options.iter()) {
            match &**key {
                CACHE_MB => read.cache_bytes = Some(whole_option(key, value, 1..=65_536)? << 20),
                VERIFY => {
                    let Datum::Bool(verify) = value else { return Err(wrong_option(key, value, "true or false")) };
                    read.verify = if *verify { Verify::Yes } else { Verify::No };
                }
                _ => {
                    let message =
                        format!("unknown option `{key}`; the engine `encrypted` knows `{CACHE_MB}` and `{VERIFY}`");
                    return Err(PluginError::argument(message));
                }
            }
        }
        Ok(read)
    }
}

fn lock(path: &Path) -> Result<File, PluginError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|error| failed("opening", path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(PluginError::runtime(Cause::Busy, format!("another process has {} locked", path.display())))
        }
        Err(TryLockError::Error(error)) => Err(failed("locking", path, &error)),
    }
}

/// Makes a new table: all of its first state is on the disk before its key is.
fn create(directory: &Path, keys: &Keyring) -> Result<TableKey, PluginError> {
    let path = directory.join(BLOCKS);
    if exists(&path)? {
        let message = "it is missing, and without it nothing can be read: restore it from a backup".to_owned();
        return Err(StorageError::Damaged { keyspace: "table.key".to_owned(), message }.into());
    }
    let table = TableKey::new(keys)?;
    let new = directory.join(NEW_BLOCKS);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("removing", &new, &error)),
        _ => {}
    }
    let blocks = Blocks::create(file(&new)?, Sealer::new(&table.key));
    let db = redb(blocks, 1 << 20, Verify::No);
    let db = db.map_err(|error| PluginError::init(format!("making {}: {error}", new.display())))?;
    let first = RedbEngine::over(db, new.clone()).flush();
    first.map_err(|error| PluginError::init(format!("writing {}: {error}", new.display())))?;
    sync_directory(directory)?;
    table.save(directory, keys)?;
    rename(directory, &new, &path)?;
    Ok(table)
}

fn open_blocks(path: &Path, key: &Key, cache: u64, verify: Verify, damage: &Damage) -> Result<Database, PluginError> {
    let opened = Blocks::open(file(path)?, Sealer::new(key), Arc::clone(damage)).map_err(redb::Error::from);
    opened.and_then(|blocks| redb(blocks, cache, verify)).map_err(|error| match (damage_of(damage), error) {
        (Some(damaged), _) => damaged.into(),
        (None, redb::Error::Corrupted(message)) => {
            StorageError::Damaged { keyspace: BLOCKS.to_owned(), message }.into()
        }
        (None, other) => PluginError::init(format!("opening {}: {other}", path.display())),
    })
}

/// Whether all blocks are read and compared with what refers to them when a table is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verify {
    Yes,
    No,
}

fn redb(blocks: Blocks<impl StorageBackend>, cache: u64, verify: Verify) -> Result<Database, redb::Error> {
    let mut builder = Database::builder();
    builder.set_cache_size(usize::try_from(cache).unwrap_or(usize::MAX));
    builder.set_check_integrity_on_open(verify == Verify::Yes);
    Ok(builder.create_with_backend(blocks)?)
}

fn file(path: &Path) -> Result<FileBackend, PluginError> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(|error| failed("opening", path, &error))?;
    FileBackend::new(file).map_err(|error| PluginError::init(format!("opening {}: {error}", path.display())))
}

fn exists(path: &Path) -> Result<bool, PluginError> {
    fs::exists(path).map_err(|error| failed("looking for", path, &error))
}

fn rename(directory: &Path, from: &Path, to: &Path) -> Result<(), PluginError> {
    fs::rename(from, to).map_err(|error| failed("renaming", from, &error))?;
    sync_directory(directory)
}

fn sync_directory(path: &Path) -> Result<(), PluginError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|error| failed("syncing", path, &error))
}

fn failed(what: &str, path: &Path, error: &io::Error) -> PluginError {
    PluginError::init(format!("{what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        for (options, hint) in [
            (
                Datum::object([("cache", 16)]),
                "unknown option `cache`; the engine `encrypted` knows `cache_mb` and `verify`",
            ),
            (Datum::object([(CACHE_MB, 0.5)]), "whole number from 1"),
            (Datum::object([(VERIFY, 1)]), "`verify` is 1; it must be true or false"),
        ] {
            let error = Options::read(&options).map(drop).expect_err(hint);
            assert!(error.message().contains(hint), "{error}");
        }
        assert!(Options::read(&Datum::object([(CACHE_MB, Datum::from(16)), (VERIFY, true.into())])).is_ok());
    }
}
