//! One query against one row, and against many rows.

use crate::kernels::{Element, Level};
use crate::metric::Metric;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_of_zeros_changes_no_distance() {
        for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
            let query = Query::new(metric, &[1.0, -2.0, 3.0]);
            let (plain, padded) = ([2.0_f32, 0.5, -1.0], [2.0_f32, 0.5, -1.0, 0.0, 0.0]);
            assert_eq!(query.distance(&plain), query.distance(&padded));
        }
    }
}
