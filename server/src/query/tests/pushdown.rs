//! Queries of a table that is stored in columns give what they give of a table of the default engine.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;

use photondb_plugin_columnar::Columnar;
use photondb_plugin_sdk::kinds::storage::{
    Direction, Durability, Entry, EntryIterator, KeyRange, Keyspace, Selection, StorageConfig, StorageEngine,
    StorageEnginePlugin, StorageError, StorageSnapshot, WriteBatch,
};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::storage::{EngineDefinition, EngineSource, OpenEngine, StorageEngines, StoreError};

/// Opens tables in columns, and notes what their scans are told and what they give.
#[derive(Default)]
pub(super) struct Columns {
    directory: PathBuf,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    selections: Vec<Selection>,
    entries: Vec<Entry>,
}

impl Columns {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, ..Self::default() }
    }
}

impl StorageEngines for Columns {
    fn validate(&self, _: &str, options: &Datum) -> Result<EngineSource, StoreError> {
        let invalid = |error: PluginError| StoreError::EngineOptions {
            engine: "columnar".to_owned(),
            problem: error.message().to_owned(),
        };
        Columnar.validate(options).map_err(invalid)?;
        Ok(EngineSource { plugin: "columnar".to_owned(), version: "0".to_owned(), is_running: true })
    }

    fn open(&self, definition: &EngineDefinition, table: Uuid) -> Result<Arc<dyn OpenEngine>, String> {
        let directory = self.directory.join(table.to_string());
        std::fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        let config = StorageConfig { directory, cache_bytes: 1 << 20, options: definition.options.clone() };
        let engine = Columnar.open(&config).map_err(|error| error.message().to_owned())?;
        Ok(Arc::new(Observed { engine, seen: Arc::clone(&self.seen) }))
    }

    fn remove(&self, _: &str, _: Uuid) -> Result<(), String> {
        Ok(())
    }

    fn source(&self, _: &str) -> Option<EngineSource> {
        Some(EngineSource { plugin: "columnar".to_owned(), version: "0".to_owned(), is_running: true })
    }
}

struct Observed {
    engine: Box<dyn StorageEngine>,
    seen: Arc<Mutex<Seen>>,
}

impl OpenEngine for Observed {
    fn is_current(&self) -> bool {
        true
    }

    fn close(&self) {}
}

impl StorageEngine for Observed {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.engine.get(keyspace, key)
    }

    fn commit(&self, batch: &WriteBatch, durability: Durability) -> Result<(), StorageError> {
        self.engine.commit(batch, durability)
    }

    fn snapshot(&self) -> Result<Box<dyn StorageSnapshot>, StorageError> {
        Ok(Box::new(ObservedSnapshot { snapshot: self.engine.snapshot()?, seen: Arc::clone(&self.seen) }))
    }

    fn drop_keyspace(&self, keyspace: Keyspace<'_>) -> Result<(), StorageError> {
        self.engine.drop_keyspace(keyspace)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.engine.flush()
    }

    fn statistics(&self) -> Datum {
        self.engine.statistics()
    }
}

struct ObservedSnapshot {
    snapshot: Box<dyn StorageSnapshot>,
    seen: Arc<Mutex<Seen>>,
}

impl StorageSnapshot for ObservedSnapshot {
    fn get(&self, keyspace: Keyspace<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.snapshot.get(keyspace, key)
    }

    fn scan(
        &self,
        keyspace: Keyspace<'_>,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<EntryIterator, StorageError> {
        self.snapshot.scan(keyspace, range, direction)
    }

    fn scan_selected(
        &self,
        keyspace: Keyspace<'_>,
        range: &KeyRange,
        direction: Direction,
        selection: &Selection,
    ) -> Result<EntryIterator, StorageError> {
        self.seen.lock().unwrap().selections.push(selection.clone());
        let seen = Arc::clone(&self.seen);
        let entries = self.snapshot.scan_selected(keyspace, range, direction, selection)?;
        Ok(Box::new(entries.inspect(move |entry| {
            if let Ok(entry) = entry {
                seen.lock().unwrap().entries.push(entry.clone());
            }
        })))
    }
}

fn table(name: &str) -> Value {
    json!([15, [name]])
}

fn field(name: &str) -> Value {
    json!([170, [[10, [1]], name]])
}

fn function(body: Value) -> Value {
    json!([69, [[2, [1]], body]])
}

/// The value as a term: arrays are terms on the wire.
fn term(value: &Value) -> Value {
    match value {
        Value::Array(elements) => json!([2, elements.iter().map(term).collect::<Vec<_>>()]),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), term(value))).collect(),
        other => other.clone(),
    }
}

impl Server {
    /// A table of each kind, with the same documents.
    fn with_two_tables(documents: &[Value]) -> Self {
        let server = Self::new();
        server.value(&json!([60, ["rows"]]));
        server.value(&json!([60, ["columns"], {"engine": "columnar", "options": {"chunk_rows": 256}}]));
        for name in ["rows", "columns"] {
            for documents in documents.chunks(500) {
                let inserted = server.value(&json!([56, [table(name), term(&json!(documents))]]));
                assert_eq!(inserted["errors"], 0, "{inserted}");
            }
        }
        server
    }

    fn agree(&self, query: &dyn Fn(Value) -> Value) -> Vec<Value> {
        let answers = self.responses(&query(table("columns")));
        let elements = |answers: &[Value]| -> (Vec<Value>, Option<Value>) {
            let last = answers.last().cloned();
            let failure = last.filter(|last| last["t"].as_i64().is_some_and(|kind| kind >= 16));
            let elements = answers.iter().filter(|answer| answer["t"].as_i64() < Some(16));
            (elements.flat_map(|answer| answer["r"].as_array().cloned().unwrap_or_default()).collect(), failure)
        };
        let expected = self.responses(&query(table("rows")));
        assert_eq!(elements(&answers), elements(&expected), "{}", query(table("t")));
        elements(&answers).0
    }
}

fn documents(count: u32) -> Vec<Value> {
    let document = |id: u32| {
        let group = ["a", "b", "c"][id as usize % 3];
        let rare = if id.is_multiple_of(50) { json!(id) } else { Value::Null };
        json!({"id": id, "n": id % 1000, "group": group, "deep": {"x": id % 7, "list": [id, "é"]}, "rare": rare})
    };
    (0..count).map(document).collect()
}

#[test]
fn scans_give_what_a_query_needs_and_little_more() {
    let server = Server::with_two_tables(&documents(5000));
    let is_above = |value: u32| function(json!([67, [[22, [field("id"), value]], [19, [field("id"), value + 10]]]]));
    let sum = |source: Value| json!([145, [[39, [source, is_above(4000)]], "n"]]);
    assert_eq!(server.agree(&sum), [json!(45)]);
    let seen = std::mem::take(&mut *server.columns.seen.lock().unwrap());
    assert_eq!(seen.selections.len(), 1, "{:?}", seen.selections);
    assert!(seen.entries.len() <= 10, "ten documents match: {}", seen.entries.len());
    let fields = |entry: &Entry| Datum::decode(&entry.1).unwrap().as_object().unwrap().len();
    assert!(seen.entries.iter().all(|entry| fields(entry) == 2), "id and n");
    // A whole document is wanted: nothing but the filter is told.
    let filtered = |source: Value| json!([39, [source, is_above(100)]]);
    assert_eq!(server.agree(&filtered).len(), 10);
    let seen = std::mem::take(&mut *server.columns.seen.lock().unwrap());
    assert!(seen.selections.iter().all(|selection| selection.fields.is_none() && selection.filter.len() == 2));
    assert_eq!(seen.entries.len(), 10);
    assert!(seen.entries.iter().all(|entry| fields(entry) == 5));
}

#[test]
fn queries_of_many_kinds_agree() {
    let server = Server::with_two_tables(&documents(3000));
    let filter = |source: Value, body: Value| json!([39, [source, function(body)]]);
    let queries: Vec<Box<dyn Fn(Value) -> Value>> = vec![
        Box::new(|t| json!([43, [t]])),
        Box::new(|t| json!([43, [t, function(json!([21, [field("n"), 500]]))]])),
        Box::new(|t| json!([43, [t, {"group": "a"}]])),
        Box::new(|t| json!([33, [t, "n", {"deep": "x"}]])),
        Box::new(|t| json!([96, [t, "n", "rare"]])),
        Box::new(|t| json!([170, [t, "rare"]])),
        Box::new(|t| json!([31, [t, "absent"]])),
        Box::new(|t| json!([34, [t, "deep"]])),
        Box::new(|t| json!([38, [t, function(json!([24, [field("n"), field("id")]]))]])),
        Box::new(|t| json!([38, [t, function(json!([170, [field("deep"), "list"]]))]])),
        // The message shows the whole document.
        Box::new(|t| json!([38, [t, function(field("absent"))]])),
        Box::new(|t| json!([38, [t, function(json!([24, [field("n"), field("group")]]))]])),
        Box::new(|t| json!([147, [t, "n"]])),
        Box::new(|t| json!([148, [t, function(json!([170, [field("deep"), "x"]]))]])),
        Box::new(|t| json!([146, [t, "rare"]])),
        Box::new(|t| json!([145, [t, "absent"]])),
        Box::new(|t| json!([146, [t, "absent"]])),
        Box::new(|t| json!([71, [json!([39, [t, {"group": "b", "deep": {"x": 3}}]]), 5]])),
        Box::new(|t| json!([33, [json!([71, [t, 5]]), "n"]])),
        Box::new(|t| json!([39, [json!([71, [t, 20]]), {"group": "b"}]])),
        Box::new(|t| json!([39, [json!([70, [t, 2900]]), function(json!([19, [field("n"), 950]]))]])),
        Box::new(|t| json!([41, [json!([39, [t, {"group": "b", "rare": null}]]), "n"]])),
        Box::new(|t| json!([144, [json!([33, [t, "group"]]), "group"]])),
        Box::new(|t| json!([145, [json!([182, [t, 100, 200]]), "n"]])),
        Box::new(move |t| {
            filter(t, json!([67, [[19, [field("id"), 10]], [21, [[24, [field("n"), field("group")]], 0]]]]))
        }),
        Box::new(move |t| {
            filter(t, json!([67, [[21, [[24, [field("n"), field("group")]], 0]], [19, [field("id"), 0]]]]))
        }),
        Box::new(move |t| filter(filter(t, json!([18, [field("group"), "a"]])), json!([19, [field("id"), 10]]))),
        Box::new(|t| json!([39, [t, function(json!([21, [field("absent"), 5]])) ], {"default": true}])),
        Box::new(|t| json!([39, [t, function(json!([21, [field("absent"), 5]])) ], {"default": [12, []]}])),
        Box::new(|t| json!([39, [t, {"absent": 5}], {"default": [12, []]}])),
        Box::new(|t| json!([54, [json!([39, [t, {"group": "c"}]])]])),
        Box::new(|t| json!([43, [t]])),
    ];
    for query in queries {
        server.agree(&*query);
    }
}

/// Values that hold no others, of all types that a query can write.
fn scalars() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (-3..12_i32).prop_map(|number| json!(number)),
        1 => Just(json!(1.5)),
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(|value| json!(value)),
        3 => "[a-c]{0,2}".prop_map(|text| json!(text)),
        1 => (0..10_i32).prop_map(|at| json!({"$reql_type$": "TIME", "epoch_time": at, "timezone": "+00:00"})),
        1 => Just(json!({"$reql_type$": "BINARY", "data": "AAE="})),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    scalars().prop_recursive(1, 4, 2, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..2).prop_map(Value::from),
            prop::collection::hash_map("[ab]", inner, 0..2).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

fn predicates() -> impl Strategy<Value = Value> {
    let name = || prop::sample::select(vec!["a", "b", "c", "id"]);
    let constant = prop_oneof![4 => scalars(), 1 => Just(json!([])), 1 => Just(json!([1]))];
    let comparison = (name(), 17..23_u32, constant, any::<bool>()).prop_map(move |(name, op, value, is_first)| {
        if is_first { json!([op, [term(&value), field(name)]]) } else { json!([op, [field(name), term(&value)]]) }
    });
    let other = name().prop_flat_map(|name| {
        prop::sample::select(vec![
            json!([21, [[24, [field(name), 1]], 3]]),
            json!([32, [[10, [1]], name]]),
            json!([23, [field(name)]]),
            json!([66, [[17, [field(name), 1]], [17, [field("a"), "a"]]]]),
            field(name),
        ])
    });
    let part = prop_oneof![5 => comparison, 1 => other];
    prop::collection::vec(part, 1..4)
        .prop_map(|parts| if parts.len() == 1 { parts[0].clone() } else { json!([67, parts]) })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_same_queries_give_the_same_answers(
        documents in prop::collection::vec(prop::collection::hash_map("[abc]", values(), 0..4), 300..600),
        predicates in prop::collection::vec((predicates(), 0..7_usize, 0..4_usize), 12),
    ) {
        let documents: Vec<Value> = (0..).zip(documents).map(|(id, fields): (u32, HashMap<String, Value>)| {
            let mut document: serde_json::Map<String, Value> = fields.into_iter().collect();
            document.insert("id".to_owned(), json!(id));
            document.into()
        }).collect();
        let server = Server::with_two_tables(&documents);
        for (predicate, stage, default) in predicates {
            server.agree(&|source| {
                let options = [json!({}), json!({"default": true}), json!({"default": [12, []]}), json!({})][default].clone();
                let filtered = json!([39, [source, function(predicate.clone())], options]);
                match stage {
                    0 => json!([43, [filtered]]),
                    1 => json!([33, [filtered, "a", "c"]]),
                    2 => json!([170, [filtered, "b"]]),
                    3 => json!([38, [filtered, function(json!([2, [field("id"), [92, [field("a"), 0]]]]))]]),
                    4 => json!([145, [filtered, "a"]]),
                    5 => json!([39, [filtered, function(json!([21, [field("b"), 2]]))]]),
                    _ => filtered,
                }
            });
        }
        let told = server.columns.seen.lock().unwrap().selections.len();
        prop_assert!(told > 0);
    }
}

#[test]
fn a_profile_says_what_was_told() {
    let server = Server::with_two_tables(&documents(300));
    let query = json!([145, [[39, [table("columns"), function(json!([21, [field("id"), 290]]))]], "n"]]);
    let responses = server.responses_with(&query, &json!({"profile": true}));
    let profile = responses[0]["p"].to_string();
    assert!(
        profile.contains("Scan of the table `columns`: fields `n`, `id` where `id` > 290 and `n` is there"),
        "{profile}"
    );
}
