//! Vector indexes that lie: searches are right all the same, or say that they failed.

use std::collections::BTreeSet;
use std::thread;

use nix::sys::signal::Signal;
use photondb_tests::battery::{record_line, while_others_work};
use photondb_tests::place::{Place, manifest};
use photondb_tests::processes::{self, Process};
use photondb_tests::reql::{self, Failure, RUNTIME_ERROR};
use photondb_tests::server::Server;
use photondb_tests::wait;
use serde_json::{Value, json};

/// Enough numbers that the plugin is asked at all.
pub(super) const ROWS: usize = 2200;
pub(super) const DIMS: usize = 64;

/// The vector of a document: far from all others.
pub(super) fn vector(number: usize) -> Vec<f64> {
    (0..DIMS).map(|at| ((number * 31 + at * at * 7 + number * at) % 97) as f64).collect()
}

pub(super) fn distance(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

/// `index_create(name, lambda row: row["v"], vector={"type": name, ...})`.
fn create(table: &Value, name: &str) -> Value {
    let field = json!([69, [[2, [1]], [170, [[10, [1]], "v"]]]]);
    json!([75, [table, name, field], {"vector": {"type": name, "dims": DIMS, "metric": "l2"}}])
}

/// A table with all documents, and their numbers; and one for other clients.
pub(super) fn fill(server: &Server<'_>) -> (Value, BTreeSet<usize>) {
    server.query(&reql::table_create("others"));
    server.query(&reql::table_create("t"));
    let table = reql::table("t");
    let documents: Vec<Value> = (0..ROWS).map(|number| json!({"id": number, "v": vector(number)})).collect();
    for documents in documents.chunks(200) {
        server.query(&reql::insert(&table, documents, "soft"));
    }
    (table, (0..ROWS).collect())
}

/// What is nearest of the documents that there are, by distance: equal distances are equally good.
fn truth(alive: &BTreeSet<usize>, query: &[f64], count: usize) -> Vec<f64> {
    let mut distances: Vec<f64> = alive.iter().map(|number| distance(&vector(*number), query)).collect();
    distances.sort_by(f64::total_cmp);
    distances.truncate(count);
    distances
}

/// Searches, and compares with the truth; an error is no lie, but must be one.
fn search(server: &Server<'_>, name: &str, alive: &BTreeSet<usize>) -> Result<(), String> {
    for number in [3, 700, 1500] {
        let query = vector(number);
        let found = match reql::run(&mut server.connect(), &reql::nearest(&reql::table("t"), name, &json!(query), 5)) {
            Ok(found) => found,
            Err(failure) => return Err(format!("a search failed: {failure}")),
        };
        let rows = found.as_array().cloned().unwrap_or_default();
        if rows.len() != 5 {
            return Err(format!("{} rows", rows.len()));
        }
        let mut ids = BTreeSet::new();
        for row in &rows {
            let id = row["doc"]["id"].as_u64().and_then(|id| usize::try_from(id).ok()).unwrap_or(usize::MAX);
            let said = row["dist"].as_f64().unwrap_or(f64::NAN);
            if !alive.contains(&id) || !ids.insert(id) {
                return Err(format!("document {id}, which is deleted or there twice"));
            }
            if (distance(&vector(id), &query) - said).abs() > 1e-2 {
                return Err(format!("document {id} at the distance {said}"));
            }
        }
    }
    Ok(())
}

/// Lies that the server can't know without a scan of its own: which rows are nearest. Everything else it checks.
#[test]
fn indexes_that_lie() {
    let place = Place::new();
    place.install("stats");
    let list = place.hostile_names("h16_").into_iter().chain(place.hostile_names("h18_"));
    let names: Vec<String> = list
        .chain(place.hostile_names("j2_search"))
        .chain(place.hostile_names("j6_"))
        .chain(place.hostile_names("j9_"))
        .filter(|name| name != "j6_never_the_same")
        .collect();
    for name in &names {
        let text = manifest(name, &[]).replace("[provides]", &format!("[provides]\nvector_indexes = [\"{name}\"]"));
        place.install_hostile_in(name, &text);
    }
    let mut server = Server::start(&place);
    let (table, mut alive) = fill(&server);
    let mut unexpected = Vec::new();
    while_others_work(&server, || {
        let mut created = Vec::new();
        for name in &names {
            match reql::run(&mut server.connect(), &create(&table, name)) {
                Ok(_) => created.push(name),
                Err(Failure::Answered(RUNTIME_ERROR, message)) if name.starts_with("j9_validate") => {
                    assert!(message.contains(name.as_str()), "{message}");
                }
                Err(failure) => unexpected.push(format!("{name}: {failure}")),
            }
        }
        for round in 0..3 {
            for name in &created {
                // The first time perhaps before the plugin has rows; the last time surely not.
                if let Err(lie) = search(&server, name, &alive) {
                    unexpected.push(format!("{name}, round {round}: {lie}"));
                }
            }
            let deleted = json!([54, [reql::get(&table, round)]]);
            server.query(&deleted);
            alive.remove(&round);
        }
        // What it saved, if anything, is what the next process gets.
        for name in created.iter().filter(|name| name.starts_with("j9_")) {
            let _ = server.photondb(&["plugin", "reload", name]);
            if let Err(lie) = search(&server, name, &alive) {
                unexpected.push(format!("{name}, reloaded: {lie}"));
            }
        }
    });
    // Not asserted above: a search that the plugin answered with few or far rows is its own affair, but never wrong.
    let query = vector(3);
    assert_eq!(truth(&alive, &query, 1)[0], 0.0);
    for name in &names {
        let wrong: Vec<&String> = unexpected.iter().filter(|line| line.starts_with(name.as_str())).collect();
        record_line(&json!({
            "row": name.split('_').next().unwrap_or_default().to_uppercase(), "attack": name, "layer": "protocol",
            "without": null, "through": false, "unexpected": wrong.first(),
        }));
    }
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    assert!(server.is_running());
    let processes: Vec<Process> = processes::children(server.pid());
    assert!(server.terminate().success());
    wait::until_true("all processes were gone", || !processes.iter().any(Process::is_running));
}

/// Searches that wait for a process that is stopped hold few of the threads that queries run on, and find the same.
#[test]
fn searches_of_a_stopped_index_hold_up_nobody_else() {
    const CLIENTS: usize = 150;
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    let (table, alive) = fill(&server);
    server.query(&create(&table, "hnsw"));
    server.query(&reql::index_wait(&table));
    search(&server, "hnsw", &alive).expect("an answer of the graph");
    let hnsw = server.ready_plugin("hnsw");
    while_others_work(&server, || {
        processes::send(Signal::SIGSTOP, hnsw.pid());
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| search(&server, "hnsw", &alive).expect("an answer without the graph"));
            }
        });
        wait::until_true("it was replaced", || !hnsw.is_running());
    });
    let _replaced = server.ready_plugin("hnsw");
    search(&server, "hnsw", &alive).expect("an answer, of the graph or not");
}
