//! Values of plugins' types: how they come into queries, and what needs their plugins.
//!
//! A client writes `{"$type$": "decimal", "value": "1.10"}`. Before a query is evaluated, all such literals in it go to
//! the plugins of their types, each type's in one batch ([`resolve`]); an object that has the key and is made later goes
//! by itself ([`normalize`]). What comes back has its order key with it, so that whatever compares, sorts or stores it
//! knows nothing of plugins. Beside new values only arithmetic calls them, and comparisons with plain numbers.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::batch::Value;
use photondb_plugin_sdk::datum::{Object, TYPE_FIELD, VALUE_FIELD};
use photondb_plugin_sdk::kinds::data_type::{Operator, SUM};

use super::error::{ErrorKind, ReqlError, Result};
use super::eval::Context;
use super::order;
use super::parse::Term;
use super::plugin::PluginCall;
use super::print::brief;
use super::pseudo;

/// Values that are summed up in one call.
const SUM_PART: usize = 4096;
/// Numbers that a query remembers as values of a type: those that it compares with are constants as a rule.
const REMEMBERED: usize = 8;

/// The term with all literals of plugins' types as values.
///
/// # Errors
/// When one of them is malformed, or the plugin of its type refuses it or is not there.
pub fn resolve(ctx: &Context, mut term: Term) -> Result<Term> {
    let mut found = Literals::default();
    each_constant(&mut term, &mut |value| found.collect(value))?;
    if found.by_type.is_empty() {
        return Ok(term);
    }
    let mut values = found.parse(ctx)?;
    each_constant(&mut term, &mut |value| {
        if let Some(resolved) = values.replace(value)? {
            *value = resolved;
        }
        Ok(())
    })?;
    Ok(term)
}

/// The same for one value, as `r.json` reads it.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_datum(ctx: &Context, value: Datum) -> Result<Datum> {
    let mut found = Literals::default();
    found.collect(&value)?;
    if found.by_type.is_empty() {
        return Ok(value);
    }
    Ok(found.parse(ctx)?.replace(&value)?.unwrap_or(value))
}

/// A value that a term has made: that of a plugin's type, if it is an object with the key of such.
///
/// # Errors
/// As [`resolve`].
pub fn normalize(ctx: &Context, value: Datum) -> Result<Datum> {
    let Datum::Object(object) = &value else { return Ok(value) };
    match literal(object)? {
        Some((name, value)) => parse(ctx, name, vec![value.clone()])?.pop().ok_or_else(lost),
        None => Ok(value),
    }
}

/// Whether the object stands for a value of a plugin's type.
#[must_use]
pub fn is_literal(object: &Object) -> bool {
    object.get(TYPE_FIELD).is_some()
}

/// Calls `visit` for every literal of the term that has values of plugins' types in it.
fn each_constant(term: &mut Term, visit: &mut dyn FnMut(&mut Datum) -> Result<()>) -> Result<()> {
    match term {
        Term::Constant { value, typed: true, .. } => visit(value),
        Term::Constant { .. } => Ok(()),
        Term::Object(fields) => fields.iter_mut().try_for_each(|(_, field)| each_constant(field, visit)),
        Term::Call { args, options, .. } => {
            args.iter_mut().try_for_each(|arg| each_constant(arg, visit))?;
            options.iter_mut().try_for_each(|(_, option)| each_constant(option, visit))
        }
    }
}

/// Type and value of an object with the key of plugins' types.
fn literal(object: &Object) -> Result<Option<(&str, &Datum)>> {
    let Some(name) = object.get(TYPE_FIELD) else { return Ok(None) };
    let Datum::String(name) = name else {
        return Err(ReqlError::logic(format!(
            "Field `{TYPE_FIELD}` must be the name of a type (got `{}` of type {}).",
            brief(name),
            pseudo::type_name(name)
        )));
    };
    if let Some((other, _)) = object.iter().find(|(field, _)| !matches!(&***field, TYPE_FIELD | VALUE_FIELD)) {
        return Err(ReqlError::logic(format!(
            "A value of type `{name}` has the fields `{TYPE_FIELD}` and `{VALUE_FIELD}` and no others, but found \
             `{other}`."
        )));
    }
    let value = object
        .get(VALUE_FIELD)
        .ok_or_else(|| ReqlError::logic(format!("A value of type `{name}` needs the field `{VALUE_FIELD}`.")))?;
    Ok(Some((name, value)))
}

/// What literals stand for, by type, in the order in which they are met.
#[derive(Default)]
struct Literals {
    by_type: BTreeMap<Arc<str>, Vec<Datum>>,
}

impl Literals {
    fn collect(&mut self, value: &Datum) -> Result<()> {
        match value {
            Datum::Array(elements) => elements.iter().try_for_each(|element| self.collect(element)),
            Datum::Object(object) => match literal(object)? {
                Some((name, value)) => {
                    match self.by_type.get_mut(name) {
                        Some(values) => values.push(value.clone()),
                        None => drop(self.by_type.insert(name.into(), vec![value.clone()])),
                    }
                    Ok(())
                }
                None => object.iter().try_for_each(|(_, field)| self.collect(field)),
            },
            _ => Ok(()),
        }
    }

    /// Asks each plugin once for all of its values.
    fn parse(self, ctx: &Context) -> Result<Values> {
        let parsed = self.by_type.into_iter().map(|(name, values)| {
            let values = parse(ctx, &name, values)?;
            Ok((name, values.into_iter()))
        });
        Ok(Values(parsed.collect::<Result<_>>()?))
    }
}

/// What the literals became, to be taken in the same order.
struct Values(BTreeMap<Arc<str>, std::vec::IntoIter<Datum>>);

impl Values {
    /// The value with its literals replaced; nothing where it has none.
    fn replace(&mut self, value: &Datum) -> Result<Option<Datum>> {
        match value {
            Datum::Array(elements) => {
                let mut replaced: Option<Vec<Datum>> = None;
                for (at, element) in elements.iter().enumerate() {
                    if let Some(new) = self.replace(element)? {
                        replaced.get_or_insert_with(|| elements.to_vec())[at] = new;
                    }
                }
                Ok(replaced.map(Datum::from))
            }
            Datum::Object(object) => {
                if let Some((name, _)) = literal(object)? {
                    let next = self.0.get_mut(name).and_then(Iterator::next);
                    return next.map(Some).ok_or_else(lost);
                }
                let mut replaced: Option<Object> = None;
                for (name, field) in object.iter() {
                    if let Some(new) = self.replace(field)? {
                        replaced.get_or_insert_with(|| (**object).clone()).insert(name.clone(), new);
                    }
                }
                Ok(replaced.map(Datum::from))
            }
            _ => Ok(None),
        }
    }
}

fn lost() -> ReqlError {
    ReqlError::internal("A value of a plugin's type was lost.")
}

/// The plugin's function that makes and computes values of a type.
fn find(ctx: &Context, name: &str) -> Result<PluginCall> {
    let found = PluginCall::find(ctx, name).ok().filter(PluginCall::is_data_type);
    found.ok_or_else(|| {
        ReqlError::failed(format!(
            "No plugin that runs here provides values of type `{name}`: they can be read and compared, but neither \
             made nor computed with. The types that there are stand as `data_type NAME` under `provides` in the table \
             `plugins` of the database `rethinkdb`."
        ))
    })
}

/// Calls the function of a type for `rows` rows. Whatever of its own type it answers is a value of that type and of no other.
fn call(ctx: &Context, name: &str, args: &[&[Value<'_>]], rows: usize) -> Result<Vec<Datum>> {
    let results = find(ctx, name)?.send(ctx, args, rows).map_err(|error| match error.kind() {
        ErrorKind::OpFailed => {
            let message = format!("A value of type `{name}` can't be made or computed with: {}", error.message());
            error.with_message(message)
        }
        _ => error,
    })?;
    let is_own = |result: &Datum| result.as_typed().is_none_or(|typed| typed.name() == name);
    if results.iter().all(is_own) { Ok(results) } else { Err(foreign(name)) }
}

fn foreign(name: &str) -> ReqlError {
    ReqlError::failed(format!("The plugin of type `{name}` answered with something else; its author has to mend that."))
}

fn parse(ctx: &Context, name: &str, values: Vec<Datum>) -> Result<Vec<Datum>> {
    let values: Vec<Value<'_>> = values.into_iter().map(Value::Computed).collect();
    let parsed = call(ctx, name, &[&values], values.len())?;
    if parsed.iter().all(|value| value.as_typed().is_some()) { Ok(parsed) } else { Err(foreign(name)) }
}

/// The type of an operation of which at least one operand is of a plugin's type.
fn type_of(left: &Datum, right: &Datum) -> Option<Arc<str>> {
    left.as_typed().or(right.as_typed()).map(|typed| typed.name().into())
}

/// The result of arithmetic where an operand is of a plugin's type; nothing where none is.
pub fn operate(ctx: &Context, operator: Operator, left: &Datum, right: &Datum) -> Option<Result<Datum>> {
    let name = type_of(left, right)?;
    let args = [operator.name().into(), left.clone(), right.clone()].map(|arg| [Value::Computed(arg)]);
    let result = call(ctx, &name, &args.each_ref().map(<[_; 1]>::as_slice), 1);
    Some(result.and_then(|mut results| results.pop().ok_or_else(lost)))
}

/// Compares two values as the terms of comparison do: a number beside a value of a plugin's type is read as one of
/// that type, where the plugin takes it.
///
/// # Errors
/// When the plugin would have to read a number, and is not there.
pub fn compare(ctx: &Context, left: &Datum, right: &Datum) -> Result<Ordering> {
    Ok(match (left, right) {
        (Datum::Typed(typed), Datum::Number(number)) => match number_as(ctx, typed.name(), *number)? {
            Some(right) => left.compare(&right),
            None => left.compare(right),
        },
        (Datum::Number(_), Datum::Typed(_)) => compare(ctx, right, left)?.reverse(),
        _ => order::compare(left, right),
    })
}

/// The number as a value of the type; nothing where the plugin says that it is none.
fn number_as(ctx: &Context, name: &str, number: f64) -> Result<Option<Datum>> {
    let remembered = |known: &Remembered| (*known.name == *name && known.number == number).then(|| known.value.clone());
    let numbers = &ctx.numbers_of_types.0;
    if let Some(value) = numbers.lock().unwrap_or_else(PoisonError::into_inner).iter().find_map(remembered) {
        return Ok(value);
    }
    let value = match parse(ctx, name, vec![number.into()]) {
        Ok(mut values) => values.pop(),
        Err(error) if error.kind() == ErrorKind::QueryLogic => None,
        Err(error) => return Err(error),
    };
    let mut numbers = numbers.lock().unwrap_or_else(PoisonError::into_inner);
    if numbers.len() == REMEMBERED {
        numbers.remove(0);
    }
    numbers.push(Remembered { name: name.into(), number, value: value.clone() });
    Ok(value)
}

/// The numbers that a query has compared values of plugins' types with.
#[derive(Debug, Default)]
pub struct NumbersOfTypes(Mutex<Vec<Remembered>>);

#[derive(Debug)]
struct Remembered {
    name: Arc<str>,
    number: f64,
    value: Option<Datum>,
}

/// A sum of numbers, or of values of a plugin's type and numbers.
#[derive(Default)]
pub struct Sum {
    number: f64,
    count: u64,
    /// From the first value of a plugin's type on: the sum so far, and what is to be added.
    typed: Vec<Datum>,
}

impl Sum {
    /// How many values were added.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds a value.
    ///
    /// # Errors
    /// When it can't be added.
    pub fn add(&mut self, ctx: &Context, value: Datum) -> Result<()> {
        match (&value, self.typed.is_empty()) {
            (Datum::Number(number), true) => self.number += number,
            (Datum::Number(_), false) => self.typed.push(value),
            (Datum::Typed(_), true) => {
                self.typed.push(value);
                if self.count > 0 {
                    self.typed.push(finite(self.number)?);
                }
            }
            (Datum::Typed(_), false) => self.typed.push(value),
            (other, _) => return Err(ReqlError::wrong_type("NUMBER", other)),
        }
        self.count += 1;
        if self.typed.len() >= SUM_PART {
            let sum = self.take(ctx)?;
            self.typed.push(sum);
        }
        Ok(())
    }

    /// The sum.
    ///
    /// # Errors
    /// When there is none.
    pub fn finish(mut self, ctx: &Context) -> Result<Datum> {
        if self.typed.is_empty() { finite(self.number) } else { self.take(ctx) }
    }

    fn take(&mut self, ctx: &Context) -> Result<Datum> {
        let values = std::mem::take(&mut self.typed);
        let Some(Datum::Typed(first)) = values.first() else {
            return Err(ReqlError::failed("A sum of values of a plugin's type became something else on the way."));
        };
        let name = first.name().to_owned();
        let args = [SUM.into(), Datum::from(values)].map(|arg| [Value::Computed(arg)]);
        call(ctx, &name, &args.each_ref().map(<[_; 1]>::as_slice), 1)?.pop().ok_or_else(lost)
    }
}

/// The number, if there is such a number.
///
/// # Errors
/// When it is infinite.
pub fn finite(value: f64) -> Result<Datum> {
    if value.is_finite() {
        return Ok(value.into());
    }
    Err(ReqlError::logic(format!("Non-finite number: {}", if value > 0.0 { "inf" } else { "-inf" })))
}
