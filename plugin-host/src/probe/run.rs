//! One probe process in one confinement, from its start to its end.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use photondb_sandbox_profiles::confinement::Launch;
use photondb_sandbox_profiles::layers::Report;
use photondb_sandbox_profiles::{Confinement, HostReply, StartMessage};

use crate::notify::{DeniedCall, DeniedCalls};
use crate::spawn::{Descriptors, Use, memfd, read_reply, spawn};

/// What a probe prints is a few lines; a pipe holds this much without a reader.
const MAX_OUTPUT: u64 = 64 << 10;
/// How often a probe's threads are counted, and its end is looked for where there is no listener to tell.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Starts probes in one confinement. They end with the thread that starts them, as plugins do.
#[derive(Debug)]
pub struct Prober {
    host: PathBuf,
    executable: OwnedFd,
    server_region: OwnedFd,
    plugin_region: OwnedFd,
    confinement: Confinement,
}

/// What was seen of one probe.
#[derive(Debug)]
pub struct Run {
    /// What the host had enforced.
    pub report: Report,
    /// The call that was stopped; the probe was killed for it.
    pub stopped: Option<DeniedCall>,
    /// What it printed.
    pub output: String,
    /// What it printed to standard error: a panic, at most.
    pub errors: String,
    /// How it ended.
    pub end: End,
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself.
    Exited(i32),
    /// By a signal; SIGKILL where it was stopped.
    Signaled(Signal),
    /// It was killed because it had more threads than the plugin may have.
    TooManyThreads(u64),
    /// It was killed because it did not end.
    TimedOut,
}

impl Run {
    /// The first line of what it had to complain about.
    pub(super) fn error_line(&self) -> &str {
        self.errors.lines().next().unwrap_or("no message")
    }
}

impl Prober {
    /// `host`: `photondb-plugin-host`. `probe`: the program to become, whose `main` calls [`program`](super::program):
    /// the host itself, if it is a static executable. The regions are as a plugin's, at least a page each.
    ///
    /// # Errors
    /// If there is no memory for a copy of the program.
    pub fn new(host: &Path, probe: &[u8], regions: (OwnedFd, OwnedFd), confinement: Confinement) -> io::Result<Self> {
        let executable = memfd("probe", probe, Use::Executable)?;
        let (server_region, plugin_region) = regions;
        Ok(Self { host: host.to_owned(), executable, server_region, plugin_region, confinement })
    }

    /// Runs `script` to its end, at most for `timeout`.
    ///
    /// # Errors
    /// If the host cannot be started, or refuses: its own sentence.
    pub fn run(&self, script: &str, timeout: Duration) -> io::Result<Run> {
        let deadline = Instant::now() + timeout;
        let mut probe = self.start(script)?;
        probe.wait_for_report(deadline)?;
        let report = match read_reply(&probe.report)? {
            HostReply::Report(report) => report,
            HostReply::Error(message) => return Err(io::Error::other(message)),
        };
        let denied = DeniedCalls::receive(probe.passing.as_fd(), self.confinement.excused.clone())?;
        let (stopped, end) = probe.watch(denied.as_ref(), deadline, self.confinement.threads_max)?;
        Ok(Run { report, stopped, output: all_of(&probe.stdout)?, errors: all_of(&probe.stderr)?, end })
    }

    fn start(&self, script: &str) -> io::Result<Probe> {
        let message = StartMessage {
            name: script.to_owned(),
            launch: Launch::Plugin,
            server_pid: std::process::id(),
            waits: false,
            confinement: self.confinement.clone(),
        };
        let message = memfd("start", &serde_json::to_vec(&message)?, Use::Data)?;
        let ((stdout, their_stdout), (stderr, their_stderr)) = (io::pipe()?, io::pipe()?);
        let (report, their_report) = io::pipe()?;
        let (control, their_control) = UnixStream::pair()?;
        let (passing, their_passing) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let descriptors = Descriptors {
            stdout: their_stdout.as_fd(),
            stderr: their_stderr.as_fd(),
            control: their_control.as_fd(),
            passing: their_passing.as_fd(),
            server_region: self.server_region.as_fd(),
            plugin_region: self.plugin_region.as_fd(),
            executable: self.executable.as_fd(),
            start: message.as_fd(),
            report: their_report.as_fd(),
        };
        let pid = Pid::from_raw(spawn(&self.host, &descriptors)?);
        Ok(Probe { pid, status: None, stdout, stderr, report, passing, _control: control })
    }
}

/// A child that is killed and reaped on drop.
struct Probe {
    pid: Pid,
    status: Option<WaitStatus>,
    stdout: io::PipeReader,
    stderr: io::PipeReader,
    report: io::PipeReader,
    passing: OwnedFd,
    _control: UnixStream,
}

impl Probe {
    /// Waits until the host has said something, or died.
    fn wait_for_report(&self, deadline: Instant) -> io::Result<()> {
        if is_readable(self.report.as_fd(), deadline)? {
            return Ok(());
        }
        // The reader then sees the end of it.
        let _ = kill(self.pid, Signal::SIGKILL);
        Ok(())
    }

    /// Until it has ended: by itself, or because it was killed for what it tried.
    fn watch(
        &mut self,
        denied: Option<&DeniedCalls>,
        deadline: Instant,
        threads_max: u64,
    ) -> io::Result<(Option<DeniedCall>, End)> {
        let (mut stopped, mut forced) = (None, None);
        loop {
            match denied.map(|denied| denied.wait(LOOK_EVERY)) {
                Some(Ok(None)) => {}
                Some(Ok(Some(call))) => {
                    stopped.get_or_insert(call);
                    let _ = kill(self.pid, Signal::SIGKILL);
                }
                // Nobody uses the filter any more, or there is none: it has ended, or soon will have.
                Some(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
                Some(Err(_)) | None => thread::sleep(Duration::from_millis(1)),
            }
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::StillAlive => {}
                status => {
                    self.status = Some(status);
                    return Ok((stopped, forced.unwrap_or_else(|| end(status))));
                }
            }
            let threads = threads(self.pid);
            if forced.is_none() && threads > threads_max {
                forced = Some(End::TooManyThreads(threads));
            } else if forced.is_none() && Instant::now() >= deadline {
                forced = Some(End::TimedOut);
            }
            if forced.is_some() {
                let _ = kill(self.pid, Signal::SIGKILL);
            }
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if self.status.is_none() {
            // Not reaped, so the number is still this child's.
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

fn end(status: WaitStatus) -> End {
    match status {
        WaitStatus::Signaled(_, signal, _) => End::Signaled(signal),
        WaitStatus::Exited(_, code) => End::Exited(code),
        _ => End::TimedOut,
    }
}

/// 0: it has ended.
fn threads(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let count = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn is_readable(descriptor: BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(descriptor, PollFlags::POLLIN)], left) {
            Ok(0) if Instant::now() < deadline => {}
            Err(nix::Error::EINTR) => {}
            Ok(ready) => return Ok(ready > 0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What is in the pipe of a process that has ended; whoever else might hold its other end is not waited for.
fn all_of(pipe: &io::PipeReader) -> io::Result<String> {
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut bytes = Vec::new();
    match pipe.take(MAX_OUTPUT).read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
