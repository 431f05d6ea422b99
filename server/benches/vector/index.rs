//! An index in this process, and indexes in confined ones that see the same files.

use std::sync::Arc;

use anyhow::Context;
use photondb_plugin_hnsw::Hnsw;
use photondb_plugin_sdk::calls::{self, Search};
use photondb_plugin_sdk::column::{ColumnShape, ColumnWriter, Element, VectorColumn};
use photondb_plugin_sdk::kinds::vector::{
    IndexOptions, Metric, RowId, SearchRequest, SearchResults, VectorIndex, VectorIndexPlugin,
};
use photondb_plugin_sdk::{Cancel, Datum, PluginError};
use photondb_server::bench::{Vectors, soon};
use photondb_server::plugins::instance::Instance;
use photondb_server::query::nested::Origin;
use photondb_server::vector::insert::Graph;
use tempfile::TempDir;

/// More than an index of these vectors takes.
const LARGEST: usize = 1 << 30;

/// Rows wanted for each query.
pub const K: usize = 10;

/// Vectors in column files, as the server keeps them, and what indexes over them are.
pub struct Settled {
    column: ColumnWriter,
    shape: ColumnShape,
    options: IndexOptions,
    _folder: TempDir,
}

impl Settled {
    pub fn write(vectors: &Vectors) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let dims = vectors.dims as u32;
        let shape = ColumnShape::new(dims, Element::F16).context("no column has such vectors")?;
        let mut column = ColumnWriter::open(folder.path(), shape)?;
        for (row, vector) in vectors.base.chunks_exact(vectors.dims).enumerate() {
            column.write(row as u32, vector)?;
        }
        let options = IndexOptions { dims, metric: Metric::Cosine, settings: Datum::Null };
        Ok(Self { column, shape, options, _folder: folder })
    }
}

/// An `hnsw` index in this process.
pub struct Linked {
    index: Box<dyn VectorIndex>,
    dims: usize,
}

impl Linked {
    pub fn open(settled: &Settled) -> anyhow::Result<Self> {
        let column = VectorColumn::new(settled.shape);
        for segment in 0..settled.column.segments() {
            column.attach(segment, &settled.column.segment(segment)?)?;
        }
        let index = Hnsw::default().create(&settled.options, Arc::new(column))?;
        Ok(Self { index, dims: settled.options.dims as usize })
    }

    pub fn insert(&self, rows: &[RowId]) -> Result<(), PluginError> {
        self.index.insert(rows)
    }

    pub fn search(&self, queries: &[f32]) -> Result<Vec<Vec<RowId>>, PluginError> {
        let count = queries.len() / self.dims;
        let (mut rows, mut distances, mut counts) = (vec![0; count * K], vec![0.0; count * K], vec![0; count]);
        let request = SearchRequest { queries, k: K, allow: None, settings: &Datum::Null, cancel: Cancel::never() };
        let mut results = SearchResults { rows: &mut rows, distances: &mut distances, counts: &mut counts };
        self.index.search(&request, &mut results)?;
        Ok(rows.chunks_exact(K).zip(&counts).map(|(rows, &found)| rows[..found as usize].to_vec()).collect())
    }
}

/// An index in a confined process, which may have others.
pub struct Process {
    instance: Arc<Instance>,
    number: u32,
    dims: usize,
    takes_parallel_inserts: bool,
}

impl Process {
    /// Opens an empty index of a type, under a number that the process has no other of.
    pub fn open(instance: Arc<Instance>, kind: &str, number: u32, settled: &Settled) -> anyhow::Result<Self> {
        let takes_parallel_inserts = instance.open_index(number, kind, &settled.options, settled.shape, soon())?;
        for segment in 0..settled.column.segments() {
            instance.attach_segment(number, segment, settled.column.segment(segment)?, soon())?;
        }
        Ok(Self { instance, number, dims: settled.options.dims as usize, takes_parallel_inserts })
    }

    /// Adds rows as the server does, by one thread of the process or, where the index takes that, by all.
    pub fn insert(&self, rows: &[RowId], in_parallel: bool) -> Result<(), PluginError> {
        let in_parallel = in_parallel && self.takes_parallel_inserts;
        Graph { instance: &self.instance, index: self.number, in_parallel }.insert(rows, |_| {})
    }

    /// Saves it, as the server does when nothing has changed for a while: then an index does what is due still.
    pub fn save(&self) -> Result<(), PluginError> {
        calls::save(self.instance.maintenance_lane(), self.number, LARGEST, soon()).map(drop)
    }

    pub fn close(self) -> Result<(), PluginError> {
        self.instance.close_index(self.number, soon())
    }

    pub fn search(&self, queries: &[f32]) -> Result<Vec<Vec<RowId>>, PluginError> {
        self.search_with(queries, &Datum::Null)
    }

    /// As `search`, with search settings.
    pub fn search_with(&self, queries: &[f32], settings: &Datum) -> Result<Vec<Vec<RowId>>, PluginError> {
        let search = Search { queries, dims: self.dims, k: K, allow: None, settings };
        let origin = Origin::until(soon());
        let lane = self.instance.lane(&origin)?;
        let mut found = Vec::with_capacity(queries.len() / self.dims);
        for queries in queries.chunks(search.queries_per_call(lane).max(1) * self.dims) {
            found.extend(Search { queries, ..search }.run(lane.begin(soon())?, self.number, soon())?);
        }
        Ok(found)
    }

    /// Bytes that the index takes beside the vectors.
    pub fn memory_bytes(&self) -> Result<u64, PluginError> {
        Ok(self.instance.index_statistics(self.number, soon())?.memory_bytes)
    }
}
