//! What the server needs of the plugin host: how to start one, what it says, and which calls it had stopped.
//!
//! The binary of this package, `photondb-plugin-host`, confines itself and becomes a plugin. This library is the other
//! end: [`spawn()`] starts it with exactly the descriptors of [`photondb_sandbox_profiles::confinement::fd`], and
//! [`notify`] names the system calls that the kernel stopped in the plugin. [`command`] confines any other program in the
//! same way, [`judge`] says what it would need, and [`probe`] attacks a confinement from within, to show what it stops.
//! [`cgroup`] makes the groups that hosts join, where the server was given a part of the tree.

pub mod cgroup;
pub mod command;
pub mod judge;
#[expect(unsafe_code, reason = "the seccomp listener is read by ioctl, and arrives as a bare descriptor number")]
pub mod notify;
pub mod probe;
pub mod spawn;

pub use cgroup::{Cgroup, Cgroups};
pub use command::{Command, CommandError, Running};
pub use judge::{Judge, RefusedCall};
pub use notify::{DeniedCall, DeniedCalls, Observed};
pub use spawn::{Descriptors, memfd, read_reply, spawn};
