//! Locks on keys, so that whoever reads a document to change it is alone until the change is visible.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Enough that batches of some hundred keys rarely meet; 32 KiB a table.
const STRIPES: usize = 4096;

/// Striped locks: keys share a lock where their hashes meet.
pub(super) struct KeyLocks {
    stripes: Box<[Mutex<()>]>,
    hasher: RandomState,
}

impl KeyLocks {
    pub(super) fn new() -> Self {
        Self { stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(), hasher: RandomState::new() }
    }

    /// Locks all keys, until the guards are dropped. Always in the same order, so that two callers can't wait for
    /// each other.
    pub(super) fn lock<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> Vec<MutexGuard<'_, ()>> {
        let mut stripes: Vec<usize> = keys.map(|key| self.hasher.hash_one(key) as usize % STRIPES).collect();
        stripes.sort_unstable();
        stripes.dedup();
        // A panic in between changed nothing that the lock protects: changes happen in commits.
        stripes.iter().map(|at| self.stripes[*at].lock().unwrap_or_else(PoisonError::into_inner)).collect()
    }
}
