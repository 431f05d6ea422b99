//! Elements of sequences: values, and documents that are decoded only where all of one is needed.

use std::sync::Arc;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::DatumRef;

use super::compile::Node;
use super::error::Result;
use super::eval::Bindings;
use super::terms;
use crate::storage::Document;

/// An element of a sequence, or an argument of a function. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Row {
    /// A value.
    Value(Datum),
    /// A document as it is stored.
    Stored(Arc<Document>),
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

impl Row {
    /// The value.
    ///
    /// # Errors
    /// When what is stored is damaged.
    pub fn datum(&self) -> Result<&Datum> {
        match self {
            Self::Value(value) => Ok(value),
            Self::Stored(document) => Ok(document.datum()?),
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
        }
    }

    /// The value where it is stored, if it is a stored one.
    #[must_use]
    pub fn stored(&self) -> Option<DatumRef<'_>> {
        match self {
            Self::Value(_) => None,
            Self::Stored(document) => document.view(),
        }
    }

    /// Bytes of storage that it holds.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        match self {
            Self::Value(_) => 0,
            Self::Stored(document) => document.len(),
        }
    }
}

/// The value of a term where it is stored, if it is a parameter, or a field of one, whose argument is a stored document.
/// Whatever else the term is, or if the field is not there, it has to be evaluated, and says itself what is wrong.
#[must_use]
pub fn stored<'a>(node: &Node, args: &'a [Row], around: Option<&'a Arc<Bindings>>) -> Option<DatumRef<'a>> {
    match node {
        Node::Variable { up: 0, position, .. } => args.get(*position)?.stored(),
        Node::Variable { up, position, .. } => {
            let mut frame = around?;
            for _ in 1..*up {
                frame = frame.around.as_ref()?;
            }
            frame.args.get(*position)?.stored()
        }
        Node::Call(call) if call.op.number == terms::BRACKET || call.op.number == terms::GET_FIELD => {
            match call.args.as_slice() {
                [source, Node::Constant { value: Datum::String(field), .. }] => {
                    stored(source, args, around)?.get(field)
                }
                _ => None,
            }
        }
        _ => None,
    }
}
