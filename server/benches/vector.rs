//! Vector indexes in their confined processes: `hnsw` beside itself in this process, and every type beside other libraries.
//!
//!     make bench
//!     cargo bench -p photondb-server --bench vector -- [confined] [peers] [--json FILE] [--rounds N]
//!
//! Nothing is pinned, as in a server. The vectors come from `PHOTONDB_BENCH_DATA`, a folder as `tests/data`. The other
//! indexes are Python packages: `tests/bench/vector_peers.py`, run by `PHOTONDB_BENCH_PYTHON` (default: `python3`).

#![forbid(unsafe_code)]

#[path = "vector/index.rs"]
mod index;
#[path = "vector/peers.rs"]
mod peers;
#[path = "vector/types.rs"]
mod types;

use photondb_plugin_sdk::PluginError;
use photondb_plugin_sdk::kinds::vector::RowId;
use photondb_server::bench::{
    Bound, Case, Comparison, Confined, Goal, Latencies, Measure, Options, Report, Vectors, less, more, seconds,
};

use index::{K, Linked, Process, Settled};

const SECTIONS: [&str; 2] = ["confined", "peers"];
const BATCH: usize = 100;
/// As many as the server inserts in a call on one thread.
const INSERTED_AT_ONCE: usize = 128;
/// Threads of the confined process, and of the other indexes where they have as many.
const THREADS: usize = 2;
const BUILD: [Measure; 1] = [less("time", "s")];
const SINGLE: [Measure; 4] =
    [more("queries", "per second"), less("p50", "µs"), less("p99", "µs"), more("recall@10", "")];
const BATCHED: [Measure; 2] = [more("queries", "per second"), more("recall@10", "")];
const LINKED: &str = "the index in this process";
const CONFINED: &str = "the index in a confined process";

fn main() -> anyhow::Result<()> {
    let options = Options::parse_for(&SECTIONS);
    let mut report = Report::begin("Vector search");
    let Some(confined) = Confined::start()? else { return report.end(options.json.as_deref()) };
    let vectors = Vectors::load()?;
    let settled = Settled::write(&vectors)?;
    let rows: Vec<RowId> = (0..vectors.rows()).collect();
    if options.wants("confined") {
        let linked = Linked::open(&settled)?;
        let process = Process::open(confined.instance("hnsw")?, "hnsw", 0, &settled)?;
        let built = [
            build(|| rows.chunks(INSERTED_AT_ONCE).try_for_each(|rows| linked.insert(rows)))?,
            build(|| process.insert(&rows, false))?,
        ];
        report.add(&Comparison {
            title: format!("Building hnsw on one thread, cosine, its default settings: {}", vectors.name),
            measures: BUILD.into(),
            cases: [LINKED, CONFINED].map(String::from).into(),
            rounds: vec![built.map(|taken| vec![taken]).into()],
            ..Comparison::default()
        });
        report.add(&one_by_one(&vectors, &linked, &process, options.rounds)?);
        report.add(&in_batches(&vectors, &linked, &process, options.rounds)?);
        process.close()?;
    }
    if options.wants("peers") {
        for comparison in types::compare(&vectors, &rows, &confined, &settled, options.rounds)? {
            report.add(&comparison);
        }
    }
    report.end(options.json.as_deref())
}

/// Seconds to insert all rows.
fn build(insert: impl Fn() -> Result<(), PluginError>) -> anyhow::Result<f64> {
    Ok(seconds(|| Ok(insert()?))?.0)
}

fn one_by_one(vectors: &Vectors, linked: &Linked, process: &Process, rounds: usize) -> anyhow::Result<Comparison> {
    let cases = vec![
        Case::new(LINKED, || single(vectors, |query| linked.search(query))),
        Case::new(CONFINED, || single(vectors, |query| process.search(query))),
    ];
    let title = format!("The nearest {K}, one query after the other: {}", vectors.name);
    let goal = Goal::new((CONFINED, "queries"), Bound::AtLeast(0.95), (LINKED, "queries"));
    Ok(Comparison::measure(title, &SINGLE, rounds, cases)?.with_goal(goal))
}

fn in_batches(vectors: &Vectors, linked: &Linked, process: &Process, rounds: usize) -> anyhow::Result<Comparison> {
    let cases = vec![
        Case::new(LINKED, || batched(vectors, |queries| linked.search(queries))),
        Case::new(CONFINED, || batched(vectors, |queries| process.search(queries))),
    ];
    let title = format!("The nearest {K}, {BATCH} queries at once: {}", vectors.name);
    let goal = Goal::new((CONFINED, "queries"), Bound::AtLeast(0.98), (LINKED, "queries"));
    Ok(Comparison::measure(title, &BATCHED, rounds, cases)?.with_goal(goal))
}

type Found = Result<Vec<Vec<RowId>>, PluginError>;

fn single(vectors: &Vectors, search: impl Fn(&[f32]) -> Found) -> anyhow::Result<Vec<f64>> {
    let queries: Vec<&[f32]> = vectors.queries.chunks_exact(vectors.dims).collect();
    let mut found = Vec::with_capacity(queries.len());
    let taken = Latencies::of(queries.len(), |query| {
        found.extend(search(queries[query])?);
        Ok(())
    })?;
    let recall = vectors.recall(&found, K);
    Ok(vec![taken.per_second(), taken.quantile(0.5) * 1e6, taken.quantile(0.99) * 1e6, recall])
}

fn batched(vectors: &Vectors, search: impl Fn(&[f32]) -> Found) -> anyhow::Result<Vec<f64>> {
    let (taken, found) = seconds(|| {
        let mut found = Vec::new();
        for batch in vectors.queries.chunks(BATCH * vectors.dims) {
            found.extend(search(batch)?);
        }
        Ok(found)
    })?;
    Ok(vec![found.len() as f64 / taken, vectors.recall(&found, K)])
}
