//! Streams of documents out of one snapshot.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::sync::Arc;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::storage::{Direction, EntryIterator, KeyRange, Selection, StorageSnapshot};

use super::document::{Document, Part, decode};
use super::error::StoreError;
use super::keys::{self, DatumRange, MAX_INDEX_KEY};

/// Documents, or values, in the order of a scan: lazily read, all as of the moment the scan began. The engine keeps what was
/// overwritten since then while this lives, so don't hold it without need.
///
/// As an iterator it gives decoded values; [`stored`](Self::stored) leaves them as they are.
pub struct Documents(StoredDocuments);

/// Documents as they are stored, in the order of a scan.
pub type StoredDocuments = Box<dyn Iterator<Item = Result<Document, StoreError>> + Send>;

impl Documents {
    /// Documents that are read by `begin`, when the first of them is asked for.
    pub(super) fn when_needed(begin: impl FnOnce() -> Result<Self, StoreError> + Send + 'static) -> Self {
        let mut begin = Some(begin);
        let mut documents: Option<StoredDocuments> = None;
        Self(Box::new(std::iter::from_fn(move || {
            if let Some(begin) = begin.take() {
                match begin() {
                    Ok(begun) => documents = Some(begun.stored()),
                    Err(error) => return Some(Err(error)),
                }
            }
            documents.as_mut()?.next()
        })))
    }

    /// The documents as they are stored, for whoever needs only parts of them.
    #[must_use]
    pub fn stored(self) -> StoredDocuments {
        self.0
    }

    /// The same documents, with errors that say more.
    pub(super) fn map_errors(self, explain: impl Fn(StoreError) -> StoreError + Send + 'static) -> Self {
        Self(Box::new(self.0.map(move |document| document.map_err(&explain))))
    }
}

impl Iterator for Documents {
    type Item = Result<Datum, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|document| document?.into_datum())
    }
}

/// A snapshot, and where a table's data lies in it.
#[derive(Clone)]
pub(super) struct View {
    pub(super) snapshot: Arc<dyn StorageSnapshot>,
    pub(super) documents: Arc<str>,
    pub(super) entries: Arc<str>,
    /// The most entries with one cut key that are put in order.
    pub(super) most_of_a_key: usize,
}

impl View {
    /// Documents in the order of their primary keys.
    pub(super) fn documents(self, range: &DatumRange, direction: Direction) -> Result<Documents, StoreError> {
        let (start, end) = range.key_range(&[], usize::MAX);
        let values = self.snapshot.scan_values(&self.documents, &KeyRange { start, end: Some(end) }, direction)?;
        Ok(Documents(Box::new(values.map(move |value| Ok(Document::new(&self.documents, value?))))))
    }

    /// The same, without what the selection allows to leave out: documents, and fields of them.
    pub(super) fn selected(
        self,
        range: &DatumRange,
        direction: Direction,
        selection: &Selection,
    ) -> Result<Documents, StoreError> {
        if selection.is_everything() {
            return self.documents(range, direction);
        }
        let (start, end) = range.key_range(&[], usize::MAX);
        let range = KeyRange { start, end: Some(end) };
        let entries = self.snapshot.scan_selected(&self.documents, &range, direction, selection)?;
        let fields: Option<Arc<[Arc<str>]>> = selection.fields.as_deref().map(Arc::from);
        let document = move |(key, value)| match &fields {
            None => Document::new(&self.documents, value),
            Some(fields) => {
                let (fields, snapshot) = (Arc::clone(fields), Arc::clone(&self.snapshot));
                Document::part(&self.documents, value, Part::new(fields, snapshot, key))
            }
        };
        Ok(Documents(Box::new(entries.map(move |entry| Ok(document(entry?))))))
    }

    /// The entries of an index in its order; equal values in the order of primary keys.
    fn index_entries(&self, number: u32, range: &DatumRange, direction: Direction) -> Result<IndexEntries, StoreError> {
        let (start, end) = range.key_range(&keys::index_prefix(number), MAX_INDEX_KEY);
        let entries = self.snapshot.scan(&self.entries, &KeyRange { start, end: Some(end) }, direction)?;
        Ok(IndexEntries {
            keyspace: Arc::clone(&self.entries),
            entries: entries.peekable(),
            range: range.clone(),
            direction,
            cut: VecDeque::new(),
            most_of_a_key: self.most_of_a_key,
        })
    }

    /// Documents in the order of an index.
    pub(super) fn by_index(
        self,
        number: u32,
        range: &DatumRange,
        direction: Direction,
    ) -> Result<Documents, StoreError> {
        let entries = self.index_entries(number, range, direction)?;
        Ok(Documents(Box::new(IndexedDocuments { view: self, entries, read: VecDeque::new(), ahead: 1 })))
    }

    /// The distinct values of an index.
    pub(super) fn index_values(
        self,
        number: u32,
        range: &DatumRange,
        direction: Direction,
    ) -> Result<Documents, StoreError> {
        let entries = self.index_entries(number, range, direction)?;
        let mut last: Option<Datum> = None;
        Ok(Documents(Box::new(entries.filter_map(move |entry| {
            let found = entry.map(|entry| Document::new(&self.entries, entry.value));
            let value = match found.as_ref().map(Document::datum) {
                Ok(Ok(value)) => value,
                Ok(Err(error)) => return Some(Err(error)),
                Err(_) => return Some(found),
            };
            if last.as_ref() == Some(value) {
                return None;
            }
            last = Some(value.clone());
            Some(found)
        }))))
    }
}

/// The documents of index entries. Reads some at a time, which costs an engine in another process no more than one does.
struct IndexedDocuments {
    view: View,
    entries: IndexEntries,
    read: VecDeque<Result<Document, StoreError>>,
    /// How many are read at a time: one at first, since many look for one.
    ahead: usize,
}

impl IndexedDocuments {
    const MOST: usize = 64;

    fn read(&mut self) {
        let entries = self.entries.by_ref().take(self.ahead);
        self.ahead = (self.ahead * 2).min(Self::MOST);
        let (mut keys, mut failure) = (Vec::new(), None);
        for entry in entries {
            match entry {
                Ok(entry) => keys.push(entry.primary_key),
                Err(error) => {
                    failure = Some(Err(error));
                    break;
                }
            }
        }
        let View { snapshot, documents, entries, .. } = &self.view;
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let document = |found: Option<Vec<u8>>| match found {
            Some(bytes) => Ok(Document::new(documents, bytes)),
            None => {
                let message = "an index entry has no document: drop the index and create it again";
                Err(StoreError::damaged(entries, message))
            }
        };
        match snapshot.get_many(documents, &keys) {
            Ok(found) => self.read.extend(found.into_iter().map(document)),
            Err(error) => self.read.push_back(Err(error.into())),
        }
        self.read.extend(failure);
    }
}

impl Iterator for IndexedDocuments {
    type Item = Result<Document, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.read.is_empty() {
            self.read();
        }
        self.read.pop_front()
    }
}

/// An entry of an index.
struct IndexEntry {
    index_key: Vec<u8>,
    primary_key: Vec<u8>,
    /// The encoded value.
    value: Vec<u8>,
}

/// Entries of an index; those whose keys are cut off are put in order and checked by their values.
struct IndexEntries {
    keyspace: Arc<str>,
    entries: Peekable<EntryIterator>,
    range: DatumRange,
    direction: Direction,
    /// Entries with one cut key, ready to be returned.
    cut: VecDeque<IndexEntry>,
    most_of_a_key: usize,
}

impl IndexEntries {
    fn read(&mut self) -> Option<Result<IndexEntry, StoreError>> {
        let (key, value) = match self.entries.next()? {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error.into())),
        };
        let parts = keys::split_entry(&key).map(|(index_key, primary_key)| IndexEntry {
            index_key: index_key.to_vec(),
            primary_key: primary_key.to_vec(),
            value,
        });
        Some(parts.ok_or_else(|| StoreError::damaged(&self.keyspace, "an index entry has a wrong key")))
    }

    /// Reads all entries with the same cut key as `first`.
    fn read_cut(&mut self, first: IndexEntry) -> Result<(), StoreError> {
        let index_key = first.index_key.clone();
        let mut group = vec![(decode(&self.keyspace, &first.value)?, first)];
        while self.entries.peek().is_some_and(|next| match next {
            Ok((key, _)) => keys::split_entry(key).is_some_and(|(next_key, _)| next_key == index_key),
            Err(_) => true,
        }) {
            let Some(entry) = self.read().transpose()? else { break };
            if group.len() == self.most_of_a_key {
                let message = format!("more than {} values of an index begin with the same bytes", self.most_of_a_key);
                return Err(StoreError::damaged(&self.keyspace, message));
            }
            group.push((decode(&self.keyspace, &entry.value)?, entry));
        }
        group.retain(|(value, _)| self.range.contains(value));
        // Stable: among equal values the order of primary keys, which is that of the scan, stays.
        group.sort_by(|(a, _), (b, _)| match self.direction {
            Direction::Forward => a.cmp(b),
            Direction::Backward => b.cmp(a),
        });
        self.cut.extend(group.into_iter().map(|(_, entry)| entry));
        Ok(())
    }
}

impl Iterator for IndexEntries {
    type Item = Result<IndexEntry, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.cut.pop_front() {
                return Some(Ok(entry));
            }
            match self.read()? {
                Ok(entry) if entry.index_key.len() == MAX_INDEX_KEY => {
                    if let Err(error) = self.read_cut(entry) {
                        return Some(Err(error));
                    }
                }
                entry => return Some(entry),
            }
        }
    }
}
