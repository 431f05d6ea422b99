//! Memory of the kernel: a mapping of a whole file, and the futexes in it. The one place that has its address.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::sync::{AtomicU64, Ordering};

/// A mapping, unmapped on drop.
#[derive(Debug)]
pub(super) struct Memory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory that stays mapped until drop, and `base` leaves this file only as the slices of
// `shared` and `exclusive`, whose callers promise that nobody writes, or nobody else touches, what they are given.
unsafe impl Send for Memory {}
// SAFETY: as for Send; words are accessed by atomics only.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps `len` bytes of `fd`, shared with whoever else maps it.
    pub(super) fn map(fd: BorrowedFd<'_>, len: usize, protection: ProtFlags) -> io::Result<Self> {
        let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: no address is asked for, so no existing mapping is replaced.
        let base = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Self { base: base.cast(), len })
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Panics when the range is outside of the memory.
    #[inline]
    pub(super) fn check(&self, range: &Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len, "offset outside the region");
    }

    /// Loads the word at `offset` once.
    #[inline]
    pub(super) fn load(&self, offset: usize, order: Ordering) -> u64 {
        // SAFETY: `word` gives an aligned address inside the mapping, which lives as long as `self`. Both processes access
        // words by atomics only, so the reference makes no claim about the value, and it ends with this expression.
        unsafe { self.word(offset).as_ref() }.load(order)
    }

    /// Stores the word at `offset`. Release: publishes everything stored before to a peer that loads it.
    #[inline]
    pub(super) fn store(&self, offset: usize, value: u64) {
        // SAFETY: as in `load`; who stores has mapped the memory writable, as `OwnRegion::map` alone does.
        unsafe { self.word(offset).as_ref() }.store(value, Ordering::Release);
    }

    /// Appends the `words` words from `offset` on, each byte read once.
    ///
    /// Not inlined: so that no caller's checks can be merged with loads from memory that changes.
    #[inline(never)]
    pub(super) fn copy(&self, offset: usize, words: usize, out: &mut Vec<u64>) {
        self.check(&(offset..offset + words * 8));
        assert!(offset.is_multiple_of(8), "misaligned copy");
        out.reserve(words);
        // SAFETY: `offset + words * 8 <= len` was checked, so this is inside the mapping.
        let from = unsafe { self.base.add(offset) };
        let into = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: `words * 8` bytes of the mapping, as just checked, go to as many that were just reserved; a private
        // allocation and a mapping don't overlap.
        unsafe { copy_racing(from.as_ptr(), into, words * 8) };
        // SAFETY: the words behind the old length were just written, and any bytes are a u64.
        unsafe { out.set_len(out.len() + words) };
    }

    /// # Safety
    /// Nobody, in any process, writes to the range while the slice lives.
    pub(super) unsafe fn shared(&self, range: Range<usize>) -> &[u8] {
        self.check(&range);
        // SAFETY: `range` is inside the mapping, as just checked.
        let start = unsafe { self.base.add(range.start) };
        // SAFETY: inside the mapping, which lives as long as `self`; unchanged, as the caller promises.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), range.len()) }
    }

    /// # Safety
    /// The memory is mapped writable; nobody else, in any process, writes to the range while the slice lives, and nobody
    /// of this process reads it.
    #[expect(clippy::mut_from_ref, reason = "exclusive by the caller's promise, as with an UnsafeCell")]
    pub(super) unsafe fn exclusive(&self, range: Range<usize>) -> &mut [u8] {
        self.check(&range);
        // SAFETY: `range` is inside the mapping, as just checked.
        let start = unsafe { self.base.add(range.start) };
        // SAFETY: inside the mapping, which lives as long as `self`; exclusive, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), range.len()) }
    }

    /// Waits while the low half of the word is `expected`, at most `timeout`. Wakes up for no reason now and then.
    pub(super) fn wait(&self, offset: usize, expected: u32, timeout: Duration) {
        let timeout = libc::timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let word = self.low_half(offset);
        // SAFETY: the word and the time are valid for the call; the kernel reads both and writes neither. Not PRIVATE:
        // the waker is another process. Errors (EAGAIN, EINTR, ETIMEDOUT) all mean "look again".
        unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, expected, &raw const timeout) };
    }

    /// Wakes at most `count` of those who wait on the low half of the word.
    pub(super) fn wake(&self, offset: usize, count: i32) {
        let word = self.low_half(offset);
        // SAFETY: the word is valid for the call; the kernel uses its address only.
        unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, count) };
    }

    #[inline]
    fn word(&self, offset: usize) -> NonNull<AtomicU64> {
        self.check(&(offset..offset + 8));
        assert!(offset.is_multiple_of(8), "misaligned word");
        // SAFETY: `offset + 8 <= len` was checked, so the result is inside the mapping; the base is page-aligned.
        unsafe { self.base.add(offset) }.cast()
    }

    fn low_half(&self, offset: usize) -> *mut AtomicU32 {
        const { assert!(cfg!(target_endian = "little")) }
        self.word(offset).cast().as_ptr()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length, and nothing borrows from it any more.
        // An error would mean that it is not mapped: nothing to be done about it.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

/// Copies bytes that another process may be changing.
///
/// To a Rust program a plain copy of such memory would be a data race, and word-wise atomic loads can't be vectorised: they
/// take three times as long. What the instruction does is outside of what the compiler reasons about: it sees bytes
/// appear in `into` that could be anything, which is what they are.
///
/// # Safety
/// `from` is valid for reads and `into` for writes of `len` bytes, and they don't overlap.
#[cfg(target_arch = "x86_64")]
unsafe fn copy_racing(from: *const u8, into: *mut u8, len: usize) {
    // SAFETY: the caller's promise; the direction flag is clear, as the ABI demands; no stack and no flags are touched.
    unsafe {
        std::arch::asm!("rep movsb", inout("rcx") len => _, inout("rsi") from => _, inout("rdi") into => _,
            options(nostack, preserves_flags));
    }
}

/// # Safety
/// As above; both are multiples of 8, as `len` is.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn copy_racing(from: *const u8, into: *mut u8, len: usize) {
    for at in (0..len).step_by(8) {
        // SAFETY: `at + 8 <= len`, of which the caller says that it is readable.
        let word = unsafe { from.add(at) }.cast::<AtomicU64>();
        // SAFETY: aligned and readable; both processes access the memory by atomics, or race in no way that matters here.
        let word = unsafe { &*word }.load(Ordering::Relaxed);
        // SAFETY: `at + 8 <= len`, of which the caller says that it is writable.
        let place = unsafe { into.add(at) }.cast::<u64>();
        // SAFETY: writable, and aligned.
        unsafe { place.write(word) };
    }
}
