//! The way to a plugin: calls that do nothing, and columns of numbers through its lane.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use photondb_ipc_schema::lane::Lane;
use photondb_ipc_schema::region::PrivateCopy;
use photondb_plugin_sdk::batch::Cell;
use photondb_plugin_sdk::calls::{self, Invocation};

use super::pin::{Pinned, pin_process};
use super::ping_pong::Cores;
use super::rounds::{Case, Latencies, Measure, less};
use crate::plugins::instance::Instance;
use crate::query::nested::Origin;

/// Long enough for every single call of a benchmark.
const DEADLINE: Duration = Duration::from_secs(60);
/// As many as the server sends in a message.
const ROWS_PER_MESSAGE: usize = 1024;

/// A deadline that no call of a benchmark comes close to.
#[must_use]
pub fn soon() -> Instant {
    Instant::now() + DEADLINE
}

/// Makes `calls` calls that do nothing, after `warm_up` ones that don't count, with `gap` of sleep before each.
///
/// # Errors
/// When the plugin is gone.
pub fn nops(lane: &Arc<Lane>, calls: usize, warm_up: usize, gap: Duration) -> anyhow::Result<Latencies> {
    let deadline = soon() + gap * calls as u32;
    let call = |_| Ok(calls::nop(lane, deadline)?);
    Latencies::of(warm_up, call)?;
    Latencies::spaced(calls, gap, call)
}

/// The figures of a round trip, as [`round_trip`] gives them.
pub const ROUND_TRIP: [Measure; 3] = [less("p50", "ns"), less("p99", "ns"), less("mean", "ns")];

/// Median, 99th percentile and mean in nanoseconds.
#[must_use]
pub fn round_trip(latencies: &Latencies) -> Vec<f64> {
    vec![latencies.quantile(0.5) * 1e9, latencies.quantile(0.99) * 1e9, 1e9 / latencies.per_second()]
}

/// Does `work` with this thread, and that plugin's process, on such cores. The process stays there.
///
/// # Errors
/// When there are no such cores, or the process is not ours to move; or that of `work`.
pub fn on<T>(plugin: &Instance, cores: Cores, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    pin_process(plugin.pid(), cores.other())?;
    let pinned = Pinned::to(Cores::CALLER)?;
    let done = work();
    drop(pinned);
    done
}

/// `calls` calls of a plugin that do nothing, on such cores, with `gap` of sleep before each: the figures of [`ROUND_TRIP`].
/// Skipped where the process can't be put there.
pub fn lane_case<'a>(name: &str, plugin: &'a Instance, cores: Cores, calls: usize, gap: Duration) -> Case<'a> {
    if let Err(error) = on(plugin, cores, || Ok(())) {
        return Case::skipped(name, format!("{error:#}"));
    }
    let called = move || nops(plugin.lane(&Origin::until(soon()))?, calls, calls / 20, gap);
    Case::new(name, move || Ok(round_trip(&on(plugin, cores, called)?)))
}

/// The number by which a lane knows a function.
///
/// # Errors
/// When the plugin has no such function.
pub fn function_number(instance: &Instance, name: &str) -> anyhow::Result<u32> {
    let at = instance.provides().functions.iter().position(|function| function.name == name);
    let at = at.with_context(|| format!("the plugin {} has no function {name}", instance.plugin()))?;
    Ok(u32::try_from(at)?)
}

/// Computes one function of columns, all of `rows` rows, which gives numbers: as a query does, in messages of 1,024 rows, as
/// many in flight as the lane has slots. Each value is written once, to the shared buffer, and its result copied out once
/// and checked. `take` is given the results, in order, some at a time.
///
/// # Errors
/// When the plugin is gone, or answers anything but numbers.
pub fn invoke_numbers<C: Cell>(
    lane: &Arc<Lane>,
    function: u32,
    columns: &[&[C]],
    rows: usize,
    mut take: impl FnMut(&[f64]),
) -> anyhow::Result<()> {
    let (deadline, mut reply) = (soon(), PrivateCopy::default());
    let mut in_flight: VecDeque<Invocation> = VecDeque::with_capacity(lane.depth());
    let mut sent = 0;
    loop {
        while sent < rows && in_flight.len() < lane.depth() {
            let count = ROWS_PER_MESSAGE.min(rows - sent);
            let part: Vec<&[C]> = columns.iter().map(|column| &column[sent..sent + count]).collect();
            let invocation = Invocation::send(lane.begin(deadline)?, function, &part, count)?;
            sent += invocation.rows();
            in_flight.push_back(invocation);
        }
        let Some(invocation) = in_flight.pop_front() else { return Ok(()) };
        take(invocation.wait_numbers(deadline, &mut reply)?);
    }
}

#[cfg(test)]
mod tests {
    use photondb_bench_plugin::Bench;
    use photondb_plugin_sdk::testing::Harness;

    use super::*;

    #[test]
    fn numbers_go_through_a_lane_in_order() {
        let harness = Harness::start(Bench);
        let numbers: Vec<f64> = (0..10_000).map(f64::from).collect();
        let mut results = Vec::new();
        let mut take = |part: &[f64]| results.extend_from_slice(part);
        invoke_numbers(harness.lane(), 0, &[&numbers], numbers.len(), &mut take).unwrap();
        assert!(invoke_numbers(harness.lane(), 7, &[&numbers], numbers.len(), &mut take).is_err());
        assert!(numbers.iter().map(|number| number + 1.0).eq(results));
    }

    #[test]
    fn nops_are_counted() {
        let harness = Harness::start(Bench);
        assert!(nops(harness.lane(), 10, 2, Duration::ZERO).unwrap().per_second() > 0.0);
    }
}
