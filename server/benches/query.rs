//! What a whole query costs that calls a plugin's function for every document of a table: with the plugin linked in, confined
//! in its own process, and without any plugin.
//!
//!     make bench
//!     cargo bench -p photondb-server --bench query -- [--json FILE] [--rounds N]
//!
//! `PHOTONDB_BENCH_DOCUMENTS`: how many documents, 1,000,000 if unset. Queries run in this process, from the text of the
//! term to the text of the responses; there is no socket.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use photondb_plugin_stats::Stats;
use photondb_server::bench::{Bound, Case, Comparison, Confined, Goal, Measure, Options, Report, less, seconds};
use photondb_server::config::{PluginsConfig, SandboxConfig};
use photondb_server::plugins::{Place, PluginManager};
use photondb_server::query::{Answer, Engine, EngineParts, Identity, NoSearch, index_functions, parse};
use photondb_server::storage::{NoStorageEngines, NoVectorIndexes, Store, StoreOptions, TableOptions};
use serde_json::{Value, json};

const DOCUMENT: [Measure; 1] = [less("time", "ns a document")];

fn main() -> anyhow::Result<()> {
    let options = Options::parse_for(&[]);
    let documents = match std::env::var("PHOTONDB_BENCH_DOCUMENTS") {
        Ok(count) => count.parse().context("PHOTONDB_BENCH_DOCUMENTS is not a number")?,
        Err(_) => 1_000_000,
    };
    let mut report = Report::begin("Whole queries that call a plugin for every document");
    let Some(confined) = Confined::start()? else { return Ok(()) };
    let runtime = tokio::runtime::Runtime::new()?;
    let place = Place { host: "/nonexistent".into(), data: std::env::temp_dir(), ports: Vec::new() };
    let (plugins, sandbox) = (PluginsConfig::default(), SandboxConfig::default());
    let linked_in = PluginManager::start_with(place, plugins, sandbox, vec![Box::new(Stats)]);
    let linked_in = runtime.block_on(linked_in)?;

    let folder = tempfile::tempdir()?;
    let stored = StoreOptions {
        cache_bytes: 256 << 20,
        functions: index_functions(),
        vectors: Arc::new(NoVectorIndexes),
        engines: Arc::new(NoStorageEngines),
        upkeep: Duration::from_secs(3600),
    };
    let store = Store::open(folder.path(), &stored)?;
    let engine = |manager: &PluginManager| {
        Engine::new(EngineParts {
            store: store.clone(),
            plugins: Arc::new(manager.clone()),
            nearest: Arc::new(NoSearch),
            system: Vec::new(),
            identity: Identity { id: "id".into(), name: "bench".into() },
        })
    };
    let (linked_in, confined_engine) = (engine(&linked_in), engine(&confined.manager));
    store.create_table("test", "t", &TableOptions::default())?;
    fill(&linked_in, documents)?;

    for (what, function) in [
        ("map(plugin.sigmoid(row[\"x\"]))", json!([1000, ["sigmoid", field("x")]])),
        ("map(plugin.approx(row[\"x\"], 3))", json!([1000, ["approx", field("x"), 3]])),
    ] {
        let (with_plugin, without) = (map(&function), map(&field("x")));
        let per_document = |engine: &Engine, term: &Value| -> anyhow::Result<Vec<f64>> {
            let (taken, bytes) = seconds(|| drain(engine, term))?;
            anyhow::ensure!(bytes > documents, "only {bytes} bytes of results");
            Ok(vec![taken * 1e9 / documents as f64])
        };
        let cases = vec![
            Case::new("linked in", || per_document(&linked_in, &with_plugin)),
            Case::new("confined process", || per_document(&confined_engine, &with_plugin)),
            Case::new("no plugin: map(row[\"x\"])", || per_document(&confined_engine, &without)),
        ];
        let title = format!("table.{what} over {documents} documents");
        let goal = Goal::new(("confined process", "time"), Bound::AtMost(1.05), ("linked in", "time"));
        report.add(&Comparison::measure(title, &DOCUMENT, options.rounds, cases)?.with_goal(goal));
    }
    report.end(options.json.as_deref())
}

fn field(name: &str) -> Value {
    json!([170, [[10, [1]], name]])
}

fn map(body: &Value) -> Value {
    json!([38, [[15, ["t"]], [69, [[2, [1]], body]]]])
}

/// Runs a query to its end: the bytes of its responses.
fn drain(engine: &Engine, term: &Value) -> anyhow::Result<usize> {
    let request = parse::request(json!([1, term, {}]).to_string().as_bytes()).map_err(anyhow::Error::msg)?;
    let answer = engine.run(request, &Arc::default()).map_err(|error| anyhow::anyhow!("{error}"))?;
    let Answer::Stream(mut cursor) = answer else { return Ok(0) };
    let mut bytes = 0;
    loop {
        let (response, is_last) = cursor.next_response();
        anyhow::ensure!(!response.0.starts_with(b"{\"t\":18"), "{}", String::from_utf8_lossy(&response.0));
        bytes += response.0.len();
        if is_last {
            return Ok(bytes);
        }
    }
}

/// Makes the table `t` of documents `{id, x, name}`.
fn fill(engine: &Engine, documents: usize) -> anyhow::Result<()> {
    let run = |term: Value| {
        let request = parse::request(json!([1, term, {}]).to_string().as_bytes()).map_err(anyhow::Error::msg)?;
        engine.run(request, &Arc::default()).map_err(|error| anyhow::anyhow!("{error}")).map(drop)
    };
    let x = json!([26, [[10, [1]], 1.234_567]]);
    let document = json!([69, [[2, [1]], {"id": [10, [1]], "x": x, "name": "a document of the table"}]]);
    run(json!([56, [[15, ["t"]], [38, [[173, [documents]], document]]], {"durability": "soft"}]))
}
