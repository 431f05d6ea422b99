//! The engine: what queries need of the server, and how one is run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::{Object, Time};

use super::access::{Resources, Scope, Shared};
use super::compile::{self, Node};
use super::cursor::{Answer, Cursor, Response};
use super::error::{Frame, ReqlError, Result};
use super::eval::{Context, Env};
use super::nested::{self, Allowance, Calling};
use super::options::RunOptions;
use super::output;
use super::parse::{self, Request, Term};
use super::plugin::PluginFunctions;
use super::profile::Profile;
use super::pseudo::REQL_TYPE;
use super::row::Row;
use super::stream::Stream;
use super::terms::{self, group};
use super::types::{self, NumbersOfTypes};
use super::value::Value;
use super::vector::NearestSearch;
use super::workers::Workers;
use crate::admin::system_tables::SystemTable;
use crate::storage::Store;

/// Most threads that queries run on.
const MAX_WORKERS: usize = 256;

/// How a server calls itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The id, a UUID.
    pub id: String,
    /// The name.
    pub name: String,
}

/// What an engine is made of.
pub struct EngineParts {
    /// The data.
    pub store: Store,
    /// Plugins' functions.
    pub plugins: Arc<dyn PluginFunctions>,
    /// Vector search.
    pub nearest: Arc<dyn NearestSearch>,
    /// The tables of the database `rethinkdb`.
    pub system: Vec<Box<dyn SystemTable>>,
    /// The server.
    pub identity: Identity,
}

/// Runs queries. Clones share everything.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    identity: Identity,
    workers: Workers,
}

impl Engine {
    /// An engine of the given parts.
    #[must_use]
    pub fn new(parts: EngineParts) -> Self {
        let EngineParts { store, plugins, nearest, system, identity } = parts;
        let shared = Arc::new(Shared::new(store, plugins, nearest, system));
        Self { shared, identity, workers: Workers::new(MAX_WORKERS, "query") }
    }

    /// The threads that queries run on.
    #[must_use]
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// How the server calls itself.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Runs a START query; blocks until the result, or its first part, is there. `cancelled` ends it early.
    ///
    /// # Errors
    /// With the path to the term that failed. A panic becomes an INTERNAL error.
    pub fn run(&self, request: Request, cancelled: &Arc<AtomicBool>) -> Result<Answer> {
        let Request::Start { term, options } = request else {
            return Err(ReqlError::internal("Only START requests are run by the engine."));
        };
        guarded(|| self.start(term, options, cancelled))
    }

    /// Runs a query of a plugin, within the call that the plugin is answering: the term as JSON, with nothing around it.
    /// The whole result comes back at once, encoded; a sequence as an array.
    ///
    /// # Errors
    /// Whatever a client's query can fail with; PERMISSION errors outside of the scope, RESOURCE_LIMIT errors beyond the
    /// limits of [`nested`](super::nested).
    pub fn run_nested(&self, term: &[u8], scope: &Arc<Scope>, calling: &Arc<Calling>) -> Result<Vec<u8>> {
        guarded(|| {
            calling.check_running()?;
            let term = parse::term(term).map_err(ReqlError::compile)?;
            let ctx = Arc::new(Context {
                resources: Resources::within(self.shared.clone(), scope.clone()),
                options: RunOptions::default(),
                now: Time::now(),
                cancelled: calling.cancelled().clone(),
                profile: Profile::default(),
                allowance: Some(Allowance::new(calling.clone())),
                numbers_of_types: NumbersOfTypes::default(),
            });
            let node = compile::query(types::resolve(&ctx, term)?)?;
            let value = Env { ctx: ctx.clone(), frame: None }.eval_row(&node)?;
            nested::encode(value, &ctx)
        })
    }

    fn start(&self, term: Term, options: Vec<(Arc<str>, Term)>, cancelled: &Arc<AtomicBool>) -> Result<Answer> {
        let options = self.options(options, cancelled)?;
        let profile = Profile::new(options.profile);
        let ctx = Arc::new(self.context(options, profile, cancelled));
        let node = compile::query(types::resolve(&ctx, term)?)?;
        let env = Env { ctx: ctx.clone(), frame: None };
        let value = env.eval_row(&node)?;
        // The term may be large, and the cursor lives on: what it needs of the term it holds itself.
        drop(node);
        answer(value, &ctx)
    }

    fn context(&self, options: RunOptions, profile: Profile, cancelled: &Arc<AtomicBool>) -> Context {
        let resources = Resources::all(self.shared.clone());
        Context {
            resources,
            options,
            now: Time::now(),
            cancelled: cancelled.clone(),
            profile,
            allowance: None,
            numbers_of_types: NumbersOfTypes::default(),
        }
    }

    fn options(&self, options: Vec<(Arc<str>, Term)>, cancelled: &Arc<AtomicBool>) -> Result<RunOptions> {
        let ctx = Arc::new(self.context(RunOptions::default(), Profile::default(), cancelled));
        let env = Env { ctx, frame: None };
        let mut values = Object::new();
        let mut db = None;
        for (name, term) in options {
            RunOptions::check_name(&name)?;
            if &*name == "db"
                && let Some(named) = database_named(&term)
            {
                db = Some(named);
                continue;
            }
            let framed = |error: ReqlError| error.within(Frame::Option(name.clone()));
            let node = compile::query(term).map_err(framed)?;
            if &*name == "db" {
                db = match env.eval(&node).map_err(framed)? {
                    Value::Database(database) => Some(database.name),
                    other => return Err(framed(other.wrong_kind("DATABASE"))),
                };
            } else if let Some(value) = option_value(&env, &node).map_err(framed)? {
                values.insert(name.clone(), value);
            }
        }
        RunOptions::new(values, db)
    }
}

/// The name in `r.db(NAME)`, which drivers send with every query, or in a plain string, which some do. The database
/// need not exist: the query may be the one that creates it, or use no table.
fn database_named(term: &Term) -> Option<Arc<str>> {
    let name = match term {
        Term::Call { number: terms::DB, args, .. } => args.first()?,
        other => other,
    };
    match name {
        Term::Constant { value: Datum::String(name), .. } => Some(name.clone()),
        _ => None,
    }
}

/// The plain value of a run option; nothing for a function, which only terms can make use of.
fn option_value(env: &Env, node: &Node) -> Result<Option<Datum>> {
    match env.eval(node)? {
        Value::Function(_) => Ok(None),
        value => Ok(Some(value.into_datum(&env.ctx)?)),
    }
}

/// Runs `work`; a panic in it is an error of ours, which the client is told instead of losing its connection.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        tracing::error!(panic = text, "a query panicked");
        Err(ReqlError::internal(format!(
            "The query could not be run because of a mistake in the server ({text}); please report it with the query."
        )))
    })
}

fn answer(value: Value, ctx: &Arc<Context>) -> Result<Answer> {
    match finished(value, ctx)? {
        Finished::Stream(stream) => Ok(Answer::Stream(Cursor::new(stream, ctx.clone()))),
        Finished::Row(row) => {
            let mut body = Response::head_of_atom();
            output::write(&row, &mut body)?;
            Ok(Answer::Atom { body, profile: ctx.profile.take() })
        }
    }
}

/// A query's value as it leaves.
pub(super) enum Finished {
    /// One value.
    Row(Row),
    /// A sequence.
    Stream(Stream),
}

/// What leaves of a query's value.
pub(super) fn finished(value: Value, ctx: &Arc<Context>) -> Result<Finished> {
    Ok(Finished::Row(match value {
        Value::Datum(datum) => datum.into(),
        Value::Row(row) => row,
        Value::Single(single) => single.read()?.into(),
        Value::Grouped(groups) => {
            let groups = group::closed(groups, ctx)?;
            let data = groups.into_iter().map(|(group, reduction)| Datum::array([group, reduction]));
            Datum::object([(REQL_TYPE, Datum::from("GROUPED_DATA")), ("data", Datum::array(data))]).into()
        }
        Value::Stream(stream) | Value::Selection(_, stream) if stream.is_array() => stream.collect_row(ctx)?,
        Value::Function(_) | Value::Database(_) => {
            return Err(ReqlError::logic(format!(
                "Query result must be of type DATUM, GROUPED_DATA, or STREAM (got {}).",
                value.kind()
            )));
        }
        sequence => return Ok(Finished::Stream(sequence.into_stream(ctx)?)),
    }))
}
