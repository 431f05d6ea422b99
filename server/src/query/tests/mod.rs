//! Queries in process, over a store in a temporary directory.

mod bulk;
mod nested;
mod pushdown;
mod types;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use photondb_plugin_sdk::batch::{Cell, Shape, Value as Argument};
use photondb_plugin_sdk::kinds::function::FunctionSignature;
use photondb_plugin_sdk::{Cause, Datum, PluginError};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::storage::{NoVectorIndexes, Store, StoreOptions};

/// Doubles numbers, and keeps the sizes of the batches it got.
struct Double {
    signature: FunctionSignature,
    batches: Mutex<Vec<usize>>,
    failures: AtomicUsize,
    /// How many calls may be in flight, and how many are.
    slots: AtomicUsize,
    taken: Arc<AtomicUsize>,
    /// So many calls will be lost.
    lost: AtomicUsize,
}

impl PluginFunction for Double {
    fn signature(&self) -> &FunctionSignature {
        &self.signature
    }

    fn invoke_batch(
        &self,
        args: &[&[Argument<'_>]],
        rows: usize,
        _origin: &crate::query::nested::Origin<'_>,
    ) -> Result<Vec<Datum>, PluginError> {
        self.batches.lock().unwrap().push(rows);
        let double = |arg: &Argument<'_>| match arg.shape() {
            Shape::Number => Some(Datum::from(arg.number() * 2.0)),
            _ => None,
        };
        args[0].iter().map(double).collect::<Option<Vec<_>>>().ok_or_else(|| {
            self.failures.fetch_add(1, Ordering::Relaxed);
            PluginError::argument("not a number").of("double")
        })
    }

    fn start(
        &self,
        args: &[&[Argument<'_>]],
        rows: usize,
        origin: &crate::query::nested::Origin<'_>,
    ) -> Option<Box<dyn Running>> {
        let slots = self.slots.load(Ordering::Relaxed);
        let begin = |taken: usize| (taken < slots).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, begin).ok()?;
        // Fewer than asked for, as where rows are large.
        let rows = rows.min(700);
        let part: Vec<&[Argument<'_>]> = args.iter().map(|column| &column[..rows]).collect();
        let lost = self.lost.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |lost| lost.checked_sub(1)).is_ok();
        let results = match lost {
            true => Err(PluginError::runtime(Cause::Crashed, "killed").of("double")),
            false => self.invoke_batch(&part, rows, origin),
        };
        Some(Box::new(InFlight { results, rows, taken: self.taken.clone() }))
    }
}

/// Rows that were doubled, and take a slot until somebody asks for them.
struct InFlight {
    results: Result<Vec<Datum>, PluginError>,
    rows: usize,
    taken: Arc<AtomicUsize>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Running for InFlight {
    fn rows(&self) -> usize {
        self.rows
    }

    fn finish(self: Box<Self>, _: std::time::Instant) -> Result<Vec<Datum>, PluginError> {
        self.results.clone()
    }
}

struct Plugins(Arc<Double>, Arc<types::Words>);

impl PluginFunctions for Plugins {
    fn get(&self, name: &str) -> Result<Arc<dyn PluginFunction>, PluginError> {
        match name {
            "double" => Ok(self.0.clone()),
            "word" => Ok(self.1.clone()),
            other => NoPlugins.get(other),
        }
    }
}

struct Server {
    engine: Engine,
    double: Arc<Double>,
    words: Arc<types::Words>,
    columns: Arc<pushdown::Columns>,
    _directory: TempDir,
}

impl Server {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let columns = Arc::new(pushdown::Columns::new(directory.path().join("columns")));
        let options = StoreOptions {
            cache_bytes: 1 << 20,
            functions: index_functions(),
            vectors: Arc::new(NoVectorIndexes),
            engines: columns.clone(),
            upkeep: std::time::Duration::from_secs(3600),
        };
        let double = Arc::new(Double {
            signature: FunctionSignature::pure("double", 1, 1),
            batches: Mutex::default(),
            failures: AtomicUsize::new(0),
            slots: AtomicUsize::new(0),
            taken: Arc::default(),
            lost: AtomicUsize::new(0),
        });
        let words: Arc<types::Words> = Arc::default();
        let engine = Engine::new(EngineParts {
            store: Store::open(directory.path(), &options).unwrap(),
            plugins: Arc::new(Plugins(double.clone(), words.clone())),
            nearest: Arc::new(NoSearch),
            system: Vec::new(),
            identity: Identity { id: "id".to_owned(), name: "test".to_owned() },
        });
        Self { engine, double, words, columns, _directory: directory }
    }

    /// All responses to a query, as JSON.
    fn responses(&self, term: &Value) -> Vec<Value> {
        self.responses_with(term, &json!({}))
    }

    /// The same, with run options.
    fn responses_with(&self, term: &Value, options: &Value) -> Vec<Value> {
        let request = parse::request(json!([1, term, options]).to_string().as_bytes()).unwrap();
        let parsed = |response: &Response| serde_json::from_slice(&response.0).unwrap();
        match self.engine.run(request, &Arc::default()) {
            Err(error) => vec![parsed(&Response::error(&error))],
            Ok(Answer::Atom { body, profile }) => vec![parsed(&Response::atom(body, profile))],
            Ok(Answer::Stream(mut cursor)) => {
                let mut responses = Vec::new();
                loop {
                    let (response, is_last) = cursor.next_response();
                    responses.push(parsed(&response));
                    if is_last {
                        return responses;
                    }
                }
            }
        }
    }

    /// The value of a query; the elements of a sequence.
    fn value(&self, term: &Value) -> Value {
        let responses = self.responses(term);
        if responses[0]["t"] == 1 {
            return responses[0]["r"][0].clone();
        }
        responses.iter().flat_map(|response| response["r"].as_array().unwrap().clone()).collect()
    }

    /// The message and the backtrace of a query that fails.
    fn error(&self, term: &Value) -> (String, Value) {
        let response = self.responses(term).pop().unwrap();
        (response["r"][0].as_str().unwrap().to_owned(), response["b"].clone())
    }

    fn batches(&self) -> Vec<usize> {
        std::mem::take(&mut self.double.batches.lock().unwrap())
    }
}

/// `x => BODY`, with `[10,[1]]` for `x`.
fn function(body: Value) -> Value {
    json!([69, [[2, [1]], body]])
}

fn range(count: u32) -> Value {
    json!([173, [count]])
}

#[test]
fn a_plugin_as_a_function_gets_batches_that_grow() {
    let server = Server::new();
    let doubled = server.value(&json!([38, [range(100), [11, ["plugin.double"]]]]));
    assert_eq!(doubled, Value::from((0..100).map(|number| number * 2).collect::<Vec<_>>()));
    assert_eq!(server.batches(), [16, 32, 52]);
}

#[test]
fn plugin_calls_within_a_function_are_made_for_many_rows() {
    let server = Server::new();
    let double = |argument| json!([1000, ["double", argument]]);
    let nested = function(json!([24, [double(double(json!([10, [1]]))), 1]]));
    let results = server.value(&json!([38, [range(16), nested]]));
    assert_eq!(results[15], 61);
    assert_eq!(server.batches(), [16, 16]);
}

#[test]
fn calls_under_a_branch_are_made_only_where_the_branch_is_taken() {
    let server = Server::new();
    let taken = json!([19, [[10, [1]], 3]]);
    let body = json!([65, [taken, [64, [[11, ["plugin.double"]], [10, [1]]]], 0]]);
    server.value(&json!([38, [range(10), function(body)]]));
    assert_eq!(server.batches(), [1, 1, 1]);
}

#[test]
fn an_error_in_a_row_leaves_the_rows_before_it() {
    let server = Server::new();
    let rows = json!([38, [range(10), function(json!([65, [[19, [[10, [1]], 5]], [10, [1]], "five"]]))]]);
    let responses = server.responses(&json!([38, [rows, [11, ["plugin.double"]]]]));
    assert_eq!(responses[0]["t"], 3);
    assert_eq!(responses[0]["r"], json!([0, 2, 4, 6, 8]));
    assert_eq!(responses[1]["t"], 18);
    assert_eq!(responses[1]["r"][0], "plugin `double`: not a number");
}

#[test]
fn a_row_whose_arguments_are_missing_can_have_a_default() {
    let server = Server::new();
    let field = json!([170, [[10, [1]], "a"]]);
    let body = json!([92, [[1000, ["double", field]], "none"]]);
    let rows = json!([2, [{"a": 1}, {}, {"a": 3}]]);
    assert_eq!(server.value(&json!([38, [rows, function(body)]])), json!([2, "none", 6]));
}

#[test]
fn writes_get_plugin_results_in_batches() {
    let server = Server::new();
    server.value(&json!([60, ["t"]]));
    let table = json!([15, ["t"]]);
    server.value(&json!([56, [table, [38, [range(20), function(json!({"id": [10, [1]]}))]]]]));
    let change = function(json!({"x": [1000, ["double", [170, [[10, [1]], "id"]]]]}));
    let summary = server.value(&json!([53, [table, change]]));
    assert_eq!(summary["replaced"], 20);
    assert_eq!(server.batches(), [20]);
    assert_eq!(server.value(&json!([16, [table, 7]])), json!({"id": 7, "x": 14}));
}

#[test]
fn backtraces_lead_to_the_culprit() {
    let server = Server::new();
    let (message, backtrace) = server.error(&json!([24, [1, [25, [2, "a"]]]]));
    assert_eq!(message, "Expected type NUMBER but found STRING.");
    assert_eq!(backtrace, json!([1, 1]));
    let body = function(json!([24, [[10, [1]], "a"]]));
    assert_eq!(server.error(&json!([43, [[38, [range(3), body]]]])).1, json!([0, 1, 1, 1]));
    assert_eq!(server.error(&json!([30, [[2, []], 1, 2], {"left_bound": 5}])).1, json!(["left_bound"]));
    assert_eq!(server.error(&json!([23, [[999, []]]])), ("Unrecognized TermType: 999.".to_owned(), json!([0])));
}

#[test]
fn javascript_is_said_not_to_run() {
    let server = Server::new();
    assert!(server.error(&json!([11, ["1 + 1"]])).0.contains("plugin.NAME"));
}

#[test]
fn writes_have_no_place_in_the_functions_of_streams() {
    let server = Server::new();
    let body = function(json!([57, ["d"]]));
    let (message, _) = server.error(&json!([38, [range(2), body]]));
    assert_eq!(message, "Cannot nest writes or meta ops in stream operations.  Use FOR_EACH instead.");
    let waits = json!([53, [[15, ["t"]], function(json!([140, [[15, ["t"]]]]))], {"non_atomic": true}]);
    assert_eq!(server.error(&waits).0, message);
    let each = json!([68, [[2, ["a", "b"]], function(json!([57, [[10, [1]]]]))]]);
    assert_eq!(server.value(&each)["dbs_created"], 2);
}

#[test]
fn nesting_ends_in_errors_not_in_crashes() {
    // On a worker: tests' own threads have small stacks.
    let (done, finished) = std::sync::mpsc::channel();
    workers::Workers::new(1, "query").spawn(move || {
        let server = Server::new();
        let nots = (0..590).fold(json!(true), |term, _| json!([23, [term]]));
        assert_eq!(server.value(&nots), true);
        let arrays = (0..590).fold(json!(1), |term, _| json!([2, [term]]));
        assert!(server.error(&arrays).0.contains("nested deeper"));
        let step = json!([69, [[2, [1, 2]], [2, [[10, [1]], [10, [1]]]]]]);
        assert!(server.error(&json!([187, [range(1000), 1, step]])).0.contains("parts"));
        done.send(()).unwrap();
    });
    finished.recv_timeout(std::time::Duration::from_secs(120)).unwrap();
}

#[test]
fn a_cancelled_query_ends() {
    let server = Server::new();
    let request = parse::request(json!([1, [43, [range(u32::MAX)]]]).to_string().as_bytes()).unwrap();
    let cancelled = Arc::new(std::sync::atomic::AtomicBool::new(true));
    assert!(server.engine.run(request, &cancelled).is_err());
}

#[test]
fn indexes_are_made_of_functions_with_their_surroundings() {
    let server = Server::new();
    server.value(&json!([60, ["t"]]));
    let table = json!([15, ["t"]]);
    server.value(&json!([56, [table, [2, [{"id": 1, "a": 5}, {"id": 2, "a": 6}, {"id": 3}]]]]));
    let inner = json!([69, [[2, [2]], [170, [[10, [2]], [10, [1]]]]]]);
    let create = function(json!([75, [table, "by_a", inner]]));
    assert_eq!(server.value(&json!([64, [create, "a"]])), json!({"created": 1}));
    server.value(&json!([140, [table, "by_a"]]));
    let found = server.value(&json!([78, [table, 6], {"index": "by_a"}]));
    assert_eq!(found, json!([{"id": 2, "a": 6}]));
    assert_eq!(server.value(&json!([43, [[182, [table, [180], [181]], {"index": "by_a"}]]])), 2);
    let random = function(json!([151, []]));
    assert!(server.error(&json!([75, [table, "r", random]])).0.contains("deterministic"));
}

/// Drivers name their database with every query: as a term, or as text (rethinkdb-ts).
#[test]
fn the_database_of_a_connection_may_be_made_by_its_first_query() {
    let server = Server::new();
    for db in [json!([14, ["mine"]]), json!("mine")] {
        let run = |term: Value| server.responses_with(&term, &json!({"db": db})).remove(0);
        assert_eq!(run(json!([15, ["t"]]))["r"][0], "Database `mine` does not exist.");
        assert_eq!(run(json!([57, ["mine"]]))["r"][0]["dbs_created"], 1);
        run(json!([60, ["t"]]));
        assert_eq!(run(json!([62, []]))["r"][0], json!(["t"]));
        run(json!([58, ["mine"]]));
    }
}

/// A few terms must not fill the memory, whatever they multiply.
#[test]
fn values_that_double_end_in_errors() {
    let server = Server::new();
    server.value(&json!([60, ["t"]]));
    let table = json!([15, ["t"]]);
    // `x => BODY` for a value that has been doubled 40 times.
    let doubled = |twice: Value, start: Value, body: Value| {
        let doubled = (0..40).fold(start, |value, _| json!([64, [function(twice.clone()), value]]));
        json!([64, [function(body), doubled]])
    };
    let x = json!([10, [1]]);
    let array = |body: Value| doubled(json!([2, [x, x]]), json!(1), body);
    assert!(server.error(&doubled(json!([24, [x, x]]), json!("text"), json!([43, [x]]))).0.contains("string"));
    let format = json!([197, ["{a}{a}", {"a": x}]]);
    assert!(server.error(&doubled(format, json!("text"), json!([43, [x]]))).0.contains("string"));
    for use_it in [
        json!([16, [table, x]]),
        json!([16, [table, {"a": x}]]),
        json!([43, [[78, [table, x]]]]),
        json!([43, [[182, [table, x, [181]]]]]),
        json!({"$reql_type$": "TIME", "a": x}),
    ] {
        assert!(server.error(&array(use_it.clone())).0.contains("parts"), "{use_it}");
    }
    assert!(server.error(&array(json!([143, ["a", x, "a", x]]))).0.contains("Duplicate key"));
}

#[test]
fn collections_in_memory_are_bounded_by_the_array_limit() {
    let server = Server::new();
    let numbers = range(200_000);
    let alternatives = function(json!([2, (0..100).collect::<Vec<_>>()]));
    let group = json!([144, [range(1), alternatives, alternatives, alternatives], {"multi": true}]);
    for term in [
        json!([42, [numbers]]),
        json!([81, [numbers, 200_000]]),
        json!([45, [numbers, -150_000]]),
        json!([43, [group]]),
        json!([149, ["x".repeat(200_000), ""]]),
    ] {
        assert!(server.error(&term).0.starts_with("Array over size limit `100000`."), "{term:.80}");
    }
    assert_eq!(server.value(&json!([45, [numbers, -1]])), 199_999);
    assert_eq!(server.value(&json!([149, ["a b", " "]])), json!(["a", "b"]));
}

#[test]
fn no_batch_is_larger_than_the_server_allows() {
    let server = Server::new();
    let rows = json!([38, [range(70), function(json!("x".repeat(1 << 20)))]]);
    let responses = server.responses_with(&rows, &json!({"min_batch_rows": 1_000_000, "max_batch_seconds": 600}));
    assert_eq!(responses.iter().map(|response| response["r"].as_array().unwrap().len()).collect::<Vec<_>>(), [64, 6]);
}
