//! Memory that two processes share, in three types for three kinds of trust, so that a wrong use does not compile.
//!
//! - [`OwnRegion`]: we write, the peer reads.
//! - [`TrustedRegion`]: the plugin's view of what the server wrote. Slices are possible: the server keeps a buffer
//!   unchanged while the plugin works on it.
//! - [`UntrustedRegion`]: the server's view of what a plugin writes. No method returns a reference, since the peer
//!   may change any byte at any moment. Words are read by atomic loads, payloads are copied out.
//!
//! The server makes, sizes, prefaults and seals both memfds ([`server_written`], [`plugin_written`]): a peer can
//! neither truncate nor grow them, and can't write to the server's by any route.
//!
//! Rust has no blessed model for memory shared with another process. Atomics through raw pointers are the practice
//! of crosvm, Firecracker and the kernel's Rust code, and are what is done here.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A mapping of a whole file, unmapped on drop.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory that stays mapped until drop; `base` is only used through the checked methods
// below, all of which are atomic, read memory that nobody of this process writes, or hold the exclusive window.
unsafe impl Send for Mapping {}
// SAFETY: as for Send.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, len: usize, protection: ProtFlags, more: MapFlags) -> io::Result<Self> {
        let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let flags = MapFlags::MAP_SHARED | more;
        // SAFETY: no address is asked for, so no existing mapping is replaced.
        let base = unsafe { mmap(None, size, protection, flags, fd, 0) }?;
        Ok(Self { base: base.cast(), len })
    }

    fn check(&self, range: &Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len, "offset outside the region");
    }

    fn u32_at(&self, offset: usize) -> &AtomicU32 {
        self.check(&(offset..offset + 4));
        assert!(offset.is_multiple_of(4), "misaligned word");
        // SAFETY: `offset + 4 <= len` was checked, so the result is inside the mapping.
        let word = unsafe { self.base.add(offset) }.cast::<AtomicU32>();
        // SAFETY: inside the mapping, which lives as long as `self`; aligned, since the base is page-aligned; both
        // processes access words by atomics only, and a private `&AtomicU32` makes no claim about its value.
        unsafe { word.as_ref() }
    }

    fn u64_at(&self, offset: usize) -> &AtomicU64 {
        self.check(&(offset..offset + 8));
        assert!(offset.is_multiple_of(8), "misaligned word");
        // SAFETY: `offset + 8 <= len` was checked, so the result is inside the mapping.
        let word = unsafe { self.base.add(offset) }.cast::<AtomicU64>();
        // SAFETY: as in `u32_at`.
        unsafe { word.as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and nothing borrows from it any more.
        // An error would mean that it is not mapped: nothing to be done about it.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

/// Waits while the word has the value `expected`, at most `timeout`. Wakes up for no reason now and then.
fn futex_wait(word: &AtomicU32, expected: u32, timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    // SAFETY: the word and the time are valid for the call; the kernel reads both and writes neither. Not PRIVATE:
    // the waker is another process. Errors (EAGAIN, EINTR, ETIMEDOUT) all mean "look again".
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, &raw const timeout) };
}

/// Wakes everybody who waits on the word.
fn futex_wake(word: &AtomicU32) {
    // SAFETY: the word is valid for the call; the kernel uses its address only.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

/// A region that this process writes and the peer reads.
///
/// Words may be stored from any thread. Buffers are handed out once, as [`OwnWindow`]s.
#[derive(Debug)]
pub struct OwnRegion {
    mapping: Arc<Mapping>,
    /// Everything from here on has not been handed out as a window.
    carved: usize,
}

impl OwnRegion {
    /// Maps the whole of `fd`, `len` bytes, for writing.
    ///
    /// # Errors
    /// When the kernel refuses, for instance because the file is sealed.
    pub fn map(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let mapping = Mapping::new(fd, len, protection, MapFlags::MAP_POPULATE)?;
        Ok(Self { mapping: Arc::new(mapping), carved: 0 })
    }

    /// Hands out `range` for exclusive writing. Ranges must be carved in ascending order, so that none overlap; words
    /// are stored below the first one.
    ///
    /// # Panics
    /// When the range is outside the region or below one that was carved before.
    pub fn carve(&mut self, range: Range<usize>) -> OwnWindow {
        self.mapping.check(&range);
        assert!(range.start >= self.carved, "windows must be carved in ascending order");
        self.carved = range.end;
        OwnWindow { mapping: Arc::clone(&self.mapping), range }
    }

    /// Stores a word. Release: publishes everything stored before to a peer that loads the word.
    pub fn store_u64(&self, offset: usize, value: u64) {
        self.mapping.u64_at(offset).store(value, Ordering::Release);
    }

    /// Stores a word, as `store_u64`.
    pub fn store_u32(&self, offset: usize, value: u32) {
        self.mapping.u32_at(offset).store(value, Ordering::Release);
    }

    /// Wakes the peer's threads that wait on the low half of the word at `offset`.
    pub fn wake(&self, offset: usize) {
        futex_wake(self.mapping.u32_at(offset));
    }
}

/// A part of an [`OwnRegion`] that its holder alone writes.
#[derive(Debug)]
pub struct OwnWindow {
    mapping: Arc<Mapping>,
    range: Range<usize>,
}

impl OwnWindow {
    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `carve` checked that the range is inside the mapping.
        let start = unsafe { self.mapping.base.add(self.range.start) };
        // SAFETY: inside the mapping, which `self` keeps alive. `carve` gives out every range once and words are
        // stored below all windows, so within this process `&mut self` makes the access exclusive; the peer has no
        // writable mapping (sealed) or does not write here (the server maps the plugin's region read-only).
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.range.len()) }
    }
}

/// The plugin's view of the region that the server writes.
#[derive(Debug)]
pub struct TrustedRegion {
    mapping: Mapping,
}

impl TrustedRegion {
    /// Maps the whole of `fd`, `len` bytes, read-only. The writer must be trusted not to change a slice while it is
    /// used: the server, for a plugin; ourselves, for our own files.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn map(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        Ok(Self { mapping: Mapping::new(fd, len, ProtFlags::PROT_READ, MapFlags::MAP_POPULATE)? })
    }

    /// As [`map`](Self::map), for a file that is large and sparse: pages are read when they are touched.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn map_sparse(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        Ok(Self { mapping: Mapping::new(fd, len, ProtFlags::PROT_READ, MapFlags::empty())? })
    }

    /// The bytes of the region.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mapping.len
    }

    /// Always false: an empty region can't be mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Loads a word. Acquire: pairs with the peer's Release store.
    #[must_use]
    pub fn load_u64(&self, offset: usize) -> u64 {
        self.mapping.u64_at(offset).load(Ordering::Acquire)
    }

    /// Loads a word, as `load_u64`.
    #[must_use]
    pub fn load_u32(&self, offset: usize) -> u32 {
        self.mapping.u32_at(offset).load(Ordering::Acquire)
    }

    /// Bytes that the server lends: unchanged until the plugin answers the call they belong to, or for ever in a
    /// column file.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> &[u8] {
        self.mapping.check(&range);
        // SAFETY: `range` is inside the mapping, as just checked.
        let start = unsafe { self.mapping.base.add(range.start) };
        // SAFETY: inside the mapping, which lives as long as `self`. The writer is the server, which leaves a lent
        // buffer alone until the call is answered, and never changes a row of a column file that it announced.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), range.len()) }
    }

    /// Sleeps while the low half of the word at `offset` is `expected`, at most `timeout`.
    pub fn wait(&self, offset: usize, expected: u32, timeout: Duration) {
        futex_wait(self.mapping.u32_at(offset), expected, timeout);
    }
}

/// The server's view of the region that a plugin writes. No method returns a reference.
#[derive(Debug)]
pub struct UntrustedRegion {
    mapping: Mapping,
}

impl UntrustedRegion {
    /// Maps the whole of `fd`, `len` bytes, read-only.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn map(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        Ok(Self { mapping: Mapping::new(fd, len, ProtFlags::PROT_READ, MapFlags::MAP_POPULATE)? })
    }

    /// Loads a word once. Acquire: pairs with an honest peer's Release store.
    #[must_use]
    pub fn load_u64(&self, offset: usize) -> u64 {
        self.mapping.u64_at(offset).load(Ordering::Acquire)
    }

    /// Loads a word once, as `load_u64`.
    #[must_use]
    pub fn load_u32(&self, offset: usize) -> u32 {
        self.mapping.u32_at(offset).load(Ordering::Acquire)
    }

    /// Copies `len` bytes from `offset` on (a multiple of 8) into private memory, each word read once.
    ///
    /// Not inlined: so that no caller's checks can be merged with loads from memory that changes.
    ///
    /// # Panics
    /// When the range is outside the region.
    #[inline(never)]
    pub fn copy(&self, offset: usize, len: usize, out: &mut PrivateCopy) {
        let words = len.div_ceil(8);
        self.mapping.check(&(offset..offset + words * 8));
        assert!(offset.is_multiple_of(8), "misaligned copy");
        // SAFETY: `offset` is inside the mapping, as just checked.
        let start = unsafe { self.mapping.base.add(offset) }.cast::<AtomicU64>();
        // SAFETY: `words * 8` bytes from `start` on are mapped and aligned; atomics may change under us.
        let source = unsafe { std::slice::from_raw_parts(start.as_ptr(), words) };
        out.words.clear();
        out.words.extend(source.iter().map(|word| word.load(Ordering::Relaxed)));
        out.len = len;
    }

    /// Sleeps while the low half of the word at `offset` is `expected`, at most `timeout`. A wake-up is a hint.
    pub fn wait(&self, offset: usize, expected: u32, timeout: Duration) {
        futex_wait(self.mapping.u32_at(offset), expected, timeout);
    }

    /// Wakes this process's own threads that wait on the word at `offset`.
    pub fn wake_waiters(&self, offset: usize) {
        futex_wake(self.mapping.u32_at(offset));
    }
}

/// Bytes copied out of an [`UntrustedRegion`], 8-byte aligned. Reused from call to call.
#[derive(Debug, Default)]
pub struct PrivateCopy {
    words: Vec<u64>,
    len: usize,
}

impl PrivateCopy {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let bytes: &[u8] = bytemuck::cast_slice(&self.words);
        &bytes[..self.len]
    }
}

/// Makes the memory that the server writes: its own mapping, and the descriptor for the plugin, through which nobody
/// can map it writable, write to it, grow or shrink it any more.
///
/// # Errors
/// When memory is short or the kernel lacks `F_SEAL_FUTURE_WRITE` (before 5.1).
pub fn server_written(name: &str, len: usize) -> io::Result<(OwnRegion, OwnedFd)> {
    let fd = memory(name, len)?;
    let region = OwnRegion::map(fd.as_fd(), len)?;
    seal(&fd, SealFlag::from_bits_retain(libc::F_SEAL_FUTURE_WRITE))?;
    Ok((region, fd))
}

/// Makes the memory that the plugin writes: the server's view, and the descriptor for the plugin.
///
/// # Errors
/// When memory is short.
pub fn plugin_written(name: &str, len: usize) -> io::Result<(UntrustedRegion, OwnedFd)> {
    let fd = memory(name, len)?;
    // Allocates every page now: a fault later would be charged to whoever touches it first.
    drop(OwnRegion::map(fd.as_fd(), len)?);
    let region = UntrustedRegion::map(fd.as_fd(), len)?;
    seal(&fd, SealFlag::empty())?;
    Ok((region, fd))
}

fn memory(name: &str, len: usize) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd = match memfd_create(name, flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL)) {
        // Linux before 6.3 does not know the flag.
        Err(nix::Error::EINVAL) => memfd_create(name, flags)?,
        other => other?,
    };
    nix::unistd::ftruncate(&fd, i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?)?;
    Ok(fd)
}

fn seal(fd: &OwnedFd, more: SealFlag) -> io::Result<()> {
    let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL | more;
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(())
}

/// The bytes of the file behind `fd`.
///
/// # Errors
/// When it can't be asked.
pub fn size(fd: BorrowedFd<'_>) -> io::Result<usize> {
    // Not by fstat, which is forbidden to a plugin; nobody uses the offset of these files.
    let end = nix::unistd::lseek(fd, 0, nix::unistd::Whence::SeekEnd)?;
    usize::try_from(end).map_err(|_| io::Error::other(format!("descriptor {} has no size", fd.as_raw_fd())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_can_write_to_what_the_server_wrote() {
        let (mut region, fd) = server_written("test", 8192).expect("memfd");
        region.carve(4096..8192).bytes()[0] = 7;
        assert!(OwnRegion::map(fd.as_fd(), 8192).is_err(), "a second writable mapping must be refused");
        assert!(nix::unistd::write(&fd, b"x").is_err());
        assert!(nix::unistd::ftruncate(&fd, 0).is_err());
        assert_eq!(TrustedRegion::map(fd.as_fd(), 8192).expect("map").slice(4096..4097), [7]);
    }

    #[test]
    fn the_plugin_can_write_but_not_resize() {
        let (region, fd) = plugin_written("test", 4096).expect("memfd");
        OwnRegion::map(fd.as_fd(), 4096).expect("map").store_u64(8, 42);
        assert_eq!(region.load_u64(8), 42);
        assert!(nix::unistd::ftruncate(&fd, 8192).is_err());
        assert!(nix::unistd::ftruncate(&fd, 0).is_err());
    }

    #[test]
    fn copies_end_at_the_length_that_was_asked_for() {
        let (region, fd) = plugin_written("test", 4096).expect("memfd");
        OwnRegion::map(fd.as_fd(), 4096).expect("map").carve(8..32).bytes().fill(9);
        let mut copy = PrivateCopy::default();
        region.copy(8, 11, &mut copy);
        assert_eq!(copy.bytes(), [9; 11]);
    }

    #[test]
    #[should_panic(expected = "ascending")]
    fn windows_never_overlap() {
        let (mut region, _fd) = server_written("test", 8192).expect("memfd");
        let _first = region.carve(0..4096);
        let _second = region.carve(4095..8192);
    }
}
