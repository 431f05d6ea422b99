use serde_json::{Value, json};

use super::super::{compile, parse};
use super::*;

fn function(term: &Value) -> Function {
    let text = json!([69, [[2, [1]], term]]).to_string();
    match compile::query(parse::term(text.as_bytes()).expect("a term")).expect("compiles") {
        Node::Function(term) => Function::Closure { term, around: None },
        other => panic!("no function: {other:?}"),
    }
}

fn field(name: &str) -> Value {
    json!([170, [[10, [1]], name]])
}

fn told(term: &Value) -> String {
    let scan = Scan::default();
    scan.filtered(&function(term), &Missing::Value(false));
    scan.used(Fields::default());
    describe(&scan.selection()) + if scan.lock().is_closed { ", and more" } else { "" }
}

#[test]
fn comparisons_of_fields_with_constants_become_ranges() {
    for (term, expected) in [
        (json!([21, [field("a"), 5]]), "fields `a` where `a` > 5"),
        (json!([21, [5, field("a")]]), "fields `a` where `a` < 5"),
        (json!([20, [field("a"), "x"]]), "fields `a` where `a` <= \"x\""),
        (json!([17, [field("a"), null]]), "fields `a` where `a` = null"),
        (json!([18, [field("a"), 5]]), "fields `a` where `a` is there"),
        (
            json!([67, [[22, [field("a"), 1]], [67, [[19, [field("a"), 2]], [17, [true, field("b")]]]]]]),
            "fields `a`, `b` where `a` >= 1 and `a` < 2 and `b` = true",
        ),
        (json!({"a": 1, "b": {"c": 2}}), "fields `a`, `b` where `a` = 1 and `b` is there"),
    ] {
        assert_eq!(told(&term), expected, "{term}");
    }
}

#[test]
fn behind_what_may_fail_nothing_becomes_a_range() {
    let fails = json!([21, [[27, [1, field("c")]], 0]]);
    for (term, expected) in [
        (
            json!([67, [[21, [field("a"), 5]], fails, [21, [field("b"), 5]]]]),
            "fields `a`, `c`, `b` where `a` > 5, and more",
        ),
        (json!([67, [fails, [21, [field("a"), 5]]]]), "fields `c`, `a`, and more"),
        (json!([66, [[21, [field("a"), 5]], [21, [field("b"), 5]]]]), "fields `a`, `b`, and more"),
        (json!([21, [field("a"), field("b")]]), "fields `a`, `b`, and more"),
        (json!([21, [field("a"), [2, [1]]]]), "fields `a`, and more"),
        (json!([21, [field("a"), 1, 0]]), "fields `a`, and more"),
        (json!([21, [[170, [field("a"), "b"]], 5]]), "fields `a`, and more"),
        (json!([32, [[10, [1]], "a"]]), "all fields, and more"),
        (json!({"a": 1, "b": [24, [field("c"), 1]]}), "fields `c`, `a`, `b`, and more"),
    ] {
        assert_eq!(told(&term), expected, "{term}");
    }
    let scan = Scan::default();
    scan.filtered(&function(&fails), &Missing::Value(false));
    scan.filtered(&function(&json!([21, [field("a"), 5]])), &Missing::Value(false));
    scan.used_where_present(&"x".into());
    assert_eq!(describe(&scan.selection()), "fields `x`, `c`, `a`");
}

#[test]
fn another_default_or_a_count_on_the_way_leaves_nothing_out() {
    let greater = function(&json!([21, [field("a"), 5]]));
    for missing in [Missing::Value(true), Missing::Raise] {
        let scan = Scan::default();
        scan.filtered(&greater, &missing);
        assert_eq!(describe(&scan.selection()), "all fields");
    }
    let scan = Scan::default();
    scan.counted_out();
    scan.filtered(&greater, &Missing::Value(false));
    scan.used(Fields::default());
    assert_eq!(describe(&scan.selection()), "fields `a`");
}
