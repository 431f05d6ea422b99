//! An open table: redb's engine, whose failures are explained by what was found to be damaged.

use std::fs::File;

use photondb_plugin_redb::RedbEngine;
use photondb_plugin_sdk::prelude::*;

use crate::blocks::Damage;

/// The damage that was found first.
pub(crate) fn damage_of(damage: &Damage) -> Option<StorageError> {
    let message = damage.get()?;
    Some(StorageError::Damaged {
        keyspace: crate::BLOCKS.to_owned(),
        message: format!("{message}; restore the table's directory from a backup and reload the plugin"),
    })
}

/// After damage was found, redb does nothing more with a file: so every later call says what it was.
fn explained<T>(damage: &Damage, outcome: Result<T, StorageError>) -> Result<T, StorageError> {
    outcome.map_err(|error| match (damage_of(damage), error) {
        // What may have happened stays unknown.
        (Some(damaged), StorageError::Unknown(_)) => StorageError::Unknown(damaged.to_string()),
        (Some(damaged), _) => damaged,
        (None, error) => error,
    })
}

pub(crate) struct EncryptedEngine {
    engine: RedbEngine,
    damage: Damage,
    wrapped_by: String,
    /// Locked as long as the engine is open.
    _lock: File,
}

impl EncryptedEngine {
    pub(crate) fn new(engine: RedbEngine, damage: Damage, wrapped_by: String, lock: File) -> Self {
        Self { engine, damage, wrapped_by, _lock: lock }
    }
}

impl StorageEngine for EncryptedEngine {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        explained(&self.damage, self.engine.get(keyspace, key))
    }

    fn get_many(&self, keyspace: Keyspace<'_>, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        explained(&self.damage, self.engine.get_many(keyspace, keys))
    }

    fn commit(&self, batch: &WriteBatch, durability: Durability) -> Result<(), StorageError> {
        explained(&self.damage, self.engine.commit(batch, durability))
    }

    fn snapshot(&self) -> Result<Box<dyn StorageSnapshot>, StorageError> {
        let snapshot = explained(&self.damage, self.engine.snapshot())?;
        Ok(Box::new(View { snapshot, damage: Damage::clone(&self.damage) }))
    }

    fn drop_keyspace(&self, keyspace: Keyspace<'_>) -> Result<(), StorageError> {
        explained(&self.damage, self.engine.drop_keyspace(keyspace))
    }

    fn flush(&self) -> Result<(), StorageError> {
        explained(&self.damage, self.engine.flush())
    }

    fn statistics(&self) -> Datum {
        Datum::object([
            ("engine", Datum::from("encrypted")),
            ("cipher", "XChaCha20-Poly1305".into()),
            ("disk_bytes", self.engine.disk_bytes().into()),
            ("wrapped_by", self.wrapped_by.as_str().into()),
            ("damage", self.damage.get().map_or(Datum::Null, |damage| damage.as_str().into())),
        ])
    }
}

struct View {
    snapshot: Box<dyn StorageSnapshot>,
    damage: Damage,
}

impl StorageSnapshot for View {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        explained(&self.damage, self.snapshot.get(keyspace, key))
    }

    fn get_many(&self, keyspace: Keyspace<'_>, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        explained(&self.damage, self.snapshot.get_many(keyspace, keys))
    }

    fn scan(
        &self,
        keyspace: Keyspace<'_>,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<EntryIterator, StorageError> {
        let entries = explained(&self.damage, self.snapshot.scan(keyspace, range, direction))?;
        let damage = Damage::clone(&self.damage);
        Ok(Box::new(entries.map(move |entry| explained(&damage, entry))))
    }
}
