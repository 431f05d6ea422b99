//! Queries that plugins run while they answer a call (permission `query`), and what they may use up.
//!
//! A client's query calls a plugin, which runs a query, which may call a plugin, and so on. Every call in such a chain is
//! a [`Calling`], which knows the one around it. A query inside of it
//!
//! * touches what its plugin's scope grants ([`access`](super::access)),
//! * ends before the call does, and when anybody around it has ended or gone,
//! * keeps at most [`MAX_KEPT`] bytes of values and answers with at most [`MAX_RESULT`],
//! * is at most [`MAX_DEPTH`] levels deep, one of at most [`MAX_QUERIES`] at a time that the client's call has caused.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use photondb_plugin_sdk::Datum;

use super::engine::{self, Finished};
use super::error::{ErrorKind, ReqlError, Result};
use super::eval::Context;
use super::output;
use super::stream::Fused;
use super::value::Value;

/// How deep queries of plugins may be: a query that a plugin runs for a client's query is the first level.
pub const MAX_DEPTH: usize = 4;
/// Most queries at a time inside of one call that a client's query has made, those of all levels together.
pub const MAX_QUERIES: usize = 8;
/// The longest result, encoded. It travels in one control message, which may have 1 MiB.
pub const MAX_RESULT: usize = 1_000_000;
/// About the most memory that the values of one query may take: those that its terms make, and those that it keeps to
/// sort, group or collect them. What streams by is not counted.
pub const MAX_KEPT: usize = 64 << 20;
/// By how much a query ends earlier than the call that runs it: the plugin is to answer with what became of it.
const MARGIN: Duration = Duration::from_millis(100);

/// On whose behalf a plugin is called.
#[derive(Clone, Copy)]
pub struct Origin<'a> {
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// Set when nobody waits for the client's query any more.
    pub cancelled: &'a Arc<AtomicBool>,
    /// The call whose query makes this one; nothing for a client's own.
    pub within: Option<&'a Arc<Calling>>,
}

impl Origin<'_> {
    /// A caller that is no query, and waits until `deadline`.
    #[must_use]
    pub fn until(deadline: Instant) -> Self {
        static NEVER: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
        Self { deadline, cancelled: &NEVER, within: None }
    }
}

/// A call of a plugin that may run queries, while it is in flight.
#[derive(Debug)]
pub struct Calling {
    instance: u64,
    lane: usize,
    depth: usize,
    deadline: Instant,
    cancelled: Arc<AtomicBool>,
    ended: AtomicBool,
    around: Option<Arc<Calling>>,
    /// Queries of the whole chain, counted where it begins.
    queries: Arc<AtomicUsize>,
}

impl Calling {
    /// A call to the process number `instance`, on one of its lanes.
    #[must_use]
    pub fn new(instance: u64, lane: usize, origin: &Origin<'_>) -> Self {
        let around = origin.within;
        Self {
            instance,
            lane,
            depth: around.map_or(1, |around| around.depth + 1),
            deadline: origin.deadline.checked_sub(MARGIN).unwrap_or(origin.deadline),
            cancelled: Arc::clone(origin.cancelled),
            ended: AtomicBool::new(false),
            around: around.cloned(),
            queries: around.map_or_else(Arc::default, |around| Arc::clone(&around.queries)),
        }
    }

    /// The level of the queries that it runs, from 1 on.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// When its queries have to end.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Nobody waits for the call any more: its queries end.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |calling| calling.around.as_deref())
    }

    /// Set when nobody waits for the client's query any more.
    #[must_use]
    pub fn cancelled(&self) -> &Arc<AtomicBool> {
        &self.cancelled
    }

    /// Whether the lane of that process waits for a query of this chain: a call behind it would wait for ever.
    #[must_use]
    pub fn blocks(&self, instance: u64, lane: usize) -> bool {
        self.chain().any(|calling| (calling.instance, calling.lane) == (instance, lane))
    }

    /// Counts a query, until the guard is dropped.
    ///
    /// # Errors
    /// When it would be one too many, or too deep.
    pub fn begin_query(&self) -> Result<RunningQuery> {
        if self.depth > MAX_DEPTH {
            return Err(ReqlError::limit(format!(
                "Plugins' queries called each other {MAX_DEPTH} levels deep, which is the most; does a plugin's query call \
                 the function that runs it?"
            )));
        }
        let counted = RunningQuery(Arc::clone(&self.queries));
        if counted.0.fetch_add(1, Ordering::Relaxed) >= MAX_QUERIES {
            return Err(ReqlError::limit(format!(
                "{MAX_QUERIES} queries run within this call already, which is the most at a time; wait for one to end."
            )));
        }
        Ok(counted)
    }

    /// Fails when the call, or one around it, is at its end.
    ///
    /// # Errors
    /// Says which.
    pub fn check_running(&self) -> Result<()> {
        if self.chain().any(|calling| calling.ended.load(Ordering::Relaxed)) || self.cancelled.load(Ordering::Relaxed) {
            return Err(ReqlError::failed("The call that ran this query has ended, and the query with it."));
        }
        if Instant::now() >= self.deadline {
            return Err(late());
        }
        Ok(())
    }
}

/// The value of a plugin's query, encoded; a sequence is read to its end, and becomes an array.
///
/// # Errors
/// When it is too long, or no value that can leave a query.
pub(super) fn encode(value: Value, ctx: &Arc<Context>) -> Result<Vec<u8>> {
    let datum = match engine::finished(value, ctx)? {
        Finished::Row(row) => row.into_datum()?,
        Finished::Stream(stream) => {
            let (mut rows, mut bytes) = (Vec::new(), 0);
            for row in Fused::new(stream.into_all_rows()?) {
                let row = row?;
                bytes += encoded(&row)?.len();
                if bytes > MAX_RESULT {
                    return Err(too_long());
                }
                ctx.check_length(rows.len())?;
                rows.push(row);
            }
            rows.into()
        }
    };
    encoded(&datum)
}

fn encoded(datum: &Datum) -> Result<Vec<u8>> {
    // What would take more as JSON than this does not fit into the result either; values that share their parts are small
    // until they are written out.
    output::check_within(datum, 16 * MAX_RESULT).map_err(|error| match error.kind() {
        ErrorKind::ResourceLimit => too_long(),
        _ => error,
    })?;
    let bytes = datum.encoded();
    if bytes.len() > MAX_RESULT { Err(too_long()) } else { Ok(bytes) }
}

fn too_long() -> ReqlError {
    ReqlError::limit(format!(
        "The result of the query takes more than {MAX_RESULT} bytes, which is the most for a query of a plugin; ask for \
         fewer documents, or leave parts of them out with `pluck`."
    ))
}

/// The error of a query that takes too long.
#[must_use]
pub fn late() -> ReqlError {
    ReqlError::failed("The query did not end before the deadline of the call that runs it; let it read less.")
}

/// A query that counts as running, until dropped.
#[derive(Debug)]
pub struct RunningQuery(Arc<AtomicUsize>);

impl Drop for RunningQuery {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one query of a plugin may still use up.
#[derive(Debug)]
pub struct Allowance {
    /// The call that runs it.
    pub calling: Arc<Calling>,
    memory: AtomicUsize,
}

impl Allowance {
    /// That of a query which begins.
    #[must_use]
    pub fn new(calling: Arc<Calling>) -> Self {
        Self { calling, memory: AtomicUsize::new(MAX_KEPT) }
    }

    /// Counts the memory of a value that was made or is kept.
    ///
    /// # Errors
    /// When it is too much.
    pub fn keep(&self, datum: &Datum) -> Result<()> {
        let mut left = self.memory.load(Ordering::Relaxed);
        let fits = take(datum, &mut left);
        self.memory.store(left, Ordering::Relaxed);
        if fits {
            return Ok(());
        }
        Err(ReqlError::limit(format!(
            "The query makes or keeps more than {} MiB of values, which is the most for a query of a plugin; let it read \
             less, or use an index instead of sorting and grouping.",
            MAX_KEPT >> 20
        )))
    }
}

/// Takes what the value has on the heap, roughly, from `left`, as long as there is enough. Parts that are shared count as
/// often as they occur: the walk ends with the budget.
fn take(datum: &Datum, left: &mut usize) -> bool {
    /// A datum in an array, and an entry of an object.
    const ELEMENT: usize = size_of::<Datum>();
    const ENTRY: usize = ELEMENT + 32;
    let own = match datum {
        Datum::String(text) => text.len(),
        Datum::Binary(bytes) => bytes.len(),
        Datum::Typed(typed) => typed.text().len() + typed.order_key().len(),
        Datum::Array(elements) => elements.len().saturating_mul(ELEMENT),
        Datum::Object(object) => object.len().saturating_mul(ENTRY),
        _ => 0,
    };
    match left.checked_sub(own) {
        Some(rest) => *left = rest,
        None => {
            *left = 0;
            return false;
        }
    }
    match datum {
        Datum::Array(elements) => elements.iter().all(|element| take(element, left)),
        Datum::Object(object) => object.iter().all(|(_, value)| take(value, left)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(within: Option<&Arc<Calling>>, instance: u64, lane: usize, deadline: Instant) -> Arc<Calling> {
        Arc::new(Calling::new(instance, lane, &Origin { deadline, cancelled: &Arc::default(), within }))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn the_fifth_level_is_refused_and_the_ninth_query_too() {
        let mut calling = call(None, 1, 0, soon());
        for _ in 0..MAX_DEPTH {
            assert!(calling.begin_query().is_ok());
            calling = call(Some(&calling), 1, 0, soon());
        }
        assert!(calling.begin_query().unwrap_err().message().contains("4 levels"));
        let (first, second) = (call(None, 1, 0, soon()), call(None, 1, 1, soon()));
        let inner = call(Some(&first), 2, 0, soon());
        let mut running: Vec<_> = (0..MAX_QUERIES).map(|_| inner.begin_query().unwrap()).collect();
        assert!(first.begin_query().unwrap_err().message().contains("8 queries"));
        assert!(second.begin_query().is_ok());
        running.pop();
        assert!(first.begin_query().is_ok());
    }

    #[test]
    fn a_query_ends_with_any_call_around_it() {
        let outer = call(None, 1, 0, soon());
        let inner = call(Some(&outer), 2, 0, soon());
        assert!(inner.check_running().is_ok());
        outer.end();
        assert!(inner.check_running().is_err());
        let late = call(None, 1, 0, Instant::now() + MARGIN);
        assert!(late.check_running().unwrap_err().message().contains("deadline"));
        let gone = call(None, 1, 0, soon());
        gone.cancelled.store(true, Ordering::Relaxed);
        assert!(gone.check_running().is_err());
    }

    #[test]
    fn lanes_that_wait_for_the_chain_are_known() {
        let outer = call(None, 1, 2, soon());
        let inner = call(Some(&outer), 7, 0, soon());
        assert!(inner.blocks(1, 2) && inner.blocks(7, 0) && !inner.blocks(1, 0) && !outer.blocks(7, 0));
    }

    #[test]
    fn values_are_counted_as_often_as_they_occur() {
        let allowance = Allowance::new(call(None, 1, 0, soon()));
        let large = Datum::from("x".repeat(MAX_KEPT / 4));
        allowance.keep(&Datum::array([large.clone(), large.clone()])).unwrap();
        assert!(allowance.keep(&Datum::array([large.clone(), large])).unwrap_err().message().contains("64 MiB"));
        let doubled = (0..100).fold(Datum::from(1), |value, _| Datum::array([value.clone(), value]));
        assert!(Allowance::new(call(None, 1, 0, soon())).keep(&doubled).is_err());
    }
}
