//! Recall on real embeddings, where the repository has them (`tests/data`).

use std::path::Path;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::testing::vector::Suite;
use photondb_plugin_vamana::Vamana;

#[test]
fn nearly_all_nearest_rows_of_real_embeddings_are_found() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
    Suite::new(&Vamana::default()).recall(0.97).run_on(&folder, &Datum::object([("search_width", 2000)]));
}
