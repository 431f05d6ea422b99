//! The index types as the server sees them.

use std::sync::Arc;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::column::{Element, VectorColumn};
use photondb_plugin_sdk::kinds::vector::{IndexOptions, Metric, VectorIndexPlugin};
use photondb_plugin_sdk::registry::Plugin;
use photondb_plugin_sdk::testing::vector::{Suite, search};

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

#[test]
fn what_version_1_wrote_is_loaded() {
    // Two lists of ten rows each, written by hand after the table in `format`; the fuzzer begins with them, too.
    let files: [(Kind, &[u8]); 3] = [
        (Kind::Ivf, include_bytes!("../../../tests/fuzz/corpus/ivf_lists/ivf")),
        (Kind::Pq, include_bytes!("../../../tests/fuzz/corpus/ivf_lists/pq")),
        (Kind::IvfPq, include_bytes!("../../../tests/fuzz/corpus/ivf_lists/ivf_pq")),
    ];
    let rows: Vec<f32> = (0..64 * 3).map(|number| ((number * 37 % 101) as f32).sin()).collect();
    let column = Arc::new(VectorColumn::in_memory(3, Element::F32, &rows).unwrap());
    for (kind, mut bytes) in files {
        let options = IndexOptions { dims: 3, metric: Metric::L2, settings: Datum::Null };
        let index = IndexType::new(kind).create(&options, Arc::clone(&column)).unwrap();
        index.load(&mut bytes).unwrap();
        assert_eq!(index.statistics().rows, 20);
        let found = search(&*index, (&rows[..3], 3), 20, None, &Datum::Null).unwrap();
        assert_eq!((found[0].len(), found[0][0]), (20, (0, 0.0)));
    }
}
