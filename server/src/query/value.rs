//! What terms evaluate to: data, streams, selections, tables, functions.

use std::ops::Bound;
use std::sync::Arc;

use photondb_plugin_sdk::Datum;

use super::error::{ErrorKind, ReqlError, Result};
use super::eval::Context;
use super::function::Function;
use super::print::pretty;
use super::pseudo;
use super::row::Row;
use super::stream::Stream;
use super::tables::{Order, TableRef};

/// The value of a term.
pub enum Value {
    /// A plain value.
    Datum(Datum),
    /// A plain value of which at least a part is as it is stored. Only terms that ask for it
    /// ([`Call::row_arg`](super::eval::Call::row_arg)) get to see it; for the others it is decoded.
    Row(Row),
    /// A sequence that is computed as it is read.
    Stream(Stream),
    /// Documents of a table, so that they can be written to.
    Selection(TableRef, Stream),
    /// A part of a table, in the order of an index.
    Slice(Slice),
    /// A whole table.
    Table(TableRef),
    /// One document of a table, or its absence.
    Single(Single),
    /// A database.
    Database(Database),
    /// A function.
    Function(Arc<Function>),
    /// The results of an operation on each group, in the order of the groups.
    Grouped(Groups),
}

/// The groups and their values.
pub struct Groups {
    /// Whether the values are still sequences that operations go on with.
    pub open: bool,
    /// The groups in ascending order.
    pub groups: Vec<(Datum, Value)>,
}

/// A database by name.
#[derive(Clone, Debug)]
pub struct Database {
    /// The name.
    pub name: Arc<str>,
    /// The id.
    pub id: String,
}

/// A range of a table's documents.
#[derive(Clone)]
pub struct Slice {
    /// The table.
    pub table: TableRef,
    /// The index that range and order refer to; `None` is the primary key.
    pub index: Option<Arc<str>>,
    /// The first value.
    pub low: Bound<Datum>,
    /// The last value.
    pub high: Bound<Datum>,
    /// The order asked for by `order_by(index)`.
    pub order: Option<Order>,
    /// Whether there was a `between`.
    pub bounded: bool,
}

/// One document, found by its key or by a position in a selection.
#[derive(Clone)]
pub struct Single {
    /// The table.
    pub table: TableRef,
    /// The primary key.
    pub key: Datum,
    /// The document as it was read, if it has been.
    pub document: Option<Datum>,
}

impl Single {
    /// The document, or null.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn read(&self) -> Result<Datum> {
        match &self.document {
            Some(document) => Ok(document.clone()),
            None => Ok(self.table.get(&self.key)?.unwrap_or_default()),
        }
    }
}

impl From<Datum> for Value {
    fn from(datum: Datum) -> Self {
        Self::Datum(datum)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Datum(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Datum(value.into())
    }
}

impl From<Stream> for Value {
    fn from(stream: Stream) -> Self {
        Self::Stream(stream)
    }
}

impl Value {
    /// A value, of which parts may be as they are stored.
    ///
    /// # Errors
    /// When what is stored is damaged and had to be decoded, and when a plugin's query takes more memory than it may.
    pub fn row(row: Row, ctx: &Context) -> Result<Self> {
        Ok(match row {
            Row::Value(datum) => Self::Datum(datum),
            // What a plugin's query makes is counted, which takes the value.
            row if ctx.allowance.is_some() => Self::Datum(row.into_datum()?),
            row => Self::Row(row),
        })
    }

    /// The same value; decoded, if it is plain and stored.
    ///
    /// # Errors
    /// When what is stored is damaged.
    pub fn decoded(self) -> Result<Self> {
        match self {
            Self::Row(row) => Ok(Self::Datum(row.into_datum()?)),
            other => Ok(other),
        }
    }

    /// The kind of value, as errors name it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Datum(_) | Self::Row(_) => "DATUM",
            Self::Stream(_) => "SEQUENCE",
            Self::Selection(..) => "SELECTION",
            Self::Slice(_) => "TABLE_SLICE",
            Self::Table(_) => "TABLE",
            Self::Single(_) => "SINGLE_SELECTION",
            Self::Database(_) => "DATABASE",
            Self::Function(_) => "FUNCTION",
            Self::Grouped(groups) if groups.open => "GROUPED_STREAM",
            Self::Grouped(_) => "GROUPED_DATA",
        }
    }

    /// The name that `type_of` gives.
    #[must_use]
    pub fn type_name(&self) -> String {
        match self {
            Self::Datum(datum) => pseudo::type_name(datum),
            Self::Row(row) => row.datum().map_or_else(|_| "DATUM".to_owned(), pseudo::type_name),
            Self::Stream(stream) if stream.is_array() => "ARRAY".to_owned(),
            Self::Stream(_) => "STREAM".to_owned(),
            Self::Selection(_, stream) if stream.is_array() => "SELECTION<ARRAY>".to_owned(),
            Self::Selection(..) => "SELECTION<STREAM>".to_owned(),
            Self::Single(_) => "SELECTION<OBJECT>".to_owned(),
            Self::Database(_) => "DB".to_owned(),
            other => other.kind().to_owned(),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Datum(datum) => pretty(datum),
            Self::Row(row) => row.datum().map_or_else(|error| error.to_string(), pretty),
            Self::Table(table) => format!("table(\"{}\")", table.name()),
            Self::Slice(slice) => format!("part of table(\"{}\")", slice.table.name()),
            Self::Selection(table, _) => format!("selection of table(\"{}\")", table.name()),
            Self::Single(single) => format!("document of table(\"{}\")", single.table.name()),
            Self::Database(database) => format!("db(\"{}\")", database.name),
            Self::Function(function) => function.to_string(),
            Self::Stream(_) => "a sequence".to_owned(),
            Self::Grouped(_) => "grouped data".to_owned(),
        }
    }

    /// The error for a value of another kind than `expected`.
    #[must_use]
    pub fn wrong_kind(&self, expected: &str) -> ReqlError {
        let message = format!("Expected type {expected} but found {}:\n{}", self.kind(), self.describe());
        ReqlError::logic(message)
    }

    /// The plain value: documents are read, computed arrays are collected.
    ///
    /// # Errors
    /// When the value is no datum, or computing it fails.
    pub fn into_datum(self, ctx: &Context) -> Result<Datum> {
        match self {
            Self::Datum(datum) => Ok(datum),
            Self::Row(row) => row.into_datum(),
            Self::Single(single) => single.read(),
            Self::Stream(stream) if stream.is_array() => stream.collect_array(ctx),
            Self::Selection(_, stream) if stream.is_array() => stream.collect_array(ctx),
            other => Err(other.wrong_kind("DATUM")),
        }
    }

    /// The same, but what is stored stays as it is.
    ///
    /// # Errors
    /// As [`into_datum`](Self::into_datum).
    pub fn into_row(self, ctx: &Context) -> Result<Row> {
        match self {
            Self::Row(row) => Ok(row),
            Self::Stream(stream) | Self::Selection(_, stream) if stream.is_array() => stream.collect_row(ctx),
            other => other.into_datum(ctx).map(Row::from),
        }
    }

    /// The value as a sequence.
    ///
    /// # Errors
    /// When it is none.
    pub fn into_stream(self, ctx: &Arc<Context>) -> Result<Stream> {
        let stream = self.elements(ctx)?;
        if ctx.allowance.is_none() {
            return Ok(stream);
        }
        // Nobody disconnects who could end a plugin's query: it looks at its time before each element.
        let ctx = ctx.clone();
        Ok(stream.map_rows(|rows| rows.map(move |row| ctx.check_call().and(row))))
    }

    fn elements(self, ctx: &Arc<Context>) -> Result<Stream> {
        match self {
            Self::Datum(Datum::Array(elements)) => Ok(Stream::from_array(elements)),
            Self::Row(Row::List(list)) => Ok(Stream::from_rows(list)),
            Self::Row(row) => Self::Datum(row.into_datum()?).elements(ctx),
            Self::Stream(stream) | Self::Selection(_, stream) => Ok(stream),
            Self::Slice(slice) => slice.table.scan(ctx, &slice),
            Self::Table(table) => table.scan_all(ctx),
            Self::Single(single) => Self::Datum(single.read()?).elements(ctx),
            Self::Datum(datum) => {
                let kind = if matches!(datum, Datum::Null) { ErrorKind::NonExistence } else { ErrorKind::QueryLogic };
                Err(ReqlError::new(kind, format!("Cannot convert {} to SEQUENCE", pseudo::type_name(&datum))))
            }
            other => Err(other.wrong_kind("SEQUENCE")),
        }
    }

    /// Whether the value is a sequence without being converted.
    #[must_use]
    pub fn is_sequence(&self) -> bool {
        matches!(
            self,
            Self::Datum(Datum::Array(_))
                | Self::Row(Row::List(_))
                | Self::Stream(_)
                | Self::Selection(..)
                | Self::Slice(_)
                | Self::Table(_)
        )
    }

    /// The table, where the value is documents of one.
    #[must_use]
    pub fn table(&self) -> Option<TableRef> {
        match self {
            Self::Selection(table, _) | Self::Table(table) => Some(table.clone()),
            Self::Slice(slice) => Some(slice.table.clone()),
            Self::Single(single) => Some(single.table.clone()),
            _ => None,
        }
    }

    /// The value as a function; `shortcut` says what a plain value stands for.
    ///
    /// # Errors
    /// When it is no function, and there is no shortcut.
    pub fn into_function(self, shortcut: Shortcut, ctx: &Context) -> Result<Arc<Function>> {
        if let Self::Function(function) = self {
            return Ok(function);
        }
        let is_plain = matches!(self, Self::Datum(_) | Self::Row(_) | Self::Single(_) | Self::Stream(_));
        if matches!(shortcut, Shortcut::None) || !is_plain {
            return Err(self.wrong_kind("FUNCTION"));
        }
        let datum = self.into_datum(ctx)?;
        Ok(Arc::new(match shortcut {
            Shortcut::Field => match datum {
                Datum::String(field) => Function::Field(field),
                Datum::Object(_) => Function::Pluck(datum),
                other => Function::BadField(other),
            },
            _ => Function::Constant(datum),
        }))
    }
}

/// What a plain value stands for where a function is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortcut {
    /// Nothing: it is an error.
    None,
    /// A string is the function that takes that field, an object the one that plucks.
    Field,
    /// The function that always gives that value.
    Constant,
}
