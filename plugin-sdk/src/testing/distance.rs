//! What every distance has to keep to.

use crate::distance::Query;
use crate::kinds::distance::{Distance, DistancePlugin, Side};
use crate::{Cause, Datum};

/// How much of the distances two of them may differ that should be equal, in f32.
const ROUNDING: f32 = 1e-4;

/// Checks a distance on `vectors` (`[n, dims]`, at least three, all of which have places): that it does what its traits
/// promise, always the same, however many are asked for at once.
///
/// What it can't check is whether the base metric finds what is near where the distance is not exact: that is a matter of
/// recall, which its author measures.
///
/// # Panics
/// With what is wrong.
pub fn conforms(distance: &dyn DistancePlugin, dims: usize, options: &Datum, vectors: &[f32]) {
    let name = distance.name();
    let prepare = || distance.prepare(dims, options).unwrap_or_else(|error| panic!("{name} is refused: {error}"));
    let prepared = prepare();
    let traits = prepared.traits();
    assert_eq!(traits, prepare().traits(), "{name} is now like this and now like that");
    assert!(!traits.is_placed_as_is || traits.dims == dims, "{name} places vectors as they are, of another length");
    let vectors: Vec<&[f32]> = vectors.chunks_exact(dims).collect();
    assert!(vectors.len() >= 3, "{} vectors show nothing", vectors.len());

    let placed = |side| -> Vec<Vec<f32>> {
        let place = |distance: &dyn Distance, vector: &[f32]| {
            let mut place = vec![f32::NAN; traits.dims];
            if traits.is_placed_as_is {
                place.copy_from_slice(vector);
            } else {
                distance.place(side, vector, &mut place);
            }
            assert!(place.iter().all(|number| number.is_finite()), "{name}: {vector:?} has no place as a {side:?}");
            place
        };
        let again = prepare();
        let both = |vector: &&[f32]| {
            let found = place(&*prepared, vector);
            assert_eq!(found, place(&*again, vector), "{name}: {vector:?} is now here and now there");
            found
        };
        vectors.iter().map(both).collect()
    };
    let (queries, rows) = (placed(Side::Query), placed(Side::Row));

    let measured = |query: &[f32], rows: &[f32]| -> Vec<f32> {
        if traits.is_exact {
            let query = Query::new(traits.base, query);
            return rows.chunks_exact(traits.dims).map(|row| query.distance(row)).collect();
        }
        let mut distances = vec![f32::NAN; rows.len() / traits.dims];
        prepared.measure(query, rows, &mut distances);
        distances
    };
    let from: Vec<Vec<f32>> = queries.iter().map(|query| measured(query, &rows.concat())).collect();
    for (query, distances) in from.iter().enumerate() {
        for (row, &found) in distances.iter().enumerate() {
            assert!(traits.allows(found), "{name}: {found} is no distance of one that is {traits:?}");
            let alone = measured(&queries[query], &rows[row]);
            assert_eq!(alone, [found], "{name}: {query} to {row} is another distance alone than among others");
            if traits.is_symmetric {
                assert!(are_equal(found, from[row][query]), "{name} is not symmetric: {query} and {row}");
            }
        }
    }
    if traits.is_triangular {
        for (a, b, c) in triples(vectors.len()) {
            let (straight, around) = (from[a][c], from[a][b] + from[b][c]);
            let is_longer = straight > around && !are_equal(straight, around);
            assert!(!is_longer, "{name}: {a} to {c} is {straight}, and {around} by way of {b}");
        }
        assert!((0..vectors.len()).all(|at| are_equal(from[at][at], 0.0)), "{name}: a vector is far from itself");
    }

    for strange in [Datum::from("strange"), 7.into(), Datum::array([]), Datum::object([("no_such_option", 1)])] {
        if let Err(error) = distance.prepare(dims, &strange) {
            assert_eq!(error.cause(), Cause::Argument, "{name}: {error}");
            continue;
        }
        panic!("{name} takes the options {strange:?}, of which it can know nothing");
    }
}

fn are_equal(a: f32, b: f32) -> bool {
    (a - b).abs() <= ROUNDING * a.abs().max(b.abs()).max(1.0)
}

fn triples(count: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..count).flat_map(move |a| (0..count).flat_map(move |b| (0..count).map(move |c| (a, b, c))))
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::PluginError;
    use crate::kinds::distance::{Metric, Traits};

    /// A distance of two numbers, measured by a function, with what it claims to be.
    #[derive(Clone, Copy)]
    struct Claims {
        traits: Traits,
        measure: fn(f32, f32) -> f32,
    }

    impl DistancePlugin for Claims {
        fn name(&self) -> &str {
            "claims"
        }

        fn prepare(&self, _: usize, options: &Datum) -> Result<Box<dyn Distance>, PluginError> {
            match options {
                Datum::Null => Ok(Box::new(*self)),
                _ => Err(PluginError::argument("`claims` has no options")),
            }
        }
    }

    impl Distance for Claims {
        fn traits(&self) -> Traits {
            self.traits
        }

        fn measure(&self, query: &[f32], rows: &[f32], distances: &mut [f32]) {
            rows.iter().zip(distances).for_each(|(row, distance)| *distance = (self.measure)(query[0], *row));
        }
    }

    #[test]
    fn who_claims_too_much_is_found_out() {
        let plain = Traits { is_exact: false, is_triangular: false, is_symmetric: false, ..Traits::of(Metric::L2, 1) };
        let symmetric = Traits { is_symmetric: true, ..plain };
        let normalised = Traits { is_normalised: true, ..plain };
        let triangular = Traits { is_triangular: true, ..plain };
        let holds = |traits, measure| {
            let checked = || conforms(&Claims { traits, measure }, 1, &Datum::Null, &[0.0, 1.0, 3.0]);
            catch_unwind(AssertUnwindSafe(checked)).is_ok()
        };
        let directed: fn(f32, f32) -> f32 = |a, b| if a < b { b - a } else { 2.0 * (a - b) };
        assert!(holds(plain, directed) && holds(triangular, directed) && !holds(symmetric, directed));
        assert!(!holds(normalised, directed));
        let squared: fn(f32, f32) -> f32 = |a, b| (a - b) * (a - b);
        assert!(holds(symmetric, squared) && !holds(triangular, squared));
        assert!(!holds(plain, |_, _| f32::NAN));
    }
}
