//! Recall on real embeddings, where the repository has them: `tests/data/*embeddings.f16.npy` and `queries.f32.npy`.

use std::path::Path;
use std::sync::Arc;

use half::f16;
use photondb_plugin_hnsw::Hnsw;
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::column::{Element, VectorColumn};
use photondb_plugin_sdk::distance::Query;
use photondb_plugin_sdk::kinds::vector::{IndexOptions, Metric, SearchRequest, SearchResults, VectorIndexPlugin};

mod npy;

const K: usize = 10;
const QUERIES: usize = 200;

#[test]
fn nearly_all_nearest_rows_of_real_embeddings_are_found() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
    let Some(embeddings) = npy::embeddings(&folder) else {
        eprintln!("skipped: there is no *embeddings.f16.npy in {}", folder.display());
        return;
    };
    let (rows, dims) = npy::read(&embeddings, |[a, b]| f16::from_le_bytes([a, b]).to_f32()).unwrap();
    let (queries, query_dims) = npy::read(&folder.join("queries.f32.npy"), f32::from_le_bytes).unwrap();
    assert_eq!(dims, query_dims);
    let count = (rows.len() / dims) as u32;
    let queries = &queries[..queries.len().min(QUERIES * dims)];

    let column = Arc::new(VectorColumn::in_memory(dims as u32, Element::F16, &rows).unwrap());
    let options = IndexOptions { dims: dims as u32, metric: Metric::Cosine, settings: Datum::Null };
    let index = Hnsw::default().create(&options, Arc::clone(&column)).unwrap();
    index.insert(&(0..count).collect::<Vec<_>>()).unwrap();

    let found_queries = queries.len() / dims;
    let (mut rows, mut distances, mut counts) =
        (vec![0; found_queries * K], vec![0.0; found_queries * K], vec![0; found_queries]);
    let mut results = SearchResults { rows: &mut rows, distances: &mut distances, counts: &mut counts };
    let request = SearchRequest {
        queries,
        k: K,
        allow: None,
        settings: &Datum::Null,
        cancel: photondb_plugin_sdk::Cancel::never(),
    };
    index.search(&request, &mut results).unwrap();

    let mut hits = 0;
    for (query, found) in queries.chunks_exact(dims).zip(rows.chunks(K)) {
        let query = Query::new(Metric::Cosine, query);
        let mut exact: Vec<(f32, u32)> =
            (0..count).map(|row| (query.distance_to(column.row(row).unwrap()), row)).collect();
        exact.sort_by(|a, b| a.0.total_cmp(&b.0));
        hits += exact[..K].iter().filter(|(_, row)| found.contains(row)).count();
    }
    let recall = hits as f64 / rows.len() as f64;
    assert!(recall >= 0.97, "recall@{K} is {recall}");
}
