//! Vector searches: exact scans beside the plain loop, and searches of a server beside the work of its plugin.
//!
//!     cargo bench -p photondb-server --bench search -- [scan] [server] [--json FILE] [--rounds N]
//!
//! The vectors come from `PHOTONDB_BENCH_DATA`, a folder as `tests/data`.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use fixedbitset::FixedBitSet;
use photondb_distance::{Metric, Query};
use photondb_plugin_hnsw::Hnsw;
use photondb_plugin_sdk::column::{Element, VectorColumn};
use photondb_plugin_sdk::kinds::vector::{
    IndexOptions, RowId, SearchRequest, SearchResults, VectorIndex, VectorIndexPlugin,
};
use photondb_plugin_sdk::{Cancel, Datum};
use photondb_server::bench::{Case, Comparison, Latencies, Measure, Options, Report, Vectors, less, more, seconds};
use photondb_server::cli::client::Client;
use photondb_server::vector::{ExactScan, Scored};
use serde_json::{Value, json};
use tempfile::TempDir;

const K: usize = 10;
const BATCH: usize = 100;
const SECTIONS: [&str; 2] = ["scan", "server"];
const SINGLE: [Measure; 3] = [more("queries", "per second"), less("p50", "µs"), more("recall@10", "")];
const BATCHED: [Measure; 2] = [more("queries", "per second"), more("recall@10", "")];

fn main() -> anyhow::Result<()> {
    let options = Options::parse_for(&SECTIONS);
    let mut report = Report::begin("Vector searches");
    let vectors = Vectors::load()?;
    if options.wants("scan") {
        scans(&vectors, options.rounds, &mut report)?;
    }
    if options.wants("server") {
        server(&vectors, options.rounds, &mut report)?;
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

// ---- A server ------------------------------------------------------------------------------------------------------

const WIRE: [Measure; 1] = [less("time", "ms a batch")];
const CLIENTS: [Measure; 1] = [more("queries", "per second")];
/// Clients that search at the same time, one query after the other.
const MANY_CLIENTS: usize = 64;
/// Queries of each of them in a round.
const QUERIES_OF_CLIENT: usize = 30;

/// A server in a process of its own, stopped on drop.
struct Server {
    process: Child,
    executable: PathBuf,
    address: String,
    client: Client,
    data: TempDir,
}

impl Server {
    /// `None`, with a line that says why, where there is no release build.
    fn start() -> anyhow::Result<Option<Self>> {
        let executable = std::env::current_exe()?;
        let release = executable.ancestors().nth(2).context("this executable is not in a Cargo target directory")?;
        let (server, plugins) = (release.join("photondb"), release.with_file_name("release-plugins"));
        if !server.exists() || !plugins.exists() {
            println!("SKIPPED: {} or {} is missing; run `make bench`", server.display(), plugins.display());
            return Ok(None);
        }
        let data = tempfile::tempdir()?;
        let mut command = Command::new(&server);
        command.arg("serve").arg("--data").arg(data.path()).arg("--plugin-dir").arg(plugins);
        command.args(["--reql-port", "0", "--http-port", "0", "--rpc-port", "0"]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut ready = String::new();
        BufReader::new(process.stdout.take().context("no output")?).read_line(&mut ready)?;
        let ready: Value = serde_json::from_str(&ready).context("the server did not start")?;
        let address = format!("127.0.0.1:{}", ready["reql"]);
        let client = Client::connect(&address, "admin", "")?;
        Ok(Some(Self { process, executable: server, address, client, data }))
    }

    fn disable(&self, plugin: &str) -> anyhow::Result<()> {
        let mut command = Command::new(&self.executable);
        command.args(["plugin", "disable", plugin, "--data"]).arg(self.data.path());
        let output = command.output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Searches a second of so many clients, each of which sends its next query when it has the answer to the last.
    fn searches(&self, clients: usize, terms: &[Vec<u8>]) -> anyhow::Result<Vec<f64>> {
        let connect = || Ok(Client::connect(&self.address, "admin", "")?);
        let clients: Vec<Client> = (0..clients).map(|_| connect()).collect::<anyhow::Result<_>>()?;
        let count = clients.len() * QUERIES_OF_CLIENT;
        let (taken, ()) = seconds(|| {
            thread::scope(|scope| {
                let run = |(number, mut client): (usize, Client)| {
                    scope.spawn(move || -> anyhow::Result<()> {
                        let terms = terms.iter().cycle().skip(number * QUERIES_OF_CLIENT);
                        for term in terms.take(QUERIES_OF_CLIENT) {
                            client.run(term)?;
                        }
                        Ok(())
                    })
                };
                let threads: Vec<_> = clients.into_iter().enumerate().map(run).collect();
                threads.into_iter().try_for_each(|thread| thread.join().expect("a client panicked"))
            })
        })?;
        Ok(vec![count as f64 / taken])
    }

    fn fill(&mut self, vectors: &Vectors) -> anyhow::Result<()> {
        self.client.run(br#"[60,["t"]]"#)?;
        let rows: Vec<&[f32]> = vectors.base.chunks_exact(vectors.dims).collect();
        for (start, rows) in (0..).step_by(1000).zip(rows.chunks(1000)) {
            let documents: Vec<Value> =
                (start..).zip(rows).map(|(id, vector): (usize, _)| json!({"id": id, "v": [2, vector]})).collect();
            self.client.run(json!([56, [[15, ["t"]], [2, documents]]]).to_string().as_bytes())?;
        }
        let vector = json!({"type": "hnsw", "dims": vectors.dims, "metric": "cosine", "element": "f16"});
        self.client.run(json!([75, [[15, ["t"]], "v"], {"vector": vector}]).to_string().as_bytes())?;
        self.client.run(br#"[140,[[15,["t"]],"v"]]"#)?;
        Ok(())
    }

    /// Milliseconds from the first byte of a query to the last one of its answer.
    fn time(&mut self, term: &[u8]) -> anyhow::Result<Vec<f64>> {
        let (taken, _) = seconds(|| {
            self.client.send(term)?;
            Ok(self.client.receive()?)
        })?;
        Ok(vec![taken * 1e3])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn server(vectors: &Vectors, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let Some(mut server) = Server::start()? else { return Ok(()) };
    server.fill(vectors)?;
    let column = VectorColumn::in_memory(vectors.dims as u32, Element::F16, &vectors.base)?;
    let options = IndexOptions { dims: vectors.dims as u32, metric: Metric::Cosine, settings: Datum::Null };
    let index = Hnsw::default().create(&options, Arc::new(column))?;
    index.insert(&(0..vectors.rows()).collect::<Vec<RowId>>())?;
    let queries = &vectors.queries[..BATCH * vectors.dims];
    let literal: Vec<Value> = queries.chunks(vectors.dims).map(|query| json!([2, query])).collect();
    let table = json!([15, ["t"]]);
    let whole = json!([168, [table, [2, literal]], {"index": "v", "max_results": K}]);
    let id = json!([69, [[2, [2]], [170, [[170, [[10, [2]], "doc"]], "id"]]]]);
    let ids = json!([38, [whole, [69, [[2, [1]], [38, [[10, [1]], id]]]]]]);
    let (whole, ids) = (whole.to_string().into_bytes(), ids.to_string().into_bytes());
    let server = RefCell::new(server);
    let cases = vec![
        Case::new("the index alone, two threads", || {
            let (taken, ()) = seconds(|| {
                thread::scope(|scope| {
                    for half in queries.chunks(BATCH / 2 * vectors.dims) {
                        scope.spawn(|| search(&*index, half, vectors.dims));
                    }
                });
                Ok(())
            })?;
            Ok(vec![taken * 1e3])
        }),
        Case::new("the index alone, one thread", || {
            let (taken, ()) = seconds(|| search(&*index, queries, vectors.dims))?;
            Ok(vec![taken * 1e3])
        }),
        Case::new("over the wire, whole documents", || server.borrow_mut().time(&whole)),
        Case::new("over the wire, ids of the documents", || server.borrow_mut().time(&ids)),
    ];
    let title = format!("The nearest {K} of {BATCH} queries: {}", vectors.name);
    report.add(&Comparison::measure(title, &WIRE, rounds, cases)?);
    let server = server.into_inner();
    let terms: Vec<Vec<u8>> = literal.iter().map(|query| nearest_ids(query).to_string().into_bytes()).collect();
    for by in ["the index", "exact scan, since the plugin is disabled"] {
        if by != "the index" {
            server.disable("hnsw")?;
        }
        let cases = vec![
            Case::new("one client", || server.searches(1, &terms)),
            Case::new(format!("{MANY_CLIENTS} clients"), || server.searches(MANY_CLIENTS, &terms)),
        ];
        let title = format!("One query after the other over the wire, by {by}: {}", vectors.name);
        report.add(&Comparison::measure(title, &CLIENTS, rounds.min(5), cases)?);
    }
    Ok(())
}

/// The term for the ids of the documents that are nearest to one query.
fn nearest_ids(query: &Value) -> Value {
    let nearest = json!([168, [[15, ["t"]], query], {"index": "v", "max_results": K}]);
    let id = json!([69, [[2, [2]], [170, [[170, [[10, [2]], "doc"]], "id"]]]]);
    json!([38, [nearest, id]])
}

fn search(index: &dyn VectorIndex, queries: &[f32], dims: usize) -> anyhow::Result<()> {
    let count = queries.len() / dims;
    let (mut rows, mut distances, mut counts) = (vec![0; count * K], vec![0.0; count * K], vec![0; count]);
    let settings = Datum::Null;
    let request = SearchRequest { queries, k: K, allow: None, settings: &settings, cancel: Cancel::never() };
    let mut results = SearchResults { rows: &mut rows, distances: &mut distances, counts: &mut counts };
    Ok(index.search(&request, &mut results)?)
}
