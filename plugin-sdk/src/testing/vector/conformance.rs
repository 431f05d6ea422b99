//! What every kind of vector index has to do, as a suite that runs against any.
//!
//! ```no_run
//! # fn plugin() -> Box<dyn photondb_plugin_sdk::kinds::vector::VectorIndexPlugin> { unimplemented!() }
//! #[test]
//! fn it_is_an_index() {
//!     photondb_plugin_sdk::testing::vector::Suite::new(&*plugin()).recall(0.95).run();
//! }
//! ```
//!
//! A failed check panics with what was expected. Beside recall it checks what no speed may cost: never a row that was
//! removed or that a filter excludes, as many rows as there are up to `k`, the metric's own distances, in order, and no
//! panic on damaged bytes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::data::{self, Numbers};
use super::search;
use crate::column::{Element, VectorColumn};
use crate::distance::Query;
use crate::kinds::vector::{IndexOptions, Metric, RowId, SearchRequest, SearchResults, VectorIndex, VectorIndexPlugin};
use crate::{Cancel, Datum};

const METRICS: [Metric; 3] = [Metric::Cosine, Metric::L2, Metric::Dot];
const DIMS: usize = 24;
const K: usize = 10;
const QUERIES: usize = 40;
/// Rows of a call, as the server sends them.
const ROWS_OF_CALL: usize = 128;

/// The suite, and what it expects.
pub struct Suite<'a> {
    pub(super) plugin: &'a dyn VectorIndexPlugin,
    pub(super) settings: Datum,
    rows: u32,
    pub(super) recall: f64,
}

/// The name of a check, and how it is run.
pub type Check<'a> = (&'static str, fn(&Suite<'a>));

/// An index over a column, and what should be in it.
struct Fixture<'a> {
    suite: &'a Suite<'a>,
    options: IndexOptions,
    column: Arc<VectorColumn>,
    index: Box<dyn VectorIndex>,
    rows: RowId,
    queries: Vec<f32>,
}

fn bitmap(rows: u32, allowed: impl Fn(RowId) -> bool) -> Vec<u8> {
    let mut bits = vec![0; rows.div_ceil(8) as usize];
    (0..rows).filter(|&row| allowed(row)).for_each(|row| bits[row as usize / 8] |= 1 << (row % 8));
    bits
}

impl<'a> Suite<'a> {
    /// The suite for a kind of index, with settings that it has by default, 6,000 rows, and a recall@10 of 0.95.
    #[must_use]
    pub fn new(plugin: &'a dyn VectorIndexPlugin) -> Self {
        Self { plugin, settings: Datum::Null, rows: 6000, recall: 0.95 }
    }

    /// Makes every index with these settings: an object.
    #[must_use]
    pub fn settings(self, settings: Datum) -> Self {
        Self { settings, ..self }
    }

    /// So many rows instead, at least 1,000: enough that the kind does all that it does.
    #[must_use]
    pub fn rows(self, rows: u32) -> Self {
        Self { rows: rows.max(1000), ..self }
    }

    /// The least recall@10, a share of 1, of rows drawn around clusters.
    #[must_use]
    pub fn recall(self, recall: f64) -> Self {
        Self { recall, ..self }
    }

    /// Runs all checks.
    ///
    /// # Panics
    /// When one fails.
    pub fn run(&self) {
        Self::CHECKS.iter().for_each(|(_, check)| check(self));
    }

    /// The checks, with names for people. Each panics when it fails.
    pub const CHECKS: [Check<'a>; 9] = [
        ("the nearest rows are found", Self::finds_the_nearest_rows),
        ("filters are kept to", Self::keeps_to_filters),
        ("removed rows are forgotten", Self::forgets_removed_rows),
        ("a moving window takes no more memory", Self::follows_a_moving_window),
        ("what was saved is loaded", Self::saves_and_loads),
        ("damaged bytes are refused", Self::refuses_damaged_bytes),
        ("unknown options are refused", Self::refuses_what_it_does_not_know),
        ("vectors of all sorts are taken", Self::takes_vectors_of_all_sorts),
        ("it is searched while it changes", Self::is_searched_while_it_changes),
    ];

    fn fixture(&self, metric: Metric, rows: u32) -> Fixture<'_> {
        let (vectors, queries) = data::clustered(DIMS, rows as usize, QUERIES, 7);
        let column = Arc::new(VectorColumn::in_memory(DIMS as u32, Element::F16, &vectors).expect("a column"));
        let options = IndexOptions { dims: DIMS as u32, metric, settings: self.settings.clone() };
        self.plugin.validate(&options).expect("the settings of the suite are valid");
        let index = self.plugin.create(&options, Arc::clone(&column)).expect("an index");
        Fixture { suite: self, options, column, index, rows, queries }
    }

    fn filled(&self, metric: Metric, rows: u32) -> Fixture<'_> {
        let fixture = self.fixture(metric, rows);
        fixture.insert(0..rows);
        fixture
    }

    /// Recall for each metric; more rows than there are; an empty index; no rows at all.
    pub fn finds_the_nearest_rows(&self) {
        for metric in METRICS {
            self.filled(metric, self.rows).check(K, None, |_| true);
            let few = self.filled(metric, 30);
            few.check(400, None, |_| true);
            few.check(0, None, |_| true);
            self.fixture(metric, 10).check(K, None, |_| false);
        }
    }

    /// From half of the rows down to one and none; and the rows of one cluster, far from most queries.
    pub fn keeps_to_filters(&self) {
        for metric in METRICS {
            let fixture = self.filled(metric, self.rows);
            for step in [1, 2, 10, 100, 1000, self.rows] {
                let bits = bitmap(self.rows, |row| row % step == 0);
                fixture.check(K, Some(&bits), |row| row % step == 0);
            }
            fixture.check(K, Some(&[]), |_| false);
            // Rows beyond the end of the bitmap are not allowed.
            fixture.check(K, Some(&[0xff; 10]), |row| row < 80);
            let near: BTreeSet<RowId> =
                fixture.exact(&fixture.queries[..DIMS], self.rows as usize / 2, |_| true).into_iter().collect();
            let bits = bitmap(self.rows, |row| !near.contains(&row));
            fixture.check(K, Some(&bits), |row| !near.contains(&row));
        }
    }

    /// Half of the rows go, come back, and all go. Adding and removing twice is no error.
    pub fn forgets_removed_rows(&self) {
        let fixture = self.filled(Metric::Cosine, self.rows);
        let odd: Vec<RowId> = (0..self.rows).filter(|row| row % 2 == 1).collect();
        for _ in 0..2 {
            fixture.remove(odd.iter().copied());
            fixture.check(K, None, |row| row % 2 == 0);
        }
        fixture.index.remove(&[self.rows + 1_000_000]).expect("rows that are not there are skipped");
        let bits = bitmap(self.rows, |row| row % 3 == 0);
        fixture.check(K, Some(&bits), |row| row % 6 == 0);
        fixture.insert(0..self.rows);
        fixture.check(K, None, |_| true);
        fixture.index.remove(&[7]).expect("remove");
        fixture.index.insert(&[7, 7, 8]).expect("insert");
        fixture.check(K, None, |_| true);
        fixture.remove(0..self.rows);
        fixture.check(K, None, |_| false);
        fixture.insert(odd.iter().copied());
        fixture.check(K, None, |row| row % 2 == 1);
        let error = fixture.index.insert(&[RowId::MAX - 1]).expect_err("this row is not in the column");
        assert!(error.message().contains("4294967294"), "the error should name the row: {error}");
        fixture.check(K, None, |row| row % 2 == 1);
    }

    /// A window moves over the column, as when every document is updated again and again: memory stays bounded.
    pub fn follows_a_moving_window(&self) {
        let (fixture, window) = (self.fixture(Metric::L2, self.rows), self.rows / 4);
        fixture.insert(0..window);
        let before = fixture.index.statistics().memory_bytes;
        for start in (0..self.rows - window).step_by(100) {
            let end = (start + 100).min(self.rows - window);
            fixture.remove(start..end);
            fixture.insert(start + window..end + window);
        }
        fixture.check(K, None, |row| row >= self.rows - window);
        let after = fixture.index.statistics().memory_bytes;
        assert!(after < 2 * before + 65_536, "the window takes {after} bytes, and took {before}");
    }

    /// What is loaded answers as what was saved, and goes on as any other index.
    pub fn saves_and_loads(&self) {
        for metric in METRICS {
            let fixture = self.filled(metric, self.rows);
            fixture.remove(0..100);
            let bytes = fixture.saved();
            let loaded = fixture.loaded(&bytes).expect("what was saved is loaded");
            assert_eq!(loaded.index.statistics().rows, u64::from(self.rows - 100));
            assert_eq!(fixture.answers(), loaded.answers(), "{metric:?}: a loaded index answers as the saved one");
            assert!(loaded.saved() == bytes, "{metric:?}: a loaded index is saved as it was");
            loaded.check(K, None, |row| row >= 100);
            loaded.insert(0..100);
            loaded.check(K, None, |_| true);
            let empty = self.fixture(metric, 10);
            empty.loaded(&empty.saved()).expect("an empty index is loaded").check(K, None, |_| false);
        }
    }

    /// Bytes that were cut, changed or lengthened are refused, those of another metric and of another kind too; whatever is
    /// accepted works.
    pub fn refuses_damaged_bytes(&self) {
        let fixture = self.filled(Metric::L2, 300);
        let bytes = fixture.saved();
        let mut numbers = Numbers(11);
        for round in 0..200 {
            let (mut damaged, at) = (bytes.clone(), numbers.draw() as usize % bytes.len());
            match round % 3 {
                0 => damaged.truncate(at),
                1 => damaged[at] ^= 1 + (numbers.draw() % 255) as u8,
                _ => damaged.push(numbers.draw() as u8),
            }
            assert!(fixture.loaded(&damaged).is_err(), "damaged bytes are refused (round {round}, at {at})");
        }
        // As somebody would write them who wants to do harm: with a checksum that is right, wherever one of 32 bits is
        // at the end.
        for _ in 0..300 {
            let mut forged = bytes.clone();
            for _ in 0..=numbers.draw() % 3 {
                let at = numbers.draw() as usize % forged.len();
                forged[at] = numbers.draw() as u8;
            }
            let body = forged.len() - 4;
            let checksum = crc32fast::hash(&forged[..body]);
            forged[body..].copy_from_slice(&checksum.to_le_bytes());
            if let Ok(loaded) = fixture.loaded(&forged) {
                loaded.insert(0..300);
                loaded.remove(0..20);
                loaded.answers();
            }
        }
        for length in [0, 3, 8, 12, 40, 400] {
            let garbage: Vec<u8> = (0..length).map(|_| numbers.draw() as u8).collect();
            assert!(fixture.loaded(&garbage).is_err(), "{length} random bytes are refused");
        }
        assert!(self.fixture(Metric::Dot, 300).loaded(&bytes).is_err(), "an index of another metric is refused");
    }

    /// Unknown settings are refused by name, with what is accepted; so are batches and columns of another shape.
    pub fn refuses_what_it_does_not_know(&self) {
        let fixture = self.filled(Metric::L2, 30);
        let unknown = Datum::object([("no_such_setting", 3)]);
        let options = IndexOptions { settings: unknown.clone(), ..fixture.options.clone() };
        for error in
            [self.plugin.validate(&options).err(), self.plugin.create(&options, Arc::clone(&fixture.column)).err()]
        {
            let error = error.expect("an unknown option is refused");
            assert!(error.message().contains("`no_such_setting`"), "the error should name the key: {error}");
        }
        let error = search(&*fixture.index, (&fixture.queries, DIMS), 1, None, &unknown).expect_err("refused");
        assert!(error.message().contains("`no_such_setting`"), "the error should name the key: {error}");
        for wrong in [Datum::from("fast"), Datum::array([])] {
            let options = IndexOptions { settings: wrong, ..fixture.options.clone() };
            assert!(self.plugin.validate(&options).is_err(), "settings are an object");
        }
        let options = IndexOptions { dims: 5, ..fixture.options.clone() };
        let error = self.plugin.create(&options, Arc::clone(&fixture.column)).err().expect("another length is refused");
        assert!(error.message().contains("5 dims"), "the error should say what was asked for: {error}");
        let mut results = SearchResults { rows: &mut [0], distances: &mut [0.0], counts: &mut [0] };
        for (numbers, k) in [(DIMS - 1, 1), (2 * DIMS, 1), (DIMS, 2)] {
            let (queries, settings) = (&fixture.queries[..numbers], &Datum::Null);
            let request = SearchRequest { queries, k, allow: None, settings, cancel: Cancel::never() };
            assert!(fixture.index.search(&request, &mut results).is_err(), "{numbers} numbers are no whole queries");
        }
    }

    /// Vectors that are equal, zero, huge or no numbers are indexed and searched: as many rows are found as there are.
    pub fn takes_vectors_of_all_sorts(&self) {
        let rows = self.rows / 2;
        let strange = [0.0, -0.0, 1.0, 1e-30, 1e-45, 1e18, -1e19, 1e30, f32::MAX, f32::INFINITY, f32::NAN];
        let mut numbers = Numbers(5);
        let mut draw = |count: usize| -> Vec<f32> {
            (0..count).map(|_| strange[numbers.draw() as usize % strange.len()]).collect()
        };
        for (vectors, query) in
            [(draw(3 * rows as usize), draw(3)), ([1.0, 2.0, 3.0].repeat(rows as usize), vec![1.0, 2.0, 3.0])]
        {
            let column = Arc::new(VectorColumn::in_memory(3, Element::F32, &vectors).expect("a column"));
            for metric in METRICS {
                let options = IndexOptions { dims: 3, metric, settings: self.settings.clone() };
                let index = self.plugin.create(&options, Arc::clone(&column)).expect("an index");
                index.insert(&(0..rows).collect::<Vec<_>>()).expect("insert");
                let found = &search(&*index, (&query, 3), 50, None, &Datum::Null).expect("search")[0];
                let distinct: BTreeSet<RowId> = found.iter().map(|(row, _)| *row).collect();
                assert_eq!(distinct.len(), 50, "{metric:?}: as many rows as wanted, and none twice");
                index.remove(&(0..rows / 2).collect::<Vec<_>>()).expect("remove");
                let found = &search(&*index, (&query, 3), 50, None, &Datum::Null).expect("search")[0];
                assert!(found.len() == 50 && found.iter().all(|&(row, _)| row >= rows / 2), "{metric:?}");
            }
        }
    }

    /// Searches go on while two threads add rows and one removes some.
    pub fn is_searched_while_it_changes(&self) {
        let fixture = self.fixture(Metric::Cosine, self.rows);
        // Rows that stay: every search finds its ten among them, or nearer ones.
        let (stay, gone) = (self.rows / 4, self.rows / 2);
        fixture.insert(0..stay);
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let searches = scope.spawn(|| {
                let mut rounds = 0;
                while !is_done.load(Ordering::Acquire) || rounds == 0 {
                    for answer in fixture.answers() {
                        assert_eq!(answer.len(), K, "a search finds as many rows as wanted");
                        assert!(answer.iter().all(|&(row, _)| row < self.rows));
                    }
                    rounds += 1;
                }
            });
            let second = scope.spawn(|| fixture.insert(gone..self.rows));
            for start in (stay..gone).step_by(50) {
                let end = (start + 50).min(gone);
                fixture.insert(start..end);
                fixture.remove(start..end);
            }
            second.join().expect("the second thread");
            // Release: the searcher's Acquire sees the last change.
            is_done.store(true, Ordering::Release);
            searches.join().expect("the searching thread");
        });
        fixture.check(K, None, |row| !(stay..gone).contains(&row));
    }
}

impl<'a> Fixture<'a> {
    fn insert(&self, rows: impl IntoIterator<Item = RowId>) {
        let rows: Vec<RowId> = rows.into_iter().collect();
        rows.chunks(ROWS_OF_CALL).for_each(|rows| self.index.insert(rows).expect("insert"));
    }

    fn remove(&self, rows: impl IntoIterator<Item = RowId>) {
        let rows: Vec<RowId> = rows.into_iter().collect();
        rows.chunks(ROWS_OF_CALL).for_each(|rows| self.index.remove(rows).expect("remove"));
    }

    fn saved(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.index.save(&mut bytes).expect("save");
        bytes
    }

    /// Another index over the same column, with what these bytes say.
    fn loaded(&self, mut bytes: &[u8]) -> Result<Fixture<'a>, crate::PluginError> {
        let index = self.suite.plugin.create(&self.options, Arc::clone(&self.column))?;
        index.load(&mut bytes)?;
        let (options, column, queries) = (self.options.clone(), Arc::clone(&self.column), self.queries.clone());
        Ok(Fixture { suite: self.suite, options, column, index, rows: self.rows, queries })
    }

    fn answers(&self) -> Vec<super::Answer> {
        search(&*self.index, (&self.queries, DIMS), K, None, &Datum::Null).expect("search")
    }

    fn exact(&self, query: &[f32], k: usize, eligible: impl Fn(RowId) -> bool) -> Vec<RowId> {
        let rows = (0..self.rows).filter(|&row| eligible(row));
        data::exact(&self.column, self.options.metric, query, k, rows)
    }

    /// Compares with the nearest of the rows for which `eligible` holds.
    fn check(&self, k: usize, allow: Option<&[u8]>, eligible: impl Fn(RowId) -> bool) {
        let answers = search(&*self.index, (&self.queries, DIMS), k, allow, &Datum::Null).expect("search");
        let metric = self.options.metric;
        let (mut hits, mut total) = (0, 0);
        for (vector, answer) in self.queries.chunks_exact(DIMS).zip(&answers) {
            let expected = self.exact(vector, k, &eligible);
            assert_eq!(answer.len(), expected.len(), "{metric:?}: a search returns as many rows as there are, up to k");
            assert!(answer.iter().all(|&(row, _)| eligible(row)), "{metric:?}: a row was returned that may not be");
            assert!(answer.is_sorted_by(|a, b| a.1 <= b.1), "{metric:?}: nearest first");
            let query = Query::new(metric, vector);
            for &(row, distance) in answer {
                let exact = query.distance_to(self.column.row(row).expect("a row of the column"));
                assert_eq!(distance, exact, "{metric:?}: distances are the metric's");
            }
            hits += answer.iter().filter(|(row, _)| expected.contains(row)).count();
            total += expected.len();
        }
        let recall = if total == 0 { 1.0 } else { hits as f64 / total as f64 };
        assert!(recall >= self.suite.recall, "{metric:?}: recall@{k} is {recall}, less than {}", self.suite.recall);
    }
}
