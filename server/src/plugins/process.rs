//! One running process of a plugin: spawned, confined, shaken hands with, watched.
//!
//! Everything here runs on the one plugin thread of the server: RPC objects belong to a thread, and the kernel ends a
//! plugin when the thread that spawned it ends.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use capnp::ErrorKind;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use photondb_ipc_schema::control::{self, Callable, Violation};
use photondb_ipc_schema::plugin_capnp::plugin;
use photondb_plugin_host::{Cgroup, DeniedCalls};
use photondb_plugin_sdk::calls::quote;
use photondb_plugin_sdk::{Cause, Datum, PluginError};
use photondb_sandbox_profiles::Report;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

use super::bell::Bell;
use super::discover::Package;
use super::ending::{self, Circumstances, describe};
use super::grant::Granted;
use super::handshake::handshake;
use super::host::{Child, Host};
use super::instance::{Instance, Link, Passing};
use super::journal::Journal;
use super::output::{LastWords, keep_lines};
use super::plugin::Plugin;
use super::services::query::Queries;
use super::services::state::PrivateDirectory;
use super::services::{Services, Sources};
use super::watch::{self, GRACE};
use crate::query::access::Scope;

/// From the first byte of the host to the last answer of the handshake.
const START_DEADLINE: Duration = Duration::from_secs(5);
/// How long the last words of a process that aborted are waited for; they are in the pipe already.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Why a plugin did not start.
#[derive(Clone, Debug)]
pub struct StartError {
    /// What to tell.
    pub error: PluginError,
    /// Whether another try could do better.
    pub retry: bool,
}

pub(super) fn failed(name: &str, message: impl Into<String>) -> StartError {
    StartError { error: PluginError::init(message).of(name), retry: true }
}

pub(super) fn refused(name: &str, message: impl Into<String>) -> StartError {
    StartError { error: PluginError::init(message).of(name), retry: false }
}

/// Why a process is to be killed, at once.
#[derive(Clone, Debug)]
pub struct Doom {
    /// What its calls in flight fail with.
    pub cause: Cause,
    /// The reason, in a sentence.
    pub message: String,
}

/// Why a start ends that was doomed before it had succeeded.
fn doomed_at_once(name: &str, doom: Doom) -> StartError {
    match doom.cause {
        // It would be denied again.
        Cause::Denied => refused(name, doom.message),
        _ => failed(name, doom.message),
    }
}

/// A process that serves.
pub struct Process {
    instance: Arc<Instance>,
    child: Child,
    report: Report,
    dooms: mpsc::UnboundedReceiver<Doom>,
    tasks: Vec<JoinHandle<()>>,
    reason: Option<Doom>,
    /// How it ended, once it has.
    status: Option<WaitStatus>,
    last_words: JoinHandle<LastWords>,
    memory_bytes: u64,
    /// Removed after the process has been reaped, which is why it stands after `child`.
    cgroup: Option<Cgroup>,
}

/// What a start needs beside the package and the host.
pub struct StartPlan<'a> {
    /// What it may have.
    pub granted: &'a Granted,
    /// Its directory, if it was granted one.
    pub state: Option<PrivateDirectory>,
    /// What its services need.
    pub sources: &'a Sources,
    /// What the operator set for it: an object.
    pub settings: Datum,
    /// The number of this instance: unique in this server.
    pub number: u64,
    /// Whose process it will be.
    pub plugin: &'a Arc<Plugin>,
    /// Where prints and denials go.
    pub journal: &'a Arc<Journal>,
}

impl Process {
    /// Lets the host become the plugin, and waits until it has confined itself and said what it provides.
    ///
    /// # Errors
    /// With the reason, and whether another try could help. Nothing is left of the process then.
    pub async fn start(host: Host, package: &Package, plan: StartPlan<'_>) -> Result<Self, StartError> {
        let name = package.manifest.plugin.name.clone();
        let name = name.as_str();
        let io_failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| failed(name, format!("{what}: {error}"))
        };
        let region_bytes = 2 * host.layout.region_bytes() as u64;
        let Host { child, lanes, control, passing, stdout, stderr, mut report, excused, threads_max, cgroup, .. } =
            host;
        let pid = child.pid();
        let (bell, their_bell) = Bell::new().map_err(io_failed("making its bell"))?;
        report.begin();
        let (doom_sender, mut dooms) = mpsc::unbounded_channel();
        let mut tasks = Vec::new();
        // Not among the tasks that end with the process: what it said last may still be in the pipe.
        let keep = |pipe: io::PipeReader, source| {
            let reader = pipe::Receiver::from_owned_fd(pipe.into()).map_err(io_failed("reading what it prints"))?;
            Ok(tokio::task::spawn_local(keep_lines(reader, name.into(), source, Arc::clone(plan.journal))))
        };
        keep(stdout, "stdout")?;
        let last_words = keep(stderr, "stderr")?;
        let queries = (!plan.granted.query.is_empty()).then(|| {
            let scope = Scope::new(name, plan.granted.query.clone());
            Queries::new(plan.number, scope, Arc::clone(&plan.sources.engine))
        });
        let started = timeout(START_DEADLINE, async {
            let report = report.read(&child, name).await?;
            if let Some(denied) = DeniedCalls::receive(passing.as_fd(), excused).map_err(io_failed("its listener"))? {
                watch_denials(denied, name, &doom_sender, plan.journal);
            }
            let passing = Rc::new(Passing::new(passing).map_err(io_failed("its descriptor socket"))?);
            let bell = passing.pass(their_bell.as_fd()).map_err(io_failed("passing its bell"))?;
            drop(their_bell);
            let services = Services::offer(name, pid, plan.granted, plan.sources, &passing, queries.as_ref());
            let (client, system) =
                connect(control, services.callable(), doom_sender.clone()).map_err(io_failed("its control socket"))?;
            tasks.push(system);
            let provides = tokio::select! {
                provides = handshake(&client, package, &plan.settings, services, bell) => match provides {
                    // The connection may fail a little before the process that fails it has ended.
                    Err(error) if error.retry => match timeout(GRACE, child.exited()).await {
                        Ok(status) => return Err(ended_at_once(name, status)),
                        Err(_) => return Err(error),
                    },
                    provides => provides?,
                },
                status = child.exited() => return Err(ended_at_once(name, status)),
                Some(doom) = dooms.recv() => return Err(doomed_at_once(name, doom)),
            };
            Ok((report, Link { client, passing }, provides))
        });
        let (report, link, provides) = match started.await {
            Ok(Ok(started)) => started,
            Ok(Err(error)) => {
                // A denied call explains an early end better than the end itself.
                return Err(dooms.try_recv().map_or(error, |doom| doomed_at_once(name, doom)));
            }
            Err(_) => {
                let seconds = START_DEADLINE.as_secs();
                return Err(failed(name, format!("no handshake within {seconds} s; the process was killed")));
            }
        };
        let (jobs, job_queue) = mpsc::unbounded_channel();
        let link = Rc::new(link);
        let instance = Instance::new(plan.number, name, pid, lanes, provides, jobs, doom_sender.clone());
        let instance = Arc::new(instance.with_queries(queries).with_bell(bell));
        let (jobs_link, jobs_instance) = (Rc::clone(&link), Arc::clone(&instance));
        tasks.push(tokio::task::spawn_local(async move { jobs_instance.run_jobs(jobs_link, job_queue).await }));
        tasks.push(tokio::task::spawn_local(watch::ping(link, Arc::clone(&instance))));
        let limits = watch::Limits {
            memory_bytes: plan.granted.memory_bytes,
            threads: threads_max,
            lanes: plan.granted.threads as usize,
            region_bytes,
        };
        let (plugin, journal) = (Arc::clone(plan.plugin), Arc::clone(plan.journal));
        tasks.push(tokio::task::spawn_local(watch::look(Arc::clone(&instance), plugin, limits, journal)));
        if let Some(state) = plan.state {
            tasks.push(tokio::task::spawn_local(state.watch(pid, doom_sender)));
        }
        let memory_bytes = plan.granted.memory_bytes;
        Ok(Self { instance, child, report, dooms, tasks, reason: None, status: None, last_words, memory_bytes, cgroup })
    }

    /// The part that the rest of the server uses.
    #[must_use]
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// Which layers of the sandbox the host enforced.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Waits until the process has ended, killing it when it has to be. Its calls in flight are answered before this
    /// returns. Cancel-safe.
    pub async fn ended(&mut self) -> PluginError {
        while self.status.is_none() {
            tokio::select! {
                status = self.child.exited() => self.status = Some(status),
                Some(doom) = self.dooms.recv() => {
                    self.reason.get_or_insert(doom);
                    self.child.kill();
                }
            }
        }
        // A denied call may be reported and the process ended at the same time.
        if let Ok(doom) = self.dooms.try_recv() {
            self.reason.get_or_insert(doom);
        }
        let Doom { cause, message } = match self.reason.clone() {
            Some(doom) => doom,
            None => self.crash().await,
        };
        self.instance.end(cause, &message)
    }

    /// Why the process ended that nobody killed.
    async fn crash(&mut self) -> Doom {
        let status = self.status.unwrap_or(WaitStatus::StillAlive);
        let last_words = match status {
            WaitStatus::Signaled(_, Signal::SIGABRT, _) if !self.last_words.is_finished() => {
                timeout(LAST_WORDS, &mut self.last_words).await.ok()
            }
            WaitStatus::Signaled(_, Signal::SIGABRT, _) => Some((&mut self.last_words).await),
            _ => None,
        };
        let known = Circumstances {
            last_words: last_words.and_then(Result::ok).unwrap_or_default(),
            granted_bytes: self.memory_bytes,
            private_bytes: self.instance.private_bytes(),
            is_oom_killed: self.cgroup.as_ref().is_some_and(|cgroup| is_oom_killed(cgroup.path())),
        };
        ending::crash(self.instance.plugin(), status, &known)
    }

    /// Lets the calls in flight end, then the process.
    pub async fn stop(mut self, drain: Duration) {
        let instance = Arc::clone(&self.instance);
        let drained = async {
            while instance.in_flight() > 0 {
                sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            _ = timeout(drain, drained) => {}
            // It died of one of them, and nobody is left who could wait.
            _ = self.ended() => return,
        }
        // Closes the control socket, upon which the plugin exits.
        self.tasks.drain(..).for_each(|task| task.abort());
        self.instance.close();
        let _ = timeout(GRACE, self.child.exited()).await;
        self.instance.end(Cause::Unavailable, "it was stopped");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.tasks.drain(..).for_each(|task| task.abort());
        self.instance.end(Cause::Unavailable, "it was stopped");
    }
}

/// Whether the kernel killed a process of that cgroup for want of memory.
fn is_oom_killed(cgroup: &Path) -> bool {
    let events = fs::read_to_string(cgroup.join("memory.events")).unwrap_or_default();
    let killed = events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse::<u64>().ok());
    killed.is_some_and(|killed| killed > 0)
}

fn ended_at_once(name: &str, status: WaitStatus) -> StartError {
    failed(name, format!("it ended before it had shaken hands: {}; see its logs", describe(status)))
}

fn connect(
    socket: StdUnixStream,
    callable: Callable,
    doom: mpsc::UnboundedSender<Doom>,
) -> io::Result<(plugin::Client, JoinHandle<()>)> {
    socket.set_nonblocking(true)?;
    let (reader, writer) = tokio::net::UnixStream::from_std(socket)?.into_split();
    let dooms = doom.clone();
    let violated = move |violation: Violation| {
        let cause = match violation {
            Violation::TooMuch(_) => Cause::Limit,
            _ => Cause::Protocol,
        };
        // The receiver is gone only with the process.
        let _ = doom.send(Doom { cause, message: violation.to_string() });
    };
    let (system, client) = control::server(reader.compat(), writer.compat_write(), callable, violated);
    let task = tokio::task::spawn_local(async move {
        // That it hung up is noticed with the process's end, or its silence; bytes that are no messages, only here.
        if let Err(error) = system.await
            && !matches!(error.kind, ErrorKind::Disconnected | ErrorKind::PrematureEndOfFile)
        {
            let message = format!("it broke the protocol on its control connection: {}", quote(&error.to_string()));
            let _ = dooms.send(Doom { cause: Cause::Protocol, message });
        }
    });
    Ok((client, task))
}

/// Reports the first system call that the kernel stopped; the process is killed for it. The thread ends with the
/// process.
fn watch_denials(denied: DeniedCalls, name: &str, doom: &mpsc::UnboundedSender<Doom>, journal: &Arc<Journal>) {
    let (plugin, doom, journal) = (name.to_owned(), doom.clone(), Arc::clone(journal));
    let watch = move || {
        let mut is_first = true;
        // Until the process is gone: without a listener, the kernel would let it go on with ENOSYS before it is killed.
        while let Ok(call) = denied.wait(Duration::from_secs(3600)) {
            let Some(call) = call.filter(|_| is_first) else { continue };
            is_first = false;
            let denied = ending::denied(&plugin, &call);
            journal.event(&plugin, "denied", denied.message.clone());
            let _ = doom.send(denied);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("denied-calls".into()).spawn(watch) {
        tracing::warn!(plugin = name, "denied system calls will not be named: {error}");
    }
}
