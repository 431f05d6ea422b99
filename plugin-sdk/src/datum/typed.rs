//! Values of types that plugins add: exact decimals, networks, and whatever else has a text and an order.
//!
//! Such a value carries everything that it takes to store, compare, sort, index and show it: the name of its type, the
//! **order key** that the plugin made of it, and its canonical text. So nothing but new values and arithmetic ever
//! needs the plugin, and what is stored stays readable without it.
//!
//! As JSON it is an object of two fields, `{"$type$": "decimal", "value": "1.1"}`. The key is not `$reql_type$`, since
//! drivers refuse the values of that key that they don't know; and the order key is not part of it, so that no client
//! can send one.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use thiserror::Error;

use super::Datum;

/// The field that names the type in the JSON form of a value of a plugin's type.
pub const TYPE_FIELD: &str = "$type$";
/// The field that holds the canonical text there.
pub const VALUE_FIELD: &str = "value";
/// The longest name of a type.
pub const MAX_TYPE_NAME: usize = 64;
/// The longest order key.
pub const MAX_ORDER_KEY: usize = 128;
/// The longest canonical text.
pub const MAX_TEXT: usize = 4096;
/// Names that mean something in ReQL already.
pub const RESERVED_TYPE_NAMES: [&str; 14] = [
    "array",
    "binary",
    "bool",
    "geometry",
    "grouped_data",
    "literal",
    "maxval",
    "minval",
    "null",
    "number",
    "object",
    "selection",
    "string",
    "time",
];

/// A value of a type that a plugin provides.
///
/// Two values are equal if their types and their order keys are. The text is for people and clients.
#[derive(Clone, Debug)]
pub struct Typed {
    name: Arc<str>,
    key: Box<[u8]>,
    text: Box<str>,
}

/// Why there is no such value.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TypedError {
    /// The name of the type.
    #[error(
        "the name of a type is at most {MAX_TYPE_NAME} lower-case letters, digits and _, begins with a letter, and is none of ReQL's own"
    )]
    Name,
    /// The order key.
    #[error("an order key has at most {MAX_ORDER_KEY} bytes, and this one has {0}")]
    Key(usize),
    /// The text.
    #[error("the text of a value has at most {MAX_TEXT} bytes, and this one has {0}")]
    Text(usize),
}

impl Typed {
    /// A value of the type `name`: its order key, and its canonical text.
    ///
    /// # Errors
    /// When one of them is not what it may be.
    pub fn new(
        name: impl Into<Arc<str>>,
        key: impl Into<Box<[u8]>>,
        text: impl Into<Box<str>>,
    ) -> Result<Self, TypedError> {
        let (name, key, text) = (name.into(), key.into(), text.into());
        if !is_type_name(&name) {
            return Err(TypedError::Name);
        }
        if key.len() > MAX_ORDER_KEY {
            return Err(TypedError::Key(key.len()));
        }
        if text.len() > MAX_TEXT {
            return Err(TypedError::Text(text.len()));
        }
        Ok(Self { name, key, text })
    }

    /// The name of its type.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is compared by, byte by byte.
    #[must_use]
    pub fn order_key(&self) -> &[u8] {
        &self.key
    }

    /// What stands for it in JSON.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// `PTYPE<DECIMAL>` for a value of the type `decimal`.
    #[must_use]
    pub fn type_name(&self) -> String {
        format!("PTYPE<{}>", self.name.to_ascii_uppercase())
    }

    /// ReQL's order, in which types come first.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        self.name.as_bytes().cmp(other.name.as_bytes()).then_with(|| self.key.cmp(&other.key))
    }
}

impl Hash for Typed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.key.hash(state);
    }
}

impl From<Typed> for Datum {
    fn from(value: Typed) -> Self {
        Self::Typed(Arc::new(value))
    }
}

/// Whether a plugin may call a type so.
#[must_use]
pub fn is_type_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && name.len() <= MAX_TYPE_NAME
        && !RESERVED_TYPE_NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_or_badly_named_is_no_value() {
        let value = |name: &str, key: usize, text: usize| {
            Typed::new(name, vec![0; key], "x".repeat(text)).err().map(|error| error.to_string())
        };
        assert_eq!(value("decimal", MAX_ORDER_KEY, MAX_TEXT), None);
        for (name, key, text, part) in [
            ("Decimal", 0, 0, "lower-case"),
            ("", 0, 0, "begins with a letter"),
            ("time", 0, 0, "ReQL's own"),
            ("decimal", MAX_ORDER_KEY + 1, 0, "has 129"),
            ("decimal", 0, MAX_TEXT + 1, "has 4097"),
        ] {
            let message = value(name, key, text).unwrap_or_default();
            assert!(message.contains(part), "{name}: {message}");
        }
    }
}
