//! Any program in the sandbox of any profile, without a server: what `photondb sandbox run` and `learn` do.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use photondb_sandbox_profiles::landlock::PathRule;
use photondb_sandbox_profiles::limits::Resource;
use photondb_sandbox_profiles::profile::Access;
use photondb_sandbox_profiles::{
    Confinement, HostReply, KernelFeatures, Launch, Learning, ProfileError, Report, ResolvedProfile, StartMessage,
};

use crate::judge::{Judge, RefusedCall};
use crate::notify::{DeniedCall, DeniedCalls, Observed};
use crate::spawn::{Descriptors, Use, memfd, read_reply, spawn_with_stdin};

/// From the start of the host to the first instruction of the command.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How long one wait for the listener is: a command may run for ever, a wait does not.
const TURN: Duration = Duration::from_secs(3600);

/// A program, and how it is to be confined. Its standard input, output and error are those of this process.
#[derive(Clone, Debug)]
pub struct Command {
    executable: PathBuf,
    launch: Launch,
    confinement: Confinement,
    /// In learning mode: what would have confined it.
    would: Option<Confinement>,
}

/// Why a command did not run, or how it ended is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// There is nothing to run.
    #[error("{path}: {source}; name an executable file", path = .path.display())]
    Executable {
        /// What was named.
        path: PathBuf,
        /// Why it cannot be opened.
        source: io::Error,
    },
    /// The profile cannot be used here.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The sandbox is not as it must be, or the program cannot be executed in it. Nothing of it has run.
    #[error("{0}")]
    Refused(String),
    /// The machine is out of something.
    #[error("{attempted}: {source}")]
    System {
        /// What was tried.
        attempted: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Command {
    /// `executable`: a path, not a name to search for. `arguments`: what follows the command's own name.
    ///
    /// Three things differ from a plugin with the same profile: the executable may be read and executed; what programs do
    /// by habit is allowed or gets an errno ([`ResolvedProfile::for_command`]); and files that the caller opened for it
    /// may grow (`> output` would otherwise end it).
    ///
    /// # Errors
    /// [`CommandError::Executable`], [`CommandError::Profile`]
    pub fn new(
        executable: &Path,
        arguments: &[String],
        profile: &ResolvedProfile,
        kernel: &KernelFeatures,
    ) -> Result<Self, CommandError> {
        let confinement = profile.clone().for_command()?.compile(kernel)?;
        Self::confined(executable, arguments, confinement, None)
    }

    /// The same in learning mode: **nothing is refused, so run only what you trust.** To be used with [`Running::learn`].
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn learning(
        executable: &Path,
        arguments: &[String],
        profile: &ResolvedProfile,
        kernel: &KernelFeatures,
    ) -> Result<Self, CommandError> {
        let Learning { confinement, would } = profile.clone().for_command()?.compile_learning(kernel)?;
        Self::confined(executable, arguments, confinement, Some(would))
    }

    fn confined(
        executable: &Path,
        arguments: &[String],
        mut confinement: Confinement,
        mut would: Option<Confinement>,
    ) -> Result<Self, CommandError> {
        let failed = |source| CommandError::Executable { path: executable.to_owned(), source };
        let path = std::path::absolute(executable).map_err(failed)?;
        if !fs::metadata(&path).map_err(failed)?.is_file() {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        confinement.limits.retain(|limit| limit.resource != Resource::FileSize);
        for plan in [&mut confinement].into_iter().chain(&mut would).filter_map(|it| it.landlock.as_mut()) {
            plan.rules.push(PathRule { path: path.clone(), access: Access::Execute, must_exist: true });
        }
        let arguments = std::iter::once(executable.display().to_string()).chain(arguments.iter().cloned()).collect();
        let launch = Launch::Command { arguments, environment: Vec::new(), directory: None };
        Ok(Self { executable: path, launch, confinement, would })
    }

    /// Makes it run as this user and group. Needs root.
    #[must_use]
    pub fn run_as(mut self, uid: u32, gid: u32) -> Self {
        self.confinement = self.confinement.run_as(uid, gid);
        self
    }

    /// Sets a variable. The command gets no other than those that are set here.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        if let Launch::Command { environment, .. } = &mut self.launch {
            environment.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Starts in this directory: in the root directory of its own there is one of this name, which is empty unless it may
    /// see more of it. Where the directory cannot be entered, it starts in `/`.
    #[must_use]
    pub fn current_dir(mut self, path: &Path) -> Self {
        if let Launch::Command { directory, .. } = &mut self.launch {
            *directory = Some(path.to_owned());
        }
        self
    }

    /// Starts `host`, which confines itself and becomes the command. Returns when the command's first instruction is
    /// next. Call it from a thread that lives as long as the command: the kernel ends the one with the other.
    ///
    /// # Errors
    /// [`CommandError`]; nothing is left of the process then.
    pub fn spawn(self, host: &Path) -> Result<Running, CommandError> {
        let system = |attempted| move |source| CommandError::System { attempted, source };
        let executable = File::open(&self.executable)
            .map_err(|source| CommandError::Executable { path: self.executable.clone(), source })?;
        let learns = self.would.is_some();
        let judged = self.would.unwrap_or_else(|| self.confinement.clone());
        let message = StartMessage {
            name: self.executable.display().to_string(),
            launch: self.launch,
            server_pid: std::process::id(),
            waits: false,
            confinement: self.confinement,
        };
        let message = serde_json::to_vec(&message).map_err(|error| system("encoding the message")(error.into()))?;
        let message = memfd("start", &message, Use::Data).map_err(system("making the message"))?;
        let (report, their_report) = io::pipe().map_err(system("making a pipe"))?;
        let (passing, their_passing) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|error| system("making a socket")(error.into()))?;
        let null = File::options().read(true).write(true).open("/dev/null").map_err(system("opening /dev/null"))?;
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let descriptors = Descriptors {
            stdout: stdout.as_fd(),
            stderr: stderr.as_fd(),
            control: null.as_fd(),
            passing: their_passing.as_fd(),
            server_region: null.as_fd(),
            plugin_region: null.as_fd(),
            executable: executable.as_fd(),
            start: message.as_fd(),
            report: their_report.as_fd(),
        };
        let pid = spawn_with_stdin(host, stdin.as_fd(), &descriptors).map_err(system("starting the plugin host"))?;
        let pid = Pid::from_raw(pid);
        let judge = Judge::new(&judged, pid.as_raw().unsigned_abs());
        let mut running = Running { pid, report: Report::default(), denied: None, judge, learns, reaped: false };
        drop((their_report, their_passing));
        // An error from here on drops `running`, which kills and reaps the process.
        match read_reply(Deadline::new(&report)) {
            Ok(HostReply::Report(report)) => {
                running.report = report;
                running.denied =
                    DeniedCalls::receive(passing.as_fd(), Vec::new()).map_err(system("taking the listener"))?;
                Ok(running)
            }
            Ok(HostReply::Error(reason)) => Err(CommandError::Refused(reason)),
            Err(source) => Err(system("reading the plugin host's report")(source)),
        }
    }
}

/// A pipe that is read for a limited time.
struct Deadline<'a> {
    pipe: &'a io::PipeReader,
    end: Instant,
}

impl<'a> Deadline<'a> {
    fn new(pipe: &'a io::PipeReader) -> Self {
        Self { pipe, end: Instant::now() + START_DEADLINE }
    }

    fn pipe(&self) -> BorrowedFd<'a> {
        self.pipe.as_fd()
    }
}

impl Read for Deadline<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.pipe(), PollFlags::POLLIN)], left) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => self.pipe.read(buffer),
            Err(error) => Err(error.into()),
        }
    }
}

/// A command that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    report: Report,
    denied: Option<DeniedCalls>,
    judge: Judge,
    learns: bool,
    reaped: bool,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Exit status or signal.
    pub status: ExitStatus,
    /// The call for which it was killed.
    pub denied: Option<DeniedCall>,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// What confines it.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Waits until it ends, and tells `refused` of every call that its profile answers with an errno. The first call that
    /// its profile stops ends it.
    ///
    /// # Errors
    /// If the kernel does not say what became of it.
    pub fn wait(mut self, mut refused: impl FnMut(RefusedCall)) -> Result<Ended, CommandError> {
        let mut stopped = None;
        while let Some(listener) = &self.denied {
            match listener.observe(&self.judge, TURN) {
                Ok(Some(Observed::Refused(call))) => refused(call),
                Ok(Some(Observed::Stopped(call))) => {
                    stopped.get_or_insert(call);
                    self.kill();
                }
                Ok(None) => {}
                Err(_) => break,
            }
        }
        Ok(Ended { status: self.reap()?, denied: stopped })
    }

    /// Waits until it ends, and tells `learned` of every call that its profile would have refused. **Nothing is refused.**
    /// A command that [`Command::learning`] did not make is confined as ever: see [`wait`](Self::wait).
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn learn(mut self, mut learned: impl FnMut(RefusedCall)) -> Result<ExitStatus, CommandError> {
        if !self.learns {
            return self.wait(learned).map(|ended| ended.status);
        }
        while let Some(listener) = &self.denied {
            match listener.learn(&self.judge, TURN) {
                Ok(Some(call)) => learned(call),
                Ok(None) => {}
                Err(_) => break,
            }
        }
        self.reap()
    }

    /// Ends it. An error would mean that it has ended already.
    pub fn kill(&self) {
        let _ = kill(self.pid, Signal::SIGKILL);
    }

    fn reap(&mut self) -> Result<ExitStatus, CommandError> {
        loop {
            let raw = match waitpid(self.pid, None) {
                Ok(WaitStatus::Exited(_, code)) => code << 8,
                Ok(WaitStatus::Signaled(_, signal, _)) => signal as i32,
                Ok(_) | Err(nix::Error::EINTR) => continue,
                Err(error) => {
                    return Err(CommandError::System { attempted: "waiting for the command", source: error.into() });
                }
            };
            self.reaped = true;
            return Ok(ExitStatus::from_raw(raw));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = self.reap();
        }
    }
}
