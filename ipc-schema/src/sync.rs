//! The only door to atomics and locks of the lanes: the standard library's, or loom's where a model explores every order
//! in which threads can run and stores can be seen (`--cfg loom`, see [`lane`](crate::lane)).

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, fence};
#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use std::sync::atomic::Ordering;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, fence};
// loom's own has no `self: &Arc<Self>`; nothing here depends on the order in which the last owners let go.
pub(crate) use std::sync::{Arc, PoisonError};
#[cfg(not(loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
