//! Distances.

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::distance::DistancePlugin;
use photondb_plugin_sdk::testing::distance::conforms;
use photondb_plugin_sdk::testing::vector::data::Numbers;

use super::{Part, Subject};
use crate::vector::TestedDistance;

/// The length of the vectors that are tried.
const DIMS: usize = 8;
/// How many of them.
const VECTORS: usize = 24;

/// Vectors that every distance should have places for: sets, and numbers none of which is below 0.
fn vectors() -> Vec<f32> {
    let mut numbers = Numbers(3);
    let mut number = |most: u64| (numbers.draw() % (most + 1)) as f32;
    let most = |vector: usize| if vector.is_multiple_of(2) { 1 } else { 9 };
    (0..VECTORS * DIMS).map(|at| number(most(at / DIMS))).collect()
}

impl Subject<'_> {
    pub(super) fn check_distance(&self, name: &str, part: &mut Part<'_>) {
        part.check("it is what it promises to be", || {
            let tested = TestedDistance::new(self.manager.registry(), name);
            let mut refused = String::new();
            for options in [&Datum::Null].into_iter().chain(&self.samples) {
                match tested.prepare(DIMS, options) {
                    Ok(_) => {
                        conforms(&tested, DIMS, options, &vectors());
                        return Ok(());
                    }
                    Err(error) => refused = error.to_string(),
                }
            }
            Err(format!("`{name}` takes none of the options that were tried for vectors of {DIMS} numbers; give it some with --samples: {refused}"))
        });
    }
}
