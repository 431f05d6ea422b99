//! Tables that plugins store: they behave as others do, and what happens to their plugins harms nobody else.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use photondb_server::cli::client::Client;
use photondb_tests::place::Place;
use photondb_tests::server::Server;
use photondb_tests::{driver, processes, reql, wait};
use serde_json::{Value, json};

const CLIENTS: usize = 8;
const ROUNDS: usize = 5;
/// Acknowledged writes of a round, before a process is killed in the middle of the next ones.
const WRITES: usize = 120;

fn place() -> Place {
    let place = Place::new();
    place.install("columnar");
    place.install("memory");
    place.install("redb");
    place
}

/// Starts a server that grants the engines their directories.
fn start(place: &Place) -> Server<'_> {
    let grants = "[plugins.grants.redb]\nstate = true\n[plugins.grants.columnar]\nstate = true\n";
    let file = place.write("etc/photondb.toml", grants).display().to_string();
    Server::start_with(place, &["--config", &file])
}

fn create(server: &Server<'_>, name: &str, engine: &str) {
    server.query(&json!([60, [[14, ["test"]], name], {"engine": engine}]));
}

/// Why a query gave no value.
#[derive(Debug)]
enum Failed {
    /// An error of that type.
    Answered(u32, String),
    /// The server is gone.
    Broken,
}

fn run(client: &mut Client, term: &Value) -> Result<Value, Failed> {
    let sent = client.send(term.to_string().as_bytes());
    let (_, response) = sent.and_then(|_| client.receive()).map_err(|_| Failed::Broken)?;
    let kind = response.error();
    response.into_value().map_err(|error| Failed::Answered(kind.unwrap_or_default(), error.to_string()))
}

fn failure(server: &Server<'_>, term: &Value) -> (u32, String) {
    match run(&mut server.connect(), term) {
        Err(Failed::Answered(kind, message)) => (kind, message),
        other => panic!("an error was expected: {other:?}"),
    }
}

fn document(key: &str) -> Value {
    json!({"id": key, "group": key.len(), "filling": "x".repeat(key.len() * 20)})
}

#[test]
fn an_unmodified_driver_tells_the_same_story_of_every_engine() {
    let place = place();
    let server = start(&place);
    let engines = json!({
        "default": {},
        "columnar": {"options": {"chunk_rows": 256}},
        "memory": {"options": {"max_mb": 64}},
        "redb": {"options": {"cache_mb": 8}},
    });
    let said = driver::run(&server, "engines", json!({"engines": engines}));
    let stories = &said["stories"];
    assert_eq!(stories["default"], stories["memory"]);
    assert_eq!(stories["default"], stories["redb"]);
    assert_eq!(stories["default"], stories["columnar"]);
    assert_eq!(stories["redb"]["count"], 2000);
    assert_eq!(stories["redb"]["large_back"][0], true);
    let shown = &said["shown"];
    assert_eq!(shown["default"][0], "default");
    for engine in ["columnar", "memory", "redb"] {
        let options = &engines[engine]["options"];
        let [name, shown_options, status, info, ready] = &shown[engine].as_array().expect("a list")[..] else {
            panic!("{shown}")
        };
        assert_eq!((name, info, shown_options), (&json!(engine), &json!(engine), options));
        assert_eq!((&status["plugin"], &status["state"]), (&json!(engine), &json!("ready")));
        assert_eq!(status["plugin_version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(ready["all_replicas_ready"], true);
        assert!(status["statistics"].is_object(), "{status}");
    }
    for (key, kind, text) in [
        ("unknown_engine", "ReqlOpFailedError", "there are: columnar, memory, redb"),
        ("unknown_option", "ReqlQueryLogicError", "unknown option `cash_mb`; the engine `redb` knows `cache_mb`"),
        ("wrong_option", "ReqlQueryLogicError", "`cache_mb` is \"much\"; it must be a whole number"),
        ("default_option", "ReqlQueryLogicError", "unknown option `cache_mb`"),
        ("no_object", "ReqlQueryLogicError", "`options` of `table_create` must be an OBJECT"),
    ] {
        assert_eq!(said[key][0], kind, "{key}: {}", said[key]);
        assert!(said[key][1].as_str().is_some_and(|message| message.contains(text)), "{key}: {}", said[key]);
    }
    assert_eq!(said["tables"], json!([]), "nothing is left of what failed");
    let engines = place.data().join("plugins/redb/state/engines");
    wait::until_true("the directory of the dropped table is gone", || {
        fs::read_dir(&engines).is_ok_and(|entries| entries.count() == 0)
    });
}

/// Every engine that keeps what it stores is whole after the faults that `arguments` say.
fn engines_are_whole_after(arguments: &[&str]) {
    for engine in ["default", "columnar", "encrypted", "redb", "timeseries"] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_engine_faults"));
        let ended = processes::run(command.arg(engine).args(arguments), "");
        assert!(ended.status.success(), "{engine}: {}{}", ended.stderr, ended.stdout);
        print!("{}", ended.stdout);
    }
}

#[test]
fn an_engine_is_whole_after_any_system_call_that_ends_it_or_fails() {
    engines_are_whole_after(&["25"]);
}

#[test]
fn an_engine_is_whole_after_a_power_cut() {
    engines_are_whole_after(&["--power", "24"]);
}

/// What one client wrote: the keys that were acknowledged.
struct Written {
    acknowledged: Vec<String>,
    indeterminate: usize,
    failed: usize,
}

const OP_FAILED: u32 = 4_100_000;
const OP_INDETERMINATE: u32 = 4_200_000;

/// Inserts until told to stop, or until the server is gone.
fn write(address: SocketAddr, name: &str, stop: &AtomicBool, count: &AtomicUsize) -> Written {
    let mut client = reql::connect(address).expect("a connection");
    let mut written = Written { acknowledged: Vec::new(), indeterminate: 0, failed: 0 };
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{name}-{number}");
        match run(&mut client, &reql::insert(&reql::table("log"), &[document(&key)], "hard")) {
            Ok(result) => {
                assert_eq!(result["inserted"], 1, "{result}");
                written.acknowledged.push(key);
                count.fetch_add(1, Ordering::Relaxed);
            }
            Err(Failed::Answered(OP_INDETERMINATE, _)) => written.indeterminate += 1,
            Err(Failed::Answered(OP_FAILED, message)) => {
                assert!(message.contains("test.log"), "{message}");
                written.failed += 1;
            }
            Err(Failed::Broken) => break,
            Err(failure) => panic!("an insert failed: {failure:?}"),
        }
    }
    written
}

/// All keys of the table; count and secondary index have to agree with it.
fn keys(server: &Server<'_>) -> BTreeSet<String> {
    let table = reql::table("log");
    let rows = server.query(&reql::to_array(&table));
    let rows = rows.as_array().expect("rows");
    let mut groups: BTreeSet<usize> = BTreeSet::new();
    for row in rows {
        let key = row["id"].as_str().expect("a key");
        assert_eq!(row, &document(key), "half a document");
        groups.insert(key.len());
    }
    let by_index: u64 = groups
        .iter()
        .map(|group| server.query(&reql::count(&json!([78, [table, group], {"index": "group"}]))).as_u64().unwrap_or(0))
        .sum();
    assert_eq!(by_index, rows.len() as u64, "the secondary index and the table do not agree");
    let info = server.query(&json!([79, [table]]));
    assert_eq!(info["doc_count_estimates"], json!([rows.len()]), "the count and the table do not agree");
    rows.iter().filter_map(|row| row["id"].as_str().map(str::to_owned)).collect()
}

fn with_table(server: &Server<'_>, engine: &str) {
    create(server, "log", engine);
    server.query(&reql::index_create(&reql::table("log"), "group"));
    server.query(&reql::index_wait(&reql::table("log")));
}

/// Writes from eight connections, kills something in the middle, and gives what was written.
fn writing(address: SocketAddr, round: &str, kill: impl FnOnce() -> bool) -> Vec<Written> {
    let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let (stop, count) = (&stop, &count);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let name = format!("{round}-{client}");
                scope.spawn(move || write(address, &name, stop, count))
            })
            .collect();
        wait::until_true("enough was acknowledged", || count.load(Ordering::Relaxed) >= WRITES);
        if kill() {
            let before = count.load(Ordering::Relaxed);
            wait::until_true("writes go on", || count.load(Ordering::Relaxed) >= before + WRITES / 2);
            stop.store(true, Ordering::Relaxed);
        }
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    })
}

#[test]
fn a_plugin_that_is_killed_loses_no_acknowledged_write() {
    let place = place();
    let server = start(&place);
    with_table(&server, "redb");
    server.query(&reql::table_create("other"));
    let (mut all, mut indeterminate) = (BTreeSet::new(), 0);
    for round in 0..ROUNDS {
        let written = writing(server.address(), &round.to_string(), || {
            processes::send(Signal::SIGKILL, server.ready_plugin("redb").pid());
            // Another table does not notice.
            let result = server.query(&reql::insert(&reql::table("other"), &[json!({"id": round})], "hard"));
            assert_eq!(result["inserted"], 1);
            true
        });
        for written in written {
            indeterminate += written.indeterminate;
            all.extend(written.acknowledged);
        }
        let there = keys(&server);
        let lost: Vec<_> = all.difference(&there).collect();
        assert!(lost.is_empty(), "round {round}: of {} acknowledged writes, these are lost: {lost:?}", all.len());
    }
    assert!(all.len() >= ROUNDS * WRITES);
    assert!(indeterminate > 0, "writes that were under way are reported as such");
}

#[test]
fn a_server_that_is_killed_loses_no_acknowledged_write() {
    let place = place();
    let server = start(&place);
    with_table(&server, "redb");
    server.kill();
    let mut all = BTreeSet::new();
    for round in 0..ROUNDS {
        let server = start(&place);
        let address = server.address();
        let written = writing(address, &round.to_string(), || {
            server.kill();
            false
        });
        all.extend(written.into_iter().flat_map(|written| written.acknowledged));
        let server = start(&place);
        let there = keys(&server);
        let lost: Vec<_> = all.difference(&there).collect();
        assert!(lost.is_empty(), "round {round}: of {} acknowledged writes, these are lost: {lost:?}", all.len());
        server.kill();
    }
}

#[test]
fn a_table_in_columns_reads_what_a_query_needs_and_survives_a_kill() {
    let place = place();
    let server = start(&place);
    create(&server, "log", "columnar");
    let table = reql::table("log");
    for first in (0..10_000).step_by(1000) {
        let documents: Vec<Value> =
            (first..first + 1000).map(|id| json!({"id": id, "price": id % 100, "text": "x".repeat(id % 50)})).collect();
        server.query(&reql::insert(&table, &documents, if first == 9000 { "hard" } else { "soft" }));
    }
    let field = |name: &str| json!([170, [[10, [1]], name]]);
    let late = json!([69, [[2, [1]], [22, [field("id"), 9900]]]]);
    let sum = json!([145, [[39, [table, late]], "price"]]);
    assert_eq!(server.query(&sum), 4950);
    let status = server.query(&json!([175, [table]]));
    let statistics = &status["engine"]["statistics"];
    assert_eq!(statistics["packed_rows"], 8192, "{status}");
    assert!(statistics["packed_bytes"].as_u64() < statistics["raw_bytes"].as_u64().map(|raw| raw / 4), "{status}");
    processes::send(Signal::SIGKILL, server.ready_plugin("columnar").pid());
    assert_eq!(server.query(&sum), 4950);
    assert_eq!(server.query(&json!([43, [table]])), 10_000);
    assert_eq!(server.query(&json!([16, [table, 77]]))["price"], 77);
}

#[test]
fn a_table_in_memory_is_empty_after_its_process_ended_and_goes_on() {
    let place = place();
    let server = start(&place);
    with_table(&server, "memory");
    for round in 0..3 {
        let written = writing(server.address(), &round.to_string(), || {
            processes::send(Signal::SIGKILL, server.ready_plugin("memory").pid());
            true
        });
        let acknowledged = written.iter().map(|written| written.acknowledged.len()).sum::<usize>();
        let there = keys(&server);
        assert!(!there.is_empty() && there.len() < acknowledged, "{} of {acknowledged}", there.len());
    }
    processes::send(Signal::SIGKILL, server.ready_plugin("memory").pid());
    assert_eq!(keys(&server).len(), 0);
}

#[test]
fn vectors_are_found_after_a_restart_and_after_a_kill_of_the_engine() {
    let place = place();
    place.install("hnsw");
    let table = reql::table("vectors");
    let document = |number: usize| json!({"id": number, "v": [number, 0]});
    let nearest = |server: &Server<'_>, number: usize| {
        let found = server.query(&reql::nearest(&table, "v", &json!([number, 0]), 1));
        found[0]["doc"]["id"].clone()
    };
    let server = start(&place);
    create(&server, "vectors", "redb");
    server.query(&reql::vector_index_create(&table, "v", 2, "l2"));
    let documents: Vec<Value> = (0..300).map(document).collect();
    server.query(&reql::insert(&table, &documents, "hard"));
    assert_eq!(nearest(&server, 123), 123);
    assert!(server.terminate().success());

    let server = start(&place);
    // The first query that touches the table.
    assert_eq!(nearest(&server, 123), 123);
    processes::send(Signal::SIGKILL, server.ready_plugin("redb").pid());
    assert_eq!(nearest(&server, 45), 45);
    server.query(&reql::insert(&table, &[document(1000)], "hard"));
    assert_eq!(nearest(&server, 1000), 1000);
    assert!(server.terminate().success());

    let server = start(&place);
    let info = server.query(&json!([79, [table]]));
    assert_eq!(info["doc_count_estimates"], json!([301]));
}

#[test]
fn a_table_without_its_plugin_is_unavailable_until_it_is_back() {
    let place = place();
    let server = start(&place);
    with_table(&server, "redb");
    server.query(&reql::table_create("other"));
    server.query(&reql::insert(&reql::table("log"), &[document("a")], "hard"));
    assert!(server.terminate().success());

    // Missing when the server starts.
    fs::rename(place.plugins().join("redb"), place.working_directory().join("redb")).expect("moved away");
    let server = start(&place);
    for term in [
        reql::get(&reql::table("log"), "a"),
        reql::to_array(&reql::table("log")),
        reql::insert(&reql::table("log"), &[document("b")], "hard"),
    ] {
        let (kind, message) = failure(&server, &term);
        assert_eq!(kind, OP_FAILED, "{message}");
        for part in ["Table `test.log` is unavailable", "storage engine `redb`", "plugin `redb`", "install"] {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }
    let status = server.query(&json!([175, [reql::table("log")]]));
    assert_eq!(
        (&status["engine"]["state"], &status["status"]["ready_for_reads"]),
        (&json!("unavailable"), &json!(false))
    );
    let result = server.query(&reql::insert(&reql::table("other"), &[json!({"id": 1})], "hard"));
    assert_eq!(result["inserted"], 1, "other tables go on");

    // Back, without a restart of the server.
    fs::rename(place.working_directory().join("redb"), place.plugins().join("redb")).expect("moved back");
    let enabled = server.photondb(&["plugin", "enable", "redb"]);
    assert!(enabled.status.success(), "{}", enabled.stderr);
    assert_eq!(keys(&server), BTreeSet::from(["a".to_owned()]));

    // Disabled.
    assert!(server.photondb(&["plugin", "disable", "redb"]).status.success());
    let (kind, message) = failure(&server, &reql::get(&reql::table("log"), "a"));
    assert_eq!(kind, OP_FAILED, "{message}");
    assert!(message.contains("photondb plugin enable redb"), "{message}");
    assert!(server.photondb(&["plugin", "enable", "redb"]).status.success());
    assert_eq!(keys(&server).len(), 1);
}

#[test]
fn a_plugin_that_stores_tables_is_unloaded_only_by_force_and_reloaded_at_any_time() {
    let place = place();
    let server = start(&place);
    with_table(&server, "redb");
    let refused = server.photondb(&["plugin", "unload", "redb"]);
    assert!(!refused.status.success());
    assert!(refused.stderr.contains("test.log") && refused.stderr.contains("--force"), "{}", refused.stderr);
    let written = writing(server.address(), "r", || {
        let reloaded = server.photondb(&["plugin", "reload", "redb"]);
        assert!(reloaded.status.success(), "{}", reloaded.stderr);
        true
    });
    let all: BTreeSet<String> = written.into_iter().flat_map(|written| written.acknowledged).collect();
    assert!(keys(&server).is_superset(&all));
    assert!(server.photondb(&["plugin", "unload", "redb", "--force"]).status.success());
    // Used again, it is started again.
    assert!(keys(&server).is_superset(&all));
}
