//! Values of plugins' types: through the official driver, in indexes, and without the plugin that made them.

use std::fs;

use photondb_tests::driver;
use photondb_tests::place::Place;
use photondb_tests::reql;
use photondb_tests::server::Server;
use serde_json::{Value, json};

fn decimal(text: &str) -> Value {
    json!({"$type$": "decimal", "value": text})
}

/// What is read, compared, sorted, grouped: the same with plugins and without.
fn look_at_what_is_stored(server: &Server<'_>) -> Value {
    let said = driver::run(server, "data_types", json!({"stage": "look"}));
    assert_eq!(said["get"], json!({"id": 0, "price": decimal("1.1"), "shop": 0, "nested": [{"deep": decimal("1.1")}]}));
    assert_eq!((&said["type"], &said["text"]), (&json!("PTYPE<DECIMAL>"), &json!("1.1")));
    assert_eq!(said["number"], 1.1);
    // -3, -0.25, 0, 0.1, 1.1 twice, 100, and the long one.
    let ascending = json!([1, 5, 7, 2, 0, 4, 3, 6]);
    assert_eq!(said["sorted_by_index"], ascending);
    let mut sorted: Vec<&Value> = said["sorted"].as_array().expect("ids").iter().collect();
    sorted[4..6].sort_by_key(|id| id.as_i64());
    assert_eq!(json!(sorted), ascending);
    assert_eq!(said["backwards"], json!([6, 3, 4, 0, 2, 7, 5, 1]));
    assert_eq!(said["by_document"], json!([0, 3, 4, 6]));
    assert_eq!(said["found_by_document"], 2);
    assert_eq!((&said["groups"], &said["distinct_by_index"]), (&json!(7), &json!(7)));
    let distinct = ["-3", "-0.25", "0", "0.1", "1.1", "100", "12345678901234567890.123456789"].map(decimal);
    assert_eq!(said["distinct"], json!(distinct));
    assert_eq!((&said["min"], &said["max"]), (&json!(1), &json!(6)));
    // Before a network stands what is before it, and within it the addresses of version 4 come before those of version 6.
    assert_eq!(said["hosts"], json!([3, 0, 1, 2, 4, 5]));
    assert_eq!(said["mixed"], json!(["NULL", "NUMBER", "PTYPE<DECIMAL>", "STRING"]));
    said
}

#[test]
fn decimals_and_networks_are_stored_compared_indexed_and_computed_with() {
    let place = Place::new();
    place.install("decimal");
    place.install("cidr");
    let server = Server::start(&place);
    let provides = server.query(&reql::get(&reql::system_table("plugins"), "decimal"))["provides"].to_string();
    assert!(provides.contains("data_type decimal") && provides.contains("function decimal_round"), "{provides}");

    let said = driver::run(&server, "data_types", json!({"stage": "write"}));
    for (key, expected) in [
        ("inserted", json!(8)),
        ("hosts", json!(6)),
        ("put_back", json!(1)),
        ("unchanged", json!(1)),
        ("made", decimal("0")),
        ("column", json!(["1.5", "2", "3"].map(decimal))),
        ("json", json!({"a": decimal("1.5")})),
        ("object", decimal("2")),
        ("computed", json!(["1", "2"].map(decimal))),
        ("arithmetic", json!(["0.3", "0.2", "0.3", "0.125"].map(decimal))),
        ("sum", decimal("12345678901234567989.173456789")),
        ("sum_of_field", decimal("-0.95")),
        ("avg", decimal("0.2")),
        ("numbers_sum", decimal("3.5")),
        ("over_a_number", json!([0, 3, 4, 6])),
        ("equal_to_a_number", json!([0, 4])),
        ("round", decimal("2.35")),
        ("contained", json!([0, 1, 2])),
        ("between_edges", json!([0, 1, 2])),
        ("by_key", json!({"id": decimal("2.5")})),
        ("keys", json!(["-1", "2.5", "10"].map(decimal))),
        ("dear", json!(10)),
        ("delete", json!(5)),
        ("left", json!([105, 106, 107, 108, 109])),
        ("many", json!(1000)),
        ("many_in_order", json!(true)),
        ("many_deleted", json!(1000)),
    ] {
        assert_eq!(said[key], expected, "{key}");
    }
    assert_eq!((&said["keyed"]["inserted"], &said["keyed"]["errors"]), (&json!(3), &json!(1)));
    assert_eq!(said["one_million"]["changes"][0]["new_val"]["price"], decimal("1000000"));
    mistakes_are_explained(&said);
    let seen = look_at_what_is_stored(&server);
    assert_eq!(seen["refused_insert"][0], "answered");
}

fn mistakes_are_explained(said: &Value) {
    let expected = [
        ("ReqlQueryLogicError", "\"twelve\" is no decimal"),
        ("ReqlQueryLogicError", "no others, but found `key`"),
        ("ReqlQueryLogicError", "needs the field `value`"),
        ("ReqlQueryLogicError", "must be the name of a type"),
        ("ReqlOpFailedError", "`no_such_type`"),
        ("ReqlOpFailedError", "`decimal_round`"),
        ("ReqlQueryLogicError", "too long"),
        ("ReqlQueryLogicError", "by zero"),
        ("ReqlQueryLogicError", "computed with numbers"),
        ("ReqlQueryLogicError", "no arithmetic"),
        ("ReqlQueryLogicError", "found [1]"),
        ("Reql", "literals of plugins' types"),
        ("ReqlQueryLogicError", "reserved for values of plugins' types"),
    ];
    let refused = said["refused"].as_array().expect("a list");
    assert_eq!(refused.len(), expected.len());
    for (refused, (class, text)) in refused.iter().zip(expected) {
        let (said_class, message) = (refused[0].as_str().unwrap_or_default(), refused[1].as_str().unwrap_or_default());
        assert!(said_class.starts_with(class) && message.contains(text), "{refused} is not {class} with {text}");
    }
}

#[test]
fn without_its_plugin_a_value_is_read_and_compared_but_not_made() {
    let place = Place::new();
    place.install("decimal");
    place.install("cidr");
    let server = Server::start(&place);
    driver::run(&server, "data_types", json!({"stage": "write"}));
    for name in ["decimal", "cidr"] {
        assert!(server.photondb(&["plugin", "disable", name]).status.success());
    }
    let check = |server: &Server<'_>, part: &str| {
        let said = look_at_what_is_stored(server);
        for refused in ["refused_insert", "refused_sum"] {
            let message = said[refused][1].as_str().unwrap_or_default();
            assert_eq!(said[refused][0], "ReqlOpFailedError", "{}", said[refused]);
            assert!(message.contains("type `decimal`") && message.contains(part), "{message}");
        }
    };
    check(&server, "plugin `decimal`");
    server.terminate();
    for name in ["decimal", "cidr"] {
        fs::remove_file(place.plugins().join(name)).expect("the link to the plugin");
    }
    let server = Server::start(&place);
    check(&server, "No plugin that runs here");
}
