//! Plugin processes that are killed again and again, under load.

use std::net::SocketAddr;
use std::thread;

use nix::sys::signal::Signal;
use photondb_server::cli::client::Client;
use photondb_tests::data::{self, DIMS};
use photondb_tests::driver;
use photondb_tests::place::Place;
use photondb_tests::processes::{self, Process};
use photondb_tests::reql::{self, Failure, RUNTIME_ERROR};
use photondb_tests::server::Server;
use photondb_tests::wait::{self, Stop};
use serde_json::{Value, json};

const PLUGINS: [&str; 2] = ["hnsw", "stats"];
const ROUNDS: [Signal; 7] = [
    Signal::SIGKILL,
    Signal::SIGSEGV,
    Signal::SIGSTOP,
    Signal::SIGKILL,
    Signal::SIGSEGV,
    Signal::SIGSTOP,
    Signal::SIGKILL,
];

/// What a client that went on all the time saw.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    answers: usize,
    errors: usize,
}

/// Goes on until `stop`; `step` says whether it got an answer or an error that it may get.
fn go_on(address: SocketAddr, stop: &Stop, mut step: impl FnMut(&mut Client, usize) -> bool) -> Seen {
    let mut client = reql::connect(address).expect("a connection");
    let mut seen = Seen::default();
    while !stop.is_raised() {
        match step(&mut client, seen.answers + seen.errors) {
            true => seen.answers += 1,
            false => seen.errors += 1,
        }
    }
    seen
}

/// Queries that have nothing to do with plugins: none may fail.
fn unrelated(client: &mut Client, turn: usize) -> bool {
    let table = reql::table("unrelated");
    let document = json!({"id": turn % 100, "turn": turn});
    let durability = if turn.is_multiple_of(8) { "hard" } else { "soft" };
    reql::run(client, &reql::insert(&table, std::slice::from_ref(&document), durability)).expect("an unrelated insert");
    let read = reql::run(client, &reql::get(&table, turn % 100)).expect("an unrelated read");
    assert_eq!(read, document);
    true
}

/// The answer to a pure call, or one clear runtime error.
fn pure(client: &mut Client, term: &Value, expected: &Value) -> bool {
    match reql::run(client, term) {
        Ok(answer) => {
            assert_eq!(answer, *expected);
            true
        }
        Err(Failure::Answered(RUNTIME_ERROR, message)) => {
            assert!(message.contains("plugin `stats`") && message.lines().count() == 1, "{message}");
            false
        }
        Err(failure) => panic!("{failure}"),
    }
}

/// Searches are answered, by the graph or without it: never an error, never a wrong document.
fn search(client: &mut Client, vectors: &[Vec<f32>], truth: &[Vec<i64>]) -> bool {
    let term = reql::nearest(&reql::table("packages"), "emb", &json!(vectors), 10);
    let answer = reql::run(client, &term).expect("a search that is answered");
    let lists: Vec<Vec<i64>> = answer.as_array().expect("lists").iter().map(ids).collect();
    assert!(lists.iter().all(|ids| ids.len() == 10), "{lists:?}");
    let truth: Vec<Vec<i64>> = truth.iter().map(|ids| ids[..10].to_vec()).collect();
    let recall = data::recall(&lists, &truth);
    assert!(recall >= 0.9, "recall@10 is {recall}");
    true
}

fn ids(rows: &Value) -> Vec<i64> {
    rows.as_array().expect("rows").iter().filter_map(|row| row["doc"]["id"].as_i64()).collect()
}

/// Hits a process until another one runs in its place.
fn replace(server: &Server<'_>, plugin: &str, old: Process, signal: Signal) {
    processes::send(signal, old.pid());
    wait::until_true(&format!("{plugin} ran again after {signal}"), || {
        if signal == Signal::SIGSEGV && old.is_running() {
            // Rust's runtime takes the first one for a fault, looks for its cause, and goes on without a handler.
            processes::send(signal, old.pid());
        }
        let status = server.plugin(plugin);
        status.state == "ready" && status.pid.is_some_and(|pid| pid != old.pid())
    });
    assert!(!old.is_running(), "{plugin}: process {} still runs", old.pid());
}

#[test]
fn nobody_notices_that_plugins_die() {
    let place = Place::with_first_party_plugins();
    let mut server = Server::start(&place);
    data::import(&place, &server);
    server.query(&reql::vector_index_create(&reql::table("packages"), "emb", DIMS, "cosine"));
    server.query(&reql::index_wait(&reql::table("packages")));
    server.query(&reql::table_create("unrelated"));
    let (queries, truth) = (data::queries(), data::truth());
    let (address, stop) = (server.address(), Stop::default());
    let many = reql::to_array(&reql::map(&reql::range(5000), &reql::function("approx")));
    let many_expected = server.query(&many);

    thread::scope(|scope| {
        let (stop, queries, truth, many, many_expected) = (&stop, &queries, &truth, &many, &many_expected);
        let unrelated = scope.spawn(move || go_on(address, stop, unrelated));
        let single = scope.spawn(move || {
            let call = reql::call("approx", &[json!(123.456), json!(2)]);
            go_on(address, stop, |client, _| pure(client, &call, &json!(120)))
        });
        let rows = scope.spawn(move || go_on(address, stop, |client, _| pure(client, many, many_expected)));
        let one = scope.spawn(move || {
            go_on(address, stop, |client, turn| {
                let at = turn % 90;
                search(client, &queries[at..at + 5], &truth[at..at + 5])
            })
        });
        let batch = scope.spawn(move || go_on(address, stop, |client, _| search(client, queries, truth)));

        let stopping = stop.on_drop();
        for signal in ROUNDS {
            let old = PLUGINS.map(|plugin| (plugin, server.ready_plugin(plugin)));
            for (plugin, process) in old {
                replace(&server, plugin, process, signal);
            }
        }
        drop(stopping);
        let all =
            [unrelated, single, rows, one, batch].map(|client| client.join().expect("a client that saw no wrong"));
        assert!(all.iter().all(|seen| seen.answers > 0), "{all:?}");
    });

    assert!(server.is_running());
    for plugin in PLUGINS {
        let status = server.plugin(plugin);
        assert!(status.restarts >= ROUNDS.len() as u64, "{plugin}: {} restarts", status.restarts);
        let crashes = server.events(plugin, "crashed");
        for cause in ["SIGKILL", "SIGSEGV"] {
            assert!(crashes.iter().any(|message| message.contains(cause)), "{plugin}, {cause}: {crashes:?}");
        }
        // A stopped process is found out by its silence, whichever silence is noticed first.
        let silent = |message: &String| message.contains("ping") || message.contains("deadline");
        assert!(crashes.iter().any(silent), "{plugin}: {crashes:?}");
    }
    // The graph is back, too.
    wait::until_true("searches use the graph again", || driver::uses_graph(&server, &queries[0]));
}

#[test]
fn an_index_is_built_although_its_plugin_dies_meanwhile() {
    const DEATHS: u64 = 4;
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    data::import(&place, &server);
    let packages = reql::table("packages");
    server.query(&reql::vector_index_create(&packages, "emb", DIMS, "cosine"));
    for _ in 0..DEATHS {
        let old = server.ready_plugin("hnsw");
        replace(&server, "hnsw", old, Signal::SIGKILL);
    }
    server.query(&reql::index_wait(&packages));
    assert!(server.plugin("hnsw").restarts >= DEATHS);
    assert!(search(&mut server.connect(), &data::queries(), &data::truth()));
    wait::until_true("searches use the graph", || driver::uses_graph(&server, &data::queries()[0]));
    assert!(search(&mut server.connect(), &data::queries(), &data::truth()));
}
