//! The permission `query`: a plugin runs ReQL within a call, with what was granted and not a document more.
//!
//! The plugin `querier` has one function: it takes a term, in the JSON of the wire, and gives back what its query gives.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use photondb_tests::place::{self, Place};
use photondb_tests::processes;
use photondb_tests::reql::{self, Failure, RUNTIME_ERROR};
use photondb_tests::server::Server;
use photondb_tests::wait::{self, Stop};
use serde_json::{Value, json};

const QUERIER: &str = "querier";

/// A place with the plugin, which was granted to read `test.granted` and `test.log`, and to write `test.log`.
fn place(threads: u32) -> Place {
    let place = Place::new();
    place.install("stats");
    let asked = r#"["read:test.*", "write:test.log"]"#;
    let manifest = format!("{}threads = {threads}\nquery = {asked}\n", place::manifest(QUERIER, &[QUERIER]));
    place.install_hostile_in(QUERIER, &manifest);
    let granted = r#"["read:test.granted", "read:test.log", "write:test.*"]"#;
    place.write("photondb.toml", &format!("[plugins.grants.{QUERIER}]\nthreads = {threads}\nquery = {granted}\n"));
    place
}

/// A server with the tables `granted` (documents 1 to 3), `log` and `secret`.
fn start(place: &Place) -> Server<'_> {
    let configuration = place.write("empty", "").with_file_name("photondb.toml");
    let server = Server::start_with(place, &["--config", &configuration.to_string_lossy()]);
    for name in ["granted", "log", "secret"] {
        server.query(&reql::table_create(name));
        let documents: Vec<Value> = (1..=3).map(|id| json!({"id": id, "from": name})).collect();
        server.query(&reql::insert(&reql::table(name), &documents, "soft"));
    }
    let _ready = server.ready_plugin(QUERIER);
    server
}

/// A call of the plugin with a term.
fn querier(term: &Value) -> Value {
    reql::call(QUERIER, &[json!(term.to_string())])
}

fn ask(server: &Server<'_>, term: &Value) -> Result<Value, String> {
    match reql::run(&mut server.connect(), &querier(term)) {
        Ok(value) => Ok(value),
        Err(Failure::Answered(RUNTIME_ERROR, message)) => Err(message),
        Err(other) => panic!("{term}: {other}"),
    }
}

/// A term that never ends by itself.
fn endless() -> Value {
    reql::count(&json!([39, [reql::range(1_000_000_000_000), [69, [[2, [1]], false]]]]))
}

/// Runs `work` while another client writes, and calls another plugin; at least once before it, and once after it.
fn while_others_work<T>(server: &Server<'_>, work: impl FnOnce() -> T) -> T {
    let (stop, turns) = (Stop::default(), AtomicUsize::new(0));
    let more_turns = |than: usize| wait::until_true("another client went on", || turns.load(Ordering::Relaxed) > than);
    thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut client = server.connect();
            while !stop.is_raised() {
                let turn = turns.fetch_add(1, Ordering::Relaxed);
                let documents = [json!({"id": "bystander", "turn": turn})];
                reql::run(&mut client, &reql::insert(&reql::table("secret"), &documents, "soft")).expect("an insert");
                let call = reql::call("approx", &[json!(turn), json!(15)]);
                assert_eq!(reql::run(&mut client, &call).expect("a call of another plugin"), json!(turn));
            }
        });
        let stopping = stop.on_drop();
        more_turns(0);
        let result = work();
        more_turns(turns.load(Ordering::Relaxed));
        drop(stopping);
        others.join().expect("another client goes on");
        result
    })
}

#[test]
fn what_was_granted_works_and_nothing_else() {
    let place = place(1);
    let server = start(&place);
    let (granted, log, secret) = (reql::table("granted"), reql::table("log"), reql::table("secret"));
    assert_eq!(ask(&server, &reql::get(&granted, 2)).unwrap(), json!({"id": 2, "from": "granted"}));
    assert_eq!(ask(&server, &reql::count(&log)).unwrap(), 3);
    assert_eq!(ask(&server, &reql::insert(&log, &[json!({"id": 4})], "soft")).unwrap()["inserted"], 1);
    // Declared, not granted; granted, not declared; neither.
    for (term, grant) in [
        (reql::get(&secret, 1), "read:test.secret"),
        (reql::insert(&granted, &[json!({"id": 4})], "soft"), "write:test.granted"),
        (reql::insert(&secret, &[json!({"id": 4})], "soft"), "write:test.secret"),
    ] {
        let message = ask(&server, &term).expect_err(&term.to_string());
        assert!(message.contains(grant) && message.contains(QUERIER), "{term}: {message}");
    }
    for term in [reql::table_create("more"), reql::system_table("users"), json!([59, []]), json!([61, ["log"]])] {
        let message = ask(&server, &term).expect_err(&term.to_string());
        assert!(message.contains("no grant allows that"), "{term}: {message}");
    }
    assert_eq!(server.query(&reql::count(&secret)), 3);
    assert_eq!(server.query(&reql::count(&granted)), 3);
    // Rows of one batch, each with a query of its own.
    let rows = json!([
        38,
        [
            [2, [1, 2, 3]],
            [
                69,
                [
                    [2, [1]],
                    reql::call(
                        QUERIER,
                        &[json!([24, [r#"[16,[[15,[[14,["test"]],"granted"]],"#, [51, [[10, [1]], "string"]], "]]"]])]
                    )
                ]
            ]
        ]
    ]);
    assert_eq!(server.query(&rows).as_array().unwrap().len(), 3);
    assert_eq!(server.plugin(QUERIER).restarts, 0);
}

#[test]
fn a_query_has_the_time_of_its_call_and_the_plugin_lives_on() {
    let place = place(1);
    let server = start(&place);
    let plugin = server.ready_plugin(QUERIER);
    let message = while_others_work(&server, || ask(&server, &endless()).expect_err("endless"));
    assert!(message.contains("deadline"), "{message}");
    assert_eq!(ask(&server, &json!(1)).unwrap(), 1);
    assert_eq!(server.ready_plugin(QUERIER), plugin);
}

#[test]
fn a_plugin_that_calls_itself_ends_with_an_error() {
    let twice = |term: &Value, times: usize| (0..times).fold(term.clone(), |term, _| querier(&term));
    let place = place(1);
    let server = start(&place);
    let plugin = server.ready_plugin(QUERIER);
    let message = while_others_work(&server, || ask(&server, &twice(&json!(1), 1)).expect_err("one thread"));
    assert!(message.contains("calls itself") && message.contains("threads"), "{message}");
    assert_eq!(server.ready_plugin(QUERIER), plugin);
    drop(server);

    let place = self::place(8);
    let server = start(&place);
    assert_eq!(ask(&server, &twice(&json!(1), 3)).unwrap(), 1);
    let message = while_others_work(&server, || ask(&server, &twice(&json!(1), 4)).expect_err("five levels"));
    assert!(message.contains("4 levels"), "{message}");
}

#[test]
fn calls_that_wait_for_each_other_end() {
    let place = place(2);
    let server = start(&place);
    // Each holds one of the two threads, and wants another.
    let term = querier(&json!([43, [reql::table("granted")]]));
    while_others_work(&server, || {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..8).map(|_| scope.spawn(|| ask(&server, &term))).collect();
            for client in clients {
                match client.join().expect("an answer") {
                    Ok(count) => assert_eq!(count, 3),
                    Err(message) => assert!(message.contains(QUERIER), "{message}"),
                }
            }
        });
    });
    wait::until_true("the plugin works again", || ask(&server, &json!(1)).is_ok());
}

#[test]
fn a_query_that_waits_for_the_document_of_its_own_call_changes_nothing() {
    let place = place(1);
    let server = start(&place);
    let document = reql::get(&reql::table("log"), 1);
    let inner = json!([53, [document, {"from": "inside"}]]);
    let change = json!([69, [[2, [1]], {"from": querier(&inner)}]]);
    let outer = json!([53, [document, change], {"non_atomic": true}]);
    let outcome = while_others_work(&server, || server.query(&outer));
    assert_eq!(outcome["errors"], 1, "{outcome}");
    assert!(outcome["first_error"].as_str().unwrap_or_default().contains("deadline"), "{outcome}");
    assert_eq!(server.query(&document)["from"], "log");
    assert_eq!(ask(&server, &inner).unwrap()["replaced"], 1);
}

#[test]
fn a_plugin_that_dies_leaves_no_query_behind() {
    let place = place(1);
    let server = start(&place);
    let plugin = server.ready_plugin(QUERIER);
    let message = while_others_work(&server, || {
        thread::scope(|scope| {
            let client = scope.spawn(|| ask(&server, &endless()).expect_err("its plugin dies"));
            wait::until_true("its query runs", || running_queries(&server) == 1);
            processes::send(Signal::SIGKILL, plugin.pid());
            client.join().expect("an answer")
        })
    });
    assert!(message.contains("SIGKILL"), "{message}");
    wait::until_true("its query is gone", || running_queries(&server) == 0);
    assert_ne!(server.ready_plugin(QUERIER), plugin);
    assert_eq!(ask(&server, &json!(1)).unwrap(), 1);
}

/// Threads of the server that run queries of plugins at this moment.
fn running_queries(server: &Server<'_>) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).expect("threads");
    let states = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    states.filter(|stat| stat.contains("(plugin-query) R")).count()
}
