//! Carries calls of services from the threads of the plugin to the control thread, which has the connection, and back.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use photondb_ipc_schema::control::{BYTES_PER_SECOND, CALLS_IN_FLIGHT, CALLS_PER_SECOND, MAX_CALL_BYTES, TokenBucket};
use photondb_ipc_schema::descriptors::Arrivals;
use photondb_ipc_schema::plugin_capnp::{connect, failure, metrics, query, services};
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use crate::services::{Connector, Metrics, Query, Services, StateDirectory};
use crate::{Cause, Datum, PluginError};

/// The longest that a service is waited for; the server has shorter deadlines of its own.
const DEADLINE: Duration = Duration::from_secs(60);
/// What a message has beside the text of its arguments.
const MESSAGE_OVERHEAD: usize = 512;

type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The way to the control thread. Cheap to clone.
#[derive(Clone)]
struct Remote {
    shared: Arc<Shared>,
}

struct Shared {
    jobs: mpsc::UnboundedSender<Job>,
    control_thread: ThreadId,
    /// Calls that may still be made before one of those in flight is answered.
    free: Mutex<usize>,
    freed: Condvar,
    pace: Mutex<Pace>,
}

/// Keeps the plugin below the limits beyond which the server ends it.
struct Pace {
    calls: TokenBucket,
    bytes: TokenBucket,
}

/// A call in flight, until dropped.
struct Permit(Arc<Shared>);

impl Drop for Permit {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

thread_local! {
    /// What the server gave us. Only the control thread has any: RPC objects belong to a thread.
    static CLIENTS: RefCell<Option<Rc<Clients>>> = const { RefCell::new(None) };
    /// The lane and the number of the call that this thread is answering.
    static CURRENT: Cell<Option<(u16, u64)>> = const { Cell::new(None) };
}

struct Clients {
    query: Option<query::Client>,
    connect: Option<connect::Client>,
    metrics: Option<metrics::Client>,
    arrivals: Rc<RefCell<Arrivals>>,
}

/// Notes which call this thread answers now.
pub(super) fn answering(lane: usize, call: u64) {
    CURRENT.set(u16::try_from(lane).ok().map(|lane| (lane, call)));
}

/// The services of a handshake, as the plugin sees them. Called on the control thread, inside its runtime.
pub(super) fn services(wire: services::Reader<'_>, arrivals: Rc<RefCell<Arrivals>>) -> capnp::Result<Services> {
    let clients = Clients {
        query: wire.has_query().then(|| wire.get_query()).transpose()?,
        connect: wire.has_connect().then(|| wire.get_connect()).transpose()?,
        metrics: wire.has_metrics().then(|| wire.get_metrics()).transpose()?,
        arrivals,
    };
    let state = wire.get_state_directory().then(|| StateDirectory::new("."));
    let mut services = Services { state, ..Services::default() };
    if clients.query.is_none() && clients.connect.is_none() && clients.metrics.is_none() {
        return Ok(services);
    }
    let remote = Remote::new();
    services.query = clients.query.as_ref().map(|_| remote.clone().query());
    services.connect = clients.connect.as_ref().map(|_| remote.clone().connector());
    services.metrics = clients.metrics.as_ref().map(|_| remote.metrics());
    CLIENTS.set(Some(Rc::new(clients)));
    Ok(services)
}

impl Remote {
    fn new() -> Self {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        spawn_local(async move {
            while let Some(job) = queue.recv().await {
                // Never aborted: a call that was taken back would stay in the server's books.
                spawn_local(job());
            }
        });
        let now = Instant::now();
        let pace =
            Pace { calls: TokenBucket::new(CALLS_PER_SECOND, now), bytes: TokenBucket::new(BYTES_PER_SECOND, now) };
        let shared = Shared {
            jobs,
            control_thread: thread::current().id(),
            free: Mutex::new(CALLS_IN_FLIGHT),
            freed: Condvar::new(),
            pace: Mutex::new(pace),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Has `call` made on the control thread, with arguments of so many bytes, and waits for its answer here.
    fn call<T, F>(
        &self,
        argument_bytes: usize,
        call: impl FnOnce(Rc<Clients>) -> F + Send + 'static,
    ) -> Result<T, PluginError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, PluginError>> + 'static,
    {
        if thread::current().id() == self.shared.control_thread {
            let message = "a service was called while the plugin starts, or by `validate` or `create` of an index, which \
                           the server waits for; call it from a function, or from a thread of your own";
            return Err(PluginError::runtime(Cause::Plugin, message));
        }
        let bytes = argument_bytes + MESSAGE_OVERHEAD;
        if bytes as u64 > MAX_CALL_BYTES {
            let message =
                format!("{argument_bytes} bytes are too many for one call of a service: {MAX_CALL_BYTES} at most");
            return Err(PluginError::runtime(Cause::Limit, message));
        }
        let deadline = Instant::now() + DEADLINE;
        let permit = self.permit(deadline)?;
        self.keep_pace(bytes as u32);
        let (sender, receiver) = sync_channel(1);
        let job: Job = Box::new(move || {
            Box::pin(async move {
                let answer = match CLIENTS.with_borrow(Clone::clone) {
                    Some(clients) => call(clients).await,
                    None => Err(PluginError::runtime(Cause::Unavailable, "the server is gone")),
                };
                drop(permit);
                // Whoever asked may have given up.
                let _ = sender.send(answer);
            })
        });
        let gone = || PluginError::runtime(Cause::Unavailable, "the connection to the server has ended");
        self.shared.jobs.send(job).map_err(|_| gone())?;
        receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())).unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => Err(timed_out()),
            RecvTimeoutError::Disconnected => Err(gone()),
        })
    }

    fn permit(&self, deadline: Instant) -> Result<Permit, PluginError> {
        let free = self.shared.free.lock().unwrap_or_else(PoisonError::into_inner);
        let left = deadline.saturating_duration_since(Instant::now());
        let (mut free, _) =
            self.shared.freed.wait_timeout_while(free, left, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free = free.checked_sub(1).ok_or_else(timed_out)?;
        Ok(Permit(Arc::clone(&self.shared)))
    }

    /// Waits until so many bytes may be sent.
    fn keep_pace(&self, bytes: u32) {
        let wait = |take: &dyn Fn(&mut Pace) -> Duration| loop {
            let pause = take(&mut self.shared.pace.lock().unwrap_or_else(PoisonError::into_inner));
            if pause.is_zero() {
                return;
            }
            thread::sleep(pause);
        };
        wait(&|pace| pace.calls.wait_for(1, Instant::now()));
        wait(&|pace| pace.bytes.wait_for(bytes, Instant::now()));
    }

    fn query(self) -> Query {
        Query::new(move |term| {
            let (lane, call) = CURRENT.get().ok_or_else(|| {
                let message = "a query runs on behalf of a call: make it on the thread that answers one";
                PluginError::runtime(Cause::Plugin, message)
            })?;
            let term = term.to_string();
            self.call(term.len(), move |clients| async move {
                let client = clients.query.as_ref().ok_or_else(not_granted)?;
                let mut request = client.run_request();
                request.get().set_lane(lane);
                request.get().set_call(call);
                request.get().set_term(term.as_bytes());
                let response = request.send().promise.await.map_err(transport)?;
                let results = response.get().map_err(transport)?;
                read_failure(results.get_failure())?;
                let result = results.get_result().map_err(transport)?;
                Datum::decode(result).map_err(|error| PluginError::runtime(Cause::Protocol, error.to_string()))
            })
        })
    }

    fn connector(self) -> Connector {
        Connector::new(move |host, port| {
            let host = host.to_owned();
            self.call(host.len(), move |clients| async move {
                let client = clients.connect.as_ref().ok_or_else(not_granted)?;
                let mut request = client.dial_request();
                request.get().set_host(&host);
                request.get().set_port(port);
                let response = request.send().promise.await.map_err(transport)?;
                let results = response.get().map_err(transport)?;
                read_failure(results.get_failure())?;
                let socket = clients.arrivals.borrow_mut().take(results.get_descriptor());
                let received = |error| PluginError::runtime(Cause::Limit, format!("receiving the connection: {error}"));
                socket.map(Into::into).map_err(received)
            })
        })
    }

    fn metrics(self) -> Metrics {
        Metrics::new(move || {
            self.call(0, |clients| async move {
                let client = clients.metrics.as_ref().ok_or_else(not_granted)?;
                let response = client.snapshot_request().send().promise.await.map_err(transport)?;
                let text = response.get().and_then(|results| results.get_text()).map_err(transport)?;
                text.to_string().map_err(|error| PluginError::runtime(Cause::Protocol, error.to_string()))
            })
        })
    }
}

fn timed_out() -> PluginError {
    let seconds = DEADLINE.as_secs();
    PluginError::runtime(Cause::Deadline, format!("the server did not answer a call of a service within {seconds} s"))
}

fn not_granted() -> PluginError {
    PluginError::runtime(Cause::Denied, "the service is not granted")
}

fn transport(error: capnp::Error) -> PluginError {
    PluginError::runtime(Cause::Unavailable, format!("calling a service of the server: {error}"))
}

/// What a service that can fail answered.
fn read_failure(failure: capnp::Result<failure::Reader<'_>>) -> Result<(), PluginError> {
    match failure.and_then(|failure| Ok(failure.which()?)).map_err(transport)? {
        failure::None(()) => Ok(()),
        failure::Error(error) => {
            let message = error.get_message().and_then(|message| Ok(message.to_string()?)).map_err(transport)?;
            Err(PluginError::runtime(Cause::from_number(error.get_cause()), message))
        }
    }
}
