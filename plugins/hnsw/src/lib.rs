//! An HNSW vector index for PhotonDB over the rows that the server owns.
//!
//! ```text
//! table.index_create("emb", r.row["emb"], vector={"type": "hnsw", "dims": 384, "metric": "cosine", "m": 16})
//! ```
//!
//! The graph is that of [`photondb_graph`], with [many layers](photondb_graph::Layers::Many); this says what users may set.

#![forbid(unsafe_code)]

mod options;

use std::sync::Arc;

use photondb_graph::GraphIndex;
use photondb_plugin_sdk::column::VectorColumn;
use photondb_plugin_sdk::kinds::vector::{IndexOptions, VectorIndex, VectorIndexPlugin};
use photondb_plugin_sdk::registry::{Plugin, PluginRegistry};
use photondb_plugin_sdk::{Datum, PluginError};

use crate::options::{HNSW, Options};

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
        HNSW.name
    }

    fn validate(&self, options: &IndexOptions) -> Result<(), PluginError> {
        self.defaults.with(&options.settings).map(drop)
    }

    fn create(&self, options: &IndexOptions, column: Arc<VectorColumn>) -> Result<Box<dyn VectorIndex>, PluginError> {
        let settings = self.defaults.with(&options.settings)?;
        Ok(Box::new(GraphIndex::new(&HNSW, options, settings.plan(), column)?))
    }
}

#[cfg(test)]
mod tests;
