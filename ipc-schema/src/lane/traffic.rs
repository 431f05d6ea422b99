//! How many bytes go through lanes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of payloads, over all lanes that it is given to and all that they carry. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Traffic(Arc<Totals>);

#[derive(Debug, Default)]
struct Totals {
    shared: AtomicU64,
    copied: AtomicU64,
}

impl Traffic {
    /// Bytes of requests: written once, and read in place by the plugin.
    #[must_use]
    pub fn shared(&self) -> u64 {
        self.0.shared.load(Ordering::Relaxed)
    }

    /// Bytes of replies: copied once, out of what the plugin can change.
    #[must_use]
    pub fn copied(&self) -> u64 {
        self.0.copied.load(Ordering::Relaxed)
    }

    pub(super) fn count_shared(&self, bytes: usize) {
        self.0.shared.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn count_copied(&self, bytes: usize) {
        self.0.copied.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
