//! Values that only live inside a query: `r.minval`, `r.maxval` and `r.literal`.
//!
//! They are objects with the reserved key `$reql_type$`, as the other pseudotypes are on the wire. A client can't
//! make such an object by hand, since unknown values of that key are refused on input, and none of them is ever stored.

use std::sync::{Arc, LazyLock};

use photondb_plugin_sdk::datum::Object;
use photondb_plugin_sdk::Datum;

use super::error::ReqlError;

/// The reserved key.
pub const REQL_TYPE: &str = "$reql_type$";

static MINVAL: LazyLock<Datum> = LazyLock::new(|| Datum::object([(REQL_TYPE, "MINVAL")]));
static MAXVAL: LazyLock<Datum> = LazyLock::new(|| Datum::object([(REQL_TYPE, "MAXVAL")]));

/// The value below every other.
pub fn minval() -> Datum {
    MINVAL.clone()
}

/// The value above every other.
pub fn maxval() -> Datum {
    MAXVAL.clone()
}

/// A value that `merge` and `update` take as it is; without a value: one that removes the field.
pub fn literal(value: Option<Datum>) -> Datum {
    let mut object = Object::new();
    object.insert(REQL_TYPE, "LITERAL");
    if let Some(value) = value {
        object.insert("value", value);
    }
    object.into()
}

/// Which of the special objects an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// `r.minval`
    Min,
    /// `r.maxval`
    Max,
    /// `r.literal(...)`
    Literal,
    /// A pseudotype of another name.
    Other,
}

/// What the object is, if it has the reserved key.
pub fn special(object: &Object) -> Option<Special> {
    // `$` sorts before letters and digits, so that the reserved key is nearly always the first: one comparison a look.
    let (first, _) = object.iter().next()?;
    if first.as_bytes().first().is_some_and(|byte| *byte > b'$') {
        return None;
    }
    Some(match object.get(REQL_TYPE)?.as_str() {
        Some("MINVAL") => Special::Min,
        Some("MAXVAL") => Special::Max,
        Some("LITERAL") => Special::Literal,
        _ => Special::Other,
    })
}

/// What the value is, if it is one of the special objects.
pub fn special_of(datum: &Datum) -> Option<Special> {
    datum.as_object().and_then(|object| special(object))
}

/// Whether the value is `r.literal(...)`, and of what.
pub fn as_literal(datum: &Datum) -> Option<Option<&Datum>> {
    let object = datum.as_object()?;
    (special(object) == Some(Special::Literal)).then(|| object.get("value"))
}

/// The name of a value's type as `type_of` gives it.
pub fn type_name(datum: &Datum) -> String {
    match special_of(datum) {
        Some(Special::Min) => "MINVAL".to_owned(),
        Some(Special::Max) => "MAXVAL".to_owned(),
        Some(Special::Literal) => "PTYPE<LITERAL>".to_owned(),
        Some(Special::Other) => {
            let name = datum.get(REQL_TYPE).and_then(Datum::as_str).unwrap_or("OBJECT");
            format!("PTYPE<{name}>")
        }
        None => datum.type_name().to_owned(),
    }
}

/// Most levels of a value that is stored, sent, or handed to a plugin.
pub const MAX_DEPTH: usize = 500;

/// The error for a value of more levels.
#[must_use]
pub fn too_deep() -> ReqlError {
    ReqlError::limit(format!("A value is nested deeper than {MAX_DEPTH} levels; no value may be."))
}

/// Why a value cannot leave the query, or be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It contains `r.minval`.
    Min,
    /// It contains `r.maxval`.
    Max,
    /// It contains `r.literal`.
    Literal,
    /// It is nested too deeply.
    Depth,
    /// It has an array of more elements than the limit.
    LongArray,
    /// It is larger than the limit.
    Size,
}

/// Limits on a value.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most levels.
    pub depth: usize,
    /// The most elements of an array.
    pub array: usize,
    /// About how many bytes its JSON text may take.
    pub bytes: usize,
}

/// Looks for the first thing in `datum` that breaks the limits or can't leave the query.
///
/// Values share their parts, so that a small query can describe a value whose text would fill the memory: hence a
/// count of bytes that stops at the limit.
pub fn obstacle(datum: &Datum, limits: &Limits) -> Option<Obstacle> {
    let mut bytes = limits.bytes;
    find_obstacle(datum, limits.depth, limits.array, &mut bytes)
}

fn find_obstacle(datum: &Datum, depth: usize, array: usize, bytes: &mut usize) -> Option<Obstacle> {
    if depth == 0 {
        return Some(Obstacle::Depth);
    }
    let own = match datum {
        Datum::String(text) => text.len() + 2,
        Datum::Binary(data) => data.len() * 4 / 3 + 40,
        Datum::Time(_) => 70,
        Datum::Number(_) => 8,
        _ => 5,
    };
    match bytes.checked_sub(own) {
        Some(left) => *bytes = left,
        None => return Some(Obstacle::Size),
    }
    match datum {
        Datum::Array(elements) => {
            if elements.len() > array {
                return Some(Obstacle::LongArray);
            }
            elements.iter().find_map(|element| find_obstacle(element, depth - 1, array, bytes))
        }
        Datum::Object(object) => match special(object) {
            Some(Special::Min) => Some(Obstacle::Min),
            Some(Special::Max) => Some(Obstacle::Max),
            Some(Special::Literal) => Some(Obstacle::Literal),
            _ => object.iter().find_map(|(name, value)| match bytes.checked_sub(name.len()) {
                Some(left) => {
                    *bytes = left;
                    find_obstacle(value, depth - 1, array, bytes)
                }
                None => Some(Obstacle::Size),
            }),
        },
        _ => None,
    }
}

/// Whether the value has more levels than `limit`.
pub fn deeper_than(datum: &Datum, limit: usize) -> bool {
    match datum {
        Datum::Array(elements) => limit == 0 || elements.iter().any(|element| deeper_than(element, limit - 1)),
        Datum::Object(object) => limit == 0 || object.iter().any(|(_, value)| deeper_than(value, limit - 1)),
        _ => false,
    }
}

/// Whether both are the same value in memory, which makes a comparison unnecessary.
pub fn same(left: &Datum, right: &Datum) -> bool {
    match (left, right) {
        (Datum::Array(left), Datum::Array(right)) => Arc::ptr_eq(left, right),
        (Datum::Object(left), Datum::Object(right)) => Arc::ptr_eq(left, right),
        _ => false,
    }
}
