//! A Vamana vector index for PhotonDB over the rows that the server owns.
//!
//! ```text
//! table.index_create("emb", r.row["emb"], vector={"type": "vamana", "dims": 384, "metric": "cosine", "degree": 64})
//! ```
//!
//! The graph is that of [`photondb_graph`], with [one layer](photondb_graph::Layers::One); this says what users may set.
//! Rows are inserted, and removed ones led around, as in FreshDiskANN (Singh et al., 2021): each of them is pruned with alpha
//! when it comes, in place of a second pass over all.

#![forbid(unsafe_code)]

mod options;

use photondb_graph::GraphPlugin;

use crate::options::Options;

/// The plugin, and the index type `vamana` that it provides.
pub type Vamana = GraphPlugin<Options>;

#[cfg(test)]
mod tests {
    use photondb_plugin_sdk::testing::vector::Suite;

    use super::*;

    #[test]
    fn it_is_an_index() {
        Suite::new(&Vamana::default()).recall(0.98).run();
    }
}
