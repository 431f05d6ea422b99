//! An HNSW vector index for PhotonDB over the rows that the server owns.
//!
//! ```text
//! table.index_create("emb", r.row["emb"], vector={"type": "hnsw", "dims": 384, "metric": "cosine", "m": 16})
//! ```
//!
//! The vectors stay in the server's column, which this reads in place. What it owns is a graph and, for each row, a
//! code of 8 bits a number: walks go by codes, and the best candidates are scored again exactly. Searches go on while
//! rows come and go.
//!
//! | module | what it does |
//! |---|---|
//! | `options` | what users may set |
//! | `index` | the index that the server sees; locks |
//! | `search` | one search: walk or scan, then exact scores |
//! | `graph`, `links` | nodes, codes, neighbours |
//! | `walk` | greedy walks |
//! | `insert`, `repair` | linking new nodes; leading around removed ones |
//! | `encoder` | vectors as codes |
//! | `format` | the saved form |

#![forbid(unsafe_code)]

mod encoder;
mod format;
mod graph;
mod index;
mod insert;
mod links;
mod options;
mod repair;
mod search;
mod walk;

use std::sync::Arc;

use photondb_plugin_sdk::PluginError;
use photondb_plugin_sdk::column::VectorColumn;
use photondb_plugin_sdk::kinds::vector::{IndexOptions, VectorIndex, VectorIndexPlugin};
use photondb_plugin_sdk::registry::{Plugin, PluginRegistry};

use crate::index::HnswIndex;
use crate::options::Options;

/// The plugin: provides the index type `hnsw`.
#[derive(Clone, Copy, Debug, Default)]
pub struct HnswPlugin;

impl Plugin for HnswPlugin {
    fn name(&self) -> &str {
        "hnsw"
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn register(&self, registry: &mut PluginRegistry) {
        registry.vector_index(Hnsw);
    }
}

/// The index type `hnsw`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hnsw;

impl VectorIndexPlugin for Hnsw {
    fn index_type(&self) -> &str {
        "hnsw"
    }

    fn validate(&self, options: &IndexOptions) -> Result<(), PluginError> {
        Options::read(&options.settings).map(drop)
    }

    fn create(&self, options: &IndexOptions, column: Arc<VectorColumn>) -> Result<Box<dyn VectorIndex>, PluginError> {
        let settings = Options::read(&options.settings)?;
        Ok(Box::new(HnswIndex::new(options, settings, column)?))
    }
}

#[cfg(test)]
mod tests;
