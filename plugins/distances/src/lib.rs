//! Distances of vectors: `jaccard`, `weighted_cosine` and `kl_divergence`, one module each.
//!
//! ```text
//! table.index_create("tags", r.row["tags"], vector={"type": "hnsw", "dims": 128, "metric": "jaccard"})
//! ```
//!
//! They show the three ways in which an index gets at a distance: `jaccard` is measured, of candidates that the cosine
//! finds; `weighted_cosine` is the cosine of other places; and `kl_divergence`, which is not symmetric, places what is
//! looked for otherwise than what is found.

#![forbid(unsafe_code)]

mod jaccard;
mod kl_divergence;
mod weighted_cosine;

use photondb_plugin_sdk::prelude::*;

pub use jaccard::Jaccard;
pub use kl_divergence::KlDivergence;
pub use weighted_cosine::WeightedCosine;

/// The plugin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Distances;

impl Plugin for Distances {
    fn name(&self) -> &str {
        "distances"
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn register(&self, registry: &mut PluginRegistry) {
        registry.distance(Jaccard).distance(KlDivergence).distance(WeightedCosine);
    }
}

/// The one option that a distance knows, or nothing; `accepted` says what there is.
fn only_option<'a>(options: &'a Datum, key: &str, accepted: &str) -> Result<Option<&'a Datum>, PluginError> {
    let object = match options {
        Datum::Null => return Ok(None),
        Datum::Object(object) => object,
        other => {
            let kind = other.type_name();
            return Err(PluginError::argument(format!("`metric_options` has to be an object, not {kind}; {accepted}")));
        }
    };
    match object.iter().find(|(name, _)| &***name != key) {
        Some((name, _)) => {
            Err(PluginError::argument(format!("`metric_options` has no key `{name}` for this metric; {accepted}")))
        }
        None => Ok(object.get(key)),
    }
}

#[cfg(test)]
mod tests;
