//! Rows as typed columns: how arguments reach a function in bulk, and how its results go back.
//!
//! A column whose values are all of one simple type travels as an array of that type: numbers, booleans, texts, or vectors
//! of equal length whose numbers are exact in f32; nulls among them are bits beside. Any other column travels as encoded
//! datums. Either way the plugin reads in place.
//!
//! - `arguments`: values from storage, from a query or from a socket -> columns, in one write;
//! - `results`: a function's results -> a column, and what the server believes of it.

mod arguments;
mod results;

use photondb_ipc_schema::batch::{self as wire, BatchFull, Column};

use crate::datum::DatumRef;
use crate::{Cancel, Cause, Datum, PluginError};

pub use arguments::{Cell, Shape, Value, rows_that_fit, write_rows};
pub use results::{RowsWriter, read_numbers, read_results};

/// The rows of a call, one column an argument. Reads in place from the memory that the server shares.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    inner: wire::Batch<'a>,
    cancel: Cancel<'a>,
}

/// A column of vectors.
#[derive(Clone, Copy, Debug)]
pub struct Vectors<'a> {
    /// How many numbers each has; 1 or more.
    pub dims: usize,
    /// `[rows, dims]`, row-major, 64-byte aligned.
    pub values: &'a [f32],
}

impl<'a> Batch<'a> {
    /// The batch in `bytes`, with as many values in each column as it has rows.
    ///
    /// # Errors
    /// When the bytes are no batch of rows.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PluginError> {
        let malformed = |reason: String| PluginError::runtime(Cause::Protocol, reason);
        let inner = wire::Batch::parse(bytes).map_err(|error| malformed(error.to_string()))?;
        for column in 0..inner.columns() {
            let len = match inner.column(column) {
                Some(Column::F64(numbers)) => numbers.len(),
                Some(Column::Bool(bools)) => bools.len(),
                Some(Column::F32 { width, values }) if width > 0 => values.len() / width,
                Some(Column::String(values) | Column::Datum(values)) => values.len(),
                _ => return Err(malformed(format!("column {column} is of a kind that holds no values of rows"))),
            };
            if len != inner.rows() {
                return Err(malformed(format!("column {column} has {len} values for {} rows", inner.rows())));
            }
        }
        Ok(Self { inner, cancel: Cancel::never() })
    }

    /// The same batch, of a call that its caller may give up.
    #[must_use]
    pub(crate) fn of_call(self, cancel: Cancel<'a>) -> Self {
        Self { cancel, ..self }
    }

    /// Whether the caller gave up waiting for the results: stop, and return anything. Costs a load from a cache line that
    /// hardly ever changes, so ask for each row that takes a microsecond or more.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// What tells whether the caller gave up, for other threads that work for the call.
    #[must_use]
    pub fn cancel(&self) -> Cancel<'a> {
        self.cancel
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.inner.rows()
    }

    /// How many columns, that is arguments, there are.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.inner.columns()
    }

    /// A column of numbers, in place; `None` where a value of the column is anything else.
    #[must_use]
    pub fn numbers(&self, column: usize) -> Option<&'a [f64]> {
        self.numbers_or_nulls(column).filter(|_| self.inner.validity(column).is_none())
    }

    /// A column of numbers and nulls, in place; `None` where a value of the column is anything else. In the place of a null
    /// is a zero: ask [`is_null`](Self::is_null).
    #[must_use]
    pub fn numbers_or_nulls(&self, column: usize) -> Option<&'a [f64]> {
        match self.inner.column(column)? {
            Column::F64(numbers) => Some(numbers),
            _ => None,
        }
    }

    /// A column of booleans as bytes, 1 for true and 0 for false, in place; `None` where a value is anything else.
    #[must_use]
    pub fn bools(&self, column: usize) -> Option<&'a [u8]> {
        match self.inner.column(column)? {
            Column::Bool(bools) if self.inner.validity(column).is_none() => Some(bools),
            _ => None,
        }
    }

    /// A column of vectors of equal length, in place; `None` where a value is anything else than an array of so many
    /// numbers, each of which is exact in f32.
    #[must_use]
    pub fn vectors(&self, column: usize) -> Option<Vectors<'a>> {
        match self.inner.column(column)? {
            Column::F32 { width: dims, values } if self.inner.validity(column).is_none() => {
                Some(Vectors { dims, values })
            }
            _ => None,
        }
    }

    /// A text, in place, in whatever kind of column; `None` where the value is anything else.
    #[must_use]
    pub fn str(&self, column: usize, row: usize) -> Option<&'a str> {
        match self.inner.column(column)? {
            Column::String(_) if self.is_null(column, row) => None,
            Column::String(texts) => std::str::from_utf8(texts.get(row)?).ok(),
            Column::Datum(values) => DatumRef::new(values.get(row)?).ok()?.as_str(),
            _ => None,
        }
    }

    /// Whether a value is null.
    #[must_use]
    pub fn is_null(&self, column: usize, row: usize) -> bool {
        match (self.inner.validity(column), self.inner.column(column)) {
            (Some(validity), _) => row < self.rows() && !validity.get(row),
            (None, Some(Column::Datum(values))) => {
                let value = values.get(row).and_then(|bytes| DatumRef::new(bytes).ok());
                value.is_some_and(|value| value.kind() == Some(crate::datum::Kind::Null))
            }
            _ => false,
        }
    }

    /// One value, in place; `None` for a column of one simple type.
    ///
    /// # Errors
    /// When the bytes are no datum.
    pub fn datum_ref(&self, column: usize, row: usize) -> Result<Option<DatumRef<'a>>, PluginError> {
        let Some(Column::Datum(values)) = self.inner.column(column) else { return Ok(None) };
        let bytes = values.get(row).ok_or_else(|| no_value(column, row))?;
        DatumRef::new(bytes).map(Some).map_err(|error| PluginError::runtime(Cause::Protocol, error.to_string()))
    }

    /// One value.
    ///
    /// # Errors
    /// When there is no such value, or the bytes are none.
    pub fn datum(&self, column: usize, row: usize) -> Result<Datum, PluginError> {
        let malformed = |reason: String| PluginError::runtime(Cause::Protocol, reason);
        let missing = || no_value(column, row);
        let found = self.inner.column(column).filter(|_| row < self.rows()).ok_or_else(missing)?;
        if self.inner.validity(column).is_some_and(|validity| !validity.get(row)) {
            return Ok(Datum::Null);
        }
        match found {
            Column::F64(numbers) => number(*numbers.get(row).ok_or_else(missing)?, row),
            Column::Bool(bools) => match bools.get(row).ok_or_else(missing)? {
                0 => Ok(false.into()),
                1 => Ok(true.into()),
                byte => Err(malformed(format!("the byte {byte} is no boolean"))),
            },
            Column::F32 { width, values } => {
                let vector = values.chunks_exact(width).nth(row).ok_or_else(missing)?;
                vector
                    .iter()
                    .map(|value| number(f64::from(*value), row))
                    .collect::<Result<Vec<_>, _>>()
                    .map(Datum::from)
            }
            Column::String(texts) => {
                let text = std::str::from_utf8(texts.get(row).ok_or_else(missing)?);
                text.map(Datum::from).map_err(|error| malformed(format!("a text is not UTF-8: {error}")))
            }
            Column::Datum(values) => {
                Datum::decode(values.get(row).ok_or_else(missing)?).map_err(|error| malformed(error.to_string()))
            }
            Column::U32(_) | Column::U8(_) => Err(missing()),
        }
    }
}

fn no_value(column: usize, row: usize) -> PluginError {
    PluginError::runtime(Cause::Protocol, format!("no value in column {column}, row {row}"))
}

fn number(number: f64, row: usize) -> Result<Datum, PluginError> {
    if number.is_finite() { Ok(Datum::Number(number)) } else { Err(not_finite(number, row)) }
}

fn not_finite(number: f64, row: usize) -> PluginError {
    PluginError::runtime(Cause::Plugin, format!("the result of row {row} is {number}, which is not a ReQL number"))
}

fn full(error: BatchFull) -> PluginError {
    let bytes = error.capacity;
    PluginError::runtime(
        Cause::Limit,
        format!("the data of one call does not fit into {bytes} bytes: pass smaller values"),
    )
}

#[cfg(test)]
mod tests;
