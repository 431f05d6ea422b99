//! Memory that two processes share: a line of words a direction, atomics only.

use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64};

use anyhow::Context;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};

/// The words of one direction: what is said in a line of its own, and a number that says that it is said.
#[repr(C, align(128))]
pub struct Line {
    pub number: AtomicU32,
    /// Not zero while the receiver sleeps.
    pub sleeps: AtomicU32,
    pub payload: Payload,
}

#[repr(C, align(64))]
pub struct Payload(pub [AtomicU64; 8]);

#[repr(C)]
pub struct Lines {
    pub request: Line,
    pub reply: Line,
}

/// Both lines, mapped for as long as the process lives.
pub struct Shared(NonNull<Lines>);

impl Shared {
    pub fn create() -> anyhow::Result<(Self, OwnedFd)> {
        let memory = memfd_create("photondb-peers", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, size_of::<Lines>() as u64)?;
        Ok((Self::map(&memory)?, memory))
    }

    pub fn map(memory: impl AsFd) -> anyhow::Result<Self> {
        let (read_write, len) = (ProtFlags::READ | ProtFlags::WRITE, size_of::<Lines>());
        // SAFETY: a mapping at a place that the kernel chooses touches no memory of ours.
        let mapped = unsafe { mmap(ptr::null_mut(), len, read_write, MapFlags::SHARED, memory, 0) }?;
        Ok(Self(NonNull::new(mapped.cast()).context("nothing is mapped")?))
    }
}

impl Deref for Shared {
    type Target = Lines;

    fn deref(&self) -> &Lines {
        // SAFETY: `map` mapped that many bytes, page aligned and never unmapped; zeros, and whatever the other process
        // stores, are valid atomics, and nothing but atomics is in there.
        unsafe { self.0.as_ref() }
    }
}
