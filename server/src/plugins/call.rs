//! Calls of query functions: where a query meets a plugin.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use photondb_ipc_schema::region::PrivateCopy;
use photondb_plugin_sdk::calls::Invocation;
use photondb_plugin_sdk::kinds::function::{FunctionSignature, Purity};
use photondb_plugin_sdk::{Cause, Datum, PluginError};

use super::instance::Instance;
use super::plugin::{Caller, Plugin};
use super::services::query::Allowed;
use crate::config::OnFailure;
use crate::query::nested::Origin;

/// Rows of one message on a lane: beyond it, the round trip no longer shows in the cost of a row.
const ROWS_PER_MESSAGE: usize = 1024;

/// Whether a failure is one that `on_failure` is about, and not the caller's own.
fn is_plugins_fault(cause: Cause) -> bool {
    !matches!(cause, Cause::Argument | Cause::NonExistence)
}

/// A function that a plugin provides. Stays valid when the plugin is restarted or reloaded.
#[derive(Clone)]
pub struct Function {
    plugin: Arc<Plugin>,
    signature: FunctionSignature,
}

impl Function {
    /// The function of that signature.
    #[must_use]
    pub(super) fn new(plugin: Arc<Plugin>, signature: FunctionSignature) -> Self {
        Self { plugin, signature }
    }

    /// Name, number of arguments and purity.
    #[must_use]
    pub fn signature(&self) -> &FunctionSignature {
        &self.signature
    }

    /// The plugin that provides it.
    #[must_use]
    pub fn plugin(&self) -> &str {
        self.plugin.name()
    }

    /// Computes `rows` rows; `args[i][row]` is argument `i`. Waits at most until the origin's deadline, and on a plugin that is
    /// being restarted as well. A pure function whose plugin dies is tried once more on the next instance. Where the
    /// operator said `on_failure = "null"`, a failure of the plugin gives null for the rows that it left.
    ///
    /// # Errors
    /// What the function said of the first row that failed, or what happened to the plugin.
    pub fn invoke_batch(
        &self,
        args: &[Vec<Datum>],
        rows: usize,
        origin: &Origin<'_>,
    ) -> Result<Vec<Datum>, PluginError> {
        let started = Instant::now();
        let mut results = Vec::with_capacity(rows);
        let outcome = self.invoke_all(args, rows, origin, &mut results);
        self.plugin.counters().record(started.elapsed(), outcome.is_ok());
        match outcome {
            Err(error)
                if self.plugin.on_failure().of_functions() == OnFailure::Null && is_plugins_fault(error.cause()) =>
            {
                results.resize(rows, Datum::Null);
                Ok(results)
            }
            outcome => outcome.map(|()| results),
        }
    }

    fn invoke_all(
        &self,
        args: &[Vec<Datum>],
        rows: usize,
        origin: &Origin<'_>,
        results: &mut Vec<Datum>,
    ) -> Result<(), PluginError> {
        let (caller, deadline) = (self.plugin.call(), origin.deadline);
        let mut tries = if self.signature.purity == Purity::Pure { 2 } else { 1 };
        loop {
            let instance = caller.instance(caller.turn_by(deadline))?;
            tries -= 1;
            match self.invoke_on(&instance, &caller, args, rows, origin, results) {
                // The process may have been killed for somebody else's call.
                Err(error)
                    if tries > 0
                        && (error.cause().is_retryable() || instance.ended_with(&error))
                        && Instant::now() < deadline => {}
                other => return other,
            }
        }
    }

    /// Computes the rows that have no result yet, several messages in flight, so that encoding, computing and reading
    /// back overlap. On an error the results so far stay.
    fn invoke_on(
        &self,
        instance: &Instance,
        caller: &Caller<'_>,
        args: &[Vec<Datum>],
        rows: usize,
        origin: &Origin<'_>,
        results: &mut Vec<Datum>,
    ) -> Result<(), PluginError> {
        let deadline = origin.deadline;
        let functions = &instance.provides().functions;
        let number = functions
            .iter()
            .position(|function| function.name == self.signature.name)
            .and_then(|at| u32::try_from(at).ok())
            .ok_or_else(|| {
                let message = format!("this version no longer provides the function `{}`", self.signature.name);
                PluginError::runtime(Cause::Unavailable, message).of(self.plugin.name())
            })?;
        let (lane, counters) = (instance.lane(origin)?, self.plugin.counters());
        let mut in_flight: VecDeque<(Invocation, Option<Allowed>)> = VecDeque::new();
        let (mut sent, mut reply) = (results.len(), PrivateCopy::default());
        while results.len() < rows {
            while sent < rows && in_flight.len() < lane.depth() {
                // Others share the lane: only the first message of ours may wait for a slot.
                let draft = match in_flight.is_empty() {
                    true => Some(lane.begin(caller.turn_by(deadline)).map_err(|error| instance.judge(error.into()))?),
                    false => lane.try_begin().map_err(|error| instance.judge(error.into()))?,
                };
                let Some(draft) = draft else { break };
                let count = (rows - sent).min(ROWS_PER_MESSAGE);
                let part: Vec<&[Datum]> = args.iter().map(|column| &column[sent..sent + count]).collect();
                let allowed = instance.allow_queries(&draft, origin);
                let invocation =
                    Invocation::send(draft, number, &part, count).map_err(|error| instance.judge(error))?;
                counters.shared(invocation.bytes());
                sent += invocation.rows();
                in_flight.push_back((invocation, allowed));
            }
            let Some((invocation, _allowed)) = in_flight.pop_front() else { break };
            let answer = invocation.wait(deadline, &mut reply);
            if answer.as_ref().map_or_else(|error| error.cause().is_answer(), |_| true) {
                self.plugin.answered();
            }
            results.extend(answer.map_err(|error| instance.judge(error))?);
            counters.copied(reply.bytes().len());
        }
        Ok(())
    }
}
