//! Random kills of plugins and of the server, under load: every call ends, nothing is lost, nothing is left.
//!
//! A short run is part of the tests; `make chaos` makes the long one, with the same code:
//! `PHOTONDB_PLUGIN_KILLS` and `PHOTONDB_SERVER_KILLS` say how many.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use photondb_tests::battery::Resources;
use photondb_tests::place::Place;
use photondb_tests::processes::{self, Process};
use photondb_tests::reql::{self, Failure};
use photondb_tests::server::Server;
use photondb_tests::wait::{self, Stop};
use serde_json::{Value, json};

/// A plugin is started again at once, however often it died: what is tried here is that nothing is left of it.
const CONFIGURATION: &str = "[plugins.restarts]\nfirst_pause = \"1ms\"\nlongest_pause = \"5ms\"\nopen_after = 1000000\n\
     failed_starts = 1000000\ngive_up_after = 1000000\nper_minute = 1000000\nall_per_minute = 1000000\n";
/// No call takes longer, whatever is killed meanwhile: its own deadline, and that of a maintenance call before it.
const LONGEST_CALL: Duration = Duration::from_secs(30);
/// What the server's heap may grow by in a run.
const HEAP_GROWTH: u64 = 96 << 20;

fn count(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// Numbers that look random, and are the same in every run but for the timing.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Calls until `stop`; every one has to end, in an answer or an error of the query. Gives how many of each.
fn call_on(address: SocketAddr, stop: &Stop, term: impl Fn(usize) -> Value) -> (usize, usize) {
    let mut client = reql::connect(address).expect("a connection");
    let (mut answers, mut errors) = (0, 0);
    while !stop.is_raised() {
        let started = Instant::now();
        match reql::run(&mut client, &term(answers + errors)) {
            Ok(_) => answers += 1,
            Err(Failure::Answered(_, message)) => {
                assert!(message.lines().count() == 1 && !message.is_empty(), "{message:?}");
                errors += 1;
            }
            Err(failure) => panic!("a call without an answer: {failure}"),
        }
        assert!(started.elapsed() < LONGEST_CALL, "a call took {:?}", started.elapsed());
    }
    (answers, errors)
}

/// The files of a directory and of those in it.
fn files(directory: &std::path::Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

fn vector(number: usize) -> Value {
    json!((0..16_u32).map(|bit| if number >> bit & 1 == 1 { 1.0 } else { -1.0 }).collect::<Vec<f64>>())
}

#[test]
fn plugins_are_killed_at_random() {
    let kills = count("PHOTONDB_PLUGIN_KILLS", 200);
    let place = Place::with_first_party_plugins();
    let config = place.write("photondb.toml", CONFIGURATION);
    let mut server = Server::start_with(&place, &["--config", config.to_str().expect("a path")]);
    let table = reql::table("t");
    server.query(&reql::table_create("t"));
    server.query(&reql::vector_index_create(&table, "v", 16, "l2"));
    let (address, stop) = (server.address(), Stop::default());
    let settle = |server: &Server<'_>| {
        for plugin in ["hnsw", "stats"] {
            let _running = server.ready_plugin(plugin);
        }
    };
    settle(&server);
    // What is there only after the first calls is no leak.
    server.query(&reql::call("approx", &[json!(1), json!(1)]));
    server.query(&reql::insert(&table, &[json!({"id": 0, "v": vector(0)})], "hard"));
    let (before, files_before) = (Resources::of(&server), files(&place.data()));

    let calls = thread::scope(|scope| {
        let (stop, table) = (&stop, &table);
        let clients = [
            scope.spawn(move || call_on(address, stop, |turn| reql::call("approx", &[json!(turn), json!(2)]))),
            scope.spawn(move || {
                let many = reql::to_array(&reql::map(&reql::range(3000), &reql::function("approx")));
                call_on(address, stop, |_| many.clone())
            }),
            scope.spawn(move || call_on(address, stop, |turn| reql::nearest(table, "v", &vector(turn % 1000), 5))),
            // Keeps the index at work.
            scope.spawn(move || {
                call_on(address, stop, |turn| {
                    reql::insert(table, &[json!({"id": turn % 1000, "v": vector(turn % 1000)})], "soft")
                })
            }),
        ];
        let stopping = stop.on_drop();
        let mut dice = Dice(1);
        let mut killed = 0;
        while killed < kills {
            // Whatever runs now: hosts that confine themselves, plugins that shake hands, load, serve or stop.
            let children = processes::children(server.pid());
            let Some(child) = children.get(dice.below(children.len().max(1) as u64) as usize) else {
                thread::yield_now();
                continue;
            };
            // At a random point of its life, most of which is short.
            thread::sleep(Duration::from_micros(dice.below(20_000)));
            match dice.below(64) {
                0 => drop(server.photondb(&["plugin", "reload", ["hnsw", "stats"][dice.below(2) as usize]])),
                1 => processes::send(Signal::SIGABRT, child.pid()),
                _ => processes::send(Signal::SIGKILL, child.pid()),
            }
            killed += 1;
        }
        drop(stopping);
        clients.map(|client| client.join().expect("a client whose calls all ended"))
    });
    assert!(server.is_running());
    assert!(calls.iter().all(|(answers, _)| *answers > 0), "{calls:?}");
    settle(&server);
    assert_eq!(server.query(&reql::call("approx", &[json!(1234), json!(2)])), json!(1200));
    let left = leftovers(&server, before);
    println!("{kills} kills of plugins; answers and errors of each client: {calls:?}");
    println!("before: {before:?}, {files_before} files");
    println!("after:  {:?}, {} files", Resources::of(&server), files(&place.data()));
    assert!(left.is_none(), "{left:?}");
    let children = processes::children(server.pid());
    assert!(server.terminate().success());
    wait::until_true("all processes were gone", || !children.iter().any(Process::is_running));
    assert_eq!(place.left_behind(), Vec::<String>::new());
}

/// What the server holds more than before, once it had time to let go.
fn leftovers(server: &Server<'_>, before: Resources) -> Option<String> {
    let allowed = Resources { heap: before.heap + HEAP_GROWTH, ..before };
    // A connection more or less may be open at the moment that was looked at first.
    Resources { descriptors: allowed.descriptors.map(|count| count + 4), ..allowed }.what_is_left(server)
}

/// Writes and calls plugins until the server is gone; gives the keys of the writes that were acknowledged.
fn write_until_it_dies(address: SocketAddr, name: &str, acknowledged: &AtomicUsize) -> Vec<String> {
    let mut keys = Vec::new();
    // It may be killed before this client has shaken hands.
    let Ok(mut client) = reql::connect(address) else { return keys };
    for number in 0_usize.. {
        let key = format!("{name}-{number}");
        let document = json!({"id": key, "v": vector(number)});
        match reql::run(&mut client, &reql::insert(&reql::table("log"), &[document], "hard")) {
            Ok(_) => {
                keys.push(key);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(Failure::Broken(_)) => break,
            Err(failure) => panic!("an insert failed: {failure}"),
        }
        let many = reql::to_array(&reql::map(&reql::range(50), &reql::function("approx")));
        if matches!(reql::run(&mut client, &many), Err(Failure::Broken(_))) {
            break;
        }
    }
    keys
}

#[test]
fn the_server_is_killed_at_random() {
    let kills = count("PHOTONDB_SERVER_KILLS", 5);
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    server.query(&reql::table_create("log"));
    server.query(&reql::vector_index_create(&reql::table("log"), "v", 16, "l2"));
    let files_before = files(&place.data());
    server.kill();
    let (mut all, mut dice, orphans) = (BTreeSet::new(), Dice(2), AtomicU64::new(0));
    for round in 0..kills {
        let server = Server::start(&place);
        let (address, acknowledged) = (server.address(), AtomicUsize::new(0));
        let there: BTreeSet<String> = keys(&server);
        let lost: Vec<_> = all.difference(&there).collect();
        assert!(lost.is_empty(), "round {round}: of {} acknowledged writes, these are lost: {lost:?}", all.len());
        thread::scope(|scope| {
            let acknowledged = &acknowledged;
            let clients: Vec<_> = (0..4)
                .map(|client| {
                    let name = format!("{round}-{client}");
                    scope.spawn(move || write_until_it_dies(address, &name, acknowledged))
                })
                .collect();
            let wanted = dice.below(40) as usize;
            wait::until_true("enough was acknowledged", || acknowledged.load(Ordering::Relaxed) >= wanted);
            let plugins = processes::children(server.pid());
            server.kill();
            wait::until_true("its plugins were gone", || !plugins.iter().any(Process::is_running));
            orphans.fetch_add(plugins.iter().filter(|plugin| plugin.is_running()).count() as u64, Ordering::Relaxed);
            for client in clients {
                all.extend(client.join().expect("a client"));
            }
        });
    }
    let server = Server::start(&place);
    let there = keys(&server);
    assert!(all.is_subset(&there), "lost: {:?}", all.difference(&there).collect::<Vec<_>>());
    println!("{kills} kills of the server: {} acknowledged writes, all there; {orphans:?} orphans", all.len());
    println!("files of the data directory: {files_before} before, {} after", files(&place.data()));
    assert!(server.terminate().success());
    assert_eq!(place.left_behind(), Vec::<String>::new());
}

fn keys(server: &Server<'_>) -> BTreeSet<String> {
    let rows = server.connect().run(reql::table("log").to_string().as_bytes()).expect("the table");
    rows.as_array().into_iter().flatten().filter_map(|row| row["id"].as_str().map(str::to_owned)).collect()
}
