//! The exact scan: the nearest of all allowed rows, without a graph.
//!
//! Where many rows are allowed, their [sketches](Sketches) are scanned, a quarter of the bytes of f16 rows, and only rows
//! that may be among the nearest by what their sketches say are scored from the column: a few hundred of a query. The
//! result is the same as that of scoring every row, and so are its distances, to the last bit. Many queries pass over a
//! block of sketches while it is in the cache.
//!
//! Sketches are made when they are needed first, on all permitted cores, and take `dims / 2 + 16` bytes of memory for each
//! row; [`ExactScan::release`] gives it back.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::atomic::{self, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fixedbitset::FixedBitSet;
use photondb_distance::{Metric, Query, SketchQueries, Sketches};
use photondb_ipc_schema::column::VectorColumn;
use photondb_plugin_sdk::kinds::vector::RowId;

use crate::query::workers::permitted_cores;

/// About the bytes of sketches that are made, and taken by a thread, together.
const CHUNK_BYTES: usize = 256 << 10;
/// Bounds that are computed before rows are scored: as many as a part of the second-level cache holds, since the more
/// there are, the fewer rows are scored that are none of the nearest.
const BOUNDS: usize = 128 << 10;
/// Bounds that are looked at together.
const BOUNDS_AT_ONCE: usize = 64;
/// How many rows ahead of the one that is scored are loaded into the cache.
const PREFETCHED: usize = 4;
/// Queries that pass over a block together: their codes, too, should stay in the cache.
const QUERIES_AT_ONCE: usize = 128;
/// Where fewer than one row of so many is allowed, or all of them have fewer numbers, it is faster to score them at once.
const SPARSE: usize = 8;
const FEW_NUMBERS: usize = 128 << 10;
/// Rows that a thread scores before it takes more.
const ROWS_AT_ONCE: usize = 256;
/// Below so many products of numbers a second thread costs more than it saves.
const PRODUCTS_PER_THREAD: usize = 8 << 20;

/// A row and its distance; ordered by distance, then by row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// In the metric's unit.
    pub distance: f32,
    /// The row.
    pub row: RowId,
}

impl Eq for Scored {}

impl Ord for Scored {
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance.total_cmp(&other.distance).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Scored {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The `k` nearest of what was pushed.
#[derive(Debug)]
struct TopK {
    k: usize,
    heap: BinaryHeap<Scored>,
}

impl TopK {
    fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::with_capacity(k.min(4096) + 1) }
    }

    fn push(&mut self, scored: Scored) {
        if self.heap.len() < self.k {
            self.heap.push(scored);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && scored < *worst
        {
            *worst = scored;
        }
    }

    /// What a further row may have at most, once there are `k`.
    fn worst(&self) -> Option<f32> {
        self.heap.peek().filter(|_| self.heap.len() == self.k).map(|worst| worst.distance)
    }

    /// Nearest first.
    fn into_sorted(self) -> Vec<Scored> {
        self.heap.into_sorted_vec()
    }
}

/// Scans of one column.
#[derive(Debug)]
pub struct ExactScan {
    metric: Metric,
    column: Arc<VectorColumn>,
    rows_per_chunk: usize,
    sketches: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    chunks: Vec<Arc<Sketches>>,
    used: Instant,
}

impl ExactScan {
    /// Scans of this column.
    #[must_use]
    pub fn new(metric: Metric, column: Arc<VectorColumn>) -> Self {
        let rows = CHUNK_BYTES / (column.dims() / 2 + 16);
        let rows_per_chunk = rows.max(Sketches::ROWS_OF_BLOCK).next_multiple_of(Sketches::ROWS_OF_BLOCK);
        let kept = Kept { chunks: Vec::new(), used: Instant::now() };
        Self { metric, column, rows_per_chunk, sketches: Mutex::new(kept) }
    }

    /// The distance from a query to one row; `None` where the column has no such row.
    #[must_use]
    pub fn distance(&self, query: &Query<'_>, row: RowId) -> Option<f32> {
        Some(query.distance_to(self.column.row(row)?))
    }

    /// For each of the `queries` (`[n, dims]`, row-major) the `k` nearest rows among `allowed`, nearest first, and of
    /// equally near ones the one of the lower number. Uses all permitted cores for large scans.
    ///
    /// Rows up to the length of `allowed` must not change any more.
    #[must_use]
    pub fn nearest(&self, queries: &[f32], k: usize, allowed: &FixedBitSet) -> Vec<Vec<Scored>> {
        self.nearest_on(threads(allowed.count_ones(..).saturating_mul(queries.len())), queries, k, allowed)
    }

    /// How many scans of `rows` rows, for one query each, keep the permitted cores busy.
    #[must_use]
    pub fn at_once(&self, rows: usize) -> usize {
        permitted_cores() / threads(rows.saturating_mul(self.column.dims()))
    }

    /// As [`nearest`](Self::nearest), on so many threads, of which the caller's is one.
    #[must_use]
    pub fn nearest_on(&self, threads: usize, queries: &[f32], k: usize, allowed: &FixedBitSet) -> Vec<Vec<Scored>> {
        let dims = self.column.dims();
        let queries: Vec<Query<'_>> =
            queries.chunks_exact(dims).map(|values| Query::new(self.metric, values)).collect();
        let rows = allowed.count_ones(..);
        if rows * SPARSE < allowed.len() || rows * dims <= FEW_NUMBERS {
            return self.score_each(threads, &queries, k, allowed);
        }
        let chunks = self.sketches(allowed.len(), threads);
        let batches = queries.chunks(QUERIES_AT_ONCE);
        batches.flat_map(|queries| self.scan_sketches(threads, &chunks, queries, k, allowed)).collect()
    }

    fn score_each(&self, threads: usize, queries: &[Query<'_>], k: usize, allowed: &FixedBitSet) -> Vec<Vec<Scored>> {
        let rows: Vec<RowId> = allowed.ones().map(|row| row as RowId).collect();
        let parts = Parts::of(rows.len(), ROWS_AT_ONCE);
        let best = on_threads(threads.min(parts.count()), || {
            let mut best: Vec<TopK> = queries.iter().map(|_| TopK::new(k)).collect();
            while let Some(part) = parts.next() {
                for &row in &rows[part] {
                    let Some(values) = self.column.row(row) else { continue };
                    for (query, best) in queries.iter().zip(&mut best) {
                        best.push(Scored { distance: query.distance_to(values), row });
                    }
                }
            }
            best
        });
        merge(best, queries.len(), k)
    }

    fn scan_sketches(
        &self,
        threads: usize,
        chunks: &[Arc<Sketches>],
        queries: &[Query<'_>],
        k: usize,
        allowed: &FixedBitSet,
    ) -> Vec<Vec<Scored>> {
        let Some(first) = chunks.first() else { return vec![Vec::new(); queries.len()] };
        let prepared = first.queries(queries);
        let together = BOUNDS / queries.len() / self.rows_per_chunk;
        let parts = Parts::of(chunks.len(), together.clamp(1, chunks.len().div_ceil(threads)));
        let best = on_threads(threads.min(parts.count()), || {
            let mut pass = Pass {
                scan: self,
                queries,
                prepared: &prepared,
                bounds: Vec::new(),
                candidates: Vec::new(),
                best: queries.iter().map(|_| TopK::new(k)).collect(),
            };
            while let Some(part) = parts.next() {
                pass.over(part.start * self.rows_per_chunk, &chunks[part], allowed);
            }
            pass.best
        });
        merge(best, queries.len(), k)
    }

    /// Sketches of all rows up to `rows`.
    fn sketches(&self, rows: usize, threads: usize) -> Vec<Arc<Sketches>> {
        let mut kept = self.kept();
        kept.used = Instant::now();
        let chunks = &mut kept.chunks;
        if chunks.last().map_or(0, |last| (chunks.len() - 1) * self.rows_per_chunk + last.len()) < rows {
            let started = chunks.pop_if(|last| last.len() < self.rows_per_chunk).map(Arc::unwrap_or_clone);
            let (first, started) = (chunks.len(), Mutex::new(started));
            let parts = Parts::of(rows.div_ceil(self.rows_per_chunk) - first, 1);
            let made = on_threads(threads.min(parts.count()), || {
                let mut made = Vec::new();
                while let Some(part) = parts.next() {
                    let chunk = first + part.start;
                    let started = if part.start == 0 { lock(&started).take() } else { None };
                    let sketches = started.unwrap_or_else(|| Sketches::new(self.metric, self.column.dims()));
                    made.push((chunk, Arc::new(self.complete(chunk, sketches, rows))));
                }
                made
            });
            let mut made: Vec<_> = made.into_iter().flatten().collect();
            made.sort_unstable_by_key(|(chunk, _)| *chunk);
            chunks.extend(made.into_iter().map(|(_, sketches)| sketches));
        }
        chunks.clone()
    }

    /// Adds the rows up to `rows` that the chunk lacks.
    fn complete(&self, chunk: usize, mut sketches: Sketches, rows: usize) -> Sketches {
        let start = chunk * self.rows_per_chunk;
        let missing = start + sketches.len()..rows.min(start + self.rows_per_chunk);
        sketches.reserve(missing.len());
        let mut vector = vec![0.0; self.column.dims()];
        for row in missing {
            match self.column.row(row as RowId) {
                Some(values) => values.copy_to(&mut vector),
                // It has no distance either, so whatever its sketch says, it is not found.
                None => vector.fill(0.0),
            }
            sketches.push(&vector);
        }
        sketches
    }

    /// Gives back the memory of the sketches if nobody has needed them for so long.
    pub fn release(&self, unused: Duration) {
        let mut kept = self.kept();
        if kept.used.elapsed() >= unused {
            kept.chunks = Vec::new();
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.sketches)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One thread's way over sketches.
struct Pass<'a> {
    scan: &'a ExactScan,
    queries: &'a [Query<'a>],
    prepared: &'a SketchQueries,
    /// `[queries, rows]`.
    bounds: Vec<f32>,
    /// Bounds of rows that are to be scored, and the rows' places.
    candidates: Vec<(f32, usize)>,
    best: Vec<TopK>,
}

impl Pass<'_> {
    fn over(&mut self, first_row: usize, chunks: &[Arc<Sketches>], allowed: &FixedBitSet) {
        const BLOCK: usize = Sketches::ROWS_OF_BLOCK;
        // A word has the bits of two blocks, the lower ones first.
        let words: &[u32] = bytemuck::cast_slice(allowed.as_slice());
        let stride = chunks.iter().map(|chunk| chunk.blocks() * BLOCK).sum();
        self.bounds.resize(self.queries.len() * stride, 0.0);
        let mut start = 0;
        for chunk in chunks {
            let first = (first_row + start) / BLOCK;
            let allowed = |block| words.get(first + block).copied().unwrap_or(0);
            chunk.bounds(self.prepared, allowed, stride, &mut self.bounds[start..]);
            start += chunk.blocks() * BLOCK;
        }
        (0..self.queries.len()).for_each(|query| self.score(query, first_row, stride));
    }

    /// Scores the rows whose bounds say that they may be among the nearest.
    fn score(&mut self, query: usize, first_row: usize, stride: usize) {
        if self.best[query].worst().is_none() {
            // The rows with the greatest bounds give the others a distance to beat.
            for (_, at) in greatest(&self.bounds[query * stride..][..stride], self.best[query].k) {
                self.score_row(query, first_row, at);
                self.bounds[query * stride + at] = f32::NEG_INFINITY;
            }
        }
        let mut least = self.least_score(query);
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        may_reach(&self.bounds[query * stride..][..stride], least, |bound, at| candidates.push((bound, at)));
        // The most promising ones first: soon the others are out.
        candidates.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        for (place, &(bound, at)) in candidates.iter().enumerate() {
            if bound < least {
                break;
            }
            if let Some((_, next)) = candidates.get(place + PREFETCHED)
                && let Some(next) = self.scan.column.row((first_row + next) as RowId)
            {
                next.prefetch();
            }
            self.score_row(query, first_row, at);
            least = self.least_score(query);
        }
        self.candidates = candidates;
    }

    fn score_row(&mut self, query: usize, first_row: usize, at: usize) {
        let row = (first_row + at) as RowId;
        if let Some(distance) = self.scan.distance(&self.queries[query], row) {
            self.best[query].push(Scored { distance, row });
        }
    }

    fn least_score(&self, query: usize) -> f32 {
        let worst = self.best[query].worst();
        worst.map_or(f32::NEG_INFINITY, |worst| self.prepared.least_score(query, worst))
    }
}

/// The greatest of the bounds, up to `k`, each with its place.
fn greatest(bounds: &[f32], k: usize) -> Vec<(f32, usize)> {
    let mut best = TopK::new(k);
    for (start, part) in (0..).step_by(BOUNDS_AT_ONCE).zip(bounds.chunks(BOUNDS_AT_ONCE)) {
        let least = best.worst().map_or(f32::NEG_INFINITY, |worst| -worst);
        may_reach(part, least, |bound, at| best.push(Scored { distance: -bound, row: (start + at) as RowId }));
    }
    best.into_sorted().into_iter().map(|scored| (-scored.distance, scored.row as usize)).collect()
}

/// Calls `found` with the bounds that are not below `least`, and their places. What is not a number counts as infinite:
/// nothing is known about that row. Minus infinity stands for rows that are not allowed.
fn may_reach(bounds: &[f32], least: f32, mut found: impl FnMut(f32, usize)) {
    let reaches = |bound: f32| (bound >= least || bound.is_nan()) && bound != f32::NEG_INFINITY;
    for (start, part) in (0..).step_by(BOUNDS_AT_ONCE).zip(bounds.chunks(BOUNDS_AT_ONCE)) {
        // Without an early end, which would keep it from being done many at a time.
        if !part.iter().fold(false, |any, &bound| any | reaches(bound)) {
            continue;
        }
        for (at, &bound) in part.iter().enumerate().filter(|&(_, &bound)| reaches(bound)) {
            found(if bound.is_nan() { f32::INFINITY } else { bound }, start + at);
        }
    }
}

/// Pieces of work, for whoever is free next.
struct Parts {
    len: usize,
    size: usize,
    next: AtomicUsize,
}

impl Parts {
    fn of(len: usize, size: usize) -> Self {
        Self { len, size, next: AtomicUsize::new(0) }
    }

    fn count(&self) -> usize {
        self.len.div_ceil(self.size)
    }

    fn next(&self) -> Option<std::ops::Range<usize>> {
        // Relaxed: the number is all that is passed.
        let start = self.next.fetch_add(1, atomic::Ordering::Relaxed) * self.size;
        (start < self.len).then(|| start..self.len.min(start + self.size))
    }
}

/// Runs the same on so many threads, of which the caller's is one.
fn on_threads<T: Send>(threads: usize, work: impl Fn() -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        // A thread that the system refuses is one less: the work is shared out by who takes it.
        let others: Vec<_> =
            (1..threads).filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
        let mut results = vec![work()];
        // A scan does not panic; if it did, its rows would be missing, which the caller can't tell from none.
        results.extend(others.into_iter().map(|other| other.join().expect("a scan does not panic")));
        results
    })
}

/// Threads for a scan of so many products.
fn threads(products: usize) -> usize {
    permitted_cores().min(products / PRODUCTS_PER_THREAD).max(1)
}

fn merge(parts: Vec<Vec<TopK>>, queries: usize, k: usize) -> Vec<Vec<Scored>> {
    let mut merged: Vec<TopK> = (0..queries).map(|_| TopK::new(k)).collect();
    for part in parts {
        for (merged, part) in merged.iter_mut().zip(part) {
            part.heap.into_iter().for_each(|scored| merged.push(scored));
        }
    }
    merged.into_iter().map(TopK::into_sorted).collect()
}

#[cfg(test)]
mod tests;
