//! What the server does for a plugin that was granted it. Each service is a capability: a plugin that was not granted one
//! never receives anything that it could call.
//!
//! | module | service |
//! |---|---|
//! | `connect` | dials listed hosts and passes the connected sockets on |
//! | `metrics` | reads the server's metrics |
//! | [`state`] | a directory of the plugin's own |
//! | [`query`] | runs ReQL within a call |
//!
//! Services run on the plugin thread and don't keep it: what takes time is done elsewhere and awaited. How much a plugin
//! may call is decided by `photondb_ipc_schema::control`.

mod connect;
mod metrics;
pub mod query;
pub mod state;

use std::rc::Rc;
use std::sync::Arc;

use photondb_ipc_schema::control::Callable;
use photondb_ipc_schema::plugin_capnp as wire;

use super::grant::Granted;
use super::instance::Passing;
use super::journal::Journal;
use super::registry::Registry;
use connect::Dialer;
use photondb_plugin_sdk::PluginError;
use query::{EngineSlot, Queries};

/// What services need of the server.
pub struct Sources {
    /// Whose metrics are shown.
    pub registry: Arc<Registry>,
    /// Where refusals are told.
    pub journal: Arc<Journal>,
    /// The server's own ports, which no plugin is connected to unless they are listed.
    pub ports: Vec<u16>,
    /// What answers queries, once the data is open: plugins start before.
    pub engine: Arc<EngineSlot>,
}

/// The services of one process.
#[derive(Default)]
pub struct Services {
    query: Option<wire::query::Client>,
    connect: Option<wire::connect::Client>,
    metrics: Option<wire::metrics::Client>,
    state_directory: bool,
}

impl Services {
    /// Those that were granted to the process `pid` of `plugin`; `queries` are those of the process.
    pub fn offer(
        plugin: &str,
        pid: u32,
        granted: &Granted,
        sources: &Sources,
        passing: &Rc<Passing>,
        queries: Option<&Arc<Queries>>,
    ) -> Self {
        let dialer = || Dialer {
            plugin: plugin.to_owned(),
            pid,
            listed: granted.connect.clone(),
            ports: sources.ports.clone(),
            passing: Rc::clone(passing),
            journal: Arc::clone(&sources.journal),
        };
        Self {
            query: queries.map(query::client),
            connect: (!granted.connect.is_empty()).then(|| connect::client(dialer())),
            metrics: granted.metrics.then(|| metrics::client(Arc::clone(&sources.registry))),
            state_directory: granted.state.is_some(),
        }
    }

    /// Whether there is anything to call.
    pub fn callable(&self) -> Callable {
        match self {
            Self { query: None, connect: None, metrics: None, .. } => Callable::Nothing,
            _ => Callable::Services,
        }
    }

    /// Writes them into a handshake.
    pub fn pass(self, mut wire: wire::services::Builder<'_>) {
        if let Some(query) = self.query {
            wire.set_query(query);
        }
        if let Some(connect) = self.connect {
            wire.set_connect(connect);
        }
        if let Some(metrics) = self.metrics {
            wire.set_metrics(metrics);
        }
        wire.set_state_directory(self.state_directory);
    }
}

/// Answers that it failed, and why.
fn fail(mut failure: wire::failure::Builder<'_>, error: &PluginError) {
    let mut wire = failure.reborrow().init_error();
    wire.set_cause(error.cause() as u8);
    wire.set_message(error.message());
}
