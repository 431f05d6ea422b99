//! The centres of lists, and sketches of them.
//!
//! A search compares its query with every centre, and what that costs is to read them: as vectors they are a third of what
//! it reads. Sketches are an eighth of that, and choose as well. Rows are assigned by the centres themselves.

use photondb_plugin_sdk::distance::{Query, Sketches};
use photondb_plugin_sdk::kinds::vector::Metric;

/// Vectors in an order, for cosine of length 1.
#[derive(Debug)]
pub(crate) struct Centres {
    metric: Metric,
    dims: usize,
    /// `[centres, dims]`.
    vectors: Vec<f32>,
    sketches: Sketches,
}

impl Centres {
    pub(crate) fn new(metric: Metric, dims: usize) -> Self {
        // Products with centres of one length need not be divided by it.
        let metric = if metric == Metric::Cosine { Metric::Dot } else { metric };
        Self { metric, dims, vectors: Vec::new(), sketches: Sketches::new(metric, dims) }
    }

    pub(crate) fn get(&self, at: usize) -> &[f32] {
        &self.vectors[at * self.dims..][..self.dims]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.vectors.chunks_exact(self.dims)
    }

    pub(crate) fn push(&mut self, centre: &[f32]) {
        self.vectors.extend_from_slice(centre);
        self.sketches.push(centre);
    }

    /// Moves one.
    pub(crate) fn set(&mut self, at: usize, centre: &[f32]) {
        self.push(centre);
        self.swap_remove(at);
    }

    /// Removes one; the last takes its place.
    pub(crate) fn swap_remove(&mut self, at: usize) {
        let last = self.vectors.len() - self.dims;
        self.vectors.copy_within(last.., at * self.dims);
        self.vectors.truncate(last);
        self.sketches.swap_remove(at);
    }

    /// Leaves in `distances` about how far each is from a prepared query by the metric, comparable with the others: smaller
    /// is nearer.
    pub(crate) fn distances(&self, query: &[f32], distances: &mut Vec<f32>) {
        let width = self.sketches.blocks() * Sketches::ROWS_OF_BLOCK;
        distances.clear();
        distances.resize(width, 0.0);
        let query = self.sketches.queries(&[Query::new(self.metric, query)]).estimating();
        self.sketches.bounds(&query, |_| u32::MAX, width, distances);
        distances.truncate(self.sketches.len());
        // Of what nothing is known may be the nearest.
        distances.iter_mut().for_each(|score| *score = if score.is_nan() { f32::NEG_INFINITY } else { -*score });
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.vectors.capacity() * size_of::<f32>() + self.sketches.memory_bytes()
    }
}
