//! Recall on real embeddings, where the repository has them (`tests/data`).

use std::path::Path;

use photondb_plugin_hnsw::Hnsw;
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::testing::vector::Suite;

#[test]
fn nearly_all_nearest_rows_of_real_embeddings_are_found() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
    Suite::new(&Hnsw::default()).recall(0.97).run_on(&folder, &Datum::object([("ef_search", 2000)]));
}
