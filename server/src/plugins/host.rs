//! A plugin host, spawned and on its way to becoming a plugin, or standing by to do so.
//!
//! A host that stands by has confined itself, and waits just before it executes the plugin: what a start costs beyond
//! the plugin's own is then behind it, and nobody waits for that when a plugin has died.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use photondb_ipc_schema::lane::{Lane, Traffic};
use photondb_ipc_schema::layout::Layout;
use photondb_ipc_schema::region;
use photondb_ipc_schema::wake::Spin;
use photondb_plugin_host::spawn::{Use, memfd};
use photondb_plugin_host::{Cgroup, Descriptors};
use photondb_sandbox_profiles::{Confinement, HostReply, Launch, Report, StartMessage};
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;

use super::discover::Package;
use super::ending::describe;
use super::process::{StartError, failed, refused};

/// Calls in flight on a lane.
const LANE_DEPTH: usize = 8;
/// The payload of a call, in each direction.
const LANE_BUFFER_BYTES: usize = 1 << 20;
/// A report of a host is a few hundred bytes.
const MAX_REPORT: usize = 64 << 10;

/// A host and the server's ends of all that it was given. It is killed on drop.
pub struct Host {
    pub(super) child: Child,
    pub(super) layout: Layout,
    pub(super) lanes: Vec<Arc<Lane>>,
    pub(super) control: StdUnixStream,
    pub(super) passing: OwnedFd,
    pub(super) stdout: io::PipeReader,
    pub(super) stderr: io::PipeReader,
    pub(super) report: ReportSocket,
    pub(super) excused: Vec<String>,
    pub(super) threads_max: u64,
    /// Removed after the process has been reaped, which is why it stands after `child`.
    pub(super) cgroup: Option<Cgroup>,
}

/// How to make a [`Host`].
pub struct HostPlan<'a> {
    /// `photondb-plugin-host`.
    pub host: &'a Path,
    /// How to confine.
    pub confinement: Confinement,
    /// The group that the confinement joins.
    pub cgroup: Option<Cgroup>,
    /// One lane each.
    pub threads: u32,
    /// Whether it stands by, until it is told to begin.
    pub waits: bool,
    /// Counts what goes through its lanes.
    pub traffic: &'a Traffic,
}

impl Host {
    /// Spawns a host of `package`, and waits for nothing.
    ///
    /// # Errors
    /// With the reason, and whether another try could help. Nothing is left of the process then.
    pub fn spawn(package: &Package, plan: HostPlan<'_>) -> Result<Self, StartError> {
        let name = package.manifest.plugin.name.as_str();
        let io_failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| failed(name, format!("{what}: {error}"))
        };
        let layout = Layout::new(plan.threads as usize, LANE_DEPTH, LANE_BUFFER_BYTES)
            .ok_or_else(|| refused(name, "no lanes with so many threads"))?;
        let memory = "making its shared memory";
        let (own, own_fd) = region::server_written(name, layout.region_bytes()).map_err(io_failed(memory))?;
        let (peer, peer_fd) = region::plugin_written(name, layout.region_bytes()).map_err(io_failed(memory))?;
        // Before the plugin starts: it reads the layout from its region.
        let lanes = Lane::all(layout, own, peer, Spin::for_this_machine(), plan.traffic);
        let (waits, server_pid, confinement) = (plan.waits, std::process::id(), plan.confinement);
        let (excused, threads_max) = (confinement.excused.clone(), confinement.threads_max);
        let start = StartMessage { name: name.into(), launch: Launch::Plugin, server_pid, waits, confinement };
        let start = serde_json::to_vec(&start).map_err(|error| failed(name, error.to_string()))?;
        let start = memfd("start", &start, Use::Data).map_err(io_failed("making its start message"))?;
        let pair = || StdUnixStream::pair().map_err(io_failed("making its sockets"));
        let ((control, theirs), (report, their_report)) = (pair()?, pair()?);
        let (passing, their_passing) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|error| io_failed("making its sockets")(error.into()))?;
        let pipes = || io::pipe().map_err(io_failed("making its pipes"));
        let ((stdout, their_stdout), (stderr, their_stderr)) = (pipes()?, pipes()?);
        let descriptors = Descriptors {
            stdout: their_stdout.as_fd(),
            stderr: their_stderr.as_fd(),
            control: theirs.as_fd(),
            passing: their_passing.as_fd(),
            server_region: own_fd.as_fd(),
            plugin_region: peer_fd.as_fd(),
            executable: package.executable.as_fd(),
            start: start.as_fd(),
            report: their_report.as_fd(),
        };
        let starting = format!("starting {}", plan.host.display());
        let pid = photondb_plugin_host::spawn(plan.host, &descriptors).map_err(io_failed(&starting))?;
        let child = Child::new(pid).map_err(io_failed("watching its process"))?;
        let (report, cgroup) = (ReportSocket { socket: report, waits }, plan.cgroup);
        Ok(Self { child, layout, lanes, control, passing, stdout, stderr, report, excused, threads_max, cgroup })
    }

    /// Whether it can still become the plugin.
    pub(super) fn is_alive(&self) -> bool {
        self.child.reap().is_none()
    }
}

/// A child process that is killed and reaped on drop.
pub(super) struct Child {
    pid: i32,
    pidfd: AsyncFd<OwnedFd>,
}

impl Child {
    pub(super) fn new(pid: i32) -> io::Result<Self> {
        let process = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        // Not reaped yet, so the number is still this process's.
        let pidfd = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).inspect_err(|_| {
            // Out of descriptors: nothing that could be watched, or reaped later, may go on.
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
            let _ = waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED);
        })?;
        #[expect(deprecated, reason = "sound for an OwnedFd; its successor is an unsafe function")]
        let pidfd = AsyncFd::new(pidfd)?;
        Ok(Self { pid, pidfd })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    pub(super) fn kill(&self) {
        // An error means that it is dead already.
        let _ = rustix::process::pidfd_send_signal(self.pidfd.get_ref(), rustix::process::Signal::KILL);
    }

    pub(super) fn reap(&self) -> Option<WaitStatus> {
        waitid(Id::PIDFd(self.pidfd.get_ref().as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)
            .ok()
            .filter(|status| *status != WaitStatus::StillAlive)
    }

    pub(super) async fn exited(&self) -> WaitStatus {
        loop {
            if let Some(status) = self.reap() {
                return status;
            }
            match self.pidfd.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return WaitStatus::Exited(Pid::from_raw(self.pid), -1),
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        // SIGKILL takes effect at once or within a page fault; a process that is reaped already is an error.
        let _ = waitid(Id::PIDFd(self.pidfd.get_ref().as_fd()), WaitPidFlag::WEXITED);
    }
}

/// Where a host reports, and hears that the plugin is wanted.
pub(super) struct ReportSocket {
    socket: StdUnixStream,
    waits: bool,
}

impl ReportSocket {
    /// Lets a host that stands by become the plugin.
    pub(super) fn begin(&mut self) {
        if std::mem::take(&mut self.waits) {
            // One that is gone is noticed by its report.
            let _ = io::Write::write_all(&mut self.socket, &[1]);
        }
    }

    /// What the host said before it became the plugin.
    pub(super) async fn read(self, child: &Child, name: &str) -> Result<Report, StartError> {
        let unreadable = |error| failed(name, format!("reading the host's report: {error}"));
        let mut text = Vec::new();
        self.socket.set_nonblocking(true).map_err(unreadable)?;
        let socket = tokio::net::UnixStream::from_std(self.socket).map_err(unreadable)?;
        socket.take(MAX_REPORT as u64).read_to_end(&mut text).await.map_err(unreadable)?;
        match photondb_plugin_host::read_reply(text.as_slice()) {
            Ok(HostReply::Report(report)) => Ok(report),
            // The sandbox, or the executable, is not as it must be: the same will happen again.
            Ok(HostReply::Error(reason)) => Err(refused(name, reason)),
            Err(_) => {
                let ended = describe(child.exited().await);
                Err(failed(name, format!("the plugin host ended without a report: {ended}")))
            }
        }
    }
}
