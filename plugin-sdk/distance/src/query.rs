//! One query against one row, against many rows, and many queries against many rows.

use crate::kernels::{Element, Level, TILE_QUERIES, TILE_ROWS, Tile};
use crate::metric::Metric;

/// Queries that are scored together stay in the second-level cache while the rows pass: 64 x 384 x 4 bytes are 96 KiB.
const QUERY_BLOCK: usize = 64;

/// A query vector with what its distances need.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    metric: Metric,
    values: &'a [f32],
    norm_squared: f32,
}

impl<'a> Query<'a> {
    /// Prepares a query. It need not be normalised, whatever the metric.
    #[must_use]
    pub fn new(metric: Metric, values: &'a [f32]) -> Self {
        Self { metric, values, norm_squared: crate::norm_squared(values) }
    }

    /// The metric.
    #[must_use]
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// The vector.
    #[must_use]
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// The distance to one row. The row should be as long as the query; padding behind it has to be zeros.
    #[must_use]
    pub fn distance<E: Element>(&self, row: &[E]) -> f32 {
        self.distance_with(Level::detected(), row)
    }

    /// Writes the distances to the `rows` to `out`, in the same order; stops at the shorter of the two.
    pub fn distances<E: Element>(&self, rows: &[&[E]], out: &mut [f32]) {
        let level = Level::detected();
        for (row, out) in rows.iter().zip(out) {
            *out = self.distance_with(level, row);
        }
    }

    fn distance_with<E: Element>(&self, level: Level, row: &[E]) -> f32 {
        match self.metric {
            Metric::Cosine => {
                let (dot, row_squared) = E::dot_and_norm(level, self.values, row);
                self.metric.from_products(dot, self.norm_squared, row_squared)
            }
            Metric::L2 => E::l2_squared(level, self.values, row).sqrt(),
            Metric::Dot => -E::dot(level, self.values, row),
        }
    }
}

/// Writes the distance of every query to every row to `out`: `[queries, rows]`, row-major.
///
/// Faster than query by query, since a row is loaded and widened once for four queries; the sums are added up in
/// another order, so the last bits may differ from [`Query::distance`]. The rows should fit into the first or second
/// level cache together: 64 of 384 f16 are 48 KiB.
///
/// # Panics
/// When `out` is shorter than `queries.len() * rows.len()`, or the queries' metrics differ.
pub fn distances_of_queries<E: Element>(queries: &[Query<'_>], rows: &[&[E]], out: &mut [f32]) {
    distances_of_queries_with(Level::detected(), queries, rows, out);
}

pub(crate) fn distances_of_queries_with<E: Element>(
    level: Level,
    queries: &[Query<'_>],
    rows: &[&[E]],
    out: &mut [f32],
) {
    if queries.is_empty() || rows.is_empty() {
        return;
    }
    let metric = queries[0].metric;
    assert!(queries.iter().all(|query| query.metric == metric), "the queries of a block have one metric");
    let out = &mut out[..queries.len() * rows.len()];
    for (queries, out) in queries.chunks(QUERY_BLOCK).zip(out.chunks_mut(QUERY_BLOCK * rows.len())) {
        let (query_tiles, rest) = queries.as_chunks::<TILE_QUERIES>();
        let (row_tiles, last_row) = rows.as_chunks::<TILE_ROWS>();
        let tiled_rows = row_tiles.len() * TILE_ROWS;
        for (at, tile_rows) in row_tiles.iter().enumerate() {
            let row_norms =
                tile_rows.map(|row| if metric == Metric::Cosine { E::norm_squared(level, row) } else { 0.0 });
            for (tile_queries, out) in query_tiles.iter().zip(out.chunks_mut(TILE_QUERIES * rows.len())) {
                let tile = tile_products(level, metric, tile_queries, tile_rows);
                for ((products, query), out) in tile.iter().zip(tile_queries).zip(out.chunks_mut(rows.len())) {
                    for ((&product, row_norm), out) in products.iter().zip(row_norms).zip(&mut out[at * TILE_ROWS..]) {
                        *out = match metric {
                            Metric::Cosine | Metric::Dot => metric.from_products(product, query.norm_squared, row_norm),
                            Metric::L2 => product.sqrt(),
                        };
                    }
                }
            }
        }
        // What fills no tile: the last row of every query, and every row of the last queries.
        let tiled_queries = queries.len() - rest.len();
        for (at, (query, out)) in queries.iter().zip(out.chunks_mut(rows.len())).enumerate() {
            if at < tiled_queries {
                for (row, out) in last_row.iter().zip(&mut out[tiled_rows..]) {
                    *out = query.distance_with(level, row);
                }
            } else {
                for (row, out) in rows.iter().zip(out) {
                    *out = query.distance_with(level, row);
                }
            }
        }
    }
}

/// Squared distances for [`Metric::L2`], otherwise dot products.
fn tile_products<E: Element>(
    level: Level,
    metric: Metric,
    queries: &[Query<'_>; TILE_QUERIES],
    rows: &[&[E]; TILE_ROWS],
) -> Tile {
    let queries = queries.map(|query| query.values);
    match metric {
        Metric::Cosine | Metric::Dot => E::dot_tile(level, queries, *rows),
        Metric::L2 => E::l2_tile(level, queries, *rows),
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    fn vectors(count: usize, dims: usize, salt: usize) -> Vec<Vec<f32>> {
        let value = |at: usize| ((at * 7919 + salt * 104_729) % 1000) as f32 / 500.0 - 1.0;
        (0..count).map(|row| (0..dims).map(|column| value(row * dims + column)).collect()).collect()
    }

    #[test]
    fn blocks_agree_with_single_distances() {
        for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
            for (queries, rows, dims) in [(1, 1, 1), (3, 5, 17), (4, 2, 16), (5, 7, 33), (66, 9, 40), (8, 1, 8)] {
                let queries = vectors(queries, dims, 1);
                let queries: Vec<_> = queries.iter().map(|values| Query::new(metric, values)).collect();
                let rows: Vec<Vec<f16>> =
                    vectors(rows, dims, 2).iter().map(|row| row.iter().map(|&v| f16::from_f32(v)).collect()).collect();
                let rows: Vec<&[f16]> = rows.iter().map(Vec::as_slice).collect();
                for level in Level::available() {
                    let mut block = vec![f32::NAN; queries.len() * rows.len()];
                    distances_of_queries_with(level, &queries, &rows, &mut block);
                    let mut single = vec![f32::NAN; rows.len()];
                    for (query, block) in queries.iter().zip(block.chunks(rows.len())) {
                        query.distances(&rows, &mut single);
                        for (a, b) in single.iter().zip(block) {
                            assert!((a - b).abs() <= 1e-4 * a.abs().max(1.0), "{metric:?} {level:?}: {a} and {b}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_written_without_rows_or_queries() {
        let query = [Query::new(Metric::Dot, &[1.0])];
        distances_of_queries::<f32>(&query, &[], &mut []);
        distances_of_queries::<f32>(&[], &[&[1.0]], &mut []);
    }

    #[test]
    fn padding_of_zeros_changes_no_distance() {
        for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
            let query = Query::new(metric, &[1.0, -2.0, 3.0]);
            let (plain, padded) = ([2.0_f32, 0.5, -1.0], [2.0_f32, 0.5, -1.0, 0.0, 0.0]);
            assert_eq!(query.distance(&plain), query.distance(&padded));
        }
    }
}
