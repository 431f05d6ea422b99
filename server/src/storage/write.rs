//! The write path of a table: read, change and commit documents that nobody else changes meanwhile.

use std::collections::HashMap;
use std::sync::Arc;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::MAX_DEPTH;
use photondb_plugin_sdk::kinds::storage::{Durability, StorageError};

use super::backend::Opened;
use super::error::StoreError;
use super::indexes::Index;
use super::table::Table;
use super::writer::{Request, Ticket};
use super::{document, keys};

/// How many documents a commit of [`Table::replace`] holds.
const CHUNK: usize = 256;

/// What became of one document of [`Table::replace`].
#[derive(Clone, Debug)]
pub enum Outcome<E> {
    /// Nothing was to be changed; the document, if there is one.
    Unchanged(Option<Datum>),
    /// Replaced, inserted or deleted.
    Changed {
        /// The document before.
        old: Option<Datum>,
        /// The document now.
        new: Option<Datum>,
    },
    /// The closure failed.
    Failed(E),
    /// The key or the new document can't be stored.
    Refused(StoreError),
}

/// What [`Table::replace`] asks for each document: its position among the keys, and the present document.
pub type Apply<'a, E> = dyn FnMut(usize, Option<&Datum>) -> Result<Option<Datum>, E> + 'a;

impl Table {
    /// Changes documents: every write is one of these. For each key in turn, `apply` gets its position and the
    /// present document, and returns the new one, or `None` to delete it. No other write to the key comes in between.
    ///
    /// A document's change and those of its indexes are one commit; some hundred documents share one. With
    /// [`Durability::Hard`] everything is on the disk on return.
    ///
    /// # Errors
    /// When the engine fails: documents up to some position are changed then, the others are not.
    pub fn replace<E>(
        &self,
        keys: &[Datum],
        durability: Durability,
        apply: &mut Apply<'_, E>,
    ) -> Result<Vec<Outcome<E>>, StoreError> {
        let mut outcomes = Vec::with_capacity(keys.len());
        let mut opened = self.backend.opened()?;
        let (mut unsynced, mut is_changed) = (false, false);
        let mut at = 0;
        let explain = |error: StorageError, is_changed| {
            self.backend.explain(match error {
                // Earlier chunks are lost with the process, or are not.
                StorageError::Closed(message) if is_changed => StorageError::Unknown(message),
                other => other,
            })
        };
        while at < keys.len() {
            let end = keys.len().min(at + CHUNK);
            // The fsync of the last chunk covers those before.
            let chunk_durability = if end == keys.len() { durability } else { Durability::Soft };
            let ticket = self.replace_chunk(&mut opened, at, &keys[at..end], chunk_durability, apply, &mut outcomes);
            let ticket = ticket.map_err(|error| match error {
                StoreError::Storage(error) => explain(error, is_changed),
                other => other,
            })?;
            match ticket {
                Some(ticket) if end == keys.len() => {
                    ticket.wait_done().map_err(|error| explain(error, true))?;
                    unsynced = false;
                }
                Some(_) => (unsynced, is_changed) = (true, true),
                None => {}
            }
            at = end;
        }
        if unsynced && durability == Durability::Hard {
            let synced = self.backend.writer.sync(Some(opened.epoch));
            synced.map_err(|error| match error {
                StoreError::Storage(error) => explain(error, true),
                other => other,
            })?;
        }
        Ok(outcomes)
    }

    /// Applies one commit's worth of documents. On return it is visible; the ticket tells when it is durable.
    fn replace_chunk<E>(
        &self,
        opened: &mut Opened,
        first: usize,
        chunk: &[Datum],
        durability: Durability,
        apply: &mut Apply<'_, E>,
        outcomes: &mut Vec<Outcome<E>>,
    ) -> Result<Option<Ticket>, StoreError> {
        let _gate = self.enter()?;
        let indexes = self.index_list();
        let encoded: Vec<Result<Vec<u8>, StoreError>> = chunk.iter().map(keys::primary_key).collect();
        let _locks = self.locks.lock(encoded.iter().flatten().map(Vec::as_slice));
        let wanted: Vec<&[u8]> = encoded.iter().flatten().map(Vec::as_slice).collect();
        let mut read = opened.engine.get_many(&self.documents, &wanted);
        if first == 0 && self.backend.is_lost(opened, read.as_ref().err()) {
            *opened = self.backend.opened()?;
            read = opened.engine.get_many(&self.documents, &wanted);
        }
        let mut present = read?.into_iter();
        // A key that occurs twice meets its own change.
        let mut changed: HashMap<&[u8], Option<Datum>> = HashMap::new();
        let mut request = Request { epoch: Some(opened.epoch), ..Request::default() };
        let mut growth = 0;
        for (offset, (datum, key)) in chunk.iter().zip(&encoded).enumerate() {
            let key = match key {
                Ok(key) => key,
                Err(error) => {
                    outcomes.push(Outcome::Refused(error.clone()));
                    continue;
                }
            };
            let stored = present.next().flatten();
            let old = match changed.get(key.as_slice()) {
                Some(document) => document.clone(),
                None => stored.map(|stored| document::decode(&self.documents, &stored)).transpose()?,
            };
            let new = match apply(first + offset, old.as_ref()) {
                Ok(new) => new,
                Err(error) => {
                    outcomes.push(Outcome::Failed(error));
                    continue;
                }
            };
            if let Some(Err(error)) = new.as_ref().map(|new| self.check_document(datum, key, new)) {
                outcomes.push(Outcome::Refused(error));
                continue;
            }
            let bytes = new.as_ref().map(Datum::encoded);
            // By bytes: `==` takes times of different zones for equal.
            if bytes == old.as_ref().map(Datum::encoded) {
                outcomes.push(Outcome::Unchanged(old));
                continue;
            }
            for Index { core, .. } in indexes.iter() {
                core.stage(&self.entries, key, old.as_ref(), new.as_ref(), &mut request.batch, &mut request.vectors);
            }
            match bytes {
                Some(bytes) => request.batch.put(&self.documents, key.clone(), bytes),
                None => request.batch.delete(&self.documents, key.clone()),
            }
            growth += i64::from(new.is_some()) - i64::from(old.is_some());
            changed.insert(key, new.clone());
            outcomes.push(Outcome::Changed { old, new });
        }
        if request.batch.changes.is_empty() {
            return Ok(None);
        }
        if growth != 0 {
            request.growth = Some((Arc::clone(&self.counter), growth));
        }
        let ticket = self.backend.writer.submit(request, durability)?;
        ticket.wait_applied()?;
        Ok(Some(ticket))
    }

    pub(super) fn check_document(&self, key: &Datum, encoded: &[u8], document: &Datum) -> Result<(), StoreError> {
        let Datum::Object(fields) = document else { return Err(StoreError::NotADocument(document.type_name())) };
        let found = fields.get(&self.info().primary_key);
        if found.is_none_or(|found| found != key && keys::primary_key(found).ok().as_deref() != Some(encoded)) {
            return Err(StoreError::KeyChanged {
                primary_key: self.info().primary_key.clone(),
                expected: key.to_json_string(),
                found: found.map_or_else(|| "nothing".to_owned(), Datum::to_json_string),
            });
        }
        if document.exceeds_depth(MAX_DEPTH) { Err(StoreError::TooDeep) } else { Ok(()) }
    }
}
