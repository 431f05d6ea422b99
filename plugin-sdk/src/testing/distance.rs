//! What every distance has to keep to.

use super::Harness;
use crate::kinds::distance::Side;
use crate::registry::Plugin;
use crate::{Cause, Datum};

/// How much of the distances two of them may differ that should be equal, in f32.
const ROUNDING: f32 = 1e-4;

/// Checks the distance `name` of a plugin on `vectors` (`[n, dims]`, at least three, all of which have places): that it does
/// what its traits promise, always the same, however many are asked for at once.
///
/// What it can't check is whether the base metric finds what is near where the distance is not exact: that is a matter of
/// recall, which its author measures.
///
/// # Panics
/// With what is wrong.
pub fn conforms(plugin: impl Plugin + 'static, name: &str, dims: usize, options: &Datum, vectors: &[f32]) {
    let harness = Harness::start(plugin);
    let distance = harness.distance(name, dims, options).unwrap_or_else(|error| panic!("{name} is refused: {error}"));
    let traits = distance.traits();
    let again = harness.distance(name, dims, options).expect("the same once more").traits();
    assert_eq!(traits, again, "{name} is now like this and now like that");
    let vectors: Vec<&[f32]> = vectors.chunks_exact(dims).collect();
    assert!(vectors.len() >= 3, "{} vectors show nothing", vectors.len());

    let all = vectors.concat();
    for side in [Side::Row, Side::Query] {
        let places = distance.place(side, &all).unwrap_or_else(|error| panic!("{name} places nothing: {error}"));
        assert!(places.iter().all(|number| number.is_finite()), "{name}: a vector has no place as a {side:?}");
        for (vector, place) in vectors.iter().zip(places.chunks_exact(traits.dims)) {
            let alone = distance.place(side, vector).expect("a place");
            assert_eq!(alone, place, "{name}: a vector has another place alone than among others");
        }
    }

    let from: Vec<Vec<f32>> = vectors.iter().map(|query| distance.distances(query, &all).expect("distances")).collect();
    for (query, distances) in from.iter().enumerate() {
        for (row, &found) in distances.iter().enumerate() {
            assert!(traits.allows(found), "{name}: {found} is no distance of one that is {traits:?}");
            let alone = distance.distances(vectors[query], vectors[row]).expect("a distance");
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
        if let Err(error) = harness.distance(name, dims, &strange) {
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
    use crate::kinds::distance::{Distance, DistancePlugin, Metric, Traits};
    use crate::prelude::{PluginError, PluginRegistry};

    /// A distance of two numbers, measured by a function, with what it claims to be.
    #[derive(Clone, Copy)]
    struct Claims {
        traits: Traits,
        measure: fn(f32, f32) -> f32,
    }

    impl Plugin for Claims {
        fn name(&self) -> &str {
            "claims"
        }

        fn version(&self) -> &str {
            "1.0.0"
        }

        fn register(&self, registry: &mut PluginRegistry) {
            registry.distance(*self);
        }
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
            let checked = || conforms(Claims { traits, measure }, "claims", 1, &Datum::Null, &[0.0, 1.0, 3.0]);
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
