//! Functions as values, and how they are called.

use std::fmt;
use std::sync::Arc;

use photondb_plugin_sdk::Datum;

use super::compile::{CallNode, FunctionTerm, Node};
use super::error::{ErrorKind, ReqlError, Result};
use super::eval::{Bindings, Context, Env};
use super::order::equal;
use super::partial::{self, Use};
use super::paths::{self, Path};
use super::plugin::PluginCall;
use super::pseudo;
use super::row::{self, Row};
use super::value::Value;

/// A function.
pub enum Function {
    /// `r.func`: a term with parameters, and the variables around it.
    Closure {
        /// The term.
        term: Arc<FunctionTerm>,
        /// The variables of the functions around it.
        around: Option<Arc<Bindings>>,
    },
    /// `r.js("plugin.NAME")`.
    Plugin(PluginCall),
    /// Takes a field.
    Field(Arc<str>),
    /// Takes the parts of an object that a pattern names.
    Pluck(Datum),
    /// Something that is no field name, where one is expected.
    BadField(Datum),
    /// Gives a value, whatever the arguments.
    Constant(Datum),
    /// An argument of a term, which is evaluated anew for each call.
    Argument {
        /// The term.
        node: Arc<CallNode>,
        /// The argument's position.
        position: usize,
        /// The variables around the term.
        around: Option<Arc<Bindings>>,
    },
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closure { term, .. } => write!(f, "a function of {} parameters", term.params.len()),
            Self::Plugin(plugin) => write!(f, "r.js(\"plugin.{}\")", plugin.name()),
            Self::Field(field) => write!(f, "the function that takes the field `{field}`"),
            Self::Pluck(_) | Self::BadField(_) | Self::Constant(_) | Self::Argument { .. } => {
                f.write_str("a function made of a value")
            }
        }
    }
}

/// The arguments of one call, with what a batch computed for it in advance.
pub struct Prepared {
    /// The arguments.
    pub args: Vec<Row>,
    /// What is known already.
    pub known: Known,
}

/// What is known of a call before it is made.
pub enum Known {
    /// Nothing.
    Nothing,
    /// The results of the plugin calls in the function's body, by their number.
    Sites(Vec<Result<Datum>>),
    /// The result of the whole call: its function is a plugin's, or has nothing else for a body.
    Result(Result<Datum>),
}

impl Prepared {
    /// A call of which nothing is known.
    #[must_use]
    pub fn new(args: Vec<Row>) -> Self {
        Self { args, known: Known::Nothing }
    }

    /// A call with one argument, of which nothing is known.
    pub fn of(row: impl Into<Row>) -> Self {
        Self::new(vec![row.into()])
    }

    /// The first argument.
    #[must_use]
    pub fn row(&self) -> Row {
        self.args.first().cloned().unwrap_or_else(|| Datum::Null.into())
    }

    fn only(&self) -> Result<&Datum> {
        self.args.first().ok_or_else(|| ReqlError::internal("An argument is missing."))?.datum()
    }
}

impl Function {
    /// How many arguments the function takes; `None` for any number.
    #[must_use]
    pub fn arity(&self) -> Option<usize> {
        match self {
            Self::Closure { term, .. } if !term.params.is_empty() => Some(term.params.len()),
            Self::Field(_) | Self::Pluck(_) | Self::BadField(_) => Some(1),
            _ => None,
        }
    }

    /// Calls the function.
    ///
    /// # Errors
    /// When the number of arguments is wrong, or the body fails.
    pub fn call(&self, ctx: &Arc<Context>, args: Vec<Datum>) -> Result<Value> {
        self.finish(ctx, Prepared::new(args.into_iter().map(Row::Value).collect()))?.decoded()
    }

    /// Makes a prepared call. What is stored stays as it is: there may be a [`Value::Row`].
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn finish(&self, ctx: &Arc<Context>, call: Prepared) -> Result<Value> {
        ctx.check_running()?;
        self.check_arity(call.args.len())?;
        match self {
            Self::Closure { term, around } => {
                // The body is the second argument of FUNC.
                let framed = |error: ReqlError| error.at(1);
                let sites = match call.known {
                    Known::Result(result) => return result.map(Into::into).map_err(framed),
                    Known::Sites(sites) => sites,
                    Known::Nothing => Vec::new(),
                };
                let stored =
                    if ctx.profile.is_on() { None } else { row::stored_field(&term.body, &call.args, around.as_ref()) };
                if let Some(field) = stored.and_then(|field| field.to_datum().ok()) {
                    ctx.keep(&field)?;
                    return Ok(field.into());
                }
                let frame = Bindings { args: call.args, sites, around: around.clone() };
                Env { ctx: ctx.clone(), frame: Some(Arc::new(frame)) }.eval_row(&term.body).map_err(framed)
            }
            Self::Plugin(plugin) => match call.known {
                Known::Result(result) => Ok(result?.into()),
                _ => {
                    let args = call.args.into_iter().map(Row::into_datum).collect::<Result<_>>()?;
                    Ok(plugin.invoke_one(ctx, args)?.into())
                }
            },
            Self::Field(field) => match call.args.first().and_then(|row| row.field(field)) {
                Some(value) => Value::row(value, ctx),
                None => Ok(paths::get_field(call.only()?, field)?.into()),
            },
            Self::Pluck(pattern) => Ok(paths::pluck(call.only()?, std::slice::from_ref(pattern))?.into()),
            Self::BadField(datum) => Err(ReqlError::wrong_type("STRING", datum)),
            Self::Constant(datum) => Ok(datum.clone().into()),
            Self::Argument { node, position, around } => {
                let env = Env { ctx: ctx.clone(), frame: around.clone() };
                let node = node.args.get(*position).ok_or_else(|| ReqlError::internal("An argument is missing."))?;
                match env.eval(node)? {
                    Value::Function(function) => function.finish(ctx, Prepared::new(call.args)),
                    value => Ok(value),
                }
            }
        }
    }

    /// Calls the function and takes the plain value of the result.
    ///
    /// # Errors
    /// As [`call`](Self::call), and when the result is no datum.
    pub fn call_datum(&self, ctx: &Arc<Context>, args: Vec<Datum>) -> Result<Datum> {
        self.call(ctx, args)?.into_datum(ctx)
    }

    fn check_arity(&self, found: usize) -> Result<()> {
        match self.arity() {
            Some(expected) if expected != found => {
                let plural = |count: usize| if count == 1 { "" } else { "s" };
                Err(ReqlError::logic(format!(
                    "Expected function with {found} argument{} but found function with {expected} argument{}.",
                    plural(found),
                    plural(expected)
                )))
            }
            _ => Ok(()),
        }
    }

    /// Whether the function's result is a pattern for documents rather than a truth value: its body is an object or a
    /// `r.literal`.
    fn gives_pattern(&self) -> bool {
        match self {
            Self::Closure { term, .. } => match &term.body {
                Node::Object(_) => true,
                Node::Constant { value, .. } => matches!(value, Datum::Object(_)),
                Node::Call(call) => call.op.number == super::terms::LITERAL,
                _ => false,
            },
            Self::Constant(datum) => matches!(datum, Datum::Object(_)),
            _ => false,
        }
    }

    /// Makes a prepared call as a predicate on its first argument.
    ///
    /// # Errors
    /// As [`call`](Self::call), where `missing` does not say what to make of a missing field.
    pub fn matches(&self, ctx: &Arc<Context>, call: Prepared, missing: &Missing) -> Result<bool> {
        let row = self.gives_pattern().then(|| call.row());
        let outcome = self.finish(ctx, call).and_then(|value| value.into_datum(ctx)).and_then(|result| match row {
            Some(row) => match (&result, missing) {
                // Where the row is not shown, its other fields don't matter.
                (Datum::Object(pattern), Missing::Value(_)) if pseudo::special(pattern).is_none() => {
                    let fields = pattern.iter().map(|(field, _)| Path::Field(field.clone())).collect();
                    matches_pattern(&result, &partial::datum(row, &Path::All(fields), Use::Keeps)?, true)
                }
                _ => matches_pattern(&result, row.datum()?, true),
            },
            None => Ok(truthy(&result)),
        });
        match outcome {
            Err(error) if error.kind() == ErrorKind::NonExistence => missing.decide(ctx, error),
            other => other,
        }
    }
}

/// What a predicate makes of a missing field.
#[derive(Clone)]
pub enum Missing {
    /// It counts as this.
    Value(bool),
    /// It is an error.
    Raise,
    /// A term says.
    Term(Arc<Function>),
}

impl Missing {
    fn decide(&self, ctx: &Arc<Context>, error: ReqlError) -> Result<bool> {
        match self {
            Self::Value(value) => Ok(*value),
            Self::Raise => Err(error),
            Self::Term(function) => match function.call_datum(ctx, Vec::new()) {
                Ok(value) => Ok(truthy(&value)),
                Err(raised) if raised.kind() == ErrorKind::EmptyUser => Err(error),
                Err(other) => Err(other),
            },
        }
    }
}

/// Whether the value counts as true: all but false and null do.
#[must_use]
pub fn truthy(datum: &Datum) -> bool {
    !matches!(datum, Datum::Null | Datum::Bool(false))
}

/// Whether `value` has everything that the pattern has.
fn matches_pattern(pattern: &Datum, value: &Datum, top: bool) -> Result<bool> {
    if let Some(literal) = pseudo::as_literal(pattern) {
        return Ok(literal.is_some_and(|literal| equal(literal, value)));
    }
    let Datum::Object(fields) = pattern else { return Ok(equal(pattern, value)) };
    if pseudo::special(fields).is_some() {
        return Ok(equal(pattern, value));
    }
    if !matches!(value, Datum::Object(_)) {
        return if top { Err(ReqlError::wrong_type("OBJECT", value)) } else { Ok(false) };
    }
    for (name, expected) in fields.iter() {
        if !matches_pattern(expected, &paths::get_field(value, name)?, false)? {
            return Ok(false);
        }
    }
    Ok(true)
}
