//! Calls of functions by tasks of an event loop.

use std::time::Instant;

use photondb_ipc_schema::region::PrivateCopy;
use photondb_plugin_sdk::calls::{Invocation, read_rows};
use photondb_plugin_sdk::{Cause, Datum, PluginError};

use super::{Function, is_retryable};
use crate::plugins::instance::Instance;
use crate::query::nested::Origin;

impl Function {
    /// Computes one row, without blocking the thread that the task runs on, and without a thread between it and the plugin:
    /// while a process is ready to be called, and the function is none that queries. Otherwise a thread of the runtime's
    /// own for such things waits, as [`invoke_batch`](Self::invoke_batch) does. Dropped, the call is cancelled.
    ///
    /// # Errors
    /// What the function said, or what happened to the plugin.
    pub async fn call(&self, args: Vec<Datum>, deadline: Instant) -> Result<Datum, PluginError> {
        let args: Vec<[Datum; 1]> = args.into_iter().map(|arg| [arg]).collect();
        let instance = self.plugin.ready().filter(|instance| self.built_in.is_none() && !instance.may_query());
        let mut tries = self.tries();
        if let Some(instance) = instance {
            tries -= 1;
            let started = Instant::now();
            let outcome = self.call_on(&instance, &args, deadline).await;
            let is_answer = self.plugin.heard(&outcome);
            let is_final = match &outcome {
                Err(error) if tries > 0 => is_answer || !is_retryable(&instance, error),
                _ => true,
            };
            if is_final {
                self.plugin.counters().record(started.elapsed(), outcome.is_ok());
                return outcome.or_else(|error| if self.is_null_after(&error) { Ok(Datum::Null) } else { Err(error) });
            }
        }
        let function = self.clone();
        let waiting = move || function.invoke_trying(tries, &args, 1, &Origin::until(deadline));
        let gone = |_| PluginError::runtime(Cause::Unavailable, "the server is stopping").of(self.plugin.name());
        let mut results = tokio::task::spawn_blocking(waiting).await.map_err(gone)??;
        results.pop().ok_or_else(|| PluginError::runtime(Cause::Protocol, "no result").of(self.plugin.name()))
    }

    async fn call_on(&self, instance: &Instance, args: &[[Datum; 1]], deadline: Instant) -> Result<Datum, PluginError> {
        let number = self.number(instance)?;
        let caller = self.plugin.call();
        let draft = instance.begin(instance.lane(&Origin::until(deadline))?, caller.turn_by(deadline)).await?;
        let args: Vec<&[Datum]> = args.iter().map(<[Datum; 1]>::as_slice).collect();
        let invocation = Invocation::send(draft, number, &args, 1).map_err(|error| instance.judge(error))?;
        let mut reply = PrivateCopy::default();
        let completion = instance.answer(invocation.into_pending(), deadline, &mut reply).await?;
        let results = read_rows(completion, 1, &reply).map_err(|error| instance.judge(error))?;
        results.into_iter().next().ok_or_else(|| PluginError::runtime(Cause::Protocol, "no result"))
    }
}
