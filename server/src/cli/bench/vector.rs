//! `photondb bench vector`

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use clap::Args;
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::calls::Search;
use photondb_plugin_sdk::column::{ColumnShape, ColumnWriter, Element};
use photondb_plugin_sdk::kinds::vector::{IndexOptions, Metric, RowId};
use tempfile::TempDir;

use super::super::progress::Progress;
use super::Common;
use crate::bench::{Bound, Case, Comparison, Goal, Latencies, Measure, Vectors, less, more, seconds, soon};
use crate::plugins::instance::Instance;
use crate::query::nested::Origin;
use crate::vector::insert::Graph;

/// Measures vector search
///
/// An index of 20,000 made-up vectors, or of yours, in its confined process, beside an exact scan of all of them in this
/// process: how long it takes to build, how many queries it answers in a second, and how many of the true ten nearest it
/// finds.
#[derive(Debug, Args)]
pub struct Vector {
    #[command(flatten)]
    common: Common,
    /// A folder with `embeddings.f16.npy`, `queries.f32.npy` and `groundtruth.i32.npy`: the nearest rows by cosine distance,
    /// nearest first
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["rows", "dims"])]
    data: Option<PathBuf>,
    /// How many vectors to make up
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..))]
    rows: u32,
    /// How long they are
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4096))]
    dims: u32,
    /// The type of the index, as in `vector={"type": ...}`
    #[arg(long = "type", value_name = "NAME", default_value = "hnsw")]
    kind: String,
}

const K: usize = 10;
const BATCH: usize = 100;
/// The number of the index in the confined process, which has no other.
const INDEX: u32 = 0;
/// Queries of the exact scan in a round: each reads every vector.
const SCANNED: usize = 50;
const SINGLE: [Measure; 4] =
    [more("queries", "per second"), less("p50", "µs"), less("p99", "µs"), more("recall@10", "")];
const SCAN: &str = "an exact scan in this process, one by one";
const ONE_BY_ONE: &str = "the index, confined, one by one";
const BATCHED: &str = "the index, confined, 100 at once";

impl Vector {
    /// Measures and prints.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let confined = self.common.confined()?;
        let provides = |instance: &Arc<Instance>| instance.provides().vector_indexes.contains(&self.kind);
        let instance = confined.instances().into_iter().find(provides);
        let instance = instance.with_context(|| format!("no plugin has indexes of type `{}`", self.kind))?;
        let mut report = self.common.report("Vector search");
        let vectors = match &self.data {
            Some(folder) => Vectors::from_folder(folder)?,
            None => Vectors::made_up(self.rows, self.dims, K),
        };
        let index = Index::build(instance, &self.kind, &vectors)?;
        let cases = vec![
            Case::new(SCAN, || one_by_one(&vectors, SCANNED, |query| Ok(vec![vectors.scan(query, K)]))),
            Case::new(ONE_BY_ONE, || one_by_one(&vectors, usize::MAX, |query| index.search(query))),
            Case::new(BATCHED, || in_batches(&vectors, |queries| index.search(queries))),
        ];
        let (rows, taken) = (vectors.rows(), index.taken);
        let title =
            format!("The nearest {K}: {}; built in {taken:.2} s, {:.0} rows/s", vectors.name, f64::from(rows) / taken);
        let comparison = Comparison::measure(title, &SINGLE, self.common.rounds, cases)?;
        report.add(&comparison.with_goal(Goal::new((ONE_BY_ONE, "queries"), Bound::AtLeast(1.0), (SCAN, "queries"))));
        self.common.end(report)
    }
}

type Found = anyhow::Result<Vec<Vec<RowId>>>;

fn figures(vectors: &Vectors, taken: &Latencies, per_call: f64, found: &[Vec<RowId>]) -> Vec<f64> {
    let recall = vectors.recall(found, K);
    vec![taken.per_second() * per_call, taken.quantile(0.5) * 1e6, taken.quantile(0.99) * 1e6, recall]
}

fn one_by_one(vectors: &Vectors, most: usize, search: impl Fn(&[f32]) -> Found) -> anyhow::Result<Vec<f64>> {
    let queries: Vec<&[f32]> = vectors.queries.chunks_exact(vectors.dims).take(most).collect();
    let mut found = Vec::with_capacity(queries.len());
    let taken = Latencies::of(queries.len(), |query| {
        found.extend(search(queries[query])?);
        Ok(())
    })?;
    Ok(figures(vectors, &taken, 1.0, &found))
}

/// The times are those of a batch.
fn in_batches(vectors: &Vectors, search: impl Fn(&[f32]) -> Found) -> anyhow::Result<Vec<f64>> {
    let batches: Vec<&[f32]> = vectors.queries.chunks(BATCH * vectors.dims).collect();
    let mut found = Vec::new();
    let taken = Latencies::of(batches.len(), |batch| {
        found.extend(search(batches[batch])?);
        Ok(())
    })?;
    Ok(figures(vectors, &taken, found.len() as f64 / batches.len() as f64, &found))
}

/// An index in its confined process, over column files that are deleted with it.
struct Index {
    instance: Arc<Instance>,
    dims: usize,
    /// Seconds to insert all rows.
    taken: f64,
    _folder: TempDir,
}

impl Index {
    fn build(instance: Arc<Instance>, kind: &str, vectors: &Vectors) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder for the vectors")?;
        let dims = u32::try_from(vectors.dims)?;
        let shape = ColumnShape::new(dims, Element::F16).context("no column has such vectors")?;
        let mut column = ColumnWriter::open(folder.path(), shape)?;
        for (row, vector) in (0..).zip(vectors.base.chunks_exact(vectors.dims)) {
            column.write(row, vector)?;
        }
        let options = IndexOptions { dims, metric: Metric::Cosine, settings: Datum::Null };
        let in_parallel = instance.open_index(INDEX, kind, &options, shape, soon())?;
        for segment in 0..column.segments() {
            instance.attach_segment(INDEX, segment, column.segment(segment)?, soon())?;
        }
        let rows: Vec<RowId> = (0..vectors.rows()).collect();
        let progress = Mutex::new((0, Progress::new("building", rows.len() as u64)));
        let (taken, ()) = seconds(|| {
            let graph = Graph { instance: &instance, index: INDEX, in_parallel };
            graph.insert(&rows, |rows| {
                let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
                progress.0 += rows.len() as u64;
                let done = progress.0;
                progress.1.at(done, "rows");
            })?;
            Ok(())
        })?;
        let (_, progress) = progress.into_inner().unwrap_or_else(PoisonError::into_inner);
        progress.finish("rows");
        Ok(Self { instance, dims: vectors.dims, taken, _folder: folder })
    }

    fn search(&self, queries: &[f32]) -> Found {
        let search = Search { queries, dims: self.dims, k: K, allow: None, settings: &Datum::Null };
        let draft = self.instance.lane(&Origin::until(soon()))?.begin(soon())?;
        Ok(search.run(draft, INDEX, soon())?)
    }
}
