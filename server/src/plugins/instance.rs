//! A running process of a plugin, as the rest of the server sees it: lanes to call through, and what it provides.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use photondb_ipc_schema::column::{ColumnShape, Element};
use photondb_ipc_schema::descriptors;
use photondb_ipc_schema::lane::{Completion, Draft, Lane, Pending};
use photondb_ipc_schema::plugin_capnp::{self as wire, failure, plugin};
use photondb_ipc_schema::region::PrivateCopy;
use photondb_plugin_sdk::calls::quote;
use photondb_plugin_sdk::kinds::distance::Traits;
use photondb_plugin_sdk::kinds::vector::{IndexOptions, IndexStatistics, Metric};
use photondb_plugin_sdk::{Cause, PluginError};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::CALL_DEADLINE;
use super::bell::{self, Bell};
use super::handshake::Provided;
use super::process::Doom;
use super::services::query::{Allowed, Queries};
use super::usage::Usage;
use crate::query::nested::Origin;

/// The control connection to one process. Belongs to the plugin thread.
pub struct Link {
    /// The plugin's interface.
    pub client: plugin::Client,
    /// The descriptor socket.
    pub passing: Rc<Passing>,
}

/// The socket on which descriptors are passed to one process, each as a packet with a number of its own.
pub struct Passing {
    socket: OwnedFd,
    next: Cell<u32>,
}

impl Passing {
    /// The server's end of such a socket, on which nothing is expected any more: what the plugin sends there is refused,
    /// since descriptors that wait to be received would count nowhere.
    ///
    /// # Errors
    /// When the kernel refuses to close that direction.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        shutdown(socket.as_raw_fd(), Shutdown::Read)?;
        // What was sent before, without its descriptors. Nothing follows it, and an empty packet looks like the end: so
        // as many as its queue can hold.
        for _ in 0..512 {
            if recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT).is_err() {
                break;
            }
        }
        Ok(Self { socket, next: Cell::new(0) })
    }

    /// Passes a descriptor, without waiting; the number of its packet.
    ///
    /// # Errors
    /// When the plugin is gone, or leaves too many packets unread.
    pub fn pass(&self, descriptor: BorrowedFd<'_>) -> io::Result<u32> {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        descriptors::send(self.socket.as_fd(), number, descriptor)?;
        Ok(number)
    }
}

/// Does a job; an answer that nobody waits for is dropped.
type Run = Box<dyn FnOnce(Rc<Link>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Work for the control connection of a process, done one after the other.
pub struct Job {
    /// The method, for messages.
    pub name: &'static str,
    /// Until when somebody waits for it.
    pub deadline: Instant,
    /// Does it.
    pub run: Run,
}

/// A running process.
pub struct Instance {
    number: u64,
    plugin: String,
    pid: u32,
    lanes: Vec<Arc<Lane>>,
    provides: Provided,
    queries: Option<Arc<Queries>>,
    bell: Option<Bell>,
    jobs: mpsc::UnboundedSender<Job>,
    dooms: mpsc::UnboundedSender<Doom>,
    closed: AtomicBool,
    end: OnceLock<PluginError>,
    /// Jobs of the control connection that have begun, and those that have ended.
    control_begun: AtomicU64,
    control_ended: AtomicU64,
    /// Bytes of column segments that it maps.
    attached_bytes: AtomicU64,
    /// Private memory when it was last looked at.
    private_bytes: AtomicU64,
}

/// The lane with the fewest calls: mostly one has none, which is known without a lock.
fn least_busy<'a>(lanes: impl Iterator<Item = &'a Arc<Lane>> + Clone) -> Option<&'a Arc<Lane>> {
    lanes.clone().find(|lane| lane.is_idle()).or_else(|| lanes.min_by_key(|lane| lane.in_flight()))
}

impl Instance {
    /// A process that has shaken hands.
    #[must_use]
    pub fn new(
        number: u64,
        plugin: &str,
        pid: u32,
        lanes: Vec<Arc<Lane>>,
        provides: Provided,
        jobs: mpsc::UnboundedSender<Job>,
        dooms: mpsc::UnboundedSender<Doom>,
    ) -> Self {
        let plugin = plugin.to_owned();
        Self {
            number,
            plugin,
            pid,
            lanes,
            provides,
            queries: None,
            bell: None,
            jobs,
            dooms,
            closed: AtomicBool::new(false),
            end: OnceLock::new(),
            control_begun: AtomicU64::new(0),
            control_ended: AtomicU64::new(0),
            attached_bytes: AtomicU64::new(0),
            private_bytes: AtomicU64::new(0),
        }
    }

    /// The same process, which may run queries.
    #[must_use]
    pub fn with_queries(mut self, queries: Option<Arc<Queries>>) -> Self {
        self.queries = queries;
        self
    }

    /// The same process, which can tell tasks that their answers are there.
    #[must_use]
    pub(super) fn with_bell(mut self, bell: Bell) -> Self {
        self.bell = Some(bell);
        self
    }

    /// As [`Lane::begin`], for a task: blocks no thread.
    ///
    /// # Errors
    /// As [`Lane::begin`].
    pub async fn begin(&self, lane: &Arc<Lane>, deadline: Instant) -> Result<Draft, PluginError> {
        bell::begin(lane, deadline).await.map_err(|error| self.judge(error.into()))
    }

    /// As [`Pending::wait`], for a task: blocks no thread beyond a short spin, and no other thread is between the plugin
    /// and the event loop that the task runs in.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub async fn answer(
        &self,
        pending: Pending,
        deadline: Instant,
        reply: &mut PrivateCopy,
    ) -> Result<Completion, PluginError> {
        bell::answer(self.bell.as_ref(), pending, deadline, reply).await.map_err(|error| self.judge(error.into()))
    }

    /// Unique among all instances of this server.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The plugin's name.
    #[must_use]
    pub fn plugin(&self) -> &str {
        &self.plugin
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it registered.
    #[must_use]
    pub fn provides(&self) -> &Provided {
        &self.provides
    }

    /// The lane for a call: the one with the fewest calls. One whose thread waits for the very query that makes the call
    /// would never come to it.
    ///
    /// # Errors
    /// Where all of them do.
    pub fn lane(&self, origin: &Origin<'_>) -> Result<&Arc<Lane>, PluginError> {
        let waits = |lane: &Lane| origin.within.is_some_and(|within| within.blocks(self.number, lane.place()));
        least_busy(self.lanes.iter().filter(|lane| !waits(lane))).ok_or_else(|| {
            let (name, threads) = (&self.plugin, self.lanes.len());
            let message = format!(
                "it calls itself through its own query, and each of its threads ({threads}) waits for that; grant it more \
                 `threads`, or call no function of `{name}` in its queries"
            );
            PluginError::runtime(Cause::Limit, message).of(name)
        })
    }

    /// The [lane](Self::lane) for a call, and the others that have nothing to do if this one has not either: for work that is
    /// worth splitting. Never empty.
    ///
    /// # Errors
    /// As [`lane`](Self::lane).
    pub fn idle_lanes(&self, origin: &Origin<'_>) -> Result<Vec<&Arc<Lane>>, PluginError> {
        let first = self.lane(origin)?;
        let waits = |lane: &Lane| origin.within.is_some_and(|within| within.blocks(self.number, lane.place()));
        let others = self.lanes.iter().filter(|lane| !Arc::ptr_eq(lane, first) && !waits(lane));
        let idle = others.filter(|lane| lane.in_flight() == 0 && first.in_flight() == 0);
        Ok([first].into_iter().chain(idle).collect())
    }

    /// Whether its calls may run queries.
    #[must_use]
    pub fn may_query(&self) -> bool {
        self.queries.is_some()
    }

    /// Lets the call that is about to be sent run queries until the guard is dropped, if the plugin was granted any.
    #[must_use]
    pub fn allow_queries(&self, call: &Draft, origin: &Origin<'_>) -> Option<Allowed> {
        self.queries.as_ref().map(|queries| queries.allow(call, origin))
    }

    /// The lane with the fewest calls, for calls that no query of the plugin's can wait for.
    #[must_use]
    pub fn least_busy_lane(&self) -> &Arc<Lane> {
        least_busy(self.lanes.iter()).unwrap_or(&self.lanes[0])
    }

    /// How many calls can be in flight before others wait.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.lanes.iter().map(|lane| lane.depth()).sum()
    }

    /// The lane for long work beside the queries: the last one.
    #[must_use]
    pub fn maintenance_lane(&self) -> &Arc<Lane> {
        &self.lanes[self.lanes.len() - 1]
    }

    /// All other lanes.
    #[must_use]
    pub fn search_lanes(&self) -> &[Arc<Lane>] {
        &self.lanes[..self.lanes.len() - 1]
    }

    /// Calls in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.lanes.iter().map(|lane| lane.in_flight()).sum()
    }

    /// For each lane the call that its worker is at, and whether the caller gave up waiting for it.
    #[must_use]
    pub fn current(&self) -> Vec<Option<(u64, bool)>> {
        self.lanes.iter().map(|lane| lane.current()).collect()
    }

    /// Calls so far, on lanes and on the control connection.
    pub(super) fn calls_begun(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.calls_begun()).sum::<u64>() + self.control_begun.load(Ordering::Relaxed)
    }

    /// Whether any call is on its way.
    pub(super) fn is_working(&self) -> bool {
        self.in_flight() > 0 || self.control_begun.load(Ordering::Relaxed) != self.control_ended.load(Ordering::Relaxed)
    }

    /// Bytes of column segments that it maps.
    pub(super) fn attached_bytes(&self) -> u64 {
        self.attached_bytes.load(Ordering::Relaxed)
    }

    /// Keeps what it uses, for when it has ended.
    pub(super) fn observe(&self, usage: &Usage) {
        self.private_bytes.store(usage.anonymous, Ordering::Relaxed);
    }

    /// Private memory when it was last looked at, in bytes.
    pub(super) fn private_bytes(&self) -> u64 {
        self.private_bytes.load(Ordering::Relaxed)
    }

    /// Has the process killed.
    pub(super) fn doom(&self, doom: Doom) {
        // The receiver is gone only with the process.
        let _ = self.dooms.send(doom);
    }

    /// Does the jobs of the control connection, in order, until the process is gone. Each has the time that a call may
    /// take, or else one that is never answered would hold up all others.
    pub(super) async fn run_jobs(&self, link: Rc<Link>, mut jobs: mpsc::UnboundedReceiver<Job>) {
        while let Some(job) = jobs.recv().await {
            if job.deadline <= Instant::now() {
                continue;
            }
            self.control_begun.fetch_add(1, Ordering::Relaxed);
            let done = timeout(CALL_DEADLINE, (job.run)(Rc::clone(&link))).await;
            self.control_ended.fetch_add(1, Ordering::Relaxed);
            if done.is_err() {
                let message = format!("it did not answer `{}` within {} s", job.name, CALL_DEADLINE.as_secs());
                self.end(Cause::Deadline, &message);
                return self.doom(Doom { cause: Cause::Deadline, message });
            }
        }
    }

    /// Whether calls still make sense.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.end.get().is_none() && !self.closed.load(Ordering::Acquire)
    }

    /// Whether the process is known to have ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.end.get().is_some()
    }

    /// No further calls: the process is being stopped.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Answers every call in flight, and every later one, with this error. The first one stays.
    pub(super) fn end(&self, cause: Cause, message: &str) -> PluginError {
        let error = self.end.get_or_init(|| PluginError::runtime(cause, message).of(&self.plugin)).clone();
        self.lanes.iter().for_each(|lane| lane.kill(message));
        error
    }

    /// Completes an error of a call with what this process's end, if it ended, tells about it; and has the process
    /// killed where the error shows that it must be.
    #[must_use]
    pub fn judge(&self, error: PluginError) -> PluginError {
        match error.cause() {
            Cause::Protocol => {
                // Nobody else is to call it while it is being killed, and a second try finds another process.
                self.close();
                self.doom(Doom { cause: Cause::Protocol, message: error.message().to_owned() });
            }
            Cause::Crashed => {
                if let Some(end) = self.end.get() {
                    return end.clone();
                }
            }
            _ => {}
        }
        error.of(&self.plugin)
    }

    /// Whether that error is what this process's end means to the calls in flight, and not an answer to one.
    #[must_use]
    pub fn ended_with(&self, error: &PluginError) -> bool {
        self.end.get() == Some(error)
    }

    /// Runs a call on the control connection, which lives on the plugin thread, and waits for its answer here.
    fn control<T: Send + 'static, F>(
        &self,
        name: &'static str,
        deadline: Instant,
        call: impl FnOnce(Rc<Link>) -> F + Send + 'static,
    ) -> Result<T, PluginError>
    where
        F: Future<Output = Result<T, PluginError>> + 'static,
    {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let run = Box::new(move |link| -> Pin<Box<dyn Future<Output = ()>>> {
            Box::pin(async move {
                let answer = call(link).await;
                if answer.as_ref().is_err_and(|error| error.cause() == Cause::Crashed) {
                    // The connection fails a little before it is known how the process ended. With that, this is dropped.
                    return std::future::pending().await;
                }
                // A caller that gave up does not listen any more.
                let _ = sender.send(answer);
            })
        });
        let gone = || self.judge(PluginError::runtime(Cause::Crashed, "the process ended"));
        self.jobs.send(Job { name, deadline, run }).map_err(|_| gone())?;
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(answer) => answer.map_err(|error| error.of(&self.plugin)),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Err(gone()),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                let message = format!("it did not answer `{name}` in time; try again later");
                Err(PluginError::runtime(Cause::Deadline, message).of(&self.plugin))
            }
        }
    }

    /// Asks the plugin whether it could make such an index; with the name and the traits of the distance that is meant, if it
    /// is one of a plugin.
    ///
    /// # Errors
    /// What it has against the options.
    pub fn validate_index(
        &self,
        kind: &str,
        options: &IndexOptions,
        distance: Option<(&str, &Traits)>,
        deadline: Instant,
    ) -> Result<(), PluginError> {
        let (kind, options) = (kind.to_owned(), options.clone());
        let distance = distance.map(|(name, traits)| (name.to_owned(), traits.to_datum().encoded()));
        self.control("validate_index", deadline, move |link| async move {
            let mut request = link.client.validate_index_request();
            write_options(&kind, &options, request.get().init_options());
            if let Some((name, traits)) = distance {
                let mut wire = request.get().init_distance();
                wire.set_name(&name);
                wire.set_traits(&traits);
            }
            let response = request.send().promise.await.map_err(transport)?;
            read_failure(response.get().and_then(|results| results.get_failure()))
        })
    }

    /// Makes the plugin open index number `index`, without rows. Returns whether rows may be added to it by several calls
    /// at once.
    ///
    /// # Errors
    /// What it has against it.
    pub fn open_index(
        &self,
        index: u32,
        kind: &str,
        options: &IndexOptions,
        column: ColumnShape,
        deadline: Instant,
    ) -> Result<bool, PluginError> {
        let (kind, options) = (kind.to_owned(), options.clone());
        self.control("open_index", deadline, move |link| async move {
            let mut request = link.client.open_index_request();
            request.get().set_index(index);
            write_options(&kind, &options, request.get().init_options());
            let mut shape = request.get().init_column();
            shape.set_rows_per_segment(column.rows_per_segment());
            shape.set_element(match column.element() {
                Element::F32 => wire::Element::F32,
                Element::F16 => wire::Element::F16,
                Element::I8 => wire::Element::I8,
            });
            let response = request.send().promise.await.map_err(transport)?;
            let results = response.get().map_err(transport)?;
            read_failure(results.get_failure())?;
            Ok(results.get_parallel_inserts())
        })
    }

    /// Hands the plugin the next segment of an index's column: a descriptor that can only be read.
    ///
    /// # Errors
    /// When it can't be passed, or mapped there.
    pub fn attach_segment(
        &self,
        index: u32,
        segment: u32,
        file: OwnedFd,
        deadline: Instant,
    ) -> Result<(), PluginError> {
        if let Ok(status) = rustix::fs::fstat(&file) {
            self.attached_bytes.fetch_add(u64::try_from(status.st_size).unwrap_or(0), Ordering::Relaxed);
        }
        self.control("attach_segment", deadline, move |link| async move {
            let passed = link
                .passing
                .pass(file.as_fd())
                .map_err(|error| PluginError::runtime(Cause::Plugin, format!("passing a segment: {error}")))?;
            let mut request = link.client.attach_segment_request();
            request.get().set_index(index);
            request.get().set_segment(segment);
            request.get().set_descriptor(passed);
            let response = request.send().promise.await.map_err(transport)?;
            read_failure(response.get().and_then(|results| results.get_failure()))
        })
    }

    /// Makes the plugin free an index.
    ///
    /// # Errors
    /// When the plugin does not answer.
    pub fn close_index(&self, index: u32, deadline: Instant) -> Result<(), PluginError> {
        self.control("close_index", deadline, move |link| async move {
            let mut request = link.client.close_index_request();
            request.get().set_index(index);
            request.send().promise.await.map_err(transport).map(drop)
        })
    }

    /// Sizes of an index, as the plugin tells them.
    ///
    /// # Errors
    /// When the plugin does not answer.
    pub fn index_statistics(&self, index: u32, deadline: Instant) -> Result<IndexStatistics, PluginError> {
        self.control("index_statistics", deadline, move |link| async move {
            let mut request = link.client.index_statistics_request();
            request.get().set_index(index);
            let response = request.send().promise.await.map_err(transport)?;
            let sizes = response.get().map_err(transport)?;
            Ok(IndexStatistics {
                rows: sizes.get_rows(),
                removed: sizes.get_removed(),
                memory_bytes: sizes.get_memory_bytes(),
            })
        })
    }
}

fn transport(error: capnp::Error) -> PluginError {
    PluginError::runtime(Cause::Crashed, format!("the control connection failed: {}", quote(&error.to_string())))
}

fn write_options(kind: &str, options: &IndexOptions, mut wire: wire::index_options::Builder<'_>) {
    wire.set_kind(kind);
    wire.set_dims(options.dims);
    wire.set_metric(match options.metric {
        Metric::Cosine => wire::Metric::Cosine,
        Metric::L2 => wire::Metric::L2,
        Metric::Dot => wire::Metric::Dot,
    });
    wire.set_settings(&options.settings.encoded());
}

/// What a method that can fail answered.
pub(super) fn read_failure(failure: capnp::Result<failure::Reader<'_>>) -> Result<(), PluginError> {
    match failure.and_then(|failure| Ok(failure.which()?)).map_err(transport)? {
        failure::None(()) => Ok(()),
        failure::Error(error) => {
            let cause = match Cause::from_number(error.get_cause()) {
                known @ (Cause::Argument | Cause::Limit) => known,
                _ => Cause::Plugin,
            };
            let message = error.get_message().map_err(transport)?;
            Err(PluginError::runtime(cause, quote(&String::from_utf8_lossy(message.as_bytes()))))
        }
    }
}
