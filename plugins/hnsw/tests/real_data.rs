//! Recall on real embeddings, where the repository has them (`tests/data`).

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use photondb_plugin_hnsw::Hnsw;
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::vector::{IndexOptions, Metric, VectorIndex, VectorIndexPlugin};
use photondb_plugin_sdk::testing::vector::data::DataSet;
use photondb_plugin_sdk::testing::vector::search;

const K: usize = 10;
const ROWS_OF_CALL: usize = 32;

/// An index of all rows, added by so many threads, where the data is.
fn indexed(threads: usize) -> Option<(DataSet, Box<dyn VectorIndex>)> {
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
    let rows: Vec<u32> = (0..data.rows).collect();
    let calls = Mutex::new(rows.chunks(ROWS_OF_CALL));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = calls.lock().unwrap().next();
                    let Some(rows) = next else { return };
                    index.insert(rows).unwrap();
                }
            });
        }
    });
    Some((data, index))
}

fn recall((data, index): &(DataSet, Box<dyn VectorIndex>)) -> f64 {
    data.recall(K, &search(&**index, (&data.queries, data.dims), K, None, &Datum::Null).unwrap())
}

#[test]
fn nearly_all_nearest_rows_of_real_embeddings_are_found() {
    let Some(indexed) = indexed(1) else { return };
    let recall = recall(&indexed);
    assert!(recall >= 0.97, "recall@{K} is {recall}");
}

#[test]
fn rows_that_several_threads_add_are_found_as_well() {
    let Some(indexed) = indexed(4) else { return };
    let recall = recall(&indexed);
    assert!(recall >= 0.97, "recall@{K} is {recall}");
    // By its own vector every row is found, if a way leads to it.
    let (data, index) = indexed;
    let settings = Datum::object([("ef_search", 2000)]);
    let mut vector = vec![0.0; data.dims];
    for row in 0..data.rows {
        data.column.row(row).unwrap().copy_to(&mut vector);
        let found = search(&*index, (&vector, data.dims), 1, None, &settings).unwrap();
        let (nearest, distance) = found[0][0];
        // Of equal vectors any will do.
        assert!(nearest == row || distance < 1e-3, "row {row} is never found");
    }
}

#[test]
fn half_of_the_rows_going_and_coming_back_costs_no_recall() {
    let Some(indexed) = indexed(1) else { return };
    let before = recall(&indexed);
    let half: Vec<u32> = (0..indexed.0.rows).filter(|row| row % 2 == 1).collect();
    indexed.1.remove(&half).unwrap();
    indexed.1.insert(&half).unwrap();
    let after = recall(&indexed);
    assert!(after >= before - 0.01, "recall@{K} is {after}, and was {before}");
}
