//! Inverted-file and product-quantised vector indexes for PhotonDB over the rows that the server owns.
//!
//! ```text
//! table.index_create("emb", r.row["emb"], vector={"type": "ivf_pq", "dims": 384, "metric": "cosine"})
//! ```
//!
//! | type | which rows are looked at | by what they are told apart |
//! |---|---|---|
//! | `ivf` | those of the `nprobe` lists whose centres are nearest | the vectors; 4-bit codes rule most rows out first |
//! | `pq` | all | product codes, and the vectors of the best candidates |
//! | `ivf_pq` | as `ivf` | as `pq` |
//!
//! They are one index: lists of rows with codes, which a search goes over. `pq` has lists too, but only as chunks,
//! and a search goes over all of them. The vectors stay in the server's column, which this reads in place.
//!
//! | module | what it does |
//! |---|---|
//! | `options` | what users may set |
//! | `index` | the index that the server sees; locks |
//! | `lists` | lists and their rows |
//! | `centres` | what lists are chosen by |
//! | `split` | lists that grew are cut in two, others take rows in |
//! | `polish` | centres move into the middle of their rows when there is time |
//! | `codes`, `quantiser` | what is kept of a row; product codes and their training |
//! | `search`, `nearest` | one search: lists, then candidates, then exact scores |
//! | `vectors` | rows of the column as they are compared |
//! | `format` | the saved form |

#![forbid(unsafe_code)]

mod centres;
mod codes;
mod format;
mod index;
mod lists;
mod nearest;
mod options;
mod polish;
mod quantiser;
mod search;
mod split;
mod vectors;

use std::sync::Arc;

use photondb_plugin_sdk::column::VectorColumn;
use photondb_plugin_sdk::kinds::distance::Traits;
use photondb_plugin_sdk::kinds::vector::{IndexOptions, VectorIndex, VectorIndexPlugin};
use photondb_plugin_sdk::registry::{Plugin, PluginRegistry};
use photondb_plugin_sdk::{Datum, PluginError};

use crate::index::ListIndex;
pub use crate::options::Kind;
use crate::options::Options;

/// The plugin: provides the index types `ivf`, `pq` and `ivf_pq`.
#[derive(Clone, Copy, Debug, Default)]
pub struct IvfPlugin {
    defaults: Options,
}

impl Plugin for IvfPlugin {
    fn name(&self) -> &str {
        "ivf"
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    /// What indexes get that say nothing else: the same keys as in `index_create`, for all types together.
    fn configure(&mut self, settings: &Datum) -> Result<(), PluginError> {
        self.defaults = Options::default().configured(settings)?;
        Ok(())
    }

    fn register(&self, registry: &mut PluginRegistry) {
        for kind in [Kind::Ivf, Kind::Pq, Kind::IvfPq] {
            registry.vector_index(IndexType { kind, defaults: self.defaults });
        }
    }
}

/// One of the index types.
#[derive(Clone, Copy, Debug)]
pub struct IndexType {
    kind: Kind,
    defaults: Options,
}

impl IndexType {
    /// The type with the defaults of a server that sets nothing.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self { kind, defaults: Options::default() }
    }
}

impl VectorIndexPlugin for IndexType {
    fn index_type(&self) -> &str {
        self.kind.name()
    }

    fn validate(&self, options: &IndexOptions) -> Result<(), PluginError> {
        self.defaults.with(self.kind, &options.settings).map(drop)
    }

    /// `pq` has lists only as chunks, and compares rows with queries alone.
    fn accepts(&self, distance: &str, traits: &Traits) -> Result<(), PluginError> {
        if self.kind == Kind::Pq || traits.is_symmetric {
            return Ok(());
        }
        let kind = self.kind.name();
        Err(PluginError::argument(format!(
            "an index of type `{kind}` gathers rows in lists by their distances from each other, and needs a symmetric one, \
             which `{distance}` is not; use the type `pq`, which goes over all rows, or another `metric`"
        )))
    }

    fn create(&self, options: &IndexOptions, column: Arc<VectorColumn>) -> Result<Box<dyn VectorIndex>, PluginError> {
        let settings = self.defaults.with(self.kind, &options.settings)?;
        Ok(Box::new(ListIndex::new(self.kind, options, settings, column)?))
    }
}

#[cfg(test)]
mod tests;
