//! `photondb bench ipc`

use std::hint::black_box;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::Common;
use crate::bench::{
    Bound, Case, Comparison, Cores, Goal, Measure, Pinned, ROUND_TRIP, Wait, function_number, invoke_numbers,
    lane_case, less, on, ping_pong, round_trip, seconds, soon,
};
use crate::plugins::instance::Instance;
use crate::query::nested::Origin;

/// Measures what a call of a confined plugin costs
///
/// A call that does nothing, with both sides awake on two cores (hot), on one core (warm), and after a millisecond of
/// nothing (cold), each beside two threads that do nothing but hand 64 bytes to and fro in the same way; then 1,000,000 rows
/// through the function `clamp` of the plugin `stats`, beside the same arithmetic in this process.
#[derive(Debug, Args)]
pub struct Ipc {
    #[command(flatten)]
    common: Common,
}

const LANE: &str = "a lane to a confined process";
const SPIN: &str = "two threads that spin";
const FUTEX: &str = "two threads that sleep";

const ROWS: usize = 1_000_000;
const ROW: [Measure; 1] = [less("time", "ns a row")];
const BY_ROW: &str = "in this process, a dynamic call a row";
const CONFINED: &str = "confined, 1,024 rows a message";

impl Ipc {
    /// Measures and prints.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let confined = self.common.confined()?;
        let plugin = confined.instances().into_iter().next().context("no plugin was found; see --plugin-dir")?;
        let rounds = self.common.rounds;
        let mut report = self.common.report("Calls of a confined plugin");
        report.add(&hot(&plugin, rounds)?);
        report.add(&warm(&plugin, rounds)?);
        report.add(&cold(&plugin, rounds)?);
        if let Ok(stats) = confined.instance("stats") {
            report.add(&rows(&stats, rounds)?);
        }
        self.common.end(report)
    }
}

/// Two threads, as a case.
fn threads<'a>(name: &str, wait: Wait, cores: Cores, calls: usize, gap: Duration) -> Case<'a> {
    match Pinned::to(cores.other()) {
        Ok(_) => Case::new(name, move || Ok(round_trip(&ping_pong(wait, cores, calls, calls / 20, gap)?))),
        Err(error) => Case::skipped(name, format!("{error:#}")),
    }
}

fn hot(plugin: &Instance, rounds: usize) -> anyhow::Result<Comparison> {
    let cases = vec![
        threads(SPIN, Wait::Spin, Cores::Cross, 100_000, Duration::ZERO),
        lane_case(LANE, plugin, Cores::Cross, 100_000, Duration::ZERO),
    ];
    let title = "A call that does nothing, both sides awake (hot), two cores";
    Ok(Comparison::measure(title, &ROUND_TRIP, rounds, cases)?
        .with_goal(Goal::new((LANE, "p50"), Bound::AtMost(1.3), (SPIN, "p50")))
        .with_goal(Goal::new((LANE, "p99"), Bound::AtMost(2.0), (LANE, "p50"))))
}

fn warm(plugin: &Instance, rounds: usize) -> anyhow::Result<Comparison> {
    let cases = vec![
        threads(FUTEX, Wait::Futex, Cores::Same, 20_000, Duration::ZERO),
        lane_case(LANE, plugin, Cores::Same, 20_000, Duration::ZERO),
    ];
    let title = "A call that does nothing, both sides on one core (warm)";
    Ok(Comparison::measure(title, &ROUND_TRIP, rounds, cases)?.with_goal(Goal::new(
        (LANE, "p50"),
        Bound::AtMost(1.2),
        (FUTEX, "p50"),
    )))
}

fn cold(plugin: &Instance, rounds: usize) -> anyhow::Result<Comparison> {
    let gap = Duration::from_millis(1);
    let cases =
        vec![threads(FUTEX, Wait::Futex, Cores::Cross, 500, gap), lane_case(LANE, plugin, Cores::Cross, 500, gap)];
    let title = "A call that does nothing after a millisecond of nothing (cold), two cores";
    Ok(Comparison::measure(title, &ROUND_TRIP, rounds, cases)?.with_goal(Goal::new(
        (LANE, "p50"),
        Bound::AtMost(1.1),
        (FUTEX, "p50"),
    )))
}

fn rows(stats: &Instance, rounds: usize) -> anyhow::Result<Comparison> {
    let number = function_number(stats, "clamp")?;
    let numbers: Vec<f64> = (0..ROWS).map(|row| row as f64 * 1.234_567).collect();
    let (low, high) = (vec![1000.0; ROWS], vec![900_000.0; ROWS]);
    let (mut ours, mut theirs) = (vec![0.0; ROWS], vec![0.0; ROWS]);
    each_row(&numbers, &low, &high, &mut ours);
    let invoke = |results: &mut [f64]| {
        let (lane, mut at) = (stats.lane(&Origin::until(soon()))?, 0);
        invoke_numbers(lane, number, &[&numbers, &low, &high], ROWS, |part| {
            results[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        })
    };
    invoke(&mut theirs)?;
    anyhow::ensure!(ours == theirs, "confined, other results");
    let per_row = |taken: f64| Ok(vec![taken * 1e9 / ROWS as f64]);
    let two_cores = |work: &mut dyn FnMut() -> anyhow::Result<()>| match on(stats, Cores::Cross, || seconds(&mut *work))
    {
        Ok((taken, ())) => per_row(taken),
        // Where there is one core, or it may not be chosen: wherever the system puts them.
        Err(_) => per_row(seconds(work)?.0),
    };
    let cases = vec![
        Case::new(BY_ROW, || {
            two_cores(&mut || {
                each_row(&numbers, &low, &high, &mut ours);
                Ok(())
            })
        }),
        Case::new(CONFINED, || two_cores(&mut || invoke(&mut theirs))),
    ];
    let title = "1,000,000 rows of clamp(x, low, high), 8 messages in flight";
    Ok(Comparison::measure(title, &ROW, rounds, cases)?.with_goal(Goal::new(
        (CONFINED, "time"),
        Bound::AtMost(1.0),
        (BY_ROW, "time"),
    )))
}

fn each_row(numbers: &[f64], low: &[f64], high: &[f64], results: &mut [f64]) {
    let function: &dyn Fn(f64, f64, f64) -> f64 = black_box(&|x, low, high| f64::clamp(x, low, high));
    for (((result, number), low), high) in results.iter_mut().zip(numbers).zip(low).zip(high) {
        *result = function(*number, *low, *high);
    }
    black_box(results);
}
