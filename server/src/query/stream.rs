//! Sequences that are computed as they are read.

use std::sync::Arc;

use photondb_plugin_sdk::Datum;

use super::error::{ReqlError, Result};
use super::eval::Context;
use super::pushdown::Scan;
use super::row::{List, Row};

/// The elements of a stream. Owns what it needs, so that it can wait in a cursor between two requests of a client.
pub type Rows = Box<dyn Iterator<Item = Result<Datum>> + Send>;

/// The same, with documents as they are stored.
pub type StoredRows = Box<dyn Iterator<Item = Result<Row>> + Send>;

/// What the next element of a sequence may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// A read of the storage.
    Steady,
    /// Whatever a query can do: read for a long time, or call plugins and wait for them.
    Unknown,
}

/// A sequence that is computed as it is read.
pub struct Stream {
    pace: Pace,
    rows: Elements,
    array: bool,
    infinite: bool,
    /// The scan that all elements come from, as whole documents, if it may be told what it is for.
    scan: Option<Arc<Scan>>,
}

enum Elements {
    Values(Rows),
    Stored(StoredRows),
}

impl Stream {
    /// A stream of the given elements.
    pub fn new(rows: impl Iterator<Item = Result<Datum>> + Send + 'static) -> Self {
        Self::from(Elements::Values(Box::new(rows)))
    }

    /// A stream of documents, decoded by who needs all of them.
    pub fn of_stored(rows: impl Iterator<Item = Result<Row>> + Send + 'static) -> Self {
        Self::from(Elements::Stored(Box::new(rows)))
    }

    /// The same stream, whose elements are documents of that scan.
    #[must_use]
    pub fn of_scan(self, scan: Option<Arc<Scan>>) -> Self {
        Self { scan, ..self }
    }

    /// The scan that may be told what the elements are for. Only before the first one is read.
    #[must_use]
    pub fn pending_scan(&self) -> Option<&Arc<Scan>> {
        self.scan.as_ref()
    }

    /// The same stream, which only reads the storage.
    #[must_use]
    pub fn steady(self) -> Self {
        Self { pace: Pace::Steady, ..self }
    }

    /// What the next element may take.
    #[must_use]
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// A stream without end.
    pub fn infinite(rows: impl Iterator<Item = Result<Datum>> + Send + 'static) -> Self {
        Self { infinite: true, ..Self::new(rows) }
    }

    /// The elements of an array.
    #[must_use]
    pub fn from_array(elements: Arc<[Datum]>) -> Self {
        Self { array: true, ..Self::new(ArrayRows { elements, next: 0 }) }
    }

    /// The elements of an array.
    #[must_use]
    pub fn from_rows(list: Arc<List>) -> Self {
        let elements = (0..list.rows().len()).map(move |at| Ok(list.rows()[at].clone()));
        Self { array: true, ..Self::of_stored(elements) }
    }

    /// The elements of a list; the stream counts as an array.
    #[must_use]
    pub fn from_list(elements: Vec<Datum>) -> Self {
        Self { array: true, ..Self::new(elements.into_iter().map(Ok)) }
    }

    /// Whether the elements come from an array, so that the stream is an array to clients.
    #[must_use]
    pub fn is_array(&self) -> bool {
        self.array
    }

    /// Whether there is no end.
    #[must_use]
    pub fn is_infinite(&self) -> bool {
        self.infinite
    }

    /// The same stream, counting as an array or not.
    #[must_use]
    pub fn with_array(mut self, array: bool) -> Self {
        self.array = array;
        self
    }

    /// The same stream, known to end.
    #[must_use]
    pub fn finite(mut self) -> Self {
        self.infinite = false;
        self
    }

    /// The stream that `change` makes of the elements, of the same kind as this one.
    pub fn map_rows<I>(self, change: impl FnOnce(Rows) -> I) -> Self
    where
        I: Iterator<Item = Result<Datum>> + Send + 'static,
    {
        let (array, infinite) = (self.array, self.infinite);
        Self { array, infinite, ..Self::new(change(self.into_rows())) }
    }

    /// The stream of values that `change` makes of the elements as they are stored.
    #[must_use]
    pub fn map_stored<I>(self, change: impl FnOnce(StoredRows) -> I) -> Self
    where
        I: Iterator<Item = Result<Datum>> + Send + 'static,
    {
        let (array, infinite) = (self.array, self.infinite);
        Self { array, infinite, ..Self::new(change(self.into_stored())) }
    }

    /// The stream of rows that `pick` makes of the elements as they are stored; where it picks some, they stay so.
    #[must_use]
    pub fn pick<I>(self, pick: impl FnOnce(StoredRows) -> I) -> Self
    where
        I: Iterator<Item = Result<Row>> + Send + 'static,
    {
        let (array, infinite) = (self.array, self.infinite);
        Self { array, infinite, ..Self::of_stored(pick(self.into_stored())) }
    }

    /// The same stream; failures of its elements are changed.
    #[must_use]
    pub fn map_errors(self, change: impl Fn(ReqlError) -> ReqlError + Send + 'static) -> Self {
        let rows = match self.rows {
            Elements::Values(rows) => Elements::Values(Box::new(rows.map(move |row| row.map_err(&change)))),
            Elements::Stored(rows) => Elements::Stored(Box::new(rows.map(move |row| row.map_err(&change)))),
        };
        Self { rows, ..self }
    }

    /// The elements.
    #[must_use]
    pub fn into_rows(self) -> Rows {
        match self.rows {
            Elements::Values(rows) => rows,
            Elements::Stored(rows) => Box::new(rows.map(|row| row?.into_datum())),
        }
    }

    /// The elements, documents as they are stored.
    #[must_use]
    pub fn into_stored(self) -> StoredRows {
        match self.rows {
            Elements::Values(rows) => Box::new(rows.map(|row| row.map(Row::from))),
            Elements::Stored(rows) => rows,
        }
    }

    /// The elements, for an operation that reads all of them.
    ///
    /// # Errors
    /// When there is no end.
    pub fn into_all_rows(self) -> Result<Rows> {
        self.ends().map(Self::into_rows)
    }

    /// The elements, documents as they are stored, for an operation that reads all of them.
    ///
    /// # Errors
    /// When there is no end.
    pub fn into_all_stored(self) -> Result<StoredRows> {
        self.ends().map(Self::into_stored)
    }

    fn ends(self) -> Result<Self> {
        if self.infinite {
            return Err(ReqlError::logic(
                "Cannot use an infinite stream with an aggregation function (`reduce`, `count`, etc.) or coerce it to an \
                 array.",
            ));
        }
        Ok(self)
    }

    /// All elements.
    ///
    /// # Errors
    /// When there is no end, there are more elements than `array_limit`, or computing one fails.
    pub fn collect_list(self, ctx: &Context) -> Result<Vec<Datum>> {
        let limit = ctx.array_limit();
        let mut elements = Vec::new();
        for row in self.into_all_rows()? {
            let row = row?;
            ctx.keep(&row)?;
            elements.push(row);
            if elements.len() > limit {
                return Err(array_too_long(limit));
            }
        }
        Ok(elements)
    }

    /// All elements as an array, documents as they are stored.
    ///
    /// # Errors
    /// As [`collect_list`](Self::collect_list).
    pub fn collect_row(self, ctx: &Context) -> Result<Row> {
        let limit = ctx.array_limit();
        let rows = self.into_all_stored()?.enumerate().map(|(at, row)| {
            let row = row?;
            ctx.keep_row(&row)?;
            if at < limit { Ok(row) } else { Err(array_too_long(limit)) }
        });
        rows.collect()
    }

    /// All elements as an array.
    ///
    /// # Errors
    /// As [`collect_list`](Self::collect_list).
    pub fn collect_array(self, ctx: &Context) -> Result<Datum> {
        Ok(self.collect_list(ctx)?.into())
    }
}

impl From<Elements> for Stream {
    fn from(rows: Elements) -> Self {
        Self { pace: Pace::Unknown, rows, array: false, infinite: false, scan: None }
    }
}

impl Iterator for Stream {
    type Item = Result<Datum>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.rows {
            Elements::Values(rows) => rows.next(),
            Elements::Stored(rows) => rows.next().map(|row| row?.into_datum()),
        }
    }
}

/// The error for an array beyond the limit.
#[must_use]
pub fn array_too_long(limit: usize) -> ReqlError {
    ReqlError::limit(format!(
        "Array over size limit `{limit}`.  To raise the number of allowed elements, modify the `array_limit` option to \
         `.run` (not available in the Data Explorer), or use an index."
    ))
}

struct ArrayRows {
    elements: Arc<[Datum]>,
    next: usize,
}

impl Iterator for ArrayRows {
    type Item = Result<Datum>;

    fn next(&mut self) -> Option<Self::Item> {
        let element = self.elements.get(self.next)?.clone();
        self.next += 1;
        Some(Ok(element))
    }

    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        self.next = self.next.saturating_add(n);
        self.next()
    }
}

/// Stops after the first error, so that no operation reads on behind one.
pub struct Fused<I> {
    rows: Option<I>,
}

impl<I> Fused<I> {
    /// The elements of `rows` up to the first error.
    pub fn new(rows: I) -> Self {
        Self { rows: Some(rows) }
    }
}

impl<T, I: Iterator<Item = Result<T>>> Iterator for Fused<I> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.as_mut()?.next();
        if !matches!(row, Some(Ok(_))) {
            self.rows = None;
        }
        row
    }
}
