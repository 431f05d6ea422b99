//! Evaluating nodes.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::{Object, Time};

use super::access::Resources;
use super::compile::{CallNode, Node};
use super::error::{ErrorKind, Frame, ReqlError, Result};
use super::function::Function;
use super::nested::{Allowance, Origin};
use super::options::RunOptions;
use super::profile::Profile;
use super::pseudotype;
use super::row::{self, Row};
use super::stream::{Stream, array_too_long};
use super::tables::TableRef;
use super::terms::{self, Op};
use super::types::{self, NumbersOfTypes};
use super::value::{Groups, Shortcut, Value};

/// What all terms of one query share.
pub struct Context {
    /// The server's parts, as far as the query may use them.
    pub resources: Resources,
    /// The run options.
    pub options: RunOptions,
    /// `r.now()`, the same throughout the query.
    pub now: Time,
    /// Set when nobody waits for the query any more.
    pub cancelled: Arc<AtomicBool>,
    /// What is written down for `profile: true`.
    pub profile: Profile,
    /// What the query may use up, if a plugin runs it.
    pub allowance: Option<Allowance>,
    /// Numbers as values of plugins' types.
    pub numbers_of_types: NumbersOfTypes,
}

impl Context {
    /// The most elements of an array.
    #[must_use]
    pub fn array_limit(&self) -> usize {
        self.options.array_limit
    }

    /// Fails when nobody waits for the query any more.
    ///
    /// # Errors
    /// When the client disconnected or stopped the query.
    pub fn check_running(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(ReqlError::failed("Query interrupted: the connection was closed, or the stream stopped."));
        }
        self.check_call()
    }

    /// Fails when the plugin's call that runs the query has ended; a client's query goes on.
    ///
    /// # Errors
    /// When it has ended, or is at its deadline.
    pub fn check_call(&self) -> Result<()> {
        self.allowance.as_ref().map_or(Ok(()), |allowance| allowance.calling.check_running())
    }

    /// Counts a value that the query has made, or keeps.
    ///
    /// # Errors
    /// When a plugin's query takes more memory than it may.
    pub fn keep(&self, datum: &Datum) -> Result<()> {
        self.allowance.as_ref().map_or(Ok(()), |allowance| allowance.keep(datum))
    }

    /// Counts a row that the query keeps.
    ///
    /// # Errors
    /// As [`keep`](Self::keep), and when it is stored, and damaged.
    pub fn keep_row(&self, row: &Row) -> Result<()> {
        if self.allowance.is_none() { Ok(()) } else { self.keep(row.datum()?) }
    }

    /// For what begins now and may take so long: when it has to end.
    #[must_use]
    pub fn deadline_in(&self, most: Duration) -> Instant {
        let deadline = Instant::now() + most;
        self.allowance.as_ref().map_or(deadline, |allowance| deadline.min(allowance.calling.deadline()))
    }

    /// On whose behalf the query calls a plugin that has until `deadline`.
    #[must_use]
    pub fn origin(&self, deadline: Instant) -> Origin<'_> {
        let within = self.allowance.as_ref().map(|allowance| &allowance.calling);
        Origin { deadline, cancelled: &self.cancelled, within }
    }

    /// The array, if it is not too long.
    ///
    /// # Errors
    /// When it has more elements than the query's `array_limit`.
    pub fn array(&self, elements: Vec<Datum>) -> Result<Datum> {
        self.check_length(elements.len())?;
        Ok(elements.into())
    }

    /// Fails where so many elements are too many for an array.
    ///
    /// # Errors
    /// When there are more than the query's `array_limit`.
    pub fn check_length(&self, elements: usize) -> Result<()> {
        if elements > self.array_limit() {
            return Err(array_too_long(self.array_limit()));
        }
        Ok(())
    }
}

/// The arguments of a function that is being called.
#[derive(Debug)]
pub struct Bindings {
    /// The arguments.
    pub args: Vec<Row>,
    /// The results of the function's plugin calls, as far as they are known already.
    pub sites: Vec<Result<Datum>>,
    /// The arguments of the functions around it.
    pub around: Option<Arc<Bindings>>,
}

/// Where terms are evaluated.
#[derive(Clone)]
pub struct Env {
    /// What all terms of the query share.
    pub ctx: Arc<Context>,
    /// The innermost function that is being called.
    pub frame: Option<Arc<Bindings>>,
}

impl Env {
    /// The value of a term.
    ///
    /// # Errors
    /// With the path from this term to the one that failed.
    pub fn eval(&self, node: &Node) -> Result<Value> {
        self.eval_row(node)?.decoded()
    }

    /// The same, but what is stored stays as it is: there may be a [`Value::Row`].
    ///
    /// # Errors
    /// As [`eval`](Self::eval).
    pub fn eval_row(&self, node: &Node) -> Result<Value> {
        match node {
            Node::Constant { value, longest_array } => {
                if *longest_array > self.ctx.array_limit() {
                    return Err(array_too_long(self.ctx.array_limit()));
                }
                Ok(value.clone().into())
            }
            Node::Object(fields) => self.object(fields),
            Node::Variable { up, position, .. } => Value::row(self.argument(*up, *position)?.clone(), &self.ctx),
            Node::Function(term) => {
                let function = Function::Closure { term: term.clone(), around: self.frame.clone() };
                Ok(Value::Function(Arc::new(function)))
            }
            Node::Call(call) => match self.stored_field(node) {
                Some(field) => Ok(field?.into()),
                None => self.call(call),
            },
        }
    }

    /// The plain value of a term.
    ///
    /// # Errors
    /// As [`eval`](Self::eval), and when the value is no datum.
    pub fn datum(&self, node: &Node) -> Result<Datum> {
        self.eval_row(node)?.into_datum(&self.ctx)
    }

    /// The argument at `position` of the function that is `up` functions further out.
    ///
    /// # Errors
    /// Never, for nodes that the compiler made.
    fn argument(&self, up: usize, position: usize) -> Result<&Row> {
        let mut frame = self.frame.as_ref();
        for _ in 0..up {
            frame = frame.and_then(|frame| frame.around.as_ref());
        }
        let row = frame.and_then(|frame| frame.args.get(position));
        row.ok_or_else(|| ReqlError::internal("A variable has no value."))
    }

    /// The value of a field of a stored document, which need not be decoded for that.
    fn stored_field(&self, node: &Node) -> Option<Result<Datum>> {
        let frame = self.frame.as_ref().filter(|_| !self.ctx.profile.is_on())?;
        let field = row::stored_field(node, &frame.args, frame.around.as_ref())?.to_datum().ok()?;
        Some(self.ctx.check_call().and_then(|()| self.ctx.keep(&field)).map(|()| field))
    }

    fn object(&self, fields: &[(Arc<str>, Node)]) -> Result<Value> {
        let object: Object = fields
            .iter()
            .map(|(name, node)| match self.datum(node) {
                Ok(value) => Ok((name.clone(), value)),
                Err(error) => Err(error.within(Frame::Option(name.clone()))),
            })
            .collect::<Result<_>>()?;
        let object = types::normalize(&self.ctx, pseudotype::normalize(object)?)?;
        self.ctx.keep(&object)?;
        Ok(object.into())
    }

    fn call(&self, node: &Arc<CallNode>) -> Result<Value> {
        if let (Some(site), Some(frame)) = (node.site, &self.frame)
            && let Some(result) = frame.sites.get(site)
        {
            return result.clone().map(Into::into);
        }
        let call = Call {
            env: self,
            node,
            spliced: self.splice(node)?,
            first: RefCell::new(None),
            in_group: Cell::new(false),
        };
        if call.spliced.is_some() {
            node.op.check_arity(call.count())?;
        }
        match node.op.grouped_argument() {
            Some(position) if position < call.count() => match call.row_arg(position)? {
                Value::Grouped(groups) => call.for_each_group(position, groups),
                value => {
                    call.first.replace(Some((position, value)));
                    call.run()
                }
            },
            _ => call.run(),
        }
    }

    /// The arguments where one of them is `r.args`: its elements take its place.
    fn splice(&self, node: &CallNode) -> Result<Option<Vec<Argument>>> {
        if !node.splices {
            return Ok(None);
        }
        let mut arguments = Vec::new();
        for (position, arg) in node.args.iter().enumerate() {
            match arg {
                Node::Call(call) if call.op.number == terms::ARGS => {
                    let array = call.args.first().map(|arg| self.datum(arg)).transpose();
                    match array.map_err(|error| error.at(0).at(position))? {
                        Some(Datum::Array(elements)) => {
                            arguments.extend(elements.iter().cloned().map(Argument::Element));
                        }
                        other => {
                            return Err(ReqlError::wrong_type("ARRAY", &other.unwrap_or_default()).at(position));
                        }
                    }
                }
                _ => arguments.push(Argument::Term(position)),
            }
        }
        Ok(Some(arguments))
    }
}

/// An argument of a term that has `r.args` among its arguments.
enum Argument {
    /// The term's own argument at this position.
    Term(usize),
    /// An element of `r.args`.
    Element(Datum),
}

/// One evaluation of an operation: gives its function the arguments, evaluated when they are asked for.
pub struct Call<'a> {
    /// Where the arguments are evaluated.
    pub env: &'a Env,
    /// The operation.
    pub node: &'a Arc<CallNode>,
    spliced: Option<Vec<Argument>>,
    /// An argument that has been evaluated already.
    first: RefCell<Option<(usize, Value)>>,
    in_group: Cell<bool>,
}

impl<'a> Call<'a> {
    fn run(&self) -> Result<Value> {
        let profile = &self.ctx().profile;
        let result = if profile.is_on() {
            let started = profile.enter();
            let result = (self.node.op.run)(self);
            profile.leave(started, || format!("Evaluating {}.", self.node.op.name));
            result
        } else {
            (self.node.op.run)(self)
        };
        if let Ok(Value::Datum(datum)) = &result {
            self.ctx().keep(datum)?;
        }
        result
    }

    fn for_each_group(&self, position: usize, groups: Groups) -> Result<Value> {
        let mut results = Vec::with_capacity(groups.groups.len());
        let mut open = true;
        self.in_group.set(true);
        for (group, value) in groups.groups {
            self.first.replace(Some((position, value)));
            match self.run() {
                Ok(result) => {
                    open &= matches!(result, Value::Stream(_) | Value::Selection(..));
                    results.push((group, result));
                }
                // As in RethinkDB, a group without anything to aggregate has no result.
                Err(error) if error.kind() == ErrorKind::NonExistence && self.node.op.is(Op::DROPS_EMPTY_GROUPS) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Value::Grouped(Groups { open: open && groups.open, groups: results }))
    }

    /// What all terms of the query share.
    #[must_use]
    pub fn ctx(&self) -> &'a Arc<Context> {
        &self.env.ctx
    }

    /// Whether the operation is applied to one of several groups.
    #[must_use]
    pub fn is_in_group(&self) -> bool {
        self.in_group.get()
    }

    /// How many positional arguments there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.spliced.as_ref().map_or(self.node.args.len(), Vec::len)
    }

    /// The value of an argument.
    ///
    /// # Errors
    /// When evaluating it fails.
    pub fn arg(&self, position: usize) -> Result<Value> {
        self.row_arg(position)?.decoded().map_err(|error| error.at(position))
    }

    /// The same, but what is stored stays as it is: there may be a [`Value::Row`].
    ///
    /// # Errors
    /// When evaluating it fails.
    pub fn row_arg(&self, position: usize) -> Result<Value> {
        // Terms with very many arguments work on them one after the other.
        self.ctx().check_call()?;
        if self.first.borrow().as_ref().is_some_and(|(first, _)| *first == position)
            && let Some((_, value)) = self.first.take()
        {
            return Ok(value);
        }
        match &self.spliced {
            Some(spliced) => match spliced.get(position).ok_or_else(missing_argument)? {
                Argument::Element(datum) => Ok(datum.clone().into()),
                Argument::Term(position) => self.eval_at(*position),
            },
            None => self.eval_at(position),
        }
    }

    fn eval_at(&self, position: usize) -> Result<Value> {
        let node = self.node.args.get(position).ok_or_else(missing_argument)?;
        self.env.eval_row(node).map_err(|error| error.at(position))
    }

    /// The node of an argument, where the arguments are as they were sent.
    #[must_use]
    pub fn arg_node(&self, position: usize) -> Option<&'a Node> {
        match &self.spliced {
            None => self.node.args.get(position),
            Some(spliced) => match spliced.get(position)? {
                Argument::Term(position) => self.node.args.get(*position),
                Argument::Element(_) => None,
            },
        }
    }

    /// Converts an argument; failures point to it.
    ///
    /// # Errors
    /// When evaluating or converting fails.
    pub fn with<T>(&self, position: usize, convert: impl FnOnce(Value) -> Result<T>) -> Result<T> {
        convert(self.arg(position)?).map_err(|error| error.at(position))
    }

    /// The plain value of an argument.
    ///
    /// # Errors
    /// When it is no datum.
    pub fn datum(&self, position: usize) -> Result<Datum> {
        self.with(position, |value| value.into_datum(self.ctx()))
    }

    /// The plain values of all arguments from `start` on.
    ///
    /// # Errors
    /// When one is no datum.
    pub fn data(&self, start: usize) -> Result<Vec<Datum>> {
        (start..self.count()).map(|position| self.datum(position)).collect()
    }

    /// A number.
    ///
    /// # Errors
    /// When the argument is no number.
    pub fn number(&self, position: usize) -> Result<f64> {
        let datum = self.datum(position)?;
        number(&datum).map_err(|error| error.at(position))
    }

    /// An integer of at most 53 bits.
    ///
    /// # Errors
    /// When the argument is none.
    pub fn integer(&self, position: usize) -> Result<i64> {
        let datum = self.datum(position)?;
        integer(&datum).map_err(|error| error.at(position))
    }

    /// A string.
    ///
    /// # Errors
    /// When the argument is none.
    pub fn string(&self, position: usize) -> Result<Arc<str>> {
        let datum = self.datum(position)?;
        string(&datum).map_err(|error| error.at(position))
    }

    /// An array.
    ///
    /// # Errors
    /// When the argument is none.
    pub fn array(&self, position: usize) -> Result<Arc<[Datum]>> {
        let datum = self.datum(position)?;
        array(&datum).map_err(|error| error.at(position))
    }

    /// An object.
    ///
    /// # Errors
    /// When the argument is none.
    pub fn object(&self, position: usize) -> Result<Arc<Object>> {
        let datum = self.datum(position)?;
        object(&datum).map_err(|error| error.at(position))
    }

    /// A sequence. Failures of its elements point to the argument.
    ///
    /// # Errors
    /// When the argument is no sequence.
    pub fn stream(&self, position: usize) -> Result<Stream> {
        let stream = self.row_arg(position)?.into_stream(self.ctx()).map_err(|error| error.at(position))?;
        Ok(framed(stream, position))
    }

    /// A table.
    ///
    /// # Errors
    /// When the argument is none.
    pub fn table(&self, position: usize) -> Result<TableRef> {
        self.with(position, |value| match value {
            Value::Table(table) => Ok(table),
            other => Err(other.wrong_kind("TABLE")),
        })
    }

    /// A function.
    ///
    /// # Errors
    /// When the argument is none, and `shortcut` does not make one of it.
    pub fn function(&self, position: usize, shortcut: Shortcut) -> Result<Arc<Function>> {
        self.with(position, |value| value.into_function(shortcut, self.ctx()))
    }

    /// The value of an option, of the term or else of the whole query.
    ///
    /// # Errors
    /// When evaluating it fails.
    pub fn option(&self, name: &str) -> Result<Option<Value>> {
        if let Some((name, node)) = self.node.options.iter().find(|(option, _)| &**option == name) {
            let value = self.env.eval(node).map_err(|error| error.within(Frame::Option(name.clone())))?;
            return Ok(Some(value));
        }
        Ok(self.ctx().options.global(name).map(Value::Datum))
    }

    /// The node of an option of the term.
    #[must_use]
    pub fn option_node(&self, name: &str) -> Option<&'a Node> {
        self.node.options.iter().find(|(option, _)| &**option == name).map(|(_, node)| node)
    }

    /// The plain value of an option.
    ///
    /// # Errors
    /// When evaluating it fails, or it is no datum.
    pub fn option_datum(&self, name: &str) -> Result<Option<Datum>> {
        self.option(name)?.map(|value| value.into_datum(self.ctx())).transpose()
    }

    /// A string option.
    ///
    /// # Errors
    /// When it is no string.
    pub fn option_string(&self, name: &str) -> Result<Option<Arc<str>>> {
        self.option_datum(name)?.map(|datum| string(&datum)).transpose()
    }

    /// Whether an option is given and true.
    ///
    /// # Errors
    /// When it is no bool.
    pub fn option_flag(&self, name: &str) -> Result<bool> {
        match self.option_datum(name)? {
            None => Ok(false),
            Some(Datum::Bool(flag)) => Ok(flag),
            Some(other) => Err(ReqlError::wrong_type("BOOL", &other)),
        }
    }
}

/// The same stream; failures of its elements point to the argument at `position`.
#[must_use]
pub fn framed(stream: Stream, position: usize) -> Stream {
    stream.map_errors(move |error| error.at(position))
}

fn missing_argument() -> ReqlError {
    ReqlError::internal("An argument is missing.")
}

/// The number that the datum is.
///
/// # Errors
/// When it is none.
pub fn number(datum: &Datum) -> Result<f64> {
    datum.as_number().ok_or_else(|| ReqlError::wrong_type("NUMBER", datum))
}

/// The integer that the datum is.
///
/// # Errors
/// When it is none, or beyond 2^53.
pub fn integer(datum: &Datum) -> Result<i64> {
    const LARGEST: f64 = 9_007_199_254_740_992.0;
    let number = number(datum)?;
    if number.trunc() != number {
        return Err(ReqlError::logic(format!("Number not an integer: {}", datum.to_json_string())));
    }
    if number.abs() > LARGEST {
        let side = if number < 0.0 { "<-2^53" } else { ">2^53" };
        return Err(ReqlError::logic(format!("Number not an integer ({side}): {}", datum.to_json_string())));
    }
    Ok(number as i64)
}

/// The string that the datum is.
///
/// # Errors
/// When it is none.
pub fn string(datum: &Datum) -> Result<Arc<str>> {
    match datum {
        Datum::String(text) => Ok(text.clone()),
        other => Err(ReqlError::wrong_type("STRING", other)),
    }
}

/// The array that the datum is.
///
/// # Errors
/// When it is none.
pub fn array(datum: &Datum) -> Result<Arc<[Datum]>> {
    match datum {
        Datum::Array(elements) => Ok(elements.clone()),
        other => Err(ReqlError::wrong_type("ARRAY", other)),
    }
}

/// The object that the datum is.
///
/// # Errors
/// When it is none.
pub fn object(datum: &Datum) -> Result<Arc<Object>> {
    match datum {
        Datum::Object(object) => Ok(object.clone()),
        other => Err(ReqlError::wrong_type("OBJECT", other)),
    }
}
