//! Calling plugins' functions from queries.
//!
//! The rest of the server implements the two traits; this module turns rows of arguments into batches and errors into
//! those of ReQL.

use std::sync::Arc;
use std::time::{Duration, Instant};

use photondb_plugin_sdk::batch::Value;
use photondb_plugin_sdk::kinds::function::{FunctionSignature, Purity, Role};
use photondb_plugin_sdk::{Cause, Datum, PluginError};

use super::error::{ReqlError, Result};
use super::eval::Context;
use super::nested::Origin;
use super::pseudo::{self, Limits, Obstacle};

/// How long one call of a plugin's function may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Finds plugins' functions by name.
pub trait PluginFunctions: Send + Sync {
    /// The function that queries call `plugin.NAME`.
    ///
    /// # Errors
    /// When no plugin provides it, or the one that does is not running.
    fn get(&self, name: &str) -> std::result::Result<Arc<dyn PluginFunction>, PluginError>;
}

/// A plugin's function.
pub trait PluginFunction: Send + Sync {
    /// Number of arguments and purity.
    fn signature(&self) -> &FunctionSignature;

    /// Computes `rows` rows; `args[i][row]` is argument `i`. Blocks until all are there.
    ///
    /// # Errors
    /// One for the whole batch.
    fn invoke_batch(
        &self,
        args: &[&[Value<'_>]],
        rows: usize,
        origin: &Origin<'_>,
    ) -> std::result::Result<Vec<Datum>, PluginError>;

    /// Tells the plugin that rows are being read for it, so that it is awake when they come.
    fn ring_ahead(&self, _origin: &Origin<'_>) {}

    /// Begins to compute as many of the rows as fit, from the first on, beside this thread and without waiting for anything.
    /// `None`: not now, or not this function; [`invoke_batch`](Self::invoke_batch) is the way then.
    fn start(&self, _args: &[&[Value<'_>]], _rows: usize, _origin: &Origin<'_>) -> Option<Box<dyn Running>> {
        None
    }
}

/// Rows that a plugin computes now. Dropped, nobody wants the results.
pub trait Running: Send {
    /// How many rows.
    fn rows(&self) -> usize;

    /// The results; waits for them until `deadline`.
    ///
    /// # Errors
    /// One for all of the rows.
    fn finish(self: Box<Self>, deadline: Instant) -> std::result::Result<Vec<Datum>, PluginError>;
}

/// The functions of a server without plugins.
pub struct NoPlugins;

impl PluginFunctions for NoPlugins {
    fn get(&self, name: &str) -> std::result::Result<Arc<dyn PluginFunction>, PluginError> {
        let message = format!("no plugin provides a function of this name; `plugin.{name}` can't be called");
        Err(PluginError::runtime(Cause::Unavailable, message).of(name))
    }
}

/// A plugin's function, found and ready to be called.
#[derive(Clone)]
pub struct PluginCall {
    name: Arc<str>,
    function: Arc<dyn PluginFunction>,
}

impl PluginCall {
    /// Finds the function.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(ctx: &Context, name: &str) -> Result<Self> {
        let function = ctx.resources.plugins().get(name)?;
        Ok(Self { name: name.into(), function })
    }

    /// The name behind `plugin.`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether equal arguments always give equal results.
    #[must_use]
    pub fn is_pure(&self) -> bool {
        self.function.signature().purity == Purity::Pure
    }

    /// Whether it is an aggregate: a function of a step and an array, for `reduce` alone.
    #[must_use]
    pub fn is_aggregate(&self) -> bool {
        self.function.signature().role == Role::Aggregate
    }

    /// Whether it makes values of a type of its name.
    #[must_use]
    pub fn is_data_type(&self) -> bool {
        self.function.signature().role == Role::DataType
    }

    /// Calls the function for one row.
    ///
    /// # Errors
    /// When the arguments are not what the function takes, or the call fails.
    pub fn invoke_one(&self, ctx: &Context, args: Vec<Datum>) -> Result<Datum> {
        let columns: Vec<[Value<'_>; 1]> = args.into_iter().map(|arg| [Value::Computed(arg)]).collect();
        let columns: Vec<&[Value<'_>]> = columns.iter().map(<[_; 1]>::as_slice).collect();
        let mut results = self.invoke(ctx, &columns, 1)?;
        results.pop().ok_or_else(|| ReqlError::internal("A plugin's result was lost."))
    }

    /// Calls the function for many rows at once; `args[i][row]` is argument `i`.
    ///
    /// # Errors
    /// One for the whole batch.
    pub fn invoke(&self, ctx: &Context, args: &[&[Value<'_>]], rows: usize) -> Result<Vec<Datum>> {
        if self.is_aggregate() {
            let name = &self.name;
            return Err(ReqlError::logic(format!(
                "plugin.{name} is an aggregate of many values: call it by `reduce(r.js(\"plugin.{name}\"))`."
            )));
        }
        self.send(ctx, args, rows)
    }

    /// As [`invoke`](Self::invoke), for functions and aggregates.
    pub(super) fn send(&self, ctx: &Context, args: &[&[Value<'_>]], rows: usize) -> Result<Vec<Datum>> {
        ctx.check_running()?;
        self.check(args)?;
        let started = ctx.profile.enter();
        let results = self.function.invoke_batch(args, rows, &ctx.origin(ctx.deadline_in(DEADLINE)));
        ctx.profile.leave(started, || format!("Calling plugin.{} for {rows} rows.", self.name));
        let results = results?;
        self.checked(ctx, results, rows)
    }

    fn checked(&self, ctx: &Context, results: Vec<Datum>, rows: usize) -> Result<Vec<Datum>> {
        if results.len() != rows {
            return Err(ReqlError::failed(format!(
                "plugin.{} answered {} rows to a batch of {rows}; its author has to mend that.",
                self.name,
                results.len()
            )));
        }
        results.iter().try_for_each(|result| ctx.keep(result))?;
        Ok(results)
    }

    /// Tells the plugin that rows are being read for it.
    pub fn ring_ahead(&self, ctx: &Context) {
        self.function.ring_ahead(&ctx.origin(ctx.deadline_in(DEADLINE)));
    }

    /// Begins to call the function for as many of the rows as fit, without waiting for anything. `None` where that can't be
    /// done: [`invoke_rows`](Self::invoke_rows) can, or says why not.
    #[must_use]
    pub fn start(&self, ctx: &Context, args: &[&[Value<'_>]], rows: usize) -> Option<Started> {
        if self.is_aggregate() { None } else { self.begin(ctx, args, rows) }
    }

    /// As [`start`](Self::start), for functions and aggregates.
    pub(super) fn begin(&self, ctx: &Context, args: &[&[Value<'_>]], rows: usize) -> Option<Started> {
        // A profile's tasks don't overlap.
        if ctx.profile.is_on() || ctx.check_running().is_err() || self.check(args).is_err() {
            return None;
        }
        let running = self.function.start(args, rows, &ctx.origin(ctx.deadline_in(DEADLINE)))?;
        Some(Started { plugin: self.clone(), running })
    }

    /// Calls the function for rows that may be called one by one as well. `None`: they have to be, since one of them
    /// failed. Where the plugin did not answer in time, each row has that error: it would cost the first one as much time
    /// again.
    #[must_use]
    pub fn invoke_rows(&self, ctx: &Context, args: &[&[Value<'_>]], rows: usize) -> Option<Vec<Result<Datum>>> {
        let deadline = ctx.deadline_in(DEADLINE);
        match self.invoke(ctx, args, rows) {
            Ok(results) => Some(results.into_iter().map(Ok).collect()),
            Err(error) if Instant::now() >= deadline => Some(vec![Err(error); rows]),
            Err(_) => None,
        }
    }

    fn check(&self, args: &[&[Value<'_>]]) -> Result<()> {
        let signature = self.function.signature();
        let (least, most) = (usize::from(signature.min_args), usize::from(signature.max_args));
        if args.len() < least || (args.len() > most && signature.max_args != u16::MAX) {
            let expected = match (least, signature.max_args) {
                (least, u16::MAX) => format!("{least} or more"),
                (least, most) if usize::from(most) == least => least.to_string(),
                (least, most) => format!("between {least} and {most}"),
            };
            let plural = if expected == "1" { "" } else { "s" };
            return Err(ReqlError::logic(format!(
                "plugin.{} expects {expected} argument{plural} but found {}.",
                self.name,
                args.len()
            )));
        }
        let limits = Limits { depth: pseudo::MAX_DEPTH, array: usize::MAX, bytes: 1 << 30 };
        let obstacle = args.iter().copied().flatten().find_map(|arg| match arg {
            Value::Computed(Datum::Number(_)) => None,
            Value::Computed(computed) => pseudo::obstacle(computed, &limits),
            // Checked when it was stored.
            Value::Stored(_) => None,
        });
        match obstacle {
            None => Ok(()),
            Some(Obstacle::Unread) => Err(pseudo::unread()),
            Some(Obstacle::Depth) => Err(pseudo::too_deep()),
            Some(Obstacle::Size) => {
                Err(ReqlError::limit(format!("An argument of plugin.{} takes more than 1 GiB.", self.name)))
            }
            Some(_) => Err(ReqlError::logic(format!(
                "`r.minval`, `r.maxval` and `r.literal` can't be passed to plugin.{}.",
                self.name
            ))),
        }
    }
}

/// Rows that a function is being called for.
pub struct Started {
    plugin: PluginCall,
    running: Box<dyn Running>,
}

/// What became of them.
pub enum Outcome {
    /// A result for each of them.
    Results(Vec<Datum>),
    /// One of them failed: each has to be called on its own.
    OneByOne,
    /// The process is gone: they may be called again.
    Lost,
    /// There was no answer in time. That is every row's error.
    Late(ReqlError),
}

impl Started {
    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.running.rows()
    }

    /// Waits for the results.
    #[must_use]
    pub fn finish(self, ctx: &Context) -> Outcome {
        let Self { plugin, running } = self;
        let (rows, deadline) = (running.rows(), ctx.deadline_in(DEADLINE));
        match running.finish(deadline) {
            Ok(results) => plugin.checked(ctx, results, rows).map_or(Outcome::OneByOne, Outcome::Results),
            Err(error) if Instant::now() >= deadline => Outcome::Late(error.into()),
            Err(error) if error.cause().is_answer() => Outcome::OneByOne,
            Err(_) => Outcome::Lost,
        }
    }
}
