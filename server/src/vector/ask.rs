//! Searches of a plugin's graph: a batch is split among the threads of the plugin that have nothing to do.

use std::collections::VecDeque;
use std::time::Instant;

use photondb_ipc_schema::region::PrivateCopy;
use photondb_plugin_sdk::PluginError;
use photondb_plugin_sdk::calls::Search;
use photondb_plugin_sdk::kinds::vector::RowId;

use crate::plugins::instance::Instance;
use crate::plugins::plugin::Plugin;
use crate::query::nested::Origin;

/// Fewer queries than this take less time than a thread needs to wake up.
pub(super) const LEAST_QUERIES: usize = 8;
/// Messages for each thread: while it works on the second one, the first one is read back.
const MESSAGES_PER_LANE: usize = 2;

/// For each query the rows that the plugin names; `None` where not even one query fits into a call.
///
/// # Errors
/// What the index said, or what happened to the plugin.
pub(super) fn ask(
    plugin: &Plugin,
    instance: &Instance,
    index: u32,
    search: Search<'_>,
    origin: &Origin<'_>,
) -> Result<Option<Vec<Vec<RowId>>>, PluginError> {
    let deadline = origin.deadline;
    let failed = |started: Instant, error: PluginError| {
        plugin.counters().record(started.elapsed(), false);
        error
    };
    let lanes = instance.idle_lanes(origin)?;
    let per_call = search.queries_per_call(lanes[0]);
    if per_call == 0 {
        return Ok(None);
    }
    let count = search.queries.len() / search.dims;
    // Every message carries the bitmap.
    let messages = if search.allow.is_some() { lanes.len() } else { lanes.len() * MESSAGES_PER_LANE };
    let share = if lanes.len() > 1 { count.div_ceil(messages).max(LEAST_QUERIES) } else { count };
    let mut parts = search.queries.chunks(share.clamp(1, per_call) * search.dims).zip(lanes.iter().cycle()).peekable();
    // Searches that wait for a plugin that does not answer must not hold all threads that queries run on.
    let caller = plugin.call();
    let (mut in_flight, mut reply) = (VecDeque::new(), PrivateCopy::default());
    let mut found = Vec::with_capacity(count);
    loop {
        while let Some(&(queries, lane)) = parts.peek() {
            let started = Instant::now();
            // Who has a call in flight may not wait for another slot: others might wait for the one that it holds.
            let draft =
                if in_flight.is_empty() { lane.begin(caller.turn_by(deadline)).map(Some) } else { lane.try_begin() };
            let Some(draft) = draft.map_err(|error| failed(started, error.into()))? else { break };
            let allowed = instance.allow_queries(&draft, origin);
            let searching = Search { queries, ..search }.send(draft, index);
            let searching = searching.map_err(|error| failed(started, error))?;
            in_flight.push_back((searching, allowed, started));
            parts.next();
        }
        let Some((searching, _allowed, started)) = in_flight.pop_front() else { return Ok(Some(found)) };
        let answer = searching.wait(deadline, &mut reply);
        found.extend(answer.map_err(|error| failed(started, error))?);
        plugin.answered();
        plugin.counters().record(started.elapsed(), true);
    }
}
