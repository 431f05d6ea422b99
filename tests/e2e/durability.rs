//! kill -9 of the server: what was acknowledged is there, nothing is built again, nothing is left behind.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use photondb_tests::data::{self, DIMS, PACKAGES};
use photondb_tests::place::Place;
use photondb_tests::processes::{self, Process};
use photondb_tests::reql;
use photondb_tests::server::Server;
use photondb_tests::{driver, wait};
use serde_json::{Value, json};

const ROUNDS: usize = 15;
const CLIENTS: usize = 8;
/// Acknowledged writes of a round, before the server is killed in the middle of the next ones.
const WRITES: usize = 160;

/// Inserts until the server is gone; gives the keys of the writes that were acknowledged.
fn insert_until_it_dies(address: SocketAddr, name: &str, acknowledged: &AtomicUsize) -> Vec<String> {
    let mut client = reql::connect(address).expect("a connection");
    let mut keys = Vec::new();
    for number in 0.. {
        let key = format!("{name}-{number}");
        let document = json!({"id": key, "number": number, "group": name, "filling": "x".repeat(number % 700)});
        match reql::run(&mut client, &reql::insert(&reql::table("log"), &[document], "hard")) {
            Ok(result) => {
                assert_eq!((&result["inserted"], &result["errors"]), (&json!(1), &json!(0)), "{result}");
                keys.push(key);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            // Not acknowledged: it may be there or not.
            Err(reql::Failure::Broken(_)) => break,
            Err(failure) => panic!("an insert failed: {failure}"),
        }
    }
    keys
}

/// All documents; the secondary index has to agree with the table.
fn documents(server: &Server<'_>) -> BTreeSet<String> {
    let table = reql::table("log");
    let mut client = server.connect();
    let rows = client.run(table.to_string().as_bytes()).expect("the table");
    let rows = rows.as_array().expect("rows");
    for row in rows {
        let number = row["number"].as_u64().and_then(|number| usize::try_from(number).ok()).expect("a number");
        let id = row["id"].as_str().expect("an id");
        assert_eq!(id, format!("{}-{number}", row["group"].as_str().unwrap_or_default()), "half a document: {row}");
        assert_eq!(row["filling"].as_str().map(str::len), Some(number % 700), "half a document: {id}");
    }
    let groups: BTreeSet<&str> = rows.iter().filter_map(|row| row["group"].as_str()).collect();
    let mut by_index = 0;
    for group in groups {
        let of_group = reql::count(&json!([78, [table, group], {"index": "group"}]));
        by_index += server.query(&of_group).as_u64().unwrap_or_default();
    }
    assert_eq!(by_index, rows.len() as u64, "the secondary index and the table do not agree");
    rows.iter().filter_map(|row| row["id"].as_str().map(str::to_owned)).collect()
}

#[test]
fn no_acknowledged_write_is_lost() {
    let place = Place::new();
    let server = Server::start(&place);
    server.query(&reql::table_create("log"));
    server.query(&reql::index_create(&reql::table("log"), "group"));
    server.query(&reql::index_wait(&reql::table("log")));
    server.kill();

    let mut all = BTreeSet::new();
    for round in 0..ROUNDS {
        let server = Server::start(&place);
        let (address, acknowledged) = (server.address(), AtomicUsize::new(0));
        thread::scope(|scope| {
            let acknowledged = &acknowledged;
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let name = format!("{round}-{client}");
                    scope.spawn(move || insert_until_it_dies(address, &name, acknowledged))
                })
                .collect();
            wait::until_true("enough was acknowledged", || acknowledged.load(Ordering::Relaxed) >= WRITES);
            server.kill();
            for client in clients {
                all.extend(client.join().expect("a client"));
            }
        });
        let server = Server::start(&place);
        let there = documents(&server);
        let lost: Vec<_> = all.difference(&there).collect();
        assert!(lost.is_empty(), "round {round}: of {} acknowledged writes, these are lost: {lost:?}", all.len());
        server.kill();
    }
    assert!(all.len() >= ROUNDS * WRITES);
}

/// A vector that no other number has.
fn vector_of(number: usize) -> Vec<f32> {
    (0..16u32).map(|bit| if number >> bit & 1 == 1 { 1.0 } else { -1.0 }).collect()
}

#[test]
fn acknowledged_vectors_are_found_after_a_kill() {
    const ROUNDS: usize = 5;
    const VECTORS: usize = 80;
    let place = Place::with_first_party_plugins();
    let table = reql::table("vectors");
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let server = Server::start(&place);
        if round == 0 {
            server.query(&reql::table_create("vectors"));
            server.query(&reql::vector_index_create(&table, "v", 16, "l2"));
        }
        // Two connections, so that the server dies with writes on their way.
        let (mut client, mut ahead) = (server.connect(), server.connect());
        for _ in 0..VECTORS {
            let document = json!({"id": acknowledged, "v": vector_of(acknowledged)});
            reql::run(&mut client, &reql::insert(&table, &[document], "hard")).expect("an insert");
            acknowledged += 1;
        }
        for number in acknowledged..acknowledged + 5 {
            let document = json!({"id": number, "v": vector_of(number)});
            ahead.send(reql::insert(&table, &[document], "hard").to_string().as_bytes()).expect("sent");
        }
        server.kill();

        let server = Server::start(&place);
        let queries: Vec<Vec<f32>> = (0..acknowledged).map(vector_of).collect();
        let lists = server.query(&reql::nearest(&table, "v", &json!(queries), 1));
        for (number, found) in lists.as_array().expect("lists").iter().enumerate() {
            assert_eq!((&found[0]["doc"]["id"], &found[0]["dist"]), (&json!(number), &json!(0)), "round {round}");
        }
        server.kill();
    }
}

#[test]
fn indexes_are_finished_after_a_kill_in_the_middle() {
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    let packages = reql::table("packages");
    data::import(&place, &server);
    server.query(&reql::index_create(&packages, "section"));
    server.query(&reql::vector_index_create(&packages, "emb", DIMS, "cosine"));
    server.kill();

    let server = Server::start(&place);
    let statuses = server.query(&reql::index_wait(&packages));
    let ready = statuses.as_array().expect("statuses").iter().map(|status| (&status["index"], &status["ready"]));
    assert_eq!(ready.collect::<Vec<_>>(), [(&json!("emb"), &json!(true)), (&json!("section"), &json!(true))]);
    let documents = data::packages();
    let in_python = documents.iter().filter(|package| package["section"] == "python").count();
    let of_section = reql::count(&json!([78, [packages, "python"], {"index": "section"}]));
    assert_eq!(server.query(&of_section), json!(in_python));
    wait::until_true("searches use the graph", || driver::uses_graph(&server, &data::queries()[0]));
    let found: Vec<Vec<i64>> = searches(&server)
        .iter()
        .map(|rows| rows.as_array().into_iter().flatten().filter_map(|row| row["doc"]["id"].as_i64()).collect())
        .collect();
    let truth: Vec<Vec<i64>> = data::truth().iter().take(found.len()).map(|ids| ids[..10].to_vec()).collect();
    assert!(data::recall(&found, &truth) >= 0.95, "{found:?}");
}

/// The nearest packages of some queries.
fn searches(server: &Server<'_>) -> Vec<Value> {
    let queries = &data::queries()[..10];
    let lists = server.query(&reql::nearest(&reql::table("packages"), "emb", &json!(queries), 10));
    lists.as_array().cloned().expect("lists")
}

/// The file of the saved graph.
fn saved_graph(place: &Place) -> bool {
    let indexes = fs::read_dir(place.data().join("vectors")).into_iter().flatten().flatten();
    indexes.map(|index| index.path().join("graph")).any(|graph| graph.is_file())
}

#[test]
fn data_indexes_and_graph_are_there_after_a_restart() {
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    let packages = reql::table("packages");
    data::import(&place, &server);
    server.query(&reql::index_create(&packages, "section"));
    server.query(&reql::vector_index_create(&packages, "emb", DIMS, "cosine"));
    server.query(&reql::index_wait(&packages));
    let of_section = reql::count(&json!([78, [packages, "python"], {"index": "section"}]));
    let (found, in_section) = (searches(&server), server.query(&of_section));
    wait::until_true("the graph was saved", || saved_graph(&place));
    server.kill();

    for how in ["kill", "terminate"] {
        let server = Server::start(&place);
        assert_eq!(server.query(&reql::count(&packages)), json!(PACKAGES));
        // Searches are answered from the first moment on, and the index says nothing of building.
        assert_eq!(searches(&server).len(), found.len());
        assert_eq!(server.query(&of_section), in_section);
        wait::until_true("searches use the graph", || driver::uses_graph(&server, &data::queries()[0]));
        assert_eq!(searches(&server), found, "other answers after a restart ({how})");
        let log = server.log();
        assert!(log.contains("the saved graph is loaded") && log.contains(&format!("rows={PACKAGES}")), "{log}");
        assert!(!log.contains("built again"), "{log}");
        match how {
            "kill" => server.kill(),
            _ => assert!(server.terminate().success()),
        }
    }
    // A graph that is not there any more is built again; nobody has to do anything.
    for index in fs::read_dir(place.data().join("vectors")).expect("vectors").flatten() {
        fs::write(index.path().join("graph"), "rubbish").expect("a damaged graph");
    }
    let server = Server::start(&place);
    assert_eq!(searches(&server).len(), found.len());
    wait::until_true("searches use the graph", || driver::uses_graph(&server, &data::queries()[0]));
    assert!(server.log().contains("built again"));
}

/// The files of a directory, by name.
fn files(directory: impl AsRef<Path>) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Sockets with a name, on disk or not, that this server may have made.
fn sockets() -> BTreeSet<String> {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let name = |line: &str| line.split_whitespace().nth(7).map(str::to_owned);
    sockets.lines().filter_map(name).filter(|name| name.contains("photondb")).collect()
}

#[test]
fn a_killed_server_leaves_nothing_behind() {
    let place = Place::with_first_party_plugins();
    // Shared memory with a name would be here.
    let shared_memory = files("/dev/shm");
    let server = Server::start(&place);
    server.query(&reql::table_create("t"));
    server.query(&reql::to_array(&reql::map(&reql::range(1000), &reql::function("approx"))));
    let plugins = processes::children(server.pid());
    assert_eq!(plugins.len(), 4, "two that serve, and two hosts that stand by: {plugins:?}");
    for name in ["hnsw", "stats"] {
        assert!(plugins.contains(&server.ready_plugin(name)), "{name} is no child of the server");
    }
    server.kill();
    wait::until_true("the plugins were gone", || !plugins.iter().any(Process::is_running));

    for directory in [place.temporary_directory(), place.working_directory()] {
        assert_eq!(files(&directory), BTreeSet::new(), "{}", directory.display());
    }
    assert_eq!(files(place.data()).iter().filter(|name| name.starts_with('.')).count(), 0);
    let left: Vec<_> =
        files("/dev/shm").difference(&shared_memory).filter(|name| name.contains("photondb")).cloned().collect();
    assert!(left.is_empty(), "{left:?}");
    let data = place.data().display().to_string();
    assert!(!sockets().iter().any(|name| name.contains(&data) || name.starts_with('@')), "{:?}", sockets());

    // And the next server starts, whatever the last one had open.
    let server = Server::start(&place);
    assert_eq!(server.query(&reql::count(&reql::table("t"))), json!(0));
    assert!(server.terminate().success());
    assert!(!place.data().join("photondb.sock").exists());
}
