//! Terms on the wire, and queries without a driver.

use std::fmt;
use std::net::SocketAddr;

use photondb_server::cli::client::{Client, ClientError};
use serde_json::{Value, json};

/// The response type of a runtime error.
pub const RUNTIME_ERROR: u8 = 18;
/// The response type of a compile error.
pub const COMPILE_ERROR: u8 = 17;
/// The response type of an error of the client.
pub const CLIENT_ERROR: u8 = 16;

/// Why a query did not give a value.
#[derive(Debug)]
pub enum Failure {
    /// The server answered with an error of this type.
    Answered(u8, String),
    /// There was no answer.
    Broken(ClientError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(kind, message) => write!(f, "error {kind}: {message}"),
            Self::Broken(error) => error.fmt(f),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Broken(error)
    }
}

/// Connects as `admin`.
///
/// # Errors
/// Nobody listens, or the connection is refused.
pub fn connect(address: SocketAddr) -> Result<Client, ClientError> {
    Client::connect(&address.to_string(), "admin", "")
}

/// Runs a query that gives one value.
///
/// # Errors
/// The query failed, or the connection broke.
pub fn run(client: &mut Client, term: &Value) -> Result<Value, Failure> {
    let token = client.send(term.to_string().as_bytes())?;
    let (answered, response) = client.receive()?;
    if answered != token {
        return Err(ClientError::Protocol(format!("an answer to query {answered} instead of {token}")).into());
    }
    let kind = response.kind();
    response.into_value().map_err(|error| match error {
        ClientError::Query(message) => Failure::Answered(kind, message),
        error => error.into(),
    })
}

/// The table of the database `test`.
#[must_use]
pub fn table(name: &str) -> Value {
    json!([15, [[14, ["test"]], name]])
}

/// The table of the database `rethinkdb`.
#[must_use]
pub fn system_table(name: &str) -> Value {
    json!([15, [[14, ["rethinkdb"]], name]])
}

/// Creates a table of the database `test`.
#[must_use]
pub fn table_create(name: &str) -> Value {
    json!([60, [[14, ["test"]], name]])
}

/// A document by its key.
#[must_use]
pub fn get(table: &Value, key: impl Into<Value>) -> Value {
    json!([16, [table, key.into()]])
}

/// Inserts documents, replacing those that are there.
#[must_use]
pub fn insert(table: &Value, documents: &[Value], durability: &str) -> Value {
    let documents: Vec<Value> = documents.iter().map(literal).collect();
    json!([56, [table, [2, documents]], {"conflict": "replace", "durability": durability}])
}

/// A value as a term: arrays are MAKE_ARRAY, objects hold terms.
#[must_use]
pub fn literal(value: &Value) -> Value {
    match value {
        Value::Array(elements) => json!([2, elements.iter().map(literal).collect::<Vec<_>>()]),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), literal(value))).collect(),
        scalar => scalar.clone(),
    }
}

/// The numbers from 0 on.
#[must_use]
pub fn range(count: usize) -> Value {
    json!([173, [count]])
}

/// Everything in a sequence, as one array.
#[must_use]
pub fn to_array(sequence: &Value) -> Value {
    json!([51, [sequence, "ARRAY"]])
}

/// How many there are.
#[must_use]
pub fn count(sequence: &Value) -> Value {
    json!([43, [sequence]])
}

/// `plugin.NAME` as a value.
#[must_use]
pub fn function(name: &str) -> Value {
    json!([11, [format!("plugin.{name}")]])
}

/// `plugin.NAME(ARGUMENTS...)`.
#[must_use]
pub fn call(name: &str, arguments: &[Value]) -> Value {
    let mut all = vec![function(name)];
    all.extend_from_slice(arguments);
    json!([64, all])
}

/// A sequence with a function applied to every element.
#[must_use]
pub fn map(sequence: &Value, function: &Value) -> Value {
    json!([38, [sequence, function]])
}

/// Makes a secondary index of the field of the same name.
#[must_use]
pub fn index_create(table: &Value, field: &str) -> Value {
    json!([75, [table, field]])
}

/// Makes a vector index of the field `field`.
#[must_use]
pub fn vector_index_create(table: &Value, field: &str, dims: usize, metric: &str) -> Value {
    vector_index_of_type(table, field, "hnsw", dims, metric)
}

/// Makes a vector index of a certain type.
#[must_use]
pub fn vector_index_of_type(table: &Value, field: &str, kind: &str, dims: usize, metric: &str) -> Value {
    json!([75, [table, field], {"vector": {"type": kind, "dims": dims, "metric": metric}}])
}

/// Drops an index.
#[must_use]
pub fn index_drop(table: &Value, index: &str) -> Value {
    json!([76, [table, index]])
}

/// Waits until all indexes of a table are ready.
#[must_use]
pub fn index_wait(table: &Value) -> Value {
    json!([140, [table]])
}

/// The ids and distances of the documents nearest to a vector, or to each of several.
#[must_use]
pub fn nearest(table: &Value, index: &str, vector: &Value, count: usize) -> Value {
    json!([168, [table, literal(vector)], {"index": index, "max_results": count}])
}
