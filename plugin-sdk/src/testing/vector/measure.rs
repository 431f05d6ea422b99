//! Build time, recall and speed of an index on a data set, as a table on standard output.
//!
//! A plugin's example that calls [`run`] with its own settings is a dozen lines.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::data::DataSet;
use super::{Answer, search};
use crate::Datum;
use crate::kinds::vector::{IndexOptions, Metric, VectorIndex, VectorIndexPlugin};

const K: usize = 10;
/// The best of so many passes counts.
const PASSES: usize = 5;
/// The server sends no more rows at once.
const ROWS_OF_CALL: usize = 128;

/// Builds an index of the embeddings in `folder` (see [`DataSet::read`]) with the given settings, and searches it with each
/// of `searches`; then, if there is only one, through filters.
///
/// # Errors
/// When the data can't be read, or the index refuses something.
pub fn run(
    plugin: &dyn VectorIndexPlugin,
    folder: &Path,
    settings: Datum,
    searches: &[Datum],
) -> Result<(), Box<dyn Error>> {
    let data = DataSet::read(folder, K)?;
    let options = IndexOptions { dims: u32::try_from(data.dims)?, metric: Metric::Cosine, settings };
    let index = plugin.create(&options, Arc::clone(&data.column))?;
    let rows: Vec<u32> = (0..data.rows).collect();
    let (start, mut longest) = (Instant::now(), 0.0_f64);
    for rows in rows.chunks(ROWS_OF_CALL) {
        let start = Instant::now();
        index.insert(rows)?;
        longest = longest.max(start.elapsed().as_secs_f64());
    }
    println!(
        "{}: {} rows of {} dims in calls of {ROWS_OF_CALL}: {:.2} s, the longest call {:.1} ms",
        plugin.index_type(),
        data.rows,
        data.dims,
        start.elapsed().as_secs_f64(),
        longest * 1e3
    );
    let (start, mut saved) = (Instant::now(), Vec::new());
    index.save(&mut saved)?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "saved in {:.2} s: {:.1} MiB; private memory: {:.1} MiB",
        start.elapsed().as_secs_f64(),
        mib(saved.len() as u64),
        mib(index.statistics().memory_bytes)
    );
    println!("{:>10} {:>10} {:>13} {:>13}  settings", "recall@10", "QPS, single", "QPS, batch", "2 threads");
    for settings in searches {
        let found = search(&*index, (&data.queries, data.dims), K, None, settings)?;
        let batch = |queries: &[f32]| -> Result<Vec<Answer>, Box<dyn Error>> {
            Ok(search(&*index, (queries, data.dims), K, None, settings)?)
        };
        let single =
            best_rate(&data, |queries| queries.chunks_exact(data.dims).try_for_each(|query| batch(query).map(drop)))?;
        let one = best_rate(&data, |queries| batch(queries).map(drop))?;
        let two = best_rate(&data, |queries| {
            let (a, b) = queries.split_at(queries.len() / data.dims / 2 * data.dims);
            std::thread::scope(|scope| {
                let other = scope.spawn(|| batch(a).is_ok());
                batch(b)?;
                if other.join().unwrap_or(false) { Ok(()) } else { Err("the other thread failed".into()) }
            })
        })?;
        println!("{:>10.4} {single:>10.0} {one:>13.0} {two:>13.0}  {settings:?}", data.recall(K, &found));
    }
    if let [settings] = searches {
        filtered(&*index, &data, settings)?;
    }
    Ok(())
}

/// The speed of searches through filters that let a share of the rows through.
fn filtered(index: &dyn VectorIndex, data: &DataSet, settings: &Datum) -> Result<(), Box<dyn Error>> {
    println!("{:>9} {:>10}", "allowed", "QPS");
    let count = data.rows as usize;
    for step in [2, 4, 10, 30, 100, 1000] {
        let mut allow = vec![0_u8; count.div_ceil(8)];
        // Shuffled by a multiplication, so that the filter has nothing to do with the order of the rows.
        (0..count)
            .filter(|row| (row * 7919 % count).is_multiple_of(step))
            .for_each(|row| allow[row / 8] |= 1 << (row % 8));
        let rate =
            best_rate(data, |queries| Ok(search(index, (queries, data.dims), K, Some(&allow), settings).map(drop)?))?;
        println!("{:>8.1}% {rate:>10.0}", 100.0 / step as f64);
    }
    Ok(())
}

/// Queries a second in the best of some passes.
fn best_rate(
    data: &DataSet,
    mut pass: impl FnMut(&[f32]) -> Result<(), Box<dyn Error>>,
) -> Result<f64, Box<dyn Error>> {
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let start = Instant::now();
        pass(&data.queries)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok((data.queries.len() / data.dims) as f64 / best)
}
