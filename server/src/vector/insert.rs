//! Adding rows to a plugin's graph, by as many of the plugin's threads as it allows.
//!
//! The last lane is the one for maintenance. Where an index takes rows from several threads at once, the other lanes help
//! while no search wants them, by calls so short that a search which comes behind one hardly waits.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use photondb_ipc_schema::lane::{Lane, Operation};
use photondb_plugin_sdk::calls;
use photondb_plugin_sdk::kinds::vector::RowId;
use photondb_plugin_sdk::{Cause, PluginError};

use crate::plugins::instance::Instance;

/// Rows of one call on the maintenance lane: some ten milliseconds of work, so that a search that comes behind it does not
/// wait long ...
pub(super) const ROWS_OF_CALL: usize = 128;
/// ... and on a lane that is there for searches.
const ROWS_BESIDE_SEARCHES: usize = 32;
/// How long a lane is left alone after a search came.
const AFTER_SEARCH: Duration = Duration::from_millis(10);
/// What one call may take; generous, since a call at the end of a large build takes longest.
const CALL: Duration = Duration::from_secs(60);

/// An index that is open in a process.
#[derive(Clone, Copy)]
pub struct Graph<'a> {
    /// The process.
    pub instance: &'a Instance,
    /// The number of the index there.
    pub index: u32,
    /// Whether it takes rows from several threads at once.
    pub in_parallel: bool,
}

impl Graph<'_> {
    /// Adds rows, and calls `added` with those of each call that was answered.
    ///
    /// # Errors
    /// What the index said first, or what happened to the plugin; some of the rows may be added then.
    pub fn insert(&self, rows: &[RowId], added: impl Fn(&[RowId]) + Sync) -> Result<(), PluginError> {
        let rest = Rest { rows: Mutex::new(rows), added: &added };
        let instance = self.instance;
        let helpers = if self.in_parallel && rows.len() > ROWS_OF_CALL { instance.search_lanes() } else { &[] };
        thread::scope(|scope| {
            let help = |lane| {
                let rest = &rest;
                let help = move || self.insert_beside_searches(lane, rest);
                // Without a thread to spare it takes longer, that is all.
                thread::Builder::new().name("vector-insert".into()).spawn_scoped(scope, help).ok()
            };
            let helpers: Vec<_> = helpers.iter().filter_map(help).collect();
            let result = self.insert_on(instance.maintenance_lane(), &rest);
            let joined = helpers.into_iter().map(|helper| helper.join().unwrap_or_else(|_| Err(broken())));
            joined.fold(result, Result::and)
        })
    }

    fn insert_on(&self, lane: &Arc<Lane>, rest: &Rest<'_>) -> Result<(), PluginError> {
        while let Some(rows) = rest.take(ROWS_OF_CALL) {
            self.send(lane, rows, rest)?;
        }
        Ok(())
    }

    fn insert_beside_searches(&self, lane: &Arc<Lane>, rest: &Rest<'_>) -> Result<(), PluginError> {
        let mut calls = lane.calls_begun();
        loop {
            if lane.in_flight() > 0 || lane.calls_begun() != calls {
                if rest.is_empty() {
                    return Ok(());
                }
                calls = lane.calls_begun();
                thread::sleep(AFTER_SEARCH);
                continue;
            }
            let Some(rows) = rest.take(ROWS_BESIDE_SEARCHES) else { return Ok(()) };
            self.send(lane, rows, rest)?;
            calls += 1;
        }
    }

    fn send(&self, lane: &Arc<Lane>, rows: &[RowId], rest: &Rest<'_>) -> Result<(), PluginError> {
        let sent = calls::maintain(lane, Operation::IndexInsert, self.index, rows, Instant::now() + CALL);
        match sent {
            Ok(()) => (rest.added)(rows),
            // The others are to stop too.
            Err(_) => drop(rest.take(usize::MAX)),
        }
        sent
    }
}

/// Rows that are to be added still.
struct Rest<'a> {
    rows: Mutex<&'a [RowId]>,
    added: &'a (dyn Fn(&[RowId]) + Sync),
}

impl<'a> Rest<'a> {
    /// The next rows, at most `most`; `None` when there are no more.
    fn take(&self, most: usize) -> Option<&'a [RowId]> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let (taken, rest) = rows.split_at(most.min(rows.len()));
        *rows = rest;
        (!taken.is_empty()).then_some(taken)
    }

    fn is_empty(&self) -> bool {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

fn broken() -> PluginError {
    PluginError::runtime(Cause::Plugin, "a thread that adds rows to a vector index panicked")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use photondb_ipc_schema::batch::{Batch, Column};
    use photondb_ipc_schema::lane::{Completion, Traffic, Worker};
    use photondb_ipc_schema::layout::Layout;
    use photondb_ipc_schema::region::{self, OwnRegion, TrustedRegion};
    use photondb_ipc_schema::wake::Spin;
    use tokio::sync::mpsc;

    use super::*;
    use crate::plugins::handshake::Provided;

    type Calls = Arc<Mutex<Vec<(usize, Vec<RowId>)>>>;

    /// A process of two lanes that keeps the rows of every call, with its lane, and refuses calls with the row `refused`.
    fn instance(refused: RowId) -> (Instance, Calls) {
        let layout = Layout::new(2, 8, 1 << 16).expect("a layout");
        let bytes = layout.region_bytes();
        let (own, own_fd) = region::server_written("test", bytes).expect("memory");
        let (peer, peer_fd) = region::plugin_written("test", bytes).expect("memory");
        let lanes = Lane::all(layout, own, peer, Spin::for_this_machine(), &Traffic::default());
        let trusted = TrustedRegion::map(own_fd.as_fd(), bytes).expect("a mapping");
        let owned = OwnRegion::map(peer_fd.as_fd(), bytes).expect("a mapping");
        let seen = Calls::default();
        for (lane, mut worker) in Worker::all(trusted, owned).expect("a layout").into_iter().enumerate() {
            let seen = Arc::clone(&seen);
            thread::spawn(move || {
                loop {
                    worker.serve_next(|call| {
                        let rows = match Batch::parse(call.payload).expect("a batch").column(0) {
                            Some(Column::U32(rows)) => rows.to_vec(),
                            other => panic!("{other:?}"),
                        };
                        // As long as real work takes, so that every thread gets some.
                        thread::sleep(Duration::from_millis(1));
                        let status = u8::from(rows.contains(&refused));
                        seen.lock().expect("calls").push((lane, rows));
                        Completion { status, payload: 0, value: 0 }
                    });
                }
            });
        }
        let (jobs, dooms) = (mpsc::unbounded_channel().0, mpsc::unbounded_channel().0);
        (Instance::new(1, "test", 1, lanes, Provided::default(), jobs, dooms), seen)
    }

    fn added_by(instance: &Instance, in_parallel: bool) -> (Vec<RowId>, Result<(), PluginError>) {
        let rows: Vec<RowId> = (0..3000).collect();
        let added = Mutex::new(Vec::new());
        let graph = Graph { instance, index: 0, in_parallel };
        let result = graph.insert(&rows, |rows| added.lock().expect("rows").extend_from_slice(rows));
        let mut added = added.into_inner().expect("rows");
        added.sort_unstable();
        (added, result)
    }

    #[test]
    fn every_row_is_added_once_by_as_many_lanes_as_are_allowed() {
        for in_parallel in [false, true] {
            let (instance, seen) = instance(RowId::MAX);
            let (added, result) = added_by(&instance, in_parallel);
            assert_eq!(result, Ok(()));
            assert!(added.into_iter().eq(0..3000));
            let seen = seen.lock().expect("calls");
            assert_eq!(seen.iter().any(|(lane, _)| *lane == 0), in_parallel);
            for (lane, rows) in &*seen {
                assert!(rows.len() <= if *lane == 0 { ROWS_BESIDE_SEARCHES } else { ROWS_OF_CALL });
            }
        }
    }

    #[test]
    fn a_refused_row_ends_it_on_every_lane() {
        let (instance, seen) = instance(700);
        let (added, result) = added_by(&instance, true);
        assert!(result.is_err());
        assert!(!added.contains(&700));
        let sent: usize = seen.lock().expect("calls").iter().map(|(_, rows)| rows.len()).sum();
        assert!(sent < 3000, "{sent}");
    }

    #[test]
    fn a_lane_that_serves_a_search_is_left_alone() {
        let (instance, seen) = instance(RowId::MAX);
        // A call that never ends, as if its slot were a search's.
        let _search = instance.search_lanes()[0].begin(Instant::now() + CALL).expect("a slot");
        assert_eq!(added_by(&instance, true).0.len(), 3000);
        assert!(seen.lock().expect("calls").iter().all(|&(lane, _)| lane == 1));
    }
}
