//! ReQL's total order, in which every two values compare.
//!
//! Types first, in the alphabetical order of their names: arrays < bools < null < numbers < objects < binary < time
//! < strings. Types of plugins have their places, by their names, around binary and time; their values compare by order key. Arrays compare element by element, then by length; objects by their sorted (name, value) pairs; text and
//! bytes by bytes; times by the instant, whatever zone they are shown in. `==` and `Hash` follow the same order, so two
//! times of different zones are equal.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use super::{Datum, Object};

impl Datum {
    /// Compares in ReQL's total order.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Array(a), Self::Array(b)) => compare_lists(a.iter(), b.iter(), |a, b| a.compare(b)),
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Number(a), Self::Number(b)) => compare_numbers(*a, *b),
            (Self::Object(a), Self::Object(b)) => compare_objects(a, b),
            (Self::Binary(a), Self::Binary(b)) => a.cmp(b),
            (Self::Time(a), Self::Time(b)) => compare_numbers(a.epoch_seconds(), b.epoch_seconds()),
            (Self::String(a), Self::String(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Self::Typed(a), Self::Typed(b)) => a.compare(b),
            _ => self.type_rank().cmp(&other.type_rank()),
        }
    }

    /// The place of the type in the order of types.
    pub(super) fn type_rank(&self) -> u8 {
        match self {
            Self::Array(_) => 0,
            Self::Bool(_) => 1,
            Self::Null => 2,
            Self::Number(_) => 3,
            Self::Object(_) => 4,
            Self::Typed(typed) if typed.name() < "binary" => 5,
            Self::Binary(_) => 6,
            Self::Typed(typed) if typed.name() < "time" => 7,
            Self::Time(_) => 8,
            Self::Typed(_) => 9,
            Self::String(_) => 10,
        }
    }
}

/// Numbers are finite; were one not, this is still a total order.
fn compare_numbers(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.total_cmp(&b))
}

fn compare_lists<T>(
    mut a: impl Iterator<Item = T>,
    mut b: impl Iterator<Item = T>,
    compare: impl Fn(T, T) -> Ordering,
) -> Ordering {
    loop {
        match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(a), Some(b)) => match compare(a, b) {
                Ordering::Equal => {}
                unequal => return unequal,
            },
        }
    }
}

fn compare_objects(a: &Object, b: &Object) -> Ordering {
    compare_lists(a.iter(), b.iter(), |(a_name, a_value), (b_name, b_value)| {
        a_name.as_bytes().cmp(b_name.as_bytes()).then_with(|| a_value.compare(b_value))
    })
}

impl PartialEq for Datum {
    fn eq(&self, other: &Self) -> bool {
        self.compare(other) == Ordering::Equal
    }
}

impl Eq for Datum {}

impl PartialOrd for Datum {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Datum {
    fn cmp(&self, other: &Self) -> Ordering {
        self.compare(other)
    }
}

impl Hash for Datum {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Adding zero turns -0 into 0, which it equals.
        let number_bits = |number: f64| (number + 0.0).to_bits();
        self.type_rank().hash(state);
        match self {
            Self::Null => {}
            Self::Bool(value) => value.hash(state),
            Self::Number(number) => number_bits(*number).hash(state),
            Self::String(text) => text.hash(state),
            Self::Binary(bytes) => bytes.hash(state),
            Self::Time(time) => number_bits(time.epoch_seconds()).hash(state),
            Self::Typed(typed) => typed.hash(state),
            Self::Array(elements) => elements.hash(state),
            Self::Object(object) => {
                object.len().hash(state);
                for (name, value) in object.iter() {
                    name.hash(state);
                    value.hash(state);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::datum::{Time, Typed};

    fn time(seconds: f64, offset: i16) -> Datum {
        Datum::Time(Time::new(seconds, offset).unwrap())
    }

    fn typed(name: &str, key: &[u8]) -> Datum {
        Typed::new(name, key, "the text does not matter").unwrap().into()
    }

    #[test]
    fn values_of_all_types_have_one_order() {
        let ascending = [
            Datum::array([]),
            Datum::array([Datum::array([]), true.into()]),
            Datum::array([1.into()]),
            Datum::array([1.into(), Datum::Null]),
            Datum::array([2.into()]),
            false.into(),
            true.into(),
            Datum::Null,
            (-1).into(),
            0.5.into(),
            Datum::object([("a", 2)]),
            Datum::object([("a", 2), ("b", 1)]),
            Datum::object([("a", 3)]),
            Datum::object([("b", 1)]),
            typed("angle", &[9]),
            Datum::Binary([0_u8][..].into()),
            Datum::Binary([0_u8, 1][..].into()),
            typed("cidr", &[9]),
            typed("decimal", &[]),
            typed("decimal", &[1]),
            typed("decimal", &[1, 0]),
            time(1.0, 60),
            time(1.5, -60),
            typed("uuid", &[1]),
            "".into(),
            "a\0b".into(),
            "z".into(),
            "é".into(),
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(a.cmp(b), i.cmp(&j), "{a:?} and {b:?}");
            }
        }
    }

    #[test]
    fn equal_values_hash_alike() {
        let values: HashSet<Datum> = [time(5.0, 0), time(5.0, 60), 0.0.into(), (-0.0).into()].into_iter().collect();
        assert_eq!(values.len(), 2);
    }
}
