//! The exact scan: every allowed row of a column against every query.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::num::NonZeroUsize;
use std::thread;

use fixedbitset::FixedBitSet;
use half::f16;
use photondb_distance::{Metric, Query, distances_of_queries};
use photondb_ipc_schema::column::{Element, VectorColumn, VectorRef};
use photondb_plugin_sdk::kinds::vector::RowId;

/// Rows that are scored together: they stay in the cache while the queries pass.
const BLOCK: usize = 64;
/// Below so many products a second thread costs more than it saves.
const PRODUCTS_PER_THREAD: usize = 4 << 20;

/// A row and its distance; ordered by distance, then by row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scored {
    pub(super) distance: f32,
    pub(super) row: RowId,
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
pub(super) struct TopK {
    k: usize,
    heap: BinaryHeap<Scored>,
}

impl TopK {
    pub(super) fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::with_capacity(k.min(4096) + 1) }
    }

    pub(super) fn push(&mut self, scored: Scored) {
        if self.heap.len() < self.k {
            self.heap.push(scored);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && scored < *worst
        {
            *worst = scored;
        }
    }

    /// Nearest first.
    pub(super) fn into_sorted(self) -> Vec<Scored> {
        self.heap.into_sorted_vec()
    }
}

/// The distance from a query to one row; `None` where the column has no such row.
pub(super) fn distance(column: &VectorColumn, query: &Query<'_>, row: RowId) -> Option<f32> {
    Some(match column.row(row)? {
        VectorRef::F32(values) => query.distance(values),
        VectorRef::F16(values) => query.distance(values),
    })
}

/// For each of the `queries` (`[n, dims]`, row-major) the `k` nearest rows among `allowed`, nearest first. Uses all
/// cores for large scans.
pub(super) fn nearest(
    column: &VectorColumn,
    metric: Metric,
    queries: &[f32],
    k: usize,
    allowed: &FixedBitSet,
) -> Vec<Vec<Scored>> {
    let queries: Vec<Query<'_>> =
        queries.chunks_exact(column.dims()).map(|values| Query::new(metric, values)).collect();
    let rows: Vec<RowId> = allowed.ones().map(|row| row as RowId).collect();
    let products = rows.len() * queries.len() * column.dims();
    let threads =
        thread::available_parallelism().map_or(1, NonZeroUsize::get).min(products / PRODUCTS_PER_THREAD).max(1);
    let scan = |rows: &[RowId]| match column.element() {
        Element::F32 => scan_rows(&queries, k, rows, |row| match column.row(row) {
            Some(VectorRef::F32(values)) => Some(values),
            _ => None,
        }),
        Element::F16 => scan_rows::<f16>(&queries, k, rows, |row| match column.row(row) {
            Some(VectorRef::F16(values)) => Some(values),
            _ => None,
        }),
    };
    let parts: Vec<Vec<TopK>> = match threads {
        1 => vec![scan(&rows)],
        threads => thread::scope(|scope| {
            let parts = rows.chunks(rows.len().div_ceil(threads));
            let running: Vec<_> = parts.map(|part| scope.spawn(|| scan(part))).collect();
            // A scan does not panic; if it did, its rows would be missing, which the caller can't tell from none.
            running.into_iter().map(|part| part.join().expect("a scan does not panic")).collect()
        }),
    };
    let mut merged: Vec<TopK> = queries.iter().map(|_| TopK::new(k)).collect();
    for part in parts {
        for (merged, part) in merged.iter_mut().zip(part) {
            part.heap.into_iter().for_each(|scored| merged.push(scored));
        }
    }
    merged.into_iter().map(TopK::into_sorted).collect()
}

fn scan_rows<'a, E: photondb_distance::Element + 'a>(
    queries: &[Query<'_>],
    k: usize,
    rows: &[RowId],
    row: impl Fn(RowId) -> Option<&'a [E]>,
) -> Vec<TopK> {
    let mut best: Vec<TopK> = queries.iter().map(|_| TopK::new(k)).collect();
    let mut distances = vec![0.0; queries.len() * BLOCK];
    let (mut numbers, mut values) = (Vec::with_capacity(BLOCK), Vec::with_capacity(BLOCK));
    for block in rows.chunks(BLOCK) {
        numbers.clear();
        values.clear();
        for &number in block {
            if let Some(found) = row(number) {
                numbers.push(number);
                values.push(found);
            }
        }
        if values.is_empty() {
            continue;
        }
        distances_of_queries(queries, &values, &mut distances);
        for (best, distances) in best.iter_mut().zip(distances.chunks(values.len())) {
            for (&row, &distance) in numbers.iter().zip(distances) {
                best.push(Scored { distance, row });
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scan_agrees_with_a_sort_whatever_the_size() {
        let dims = 8;
        let value = |at: usize| ((at * 7919) % 1000) as f32 / 500.0 - 1.0;
        let rows: Vec<f32> = (0..5000 * dims).map(value).collect();
        let queries: Vec<f32> = (0..3 * dims).map(|at| value(at + 17)).collect();
        let column = VectorColumn::in_memory(dims as u32, Element::F32, &rows).expect("memory");
        let mut allowed = FixedBitSet::with_capacity(5000);
        allowed.extend((0..5000).filter(|row| row % 3 != 0));
        let found = nearest(&column, Metric::L2, &queries, 10, &allowed);
        for (query, found) in queries.chunks(dims).zip(&found) {
            let query = Query::new(Metric::L2, query);
            let mut all: Vec<Scored> = allowed
                .ones()
                .map(|row| Scored { distance: query.distance(&rows[row * dims..(row + 1) * dims]), row: row as RowId })
                .collect();
            all.sort();
            let rows = |scored: &[Scored]| scored.iter().map(|scored| scored.row).collect::<Vec<_>>();
            assert_eq!(rows(found), rows(&all[..10]));
        }
    }
}
