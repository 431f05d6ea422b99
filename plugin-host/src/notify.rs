//! Calls that the kernel stopped in a plugin, by name, from a source that the plugin cannot forge.
//!
//! The filter answers attacks with SECCOMP_RET_USER_NOTIF: the kernel does not run the call, keeps the calling thread
//! waiting, and tells the listener. Our answer to a plugin is never "continue", so nothing can be gained by changing the
//! arguments meanwhile: the supervisor records the call and kills the process.
//!
//! The one exception is a list of files that honest language runtimes open by habit (`/proc/self/maps` before `main`).
//! Those opens get EPERM, as they would from an ordinary filter, and the plugin goes on. That the plugin could change
//! the path while we read it gives it nothing: both answers refuse.
//!
//! A command (`photondb sandbox run`) is told on: its filter notifies of opens and the like too, with the answer that is
//! due already decided by the registers, which nobody can change. "Continue" is only for what the filter lets through by
//! them, and Landlock then looks at the path, whatever it has become. Learning mode continues with all, and confines nothing.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fmt, mem};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use photondb_sandbox_profiles::confinement::LISTENER_PACKET;
use photondb_sandbox_profiles::syscalls;
use photondb_sandbox_profiles::verdict::Verdict;

use crate::judge::{Judge, RefusedCall};

/// After so many excused calls (some 0.1 s of our time) the next one is reported as denied: a plugin must not keep its
/// supervisor busy. Honest ones make a few for each thread that they start at once.
const MAX_EXCUSED: u32 = 1024;
/// Longer paths are cut.
const MAX_PATH: usize = 256;
const PAGE: u64 = 4096;
/// SECCOMP_USER_NOTIF_FLAG_CONTINUE.
const CONTINUE: u32 = 1;

/// A system call that was stopped. It has not run, and never will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeniedCall {
    /// The id of the calling **thread**, as the listener's process sees it.
    pub pid: u32,
    /// The call's number.
    pub syscall: i32,
    /// Its name, or `call N` where we know none.
    pub name: String,
    /// All six argument registers.
    pub args: [u64; 6],
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// For calls that take a path: what it was. The plugin's own word, at most 256 bytes, control characters escaped:
    /// fit to be shown, not to be relied on.
    pub path: Option<String>,
}

impl fmt::Display for DeniedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}(\"{path}\")", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A call of a command that did not get what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// It got an errno, and the command goes on.
    Refused(RefusedCall),
    /// It waits, for the command to be killed.
    Stopped(DeniedCall),
}

/// The listener of one plugin process. Dropping it lets waiting calls fail with ENOSYS: they still do not run.
#[derive(Debug)]
pub struct DeniedCalls {
    listener: OwnedFd,
    excused: Vec<String>,
    excuses: AtomicU32,
}

impl DeniedCalls {
    /// `excused`: [`Confinement::excused`](photondb_sandbox_profiles::Confinement::excused) of the same process.
    pub fn new(listener: OwnedFd, excused: Vec<String>) -> Self {
        Self { listener, excused, excuses: AtomicU32::new(0) }
    }

    /// Takes the listener from the server's end of the descriptor socket, after the host's report. `None`: the packet
    /// there is another, or there is none. Does not wait: a host sends it before it reports.
    ///
    /// # Errors
    /// If the socket cannot be read.
    pub fn receive(passing: BorrowedFd<'_>, excused: Vec<String>) -> io::Result<Option<Self>> {
        let mut payload = [0; LISTENER_PACKET.len() + 1];
        let mut control = nix::cmsg_space!(RawFd);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let mut parts = [IoSliceMut::new(&mut payload)];
        let message = match recvmsg::<()>(passing.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Ok(message) => message,
            Err(nix::Error::EAGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let length = message.bytes;
        let mut descriptors = Vec::new();
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = part {
                for number in numbers {
                    // SAFETY: the kernel has just made these numbers for us, in this message, and nobody else has them.
                    descriptors.push(unsafe { OwnedFd::from_raw_fd(number) });
                }
            }
        }
        let is_ours = payload.get(..length) == Some(LISTENER_PACKET) && descriptors.len() == 1;
        Ok(descriptors.pop().filter(|_| is_ours).map(|listener| Self::new(listener, excused)))
    }

    /// Waits for the next call that was stopped, at most `timeout`. `None`: there was none.
    ///
    /// The caller's part is to record it and to send SIGKILL. One thread at a time may wait.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] once no process uses the filter any more: the plugin is gone.
    pub fn wait(&self, timeout: Duration) -> io::Result<Option<DeniedCall>> {
        self.wait_for(timeout, |notification| self.judge(notification))
    }

    /// Answers every call of a command with what its filter decided, and returns the first that it, or Landlock, refuses, or
    /// that is to be stopped, which waits on; `None`: there was none within `timeout`. `judge`: of this command's own
    /// confinement.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn observe(&self, judge: &Judge, timeout: Duration) -> io::Result<Option<Observed>> {
        self.wait_for(timeout, |notification| {
            let Some(call) = self.describe(notification) else { return Ok(None) };
            let Some(due) = judge.told(&call) else { return Ok(Some(Observed::Stopped(call))) };
            let refused = judge.judge(&call);
            let answer = match due {
                Verdict::Allow => Answer::Continue,
                Verdict::Errno(errno) => Answer::Refuse(errno.cast_signed()),
                Verdict::Stop | Verdict::Kill => return Ok(Some(Observed::Stopped(call))),
            };
            self.answer(notification.id, answer)?;
            Ok(refused.map(Observed::Refused))
        })
    }

    /// Lets every call through that `judge`'s filter asked about, and returns the first that its profile would have
    /// refused; `None`: there was none within `timeout`. Use it with a program that runs with
    /// [`Learning::confinement`](photondb_sandbox_profiles::Learning::confinement) only: **the program can do whatever
    /// its user can.**
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn learn(&self, judge: &Judge, timeout: Duration) -> io::Result<Option<RefusedCall>> {
        self.wait_for(timeout, |notification| {
            let call = self.describe(notification);
            let learned = call.as_ref().and_then(|call| judge.judge(call));
            self.answer(notification.id, Answer::Continue)?;
            Ok(learned)
        })
    }

    fn wait_for<T>(
        &self,
        timeout: Duration,
        judge: impl Fn(&libc::seccomp_notif) -> io::Result<Option<T>>,
    ) -> io::Result<Option<T>> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // One millisecond more, so that a wait does not end just before its deadline and poll again in vain.
            let left = PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX);
            let mut polled = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, left) {
                Ok(0) if Instant::now() >= deadline => return Ok(None),
                Ok(0) | Err(nix::Error::EINTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            let events = polled[0].revents().unwrap_or(PollFlags::empty());
            if !events.contains(PollFlags::POLLIN) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(notification) = self.receive_notification()?
                && let Some(call) = judge(&notification)?
            {
                return Ok(Some(call));
            }
        }
    }

    /// The call, unless it is one to excuse, which is answered here.
    fn judge(&self, notification: &libc::seccomp_notif) -> io::Result<Option<DeniedCall>> {
        let data = &notification.data;
        let name = syscalls::describe(data.arch, data.nr);
        let argument = syscalls::path_argument(&name);
        let path = argument.map(|argument| read_path(notification.pid, data.args[argument]));
        // The thread may have died and its number been given to another process while we read that one's memory.
        if path.is_some() && !self.is_waiting(notification.id) {
            return Ok(None);
        }
        let excusable = matches!(name.as_str(), "open" | "openat")
            && match &path {
                Some(Ok(path)) => self.excused.iter().any(|excused| excused.as_bytes() == path.as_slice()),
                // Not allowed to look (Yama): believe the few read-only opens that a runtime makes. They are refused.
                Some(Err(_)) => data.args[argument.unwrap_or(0) + 1] & 0o3 == 0,
                None => false,
            };
        if excusable && self.excuses.fetch_add(1, Ordering::Relaxed) < MAX_EXCUSED {
            self.answer(notification.id, Answer::Refuse(libc::EPERM))?;
            return Ok(None);
        }
        Ok(Some(denied_call(notification, name, path)))
    }

    /// The call as it is; `None` if its thread is gone.
    fn describe(&self, notification: &libc::seccomp_notif) -> Option<DeniedCall> {
        let data = &notification.data;
        let name = syscalls::describe(data.arch, data.nr);
        let path = syscalls::path_argument(&name).map(|argument| read_path(notification.pid, data.args[argument]));
        let call = denied_call(notification, name, path);
        self.is_waiting(notification.id).then_some(call)
    }

    /// `None`: the thread was killed before we came.
    fn receive_notification(&self) -> io::Result<Option<libc::seccomp_notif>> {
        // SAFETY: integers only, for which zero is a value; the kernel demands a zeroed buffer.
        let mut notification: libc::seccomp_notif = unsafe { mem::zeroed() };
        let request = libc::SECCOMP_IOCTL_NOTIF_RECV;
        // SAFETY: the descriptor is open while `self` lives, and `notification` has the size that the request's number
        // contains, which is all that the kernel writes.
        let status = unsafe { libc::ioctl(self.listener.as_raw_fd(), request, &raw mut notification) };
        match done(status) {
            Ok(()) => Ok(Some(notification)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the thread of notification `id` still waits for our answer.
    fn is_waiting(&self, id: u64) -> bool {
        // SAFETY: the kernel reads eight bytes, those of `id`.
        let status =
            unsafe { libc::ioctl(self.listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) };
        status == 0
    }

    fn answer(&self, id: u64, answer: Answer) -> io::Result<()> {
        let (error, flags) = match answer {
            Answer::Refuse(errno) => (-errno, 0),
            Answer::Continue => (0, CONTINUE),
        };
        let mut response = libc::seccomp_notif_resp { id, val: 0, error, flags };
        // SAFETY: `response` has the size that the request's number contains; the kernel reads it during the call.
        let status =
            unsafe { libc::ioctl(self.listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) };
        match done(status) {
            // Killed meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }
}

impl AsFd for DeniedCalls {
    /// Readable when a call waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// What a waiting call gets.
#[derive(Clone, Copy)]
enum Answer {
    /// This errno.
    Refuse(i32),
    /// It is made: what a command's filter lets through, and everything in learning mode.
    Continue,
}

/// `path`: what was read of it, if the call takes one.
fn denied_call(notification: &libc::seccomp_notif, name: String, path: Option<io::Result<Vec<u8>>>) -> DeniedCall {
    let shown = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).escape_debug().to_string();
    let data = &notification.data;
    DeniedCall {
        pid: notification.pid,
        syscall: data.nr,
        name,
        args: data.args,
        arch: data.arch,
        path: path.and_then(Result::ok).map(shown),
    }
}

fn done(status: libc::c_int) -> io::Result<()> {
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The zero-terminated bytes at `address` of thread `pid`, page by page, since the next page may not exist.
fn read_path(pid: u32, address: u64) -> io::Result<Vec<u8>> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut path = Vec::new();
    let mut at = address;
    while path.len() < MAX_PATH {
        let to_page_end = usize::try_from(PAGE - at % PAGE).unwrap_or(MAX_PATH);
        let mut chunk = [0; MAX_PATH];
        let wanted = to_page_end.min(MAX_PATH - path.len());
        let read = match memory.read_at(&mut chunk[..wanted], at) {
            Ok(read) => read,
            // Not mapped: the kernel would have answered EFAULT. What there is, is the path.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => break,
            Err(error) => return Err(error),
        };
        let text = &chunk[..read];
        if let Some(end) = text.iter().position(|byte| *byte == 0) {
            path.extend_from_slice(&text[..end]);
            break;
        }
        path.extend_from_slice(text);
        if read == 0 {
            break;
        }
        at = at.wrapping_add(wanted as u64);
    }
    Ok(path)
}
