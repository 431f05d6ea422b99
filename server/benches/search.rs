//! Vector searches: exact scans beside the plain loop, and searches of a server beside the work of its plugin.
//!
//!     cargo bench -p photondb-server --bench search -- [scan] [--json FILE] [--rounds N]
//!
//! The vectors come from `PHOTONDB_BENCH_DATA`, a folder as `tests/data`.

#![forbid(unsafe_code)]

use std::sync::Arc;

use fixedbitset::FixedBitSet;
use photondb_distance::{Metric, Query};
use photondb_plugin_sdk::column::{Element, VectorColumn};
use photondb_server::bench::{Case, Comparison, Latencies, Measure, Options, Report, Vectors, less, more, seconds};
use photondb_server::vector::{ExactScan, Scored};

const K: usize = 10;
const BATCH: usize = 100;
const SECTIONS: [&str; 1] = ["scan"];
const SINGLE: [Measure; 3] = [more("queries", "per second"), less("p50", "µs"), more("recall@10", "")];
const BATCHED: [Measure; 2] = [more("queries", "per second"), more("recall@10", "")];

fn main() -> anyhow::Result<()> {
    let options = Options::parse_for(&SECTIONS);
    let mut report = Report::begin("Vector searches");
    let vectors = Vectors::load()?;
    if options.wants("scan") {
        scans(&vectors, options.rounds, &mut report)?;
    }
    report.end(options.json.as_deref())
}

// ---- Exact scans ---------------------------------------------------------------------------------------------------

fn scans(vectors: &Vectors, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let mut all = FixedBitSet::with_capacity(vectors.rows() as usize);
    all.insert_range(..);
    let queries: Vec<&[f32]> = vectors.queries.chunks_exact(vectors.dims).collect();
    let batches: Vec<&[f32]> = vectors.queries.chunks(BATCH * vectors.dims).collect();
    for (name, element) in [("f32", Element::F32), ("f16", Element::F16), ("i8", Element::I8)] {
        let column = Arc::new(VectorColumn::in_memory(vectors.dims as u32, element, &vectors.base)?);
        let scan = ExactScan::new(Metric::Cosine, Arc::clone(&column));
        let single = |search: &dyn Fn(&[f32]) -> Vec<Scored>| {
            let mut found = Vec::with_capacity(queries.len());
            let taken = Latencies::of(queries.len(), |query| {
                found.push(search(queries[query]));
                Ok(())
            })?;
            Ok(vec![taken.per_second(), taken.quantile(0.5) * 1e6, recall(vectors, &found)])
        };
        let cases = vec![
            Case::new("every row scored", || single(&|query| score_all(&column, vectors.rows(), query))),
            Case::new("sketches, then the rows that may be near", || {
                single(&|query| scan.nearest_on(1, query, K, &all).swap_remove(0))
            }),
        ];
        let title = format!("Exact scan of {name}, one thread, one query after the other: {}", vectors.name);
        report.add(&Comparison::measure(title, &SINGLE, if element == Element::F16 { rounds } else { 3 }, cases)?);
        let batch = |threads| {
            let (taken, found) = seconds(|| {
                Ok(batches.iter().flat_map(|batch| scan.nearest_on(threads, batch, K, &all)).collect::<Vec<_>>())
            })?;
            Ok(vec![found.len() as f64 / taken, recall(vectors, &found)])
        };
        let cases = vec![
            Case::new("one thread, one query after the other", || {
                let (taken, found) = seconds(|| {
                    Ok(queries.iter().flat_map(|query| scan.nearest_on(1, query, K, &all)).collect::<Vec<_>>())
                })?;
                Ok(vec![found.len() as f64 / taken, recall(vectors, &found)])
            }),
            Case::new("one thread, batches", || batch(1)),
            Case::new("two threads, batches", || batch(2)),
        ];
        let title = format!("Exact scan of {name}, {BATCH} queries at once: {}", vectors.name);
        report.add(&Comparison::measure(title, &BATCHED, 3, cases)?);
    }
    Ok(())
}

fn score_all(column: &VectorColumn, rows: u32, query: &[f32]) -> Vec<Scored> {
    let query = Query::new(Metric::Cosine, query);
    let mut all: Vec<Scored> =
        (0..rows).filter_map(|row| Some(Scored { distance: query.distance_to(column.row(row)?), row })).collect();
    all.select_nth_unstable(K);
    all.truncate(K);
    all
}

fn recall(vectors: &Vectors, found: &[Vec<Scored>]) -> f64 {
    let rows: Vec<Vec<u32>> = found.iter().map(|found| found.iter().map(|scored| scored.row).collect()).collect();
    vectors.recall(&rows, K)
}
