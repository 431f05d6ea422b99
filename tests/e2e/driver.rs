//! An unmodified official driver: documents, a vector index, searches.

use std::collections::BTreeMap;

use photondb_tests::data::{self, DIMS, Metric, PACKAGES, QUERIES};
use photondb_tests::driver;
use photondb_tests::place::Place;
use photondb_tests::reql;
use photondb_tests::server::Server;
use serde_json::{Value, json};

/// A list of `[id, distance]`.
fn found(rows: &Value) -> Vec<(i64, f64)> {
    let rows = rows.as_array().expect("a list of rows");
    rows.iter().map(|row| (row[0].as_i64().expect("an id"), row[1].as_f64().expect("a distance"))).collect()
}

fn ids(rows: &Value) -> Vec<i64> {
    found(rows).into_iter().map(|(id, _)| id).collect()
}

fn all_ids(lists: &Value) -> Vec<Vec<i64>> {
    lists.as_array().expect("a list of lists").iter().map(ids).collect()
}

#[test]
fn the_packages_are_stored_indexed_and_found() {
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    let lines: String = data::packages().iter().map(|package| format!("{package}\n")).collect();
    let input = json!({
        "documents": place.write("packages.jsonl", &lines),
        "vectors": data::path("embeddings.f16.npy"),
        "queries": data::path("queries.f32.npy"),
    });
    let said = driver::run(&server, "packages", input);

    for (key, expected) in [
        ("db", 1),
        ("table", 1),
        ("inserted", PACKAGES),
        ("errors", 0),
        ("again", 1),
        ("count", PACKAGES),
        ("created", 1),
    ] {
        assert_eq!(said[key], json!(expected), "{key}");
    }
    assert_eq!((&said["ready"], &said["indexes"], &said["whole"]), (&json!(true), &json!(["emb"]), &json!(true)));

    let truth: Vec<Vec<i64>> = data::truth().into_iter().map(|ids| ids[..10].to_vec()).collect();
    let single = all_ids(&said["single"]);
    assert_eq!(single.len(), QUERIES);
    let recall = data::recall(&single, &truth);
    assert!(recall >= 0.95, "recall@10 is {recall}");
    assert_eq!(said["single"], said["batch"], "a list of vectors gives other answers than one after the other");
    assert_eq!(said["default_results"], 100);
    assert!(said["profile"].as_str().is_some_and(|profile| profile.contains("vector index")), "{}", said["profile"]);
    for rows in said["single"].as_array().expect("lists") {
        assert!(found(rows).is_sorted_by(|a, b| a.1 <= b.1), "not nearest first: {rows}");
    }

    filters_are_exact(&said);
    changes_are_found(&said);
    mistakes_are_explained(&said);
}

fn filters_are_exact(said: &Value) {
    let (packages, vectors, queries) = (data::packages(), data::vectors(), data::queries());
    let check = |key: &str, is_wanted: &dyn Fn(usize) -> bool| {
        for (query, rows) in queries.iter().zip(all_ids(&said[key])) {
            assert_eq!(rows, Metric::Cosine.nearest(&vectors, query, 10, is_wanted), "{key}");
        }
    };
    check("in_section", &|row| packages[row]["section"] == "python");
    check("three", &|row| row < 3);
    assert_eq!(said["none"], json!([]));
    // Most packages: found through the graph, so now and then one of the nearest is missing, but never one that the
    // filter refuses is there.
    let is_large = |row: usize| packages[row]["size"].as_i64().is_some_and(|size| size > 20_000);
    let large = all_ids(&said["large"]);
    for id in large.iter().flatten() {
        assert!(is_large(usize::try_from(*id).expect("an id")), "{id} is too small");
    }
    let truth: Vec<_> =
        queries.iter().take(large.len()).map(|query| Metric::Cosine.nearest(&vectors, query, 10, is_large)).collect();
    assert!(large.iter().all(|rows| rows.len() == 10) && data::recall(&large, &truth) >= 0.9, "{large:?} {truth:?}");
}

fn changes_are_found(said: &Value) {
    let before = ids(&said["single"][0]);
    let (first, moved) = (before[0], ids(&said["single"][1])[9]);
    for key in ["deleted", "updated", "unset", "put_back"] {
        assert_eq!(said[key], 1, "{key}");
    }
    let deleted = ids(&said["after_delete"]);
    assert!(!deleted.contains(&first) && deleted[..8] == before[1..9], "{before:?} {deleted:?}");
    let updated = found(&said["after_update"]);
    assert!(updated[0].0 == moved && updated[0].1.abs() < 1e-5, "{updated:?}");
    assert!(!ids(&said["after_unset"]).contains(&moved));
    assert_eq!(ids(&said["after_insert"])[0], first);
}

fn mistakes_are_explained(said: &Value) {
    let expected = [
        ("ReqlQueryLogicError", "384"),
        ("ReqlOpFailedError", "Index `absent` was not found"),
        ("ReqlQueryLogicError", "max_results"),
        ("ReqlQueryLogicError", "ARRAY"),
        ("Reql", "taxicab"),
        ("Reql", "nothing"),
        ("Reql", "`x`"),
    ];
    for (mistake, (class, text)) in said["mistakes"].as_array().expect("a list").iter().zip(expected) {
        let (said_class, message) = (mistake[0].as_str().unwrap_or_default(), mistake[1].as_str().unwrap_or_default());
        assert!(said_class.starts_with(class) && message.contains(text), "{mistake} is not {class} with {text}");
    }
    assert_eq!(said["indexes_at_the_end"], json!(["emb"]));
    assert_eq!(said["dropped"], 1);
    assert_eq!(said["without"][0], "ReqlOpFailedError");
}

#[test]
fn every_metric_finds_the_nearest() {
    const ROWS: usize = 1000;
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    // Of different lengths, or all metrics would agree.
    let vectors: Vec<Vec<f32>> = data::vectors()
        .into_iter()
        .take(ROWS)
        .enumerate()
        .map(|(row, vector)| vector.into_iter().map(|number| number * (0.5 + (row % 7) as f32 / 4.0)).collect())
        .collect();
    let queries: Vec<Vec<f32>> = data::queries().into_iter().take(20).collect();
    let table = reql::table("scaled");
    server.query(&reql::table_create("scaled"));
    for (chunk, rows) in vectors.chunks(100).enumerate() {
        let document = |(at, vector): (usize, &Vec<f32>)| json!({"id": chunk * 100 + at, "cosine": vector, "l2": vector, "dot": vector});
        let documents: Vec<Value> = rows.iter().enumerate().map(document).collect();
        server.query(&reql::insert(&table, &documents, "soft"));
    }
    let mut distances = BTreeMap::new();
    for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
        server.query(&reql::vector_index_create(&table, metric.name(), DIMS, metric.name()));
        server.query(&reql::index_wait(&table));
        let lists = server.query(&reql::nearest(&table, metric.name(), &json!(queries), 10));
        let rows: Vec<&Vec<Value>> = lists.as_array().expect("lists").iter().filter_map(Value::as_array).collect();
        let id = |row: &Value| row["doc"]["id"].as_i64().expect("an id");
        let found: Vec<Vec<i64>> = rows.iter().map(|rows| rows.iter().map(id).collect()).collect();
        let truth: Vec<_> = queries.iter().map(|query| metric.nearest(&vectors, query, 10, |_| true)).collect();
        let recall = data::recall(&found, &truth);
        assert!(recall >= 0.95, "{metric:?}: recall@10 is {recall}");
        let distance = |row: &Value| row["dist"].as_f64().expect("a distance");
        assert!(rows.iter().all(|rows| rows.is_sorted_by_key(distance)), "{metric:?}: not nearest first");
        distances.insert(metric.name(), found);
    }
    assert!(distances["cosine"] != distances["l2"] && distances["l2"] != distances["dot"], "the metrics do not differ");
}
