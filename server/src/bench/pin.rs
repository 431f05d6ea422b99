//! Which core something runs on.

use std::fs;

use anyhow::Context;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// This thread is itself, to the kernel.
const THIS_THREAD: Pid = Pid::from_raw(0);

/// Keeps this thread on one core until it is dropped. Threads and processes that it starts meanwhile stay there.
pub struct Pinned(CpuSet);

impl Pinned {
    /// Moves this thread to `core`, counted from 0.
    ///
    /// # Errors
    /// When it may not run there.
    pub fn to(core: usize) -> anyhow::Result<Self> {
        let before = sched_getaffinity(THIS_THREAD).context("cannot tell which cores this thread may use")?;
        set(THIS_THREAD, core)?;
        Ok(Self(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // The cores it was allowed before.
        let _ = sched_setaffinity(THIS_THREAD, &self.0);
    }
}

/// Moves every thread of a process to `core`, counted from 0.
///
/// # Errors
/// When it may not run there, or is another user's and we are not root.
pub fn pin_process(pid: u32, core: usize) -> anyhow::Result<()> {
    let tasks = format!("/proc/{pid}/task");
    for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
        let name = task?.file_name();
        let thread = name.to_str().and_then(|name| name.parse().ok()).context("a thread without a number")?;
        set(Pid::from_raw(thread), core)?;
    }
    Ok(())
}

fn set(thread: Pid, core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    sched_setaffinity(thread, &cores).with_context(|| format!("cannot move thread {thread} to core {core}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_its_cores_back() {
        let before = sched_getaffinity(THIS_THREAD).unwrap();
        let allowed = (0..CpuSet::count()).find(|&core| before.is_set(core).unwrap()).unwrap();
        let pinned = Pinned::to(allowed).unwrap();
        let mut only = CpuSet::new();
        only.set(allowed).unwrap();
        assert_eq!(sched_getaffinity(THIS_THREAD).unwrap(), only);
        drop(pinned);
        assert_eq!(sched_getaffinity(THIS_THREAD).unwrap(), before);
    }
}
