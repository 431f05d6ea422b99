//! Elements of sequences: values, and documents that are decoded only where all of one is needed.

use std::sync::{Arc, OnceLock};

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::DatumRef;

use super::compile::Node;
use super::error::Result;
use super::eval::Bindings;
use super::terms;
use crate::storage::Document;

/// The field of a neighbour that holds its distance.
pub const DISTANCE: &str = "dist";
/// The field of a neighbour that holds the document.
pub const DOCUMENT: &str = "doc";

/// An element of a sequence, or an argument of a function. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Row {
    /// A value.
    Value(Datum),
    /// A document as it is stored.
    Stored(Arc<Document>),
    /// An object of a distance and a document.
    Neighbour(Arc<Neighbour>),
    /// An array.
    List(Arc<List>),
}

/// A document that a vector search found, with its distance: an object of two fields.
#[derive(Debug)]
pub struct Neighbour {
    distance: f64,
    document: Arc<Document>,
    whole: OnceLock<Datum>,
}

impl Neighbour {
    /// How far the document is from what was searched for.
    #[must_use]
    pub fn distance(&self) -> f64 {
        self.distance
    }

    /// The document.
    #[must_use]
    pub fn document(&self) -> &Arc<Document> {
        &self.document
    }
}

/// An array of rows.
#[derive(Debug)]
pub struct List {
    rows: Vec<Row>,
    whole: OnceLock<Datum>,
}

impl List {
    /// The elements.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
}

impl From<Datum> for Row {
    fn from(value: Datum) -> Self {
        Self::Value(value)
    }
}

impl From<Document> for Row {
    fn from(document: Document) -> Self {
        Self::Stored(Arc::new(document))
    }
}

/// An array; a plain value, if nothing of it is stored.
impl FromIterator<Row> for Row {
    fn from_iter<I: IntoIterator<Item = Row>>(rows: I) -> Self {
        let rows: Vec<Row> = rows.into_iter().collect();
        if rows.iter().any(|row| !matches!(row, Self::Value(_))) {
            return Self::List(Arc::new(List { rows, whole: OnceLock::new() }));
        }
        let values = rows.into_iter().filter_map(|row| match row {
            Self::Value(value) => Some(value),
            _ => None,
        });
        Self::Value(Datum::array(values))
    }
}

impl Row {
    /// An object of a distance and a document.
    #[must_use]
    pub fn neighbour(distance: f64, document: Arc<Document>) -> Self {
        Self::Neighbour(Arc::new(Neighbour { distance, document, whole: OnceLock::new() }))
    }

    /// The value.
    ///
    /// # Errors
    /// When what is stored is damaged.
    pub fn datum(&self) -> Result<&Datum> {
        match self {
            Self::Value(value) => Ok(value),
            Self::Stored(document) => Ok(document.datum()?),
            Self::Neighbour(neighbour) => made(&neighbour.whole, || {
                let document = neighbour.document.datum()?.clone();
                Ok(Datum::object([(DISTANCE, Datum::from(neighbour.distance)), (DOCUMENT, document)]))
            }),
            Self::List(list) => made(&list.whole, || {
                let rows: Result<Vec<Datum>> = list.rows.iter().map(|row| row.datum().cloned()).collect();
                Ok(rows?.into())
            }),
        }
    }

    /// The value.
    ///
    /// # Errors
    /// As [`datum`](Self::datum).
    pub fn into_datum(self) -> Result<Datum> {
        match self {
            Self::Value(value) => Ok(value),
            Self::Stored(document) => match Arc::try_unwrap(document) {
                Ok(document) => Ok(document.into_datum()?),
                Err(shared) => Ok(shared.datum()?.clone()),
            },
            other => other.datum().cloned(),
        }
    }

    /// The value where it is stored, if it is a stored one.
    #[must_use]
    pub fn stored(&self) -> Option<DatumRef<'_>> {
        match self {
            Self::Stored(document) => document.view(),
            _ => None,
        }
    }

    /// A field of what is stored, without decoding the others. `None` says nothing: whoever needs the field looks for it
    /// in the value.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<Self> {
        match self {
            Self::Stored(document) => document.field(name)?.to_datum().ok().map(Self::Value),
            Self::Neighbour(neighbour) => match name {
                DISTANCE => Some(Self::Value(neighbour.distance.into())),
                DOCUMENT => Some(Self::Stored(neighbour.document.clone())),
                _ => None,
            },
            Self::Value(_) | Self::List(_) => None,
        }
    }

    /// Bytes of storage that it holds.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        match self {
            Self::Value(_) => 0,
            Self::Stored(document) => document.len(),
            Self::Neighbour(neighbour) => neighbour.document.len(),
            Self::List(list) => list.rows.iter().map(Self::stored_bytes).sum(),
        }
    }
}

/// What is in the cell, or what `make` makes.
fn made(cell: &OnceLock<Datum>, make: impl FnOnce() -> Result<Datum>) -> Result<&Datum> {
    match cell.get() {
        Some(datum) => Ok(datum),
        None => make().map(|datum| cell.get_or_init(|| datum)),
    }
}

/// The argument that a node stands for, if it is a parameter.
fn argument<'a>(node: &Node, args: &'a [Row], around: Option<&'a Arc<Bindings>>) -> Option<&'a Row> {
    match node {
        Node::Variable { up: 0, position, .. } => args.get(*position),
        Node::Variable { up, position, .. } => {
            let mut frame = around?;
            for _ in 1..*up {
                frame = frame.around.as_ref()?;
            }
            frame.args.get(*position)
        }
        _ => None,
    }
}

/// The value of a term where it is stored, if it is a parameter, or a field of one, whose argument is a stored document.
/// Whatever else the term is, or if the field is not there, it has to be evaluated, and says itself what is wrong.
#[must_use]
pub fn stored<'a>(node: &Node, args: &'a [Row], around: Option<&'a Arc<Bindings>>) -> Option<DatumRef<'a>> {
    if let Some(row) = argument(node, args, around) {
        return row.stored();
    }
    let (source, field) = field_access(node)?;
    match argument(source, args, around) {
        Some(Row::Neighbour(neighbour)) if field == DOCUMENT => neighbour.document.view(),
        Some(Row::Stored(document)) => document.field(field),
        _ => stored(source, args, around)?.get(field),
    }
}

/// The same for a term that takes a field of a document; not for one that stands for a whole document, which need not be
/// decoded by whoever evaluates it.
#[must_use]
pub fn stored_field<'a>(node: &Node, args: &'a [Row], around: Option<&'a Arc<Bindings>>) -> Option<DatumRef<'a>> {
    let (source, field) = field_access(node)?;
    match argument(source, args, around) {
        Some(Row::Stored(document)) => document.field(field),
        _ => stored(source, args, around)?.get(field),
    }
}

/// What a field is taken of, and its name.
fn field_access(node: &Node) -> Option<(&Node, &str)> {
    match node {
        Node::Call(call) if call.op.number == terms::BRACKET || call.op.number == terms::GET_FIELD => {
            match call.args.as_slice() {
                [source, Node::Constant { value: Datum::String(field), .. }] => Some((source, field)),
                _ => None,
            }
        }
        _ => None,
    }
}
