//! What it costs to ask a confined plugin, beside other ways to ask another process and beside not asking at all.
//!
//!     make bench
//!     cargo bench -p photondb-server --bench ipc -- [hot] [warm] [cold] [rows] [batch] [--json FILE] [--rounds N]
//!
//! Pairs are pinned: the caller to core 0, the other side to core 1, or to core 0 as well. The peers are the programs of
//! `tests/peers`, processes pinned in the same way.

#![forbid(unsafe_code)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use photondb_bench_plugin::{AddOne, add_one, sum};
use photondb_plugin_sdk::calls::Search;
use photondb_plugin_sdk::column::{ColumnShape, ColumnWriter, Element, VectorColumn};
use photondb_plugin_sdk::kinds::function::QueryFunctionPlugin;
use photondb_plugin_sdk::kinds::vector::{IndexOptions, Metric};
use photondb_plugin_sdk::{Datum, PluginError};
use photondb_server::bench::{
    Bound, Case, Comparison, Confined, Cores, Goal, Latencies, Measure, Options, Peers, Pinned, ROUND_TRIP, Report,
    Timing, function_number, invoke_numbers, lane_case, less, more, on, seconds, soon,
};
use photondb_server::plugins::instance::Instance;
use photondb_server::query::nested::Origin;

const SECTIONS: [&str; 5] = ["hot", "warm", "cold", "rows", "batch"];
/// The plugin of `tests/bench`.
const PLUGIN: &str = "bench";

fn main() -> anyhow::Result<()> {
    let options = Options::parse_for(&SECTIONS);
    let mut report = Report::begin("Ways to ask another process");
    let Some(confined) = Confined::start()? else { return report.end(options.json.as_deref()) };
    let ipc = Ipc { plugin: confined.instance(PLUGIN)?, confined, peers: Peers::find(), rounds: options.rounds };
    if options.wants("hot") {
        report.add(&ipc.hot()?);
    }
    if options.wants("warm") {
        report.add(&ipc.warm()?);
    }
    if options.wants("cold") {
        report.add(&ipc.cold()?);
    }
    if options.wants("rows") {
        report.add(&ipc.rows()?);
    }
    if options.wants("batch") {
        report.add(&ipc.batch()?);
    }
    report.end(options.json.as_deref())
}

struct Ipc {
    confined: Confined,
    plugin: Arc<Instance>,
    peers: Peers,
    rounds: usize,
}

// ---- A call that does nothing --------------------------------------------------------------------------------------

const LANE: &str = "a lane to a confined process";

fn peer(timing: Timing) -> Vec<f64> {
    vec![timing.p50, timing.p99, timing.mean]
}

impl Ipc {
    fn hot(&self) -> anyhow::Result<Comparison> {
        let raw = "raw ping-pong, 64 bytes";
        let iceoryx2 = "iceoryx2, polling";
        let cases = vec![
            self.peers.case(raw, "spin --calls 100000", peer),
            lane_case(LANE, &self.plugin, Cores::Cross, 100_000, Duration::ZERO),
            self.peers.case(iceoryx2, "iceoryx2 --calls 50000", peer),
        ];
        let title = "A call that does nothing, both sides awake (hot), two cores";
        Ok(Comparison::measure(title, &ROUND_TRIP, self.rounds, cases)?
            .with_goal(Goal::new((LANE, "p50"), Bound::AtMost(1.3), (raw, "p50")))
            .with_goal(Goal::new((LANE, "p50"), Bound::Faster(5.0), (iceoryx2, "p50")))
            .with_goal(Goal::new((LANE, "p99"), Bound::AtMost(2.0), (LANE, "p50"))))
    }

    fn warm(&self) -> anyhow::Result<Comparison> {
        let (futex, capnp) = ("futex ping-pong, 64 bytes", "capnp-rpc, Unix socket");
        let cases = vec![
            self.peers.case(futex, "futex --cores same --calls 20000 --warm-up 1000", peer),
            lane_case(LANE, &self.plugin, Cores::Same, 20_000, Duration::ZERO),
            self.peers.case("Unix socket", "socket --cores same --calls 20000 --warm-up 1000", peer),
            self.peers.case("JSON over a pipe", "json --cores same --calls 20000 --warm-up 1000", peer),
            self.peers.case(capnp, "capnp --cores same --calls 10000 --warm-up 1000", peer),
            self.peers.case("tonic, Unix socket", "tonic --cores same --calls 10000 --warm-up 1000", peer),
        ];
        let title = "A call that does nothing, both sides on one core (warm)";
        Ok(Comparison::measure(title, &ROUND_TRIP, self.rounds, cases)?
            .with_goal(Goal::new((LANE, "p50"), Bound::AtMost(1.2), (futex, "p50")))
            .with_goal(Goal::new((LANE, "p50"), Bound::Faster(4.0), (capnp, "p50"))))
    }

    fn cold(&self) -> anyhow::Result<Comparison> {
        let futex = "futex ping-pong, 64 bytes";
        let cases = vec![
            self.peers.case(futex, "futex --gap-us 1000 --calls 500 --warm-up 50", peer),
            lane_case(LANE, &self.plugin, Cores::Cross, 500, Duration::from_millis(1)),
            self.peers.case("Unix socket", "socket --gap-us 1000 --calls 500 --warm-up 50", peer),
        ];
        let title = "A call that does nothing after a millisecond of nothing (cold), two cores";
        Ok(Comparison::measure(title, &ROUND_TRIP, self.rounds, cases)?.with_goal(Goal::new(
            (LANE, "p50"),
            Bound::AtMost(1.1),
            (futex, "p50"),
        )))
    }
}

// ---- Rows of a function --------------------------------------------------------------------------------------------

const ROWS: usize = 1_000_000;
const ROWS_PER_MESSAGE: usize = 1024;
const ROW: [Measure; 1] = [less("time", "ns a row")];

impl Ipc {
    fn rows(&self) -> anyhow::Result<Comparison> {
        let (by_row, by_batch) = ("in process, a dynamic call a row", "in process, batches copied in and out");
        let (confined, json) = ("confined, columns", "JSON over a pipe");
        let numbers: Vec<f64> = (0..ROWS).map(|row| row as f64 * 1.234_567).collect();
        let datums = [numbers.iter().copied().map(Datum::Number).collect::<Vec<_>>()];
        let expected: Vec<f64> = numbers.iter().map(|number| number + 1.0).collect();
        let (number, function) =
            (function_number(&self.plugin, "add_one")?, self.confined.manager.function("add_one")?);
        let through_lane = |results: &mut [f64]| {
            let mut at = 0;
            invoke_numbers(self.plugin.lane(&Origin::until(soon()))?, number, &[&numbers], ROWS, |part| {
                results[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            })
        };
        let mut results = vec![0.0; ROWS];
        on(&self.plugin, Cores::Cross, || through_lane(&mut results))?;
        anyhow::ensure!(results == expected, "confined, other results");
        let (mut first, mut second, mut third) = (results.clone(), results.clone(), results);
        let cases = vec![
            Case::new(by_row, || per_row(|| each_row(&numbers, &mut first))),
            Case::new(by_batch, || per_row(|| in_batches(&numbers, &mut second))),
            Case::new(confined, || on(&self.plugin, Cores::Cross, || per_row(|| through_lane(&mut third)))),
            Case::new("in process, a call with datums a row", || per_row(|| each_datum(&datums[0]))),
            Case::new("confined, datums", || {
                on(&self.plugin, Cores::Cross, || {
                    per_row(|| Ok(function.invoke_batch(&datums, ROWS, &Origin::until(soon())).map(drop)?))
                })
            }),
            self.peers.case(json, "json --rows 1024 --calls 200 --warm-up 20", |timing| {
                vec![timing.mean / ROWS_PER_MESSAGE as f64]
            }),
        ];
        let title = "1,000,000 rows of a function that adds 1, 1,024 a message, 8 messages in flight, two cores";
        Ok(Comparison::measure(title, &ROW, self.rounds, cases)?
            .with_goal(Goal::new((confined, "time"), Bound::AtMost(1.0), (by_row, "time")))
            .with_goal(Goal::new((confined, "time"), Bound::AtMost(2.0), (by_batch, "time")))
            .with_goal(Goal::new((confined, "time"), Bound::Faster(150.0), (json, "time"))))
    }
}

fn per_row(compute: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
    let pinned = Pinned::to(Cores::CALLER)?;
    let (taken, ()) = seconds(compute)?;
    drop(pinned);
    Ok(vec![taken * 1e9 / ROWS as f64])
}

fn each_row(numbers: &[f64], results: &mut [f64]) -> anyhow::Result<()> {
    let function: &dyn Fn(f64) -> f64 = &|number| number + 1.0;
    let function = black_box(function);
    for (result, number) in results.iter_mut().zip(numbers) {
        *result = function(*number);
    }
    black_box(results);
    Ok(())
}

fn in_batches(numbers: &[f64], results: &mut [f64]) -> anyhow::Result<()> {
    let function: &dyn Fn(&[f64], &mut [f64]) = &add_one;
    let function = black_box(function);
    let (mut request, mut reply) = ([0.0; ROWS_PER_MESSAGE], [0.0; ROWS_PER_MESSAGE]);
    for (results, numbers) in results.chunks_mut(ROWS_PER_MESSAGE).zip(numbers.chunks(ROWS_PER_MESSAGE)) {
        let count = numbers.len();
        black_box(&mut request)[..count].copy_from_slice(numbers);
        function(&request[..count], &mut reply[..count]);
        results.copy_from_slice(&black_box(&reply)[..count]);
    }
    Ok(())
}

fn each_datum(numbers: &[Datum]) -> anyhow::Result<()> {
    let function: &dyn QueryFunctionPlugin = black_box(&AddOne);
    let results: Result<Vec<Datum>, PluginError> =
        numbers.iter().map(|number| function.invoke(std::slice::from_ref(number))).collect();
    black_box(results?);
    Ok(())
}

// ---- A batch of vectors --------------------------------------------------------------------------------------------

const VECTORS: u32 = 1024;
const DIMS: u32 = 384;
/// Batches of a round.
const BATCHES: usize = 500;
/// The number of the index, in a process that has no other.
const INDEX: u32 = 0;
const BATCH: [Measure; 3] = [less("p50", "µs"), less("p99", "µs"), more("bytes", "GB a second")];

fn batch_times(p50_ns: f64, p99_ns: f64) -> Vec<f64> {
    let bytes = f64::from(VECTORS * DIMS) * 4.0;
    vec![p50_ns / 1e3, p99_ns / 1e3, bytes / p50_ns]
}

impl Ipc {
    fn batch(&self) -> anyhow::Result<Comparison> {
        let (in_process, in_place) = ("in process", "confined, in place");
        let (capnp, tonic) = ("capnp-rpc, a Data field", "tonic, a bytes field");
        let folder = tempfile::tempdir()?;
        let shape = ColumnShape::new(DIMS, Element::F32).context("no column has such vectors")?;
        let mut written = ColumnWriter::open(folder.path(), shape)?;
        for row in 0..VECTORS {
            written.write(row, &vector(row))?;
        }
        let column = VectorColumn::new(shape);
        column.attach(0, &written.segment(0)?)?;
        let expected = sum(&column, VECTORS);
        let options = IndexOptions { dims: DIMS, metric: Metric::Dot, settings: Datum::Null };
        self.plugin.open_index(INDEX, "sum", &options, shape, soon())?;
        self.plugin.attach_segment(INDEX, 0, written.segment(0)?, soon())?;
        let lane = self.plugin.lane(&Origin::until(soon()))?;
        let rows: Vec<u32> = (0..VECTORS).collect();
        let insert = photondb_ipc_schema::lane::Operation::IndexInsert;
        photondb_plugin_sdk::calls::maintain(lane, insert, INDEX, &rows, soon())?;
        let query = [0.0; DIMS as usize];
        let asked = || {
            let search = Search { queries: &query, dims: DIMS as usize, k: 1, allow: None, settings: &Datum::Null };
            let searched = search.run(lane.begin(soon())?, INDEX, soon())?;
            anyhow::ensure!(searched == [[expected.to_bits()]], "confined, another sum");
            Ok(())
        };
        let computed = || {
            anyhow::ensure!(black_box(sum(&column, VECTORS)).to_bits() == expected.to_bits(), "another sum");
            Ok(())
        };
        let vectors: Vec<Vec<f32>> = (0..VECTORS).map(vector).collect();
        let cells: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
        let number = function_number(&self.plugin, "sum")?;
        let sent = || {
            let mut total = 0.0;
            invoke_numbers(lane, number, &[&cells], cells.len(), |sums| total += sums.iter().sum::<f64>())?;
            anyhow::ensure!(total as f32 == expected, "confined, another sum");
            Ok(())
        };
        let bytes = VECTORS * DIMS * 4;
        let arguments = ["capnp", "tonic"].map(|peer| format!("{peer} --bytes {bytes} --calls 200 --warm-up 20"));
        let figures = |timing: Timing| batch_times(timing.p50, timing.p99);
        let cases = vec![
            Case::new(in_process, || on(&self.plugin, Cores::Cross, || batches(computed))),
            Case::new(in_place, || on(&self.plugin, Cores::Cross, || batches(asked))),
            Case::new("confined, written to its lane first", || on(&self.plugin, Cores::Cross, || batches(sent))),
            self.peers.case(capnp, &arguments[0], figures),
            self.peers.case(tonic, &arguments[1], figures),
        ];
        let title = "The sum of 1,024 vectors of 384 f32 (1.5 MiB), two cores";
        let comparison = Comparison::measure(title, &BATCH, self.rounds, cases);
        self.plugin.close_index(INDEX, soon())?;
        Ok(comparison?
            .with_goal(Goal::new((in_place, "p50"), Bound::AtMost(1.1), (in_process, "p50")))
            .with_goal(Goal::new((in_place, "p50"), Bound::Faster(6.0), (capnp, "p50")))
            .with_goal(Goal::new((in_place, "p50"), Bound::Faster(6.0), (tonic, "p50"))))
    }
}

fn vector(row: u32) -> Vec<f32> {
    (0..DIMS).map(|at| ((row + at) % 16) as f32).collect()
}

fn batches(mut batch: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
    let taken = Latencies::of(BATCHES, |_| batch())?;
    Ok(batch_times(taken.quantile(0.5) * 1e9, taken.quantile(0.99) * 1e9))
}
