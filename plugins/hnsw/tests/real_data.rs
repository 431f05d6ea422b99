//! Recall on real embeddings, where the repository has them (`tests/data`).

use std::path::Path;
use std::sync::Arc;

use photondb_plugin_hnsw::Hnsw;
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::vector::{IndexOptions, Metric, VectorIndex, VectorIndexPlugin};
use photondb_plugin_sdk::testing::vector::data::DataSet;
use photondb_plugin_sdk::testing::vector::search;

const K: usize = 10;

/// An index of all rows, where the data is.
fn indexed() -> Option<(DataSet, Box<dyn VectorIndex>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
    let data = match DataSet::read(&folder, K) {
        Ok(data) => data,
        Err(error) => {
            eprintln!("skipped: {error}");
            return None;
        }
    };
    let options = IndexOptions { dims: data.dims as u32, metric: Metric::Cosine, settings: Datum::Null };
    let index = Hnsw::default().create(&options, Arc::clone(&data.column)).unwrap();
    index.insert(&(0..data.rows).collect::<Vec<_>>()).unwrap();
    Some((data, index))
}

fn recall((data, index): &(DataSet, Box<dyn VectorIndex>)) -> f64 {
    data.recall(K, &search(&**index, (&data.queries, data.dims), K, None, &Datum::Null).unwrap())
}

#[test]
fn nearly_all_nearest_rows_of_real_embeddings_are_found() {
    let Some(indexed) = indexed() else { return };
    let recall = recall(&indexed);
    assert!(recall >= 0.97, "recall@{K} is {recall}");
}

#[test]
fn half_of_the_rows_going_and_coming_back_costs_no_recall() {
    let Some(indexed) = indexed() else { return };
    let before = recall(&indexed);
    let half: Vec<u32> = (0..indexed.0.rows).filter(|row| row % 2 == 1).collect();
    indexed.1.remove(&half).unwrap();
    indexed.1.insert(&half).unwrap();
    let after = recall(&indexed);
    assert!(after >= before - 0.01, "recall@{K} is {after}, and was {before}");
}
