//! Rows decoded only as far as an operation on their fields needs them.
//!
//! What comes of it stands for the row in that operation: the fields that are left out are those that it leaves out too.

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::{DatumRef, DecodeError, Kind};

use super::error::Result;
use super::paths::{Need, Path};
use super::row::{DISTANCE, DOCUMENT, Row};

/// What an operation does with the fields that its path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It looks at those alone.
    Keeps,
    /// It leaves those out.
    Drops,
}

/// The row as far as it matters to an operation with this path. A row of which too much is damaged to tell is decoded,
/// and says what is wrong.
///
/// # Errors
/// When what is needed of it is damaged.
pub fn datum(row: Row, path: &Path, using: Use) -> Result<Datum> {
    let found = match &row {
        Row::Stored(document) if using == Use::Keeps => {
            let mut fields = Vec::new();
            path.add_fields(&mut fields);
            let view = document.view_of(fields.iter().map(|field| &**field));
            view.and_then(|view| part(view, &[path], using).ok())
        }
        Row::Stored(document) => document.view().and_then(|view| part(view, &[path], using).ok()),
        Row::Neighbour(neighbour) => neighbour.document().view().and_then(|view| {
            let document = field(DOCUMENT, view, &[path], using).ok()?;
            let distance = Some(Datum::from(neighbour.distance()));
            let fields = [(DISTANCE, distance), (DOCUMENT, document)];
            Some(Datum::object(fields.into_iter().filter_map(|(name, value)| Some((name, value?)))))
        }),
        Row::Value(_) | Row::List(_) => None,
    };
    found.map_or_else(|| row.into_datum(), Ok)
}

fn part(view: DatumRef<'_>, paths: &[&Path], using: Use) -> std::result::Result<Datum, DecodeError> {
    if view.kind() != Some(Kind::Object) {
        return view.to_datum();
    }
    let mut fields = Vec::new();
    for found in view.fields()? {
        let (name, value) = found?;
        if let Some(value) = field(name, value, paths, using)? {
            fields.push((name, value));
        }
    }
    Ok(Datum::object(fields))
}

fn field(
    name: &str,
    value: DatumRef<'_>,
    paths: &[&Path],
    using: Use,
) -> std::result::Result<Option<Datum>, DecodeError> {
    match (Need::of(paths, name), using) {
        (Need::Below(below), _) => part(value, &below, using).map(Some),
        (Need::All, Use::Keeps) | (Need::Nothing, Use::Drops) => value.to_datum().map(Some),
        (Need::Nothing, Use::Keeps) | (Need::All, Use::Drops) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::query::paths;
    use crate::storage::Document;

    /// Objects, arrays and numbers under few names, so that paths meet them.
    fn values() -> impl Strategy<Value = Datum> {
        let leaf = prop_oneof![Just(Datum::Null), any::<i8>().prop_map(|number| Datum::from(i32::from(number)))];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Datum::from),
                prop::collection::vec(("[a-c]|doc|dist", inner), 0..4).prop_map(Datum::object),
            ]
        })
    }

    fn patterns() -> impl Strategy<Value = Datum> {
        let leaf = prop_oneof![Just(Datum::from(true)), "[a-c]|doc|dist".prop_map(Datum::from)];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Datum::from),
                prop::collection::vec(("[a-c]|doc|dist", inner), 0..3).prop_map(Datum::object),
            ]
        })
    }

    proptest! {
        #[test]
        fn operations_cannot_tell_a_part_from_the_whole(value in values(), pattern in patterns()) {
            let Ok(path) = Path::parse(&[pattern]) else { return Ok(()) };
            let document = Arc::new(Document::of(&value));
            for row in [Row::Stored(document.clone()), Row::neighbour(0.5, document)] {
                let whole = row.datum().unwrap().clone();
                let kept = datum(row.clone(), &path, Use::Keeps).unwrap();
                prop_assert_eq!(paths::keep(&kept, &path), paths::keep(&whole, &path));
                prop_assert_eq!(paths::has(&kept, &path), paths::has(&whole, &path));
                let left = datum(row, &path, Use::Drops).unwrap();
                prop_assert_eq!(paths::drop(&left, &path), paths::drop(&whole, &path));
            }
        }
    }
}
