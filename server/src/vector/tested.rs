//! A plugin's kind of index as a [`VectorIndexPlugin`], and its distance as a [`DistancePlugin`], for the suites of the SDK:
//! what a suite asks of it goes the way that the server's own calls go.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use photondb_ipc_schema::region;
use photondb_plugin_sdk::calls::Search;
use photondb_plugin_sdk::column::VectorColumn;
use photondb_plugin_sdk::distance::Query;
use photondb_plugin_sdk::kinds::distance::{Distance, DistancePlugin, Side, Traits};
use photondb_plugin_sdk::kinds::vector::{
    IndexOptions, IndexStatistics, Metric, RowId, SearchRequest, SearchResults, VectorIndex, VectorIndexPlugin,
};
use photondb_plugin_sdk::{Datum, PluginError};

use super::distance::PluginDistance;
use super::graph::{self, CALL, OpenGraph, Place};
use crate::plugins::registry::{Provider, Registry};
use crate::query::nested::Origin;

/// The most bytes of a saved index.
const SAVED: usize = 1 << 30;

/// The kind of index.
pub(crate) struct TestedKind {
    kind: String,
    registry: Arc<Registry>,
}

impl TestedKind {
    /// The kind of that name.
    pub(crate) fn new(registry: &Arc<Registry>, kind: &str) -> Self {
        Self { kind: kind.to_owned(), registry: Arc::clone(registry) }
    }

    fn provider(&self) -> Result<Provider, PluginError> {
        self.registry.vector_index(&self.kind)
    }
}

fn failed(what: &str) -> impl FnOnce(std::io::Error) -> PluginError {
    let what = what.to_owned();
    move |error| PluginError::init(format!("{what}: {error}"))
}

impl VectorIndexPlugin for TestedKind {
    fn index_type(&self) -> &str {
        &self.kind
    }

    fn validate(&self, options: &IndexOptions) -> Result<(), PluginError> {
        super::validate_at(&self.provider()?, &self.kind, options, None)
    }

    fn create(&self, options: &IndexOptions, column: Arc<VectorColumn>) -> Result<Box<dyn VectorIndex>, PluginError> {
        // A call has one length for both.
        options.dims_of(&column)?;
        let provider = self.provider()?;
        let place =
            Place::of(&provider).ok_or_else(|| PluginError::init("it does not run").of(provider.plugin.name()))?;
        let graph = graph::open(place, &provider, &self.kind, options, &column)?;
        for segment in 0.. {
            let Some(bytes) = column.segment(segment) else { break };
            let (_, copy) = region::plugin_written("segment", bytes.len()).map_err(failed("making a segment"))?;
            let copy = File::from(copy);
            copy.write_all_at(bytes, 0).map_err(failed("writing a segment"))?;
            graph.attach(segment, OwnedFd::from(copy))?;
        }
        Ok(Box::new(Tested { graph, metric: options.metric, column }))
    }
}

/// An index under test.
struct Tested {
    graph: Arc<dyn OpenGraph>,
    metric: Metric,
    column: Arc<VectorColumn>,
}

impl Drop for Tested {
    fn drop(&mut self) {
        // Its process may have ended.
        let _ = self.graph.close();
    }
}

impl VectorIndex for Tested {
    fn insert(&self, rows: &[RowId]) -> Result<(), PluginError> {
        self.graph.insert(rows, &|_| {})
    }

    fn remove(&self, rows: &[RowId]) -> Result<(), PluginError> {
        self.graph.remove(rows)
    }

    /// Distances are the server's: it computes them again.
    fn search(&self, request: &SearchRequest<'_>, results: &mut SearchResults<'_>) -> Result<(), PluginError> {
        let (dims, k) = (self.column.dims(), request.k);
        let count = request.count(dims, results)?;
        let allow = request.allow.map(|bitmap| bitmap.0);
        let search = Search { queries: request.queries, dims, k, allow, settings: request.settings };
        let found = self.graph.search(search, &Origin::until(Instant::now() + CALL))?;
        let found = found.ok_or_else(|| PluginError::init("one query does not fit into a call"))?;
        if found.len() != count {
            return Err(PluginError::init(format!("{} answers for {count} queries", found.len())));
        }
        for (number, rows) in found.iter().enumerate() {
            let query = Query::new(self.metric, &request.queries[number * dims..][..dims]);
            results.counts[number] = rows.len() as u32;
            for (at, &row) in rows.iter().enumerate() {
                let vector = self.column.row(row);
                let vector = vector.ok_or_else(|| PluginError::init(format!("row {row} is not in the column")))?;
                results.rows[number * k + at] = row;
                results.distances[number * k + at] = query.distance_to(vector);
            }
        }
        Ok(())
    }

    fn save(&self, out: &mut dyn Write) -> Result<(), PluginError> {
        out.write_all(&self.graph.save(SAVED)?).map_err(failed("saving"))
    }

    fn load(&self, input: &mut dyn Read) -> Result<(), PluginError> {
        let mut saved = Vec::new();
        input.read_to_end(&mut saved).map_err(failed("loading"))?;
        self.graph.load(&saved)
    }

    fn statistics(&self) -> IndexStatistics {
        self.graph.statistics().unwrap_or_default()
    }
}

/// The distance.
pub(crate) struct TestedDistance {
    name: String,
    registry: Arc<Registry>,
}

impl TestedDistance {
    /// The distance of that name.
    pub(crate) fn new(registry: &Arc<Registry>, name: &str) -> Self {
        Self { name: name.to_owned(), registry: Arc::clone(registry) }
    }
}

impl DistancePlugin for TestedDistance {
    fn name(&self) -> &str {
        &self.name
    }

    fn prepare(&self, dims: usize, options: &Datum) -> Result<Box<dyn Distance>, PluginError> {
        let (dims, deadline) = (dims as u32, Instant::now() + CALL);
        let definition = PluginDistance::define(&self.registry, &self.name, dims, options.clone(), deadline)?;
        Ok(Box::new(PluginDistance::new(Arc::clone(&self.registry), definition, dims)))
    }
}

/// As the suite calls it, with a panic for whatever the plugin fails with.
impl Distance for PluginDistance {
    fn traits(&self) -> Traits {
        *self.traits()
    }

    fn place(&self, side: Side, vector: &[f32], place: &mut [f32]) {
        let placed = self.place(side, vector, &Origin::until(Instant::now() + CALL));
        place.copy_from_slice(&placed.unwrap_or_else(|error| panic!("{error}")));
    }

    fn measure(&self, query: &[f32], rows: &[f32], distances: &mut [f32]) {
        let fill = |at: usize, row: &mut [f32]| row.copy_from_slice(&rows[at * query.len()..][..query.len()]);
        let measured = self.measure(query, distances.len(), fill, &Origin::until(Instant::now() + CALL));
        distances.copy_from_slice(&measured.unwrap_or_else(|error| panic!("{error}")));
    }
}
