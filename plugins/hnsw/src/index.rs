//! The index: a graph, the lock around it, and the column under it.
//!
//! Searches share the graph with the one maintenance call that may run beside them. Links are changed beside searches;
//! the exclusive lock is taken only to store new codes and to mark and free nodes, a few rows at a time.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use photondb_plugin_sdk::column::VectorColumn;
use photondb_plugin_sdk::kinds::vector::{
    IndexOptions, IndexStatistics, RowId, SearchRequest, SearchResults, VectorIndex,
};
use photondb_plugin_sdk::{Cause, PluginError};

use crate::encoder::{Encoder, Factors};
use crate::format;
use crate::graph::{Graph, Shape};
use crate::insert::LinkScratch;
use crate::links::NONE;
use crate::options::Options;
use crate::search::{self, Eligible, SearchScratch};

/// How many rows are stored under one exclusive lock: 64 rows of 384 codes are copied in a few microseconds.
const BATCH: usize = 64;
/// How many nodes are freed under one exclusive lock.
const FREED_AT_ONCE: usize = 1024;
/// With this many rows the centre of the codes is found, once and for all.
const ROWS_FOR_CENTRE: usize = 256;
/// The most rows that the centre is the mean of.
const SAMPLE: usize = 4096;

/// An HNSW index.
pub(crate) struct HnswIndex {
    options: Options,
    column: Arc<VectorColumn>,
    graph: RwLock<Graph>,
    /// Held by what changes the graph: one at a time.
    maintenance: Mutex<LinkScratch>,
    /// One for each search that ever ran at the same time.
    scratches: Mutex<Vec<SearchScratch>>,
}

impl HnswIndex {
    pub(crate) fn new(index: &IndexOptions, options: Options, column: Arc<VectorColumn>) -> Result<Self, PluginError> {
        let (wanted, found) = (index.dims as usize, column.dims());
        if wanted != found {
            let message = format!("an index of {wanted} dims can't be made over a column of {found} dims");
            return Err(PluginError::argument(message));
        }
        let Options { m, ef_construction, .. } = options;
        let shape = Shape { dims: wanted, metric: index.metric, m, ef_construction };
        Ok(Self {
            options,
            column,
            graph: RwLock::new(Graph::new(shape, Encoder::new(index.metric))),
            maintenance: Mutex::default(),
            scratches: Mutex::default(),
        })
    }

    fn read(&self) -> Result<RwLockReadGuard<'_, Graph>, PluginError> {
        self.graph.read().map_err(|_| damaged())
    }

    fn write(&self) -> Result<RwLockWriteGuard<'_, Graph>, PluginError> {
        self.graph.write().map_err(|_| damaged())
    }

    fn maintain(&self) -> Result<MutexGuard<'_, LinkScratch>, PluginError> {
        self.maintenance.lock().map_err(|_| damaged())
    }

    /// Finds the centre of the codes, when with `coming` there are rows enough for the first time.
    fn fit(&self, coming: &[RowId]) -> Result<(), PluginError> {
        let encoder = {
            let graph = self.read()?;
            let is_fitted = !graph.encoder().centre().is_empty();
            if is_fitted || graph.live().count() + coming.len() < ROWS_FOR_CENTRE {
                return Ok(());
            }
            let present = graph.live_nodes().map(|node| graph.row(node));
            let rows: Vec<RowId> = present.chain(coming.iter().copied()).collect();
            let step = rows.len().div_ceil(SAMPLE);
            let sample = rows.iter().step_by(step).filter_map(|&row| self.column.row(row));
            Encoder::fitted(graph.shape().metric, graph.shape().dims, sample)
        };
        let mut vector = vec![0.0; self.column.dims()];
        self.write()?.encode_again(encoder, |encoder, row, codes| match self.column.row(row) {
            Some(row) => {
                row.copy_to(&mut vector);
                encoder.encode(&mut vector, codes)
            }
            // The server has taken a removed row away; nothing but a path depends on its codes.
            None => Factors::default(),
        });
        Ok(())
    }

    /// Stores and links a few rows. Those that are in the index already are skipped.
    fn insert_batch(&self, rows: &[RowId], scratch: &mut LinkScratch) -> Result<(), PluginError> {
        let dims = self.column.dims();
        let mut encoded = Vec::with_capacity(rows.len());
        let mut present = Vec::new();
        let mut codes = vec![0; dims * rows.len()];
        {
            let graph = self.read()?;
            let mut vector = vec![0.0; dims];
            for (&row, codes) in rows.iter().zip(codes.chunks_exact_mut(dims)) {
                if graph.node(row).is_some() {
                    present.push(row);
                    continue;
                }
                search::vector(&self.column, row)?.copy_to(&mut vector);
                encoded.push((row, graph.encoder().encode(&mut vector, codes), &*codes));
            }
        }
        let mut nodes = Vec::with_capacity(encoded.len());
        let mut is_full = false;
        {
            let mut graph = self.write()?;
            present.into_iter().for_each(|row| graph.revive(row));
            graph.reserve(encoded.len());
            for (row, factors, codes) in encoded {
                // A row may occur twice in a batch.
                if graph.node(row).is_none() {
                    match graph.add(row, codes, factors) {
                        Some(node) => nodes.push(node),
                        None => is_full = true,
                    }
                }
            }
        }
        let graph = self.read()?;
        nodes.into_iter().for_each(|node| graph.link(node, scratch));
        if is_full { Err(too_many()) } else { Ok(()) }
    }

    fn repair(&self, scratch: &mut LinkScratch) -> Result<(), PluginError> {
        let tombstones = {
            let graph = self.read()?;
            graph.lead_around_tombstones(scratch);
            graph.tombstone_nodes()
        };
        for nodes in tombstones.chunks(FREED_AT_ONCE) {
            let mut graph = self.write()?;
            nodes.iter().for_each(|&node| graph.free(node));
        }
        Ok(())
    }
}

impl VectorIndex for HnswIndex {
    fn insert(&self, rows: &[RowId]) -> Result<(), PluginError> {
        let mut scratch = self.maintain()?;
        self.fit(rows)?;
        rows.chunks(BATCH).try_for_each(|rows| self.insert_batch(rows, &mut scratch))
    }

    fn remove(&self, rows: &[RowId]) -> Result<(), PluginError> {
        let mut scratch = self.maintain()?;
        let mut rows = rows;
        while !rows.is_empty() {
            let mut graph = self.write()?;
            let room = graph.tolerable_tombstones().saturating_sub(graph.tombstones());
            let (now, later) = rows.split_at(room.clamp(1, rows.len()));
            now.iter().for_each(|&row| graph.remove(row));
            let is_repair_due = graph.tombstones() >= graph.tolerable_tombstones();
            drop(graph);
            if is_repair_due {
                self.repair(&mut scratch)?;
            }
            rows = later;
        }
        Ok(())
    }

    fn search(&self, request: &SearchRequest<'_>, results: &mut SearchResults<'_>) -> Result<(), PluginError> {
        let dims = self.column.dims();
        let k = request.k;
        let ef = self.options.ef_of_search(request.settings)?;
        let count = request.queries.len() / dims;
        let is_whole = request.queries.len().is_multiple_of(dims);
        if !is_whole || results.counts.len() < count || results.rows.len().min(results.distances.len()) < count * k {
            let message = format!(
                "the batch of {} numbers is not one of whole queries of {dims}, with room for {k} rows each",
                request.queries.len()
            );
            return Err(PluginError::argument(message));
        }
        if k == 0 {
            results.counts.fill(0);
            return Ok(());
        }
        let mut scratch = self.scratches().pop().unwrap_or_default();
        let answer = (|| {
            for (at, query) in request.queries.chunks_exact(dims).enumerate() {
                request.cancel.check()?;
                // Locked for each query, so that maintenance never waits for a whole batch.
                let graph = self.read()?;
                let eligible = Eligible::new(&graph, request.allow);
                let found = search::search(&graph, &self.column, query, k, ef, &eligible, &mut scratch)?;
                results.counts[at] = found.len() as u32;
                let places = results.rows[at * k..].iter_mut().zip(&mut results.distances[at * k..]);
                for ((row, distance), found) in places.zip(found) {
                    (*row, *distance) = (found.row, found.distance);
                }
            }
            Ok(())
        })();
        self.scratches().push(scratch);
        answer
    }

    fn save(&self, out: &mut dyn Write) -> Result<(), PluginError> {
        let mut scratch = self.maintain()?;
        if self.read()?.tombstones() > 0 {
            self.repair(&mut scratch)?;
        }
        let graph = self.read()?;
        format::save(&graph, out)
    }

    fn load(&self, input: &mut dyn Read) -> Result<(), PluginError> {
        let _maintenance = self.maintain()?;
        let shape = self.read()?.shape();
        let loaded = format::load(shape, &self.column, input)?;
        *self.write()? = loaded;
        Ok(())
    }

    fn statistics(&self) -> IndexStatistics {
        let graph = self.graph.read().unwrap_or_else(PoisonError::into_inner);
        IndexStatistics {
            rows: graph.live().count() as u64,
            removed: graph.tombstones() as u64,
            memory_bytes: graph.memory_bytes() as u64,
        }
    }
}

impl HnswIndex {
    fn scratches(&self) -> MutexGuard<'_, Vec<SearchScratch>> {
        // Scratches are overwritten before they are read, so that a panic beside this lock harms nothing.
        self.scratches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn damaged() -> PluginError {
    let message =
        "the index was left half changed by an earlier panic; reload the plugin, and it is read back from disk";
    PluginError::runtime(Cause::Plugin, message)
}

fn too_many() -> PluginError {
    PluginError::runtime(Cause::Limit, format!("an `hnsw` index holds at most {} rows", NONE >> 1))
}
