//! Distances that lie: about what they are like, about places, and about distances.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use photondb_plugin_sdk::prelude::*;

/// How a distance lies.
#[derive(Clone, Copy)]
enum Lie {
    /// About distances, as one that is symmetric, triangular and normalised.
    Measure(fn(&[f32], &mut [f32])),
    /// About places.
    Place(fn(&[f32], &mut [f32])),
    /// About its traits, as the options are prepared.
    Prepare(fn(usize) -> Traits),
}

const LIES: &[(&str, Lie)] = &[
    ("j12_measures_nan", Lie::Measure(|_, distances| distances.fill(f32::NAN))),
    ("j12_measures_infinity", Lie::Measure(|_, distances| distances.fill(f32::INFINITY))),
    ("j12_measures_below_0", Lie::Measure(|_, distances| distances.fill(-1.0))),
    ("j12_measures_nothing", Lie::Measure(|_, _| {})),
    ("j12_measures_at_random", Lie::Measure(|_, distances| distances.iter_mut().for_each(|it| *it = random()))),
    (
        "j12_measures_asymmetrically",
        Lie::Measure(|query, distances| distances.fill(query.iter().sum::<f32>().abs().fract())),
    ),
    ("j12_measure_hangs", Lie::Measure(|_, _| hang())),
    ("j12_measure_dies", Lie::Measure(|_, _| process::abort())),
    ("j12_measure_panics", Lie::Measure(|_, _| panic!("no distance"))),
    ("j12_places_nowhere", Lie::Place(|_, place| place.fill(f32::NAN))),
    ("j12_places_too_far", Lie::Place(|_, place| place.fill(1e30))),
    ("j12_places_all_in_one", Lie::Place(|_, place| place.fill(1.0))),
    ("j12_places_at_random", Lie::Place(|_, place| place.iter_mut().for_each(|it| *it = random()))),
    ("j12_place_hangs", Lie::Place(|_, _| hang())),
    ("j12_place_dies", Lie::Place(|_, _| process::abort())),
    ("j12_prepare_hangs", Lie::Prepare(|_| hang())),
    ("j12_prepare_dies", Lie::Prepare(|_| process::abort())),
    ("j12_prepares_no_dims", Lie::Prepare(|_| Traits::of(Metric::L2, 0))),
    (
        "j12_prepares_endless_dims",
        Lie::Prepare(|_| Traits { is_placed_as_is: false, ..Traits::of(Metric::L2, 1 << 20) }),
    ),
    (
        "j12_is_another_in_every_process",
        Lie::Prepare(|dims| {
            let is_odd = process::id().is_multiple_of(2);
            Traits { is_placed_as_is: false, is_normalised: is_odd, is_exact: false, ..Traits::of(Metric::L2, dims) }
        }),
    ),
];

/// Between 0 and 1, and never the same.
fn random() -> f32 {
    static DRAWN: AtomicU32 = AtomicU32::new(1);
    let drawn = DRAWN.fetch_add(2_654_435_769, Ordering::Relaxed);
    (drawn >> 8) as f32 / (1 << 24) as f32
}

fn hang() -> ! {
    loop {
        thread::park();
    }
}

/// A distance that lies.
pub(crate) struct LyingDistance {
    name: &'static str,
    lie: Lie,
}

impl LyingDistance {
    pub(crate) fn named(name: &str) -> Option<Self> {
        LIES.iter().find(|(known, _)| *known == name).map(|&(name, lie)| Self { name, lie })
    }

    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        LIES.iter().map(|(name, _)| *name)
    }
}

impl DistancePlugin for LyingDistance {
    fn name(&self) -> &str {
        self.name
    }

    fn prepare(&self, dims: usize, _: &Datum) -> Result<Box<dyn Distance>, PluginError> {
        Ok(Box::new(Lying { dims, lie: self.lie }))
    }
}

struct Lying {
    dims: usize,
    lie: Lie,
}

impl Distance for Lying {
    fn traits(&self) -> Traits {
        let traits = Traits::of(Metric::L2, self.dims);
        match self.lie {
            Lie::Measure(_) => Traits { is_exact: false, is_normalised: true, ..traits },
            Lie::Place(_) => Traits { is_placed_as_is: false, ..traits },
            Lie::Prepare(lie) => lie(self.dims),
        }
    }

    fn place(&self, _: Side, vector: &[f32], place: &mut [f32]) {
        match self.lie {
            Lie::Place(lie) => lie(vector, place),
            _ => place.copy_from_slice(vector),
        }
    }

    fn measure(&self, query: &[f32], _: &[f32], distances: &mut [f32]) {
        match self.lie {
            Lie::Measure(lie) => lie(query, distances),
            _ => distances.fill(0.5),
        }
    }
}
