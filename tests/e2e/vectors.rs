//! Vector searches by many, and what they send.

use std::thread;

use photondb_tests::data::{self, DIMS};
use photondb_tests::place::Place;
use photondb_tests::reql;
use photondb_tests::server::Server;
use photondb_tests::wait;
use serde_json::{Value, json};

/// More clients than the plugin has slots, so that searches wait, and are joined.
const CLIENTS: usize = 48;
const K: usize = 10;

/// The packages, with a graph over their vectors.
fn indexed_packages(place: &Place, server: &Server<'_>) -> Value {
    data::import(place, server);
    let packages = reql::table("packages");
    server.query(&reql::vector_index_create(&packages, "emb", DIMS, "cosine"));
    server.query(&reql::index_wait(&packages));
    packages
}

fn ids(found: &Value) -> Vec<i64> {
    let rows = found.as_array().expect("a list");
    rows.iter().map(|row| row["doc"]["id"].as_i64().expect("an id")).collect()
}

#[test]
fn clients_that_search_together_find_what_each_finds_alone() {
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    let packages = indexed_packages(&place, &server);
    let queries = data::queries();
    let search = |query: usize| {
        // Two kinds of searches, which can't be joined with each other.
        reql::nearest(&packages, "emb", &json!(queries[query]), if query.is_multiple_of(4) { K / 2 } else { K })
    };
    let mut alone: Vec<Vec<i64>> = Vec::new();
    for by in ["graph", "exact scan"] {
        if by == "exact scan" {
            assert!(server.photondb(&["plugin", "disable", "hnsw"]).status.success());
        }
        alone = (0..queries.len()).map(|query| ids(&server.query(&search(query)))).collect();
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (server, alone, search) = (&server, &alone, &search);
                scope.spawn(move || {
                    let mut connection = server.connect();
                    for query in (0..alone.len()).map(|at| (at + client * 7) % alone.len()).take(25) {
                        let found = reql::run(&mut connection, &search(query)).expect("an answer");
                        assert_eq!(ids(&found), alone[query], "{by}, query {query}");
                    }
                });
            }
        });
    }
    let truth = data::truth();
    assert!((0..alone.len()).all(|query| alone[query] == truth[query][..alone[query].len()]), "the scan is exact");
}

#[test]
fn every_type_of_index_finds_nearly_what_a_scan_finds() {
    let place = Place::new();
    place.install("ivf");
    place.install("vamana");
    let server = Server::start(&place);
    data::import(&place, &server);
    let packages = reql::table("packages");
    let (queries, truth) = (data::queries(), data::truth());
    for (kind, plugin) in [("ivf", "ivf"), ("pq", "ivf"), ("ivf_pq", "ivf"), ("vamana", "vamana")] {
        server.query(&reql::vector_index_of_type(&packages, "emb", kind, DIMS, "cosine"));
        server.query(&reql::index_wait(&packages));
        let search = || -> Vec<Vec<i64>> {
            let search = |query: &Vec<f32>| ids(&server.query(&reql::nearest(&packages, "emb", &json!(query), K)));
            queries.iter().map(search).collect()
        };
        let found = search();
        let hits =
            found.iter().zip(&truth).flat_map(|(found, truth)| found.iter().filter(|id| truth[..K].contains(id)));
        let recall = hits.count() as f64 / (K * found.len()) as f64;
        assert!(recall >= 0.95, "{kind}: recall@{K} is {recall}");
        assert!(server.photondb(&["plugin", "reload", plugin]).status.success());
        server.query(&reql::index_wait(&packages));
        assert!(search().iter().all(|found| found.len() == K), "{kind}");
        server.query(&reql::index_drop(&packages, "emb"));
    }
}

/// A message of two columns, vectors and settings; and one of rows, distances and counts.
const AROUND_QUERIES: u64 = 128;
const AROUND_ROWS: u64 = 192;
/// Settings without any entry: where they end, padded, and their encoded form.
const NO_SETTINGS: u64 = 64 + 3;

#[test]
fn the_counters_say_how_many_bytes_searches_shared_and_copied() {
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    let packages = indexed_packages(&place, &server);
    let bytes = || {
        let status = server.plugin("hnsw");
        (status.bytes_shared, status.bytes_copied)
    };
    let status = server.query(&json!([139, [packages, "emb"]]));
    let state = &status[0]["vector_state"];
    assert_eq!((state["plugin"].as_str(), state["state"].as_str()), (Some("hnsw"), Some("ready")), "{status}");
    assert_eq!((state["rows"].as_u64(), state["plugin_version"].as_str()), (Some(5000), Some("0.1.0")), "{status}");
    assert!(state["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 5000 * 100), "{status}");
    // The graph was built, from row numbers alone, and is saved when it has not changed for a while.
    assert!(bytes().0 >= data::PACKAGES as u64 * 4 && bytes().0 < data::PACKAGES as u64 * 16, "{:?}", bytes());
    wait::until_true("the graph is saved", || bytes().1 > data::PACKAGES as u64 * 32);

    let (shared, copied) = bytes();
    let queries = data::queries();
    server.query(&reql::nearest(&packages, "emb", &json!(queries[0]), K));
    let padded = |bytes: u64| bytes.next_multiple_of(64);
    let vector = DIMS as u64 * 4;
    let one = AROUND_QUERIES + padded(vector) + NO_SETTINGS;
    assert_eq!(bytes().0 - shared, one);
    let answer = |count: u64| AROUND_ROWS + 2 * padded(count * K as u64 * 4) + count * 4;
    assert_eq!(bytes().1 - copied, answer(1));

    // A batch goes in up to four messages, each of which has at least eight queries.
    let (shared, copied) = bytes();
    server.query(&reql::nearest(&packages, "emb", &json!(queries[..32]), K));
    let around = bytes().0 - shared - 32 * vector;
    let messages = around / (AROUND_QUERIES + NO_SETTINGS);
    assert!(around.is_multiple_of(AROUND_QUERIES + NO_SETTINGS) && (1..=4).contains(&messages), "{around}");
    assert_eq!(bytes().1 - copied, messages * answer(32 / messages));
}

#[test]
fn filters_of_any_selectivity_find_as_many_as_there_are() {
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    let packages = indexed_packages(&place, &server);
    let (vectors, queries) = (data::vectors(), data::queries());
    let mut client = server.connect();
    for (accepted, floor) in [(2500, 0.95), (500, 0.95), (50, 1.0), (5, 1.0), (0, 1.0)] {
        // Every so manieth row.
        let every = data::PACKAGES / accepted.max(1);
        let is_accepted = |row: usize| accepted > 0 && row.is_multiple_of(every);
        let remainder = if accepted > 0 { 0 } else { data::PACKAGES };
        let filter = json!([69, [[2, [1]], [17, [[28, [[170, [[10, [1]], "id"]], every]], remainder]]]]);
        let mut found = Vec::new();
        let mut truth = Vec::new();
        for query in &queries[..20] {
            let mut term = reql::nearest(&packages, "emb", &json!(query), K);
            term[2]["filter"] = filter.clone();
            let rows = ids(&reql::run(&mut client, &term).expect("an answer"));
            assert_eq!(rows.len(), K.min(accepted), "{accepted} rows are accepted");
            assert!(rows.iter().all(|&row| is_accepted(row as usize)), "{rows:?}");
            found.push(rows);
            truth.push(data::Metric::Cosine.nearest(&vectors, query, K.min(accepted), is_accepted));
        }
        let recall = if accepted == 0 { 1.0 } else { data::recall(&found, &truth) };
        assert!(recall >= floor, "recall@10 is {recall} where {accepted} rows are accepted");
    }
}
