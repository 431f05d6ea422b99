//! Results on their way to the client: responses as JSON, streams in batches.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use photondb_plugin_sdk::Datum;

use super::engine::guarded;
use super::error::{Frame, ReqlError, Result};
use super::eval::Context;
use super::options::MAX_BATCH_BYTES;
use super::output;
use super::stream::{Fused, StoredRows, Stream};

/// The result of a query.
pub enum Answer {
    /// One value.
    Atom {
        /// The response so far: its head, and the value as JSON.
        body: Vec<u8>,
        /// What was done, if the client asked.
        profile: Option<Vec<Datum>>,
    },
    /// A sequence, which is read in batches.
    Stream(Cursor),
}

/// An open stream. Dropping it ends it.
pub struct Cursor {
    rows: Fused<StoredRows>,
    ctx: Arc<Context>,
    /// An error that came behind rows that were sent first.
    failure: Option<ReqlError>,
    batches: u64,
}

/// The beginning of a response with rows and more to come.
const BATCH: &[u8] = br#"{"t":3,"r":["#;
/// The beginning of a response with the last rows.
const LAST_BATCH: &[u8; BATCH.len()] = br#"{"t":2,"r":["#;

/// A response up to its last row.
struct Batch {
    body: Vec<u8>,
    is_last: bool,
}

impl Cursor {
    /// A cursor at the beginning of a stream.
    #[must_use]
    pub fn new(stream: Stream, ctx: Arc<Context>) -> Self {
        Self { rows: Fused::new(stream.into_stored()), ctx, failure: None, batches: 0 }
    }

    /// Whether the stream was stopped by its client.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.ctx.cancelled.load(Ordering::Relaxed)
    }

    /// The next batch as a response, and whether it is the last one.
    pub fn next_response(&mut self) -> (Response, bool) {
        match guarded(|| self.next_batch()) {
            Ok(batch) => (Response::batch(batch.body, self.ctx.profile.take()), batch.is_last),
            Err(_) if self.is_cancelled() => (Response::empty_sequence(), true),
            Err(error) => (Response::error(&error), true),
        }
    }

    fn next_batch(&mut self) -> Result<Batch> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        let limits = &self.ctx.options.batch;
        let scaledown = if self.batches == 0 { limits.first_scaledown } else { 1 };
        let max_bytes = (limits.max_bytes / scaledown).max(1);
        let deadline = Instant::now() + limits.max_time;
        self.batches += 1;
        let mut batch = Batch { body: BATCH.to_vec(), is_last: false };
        let mut count = 0;
        while count < limits.max_rows {
            let bytes = batch.body.len() - BATCH.len();
            let full = (bytes >= max_bytes && count >= limits.min_rows) || bytes >= MAX_BATCH_BYTES;
            if full || (count > 0 && Instant::now() >= deadline) {
                return Ok(batch);
            }
            let Some(row) = self.rows.next() else {
                batch.is_last = true;
                batch.body[..BATCH.len()].copy_from_slice(LAST_BATCH);
                return Ok(batch);
            };
            if count > 0 {
                batch.body.push(b',');
            }
            match row.and_then(|row| output::write(&row, &mut batch.body)) {
                Ok(()) => count += 1,
                // The rows before the failure are good: they go first.
                Err(error) if count > 0 => {
                    batch.body.truncate(BATCH.len() + bytes);
                    self.failure = Some(error);
                    return Ok(batch);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(batch)
    }
}

/// A response's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response(pub Vec<u8>);

impl Response {
    /// What is in front of one value.
    pub(super) fn head_of_atom() -> Vec<u8> {
        br#"{"t":1,"r":["#.to_vec()
    }

    /// One value, which is in the body of an [`Answer::Atom`].
    #[must_use]
    pub fn atom(mut body: Vec<u8>, profile: Option<Vec<Datum>>) -> Self {
        body.push(b']');
        finish(body, profile)
    }

    fn batch(mut body: Vec<u8>, profile: Option<Vec<Datum>>) -> Self {
        body.extend_from_slice(br#"],"n":[]"#);
        finish(body, profile)
    }

    /// The end of a sequence.
    #[must_use]
    pub fn empty_sequence() -> Self {
        Self(br#"{"t":2,"r":[],"n":[]}"#.to_vec())
    }

    /// The answer to NOREPLY_WAIT.
    #[must_use]
    pub fn wait_complete() -> Self {
        Self(br#"{"t":4,"r":[]}"#.to_vec())
    }

    /// The answer to SERVER_INFO.
    #[must_use]
    pub fn server_info(id: &str, name: &str) -> Self {
        let info = Datum::object([("id", Datum::from(id)), ("name", name.into()), ("proxy", false.into())]);
        let mut body = br#"{"t":5,"r":["#.to_vec();
        info.write_json(&mut body);
        body.extend_from_slice(b"]}");
        Self(body)
    }

    /// An error.
    #[must_use]
    pub fn error(error: &ReqlError) -> Self {
        let mut body = format!(r#"{{"t":{},"r":["#, error.kind().response_type()).into_bytes();
        Datum::from(error.message()).write_json(&mut body);
        body.extend_from_slice(br#"],"b":["#);
        for (position, frame) in error.backtrace().enumerate() {
            if position > 0 {
                body.push(b',');
            }
            match frame {
                Frame::Position(argument) => body.extend_from_slice(argument.to_string().as_bytes()),
                Frame::Option(name) => Datum::String(name.clone()).write_json(&mut body),
            }
        }
        body.push(b']');
        if let Some(number) = error.kind().number() {
            body.extend_from_slice(format!(r#","e":{number}"#).as_bytes());
        }
        body.push(b'}');
        Self(body)
    }
}

fn finish(mut body: Vec<u8>, profile: Option<Vec<Datum>>) -> Response {
    if let Some(profile) = profile {
        body.extend_from_slice(br#","p":"#);
        Datum::from(profile).write_json(&mut body);
    }
    body.push(b'}');
    Response(body)
}
