//! Queries of plugins: every way to a table passes through what was granted, and what a query may use up is bounded.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::*;
use crate::query::access::Scope;
use crate::query::error::{ErrorKind, ReqlError};
use crate::query::nested::{Calling, MAX_RESULT, Origin};

/// The table `granted` and the table `secret`, with an index `by_v` and the documents `{id: 1, v: 10}` and so on.
fn server() -> Server {
    let server = Server::new();
    server.value(&json!([57, ["test"]]));
    server.value(&json!([57, ["other"]]));
    for table in [json!([60, ["granted"]]), json!([60, ["secret"]]), json!([60, [[14, ["other"]], "granted"]])] {
        server.value(&table);
    }
    for name in ["granted", "secret"] {
        let documents = json!([2, [{"id": 1, "v": 10}, {"id": 2, "v": 20}, {"id": 3, "v": 30}]]);
        server.value(&json!([56, [table(name), documents]]));
        server.value(&json!([75, [table(name), "by_v", function(field(json!([10, [1]]), "v"))]]));
        server.value(&json!([140, [table(name)]]));
    }
    server
}

fn table(name: &str) -> Value {
    json!([15, [[14, ["test"]], name]])
}

fn field(of: Value, name: &str) -> Value {
    json!([170, [of, name]])
}

fn calling(deadline: Instant) -> Arc<Calling> {
    Arc::new(Calling::new(1, 0, &Origin::until(deadline)))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

impl Server {
    fn nested(&self, grants: &[&str], term: &Value) -> Result<Value, ReqlError> {
        self.nested_in(grants, term, &calling(soon()))
    }

    fn nested_in(&self, grants: &[&str], term: &Value, calling: &Arc<Calling>) -> Result<Value, ReqlError> {
        let scope = Scope::new("geo", grants.iter().map(|grant| grant.parse().unwrap()).collect());
        let result = self.engine.run_nested(term.to_string().as_bytes(), &Arc::new(scope), calling)?;
        Ok(serde_json::from_str(&Datum::decode(&result).unwrap().to_json_string()).unwrap())
    }

    /// The term has to be refused for want of `grant`.
    fn refuses(&self, grants: &[&str], term: &Value, grant: &str) {
        let error = self.nested(grants, term).expect_err(&term.to_string());
        assert_eq!(error.kind(), ErrorKind::Permission, "{term}: {error}");
        assert!(error.message().contains(&format!("\"{grant}\"")), "{term}: {error}");
    }

    /// No grant allows the term.
    fn refuses_always(&self, term: &Value) {
        let all = ["read:test.*", "write:test.*", "read:other.*", "write:other.*"];
        let error = self.nested(&all, term).expect_err(&term.to_string());
        assert_eq!(error.kind(), ErrorKind::Permission, "{term}: {error}");
        assert!(error.message().contains("no grant allows that"), "{term}: {error}");
    }
}

const READ: &[&str] = &["read:test.granted"];
const WRITE: &[&str] = &["write:test.granted"];
const BOTH: &[&str] = &["read:test.granted", "write:test.granted"];

/// Terms that read the table that they are given.
fn reads(of: &Value) -> Vec<Value> {
    let row = json!([10, [1]]);
    vec![
        of.clone(),
        json!([43, [of]]),
        json!([16, [of, 1]]),
        json!([78, [of, 1, 2]]),
        json!([78, [of, 20], {"index": "by_v"}]),
        json!([182, [of, 1, 3]]),
        json!([182, [of, 15, 25], {"index": "by_v"}]),
        json!([182, [of, 3, 1]]),
        json!([41, [of], {"index": "by_v"}]),
        json!([41, [of, "v"]]),
        json!([41, [of, "v"], {"index": "by_v"}]),
        json!([39, [of, function(json!([21, [field(row.clone(), "v"), 15]]))]]),
        json!([38, [of, function(row.clone())]]),
        json!([42, [of], {"index": "by_v"}]),
        json!([42, [of]]),
        json!([147, [of], {"index": "by_v"}]),
        json!([144, [of], {"index": "by_v"}]),
        json!([48, [[2, [1]], of, [69, [[2, [1, 2]], true]]]]),
        json!([50, [[2, [{"k": 1}]], "k", of]]),
        json!([50, [[2, [{"k": 10}]], "k", of], {"index": "by_v"}]),
        json!([38, [[2, [1, 2]], function(json!([16, [of, row]]))]]),
        json!([64, [[69, [[2, [2]], [16, [of, [10, [2]]]]]], 1]]),
        json!([65, [true, [43, [of]], 0]]),
        json!([92, [[16, [of, 1]], "nothing"]]),
        json!([44, [of, [2, [1]]]]),
        json!([44, [of, of], {"interleave": "id"}]),
        json!([51, [of, "array"]]),
        json!([52, [[16, [of, 1]]]]),
        json!([79, [of]]),
        json!([77, [of]]),
        json!([139, [of]]),
        json!([140, [of]]),
        json!([140, [of, "by_v"]]),
        json!([86, [of]]),
        json!([81, [of, 1]]),
        json!([45, [of, 0]]),
        json!([45, [of, -1]]),
        json!([71, [of, 1]]),
        json!([93, [of, {"id": 1}]]),
        json!([87, [of, function(json!(true))]]),
        json!([96, [of, "v"]]),
        json!([187, [of, 0, [69, [[2, [1, 2]], [10, [1]]]]]]),
        json!({"inside": [43, [of]]}),
        json!([2, [1, [43, [of]]]]),
        json!([168, [of, [2, [1]]], {"index": "by_v"}]),
    ]
}

#[test]
fn a_granted_table_can_be_read_in_every_way() {
    let server = server();
    for term in reads(&table("granted")) {
        if let Err(error) = server.nested(READ, &term) {
            assert_ne!(error.kind(), ErrorKind::Permission, "{term}: {error}");
        }
    }
    assert_eq!(server.nested(READ, &json!([16, [table("granted"), 2]])).unwrap(), json!({"id": 2, "v": 20}));
    assert_eq!(server.nested(READ, &json!([43, [table("granted")]])).unwrap(), 3);
    assert_eq!(server.nested(&["read:test.*"], &json!([43, [table("secret")]])).unwrap(), 3);
}

#[test]
fn no_way_of_reading_leads_to_another_table() {
    let server = server();
    for term in reads(&table("secret")) {
        server.refuses(BOTH, &term, "read:test.secret");
    }
    for term in reads(&table("granted")) {
        server.refuses(WRITE, &term, "read:test.granted");
    }
}

#[test]
fn a_tables_name_is_checked_however_it_is_found() {
    let server = server();
    let secret = "read:test.secret";
    let row = json!([10, [1]]);
    // Computed, from a document, spliced, without a database, by way of a function's argument.
    let computed = json!([24, ["sec", "ret"]]);
    server.refuses(BOTH, &json!([43, [[15, [[14, ["test"]], computed]]]]), secret);
    server.refuses(BOTH, &json!([43, [[15, [[14, [[24, ["te", "st"]]]], "secret"]]]]), secret);
    server.refuses(BOTH, &json!([43, [[15, ["secret"]]]]), secret);
    server.refuses(BOTH, &json!([43, [[15, [[154, [[2, ["secret"]]]]]]]]), secret);
    server.refuses(BOTH, &json!([38, [[2, ["granted", "secret"]], function(json!([43, [[15, [row]]]]))]]), secret);
    server.refuses(BOTH, &json!([38, [table("granted"), function(json!([43, [table("secret")]]))]]), secret);
    server.refuses(BOTH, &json!([92, [[43, [table("secret")]], 0]]), secret);
    server.refuses(BOTH, &json!([15, ["secret"], {"identifier_format": "uuid"}]), secret);
    server.refuses(BOTH, &json!([15, ["secret"], {"read_mode": "outdated"}]), secret);
    server.refuses(&["read:other.*"], &json!([43, [[15, ["granted"]]]]), "read:test.granted");
    server.refuses(&["read:test.*"], &json!([43, [[15, [[14, ["other"]], "granted"]]]]), "read:other.*");
    // Whether something exists can't be found out either.
    for name in ["secret", "no_such_table"] {
        server.refuses(READ, &json!([15, [name]]), &format!("read:test.{name}"));
    }
    for name in ["other", "no_such_database"] {
        server.refuses(READ, &json!([79, [[14, [name]]]]), &format!("read:{name}.*"));
    }
}

#[test]
fn a_sequence_of_a_granted_table_writes_no_other() {
    let server = server();
    let into_secret = json!([56, [table("secret"), {"id": 9}]]);
    let each = |body: Value| json!([68, [table("granted"), function(body)]]);
    server.refuses(BOTH, &into_secret, "write:test.secret");
    server.refuses(BOTH, &each(into_secret.clone()), "write:test.secret");
    server.refuses(BOTH, &json!([56, [table("secret"), table("granted")]]), "write:test.secret");
    server.refuses(BOTH, &json!([56, [table("granted"), table("secret")]]), "read:test.secret");
    server.refuses(BOTH, &json!([64, [function(into_secret), 1]]), "write:test.secret");
    server.refuses(READ, &json!([54, [[16, [table("granted"), 1]]]]), "write:test.granted");
    server.refuses(READ, &each(json!([54, [[16, [table("granted"), 1]]]])), "write:test.granted");
    for change in [53, 55] {
        server.refuses(READ, &json!([change, [table("granted"), {"v": 1}]]), "write:test.granted");
        server.refuses(WRITE, &json!([change, [[16, [table("granted"), 1]], {"id": 1, "v": 1}]]), "read:test.granted");
    }
    assert_eq!(server.value(&json!([43, [table("secret")]])), 3);
    assert_eq!(server.value(&json!([43, [table("granted")]])), 3);
}

#[test]
fn writing_alone_shows_nothing_of_what_is_there() {
    let server = server();
    let insert = |document: Value, options: Value| json!([56, [table("granted"), document], options]);
    let inserted = server.nested(WRITE, &insert(json!({"id": 4, "v": 40}), json!({}))).unwrap();
    assert_eq!(inserted["inserted"], 1);
    let taken = server.nested(WRITE, &insert(json!({"id": 1, "v": 99}), json!({}))).unwrap();
    assert_eq!(taken["errors"], 1);
    assert!(!taken.to_string().contains("10"), "{taken}");
    // Whether a guess at the document was right is not told.
    for v in [10, 11] {
        let replaced = server.nested(WRITE, &insert(json!({"id": 1, "v": v}), json!({"conflict": "replace"}))).unwrap();
        assert_eq!((&replaced["replaced"], &replaced["unchanged"]), (&json!(1), &json!(0)));
    }
    let merge = json!([69, [[2, [1, 2, 3]], [10, [2]]]]);
    for options in [
        json!({"conflict": "update"}),
        json!({"conflict": merge}),
        json!({"return_changes": true}),
        json!({"return_changes": "always"}),
    ] {
        let term = insert(json!({"id": 1, "v": 1}), options);
        server.refuses(WRITE, &term, "read:test.granted");
        assert!(server.nested(BOTH, &term).is_ok(), "{term}");
    }
    let one = json!([16, [table("granted"), 2]]);
    server.refuses(WRITE, &json!([54, [one], {"return_changes": true}]), "read:test.granted");
    server.refuses(WRITE, &json!([54, [[78, [table("granted"), 2]]]]), "read:test.granted");
    server.refuses(WRITE, &json!([54, [table("granted")]]), "read:test.granted");
    assert_eq!(server.nested(WRITE, &json!([54, [one]])).unwrap()["deleted"], 1);
    assert_eq!(server.nested(BOTH, &json!([54, [table("granted")]])).unwrap()["deleted"], 3);
}

#[test]
fn nothing_is_administered() {
    let server = server();
    let (of, db) = (table("granted"), json!([14, ["test"]]));
    let system = json!([15, [[14, ["rethinkdb"]], "users"]]);
    for term in [
        json!([57, ["more"]]),
        json!([58, ["test"]]),
        json!([59, []]),
        json!([60, ["more"]]),
        json!([60, [db, "more"]]),
        json!([61, ["granted"]]),
        json!([61, [db, "granted"]]),
        json!([62, []]),
        json!([62, [db]]),
        json!([174, [of]]),
        json!([174, [db]]),
        json!([175, [of]]),
        json!([176, [of], {"shards": 1, "replicas": 1}]),
        json!([176, [db], {"shards": 1, "replicas": 1}]),
        json!([177, [of]]),
        json!([177, [db]]),
        json!([179, [of]]),
        json!([138, [of]]),
        json!([152, [of]]),
        json!([152, [[16, [of, 1]]]]),
        json!([75, [of, "more"]]),
        json!([76, [of, "by_v"]]),
        json!([156, [of, "by_v", "by_w"]]),
        json!([14, ["rethinkdb"]]),
        system,
        json!([62, [[14, ["rethinkdb"]]]]),
        json!([68, [[2, ["a"]], function(json!([60, [[10, [1]]]]))]]),
    ] {
        server.refuses_always(&term);
    }
    assert_eq!(server.value(&json!([62, [db]])), json!(["granted", "secret"]));
    assert_eq!(server.value(&json!([77, [of]])), json!(["by_v"]));
}

#[test]
fn every_term_that_writes_is_refused_to_a_query_without_grants() {
    // Whatever a term's arguments: none of them may reach the store. Their types are wrong for most terms, on purpose.
    let server = server();
    let arguments = [
        json!([]),
        json!([table("granted")]),
        json!([[14, ["test"]], "x"]),
        json!(["test"]),
        json!([table("granted"), {"id": 7}]),
    ];
    for number in (0..200).filter(|number| terms::find(*number).is_some_and(|op| op.is(terms::Op::WRITES))) {
        for arguments in &arguments {
            let outcome = server.nested(&["read:nowhere.nothing"], &json!([number, arguments]));
            assert!(outcome.is_err(), "{number} {arguments}: {outcome:?}");
        }
    }
    assert_eq!(server.value(&json!([43, [table("granted")]])), 3);
    assert_eq!(server.value(&json!([62, [[14, ["test"]]]])), json!(["granted", "secret"]));
}

#[test]
fn a_result_is_whole_or_too_long() {
    let server = Server::new();
    assert_eq!(
        server.nested(READ, &json!([38, [range(5), function(json!([10, [1]]))]])).unwrap(),
        json!([0, 1, 2, 3, 4])
    );
    let strings = |count: u32| json!([38, [range(count), [69, [[2, [1]], "x".repeat(1000)]]]]);
    assert_eq!(server.nested(READ, &strings(900)).unwrap().as_array().unwrap().len(), 900);
    for term in [strings(1100), json!([173, []]), json!([51, [strings(1100), "array"]])] {
        let error = server.nested(READ, &term).unwrap_err();
        assert!([ErrorKind::ResourceLimit, ErrorKind::QueryLogic].contains(&error.kind()), "{error}");
    }
    let error = server.nested(READ, &strings(1100)).unwrap_err();
    assert!(error.message().contains(&MAX_RESULT.to_string()), "{error}");
    for term in [json!([180, []]), json!([69, [[2, [1]], 1]]), json!([137, [1]]), json!([14, ["test"]])] {
        assert!(server.nested(READ, &term).is_err(), "{term}");
    }
}

#[test]
fn values_that_grow_are_stopped() {
    let server = Server::new();
    let x = json!([10, [1]]);
    let double = |body: Value| json!([187, [range(60), "0123456789abcdef", [69, [[2, [1, 2]], body]]]]);
    let strings = json!([38, [range(100_000), function(json!([24, [[51, [x, "string"]], "y".repeat(2000)]]))]]);
    for term in [
        double(json!([24, [[10, [1]], [10, [1]]]])),
        double(json!([2, [[10, [1]], [10, [1]]]])),
        json!([41, [strings, function(x.clone())]]),
        json!([42, [strings]]),
        json!([144, [strings, function(x.clone())]]),
        json!([144, [[173, [50_000_000]], function(json!([24, [[51, [x, "string"]], "y".repeat(2000)]]))]]),
        json!([45, [strings, -90_000]]),
        json!([81, [strings, 90_000]]),
    ] {
        let error = server.nested(READ, &term).expect_err(&term.to_string());
        assert_eq!(error.kind(), ErrorKind::ResourceLimit, "{term}: {error}");
    }
    // What streams by is not kept.
    assert_eq!(server.nested(READ, &json!([43, [[173, [200_000]]]])).unwrap(), 200_000);
}

#[test]
fn a_query_ends_when_its_call_does() {
    let server = server();
    let endless = json!([43, [[39, [[173, [1_000_000_000_000_u64]], function(json!(false))]]]]);
    let late = calling(Instant::now() + Duration::from_millis(150));
    let error = server.nested_in(READ, &endless, &late).unwrap_err();
    assert!(error.message().contains("deadline"), "{error}");
    let ended = calling(soon());
    std::thread::scope(|threads| {
        let query = threads.spawn(|| server.nested_in(READ, &endless, &ended));
        ended.end();
        assert!(query.join().unwrap().unwrap_err().message().contains("has ended"));
    });
    // Nothing is written any more.
    let error = server.nested_in(BOTH, &json!([56, [table("granted"), {"id": 77}]]), &ended).unwrap_err();
    assert!(error.message().contains("has ended"), "{error}");
    assert_eq!(server.value(&json!([43, [table("granted")]])), 3);
    let gone: Arc<AtomicBool> = Arc::new(AtomicBool::new(true));
    let origin = Origin { deadline: soon(), cancelled: &gone, within: None };
    assert!(server.nested_in(READ, &endless, &Arc::new(Calling::new(1, 0, &origin))).is_err());
}

#[test]
fn hostile_terms_are_errors() {
    let server = Server::new();
    let scope = Arc::new(Scope::new("geo", vec!["read:test.granted".parse().unwrap()]));
    let deep = |levels: usize| format!("{}1{}", "[2,[".repeat(levels), "]]".repeat(levels));
    let texts = [
        "",
        "[",
        "[1",
        "nonsense",
        "[1,2,3]",
        "[9999,[]]",
        "[15]",
        "[15,5]",
        "[69,[[2,[1]]]]",
        "[10,[1]]",
        "[13,[]]",
        "1e999",
        "\u{0}",
    ];
    let terms = texts.iter().map(|text| text.as_bytes().to_vec()).chain([
        deep(599).into_bytes(),
        deep(100_000).into_bytes(),
        b"\xff\xfe".to_vec(),
        br#"[1,[15,["granted"]],{"db":[14,["test"]]}]"#.to_vec(),
    ]);
    for term in terms {
        let outcome = server.engine.run_nested(&term, &scope, &calling(soon()));
        let text = String::from_utf8_lossy(&term).chars().take(60).collect::<String>();
        assert!(outcome.is_err() || text.starts_with("[2,["), "{text}: {outcome:?}");
    }
}

#[test]
fn functions_are_called_within_the_call() {
    let server = Server::new();
    let doubled = json!([64, [[11, ["plugin.double"]], 4]]);
    assert_eq!(server.nested(READ, &doubled).unwrap(), 8);
    assert_eq!(server.nested(READ, &json!([1000, ["double", 5]])).unwrap(), 10);
    assert!(server.nested(READ, &json!([11, ["1 + 1"]])).is_err());
    assert!(server.nested(READ, &json!([153, ["http://localhost"]])).is_err());
}
