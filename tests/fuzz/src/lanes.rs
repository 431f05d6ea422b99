//! What a plugin writes to its shared memory.

use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::Instant;

use photondb_ipc_schema::batch::{Batch, Column};
use photondb_ipc_schema::lane::{Lane, Operation, Traffic};
use photondb_ipc_schema::layout::Layout;
use photondb_ipc_schema::region::{self, OwnRegion, PrivateCopy, TrustedRegion};
use photondb_ipc_schema::wake::Spin;
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::batch::{Batch as Rows, read_results};
use photondb_plugin_sdk::calls::Search;

/// The bytes as a private copy holds them: 8-byte aligned.
fn aligned(bytes: &[u8]) -> Vec<u64> {
    let words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    words.collect()
}

fn read_batch(bytes: &[u8]) {
    if let Ok(batch) = Batch::parse(bytes) {
        for column in 0..batch.columns() {
            if let Some(Column::String(values) | Column::Datum(values)) = batch.column(column) {
                for index in 0..values.len().min(64) {
                    let _ = values.get(index);
                }
            }
        }
    }
    if let Ok(rows) = Rows::parse(bytes) {
        for column in 0..rows.columns() {
            for row in 0..rows.rows().min(64) {
                let _ = (rows.datum(column, row), rows.datum_ref(column, row));
            }
        }
    }
}

/// A batch.
pub fn batch(bytes: &[u8]) {
    let [rows, bytes @ ..] = bytes else { return };
    let words = aligned(bytes);
    let bytes = &bytemuck::cast_slice(&words)[..bytes.len()];
    read_batch(bytes);
    if let Ok(results) = read_results(bytes, usize::from(*rows)) {
        assert_eq!(results.len(), usize::from(*rows));
    }
}

/// The answer to a search: first how many rows were wanted for how many queries.
pub fn search_reply(bytes: &[u8]) {
    let [k, queries, bytes @ ..] = bytes else { return };
    let (k, queries) = (usize::from(*k), usize::from(*queries));
    let words = aligned(bytes);
    let bytes = &bytemuck::cast_slice(&words)[..bytes.len()];
    let search = Search { queries: &[], dims: 1, k, allow: None, settings: &Datum::Null };
    if let Ok(found) = search.read(queries, bytes) {
        assert_eq!(found.len(), queries);
        assert!(found.iter().all(|rows| rows.len() <= k));
    }
}

const DEPTH: usize = 2;
const BUFFER: usize = 4096;

/// A plugin that rewrites its memory between any two loads of the server. The bytes are its program: for each load one
/// step, of a kind, a word and a value.
pub fn lane(bytes: &[u8]) {
    let layout = Layout::new(1, DEPTH, BUFFER).expect("valid");
    let len = layout.region_bytes();
    let (own, own_fd) = region::server_written("fuzz", len).expect("memfd");
    let (peer, peer_fd) = region::plugin_written("fuzz", len).expect("memfd");
    let plugin = OwnRegion::map(peer_fd.as_fd(), len).expect("map");
    let requests = TrustedRegion::map(own_fd.as_fd(), len).expect("map");
    let program = Mutex::new(bytes.to_vec().into_iter());
    let step = move |_| {
        let mut program = program.lock().expect("one thread");
        let [Some(kind), Some(slot), Some(value)] = [program.next(), program.next(), program.next()] else { return };
        let slot = usize::from(slot) % DEPTH;
        let at = layout.sequence(0, slot);
        let word = at + 8 * (usize::from(slot) / DEPTH % 5);
        match kind % 8 {
            // The answer that an honest worker would give.
            0 | 1 => {
                plugin.store_u64(at + 8, 0);
                plugin.store_u64(at + 16, requests.load_u64(at + 16));
                plugin.store_u64(at + 24, u64::from(value));
                plugin.store_u64(at + 32, 0);
                plugin.store_u64(at, requests.load_u64(at));
            }
            2 => plugin.store_u64(word, u64::from(value)),
            3 => plugin.store_u64(word, !u64::from(value)),
            4 => plugin.store_u64(at + 24, BUFFER as u64 + u64::from(value)),
            5 => plugin.store_u64(at + 16, requests.load_u64(at + 16)),
            6 => plugin.store_u64(layout.worker_sleeps(0), u64::from(value)),
            _ => plugin.store_u64(
                layout.buffer(0, slot).start + usize::from(value) * 8,
                u64::from(value) << 32 | 0x31_42_48_50,
            ),
        }
    };
    let lane = Lane::all(layout, own, peer.before_each_load(step), Spin::NEVER, &Traffic::default()).remove(0);
    let mut reply = PrivateCopy::default();
    for call in 0..8 {
        // A violation ends a plugin. Here it goes on, so that the server meets whatever it left behind.
        let Ok(Some(draft)) = lane.try_begin() else { continue };
        let pending = draft.send(Operation::Nop, 0, 0, call);
        if let Ok(completion) = pending.wait(Instant::now(), &mut reply) {
            assert!(completion.payload <= BUFFER);
            assert_eq!(reply.bytes().len(), completion.payload);
            read_batch(reply.bytes());
        }
        let (in_flight, current) = (lane.in_flight(), lane.current());
        assert!(in_flight <= DEPTH && current.is_none_or(|(number, _)| number >= 1));
    }
}
