//! The one thread that changes the engine.
//!
//! Everything that is queued becomes one commit, and if anybody asked for it, one fsync: while the disk is
//! busy, the next group gathers. Commits are visible, and waiters that hold locks go on, before the fsync; `hard` waits for it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::storage::{Durability, StorageError, WriteBatch};

use super::backend::{Core, Opened};
use super::catalog;
use super::error::StoreError;
use super::vectors::VectorIndexHook;

/// Beyond it, writers wait for the thread.
const QUEUE: usize = 1024;
/// A group of commits ends with the request that reaches it, so that its waiters don't wait for ever.
const GROUP_CHANGES: usize = 16_384;
/// How long soft commits may stay off the disk.
const SOFT_FLUSH: Duration = Duration::from_millis(500);

/// How many documents a table has; changed by the writer thread, with the commit that changes it.
pub(super) struct Counter {
    key: Vec<u8>,
    documents: AtomicI64,
}

impl Counter {
    pub(super) fn new(key: Vec<u8>, documents: i64) -> Self {
        Self { key, documents: AtomicI64::new(documents) }
    }

    /// What the engine has stored of it, after the engine was opened anew.
    pub(super) fn set(&self, documents: i64) {
        self.documents.store(documents, Ordering::Relaxed);
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(super) fn documents(&self) -> u64 {
        // Relaxed: a number for people and planners; nothing else is read on account of it.
        u64::try_from(self.documents.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

/// A change of a document's value in a vector index.
pub(super) struct VectorChange {
    pub(super) hook: Arc<dyn VectorIndexHook>,
    pub(super) key: Vec<u8>,
    pub(super) old: Option<Datum>,
    pub(super) new: Option<Datum>,
}

/// What is to be committed together.
#[derive(Default)]
pub(super) struct Request {
    pub(super) batch: WriteBatch,
    pub(super) vectors: Vec<VectorChange>,
    /// By how many documents a table grows.
    pub(super) growth: Option<(Arc<Counter>, i64)>,
    /// The epoch of the engine in which was read what the change follows from; `None` if it follows from nothing.
    pub(super) epoch: Option<u64>,
}

struct Queued {
    request: Request,
    durability: Durability,
    completion: Completion,
}

enum Message {
    Commit(Queued),
    Stop,
}

#[derive(Clone, Debug)]
enum Progress {
    Queued,
    Applied,
    Durable,
    Failed(StorageError),
}

/// The writing side's end of a [`Ticket`]. Dropped without an answer, it says that there will be none.
struct Completion(Arc<TicketState>);

#[derive(Debug)]
struct TicketState {
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Completion {
    fn advance(&self, progress: Progress) {
        *self.0.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
        self.0.changed.notify_all();
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        let mut progress = self.0.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*progress, Progress::Queued) {
            *progress = Progress::Failed(StorageError::Unknown("the writer stopped".to_owned()));
            self.0.changed.notify_all();
        }
    }
}

/// What a request has come to.
#[derive(Debug)]
pub(super) struct Ticket {
    state: Arc<TicketState>,
    durability: Durability,
}

impl Ticket {
    /// Waits until the commit is visible to readers.
    pub(super) fn wait_applied(&self) -> Result<(), StorageError> {
        self.wait(|progress| !matches!(progress, Progress::Queued))
    }

    /// Waits until the commit is as durable as was asked for.
    pub(super) fn wait_done(&self) -> Result<(), StorageError> {
        match self.durability {
            Durability::Soft => self.wait_applied(),
            Durability::Hard => self.wait(|progress| matches!(progress, Progress::Durable | Progress::Failed(_))),
        }
    }

    fn wait(&self, is_over: impl Fn(&Progress) -> bool) -> Result<(), StorageError> {
        let progress = self.state.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.state.changed.wait_while(progress, |progress| !is_over(progress));
        match &*waited.unwrap_or_else(PoisonError::into_inner) {
            Progress::Failed(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

/// The handle to the writer thread.
pub(super) struct Writer {
    sender: SyncSender<Message>,
    stopped: Arc<OnceLock<String>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(core: Arc<Core>) -> Result<Self, StoreError> {
        let (sender, receiver) = sync_channel(QUEUE);
        let stopped = Arc::new(OnceLock::new());
        let worker = Worker { core, receiver, stopped: Arc::clone(&stopped), unsynced: None, unflushed: Vec::new() };
        let thread = std::thread::Builder::new()
            .name("storage-writer".to_owned())
            .spawn(move || worker.run())
            .map_err(|error| StoreError::Unavailable(format!("the writer thread did not start: {error}")))?;
        Ok(Self { sender, stopped, thread: Mutex::new(Some(thread)) })
    }

    /// Queues a request. Waits only while the queue is full.
    pub(super) fn submit(&self, request: Request, durability: Durability) -> Result<Ticket, StoreError> {
        if let Some(reason) = self.stopped.get() {
            return Err(StoreError::Unavailable(reason.clone()));
        }
        let state = Arc::new(TicketState { progress: Mutex::new(Progress::Queued), changed: Condvar::new() });
        let completion = Completion(Arc::clone(&state));
        self.sender
            .send(Message::Commit(Queued { request, durability, completion }))
            .map_err(|_| StoreError::Unavailable("it is closed".to_owned()))?;
        Ok(Ticket { state, durability })
    }

    /// Commits and waits until that is on the disk.
    pub(super) fn commit(&self, batch: WriteBatch) -> Result<(), StoreError> {
        Ok(self.submit(Request { batch, ..Request::default() }, Durability::Hard)?.wait_done()?)
    }

    /// Puts everything that was queued before on the disk. With an epoch: what was committed in it, or fails.
    pub(super) fn sync(&self, epoch: Option<u64>) -> Result<(), StoreError> {
        Ok(self.submit(Request { epoch, ..Request::default() }, Durability::Hard)?.wait_done()?)
    }

    /// Commits what is queued, puts it on the disk, and takes nothing more.
    pub(super) fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A thread that is gone already has said so to all who wait.
        if let Some(thread) = thread {
            let _ = self.sender.send(Message::Stop);
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Worker {
    core: Arc<Core>,
    receiver: Receiver<Message>,
    stopped: Arc<OnceLock<String>>,
    /// When the oldest commit that is not on the disk was made, and the epoch of the engine.
    unsynced: Option<(Instant, u64)>,
    /// The vector indexes that took part in such commits.
    unflushed: Vec<Arc<dyn VectorIndexHook>>,
}

/// If the thread dies, writes stop: a commit that was half done must not be followed by others.
impl Drop for Worker {
    fn drop(&mut self) {
        let reason =
            if std::thread::panicking() { "the writer thread failed; restart the server" } else { "it is closed" };
        let _ = self.stopped.set(reason.to_owned());
    }
}

impl Worker {
    fn run(mut self) {
        let mut is_stopping = false;
        while !is_stopping {
            match self.next() {
                Ok(Message::Commit(first)) => {
                    let mut changes = first.request.batch.changes.len();
                    let mut group = vec![first];
                    while changes < GROUP_CHANGES {
                        match self.receiver.try_recv() {
                            Ok(Message::Commit(next)) => {
                                changes += next.request.batch.changes.len().max(1);
                                group.push(next);
                            }
                            Ok(Message::Stop) | Err(TryRecvError::Disconnected) => {
                                is_stopping = true;
                                break;
                            }
                            Err(TryRecvError::Empty) => break,
                        }
                    }
                    self.commit(group);
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => is_stopping = true,
                Err(RecvTimeoutError::Timeout) => {
                    let _ = self.flush();
                }
            }
        }
        let _ = self.flush();
    }

    fn next(&self) -> Result<Message, RecvTimeoutError> {
        match self.unsynced {
            Some((since, _)) => self.receiver.recv_timeout(SOFT_FLUSH.saturating_sub(since.elapsed())),
            None => self.receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn commit(&mut self, group: Vec<Queued>) {
        if let Some(reason) = self.stopped.get() {
            return fail(&group, &StorageError::Failed(reason.clone()));
        }
        let core = Arc::clone(&self.core);
        let _changes = core.lock_changes();
        let Some(opened) = core.present().filter(|opened| !opened.is_retired()) else {
            return fail(
                &group,
                &StorageError::Closed(
                    "nothing was changed: its storage engine is being opened anew; try again".to_owned(),
                ),
            );
        };
        let is_of_now = |queued: &Queued| queued.request.epoch.is_none_or(|epoch| epoch == opened.epoch);
        let (group, outdated): (Vec<_>, Vec<_>) = group.into_iter().partition(is_of_now);
        let message = "nothing was changed: its storage engine was opened anew meanwhile; try again";
        fail(&outdated, &StorageError::Closed(message.to_owned()));
        if !group.is_empty() {
            self.commit_to(&opened, group);
        }
    }

    fn commit_to(&mut self, opened: &Opened, mut group: Vec<Queued>) {
        let mut batch = WriteBatch::default();
        let mut hooks: Vec<Arc<dyn VectorIndexHook>> = Vec::new();
        if let Err(error) = stage_vectors(&group, &mut batch, &mut hooks) {
            hooks.iter().for_each(|hook| hook.aborted());
            // Only the one at fault fails: each gets a commit of its own.
            if group.len() == 1 {
                return fail(&group, &error);
            }
            return group.into_iter().for_each(|queued| self.commit_to(opened, vec![queued]));
        }
        for queued in &mut group {
            batch.changes.append(&mut queued.request.batch.changes);
        }
        let counts = stage_counts(&group, &mut batch);
        let applied = if batch.changes.is_empty() { Ok(()) } else { opened.engine.commit(&batch, Durability::Soft) };
        if let Err(error) = applied {
            hooks.iter().for_each(|hook| hook.aborted());
            if matches!(error, StorageError::Unknown(_) | StorageError::Closed(_)) {
                self.give_up(opened, &error);
            }
            return fail(&group, &error);
        }
        for (counter, documents) in counts {
            counter.documents.store(documents, Ordering::Relaxed);
        }
        for hook in hooks {
            hook.committed();
            if !self.unflushed.iter().any(|known| Arc::ptr_eq(known, &hook)) {
                self.unflushed.push(hook);
            }
        }
        if !batch.changes.is_empty() {
            // What an earlier epoch left unsynced is there or not: it can't be synced any more.
            match &mut self.unsynced {
                Some((_, epoch)) if *epoch == opened.epoch => {}
                unsynced => *unsynced = Some((Instant::now(), opened.epoch)),
            }
        }
        group.iter().for_each(|queued| queued.completion.advance(Progress::Applied));
        if group.iter().any(|queued| queued.durability == Durability::Hard) {
            let progress = match self.flush_to(opened) {
                Ok(()) => Progress::Durable,
                Err(error) => Progress::Failed(error),
            };
            let hard = group.iter().filter(|queued| queued.durability == Durability::Hard);
            hard.for_each(|queued| queued.completion.advance(progress.clone()));
        } else if self.unsynced.is_some_and(|(since, _)| since.elapsed() >= SOFT_FLUSH) {
            // A steady stream of soft commits never lets the timer run out.
            let _ = self.flush_to(opened);
        }
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        let core = Arc::clone(&self.core);
        let _changes = core.lock_changes();
        match core.present() {
            Some(opened) => self.flush_to(&opened),
            None => {
                self.unsynced = None;
                Ok(())
            }
        }
    }

    /// After a failure nothing more is written: a later fsync may succeed without the data that an earlier one lost.
    fn flush_to(&mut self, opened: &Opened) -> Result<(), StorageError> {
        if self.unsynced.take().is_none_or(|(_, epoch)| epoch != opened.epoch) {
            return Ok(());
        }
        // Vectors first: a row that is stored must have its vector.
        let flushed = self.unflushed.drain(..).try_for_each(|hook| hook.flush());
        flushed.and_then(|()| opened.engine.flush()).inspect_err(|error| self.give_up(opened, error))
    }

    fn give_up(&self, opened: &Opened, error: &StorageError) {
        if self.core.can_be_reopened() {
            tracing::warn!(%error, "a storage engine failed; it is opened anew when it is needed next");
            return opened.retire();
        }
        tracing::error!(%error, "the storage engine failed, no more writes are taken; check the disk and restart the server");
        let _ = self.stopped.set(format!("{error}; check the disk and restart the server"));
    }
}

fn fail(group: &[Queued], error: &StorageError) {
    group.iter().for_each(|queued| queued.completion.advance(Progress::Failed(error.clone())));
}

fn stage_vectors(
    group: &[Queued],
    batch: &mut WriteBatch,
    hooks: &mut Vec<Arc<dyn VectorIndexHook>>,
) -> Result<(), StorageError> {
    for change in group.iter().flat_map(|queued| &queued.request.vectors) {
        if !hooks.iter().any(|hook| Arc::ptr_eq(hook, &change.hook)) {
            hooks.push(Arc::clone(&change.hook));
        }
        change.hook.stage(batch, &change.key, change.old.as_ref(), change.new.as_ref())?;
    }
    Ok(())
}

/// Adds the tables' new counts to the batch and returns them.
fn stage_counts(group: &[Queued], batch: &mut WriteBatch) -> Vec<(Arc<Counter>, i64)> {
    let mut counts: Vec<(Arc<Counter>, i64)> = Vec::new();
    for (counter, growth) in group.iter().filter_map(|queued| queued.request.growth.as_ref()) {
        match counts.iter_mut().find(|(known, _)| Arc::ptr_eq(known, counter)) {
            Some((_, documents)) => *documents = documents.saturating_add(*growth),
            None => {
                counts.push((Arc::clone(counter), counter.documents.load(Ordering::Relaxed).saturating_add(*growth)))
            }
        }
    }
    for (counter, documents) in &counts {
        batch.put(catalog::KEYSPACE, counter.key.clone(), documents.to_le_bytes());
    }
    counts
}

#[cfg(test)]
mod tests;
