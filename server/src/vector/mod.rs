//! Vector indexes: the server owns the vectors, plugins own the graphs.
//!
//! Every vector index has a column (`DIR/vectors/INDEX_ID/segment-NNNN`), to which the server appends, and which the
//! plugin's process maps read-only. A document's vector gets the next row number; the number of its row is stored
//! with the document, in the same commit. The plugin is told row numbers alone.
//!
//! | module | what it holds |
//! |---|---|
//! | `index` | one index: takes part in commits, knows which row is whose |
//! | `rows` | row numbers and keys |
//! | `insert` | sends rows to a plugin's graph, on as many lanes as it allows |
//! | `maintain` | a thread an index: keeps the plugin's graph up with the rows, saves and loads it |
//! | `distance` | a distance of a plugin, as an index has it |
//! | `places` | the places that such a distance gives to rows |
//! | `graph` | an index as it is open at its plugin: `process`, in a process, or `linked_in` |
//! | `search` | `get_nearest`: the plugin's rows, checked, scored exactly, merged with what it has not seen yet |
//! | `coalesce` | searches of several clients that would wait become one batch |
//! | `ask` | the plugin's part of it: batches are split among its idle threads |
//! | `plan` | what is expected to cost less, and what was done |
//! | `scan` | the exact scan: fallback, small tables, strict filters; bounds from 4-bit codes first |
//! | `saved` | the file that a saved graph is kept in |
//! | `tested` | a kind of index, or a distance, under the suites of the SDK |
//!
//! **Distances of plugins.** The vectors of an index whose `metric` a plugin provides get places, in a second column, and the
//! index works on these by a base metric. Where that is not the distance itself, the plugin measures the candidates that the
//! index found, and all rows where a scan answers.
//!
//! **Trust.** What a plugin returns are row numbers. The server checks that they exist and are live, computes their
//! distances from the column, sorts, and tops up from an exact scan where rows are missing. A plugin that lies can
//! cost recall, never correctness. A plugin whose distance lies costs the indexes that use it what distances they say, and
//! nothing else: which rows there are, and which a filter accepts, it has no part in.

mod ask;
mod coalesce;
mod distance;
mod graph;
mod index;
pub mod insert;
mod linked_in;
mod maintain;
mod places;
mod plan;
mod process;
mod rows;
pub(crate) mod saved;
mod scan;
mod search;
mod tested;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use photondb_ipc_schema::column::{Element, MAX_DIMS};
use photondb_plugin_sdk::kinds::distance::Traits;
use photondb_plugin_sdk::kinds::vector::{IndexOptions, Metric};
use photondb_plugin_sdk::{Datum, PluginError};
use uuid::Uuid;

use crate::plugins::CALL_DEADLINE;
use crate::plugins::registry::{Provider, Registry};
use crate::storage::{
    DistanceDefinition, StoreError, VectorDefinition, VectorIndexContext, VectorIndexHook, VectorIndexes,
};
use distance::PluginDistance;
use index::VectorIndex;
pub use plan::Plan;
pub use scan::{ExactScan, Scored};
pub use search::{Nearest, Neighbour, SearchError};
pub(crate) use tested::{TestedDistance, TestedKind};

/// The key of `vector={...}` that says how a number is stored; the server's own.
const ELEMENT_KEY: &str = "element";

/// All vector indexes of a server.
pub struct VectorManager {
    registry: Arc<Registry>,
    open: Mutex<HashMap<Uuid, Arc<VectorIndex>>>,
}

impl VectorManager {
    /// Indexes whose kinds come from the plugins of `registry`.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, open: Mutex::default() }
    }

    /// Saves every graph that has changed, and ends the maintenance. The store may still be read.
    pub fn close(&self) {
        let open: Vec<_> = self.open.lock().unwrap_or_else(PoisonError::into_inner).drain().collect();
        open.iter().for_each(|(_, index)| index.begin_close());
        open.iter().for_each(|(_, index)| index.finish_close());
    }
}

/// What the server and the plugin each make of a definition.
fn split(definition: &VectorDefinition) -> Result<(Element, IndexOptions), StoreError> {
    let refuse = |message: String| Err(StoreError::Vector(message));
    if !(1..=MAX_DIMS).contains(&definition.dims) {
        return refuse(format!(
            "Vector option `dims` is {}; it must be a number from 1 to {MAX_DIMS}.",
            definition.dims
        ));
    }
    let mut settings = definition.settings.as_object().map(|object| (**object).clone()).unwrap_or_default();
    let element = match settings.remove(ELEMENT_KEY) {
        None => Element::F32,
        Some(value) => match value.as_str() {
            Some("f32") => Element::F32,
            Some("f16") => Element::F16,
            Some("i8") => Element::I8,
            _ => return refuse(format!("Vector option `{ELEMENT_KEY}` must be \"f32\", \"f16\" or \"i8\".")),
        },
    };
    let dims = definition.distance.as_ref().map_or(definition.dims, |distance| distance.traits.dims as u32);
    let options = IndexOptions { dims, metric: definition.metric, settings: Datum::Object(Arc::new(settings)) };
    Ok((element, options))
}

/// Asks a plugin whether it takes an index with these options, and one that measures by that distance of a plugin.
fn validate_at(
    Provider { plugin, code }: &Provider,
    kind: &str,
    options: &IndexOptions,
    distance: Option<(&str, &Traits)>,
) -> Result<(), PluginError> {
    let deadline = Instant::now() + CALL_DEADLINE;
    match code {
        Some(code) => code.validate_index(kind, options, distance).map_err(|error| error.of(plugin.name())),
        None => plugin.call().instance(deadline)?.validate_index(kind, options, distance, deadline),
    }
}

impl VectorIndexes for VectorManager {
    fn distance(&self, name: &str, dims: u32, options: Datum) -> Result<DistanceDefinition, StoreError> {
        if self.registry.distance(name).is_err() {
            let known = [Metric::Cosine, Metric::L2, Metric::Dot].map(|metric| metric.name().to_owned());
            let known: Vec<String> = known.into_iter().chain(self.registry.distances()).collect();
            let message = format!(
                "Vector option `metric` is \"{name}\", which no running plugin provides; there are: {}.",
                known.join(", ")
            );
            return Err(StoreError::Vector(message));
        }
        let deadline = Instant::now() + CALL_DEADLINE;
        PluginDistance::define(&self.registry, name, dims, options, deadline)
            .map_err(|error| StoreError::Vector(error.to_string()))
    }

    fn validate(&self, definition: &VectorDefinition) -> Result<(), StoreError> {
        let (_, options) = split(definition)?;
        let distance = definition.distance.as_ref().map(|distance| (distance.name.as_str(), &distance.traits));
        self.registry
            .vector_index(&definition.kind)
            .and_then(|provider| validate_at(&provider, &definition.kind, &options, distance))
            .map_err(|error| StoreError::Vector(error.to_string()))
    }

    fn open(&self, context: &VectorIndexContext) -> Result<Arc<dyn VectorIndexHook>, StoreError> {
        let index = VectorIndex::open(context, Arc::clone(&self.registry))?;
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(context.index_id, Arc::clone(&index));
        Ok(index)
    }

    fn drop_index(&self, index_id: Uuid) {
        if let Some(index) = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&index_id) {
            index.discard();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_have_names() {
        let element = |name: Datum| {
            let settings = Datum::object([(ELEMENT_KEY, name)]);
            let (kind, metric) = ("hnsw".into(), Metric::L2);
            split(&VectorDefinition { kind, dims: 3, metric, distance: None, settings }).map(|split| split.0)
        };
        for (name, expected) in [("f32", Element::F32), ("f16", Element::F16), ("i8", Element::I8)] {
            assert_eq!(element(name.into()).expect("known"), expected);
        }
        let message = element("u8".into()).expect_err("unknown").to_string();
        assert!(["f32", "f16", "i8"].iter().all(|name| message.contains(name)), "{message}");
    }
}
