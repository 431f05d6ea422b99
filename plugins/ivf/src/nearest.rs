//! Collections of the nearest rows so far.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use photondb_plugin_sdk::kinds::vector::RowId;

/// A row and its distance, or an estimate of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) distance: f32,
    pub(crate) row: RowId,
}

impl Eq for Found {}

/// By distance, then by row, so that equal distances have one order.
impl Ord for Found {
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance.total_cmp(&other.distance).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Found {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The `k` nearest rows.
#[derive(Debug, Default)]
pub(crate) struct Nearest {
    k: usize,
    farthest_first: BinaryHeap<Found>,
}

impl Nearest {
    pub(crate) fn reset(&mut self, k: usize) {
        self.k = k;
        self.farthest_first.clear();
    }

    pub(crate) fn offer(&mut self, found: Found) {
        if self.farthest_first.len() < self.k {
            self.farthest_first.push(found);
        } else if let Some(mut farthest) = self.farthest_first.peek_mut()
            && found < *farthest
        {
            *farthest = found;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.farthest_first.len()
    }

    /// The distance that a row may not exceed; `None` while there are fewer than `k`.
    pub(crate) fn bound(&self) -> Option<f32> {
        self.farthest_first.peek().filter(|_| self.farthest_first.len() == self.k).map(|farthest| farthest.distance)
    }

    /// Leaves the rows in `found`, nearest first.
    pub(crate) fn drain_to(&mut self, found: &mut Vec<Found>) {
        found.clear();
        found.extend(self.farthest_first.drain());
        found.sort_unstable();
    }
}

/// About the `wanted` rows with the least estimates, of many that are offered.
#[derive(Debug)]
pub(crate) struct Pool {
    wanted: usize,
    found: Vec<Found>,
    limit: f32,
}

impl Default for Pool {
    fn default() -> Self {
        Self { wanted: 0, found: Vec::new(), limit: f32::INFINITY }
    }
}

impl Pool {
    pub(crate) fn reset(&mut self, wanted: usize) {
        self.wanted = wanted.max(1);
        self.found.clear();
        self.limit = f32::INFINITY;
    }

    /// Only rows with smaller estimates are of use.
    pub(crate) fn limit(&self) -> f32 {
        self.limit
    }

    pub(crate) fn offer(&mut self, found: Found) {
        self.found.push(found);
        // As many again, so that they are sorted out once for that many rows.
        if self.found.len() >= 2 * self.wanted + 32 {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.found.len() > self.wanted {
            let farthest = *self.found.select_nth_unstable(self.wanted - 1).1;
            self.found.truncate(self.wanted);
            self.limit = farthest.distance;
        }
    }

    /// The rows with the least estimates, least first.
    pub(crate) fn finish(&mut self) -> &[Found] {
        self.cut();
        self.found.sort_unstable();
        &self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_are_kept() {
        let (mut nearest, mut pool, mut found) = (Nearest::default(), Pool::default(), Vec::new());
        nearest.reset(3);
        pool.reset(3);
        for number in 0..200_u32 {
            let offered = Found { distance: (number * 7919 % 200) as f32, row: number };
            assert_eq!(nearest.bound().is_some(), number >= 3);
            nearest.offer(offered);
            if offered.distance < pool.limit() {
                pool.offer(offered);
            }
        }
        nearest.drain_to(&mut found);
        assert_eq!(found.iter().map(|found| found.distance).collect::<Vec<_>>(), [0.0, 1.0, 2.0]);
        assert_eq!(pool.finish(), found);
    }
}
