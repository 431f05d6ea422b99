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
    /// With the first options that it takes: none, or a sample.
    pub(super) fn check_distance(&self, name: &str, part: &mut Part<'_>) {
        let check = "it is what it promises to be";
        let tested = TestedDistance::new(self.manager.registry(), name);
        let mut refused = None;
        for options in [&Datum::Null].into_iter().chain(&self.samples) {
            match tested.prepare(DIMS, options) {
                Ok(_) => {
                    part.check(check, || {
                        conforms(&tested, DIMS, options, &vectors());
                        Ok(())
                    });
                    return;
                }
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        let why = refused.map(|error| format!(": {error}")).unwrap_or_default();
        part.skip(check, format!("give it options for vectors of {DIMS} numbers with --samples{why}"));
    }
}
