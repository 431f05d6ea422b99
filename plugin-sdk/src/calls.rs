//! What each call looks like on a lane: the request that the server writes, and the answer that it believes.
//!
//! The plugin's half is [`runtime`](crate::runtime). Every function here takes a deadline, and turns whatever goes
//! wrong on the lane into a [`PluginError`] whose [`Cause`] says what the supervisor has to do about the plugin.

use std::sync::Arc;
use std::time::Instant;

use photondb_ipc_schema::batch::{Batch, BatchFull, BatchWriter, Column, Kind};
use photondb_ipc_schema::lane::{Completion, Draft, Lane, LaneError, Operation, Pending};
use photondb_ipc_schema::region::PrivateCopy;

use crate::batch::{Cell, read_numbers, read_results, rows_that_fit, write_rows};
use crate::kinds::vector::RowId;
use crate::{Cause, Datum, PluginError};

/// The longest message that is taken over from a plugin.
pub const MAX_MESSAGE: usize = 4096;

impl From<LaneError> for PluginError {
    fn from(error: LaneError) -> Self {
        let cause = match error {
            LaneError::Full => Cause::Limit,
            LaneError::Dead(_) => Cause::Crashed,
            LaneError::Violation(_) => Cause::Protocol,
            _ => Cause::Deadline,
        };
        Self::runtime(cause, error.to_string())
    }
}

/// What a plugin says of its own failures: only what it can know.
fn failure(status: u8, message: &[u8]) -> PluginError {
    let said = Cause::from_number(status - 1);
    let cause = if said.is_answer() || said == Cause::Limit { said } else { Cause::Plugin };
    PluginError::runtime(cause, quote(&String::from_utf8_lossy(message)))
}

/// A text of a plugin as it may stand in a message: at most [`MAX_MESSAGE`] bytes of it, [escaped](escape).
#[must_use]
pub fn quote(text: &str) -> String {
    let mut quoted = escape(&text[..text.floor_char_boundary(MAX_MESSAGE)]);
    quoted.truncate(quoted.floor_char_boundary(MAX_MESSAGE));
    quoted
}

/// The text with everything escaped that could act on a terminal: control characters, direction marks, line and
/// paragraph separators.
#[must_use]
pub fn escape(text: &str) -> String {
    let acts = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

/// The request does not fit into a lane buffer.
fn too_large(error: BatchFull) -> PluginError {
    let bytes = error.capacity;
    PluginError::runtime(Cause::Limit, format!("the request does not fit into the lane's buffer of {bytes} bytes"))
}

pub(crate) fn answer(pending: Pending, deadline: Instant, reply: &mut PrivateCopy) -> Result<Completion, PluginError> {
    let completion = pending.wait(deadline, reply)?;
    succeeded(completion, reply)
}

fn succeeded(completion: Completion, reply: &PrivateCopy) -> Result<Completion, PluginError> {
    if completion.status == 0 { Ok(completion) } else { Err(failure(completion.status, reply.bytes())) }
}

pub(crate) fn protocol(message: impl Into<String>) -> PluginError {
    PluginError::runtime(Cause::Protocol, message)
}

/// Does nothing, there and back.
///
/// # Errors
/// When the lane fails.
pub fn nop(lane: &Arc<Lane>, deadline: Instant) -> Result<(), PluginError> {
    let pending = lane.begin(deadline)?.send(Operation::Nop, 0, 0, 0);
    answer(pending, deadline, &mut PrivateCopy::default()).map(drop)
}

/// Writes as many of the rows as fit into a request: how many, and the bytes.
///
/// # Errors
/// [`Cause::Limit`] when not even one row fits.
pub fn write_as_many<C: Cell>(buffer: &mut [u8], args: &[&[C]], rows: usize) -> Result<(usize, usize), PluginError> {
    let mut count = rows_that_fit(args, rows, buffer.len()).clamp(rows.min(1), rows);
    loop {
        match write_rows(buffer, args, count) {
            Ok(bytes) => return Ok((count, bytes)),
            Err(full) if count <= 1 => return Err(too_large(full)),
            Err(_) => count /= 2,
        }
    }
}

/// A function call on its way.
#[derive(Debug)]
pub struct Invocation {
    pending: Pending,
    rows: usize,
}

impl Invocation {
    /// Sends as many of the rows as fit, from the first on; `args[i][row]` is argument `i`, be it a
    /// [`Datum`], a plain `f64`, or a value where it is stored. All arguments have `rows` values.
    ///
    /// # Errors
    /// [`Cause::Limit`] when not even one row fits.
    pub fn send<C: Cell>(mut draft: Draft, function: u32, args: &[&[C]], rows: usize) -> Result<Self, PluginError> {
        let (rows, sent) = write_as_many(draft.buffer(), args, rows)?;
        Ok(Self { pending: draft.send(Operation::InvokeFunction, function, sent, 0), rows })
    }

    /// How many rows were sent.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Waits for the results, one a row.
    ///
    /// # Errors
    /// What the function said, or what happened to the plugin.
    pub fn wait(self, deadline: Instant, reply: &mut PrivateCopy) -> Result<Vec<Datum>, PluginError> {
        answer(self.pending, deadline, reply)?;
        read_results(reply.bytes(), self.rows)
    }

    /// The call itself, for a task that awaits its completion in its own way and then [reads](read_rows) the results.
    #[must_use]
    pub fn into_pending(self) -> Pending {
        self.pending
    }

    /// As [`wait`](Self::wait), for results that are all numbers: in the private copy, checked, without a datum for any.
    ///
    /// # Errors
    /// As there; and where a result is anything but a number.
    pub fn wait_numbers(self, deadline: Instant, reply: &mut PrivateCopy) -> Result<&[f64], PluginError> {
        answer(self.pending, deadline, reply)?;
        read_numbers(reply.bytes(), self.rows)
    }
}

/// The results of `rows` rows, one a row, of a call that was completed with `reply`.
///
/// # Errors
/// What the function said.
pub fn read_rows(completion: Completion, rows: usize, reply: &PrivateCopy) -> Result<Vec<Datum>, PluginError> {
    succeeded(completion, reply)?;
    read_results(reply.bytes(), rows)
}

/// Sends rows to be inserted into an index or removed from it. At most [`rows_per_call`] of them.
///
/// # Errors
/// What the index said, or what happened to the plugin.
pub fn maintain(
    lane: &Arc<Lane>,
    operation: Operation,
    index: u32,
    rows: &[RowId],
    deadline: Instant,
) -> Result<(), PluginError> {
    let mut draft = lane.begin(deadline)?;
    let mut writer = BatchWriter::new(draft.buffer(), 1, rows.len()).map_err(too_large)?;
    writer.u32s(rows.len()).map_err(too_large)?.copy_from_slice(rows);
    let payload = writer.finish();
    answer(draft.send(operation, index, payload, 0), deadline, &mut PrivateCopy::default()).map(drop)
}

/// How many rows fit into one call of [`maintain`].
#[must_use]
pub fn rows_per_call(lane: &Lane) -> usize {
    (lane.buffer_bytes() - 256) / size_of::<RowId>()
}

/// A batch of searches as the server sends it.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// `[queries, dims]`, row-major.
    pub queries: &'a [f32],
    /// The length of the vectors.
    pub dims: usize,
    /// Rows wanted for each query.
    pub k: usize,
    /// One bit a row, where not all are allowed.
    pub allow: Option<&'a [u8]>,
    /// Search settings: an object or null.
    pub settings: &'a Datum,
}

/// A batch of searches on its way.
#[derive(Debug)]
pub struct Searching<'a> {
    search: Search<'a>,
    pending: Pending,
}

impl<'a> Search<'a> {
    /// How many queries fit into one call, requests and replies.
    #[must_use]
    pub fn queries_per_call(&self, lane: &Lane) -> usize {
        let fixed = 1024 + self.settings.encoded().len() + self.allow.map_or(0, <[u8]>::len);
        let request = lane.buffer_bytes().saturating_sub(fixed) / (self.dims * 4).max(1);
        let reply = lane.buffer_bytes().saturating_sub(1024) / (self.k * 8 + 4);
        request.min(reply)
    }

    /// Searches, by a call that has begun: sends the queries, and waits until `deadline` for the answer.
    ///
    /// # Errors
    /// As [`send`](Self::send) and [`Searching::wait`].
    pub fn run(&self, draft: Draft, index: u32, deadline: Instant) -> Result<Vec<Vec<RowId>>, PluginError> {
        self.send(draft, index)?.wait(deadline, &mut PrivateCopy::default())
    }

    /// Sends the queries by a call that has begun. At most [`queries_per_call`](Self::queries_per_call) of them.
    ///
    /// # Errors
    /// [`Cause::Limit`] when they don't fit.
    pub fn send(&self, mut draft: Draft, index: u32) -> Result<Searching<'a>, PluginError> {
        let count = self.count();
        let columns = if self.allow.is_some() { 3 } else { 2 };
        let mut writer = BatchWriter::new(draft.buffer(), columns, count).map_err(too_large)?;
        writer.f32s(self.dims, count).map_err(too_large)?.copy_from_slice(self.queries);
        let settings = self.settings.encoded();
        writer.values(Kind::Datum, 1, |_, out| out.put(&settings)).map_err(too_large)?;
        if let Some(allow) = self.allow {
            writer.u8s(allow.len()).map_err(too_large)?.copy_from_slice(allow);
        }
        let sent = writer.finish();
        let pending = draft.send(Operation::IndexSearch, index, sent, self.k as u64);
        Ok(Searching { search: *self, pending })
    }

    fn count(&self) -> usize {
        self.queries.len() / self.dims.max(1)
    }

    /// Reads the answer to a search of `count` queries.
    ///
    /// # Errors
    /// [`Cause::Protocol`] for an answer of the wrong shape.
    #[doc(hidden)]
    pub fn read(&self, count: usize, reply: &[u8]) -> Result<Vec<Vec<RowId>>, PluginError> {
        let batch = Batch::parse(reply).map_err(|error| protocol(error.to_string()))?;
        let (Some(Column::U32(rows)), Some(Column::U32(counts))) = (batch.column(0), batch.column(2)) else {
            return Err(protocol("a search answer without rows and counts"));
        };
        if rows.len() != count * self.k || counts.len() != count {
            return Err(protocol("a search answer of another size than was asked for"));
        }
        if counts.iter().any(|&found| found as usize > self.k) {
            return Err(protocol("more rows found than were asked for"));
        }
        let found = |query: usize| &rows[query * self.k..query * self.k + counts[query] as usize];
        Ok((0..count).map(|query| found(query).to_vec()).collect())
    }
}

impl Searching<'_> {
    /// Waits until `deadline` for the answer: for each query the rows, at most `k`, in the order that the plugin gave. They
    /// are a plugin's word: rows may not exist.
    ///
    /// # Errors
    /// What the index said, or what happened to the plugin; [`Cause::Protocol`] for an answer of the wrong shape.
    pub fn wait(self, deadline: Instant, reply: &mut PrivateCopy) -> Result<Vec<Vec<RowId>>, PluginError> {
        answer(self.pending, deadline, reply)?;
        self.search.read(self.search.count(), reply.bytes())
    }
}

/// Reads the saved form of an index, at most `limit` bytes of it.
///
/// # Errors
/// What the index said, or what happened to the plugin; [`Cause::Limit`] when it is longer than `limit`.
pub fn save(lane: &Arc<Lane>, index: u32, limit: usize, deadline: Instant) -> Result<Vec<u8>, PluginError> {
    let (mut saved, mut reply) = (Vec::new(), PrivateCopy::default());
    loop {
        let draft = lane.begin(deadline)?;
        let completion = answer(draft.send(Operation::IndexSave, index, 0, saved.len() as u64), deadline, &mut reply)?;
        let total = usize::try_from(completion.value).unwrap_or(usize::MAX);
        if total > limit {
            let message = format!("the saved index has {total} bytes; at most {limit} are kept");
            return Err(PluginError::runtime(Cause::Limit, message));
        }
        saved.extend_from_slice(reply.bytes());
        if saved.len() >= total {
            saved.truncate(total);
            return Ok(saved);
        }
        if reply.bytes().is_empty() {
            return Err(protocol("an empty part of a saved index"));
        }
    }
}

/// Hands the index what it saved once.
///
/// # Errors
/// What the index said, for instance that the bytes are damaged, or what happened to the plugin.
pub fn load(lane: &Arc<Lane>, index: u32, saved: &[u8], deadline: Instant) -> Result<(), PluginError> {
    let chunk_bytes = lane.buffer_bytes() - 256;
    let mut offset = 0;
    // The empty chunk ends the transfer.
    for chunk in saved.chunks(chunk_bytes).chain([&[][..]]) {
        let mut draft = lane.begin(deadline)?;
        let mut writer = BatchWriter::new(draft.buffer(), 1, 0).map_err(too_large)?;
        writer.u8s(chunk.len()).map_err(too_large)?.copy_from_slice(chunk);
        let payload = writer.finish();
        let pending = draft.send(Operation::IndexLoad, index, payload, offset);
        answer(pending, deadline, &mut PrivateCopy::default())?;
        offset += chunk.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_can_only_blame_itself_or_the_arguments() {
        assert_eq!(failure(1, b"x").cause(), Cause::Argument);
        // Or what it has stored, or who has that open.
        assert_eq!(failure(11, b"x").cause(), Cause::Damaged);
        assert_eq!(failure(12, b"x").cause(), Cause::Busy);
        for status in [4, 5, 6, 8, 9, 13, 200, 255] {
            assert_eq!(failure(status, b"x").cause(), Cause::Plugin, "{status}");
        }
    }

    #[test]
    fn messages_are_cut() {
        assert_eq!(quote(&"x".repeat(1 << 20)).len(), MAX_MESSAGE);
        assert_eq!(quote(&"ß".repeat(MAX_MESSAGE)).len(), MAX_MESSAGE);
        assert!(quote(&"\x1b".repeat(MAX_MESSAGE)).len() <= MAX_MESSAGE);
        assert_eq!(failure(3, &vec![b'x'; 1 << 20]).message().len(), MAX_MESSAGE);
    }

    #[test]
    fn messages_cannot_drive_a_terminal() {
        assert_eq!(escape("a\x1b[31mb\u{202e}c\n"), "a\\u{1b}[31mb\\u{202e}c\\n");
        assert_eq!(escape("größer"), "größer");
    }
}
