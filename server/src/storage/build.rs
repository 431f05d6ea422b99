//! Work in the background: building indexes while writes go on, and removing what was dropped.
//!
//! A build goes through the primary keys in batches. It locks the keys of a batch as a write would, so it never sees a document that
//! is about to change, and stores how far it has come in the commit of the batch; after a crash it goes on from there.
//! Writes keep the new index up to date from the moment it exists, whether the build has come to their key or not.

use std::sync::Arc;

use photondb_plugin_sdk::kinds::storage::{Direction, Durability, KeyRange, StorageEngine, WriteBatch};
use uuid::Uuid;

use super::catalog::{self, Dropped, IndexRecord};
use super::error::StoreError;
use super::indexes::{Index, IndexCore};
use super::scan;
use super::table::{Table, documents_keyspace, entries_keyspace, vectors_keyspace};
use super::writer::Request;
use super::{Shared, keys};

/// How many documents are locked at a time. Vector indexes do much work for each.
const BATCH: usize = 128;

/// Builds an index to its end, or until the store closes or the index is dropped.
pub(super) fn build(table: &Table, index: &Index) {
    let _guard = PanicGuard(&index.core);
    let result = build_batches(table, &index.core);
    if let Err(error) = result {
        let is_dropped =
            matches!(error, StoreError::TableMissing { .. }) || index.core.with_state(|state| state.dropped);
        let is_over = table.shared.is_closing() || is_dropped;
        if !is_over {
            tracing::error!(index = index.name, table = table.info().name, %error, "the index can't be built; drop it and create it again");
            index.core.update(|state| state.failure = Some(error.to_string()));
        }
    }
}

/// Whoever waits for the index learns of a panic of its function.
struct PanicGuard<'a>(&'a IndexCore);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.update(|state| state.failure = Some("the index's function panicked".to_owned()));
        }
    }
}

fn build_batches(table: &Table, index: &IndexCore) -> Result<(), StoreError> {
    let engine = &table.shared.engine;
    let cursor_key = catalog::build_key(index.record.id);
    let mut cursor = engine.get(catalog::KEYSPACE, cursor_key.as_bytes())?;
    while !table.shared.is_closing() {
        // Dropping the table or an index waits for the batch.
        let gate = table.enter()?;
        if index.with_state(|state| state.dropped) {
            return Ok(());
        }
        let batch_keys = next_keys(&**engine, &table.documents, cursor.as_deref())?;
        let Some(last) = batch_keys.last().cloned() else {
            drop(gate);
            return finish(table, index);
        };
        let _locks = table.locks.lock(batch_keys.iter().map(Vec::as_slice));
        let mut request = Request::default();
        for key in &batch_keys {
            // Read again, under the lock; the document may be gone.
            let Some(document) = engine.get(&table.documents, key)? else { continue };
            let document = scan::decode(&table.documents, &document)?;
            index.stage(&table.entries, key, None, Some(&document), &mut request.batch, &mut request.vectors);
        }
        request.batch.put(catalog::KEYSPACE, cursor_key.as_bytes(), last.clone());
        table.shared.writer.submit(request, Durability::Soft)?.wait_applied()?;
        index.update(|state| state.done += batch_keys.len() as u64);
        cursor = Some(last);
    }
    Ok(())
}

fn next_keys(engine: &dyn StorageEngine, documents: &str, cursor: Option<&[u8]>) -> Result<Vec<Vec<u8>>, StoreError> {
    // The first key behind the cursor.
    let start = cursor.map(|cursor| [cursor, &[0]].concat()).unwrap_or_default();
    let snapshot = engine.snapshot()?;
    let entries = snapshot.scan(documents, &KeyRange { start, end: None }, Direction::Forward)?;
    entries.take(BATCH).map(|entry| Ok(entry?.0)).collect()
}

fn finish(table: &Table, index: &IndexCore) -> Result<(), StoreError> {
    // Under the lock that renames take, because the record holds the name.
    let definitions = table.lock_definitions();
    let gate = table.enter()?;
    let Some(name) = table.index_name(index.record.id) else { return Ok(()) };
    let record = IndexRecord { name, ready: true, ..index.record.clone() };
    let mut batch = WriteBatch::default();
    batch.put(catalog::KEYSPACE, record.key(), record.value());
    batch.delete(catalog::KEYSPACE, catalog::build_key(record.id));
    table.shared.writer.commit(batch)?;
    // Before the locks go: a rename stores what it finds here.
    index.update(|state| state.ready = true);
    drop((gate, definitions));
    tracing::info!(index = record.name, table = table.info().name, "index ready");
    Ok(())
}

/// Removes the data of something that was dropped, then its record.
pub(super) fn remove(shared: &Arc<Shared>, dropped: &Dropped) -> Result<(), StoreError> {
    match dropped {
        Dropped::Table(id) => {
            shared.engine.drop_keyspace(&documents_keyspace(*id))?;
            shared.engine.drop_keyspace(&entries_keyspace(*id))?;
        }
        Dropped::Index { table, number, id } => {
            remove_entries(shared, &entries_keyspace(*table), *number)?;
            remove_vectors(shared, *id)?;
        }
    }
    if shared.is_closing() {
        return Ok(());
    }
    let mut batch = WriteBatch::default();
    batch.delete(catalog::KEYSPACE, dropped.key());
    shared.writer.commit(batch)
}

/// Closes a vector index, which may have to wait for its plugin, and removes its files and its keyspace; there may be
/// none.
fn remove_vectors(shared: &Shared, index: Uuid) -> Result<(), StoreError> {
    shared.vectors.drop_index(index);
    shared.engine.drop_keyspace(&vectors_keyspace(index))?;
    let directory = shared.vector_directory(index);
    match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::Directory { path: directory, message: format!("can't be removed: {error}") })
        }
        _ => Ok(()),
    }
}

fn remove_entries(shared: &Shared, keyspace: &str, number: u32) -> Result<(), StoreError> {
    let mut start = keys::index_prefix(number).to_vec();
    let end = number.checked_add(1).map(|next| keys::index_prefix(next).to_vec());
    while !shared.is_closing() {
        let snapshot = shared.engine.snapshot()?;
        let range = KeyRange { start: start.clone(), end: end.clone() };
        let entries = snapshot.scan(keyspace, &range, Direction::Forward)?.take(1024);
        let found: Vec<Vec<u8>> = entries.map(|entry| Ok(entry?.0)).collect::<Result<_, StoreError>>()?;
        let Some(last) = found.last() else { return Ok(()) };
        start = [last, &[0][..]].concat();
        let mut request = Request::default();
        found.into_iter().for_each(|key| request.batch.delete(keyspace, key));
        shared.writer.submit(request, Durability::Soft)?.wait_applied()?;
    }
    Ok(())
}
