//! Order and union: ORDER_BY, ASC, DESC, UNION.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::sync::Arc;

use photondb_plugin_sdk::Datum;

use super::{MANY, Op};
use crate::query::bulk::{batches, prepare};
use crate::query::compile::Node;
use crate::query::error::{ErrorKind, ReqlError, Result};
use crate::query::eval::{Call, Context, Env, framed};
use crate::query::function::{Function, Prepared};
use crate::query::order::compare;
use crate::query::stream::{Fused, Rows, Stream, array_too_long};
use crate::query::tables::Order;
use crate::query::value::{Shortcut, Slice, Value};

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(41, "order_by", 1, MANY, order_by).with(Op::STREAM_FUNCTION | Op::SORTS).options(&["index"]),
    Op::new(super::ASC, "asc", 1, 1, ordering),
    Op::new(super::DESC, "desc", 1, 1, ordering),
    Op::new(44, "union", 0, MANY, union).with(Op::SORTS).options(&["interleave"]),
];

/// The direction is read from the node; as a value an ordering is what it orders by.
fn ordering(call: &Call<'_>) -> Result<Value> {
    call.arg(0)
}

/// One criterion of an order.
#[derive(Clone)]
struct Criterion {
    order: Order,
    function: Arc<Function>,
}

impl Criterion {
    fn new(env: &Env, node: &Node) -> Result<Self> {
        let order = direction(node);
        let function = env.eval(node)?.into_function(Shortcut::Field, &env.ctx)?;
        Ok(Self { order, function })
    }
}

fn direction(node: &Node) -> Order {
    match node {
        Node::Call(call) if call.op.number == super::DESC => Order::Descending,
        _ => Order::Ascending,
    }
}

/// What a row is ordered by: a key for each criterion; nothing where a field is missing, which comes first.
type Keys = Vec<Option<Datum>>;

fn key_of(function: &Function, ctx: &Arc<Context>, call: Prepared) -> Result<Option<Datum>> {
    match function.finish(ctx, call).and_then(|value| value.into_datum(ctx)) {
        Ok(key) => Ok(Some(key)),
        Err(error) if error.kind() == ErrorKind::NonExistence => Ok(None),
        Err(error) => Err(error),
    }
}

fn compare_keys(criteria: &[Criterion], left: &Keys, right: &Keys) -> Ordering {
    for ((criterion, left), right) in criteria.iter().zip(left).zip(right) {
        let order = match (left, right) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(left), Some(right)) => compare(left, right),
        };
        let order = if criterion.order == Order::Descending { order.reverse() } else { order };
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// The rows with their keys; plugins that compute keys get all rows in one batch.
fn with_keys(ctx: &Arc<Context>, criteria: &[Criterion], rows: Vec<Datum>) -> Result<Vec<(Keys, Datum)>> {
    let mut keyed: Vec<(Keys, Datum)> = rows.into_iter().map(|row| (Keys::new(), row)).collect();
    for criterion in criteria {
        let function = &criterion.function;
        if batches(function) {
            let calls = prepare(function, ctx, keyed.iter().map(|(_, row)| vec![row.clone().into()]).collect());
            for ((keys, _), prepared) in keyed.iter_mut().zip(calls) {
                keys.push(key_of(function, ctx, prepared)?);
            }
        } else {
            for (keys, row) in &mut keyed {
                keys.push(key_of(function, ctx, Prepared::of(row.clone()))?);
            }
        }
    }
    Ok(keyed)
}

fn order_by(call: &Call<'_>) -> Result<Value> {
    let source = call.arg(0)?;
    let criteria = (1..call.count())
        .map(|position| {
            let criterion = match call.arg_node(position) {
                Some(node) => Criterion::new(call.env, node),
                None => call
                    .function(position, Shortcut::Field)
                    .map(|function| Criterion { order: Order::Ascending, function }),
            };
            criterion.map_err(|error| error.at(position))
        })
        .collect::<Result<Vec<_>>>()?;
    let Some(index) = call.option_node("index") else {
        if criteria.is_empty() {
            return Err(ReqlError::logic("Must specify something to order by."));
        }
        return sorted(call, source, criteria);
    };
    let slice = indexed(call, source, direction(index))?;
    if criteria.is_empty() {
        return Ok(Value::Slice(slice));
    }
    // The index has sorted by its own value: rows with the same one are sorted by the criteria.
    let table = slice.table.clone();
    let function = table.index_function(call.ctx(), slice.index.as_deref())?;
    let rows = table.scan(call.ctx(), &slice)?.into_rows();
    let runs = Runs {
        rows: Fused::new(rows).peekable(),
        same: move |left: &Datum, right: &Datum| match (function.value(left), function.value(right)) {
            (Some(left), Some(right)) => compare(&left, &right).is_eq(),
            _ => false,
        },
        criteria,
        ctx: call.ctx().clone(),
        ready: Vec::new().into_iter(),
    };
    Ok(Value::Selection(table, Stream::new(Fused::new(runs))))
}

fn indexed(call: &Call<'_>, source: Value, order: Order) -> Result<Slice> {
    let mut slice = match source {
        Value::Table(table) => super::selection::whole(table),
        Value::Slice(slice) => slice,
        _ => {
            return Err(ReqlError::logic(
                "Indexed order_by can only be performed on a TABLE or TABLE_SLICE. Make sure order_by comes before any \
                 transformations (such as map) or filters.",
            ));
        }
    };
    if slice.order.is_some() {
        return Err(ReqlError::logic("Cannot perform multiple indexed ORDER_BYs on the same table."));
    }
    let index = super::selection::index_option(call, &slice.table)?;
    if let Some(index) = &index {
        slice.table.check_index(index)?;
    }
    if slice.bounded && slice.index != index {
        return Err(ReqlError::logic(format!(
            "Cannot order by index `{}` after calling BETWEEN on index `{}`.",
            index.as_deref().unwrap_or(slice.table.primary_key()),
            slice.index.as_deref().unwrap_or(slice.table.primary_key())
        )));
    }
    (slice.index, slice.order) = (index, Some(order));
    Ok(slice)
}

/// Sorts all of a sequence. The order is stable.
fn sorted(call: &Call<'_>, source: Value, criteria: Vec<Criterion>) -> Result<Value> {
    let table = if matches!(source, Value::Single(_)) { None } else { source.table() };
    let stream = framed(source.into_stream(call.ctx()).map_err(|error| error.at(0))?, 0);
    let rows = stream.collect_list(call.ctx())?;
    let mut keyed = with_keys(call.ctx(), &criteria, rows)?;
    keyed.sort_by(|left, right| compare_keys(&criteria, &left.0, &right.0));
    let stream = Stream::from_list(keyed.into_iter().map(|(_, row)| row).collect());
    Ok(match table {
        Some(table) => Value::Selection(table, stream),
        None => stream.into(),
    })
}

/// Rows that come in runs of equal index values, each run sorted.
struct Runs<F> {
    rows: Peekable<Fused<Rows>>,
    same: F,
    criteria: Vec<Criterion>,
    ctx: Arc<Context>,
    ready: std::vec::IntoIter<Datum>,
}

impl<F: Fn(&Datum, &Datum) -> bool> Runs<F> {
    fn fill(&mut self) -> Result<()> {
        let mut run = Vec::new();
        while let Some(row) = self.rows.next_if(|row| match (row, run.last()) {
            (Ok(row), Some(last)) => (self.same)(last, row),
            (_, None) => true,
            (Err(_), Some(_)) => false,
        }) {
            let row = row?;
            self.ctx.keep(&row)?;
            run.push(row);
            if run.len() > self.ctx.array_limit() {
                return Err(array_too_long(self.ctx.array_limit()));
            }
        }
        let mut keyed = with_keys(&self.ctx, &self.criteria, run)?;
        keyed.sort_by(|left, right| compare_keys(&self.criteria, &left.0, &right.0));
        self.ready = keyed.into_iter().map(|(_, row)| row).collect::<Vec<_>>().into_iter();
        Ok(())
    }
}

impl<F: Fn(&Datum, &Datum) -> bool> Iterator for Runs<F> {
    type Item = Result<Datum>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(row) = self.ready.next() {
            return Some(Ok(row));
        }
        match self.fill() {
            Ok(()) => self.ready.next().map(Ok),
            Err(error) => Some(Err(error)),
        }
    }
}

fn union(call: &Call<'_>) -> Result<Value> {
    let streams = (0..call.count()).map(|position| call.stream(position)).collect::<Result<Vec<_>>>()?;
    let array = streams.iter().all(Stream::is_array);
    let infinite = streams.iter().any(Stream::is_infinite);
    let interleave = match call.option_node("interleave") {
        Some(node) => criteria_of_union(call.env, node)?,
        None => None,
    };
    let make = |rows: Rows| {
        let stream = if infinite { Stream::infinite(rows) } else { Stream::new(rows) };
        stream.with_array(array)
    };
    let Some(criteria) = interleave else {
        let rows = streams.into_iter().flat_map(Stream::into_rows);
        let stream = make(Box::new(Fused::new(rows)));
        if array {
            // Limits hold for arrays at once, not when somebody reads them.
            return Ok(stream.collect_array(call.ctx())?.into());
        }
        return Ok(stream.into());
    };
    let heads = streams.into_iter().map(|stream| Head { rows: stream.into_rows(), next: None, last: None }).collect();
    let merged = Merged { heads, criteria, ctx: call.ctx().clone(), started: false };
    Ok(make(Box::new(Fused::new(merged))).into())
}

/// What a union is merged by; nothing for one stream behind the other.
fn criteria_of_union(env: &Env, node: &Node) -> Result<Option<Vec<Criterion>>> {
    if let Node::Call(call) = node
        && call.op.number == 2
    {
        return Ok(Some(call.args.iter().map(|node| Criterion::new(env, node)).collect::<Result<_>>()?));
    }
    match env.eval(node)? {
        // The order of unmerged streams is free: left to right is one of those allowed.
        Value::Datum(Datum::Bool(_)) => Ok(None),
        Value::Datum(Datum::Array(fields)) => {
            let criterion = |field: &Datum| {
                let function = Value::Datum(field.clone()).into_function(Shortcut::Field, &env.ctx)?;
                Ok(Criterion { order: Order::Ascending, function })
            };
            Ok(Some(fields.iter().map(criterion).collect::<Result<_>>()?))
        }
        value => {
            let function = value.into_function(Shortcut::Field, &env.ctx)?;
            Ok(Some(vec![Criterion { order: direction(node), function }]))
        }
    }
}

/// One of the streams that are merged.
struct Head {
    rows: Rows,
    next: Option<(Keys, Datum)>,
    last: Option<Keys>,
}

struct Merged {
    heads: Vec<Head>,
    criteria: Vec<Criterion>,
    ctx: Arc<Context>,
    started: bool,
}

impl Merged {
    fn advance(&mut self, head: usize) -> Result<()> {
        let (criteria, ctx) = (&self.criteria, &self.ctx);
        let Some(head) = self.heads.get_mut(head) else { return Ok(()) };
        let Some(row) = head.rows.next().transpose()? else {
            head.next = None;
            return Ok(());
        };
        let keys = criteria
            .iter()
            .map(|criterion| key_of(&criterion.function, ctx, Prepared::of(row.clone())))
            .collect::<Result<Keys>>()?;
        if head.last.as_ref().is_some_and(|last| compare_keys(criteria, last, &keys).is_gt()) {
            return Err(ReqlError::logic("The streams given as arguments are not ordered by given ordering."));
        }
        head.last = Some(keys.clone());
        head.next = Some((keys, row));
        Ok(())
    }

    fn step(&mut self) -> Result<Option<Datum>> {
        if !self.started {
            self.started = true;
            for head in 0..self.heads.len() {
                self.advance(head)?;
            }
        }
        let candidates = self.heads.iter().enumerate().filter_map(|(at, head)| Some((at, &head.next.as_ref()?.0)));
        // `min_by` takes the first of equal ones: the order of the arguments.
        let first = candidates.min_by(|left, right| compare_keys(&self.criteria, left.1, right.1)).map(|(at, _)| at);
        let Some(first) = first else { return Ok(None) };
        let row = self.heads[first].next.take().map(|(_, row)| row);
        self.advance(first)?;
        Ok(row)
    }
}

impl Iterator for Merged {
    type Item = Result<Datum>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
