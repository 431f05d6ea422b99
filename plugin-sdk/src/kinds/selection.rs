//! What a scan is for: fields that are wanted, and ranges in which fields must lie.
//!
//! A selection is a permission, never a duty: an engine may leave out what it allows, the server checks all the same. So an
//! engine that knows nothing of it is right, and one that gets it wrong can only leave out what is its own.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use crate::Datum;
use crate::datum::{DatumRef, Kind};

/// What a scan needs of documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Top-level fields that are wanted; others may be left out of documents. `None`: all are wanted.
    pub fields: Option<Vec<Arc<str>>>,
    /// Documents that lie outside any of these may be left out, unless one of the fields has a value of a plugin's type: how
    /// that compares is for its plugin to say, which may fail.
    pub filter: Vec<FieldRange>,
}

/// A top-level field and where it must lie in ReQL's total order. A document without the field lies outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRange {
    /// The field.
    pub field: Arc<str>,
    /// From where on: null, a bool, a number, a string, a time or bytes.
    pub lower: Bound<Datum>,
    /// Up to where, of the same types.
    pub upper: Bound<Datum>,
}

impl FieldRange {
    /// Whether a range can be given by this value: the order of others may depend on what a plugin says.
    #[must_use]
    pub fn takes(bound: &Datum) -> bool {
        !matches!(bound, Datum::Array(_) | Datum::Object(_) | Datum::Typed(_))
    }

    /// Whether the value of the field lies outside.
    #[must_use]
    pub fn excludes(&self, value: Option<DatumRef<'_>>) -> bool {
        let Some(value) = value else { return true };
        let outside = |bound: &Bound<Datum>, wrong: Ordering| match bound {
            Bound::Unbounded => false,
            Bound::Included(edge) => compare(value, edge).is_some_and(|order| order == wrong),
            Bound::Excluded(edge) => compare(value, edge).is_some_and(|order| order == wrong || order.is_eq()),
        };
        outside(&self.lower, Ordering::Less) || outside(&self.upper, Ordering::Greater)
    }

    /// Whether all values lie outside that are from `least` to `greatest`, both included; `None` is no limit.
    #[must_use]
    pub fn excludes_between(&self, least: Option<&Datum>, greatest: Option<&Datum>) -> bool {
        let above = match (&self.upper, least) {
            (Bound::Included(upper), Some(least)) => least > upper,
            (Bound::Excluded(upper), Some(least)) => least >= upper,
            _ => false,
        };
        above
            || match (&self.lower, greatest) {
                (Bound::Included(lower), Some(greatest)) => greatest < lower,
                (Bound::Excluded(lower), Some(greatest)) => greatest <= lower,
                _ => false,
            }
    }
}

/// `None` where the value is damaged: whoever reads it says so.
fn compare(value: DatumRef<'_>, edge: &Datum) -> Option<Ordering> {
    match (value.kind()?, edge) {
        (Kind::Number, Datum::Number(edge)) => value.as_number()?.partial_cmp(edge),
        (Kind::String, Datum::String(edge)) => Some(value.as_str()?.as_bytes().cmp(edge.as_bytes())),
        _ => Some(value.to_datum().ok()?.compare(edge)),
    }
}

impl Selection {
    /// Whether everything is wanted, so that there is nothing to leave out.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.fields.is_none() && self.filter.is_empty()
    }

    /// Whether an entry with this value may be left out. What is no encoded object never is.
    #[must_use]
    pub fn excludes(&self, value: &[u8]) -> bool {
        let Some(document) = object(value) else { return false };
        self.excludes_fields(|field| document.get(field))
    }

    /// Whether a document whose fields have these values may be left out.
    #[must_use]
    pub fn excludes_fields<'a>(&self, value: impl Fn(&str) -> Option<DatumRef<'a>>) -> bool {
        let is_typed = |value: DatumRef<'_>| value.kind().is_none_or(|kind| kind == Kind::Typed);
        self.filter.iter().any(|range| range.excludes(value(&range.field)))
            && !self.filter.iter().any(|range| value(&range.field).is_some_and(is_typed))
    }

    /// Whether a field is wanted.
    #[must_use]
    pub fn wants(&self, field: &str) -> bool {
        self.fields.as_ref().is_none_or(|fields| fields.iter().any(|wanted| **wanted == *field))
    }

    /// The document with what is wanted of it; unchanged where that is all, or where it is no valid object.
    #[must_use]
    pub fn project(&self, value: Vec<u8>) -> Vec<u8> {
        if self.fields.is_none() {
            return value;
        }
        let fields = object(&value).and_then(|document| document.fields().ok()?.collect::<Result<Vec<_>, _>>().ok());
        let Some(mut fields) = fields else { return value };
        let count = fields.len();
        fields.retain(|(name, _)| self.wants(name));
        if fields.len() == count {
            return value;
        }
        let mut out = Vec::new();
        Datum::encode_fields(&fields, &mut out);
        out
    }
}

fn object(value: &[u8]) -> Option<DatumRef<'_>> {
    DatumRef::new(value).ok().filter(|document| document.kind() == Some(Kind::Object) && document.len().is_some())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::datum::encoding::tests::datums;

    fn range(lower: Bound<Datum>, upper: Bound<Datum>) -> FieldRange {
        FieldRange { field: "a".into(), lower, upper }
    }

    fn edges() -> impl Strategy<Value = Datum> {
        prop_oneof![
            Just(Datum::Null),
            any::<bool>().prop_map(Datum::from),
            any::<i32>().prop_map(Datum::from),
            "[a-z]{0,3}".prop_map(Datum::from),
            (-1e11..1e11_f64).prop_map(|seconds| Datum::Time(crate::datum::Time::new(seconds, 0).unwrap())),
        ]
    }

    proptest! {
        #[test]
        fn what_is_in_range_is_never_left_out(value in prop_oneof![datums(), edges()], lower in edges(), upper in edges()) {
            let encoded = value.encoded();
            for lower in [Bound::Included(lower.clone()), Bound::Excluded(lower), Bound::Unbounded] {
                for upper in [Bound::Included(upper.clone()), Bound::Excluded(upper.clone()), Bound::Unbounded] {
                    let is_inside = (lower.as_ref(), upper.as_ref());
                    let is_inside = std::ops::RangeBounds::<Datum>::contains(&is_inside, &value);
                    let range = range(lower.clone(), upper);
                    prop_assert_eq!(range.excludes(DatumRef::new(&encoded).ok()), !is_inside);
                    prop_assert!(!(is_inside && range.excludes_between(Some(&value), Some(&value))));
                }
            }
        }

        #[test]
        fn a_projection_is_the_object_of_the_wanted_fields(
            fields in prop::collection::vec(("[abc]{0,2}", datums()), 0..6),
            wanted in prop::collection::vec("[abc]{0,2}", 0..3),
        ) {
            let document = Datum::object(fields);
            let selection = Selection { fields: Some(wanted.iter().map(|name| name.as_str().into()).collect()), ..Selection::default() };
            let expected = document.as_object().unwrap().iter().filter(|(name, _)| wanted.iter().any(|other| **other == ***name));
            let expected = Datum::object(expected.map(|(name, value)| (name.clone(), value.clone())));
            prop_assert_eq!(selection.project(document.encoded()), expected.encoded());
        }
    }

    #[test]
    fn what_is_no_document_stays() {
        let filter = vec![range(Bound::Included(1.into()), Bound::Unbounded)];
        let selection = Selection { fields: Some(Vec::new()), filter };
        for bytes in [&b""[..], b"\x01", b"\x01\x20", b"no datum", &Datum::from(1).encoded()] {
            assert!(!selection.excludes(bytes), "{bytes:?}");
            assert_eq!(selection.project(bytes.to_vec()), bytes);
        }
        assert!(selection.excludes(&Datum::object([("b", 1)]).encoded()), "without the field");
        assert!(selection.excludes(&Datum::object([("a", 0)]).encoded()));
        assert!(!selection.excludes(&Datum::object([("a", 1)]).encoded()));
        let typed = Datum::from(crate::datum::Typed::new("decimal", [1], "1").unwrap());
        let filter = ["a", "b"].map(|field| FieldRange {
            field: field.into(),
            lower: Bound::Included("x".into()),
            upper: Bound::Unbounded,
        });
        let selection = Selection { fields: None, filter: filter.to_vec() };
        assert!(selection.excludes(&Datum::object([("a", 0), ("b", 0)]).encoded()));
        assert!(!selection.excludes(&Datum::object([("a", typed), ("b", 0.into())]).encoded()), "its plugin may fail");
    }
}
