//! Work in the background: building indexes while writes go on, and removing what was dropped.
//!
//! A build goes through the primary keys in batches. It locks the keys of a batch as a write would, so it never sees a document that
//! is about to change, and stores how far it has come in the commit of the batch; after a crash it goes on from there.
//! Writes keep the new index up to date from the moment it exists, whether the build has come to their key or not.

use std::sync::Arc;
use std::time::Duration;

use photondb_plugin_sdk::kinds::storage::{Direction, Durability, KeyRange, StorageEngine, StorageError, WriteBatch};
use uuid::Uuid;

use super::backend::Backend;
use super::catalog::{self, Dropped, IndexRecord};
use super::document;
use super::error::StoreError;
use super::indexes::{Index, IndexCore};
use super::table::{Table, documents_keyspace, entries_keyspace, vectors_keyspace};
use super::writer::Request;
use super::{Shared, keys};

/// How many documents are locked at a time. Vector indexes do much work for each.
const BATCH: usize = 128;
/// How long to wait for a plugin that is gone, between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Builds an index to its end, or until the store closes or the index is dropped.
pub(super) fn build(table: &Table, index: &Index) {
    let _guard = PanicGuard(&index.core);
    while let Err(error) = build_batches(table, &index.core) {
        let is_dropped =
            matches!(error, StoreError::TableMissing { .. }) || index.core.with_state(|state| state.dropped);
        let is_over = table.shared.is_closing() || is_dropped;
        if is_over {
            return;
        }
        if !error.may_pass() {
            tracing::error!(index = index.name, table = table.info().name, %error, "the index can't be built; drop it and create it again");
            return index.core.update(|state| state.failure = Some(error.to_string()));
        }
        // From where the engine has it: what was not flushed may be gone.
        std::thread::sleep(PAUSE);
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
    let backend = &table.backend;
    let cursor_key = catalog::build_key(index.record.id);
    let opened = backend.opened()?;
    let explain = |error| {
        // Whether it is one that another process mends, the next try will show.
        backend.is_lost(&opened, Some(&error));
        backend.explain(error)
    };
    let engine = &*opened.engine;
    let mut cursor = engine.get(catalog::KEYSPACE, cursor_key.as_bytes()).map_err(explain)?;
    while !table.shared.is_closing() {
        // Dropping the table or an index waits for the batch.
        let gate = table.enter()?;
        if index.with_state(|state| state.dropped) {
            return Ok(());
        }
        let batch_keys = next_keys(engine, &table.documents, cursor.as_deref()).map_err(explain)?;
        let Some(last) = batch_keys.last().cloned() else {
            drop(gate);
            return finish(table, index, opened.epoch);
        };
        let _locks = table.locks.lock(batch_keys.iter().map(Vec::as_slice));
        let mut request = Request { epoch: Some(opened.epoch), ..Request::default() };
        // Read again, under the lock; documents may be gone.
        let keys: Vec<&[u8]> = batch_keys.iter().map(Vec::as_slice).collect();
        let documents = engine.get_many(&table.documents, &keys).map_err(explain)?;
        for (key, document) in batch_keys.iter().zip(documents) {
            let Some(document) = document else { continue };
            let document = document::decode(&table.documents, &document)?;
            index.stage(&table.entries, key, None, Some(&document), &mut request.batch, &mut request.vectors);
        }
        request.batch.put(catalog::KEYSPACE, cursor_key.as_bytes(), last.clone());
        backend.writer.submit(request, Durability::Soft)?.wait_applied().map_err(explain)?;
        index.update(|state| state.done += batch_keys.len() as u64);
        cursor = Some(last);
    }
    Ok(())
}

fn next_keys(engine: &dyn StorageEngine, documents: &str, cursor: Option<&[u8]>) -> Result<Vec<Vec<u8>>, StorageError> {
    // The first key behind the cursor.
    let start = cursor.map(|cursor| [cursor, &[0]].concat()).unwrap_or_default();
    let snapshot = engine.snapshot()?;
    let entries = snapshot.scan(documents, &KeyRange { start, end: None }, Direction::Forward)?;
    entries.take(BATCH).map(|entry| Ok(entry?.0)).collect()
}

fn finish(table: &Table, index: &IndexCore, epoch: u64) -> Result<(), StoreError> {
    let backend = &table.backend;
    if backend.of_table().is_some() {
        // The catalog must not say that an index is complete whose entries may still be lost.
        backend.writer.sync(Some(epoch)).map_err(|error| backend.explain_store(error))?;
    }
    // Under the lock that renames take, because the record holds the name.
    let definitions = table.lock_definitions();
    let gate = table.enter()?;
    let Some(name) = table.index_name(index.record.id) else { return Ok(()) };
    let record = IndexRecord { name, ready: true, ..index.record.clone() };
    let mut batch = WriteBatch::default();
    batch.put(catalog::KEYSPACE, record.key(), record.value());
    batch.delete(catalog::KEYSPACE, catalog::build_key(record.id));
    table.shared.commit(batch)?;
    // Before the locks go: a rename stores what it finds here.
    index.update(|state| state.ready = true);
    drop((gate, definitions));
    forget_build(backend, record.id);
    tracing::info!(index = record.name, table = table.info().name, "index ready");
    Ok(())
}

/// Removes the data of something that was dropped, then its record.
pub(super) fn remove(shared: &Arc<Shared>, backend: &Backend, dropped: &Dropped) -> Result<(), StoreError> {
    match dropped {
        Dropped::Table(id, None) => backend.read(|engine| {
            engine.drop_keyspace(&documents_keyspace(*id))?;
            engine.drop_keyspace(&entries_keyspace(*id))
        })?,
        Dropped::Table(id, Some(engine)) => {
            if backend.of_table().is_some() {
                backend.shut();
            }
            let failed = |problem| StoreError::EngineOptions { engine: engine.clone(), problem };
            shared.engines.remove(engine, *id).map_err(failed)?;
        }
        Dropped::Index { table, number, id } => {
            let removed = remove_entries(shared, backend, &entries_keyspace(*table), *number)
                .and_then(|()| backend.read(|engine| engine.drop_keyspace(&vectors_keyspace(*id))));
            forget_build(backend, *id);
            // With the table's own engine, all of that is gone.
            if !backend.is_shut() {
                removed?;
            }
            remove_vectors(shared, *id)?;
        }
    }
    if shared.is_closing() {
        return Ok(());
    }
    let mut batch = WriteBatch::default();
    batch.delete(catalog::KEYSPACE, dropped.key());
    shared.commit(batch)
}

/// Closes a vector index, which may have to wait for its plugin, and removes its files; there may be none.
fn remove_vectors(shared: &Shared, index: Uuid) -> Result<(), StoreError> {
    shared.vectors.drop_index(index);
    let directory = shared.vector_directory(index);
    match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::Directory { path: directory, message: format!("can't be removed: {error}") })
        }
        _ => Ok(()),
    }
}

/// Removes how far an index was built from the engine of a table that has its own. One that stays harms nobody.
fn forget_build(backend: &Backend, index: Uuid) {
    if backend.of_table().is_some() {
        let mut request = Request::default();
        request.batch.delete(catalog::KEYSPACE, catalog::build_key(index));
        drop(backend.writer.submit(request, Durability::Soft));
    }
}

fn remove_entries(shared: &Shared, backend: &Backend, keyspace: &str, number: u32) -> Result<(), StoreError> {
    let mut start = keys::index_prefix(number).to_vec();
    let end = number.checked_add(1).map(|next| keys::index_prefix(next).to_vec());
    while !shared.is_closing() {
        let range = KeyRange { start: start.clone(), end: end.clone() };
        let found: Vec<Vec<u8>> = backend.read(|engine| {
            let entries = engine.snapshot()?.scan(keyspace, &range, Direction::Forward)?;
            entries.take(1024).map(|entry| Ok(entry?.0)).collect()
        })?;
        let Some(last) = found.last() else { return Ok(()) };
        start = [last, &[0][..]].concat();
        let mut request = Request::default();
        found.into_iter().for_each(|key| request.batch.delete(keyspace, key));
        let ticket = backend.writer.submit(request, Durability::Soft)?;
        ticket.wait_applied().map_err(|error| backend.explain(error))?;
    }
    Ok(())
}
