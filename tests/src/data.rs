//! The packages of `tests/data`, and which of them are nearest.

use std::fs::{self, File};
use std::path::PathBuf;

use half::f16;
use serde_json::Value;

use crate::place::{Place, repository};
use crate::processes;
use crate::server::Server;

/// Numbers of a vector.
pub const DIMS: usize = 384;
/// Packages.
pub const PACKAGES: usize = 5000;
/// Queries.
pub const QUERIES: usize = 100;
/// Neighbours of a query that are known.
const TRUTH: usize = 100;
/// Where the rows of the `.npy` files begin.
const NPY_HEADER: usize = 128;

/// A file of `tests/data`.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    repository().join("tests/data").join(name)
}

fn numbers<const SIZE: usize, T>(name: &str, convert: impl Fn([u8; SIZE]) -> T) -> Vec<T> {
    let bytes = fs::read(path(name)).unwrap_or_else(|error| panic!("tests/data/{name}: {error}"));
    bytes[NPY_HEADER..].as_chunks::<SIZE>().0.iter().map(|bytes| convert(*bytes)).collect()
}

/// The vectors of the packages, in the order of their ids.
#[must_use]
pub fn vectors() -> Vec<Vec<f32>> {
    let all = numbers("embeddings.f16.npy", |bytes| f16::from_le_bytes(bytes).to_f32());
    all.chunks(DIMS).map(<[f32]>::to_vec).collect()
}

/// The vectors of the queries.
#[must_use]
pub fn queries() -> Vec<Vec<f32>> {
    numbers("queries.f32.npy", f32::from_le_bytes).chunks(DIMS).map(<[f32]>::to_vec).collect()
}

/// For each query the ids of the nearest packages by cosine, nearest first.
#[must_use]
pub fn truth() -> Vec<Vec<i64>> {
    let all = numbers("groundtruth.i32.npy", |bytes| i64::from(i32::from_le_bytes(bytes)));
    all.chunks(TRUTH).map(<[i64]>::to_vec).collect()
}

/// The packages, in the order of their ids.
///
/// # Panics
/// When the file is not what it should be.
#[must_use]
pub fn packages() -> Vec<Value> {
    let file = File::open(path("packages.jsonl.zst")).expect("tests/data/packages.jsonl.zst");
    let text = zstd::decode_all(file).expect("zstd");
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).expect("a line of JSON")).collect()
}

/// Imports the packages with their vectors into the table `packages`, with the command that is there for it.
///
/// # Panics
/// When that fails.
pub fn import(place: &Place, server: &Server<'_>) {
    let mut command = place.photondb(&["import", "--table", "test.packages", "--field", "emb"]);
    command.args(["--port", &server.port().to_string()]);
    command.arg("--file").arg(path("packages.jsonl.zst")).arg("--vectors").arg(path("embeddings.f16.npy"));
    let ended = processes::run(&mut command, "");
    assert!(ended.status.success(), "the import failed: {}", ended.stderr);
}

/// How far two vectors are apart: smaller is nearer. Plainly computed, so that there is something to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// One minus the cosine of the angle.
    Cosine,
    /// Euclidean.
    L2,
    /// The negative dot product.
    Dot,
}

impl Metric {
    /// The name in queries.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::L2 => "l2",
            Self::Dot => "dot",
        }
    }

    fn distance(self, a: &[f32], b: &[f32]) -> f64 {
        let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
        match self {
            Self::Cosine => 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
            Self::L2 => dot(a, a) - 2.0 * dot(a, b) + dot(b, b),
            Self::Dot => -dot(a, b),
        }
    }

    /// The `count` nearest of the rows that `is_wanted`, nearest first.
    #[must_use]
    pub fn nearest(
        self,
        rows: &[Vec<f32>],
        query: &[f32],
        count: usize,
        is_wanted: impl Fn(usize) -> bool,
    ) -> Vec<i64> {
        let mut scored: Vec<(f64, usize)> = rows
            .iter()
            .enumerate()
            .filter(|(row, _)| is_wanted(*row))
            .map(|(row, vector)| (self.distance(vector, query), row))
            .collect();
        scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        scored.into_iter().take(count).filter_map(|(_, row)| i64::try_from(row).ok()).collect()
    }
}

/// Which part of `truth` is in `found`, over all queries.
#[must_use]
pub fn recall(found: &[Vec<i64>], truth: &[Vec<i64>]) -> f64 {
    let hits = |(found, truth): (&Vec<i64>, &Vec<i64>)| truth.iter().filter(|id| found.contains(id)).count();
    let wanted: usize = truth.iter().map(Vec::len).sum();
    found.iter().zip(truth).map(hits).sum::<usize>() as f64 / wanted as f64
}
