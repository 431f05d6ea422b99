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
//! | `graph`, `codes`, `links` | nodes, codes, neighbours |
//! | `walk` | greedy walks |
//! | `insert`, `repair` | linking new nodes; leading around removed ones |
//! | `encoder`, `rotation` | vectors as codes |
//! | `format` | the saved form |

#![forbid(unsafe_code)]

mod codes;
mod encoder;
mod format;
mod graph;
mod index;
mod insert;
mod links;
mod options;
mod recent;
mod repair;
mod rotation;
mod search;
mod walk;

use std::sync::Arc;

use photondb_plugin_sdk::column::VectorColumn;
use photondb_plugin_sdk::kinds::vector::{IndexOptions, VectorIndex, VectorIndexPlugin};
use photondb_plugin_sdk::registry::{Plugin, PluginRegistry};
use photondb_plugin_sdk::{Datum, PluginError};

use crate::index::HnswIndex;
use crate::options::Options;

/// The plugin: provides the index type `hnsw`.
#[derive(Clone, Copy, Debug, Default)]
pub struct HnswPlugin {
    defaults: Options,
}

impl Plugin for HnswPlugin {
    fn name(&self) -> &str {
        "hnsw"
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    /// What indexes get that say nothing else: the same keys as in `index_create`.
    fn configure(&mut self, settings: &Datum) -> Result<(), PluginError> {
        self.defaults = Options::default().with(settings)?;
        Ok(())
    }

    fn register(&self, registry: &mut PluginRegistry) {
        registry.vector_index(Hnsw { defaults: self.defaults });
    }
}

/// The index type `hnsw`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hnsw {
    defaults: Options,
}

impl VectorIndexPlugin for Hnsw {
    fn index_type(&self) -> &str {
        "hnsw"
    }

    fn validate(&self, options: &IndexOptions) -> Result<(), PluginError> {
        self.defaults.with(&options.settings).map(drop)
    }

    fn create(&self, options: &IndexOptions, column: Arc<VectorColumn>) -> Result<Box<dyn VectorIndex>, PluginError> {
        let settings = self.defaults.with(&options.settings)?;
        Ok(Box::new(HnswIndex::new(options, settings, column)?))
    }
}

#[cfg(test)]
mod tests;
