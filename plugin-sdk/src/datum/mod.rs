//! The values that PhotonDB stores, computes with and hands to plugins.
//!
//! A [`Datum`] is cheap to clone: everything of variable size is shared behind an `Arc`.
//!
//! - `order`: ReQL's total order between values of any type;
//! - `encoding`: the one binary form, used on disk and in shared memory; [`DatumRef`] reads it without a parse;
//! - `json`: the wire form of the ReQL protocol;
//! - `time`: instants and what clocks show;
//! - `typed`: values of types that plugins provide.

pub(crate) mod encoding;
mod json;
mod order;
mod time;
mod typed;

use std::borrow::Cow;
use std::sync::Arc;

pub use encoding::{DatumRef, DecodeError, FORMAT_VERSION, Kind, MAX_DEPTH};
pub use json::{JsonError, PSEUDOTYPE};
pub use time::{Civil, Time, TimeError};
pub use typed::{
    MAX_ORDER_KEY, MAX_TEXT, MAX_TYPE_NAME, RESERVED_TYPE_NAMES, TYPE_FIELD, Typed, TypedError, VALUE_FIELD,
    is_type_name,
};

/// One ReQL value.
#[derive(Clone, Debug, Default)]
pub enum Datum {
    /// JSON null.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// A finite 64-bit float; never NaN or infinite.
    Number(f64),
    /// UTF-8 text; zero bytes are allowed.
    String(Arc<str>),
    /// Bytes (`PTYPE<BINARY>`).
    Binary(Arc<[u8]>),
    /// An instant with the zone it is shown in (`PTYPE<TIME>`).
    Time(Time),
    /// A value of a type that a plugin provides (`PTYPE<DECIMAL>` and the like).
    Typed(Arc<Typed>),
    /// A list.
    Array(Arc<[Datum]>),
    /// Fields in the byte order of their names.
    Object(Arc<Object>),
}

/// The fields of an object: sorted by the bytes of their names, each name once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    fields: Vec<(Arc<str>, Datum)>,
}

impl Object {
    /// An object without fields.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of the field `name`. Logarithmic in the number of fields.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Datum> {
        self.position(name).ok().map(|at| &self.fields[at].1)
    }

    /// Sets the field `name` and returns the value that it had.
    pub fn insert(&mut self, name: impl Into<Arc<str>>, value: impl Into<Datum>) -> Option<Datum> {
        let (name, value) = (name.into(), value.into());
        match self.position(&name) {
            Ok(at) => Some(std::mem::replace(&mut self.fields[at].1, value)),
            Err(at) => {
                self.fields.insert(at, (name, value));
                None
            }
        }
    }

    /// Removes the field `name` and returns its value.
    pub fn remove(&mut self, name: &str) -> Option<Datum> {
        self.position(name).ok().map(|at| self.fields.remove(at).1)
    }

    /// The fields, in the byte order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Datum)> + DoubleEndedIterator {
        self.fields.iter().map(|(name, value)| (name, value))
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is no field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.fields.binary_search_by(|(field, _)| field.as_bytes().cmp(name.as_bytes()))
    }
}

/// Later values win where a name occurs twice.
impl<K: Into<Arc<str>>, V: Into<Datum>> FromIterator<(K, V)> for Object {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(fields: I) -> Self {
        let mut fields: Vec<(Arc<str>, Datum)> =
            fields.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        // Stable, so that of equal names the last one given stays last.
        fields.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        fields.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                std::mem::swap(&mut later.1, &mut earlier.1);
            }
            same
        });
        Self { fields }
    }
}

impl Datum {
    /// An object of the given fields.
    pub fn object<K: Into<Arc<str>>, V: Into<Self>>(fields: impl IntoIterator<Item = (K, V)>) -> Self {
        Self::Object(Arc::new(fields.into_iter().collect()))
    }

    /// An array of the given elements.
    pub fn array(elements: impl IntoIterator<Item = Self>) -> Self {
        Self::Array(elements.into_iter().collect())
    }

    /// The number, if this is one.
    #[must_use]
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The text, if this is a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The elements, if this is an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&Arc<[Self]>> {
        match self {
            Self::Array(elements) => Some(elements),
            _ => None,
        }
    }

    /// The fields, if this is an object.
    #[must_use]
    pub fn as_object(&self) -> Option<&Arc<Object>> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The value of a plugin's type, if this is one.
    #[must_use]
    pub fn as_typed(&self) -> Option<&Arc<Typed>> {
        match self {
            Self::Typed(typed) => Some(typed),
            _ => None,
        }
    }

    /// The value of a field, if this is an object that has it.
    #[must_use]
    pub fn get(&self, field: &str) -> Option<&Self> {
        self.as_object().and_then(|object| object.get(field))
    }

    /// The name that ReQL's `type_of` gives to the type: `NUMBER`, `PTYPE<TIME>`, ...
    #[must_use]
    pub fn type_name(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Null => "NULL",
            Self::Bool(_) => "BOOL",
            Self::Number(_) => "NUMBER",
            Self::String(_) => "STRING",
            Self::Binary(_) => "PTYPE<BINARY>",
            Self::Time(_) => "PTYPE<TIME>",
            Self::Array(_) => "ARRAY",
            Self::Object(_) => "OBJECT",
            Self::Typed(typed) => return Cow::Owned(typed.type_name()),
        })
    }
}

impl From<bool> for Datum {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<f64> for Datum {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

impl From<i32> for Datum {
    fn from(value: i32) -> Self {
        Self::Number(f64::from(value))
    }
}

impl From<u32> for Datum {
    fn from(value: u32) -> Self {
        Self::Number(f64::from(value))
    }
}

/// Exact up to 2^53, as every number of ReQL.
impl From<u64> for Datum {
    fn from(value: u64) -> Self {
        Self::Number(value as f64)
    }
}

/// Exact up to 2^53, as every number of ReQL.
impl From<usize> for Datum {
    fn from(value: usize) -> Self {
        Self::Number(value as f64)
    }
}

impl From<&str> for Datum {
    fn from(value: &str) -> Self {
        Self::String(value.into())
    }
}

impl From<String> for Datum {
    fn from(value: String) -> Self {
        Self::String(value.into())
    }
}

impl From<Object> for Datum {
    fn from(value: Object) -> Self {
        Self::Object(Arc::new(value))
    }
}

impl From<Vec<Datum>> for Datum {
    fn from(value: Vec<Datum>) -> Self {
        Self::Array(value.into())
    }
}

impl<T: Into<Datum>> From<Option<T>> for Datum {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_equal_names_wins() {
        let object: Object = [("b", 1), ("a", 2), ("b", 3)].into_iter().collect();
        assert_eq!(object.get("b").and_then(Datum::as_number), Some(3.0));
        assert_eq!(object.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>(), ["a", "b"]);
    }
}
