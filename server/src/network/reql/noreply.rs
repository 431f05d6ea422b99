//! Which `noreply` queries are still running, for NOREPLY_WAIT.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The `noreply` queries of one connection.
#[derive(Default)]
pub struct Noreply {
    running: Mutex<Running>,
    changed: Notify,
}

#[derive(Default)]
struct Running {
    next: u64,
    numbers: BTreeSet<u64>,
}

/// A running query; dropped when it is done.
pub struct Guard {
    noreply: Arc<Noreply>,
    number: u64,
}

impl Noreply {
    fn lock(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A query begins.
    pub fn begin(self: &Arc<Self>) -> Guard {
        let mut running = self.lock();
        let number = running.next;
        running.next += 1;
        running.numbers.insert(number);
        Guard { noreply: self.clone(), number }
    }

    /// The place of a query that would begin now: [`wait`](Self::wait) waits for those before it.
    pub fn place(&self) -> u64 {
        self.lock().next
    }

    /// Waits until all queries before `place` are done.
    pub async fn wait(&self, place: u64) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change in between is missed.
            changed.as_mut().enable();
            if self.lock().numbers.first().is_none_or(|first| *first >= place) {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.noreply.lock().numbers.remove(&self.number);
        self.noreply.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn later_queries_are_not_waited_for() {
        let noreply = Arc::new(Noreply::default());
        let first = noreply.begin();
        let place = noreply.place();
        let later = noreply.begin();
        let waiting = tokio::spawn({
            let noreply = noreply.clone();
            async move { noreply.wait(place).await }
        });
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
        drop(later);
    }
}
