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

use std::sync::Arc;

use photondb_graph::GraphIndex;
use photondb_plugin_sdk::column::VectorColumn;
use photondb_plugin_sdk::kinds::vector::{IndexOptions, VectorIndex, VectorIndexPlugin};
use photondb_plugin_sdk::registry::{Plugin, PluginRegistry};
use photondb_plugin_sdk::{Datum, PluginError};

use crate::options::{Options, VAMANA};

/// The plugin: provides the index type `vamana`.
#[derive(Clone, Copy, Debug, Default)]
pub struct VamanaPlugin {
    defaults: Options,
}

impl Plugin for VamanaPlugin {
    fn name(&self) -> &str {
        "vamana"
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
        registry.vector_index(Vamana { defaults: self.defaults });
    }
}

/// The index type `vamana`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vamana {
    defaults: Options,
}

impl VectorIndexPlugin for Vamana {
    fn index_type(&self) -> &str {
        VAMANA.name
    }

    fn validate(&self, options: &IndexOptions) -> Result<(), PluginError> {
        self.defaults.with(&options.settings).map(drop)
    }

    fn create(&self, options: &IndexOptions, column: Arc<VectorColumn>) -> Result<Box<dyn VectorIndex>, PluginError> {
        let settings = self.defaults.with(&options.settings)?;
        Ok(Box::new(GraphIndex::new(&VAMANA, options, settings.plan(), column)?))
    }
}

#[cfg(test)]
mod tests {
    use photondb_plugin_sdk::testing::vector::Suite;

    use super::*;

    #[test]
    fn it_is_an_index() {
        Suite::new(&Vamana::default()).recall(0.98).run();
    }
}
