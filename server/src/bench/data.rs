//! Vectors, queries and their true neighbours.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use half::f16;

/// A set of vectors with queries.
pub struct Vectors {
    /// What it is, for titles.
    pub name: String,
    /// The length of the vectors.
    pub dims: usize,
    /// `[rows, dims]`.
    pub base: Vec<f32>,
    /// `[queries, dims]`.
    pub queries: Vec<f32>,
    truth: Vec<Vec<u32>>,
}

impl Vectors {
    /// The set in `PHOTONDB_BENCH_DATA`, else in `shared/data` beside the repository, else the one of the tests.
    ///
    /// # Errors
    /// When files are missing or don't belong together.
    pub fn load() -> anyhow::Result<Self> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let beside = repository.join("../shared/data");
        let directory = match std::env::var_os("PHOTONDB_BENCH_DATA") {
            Some(directory) => PathBuf::from(directory),
            None if beside.exists() => beside,
            None => repository.join("tests/data"),
        };
        let names = ["debian-embeddings.f16.npy", "embeddings.f16.npy"].map(|name| directory.join(name));
        let base = names.iter().find(|path| path.exists());
        let base = base.with_context(|| format!("no embeddings.f16.npy in {}", directory.display()))?;
        let (base, dims) = read(base, "<f2", |bytes| f16::from_le_bytes(bytes).to_f32())?;
        let (queries, query_dims) = read(&directory.join("queries.f32.npy"), "<f4", f32::from_le_bytes)?;
        let (truth, depth) = read(&directory.join("groundtruth.i32.npy"), "<i4", u32::from_le_bytes)?;
        let truth: Vec<Vec<u32>> = truth.chunks_exact(depth).map(<[u32]>::to_vec).collect();
        let fits = dims == query_dims && queries.len() == truth.len() * dims;
        ensure!(fits, "{}: vectors, queries and neighbours don't belong together", directory.display());
        let name = format!("{} vectors of {dims} numbers, {} queries", base.len() / dims, truth.len());
        Ok(Self { name, dims, base, queries, truth })
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> u32 {
        (self.base.len() / self.dims) as u32
    }

    /// Which share of the true `k` nearest rows was found.
    #[must_use]
    pub fn recall(&self, found: &[Vec<u32>], k: usize) -> f64 {
        let hits = |(found, truth): (&Vec<u32>, &Vec<u32>)| truth[..k].iter().filter(|row| found.contains(row)).count();
        found.iter().zip(&self.truth).map(hits).sum::<usize>() as f64 / (self.truth.len() * k) as f64
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
