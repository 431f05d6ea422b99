//! The suite on real embeddings: what an index finds of the nearest rows, through everything that happens to one.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::data::{DataSet, exact};
use super::{Suite, search};
use crate::Datum;
use crate::kinds::vector::{IndexOptions, Metric, RowId, VectorIndex};

const K: usize = 10;
/// Rows of a call while others search.
const ROWS_OF_CALL: usize = 32;
/// Threads that add rows.
const THREADS: usize = 4;
/// Filters let one of so many rows through.
const STEPS: [u32; 5] = [2, 10, 100, 1000, 10_000];
/// A row that is found by its own vector has about this distance at most: codes and f16 round.
const OWN_DISTANCE: f32 = 1e-3;

impl Suite<'_> {
    /// Compares with the exact answers on the embeddings of `folder` (see [`DataSet::read`]), by cosine: recall@10 is at
    /// least that of the suite when the rows were added; through filters that let 50 % to 0.01 % of them through; when
    /// several threads added them, where the index takes that; while half of them goes and comes back, and afterwards; and
    /// when it was saved and loaded. With the search settings `thorough`, every row is found by its own vector.
    ///
    /// Without such a folder it says so on standard error, and checks nothing.
    ///
    /// # Panics
    /// When a check fails.
    pub fn run_on(&self, folder: &Path, thorough: &Datum) {
        let data = match DataSet::read(folder, K) {
            Ok(data) => data,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let real = Real { suite: self, data };
        let index = real.create();
        real.insert(&*index, 0..real.data.rows);
        real.check(&*index, "of rows that were added one after the other");
        real.check_filters(&*index);
        real.check_changes(&*index);
        let mut saved = Vec::new();
        index.save(&mut saved).expect("save");
        let loaded = real.create();
        loaded.load(&mut saved.as_slice()).expect("what was saved is loaded");
        real.check(&*loaded, "of an index that was loaded");
        if index.takes_parallel_inserts() {
            let index = real.create();
            real.insert_together(&*index);
            real.check(&*index, "of rows that several threads added");
            real.check_own(&*index, thorough);
        } else {
            real.check_own(&*index, thorough);
        }
    }
}

/// Ends searches when it is dropped.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        // Release: the searcher's Acquire sees the last change.
        self.0.store(true, Ordering::Release);
    }
}

struct Real<'a> {
    suite: &'a Suite<'a>,
    data: DataSet,
}

impl Real<'_> {
    fn create(&self) -> Box<dyn VectorIndex> {
        let settings = self.suite.settings.clone();
        let options = IndexOptions { dims: self.data.dims as u32, metric: Metric::Cosine, settings };
        self.suite.plugin.create(&options, Arc::clone(&self.data.column)).expect("an index")
    }

    fn insert(&self, index: &dyn VectorIndex, rows: impl Iterator<Item = RowId>) {
        let rows: Vec<RowId> = rows.collect();
        rows.chunks(ROWS_OF_CALL).for_each(|rows| index.insert(rows).expect("insert"));
    }

    fn insert_together(&self, index: &dyn VectorIndex) {
        let rows: Vec<RowId> = (0..self.data.rows).collect();
        let calls = Mutex::new(rows.chunks(ROWS_OF_CALL));
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    loop {
                        let next = calls.lock().expect("no thread has panicked").next();
                        let Some(rows) = next else { return };
                        index.insert(rows).expect("insert");
                    }
                });
            }
        });
    }

    fn check(&self, index: &dyn VectorIndex, what: &str) {
        let found = search(index, (&self.data.queries, self.data.dims), K, None, &Datum::Null).expect("search");
        self.expect(self.data.recall(K, &found), what);
    }

    fn expect(&self, recall: f64, what: &str) {
        let least = self.suite.recall;
        assert!(recall >= least, "recall@{K} {what} is {recall}, less than {least}");
    }

    fn check_filters(&self, index: &dyn VectorIndex) {
        for step in STEPS {
            // Shuffled by a multiplication, so that the filter has nothing to do with the order of the rows.
            let is_allowed =
                |row: RowId| (u64::from(row) * 7919 % u64::from(self.data.rows)).is_multiple_of(step.into());
            let mut bits = vec![0_u8; self.data.rows.div_ceil(8) as usize];
            (0..self.data.rows).filter(|&row| is_allowed(row)).for_each(|row| bits[row as usize / 8] |= 1 << (row % 8));
            let recall = self.recall_among(index, Some(&bits), is_allowed);
            self.expect(recall, &format!("through a filter that lets one of {step} rows through"));
        }
    }

    /// The share of the nearest rows for which `is_eligible` holds that is found; no others may be.
    fn recall_among(&self, index: &dyn VectorIndex, allow: Option<&[u8]>, is_eligible: impl Fn(RowId) -> bool) -> f64 {
        let DataSet { column, rows, dims, queries, .. } = &self.data;
        let queries = &queries[..queries.len().min(100 * dims)];
        let found = search(index, (queries, *dims), K, allow, &Datum::Null).expect("search");
        let (mut hits, mut total) = (0, 0);
        for (query, found) in queries.chunks_exact(*dims).zip(&found) {
            let expected = exact(column, Metric::Cosine, query, K, (0..*rows).filter(|&row| is_eligible(row)));
            assert_eq!(found.len(), expected.len(), "a search returns as many rows as there are, up to k");
            assert!(found.iter().all(|&(row, _)| is_eligible(row)), "a row was returned that may not be");
            hits += found.iter().filter(|(row, _)| expected.contains(row)).count();
            total += expected.len();
        }
        hits as f64 / total.max(1) as f64
    }

    /// Every other row goes and comes back, while others search for those that stay.
    fn check_changes(&self, index: &dyn VectorIndex) {
        let stays = |row: RowId| row.is_multiple_of(2);
        let odd: Vec<RowId> = (0..self.data.rows).filter(|&row| !stays(row)).collect();
        let mut even = vec![0b0101_0101; self.data.rows.div_ceil(8) as usize];
        if let Some(last) = even.last_mut().filter(|_| !self.data.rows.is_multiple_of(8)) {
            *last &= (1 << (self.data.rows % 8)) - 1;
        }
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Acquire) {
                    let recall = self.recall_among(index, Some(&even), stays);
                    self.expect(recall, "of the rows that stay while others go and come");
                }
            });
            // Also when something here panics, or the scope would wait for a search without end.
            let _done = Done(&is_done);
            odd.chunks(ROWS_OF_CALL).for_each(|rows| index.remove(rows).expect("remove"));
            self.expect(self.recall_among(index, None, stays), "when half of the rows was removed");
            self.insert(index, odd.iter().copied());
        });
        self.check(index, "when half of the rows has gone and come back");
    }

    fn check_own(&self, index: &dyn VectorIndex, thorough: &Datum) {
        let mut vector = vec![0.0; self.data.dims];
        for row in 0..self.data.rows {
            self.data.column.row(row).expect("a row of the column").copy_to(&mut vector);
            let found = search(index, (&vector, self.data.dims), 1, None, thorough).expect("search");
            let (nearest, distance) = found[0][0];
            // Of equal vectors any will do.
            assert!(nearest == row || distance < OWN_DISTANCE, "row {row} is never found");
        }
    }
}
