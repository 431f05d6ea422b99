//! An HNSW vector index for PhotonDB over the rows that the server owns.
//!
//! ```text
//! table.index_create("emb", r.row["emb"], vector={"type": "hnsw", "dims": 384, "metric": "cosine", "m": 16})
//! ```
//!
//! The graph is that of [`photondb_graph`], with [many layers](photondb_graph::Layers::Many); this says what users may set.

#![forbid(unsafe_code)]

mod options;

use photondb_graph::GraphPlugin;

use crate::options::Options;

/// The plugin, and the index type `hnsw` that it provides.
pub type Hnsw = GraphPlugin<Options>;

#[cfg(test)]
mod tests;
