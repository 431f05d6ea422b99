//! Build time, recall and speed on a data set: `cargo run --release --example recall -- FOLDER [EF_SEARCH ...]`.
//!
//! Then, if no widths are given, the speed of filtered searches, for filters that let a share of the rows through.
//!
//! The folder holds `*embeddings.f16.npy`, `queries.f32.npy` and `groundtruth.i32.npy` (nearest rows by cosine).

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use half::f16;
use photondb_plugin_hnsw::Hnsw;
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::column::{Element, VectorColumn};
use photondb_plugin_sdk::kinds::vector::{
    AllowBitmap, IndexOptions, Metric, SearchRequest, SearchResults, VectorIndex, VectorIndexPlugin,
};

#[path = "../tests/npy/mod.rs"]
mod npy;

const K: usize = 10;
/// The best of so many passes counts.
const PASSES: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: recall FOLDER [EF_SEARCH ...]")?;
    let widths: Vec<i32> = arguments.map(|width| width.parse()).collect::<Result<_, _>>()?;
    let folder = Path::new(&folder);
    let embeddings = npy::embeddings(folder).ok_or("there is no *embeddings.f16.npy in the folder")?;

    let (rows, dims) = npy::read(&embeddings, |[a, b]| f16::from_le_bytes([a, b]).to_f32())?;
    let (queries, _) = npy::read(&folder.join("queries.f32.npy"), f32::from_le_bytes)?;
    let (truth, truth_width) = npy::read(&folder.join("groundtruth.i32.npy"), i32::from_le_bytes)?;
    let count = rows.len() / dims;
    let column = Arc::new(VectorColumn::in_memory(dims as u32, Element::F16, &rows)?);
    drop(rows);

    let options = IndexOptions { dims: dims as u32, metric: Metric::Cosine, settings: Datum::Null };
    let index = Hnsw::default().create(&options, Arc::clone(&column))?;
    let start = Instant::now();
    index.insert(&(0..count as u32).collect::<Vec<_>>())?;
    println!("{count} rows of {dims} dims: built in {:.2} s by one thread", start.elapsed().as_secs_f64());
    let twice = Hnsw::default().create(&options, column)?;
    let start = Instant::now();
    let insert = |first: u32| {
        let rows: Vec<u32> = (0..count as u32).filter(|row| row / 64 % 2 == first).collect();
        twice.insert(&rows).is_ok()
    };
    let is_built = std::thread::scope(|scope| {
        let other = scope.spawn(|| insert(1));
        insert(0) && other.join().unwrap_or(false)
    });
    println!("the same by two threads: {:.2} s, {is_built}", start.elapsed().as_secs_f64());
    drop(twice);
    println!("private memory: {:.1} MiB", index.statistics().memory_bytes as f64 / f64::from(1 << 20));

    println!("{:>9} {:>10} {:>10} {:>13}", "ef_search", "recall@10", "QPS", "2 threads QPS");
    let all = [10, 16, 24, 32, 40, 48, 56, 64, 80, 96, 128, 192, 256, 320, 400];
    for &ef in if widths.is_empty() { &all } else { &widths[..] } {
        let settings = Datum::object([("ef_search", ef)]);
        let found = search(&*index, &queries, dims, None, &settings)?;
        let hits: usize = found
            .chunks(K)
            .zip(truth.chunks(truth_width))
            .map(|(found, truth)| found.iter().filter(|&&row| truth[..K].contains(&(row as i32))).count())
            .sum();
        let one = best_rate(&queries, dims, |half| search(&*index, half, dims, None, &settings).map(drop))?;
        let two = best_rate(&queries, dims, |queries| {
            let (a, b) = queries.split_at(queries.len() / dims / 2 * dims);
            std::thread::scope(|scope| {
                let other = scope.spawn(|| search(&*index, a, dims, None, &settings).map(drop).is_ok());
                search(&*index, b, dims, None, &settings)?;
                if other.join().unwrap_or(false) { Ok(()) } else { Err("the other thread failed".into()) }
            })
        })?;
        println!("{ef:>9} {:>10.4} {one:>10.0} {two:>13.0}", hits as f64 / found.len() as f64);
    }

    if !widths.is_empty() {
        return Ok(());
    }
    println!("{:>9} {:>10}", "allowed", "QPS");
    for step in [2, 4, 10, 30, 100, 1000] {
        let mut allow = vec![0_u8; count.div_ceil(8)];
        // Shuffled by a multiplication, so that the filter has nothing to do with the order of the rows.
        (0..count).filter(|row| row * 7919 % count % step == 0).for_each(|row| allow[row / 8] |= 1 << (row % 8));
        let rate =
            best_rate(&queries, dims, |queries| search(&*index, queries, dims, Some(&allow), &Datum::Null).map(drop))?;
        println!("{:>8.1}% {rate:>10.0}", 100.0 / step as f64);
    }
    Ok(())
}

/// Queries a second in the best of some passes.
fn best_rate(
    queries: &[f32],
    dims: usize,
    mut pass: impl FnMut(&[f32]) -> Result<(), Box<dyn Error>>,
) -> Result<f64, Box<dyn Error>> {
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let start = Instant::now();
        pass(queries)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok((queries.len() / dims) as f64 / best)
}

fn search(
    index: &dyn VectorIndex,
    queries: &[f32],
    dims: usize,
    allow: Option<&[u8]>,
    settings: &Datum,
) -> Result<Vec<u32>, Box<dyn Error>> {
    let count = queries.len() / dims;
    let (mut rows, mut distances, mut counts) = (vec![0; count * K], vec![0.0; count * K], vec![0; count]);
    let mut results = SearchResults { rows: &mut rows, distances: &mut distances, counts: &mut counts };
    let allow = allow.map(AllowBitmap);
    index.search(
        &SearchRequest { queries, k: K, allow, settings, cancel: photondb_plugin_sdk::Cancel::never() },
        &mut results,
    )?;
    Ok(rows)
}
