//! Recall on real embeddings, where the repository has them: `tests/data/*embeddings.f16.npy` and `queries.f32.npy`.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use half::f16;
use photondb_plugin_hnsw::Hnsw;
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::column::{Element, VectorColumn};
use photondb_plugin_sdk::distance::Query;
use photondb_plugin_sdk::kinds::vector::{
    IndexOptions, Metric, SearchRequest, SearchResults, VectorIndex, VectorIndexPlugin,
};

mod npy;

const K: usize = 10;
const QUERIES: usize = 200;
const ROWS_OF_CALL: usize = 32;

struct Data {
    index: Box<dyn VectorIndex>,
    column: Arc<VectorColumn>,
    queries: Vec<f32>,
    dims: usize,
    count: u32,
}

/// An index of all rows, added by so many threads, where the data is.
fn indexed(threads: usize) -> Option<Data> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
    let Some(embeddings) = npy::embeddings(&folder) else {
        eprintln!("skipped: there is no *embeddings.f16.npy in {}", folder.display());
        return None;
    };
    let (rows, dims) = npy::read(&embeddings, |[a, b]| f16::from_le_bytes([a, b]).to_f32()).unwrap();
    let (mut queries, query_dims) = npy::read(&folder.join("queries.f32.npy"), f32::from_le_bytes).unwrap();
    assert_eq!(dims, query_dims);
    queries.truncate(QUERIES * dims);
    let count = (rows.len() / dims) as u32;
    let column = Arc::new(VectorColumn::in_memory(dims as u32, Element::F16, &rows).unwrap());
    let options = IndexOptions { dims: dims as u32, metric: Metric::Cosine, settings: Datum::Null };
    let index = Hnsw::default().create(&options, Arc::clone(&column)).unwrap();
    let rows: Vec<u32> = (0..count).collect();
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
    Some(Data { index, column, queries, dims, count })
}

impl Data {
    /// How many rows are not found by their own vectors, however wide the search: no way leads to them.
    fn lost(&self) -> usize {
        let settings = Datum::object([("ef_search", 2000)]);
        let mut vector = vec![0.0; self.dims];
        let is_lost = |row: &u32| {
            self.column.row(*row).unwrap().copy_to(&mut vector);
            let (mut rows, mut distances, mut counts) = ([0; K], [0.0; K], [0]);
            let mut results = SearchResults { rows: &mut rows, distances: &mut distances, counts: &mut counts };
            let cancel = photondb_plugin_sdk::Cancel::never();
            let request = SearchRequest { queries: &vector, k: K, allow: None, settings: &settings, cancel };
            self.index.search(&request, &mut results).unwrap();
            // Of equal vectors any will do.
            distances[0] > 1e-3
        };
        (0..self.count).filter(is_lost).count()
    }

    fn recall(&self) -> f64 {
        let found_queries = self.queries.len() / self.dims;
        let (mut rows, mut distances, mut counts) =
            (vec![0; found_queries * K], vec![0.0; found_queries * K], vec![0; found_queries]);
        let mut results = SearchResults { rows: &mut rows, distances: &mut distances, counts: &mut counts };
        let request = SearchRequest {
            queries: &self.queries,
            k: K,
            allow: None,
            settings: &Datum::Null,
            cancel: photondb_plugin_sdk::Cancel::never(),
        };
        self.index.search(&request, &mut results).unwrap();

        let mut hits = 0;
        for (query, found) in self.queries.chunks_exact(self.dims).zip(rows.chunks(K)) {
            let query = Query::new(Metric::Cosine, query);
            let mut exact: Vec<(f32, u32)> =
                (0..self.count).map(|row| (query.distance_to(self.column.row(row).unwrap()), row)).collect();
            exact.sort_by(|a, b| a.0.total_cmp(&b.0));
            hits += exact[..K].iter().filter(|(_, row)| found.contains(row)).count();
        }
        hits as f64 / rows.len() as f64
    }
}

#[test]
fn nearly_all_nearest_rows_of_real_embeddings_are_found() {
    let Some(data) = indexed(1) else { return };
    let recall = data.recall();
    assert!(recall >= 0.97, "recall@{K} is {recall}");
}

#[test]
fn rows_that_several_threads_add_are_found_as_well() {
    let Some(data) = indexed(4) else { return };
    let (recall, lost) = (data.recall(), data.lost());
    assert!(recall >= 0.97, "recall@{K} is {recall}");
    assert_eq!(lost, 0, "rows that are never found");
}

#[test]
fn half_of_the_rows_going_and_coming_back_costs_no_recall() {
    let Some(data) = indexed(1) else { return };
    let before = data.recall();
    let half: Vec<u32> = (0..data.count).filter(|row| row % 2 == 1).collect();
    data.index.remove(&half).unwrap();
    data.index.insert(&half).unwrap();
    let after = data.recall();
    assert!(after >= before - 0.01, "recall@{K} is {after}, and was {before}");
}
