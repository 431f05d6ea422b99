//! Processes that try many calls each, because what the filter stops is answered with an errno and they go on.

use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use photondb_plugin_host::probe::program;
use photondb_plugin_host::spawn::{Use, memfd};
use photondb_plugin_host::{DeniedCalls, Descriptors, read_reply, spawn};
use photondb_sandbox_profiles::{Confinement, HostReply, Launch, StartMessage};

use crate::reading::spelled;
use crate::{Try, support};

/// The errno of a stopped call here: none that the kernel has.
pub const STOPPED: i64 = 3999;
const WATCHDOG: PollTimeout = PollTimeout::MAX;

/// How a process that tried one call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Died {
    OfTheFilter,
    Otherwise,
}

/// Tries calls in one confinement.
pub struct Batch {
    confinement: Confinement,
}

impl Batch {
    pub fn new(confinement: Confinement) -> Self {
        Self { confinement }
    }

    /// The result of each call, `None` for those after the one that the process did not survive.
    pub fn run(&self, tries: &[Try]) -> Vec<Option<i64>> {
        let (output, _) = self.script(&format!("each{}", lines(tries)));
        let mut results = vec![None; tries.len()];
        for line in output.lines() {
            let mut words = line.split(' ').skip(1).map_while(|word| word.parse::<i64>().ok());
            if let (Some(index), Some(result)) = (words.next(), words.next()) {
                results[usize::try_from(index).expect("an index")] = Some(result);
            }
        }
        results
    }

    pub fn run_alone(&self, one: &Try) -> Died {
        self.script(&format!("each{}", lines(std::slice::from_ref(one)))).1
    }

    pub fn int80(&self) -> Died {
        self.script("int80").1
    }

    fn script(&self, script: &str) -> (String, Died) {
        let message = StartMessage {
            name: format!("{}{script}", program::PREFIX),
            launch: Launch::Plugin,
            server_pid: std::process::id(),
            waits: false,
            confinement: self.confinement.clone(),
        };
        let message = memfd("start", &serde_json::to_vec(&message).expect("JSON"), Use::Data).expect("memfd");
        let executable = memfd("probe", support::program(), Use::Executable).expect("memfd");
        let (server_region, plugin_region) = support::regions();
        let (mut stdout, their_stdout) = io::pipe().expect("pipe");
        let (report, their_report) = io::pipe().expect("pipe");
        let (_control, their_control) = UnixStream::pair().expect("socketpair");
        let (passing, their_passing) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("socketpair");
        let null = File::options().write(true).open("/dev/null").expect("/dev/null");
        let descriptors = Descriptors {
            stdout: their_stdout.as_fd(),
            stderr: null.as_fd(),
            control: their_control.as_fd(),
            passing: their_passing.as_fd(),
            server_region: server_region.as_fd(),
            plugin_region: plugin_region.as_fd(),
            executable: executable.as_fd(),
            start: message.as_fd(),
            report: their_report.as_fd(),
        };
        let pid = Pid::from_raw(spawn(Path::new(support::HOST), &descriptors).expect("spawn"));
        drop((their_stdout, their_report, their_control, their_passing));
        let reply = read_reply(report);
        assert!(matches!(reply, Ok(HostReply::Report(_))), "{reply:?}");
        let denied = DeniedCalls::receive(passing.as_fd(), Vec::new()).expect("receive").expect("a listener");
        let output = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut output = String::new();
                stdout.read_to_string(&mut output).expect("the probe's output");
                output
            });
            refuse_all(denied.as_fd(), pid);
            reader.join().expect("no panic")
        });
        let died = match waitpid(pid, None).expect("waitpid") {
            WaitStatus::Signaled(_, Signal::SIGSYS, _) => Died::OfTheFilter,
            _ => Died::Otherwise,
        };
        (output, died)
    }
}

fn lines(tries: &[Try]) -> String {
    let line = |it: &Try| {
        it.arguments.iter().fold(format!("\n{}", it.number), |line, argument| format!("{line} {}", spelled(*argument)))
    };
    tries.iter().map(line).collect()
}

/// Answers every stopped call with [`STOPPED`], until nobody uses the filter any more.
fn refuse_all(listener: BorrowedFd<'_>, pid: Pid) {
    loop {
        let mut polled = [PollFd::new(listener, PollFlags::POLLIN)];
        let ready = match poll(&mut polled, PollTimeout::try_from(Duration::from_secs(60)).unwrap_or(WATCHDOG)) {
            Err(nix::Error::EINTR) => continue,
            other => other.expect("poll"),
        };
        if ready == 0 {
            // A call that waits for ever: the test then tells which results are missing.
            kill(pid, Signal::SIGKILL).expect("kill");
            continue;
        }
        if !polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN)) {
            return;
        }
        // SAFETY: integers only, for which zero is a value; the kernel demands a zeroed buffer.
        let mut notification: libc::seccomp_notif = unsafe { mem::zeroed() };
        // SAFETY: the descriptor is borrowed, and the buffer has the size that the request's number contains.
        let received =
            unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notification) };
        if received < 0 {
            continue;
        }
        let error = i32::try_from(-STOPPED).expect("an errno");
        let mut response = libc::seccomp_notif_resp { id: notification.id, val: 0, error, flags: 0 };
        // SAFETY: as above; the kernel reads it during the call. An error means that the thread has died meanwhile.
        let _ = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) };
    }
}
