//! Nearest neighbours: GET_NEAREST.

use std::sync::Arc;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::Object;

use super::Op;
use crate::query::compile::Node;
use crate::query::error::{Frame, ReqlError, Result};
use crate::query::eval::{Call, Context, integer, number};
use crate::query::function::{Function, Missing, Prepared};
use crate::query::order::Ordered;
use crate::query::row::Row;
use crate::query::stream::Stream;
use crate::query::tables::TableRef;
use crate::query::value::{Shortcut, Value};
use crate::query::vector::{Filter, Search};
use crate::storage::{Document, StoreError};

/// The terms of this family.
pub const OPS: &[Op] =
    &[Op::new(super::GET_NEAREST, "get_nearest", 2, 2, get_nearest)
        .with(Op::UNGROUPED | Op::VOLATILE | Op::ANY_OPTIONS)];

/// Neighbours, unless the client says otherwise.
const DEFAULT_RESULTS: usize = 100;
/// Most neighbours of one query.
const MAX_RESULTS: i64 = 100_000;
/// Most queries of one batch.
const MAX_QUERIES: usize = 10_000;

fn get_nearest(call: &Call<'_>) -> Result<Value> {
    let (table, within) = match call.arg(0)? {
        Value::Table(table) => (table, None),
        Value::Slice(slice) if !slice.bounded => (slice.table.clone(), None),
        Value::Selection(table, stream) => (table, Some(stream)),
        Value::Slice(slice) => (slice.table.clone(), Some(slice.table.scan(call.ctx(), &slice)?)),
        other => return Err(other.wrong_kind("TABLE").at(0)),
    };
    let index = call
        .option_string("index")
        .map_err(|error| error.within(Frame::Option("index".into())))?
        .ok_or_else(|| ReqlError::logic("get_nearest requires an index argument: the name of a vector index."))?;
    let stored = table.to_read()?;
    let definition = stored
        .index_status(&index)?
        .info
        .vector
        .ok_or_else(|| ReqlError::from(StoreError::IndexIsNotVector(index.to_string())))?;
    let queries = Queries::read(&call.datum(1)?, definition.dims as usize).map_err(|error| error.at(1))?;
    let options = Options::read(call)?;
    let settings = settings(call)?;
    let mut filter = predicate(call, &table, within)?;
    let search = Search {
        table: stored,
        index: &index,
        queries: &queries.numbers,
        count: queries.count,
        k: options.k,
        max_distance: options.max_distance,
        settings: &settings,
        ctx: call.ctx(),
    };
    let started = call.ctx().profile.enter();
    let found =
        call.ctx().resources.nearest().nearest(&search, filter.as_mut().map(|filter| &mut **filter as Filter<'_>));
    call.ctx().profile.leave(started, || format!("Searching index `{index}` for {} vectors.", queries.count));
    let mut lists = found?.into_iter().map(|neighbours| {
        neighbours.into_iter().map(|(distance, document)| Row::neighbour(distance, document)).collect::<Row>()
    });
    let row = if queries.is_batch { lists.collect() } else { lists.next().unwrap_or_else(|| Row::from_iter([])) };
    Value::row(row, call.ctx())
}

/// What is searched for.
struct Queries {
    /// The vectors, one behind the other.
    numbers: Vec<f32>,
    count: usize,
    /// Whether it is a list of vectors, even if of one: so is the result.
    is_batch: bool,
}

impl Queries {
    /// One vector, or a list of vectors.
    fn read(datum: &Datum, dims: usize) -> Result<Self> {
        let Datum::Array(elements) = datum else { return Err(ReqlError::wrong_type("ARRAY", datum)) };
        let is_batch = matches!(elements.first(), Some(Datum::Array(_)));
        let count = if is_batch { elements.len() } else { 1 };
        if count > MAX_QUERIES {
            return Err(ReqlError::limit(format!("get_nearest takes {MAX_QUERIES} vectors at most, found {count}.")));
        }
        let mut queries = Self { numbers: Vec::with_capacity(count * dims), count, is_batch };
        if !is_batch {
            queries.push(elements, dims)?;
            return Ok(queries);
        }
        for element in elements.iter() {
            match element {
                Datum::Array(numbers) => queries.push(numbers, dims)?,
                other => return Err(ReqlError::wrong_type("ARRAY", other)),
            }
        }
        Ok(queries)
    }

    fn push(&mut self, numbers: &[Datum], dims: usize) -> Result<()> {
        if numbers.len() != dims {
            return Err(ReqlError::logic(format!(
                "The index holds vectors of {dims} numbers, but the query vector has {}.",
                numbers.len()
            )));
        }
        let start = self.numbers.len();
        for datum in numbers {
            self.numbers.push(number(datum)? as f32);
        }
        if photondb_distance::is_measurable(&self.numbers[start..]) {
            Ok(())
        } else {
            Err(ReqlError::logic(
                "The numbers of the query vector are too large: the sum of their squares has to be less than 4e37.",
            ))
        }
    }
}

struct Options {
    k: usize,
    max_distance: Option<f64>,
}

impl Options {
    fn read(call: &Call<'_>) -> Result<Self> {
        let framed = |error: ReqlError, name: &str| error.within(Frame::Option(name.into()));
        let k = match call.option_datum("max_results")? {
            None => DEFAULT_RESULTS,
            Some(datum) => {
                let count = integer(&datum).map_err(|error| framed(error, "max_results"))?;
                usize::try_from(count).ok().filter(|_| (1..=MAX_RESULTS).contains(&count)).ok_or_else(|| {
                    let message = format!("max_results has to be between 1 and {MAX_RESULTS}, found {count}.");
                    framed(ReqlError::logic(message), "max_results")
                })?
            }
        };
        let max_distance = call
            .option_datum("max_dist")?
            .map(|datum| number(&datum).map_err(|error| framed(error, "max_dist")))
            .transpose()?;
        Ok(Self { k, max_distance })
    }
}

/// The options that are not ours: the plugin's, for this search.
fn settings(call: &Call<'_>) -> Result<Datum> {
    const OWN: [&str; 5] = ["index", "max_results", "max_dist", "filter", "read_mode"];
    let settings: Object = call
        .node
        .options
        .iter()
        .filter(|(name, _)| !OWN.contains(&&**name))
        .map(|(name, node)| match call.env.datum(node) {
            Ok(value) => Ok((name.clone(), value)),
            Err(error) => Err(error.within(Frame::Option(name.clone()))),
        })
        .collect::<Result<_>>()?;
    Ok(settings.into())
}

type Predicate = Box<dyn FnMut(&Arc<Document>) -> Result<bool>>;

/// What a document has to fulfil: the option `filter`, and to be in the selection that the term is called on.
fn predicate(call: &Call<'_>, table: &TableRef, within: Option<Stream>) -> Result<Option<Predicate>> {
    let ctx = call.ctx().clone();
    let members = match within {
        None => None,
        Some(stream) => {
            let key = table.primary_key().to_owned();
            let keys = stream.into_all_rows()?.map(|row| {
                let key = row?.get(&key).cloned();
                key.iter().try_for_each(|key| ctx.keep(key))?;
                Ok(key.map(Ordered))
            });
            let keys: std::collections::BTreeSet<Ordered> =
                keys.collect::<Result<Vec<_>>>().map_err(|error| error.at(0))?.into_iter().flatten().collect();
            Some((key, keys))
        }
    };
    let function = match call.option_node("filter") {
        None => None,
        // A pattern is an object; a bare term is wrapped by drivers where it has `r.row` in it.
        Some(node @ Node::Function(_)) => Some(call.env.eval(node)?.into_function(Shortcut::None, &ctx)?),
        Some(node) => Some(call.env.eval(node)?.into_function(Shortcut::Constant, &ctx)?),
    };
    if members.is_none() && function.is_none() {
        return Ok(None);
    }
    Ok(Some(Box::new(move |document: &Arc<Document>| {
        let row = Row::Stored(document.clone());
        let is_member = match &members {
            None => true,
            Some((key, keys)) => match row.field(key) {
                Some(key) => keys.contains(&Ordered(key.into_datum()?)),
                None => false,
            },
        };
        Ok(is_member && accepts(&ctx, function.as_ref(), row)?)
    })))
}

fn accepts(ctx: &Arc<Context>, function: Option<&Arc<Function>>, document: Row) -> Result<bool> {
    let Some(function) = function else { return Ok(true) };
    let accepted = function.matches(ctx, Prepared::of(document), &Missing::Value(false));
    accepted.map_err(|error| error.within(Frame::Option("filter".into())))
}
