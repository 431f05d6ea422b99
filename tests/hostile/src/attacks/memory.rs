//! H: the shared regions. What the plugin writes there is what the server has to doubt most.

use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{hint, thread};

use photondb_ipc_schema::batch::BatchWriter;
use photondb_ipc_schema::layout::Layout;

use super::kernel::{attempt, call, outcome, signed};
use super::{Attack, PLUGIN_REGION, SERVER_REGION};

/// An address that nothing is mapped at.
pub(super) const SOMEWHERE: usize = 0x1000_0000_0000;
/// How long an attack goes on beside honest calls.
const A_WHILE: Duration = Duration::from_millis(500);

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("h1_shrink_own_region", |_| attempt(libc::SYS_ftruncate, &[PLUGIN_REGION as usize, 0])),
    Attack::new("h1_shrink_server_region", |_| attempt(libc::SYS_ftruncate, &[SERVER_REGION as usize, 0])),
    Attack::new("h2_grow", |_| attempt(libc::SYS_ftruncate, &[SERVER_REGION as usize, 1 << 40])),
    Attack::new("h2_remove_seals", |_| {
        attempt(libc::SYS_fcntl, &[SERVER_REGION as usize, libc::F_ADD_SEALS as usize, 0])
    }),
    Attack::new("h3_store", |_| {
        let ring = Ring::new();
        // SAFETY: none: the region is mapped read-only, so that the store ends this process.
        unsafe { ring.server.cast_mut().write_volatile(6) };
        "it worked".into()
    }),
    Attack::new("h3_map_writable", |_| outcome(map_writable(SERVER_REGION as usize))),
    Attack::new("h3_make_writable", |_| {
        let page = Ring::new().server as usize;
        attempt(libc::SYS_mprotect, &[page, 4096, (libc::PROT_READ | libc::PROT_WRITE) as usize])
    }),
    Attack::new("h3_write", |_| attempt(libc::SYS_write, &[SERVER_REGION as usize, c"x".as_ptr() as usize, 1])),
    Attack::new("h3_vector_write", |_| {
        let parts = [c"x".as_ptr() as usize, 1];
        attempt(libc::SYS_pwritev, &[SERVER_REGION as usize, parts.as_ptr() as usize, 1, 0])
    }),
    Attack::new("h3_send_file", |_| {
        attempt(libc::SYS_sendfile, &[SERVER_REGION as usize, PLUGIN_REGION as usize, 0, 4096])
    }),
    Attack::new("h3_read_into", |_| {
        // The kernel writes on the plugin's behalf: no further than the plugin itself may.
        let page = Ring::new().server as usize;
        attempt(libc::SYS_getrandom, &[page, 64, 0])
    }),
    Attack::new("h3_punch_a_hole", |_| {
        let page = Ring::new().server as usize;
        attempt(libc::SYS_madvise, &[page, 4096, libc::MADV_REMOVE as usize])
    }),
    Attack::new("h3_allocate_a_hole", |_| attempt(libc::SYS_fallocate, &[SERVER_REGION as usize, 3, 0, 4096])),
    Attack::new("h3_private_copy", |_| {
        // A page of its own in the place of the server's: nobody else sees it.
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED) as usize;
        let page = Ring::new().server as usize;
        outcome(call(libc::SYS_mmap, &[page, 4096, libc::PROT_READ as usize, flags, signed(-1), 0]))
    }),
    Attack::new("h4_unmap_regions", |_| {
        let ring = Ring::new();
        let bytes = ring.layout.region_bytes();
        let _ = call(libc::SYS_munmap, &[ring.server as usize, bytes]);
        outcome(call(libc::SYS_munmap, &[ring.own as usize, bytes]))
    }),
    Attack::new("h4_close_regions", |_| {
        let _ = call(libc::SYS_close, &[SERVER_REGION as usize]);
        outcome(call(libc::SYS_close, &[PLUGIN_REGION as usize]))
    }),
    Attack::new("h4_forget_own_pages", |_| {
        let ring = Ring::new();
        let bytes = ring.layout.region_bytes();
        outcome(call(libc::SYS_madvise, &[ring.own as usize, bytes, libc::MADV_DONTNEED as usize]))
    }),
    Attack::new("h4_second_mapping", |_| {
        let page = Ring::new().server as usize;
        // Size 0: a second mapping of the same pages, with the same rights.
        let copy = call(libc::SYS_mremap, &[page, 0, 4096, libc::MREMAP_MAYMOVE as usize]);
        outcome(copy.and_then(|copy| call(libc::SYS_mprotect, &[copy, 4096, 3])))
    }),
    Attack::new("h5_sequence_ahead", |_| {
        let ring = Ring::new();
        ring.publish(ring.call + ring.layout.depth() as u64, Words::good(&ring))
    }),
    Attack::new("h6_sequence_back", |_| {
        let ring = Ring::new();
        ring.publish(ring.call.wrapping_sub(2 * ring.layout.depth() as u64), Words::good(&ring))
    }),
    Attack::new("h6_sequence_wraps", |_| {
        let ring = Ring::new();
        ring.publish(u64::MAX, Words::good(&ring))
    }),
    Attack::new("h7_overwrite_everything", |_| scribble()),
    Attack::new("h8_longer_than_the_buffer", |_| {
        let ring = Ring::new();
        ring.publish(ring.call, Words { payload: 1 + ring.layout.buffer_bytes() as u64, ..Words::good(&ring) })
    }),
    Attack::new("h8_longest_length", |_| {
        let ring = Ring::new();
        ring.publish(ring.call, Words { payload: u64::MAX, ..Words::good(&ring) })
    }),
    Attack::new("h8_unknown_status", |_| {
        let ring = Ring::new();
        ring.publish(ring.call, Words { status: 1 << 40, ..Words::good(&ring) })
    }),
    Attack::new("h8_offset_overflows", |_| broken_batch(&[(64 + 12, 0xffff_ffc0), (64 + 16, 0x80)])),
    Attack::new("h8_length_overflows", |_| broken_batch(&[(64 + 8, u32::MAX)])),
    Attack::new("h8_too_many_columns", |_| broken_batch(&[(4, u32::MAX)])),
    Attack::new("h8_too_many_rows", |_| broken_batch(&[(8, u32::MAX)])),
    Attack::new("h8_no_batch", |_| broken_batch(&[(0, 0x6666_6666)])),
    Attack::new("h8_half_a_batch", |_| {
        let ring = Ring::new();
        ring.publish(ring.call, Words { payload: 70, ..Words::good(&ring) })
    }),
    Attack::new("h9_descriptor_flips", |_| {
        let ring = Ring::new();
        let nonce = ring.nonce();
        beside(move || {
            let ring = Ring::new();
            for length in [8, u64::MAX, 1 << 20] {
                ring.store(ring.at + 24, length);
                ring.store(ring.at + 16, nonce);
            }
        });
        "flipped".into()
    }),
    Attack::new("h10_payload_flips", |_| {
        beside(|| {
            let ring = Ring::new();
            for (word, value) in (0..64).zip([0, u64::MAX, 0x0000_0001_0000_0001].into_iter().cycle()) {
                ring.store(ring.buffer() + word * 8, value);
            }
        });
        "flipped".into()
    }),
    Attack::new("h11_double_completion", |_| {
        let ring = Ring::new();
        ring.answer("first", Words::good(&ring));
        for _ in 0..1000 {
            ring.answer("second", Words::good(&ring));
        }
        "third".into()
    }),
    Attack::new("h12_wrong_nonce", |_| {
        let ring = Ring::new();
        ring.publish(ring.call, Words { nonce: ring.nonce() ^ 1, ..Words::good(&ring) })
    }),
    Attack::new("h12_replayed_nonce", |target| {
        static FIRST: AtomicU64 = AtomicU64::new(0);
        let ring = Ring::new();
        if target.turn == 0 {
            FIRST.store(ring.nonce(), Ordering::Relaxed);
            return "armed".into();
        }
        ring.publish(ring.call, Words { nonce: FIRST.load(Ordering::Relaxed), ..Words::good(&ring) })
    }),
    Attack::new("h12_answer_a_later_call", |_| {
        // The slots behind its own: calls that were never made.
        let ring = Ring::new();
        for ahead in 1..ring.layout.depth() as u64 {
            let later = Ring::of(ring.call + ahead);
            later.publish_only(ring.call + ahead, Words::good(&ring));
        }
        "answered".into()
    }),
    Attack::new("h13_never_answer", |_| {
        loop {
            thread::park();
        }
    }),
    Attack::new("h15_columns_overlap", |_| broken_batch(&[(64 + 12, 0), (64 + 20, 0)])),
    Attack::new("h15_header_as_data", |_| broken_batch(&[(64 + 12, 64)])),
    Attack::new("h19_wake_storm", |_| {
        let ring = Ring::new();
        let started = Instant::now();
        while started.elapsed() < A_WHILE {
            for word in (0..ring.layout.buffers()).step_by(64) {
                wake(ring.own.wrapping_add(word));
            }
        }
        "stormed".into()
    }),
    Attack::new("h19_always_asleep", |_| {
        beside(|| {
            let ring = Ring::new();
            ring.store(ring.layout.worker_sleeps(0), u64::MAX);
        });
        "slept".into()
    }),
    Attack::new("h19_never_asleep", |_| {
        beside(|| {
            let ring = Ring::new();
            ring.store(ring.layout.worker_sleeps(0), 0);
            wake(ring.own.wrapping_add(ring.at));
        });
        "awake".into()
    }),
    Attack::new("h19_wait_on_the_servers_words", |_| {
        let ring = Ring::new();
        for word in (0..ring.layout.buffers()).step_by(8) {
            let timeout = [0_i64, 1000];
            let at = ring.server.wrapping_add(word) as usize;
            let _ = call(libc::SYS_futex, &[at, libc::FUTEX_WAIT as usize, 0, timeout.as_ptr() as usize]);
        }
        "waited".into()
    }),
    Attack::new("h20_blocking_control", |_| {
        // Its own end, and none of the server's.
        let flags = call(libc::SYS_fcntl, &[super::CONTROL as usize, libc::F_GETFL as usize]).unwrap_or_default();
        let blocking = flags & !(libc::O_NONBLOCK as usize);
        let _ = call(libc::SYS_fcntl, &[super::CONTROL as usize, libc::F_SETFL as usize, blocking]);
        let _ = call(libc::SYS_fcntl, &[super::CONTROL as usize, libc::F_SETFL as usize, flags]);
        "cleared and set".into()
    }),
    Attack::new("h21_misaligned", |_| broken_batch(&[(64 + 12, 129)])),
    Attack::new("h21_unknown_kind", |_| broken_batch(&[(64, 77)])),
    Attack::new("h21_offsets_descend", |_| {
        let ring = Ring::new();
        let words = ring.write_batch("x");
        // The offsets of the one value, wherever they are: all words behind the descriptor that could be one.
        for word in (96..192).step_by(4) {
            ring.store_u32(ring.buffer() + word, 0xffff_0000 - word as u32);
        }
        ring.publish(ring.call, words)
    }),
    Attack::new("h21_no_datum", |_| {
        let ring = Ring::new();
        let words = ring.write_batch("xxxxxxxxxxxxxxxx");
        for word in (192..words.payload as usize).step_by(8) {
            ring.store(ring.buffer() + word, u64::MAX);
        }
        for word in (128..192).step_by(8) {
            ring.store(ring.buffer() + word, u64::MAX);
        }
        ring.publish(ring.call, words)
    }),
];

/// Maps a descriptor, shared, to be written.
pub(super) fn map_writable(descriptor: usize) -> std::io::Result<usize> {
    let protection = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    call(libc::SYS_mmap, &[0, 4096, protection, libc::MAP_SHARED as usize, descriptor, 0])
}

/// How many words of the server's region are there that are not of this call, in a process that never had another one.
pub(super) fn count_stale() -> String {
    let ring = Ring::new();
    let mine = ring.layout.buffer(0, ring.slot());
    let stale = (ring.layout.buffers()..ring.layout.region_bytes())
        .step_by(8)
        // SAFETY: within the region, which is mapped whole, and a multiple of eight.
        .filter(|at| !mine.contains(at) && unsafe { ring.server.wrapping_add(*at).cast::<u64>().read_volatile() } != 0)
        .count();
    format!("{stale} stale words")
}

/// Writes all of its own region, again and again.
pub(super) fn thrash() {
    let ring = Ring::new();
    let started = Instant::now();
    while started.elapsed() < A_WHILE {
        for at in (ring.layout.buffers()..ring.layout.region_bytes()).step_by(64) {
            // Not the buffer of this call, which belongs to the runtime.
            if !ring.layout.buffer(0, ring.slot()).contains(&at) {
                ring.store(at, at as u64);
            }
        }
    }
}

/// Overwrites all of its own region, rings and indices and answers, with numbers that could be right in part, and wakes
/// whoever waits for them.
fn scribble() -> String {
    let ring = Ring::new();
    for number in 0..1000 {
        for at in (0..ring.layout.region_bytes()).step_by(8) {
            ring.store(at, number);
        }
        for at in (0..ring.layout.buffers()).step_by(8) {
            wake(ring.own.wrapping_add(at));
        }
    }
    "it worked".into()
}

/// A good answer but for these 32-bit words, as offset and value.
fn broken_batch(words: &[(usize, u32)]) -> String {
    let ring = Ring::new();
    let good = ring.write_batch("it worked");
    for (at, value) in words {
        ring.store_u32(ring.buffer() + at, *value);
    }
    ring.publish(ring.call, good)
}

/// Goes on with `step` on another thread for a while, beside the calls that come meanwhile.
fn beside(step: impl Fn() + Send + 'static) {
    let started = Instant::now();
    let _ = thread::Builder::new().stack_size(128 << 10).spawn(move || {
        while started.elapsed() < A_WHILE {
            step();
            hint::spin_loop();
        }
    });
}

fn wake(word: *mut u8) {
    let _ = call(libc::SYS_futex, &[word as usize, libc::FUTEX_WAKE as usize, i32::MAX as usize]);
}

/// The descriptor words of a completion.
#[derive(Clone, Copy)]
struct Words {
    status: u64,
    nonce: u64,
    payload: u64,
}

impl Words {
    /// What an honest completion would say.
    fn good(ring: &Ring) -> Self {
        Self { status: 0, nonce: ring.nonce(), payload: 128 }
    }
}

/// Both regions, and the call that this process is at.
struct Ring {
    server: *const u8,
    own: *mut u8,
    layout: Layout,
    call: u64,
    at: usize,
}

impl Ring {
    /// Mapped once: a plugin may map as much as it likes, but not without end.
    fn new() -> Self {
        let mut ring = Self::of(0);
        let sequences = (0..ring.layout.depth()).map(|slot| ring.load(ring.layout.sequence(0, slot)));
        ring.call = sequences.max().unwrap_or(0);
        ring.at = ring.layout.sequence(0, ring.slot());
        ring
    }

    fn of(call: u64) -> Self {
        let (server, own) = (mapped(&SERVER, SERVER_REGION, libc::PROT_READ), own());
        let word = |index: usize| {
            // SAFETY: the header of the region, which is mapped and aligned to a page.
            let word = unsafe { (server as *const u64).wrapping_add(index).read_volatile() };
            word as usize
        };
        let Some(layout) = Layout::new(word(2), word(3), word(4)) else { panic!("the layout of another version") };
        let at = layout.sequence(0, (call % layout.depth() as u64) as usize);
        Self { server: server as *const u8, own: own as *mut u8, layout, call, at }
    }

    fn slot(&self) -> usize {
        (self.call % self.layout.depth() as u64) as usize
    }

    fn buffer(&self) -> usize {
        self.layout.buffer(0, self.slot()).start
    }

    fn load(&self, at: usize) -> u64 {
        // SAFETY: offsets of the layout, within the region and aligned.
        unsafe { self.server.wrapping_add(at).cast::<u64>().read_volatile() }
    }

    fn nonce(&self) -> u64 {
        self.load(self.at + 16)
    }

    fn store(&self, at: usize, value: u64) {
        // SAFETY: within the region and aligned. Others read and write it meanwhile: that is the attack.
        unsafe { self.own.wrapping_add(at).cast::<u64>().write_volatile(value) };
    }

    fn store_u32(&self, at: usize, value: u32) {
        // SAFETY: within the region, aligned or not. Others read it meanwhile: that is the attack.
        unsafe { self.own.wrapping_add(at).cast::<u32>().write_unaligned(value) };
    }

    /// Writes an answer into the buffer of the call.
    fn write_batch(&self, text: &str) -> Words {
        // SAFETY: the buffer of this call, which the runtime touches only after the attack; the server only reads it.
        let buffer = unsafe { std::slice::from_raw_parts_mut(self.own.wrapping_add(self.buffer()), 4096) };
        let datum = photondb_plugin_sdk::Datum::from(text.to_owned());
        let written = BatchWriter::new(buffer, 1, 1).and_then(|mut writer| {
            writer.values(photondb_ipc_schema::batch::Kind::Datum, 1, |_, out| out.put(&datum.encoded()))?;
            Ok(writer.finish())
        });
        Words { payload: written.unwrap_or(0) as u64, ..Words::good(self) }
    }

    fn answer(&self, text: &str, _: Words) {
        let words = self.write_batch(text);
        self.publish_only(self.call, words);
    }

    fn publish_only(&self, sequence: u64, words: Words) {
        for (index, word) in [words.status, words.nonce, words.payload, 0].into_iter().enumerate() {
            self.store(self.at + 8 + index * 8, word);
        }
        self.store(self.at, sequence);
        wake(self.own.wrapping_add(self.at));
    }

    /// Publishes a completion, and never comes back.
    fn publish(&self, sequence: u64, words: Words) -> String {
        self.publish_only(sequence, words);
        loop {
            thread::park();
        }
    }
}

static SERVER: AtomicU64 = AtomicU64::new(0);
static OWN: AtomicU64 = AtomicU64::new(0);

fn own() -> usize {
    mapped(&OWN, PLUGIN_REGION, libc::PROT_READ | libc::PROT_WRITE)
}

/// Maps all of a region, once.
fn mapped(known: &AtomicU64, region: i32, protection: i32) -> usize {
    let base = known.load(Ordering::Acquire);
    if base != 0 {
        return base as usize;
    }
    // SAFETY: an open descriptor.
    let size = unsafe { libc::lseek(region, 0, libc::SEEK_END) };
    // SAFETY: a new mapping, anywhere.
    let base = unsafe { libc::mmap(ptr::null_mut(), size as usize, protection, libc::MAP_SHARED, region, 0) };
    assert!(base != libc::MAP_FAILED, "a region can be mapped");
    known.store(base as u64, Ordering::Release);
    base as usize
}
