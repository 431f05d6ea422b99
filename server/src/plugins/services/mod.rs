//! What the server does for a plugin that was granted it. Each service is a capability: a plugin that was not granted one
//! never receives anything that it could call.
//!
//! | module | service |
//! |---|---|
//! | `metrics` | reads the server's metrics |
//!
//! Services run on the plugin thread and don't keep it: what takes time is done elsewhere and awaited. How much a plugin
//! may call is decided by `photondb_ipc_schema::control`.

mod metrics;

use std::sync::Arc;

use photondb_ipc_schema::control::Callable;
use photondb_ipc_schema::plugin_capnp as wire;

use super::grant::Granted;
use super::registry::Registry;

/// What services need of the server.
pub struct Sources {
    /// Whose metrics are shown.
    pub registry: Arc<Registry>,
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
    /// Those that were granted.
    pub fn offer(granted: &Granted, sources: &Sources) -> Self {
        Self {
            query: None,
            connect: None,
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
