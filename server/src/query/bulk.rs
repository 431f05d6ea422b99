//! Calling one function for many rows, so that plugins get batches.
//!
//! A function's body may call plugins. Where such a call's arguments are evaluated for every row in any case (not under
//! a branch, not in a nested function), the arguments are computed for a chunk of rows first, the plugin is called once
//! for all of them, and only then each row's body is evaluated with the results at hand. Nested calls come in the order
//! in which they need each other. A row whose arguments fail is left out of the batch: it fails when its own turn comes,
//! at the same place, with the same error. If the batch as a whole fails, its rows are called one by one, so that the
//! rows before the bad one are delivered; unless the plugin did not answer in time, which is then every row's error.
//!
//! Chunks start small, so that `limit(5)` stays cheap, and grow.

use std::collections::VecDeque;
use std::sync::Arc;

use photondb_plugin_sdk::Datum;

use super::compile::{self, FunctionTerm};
use super::error::Result;
use super::eval::{Bindings, Context, Env};
use super::function::{Function, Known, Prepared};
use super::plugin::PluginCall;

/// Rows of the first chunk.
const FIRST_CHUNK: usize = 16;
/// Rows of the largest chunk.
const LARGEST_CHUNK: usize = 1024;

/// The calls of one function for rows of arguments, each prepared as far as batches can.
pub struct Calls<I> {
    rows: I,
    function: Arc<Function>,
    ctx: Arc<Context>,
    chunk: usize,
    ready: VecDeque<Result<Prepared>>,
}

impl<I: Iterator<Item = Result<Vec<Datum>>>> Calls<I> {
    /// The calls of `function` with the given rows of arguments.
    pub fn new(rows: I, function: Arc<Function>, ctx: Arc<Context>) -> Self {
        let chunk = if batches(&function) { FIRST_CHUNK } else { 1 };
        Self { rows, function, ctx, chunk, ready: VecDeque::new() }
    }

    fn fill(&mut self) {
        let mut rows = Vec::with_capacity(self.chunk);
        let mut failure = None;
        while rows.len() < self.chunk {
            match self.rows.next() {
                Some(Ok(args)) => rows.push(args),
                Some(Err(error)) => {
                    failure = Some(error);
                    break;
                }
                None => break,
            }
        }
        self.ready.extend(prepare(&self.function, &self.ctx, rows).into_iter().map(Ok));
        self.ready.extend(failure.map(Err));
        self.chunk = (self.chunk * 2).min(LARGEST_CHUNK);
    }
}

impl<I: Iterator<Item = Result<Vec<Datum>>>> Iterator for Calls<I> {
    type Item = Result<Prepared>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.chunk == 1 {
            return Some(self.rows.next()?.map(Prepared::new));
        }
        if self.ready.is_empty() {
            self.fill();
        }
        self.ready.pop_front()
    }
}

/// Whether it pays to collect rows for the function.
#[must_use]
pub fn batches(function: &Function) -> bool {
    match function {
        Function::Plugin(_) => true,
        Function::Closure { term, .. } => !term.sites.is_empty(),
        _ => false,
    }
}

/// Prepares the calls of a function with each of the rows of arguments.
#[must_use]
pub fn prepare(function: &Function, ctx: &Arc<Context>, rows: Vec<Vec<Datum>>) -> Vec<Prepared> {
    if rows.len() < 2 {
        return rows.into_iter().map(Prepared::new).collect();
    }
    match function {
        Function::Plugin(plugin) => prepare_plugin(plugin, ctx, rows),
        Function::Closure { term, around } if !term.sites.is_empty() => prepare_sites(term, around, ctx, rows),
        _ => rows.into_iter().map(Prepared::new).collect(),
    }
}

fn prepare_plugin(plugin: &PluginCall, ctx: &Context, rows: Vec<Vec<Datum>>) -> Vec<Prepared> {
    let arguments: Vec<&[Datum]> = rows.iter().map(Vec::as_slice).collect();
    match plugin.invoke_rows(ctx, columns(&arguments), rows.len()) {
        Some(results) => {
            let known = results.into_iter().map(Known::Result);
            rows.into_iter().zip(known).map(|(args, known)| Prepared { args, known }).collect()
        }
        // Each row tries for itself, when its turn comes.
        None => rows.into_iter().map(Prepared::new).collect(),
    }
}

/// A row of a chunk while its plugin calls are made.
struct Row {
    env: Env,
    /// Whether all calls so far were made.
    whole: bool,
}

fn prepare_sites(
    term: &FunctionTerm,
    around: &Option<Arc<Bindings>>,
    ctx: &Arc<Context>,
    rows: Vec<Vec<Datum>>,
) -> Vec<Prepared> {
    if !term.params.is_empty() && rows.iter().any(|args| args.len() != term.params.len()) {
        return rows.into_iter().map(Prepared::new).collect();
    }
    let mut rows: Vec<Row> = rows
        .into_iter()
        .map(|args| {
            let frame = Bindings { args, sites: Vec::with_capacity(term.sites.len()), around: around.clone() };
            Row { env: Env { ctx: ctx.clone(), frame: Some(Arc::new(frame)) }, whole: true }
        })
        .collect();
    for site in &term.sites {
        let Some((name, args)) = compile::plugin_call(site) else { break };
        let Ok(plugin) = PluginCall::find(ctx, name) else { break };
        let mut arguments: Vec<Vec<Datum>> = Vec::with_capacity(rows.len());
        for row in rows.iter_mut().filter(|row| row.whole) {
            match args.iter().map(|arg| row.env.datum(arg)).collect::<Result<Vec<_>>>() {
                Ok(args) => arguments.push(args),
                Err(_) => row.whole = false,
            }
        }
        let slices: Vec<&[Datum]> = arguments.iter().map(Vec::as_slice).collect();
        if slices.is_empty() {
            break;
        }
        match plugin.invoke_rows(ctx, columns(&slices), slices.len()) {
            Some(results) => {
                for (row, result) in rows.iter_mut().filter(|row| row.whole).zip(results) {
                    row.bind(result);
                }
            }
            None => break,
        }
    }
    rows.into_iter().map(Row::into_prepared).collect()
}

impl Row {
    fn bind(&mut self, result: Result<Datum>) {
        self.whole = result.is_ok();
        match self.env.frame.as_mut().and_then(Arc::get_mut) {
            Some(frame) => frame.sites.push(result),
            // A lazy argument still holds the frame: the row makes its further calls itself.
            None => self.whole = false,
        }
    }

    fn into_prepared(self) -> Prepared {
        let Some(frame) = self.env.frame else { return Prepared::new(Vec::new()) };
        let (args, sites) = match Arc::try_unwrap(frame) {
            Ok(frame) => (frame.args, frame.sites),
            Err(shared) => (shared.args.clone(), shared.sites.clone()),
        };
        Prepared { args, known: Known::Sites(sites) }
    }
}

/// Rows of arguments as columns.
fn columns(rows: &[&[Datum]]) -> Vec<Vec<Datum>> {
    let width = rows.first().map_or(0, |row| row.len());
    (0..width).map(|column| rows.iter().filter_map(|row| row.get(column).cloned()).collect()).collect()
}
