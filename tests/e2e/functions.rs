//! Query functions of a plugin, over many rows.

use photondb_tests::driver;
use photondb_tests::place::Place;
use photondb_tests::reql;
use photondb_tests::server::Server;
use serde_json::{Value, json};

const ROWS: usize = 100_000;

/// Numbers of very different sizes, none of them half-way between two that have three digits.
fn number(row: usize) -> f64 {
    (row as f64 + 0.123_456_7) * [0.001, 1.0, 7_919.0][row % 3]
}

/// Whether `rounded` is `number` to so many significant digits.
fn is_approx(rounded: f64, number: f64, digits: usize) -> bool {
    format!("{number:.*e}", digits - 1)
        .parse::<f64>()
        .is_ok_and(|expected| (rounded - expected).abs() <= expected.abs() * 1e-12)
}

fn check(what: &str, results: &Value, number: impl Fn(usize) -> f64, digits: usize) {
    let results = results.as_array().unwrap_or_else(|| panic!("{what} gave {results}"));
    assert_eq!(results.len(), ROWS, "{what}");
    for (row, result) in results.iter().enumerate() {
        let (result, number) = (result.as_f64().expect("a number"), number(row));
        assert!(is_approx(result, number, digits), "{what}, row {row}: {number} became {result}");
    }
}

#[test]
fn functions_give_right_values_over_many_rows() {
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    server.query(&reql::table_create("numbers"));
    let rows: Vec<Value> = (0..ROWS).map(|row| json!({"id": row, "x": number(row)})).collect();
    for documents in rows.chunks(5000) {
        server.query(&reql::insert(&reql::table("numbers"), documents, "soft"));
    }
    let said = driver::run(&server, "functions", json!({"count": ROWS}));

    // Without a number of digits: what the manual of the plugin says.
    const DEFAULT_DIGITS: usize = 3;
    check("map", &said["map"], number, DEFAULT_DIGITS);
    check("do", &said["do"], number, 3);
    assert_eq!(said["streamed"], said["do"]);
    assert_eq!(said["term"], said["do"]);
    let range = said["range"].as_array().expect("numbers");
    assert!(
        range.len() == ROWS
            && range[..1000].iter().enumerate().all(|(row, result)| result.as_f64() == Some(row as f64))
    );

    let in_filter = (0..ROWS).filter(|row| (95_000.0..150_000.0).contains(&number(*row))).count();
    assert_eq!(said["in_filter"], in_filter);
    let new = &said["in_update"]["changes"][0]["new_val"];
    assert!(new["rounded"].as_f64().is_some_and(|rounded| is_approx(rounded, number(7), 2)), "{new}");
    for (key, expected) in [
        ("one", json!(120)),
        ("array", json!([1.3, 120])),
        ("quantile", json!(3)),
        ("zscore", json!(1)),
        ("mean", json!(3)),
        ("default", json!("nothing")),
    ] {
        assert_eq!(said[key].to_string(), expected.to_string(), "{key}");
    }
    mistakes_name_the_function(&said);

    let status = server.plugin("stats");
    assert!(status.calls > 0 && status.bytes_shared > 0 && status.restarts == 0, "{status:?}");
}

fn mistakes_name_the_function(said: &Value) {
    let expected = [
        ("ReqlQueryLogicError", "approx"),
        ("ReqlQueryLogicError", "plugin.approx expects between 1 and 2 arguments but found 4."),
        ("ReqlQueryLogicError", "no_such_function"),
        ("ReqlQueryLogicError", "r.js(\"plugin.NAME\")"),
        ("ReqlNonExistenceError", "approx"),
    ];
    let refused = said["refused"].as_array().expect("a list");
    for (mistake, (class, text)) in
        refused.iter().chain([&said["term_error"]]).zip(expected.into_iter().chain([expected[0]]))
    {
        let message = mistake[1].as_str().unwrap_or_default();
        assert!(mistake[0] == class && message.contains(text), "{mistake} is not {class} with {text}");
    }
}

/// A message of one column of numbers: 128 bytes in front of them, either way.
const AROUND_NUMBERS: u64 = 128;

#[test]
fn the_counters_say_how_many_bytes_were_shared_and_copied() {
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    let bytes = || {
        let status = server.plugin("stats");
        (status.bytes_shared, status.bytes_copied)
    };
    assert_eq!(bytes(), (0, 0));
    server.query(&reql::call("sigmoid", &[json!(1)]));
    let one = AROUND_NUMBERS + 8;
    assert_eq!(bytes(), (one, one));

    // So many go in one message.
    server.query(&reql::to_array(&reql::map(&reql::range(16), &reql::function("sigmoid"))));
    let sixteen = AROUND_NUMBERS + 16 * 8;
    assert_eq!(bytes(), (one + sixteen, one + sixteen));

    // In how many messages is a matter of time; each has at most 1024 rows.
    const NUMBERS: u64 = 50_000;
    server.query(&reql::to_array(&reql::map(&reql::range(NUMBERS as usize), &reql::function("sigmoid"))));
    let (shared, copied) = bytes();
    assert_eq!(shared, copied);
    let around = shared - one - sixteen - NUMBERS * 8;
    let messages = around / AROUND_NUMBERS;
    assert!(around.is_multiple_of(AROUND_NUMBERS) && (48..=NUMBERS / 16).contains(&messages), "{around}");

    // Three columns in, each from a multiple of 64 on; one out.
    let (before_shared, before_copied) = bytes();
    server.query(&reql::call("clamp", &[json!(5), json!(1), json!(9)]));
    assert_eq!(bytes(), (before_shared + 192 + 64 + 64 + 8, before_copied + one));
}

#[test]
fn aggregates_are_of_all_rows_and_of_each_group() {
    const ROWS: usize = 60_000;
    let place = Place::new();
    place.install("sketch");
    let server = Server::start(&place);
    let reduce = |sequence: &Value, name: &str| json!([37, [sequence, reql::function(name)]]);
    // 60,000 numbers, of which 1,000 are different.
    let thousand = |number: Value| json!([28, [number, 1000]]);
    let numbers = reql::map(&reql::range(ROWS), &json!([69, [[2, [1]], thousand(json!([10, [1]]))]]));
    let about = |found: &Value, expected: f64| {
        let found = found.as_f64().expect("a number");
        assert!((found / expected - 1.0).abs() < 0.05, "{found} is not about {expected}");
    };
    about(&server.query(&reduce(&numbers, "distinct_count")), 1000.0);
    let median = json!([64, [reql::function("tdigest_quantile"), reduce(&reql::range(ROWS), "tdigest"), 0.5]]);
    about(&server.query(&median), ROWS as f64 / 2.0);
    assert_eq!(server.query(&reduce(&reql::range(0), "distinct_count")), json!(0));

    // One aggregate a group: numbers that are even, and those that are not.
    let parity = json!([69, [[2, [2]], [28, [[10, [2]], 2]]]]);
    let groups = server.query(&reduce(&json!([144, [numbers, parity]]), "distinct_count"));
    let groups = groups["data"].as_array().expect("groups");
    assert_eq!(groups.len(), 2);
    groups.iter().for_each(|group| about(&group[1], 500.0));

    let mut client = server.connect();
    let mut refused = |term: &Value| reql::run(&mut client, term).expect_err("a mistake").to_string();
    let row_by_row = reql::to_array(&reql::map(&reql::range(3), &reql::function("hll")));
    assert!(refused(&row_by_row).contains("reduce(r.js(\"plugin.hll\"))"));
    let words = json!([2, ["a", "b"]]);
    assert!(refused(&reduce(&words, "tdigest")).contains("takes numbers, but found STRING"));
    let provides = server.query(&reql::get(&reql::system_table("plugins"), "sketch"));
    assert!(provides["provides"].to_string().contains("aggregate hll"), "{provides}");
}
