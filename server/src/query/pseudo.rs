//! Values that only live inside a query: `r.minval`, `r.maxval` and `r.literal`.
//!
//! They are objects with the reserved key `$reql_type$`, as the other pseudotypes are on the wire. A client can't
//! make such an object by hand, since unknown values of that key are refused on input, and none of them is ever stored.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::{DatumRef, Kind, Object, TYPE_FIELD};

use super::error::{ReqlError, Result};
use super::row::{DISTANCE, DOCUMENT, Row};
use crate::storage::Document;

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
    /// An object with the key of plugins' types that no plugin has read.
    Unread,
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
    let named = object.get(REQL_TYPE).map(|name| name.as_str().map_or(Special::Other, Special::named));
    named.or_else(|| object.get(TYPE_FIELD).map(|_| Special::Unread))
}

impl Special {
    fn named(name: &str) -> Self {
        match name {
            "MINVAL" => Self::Min,
            "MAXVAL" => Self::Max,
            "LITERAL" => Self::Literal,
            _ => Self::Other,
        }
    }

    /// Why it can't leave the query.
    fn obstacle(self) -> Option<Obstacle> {
        match self {
            Self::Min => Some(Obstacle::Min),
            Self::Max => Some(Obstacle::Max),
            Self::Literal => Some(Obstacle::Literal),
            Self::Unread => Some(Obstacle::Unread),
            Self::Other => None,
        }
    }
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
        Some(Special::Unread) | None => datum.type_name().into_owned(),
    }
}

/// Most levels of a value that is stored, sent, or handed to a plugin.
pub const MAX_DEPTH: usize = 500;

/// The error for a value of more levels.
#[must_use]
pub fn too_deep() -> ReqlError {
    ReqlError::limit(format!("A value is nested deeper than {MAX_DEPTH} levels; no value may be."))
}

/// The error for an object that looks like a value of a plugin's type and is none.
#[must_use]
pub fn unread() -> ReqlError {
    ReqlError::logic(format!(
        "An object has the key `{TYPE_FIELD}`, which is reserved for values of plugins' types, but was put together in a \
         way that no plugin has read it; write such a value as {{\"{TYPE_FIELD}\": TYPE, \"value\": VALUE}}."
    ))
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
    /// It has the key of plugins' types in an object that stands for none of their values.
    Unread,
    /// It is nested too deeply.
    Depth,
    /// It has an array of more elements than the limit.
    LongArray,
    /// It is larger than the limit.
    Size,
}

/// What a number is taken to need as JSON.
const NUMBER: usize = 8;
/// What other values are taken to need beside their parts.
const OTHER: usize = 5;

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

/// The same, in a row of which parts may be as they are stored; damage is none of its business.
pub fn obstacle_in_row(row: &Row, limits: &Limits) -> Option<Obstacle> {
    let mut bytes = limits.bytes;
    find_in_row(row, limits.depth, limits.array, &mut bytes)
}

fn find_in_row(row: &Row, depth: usize, array: usize, bytes: &mut usize) -> Option<Obstacle> {
    let below = |document: &Document, depth, bytes: &mut usize| {
        document.view().and_then(|view| find_in_place(view, depth, array, bytes))
    };
    if depth == 0 {
        return Some(Obstacle::Depth);
    }
    match row {
        Row::Value(datum) => find_obstacle(datum, depth, array, bytes),
        Row::Stored(document) => below(document, depth, bytes),
        Row::Neighbour(neighbour) => take(bytes, OTHER + DISTANCE.len())
            .or_else(|| (depth == 1).then_some(Obstacle::Depth))
            .or_else(|| take(bytes, NUMBER + DOCUMENT.len()))
            .or_else(|| below(neighbour.document(), depth - 1, bytes)),
        Row::List(list) => take(bytes, OTHER)
            .or_else(|| (list.rows().len() > array).then_some(Obstacle::LongArray))
            .or_else(|| list.rows().iter().find_map(|row| find_in_row(row, depth - 1, array, bytes))),
    }
}

fn find_in_place(value: DatumRef<'_>, depth: usize, array: usize, bytes: &mut usize) -> Option<Obstacle> {
    if depth == 0 {
        return Some(Obstacle::Depth);
    }
    let own = match value.kind()? {
        Kind::String => value.size() + 2,
        Kind::Binary => value.size() * 4 / 3 + 40,
        Kind::Typed => value.size() + 40,
        Kind::Time => 70,
        Kind::Number => NUMBER,
        Kind::Null | Kind::Bool | Kind::Array | Kind::Object => OTHER,
    };
    if let Some(obstacle) = take(bytes, own) {
        return Some(obstacle);
    }
    match value.kind()? {
        Kind::Array => {
            let length = value.len()?;
            if length > array {
                return Some(Obstacle::LongArray);
            }
            if value.is_packed() {
                let is_too_deep = depth == 1 && length > 0;
                return if is_too_deep { Some(Obstacle::Depth) } else { take(bytes, length * NUMBER) };
            }
            value.elements().ok()?.flatten().find_map(|element| find_in_place(element, depth - 1, array, bytes))
        }
        Kind::Object => {
            let special = value.get(REQL_TYPE).and_then(|name| name.as_str()).map(Special::named);
            special.and_then(Special::obstacle).or_else(|| {
                value.fields().ok()?.flatten().find_map(|(name, value)| {
                    take(bytes, name.len()).or_else(|| find_in_place(value, depth - 1, array, bytes))
                })
            })
        }
        _ => None,
    }
}

/// Takes so many bytes from those that are left.
fn take(left: &mut usize, bytes: usize) -> Option<Obstacle> {
    match left.checked_sub(bytes) {
        Some(rest) => {
            *left = rest;
            None
        }
        None => Some(Obstacle::Size),
    }
}

fn find_obstacle(datum: &Datum, depth: usize, array: usize, bytes: &mut usize) -> Option<Obstacle> {
    if depth == 0 {
        return Some(Obstacle::Depth);
    }
    let own = match datum {
        Datum::String(text) => text.len() + 2,
        Datum::Binary(data) => data.len() * 4 / 3 + 40,
        Datum::Time(_) => 70,
        Datum::Typed(typed) => typed.name().len() + typed.text().len() + 40,
        Datum::Number(_) => NUMBER,
        _ => OTHER,
    };
    if let Some(obstacle) = take(bytes, own) {
        return Some(obstacle);
    }
    match datum {
        Datum::Array(elements) => {
            if elements.len() > array {
                return Some(Obstacle::LongArray);
            }
            elements.iter().find_map(|element| find_obstacle(element, depth - 1, array, bytes))
        }
        Datum::Object(object) => special(object).and_then(Special::obstacle).or_else(|| {
            object.iter().find_map(|(name, value)| {
                take(bytes, name.len()).or_else(|| find_obstacle(value, depth - 1, array, bytes))
            })
        }),
        _ => None,
    }
}

/// Checks a value that a loop hands to its next round, where it can double each time.
///
/// Parts that occur several times are measured once: the time goes with the memory that the value takes, not with the
/// text that it stands for.
///
/// # Errors
/// When it is too deep for any stack, or so large that no operation on it would end.
pub fn check_growth(datum: &Datum) -> Result<()> {
    check_parts(datum, 1 << 28)
}

/// Fails for values that are nested too deep, or would have more than `most` parts if they were written out. Bytes of
/// strings and binaries count as parts, sixteen as one.
///
/// # Errors
/// When a limit is exceeded.
pub fn check_parts(datum: &Datum, most: u64) -> Result<()> {
    let measured = measure(datum, &mut HashMap::new());
    if measured.depth > MAX_DEPTH {
        return Err(too_deep());
    }
    if measured.parts > most {
        return Err(ReqlError::limit(format!(
            "A value has more than {most} parts, which is the most it may have here."
        )));
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Measured {
    depth: usize,
    parts: u64,
}

fn measure(datum: &Datum, known: &mut HashMap<*const (), Measured>) -> Measured {
    let (address, is_empty) = match datum {
        Datum::Array(elements) => (Arc::as_ptr(elements).cast(), elements.is_empty()),
        Datum::Object(object) => (Arc::as_ptr(object).cast(), object.is_empty()),
        Datum::String(text) => return Measured { depth: 0, parts: 1 + text.len() as u64 / 16 },
        Datum::Binary(bytes) => return Measured { depth: 0, parts: 1 + bytes.len() as u64 / 16 },
        _ => return Measured { depth: 0, parts: 1 },
    };
    if is_empty {
        return Measured { depth: 1, parts: 1 };
    }
    if let Some(measured) = known.get(&address) {
        return *measured;
    }
    let mut sum = Measured { depth: 1, parts: 1 };
    let mut add = |part: &Datum| {
        // Scalars, which most parts are, need no look at what is known.
        let part = measure(part, known);
        sum.depth = sum.depth.max(part.depth + 1);
        sum.parts = sum.parts.saturating_add(part.parts);
    };
    match datum {
        Datum::Array(elements) => elements.iter().for_each(&mut add),
        Datum::Object(object) => object.iter().for_each(|(_, value)| add(value)),
        _ => {}
    }
    known.insert(address, sum);
    sum
}

/// Whether both are the same value in memory, which makes a comparison unnecessary.
pub fn same(left: &Datum, right: &Datum) -> bool {
    match (left, right) {
        (Datum::Array(left), Datum::Array(right)) => Arc::ptr_eq(left, right),
        (Datum::Object(left), Datum::Object(right)) => Arc::ptr_eq(left, right),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_doubles_is_measured_in_no_time() {
        let doubled = (0..300).fold(Datum::from(1), |value, _| Datum::array([value.clone(), value]));
        assert!(check_growth(&doubled).unwrap_err().message().contains("parts"));
        let limits = Limits { depth: MAX_DEPTH, array: 10, bytes: 1 << 16 };
        assert_eq!(obstacle(&doubled, &limits), Some(Obstacle::Size));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |levels| (0..levels).fold(Datum::from(1), |value, _| Datum::array([value]));
        assert!(check_growth(&nested(MAX_DEPTH)).is_ok());
        assert!(check_growth(&nested(MAX_DEPTH + 1)).unwrap_err().message().contains("levels"));
    }
}
