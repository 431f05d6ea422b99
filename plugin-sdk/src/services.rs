//! What the server does for a plugin that was granted it: queries, connections, metrics, a directory of its own.
//!
//! A plugin declares what it needs in its manifest, the operator grants it in `photondb.toml`, and what both name arrives
//! in [`Plugin::connect`](crate::registry::Plugin::connect). What is `None` was not granted, and can't be had in any other
//! way.
//!
//! ```
//! use photondb_plugin_sdk::prelude::*;
//! use photondb_plugin_sdk::services::{Connector, Services};
//!
//! #[derive(Default)]
//! struct Weather {
//!     connector: Option<Connector>,
//! }
//!
//! impl Plugin for Weather {
//!     fn name(&self) -> &str { "weather" }
//!     fn version(&self) -> &str { "1.0.0" }
//!     fn connect(&mut self, services: Services) {
//!         // `connect = ["weather.example:80"]` in the manifest and in the operator's grant.
//!         self.connector = services.connect;
//!     }
//!     fn register(&self, registry: &mut PluginRegistry) { /* functions that use it */ }
//! }
//! ```
//!
//! All of them are cheap to clone, and calls wait for their answer. They are made by the threads that answer calls, or
//! by threads of the plugin's own; not by `configure` or `register`, which the server waits for: there they are an error.

use std::fmt;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Datum, PluginError};

/// The services that a plugin was granted.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Services {
    /// `query = ["read:DATABASE.TABLE"]`: queries of the granted tables.
    pub query: Option<Query>,
    /// `connect = ["HOST:PORT"]`: connections to the granted hosts.
    pub connect: Option<Connector>,
    /// `metrics = true`: the server's metrics.
    pub metrics: Option<Metrics>,
    /// `state = true`: a directory of the plugin's own.
    pub state: Option<StateDirectory>,
}

/// Runs queries.
#[derive(Clone)]
pub struct Query(Arc<QueryFn>);

type QueryFn = dyn Fn(&serde_json::Value) -> Result<Datum, PluginError> + Send + Sync;

impl Query {
    /// Queries that `run` answers: what the server does, or, in a test, anything.
    pub fn new(run: impl Fn(&serde_json::Value) -> Result<Datum, PluginError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(run))
    }

    /// Evaluates a ReQL term, in the JSON of the wire protocol, on behalf of the call that this thread is answering: in
    /// the time that is left of it.
    ///
    /// # Errors
    /// What the query failed with; [`Cause::Denied`](crate::Cause::Denied) for tables outside the grant, with the line that
    /// would grant them: `query = ["read:geo.places"]`. [`Cause::Limit`](crate::Cause::Limit) for a result of more than
    /// 1 MB, more than 8 queries at a time within a call, and queries that call each other more than 4 levels deep.
    pub fn run(&self, term: &serde_json::Value) -> Result<Datum, PluginError> {
        (self.0)(term)
    }

    /// The document of `database.table` with this primary key, if there is one. `query = ["read:DATABASE.TABLE"]`.
    ///
    /// ```
    /// # use photondb_plugin_sdk::services::Query;
    /// # use photondb_plugin_sdk::{Datum, PluginError};
    /// fn country(query: &Query, place: &str) -> Result<Datum, PluginError> {
    ///     let document = query.get("geo", "places", place)?;
    ///     Ok(document.and_then(|document| document.get("country").cloned()).unwrap_or_default())
    /// }
    /// # let query = Query::new(|_| Ok(Datum::object([("country", "IS")])));
    /// # assert_eq!(country(&query, "Reykjavik").unwrap(), Datum::from("IS"));
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn get(&self, database: &str, table: &str, key: impl Into<Datum>) -> Result<Option<Datum>, PluginError> {
        // GET(TABLE(DB(database), table), key); JSON() makes a value of the key, whatever it is.
        let table = serde_json::json!([15, [[14, [database]], table]]);
        let document = self.run(&serde_json::json!([16, [table, [98, [key.into().to_json_string()]]]]))?;
        Ok(Some(document).filter(|document| !matches!(document, Datum::Null)))
    }
}

/// Makes connections.
#[derive(Clone)]
pub struct Connector(Arc<DialFn>);

type DialFn = dyn Fn(&str, u16) -> Result<TcpStream, PluginError> + Send + Sync;

impl Connector {
    /// Connections that `dial` makes: what the server does, or, in a test, anything.
    pub fn new(dial: impl Fn(&str, u16) -> Result<TcpStream, PluginError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(dial))
    }

    /// Connects to `host` and `port`, which must be granted as they are written here. The server resolves and dials; the
    /// stream is the plugin's own, with time limits of 30 s for each read and write.
    ///
    /// # Errors
    /// [`Cause::Denied`](crate::Cause::Denied) for what is not granted, or resolves to an address that is not public;
    /// [`Cause::Limit`](crate::Cause::Limit) beyond the limits of connections; otherwise why nobody answers there.
    pub fn dial(&self, host: &str, port: u16) -> Result<TcpStream, PluginError> {
        (self.0)(host, port)
    }
}

/// Reads the server's metrics.
#[derive(Clone)]
pub struct Metrics(Arc<SnapshotFn>);

type SnapshotFn = dyn Fn() -> Result<String, PluginError> + Send + Sync;

impl Metrics {
    /// Metrics that `snapshot` reads: what the server does, or, in a test, anything.
    pub fn new(snapshot: impl Fn() -> Result<String, PluginError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(snapshot))
    }

    /// What `/metrics` of the server shows now, in the text format of OpenMetrics.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn snapshot(&self) -> Result<String, PluginError> {
        (self.0)()
    }
}

/// A directory of the plugin's own: nobody else reads it, and it survives restarts, reloads and new versions. The
/// operator limits its bytes and its files.
///
/// Files in it are opened with `std::fs`. What is to survive a crash whole is written beside, synced and renamed, as
/// anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDirectory(PathBuf);

impl StateDirectory {
    /// The directory `path`. The server makes it the working directory, `.`; a test may take any.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file or directory `name` in it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Query")
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}
