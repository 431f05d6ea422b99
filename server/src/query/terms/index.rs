//! Secondary and vector indexes: INDEX_CREATE to INDEX_RENAME.

use std::sync::Arc;
use std::time::{Duration, Instant};

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::Object;
use photondb_plugin_sdk::kinds::vector::Metric;

use super::{MANY, Op};
use crate::query::determinism::{self, Scope};
use crate::query::error::{Frame, ReqlError, Result};
use crate::query::eval::Call;
use crate::query::function::Function;
use crate::query::json;
use crate::query::source;
use crate::query::tables::TableRef;
use crate::query::value::Value;
use crate::storage::{IndexDefinition, IndexStatus, Overwrite, StoreError, Table, VectorDefinition};

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(75, "index_create", 2, 3, index_create)
        .with(Op::WRITES | Op::UNGROUPED | Op::VOLATILE)
        .options(&["multi", "geo", "vector"]),
    Op::new(76, "index_drop", 2, 2, index_drop).with(Op::WRITES | Op::UNGROUPED | Op::VOLATILE),
    Op::new(77, "index_list", 1, 1, index_list).with(Op::UNGROUPED | Op::VOLATILE),
    Op::new(139, "index_status", 1, MANY, index_status).with(Op::UNGROUPED | Op::VOLATILE),
    // Not in functions either: the write that calls one holds the documents that the index waits for.
    Op::new(140, "index_wait", 1, MANY, index_wait).with(Op::WRITES | Op::UNGROUPED | Op::VOLATILE),
    Op::new(156, "index_rename", 3, 3, index_rename)
        .with(Op::WRITES | Op::UNGROUPED | Op::VOLATILE)
        .options(&["overwrite"]),
];

/// What the binary form of an index's function begins with, as in RethinkDB.
const FUNCTION_PREFIX: &[u8] = b"$reql_index_function$";
/// How long one wait for an index takes before the query is asked whether it still runs.
const WAIT_STEP: Duration = Duration::from_millis(200);
/// The longest vectors of an index.
const MAX_DIMS: i64 = 65_536;

fn index_create(call: &Call<'_>) -> Result<Value> {
    let table = call.table(0)?;
    let name = call.string(1)?;
    if *name == *table.primary_key() {
        return Err(StoreError::IndexNameIsPrimaryKey(name.to_string()).into());
    }
    if call.option_flag("geo")? {
        return Err(ReqlError::logic("Geospatial indexes are not available on this server."));
    }
    let mut multi = call.option_flag("multi")?;
    let source = if call.count() < 3 {
        source::field(&name)
    } else {
        match call.arg(2)? {
            Value::Function(function) => index_source(call, &function)?,
            Value::Datum(Datum::Binary(bytes)) => {
                let saved = SavedFunction::decode(&bytes).map_err(|error| error.at(2))?;
                multi |= saved.multi;
                saved.source
            }
            other => return Err(other.wrong_kind("FUNCTION").at(2)),
        }
    };
    let stored = table.to_administer(call.ctx(), "create indexes")?;
    let vector = call.option_datum("vector")?.map(|options| vector_definition(stored, &options)).transpose();
    let vector = vector.map_err(|error| error.within(Frame::Option("vector".into())))?;
    if multi && vector.is_some() {
        return Err(ReqlError::logic("An index can't be both `multi` and `vector`."));
    }
    stored.create_index(&IndexDefinition { name: name.to_string(), source, multi, vector })?;
    Ok(Datum::object([("created", 1)]).into())
}

/// The text of an index's function.
fn index_source(call: &Call<'_>, function: &Function) -> Result<String> {
    let Function::Closure { term, around } = function else {
        return Err(ReqlError::logic(
            "Could not prove function deterministic.  Index functions must be deterministic.",
        ));
    };
    if term.params.len() > 1 {
        let message = format!("Index functions must expect 1 argument, but this one expects {}.", term.params.len());
        return Err(ReqlError::logic(message).at(2));
    }
    if !determinism::is_deterministic(call.ctx(), &term.body, Scope::Index) {
        return Err(ReqlError::logic(
            "Could not prove function deterministic.  Index functions must be deterministic.",
        ));
    }
    Ok(source::function(term, around.as_ref()))
}

/// What `vector={...}` says. Further keys are the index kind's own.
fn vector_definition(table: &Table, options: &Datum) -> Result<VectorDefinition> {
    let Datum::Object(options) = options else { return Err(ReqlError::wrong_type("OBJECT", options)) };
    let kind = match options.get("type") {
        Some(Datum::String(kind)) => kind.to_string(),
        Some(other) => return Err(ReqlError::wrong_type("STRING", other)),
        None => {
            return Err(ReqlError::logic(
                "`vector` needs the kind of index as `type`, as in {\"type\": \"hnsw\", \"dims\": 384, \"metric\": \"cosine\"}.",
            ));
        }
    };
    let dims = match options.get("dims") {
        Some(dims) => crate::query::eval::integer(dims)?,
        None => return Err(ReqlError::logic("`vector` needs the length of the vectors as `dims`.")),
    };
    let dims = u32::try_from(dims)
        .ok()
        .filter(|dims| (1..=MAX_DIMS).contains(&i64::from(*dims)))
        .ok_or_else(|| ReqlError::logic(format!("`dims` has to be between 1 and {MAX_DIMS}, found {dims}.")))?;
    let name = match options.get("metric") {
        None => Metric::Cosine.name(),
        Some(Datum::String(name)) => name,
        Some(other) => return Err(ReqlError::wrong_type("STRING", other)),
    };
    let (metric, distance) = match (Metric::from_name(name), options.get("metric_options")) {
        (Some(metric), None) => (metric, None),
        (Some(_), Some(_)) => {
            let message = format!("`metric_options` are for metrics of plugins; `{name}` has none.");
            return Err(ReqlError::logic(message));
        }
        (None, given) => {
            let distance = table.distance(name, dims, given.cloned().unwrap_or(Datum::Null))?;
            (distance.traits.base, Some(distance))
        }
    };
    let own = ["type", "dims", "metric", "metric_options"];
    let settings: Object = options
        .iter()
        .filter(|(name, _)| !own.contains(&&***name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Ok(VectorDefinition { kind, dims, metric, distance, settings: settings.into() })
}

fn index_drop(call: &Call<'_>) -> Result<Value> {
    let table = call.table(0)?;
    let name = call.string(1)?;
    table.to_administer(call.ctx(), "drop indexes")?.drop_index(&name)?;
    Ok(Datum::object([("dropped", 1)]).into())
}

fn index_list(call: &Call<'_>) -> Result<Value> {
    Ok(Datum::array(call.table(0)?.index_names()?.into_iter().map(Datum::from)).into())
}

/// The indexes that the arguments name, or all.
fn named(call: &Call<'_>, table: &TableRef) -> Result<Vec<Arc<str>>> {
    if call.count() == 1 {
        return Ok(table.index_names()?.into_iter().map(Arc::from).collect());
    }
    let mut names = (1..call.count()).map(|position| call.string(position)).collect::<Result<Vec<_>>>()?;
    names.sort();
    names.dedup();
    Ok(names)
}

fn index_status(call: &Call<'_>) -> Result<Value> {
    let table = call.table(0)?;
    let names = named(call, &table)?;
    if names.is_empty() {
        return Ok(Datum::array([]).into());
    }
    let stored = table.to_read()?;
    let rows = names.iter().map(|name| status_row(stored, &stored.index_status(name)?));
    Ok(Datum::from(rows.collect::<Result<Vec<_>>>()?).into())
}

fn index_wait(call: &Call<'_>) -> Result<Value> {
    let table = call.table(0)?;
    let names = named(call, &table)?;
    if names.is_empty() {
        return Ok(Datum::array([]).into());
    }
    let stored = table.to_read()?;
    let rows = names.iter().map(|name| status_row(stored, &wait_for(call, stored, name)?));
    Ok(Datum::from(rows.collect::<Result<Vec<_>>>()?).into())
}

fn wait_for(call: &Call<'_>, table: &Table, name: &str) -> Result<IndexStatus> {
    loop {
        match table.wait_index(name, Instant::now() + WAIT_STEP) {
            Err(StoreError::Deadline(_)) => call.ctx().check_running()?,
            Ok(status) if status.ready => return Ok(status),
            Ok(IndexStatus { failure: Some(failure), .. }) => {
                let message = format!("Index `{name}` can't be built: {failure}");
                return Err(ReqlError::failed(message));
            }
            Ok(status) => return Ok(status),
            Err(error) => return Err(error.into()),
        }
    }
}

fn status_row(table: &Table, status: &IndexStatus) -> Result<Datum> {
    let saved = SavedFunction { source: status.info.source.clone(), multi: status.info.multi };
    let mut row: Object = [
        ("index", Datum::from(status.info.name.as_str())),
        ("ready", status.ready.into()),
        ("outdated", false.into()),
        ("multi", status.info.multi.into()),
        ("geo", false.into()),
        ("function", Datum::Binary(saved.encode().into())),
        ("query", saved.query(&status.info.name).into()),
    ]
    .into_iter()
    .collect();
    if !status.ready {
        row.insert("progress", status.progress);
    }
    if let Some(failure) = &status.failure {
        row.insert("failure", failure.as_str());
    }
    if let Some(vector) = &status.info.vector {
        let mut options = vector.settings.as_object().map(|settings| (**settings).clone()).unwrap_or_default();
        options.insert("type", vector.kind.as_str());
        options.insert("dims", vector.dims);
        options.insert("metric", vector.distance.as_ref().map_or(vector.metric.name(), |distance| &distance.name));
        if let Some(distance) = vector.distance.as_ref().filter(|distance| distance.options != Datum::Null) {
            options.insert("metric_options", distance.options.clone());
        }
        row.insert("vector", options);
        let state = table.describe_vector_index(&status.info.name)?;
        state.into_iter().for_each(|state| drop(row.insert("vector_state", state)));
    }
    Ok(row.into())
}

/// An index's function as clients carry it from one index to another.
struct SavedFunction {
    source: String,
    multi: bool,
}

impl SavedFunction {
    fn encode(&self) -> Vec<u8> {
        let saved = Datum::object([("multi", Datum::from(self.multi)), ("source", self.source.as_str().into())]);
        [FUNCTION_PREFIX, saved.to_json_string().as_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let invalid = || {
            ReqlError::logic(
                "The binary is not an index's function: take it from the field `function` of INDEX_STATUS.",
            )
        };
        let text = bytes.strip_prefix(FUNCTION_PREFIX).ok_or_else(invalid)?;
        let saved = json::parse(std::str::from_utf8(text).map_err(|_| invalid())?).map_err(|_| invalid())?;
        match (saved.get("source"), saved.get("multi")) {
            (Some(Datum::String(source)), Some(Datum::Bool(multi))) => {
                determinism::compile_index(source).map_err(|_| invalid())?;
                Ok(Self { source: source.to_string(), multi: *multi })
            }
            _ => Err(invalid()),
        }
    }

    fn query(&self, name: &str) -> String {
        let multi = if self.multi { ", {multi: true}" } else { "" };
        format!("indexCreate('{name}', {}{multi})", self.source)
    }
}

fn index_rename(call: &Call<'_>) -> Result<Value> {
    let table = call.table(0)?;
    let (from, to) = (call.string(1)?, call.string(2)?);
    for name in [&from, &to] {
        if **name == *table.primary_key() {
            return Err(StoreError::IndexNameIsPrimaryKey(name.to_string()).into());
        }
    }
    let overwrite = if call.option_flag("overwrite")? { Overwrite::Drop } else { Overwrite::Refuse };
    let stored = table.to_administer(call.ctx(), "rename indexes")?;
    let renamed = stored.rename_index(&from, &to, overwrite).map_err(|error| match error {
        StoreError::IndexAbsent { db, table, .. } | StoreError::IndexExists { db, table, .. } => ReqlError::failed(
            format!("Index `{from}` does not exist or index `{to}` already exists on table `{db}.{table}`."),
        ),
        other => other.into(),
    })?;
    Ok(Datum::object([("renamed", u32::from(renamed))]).into())
}
