//! One connection after its handshake: requests in, responses out.
//!
//! The task of the connection reads frames and hands each to a worker; a second task writes the responses in the order in
//! which they are done. What a slow client can hold in memory is bounded: a request keeps its place among
//! [`MAX_REQUESTS`] until its response is written, and no further request is read while [`MAX_UNSENT`] bytes wait.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::frame::{self, BODY_LIMIT, Header};
use super::noreply::Noreply;
use super::{Server, handshake};
use crate::network::keep_alive;
use crate::query::error::{ErrorKind, ReqlError};
use crate::query::parse::{self, Request};
use crate::query::{Answer, Cursor, Response};

/// Most requests of a connection that are not yet answered.
const MAX_REQUESTS: u32 = 1024;
/// Most queries of a connection that run or are streams with more to come. Each stream keeps a view of its table.
const MAX_OPEN: usize = 16_384;
/// Bytes of responses that may wait before no more requests are read.
const MAX_UNSENT: usize = 8 << 20;
/// The longest body that is read without waiting for room first.
const SHORT_BODY: usize = 64 << 10;
/// How long what is left to send may take once the connection is at its end.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves a connection to its end.
///
/// # Errors
/// When the client was not let in, broke the protocol, or the connection broke.
pub(super) async fn serve(mut stream: TcpStream, server: Arc<Server>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    keep_alive(&stream)?;
    handshake::accept(&mut stream, &server.users).await?;
    let (reader, writer) = stream.into_split();
    let (responses, outgoing) = mpsc::unbounded_channel();
    let connection = Arc::new(Connection {
        server,
        queries: Mutex::default(),
        noreply: Arc::default(),
        closed: Arc::default(),
        responses,
        unsent: Arc::default(),
    });
    let unsent = connection.unsent.clone();
    let mut sending = tokio::spawn(send(writer, outgoing, unsent));
    let result = tokio::select! {
        result = receive(BufReader::new(reader), &connection) => result,
        // The client no longer takes responses.
        _ = &mut sending => Err(io::ErrorKind::BrokenPipe.into()),
    };
    connection.close();
    drop(connection);
    // What is still on its way (the reason for closing, say) gets its chance; running queries were told to stop.
    if !sending.is_finished() && tokio::time::timeout(FAREWELL, &mut sending).await.is_err() {
        // It waits for a client that does not read, and holds the socket.
        sending.abort();
    }
    result
}

struct Connection {
    server: Arc<Server>,
    queries: Mutex<HashMap<u64, Arc<Query>>>,
    noreply: Arc<Noreply>,
    closed: Arc<AtomicBool>,
    responses: mpsc::UnboundedSender<Outgoing>,
    unsent: Arc<Unsent>,
}

/// A response with the request's place, which is given back when it is written.
struct Outgoing {
    token: u64,
    body: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

/// How much waits to be written.
#[derive(Default)]
struct Unsent {
    bytes: AtomicUsize,
    less: Notify,
}

/// An open query: one that runs, or a stream with more batches to come.
struct Query {
    cancelled: Arc<AtomicBool>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cursor: Option<Cursor>,
    /// A worker is at it.
    busy: bool,
    /// CONTINUE requests that came meanwhile.
    waiting: VecDeque<OwnedSemaphorePermit>,
}

impl Query {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn send(
    writer: OwnedWriteHalf,
    mut outgoing: mpsc::UnboundedReceiver<Outgoing>,
    unsent: Arc<Unsent>,
) -> io::Result<()> {
    let mut writer = BufWriter::new(writer);
    while let Some(response) = outgoing.recv().await {
        frame::write(&mut writer, response.token, &response.body).await?;
        if outgoing.is_empty() {
            writer.flush().await?;
        }
        unsent.bytes.fetch_sub(response.body.len(), Ordering::Relaxed);
        unsent.less.notify_one();
    }
    writer.flush().await
}

async fn receive(
    mut reader: BufReader<tokio::net::tcp::OwnedReadHalf>,
    connection: &Arc<Connection>,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(MAX_REQUESTS as usize));
    let mut stopping = connection.server.stopping.clone();
    loop {
        let header = tokio::select! {
            header = frame::read_header(&mut reader) => header?,
            () = stopped(&mut stopping) => {
                // All places are free when every request is answered. Whatever the client still sends is too late; that
                // it is gone is worth knowing.
                let mut ignored = tokio::io::sink();
                tokio::select! {
                    _ = places.acquire_many(MAX_REQUESTS) => {}
                    _ = tokio::io::copy(&mut reader, &mut ignored) => {}
                }
                return Ok(());
            }
        };
        let Some(Header { token, length }) = header else { return Ok(()) };
        let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
        connection.unsent.wait().await;
        if length >= BODY_LIMIT {
            let message = format!("The query takes {length} bytes; it has to stay below {BODY_LIMIT}.");
            connection.respond(token, Response::error(&ReqlError::new(ErrorKind::Client, &*message)), place);
            return Err(io::Error::other(message));
        }
        let kibibytes = u32::try_from(length / 1024 + 1).unwrap_or(u32::MAX);
        let room = async |of: &Arc<Semaphore>| of.clone().acquire_many_owned(kibibytes).await.map_err(io::Error::other);
        let arriving = if length > SHORT_BODY { Some(room(&connection.server.arriving).await?) } else { None };
        let body = frame::read_body(&mut reader, length).await?;
        let unparsed = room(&connection.server.unparsed).await?;
        drop(arriving);
        // Short requests are cheap to read here, and most of them need no worker of their own to be read.
        if let Some(kind) = simple_request(&body) {
            drop((body, unparsed));
            connection.simple(token, kind, place);
        } else {
            connection.start(token, body, unparsed, place);
        }
    }
}

/// Waits until the server stops.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the server is gone, which is a stop too.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// The requests that are no START.
enum Simple {
    Continue,
    Stop,
    NoreplyWait,
    ServerInfo,
}

fn simple_request(body: &[u8]) -> Option<Simple> {
    if body.len() > 64 {
        return None;
    }
    match parse::request(body).ok()? {
        Request::Continue => Some(Simple::Continue),
        Request::Stop => Some(Simple::Stop),
        Request::NoreplyWait => Some(Simple::NoreplyWait),
        Request::ServerInfo => Some(Simple::ServerInfo),
        Request::Start { .. } => None,
    }
}

impl Unsent {
    /// Waits until there is room for more.
    async fn wait(&self) {
        while self.bytes.load(Ordering::Relaxed) > MAX_UNSENT {
            self.less.notified().await;
        }
    }
}

fn not_open(token: u64) -> Response {
    Response::error(&ReqlError::new(ErrorKind::Client, format!("Token {token} not in stream cache.")))
}

impl Connection {
    fn queries(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Query>>> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn respond(&self, token: u64, response: Response, place: OwnedSemaphorePermit) {
        self.unsent.bytes.fetch_add(response.0.len(), Ordering::Relaxed);
        // Fails when the connection is gone, and with it whoever would read this.
        let _ = self.responses.send(Outgoing { token, body: response.0, _place: place });
    }

    /// The client is gone: its queries and streams end.
    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        for (_, query) in self.queries().drain() {
            query.cancelled.store(true, Ordering::Relaxed);
            if let Ok(mut state) = query.state.try_lock() {
                state.cursor = None;
            }
        }
    }

    fn start(self: &Arc<Self>, token: u64, body: Vec<u8>, unparsed: OwnedSemaphorePermit, place: OwnedSemaphorePermit) {
        let connection = self.clone();
        // Taken here, so that a NOREPLY_WAIT behind this request waits for it, should it turn out to be one.
        let guard = self.noreply.begin();
        self.server.engine.workers().spawn(move || {
            let request = parse::request(&body);
            drop((body, unparsed));
            match request {
                Ok(request @ Request::Start { .. }) if request.is_noreply() => {
                    if let Err(error) = connection.server.engine.run(request, &connection.closed) {
                        tracing::debug!(%error, "a noreply query failed");
                    }
                    drop((guard, place));
                }
                Ok(request @ Request::Start { .. }) => {
                    drop(guard);
                    connection.run(token, request, place);
                }
                Ok(Request::Continue) => connection.simple(token, Simple::Continue, place),
                Ok(Request::Stop) => connection.simple(token, Simple::Stop, place),
                Ok(Request::NoreplyWait | Request::ServerInfo) | Err(_) => {
                    let message = match request {
                        Err(message) => format!("Client is buggy (failed to deserialize query): {message}"),
                        Ok(_) => "Client is buggy (the request is too long).".to_owned(),
                    };
                    connection.respond(token, Response::error(&ReqlError::new(ErrorKind::Client, message)), place);
                }
            }
        });
    }

    /// Runs a query on this thread, which is a worker.
    fn run(self: &Arc<Self>, token: u64, request: Request, place: OwnedSemaphorePermit) {
        let query =
            Arc::new(Query { cancelled: Arc::default(), state: Mutex::new(State { busy: true, ..State::default() }) });
        if let Err(error) = self.open(token, query.clone()) {
            self.respond(token, Response::error(&error), place);
            return;
        }
        if self.closed.load(Ordering::Relaxed) {
            query.cancelled.store(true, Ordering::Relaxed);
        }
        let (response, cursor) = match self.server.engine.run(request, &query.cancelled) {
            Ok(Answer::Atom { body, profile }) => (Response::atom(body, profile), None),
            Ok(Answer::Stream(mut cursor)) => match cursor.next_response() {
                (response, true) => (response, None),
                (response, false) => (response, Some(cursor)),
            },
            Err(_) if query.cancelled.load(Ordering::Relaxed) => (Response::empty_sequence(), None),
            Err(error) => (Response::error(&error), None),
        };
        self.settle(token, &query, cursor, response, place);
    }

    fn open(&self, token: u64, query: Arc<Query>) -> Result<(), ReqlError> {
        let mut queries = self.queries();
        let open = queries.len();
        match queries.entry(token) {
            Entry::Occupied(_) => Err(ReqlError::new(ErrorKind::Client, format!("ERROR: duplicate token {token}"))),
            Entry::Vacant(_) if open >= MAX_OPEN => Err(ReqlError::limit(format!(
                "This connection has {open} queries and cursors open, and may have no more; read cursors to their end or \
                 close them."
            ))),
            Entry::Vacant(entry) => {
                entry.insert(query);
                Ok(())
            }
        }
    }

    /// Sends a response, keeps what is left of the stream, and goes on with CONTINUE requests that came meanwhile.
    fn settle(
        self: &Arc<Self>,
        token: u64,
        query: &Arc<Query>,
        mut cursor: Option<Cursor>,
        mut response: Response,
        mut place: OwnedSemaphorePermit,
    ) {
        loop {
            // The table changes before the response is on its way: the client may use the token again at once.
            if cursor.is_none() {
                self.forget(token, query);
            }
            let next = {
                let mut state = query.lock();
                match state.waiting.pop_front() {
                    Some(next) => Some(next),
                    None => {
                        state.cursor = cursor.take().filter(|cursor| !cursor.is_cancelled());
                        state.busy = false;
                        None
                    }
                }
            };
            self.respond(token, response, place);
            let Some(next) = next else { return };
            place = next;
            response = match &mut cursor {
                Some(open) => {
                    let (response, is_last) = open.next_response();
                    if is_last {
                        cursor = None;
                    }
                    response
                }
                None if query.cancelled.load(Ordering::Relaxed) => Response::empty_sequence(),
                None => not_open(token),
            };
        }
    }

    fn forget(&self, token: u64, query: &Arc<Query>) {
        if let Entry::Occupied(entry) = self.queries().entry(token)
            && Arc::ptr_eq(entry.get(), query)
        {
            entry.remove();
        }
    }

    fn simple(self: &Arc<Self>, token: u64, request: Simple, place: OwnedSemaphorePermit) {
        match request {
            Simple::Continue => self.continue_stream(token, place),
            Simple::Stop => {
                let query = self.queries().remove(&token);
                let response = match query {
                    Some(query) => {
                        query.cancelled.store(true, Ordering::Relaxed);
                        Response::empty_sequence()
                    }
                    None => not_open(token),
                };
                self.respond(token, response, place);
            }
            Simple::NoreplyWait => {
                let connection = self.clone();
                let before = self.noreply.place();
                tokio::spawn(async move {
                    connection.noreply.wait(before).await;
                    connection.respond(token, Response::wait_complete(), place);
                });
            }
            Simple::ServerInfo => {
                let identity = self.server.engine.identity();
                self.respond(token, Response::server_info(&identity.id, &identity.name), place);
            }
        }
    }

    fn continue_stream(self: &Arc<Self>, token: u64, place: OwnedSemaphorePermit) {
        let Some(query) = self.queries().get(&token).cloned() else {
            self.respond(token, not_open(token), place);
            return;
        };
        let cursor = {
            let mut state = query.lock();
            if state.busy {
                state.waiting.push_back(place);
                return;
            }
            match state.cursor.take() {
                Some(cursor) => {
                    state.busy = true;
                    cursor
                }
                None => {
                    drop(state);
                    self.respond(token, not_open(token), place);
                    return;
                }
            }
        };
        let connection = self.clone();
        self.server.engine.workers().spawn(move || {
            let mut cursor = cursor;
            let (response, is_last) = cursor.next_response();
            let rest = if is_last { None } else { Some(cursor) };
            connection.settle(token, &query, rest, response, place);
        });
    }
}
