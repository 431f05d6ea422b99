//! What it costs that plugins are confined processes: calls, rows and vector searches through real ones, each beside the
//! same work without a process boundary, in the same run.
//!
//!     make bench
//!     cargo bench -p photondb-server --bench plugins -- [calls] [rows] [vectors] [--json FILE] [--rounds N]
//!
//! Nothing is pinned and nothing has priority, as in a server: on a busy machine look at the ratios. The vectors come from
//! `PHOTONDB_BENCH_DATA`, a folder as `tests/data`.

#![forbid(unsafe_code)]

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use photondb_ipc_schema::lane::{Lane, Operation};
use photondb_plugin_hnsw::Hnsw;
use photondb_plugin_sdk::batch::{Batch, RowsWriter, read_results, write_rows};
use photondb_plugin_sdk::calls::{self, Search};
use photondb_plugin_sdk::column::{ColumnShape, ColumnWriter, Element, VectorColumn};
use photondb_plugin_sdk::kinds::function::QueryFunctionPlugin;
use photondb_plugin_sdk::kinds::vector::{
    IndexOptions, Metric, RowId, SearchRequest, SearchResults, VectorIndex, VectorIndexPlugin,
};
use photondb_plugin_sdk::registry::PluginRegistry;
use photondb_plugin_sdk::testing::Harness;
use photondb_plugin_sdk::{Datum, PluginError};
use photondb_plugin_stats::Stats;
use photondb_server::bench::{
    Case, Comparison, Confined, Latencies, Measure, Options, Report, Vectors, less, more, seconds,
};
use photondb_server::plugins::instance::Instance;
use photondb_server::query::nested::Origin;

/// Long enough for every single call here.
const DEADLINE: Duration = Duration::from_secs(60);
const SECTIONS: [&str; 3] = ["calls", "rows", "vectors"];

fn main() -> anyhow::Result<()> {
    let options = Options::parse_for(&SECTIONS);
    let mut report = Report::begin("Confined plugins beside the same work without a process boundary");
    let Some(confined) = Confined::start()? else { return Ok(()) };
    if options.wants("calls") {
        round_trips(&confined, options.rounds, &mut report)?;
    }
    if options.wants("rows") {
        rows(&confined, options.rounds, &mut report, "approx", |row| {
            vec![Datum::from(f64::from(row) * 1.234_567), Datum::from(3)]
        })?;
        let clamped = |row| vec![Datum::from(f64::from(row)), Datum::from(1000), Datum::from(900_000)];
        rows(&confined, options.rounds, &mut report, "clamp", clamped)?;
    }
    if options.wants("vectors") {
        vectors(&confined, options.rounds, &mut report)?;
    }
    report.end(options.json.as_deref())
}

fn soon() -> Instant {
    Instant::now() + DEADLINE
}

// ---- A call that does nothing --------------------------------------------------------------------------------------

const CALLS: usize = 100_000;
/// Wake up whoever sleeps.
const WARM_UP: usize = 5000;
const ROUND_TRIP: [Measure; 3] = [less("p50", "ns"), less("p99", "ns"), more("calls", "per second")];

fn round_trips(confined: &Confined, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let process = confined.instance("stats")?;
    let harness = Harness::start(Stats);
    let function = confined.manager.function("clamp")?;
    let row: Vec<Vec<Datum>> = [5, 1, 9].map(|number| vec![Datum::from(number)]).into();
    let cases = vec![
        Case::new("two threads and two cache lines, 64 bytes", || thread::scope(ping_pong)),
        Case::new("a lane to a thread of this process", || nops(harness.lane())),
        Case::new("a lane to a confined process", || nops(process.lane(&Origin::until(soon()))?)),
        Case::new("a function of one row, confined", || {
            time_calls(|| {
                black_box(function.invoke_batch(&row, 1, &Origin::until(soon()))?);
                Ok(())
            })
        }),
    ];
    let clock = Latencies::of(CALLS, |_| Ok(()))?.quantile(0.5) * 1e9;
    let title = format!("A call that does nothing, there and back, {CALLS} times; {clock:.0} ns are the clock's");
    report.add(&Comparison::measure(title, &ROUND_TRIP, rounds, cases)?);
    Ok(())
}

fn time_calls(mut call: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
    for _ in 0..WARM_UP {
        call()?;
    }
    let taken = Latencies::of(CALLS, |_| call())?;
    Ok(vec![taken.quantile(0.5) * 1e9, taken.quantile(0.99) * 1e9, taken.per_second()])
}

fn nops(lane: &Arc<Lane>) -> anyhow::Result<Vec<f64>> {
    let deadline = soon();
    time_calls(|| Ok(calls::nop(lane, deadline)?))
}

/// A cache line, far enough from the next one that neither is fetched with the other: a number and 56 bytes.
#[derive(Default)]
#[repr(align(128))]
struct Line {
    number: AtomicU64,
    payload: [AtomicU64; 7],
}

impl Line {
    fn send(&self, number: u64) {
        for word in &self.payload {
            word.store(number, Ordering::Relaxed);
        }
        self.number.store(number, Ordering::Release);
    }

    fn receive(&self, number: u64) {
        while self.number.load(Ordering::Acquire) != number {
            spin_loop();
        }
        for word in &self.payload {
            black_box(word.load(Ordering::Relaxed));
        }
    }
}

/// The least that a round trip between two cores can cost: nobody ever sleeps, checks or looks at a clock.
fn ping_pong<'scope>(scope: &'scope thread::Scope<'scope, '_>) -> anyhow::Result<Vec<f64>> {
    let lines = Arc::new([Line::default(), Line::default()]);
    let theirs = Arc::clone(&lines);
    scope.spawn(move || {
        for number in 1..=(WARM_UP + CALLS) as u64 {
            theirs[0].receive(number);
            theirs[1].send(number);
        }
    });
    let mut number = 0;
    time_calls(|| {
        number += 1;
        lines[0].send(number);
        lines[1].receive(number);
        Ok(())
    })
}

// ---- Rows of a function --------------------------------------------------------------------------------------------

const ROWS: usize = 1_000_000;
/// As many as the server sends in a message.
const ROWS_PER_MESSAGE: usize = 1024;
const ROW: [Measure; 1] = [less("time", "ns a row")];

fn rows(
    confined: &Confined,
    rounds: usize,
    report: &mut Report,
    name: &str,
    arguments: impl Fn(u32) -> Vec<Datum>,
) -> anyhow::Result<()> {
    let function = confined.manager.function(name)?;
    let linked_in = PluginRegistry::of(&Stats);
    let linked_in = linked_in.functions().iter().find(|function| function.signature().name == name);
    let linked_in = linked_in.with_context(|| format!("the plugin has no function {name}"))?;
    let by_row: Vec<Vec<Datum>> = (0..ROWS as u32).map(arguments).collect();
    let by_column: Vec<Vec<Datum>> =
        (0..by_row[0].len()).map(|argument| by_row.iter().map(|row| row[argument].clone()).collect()).collect();
    let expected = each_row(&**linked_in, &by_row)?;
    anyhow::ensure!(
        function.invoke_batch(&by_column, ROWS, &Origin::until(soon()))? == expected,
        "{name}: confined, other results"
    );
    anyhow::ensure!(in_messages(&**linked_in, &by_column)? == expected, "{name}: in batches, other results");
    let cases = vec![
        Case::new("linked in, a dynamic call a row", || per_row(|| each_row(&**linked_in, &by_row))),
        Case::new("linked in, the same messages copied in and out", || {
            per_row(|| in_messages(&**linked_in, &by_column))
        }),
        Case::new("confined process", || per_row(|| function.invoke_batch(&by_column, ROWS, &Origin::until(soon())))),
    ];
    let title = format!("{ROWS} rows of {name}, whose arguments are there");
    report.add(&Comparison::measure(title, &ROW, rounds, cases)?);
    Ok(())
}

fn per_row(compute: impl FnOnce() -> Result<Vec<Datum>, PluginError>) -> anyhow::Result<Vec<f64>> {
    let (taken, results) = seconds(|| Ok(compute()?))?;
    anyhow::ensure!(results.len() == ROWS, "{} results", results.len());
    Ok(vec![taken * 1e9 / ROWS as f64])
}

fn each_row(function: &dyn QueryFunctionPlugin, rows: &[Vec<Datum>]) -> Result<Vec<Datum>, PluginError> {
    rows.iter().map(|arguments| function.invoke(arguments)).collect()
}

/// What the lane and both of its ends do with the rows, on one thread: encode, compute, copy, check, decode.
fn in_messages(function: &dyn QueryFunctionPlugin, columns: &[Vec<Datum>]) -> Result<Vec<Datum>, PluginError> {
    let (mut request, mut reply) = (Buffer::new(), Buffer::new());
    let mut copy: Vec<u64> = Vec::new();
    let mut results = Vec::with_capacity(ROWS);
    for start in (0..ROWS).step_by(ROWS_PER_MESSAGE) {
        let count = ROWS_PER_MESSAGE.min(ROWS - start);
        let part: Vec<&[Datum]> = columns.iter().map(|column| &column[start..start + count]).collect();
        let sent =
            write_rows(request.bytes(), &part, count).map_err(|error| PluginError::argument(error.to_string()))?;
        let mut writer = RowsWriter::new(reply.bytes(), count);
        function.invoke_batch(&Batch::parse(&request.bytes()[..sent])?, &mut writer)?;
        let received = writer.finish()?;
        copy.clear();
        copy.extend_from_slice(&reply.words()[..received.div_ceil(size_of::<u64>())]);
        results.extend(read_results(&bytemuck::cast_slice(&copy)[..received], count)?);
    }
    Ok(results)
}

/// As large as the buffers of a lane, and aligned as they have to be.
struct Buffer {
    words: Vec<u64>,
    start: usize,
}

impl Buffer {
    const WORDS: usize = (1 << 20) / size_of::<u64>();

    fn new() -> Self {
        let words = vec![0; Self::WORDS + 8];
        let start = words.as_ptr().align_offset(64).min(8);
        Self { words, start }
    }

    fn words(&mut self) -> &mut [u64] {
        &mut self.words[self.start..][..Self::WORDS]
    }

    fn bytes(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(self.words())
    }
}

// ---- Vector searches -----------------------------------------------------------------------------------------------

const K: usize = 10;
const BATCH: usize = 100;
/// As many as the server inserts in a call.
const INSERTED_AT_ONCE: usize = 128;
/// The number of the index in the confined process, which has no other.
const INDEX: u32 = 0;
const BUILD: [Measure; 1] = [less("time", "s")];
const SINGLE: [Measure; 4] =
    [more("queries", "per second"), less("p50", "µs"), less("p99", "µs"), more("recall@10", "")];
const BATCHED: [Measure; 2] = [more("queries", "per second"), more("recall@10", "")];

fn vectors(confined: &Confined, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let vectors = Vectors::load()?;
    let folder = tempfile::tempdir()?;
    let shape = ColumnShape::new(vectors.dims as u32, Element::F16).context("no column has such vectors")?;
    let mut column = ColumnWriter::open(folder.path(), shape)?;
    for (row, vector) in vectors.base.chunks_exact(vectors.dims).enumerate() {
        column.write(row as u32, vector)?;
    }
    let options = IndexOptions { dims: vectors.dims as u32, metric: Metric::Cosine, settings: Datum::Null };
    let linked_in = LinkedIn::open(&options, shape, &column)?;
    let process = Process::open(confined.instance("hnsw")?, &options, shape, &column)?;
    let rows: Vec<RowId> = (0..vectors.rows()).collect();

    let name = &vectors.name;
    let built = [build(&rows, |rows| linked_in.index.insert(rows))?, build(&rows, |rows| process.insert(rows))?];
    report.add(&Comparison {
        title: format!("Building hnsw, cosine, its default settings: {name}"),
        measures: BUILD.into(),
        cases: [LINKED_IN, CONFINED].map(String::from).into(),
        rounds: vec![built.map(|taken| vec![taken]).into()],
        ..Comparison::default()
    });
    let cases = vec![
        Case::new(LINKED_IN, || one_by_one(&vectors, |query| linked_in.search(query))),
        Case::new(CONFINED, || one_by_one(&vectors, |query| process.search(query))),
    ];
    let title = format!("The nearest {K}, one query after the other: {name}");
    report.add(&Comparison::measure(title, &SINGLE, rounds, cases)?);
    let cases = vec![
        Case::new(LINKED_IN, || in_batches(&vectors, |queries| linked_in.search(queries))),
        Case::new(CONFINED, || in_batches(&vectors, |queries| process.search(queries))),
    ];
    let title = format!("The nearest {K}, {BATCH} queries at once: {name}");
    report.add(&Comparison::measure(title, &BATCHED, rounds, cases)?);
    Ok(())
}

const LINKED_IN: &str = "linked in";
const CONFINED: &str = "confined process";

fn build(rows: &[RowId], insert: impl Fn(&[RowId]) -> Result<(), PluginError>) -> anyhow::Result<f64> {
    Ok(seconds(|| Ok(rows.chunks(INSERTED_AT_ONCE).try_for_each(insert)?))?.0)
}

fn one_by_one(
    vectors: &Vectors,
    search: impl Fn(&[f32]) -> Result<Vec<Vec<RowId>>, PluginError>,
) -> anyhow::Result<Vec<f64>> {
    let queries: Vec<&[f32]> = vectors.queries.chunks_exact(vectors.dims).collect();
    let mut found = Vec::with_capacity(queries.len());
    let taken = Latencies::of(queries.len(), |query| {
        found.extend(search(queries[query])?);
        Ok(())
    })?;
    let recall = vectors.recall(&found, K);
    Ok(vec![taken.per_second(), taken.quantile(0.5) * 1e6, taken.quantile(0.99) * 1e6, recall])
}

fn in_batches(
    vectors: &Vectors,
    search: impl Fn(&[f32]) -> Result<Vec<Vec<RowId>>, PluginError>,
) -> anyhow::Result<Vec<f64>> {
    let batches: Vec<&[f32]> = vectors.queries.chunks(BATCH * vectors.dims).collect();
    let (taken, found) = seconds(|| {
        let mut found = Vec::new();
        for batch in batches {
            found.extend(search(batch)?);
        }
        Ok(found)
    })?;
    Ok(vec![found.len() as f64 / taken, vectors.recall(&found, K)])
}

/// The index in this process.
struct LinkedIn {
    index: Box<dyn VectorIndex>,
    dims: usize,
}

impl LinkedIn {
    fn open(options: &IndexOptions, shape: ColumnShape, written: &ColumnWriter) -> anyhow::Result<Self> {
        let column = VectorColumn::new(shape);
        for segment in 0..written.segments() {
            column.attach(segment, &written.segment(segment)?)?;
        }
        Ok(Self { index: Hnsw::default().create(options, Arc::new(column))?, dims: options.dims as usize })
    }

    fn search(&self, queries: &[f32]) -> Result<Vec<Vec<RowId>>, PluginError> {
        let count = queries.len() / self.dims;
        let (mut rows, mut distances, mut counts) = (vec![0; count * K], vec![0.0; count * K], vec![0; count]);
        let request = SearchRequest {
            queries,
            k: K,
            allow: None,
            settings: &Datum::Null,
            cancel: photondb_plugin_sdk::Cancel::never(),
        };
        let mut results = SearchResults { rows: &mut rows, distances: &mut distances, counts: &mut counts };
        self.index.search(&request, &mut results)?;
        Ok(rows.chunks_exact(K).zip(&counts).map(|(rows, &found)| rows[..found as usize].to_vec()).collect())
    }
}

/// The index in a confined process, which sees the same files.
struct Process {
    instance: Arc<Instance>,
    dims: usize,
}

impl Process {
    fn open(
        instance: Arc<Instance>,
        options: &IndexOptions,
        shape: ColumnShape,
        written: &ColumnWriter,
    ) -> anyhow::Result<Self> {
        instance.open_index(INDEX, "hnsw", options, shape, soon())?;
        for segment in 0..written.segments() {
            instance.attach_segment(INDEX, segment, written.segment(segment)?, soon())?;
        }
        Ok(Self { instance, dims: options.dims as usize })
    }

    fn insert(&self, rows: &[RowId]) -> Result<(), PluginError> {
        calls::maintain(self.instance.maintenance_lane(), Operation::IndexInsert, INDEX, rows, soon())
    }

    fn search(&self, queries: &[f32]) -> Result<Vec<Vec<RowId>>, PluginError> {
        let search = Search { queries, dims: self.dims, k: K, allow: None, settings: &Datum::Null };
        search.run(self.instance.lane(&Origin::until(soon()))?.begin(soon())?, INDEX, soon())
    }
}
