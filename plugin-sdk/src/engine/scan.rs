//! A scan in another process: pages, of which the next one is asked for while one is read.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use photondb_ipc_schema::lane::{Completion, Operation, Pending};
use photondb_ipc_schema::region::PrivateCopy;

use super::message::{Reader, put_selection, put_short};
use super::remote::{CallError, Connection, Core, MAX_VALUE, READ, RemoteSnapshot, judged};
use super::{END, MORE, PART};
use crate::PluginError;
use crate::calls::{answer, protocol};
use crate::kinds::storage::{Direction, Entry, KeyRange, Selection, StorageError};

/// The first page: whoever wants one document should not wait for many, and a range of a hundred small ones should need no
/// second one (of 8 KiB, such a scan took 1.8 times as long as in process).
const FIRST_PAGE: u32 = 32 << 10;
/// Pages grow up to this: beyond it, the round trip no longer shows.
const LARGEST_PAGE: u32 = 256 << 10;

/// Entries of a scan, checked: in the range, each behind the one before.
pub(super) struct RemoteScan<C: Connection> {
    core: Arc<Core<C>>,
    /// Kept as long as the process reads it for this scan.
    snapshot: Option<Arc<RemoteSnapshot<C>>>,
    number: u64,
    range: KeyRange,
    direction: Direction,
    page: PrivateCopy,
    /// How much of the page was read.
    at: usize,
    page_bytes: u32,
    /// The next page, on its way.
    ahead: Option<Pending>,
    last_key: Option<Vec<u8>>,
    /// The process has nothing more, or it failed.
    is_over: bool,
}

impl<C: Connection> RemoteScan<C> {
    pub(super) fn begin(
        core: &Arc<Core<C>>,
        snapshot: Option<Arc<RemoteSnapshot<C>>>,
        snapshot_number: u64,
        keyspace: &str,
        range: &KeyRange,
        direction: Direction,
        selection: &Selection,
    ) -> Result<Self, StorageError> {
        let mut scan = Self {
            core: Arc::clone(core),
            snapshot,
            number: core.next_number(),
            range: range.clone(),
            direction,
            page: PrivateCopy::default(),
            at: 0,
            page_bytes: FIRST_PAGE,
            ahead: None,
            last_key: None,
            is_over: range.end.as_ref().is_some_and(|end| *end <= range.start),
        };
        if scan.is_over {
            return Ok(scan);
        }
        let mut payload = Vec::with_capacity(64 + range.start.len() + range.end.as_ref().map_or(0, Vec::len));
        payload.extend_from_slice(&snapshot_number.to_le_bytes());
        payload.push(u8::from(direction == Direction::Backward));
        payload.extend_from_slice(&scan.page_bytes.to_le_bytes());
        put_short(&mut payload, keyspace.as_bytes());
        put_short(&mut payload, &range.start);
        match &range.end {
            None => payload.push(0),
            Some(end) => {
                payload.push(1);
                put_short(&mut payload, end);
            }
        }
        put_selection(&mut payload, selection);
        // Until it is known to have begun, there may be something to free there.
        let lane = core.connection.read_lane();
        let begun = core.call(lane, Operation::EngineScan, scan.number, &payload, READ, &mut scan.page);
        let completion = begun.map_err(CallError::of_read)?;
        scan.arrived(completion).map_err(|error| core.violated(error))?;
        Ok(scan)
    }

    /// A page is there.
    fn arrived(&mut self, completion: Completion) -> Result<(), PluginError> {
        self.at = 0;
        let is_empty = self.page.bytes().is_empty();
        match completion.value {
            END => (self.is_over, self.snapshot) = (true, None),
            MORE if is_empty => return Err(protocol("an empty page of a scan that goes on")),
            MORE => {}
            PART => return self.put_together(),
            _ => return Err(protocol("a page that is none")),
        }
        Ok(())
    }

    /// Reads all pieces of one entry; it is then the page.
    fn put_together(&mut self) -> Result<(), PluginError> {
        let (mut key, mut value, mut wanted) = (None::<Vec<u8>>, Vec::new(), None);
        loop {
            let mut reader = Reader(self.page.bytes());
            let (piece_key, total) = (reader.short()?, reader.u64()?);
            let total = usize::try_from(total).ok().filter(|total| *total <= MAX_VALUE);
            let total = total.ok_or_else(|| protocol("a value that is larger than any that was stored"))?;
            let is_same = key.get_or_insert_with(|| piece_key.to_vec()) == piece_key;
            if !is_same || *wanted.get_or_insert(total) != total || reader.is_empty() {
                return Err(protocol("pieces of a value that do not fit together"));
            }
            value.extend_from_slice(reader.0);
            if value.len() > total {
                return Err(protocol("more of a value than there is"));
            }
            if value.len() == total {
                break;
            }
            let completion = self.ask().map_err(|error| match error {
                CallError::Answered(error) | CallError::Lost(error) | CallError::Late(error) => error,
            })?;
            if completion.value != PART {
                return Err(protocol("a value of which pieces are missing"));
            }
        }
        let mut whole = Vec::with_capacity(value.len() + 64);
        put_short(&mut whole, &key.unwrap_or_default());
        whole.extend_from_slice(&(value.len() as u32).to_le_bytes());
        whole.append(&mut value);
        self.page = PrivateCopy::from_bytes(&whole);
        Ok(())
    }

    fn ask(&mut self) -> Result<Completion, CallError> {
        let lane = self.core.connection.read_lane();
        let payload = self.page_bytes.to_le_bytes();
        self.core.call(lane, Operation::EnginePage, self.number, &payload, READ, &mut self.page)
    }

    /// Makes the next page the present one, and asks for the one behind it.
    fn turn(&mut self) -> Result<(), StorageError> {
        let was_first = self.page_bytes == FIRST_PAGE;
        let completion = match self.ahead.take() {
            None => self.ask(),
            Some(pending) => {
                let started = Instant::now();
                let answered = answer(pending, started + READ, &mut self.page);
                self.core.ahead.fetch_sub(1, Ordering::Relaxed);
                self.core.connection.record(answered.is_ok(), started.elapsed());
                answered.map_err(|error| judged(&self.core.connection, error))
            }
        };
        let arrived = completion.map_err(CallError::of_read).and_then(|completion| {
            let value = completion.value;
            self.arrived(completion).map_err(|error| self.core.violated(error)).map(|()| value)
        });
        let value = arrived.inspect_err(|_| self.is_over = true)?;
        self.page_bytes = (self.page_bytes * 2).min(LARGEST_PAGE);
        // Not behind the first page, where most readers stop, and never more than half of the slots: who takes no
        // further entry holds one until it is dropped.
        if value == MORE && !was_first {
            self.ask_ahead();
        }
        Ok(())
    }

    fn ask_ahead(&mut self) {
        let most = self.core.connection.read_lane().depth() / 2;
        let taken = self
            .core
            .ahead
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |ahead| (ahead < most).then_some(ahead + 1));
        if taken.is_ok() {
            self.ahead = self.core.try_send(Operation::EnginePage, self.number, &self.page_bytes.to_le_bytes());
            if self.ahead.is_none() {
                self.core.ahead.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Where in the page the value of its next entry is; the key is the last one then.
    fn read(&mut self) -> Result<Option<Range<usize>>, PluginError> {
        let bytes = self.page.bytes();
        let mut reader = Reader(&bytes[self.at..]);
        if reader.is_empty() {
            return Ok(None);
        }
        let (key, value) = (reader.short()?, reader.long()?);
        let is_next = match (&self.last_key, self.direction) {
            (None, _) => true,
            (Some(last), Direction::Forward) => key > last.as_slice(),
            (Some(last), Direction::Backward) => key < last.as_slice(),
        };
        let is_in_range = key >= self.range.start.as_slice()
            && self.range.end.as_ref().is_none_or(|end| key < end.as_slice())
            && !key.is_empty();
        if !is_next || !is_in_range {
            return Err(protocol("a scan whose keys are out of order or out of their range"));
        }
        let (end, value) = (bytes.len() - reader.0.len(), value.len());
        match &mut self.last_key {
            Some(last) => {
                last.clear();
                last.extend_from_slice(key);
            }
            none => *none = Some(key.to_vec()),
        }
        self.at = end;
        Ok(Some(end - value..end))
    }

    /// The value of the next entry; the key is the last one then.
    fn advance(&mut self) -> Option<Result<Vec<u8>, StorageError>> {
        loop {
            match self.read() {
                Ok(Some(value)) => return Some(Ok(self.page.bytes()[value].to_vec())),
                Ok(None) if self.is_over => return None,
                Ok(None) => {
                    if let Err(error) = self.turn() {
                        self.page = PrivateCopy::default();
                        self.at = 0;
                        return Some(Err(error));
                    }
                }
                Err(error) => {
                    let error = self.core.violated(error);
                    (self.is_over, self.page, self.at) = (true, PrivateCopy::default(), 0);
                    return Some(Err(error));
                }
            }
        }
    }
}

impl<C: Connection> Iterator for RemoteScan<C> {
    type Item = Result<Entry, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let value = self.advance()?;
        Some(value.map(|value| (self.last_key.clone().unwrap_or_default(), value)))
    }
}

/// The values of such a scan.
pub(super) struct RemoteValues<C: Connection>(pub(super) RemoteScan<C>);

impl<C: Connection> Iterator for RemoteValues<C> {
    type Item = Result<Vec<u8>, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.advance()
    }
}

impl<C: Connection> Drop for RemoteScan<C> {
    fn drop(&mut self) {
        if self.ahead.take().is_some() {
            self.core.ahead.fetch_sub(1, Ordering::Relaxed);
        }
        if !self.is_over {
            self.core.release(self.number);
        }
    }
}
