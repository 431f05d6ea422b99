//! A process that answers with whatever bytes: the server's half takes none of them for what they are not.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use photondb_ipc_schema::lane::{Call, Completion, Lane, Operation, Traffic, Worker};
use photondb_ipc_schema::layout::Layout;
use photondb_ipc_schema::region::{self, OwnRegion, TrustedRegion};
use photondb_ipc_schema::wake::Spin;

use super::*;
use crate::kinds::storage::{Direction, KeyRange, MOST_CHANGES, StorageEngine, StorageError, UpkeepRequest};
use crate::{Cause, Datum, PluginError};

/// The lane to such a process, and how often it was found to break the protocol.
struct Liar {
    lane: Arc<Lane>,
    caught: Arc<AtomicUsize>,
}

impl Connection for Liar {
    type Caller<'a> = ();

    fn caller(&self, deadline: Instant) -> ((), Instant) {
        ((), deadline)
    }

    fn read_lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    fn write_lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    fn judge(&self, error: PluginError) -> PluginError {
        if error.cause() == Cause::Protocol {
            self.caught.fetch_add(1, Ordering::Relaxed);
        }
        error
    }

    fn record(&self, _: bool, _: Duration) {}
}

/// An engine of a process that answers gets, scans and pages with what `lie` writes, and the value that it gives.
fn engine(lie: impl Fn(&mut [u8]) -> (usize, u64) + Send + 'static) -> (RemoteEngine<Liar>, Arc<AtomicUsize>) {
    let layout = Layout::new(1, 8, 1 << 16).expect("a layout");
    let bytes = layout.region_bytes();
    let (own, own_fd) = region::server_written("liar", bytes).expect("memory");
    let (peer, peer_fd) = region::plugin_written("liar", bytes).expect("memory");
    let lane = Lane::all(layout, own, peer, Spin::NEVER, &Traffic::default()).remove(0);
    let trusted = TrustedRegion::map(own_fd.as_fd(), bytes).expect("map");
    let owned = OwnRegion::map(peer_fd.as_fd(), bytes).expect("map");
    let mut worker = Worker::all(trusted, owned).expect("our own header").remove(0);
    thread::spawn(move || {
        loop {
            worker.serve_next(|call: Call<'_>| match Operation::from_number(call.request.operation) {
                Some(
                    Operation::EngineGet
                    | Operation::EngineScan
                    | Operation::EnginePage
                    | Operation::EngineStatistics
                    | Operation::EngineUpkeep,
                ) => {
                    let (payload, value) = lie(call.reply);
                    Completion { status: 0, payload, value }
                }
                _ => Completion { status: 0, payload: 0, value: 0 },
            });
        }
    });
    let caught = Arc::<AtomicUsize>::default();
    let connection = Liar { lane, caught: Arc::clone(&caught) };
    (RemoteEngine::open(connection, 0, "liar", "d", 0, &Datum::Null).expect("it says yes"), caught)
}

/// All of a scan, as far as anybody would read it.
fn scan(engine: &RemoteEngine<Liar>) -> Result<usize, StorageError> {
    let range = KeyRange { start: vec![1], end: Some(vec![200]) };
    let entries = engine.snapshot()?.scan("k", &range, Direction::Forward)?;
    entries.take(10_000).try_fold(0, |count, entry| {
        let (key, _) = entry?;
        assert!(key >= vec![1] && key < vec![200], "out of range: {key:?}");
        Ok(count + 1)
    })
}

#[test]
fn random_answers_are_no_values() {
    let seed = AtomicUsize::new(1);
    let (engine, caught) = engine(move |reply| {
        // Xorshift; short, so that some of them are nearly right.
        let mut state = (seed.fetch_add(1, Ordering::Relaxed) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let len = next() as usize % 40;
        reply[..len].iter_mut().for_each(|byte| *byte = (next() % 5) as u8);
        (len, next() % 4)
    });
    for _ in 0..3000 {
        let _ = scan(&engine);
        let keys: Vec<&[u8]> = vec![b"a", b"b", b"c"];
        // By chance, some of it looks like an answer.
        let answer = engine.get_many("k", &keys);
        assert!(matches!(answer, Ok(_) | Err(StorageError::Closed(_))), "{answer:?}");
        let _ = engine.statistics();
        let request = UpkeepRequest { documents: "k", primary_key: "id", now: 0.0, most: 10 };
        if let Ok(Some(upkeep)) = engine.upkeep(&request) {
            assert!(upkeep.groups.iter().all(|group| (1..=MOST_CHANGES).contains(&group.len())));
        }
    }
    assert!(caught.load(Ordering::Relaxed) > 1000);
}

/// A page of one piece of the value of a key: what it says of the whole, and what it has of it.
fn piece(key: &[u8], total: u64, bytes: &[u8]) -> Vec<u8> {
    [&(key.len() as u16).to_le_bytes()[..], key, &total.to_le_bytes(), bytes].concat()
}

#[test]
fn pieces_that_make_no_whole_are_refused() {
    let lies: [(&str, Vec<Vec<u8>>); 5] = [
        ("larger", vec![piece(b"a", 1 << 40, b"x")]),
        ("fit together", vec![piece(b"a", 10, b"")]),
        ("fit together", vec![piece(b"a", 10, b"x"), piece(b"b", 10, b"x")]),
        ("fit together", vec![piece(b"a", 10, b"x"), piece(b"a", 11, b"x")]),
        ("more of a value", vec![piece(b"a", 2, b"x"), piece(b"a", 2, b"xyz")]),
    ];
    for (hint, pages) in lies {
        let turn = AtomicUsize::new(0);
        let (engine, caught) = engine(move |reply| {
            let page = &pages[turn.fetch_add(1, Ordering::Relaxed).min(pages.len() - 1)];
            reply[..page.len()].copy_from_slice(page);
            (page.len(), PART)
        });
        let error = scan(&engine).expect_err(hint).to_string();
        assert!(error.contains(hint), "{error}");
        assert_eq!(caught.load(Ordering::Relaxed), 1, "{hint}");
    }
}

#[test]
fn pages_without_entries_and_answers_to_more_keys_are_refused() {
    let (empty, caught) = engine(|_| (0, MORE));
    assert!(scan(&empty).expect_err("no progress").to_string().contains("empty page"));
    let answers = empty.get_many("k", &[b"a"]).expect_err("no answer").to_string();
    assert!(answers.contains("another number of keys"), "{answers}");
    assert_eq!(caught.load(Ordering::Relaxed), 2);
    let (eager, _) = engine(|reply| {
        reply[..3].fill(ABSENT);
        (3, 3)
    });
    assert!(eager.get_many("k", &[b"a", b"b"]).is_err());
    assert_eq!(eager.get_many("k", &[b"a", b"b", b"c"]).expect("as many as asked for"), [None, None, None]);
}
