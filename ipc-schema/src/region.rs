//! Memory that two processes share, in three types for three kinds of trust, so that a wrong use does not compile.
//!
//! - [`OwnRegion`]: we write, the peer reads.
//! - [`TrustedRegion`]: the plugin's view of what the server wrote. Slices are possible: the server keeps a buffer
//!   unchanged while the plugin works on it.
//! - [`UntrustedRegion`]: the server's view of what a plugin writes. No method returns a reference, since the peer
//!   may change any byte at any moment. Words are read by atomic loads, payloads are copied out.
//!
//! The server makes, sizes and seals both memfds ([`server_written`], [`plugin_written`]): a peer can neither truncate
//! nor grow them, and can't write to the server's by any route.
//!
//! **Pages come when they are touched.** Most plugins never fill a buffer: to allocate 16 MiB for each of them costs
//! 4 ms of its start, and memory for as long as it runs. What a first touch costs is 2 µs for a page written, once, and
//! as much for sixteen read.
//!
//! **SIGBUS** needs a mapping that ends before it should, or a page that can't be had. The first is impossible: the files
//! are sealed against shrinking, and no descriptor that came from a plugin is ever mapped. The second can't happen
//! either: a memfd lies on the kernel's own tmpfs, which has no size limit, and uses no huge pages, so that memory which
//! runs out is the business of the kernel's OOM killer, which the plugin's score makes its first victim. Only a kernel
//! that was told never to promise more than it has (`vm.overcommit_memory = 2`) may refuse a page: there, every page is
//! allocated when the region is made, which is when memory may be short and the plugin is refused. Column files are the
//! server's own, on disk, and plugins have them read-only. What is left is failing hardware, of memory or of the disk
//! behind a column or the swap. A signal handler could not go on after that without unwinding through whatever read
//! the page, so there is none: the server dies of it, as it does of a bad page anywhere else.
//!
//! **What runs where.** `mapping` has the addresses, and is all that touches the memory. The checkers loom and Miri
//! can't follow a mapping: for them `heap` stands in its place, and everything above is the same code.
//!
//! Rust has no blessed model for memory shared with another process. Atomics through raw pointers are the practice
//! of crosvm, Firecracker and the kernel's Rust code, and are what is done here.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::ProtFlags;

use crate::sync::{Arc, Ordering};

#[cfg(any(loom, miri))]
mod heap;
#[cfg(not(any(loom, miri)))]
mod mapping;

#[cfg(any(loom, miri))]
use heap::Memory;
#[cfg(not(any(loom, miri)))]
use mapping::Memory;

/// A region that this process writes and the peer reads.
///
/// Words may be stored from any thread. Buffers are handed out once, as [`OwnWindow`]s.
#[derive(Debug)]
pub struct OwnRegion {
    memory: Arc<Memory>,
    /// Everything from here on has not been handed out as a window.
    carved: usize,
}

impl OwnRegion {
    /// Maps the whole of `fd`, `len` bytes, for writing.
    ///
    /// # Errors
    /// When the kernel refuses, for instance because the file is sealed.
    pub fn map(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let memory = Memory::map(fd, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        Ok(Self { memory: Arc::new(memory), carved: 0 })
    }

    /// Hands out `range` for exclusive writing. Ranges must be carved in ascending order, so that none overlap; words
    /// are stored below the first one.
    ///
    /// # Panics
    /// When the range is outside the region or below one that was carved before.
    pub fn carve(&mut self, range: Range<usize>) -> OwnWindow {
        self.memory.check(&range);
        assert!(range.start >= self.carved, "windows must be carved in ascending order");
        self.carved = range.end;
        OwnWindow { memory: Arc::clone(&self.memory), range }
    }

    /// Stores a word. Release: publishes everything stored before to a peer that loads the word.
    #[inline]
    pub fn store_u64(&self, offset: usize, value: u64) {
        self.memory.store(offset, value);
    }

    /// Wakes the one thread of the peer that waits on the low half of the word at `offset`. One: a hostile peer could
    /// let any number of threads wait, for us to wake.
    pub fn wake(&self, offset: usize) {
        self.memory.wake(offset, 1);
    }
}

/// A part of an [`OwnRegion`] that its holder alone writes.
#[derive(Debug)]
pub struct OwnWindow {
    memory: Arc<Memory>,
    range: Range<usize>,
}

impl OwnWindow {
    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: an `OwnRegion` is mapped writable. `carve` gives out every range once and words are stored below all
        // windows, so within this process `&mut self` makes the access exclusive; the peer has no writable mapping
        // (sealed) or does not write here (the server maps the plugin's region read-only).
        unsafe { self.memory.exclusive(self.range.clone()) }
    }
}

/// The plugin's view of the region that the server writes.
#[derive(Debug)]
pub struct TrustedRegion {
    memory: Memory,
}

impl TrustedRegion {
    /// Maps the whole of `fd`, `len` bytes, read-only. The writer must be trusted not to change a slice while it is
    /// used: the server, for a plugin; ourselves, for our own files.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn map(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        Ok(Self { memory: Memory::map(fd, len, ProtFlags::PROT_READ)? })
    }

    /// The bytes of the region.
    #[must_use]
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Always false: an empty region can't be mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Loads a word. Acquire: pairs with the peer's Release store.
    #[must_use]
    #[inline]
    pub fn load_u64(&self, offset: usize) -> u64 {
        self.memory.load(offset, Ordering::Acquire)
    }

    /// Bytes that the server lends: unchanged until the plugin answers the call they belong to, or for ever in a
    /// column file.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> &[u8] {
        // SAFETY: the writer is the server, which leaves a lent buffer alone until the call is answered, and never changes
        // a row of a column file that it announced.
        unsafe { self.memory.shared(range) }
    }

    /// Sleeps while the low half of the word at `offset` is `expected`, at most `timeout`.
    pub fn wait(&self, offset: usize, expected: u32, timeout: Duration) {
        self.memory.wait(offset, expected, timeout);
    }
}

/// The server's view of the region that a plugin writes. No method returns a reference.
#[derive(Debug)]
pub struct UntrustedRegion {
    memory: Memory,
    #[cfg(any(test, feature = "fuzzing"))]
    before_load: Hook,
}

impl UntrustedRegion {
    /// Maps the whole of `fd`, `len` bytes, read-only.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn map(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        Memory::map(fd, len, ProtFlags::PROT_READ).map(Self::over)
    }

    fn over(memory: Memory) -> Self {
        Self {
            memory,
            #[cfg(any(test, feature = "fuzzing"))]
            before_load: Hook::default(),
        }
    }

    /// Loads a word once. Acquire: pairs with an honest peer's Release store.
    #[must_use]
    #[inline]
    pub fn load_u64(&self, offset: usize) -> u64 {
        #[cfg(any(test, feature = "fuzzing"))]
        self.before_load.run(offset);
        self.memory.load(offset, Ordering::Acquire)
    }

    /// Copies `len` bytes from `offset` on (a multiple of 8) into private memory, each word read once.
    ///
    /// # Panics
    /// When the range is outside the region.
    pub fn copy(&self, offset: usize, len: usize, out: &mut PrivateCopy) {
        let words = len.div_ceil(8);
        out.len = len;
        out.words.clear();
        #[cfg(any(test, feature = "fuzzing"))]
        if self.before_load.is_set() {
            out.words.extend((0..words).map(|word| self.load_u64(offset + word * 8)));
            return;
        }
        self.memory.copy(offset, words, &mut out.words);
    }

    /// Sleeps while the low half of the word at `offset` is `expected`, at most `timeout`. A wake-up is a hint.
    pub fn wait(&self, offset: usize, expected: u32, timeout: Duration) {
        self.memory.wait(offset, expected, timeout);
    }

    /// Wakes this process's own threads that wait on the word at `offset`.
    pub fn wake_waiters(&self, offset: usize) {
        self.memory.wake(offset, i32::MAX);
    }

    /// Runs `hook` with the offset of each word before it is loaded: to count the loads, and to change the memory
    /// between any two of them.
    #[cfg(any(test, feature = "fuzzing"))]
    #[must_use]
    pub fn before_each_load(mut self, hook: impl Fn(usize) + Send + Sync + 'static) -> Self {
        self.before_load = Hook(Some(Box::new(hook)));
        self
    }
}

#[cfg(any(test, feature = "fuzzing"))]
#[derive(Default)]
struct Hook(Option<Box<dyn Fn(usize) + Send + Sync>>);

#[cfg(any(test, feature = "fuzzing"))]
impl Hook {
    fn is_set(&self) -> bool {
        self.0.is_some()
    }

    fn run(&self, offset: usize) {
        self.0.iter().for_each(|hook| hook(offset));
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_set() { "Hook" } else { "no hook" })
    }
}

/// Bytes copied out of an [`UntrustedRegion`], 8-byte aligned. Reused from call to call.
#[derive(Debug, Default)]
pub struct PrivateCopy {
    words: Vec<u64>,
    len: usize,
}

impl PrivateCopy {
    /// A copy of bytes that were put together elsewhere.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut words = vec![0_u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self { words, len: bytes.len() }
    }

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
    let len = i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    nix::unistd::ftruncate(&fd, len)?;
    if may_refuse_pages() {
        nix::fcntl::fallocate(&fd, FallocateFlags::empty(), 0, len)?;
    }
    Ok(fd)
}

/// Whether the kernel counts what it has promised, and so may refuse a page that is touched. So does one that can't be
/// asked.
fn may_refuse_pages() -> bool {
    let policy = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    !matches!(policy.trim(), "0" | "1")
}

fn seal(fd: &OwnedFd, more: SealFlag) -> io::Result<()> {
    let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL | more;
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(())
}

/// The ends of one region on the heap, for loom and Miri: the writer's, the plugin's view and the server's view.
#[cfg(any(loom, miri))]
pub(crate) struct OnHeap(Memory);

#[cfg(any(loom, miri))]
impl OnHeap {
    pub(crate) fn new(len: usize) -> Self {
        Self(Memory::new(len))
    }

    pub(crate) fn own(&self) -> OwnRegion {
        OwnRegion { memory: Arc::new(self.0.clone()), carved: 0 }
    }

    pub(crate) fn trusted(&self) -> TrustedRegion {
        TrustedRegion { memory: self.0.clone() }
    }

    pub(crate) fn untrusted(&self) -> UntrustedRegion {
        UntrustedRegion::over(self.0.clone())
    }

    #[cfg(loom)]
    pub(crate) fn expire(&self) {
        self.0.expire();
    }
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

#[cfg(all(test, not(any(loom, miri))))]
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
