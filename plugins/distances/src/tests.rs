use photondb_plugin_sdk::prelude::*;
use photondb_plugin_sdk::testing::vector::data::Numbers;
use photondb_plugin_sdk::testing::{Harness, distance};

use crate::{Distances, Jaccard, KlDivergence, WeightedCosine};

const DIMS: usize = 24;

/// So many vectors, of what is drawn.
fn vectors(count: usize, mut number: impl FnMut(&mut Numbers) -> f32) -> Vec<f32> {
    let mut numbers = Numbers(11);
    (0..count * DIMS).map(|_| number(&mut numbers)).collect()
}

fn weights(weight: impl Fn(usize) -> f64) -> Datum {
    Datum::object([("weights", Datum::array((0..DIMS).map(|at| weight(at).into())))])
}

#[test]
fn each_keeps_what_it_promises() {
    // Some of few things and some of many; the last one is empty.
    let mut sets = vectors(20, |numbers| f32::from(u8::from(numbers.draw().is_multiple_of(3))));
    sets.extend([0.0; DIMS]);
    distance::conforms(&Jaccard, DIMS, &Datum::Null, &sets);

    let any = vectors(20, Numbers::normal);
    distance::conforms(&WeightedCosine, DIMS, &weights(|at| (at % 3) as f64 * 1e6), &any);

    let shares = vectors(20, |numbers| (numbers.draw() % 5) as f32);
    distance::conforms(&KlDivergence, DIMS, &Datum::Null, &shares);
    distance::conforms(&KlDivergence, DIMS, &Datum::object([("epsilon", 0.5)]), &shares);
}

#[test]
fn a_weighted_cosine_is_what_its_formula_says() {
    let harness = Harness::start(Distances);
    let weight = |at: usize| (at % 4) as f64 / 2.0;
    let cosine = harness.distance("weighted_cosine", DIMS, &weights(weight)).expect("weights");
    assert_eq!(cosine.traits().dims, DIMS * 3 / 4, "numbers without weight are left out");
    let vectors = vectors(10, Numbers::normal);
    let (query, rows) = vectors.split_at(DIMS);
    let product = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).enumerate().map(|(at, (a, b))| weight(at) * f64::from(*a) * f64::from(*b)).sum()
    };
    let found = cosine.distances(query, rows).expect("distances");
    for (row, found) in rows.chunks_exact(DIMS).zip(found) {
        let expected = 1.0 - product(query, row) / (product(query, query) * product(row, row)).sqrt();
        assert!((f64::from(found) - expected).abs() < 1e-5, "{found} {expected}");
    }
}

#[test]
fn a_divergence_is_what_its_formula_says_and_of_distributions_alone() {
    let harness = Harness::start(Distances);
    let divergence = harness.distance("kl_divergence", 3, &Datum::object([("epsilon", 1e-9)])).expect("an option");
    let found = divergence.distances(&[2.0, 1.0, 1.0], &[1.0, 1.0, 2.0, 4.0, 2.0, 2.0]).expect("distances");
    let expected = 0.5 * 2.0_f64.ln() + 0.25 * 0.5_f64.ln();
    assert!((f64::from(found[0]) - expected).abs() < 1e-5 && found[1].abs() < 1e-5, "{found:?}");
    let back = divergence.distances(&[4.0, 1.0, 1.0], &[1.0, 1.0, 4.0]).expect("a distance");
    let same_back = divergence.distances(&[1.0, 1.0, 4.0], &[4.0, 1.0, 1.0]).expect("a distance");
    assert!((back[0] - same_back[0]).abs() < 1e-5);
    assert!(divergence.place(Side::Row, &[1.0, -1.0, 0.0]).expect("none").iter().all(|number| number.is_nan()));
}

#[test]
fn a_wrong_option_is_named_with_what_is_accepted() {
    let harness = Harness::start(Distances);
    let list =
        |numbers: &[f64]| Datum::object([("weights", Datum::array(numbers.iter().map(|&number| number.into())))]);
    for (name, options, parts) in [
        ("weighted_cosine", Datum::Null, ["`weights`", "as many numbers as `dims`"]),
        ("weighted_cosine", list(&[1.0, 2.0]), ["a list of 2", "`dims` is 3"]),
        ("weighted_cosine", list(&[1.0, -2.0, 0.0]), ["`weights`", "none below 0"]),
        ("weighted_cosine", list(&[0.0; 3]), ["zeros", "not all 0"]),
        ("weighted_cosine", Datum::object([("weights", "heavy")]), ["`weights`", "STRING"]),
        ("weighted_cosine", Datum::object([("weight", 1)]), ["`weight`", "`weights`"]),
        ("jaccard", Datum::object([("weights", 1)]), ["`weights`", "no options"]),
        ("jaccard", Datum::from("x"), ["object", "STRING"]),
        ("kl_divergence", Datum::object([("epsilon", 0)]), ["`epsilon`", "above 0"]),
    ] {
        let refused = harness.distance(name, 3, &options).err().unwrap_or_else(|| panic!("{name} takes {options:?}"));
        let message = refused.message();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}
