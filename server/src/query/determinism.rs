//! Which functions always give the same result, and indexes made of them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::Time;

use super::access::{Resources, Shared};
use super::compile::{self, CallNode, FunctionTerm, Node};
use super::eval::Context;
use super::function::Function;
use super::options::RunOptions;
use super::parse;
use super::plugin::PluginCall;
use super::profile::Profile;
use super::pseudo::{self, Limits};
use super::terms::{JAVASCRIPT, Op, PLUGIN};
use super::types::NumbersOfTypes;
use crate::storage::{IndexFunction, IndexFunctions};

/// For how long a function has to give the same result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Throughout one query.
    Query,
    /// For ever.
    Index,
}

/// Whether a term always gives the same result.
#[must_use]
pub fn is_deterministic(ctx: &Context, node: &Node, scope: Scope) -> bool {
    !node.any(&mut |call| is_volatile(ctx, call, scope))
}

fn is_volatile(ctx: &Context, call: &CallNode, scope: Scope) -> bool {
    if call.op.is(Op::PER_QUERY) {
        return scope == Scope::Index;
    }
    // `r.uuid("name")` is a function of the name.
    if call.op.number == 169 {
        return call.args.is_empty();
    }
    if call.op.number != JAVASCRIPT && call.op.number != PLUGIN {
        return call.op.is(Op::VOLATILE);
    }
    let name = match call.args.first() {
        Some(Node::Constant { value: Datum::String(text), .. }) => text.trim().strip_prefix("plugin.").unwrap_or(text),
        _ => return true,
    };
    // An index outlives the plugin's process, and the store computes its values where it can't wait for one.
    scope == Scope::Index || PluginCall::find(ctx, name).map_or(true, |plugin| !plugin.is_pure())
}

/// Compiles index functions for the store.
#[must_use]
pub fn index_functions() -> Arc<dyn IndexFunctions> {
    Arc::new(Compiler)
}

struct Compiler;

impl IndexFunctions for Compiler {
    fn compile(&self, source: &str) -> Result<Arc<dyn IndexFunction>, String> {
        compile_index(source)
    }
}

/// Compiles the source of an index function.
///
/// # Errors
/// When it is no function of one parameter.
pub fn compile_index(source: &str) -> Result<Arc<dyn IndexFunction>, String> {
    let term = parse::term(source.as_bytes())?;
    if term.is_typed() {
        // The index outlives the plugin, which alone could read them.
        return Err("the function of an index can't have literals of plugins' types".to_owned());
    }
    match compile::query(term).map_err(|error| error.to_string())? {
        Node::Function(term) if term.params.len() <= 1 => Ok(Arc::new(Compiled::new(term))),
        _ => Err("the source is not a function of one parameter".to_owned()),
    }
}

/// An index's function. Index functions are deterministic, so that they need nothing of a server.
struct Compiled {
    function: Function,
    ctx: Arc<Context>,
}

impl Compiled {
    fn new(term: Arc<FunctionTerm>) -> Self {
        let ctx = Context {
            resources: Resources::all(Arc::new(Shared::detached())),
            options: RunOptions::default(),
            now: Time::now(),
            cancelled: Arc::new(AtomicBool::new(false)),
            profile: Profile::default(),
            allowance: None,
            numbers_of_types: NumbersOfTypes::default(),
        };
        Self { function: Function::Closure { term, around: None }, ctx: Arc::new(ctx) }
    }
}

impl IndexFunction for Compiled {
    fn value(&self, document: &Datum) -> Option<Datum> {
        // Whatever the failure, the document is not in the index: an index must not stop writes.
        let value = self.function.call_datum(&self.ctx, vec![document.clone()]).ok()?;
        let limits = Limits { depth: pseudo::MAX_DEPTH, array: usize::MAX, bytes: 1 << 30 };
        let storable = !matches!(value, Datum::Null) && pseudo::obstacle(&value, &limits).is_none();
        storable.then_some(value)
    }
}
