//! The database `rethinkdb`: what drivers, tools and operators ask of a server in queries.
//!
//! RethinkDB's own tables are here with its field names, and three of PhotonDB's: `plugins`, `plugin_events` and
//! `plugin_logs`. A table is computed when it is read, so a row is never older than the query. All are read-only.

use std::sync::Arc;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::{Object, Time};
use serde::Serialize;
use uuid::Uuid;

use super::status::PluginControl;
use crate::storage::{Durability, EngineStatus, Store, Table, TableInfo};

/// The name of the database.
pub const DATABASE: &str = "rethinkdb";

/// A table whose rows are computed.
pub trait SystemTable: Send + Sync {
    /// The name in the database `rethinkdb`.
    fn name(&self) -> &'static str;

    /// The field that identifies a row.
    fn primary_key(&self) -> &'static str;

    /// The rows as they are now.
    fn rows(&self) -> Vec<Datum>;
}

/// Where rows come from.
pub struct Sources {
    /// Databases and tables.
    pub store: Store,
    /// Plugins.
    pub plugins: Arc<dyn PluginControl>,
    /// This server.
    pub server: ServerInfo,
    /// Who may connect.
    pub users: Box<dyn Fn() -> Vec<User> + Send + Sync>,
}

/// This server, as `server_config` and `server_status` show it.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    /// The id of this run.
    pub id: Uuid,
    /// The name.
    pub name: String,
    /// When it started.
    pub started: Time,
    /// The port of the ReQL protocol.
    pub reql_port: u16,
    /// The port of HTTP.
    pub http_port: u16,
    /// Memory for the storage engine's cache.
    pub cache_bytes: u64,
}

/// A user, as `users` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// Whether a password is needed.
    pub has_password: bool,
}

/// How one table is made.
struct Computed {
    name: &'static str,
    primary_key: &'static str,
    rows: fn(&Sources) -> Vec<Datum>,
    sources: Arc<Sources>,
}

impl SystemTable for Computed {
    fn name(&self) -> &'static str {
        self.name
    }

    fn primary_key(&self) -> &'static str {
        self.primary_key
    }

    fn rows(&self) -> Vec<Datum> {
        (self.rows)(&self.sources)
    }
}

type Definition = (&'static str, &'static str, fn(&Sources) -> Vec<Datum>);

const TABLES: [Definition; 11] = [
    ("current_issues", "id", current_issues),
    ("db_config", "id", db_config),
    ("permissions", "id", permissions),
    ("plugin_events", "id", plugin_events),
    ("plugin_logs", "id", plugin_logs),
    ("plugins", "name", plugins),
    ("server_config", "id", server_config),
    ("server_status", "id", server_status),
    ("table_config", "id", table_config),
    ("table_status", "id", table_status),
    ("users", "id", users),
];

/// All system tables, by name.
#[must_use]
pub fn system_tables(sources: Sources) -> Vec<Box<dyn SystemTable>> {
    let sources = Arc::new(sources);
    let table = |(name, primary_key, rows)| -> Box<dyn SystemTable> {
        Box::new(Computed { name, primary_key, rows, sources: Arc::clone(&sources) })
    };
    TABLES.into_iter().map(table).collect()
}

fn plugins(sources: &Sources) -> Vec<Datum> {
    sources.plugins.list().iter().map(row).collect()
}

fn plugin_events(sources: &Sources) -> Vec<Datum> {
    sources.plugins.events().iter().map(|event| at_time(&row(event), event.time)).collect()
}

fn plugin_logs(sources: &Sources) -> Vec<Datum> {
    sources.plugins.logs(None).iter().map(|line| at_time(&row(line), line.time)).collect()
}

/// The fields of a structure.
fn row(structure: &impl Serialize) -> Datum {
    // Neither step fails for the structures of `status`, which have no pseudotypes and no map with other keys than text.
    serde_json::to_value(structure).ok().and_then(|json| Datum::from_json(&json).ok()).unwrap_or_default()
}

/// `row` with the field `time` as a time, not a number.
fn at_time(row: &Datum, time: f64) -> Datum {
    let mut object: Object = row.as_object().map(|object| Object::clone(object)).unwrap_or_default();
    object.insert("time", Time::new(time, 0).ok().map(Datum::Time));
    object.into()
}

/// A plugin that does not run although it should is an issue.
fn current_issues(sources: &Sources) -> Vec<Datum> {
    let broken = sources.plugins.list().into_iter().filter_map(|plugin| Some((plugin.error?, plugin.name)));
    let issue = |(error, name): (String, String)| {
        Datum::object([
            ("id", Datum::from(format!("plugin {name}"))),
            ("type", "plugin_unavailable".into()),
            ("critical", false.into()),
            ("info", Datum::object([("plugin", name.as_str())])),
            ("description", error.into()),
        ])
    };
    broken.map(issue).collect()
}

fn db_config(sources: &Sources) -> Vec<Datum> {
    let row = |id: Uuid, name: String| Datum::object([("id", id.to_string()), ("name", name)]);
    sources.store.databases().into_iter().map(|database| row(database.id, database.name)).collect()
}

fn table_config(sources: &Sources) -> Vec<Datum> {
    let server = sources.server.name.as_str();
    let shard = Datum::object([
        ("primary_replica", server.into()),
        ("replicas", Datum::array([server.into()])),
        ("nonvoting_replicas", Datum::array([])),
    ]);
    let row = |info: &TableInfo, engine: EngineStatus, indexes: Datum| {
        let durability = match info.durability {
            Durability::Hard => "hard",
            Durability::Soft => "soft",
        };
        Datum::object([
            ("id", Datum::from(info.id.to_string())),
            ("name", info.name.as_str().into()),
            ("db", info.db.as_str().into()),
            ("primary_key", info.primary_key.as_str().into()),
            ("shards", Datum::array([shard.clone()])),
            ("indexes", indexes),
            ("write_acks", "majority".into()),
            ("durability", durability.into()),
            ("write_hook", Datum::Null),
            ("engine", engine.engine.into()),
            ("engine_options", engine.options),
        ])
    };
    let tables = sources.store.all_tables();
    let indexes =
        |names: Vec<_>| Datum::array(names.into_iter().map(|index: crate::storage::IndexInfo| index.name.into()));
    tables.iter().map(|table| row(table.info(), table.engine_status(), indexes(table.indexes()))).collect()
}

fn table_status(sources: &Sources) -> Vec<Datum> {
    const READY: [&str; 4] = ["all_replicas_ready", "ready_for_outdated_reads", "ready_for_reads", "ready_for_writes"];
    let server = sources.server.name.as_str();
    let row = |table: &Table| {
        let (info, engine) = (table.info(), table.engine_status());
        let is_available = engine.is_available;
        let replica = Datum::object([
            ("server", Datum::from(server)),
            ("state", if is_available { "ready" } else { "disconnected" }.into()),
        ]);
        let primaries = if is_available { Datum::array([server.into()]) } else { Datum::array([]) };
        let shard = Datum::object([("primary_replicas", primaries), ("replicas", Datum::array([replica]))]);
        let (plugin, version) = engine.plugin.unzip();
        Datum::object([
            ("id", Datum::from(info.id.to_string())),
            ("name", info.name.as_str().into()),
            ("db", info.db.as_str().into()),
            ("status", Datum::object(READY.map(|state| (state, is_available)))),
            ("shards", Datum::array([shard])),
            ("raft_leader", server.into()),
            ("engine", engine_row(&engine.engine, plugin, version, is_available, table)),
        ])
    };
    sources.store.all_tables().iter().map(|table| row(table)).collect()
}

/// Where a table is stored, and whether it can be used.
fn engine_row(name: &str, plugin: Option<String>, version: Option<String>, is_available: bool, table: &Table) -> Datum {
    Datum::object([
        ("name", Datum::from(name)),
        ("plugin", plugin.into()),
        ("plugin_version", version.into()),
        ("state", if is_available { "ready" } else { "unavailable" }.into()),
        ("statistics", table.engine_statistics()),
        ("upkeep", table.upkeep_status()),
    ])
}

fn server_config(sources: &Sources) -> Vec<Datum> {
    let server = &sources.server;
    vec![Datum::object([
        ("id", Datum::from(server.id.to_string())),
        ("name", server.name.as_str().into()),
        ("tags", Datum::array(["default".into()])),
        ("cache_size_mb", megabytes(server.cache_bytes)),
    ])]
}

fn server_status(sources: &Sources) -> Vec<Datum> {
    let server = &sources.server;
    let network = Datum::object([
        ("hostname", Datum::from(server.name.as_str())),
        ("reql_port", u32::from(server.reql_port).into()),
        ("http_admin_port", u32::from(server.http_port).into()),
        ("time_connected", Datum::Time(server.started)),
    ]);
    let process = Datum::object([
        ("version", Datum::from(concat!("photondb ", env!("CARGO_PKG_VERSION")))),
        ("pid", std::process::id().into()),
        ("time_started", Datum::Time(server.started)),
        ("cache_size_mb", megabytes(server.cache_bytes)),
    ]);
    vec![Datum::object([
        ("id", Datum::from(server.id.to_string())),
        ("name", server.name.as_str().into()),
        ("network", network),
        ("process", process),
    ])]
}

fn megabytes(bytes: u64) -> Datum {
    Datum::Number((bytes >> 20) as f64)
}

fn users(sources: &Sources) -> Vec<Datum> {
    let row = |user: User| Datum::object([("id", Datum::from(user.name)), ("password", user.has_password.into())]);
    (sources.users)().into_iter().map(row).collect()
}

/// Whoever may connect may do everything.
fn permissions(sources: &Sources) -> Vec<Datum> {
    const KINDS: [&str; 4] = ["read", "write", "config", "connect"];
    let row = |user: User| {
        Datum::object([
            ("id", Datum::array([user.name.as_str().into()])),
            ("user", user.name.as_str().into()),
            ("permissions", Datum::object(KINDS.map(|kind| (kind, true)))),
        ])
    };
    (sources.users)().into_iter().map(row).collect()
}

#[cfg(test)]
mod tests;
