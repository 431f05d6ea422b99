//! The index types as the server sees them.

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::registry::Plugin;
use photondb_plugin_sdk::testing::vector::Suite;

use super::{IndexType, IvfPlugin, Kind};

#[test]
fn ivf_is_an_index() {
    Suite::new(&IndexType::new(Kind::Ivf)).recall(0.97).run();
}

#[test]
fn pq_is_an_index() {
    // So many rows that they take two chunks.
    Suite::new(&IndexType::new(Kind::Pq)).rows(9000).recall(0.97).run();
}

#[test]
fn ivf_pq_is_an_index() {
    // Trained a second time when there are eight times as many rows as the first time.
    Suite::new(&IndexType::new(Kind::IvfPq)).rows(9000).recall(0.97).run();
}

#[test]
fn few_lists_are_an_index_too() {
    let settings = Datum::object([("lists", 4), ("nprobe", 4)]);
    Suite::new(&IndexType::new(Kind::Ivf)).settings(settings).rows(2000).recall(1.0).finds_the_nearest_rows();
}

#[test]
fn the_operators_settings_are_the_defaults_of_indexes() {
    let mut plugin = IvfPlugin::default();
    plugin.configure(&Datum::object([("refine", 9), ("nprobe", 5)])).unwrap();
    assert_eq!((plugin.defaults.refine, plugin.defaults.nprobe), (9, Some(5)));
    assert_eq!(plugin.defaults.with(Kind::Pq, &Datum::object([("refine", 7)])).unwrap().refine, 7);
    assert!(plugin.configure(&Datum::object([("ef", 9)])).unwrap_err().message().contains("`ef`"));
}
