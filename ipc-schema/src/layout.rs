//! Every byte of the two regions that the server shares with one plugin process.
//!
//! Each region has one writer, enforced by the kernel: the **server region** is sealed against new writable mappings
//! after the server made its own, the **plugin region** is mapped read-only by the server. Both have the same shape,
//! so that an offset has one meaning:
//!
//! | offset | server region | plugin region |
//! |---|---|---|
//! | 0 | header: magic, version, lanes, depth, buffer bytes, nanoseconds to spin | unused |
//! | 4096 + lane x 128 | word 0: how often the lane was rung | word 0: 1 while the lane's worker sleeps |
//! | slots + (lane x depth + slot) x 128 | request: sequence, 4 descriptor words; byte 64: how the caller waits ([`CallerWaits`]); byte 72: the number of the last call that its caller gave up | completion: sequence, 4 descriptor words |
//! | buffers + (lane x depth + slot) x buffer bytes | request payload | reply payload |
//!
//! A slot is one cache line with its sequence word in it (one line is 20 % faster than two), slots are 128 bytes apart
//! (neighbouring lines are fetched in pairs). Call number `n` (from 1 on) of a lane uses slot `n % depth`; a slot is
//! free when the completion of its last call has been taken. All words are little-endian.
//!
//! Buffers are not zeroed between calls: a plugin could keep all that it was ever sent anyway, and there is one user,
//! `admin`. Once there are several, `Lane::free` is where the server would zero a request before the slot is used for
//! another user; the reply, which the server can't write, the worker would zero before it serves the next call. That
//! keeps honest plugins from showing one user's rows to another by mistake; against others, only a process for each
//! user helps.

use std::ops::Range;

use crate::region::{OwnRegion, TrustedRegion};
use crate::wake::Spin;

/// `PHOTLANE`.
const MAGIC: u64 = u64::from_le_bytes(*b"PHOTLANE");
/// Changes with every change of the layout.
const VERSION: u64 = 3;
/// What buffers are aligned to, and their least size. Small for loom, which pays for every word.
pub(crate) const PAGE: usize = if cfg!(loom) { 64 } else { 4096 };
const LINE_PAIR: usize = 128;

/// Descriptor words of a request or a completion, beside the sequence word.
pub const DESCRIPTOR_WORDS: usize = 4;
/// The most lanes of one plugin.
pub const MAX_LANES: usize = 64;
/// The most calls in flight on one lane.
pub const MAX_DEPTH: usize = 64;

/// How the caller of a slot waits for its completion: what the worker does when it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum CallerWaits {
    /// It looks: nothing.
    Awake = 0,
    /// It sleeps on the completion's sequence word: wake it.
    Thread = 1,
    /// It is a task: ring the bell.
    Task = 2,
}

/// The shape of both regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    lanes: usize,
    depth: usize,
    buffer_bytes: usize,
}

impl Layout {
    /// A layout of `lanes` lanes (1 to [`MAX_LANES`]), `depth` calls in flight on each (1 to [`MAX_DEPTH`]) and
    /// `buffer_bytes` for the payload of a call in each direction (a multiple of 4096, at most 1 GiB).
    #[must_use]
    pub fn new(lanes: usize, depth: usize, buffer_bytes: usize) -> Option<Self> {
        let valid = (1..=MAX_LANES).contains(&lanes)
            && (1..=MAX_DEPTH).contains(&depth)
            && (PAGE..=1 << 30).contains(&buffer_bytes)
            && buffer_bytes.is_multiple_of(PAGE);
        valid.then_some(Self { lanes, depth, buffer_bytes })
    }

    /// How many lanes there are.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// How many calls may be in flight on a lane.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The most bytes of a request or a reply.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// The bytes of each region.
    #[must_use]
    pub fn region_bytes(&self) -> usize {
        self.buffers() + self.lanes * self.depth * self.buffer_bytes
    }

    /// Where the payload buffers begin; words lie below.
    #[must_use]
    #[inline]
    pub fn buffers(&self) -> usize {
        (self.slots() + self.lanes * self.depth * LINE_PAIR).next_multiple_of(PAGE)
    }

    #[inline]
    fn slots(&self) -> usize {
        PAGE + self.lanes * LINE_PAIR
    }

    /// The sequence word of a slot; its descriptor words follow.
    #[must_use]
    #[inline]
    pub fn sequence(&self, lane: usize, slot: usize) -> usize {
        debug_assert!(lane < self.lanes && slot < self.depth);
        self.slots() + (lane * self.depth + slot) * LINE_PAIR
    }

    /// The word of the server region that says how the caller of a slot waits: a [`CallerWaits`].
    #[must_use]
    #[inline]
    pub fn caller_sleeps(&self, lane: usize, slot: usize) -> usize {
        self.sequence(lane, slot) + 64
    }

    /// The word of the server region with the number of the last call of a slot that its caller gave up. It lies in the
    /// line of [`caller_sleeps`](Self::caller_sleeps), which the worker looks at anyway, and not in that of the request.
    #[must_use]
    #[inline]
    pub fn cancelled(&self, lane: usize, slot: usize) -> usize {
        self.sequence(lane, slot) + 72
    }

    /// The word of the server region that counts how often the worker of a lane was told that calls are about to come.
    #[must_use]
    pub fn rung(&self, lane: usize) -> usize {
        self.worker_sleeps(lane)
    }

    /// The word of the plugin region that says whether the worker of a lane sleeps.
    #[must_use]
    #[inline]
    pub fn worker_sleeps(&self, lane: usize) -> usize {
        debug_assert!(lane < self.lanes);
        PAGE + lane * LINE_PAIR
    }

    /// The payload buffer of a slot.
    #[must_use]
    #[inline]
    pub fn buffer(&self, lane: usize, slot: usize) -> Range<usize> {
        debug_assert!(lane < self.lanes && slot < self.depth);
        let start = self.buffers() + (lane * self.depth + slot) * self.buffer_bytes;
        start..start + self.buffer_bytes
    }

    /// Writes the header of the server region. `spin` is how long the plugin's workers spin: the server has measured it.
    pub fn write_header(&self, region: &OwnRegion, spin: Spin) {
        let shape = [self.lanes, self.depth, self.buffer_bytes].map(|number| number as u64);
        for (word, value) in [MAGIC, VERSION].into_iter().chain(shape).chain([spin.as_nanos()]).enumerate() {
            region.store_u64(word * 8, value);
        }
    }

    /// Reads the header of the server region; `None` if it is of another version or does not fit `region_bytes`.
    #[must_use]
    pub fn read_header(region: &TrustedRegion) -> Option<(Self, Spin)> {
        if region.len() < PAGE || region.load_u64(0) != MAGIC || region.load_u64(8) != VERSION {
            return None;
        }
        let word = |index: usize| usize::try_from(region.load_u64(index * 8)).ok();
        let layout = Self::new(word(2)?, word(3)?, word(4)?)?;
        (layout.region_bytes() == region.len()).then(|| (layout, Spin::from_nanos(region.load_u64(5 * 8))))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn words_and_buffers_do_not_overlap() {
        let layout = Layout::new(3, 8, 8192).expect("valid");
        let last_word = layout.sequence(2, 7) + LINE_PAIR;
        assert!(layout.worker_sleeps(2) + LINE_PAIR <= layout.sequence(0, 0));
        assert!(last_word <= layout.buffers());
        assert_eq!(layout.buffer(0, 0).start, layout.buffers());
        assert_eq!(layout.buffer(2, 7).end, layout.region_bytes());
        assert_eq!(layout.buffer(1, 0).start, layout.buffer(0, 7).end);
        assert!(layout.sequence(1, 3).is_multiple_of(LINE_PAIR));
    }

    #[test]
    fn impossible_shapes_are_refused() {
        assert!(Layout::new(0, 8, 8192).is_none());
        assert!(Layout::new(1, MAX_DEPTH + 1, 8192).is_none());
        assert!(Layout::new(1, 8, 8191).is_none());
    }
}
