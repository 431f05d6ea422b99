//! Memory of this process in place of the kernel's, for the two checkers that can't follow a mapping: loom, which explores
//! every order of loads and stores, and Miri. Words and payload are told apart: words are atomics, whose weakest
//! behaviour the checker shows us, and a payload is plain memory, where it reports every access that no word orders.

use std::cell::UnsafeCell;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::sys::mman::ProtFlags;

use crate::sync::{Arc, AtomicU64, Condvar, Mutex, Ordering, PoisonError};

/// Memory that all clones share, as all mappings of one file do.
#[derive(Clone, Debug)]
pub(super) struct Memory(Arc<Cells>);

#[derive(Debug)]
struct Cells {
    words: Box<[AtomicU64]>,
    /// 8-byte aligned, as a mapping.
    payload: Box<[UnsafeCell<u64>]>,
    /// Told of each access to a page of the payload; loom can't watch the bytes themselves.
    #[cfg(loom)]
    pages: Box<[loom::cell::UnsafeCell<()>]>,
    sleepers: Mutex<Sleepers>,
    woken: Condvar,
}

/// Who waits on a word: the kernel's queue behind a futex.
#[derive(Debug, Default)]
struct Sleepers {
    next: u64,
    waiting: Vec<(usize, u64)>,
    expired: bool,
}

// SAFETY: the payload is accessed by `shared`, `exclusive` and `copy` alone, whose callers are what the checkers check;
// everything else is atomic or behind a lock.
unsafe impl Send for Cells {}
// SAFETY: as for Send.
unsafe impl Sync for Cells {}

impl Memory {
    pub(super) fn new(len: usize) -> Self {
        Self(Arc::new(Cells {
            words: (0..len / 8).map(|_| AtomicU64::new(0)).collect(),
            payload: (0..len / 8).map(|_| UnsafeCell::new(0)).collect(),
            #[cfg(loom)]
            pages: (0..len / crate::layout::PAGE).map(|_| loom::cell::UnsafeCell::new(())).collect(),
            sleepers: Mutex::new(Sleepers::default()),
            woken: Condvar::new(),
        }))
    }

    pub(super) fn map(_: BorrowedFd<'_>, _: usize, _: ProtFlags) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn len(&self) -> usize {
        self.0.words.len() * 8
    }

    pub(super) fn check(&self, range: &Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len(), "offset outside the region");
    }

    pub(super) fn load(&self, offset: usize, order: Ordering) -> u64 {
        self.word(offset).load(order)
    }

    pub(super) fn store(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::Release);
    }

    pub(super) fn copy(&self, offset: usize, words: usize, out: &mut Vec<u64>) {
        assert!(offset.is_multiple_of(8), "misaligned copy");
        // SAFETY: the writer is one of our own workers, which does not write while its answer is read: what is checked.
        let bytes = unsafe { self.shared(offset..offset + words * 8) };
        out.extend(bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)));
    }

    /// # Safety
    /// Nobody writes to the range while the slice lives.
    pub(super) unsafe fn shared(&self, range: Range<usize>) -> &[u8] {
        self.check(&range);
        #[cfg(loom)]
        self.pages(&range).for_each(|page| page.with(|_| ()));
        // SAFETY: `range` is inside the payload, as just checked.
        let start = unsafe { self.start().add(range.start) };
        // SAFETY: inside the payload, which lives as long as `self`; unchanged, as the caller promises.
        unsafe { std::slice::from_raw_parts(start, range.len()) }
    }

    /// # Safety
    /// Nobody else accesses the range while the slice lives.
    #[expect(clippy::mut_from_ref, reason = "exclusive by the caller's promise, as with an UnsafeCell")]
    pub(super) unsafe fn exclusive(&self, range: Range<usize>) -> &mut [u8] {
        self.check(&range);
        #[cfg(loom)]
        self.pages(&range).for_each(|page| page.with_mut(|_| ()));
        // SAFETY: `range` is inside the payload, as just checked.
        let start = unsafe { self.start().add(range.start) };
        // SAFETY: inside the payload, which lives as long as `self`; exclusive, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(start, range.len()) }
    }

    /// Compares and blocks in one step, as the kernel's futex. Under loom a timeout never passes by itself, so that a
    /// lost wake-up is a deadlock; [`expire`](Self::expire) lets it pass.
    pub(super) fn wait(&self, offset: usize, expected: u32, timeout: Duration) {
        let mut sleepers = self.0.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        if sleepers.expired || self.word(offset).load(Ordering::Acquire) as u32 != expected {
            return;
        }
        let ticket = (offset, sleepers.next);
        sleepers.next += 1;
        sleepers.waiting.push(ticket);
        while sleepers.waiting.contains(&ticket) {
            let (again, timed) = self.0.woken.wait_timeout(sleepers, timeout).unwrap_or_else(PoisonError::into_inner);
            sleepers = again;
            if timed.timed_out() {
                sleepers.waiting.retain(|other| *other != ticket);
            }
        }
    }

    pub(super) fn wake(&self, offset: usize, count: i32) {
        let mut sleepers = self.0.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..count {
            let Some(at) = sleepers.waiting.iter().position(|(waiting, _)| *waiting == offset) else { break };
            sleepers.waiting.remove(at);
        }
        drop(sleepers);
        self.0.woken.notify_all();
    }

    /// From now on time passes: no wait lasts any more.
    #[cfg(loom)]
    pub(super) fn expire(&self) {
        let mut sleepers = self.0.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        sleepers.expired = true;
        sleepers.waiting.clear();
        drop(sleepers);
        self.0.woken.notify_all();
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "misaligned word");
        &self.0.words[offset / 8]
    }

    fn start(&self) -> *mut u8 {
        // One pointer to the whole, not to its first word: its provenance has to reach all of it.
        self.0.payload.as_ptr().cast_mut().cast()
    }

    #[cfg(loom)]
    fn pages(&self, range: &Range<usize>) -> impl Iterator<Item = &loom::cell::UnsafeCell<()>> {
        self.0.pages[range.start / crate::layout::PAGE..range.end.div_ceil(crate::layout::PAGE)].iter()
    }
}
