//! A second process rewrites every word of the region that a plugin writes, as fast as it can, while the server reads
//! completions and payloads out of it through the real lane. Nothing that the server uses may be out of range.
//!
//! A run of two seconds is part of `cargo test`. `make race` goes on until the server has used 100,000,000 words that it read,
//! or as many as `PHOTONDB_RACE_READS` says.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::parent_id;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use photondb_ipc_schema::batch::{Batch, Column};
use photondb_ipc_schema::lane::{Lane, LaneError, Operation, Traffic};
use photondb_ipc_schema::layout::Layout;
use photondb_ipc_schema::region::{self, OwnRegion, PrivateCopy, TrustedRegion, UntrustedRegion};
use photondb_ipc_schema::wake::Spin;

const DEPTH: usize = 4;
const BUFFER: usize = 4096;
/// The run that belongs to the tests.
const SHORT_RUN: Duration = Duration::from_secs(2);
/// How long the server waits for an answer: longer than the writer needs for a round, where it has a core to itself.
const PATIENCE: Duration = Duration::from_micros(200);
/// How the writer is told which files to map: its parent's process id and its two descriptors.
const WRITER: &str = "PHOTONDB_RACING_WRITER";
/// Far beyond any pause of a busy machine.
const STUCK: Duration = Duration::from_secs(60);

fn layout() -> Layout {
    Layout::new(1, DEPTH, BUFFER).expect("valid")
}

#[derive(Debug, Default)]
struct Seen {
    calls: u64,
    /// Words of descriptors and payloads, without those that were only waited for.
    reads: u64,
    answers: u64,
    violations: u64,
    late: u64,
    batches: u64,
    out_of_range: u64,
    naive_reads: u64,
    naive_out_of_range: u64,
}

#[test]
fn nothing_that_a_racing_process_writes_is_used_out_of_range() {
    let long_run =
        std::env::var("PHOTONDB_RACE_READS").ok().map(|reads| reads.parse::<u64>().expect("a number of reads"));
    let len = layout().region_bytes();
    let (own, own_fd) = region::server_written("server", len).expect("memfd");
    let (peer, peer_fd) = region::plugin_written("plugin", len).expect("memfd");
    let naive = UntrustedRegion::map(peer_fd.as_fd(), len).expect("map");
    let lane = Lane::all(layout(), own, peer, Spin::for_this_machine(), &Traffic::default()).remove(0);
    let _writer = start_writer(&own_fd, &peer_fd);
    let (mut seen, mut reply, start) = (Seen::default(), PrivateCopy::default(), Instant::now());
    while long_run.map_or_else(|| start.elapsed() < SHORT_RUN, |wanted| seen.reads < wanted) {
        let begun = Instant::now();
        let draft = loop {
            if let Some(draft) = lane.try_begin().expect("nobody kills the lane") {
                break draft;
            }
            assert!(begun.elapsed() < STUCK, "the writer answers nothing any more: {seen:?}");
            std::thread::yield_now();
        };
        seen.calls += 1;
        let answer = draft.send(Operation::Nop, 0, 0, seen.calls).wait(Instant::now() + PATIENCE, &mut reply);
        match answer {
            Ok(completion) => {
                seen.answers += 1;
                seen.reads += 5 + completion.payload.div_ceil(8) as u64;
                seen.out_of_range +=
                    u64::from(completion.payload > BUFFER || reply.bytes().len() != completion.payload);
                read_batch(reply.bytes(), &mut seen);
            }
            Err(LaneError::Violation(_)) => {
                seen.violations += 1;
                seen.reads += 5;
            }
            Err(LaneError::Deadline) => seen.late += 1,
            Err(other) => panic!("{other}"),
        }
        read_naively(&naive, &mut seen);
    }
    println!("racing writer, {:.1?}: {seen:?}", start.elapsed());
    assert_eq!(seen.out_of_range, 0);
    if long_run.is_some() {
        assert!(seen.answers > 0 && seen.violations > 0 && seen.batches > 0, "the race did not take place: {seen:?}");
    }
}

/// Uses every offset and every length of a batch in the private copy.
fn read_batch(bytes: &[u8], seen: &mut Seen) {
    let Ok(batch) = Batch::parse(bytes) else { return };
    seen.batches += 1;
    for column in 0..batch.columns() {
        let used = match batch.column(column) {
            Some(Column::F64(values)) => size_of_val(values),
            Some(Column::F32 { values, .. }) => size_of_val(values),
            Some(Column::U32(values)) => size_of_val(values),
            Some(Column::U8(values) | Column::Bool(values)) => values.len(),
            Some(Column::String(values) | Column::Datum(values)) => {
                (0..values.len()).filter_map(|index| values.get(index)).map(<[u8]>::len).max().unwrap_or(0)
            }
            // What was parsed once is there for ever: the copy is ours.
            None => usize::MAX,
        };
        seen.out_of_range += u64::from(used > bytes.len());
    }
}

/// What the rules forbid, to show that there is a race to lose: a length is checked, and loaded once more to be used.
fn read_naively(region: &UntrustedRegion, seen: &mut Seen) {
    let length = layout().sequence(0, 1) + 24;
    for _ in 0..8 {
        if region.load_u64(length) <= BUFFER as u64 {
            seen.naive_reads += 1;
            seen.naive_out_of_range += u64::from(region.load_u64(length) > BUFFER as u64);
        }
    }
}

/// Killed when it is dropped.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_writer(server: &OwnedFd, plugin: &OwnedFd) -> Writer {
    let itself = std::env::current_exe().expect("this test");
    let files = format!("{} {} {}", std::process::id(), server.as_raw_fd(), plugin.as_raw_fd());
    let mut command = Command::new(itself);
    command.args(["--exact", "the_other_process"]).env(WRITER, files).stdin(Stdio::null()).stdout(Stdio::null());
    Writer(command.spawn().expect("this test runs itself once more"))
}

/// Not a test by itself: the second process of the one above, which runs until it is killed.
#[test]
fn the_other_process() {
    let Ok(files) = std::env::var(WRITER) else { return };
    let [parent, server, plugin] = files.split(' ').collect::<Vec<_>>()[..] else { panic!("{files}") };
    let len = layout().region_bytes();
    let server = File::open(format!("/proc/{parent}/fd/{server}")).expect("the server's region");
    let plugin =
        OpenOptions::new().read(true).write(true).open(format!("/proc/{parent}/fd/{plugin}")).expect("the plugin's");
    let requests = TrustedRegion::map(server.as_fd(), len).expect("map");
    let own = OwnRegion::map(plugin.as_fd(), len).expect("map");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    while parent_id().to_string() == parent {
        for _ in 0..1000 {
            for slot in 0..DEPTH {
                rewrite(&own, &requests, slot, &mut random);
            }
        }
    }
}

/// Rewrites a slot: its payload, then its descriptor, then its sequence word; honest, impossible, or anything.
fn rewrite(own: &OwnRegion, requests: &TrustedRegion, slot: usize, random: &mut Random) {
    let (at, buffer) = (layout().sequence(0, slot), layout().buffer(0, slot));
    let (number, nonce) = (requests.load_u64(at), requests.load_u64(at + 16));
    // A batch of up to three columns, whose offsets and lengths are near the edges; and anything anywhere.
    own.store_u64(buffer.start, u64::from(u32::from_le_bytes(*b"PHB1")) | random.below(4) << 32);
    own.store_u64(buffer.start + 8, random.below(9));
    for word in 8..20 {
        own.store_u64(buffer.start + word * 8, random.near_an_edge() | random.near_an_edge() << 32);
    }
    if random.below(64) == 0 {
        buffer.clone().step_by(8).for_each(|word| own.store_u64(word, random.next()));
    }
    for column in 0..3 {
        own.store_u64(buffer.start + 64 + column * 32, (1 + random.below(6)) | (random.below(3) << 32));
    }
    let honest = [0, nonce, random.below(BUFFER as u64 + 1), random.next()];
    let previous = number.wrapping_sub(DEPTH as u64);
    let wrong = [0, 1, u64::MAX, 1 << 63, 1 << 32, BUFFER as u64 + 1, number, previous, nonce];
    let spoilt = random.below(12);
    for (index, word) in honest.into_iter().enumerate() {
        let is_spoilt = spoilt == index as u64;
        let word = if is_spoilt { wrong[random.below(wrong.len() as u64) as usize] } else { word };
        own.store_u64(at + 8 + index * 8, word);
    }
    own.store_u64(at, if spoilt == 4 { wrong[random.below(wrong.len() as u64) as usize] } else { number });
    // While the server is at it.
    match spoilt {
        5 => own.store_u64(at + 24, u64::MAX),
        6 => own.store_u64(at + 24, BUFFER as u64 + 1),
        7 => own.store_u64(at + 8, 256),
        8 => own.store_u64(at, previous),
        _ => {}
    }
}

/// Xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn near_an_edge(&mut self) -> u64 {
        let edges = [0, 1, 3, 4, 8, 64, 160, BUFFER as u64 - 1, BUFFER as u64, BUFFER as u64 + 1, 1 << 31, 0xffff_ffff];
        edges[self.below(edges.len() as u64) as usize]
    }
}
