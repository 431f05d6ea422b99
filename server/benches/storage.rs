//! What a storage engine costs in a process of its own: the same code linked in and confined, in one run, and the default
//! engine beside both.
//!
//!     make bench BENCHES=storage
//!     cargo bench -p photondb-server --bench storage -- [memory redb columnar] [--json FILE] [--rounds N]
//!
//! `PHOTONDB_BENCH_DOCUMENTS`: how many documents, 50,000 if unset. What is measured is a table as queries use it: with key
//! locks, the writer thread and the encoding of documents.

#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::ops::Bound as RangeBound;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use photondb_plugin_columnar::Columnar;
use photondb_plugin_memory::Memory;
use photondb_plugin_redb::Redb;
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::storage::{FieldRange, Selection};
use photondb_server::bench::{
    Bound, Case, Comparison, Confined, Goal, Latencies, Measure, Options, Report, less, nops,
};
use photondb_server::config::{PluginsConfig, SandboxConfig};
use photondb_server::engines::EngineManager;
use photondb_server::plugins::{Place, PluginManager};
use photondb_server::query::index_functions;
use photondb_server::storage::{
    DatumRange, Direction, Durability, KeyEdge, NoVectorIndexes, Store, StoreOptions, Table, TableOptions,
};

const GETS: usize = 10_000;
const WRITES: usize = 1_000;
const BATCHES: usize = 30;
const BATCH: usize = 200;
const RANGES: usize = 300;
const RANGE: usize = 100;

const LATENCY: [Measure; 2] = [less("p50", "us"), less("p99", "us")];
const PER_DOCUMENT: [Measure; 1] = [less("time", "us a document")];

/// Where the engines of one of the cases are.
const LINKED_IN: &str = "linked in";
const CONFINED: &str = "confined process";
const DEFAULT: &str = "the default engine (fjall, linked in)";

fn main() -> anyhow::Result<()> {
    let options = Options::parse_for(&["memory", "redb", "columnar"]);
    let documents = match std::env::var("PHOTONDB_BENCH_DOCUMENTS") {
        Ok(count) => count.parse().context("PHOTONDB_BENCH_DOCUMENTS is not a number")?,
        Err(_) => 50_000,
    };
    let mut report = Report::begin("Storage engines: the same code linked in, and in a process of its own");
    let Some(confined) = Confined::start()? else { return Ok(()) };
    let runtime = tokio::runtime::Runtime::new()?;
    let place = Place { host: "/nonexistent".into(), data: std::env::temp_dir(), ports: Vec::new() };
    let (plugins, sandbox) = (PluginsConfig::default(), SandboxConfig::default());
    let linked_in =
        PluginManager::start_with(place, plugins, sandbox, vec![Box::new(Columnar), Box::new(Memory), Box::new(Redb)]);
    let linked_in = runtime.block_on(linked_in)?;

    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    let linked_in_store = open(folders[0].path(), &linked_in)?;
    let confined_store = open(folders[1].path(), &confined.manager)?;
    let default = table(&linked_in_store, "default", documents)?;
    for engine in ["memory", "redb"].into_iter().filter(|engine| options.wants(engine)) {
        let tables = [
            table(&linked_in_store, engine, documents)?,
            table(&confined_store, engine, documents)?,
            Arc::clone(&default),
        ];
        let instance = confined.instance(engine)?;
        let call = || Ok(nops(instance.least_busy_lane(), GETS, 100, Duration::ZERO)?.quantile(0.5) * 1e6);
        measure(&mut report, options.rounds, engine, documents, &tables, &call)?;
    }
    if options.wants("columnar") {
        let columns =
            [table(&linked_in_store, "columnar", documents)?, table(&confined_store, "columnar", documents)?, default];
        measure_columns(&mut report, options.rounds, documents, &columns)?;
    }
    confined_store.close();
    report.end(options.json.as_deref())
}

fn open(folder: &Path, plugins: &PluginManager) -> anyhow::Result<Store> {
    let engines = Arc::new(EngineManager::new(Arc::clone(plugins.registry()), folder.to_owned()));
    let vectors = Arc::new(NoVectorIndexes);
    let (cache_bytes, functions, upkeep) = (64 << 20, index_functions(), Duration::from_secs(3600));
    Ok(Store::open(folder, &StoreOptions { cache_bytes, functions, vectors, engines, upkeep })?)
}

fn document(number: usize) -> Datum {
    let text = "a document of some two hundred bytes, as a table has them: ".repeat(3);
    Datum::object([("id", Datum::from(number)), ("number", (number * 7 % 1000).into()), ("text", text.into())])
}

fn write(table: &Table, numbers: &[usize], durability: Durability) -> anyhow::Result<()> {
    let keys: Vec<Datum> = numbers.iter().map(|&number| number.into()).collect();
    table.replace::<Infallible>(&keys, durability, &mut |at, old| {
        // Another one than before, or nothing would be written.
        let turn = old.and_then(|old| old.get("turn")).and_then(Datum::as_number).unwrap_or_default() + 1.0;
        let mut fields = document(numbers[at]).as_object().map(|fields| (**fields).clone()).unwrap_or_default();
        fields.insert("turn", Datum::Number(turn));
        Ok(Some(fields.into()))
    })?;
    Ok(())
}

/// A new table of that engine with so many documents.
fn table(store: &Store, engine: &str, documents: usize) -> anyhow::Result<Arc<Table>> {
    store.create_table("test", engine, &TableOptions { engine: Some(engine.to_owned()), ..TableOptions::default() })?;
    let table = store.table("test", engine)?;
    let numbers: Vec<usize> = (0..documents).collect();
    numbers.chunks(10_000).try_for_each(|numbers| write(&table, numbers, Durability::Soft))?;
    table.sync()?;
    Ok(table)
}

fn latency(latencies: &Latencies) -> Vec<f64> {
    vec![latencies.quantile(0.5) * 1e6, latencies.quantile(0.99) * 1e6]
}

/// Measures one thing on a table of so many documents.
type Run = fn(&Table, usize) -> anyhow::Result<Vec<f64>>;

/// A number below `end` that is somewhere else each time.
fn scattered(number: usize, end: usize) -> usize {
    number.wrapping_mul(2_654_435_761) % end
}

fn measure<'a>(
    report: &mut Report,
    rounds: usize,
    engine: &str,
    documents: usize,
    tables: &'a [Arc<Table>; 3],
    call: &'a dyn Fn() -> anyhow::Result<f64>,
) -> anyhow::Result<()> {
    let names = [LINKED_IN, CONFINED, DEFAULT];
    let cases = |run: Run| -> Vec<Case<'a>> {
        let case = |(name, table): (_, &'a Arc<Table>)| Case::new(name, move || run(table, documents));
        names.into_iter().zip(tables).map(case).collect()
    };
    let goal = |bound| Goal::new((CONFINED, "time"), Bound::AtMost(bound), (LINKED_IN, "time"));

    let get: Run = |table, documents| {
        let latencies = Latencies::of(GETS, |number| {
            let found = table.get(&scattered(number, documents).into())?;
            found.map(drop).context("a document is missing")
        })?;
        Ok(latency(&latencies))
    };
    let with_call = "linked in, and one hot call of a lane";
    let mut reads = cases(get);
    reads.push(Case::new(with_call, move || {
        let (found, call) = (get(&tables[0], documents)?, call()?);
        Ok(vec![found[0] + call, found[1] + call])
    }));
    let comparison = Comparison::measure(format!("{engine}: a point read"), &LATENCY, rounds, reads)?;
    report.add(&comparison.with_goal(Goal::new((CONFINED, "p50"), Bound::AtMost(1.0), (with_call, "p50"))));

    let single = cases(|table, documents| {
        Ok(latency(&Latencies::of(WRITES, |number| write(table, &[scattered(number, documents)], Durability::Soft))?))
    });
    report.add(&Comparison::measure(format!("{engine}: a soft write of one document"), &LATENCY, rounds, single)?);

    let hard = cases(|table, documents| {
        Ok(latency(&Latencies::of(WRITES / 10, |number| {
            write(table, &[scattered(number, documents)], Durability::Hard)
        })?))
    });
    report.add(&Comparison::measure(format!("{engine}: a hard write of one document"), &LATENCY, rounds, hard)?);

    let batched = cases(|table, documents| {
        let latencies = Latencies::of(BATCHES, |number| {
            let numbers: Vec<usize> = (0..BATCH).map(|at| scattered(number * BATCH + at, documents)).collect();
            write(table, &numbers, Durability::Soft)
        })?;
        Ok(vec![1e6 / latencies.per_second() / BATCH as f64])
    });
    let title = format!("{engine}: soft writes of {BATCH} documents");
    report.add(&Comparison::measure(title, &PER_DOCUMENT, rounds, batched)?.with_goal(goal(1.15)));

    let ranges = cases(|table, documents| {
        let latencies = Latencies::of(RANGES, |number| {
            let start = scattered(number, documents - RANGE);
            scan(table, start, start + RANGE)
        })?;
        Ok(vec![1e6 / latencies.per_second() / RANGE as f64])
    });
    let title = format!("{engine}: a scan of {RANGE} documents");
    report.add(&Comparison::measure(title, &PER_DOCUMENT, rounds, ranges)?.with_goal(goal(1.15)));

    let whole = cases(|table, documents| {
        let latencies = Latencies::of(1, |_| scan(table, 0, documents))?;
        Ok(vec![1e6 / latencies.per_second() / documents as f64])
    });
    let title = format!("{engine}: a scan of all {documents} documents");
    report.add(&Comparison::measure(title, &PER_DOCUMENT, rounds, whole)?.with_goal(goal(1.15)));
    Ok(())
}

/// What columns are for: a sum of one field, of all documents and of a tenth of them.
fn measure_columns(
    report: &mut Report,
    rounds: usize,
    documents: usize,
    tables: &[Arc<Table>; 3],
) -> anyhow::Result<()> {
    println!("columnar: {}", tables[1].engine_statistics().to_json_string());
    let names = [LINKED_IN, CONFINED, DEFAULT];
    for (what, part) in [("of all documents", 1), ("of a tenth of the documents, by a range of the same field", 10)] {
        let case = |(name, table): (&'static str, &Arc<Table>)| {
            let table = Arc::clone(table);
            Case::new(name, move || {
                let latencies = Latencies::of(1, |_| sum(&table, documents, 1000 / part))?;
                Ok(vec![1e6 / latencies.per_second() / documents as f64])
            })
        };
        let cases = names.into_iter().zip(tables).map(case).collect();
        let title = format!("columnar: the sum of one field {what}");
        let comparison = Comparison::measure(title, &PER_DOCUMENT, rounds, cases)?;
        report.add(&comparison.with_goal(Goal::new((CONFINED, "time"), Bound::AtMost(1.0), (DEFAULT, "time"))));
    }
    Ok(())
}

/// Sums up `number` where it is below `end`, as a query does: the engine is told, and what comes is checked.
fn sum(table: &Arc<Table>, documents: usize, end: usize) -> anyhow::Result<()> {
    let field: Arc<str> = "number".into();
    let filter = vec![FieldRange {
        field: Arc::clone(&field),
        lower: RangeBound::Unbounded,
        upper: RangeBound::Excluded(end.into()),
    }];
    let selection = Selection { fields: Some(vec![field]), filter };
    let all = DatumRange { lower: RangeBound::Unbounded, upper: RangeBound::Unbounded };
    let (mut count, mut sum) = (0, 0.0);
    let found = if table.takes_selections() {
        table.scan_selected(all, Direction::Forward, || selection)?
    } else {
        table.scan(&all, Direction::Forward)?
    };
    for document in found.stored() {
        let document = document?;
        let number = document.field("number").and_then(|number| number.as_number()).context("no number")?;
        if number < end as f64 {
            (count, sum) = (count + 1, sum + number);
        }
    }
    let expected = (0..documents).filter(|number| number * 7 % 1000 < end).count();
    anyhow::ensure!(count == expected && sum >= 0.0, "{count} documents instead of {expected}");
    Ok(())
}

/// Reads the documents of these numbers, and decodes them.
fn scan(table: &Table, start: usize, end: usize) -> anyhow::Result<()> {
    let range = DatumRange {
        lower: RangeBound::Included(KeyEdge::Value(start.into())),
        upper: RangeBound::Excluded(KeyEdge::Value(end.into())),
    };
    let mut count = 0;
    for document in table.scan(&range, Direction::Forward)? {
        anyhow::ensure!(document?.as_object().is_some(), "no document");
        count += 1;
    }
    anyhow::ensure!(count == end - start, "{count} documents instead of {}", end - start);
    Ok(())
}
