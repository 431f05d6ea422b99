//! Calls of query functions: where a query meets a plugin.
//!
//! There are two ways. [`Function::start`] writes rows into a lane and returns at once; it waits for nothing, and gives up
//! where it would have to. [`Function::invoke_batch`] waits: for a process that is being started, for a slot, for the
//! answer, and for the next process if that one dies. A scan takes the first while it can, and the second where it must.
//! [`Function::call`] is for tasks, which may not wait.

mod task;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use photondb_ipc_schema::region::PrivateCopy;
use photondb_plugin_sdk::batch::Cell;
use photondb_plugin_sdk::calls::Invocation;
use photondb_plugin_sdk::kinds::function::{FunctionSignature, Purity};
use photondb_plugin_sdk::{Cause, Datum, PluginError};

use super::built_in::BuiltIn;
use super::instance::Instance;
use super::plugin::{Caller, Plugin};
use super::services::query::Allowed;
use crate::config::OnFailure;
use crate::query::nested::Origin;

/// Rows of one message on a lane: beyond it, the round trip no longer shows in the cost of a row.
pub(super) const ROWS_PER_MESSAGE: usize = 1024;

/// Whether the next process may do better. This one may have been killed for somebody else's call.
fn is_retryable(instance: &Instance, error: &PluginError) -> bool {
    error.cause().is_retryable() || instance.ended_with(error)
}

/// A function that a plugin provides. Stays valid when the plugin is restarted or reloaded.
#[derive(Clone)]
pub struct Function {
    plugin: Arc<Plugin>,
    signature: FunctionSignature,
    built_in: Option<BuiltIn>,
}

impl Function {
    /// The function of that signature.
    #[must_use]
    pub(super) fn new(plugin: Arc<Plugin>, signature: FunctionSignature) -> Self {
        Self { plugin, signature, built_in: None }
    }

    /// The function of that signature of a plugin that is linked in.
    #[must_use]
    pub(super) fn linked_in(plugin: Arc<Plugin>, signature: FunctionSignature, code: BuiltIn) -> Self {
        Self { plugin, signature, built_in: Some(code) }
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

    /// Wakes the process that the next call goes to, for rows that are being read now.
    pub fn ring_ahead(&self, origin: &Origin<'_>) {
        if self.built_in.is_none()
            && let Some(instance) = self.plugin.ready()
            && let Ok(lane) = instance.lane(origin)
        {
            lane.ring_ahead();
        }
    }

    /// Begins to compute as many of the rows as fit into one message, from the first on, beside this thread. `None`, without
    /// waiting for anything: there is no process or no slot for it now, or the function is none that may be computed again
    /// if that process dies.
    #[must_use]
    pub fn start<C: Cell>(&self, args: &[&[C]], rows: usize, origin: &Origin<'_>) -> Option<StartedCall> {
        if self.built_in.is_some() || self.signature.purity != Purity::Pure {
            return None;
        }
        // What may query has so long from when it is called: it is called when it is its turn.
        let instance = self.plugin.ready().filter(|instance| !instance.may_query())?;
        let number = self.number(&instance).ok()?;
        let draft = instance.lane(origin).ok()?.try_begin().ok()??;
        let (started, rows) = (Instant::now(), rows.min(ROWS_PER_MESSAGE));
        let args: Vec<&[C]> = args.iter().map(|column| &column[..rows]).collect();
        let invocation = Invocation::send(draft, number, &args, rows).ok()?;
        Some(StartedCall { plugin: Arc::clone(&self.plugin), instance, invocation, started })
    }

    /// Computes `rows` rows; `args[i][row]` is argument `i`. Waits at most until the origin's deadline, and on a plugin that is
    /// being restarted as well. A pure function whose plugin dies is tried once more on the next instance. Where the
    /// operator said `on_failure = "null"`, a failure of the plugin gives null for the rows that it left.
    ///
    /// # Errors
    /// What the function said of the first row that failed, or what happened to the plugin.
    pub fn invoke_batch<C: Cell>(
        &self,
        args: &[impl AsRef<[C]>],
        rows: usize,
        origin: &Origin<'_>,
    ) -> Result<Vec<Datum>, PluginError> {
        self.invoke_trying(self.tries(), args, rows, origin)
    }

    /// How often it is computed at most: again on the next process where that does no harm.
    fn tries(&self) -> u32 {
        if self.signature.purity == Purity::Pure { 2 } else { 1 }
    }

    fn invoke_trying<C: Cell>(
        &self,
        tries: u32,
        args: &[impl AsRef<[C]>],
        rows: usize,
        origin: &Origin<'_>,
    ) -> Result<Vec<Datum>, PluginError> {
        let started = Instant::now();
        let mut results = Vec::with_capacity(rows);
        let args: Vec<&[C]> = args.iter().map(AsRef::as_ref).collect();
        let outcome = match &self.built_in {
            Some(code) => code.invoke(&args, rows, &mut results).map_err(|error| error.of(self.plugin.name())),
            None => self.invoke_all(tries, &args, rows, origin, &mut results),
        };
        self.plugin.counters().record(started.elapsed(), outcome.is_ok());
        match outcome {
            Err(error) if self.is_null_after(&error) => {
                results.resize(rows, Datum::Null);
                Ok(results)
            }
            outcome => outcome.map(|()| results),
        }
    }

    /// Whether the operator wants null for what this error left: not where it is the caller's own.
    fn is_null_after(&self, error: &PluginError) -> bool {
        self.plugin.on_failure().of_functions() == OnFailure::Null
            && !matches!(error.cause(), Cause::Argument | Cause::NonExistence)
    }

    /// Which of a process's functions it is.
    fn number(&self, instance: &Instance) -> Result<u32, PluginError> {
        let functions = &instance.provides().functions;
        let number = functions.iter().position(|function| function.name == self.signature.name);
        number.and_then(|at| u32::try_from(at).ok()).ok_or_else(|| {
            let message = format!("this version no longer provides the function `{}`", self.signature.name);
            PluginError::runtime(Cause::Unavailable, message).of(self.plugin.name())
        })
    }

    fn invoke_all<C: Cell>(
        &self,
        mut tries: u32,
        args: &[&[C]],
        rows: usize,
        origin: &Origin<'_>,
        results: &mut Vec<Datum>,
    ) -> Result<(), PluginError> {
        let (caller, deadline) = (self.plugin.call(), origin.deadline);
        loop {
            let instance = caller.instance(caller.turn_by(deadline))?;
            tries -= 1;
            match self.invoke_on(&instance, &caller, args, rows, origin, results) {
                Err(error) if tries > 0 && is_retryable(&instance, &error) && Instant::now() < deadline => {}
                other => return other,
            }
        }
    }

    /// Computes the rows that have no result yet, several messages in flight, so that encoding, computing and reading
    /// back overlap. On an error the results so far stay.
    fn invoke_on<C: Cell>(
        &self,
        instance: &Instance,
        caller: &Caller<'_>,
        args: &[&[C]],
        rows: usize,
        origin: &Origin<'_>,
        results: &mut Vec<Datum>,
    ) -> Result<(), PluginError> {
        let deadline = origin.deadline;
        let number = self.number(instance)?;
        let lane = instance.lane(origin)?;
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
                let part: Vec<&[C]> = args.iter().map(|column| &column[sent..sent + count]).collect();
                let allowed = instance.allow_queries(&draft, origin);
                let invocation =
                    Invocation::send(draft, number, &part, count).map_err(|error| instance.judge(error))?;
                sent += invocation.rows();
                in_flight.push_back((invocation, allowed));
            }
            let Some((invocation, _allowed)) = in_flight.pop_front() else { break };
            let answer = invocation.wait(deadline, &mut reply);
            self.plugin.heard(&answer);
            results.extend(answer.map_err(|error| instance.judge(error))?);
        }
        Ok(())
    }
}

/// Rows that a process computes now.
pub struct StartedCall {
    plugin: Arc<Plugin>,
    instance: Arc<Instance>,
    invocation: Invocation,
    started: Instant,
}

impl StartedCall {
    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.invocation.rows()
    }

    /// The results; waits for them until `deadline`. Where the operator said `on_failure = "null"`, they are null if the
    /// plugin does not answer in time.
    ///
    /// # Errors
    /// What the function said of the first row that failed, or what happened to the plugin.
    pub fn finish(self, deadline: Instant) -> Result<Vec<Datum>, PluginError> {
        let Self { plugin, instance, invocation, started } = self;
        let (rows, mut reply) = (invocation.rows(), PrivateCopy::default());
        let answer = invocation.wait(deadline, &mut reply);
        plugin.heard(&answer);
        plugin.counters().record(started.elapsed(), answer.is_ok());
        match answer.map_err(|error| instance.judge(error)) {
            Err(error) if error.cause() == Cause::Deadline && plugin.on_failure().of_functions() == OnFailure::Null => {
                Ok(vec![Datum::Null; rows])
            }
            outcome => outcome,
        }
    }
}
