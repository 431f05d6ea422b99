//! The server's metrics, for plugins that export them: counters, never rows.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use photondb_ipc_schema::plugin_capnp::metrics;

use crate::admin::metrics::encode;
use crate::plugins::registry::Registry;

/// How old a snapshot may be. Making one costs as much as a scrape, and a plugin may ask thousands of times a second.
const MAX_AGE: Duration = Duration::from_millis(100);

struct Service {
    registry: Arc<Registry>,
    last: RefCell<Option<(Instant, String)>>,
}

/// The capability.
pub(super) fn client(registry: Arc<Registry>) -> metrics::Client {
    capnp_rpc::new_client(Service { registry, last: RefCell::default() })
}

impl Service {
    fn refresh(&self, now: Instant) -> capnp::Result<()> {
        let mut last = self.last.borrow_mut();
        if last.as_ref().is_some_and(|(made, _)| now.duration_since(*made) < MAX_AGE) {
            return Ok(());
        }
        let plugins = self.registry.plugins().iter().map(|plugin| plugin.status()).collect();
        let text = encode(plugins).map_err(|_| capnp::Error::failed("the metrics could not be written".into()))?;
        *last = Some((now, text));
        Ok(())
    }
}

impl metrics::Server for Service {
    async fn snapshot(
        self: Rc<Self>,
        _: metrics::SnapshotParams,
        mut results: metrics::SnapshotResults,
    ) -> capnp::Result<()> {
        self.refresh(Instant::now())?;
        if let Some((_, text)) = &*self.last.borrow() {
            results.get().set_text(text);
        }
        Ok(())
    }
}
