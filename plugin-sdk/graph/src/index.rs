//! The index: a graph, the lock around it, and the column under it.
//!
//! Searches share the graph with the calls that change it; several may add rows at once, the others are alone. Links are
//! changed beside searches; the exclusive lock is taken only to store new codes and to mark and free nodes, a few rows at
//! a time.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLockReadGuard, RwLockWriteGuard};

use photondb_plugin_sdk::column::VectorColumn;
use photondb_plugin_sdk::indexing::{FairLock, settings};
use photondb_plugin_sdk::kinds::vector::{
    IndexOptions, IndexStatistics, RowId, SearchRequest, SearchResults, VectorIndex,
};
use photondb_plugin_sdk::{Cause, Datum, PluginError};

use crate::codes::Codes;
use crate::encoder::{EncodeScratch, Encoded, Encoder};
use crate::entry::SAMPLE;
use crate::format;
use crate::graph::{Graph, Shape};
use crate::insert::LinkScratch;
use crate::links::NONE;
use crate::search::{self, Eligible, SearchScratch};
use crate::{Family, Plan};

/// How many rows are stored under one exclusive lock: 64 rows of 384 codes are copied in a few microseconds.
const BATCH: usize = 64;
/// How many nodes are freed under one exclusive lock.
const FREED_AT_ONCE: usize = 1024;
/// With this many rows the centre of the codes is found, once and for all.
const ROWS_FOR_CENTRE: usize = 256;

/// A graph over the rows of a column, as an index type's `create` returns it.
pub struct GraphIndex {
    family: &'static Family,
    search_width: usize,
    column: Arc<VectorColumn>,
    graph: FairLock<Graph>,
    /// Held by what changes the graph: shared by those who add rows, alone by the others.
    maintenance: FairLock<()>,
    /// Held to find the centre of the codes, or to wait until another has found it.
    fitting: Mutex<()>,
    /// One for each search that ever ran at the same time.
    scratches: Mutex<Vec<SearchScratch>>,
    /// One for each maintenance call that ever ran at the same time.
    link_scratches: Mutex<Vec<LinkScratch>>,
}

impl GraphIndex {
    /// An empty index over a column.
    ///
    /// # Errors
    /// When the column has vectors of another length.
    pub fn new(
        family: &'static Family,
        index: &IndexOptions,
        plan: Plan,
        column: Arc<VectorColumn>,
    ) -> Result<Self, PluginError> {
        let dims = index.dims_of(&column)?;
        let Plan { layers, build_width, slack, search_width } = plan;
        let shape = Shape { dims, metric: index.metric, layers, build_width, slack };
        Ok(Self {
            family,
            search_width,
            column,
            graph: FairLock::new(Graph::new(shape, Encoder::new(index.metric, dims))),
            maintenance: FairLock::default(),
            fitting: Mutex::default(),
            scratches: Mutex::default(),
            link_scratches: Mutex::default(),
        })
    }

    fn read(&self) -> Result<RwLockReadGuard<'_, Graph>, PluginError> {
        self.graph.read().map_err(|_| damaged())
    }

    fn write(&self) -> Result<RwLockWriteGuard<'_, Graph>, PluginError> {
        self.graph.write().map_err(|_| damaged())
    }

    fn maintain(&self) -> Result<RwLockWriteGuard<'_, ()>, PluginError> {
        self.maintenance.write().map_err(|_| damaged())
    }

    /// Calls `work` with working memory for changes to links.
    fn with_scratch<T>(&self, work: impl FnOnce(&mut LinkScratch) -> T) -> T {
        let mut scratch = lock(&self.link_scratches).pop().unwrap_or_default();
        let result = work(&mut scratch);
        lock(&self.link_scratches).push(scratch);
        result
    }

    /// Whether [`fit`](Self::fit) has something to do, now that `coming` rows come.
    fn is_fit_due(&self, coming: usize) -> Result<bool, PluginError> {
        let graph = self.read()?;
        Ok(graph.encoder().centre().is_empty() && graph.live().count() + coming >= ROWS_FOR_CENTRE)
    }

    /// Finds the centre of the codes, now that with `coming` there are rows enough for the first time.
    fn fit(&self, coming: &[RowId]) -> Result<(), PluginError> {
        let graph = self.read()?;
        let (shape, dims) = (graph.shape(), graph.shape().dims);
        let present = graph.live_nodes().map(|node| graph.row(node));
        let rows: Vec<RowId> = present.chain(coming.iter().copied()).collect();
        let step = rows.len().div_ceil(SAMPLE);
        let sample = rows.iter().step_by(step).filter_map(|&row| self.column.row(row));
        let encoder = Encoder::fitted(shape.metric, dims, sample);
        let mut codes = Codes::new(dims);
        let mut scratch = EncodeScratch::default();
        codes.reserve(graph.len());
        for node in 0..graph.len() as u32 {
            match self.column.row(graph.row(node)) {
                Some(row) => codes.push(&encoder.encode(row, dims, &mut scratch)),
                // The node is free, or the server has taken a removed row away: nothing but a path depends on it.
                None => codes.push(&Encoded::default()),
            }
        }
        drop(graph);
        self.write()?.encode_again(encoder, codes);
        Ok(())
    }

    /// Stores and links a few rows. Those that are in the index already are skipped.
    fn insert_batch(&self, rows: &[RowId], scratch: &mut LinkScratch) -> Result<(), PluginError> {
        let dims = self.column.dims();
        let mut codes = Vec::with_capacity(dims * rows.len());
        let mut encoded = Vec::with_capacity(rows.len());
        let mut present = Vec::new();
        {
            let graph = self.read()?;
            for &row in rows {
                if graph.node(row).is_some() {
                    present.push(row);
                    continue;
                }
                let values = search::vector(&self.column, row)?;
                let found = graph.encoder().encode(values, dims, &mut scratch.encode);
                codes.extend_from_slice(found.codes);
                encoded.push((row, found.factors));
            }
        }
        let mut nodes = Vec::with_capacity(encoded.len());
        let mut is_full = false;
        {
            let mut graph = self.write()?;
            present.into_iter().for_each(|row| graph.revive(row));
            graph.reserve(encoded.len());
            for ((row, factors), codes) in encoded.into_iter().zip(codes.chunks_exact(dims)) {
                // A row may occur twice in a batch.
                if graph.node(row).is_none() {
                    match graph.add(row, &Encoded { codes, factors }) {
                        Some(node) => nodes.push(node),
                        None => is_full = true,
                    }
                }
            }
        }
        // Locked for each node, since others who add rows want the lock alone.
        for node in nodes {
            self.read()?.link(node, scratch);
        }
        self.read()?.follow_rows(&self.column);
        if is_full { Err(self.too_many()) } else { Ok(()) }
    }

    /// How many candidates a search keeps with these settings.
    fn width_of_search(&self, settings: &Datum) -> Result<usize, PluginError> {
        let mut width = self.search_width;
        let owner = format!("the search settings of `{}`", self.family.name);
        settings::read(settings, &owner, &[&self.family.search_width], |_, value| width = value as usize)?;
        Ok(width)
    }

    fn too_many(&self) -> PluginError {
        PluginError::runtime(Cause::Limit, format!("an `{}` index holds at most {} rows", self.family.name, NONE >> 1))
    }

    fn repair(&self, scratch: &mut LinkScratch) -> Result<(), PluginError> {
        let tombstones = {
            let graph = self.read()?;
            graph.lead_around_tombstones(&self.column, scratch);
            graph.tombstone_nodes()
        };
        for nodes in tombstones.chunks(FREED_AT_ONCE) {
            let mut graph = self.write()?;
            nodes.iter().for_each(|&node| graph.free(node));
        }
        Ok(())
    }
}

impl VectorIndex for GraphIndex {
    fn takes_parallel_inserts(&self) -> bool {
        true
    }

    fn insert(&self, rows: &[RowId]) -> Result<(), PluginError> {
        if self.is_fit_due(rows.len())? {
            // Another may find the centre first. Who waited for the exclusive lock instead would go on waiting until that one
            // has added all its rows.
            let _one = lock(&self.fitting);
            if self.is_fit_due(rows.len())? {
                let _alone = self.maintain()?;
                self.fit(rows)?;
            }
        }
        let _maintenance = self.maintenance.read().map_err(|_| damaged())?;
        self.with_scratch(|scratch| rows.chunks(BATCH).try_for_each(|rows| self.insert_batch(rows, scratch)))
    }

    fn remove(&self, rows: &[RowId]) -> Result<(), PluginError> {
        let _maintenance = self.maintain()?;
        let mut rows = rows;
        while !rows.is_empty() {
            let mut graph = self.write()?;
            let room = graph.tolerable_tombstones().saturating_sub(graph.tombstones());
            let (now, later) = rows.split_at(room.clamp(1, rows.len()));
            now.iter().for_each(|&row| graph.remove(row));
            let is_repair_due = graph.tombstones() >= graph.tolerable_tombstones();
            drop(graph);
            if is_repair_due {
                self.with_scratch(|scratch| self.repair(scratch))?;
            }
            rows = later;
        }
        Ok(())
    }

    fn search(&self, request: &SearchRequest<'_>, results: &mut SearchResults<'_>) -> Result<(), PluginError> {
        let dims = self.column.dims();
        let k = request.k;
        let width = self.width_of_search(request.settings)?;
        request.count(dims, results)?;
        if k == 0 {
            results.counts.fill(0);
            return Ok(());
        }
        let mut scratch = lock(&self.scratches).pop().unwrap_or_default();
        let answer = (|| {
            for (at, query) in request.queries.chunks_exact(dims).enumerate() {
                request.cancel.check()?;
                // Locked for each query, so that maintenance never waits for a whole batch.
                let graph = self.read()?;
                let eligible = Eligible::new(&graph, request.allow);
                let found = search::search(&graph, &self.column, query, k, width, &eligible, &mut scratch)?;
                results.counts[at] = found.len() as u32;
                let places = results.rows[at * k..].iter_mut().zip(&mut results.distances[at * k..]);
                for ((row, distance), found) in places.zip(found) {
                    (*row, *distance) = (found.row, found.distance);
                }
            }
            Ok(())
        })();
        lock(&self.scratches).push(scratch);
        answer
    }

    fn save(&self, out: &mut dyn Write) -> Result<(), PluginError> {
        let _maintenance = self.maintain()?;
        if self.read()?.tombstones() > 0 {
            self.with_scratch(|scratch| self.repair(scratch))?;
        }
        let graph = self.read()?;
        format::save(self.family, &graph, out)
    }

    fn load(&self, input: &mut dyn Read) -> Result<(), PluginError> {
        let _maintenance = self.maintain()?;
        let shape = self.read()?.shape();
        let loaded = format::load(self.family, shape, &self.column, input)?;
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

/// Locks working memory, which is overwritten before it is read, so that a panic beside the lock harms nothing.
fn lock<T>(scratches: &Mutex<T>) -> MutexGuard<'_, T> {
    scratches.lock().unwrap_or_else(PoisonError::into_inner)
}

fn damaged() -> PluginError {
    let message =
        "the index was left half changed by an earlier panic; reload the plugin, and it is read back from disk";
    PluginError::runtime(Cause::Plugin, message)
}
