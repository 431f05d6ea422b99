//! Vectors, queries and their true neighbours.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use half::f16;
use photondb_plugin_sdk::distance::{Metric, Query};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A set of vectors with queries.
pub struct Vectors {
    /// What it is, for titles.
    pub name: String,
    /// Where it is; empty where it is made up.
    pub folder: PathBuf,
    /// The length of the vectors.
    pub dims: usize,
    /// `[rows, dims]`.
    pub base: Vec<f32>,
    /// `[queries, dims]`.
    pub queries: Vec<f32>,
    truth: Vec<Vec<u32>>,
}

impl Vectors {
    /// The set in `PHOTONDB_BENCH_DATA`, else the one of the tests.
    ///
    /// # Errors
    /// When files are missing or don't belong together.
    pub fn load() -> anyhow::Result<Self> {
        let tests = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data");
        Self::from_folder(&std::env::var_os("PHOTONDB_BENCH_DATA").map_or_else(tests, PathBuf::from))
    }

    /// The set of a folder: `embeddings.f16.npy`, `queries.f32.npy`, and `groundtruth.i32.npy`, which has the nearest rows by
    /// cosine distance.
    ///
    /// # Errors
    /// When files are missing or don't belong together.
    pub fn from_folder(folder: &Path) -> anyhow::Result<Self> {
        let names = ["debian-embeddings.f16.npy", "embeddings.f16.npy"].map(|name| folder.join(name));
        let base = names.iter().find(|path| path.exists());
        let base = base.with_context(|| format!("no embeddings.f16.npy in {}", folder.display()))?;
        let (base, dims) = read(base, "<f2", |bytes| f16::from_le_bytes(bytes).to_f32())?;
        let (queries, query_dims) = read(&folder.join("queries.f32.npy"), "<f4", f32::from_le_bytes)?;
        let (truth, depth) = read(&folder.join("groundtruth.i32.npy"), "<i4", u32::from_le_bytes)?;
        let truth: Vec<Vec<u32>> = truth.chunks_exact(depth).map(<[u32]>::to_vec).collect();
        let fits = dims == query_dims && queries.len() == truth.len() * dims;
        ensure!(fits, "{}: vectors, queries and neighbours don't belong together", folder.display());
        let name = format!("{} vectors of {dims} numbers, {} queries", base.len() / dims, truth.len());
        Ok(Self { name, folder: folder.into(), dims, base, queries, truth })
    }

    /// The same set every time: clusters, as embeddings have them, and queries near rows, whose `k` nearest are found
    /// exactly.
    #[must_use]
    pub fn made_up(rows: u32, dims: u32, k: usize) -> Self {
        const QUERIES: u32 = 500;
        const ROWS_PER_CLUSTER: u32 = 100;
        let mut random = StdRng::seed_from_u64(1);
        let mut around = |centre: &[f32], spread: f32| -> Vec<f32> {
            centre.iter().map(|number| number + spread * random.random_range(-1.0f32..1.0)).collect()
        };
        let origin = vec![0.0; dims as usize];
        let centres: Vec<Vec<f32>> = (0..=rows / ROWS_PER_CLUSTER).map(|_| around(&origin, 1.0)).collect();
        let mut near = |at: u32| around(&centres[at as usize % centres.len()], 0.6);
        // As the column stores them, or else the exact answer would be one to another question.
        let stored = |number: f32| f16::from_f32(number).to_f32();
        let base: Vec<f32> = (0..rows).flat_map(&mut near).map(stored).collect();
        let queries: Vec<f32> = (0..QUERIES).flat_map(|query| near(query * 7)).collect();
        let name = format!("{rows} made-up vectors of {dims} numbers, {QUERIES} queries");
        let mut vectors = Self { name, folder: PathBuf::new(), dims: dims as usize, base, queries, truth: Vec::new() };
        vectors.truth = vectors.queries.chunks_exact(vectors.dims).map(|query| vectors.scan(query, k)).collect();
        vectors
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> u32 {
        (self.base.len() / self.dims) as u32
    }

    /// The `k` rows nearest by cosine distance, found by looking at every row.
    #[must_use]
    pub fn scan(&self, query: &[f32], k: usize) -> Vec<u32> {
        const BLOCK: usize = 64;
        let query = Query::new(Metric::Cosine, query);
        let mut distances = vec![0.0; self.rows() as usize];
        for (rows, distances) in self.base.chunks(BLOCK * self.dims).zip(distances.chunks_mut(BLOCK)) {
            let rows: Vec<&[f32]> = rows.chunks_exact(self.dims).collect();
            query.distances(&rows, distances);
        }
        let mut nearest: Vec<u32> = (0..self.rows()).collect();
        let by_distance = |a: &u32, b: &u32| distances[*a as usize].total_cmp(&distances[*b as usize]);
        if k < nearest.len() {
            nearest.select_nth_unstable_by(k, by_distance);
            nearest.truncate(k);
        }
        nearest.sort_unstable_by(by_distance);
        nearest
    }

    /// Which share of the true `k` nearest rows was found, of as many queries as `found` has answers to.
    #[must_use]
    pub fn recall(&self, found: &[Vec<u32>], k: usize) -> f64 {
        let hits = |(found, truth): (&Vec<u32>, &Vec<u32>)| truth[..k].iter().filter(|row| found.contains(row)).count();
        found.iter().zip(&self.truth).map(hits).sum::<usize>() as f64 / (found.len().min(self.truth.len()) * k) as f64
    }
}

/// The numbers of a two-dimensional `.npy` file of the given type, and how many a row has.
fn read<T, const N: usize>(path: &Path, kind: &str, number: fn([u8; N]) -> T) -> anyhow::Result<(Vec<T>, usize)> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let parse = || {
        let start = 10 + usize::from(u16::from_le_bytes(*bytes.get(8..)?.first_chunk()?));
        let header = std::str::from_utf8(bytes.get(10..start)?).ok()?;
        let (_, shape) = header.split_once("'shape': (")?;
        let (rows, columns) = shape.split_once(')')?.0.split_once(',')?;
        let (rows, columns): (usize, usize) = (rows.trim().parse().ok()?, columns.trim().parse().ok()?);
        let (numbers, rest) = bytes[start..].as_chunks();
        let is_whole = header.contains(kind) && rest.is_empty() && numbers.len() == rows * columns && columns > 0;
        is_whole.then(|| (numbers.iter().map(|bytes| number(*bytes)).collect(), columns))
    };
    parse().with_context(|| format!("{} is no two-dimensional .npy file of {kind}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_finds_the_truth() {
        let vectors = Vectors::made_up(1000, 16, 10);
        let query = |at: usize| &vectors.queries[at * 16..][..16];
        let found: Vec<Vec<u32>> = (0..20).map(|at| vectors.scan(query(at), 10)).collect();
        assert_eq!(vectors.recall(&found, 10), 1.0);
        let wrong: Vec<Vec<u32>> = found.iter().map(|rows| rows[..5].to_vec()).collect();
        assert_eq!(vectors.recall(&wrong, 10), 0.5);
        assert_eq!(vectors.scan(query(0), 2000).len(), 1000);
    }

    #[test]
    fn a_folder_without_vectors_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = Vectors::from_folder(folder.path()).err().unwrap().to_string();
        assert!(error.contains("no embeddings.f16.npy in"), "{error}");
    }
}
