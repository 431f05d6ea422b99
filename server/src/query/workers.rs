//! The threads that queries run on: not those that do the network's work, since queries wait for disks and plugins.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

/// Stack of a worker. Queries are nested up to [`MAX_NESTING`](super::parse::MAX_NESTING) levels, and every level of
/// arrays and objects costs a few hundred bytes to a few kilobytes. Only what is used takes memory.
const STACK_BYTES: usize = 64 << 20;
/// How long a worker without work stays.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// A pool that grows with the queries that wait, up to a limit.
#[derive(Clone)]
pub struct Workers(Arc<Pool>);

struct Pool {
    state: Mutex<State>,
    wake: Condvar,
    limit: usize,
    name: &'static str,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Workers {
    /// A pool of at most `limit` threads of that name; none is started yet.
    #[must_use]
    pub fn new(limit: usize, name: &'static str) -> Self {
        Self(Arc::new(Pool { state: Mutex::default(), wake: Condvar::new(), limit: limit.max(1), name }))
    }

    /// Runs `job` on a worker, as soon as one is free.
    pub fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.0.lock();
        state.jobs.push_back(Box::new(job));
        if state.idle >= state.jobs.len() {
            self.0.wake.notify_one();
            return;
        }
        if state.threads < self.0.limit {
            let pool = self.0.clone();
            let builder = thread::Builder::new().name(self.0.name.to_owned()).stack_size(STACK_BYTES);
            match builder.spawn(move || pool.work()) {
                Ok(_) => state.threads += 1,
                // The job waits for one of the others, or for the next attempt.
                Err(error) => tracing::error!(%error, threads = state.threads, "can't start another query thread"),
            }
        }
        self.0.wake.notify_one();
    }
}

impl Pool {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Jobs run outside of the lock: a poisoned one still guards consistent data.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
                    tracing::error!("a query job panicked outside of its query");
                }
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let (guard, waited) = self.wake.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

/// How many cores this process may use. Asking the system takes as long as a small scan.
#[must_use]
pub fn permitted_cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| thread::available_parallelism().map_or(1, NonZeroUsize::get))
}

/// Works on parts of so many items, the first on the caller's thread and each other on one of its own, and returns what
/// came of them in order. Without a thread to spare it takes longer, that is all.
pub fn on_parts<T: Sync, R: Send>(items: &[T], part: usize, work: impl Fn(&[T]) -> R + Sync) -> Vec<R> {
    let (first, rest) = items.split_at(part.min(items.len()));
    thread::scope(|scope| {
        let work = &work;
        let start = |part| thread::Builder::new().spawn_scoped(scope, move || work(part)).map_err(|_| part);
        let others: Vec<_> = rest.chunks(part.max(1)).map(start).collect();
        let mut results = vec![work(first)];
        results.extend(others.into_iter().map(|other| match other {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(part) => work(part),
        }));
        results
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn parts_come_back_in_order() {
        let items: Vec<usize> = (0..10).collect();
        for (part, expected) in [(3, vec![3, 12, 21, 9]), (10, vec![45]), (100, vec![45])] {
            assert_eq!(on_parts(&items, part, |part| part.iter().sum::<usize>()), expected);
        }
        assert_eq!(on_parts(&items[..0], 3, |part| part.len()), [0]);
    }

    #[test]
    fn jobs_that_wait_for_each_other_run_at_once() {
        let workers = Workers::new(2, "query");
        let (to_second, at_second) = mpsc::channel();
        let (to_first, at_first) = mpsc::channel();
        let (done, finished) = mpsc::channel();
        let also_done = done.clone();
        workers.spawn(move || {
            to_second.send(()).unwrap();
            at_first.recv().unwrap();
            done.send(()).unwrap();
        });
        workers.spawn(move || {
            at_second.recv().unwrap();
            to_first.send(()).unwrap();
            also_done.send(()).unwrap();
        });
        for _ in 0..2 {
            finished.recv_timeout(Duration::from_secs(60)).unwrap();
        }
    }

    #[test]
    fn a_panicking_job_does_not_end_its_thread() {
        let workers = Workers::new(1, "query");
        workers.spawn(|| panic!("expected by the test"));
        let (done, finished) = mpsc::channel();
        workers.spawn(move || done.send(()).unwrap());
        finished.recv_timeout(Duration::from_secs(60)).unwrap();
    }
}
