//! The server's half: an engine that is open in another process, which is trusted in nothing.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use photondb_ipc_schema::lane::{Completion, Lane, Operation, Pending};
use photondb_ipc_schema::region::PrivateCopy;

use super::message::{Reader, Writer, encode_batch, put_long, put_short, read_groups};
use super::scan::{RemoteScan, RemoteValues};
use super::{ABSENT, ALL, AND_MORE, DAMAGED, HARD, PRESENT, TOO_LARGE, UNWANTED};
use crate::calls::{answer, protocol};
use crate::kinds::storage::{
    Direction, Durability, EntryIterator, KeyRange, Keyspace, Selection, StorageEngine, StorageError, StorageSnapshot,
    Upkeep, UpkeepRequest, ValueIterator, WriteBatch,
};
use crate::{Cause, Datum, PluginError};

/// What a read may take: it waits behind whatever its lane is at.
pub(super) const READ: Duration = Duration::from_secs(10);
/// What a commit or a flush may take, on a disk that many use.
const WRITE: Duration = Duration::from_secs(30);
/// What opening may take: an engine that was killed may have much to repair.
const OPEN: Duration = Duration::from_secs(120);
/// How long dropping a snapshot may hold up who drops it.
const RELEASE: Duration = Duration::from_millis(100);
/// The largest value that is put together from pieces.
pub(super) const MAX_VALUE: usize = 256 << 20;

/// The way to a process in which engines are open.
pub trait Connection: Send + Sync + 'static {
    /// Somebody who waits for the process, until dropped.
    type Caller<'a>
    where
        Self: 'a;

    /// Counts a caller, who may wait until `deadline` for its answer; and until when it may wait for its turn.
    fn caller(&self, deadline: Instant) -> (Self::Caller<'_>, Instant);

    /// The lane for a read.
    fn read_lane(&self) -> &Arc<Lane>;

    /// The lane for a write, which may keep it busy for long.
    fn write_lane(&self) -> &Arc<Lane>;

    /// Completes an error by what is known of the process, and has the process ended where the error shows that it must
    /// be.
    fn judge(&self, error: PluginError) -> PluginError;

    /// A call ended: whether the process works, and how long it took.
    fn record(&self, is_answered: bool, took: Duration);
}

/// How a call ended without success.
pub(super) enum CallError {
    /// The plugin never saw the request, or said that it failed.
    Answered(PluginError),
    /// The process ended, or broke the protocol: another one may answer.
    Lost(PluginError),
    /// It did not answer in time.
    Late(PluginError),
}

impl CallError {
    /// What it means for a call that changes nothing.
    pub(super) fn of_read(self) -> StorageError {
        match self {
            Self::Answered(error) if error.cause() == Cause::Damaged => damaged(&error),
            Self::Answered(error) | Self::Late(error) => StorageError::Failed(error.to_string()),
            Self::Lost(error) => StorageError::Closed(error.to_string()),
        }
    }

    /// What it means for one that changes something.
    fn of_write(self) -> StorageError {
        match self {
            Self::Answered(error) if error.cause() == Cause::Damaged => damaged(&error),
            Self::Answered(error) if error.cause() != Cause::Indeterminate => StorageError::Failed(error.to_string()),
            Self::Answered(error) | Self::Late(error) | Self::Lost(error) => StorageError::Unknown(error.to_string()),
        }
    }

    fn into_inner(self) -> PluginError {
        match self {
            Self::Answered(error) | Self::Lost(error) | Self::Late(error) => error,
        }
    }
}

/// The damage that the plugin told of: where, and what.
fn damaged(error: &PluginError) -> StorageError {
    let (keyspace, message) = error.message().split_once(DAMAGED).unwrap_or(("the table", error.message()));
    StorageError::Damaged { keyspace: keyspace.to_owned(), message: message.to_owned() }
}

/// An engine in another process.
pub struct RemoteEngine<C: Connection> {
    core: Arc<Core<C>>,
    closes_on_drop: bool,
}

impl<C: Connection> Drop for RemoteEngine<C> {
    fn drop(&mut self) {
        if self.closes_on_drop {
            // Whoever wants to know calls `close`.
            let _ = self.close();
        }
    }
}

impl<C: Connection> fmt::Debug for RemoteEngine<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteEngine").field("number", &self.core.number).finish_non_exhaustive()
    }
}

pub(super) struct Core<C> {
    pub(super) connection: C,
    number: u32,
    /// The number of the last snapshot or scan.
    last: AtomicU64,
    /// Snapshots and scans that nobody needs, and that the process does not know yet.
    unreleased: Mutex<Vec<u64>>,
    /// Pages that were asked for ahead and not taken yet: each holds a slot of a lane.
    pub(super) ahead: AtomicUsize,
}

impl<C: Connection> Core<C> {
    pub(super) fn next_number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Sends a request and waits for the answer.
    pub(super) fn call(
        &self,
        lane: &Arc<Lane>,
        operation: Operation,
        argument: u64,
        payload: &[u8],
        patience: Duration,
        reply: &mut PrivateCopy,
    ) -> Result<Completion, CallError> {
        let fill = |request: &mut Writer<'_>| request.put(&[payload]);
        call(&self.connection, lane, (operation, self.number, argument), fill, patience, reply)
    }

    /// Sends a request without waiting for anything; `None` where a slot is not to be had at once.
    pub(super) fn try_send(&self, operation: Operation, argument: u64, payload: &[u8]) -> Option<Pending> {
        let lane = self.connection.read_lane();
        let mut draft = lane.try_begin().ok()??;
        draft.buffer().get_mut(..payload.len())?.copy_from_slice(payload);
        Some(draft.send(operation, self.number, payload.len(), argument))
    }

    /// Tells the process what nobody needs any more. What can't be told now is told with the next.
    pub(super) fn release(&self, number: u64) {
        let numbers = {
            let mut unreleased = self.unreleased.lock().unwrap_or_else(PoisonError::into_inner);
            unreleased.push(number);
            std::mem::take(&mut *unreleased)
        };
        let payload: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        if let Some(pending) = self.try_send(Operation::EngineRelease, 0, &payload) {
            return pending.leave();
        }
        let (lane, mut reply) = (self.connection.read_lane(), PrivateCopy::default());
        if let Err(CallError::Late(_)) = self.call(lane, Operation::EngineRelease, 0, &payload, RELEASE, &mut reply) {
            self.unreleased.lock().unwrap_or_else(PoisonError::into_inner).extend(numbers);
        }
    }

    fn write(&self, operation: Operation, argument: u64, payload: &[u8]) -> Result<(), StorageError> {
        let lane = self.connection.write_lane();
        let called = self.call(lane, operation, argument, payload, WRITE, &mut PrivateCopy::default());
        called.map(drop).map_err(CallError::of_write)
    }

    fn get(
        self: &Arc<Self>,
        snapshot: u64,
        keyspace: Keyspace<'_>,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let mut reply = PrivateCopy::default();
        self.ask_for(snapshot, keyspace, &[key], &mut reply)?;
        self.value(snapshot, keyspace, key, &mut Reader(reply.bytes()))
    }

    /// Asks for the values of as many of the keys as fit into a request, from the first on. Returns how many are answered:
    /// at least one.
    fn ask_for(
        &self,
        snapshot: u64,
        keyspace: Keyspace<'_>,
        keys: &[&[u8]],
        reply: &mut PrivateCopy,
    ) -> Result<usize, StorageError> {
        let lane = self.connection.read_lane();
        let sent = keys_that_fit(keyspace, keys, lane.buffer_bytes());
        let fill = |request: &mut Writer<'_>| put_keys(request, keyspace, &keys[..sent]);
        let request = (Operation::EngineGet, self.number, snapshot);
        let completion = call(&self.connection, lane, request, fill, READ, reply).map_err(CallError::of_read)?;
        let answered = usize::try_from(completion.value).unwrap_or(usize::MAX);
        if answered == 0 || answered > sent {
            return Err(self.violated(protocol("an answer to another number of keys than was asked for")));
        }
        Ok(answered)
    }

    pub(super) fn violated(&self, error: PluginError) -> StorageError {
        StorageError::Closed(self.connection.judge(error).to_string())
    }

    /// The next value of a reply.
    fn value(
        self: &Arc<Self>,
        snapshot: u64,
        keyspace: Keyspace<'_>,
        key: &[u8],
        reply: &mut Reader<'_>,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        match reply.u8().map_err(|error| self.violated(error))? {
            ABSENT => Ok(None),
            PRESENT => Ok(Some(reply.long().map_err(|error| self.violated(error))?.to_vec())),
            TOO_LARGE => self.get_large(snapshot, keyspace, key),
            _ => Err(self.violated(protocol("a value that is neither there nor not there"))),
        }
    }

    fn get_many(
        self: &Arc<Self>,
        snapshot: u64,
        keyspace: Keyspace<'_>,
        keys: &[&[u8]],
    ) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        let (mut values, mut reply) = (Vec::with_capacity(keys.len()), PrivateCopy::default());
        while values.len() < keys.len() {
            let answered = self.ask_for(snapshot, keyspace, &keys[values.len()..], &mut reply)?;
            let mut reader = Reader(reply.bytes());
            for _ in 0..answered {
                values.push(self.value(snapshot, keyspace, keys[values.len()], &mut reader)?);
            }
        }
        Ok(values)
    }

    /// The value of a key that does not fit into a reply: by a scan, whose pages take it in pieces.
    fn get_large(
        self: &Arc<Self>,
        snapshot: u64,
        keyspace: Keyspace<'_>,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let range = KeyRange { start: key.to_vec(), end: Some([key, &[0]].concat()) };
        let taken = if snapshot == 0 { Some(RemoteSnapshot::take(self)?) } else { None };
        let snapshot = taken.as_ref().map_or(snapshot, |taken| taken.number);
        let all = Selection::default();
        let mut scan = RemoteScan::begin(self, None, snapshot, keyspace, &range, Direction::Forward, &all)?;
        scan.next().transpose().map(|entry| entry.map(|(_, value)| value))
    }
}

/// How many of the keys fit into a request, from the first on. At least one: a request that it does not fit into fails.
fn keys_that_fit(keyspace: Keyspace<'_>, keys: &[&[u8]], capacity: usize) -> usize {
    let mut left = capacity.saturating_sub(2 + keyspace.len() + 4);
    let fits = |key: &&&[u8]| match left.checked_sub(2 + key.len()) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    keys.iter().take_while(fits).count().max(1)
}

/// Writes the request for the values of keys; whether it fits.
fn put_keys(request: &mut Writer<'_>, keyspace: Keyspace<'_>, keys: &[&[u8]]) -> bool {
    let count = (keys.len() as u32).to_le_bytes();
    request.put_short(keyspace.as_bytes()) && request.put(&[&count]) && keys.iter().all(|key| request.put_short(key))
}

/// Makes a call whose request is what `fill` writes; it says whether that fitted.
fn call<C: Connection>(
    connection: &C,
    lane: &Arc<Lane>,
    (operation, engine, argument): (Operation, u32, u64),
    fill: impl FnOnce(&mut Writer<'_>) -> bool,
    patience: Duration,
    reply: &mut PrivateCopy,
) -> Result<Completion, CallError> {
    let started = Instant::now();
    let deadline = started + patience;
    let (_caller, turn_by) = connection.caller(deadline);
    let sent = lane.begin(turn_by).map_err(PluginError::from).and_then(|mut draft| {
        let mut request = Writer::new(draft.buffer());
        if !fill(&mut request) {
            let message = format!("the request does not fit into a message of {} bytes", lane.buffer_bytes());
            return Err(PluginError::runtime(Cause::Limit, message));
        }
        let payload = request.len();
        Ok(draft.send(operation, engine, payload, argument))
    });
    let outcome = match sent {
        // Nothing was sent, so nothing happened: only a process that is gone is worth another try.
        Err(error) if error.cause() == Cause::Crashed => Err(CallError::Lost(connection.judge(error))),
        Err(error) => Err(CallError::Answered(connection.judge(error))),
        Ok(pending) => answer(pending, deadline, reply).map_err(|error| judged(connection, error)),
    };
    connection.record(!matches!(outcome, Err(CallError::Lost(_) | CallError::Late(_))), started.elapsed());
    outcome
}

/// What became of a call that was sent and did not succeed.
pub(super) fn judged(connection: &impl Connection, error: PluginError) -> CallError {
    let cause = error.cause();
    let error = connection.judge(error);
    match cause {
        Cause::Crashed | Cause::Protocol => CallError::Lost(error),
        Cause::Deadline => CallError::Late(error),
        _ => CallError::Answered(error),
    }
}

/// Asks whether an engine of this kind takes these options: an object.
///
/// # Errors
/// What it has against them, or what happened to the plugin.
pub fn validate(connection: &impl Connection, kind: &str, options: &Datum) -> Result<(), PluginError> {
    let mut payload = Vec::new();
    put_short(&mut payload, kind.as_bytes());
    put_long(&mut payload, &options.encoded());
    let (lane, mut reply) = (connection.read_lane(), PrivateCopy::default());
    call(connection, lane, (Operation::EngineValidate, 0, 0), |request| request.put(&[&payload]), READ, &mut reply)
        .map(drop)
        .map_err(CallError::into_inner)
}

/// Removes the directory of an engine that is not open in that process, with all that it holds.
///
/// # Errors
/// Why it can't be removed, or what happened to the plugin.
pub fn remove(connection: &impl Connection, directory: &str) -> Result<(), PluginError> {
    let mut payload = Vec::new();
    put_short(&mut payload, directory.as_bytes());
    let (lane, mut reply) = (connection.write_lane(), PrivateCopy::default());
    call(connection, lane, (Operation::EngineRemove, 0, 0), |request| request.put(&[&payload]), WRITE, &mut reply)
        .map(drop)
        .map_err(CallError::into_inner)
}

impl<C: Connection> RemoteEngine<C> {
    /// Opens the engine number `number`, which no other one of that process has or had, in the directory of that name.
    ///
    /// # Errors
    /// What the plugin has against it, or what happened to it.
    pub fn open(
        connection: C,
        number: u32,
        kind: &str,
        directory: &str,
        cache_bytes: u64,
        options: &Datum,
    ) -> Result<Self, PluginError> {
        let mut payload = Vec::new();
        put_short(&mut payload, kind.as_bytes());
        put_short(&mut payload, directory.as_bytes());
        payload.extend_from_slice(&cache_bytes.to_le_bytes());
        put_long(&mut payload, &options.encoded());
        let (lane, mut reply) = (connection.write_lane(), PrivateCopy::default());
        let fill = |request: &mut Writer<'_>| request.put(&[&payload]);
        call(&connection, lane, (Operation::EngineOpen, number, 0), fill, OPEN, &mut reply)
            .map_err(CallError::into_inner)?;
        let core = Core {
            connection,
            number,
            last: AtomicU64::new(0),
            unreleased: Mutex::default(),
            ahead: AtomicUsize::new(0),
        };
        Ok(Self { core: Arc::new(core), closes_on_drop: false })
    }

    /// The same engine, which is closed when it is dropped.
    #[must_use]
    pub fn closed_on_drop(mut self) -> Self {
        self.closes_on_drop = true;
        self
    }

    /// Flushes and closes the engine; one that is not open is no error.
    ///
    /// # Errors
    /// What the engine says, or what happened to the plugin.
    pub fn close(&self) -> Result<(), StorageError> {
        self.core.write(Operation::EngineClose, 0, &[])
    }

    /// The way to its process.
    #[must_use]
    pub fn connection(&self) -> &C {
        &self.core.connection
    }
}

impl<C: Connection> StorageEngine for RemoteEngine<C> {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.core.get(0, keyspace, key)
    }

    fn get_many(&self, keyspace: Keyspace<'_>, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        self.core.get_many(0, keyspace, keys)
    }

    fn commit(&self, batch: &WriteBatch, durability: Durability) -> Result<(), StorageError> {
        let payload = encode_batch(batch).map_err(StorageError::Failed)?;
        let part = self.core.connection.write_lane().buffer_bytes();
        let last = payload.len().saturating_sub(1) / part * part;
        for offset in (0..last).step_by(part) {
            // A batch of which only parts came is never applied: no outcome is unknown yet.
            let (lane, piece) = (self.core.connection.write_lane(), &payload[offset..offset + part]);
            self.core
                .call(lane, Operation::EngineStage, offset as u64, piece, WRITE, &mut PrivateCopy::default())
                .map_err(CallError::of_read)?;
        }
        let argument = if durability == Durability::Hard { HARD } else { 0 };
        self.core.write(Operation::EngineCommit, argument, &payload[last..])
    }

    fn snapshot(&self) -> Result<Box<dyn StorageSnapshot>, StorageError> {
        Ok(Box::new(SharedSnapshot(Arc::new(RemoteSnapshot::take(&self.core)?))))
    }

    fn drop_keyspace(&self, keyspace: Keyspace<'_>) -> Result<(), StorageError> {
        let mut payload = Vec::new();
        put_short(&mut payload, keyspace.as_bytes());
        self.core.write(Operation::EngineDropKeyspace, 0, &payload)
    }

    fn flush(&self) -> Result<(), StorageError> {
        // What was committed before is there in any case, on the disk or not.
        let unknown = |error: StorageError| match error {
            StorageError::Failed(message) => StorageError::Unknown(message),
            other => other,
        };
        self.core.write(Operation::EngineFlush, 0, &[]).map_err(unknown)
    }

    fn statistics(&self) -> Datum {
        let (lane, mut reply) = (self.core.connection.read_lane(), PrivateCopy::default());
        let called = self.core.call(lane, Operation::EngineStatistics, 0, &[], READ, &mut reply);
        match called.ok().map(|_| Datum::decode(reply.bytes())) {
            None => Datum::Null,
            Some(Ok(statistics)) => statistics,
            Some(Err(error)) => {
                drop(self.core.connection.judge(protocol(format!("statistics that are no value: {error}"))));
                Datum::Null
            }
        }
    }

    fn upkeep(&self, request: &UpkeepRequest<'_>) -> Result<Option<Upkeep>, StorageError> {
        let mut payload = request.now.to_bits().to_le_bytes().to_vec();
        payload.extend_from_slice(&u32::try_from(request.most).unwrap_or(u32::MAX).to_le_bytes());
        put_short(&mut payload, request.documents.as_bytes());
        put_short(&mut payload, request.primary_key.as_bytes());
        let (lane, mut reply) = (self.core.connection.read_lane(), PrivateCopy::default());
        let called = self.core.call(lane, Operation::EngineUpkeep, 0, &payload, READ, &mut reply);
        let value = called.map_err(CallError::of_read)?.value;
        let groups = match value {
            UNWANTED => return Ok(None),
            ALL | AND_MORE => read_groups(reply.bytes()),
            _ => Err(protocol("upkeep that is neither wanted nor unwanted")),
        };
        let groups = groups.map_err(|error| StorageError::Closed(self.core.connection.judge(error).to_string()))?;
        Ok(Some(Upkeep { groups, has_more: value == AND_MORE }))
    }
}

/// A snapshot in another process, which is freed there when this is dropped.
pub(super) struct RemoteSnapshot<C: Connection> {
    core: Arc<Core<C>>,
    number: u64,
}

impl<C: Connection> RemoteSnapshot<C> {
    fn take(core: &Arc<Core<C>>) -> Result<Self, StorageError> {
        let number = core.next_number();
        let (lane, mut reply) = (core.connection.read_lane(), PrivateCopy::default());
        let taken = core.call(lane, Operation::EngineSnapshot, number, &[], READ, &mut reply);
        // Taken or not: one that came too late has to be freed as well.
        let snapshot = Self { core: Arc::clone(core), number };
        taken.map(|_| snapshot).map_err(CallError::of_read)
    }
}

impl<C: Connection> Drop for RemoteSnapshot<C> {
    fn drop(&mut self) {
        self.core.release(self.number);
    }
}

struct SharedSnapshot<C: Connection>(Arc<RemoteSnapshot<C>>);

impl<C: Connection> SharedSnapshot<C> {
    fn begin(
        &self,
        keyspace: Keyspace<'_>,
        range: &KeyRange,
        direction: Direction,
        selection: &Selection,
    ) -> Result<RemoteScan<C>, StorageError> {
        let (core, snapshot) = (&self.0.core, Arc::clone(&self.0));
        let number = snapshot.number;
        RemoteScan::begin(core, Some(snapshot), number, keyspace, range, direction, selection)
    }
}

impl<C: Connection> StorageSnapshot for SharedSnapshot<C> {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.0.core.get(self.0.number, keyspace, key)
    }

    fn get_many(&self, keyspace: Keyspace<'_>, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        self.0.core.get_many(self.0.number, keyspace, keys)
    }

    fn scan(
        &self,
        keyspace: Keyspace<'_>,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<EntryIterator, StorageError> {
        self.scan_selected(keyspace, range, direction, &Selection::default())
    }

    fn scan_selected(
        &self,
        keyspace: Keyspace<'_>,
        range: &KeyRange,
        direction: Direction,
        selection: &Selection,
    ) -> Result<EntryIterator, StorageError> {
        Ok(Box::new(self.begin(keyspace, range, direction, selection)?))
    }

    fn scan_values(
        &self,
        keyspace: Keyspace<'_>,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<ValueIterator, StorageError> {
        Ok(Box::new(RemoteValues(self.begin(keyspace, range, direction, &Selection::default())?)))
    }
}
