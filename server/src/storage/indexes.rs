//! Secondary indexes: what they are, and how far they are built.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::storage::WriteBatch;
use uuid::Uuid;

use super::catalog::IndexRecord;
use super::error::StoreError;
use super::keys;
use super::vectors::{VectorDefinition, VectorIndexHook};
use super::writer::VectorChange;

/// Compiles the functions of stored indexes. Implemented by the query engine.
pub trait IndexFunctions: Send + Sync {
    /// Compiles what [`IndexDefinition::source`] holds.
    ///
    /// # Errors
    /// With one sentence when the source is not a function of one argument.
    fn compile(&self, source: &str) -> Result<Arc<dyn IndexFunction>, String>;
}

/// A compiled function of an index. Deterministic.
pub trait IndexFunction: Send + Sync {
    /// The value that a document is found by; `None` keeps it out of the index.
    fn value(&self, document: &Datum) -> Option<Datum>;
}

/// What an index is created with.
#[derive(Clone)]
pub struct IndexDefinition {
    /// The name.
    pub name: String,
    /// The function as it is stored: a ReQL term in JSON. [`IndexFunctions::compile`] understands it.
    pub source: String,
    /// Whether each element of an array is an entry.
    pub multi: bool,
    /// What makes it a vector index; then `multi` means nothing.
    pub vector: Option<VectorDefinition>,
}

/// What is known about an index.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexInfo {
    /// The id; never used again.
    pub id: Uuid,
    /// The name.
    pub name: String,
    /// The function as it is stored.
    pub source: String,
    /// Whether each element of an array is an entry.
    pub multi: bool,
    /// What makes it a vector index.
    pub vector: Option<VectorDefinition>,
}

/// How far an index is.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexStatus {
    /// The index.
    pub info: IndexInfo,
    /// Whether it is complete. A vector index can be used some time before.
    pub ready: bool,
    /// From 0 to 1.
    pub progress: f64,
    /// Why the build stopped, if it did.
    pub failure: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct BuildState {
    pub(super) ready: bool,
    /// How many documents are in.
    pub(super) done: u64,
    /// Why the build stopped, if it did.
    pub(super) failure: Option<String>,
    /// The index is gone: whoever builds it or waits for it stops.
    pub(super) dropped: bool,
}

/// An open index, by its present name.
#[derive(Clone)]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) core: Arc<IndexCore>,
}

/// What of an index does not depend on its name.
pub(super) struct IndexCore {
    pub(super) record: IndexRecord,
    pub(super) function: Arc<dyn IndexFunction>,
    pub(super) hook: Option<Arc<dyn VectorIndexHook>>,
    state: Mutex<BuildState>,
    changed: Condvar,
}

impl IndexCore {
    pub(super) fn new(
        record: IndexRecord,
        function: Arc<dyn IndexFunction>,
        hook: Option<Arc<dyn VectorIndexHook>>,
    ) -> Self {
        let state = BuildState { ready: record.ready, ..BuildState::default() };
        Self { record, function, hook, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Changes the state and tells all who wait for it.
    pub(super) fn update(&self, change: impl FnOnce(&mut BuildState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    pub(super) fn with_state<T>(&self, read: impl FnOnce(&BuildState) -> T) -> T {
        read(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the index is ready, failed or dropped; `false` when the deadline came first.
    pub(super) fn wait(&self, deadline: Instant) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let timeout = deadline.saturating_duration_since(Instant::now());
        let waiting = |state: &mut BuildState| !state.ready && !state.dropped && state.failure.is_none();
        let waited = self.changed.wait_timeout_while(state, timeout, waiting);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        let is_ready = state.ready;
        drop(state);
        let built = !is_ready || self.hook.as_ref().is_none_or(|hook| hook.wait_built(deadline));
        built && !timeout.timed_out()
    }

    /// Adds what changes in the index when a document does.
    pub(super) fn stage(
        &self,
        entries: &str,
        key: &[u8],
        old: Option<&Datum>,
        new: Option<&Datum>,
        batch: &mut WriteBatch,
        vectors: &mut Vec<VectorChange>,
    ) {
        let value = |document: Option<&Datum>| document.and_then(|document| self.function.value(document));
        let (old, new) = (value(old), value(new));
        if let Some(hook) = &self.hook {
            if old != new {
                vectors.push(VectorChange { hook: Arc::clone(hook), key: key.to_vec(), old, new });
            }
            return;
        }
        let IndexRecord { number, multi, .. } = self.record;
        let entries_of = |value: Option<Datum>| -> BTreeMap<Vec<u8>, Vec<u8>> {
            value.map(|value| keys::index_entries(number, multi, &value, key)).unwrap_or_default().into_iter().collect()
        };
        let (old, new) = (entries_of(old), entries_of(new));
        // What is in both is there already, or will be once the build comes to this key.
        for entry in old.keys().filter(|entry| !new.contains_key(*entry)) {
            batch.delete(entries, entry.clone());
        }
        for (entry, value) in new {
            if old.get(&entry) != Some(&value) {
                batch.put(entries, entry, value);
            }
        }
    }
}

impl Index {
    pub(super) fn info(&self) -> IndexInfo {
        let IndexRecord { id, source, multi, vector, .. } = self.core.record.clone();
        IndexInfo { id, name: self.name.clone(), source, multi, vector }
    }

    /// The state, given how many documents there are.
    pub(super) fn status(&self, documents: u64) -> IndexStatus {
        self.core.with_state(|state| {
            let built = if state.ready { 1.0 } else { (state.done as f64 / documents.max(1) as f64).min(1.0) };
            let progress = self.core.hook.as_ref().map_or(built, |hook| built.min(hook.progress()));
            let ready = state.ready && self.core.hook.as_ref().is_none_or(|hook| hook.is_built());
            IndexStatus { info: self.info(), ready, progress, failure: state.failure.clone() }
        })
    }

    pub(super) fn is_ready(&self) -> bool {
        self.core.with_state(|state| state.ready)
    }

    /// Tells who builds it or waits for it that it is gone.
    pub(super) fn forget(&self) {
        self.core.update(|state| state.dropped = true);
    }
}

/// Checks the name of an index.
pub(super) fn check_name(name: &str, primary_key: &str) -> Result<(), StoreError> {
    if name == primary_key { Err(StoreError::IndexNameIsPrimaryKey(name.to_owned())) } else { Ok(()) }
}
