use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc::{Receiver, Sender, channel};

use photondb_plugin_sdk::kinds::storage::{Keyspace, StorageEngine, StorageSnapshot};

use super::*;

/// Counts, and waits in `flush` where a test says so.
#[derive(Default)]
struct CountingEngine {
    commits: AtomicUsize,
    flushes: AtomicUsize,
    changes: AtomicUsize,
    fail_flush: AtomicBool,
    fail_commit: AtomicBool,
    flush_gate: Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

impl StorageEngine for CountingEngine {
    fn get(&self, _: Keyspace<'_>, _: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(None)
    }

    fn commit(&self, batch: &WriteBatch, durability: Durability) -> Result<(), StorageError> {
        assert_eq!(durability, Durability::Soft, "the writer syncs apart");
        if self.fail_commit.load(Ordering::Relaxed) {
            return Err(StorageError::Failed("full".to_owned()));
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.changes.fetch_add(batch.changes.len(), Ordering::Relaxed);
        Ok(())
    }

    fn snapshot(&self) -> Result<Box<dyn StorageSnapshot>, StorageError> {
        Err(StorageError::Failed("not here".to_owned()))
    }

    fn drop_keyspace(&self, _: Keyspace<'_>) -> Result<(), StorageError> {
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        if let Some((reached, go_on)) = self.flush_gate.lock().unwrap().take() {
            reached.send(()).unwrap();
            go_on.recv().unwrap();
        }
        if self.fail_flush.load(Ordering::Relaxed) {
            return Err(StorageError::Unknown("lost".to_owned()));
        }
        Ok(())
    }

    fn statistics(&self) -> Datum {
        Datum::Null
    }
}

fn start(engine: Arc<dyn StorageEngine>) -> Writer {
    Writer::start(Core::embedded(engine)).unwrap()
}

fn put(key: &str) -> Request {
    let mut request = Request::default();
    request.batch.put("k", key, "v");
    request
}

#[test]
fn what_gathers_during_an_fsync_shares_the_next() {
    let engine = Arc::new(CountingEngine::default());
    let ((reached, has_reached), (go_on, may_go_on)) = (channel(), channel());
    *engine.flush_gate.lock().unwrap() = Some((reached, may_go_on));
    let writer = start(Arc::clone(&engine) as _);
    let first = writer.submit(put("first"), Durability::Hard).unwrap();
    first.wait_applied().unwrap();
    has_reached.recv().unwrap();
    let tickets: Vec<Ticket> =
        (0..50).map(|at| writer.submit(put(&at.to_string()), Durability::Hard).unwrap()).collect();
    go_on.send(()).unwrap();
    first.wait_done().unwrap();
    tickets.iter().for_each(|ticket| ticket.wait_done().unwrap());
    assert_eq!(engine.commits.load(Ordering::Relaxed), 2);
    assert_eq!(engine.flushes.load(Ordering::Relaxed), 2);
    assert_eq!(engine.changes.load(Ordering::Relaxed), 51);
}

#[test]
fn soft_commits_are_synced_once_at_the_end() {
    let engine = Arc::new(CountingEngine::default());
    let writer = start(Arc::clone(&engine) as _);
    writer.submit(put("a"), Durability::Soft).unwrap().wait_done().unwrap();
    writer.stop();
    assert_eq!(engine.flushes.load(Ordering::Relaxed), 1);
    assert!(matches!(writer.submit(put("b"), Durability::Soft), Err(StoreError::Unavailable(_))));
}

#[test]
fn after_a_failed_fsync_nothing_is_written() {
    let engine = Arc::new(CountingEngine::default());
    let writer = start(Arc::clone(&engine) as _);
    engine.fail_flush.store(true, Ordering::Relaxed);
    let ticket = writer.submit(put("a"), Durability::Hard).unwrap();
    assert!(matches!(ticket.wait_done(), Err(StorageError::Unknown(_))));
    engine.fail_flush.store(false, Ordering::Relaxed);
    assert!(matches!(writer.submit(put("b"), Durability::Soft), Err(StoreError::Unavailable(_))));
    writer.stop();
    assert_eq!(engine.commits.load(Ordering::Relaxed), 1);
}

#[test]
fn a_commit_that_changed_nothing_can_be_tried_again() {
    let engine = Arc::new(CountingEngine::default());
    let writer = start(Arc::clone(&engine) as _);
    engine.fail_commit.store(true, Ordering::Relaxed);
    assert!(matches!(writer.commit(put("a").batch), Err(StoreError::Storage(StorageError::Failed(_)))));
    engine.fail_commit.store(false, Ordering::Relaxed);
    writer.commit(put("a").batch).unwrap();
}

#[test]
fn a_writer_that_dies_fails_all_who_wait() {
    struct Panics;
    impl VectorIndexHook for Panics {
        fn describe(&self) -> Datum {
            Datum::Null
        }

        fn stage(
            &self,
            _: &mut WriteBatch,
            _: &[u8],
            _: Option<&Datum>,
            _: Option<&Datum>,
        ) -> Result<(), StorageError> {
            panic!("a fault of an index")
        }
        fn committed(&self) {}
        fn aborted(&self) {}
        fn reload(&self, _: &dyn StorageEngine) -> Result<(), StorageError> {
            Ok(())
        }

        fn flush(&self) -> Result<(), StorageError> {
            Ok(())
        }
        fn progress(&self) -> f64 {
            1.0
        }
        fn is_built(&self) -> bool {
            true
        }
        fn wait_built(&self, _: Instant) -> bool {
            true
        }
        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }
    let writer = start(Arc::new(CountingEngine::default()));
    let mut request = put("a");
    request.vectors.push(VectorChange { hook: Arc::new(Panics), key: Vec::new(), old: None, new: None });
    let ticket = writer.submit(request, Durability::Soft).unwrap();
    assert!(matches!(ticket.wait_done(), Err(StorageError::Unknown(_))));
    writer.stop();
    assert!(matches!(writer.submit(put("b"), Durability::Soft), Err(StoreError::Unavailable(_))));
}
