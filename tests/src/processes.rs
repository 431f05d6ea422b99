//! What runs on this machine.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{self, WATCHDOG};

/// A process: its number, and when it started, since numbers are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pid: u32,
    started: u64,
}

impl Process {
    /// The process of this number, if there is one now.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        stat(pid).map(|stat| Self { pid, started: stat.started })
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it still runs. One that ended and that nobody has reaped does not.
    #[must_use]
    pub fn is_running(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && !matches!(stat.state, 'Z' | 'X'))
    }
}

struct Stat {
    state: char,
    parent: u32,
    started: u64,
}

/// `/proc/PID/stat`.
fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which is in parentheses and may contain anything.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// The running children of a process.
#[must_use]
pub fn children(parent: u32) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == parent))
        .filter_map(Process::of)
        .filter(Process::is_running)
        .collect()
}

/// Sends a signal. That the process has ended is no error.
pub fn send(signal: Signal, pid: u32) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a command to its end.
///
/// # Panics
/// When it can't be started, or does not end before the watchdog.
#[track_caller]
pub fn run(command: &mut Command, input: &str) -> Ended {
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} can't be started: {error}"));
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    if let Some(mut stdin) = child.stdin.take() {
        // An error: it does not want to hear everything.
        let _ = std::io::Write::write_all(&mut stdin, input.as_bytes());
    }
    let status = wait_for(&mut child, &format!("{command:?} ended"));
    let all = |output: mpsc::Receiver<String>| output.recv_timeout(WATCHDOG).unwrap_or_default();
    Ended { status, stdout: all(stdout), stderr: all(stderr) }
}

/// Waits until a child has ended; kills it when it does not.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn wait_for(child: &mut Child, what: &str) -> ExitStatus {
    struct KillOnPanic<'a>(&'a mut Child);
    impl Drop for KillOnPanic<'_> {
        fn drop(&mut self) {
            if thread::panicking() {
                let _ = self.0.kill();
            }
        }
    }
    let guarded = KillOnPanic(child);
    wait::until(what, || guarded.0.try_wait().ok().flatten())
}

/// Reads everything, on a thread of its own.
fn collect(source: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut source) = source {
            // What came before an error is what there is.
            let _ = source.read_to_end(&mut bytes);
        }
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}
