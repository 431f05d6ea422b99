//! ReQL's total order, with `r.minval` below and `r.maxval` above everything.

use std::cmp::Ordering;

use photondb_plugin_sdk::Datum;

use super::pseudo::{self, Special};

/// Compares two values of any types.
pub fn compare(left: &Datum, right: &Datum) -> Ordering {
    match (left, right) {
        (Datum::Array(a), Datum::Array(b)) => {
            if pseudo::same(left, right) {
                return Ordering::Equal;
            }
            for (a, b) in a.iter().zip(b.iter()) {
                match compare(a, b) {
                    Ordering::Equal => {}
                    other => return other,
                }
            }
            a.len().cmp(&b.len())
        }
        (Datum::Object(_), _) | (_, Datum::Object(_)) => {
            if pseudo::same(left, right) {
                return Ordering::Equal;
            }
            match (rank(left), rank(right)) {
                (0, 0) => compare_objects(left, right),
                (a, b) => a.cmp(&b),
            }
        }
        _ => left.compare(right),
    }
}

/// -1 for `r.minval`, 1 for `r.maxval`, 0 for all others.
fn rank(datum: &Datum) -> i8 {
    match pseudo::special_of(datum) {
        Some(Special::Min) => -1,
        Some(Special::Max) => 1,
        _ => 0,
    }
}

fn compare_objects(left: &Datum, right: &Datum) -> Ordering {
    let (Datum::Object(a), Datum::Object(b)) = (left, right) else {
        return left.compare(right);
    };
    for ((a_name, a_value), (b_name, b_value)) in a.iter().zip(b.iter()) {
        match a_name.as_bytes().cmp(b_name.as_bytes()).then_with(|| compare(a_value, b_value)) {
            Ordering::Equal => {}
            other => return other,
        }
    }
    a.len().cmp(&b.len())
}

/// Whether two values are equal in ReQL's order.
pub fn equal(left: &Datum, right: &Datum) -> bool {
    compare(left, right) == Ordering::Equal
}

/// A value as a key of ordered maps.
#[derive(Clone, Debug)]
pub struct Ordered(pub Datum);

impl PartialEq for Ordered {
    fn eq(&self, other: &Self) -> bool {
        equal(&self.0, &other.0)
    }
}

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_enclose_every_value_also_within_arrays() {
        let values = [Datum::array([]), Datum::Null, Datum::from(1), Datum::object([("a", 1)]), Datum::from("z")];
        for value in values {
            assert_eq!(compare(&pseudo::minval(), &value), Ordering::Less);
            assert_eq!(compare(&pseudo::maxval(), &value), Ordering::Greater);
            let low = Datum::array([Datum::from(1), pseudo::minval()]);
            let high = Datum::array([Datum::from(1), pseudo::maxval()]);
            let array = Datum::array([Datum::from(1), value]);
            assert_eq!(compare(&low, &array), Ordering::Less);
            assert_eq!(compare(&high, &array), Ordering::Greater);
        }
    }
}
