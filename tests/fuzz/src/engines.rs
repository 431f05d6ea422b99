//! Storage engines: what the server makes of a plugin's answers, what a plugin makes of requests, and files.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use photondb_ipc_schema::lane::{Completion, Lane, Operation, Traffic, Worker};
use photondb_ipc_schema::layout::Layout;
use photondb_ipc_schema::region::{self, OwnRegion, PrivateCopy, TrustedRegion};
use photondb_ipc_schema::wake::Spin;
use photondb_plugin_memory::Memory;
use photondb_plugin_sdk::engine::{Connection, RemoteEngine};
use photondb_plugin_sdk::kinds::storage::{Direction, KeyRange, Selection, StorageEngine};
use photondb_plugin_sdk::testing::Harness;
use photondb_plugin_sdk::{Datum, PluginError};

const BUFFER: usize = 4096;
const WAIT: Duration = Duration::from_secs(5);
/// The most entries of a scan that are read.
const ENTRIES: usize = 1000;

/// A process that answers what it likes.
struct Liar(Arc<Lane>);

impl Connection for Liar {
    type Caller<'a> = ();

    fn caller(&self, deadline: Instant) -> ((), Instant) {
        ((), deadline)
    }

    fn read_lane(&self) -> &Arc<Lane> {
        &self.0
    }

    fn write_lane(&self) -> &Arc<Lane> {
        &self.0
    }

    fn judge(&self, error: PluginError) -> PluginError {
        error
    }

    fn record(&self, _: bool, _: Duration) {}
}

/// Answers of an engine, one behind the other: a status, a value, a length (two bytes) and so many bytes.
pub fn engine_reply(bytes: &[u8]) {
    let layout = Layout::new(1, 2, BUFFER).expect("valid");
    let len = layout.region_bytes();
    let (own, own_fd) = region::server_written("fuzz", len).expect("memfd");
    let (peer, peer_fd) = region::plugin_written("fuzz", len).expect("memfd");
    let lane = Lane::all(layout, own, peer, Spin::NEVER, &Traffic::default()).remove(0);
    let trusted = TrustedRegion::map(own_fd.as_fd(), len).expect("map");
    let owned = OwnRegion::map(peer_fd.as_fd(), len).expect("map");
    let mut worker = Worker::all(trusted, owned).expect("our own header").remove(0);
    let program = bytes.to_vec();
    let plugin = thread::spawn(move || {
        let mut rest = &program[..];
        let mut is_over = false;
        while !is_over {
            worker.serve_next(|call| {
                // After its last answer it says that each call failed, until it is told to end.
                is_over = call.request.operation == Operation::Nop as u16;
                let Some(([status, value, low, high], bytes)) = rest.split_first_chunk() else {
                    return Completion { status: 1, payload: 0, value: 0 };
                };
                let length = usize::from(u16::from_le_bytes([*low, *high])).min(bytes.len()).min(call.reply.len());
                call.reply[..length].copy_from_slice(&bytes[..length]);
                rest = &bytes[length..];
                Completion { status: status % 12, payload: length, value: u64::from(*value) }
            });
        }
    });
    if let Ok(engine) = RemoteEngine::open(Liar(Arc::clone(&lane)), 0, "k", "d", 0, &Datum::Null) {
        let keys: [&[u8]; 2] = [b"a", b"b"];
        if let Ok(values) = engine.get_many("s", &keys) {
            assert_eq!(values.len(), keys.len());
        }
        if let Ok(snapshot) = engine.snapshot() {
            let range = KeyRange { start: b"a".to_vec(), end: Some(b"y".to_vec()) };
            for direction in [Direction::Forward, Direction::Backward] {
                let Ok(entries) = snapshot.scan_selected("s", &range, direction, &Selection::default()) else { continue };
                let mut last: Option<Vec<u8>> = None;
                for (key, _) in entries.take(ENTRIES).map_while(Result::ok) {
                    assert!(key >= range.start && Some(&key) < range.end.as_ref(), "a key out of its range");
                    let is_next = last.as_ref().is_none_or(|last| (key > *last) == (direction == Direction::Forward));
                    assert!(is_next && last.as_ref() != Some(&key), "keys that are not in order");
                    last = Some(key);
                }
            }
        }
        let _ = engine.statistics();
        let _ = engine.flush();
    }
    let draft = lane.begin(Instant::now() + WAIT).expect("a slot");
    let _ = draft.send(Operation::Nop, 0, 0, 0).wait(Instant::now() + WAIT, &mut PrivateCopy::default());
    plugin.join().expect("the answers are given");
}

/// Requests to the engine `memory`, one behind the other: an operation, an argument, a length (two bytes) and so many bytes.
pub fn engine_request(bytes: &[u8]) {
    static HARNESS: OnceLock<Harness> = OnceLock::new();
    // The harness numbers its engines so.
    static OPENED: AtomicU32 = AtomicU32::new(0);
    let harness = HARNESS.get_or_init(|| Harness::start(Memory));
    let options = Datum::object([("max_mb", 16)]);
    // Closed when it is dropped; a request may have closed it before.
    let Ok(_engine) = harness.open_engine("memory", "fuzz", &options) else { return };
    let target = OPENED.fetch_add(1, Ordering::Relaxed);
    let (mut rest, mut reply) = (bytes, PrivateCopy::default());
    while let Some(([operation, argument, low, high], bytes)) = rest.split_first_chunk() {
        let Some(operation) = Operation::from_number(10 + u16::from(*operation) % 12) else { return };
        let mut draft = harness.lane().begin(Instant::now() + WAIT).expect("a slot");
        let buffer = draft.buffer();
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(bytes.len()).min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        rest = &bytes[length..];
        let pending = draft.send(operation, target, length, u64::from(*argument));
        pending.wait(Instant::now() + WAIT, &mut reply).expect("an answer");
    }
}

/// A chunk of columns: the length of its head (two bytes), head and body. Checksums are not looked at here.
pub fn packed_chunk(bytes: &[u8]) {
    let Some((length, bytes)) = bytes.split_first_chunk() else { return };
    let Some((head, body)) = bytes.split_at_checked(u16::from_le_bytes(*length).into()) else { return };
    if let Ok(entries) = photondb_packed::read_all(head, body) {
        let (head, body) = photondb_packed::pack_all(&entries);
        // Bytes that nobody wrote may hold rows in an order, or keys, that no chunk has.
        let _ = photondb_packed::read_all(&head, &body);
    }
}
