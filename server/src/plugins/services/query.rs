//! The permission `query`: a plugin runs ReQL on behalf of a call that it is answering.
//!
//! What such a query may touch and use up is the query engine's business (`query/access.rs`, `query/nested.rs`). Here are
//! the two things that only the plugin's side of the server knows: which calls are in flight, so that a query runs within
//! one of them and ends with it; and where queries run. That is on threads of the plugin's own, a few for each level. So
//! a plugin's queries take no thread from clients or from other plugins, and a query that waits for a plugin's function,
//! which waits for a query in turn, never waits for a thread that one further out holds. How many can wait for a thread
//! is bounded by the calls that a plugin may have in flight on its control connection
//! (`photondb_ipc_schema::control`).

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use photondb_ipc_schema::lane::Draft;
use photondb_ipc_schema::plugin_capnp::query;
use photondb_plugin_sdk::calls::MAX_MESSAGE;
use photondb_plugin_sdk::{Cause, PluginError};
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::query::Engine;
use crate::query::access::Scope;
use crate::query::error::{ErrorKind, ReqlError};
use crate::query::nested::{Calling, MAX_DEPTH, Origin, late};
use crate::query::workers::Workers;

/// Threads for the queries of one plugin process, at each level.
const THREADS: usize = 8;

/// The engine, once the data is open: plugins start before.
pub type EngineSlot = OnceLock<Engine>;

/// The queries of one plugin process.
pub struct Queries {
    instance: u64,
    scope: Arc<Scope>,
    engine: Arc<EngineSlot>,
    threads: [Workers; MAX_DEPTH],
    /// By lane and number.
    calls: Mutex<HashMap<(usize, u64), Arc<Calling>>>,
}

impl Queries {
    /// Those of the process number `instance`.
    #[must_use]
    pub fn new(instance: u64, scope: Scope, engine: Arc<EngineSlot>) -> Arc<Self> {
        Arc::new(Self {
            instance,
            scope: Arc::new(scope),
            engine,
            threads: std::array::from_fn(|_| Workers::new(THREADS, "plugin-query")),
            calls: Mutex::default(),
        })
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<(usize, u64), Arc<Calling>>> {
        // Nothing panics while it holds the lock.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the call that is about to be sent run queries, until the guard is dropped. What runs then is ended.
    #[must_use]
    pub fn allow(self: &Arc<Self>, call: &Draft, origin: &Origin<'_>) -> Allowed {
        let id = (call.lane(), call.number());
        let calling = Arc::new(Calling::new(self.instance, id.0, origin));
        self.calls().insert(id, Arc::clone(&calling));
        Allowed { queries: Arc::clone(self), id, calling }
    }

    /// Runs a query on behalf of a call, and waits for its result: an encoded datum.
    ///
    /// # Errors
    /// When the call is not in flight, a limit is reached, or the query fails.
    pub async fn run(&self, lane: u16, call: u64, term: Vec<u8>) -> Result<Vec<u8>, PluginError> {
        let calling = self.calls().get(&(usize::from(lane), call)).cloned().ok_or_else(|| {
            let message = format!(
                "no call {call} of a query is in flight on lane {lane}: run queries while a function or a search is \
                 answered, on its own thread"
            );
            PluginError::runtime(Cause::Argument, message)
        })?;
        let running = calling.begin_query().map_err(failure)?;
        let engine = self.engine.get().cloned().ok_or_else(|| {
            PluginError::runtime(Cause::Unavailable, "the server is starting and has no data yet; try again")
        })?;
        let threads = self.threads.get(calling.depth() - 1).ok_or_else(|| failure(late()))?;
        let (sender, receiver) = oneshot::channel();
        let (scope, deadline) = (Arc::clone(&self.scope), calling.deadline());
        threads.spawn(move || {
            let result = engine.run_nested(&term, &scope, &calling);
            drop(running);
            // A plugin that has ended does not wait any more.
            let _ = sender.send(result);
        });
        match timeout_at(deadline.into(), receiver).await {
            Ok(Ok(result)) => result.map_err(failure),
            Ok(Err(_)) => Err(failure(ReqlError::internal("The query's thread ended."))),
            Err(_) => Err(failure(late())),
        }
    }
}

/// A call that may run queries, until dropped.
pub struct Allowed {
    queries: Arc<Queries>,
    id: (usize, u64),
    calling: Arc<Calling>,
}

impl Drop for Allowed {
    fn drop(&mut self) {
        self.queries.calls().remove(&self.id);
        self.calling.end();
    }
}

/// A query's error as the plugin gets it.
fn failure(error: ReqlError) -> PluginError {
    let cause = match error.kind() {
        ErrorKind::Permission => Cause::Denied,
        ErrorKind::ResourceLimit => Cause::Limit,
        ErrorKind::NonExistence => Cause::NonExistence,
        ErrorKind::Client | ErrorKind::Compile | ErrorKind::QueryLogic | ErrorKind::User | ErrorKind::EmptyUser => {
            Cause::Argument
        }
        ErrorKind::Internal | ErrorKind::OpFailed | ErrorKind::OpIndeterminate => Cause::Unavailable,
    };
    let message = error.message();
    PluginError::runtime(cause, &message[..message.floor_char_boundary(MAX_MESSAGE)])
}

/// The capability.
struct Service(Arc<Queries>);

/// The capability to run these queries.
#[must_use]
pub fn client(queries: &Arc<Queries>) -> query::Client {
    capnp_rpc::new_client(Service(Arc::clone(queries)))
}

impl query::Server for Service {
    async fn run(self: Rc<Self>, params: query::RunParams, mut results: query::RunResults) -> capnp::Result<()> {
        let (lane, call, term) = {
            let params = params.get()?;
            (params.get_lane(), params.get_call(), params.get_term()?.to_vec())
        };
        drop(params);
        let outcome = self.0.run(lane, call, term).await;
        let mut results = results.get();
        match outcome {
            Ok(result) => results.set_result(&result),
            Err(error) => {
                let mut wire = results.init_failure().init_error();
                wire.set_cause(error.cause() as u8);
                wire.set_message(error.message());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
