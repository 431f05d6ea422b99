//! Rows that are computed beside the query's thread.

use super::*;

fn server(slots: usize) -> Server {
    let server = Server::new();
    server.double.slots.store(slots, Ordering::Relaxed);
    server
}

fn double(argument: &Value) -> Value {
    json!([1000, ["double", argument]])
}

fn doubled(count: u32) -> Value {
    Value::from((0..count).map(|number| number * 2).collect::<Vec<_>>())
}

/// A table `t` of `{id, x: id, text}`.
fn table(server: &Server, count: u32) -> Value {
    let table = json!([15, ["t"]]);
    server.value(&json!([60, ["t"]]));
    let document = function(json!({"id": [10, [1]], "x": [10, [1]], "text": "some text"}));
    server.value(&json!([56, [table, [38, [range(count), document]]], {"durability": "soft"}]));
    table
}

#[test]
fn order_is_kept_however_many_calls_fit() {
    for slots in [0, 1, 2, 3, 8] {
        let server = server(slots);
        let map = json!([38, [range(20_000), [11, ["plugin.double"]]]]);
        assert_eq!(server.value(&map), doubled(20_000), "{slots} slots");
        let batches = server.batches();
        assert_eq!((batches[0], batches.iter().sum::<usize>()), (16, 20_000), "{slots} slots: {batches:?}");
        assert!(batches.iter().all(|rows| *rows <= 1024), "{batches:?}");
    }
}

#[test]
fn no_more_is_computed_ahead_than_was_read() {
    let server = server(8);
    for (limit, most) in [(5, 16), (16, 16), (17, 48), (1000, 2016)] {
        let rows = json!([38, [range(1_000_000), [11, ["plugin.double"]]]]);
        assert_eq!(server.value(&json!([71, [rows, limit]])), doubled(limit));
        let computed: usize = server.batches().iter().sum();
        assert!(computed <= most, "{computed} rows for {limit}");
    }
}

#[test]
fn a_cursor_that_waits_holds_no_slot() {
    let server = server(8);
    let query = json!([1, [38, [range(100_000), [11, ["plugin.double"]]]], {"max_batch_rows": 3000}]);
    let request = parse::request(query.to_string().as_bytes()).unwrap();
    let Ok(Answer::Stream(mut cursor)) = server.engine.run(request, &Arc::default()) else { panic!("a stream") };
    for _ in 0..10 {
        cursor.next_response();
        assert_eq!(server.double.taken.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn what_is_lost_with_a_process_is_computed_again() {
    for lost in [1, 3, 100] {
        let server = server(4);
        server.double.lost.store(lost, Ordering::Relaxed);
        let map = json!([38, [range(5000), function(double(&double(&json!([10, [1]]))))]]);
        let expected: Vec<u32> = (0..5000).map(|number| number * 4).collect();
        assert_eq!(server.value(&map), Value::from(expected));
    }
}

#[test]
fn an_error_comes_at_its_row_and_the_rows_before_it_come_first() {
    for at in [0, 15, 16, 4000, 9_999] {
        let server = server(8);
        let row = json!([65, [[17, [[10, [1]], at]], "text", [10, [1]]]]);
        let map = json!([38, [[38, [range(10_000), function(row)]], [11, ["plugin.double"]]]]);
        let responses = server.responses(&map);
        let rows: Vec<Value> =
            responses.iter().filter(|r| r["t"] == 3).flat_map(|r| r["r"].as_array().unwrap().clone()).collect();
        assert_eq!(Value::from(rows), doubled(at));
        let last = responses.last().unwrap();
        assert_eq!((&last["t"], &last["r"][0]), (&json!(18), &json!("plugin `double`: not a number")));
    }
}

#[test]
fn fields_of_documents_are_passed_as_they_are_stored() {
    let server = server(8);
    let table = table(&server, 3000);
    let of_x = function(double(&json!([170, [[10, [1]], "x"]])));
    let total = 2 * (0..3000).sum::<u32>();
    assert_eq!(server.value(&json!([145, [table, of_x]])), total);
    assert!(server.batches().len() < 20);
    let kept = json!([39, [table, function(json!([21, [double(&json!([31, [[10, [1]], "x"]])), 100]]))]]);
    assert_eq!(server.value(&json!([43, [kept]])), 2949);
    let remainder = function(json!([28, [double(&json!([170, [[10, [1]], "x"]])), 4]]));
    let groups = server.value(&json!([43, [[144, [table, remainder]]]]));
    assert_eq!(groups["data"], json!([[0, 1500], [2, 1500]]));
    let first = json!([71, [[41, [table, [74, [of_x]]]], 1]]);
    assert_eq!(server.value(&first), json!([{"id": 2999, "x": 2999, "text": "some text"}]));
}

#[test]
fn a_document_is_whole_wherever_all_of_it_is_used() {
    let server = server(8);
    let table = table(&server, 40);
    let document = json!({"id": 7, "x": 7, "text": "some text"});
    assert_eq!(server.value(&json!([39, [table, {"id": 7}]])), json!([document]));
    let merged =
        json!([38, [[39, [table, {"id": 7}]], function(json!([35, [[10, [1]], {"x": [170, [[10, [1]], "id"]]}]]))]]);
    assert_eq!(server.value(&merged), json!([document]));
    let (message, backtrace) = server.error(&json!([43, [[38, [table, function(json!([170, [[10, [1]], "y"]]))]]]]));
    assert!(message.starts_with("No attribute `y` in object:\n{"), "{message}");
    assert_eq!(backtrace, json!([0, 1, 1]));
    let (message, _) =
        server.error(&json!([43, [[38, [table, function(json!([170, [[170, [[10, [1]], "x"]], "y"]]))]]]]));
    assert!(message.starts_with("Cannot perform bracket on a non-object"), "{message}");
}
