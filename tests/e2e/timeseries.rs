//! Tables whose documents go by themselves, or become fewer: their index entries and counts with them.

use nix::sys::signal::Signal;
use photondb_tests::place::Place;
use photondb_tests::reql::{self, Failure};
use photondb_tests::server::Server;
use photondb_tests::{processes, wait};
use serde_json::{Value, json};

/// Far enough from now that nothing becomes old while a test runs.
const HOUR: u64 = 3_600;

fn place() -> Place {
    let place = Place::new();
    place.install("timeseries");
    place
}

fn start(place: &Place) -> Server<'_> {
    let file =
        place.write("etc/photondb.toml", "[plugins]\nupkeep = \"20ms\"\n[plugins.grants.timeseries]\nstate = true\n");
    Server::start_with(place, &["--config", &file.display().to_string()])
}

fn create(server: &Server<'_>, options: Value) -> Value {
    server.query(&json!([60, [[14, ["test"]], "data"], {"engine": "timeseries", "options": reql::literal(&options)}]));
    let table = reql::table("data");
    server.query(&reql::index_create(&table, "sensor"));
    server.query(&reql::index_wait(&table));
    table
}

fn insert(server: &Server<'_>, documents: &[Value]) {
    for part in documents.chunks(1_000) {
        let part: Vec<Value> = part.iter().map(reql::literal).collect();
        server.query(&reql::insert(&reql::table("data"), &part, "soft"));
    }
}

fn count(server: &Server<'_>) -> u64 {
    server.query(&reql::count(&reql::table("data"))).as_u64().expect("a number")
}

fn by_index(server: &Server<'_>, sensor: &str) -> u64 {
    let found = json!([78, [reql::table("data"), sensor], {"index": "sensor"}]);
    server.query(&reql::count(&found)).as_u64().expect("a number")
}

fn engine(server: &Server<'_>) -> Value {
    server.query(&json!([175, [reql::table("data")]]))["engine"].clone()
}

/// The present hour's beginning, in seconds.
fn this_hour() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
    since.as_secs() / HOUR * HOUR
}

#[test]
fn old_documents_go_with_their_index_entries() {
    let place = place();
    let server = start(&place);
    let table = create(&server, json!({"retention": "12h", "series": "sensor", "chunk_rows": 256}));
    let now = this_hour();
    let document = |number: u64, at: u64| {
        let sensor = if number.is_multiple_of(2) { "a" } else { "b" };
        json!({"id": number, "sensor": sensor, "value": number,
               "time": {"$reql_type$": "TIME", "epoch_time": at, "timezone": "+00:00"}})
    };
    // One an hour ago, one a day ago, and so on.
    let documents: Vec<Value> =
        (0..3_000).map(|number| document(number, now - HOUR * if number % 4 == 0 { 24 } else { 1 })).collect();
    insert(&server, &documents);
    wait::until_true("a quarter of the documents is gone", || count(&server) == 2_250);
    assert_eq!((by_index(&server, "a"), by_index(&server, "b")), (750, 1_500));
    assert_eq!(server.query(&reql::get(&table, 4)), Value::Null);
    assert_eq!(server.query(&reql::get(&table, 5))["value"], 5);
    let upkeep = engine(&server)["upkeep"].clone();
    assert_eq!((&upkeep["removed"], &upkeep["problem"]), (&json!(750), &Value::Null), "{upkeep}");
    // A process that ends is asked again.
    processes::send(Signal::SIGKILL, server.ready_plugin("timeseries").pid());
    insert(&server, &[document(10_000, now - HOUR * 48), document(10_001, now)]);
    wait::until_true("the late one is gone", || server.query(&reql::get(&table, 10_000)) == Value::Null);
    assert_eq!(server.query(&reql::get(&table, 10_001))["value"], 10_001);
}

#[test]
fn the_oldest_go_when_there_are_too_many_bytes_and_the_rest_is_compressed() {
    let place = place();
    let server = start(&place);
    create(&server, json!({"max_bytes": "40KiB", "chunk_rows": 256}));
    let document = |number: u64| json!({"id": number, "sensor": "a", "time": number, "value": number * 2_654_435_761 % 4_294_967_291});
    insert(&server, &(0..20_000).map(document).collect::<Vec<_>>());
    let statistics = wait::until("few enough bytes are left", || {
        let statistics = engine(&server)["statistics"].clone();
        (statistics["packed_bytes"].as_u64()? < 60 << 10 && count(&server) < 20_000).then_some(statistics)
    });
    assert!(statistics["compression"].as_f64().expect("a ratio") > 3.0, "{statistics}");
    // What is left are the youngest, and no others, whatever was removed in the meantime.
    let removed = || engine(&server)["upkeep"]["removed"].as_u64().expect("a number");
    let (left, oldest) = wait::until("nothing is being removed", || {
        let before = removed();
        let left = count(&server);
        let oldest = server.query(&json!([147, [reql::table("data")], {"index": "id"}]))["id"].as_u64();
        (before == removed()).then_some((left, oldest.expect("a number")))
    });
    assert_eq!(left, 20_000 - oldest);
    assert_eq!(by_index(&server, "a"), left);
    assert!((1_000..19_000).contains(&left), "{left}");
}

#[test]
fn older_documents_become_summaries() {
    let place = place();
    let server = start(&place);
    let rules = json!([{"after": "1d", "every": "1h"}]);
    let table = create(&server, json!({"series": "sensor", "downsample": rules}));
    let (now, old) = (this_hour(), this_hour() - 30 * HOUR);
    let document =
        |sensor: &str, at: u64, value: u64| json!({"id": [sensor, at], "sensor": sensor, "time": at, "value": value});
    // Two old hours of two sensors, one document a second of one and a few of the other; and young ones.
    let mut documents: Vec<Value> = (0..2 * HOUR).map(|second| document("a", old + second, second % 4)).collect();
    documents.extend([10, 20, 60].map(|second| document("b", old + second, second)));
    documents.extend((0..100).map(|second| document("a", now + second, second)));
    insert(&server, &documents);
    wait::until_true("old ones are summed up", || count(&server) == 103);
    let summary = |sensor: &str, at: u64| server.query(&reql::get(&table, reql::literal(&json!([sensor, at, HOUR]))));
    for hour in [old, old + HOUR] {
        let expected = json!({"id": ["a", hour, HOUR], "sensor": "a", "time": hour, "downsampled": HOUR,
            "downsampled.count": HOUR, "value": 1.5, "value.min": 0, "value.max": 3, "value.count": HOUR});
        assert_eq!(summary("a", hour), expected);
    }
    assert_eq!(summary("b", old)["value"], 30);
    assert_eq!((by_index(&server, "a"), by_index(&server, "b")), (102, 1));
    // One that comes late.
    insert(&server, &[document("b", old + 61, 110)]);
    wait::until_true("the late one is summed up", || summary("b", old)["value"] == 50);
    assert_eq!((count(&server), summary("b", old)["value.count"].clone()), (103, json!(4)));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let place = place();
    let server = start(&place);
    let term = json!([60, [[14, ["test"]], "data"], {"engine": "timeseries", "options": {"retention": "soon"}}]);
    match reql::run(&mut server.connect(), &term) {
        Err(Failure::Answered(_, message)) => {
            assert!(message.contains("`retention` is \"soon\"; it must be a time as \"90s\""), "{message}");
        }
        other => panic!("an error was expected: {other:?}"),
    }
}
