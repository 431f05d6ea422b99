//! Vector indexes under test: a [conformance suite](conformance) that every kind should pass, on drawn vectors and on
//! [real ones](Suite::run_on), and [measurements](measure) of recall and speed on a data set.

pub mod conformance;
pub mod data;
pub mod measure;
mod real;

pub use conformance::Suite;

use crate::kinds::vector::{AllowBitmap, RowId, SearchRequest, SearchResults, VectorIndex};
use crate::{Cancel, Datum, PluginError};

/// What one query found: rows and distances, nearest first.
pub type Answer = Vec<(RowId, f32)>;

/// Searches for the `k` nearest rows of each of the `queries` (`[n, dims]`), in one call.
///
/// # Errors
/// What the index said.
pub fn search(
    index: &dyn VectorIndex,
    (queries, dims): (&[f32], usize),
    k: usize,
    allow: Option<&[u8]>,
    settings: &Datum,
) -> Result<Vec<Answer>, PluginError> {
    let count = queries.len() / dims;
    let (mut rows, mut distances, mut counts) = (vec![0; count * k], vec![0.0; count * k], vec![0; count]);
    let mut results = SearchResults { rows: &mut rows, distances: &mut distances, counts: &mut counts };
    let allow = allow.map(AllowBitmap);
    index.search(&SearchRequest { queries, k, allow, settings, cancel: Cancel::never() }, &mut results)?;
    let found = rows.chunks(k.max(1)).zip(distances.chunks(k.max(1))).zip(&counts);
    let mut answers: Vec<Answer> = found
        .map(|((rows, distances), &count)| {
            rows.iter().copied().zip(distances.iter().copied()).take(count as usize).collect()
        })
        .collect();
    answers.resize(count, Vec::new());
    Ok(answers)
}
