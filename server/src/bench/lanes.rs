//! The way to a plugin: calls that do nothing, and columns of numbers through its lane.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use photondb_ipc_schema::batch::{Batch, BatchWriter, Column};
use photondb_ipc_schema::lane::{Lane, Operation, Pending};
use photondb_ipc_schema::region::PrivateCopy;
use photondb_plugin_sdk::calls;

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

/// Computes one function of columns of numbers, all of `results.len()` rows, which gives numbers: as a query does, in
/// messages of 1,024 rows, as many in flight as the lane has slots. Each number is written once, to the shared buffer, and
/// its result copied out once and checked.
///
/// # Errors
/// When the plugin is gone, or answers anything but numbers.
pub fn invoke_numbers(lane: &Arc<Lane>, function: u32, columns: &[&[f64]], results: &mut [f64]) -> anyhow::Result<()> {
    let (deadline, rows) = (soon(), results.len());
    let mut in_flight: VecDeque<Pending> = VecDeque::with_capacity(lane.depth());
    let (mut sent, mut reply) = (0, PrivateCopy::default());
    for results in results.chunks_mut(ROWS_PER_MESSAGE) {
        while sent < rows && in_flight.len() < lane.depth() {
            let count = ROWS_PER_MESSAGE.min(rows - sent);
            let mut draft = lane.begin(deadline)?;
            let mut writer = BatchWriter::new(draft.buffer(), columns.len(), count)?;
            for column in columns {
                writer.f64s(count)?.copy_from_slice(&column[sent..sent + count]);
            }
            let payload = writer.finish();
            in_flight.push_back(draft.send(Operation::InvokeFunction, function, payload, 0));
            sent += count;
        }
        let pending = in_flight.pop_front().context("nothing in flight")?;
        let completion = pending.wait(deadline, &mut reply)?;
        anyhow::ensure!(completion.status == 0, "the function failed");
        let batch = Batch::parse(reply.bytes())?;
        let Some(Column::F64(numbers)) = batch.column(0) else { anyhow::bail!("no column of numbers") };
        anyhow::ensure!(numbers.len() == results.len(), "{} results for {} rows", numbers.len(), results.len());
        anyhow::ensure!(numbers.iter().all(|number| number.is_finite()), "a result that is no number");
        results.copy_from_slice(numbers);
    }
    Ok(())
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
        let mut results = vec![0.0; numbers.len()];
        invoke_numbers(harness.lane(), 0, &[&numbers], &mut results).unwrap();
        assert!(numbers.iter().zip(&results).all(|(number, result)| number + 1.0 == *result));
        assert!(invoke_numbers(harness.lane(), 7, &[&numbers], &mut results).is_err());
    }

    #[test]
    fn nops_are_counted() {
        let harness = Harness::start(Bench);
        assert!(nops(harness.lane(), 10, 2, Duration::ZERO).unwrap().per_second() > 0.0);
    }
}
