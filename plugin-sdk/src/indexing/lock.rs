//! A lock whose writers get their turn.
//!
//! The standard library's wakes a writer when the last reader leaves, but lets readers in until it is awake. A thread that
//! shares the lock again and again, as one that links nodes does, always comes first then: two threads that added rows
//! took as long as one, since each waited until the other wanted to write.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LockResult, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A lock that is shared, or held alone; who waits to hold it alone comes before all who want to share it from then on.
#[derive(Debug, Default)]
pub struct FairLock<T> {
    value: RwLock<T>,
    /// How many wait to hold it alone. Those who want to share it look here first, which costs nothing while there are none.
    waiting: AtomicUsize,
    /// Held by the first of those who wait.
    turn: Mutex<()>,
}

impl<T> FairLock<T> {
    /// A lock that nobody holds.
    pub fn new(value: T) -> Self {
        Self { value: RwLock::new(value), waiting: AtomicUsize::new(0), turn: Mutex::new(()) }
    }

    /// Shares the lock. A thread must not do that twice: it would wait for itself where somebody waits in between.
    ///
    /// # Errors
    /// When a thread panicked that held the lock alone.
    pub fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        // Relaxed: this is about order among threads that want the lock, which itself keeps what it guards in order.
        if self.waiting.load(Ordering::Relaxed) > 0 {
            drop(self.turn.lock().unwrap_or_else(PoisonError::into_inner));
        }
        self.value.read()
    }

    /// Holds the lock alone.
    ///
    /// # Errors
    /// When a thread panicked that held the lock alone.
    pub fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let guard = self.value.write();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        drop(turn);
        guard
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_writer_does_not_wait_for_readers_that_come_again_and_again() {
        let lock = FairLock::new(0);
        let is_done = AtomicBool::new(false);
        let reads = thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut reads = 0;
                while !is_done.load(Ordering::Relaxed) {
                    let _shared = lock.read().unwrap();
                    reads += 1;
                    thread::sleep(Duration::from_millis(1));
                }
                reads
            });
            for _ in 0..50 {
                *lock.write().unwrap() += 1;
            }
            is_done.store(true, Ordering::Relaxed);
            reader.join().unwrap()
        });
        assert_eq!(*lock.read().unwrap(), 50);
        // One in each gap between two writes, and some slack; without turns it may be any number.
        assert!(reads <= 200, "{reads} reads in between");
    }
}
