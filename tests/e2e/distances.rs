//! Distances of plugins: in indexes of every type, without their plugins, and when they lie.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use photondb_plugin_sdk::testing::vector::data::Numbers;
use photondb_tests::place::Place;
use photondb_tests::processes;
use photondb_tests::reql::{self, Failure};
use photondb_tests::server::Server;
use serde_json::{Value, json};

/// Enough numbers that an index is asked at all.
const ROWS: usize = 4000;
const DIMS: usize = 96;
const QUERIES: usize = 30;
const K: usize = 10;

type Vectors = BTreeMap<usize, Vec<f32>>;

/// Sets of some of `DIMS` things, each like one of 40 patterns; and queries like them.
fn sets() -> (Vectors, Vec<Vec<f32>>) {
    let mut numbers = Numbers(5);
    // Of different sizes, so that their cosines are no order of their distances.
    let patterns: Vec<(u64, u64)> = (0..40).map(|pattern| (numbers.draw(), 3 + pattern % 5)).collect();
    let mut set = || -> Vec<f32> {
        let (pattern, share) = patterns[numbers.draw() as usize % patterns.len()];
        let mut of_pattern = Numbers(pattern);
        let member = |_| {
            let is_in = of_pattern.draw().is_multiple_of(share);
            f32::from(u8::from(is_in != numbers.draw().is_multiple_of(12)))
        };
        (0..DIMS).map(member).collect()
    };
    ((0..ROWS).map(|row| (row, set())).collect(), (0..QUERIES).map(|_| set()).collect())
}

/// Numbers none of which is below 0.
fn shares() -> (Vectors, Vec<Vec<f32>>) {
    let mut numbers = Numbers(6);
    let mut vector = || -> Vec<f32> { (0..DIMS).map(|_| (numbers.draw() % 9) as f32).collect() };
    ((0..ROWS).map(|row| (row, vector())).collect(), (0..QUERIES).map(|_| vector()).collect())
}

fn weights() -> Vec<f64> {
    (0..DIMS).map(|at| [0.0, 0.25, 1.0, 16.0][at % 4]).collect()
}

fn distance(metric: &str, query: &[f32], row: &[f32]) -> f64 {
    let pairs = || query.iter().zip(row).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    match metric {
        "jaccard" => {
            let both = pairs().filter(|(a, b)| *a != 0.0 && *b != 0.0).count() as f64;
            let either = pairs().filter(|(a, b)| *a != 0.0 || *b != 0.0).count() as f64;
            1.0 - both / either
        }
        "weighted_cosine" => {
            let product = |of: fn((f64, f64)) -> f64| -> f64 {
                pairs().zip(weights()).map(|(pair, weight)| weight * of(pair)).sum()
            };
            1.0 - product(|(a, b)| a * b) / (product(|(a, _)| a * a) * product(|(_, b)| b * b)).sqrt()
        }
        "kl_divergence" => {
            let epsilon = 1e-6;
            let (all_a, all_b): (f64, f64) =
                pairs().fold((0.0, 0.0), |(x, y), (a, b)| (x + a + epsilon, y + b + epsilon));
            pairs().map(|(a, b)| ((a + epsilon) / all_a, (b + epsilon) / all_b)).map(|(a, b)| a * (a / b).ln()).sum()
        }
        other => panic!("{other}"),
    }
}

fn create(table: &Value, kind: &str, metric: &str) -> Value {
    let mut options = json!({"type": kind, "dims": DIMS, "metric": metric});
    if metric == "weighted_cosine" {
        options["metric_options"] = json!({"weights": weights()});
    }
    json!([75, [table, "v"], {"vector": reql::literal(&options)}])
}

fn document(id: usize, vector: &[f32]) -> Value {
    json!({"id": id, "v": vector, "half": id % 2})
}

fn fill(server: &Server<'_>, vectors: &Vectors) -> Value {
    server.query(&reql::table_create("t"));
    let table = reql::table("t");
    let documents: Vec<Value> = vectors.iter().map(|(&id, vector)| document(id, vector)).collect();
    for documents in documents.chunks(200) {
        server.query(&reql::insert(&table, documents, "soft"));
    }
    table
}

fn place_with(plugins: &[&str]) -> Place {
    let place = Place::new();
    plugins.iter().for_each(|name| place.install(name));
    place
}

/// Ids and distances.
fn rows(found: &Value) -> Vec<(usize, f64)> {
    let row =
        |row: &Value| (row["doc"]["id"].as_u64().expect("an id") as usize, row["dist"].as_f64().expect("a distance"));
    found.as_array().expect("a list").iter().map(row).collect()
}

fn search(server: &Server<'_>, query: &[f32], filter: Option<&Value>) -> Value {
    let mut term = reql::nearest(&reql::table("t"), "v", &json!(query), K);
    if let Some(filter) = filter {
        term[2]["filter"] = filter.clone();
    }
    server.query(&term)
}

/// What a search failed with.
fn failure(server: &Server<'_>, term: &Value) -> String {
    match reql::run(&mut server.connect(), term) {
        Err(Failure::Answered(_, message)) => message,
        other => panic!("{other:?}"),
    }
}

/// The share of what is nearest that is found. All that is found is there, at the distance that it is said to be, in order.
fn recall(server: &Server<'_>, metric: &str, vectors: &Vectors, queries: &[Vec<f32>], half: Option<usize>) -> f64 {
    let filter = half.map(|half| json!({"half": half}));
    let is_wanted = |id: usize| half.is_none_or(|half| id % 2 == half);
    let mut hits = 0;
    for query in queries {
        let found = rows(&search(server, query, filter.as_ref()));
        assert_eq!(found.len(), K, "{metric}");
        assert!(found.is_sorted_by(|a, b| a.1 <= b.1), "{metric}: {found:?}");
        let mut truth: Vec<f64> =
            vectors.iter().filter(|(id, _)| is_wanted(**id)).map(|(_, row)| distance(metric, query, row)).collect();
        truth.sort_by(f64::total_cmp);
        for (id, said) in found {
            let exact = distance(metric, query, vectors.get(&id).expect("a document that is there"));
            assert!(is_wanted(id) && (exact - said).abs() < 1e-4, "{metric}: {id} is {exact} away, not {said}");
            hits += usize::from(exact <= truth[K - 1] + 1e-5);
        }
    }
    hits as f64 / (K * queries.len()) as f64
}

#[test]
fn every_type_of_index_finds_what_is_near_by_a_distance_of_a_plugin() {
    for (metric, kinds) in [
        ("jaccard", &["hnsw", "ivf", "pq"][..]),
        ("weighted_cosine", &["hnsw", "ivf", "ivf_pq"]),
        ("kl_divergence", &["pq"]),
    ] {
        let place = place_with(&["distances", "hnsw", "ivf"]);
        let server = Server::start(&place);
        let (mut vectors, queries) = if metric == "jaccard" { sets() } else { shares() };
        let table = fill(&server, &vectors);
        for kind in kinds {
            server.query(&create(&table, kind, metric));
            server.query(&reql::index_wait(&table));
            let found = recall(&server, metric, &vectors, &queries, None);
            assert!(found >= 0.95, "{kind}, {metric}: recall@{K} is {found}");
            let filtered = recall(&server, metric, &vectors, &queries[..10], Some(1));
            assert!(filtered >= 0.95, "{kind}, {metric}: recall@{K} with a filter is {filtered}");
            println!("{kind}, {metric}: recall@{K} {found:.3}, with a filter {filtered:.3}");

            // What is written is found by the next search; what is gone is not.
            let moved = queries[0].clone();
            server.query(&reql::insert(&table, &[document(7, &moved), document(ROWS, &moved)], "soft"));
            server.query(&json!([54, [reql::get(&table, 8)]]));
            vectors.extend([(7, moved.clone()), (ROWS, moved.clone())]);
            vectors.remove(&8);
            let nearest: Vec<usize> = rows(&search(&server, &moved, None)).iter().map(|(id, _)| *id).collect();
            assert!([7, ROWS].iter().all(|id| nearest.contains(id)), "{kind}, {metric}: {nearest:?}");
            recall(&server, metric, &vectors, &queries[..10], None);
            server.query(&reql::insert(&table, &[document(8, &queries[1])], "soft"));
            vectors.insert(8, queries[1].clone());
            server.query(&reql::index_drop(&table, "v"));
        }
    }
}

#[test]
fn who_asks_for_what_cannot_be_is_told_what_can() {
    let place = place_with(&["distances", "hnsw", "ivf"]);
    let server = Server::start(&place);
    server.query(&reql::table_create("t"));
    let table = reql::table("t");
    let options = |kind: &str, metric: &str, options: Value| {
        let vector = json!({"type": kind, "dims": 3, "metric": metric, "metric_options": options});
        json!([75, [&table, "v"], {"vector": reql::literal(&vector)}])
    };
    for (term, parts) in [
        (
            create(&table, "hnsw", "hamming"),
            vec!["\"hamming\"", "cosine, l2, dot, jaccard, kl_divergence, weighted_cosine"],
        ),
        (create(&table, "hnsw", "kl_divergence"), vec!["`hnsw`", "symmetric", "`kl_divergence`", "`metric`"]),
        (create(&table, "ivf", "kl_divergence"), vec!["`ivf`", "symmetric", "`kl_divergence`", "`pq`"]),
        (
            options("hnsw", "weighted_cosine", json!({"weights": [1, 2]})),
            vec!["`distances`", "`weights`", "a list of 2"],
        ),
        (options("hnsw", "weighted_cosine", json!({})), vec!["`weights`", "as many numbers as `dims`"]),
        (options("hnsw", "jaccard", json!({"weights": [1, 2, 3]})), vec!["`weights`", "no options"]),
        (options("hnsw", "l2", json!({})), vec!["`metric_options`", "`l2`"]),
        (options("pq", "kl_divergence", json!({"epsilon": 0})), vec!["`epsilon`", "above 0"]),
    ] {
        let message = failure(&server, &term);
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    server.query(&options("pq", "kl_divergence", json!({"epsilon": 0.5})));
    server.query(&reql::insert(&table, &[json!({"id": 0, "v": [1, 2, 3]}), json!({"id": 1, "v": [1, -2, 3]})], "soft"));
    server.query(&reql::index_wait(&table));
    let message = failure(&server, &reql::nearest(&table, "v", &json!([1, 0, -1]), K));
    assert!(message.contains("`kl_divergence`") && message.contains("place"), "{message}");
    let found = rows(&server.query(&reql::nearest(&table, "v", &json!([1, 2, 3]), K)));
    assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0], "the other is no distribution");

    let status = &server.query(&json!([139, [table, "v"]]))[0];
    assert_eq!(
        status["vector"],
        json!({
            "type": "pq", "dims": 3, "metric": "kl_divergence", "metric_options": {"epsilon": 0.5},
        })
    );
    let distance = &status["vector_state"]["distance"];
    assert_eq!((&distance["plugin"], &distance["plugin_version"]), (&json!("distances"), &json!("0.1.0")), "{status}");
    assert_eq!((&distance["state"], &distance["rows_without_place"]), (&json!("ready"), &json!(1)), "{status}");
    assert_eq!(distance["traits"]["symmetric"], false, "{status}");
    let provides = server.query(&reql::get(&reql::system_table("plugins"), "distances"))["provides"].to_string();
    assert!(provides.contains("distance jaccard"), "{provides}");
}

#[test]
fn without_its_plugin_an_index_says_so_loses_nothing_and_comes_back() {
    for metric in ["jaccard", "weighted_cosine"] {
        let place = place_with(&["distances", "hnsw"]);
        let server = Server::start(&place);
        let (mut vectors, queries) = if metric == "jaccard" { sets() } else { shares() };
        let table = fill(&server, &vectors);
        server.query(&create(&table, "hnsw", metric));
        server.query(&reql::index_wait(&table));
        let before = search(&server, &queries[0], None);

        let killed = server.ready_plugin("distances");
        processes::send(Signal::SIGKILL, killed.pid());
        assert_eq!(rows(&search(&server, &queries[0], None)), rows(&before), "{metric}: after a kill");

        let refused = server.photondb(&["plugin", "unload", "distances"]);
        assert!(!refused.status.success() && refused.stderr.contains("test.t.v"), "{}", refused.stderr);
        assert!(server.photondb(&["plugin", "unload", "distances", "--force"]).status.success());
        assert_eq!(rows(&search(&server, &queries[0], None)), rows(&before), "{metric}: a search starts it again");

        assert!(server.photondb(&["plugin", "disable", "distances"]).status.success());
        let nearest = reql::nearest(&table, "v", &json!(queries[0]), K);
        let message = failure(&server, &nearest);
        let parts = ["`distances`", "disabled", "photondb plugin enable distances"];
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        let written = document(ROWS, &queries[0]);
        assert_eq!(server.query(&reql::insert(&table, &[written], "hard"))["inserted"], 1, "{metric}: a write");
        server.query(&json!([54, [reql::get(&table, rows(&before)[0].0)]]));
        vectors.insert(ROWS, queries[0].clone());
        vectors.remove(&rows(&before)[0].0);
        let state = &server.query(&json!([139, [&table, "v"]]))[0]["vector_state"];
        assert_eq!(
            (&state["state"], &state["distance"]["state"]),
            (&json!("unavailable"), &json!("unavailable")),
            "{state}"
        );

        // Another server finds it disabled no more, and all that was written.
        server.terminate();
        let server = Server::start(&place);
        let found = rows(&search(&server, &queries[0], None));
        assert_eq!(found[0].0, ROWS, "{metric}: {found:?}");
        server.query(&reql::index_wait(&table));
        assert!(recall(&server, metric, &vectors, &queries, None) >= 0.95, "{metric}");
        assert!(server.photondb(&["plugin", "disable", "distances"]).status.success());
        failure(&server, &nearest);
        assert!(server.photondb(&["plugin", "enable", "distances"]).status.success());
        assert_eq!(rows(&search(&server, &queries[0], None)), found, "{metric}: enabled again");
        assert!(server.photondb(&["plugin", "reload", "distances"]).status.success());
        assert_eq!(rows(&search(&server, &queries[0], None)), found, "{metric}: reloaded");
    }
}
