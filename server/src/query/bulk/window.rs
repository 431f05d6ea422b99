//! A window of rows, and the plugin's calls for them that are in flight.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::batch::Value;

use crate::query::compile::{self, Node};
use crate::query::error::Result;
use crate::query::eval::{Bindings, Context, Env};
use crate::query::function::{Function, Known, Prepared};
use crate::query::plugin::{Outcome, PluginCall, Started};
use crate::query::row::{self, Row};
use crate::query::stream::Pace;
use crate::query::terms;

/// What has been in flight for so long is collected before further rows are read.
const IN_THE_WAY: Duration = Duration::from_millis(20);

/// Rows whose calls of plugins are being made, message by message.
pub(super) struct Window<'a> {
    function: &'a Function,
    /// Whether the first calls begin while further rows are read.
    overlaps: bool,
    /// The calls of plugins, in the order in which they need each other.
    sites: Vec<Site<'a>>,
    /// For each message the arguments of its rows.
    rows: Vec<Vec<Vec<Row>>>,
    calls: Calls<'a>,
}

/// A call of a plugin that every row makes.
struct Site<'a> {
    plugin: PluginCall,
    /// Its arguments; nothing where they are the row's own.
    args: Option<&'a [Node]>,
    /// Whether computing them takes no time and no plugin.
    is_simple: bool,
}

/// How far the rows of each message have come, and what is in flight.
struct Calls<'a> {
    ctx: &'a Arc<Context>,
    made: Vec<Vec<Made>>,
    in_flight: VecDeque<InFlight>,
    /// Messages, and rows of them, that were lost with the plugin's process.
    lost: Vec<(usize, Vec<usize>)>,
}

/// What is known of one row.
struct Made {
    results: Vec<Result<Datum>>,
    /// Whether all calls so far were made: further ones are left to the row itself.
    whole: bool,
}

/// Rows of a message that a plugin computes.
struct InFlight {
    message: usize,
    rows: Vec<usize>,
    started: Started,
    sent: Instant,
}

/// Arguments by column, and the rows that they are of.
struct Arguments<'r> {
    columns: Vec<Vec<Value<'r>>>,
    rows: Vec<usize>,
}

impl<'a> Window<'a> {
    pub(super) fn new(function: &'a Function, ctx: &'a Arc<Context>, pace: Pace) -> Self {
        let calls = Calls { ctx, made: Vec::new(), in_flight: VecDeque::new(), lost: Vec::new() };
        let sites = sites(function, ctx);
        let overlaps = pace == Pace::Steady && sites.first().is_some_and(|site| site.is_simple);
        Self { function, overlaps, sites, rows: Vec::new(), calls }
    }

    /// Wakes the plugin that is called first, while the first rows are read.
    pub(super) fn ring_ahead(&self) {
        if let Some(site) = self.sites.first() {
            site.plugin.ring_ahead(self.calls.ctx);
        }
    }

    /// Looks at the clock: what is in flight is in the way of others.
    pub(super) fn look(&mut self) {
        if self.calls.in_flight.front().is_some_and(|first| first.sent.elapsed() > IN_THE_WAY) {
            self.calls.collect();
        }
    }

    /// Adds rows of arguments, and begins the first call of each if nothing takes long until the next ones.
    pub(super) fn send(&mut self, rows: Vec<Vec<Row>>) {
        let arity = self.function.arity();
        // Of the wrong ones each row says so itself.
        let whole = rows.len() > 1 && rows.iter().all(|args| arity.is_none_or(|arity| args.len() == arity));
        self.calls.made.push(rows.iter().map(|_| Made { results: Vec::new(), whole }).collect());
        self.rows.push(rows);
        if self.overlaps {
            let last = self.rows.len() - 1;
            self.begin(0, last..last + 1);
        }
    }

    /// Makes the other calls, and waits for all of them.
    pub(super) fn collect(mut self) -> Vec<Prepared> {
        for site in 0..self.sites.len() {
            if site > 0 || !self.overlaps {
                self.begin(site, 0..self.rows.len());
            }
            self.settle(site);
        }
        let is_all = is_one_call(self.function);
        let made = self.calls.made.into_iter().flatten();
        let prepared = self.rows.into_iter().flatten().zip(made).map(|(args, Made { mut results, .. })| {
            let known = match (is_all, results.is_empty()) {
                (_, true) => Known::Nothing,
                (true, _) => results.pop().map_or(Known::Nothing, Known::Result),
                (false, _) => Known::Sites(results),
            };
            Prepared { args, known }
        });
        prepared.collect()
    }

    /// Begins one call of each row of messages that has come so far, once all their arguments are there.
    fn begin(&mut self, site: usize, messages: Range<usize>) {
        let (around, Some(site)) = (self.around(), self.sites.get(site)) else { return };
        let mut ready = Vec::with_capacity(messages.len());
        for message in messages {
            let rows = self.calls.whole_rows(message);
            ready.push((message, self.calls.arguments(site, around, message, &self.rows[message], rows)));
        }
        for (message, arguments) in ready {
            self.calls.begin(&site.plugin, message, arguments);
        }
    }

    /// Waits for the answers. What was lost with a process is called again, in the way that waits for the next process.
    fn settle(&mut self, site: usize) {
        self.calls.collect();
        let (around, Some(site)) = (self.around(), self.sites.get(site)) else { return };
        for (message, rows) in std::mem::take(&mut self.calls.lost) {
            let arguments = self.calls.arguments(site, around, message, &self.rows[message], rows);
            self.calls.call(&site.plugin, message, &arguments.rows, &slices(&arguments.columns, 0));
        }
    }

    fn around(&self) -> Option<&'a Arc<Bindings>> {
        match self.function {
            Function::Closure { around, .. } => around.as_ref(),
            _ => None,
        }
    }
}

/// The calls of plugins that every call of the function makes, as far as they can be made in advance.
fn sites<'a>(function: &'a Function, ctx: &Context) -> Vec<Site<'a>> {
    match function {
        Function::Plugin(plugin) => vec![Site { plugin: plugin.clone(), args: None, is_simple: true }],
        Function::Closure { term, .. } => {
            let site = |call| {
                let (name, args) = compile::plugin_call(call)?;
                let is_simple = args.iter().all(is_simple);
                Some(Site { plugin: PluginCall::find(ctx, name).ok()?, args: Some(args), is_simple })
            };
            term.sites.iter().map_while(|call| site(call)).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether a term only looks at values that are there.
fn is_simple(node: &Node) -> bool {
    match node {
        Node::Constant { .. } | Node::Variable { .. } => true,
        Node::Call(call) => {
            let is_field = call.op.number == terms::BRACKET || call.op.number == terms::GET_FIELD;
            is_field && call.args.iter().all(is_simple)
        }
        Node::Object(_) | Node::Function(_) => false,
    }
}

/// Whether the function is nothing but one call of a plugin.
fn is_one_call(function: &Function) -> bool {
    match function {
        Function::Plugin(_) => true,
        Function::Closure { term, .. } => {
            term.sites.len() == 1 && matches!(&term.body, Node::Call(call) if call.site.is_some())
        }
        _ => false,
    }
}

impl Calls<'_> {
    fn whole_rows(&self, message: usize) -> Vec<usize> {
        self.made[message].iter().enumerate().filter(|(_, made)| made.whole).map(|(row, _)| row).collect()
    }

    /// The arguments of a call for the wanted rows of a message. Rows whose arguments fail are left out, here and later.
    fn arguments<'r>(
        &mut self,
        site: &Site<'_>,
        around: Option<&'r Arc<Bindings>>,
        message: usize,
        rows: &'r [Vec<Row>],
        wanted: Vec<usize>,
    ) -> Arguments<'r> {
        let width = site.args.map_or_else(|| rows.first().map_or(0, Vec::len), <[Node]>::len);
        let mut columns: Vec<Vec<Value<'r>>> = (0..width).map(|_| Vec::with_capacity(wanted.len())).collect();
        let mut passed = Vec::with_capacity(wanted.len());
        for row in wanted {
            let made = &mut self.made[message][row];
            let mut evaluated = Evaluated { ctx: self.ctx, args: &rows[row], made, around, env: None };
            let failed = columns.iter_mut().enumerate().any(|(position, column)| {
                let value = match site.args {
                    Some(nodes) => evaluated.value(&nodes[position]),
                    None => own(&rows[row][position]),
                };
                value.map(|value| column.push(value)).is_err()
            });
            if failed {
                self.made[message][row].whole = false;
                columns.iter_mut().for_each(|column| column.truncate(passed.len()));
            } else {
                passed.push(row);
            }
        }
        Arguments { columns, rows: passed }
    }

    /// Sends the arguments, in as many parts as it takes.
    fn begin(&mut self, plugin: &PluginCall, message: usize, Arguments { columns, rows }: Arguments<'_>) {
        let mut sent = 0;
        while sent < rows.len() {
            match plugin.start(self.ctx, &slices(&columns, sent), rows.len() - sent) {
                Some(started) => {
                    let part = rows[sent..sent + started.rows()].to_vec();
                    sent += started.rows();
                    self.in_flight.push_back(InFlight { message, rows: part, started, sent: Instant::now() });
                }
                // What we have in flight ourselves may be in the way. Nobody waits for a slot while holding one.
                None if !self.in_flight.is_empty() => self.collect(),
                None => return self.call(plugin, message, &rows[sent..], &slices(&columns, sent)),
            }
        }
    }

    /// Waits for all that is in flight.
    fn collect(&mut self) {
        while let Some(InFlight { message, rows, started, .. }) = self.in_flight.pop_front() {
            match started.finish(self.ctx) {
                Outcome::Results(results) => self.bind(message, &rows, results.into_iter().map(Ok)),
                Outcome::OneByOne => self.leave(message, &rows),
                Outcome::Lost => self.lost.push((message, rows)),
                Outcome::Late(error) => {
                    // It would cost each of the others as much time again.
                    let late = std::iter::once((message, rows));
                    let late: Vec<_> =
                        late.chain(self.in_flight.drain(..).map(|part| (part.message, part.rows))).collect();
                    for (message, rows) in late {
                        self.bind(message, &rows, std::iter::repeat_with(|| Err(error.clone())));
                    }
                }
            }
        }
    }

    /// Calls the plugin, and waits for it.
    fn call(&mut self, plugin: &PluginCall, message: usize, rows: &[usize], columns: &[&[Value<'_>]]) {
        match plugin.invoke_rows(self.ctx, columns, rows.len()) {
            Some(results) => self.bind(message, rows, results.into_iter()),
            None => self.leave(message, rows),
        }
    }

    fn bind(&mut self, message: usize, rows: &[usize], results: impl Iterator<Item = Result<Datum>>) {
        for (row, result) in rows.iter().zip(results) {
            let made = &mut self.made[message][*row];
            made.whole = result.is_ok();
            made.results.push(result);
        }
    }

    /// Each of the rows calls for itself, when its turn comes.
    fn leave(&mut self, message: usize, rows: &[usize]) {
        rows.iter().for_each(|row| self.made[message][*row].whole = false);
    }
}

/// Evaluates arguments of one row.
struct Evaluated<'r, 'm> {
    ctx: &'m Arc<Context>,
    args: &'r [Row],
    made: &'m Made,
    around: Option<&'r Arc<Bindings>>,
    /// Made for the first argument that has to be computed.
    env: Option<Env>,
}

impl<'r> Evaluated<'r, '_> {
    fn value(&mut self, node: &Node) -> Result<Value<'r>> {
        if let Some(stored) = row::stored(node, self.args, self.around) {
            return Ok(Value::Stored(stored));
        }
        let env = self.env.get_or_insert_with(|| {
            let (args, sites) = (self.args.to_vec(), self.made.results.clone());
            let frame = Bindings { args, sites, around: self.around.cloned() };
            Env { ctx: self.ctx.clone(), frame: Some(Arc::new(frame)) }
        });
        env.datum(node).map(Value::Computed)
    }
}

/// An argument that is the row itself.
fn own(row: &Row) -> Result<Value<'_>> {
    match row.stored() {
        Some(stored) => Ok(Value::Stored(stored)),
        None => row.datum().cloned().map(Value::Computed),
    }
}

fn slices<'c, 'r>(columns: &'c [Vec<Value<'r>>], from: usize) -> Vec<&'c [Value<'r>]> {
    columns.iter().map(|column| &column[from..]).collect()
}
