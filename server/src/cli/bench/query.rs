//! `photondb bench query`

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::client::Client;
use super::super::progress::Progress;
use super::Common;
use crate::bench::{Bound, Case, Comparison, Goal, Latencies, Measure, less, more, seconds};

/// Measures queries over the wire
///
/// Starts a server of its own in a temporary folder, fills a table, and asks: one document by its key, and all of them through
/// a function that is built in and through one of a confined plugin (`clamp` of `stats`).
#[derive(Debug, Args)]
pub struct Query {
    #[command(flatten)]
    common: Common,
    /// How many documents the table has
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1000..))]
    rows: u32,
}

const TABLE: &str = "bench";
const INSERTED_AT_ONCE: u32 = 1000;
/// Queries of a round.
const GETS: usize = 2000;
const MAP: [Measure; 1] = [less("time", "µs a document")];
const GET: [Measure; 3] = [more("queries", "per second"), less("p50", "µs"), less("p99", "µs")];
const BUILT_IN: &str = "built in: row[\"x\"] + 1";
const PLUGIN: &str = "plugin: clamp(row[\"x\"], 0, 1e9)";

impl Query {
    /// Measures and prints.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let server = Server::start(self.common.plugin_dirs()?)?;
        let mut client = Client::connect(&format!("127.0.0.1:{}", server.reql), "admin", "")?;
        let mut report = self.common.report("Queries over the wire, one connection");
        fill(&mut client, self.rows)?;
        let client = std::cell::RefCell::new(client);
        let ask = |term: &[u8]| client.borrow_mut().run(term);

        let keys = || (0..GETS as u32).map(|at| at * 7919 % self.rows);
        let gets: Vec<Vec<u8>> = keys().map(|key| bytes(&json!([16, [table(), key]]))).collect();
        let nothing = bytes(&json!(1));
        let cases = vec![
            Case::new("a query that is a number", || time(|_| Ok(ask(&nothing).map(drop)?))),
            Case::new("one document by its key", || {
                time(|at| {
                    anyhow::ensure!(!ask(&gets[at])?.is_null(), "a document is missing");
                    Ok(())
                })
            }),
        ];
        report.add(&Comparison::measure("A query and its answer", &GET, self.common.rounds, cases)?);

        let x = json!([170, [[10, [1]], "x"]]);
        let built_in = sum_of(&json!([24, [x, 1]]));
        let plugin = sum_of(&json!([64, [[11, ["plugin.clamp"]], x, 0, 1e9]]));
        let whole = |term: &Value| {
            let (taken, sum) = seconds(|| Ok(ask(&bytes(term))?))?;
            anyhow::ensure!(sum.is_number(), "the sum is {sum}");
            Ok(vec![taken * 1e6 / f64::from(self.rows)])
        };
        let mut cases = vec![Case::new(BUILT_IN, || whole(&built_in))];
        cases.push(match ask(&bytes(&plugin)) {
            Ok(_) => Case::new(PLUGIN, || whole(&plugin)),
            Err(error) => Case::skipped(PLUGIN, error.to_string()),
        });
        let title = format!("The sum of a function over a table of {} documents, whole query", self.rows);
        report.add(&Comparison::measure(title, &MAP, self.common.rounds, cases)?.with_goal(Goal::new(
            (PLUGIN, "time"),
            Bound::AtMost(1.05),
            (BUILT_IN, "time"),
        )));
        self.common.end(report)
    }
}

fn time(call: impl FnMut(usize) -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
    let taken = Latencies::of(GETS, call)?;
    Ok(vec![taken.per_second(), taken.quantile(0.5) * 1e6, taken.quantile(0.99) * 1e6])
}

fn bytes(term: &Value) -> Vec<u8> {
    term.to_string().into_bytes()
}

fn table() -> Value {
    json!([15, [[14, ["test"]], TABLE]])
}

/// `table.map(row -> body).sum()`, where `body` knows the row as variable 1.
fn sum_of(body: &Value) -> Value {
    json!([145, [[38, [table(), [69, [[2, [1]], body]]]]]])
}

fn fill(client: &mut Client, rows: u32) -> anyhow::Result<()> {
    client.run(&bytes(&json!([60, [[14, ["test"]], TABLE]])))?;
    let mut progress = Progress::new("filling", rows.into());
    for start in (0..rows).step_by(INSERTED_AT_ONCE as usize) {
        let row = |id: u32| json!({ "id": id, "x": f64::from(id) * 1.25, "name": format!("document {id}") });
        let documents: Vec<Value> = (start..rows.min(start + INSERTED_AT_ONCE)).map(row).collect();
        let insert = json!([56, [table(), [2, documents]], { "durability": "soft" }]);
        let written = client.run(&bytes(&insert))?;
        anyhow::ensure!(written["errors"] == 0, "inserting failed: {written}");
        progress.at(start.into(), "documents");
    }
    progress.finish("documents");
    Ok(())
}

/// A server in a temporary folder, stopped on drop.
struct Server {
    process: Child,
    reql: u64,
    _data: TempDir,
}

impl Server {
    fn start(plugin_dirs: Vec<PathBuf>) -> anyhow::Result<Self> {
        let data = tempfile::tempdir().context("no temporary folder for the server")?;
        let program = std::env::current_exe().context("cannot find this program's own path")?;
        let mut command = Command::new(program);
        command.arg("serve").arg("--data").arg(data.path());
        command.args(["--reql-port", "0", "--http-port", "0", "--rpc-port", "0"]);
        plugin_dirs.iter().for_each(|directory| _ = command.arg("--plugin-dir").arg(directory));
        command.env("PHOTONDB_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().context("cannot start a server")?;
        let output = process.stdout.take().context("a server without output")?;
        let mut server = Self { process, reql: 0, _data: data };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).context("the server did not start; see above")?;
        server.reql = ready["reql"].as_u64().context("the server named no port")?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It stops its plugins, and then itself; where it ended already, there is nobody to tell.
        if let Ok(pid) = self.process.id().try_into() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.process.wait();
    }
}
