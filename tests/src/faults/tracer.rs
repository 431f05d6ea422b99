//! Stops a process at each of its system calls.

use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::errno::Errno;
use nix::libc::{self, c_long, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::recorder::Recorder;
use super::{Fault, Record, Seen};

/// Longer than any engine takes for its work, also traced and on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Records what is done below `root`, if there is one.
pub(super) fn trace(
    child: &mut Child,
    pid: Pid,
    fault: Option<(usize, Fault)>,
    root: Option<&Path>,
) -> anyhow::Result<Seen> {
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options)?;
    ptrace::interrupt(pid).context("ptrace")?;
    let recorder = root.map(|root| Recorder::new(pid, root)).transpose()?;
    let found = recorder.as_ref().map_or(0, |recorder| recorder.ops.len());
    let (ended, timeout) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        let is_late = timeout.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
        if is_late {
            let _ = kill(pid, Signal::SIGKILL);
        }
        is_late
    });
    child.stdin.take().context("its input")?.write_all(b"go\n")?;
    let mut tracer = Tracer { pid, fault, calls: 0, at: None, injected: None, recorder };
    let mut is_success = false;
    loop {
        match waitpid(None, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::PtraceSyscall(thread)) => tracer.called(thread)?,
            Ok(WaitStatus::PtraceEvent(thread, ..)) => go_on(thread, None)?,
            Ok(WaitStatus::Stopped(thread, signal)) => go_on(thread, Some(signal))?,
            Ok(WaitStatus::Exited(ended, code)) if ended == pid => is_success = code == 0,
            Ok(_) => {}
            Err(Errno::ECHILD) => break,
            Err(Errno::EINTR) => {}
            Err(error) => bail!("waiting: {error}"),
        }
    }
    drop(ended);
    ensure!(!watchdog.join().unwrap_or_default(), "it did not end within {PATIENCE:?}");
    let ops = tracer.recorder.map(|recorder| recorder.ops).unwrap_or_default();
    Ok(Seen { calls: tracer.calls, at: tracer.at, is_success, record: Record { ops, found } })
}

/// A thread that was killed meanwhile is gone, which is no error.
fn go_on(thread: Pid, signal: Option<Signal>) -> anyhow::Result<()> {
    match ptrace::syscall(thread, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => bail!("ptrace: {error}"),
    }
}

struct Tracer {
    pid: Pid,
    fault: Option<(usize, Fault)>,
    calls: usize,
    at: Option<c_long>,
    /// The thread whose call something happens to, and what.
    injected: Option<(Pid, Fault)>,
    recorder: Option<Recorder>,
}

impl Tracer {
    /// A thread enters a call, or leaves it.
    fn called(&mut self, thread: Pid) -> anyhow::Result<()> {
        let Ok(registers) = ptrace::getregs(thread) else { return go_on(thread, None) };
        if let Some((injected, fault)) = self.injected
            && injected == thread
        {
            self.injected = None;
            return self.leave(thread, registers, fault);
        }
        // What the kernel puts there when a call is entered; no call that is counted answers so.
        let is_entered = registers.rax.cast_signed() == -i64::from(libc::ENOSYS);
        if let Some(recorder) = &mut self.recorder {
            recorder.called(thread, &registers, is_entered)?;
        }
        if is_entered && changes_files(&registers) {
            self.calls += 1;
            if let Some((number, fault)) = self.fault
                && number == self.calls
            {
                self.at = Some(registers.orig_rax.cast_signed());
                return self.enter(thread, registers, fault);
            }
        }
        go_on(thread, None)
    }

    fn enter(&mut self, thread: Pid, mut registers: user_regs_struct, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Kill => return self.kill(),
            Fault::Tear if is_write(registers.orig_rax) && registers.rdx > 1 => registers.rdx /= 2,
            Fault::Tear => {}
            Fault::Fail => {
                // No such call: the kernel does nothing.
                registers.orig_rax = u64::MAX;
            }
        }
        ptrace::setregs(thread, registers).context("ptrace")?;
        self.injected = Some((thread, fault));
        go_on(thread, None)
    }

    fn leave(&mut self, thread: Pid, mut registers: user_regs_struct, fault: Fault) -> anyhow::Result<()> {
        if fault == Fault::Tear {
            return self.kill();
        }
        let syncs = [libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_sync_file_range];
        let error = if self.at.is_some_and(|at| syncs.contains(&at)) { libc::EIO } else { libc::ENOSPC };
        registers.rax = (-i64::from(error)).cast_unsigned();
        ptrace::setregs(thread, registers).context("ptrace")?;
        go_on(thread, None)
    }

    fn kill(&self) -> anyhow::Result<()> {
        kill(self.pid, Signal::SIGKILL).context("killing it")
    }
}

fn is_write(number: u64) -> bool {
    matches!(number.cast_signed(), libc::SYS_write | libc::SYS_pwrite64)
}

fn changes_files(registers: &user_regs_struct) -> bool {
    match registers.orig_rax.cast_signed() {
        // Beside what it prints.
        libc::SYS_write | libc::SYS_writev => registers.rdi > 2,
        libc::SYS_openat => registers.rdx & libc::O_CREAT as u64 != 0,
        number => [
            libc::SYS_pwrite64,
            libc::SYS_pwritev,
            libc::SYS_pwritev2,
            libc::SYS_fsync,
            libc::SYS_fdatasync,
            libc::SYS_sync_file_range,
            libc::SYS_ftruncate,
            libc::SYS_fallocate,
            libc::SYS_copy_file_range,
            libc::SYS_rename,
            libc::SYS_renameat,
            libc::SYS_renameat2,
            libc::SYS_unlink,
            libc::SYS_unlinkat,
            libc::SYS_mkdir,
            libc::SYS_mkdirat,
            libc::SYS_link,
            libc::SYS_linkat,
        ]
        .contains(&number),
    }
}
