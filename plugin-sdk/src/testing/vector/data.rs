//! Data for tests of vector indexes: drawn around clusters, or read from NumPy's files.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;

use crate::column::{Element, VectorColumn};
use crate::distance::Query;
use crate::kinds::vector::{Metric, RowId};

/// Numbers that look random and are the same in every run.
#[derive(Clone, Copy, Debug)]
pub struct Numbers(pub u64);

impl Numbers {
    /// The next one, of 31 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// About normally distributed, with variance 1.
    pub fn normal(&mut self) -> f32 {
        let sum: u64 = (0..12).map(|_| self.draw() % 65_536).sum();
        sum as f32 / 65_536.0 - 6.0
    }
}

/// Rows around 32 centres, and queries from the same clusters.
#[must_use]
pub fn clustered(dims: usize, rows: usize, queries: usize, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let mut numbers = Numbers(seed);
    let centres: Vec<f32> = (0..32 * dims).map(|_| numbers.normal()).collect();
    let mut draw = |count: usize| {
        let mut vectors = Vec::with_capacity(count * dims);
        for _ in 0..count {
            let centre = numbers.draw() as usize % 32 * dims;
            vectors.extend(centres[centre..][..dims].iter().map(|value| value + 0.5 * numbers.normal()));
        }
        vectors
    };
    (draw(rows), draw(queries))
}

/// A set of embeddings with queries and, for each query, the nearest rows by cosine.
pub struct DataSet {
    /// The embeddings.
    pub column: Arc<VectorColumn>,
    /// How many there are.
    pub rows: u32,
    /// The length of a vector.
    pub dims: usize,
    /// `[n, dims]`.
    pub queries: Vec<f32>,
    /// `[n, width]`, nearest first.
    pub nearest: Vec<RowId>,
    /// Nearest rows of a query.
    pub width: usize,
}

impl DataSet {
    /// Reads `*embeddings.f16.npy`, `queries.f32.npy` and `groundtruth.i32.npy` of a folder; without the last, the `width`
    /// nearest rows of the first 200 queries are found by comparing with every row.
    ///
    /// # Errors
    /// When a file is missing or no two-dimensional array.
    pub fn read(folder: &Path, width: usize) -> Result<Self, Box<dyn Error>> {
        let embeddings =
            embeddings(folder).ok_or_else(|| format!("there is no *embeddings.f16.npy in {}", folder.display()))?;
        let (rows, dims) = npy(&embeddings, |[a, b]| f16::from_le_bytes([a, b]).to_f32())?;
        let (mut queries, query_dims) = npy(&folder.join("queries.f32.npy"), f32::from_le_bytes)?;
        if dims != query_dims {
            return Err(format!("embeddings have {dims} numbers, and queries {query_dims}").into());
        }
        let count = u32::try_from(rows.len() / dims)?;
        let column = Arc::new(VectorColumn::in_memory(u32::try_from(dims)?, Element::F16, &rows)?);
        let truth = folder.join("groundtruth.i32.npy");
        let (nearest, width) = if truth.exists() {
            npy(&truth, u32::from_le_bytes)?
        } else {
            queries.truncate(200 * dims);
            let nearest =
                queries.chunks_exact(dims).map(|query| exact(&column, Metric::Cosine, query, width, 0..count));
            (nearest.flatten().collect(), width)
        };
        Ok(Self { column, rows: count, dims, queries, nearest, width })
    }

    /// The share of the `k` nearest rows that was found.
    #[must_use]
    pub fn recall(&self, k: usize, found: &[super::Answer]) -> f64 {
        let hits = found.iter().zip(self.nearest.chunks_exact(self.width)).map(|(found, nearest)| {
            found.iter().filter(|(row, _)| nearest[..k.min(nearest.len())].contains(row)).count()
        });
        hits.sum::<usize>() as f64 / (found.len() * k).max(1) as f64
    }
}

/// The `k` nearest of `rows` to a query, by comparing with each.
#[must_use]
pub fn exact(
    column: &VectorColumn,
    metric: Metric,
    query: &[f32],
    k: usize,
    rows: impl Iterator<Item = RowId>,
) -> Vec<RowId> {
    let query = Query::new(metric, query);
    let mut rows: Vec<(f32, RowId)> =
        rows.filter_map(|row| column.row(row).map(|vector| (query.distance_to(vector), row))).collect();
    rows.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    rows.into_iter().take(k).map(|(_, row)| row).collect()
}

/// The file of embeddings in a folder, whatever the set is called.
fn embeddings(folder: &Path) -> Option<PathBuf> {
    let mut paths = std::fs::read_dir(folder).ok()?.filter_map(|file| file.ok().map(|file| file.path()));
    paths.find(|path| path.to_string_lossy().ends_with("embeddings.f16.npy"))
}

/// The numbers of a two-dimensional array in version 1 of NumPy's format, and the length of a row.
fn npy<T, const N: usize>(path: &Path, number: impl Fn([u8; N]) -> T) -> Result<(Vec<T>, usize), Box<dyn Error>> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let length = bytes.get(8..10).map_or(0, |length| usize::from(u16::from_le_bytes([length[0], length[1]])));
    let header = bytes.get(10..10 + length).ok_or("not a .npy file")?;
    let header = std::str::from_utf8(header)?;
    let shape = header.split_once("'shape': (").and_then(|(_, shape)| shape.split_once(')')).ok_or("no shape")?.0;
    let width: usize = shape.split(',').nth(1).ok_or("not two-dimensional")?.trim().parse()?;
    Ok((bytes[10 + length..].as_chunks::<N>().0.iter().map(|&bytes| number(bytes)).collect(), width))
}
