//! The index as the server sees it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::column::{Element, VectorColumn};
use photondb_plugin_sdk::distance::Query;
use photondb_plugin_sdk::kinds::vector::{
    AllowBitmap, IndexOptions, Metric, SearchRequest, SearchResults, VectorIndex, VectorIndexPlugin,
};
use proptest::prelude::*;

use super::Hnsw;

const DIMS: usize = 24;
const METRICS: [Metric; 3] = [Metric::Cosine, Metric::L2, Metric::Dot];

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// About normally distributed, with variance 1.
    fn normal(&mut self) -> f32 {
        let sum: u64 = (0..12).map(|_| self.next() % 65_536).sum();
        sum as f32 / 65_536.0 - 6.0
    }
}

/// Rows around 32 centres, and queries from the same clusters.
fn clustered(rows: usize, queries: usize, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let mut numbers = Numbers(seed);
    let centres: Vec<f32> = (0..32 * DIMS).map(|_| numbers.normal()).collect();
    let mut draw = |count: usize| {
        let mut vectors = Vec::with_capacity(count * DIMS);
        for _ in 0..count {
            let centre = numbers.next() as usize % 32 * DIMS;
            vectors.extend(centres[centre..][..DIMS].iter().map(|value| value + 0.5 * numbers.normal()));
        }
        vectors
    };
    (draw(rows), draw(queries))
}

struct Fixture {
    index: Box<dyn VectorIndex>,
    column: Arc<VectorColumn>,
    rows: Vec<f32>,
    queries: Vec<f32>,
    options: IndexOptions,
}

impl Fixture {
    /// An empty index over a column of `rows` rows.
    fn new(metric: Metric, rows: usize, settings: Datum) -> Self {
        Self::over(metric, clustered(rows, 100, 7), settings)
    }

    fn over(metric: Metric, (rows, queries): (Vec<f32>, Vec<f32>), settings: Datum) -> Self {
        let column = Arc::new(VectorColumn::in_memory(DIMS as u32, Element::F32, &rows).unwrap());
        let options = IndexOptions { dims: DIMS as u32, metric, settings };
        let index = Hnsw::default().create(&options, Arc::clone(&column)).unwrap();
        Self { index, column, rows, queries, options }
    }

    fn filled(metric: Metric, rows: usize) -> Self {
        let fixture = Self::new(metric, rows, Datum::Null);
        fixture.index.insert(&(0..rows as u32).collect::<Vec<_>>()).unwrap();
        fixture
    }

    fn empty_index(&self) -> Box<dyn VectorIndex> {
        Hnsw::default().create(&self.options, Arc::clone(&self.column)).unwrap()
    }

    /// The nearest of the rows for which `eligible` holds, by comparing with every row.
    fn exact(&self, query: &[f32], k: usize, eligible: impl Fn(u32) -> bool) -> Vec<u32> {
        let query = Query::new(self.options.metric, query);
        let rows = self.rows.chunks_exact(DIMS).zip(0_u32..).filter(|&(_, row)| eligible(row));
        let mut rows: Vec<(f32, u32)> = rows.map(|(values, row)| (query.distance(values), row)).collect();
        rows.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        rows.into_iter().take(k).map(|(_, row)| row).collect()
    }

    /// The share of the exact answers that the index gives, which must be eligible, complete and in order.
    fn recall(&self, k: usize, allow: Option<&[u8]>, eligible: impl Fn(u32) -> bool) -> f64 {
        let answers = answers(&*self.index, &self.queries, k, allow, &Datum::Null);
        let (mut hits, mut total) = (0, 0);
        for (query, answer) in self.queries.chunks_exact(DIMS).zip(&answers) {
            let expected = self.exact(query, k, &eligible);
            assert_eq!(answer.len(), expected.len(), "every search returns as many rows as there are");
            assert!(answer.iter().all(|&(row, _)| eligible(row)), "no row is returned that may not be");
            assert!(answer.is_sorted_by(|a, b| a.1 <= b.1), "nearest first");
            hits += answer.iter().filter(|(row, _)| expected.contains(row)).count();
            total += expected.len();
        }
        hits as f64 / total.max(1) as f64
    }
}

fn answers(
    index: &dyn VectorIndex,
    queries: &[f32],
    k: usize,
    allow: Option<&[u8]>,
    settings: &Datum,
) -> Vec<Vec<(u32, f32)>> {
    let count = queries.len() / DIMS;
    let (mut rows, mut distances, mut counts) = (vec![0; count * k], vec![0.0; count * k], vec![0; count]);
    let mut results = SearchResults { rows: &mut rows, distances: &mut distances, counts: &mut counts };
    index
        .search(
            &SearchRequest {
                queries,
                k,
                allow: allow.map(AllowBitmap),
                settings,
                cancel: photondb_plugin_sdk::Cancel::never(),
            },
            &mut results,
        )
        .unwrap();
    let found = rows.chunks(k).zip(distances.chunks(k)).zip(&counts);
    found
        .map(|((rows, distances), &count)| {
            rows.iter().copied().zip(distances.iter().copied()).take(count as usize).collect()
        })
        .collect()
}

fn bitmap(rows: u32, allowed: impl Fn(u32) -> bool) -> Vec<u8> {
    let mut bits = vec![0; rows.div_ceil(8) as usize];
    (0..rows).filter(|&row| allowed(row)).for_each(|row| bits[row as usize / 8] |= 1 << (row % 8));
    bits
}

fn saved(index: &dyn VectorIndex) -> Vec<u8> {
    let mut bytes = Vec::new();
    index.save(&mut bytes).unwrap();
    bytes
}

#[test]
fn nearly_all_nearest_rows_are_found() {
    for metric in METRICS {
        let recall = Fixture::filled(metric, 6000).recall(10, None, |_| true);
        assert!(recall >= 0.98, "{metric:?}: {recall}");
    }
}

#[test]
fn distances_are_the_metric_s() {
    for metric in METRICS {
        let fixture = Fixture::filled(metric, 500);
        let query = &fixture.queries[..DIMS];
        for &(row, distance) in &answers(&*fixture.index, query, 5, None, &Datum::Null)[0] {
            let values = &fixture.rows[row as usize * DIMS..][..DIMS];
            assert_eq!(distance, Query::new(metric, query).distance(values));
        }
    }
}

#[test]
fn rows_far_from_the_origin_are_told_apart() {
    let (mut rows, mut queries) = clustered(4000, 50, 3);
    rows.iter_mut().chain(&mut queries).for_each(|value| *value += 1000.0);
    let column = Arc::new(VectorColumn::in_memory(DIMS as u32, Element::F32, &rows).unwrap());
    let options = IndexOptions { dims: DIMS as u32, metric: Metric::L2, settings: Datum::Null };
    let index = Hnsw::default().create(&options, Arc::clone(&column)).unwrap();
    // One by one, so that the first rows come before there is a centre.
    (0..4000).for_each(|row| index.insert(&[row]).unwrap());
    let fixture = Fixture { index, column, rows, queries, options };
    let recall = fixture.recall(10, None, |_| true);
    assert!(recall >= 0.95, "{recall}");
}

#[test]
fn a_filter_never_lets_a_row_through_and_always_fills_up() {
    let fixture = Fixture::filled(Metric::Cosine, 6000);
    // All, half, a tenth, a hundredth, a thousandth, one row, none.
    for step in [1, 2, 10, 100, 1000, 6000] {
        let bits = bitmap(6000, |row| row % step == 0);
        let recall = fixture.recall(10, Some(&bits), |row| row % step == 0);
        assert!(recall >= 0.98, "one of {step}: {recall}");
    }
    fixture.recall(10, Some(&[]), |_| false);
    // Rows beyond the end of the bitmap are not allowed.
    fixture.recall(10, Some(&[0xff; 10]), |row| row < 80);
}

#[test]
fn a_filter_that_leaves_only_distant_rows_is_served_too() {
    let fixture = Fixture::filled(Metric::L2, 6000);
    let near = fixture.exact(&fixture.queries[..DIMS], 3000, |_| true);
    let is_far = |row: u32| !near.contains(&row);
    let bits = bitmap(6000, is_far);
    let found = &answers(&*fixture.index, &fixture.queries[..DIMS], 10, Some(&bits), &Datum::Null)[0];
    let expected = fixture.exact(&fixture.queries[..DIMS], 10, is_far);
    assert_eq!(found.iter().map(|&(row, _)| row).collect::<Vec<_>>(), expected);
}

#[test]
fn more_rows_than_there_are_can_be_asked_for() {
    let fixture = Fixture::filled(Metric::L2, 300);
    assert_eq!(fixture.recall(400, None, |_| true), 1.0);
    assert_eq!(Fixture::new(Metric::L2, 10, Datum::Null).recall(5, None, |_| false), 0.0);
}

#[test]
fn removed_rows_are_gone_and_cost_no_recall() {
    let fixture = Fixture::filled(Metric::Cosine, 6000);
    let odd: Vec<u32> = (0..6000).filter(|row| row % 2 == 1).collect();
    fixture.index.remove(&odd).unwrap();
    fixture.index.remove(&odd).unwrap();
    fixture.index.remove(&[1_000_000]).unwrap();
    assert_eq!(fixture.index.statistics().rows, 3000);
    let recall = fixture.recall(10, None, |row| row % 2 == 0);
    assert!(recall >= 0.98, "{recall}");
    fixture.index.insert(&odd).unwrap();
    assert_eq!((fixture.index.statistics().rows, fixture.index.statistics().removed), (6000, 0));
    let recall = fixture.recall(10, None, |_| true);
    assert!(recall >= 0.98, "{recall}");
}

#[test]
fn updates_use_nodes_again_and_cost_no_recall() {
    // A window of 2000 rows moves over the column, as when every document is updated again and again.
    let fixture = Fixture::new(Metric::L2, 12_000, Datum::Null);
    fixture.index.insert(&(0..2000).collect::<Vec<_>>()).unwrap();
    let before = fixture.index.statistics().memory_bytes;
    for start in (0..10_000).step_by(250) {
        fixture.index.remove(&(start..start + 250).collect::<Vec<_>>()).unwrap();
        fixture.index.insert(&(start + 2000..start + 2250).collect::<Vec<_>>()).unwrap();
    }
    let recall = fixture.recall(10, None, |row| row >= 10_000);
    assert!(recall >= 0.98, "{recall}");
    let statistics = fixture.index.statistics();
    assert_eq!(statistics.rows, 2000);
    assert!(statistics.memory_bytes < 2 * before, "{} from {before}", statistics.memory_bytes);
}

#[test]
fn all_rows_can_go_and_come_back() {
    let fixture = Fixture::filled(Metric::Dot, 1000);
    let all: Vec<u32> = (0..1000).collect();
    fixture.index.remove(&all).unwrap();
    fixture.recall(10, None, |_| false);
    assert_eq!(fixture.index.statistics().rows, 0);
    fixture.index.insert(&all).unwrap();
    let recall = fixture.recall(10, None, |_| true);
    assert!(recall >= 0.98, "{recall}");
}

#[test]
fn a_removed_row_that_comes_back_at_once_is_found() {
    let fixture = Fixture::filled(Metric::Cosine, 500);
    fixture.index.remove(&[7]).unwrap();
    assert_eq!(fixture.index.statistics().removed, 1);
    fixture.index.insert(&[7, 7, 8]).unwrap();
    assert_eq!((fixture.index.statistics().rows, fixture.index.statistics().removed), (500, 0));
    let found = &answers(&*fixture.index, &fixture.rows[7 * DIMS..][..DIMS], 1, None, &Datum::Null)[0];
    assert_eq!(found[0].0, 7);
}

#[test]
fn equal_rows_are_all_found() {
    let column = Arc::new(VectorColumn::in_memory(2, Element::F16, &[1.0, 2.0].repeat(1000)).unwrap());
    let options = IndexOptions { dims: 2, metric: Metric::L2, settings: Datum::Null };
    let index = Hnsw::default().create(&options, column).unwrap();
    index.insert(&(0..1000).collect::<Vec<_>>()).unwrap();
    let (mut rows, mut distances, mut counts) = ([0; 50], [0.0; 50], [0]);
    let mut results = SearchResults { rows: &mut rows, distances: &mut distances, counts: &mut counts };
    let request = SearchRequest {
        queries: &[1.0, 2.0],
        k: 50,
        allow: None,
        settings: &Datum::Null,
        cancel: photondb_plugin_sdk::Cancel::never(),
    };
    index.search(&request, &mut results).unwrap();
    assert_eq!((counts, distances), ([50], [0.0; 50]));
    rows.sort_unstable();
    assert!(rows.is_sorted_by(|a, b| a < b), "no row is returned twice");
}

#[test]
fn a_row_that_is_not_in_the_column_is_refused() {
    let fixture = Fixture::new(Metric::L2, 10, Datum::Null);
    let error = fixture.index.insert(&[u32::MAX - 1]).unwrap_err();
    assert!(error.message().contains("4294967294"), "{error}");
    fixture.index.insert(&[3]).unwrap();
    assert_eq!(fixture.recall(1, None, |row| row == 3), 1.0);
}

#[test]
fn options_are_checked_before_anything_is_made() {
    let settings = Datum::object([("lists", 3)]);
    let options = IndexOptions { dims: 4, metric: Metric::L2, settings };
    assert!(Hnsw::default().validate(&options).unwrap_err().message().contains("`lists`"));
    let column = Arc::new(VectorColumn::in_memory(5, Element::F32, &[0.0; 5]).unwrap());
    let options = IndexOptions { settings: Datum::Null, ..options };
    assert!(Hnsw::default().create(&options, column).err().is_some_and(|error| error.message().contains("5 dims")));
}

#[test]
fn unknown_search_settings_are_refused() {
    let fixture = Fixture::filled(Metric::L2, 10);
    let mut results = SearchResults { rows: &mut [0], distances: &mut [0.0], counts: &mut [0] };
    let settings = Datum::object([("nprobe", 3)]);
    let request = SearchRequest {
        queries: &fixture.queries[..DIMS],
        k: 1,
        allow: None,
        settings: &settings,
        cancel: photondb_plugin_sdk::Cancel::never(),
    };
    let error = fixture.index.search(&request, &mut results).unwrap_err();
    assert!(error.message().contains("`nprobe`") && error.message().contains("`ef_search`"), "{error}");
}

#[test]
fn a_batch_of_another_shape_is_refused() {
    let fixture = Fixture::filled(Metric::L2, 10);
    let mut results = SearchResults { rows: &mut [0], distances: &mut [0.0], counts: &mut [0] };
    for (numbers, k) in [(DIMS - 1, 1), (2 * DIMS, 1), (DIMS, 2)] {
        let queries = &fixture.queries[..numbers];
        let request = SearchRequest {
            queries,
            k,
            allow: None,
            settings: &Datum::Null,
            cancel: photondb_plugin_sdk::Cancel::never(),
        };
        assert!(fixture.index.search(&request, &mut results).is_err());
    }
}

#[test]
fn what_is_loaded_answers_as_what_was_saved() {
    for metric in METRICS {
        let fixture = Fixture::filled(metric, 2000);
        fixture.index.remove(&(0..100).collect::<Vec<_>>()).unwrap();
        let bytes = saved(&*fixture.index);
        let loaded = fixture.empty_index();
        loaded.load(&mut bytes.as_slice()).unwrap();
        assert_eq!(loaded.statistics().rows, 1900);
        assert_eq!(
            answers(&*fixture.index, &fixture.queries, 10, None, &Datum::Null),
            answers(&*loaded, &fixture.queries, 10, None, &Datum::Null),
        );
        assert_eq!(saved(&*loaded), bytes);
        // And it goes on as any other index.
        loaded.insert(&(0..100).collect::<Vec<_>>()).unwrap();
        let recall = Fixture { index: loaded, ..fixture }.recall(10, None, |_| true);
        assert!(recall >= 0.98, "{metric:?}: {recall}");
    }
}

#[test]
fn an_empty_index_is_saved_and_loaded() {
    let fixture = Fixture::new(Metric::L2, 10, Datum::Null);
    let bytes = saved(&*fixture.index);
    let loaded = fixture.empty_index();
    loaded.load(&mut bytes.as_slice()).unwrap();
    assert_eq!(loaded.statistics().rows, 0);
}

#[test]
fn a_saved_index_of_another_kind_is_refused() {
    let bytes = saved(&*Fixture::filled(Metric::L2, 50).index);
    let refusal =
        |fixture: &Fixture| fixture.empty_index().load(&mut bytes.as_slice()).unwrap_err().message().to_owned();
    assert!(refusal(&Fixture::new(Metric::Dot, 50, Datum::Null)).contains("metric"));
    assert!(refusal(&Fixture::new(Metric::L2, 50, Datum::object([("m", 8)]))).contains("m are"));
    let mut longer = bytes.clone();
    longer.push(0);
    let fixture = Fixture::new(Metric::L2, 50, Datum::Null);
    assert!(fixture.index.load(&mut longer.as_slice()).unwrap_err().message().contains("behind its end"));
}

/// An index of a few rows, to be saved and damaged.
static SMALL: LazyLock<Fixture> = LazyLock::new(|| Fixture::filled(Metric::Cosine, 40));

/// A saved index with its checksum put right, as somebody would write it who wants to do harm.
fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let body = bytes.len().saturating_sub(4);
    let checksum = crc32fast::hash(&bytes[..body]);
    bytes.truncate(body);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_bytes_are_refused(at in any::<prop::sample::Index>(), flip in 1_u8.., cut in any::<bool>()) {
        let fixture = &*SMALL;
        let mut bytes = saved(&*fixture.index);
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
        prop_assert!(fixture.empty_index().load(&mut bytes.as_slice()).is_err());
    }

    #[test]
    fn forged_bytes_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let fixture = &*SMALL;
        let mut bytes = saved(&*fixture.index);
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let index = fixture.empty_index();
        if index.load(&mut with_checksum(bytes).as_slice()).is_ok() {
            // Whatever was accepted has to work.
            answers(&*index, &fixture.queries, 10, None, &Datum::Null);
            index.insert(&(0..40).collect::<Vec<_>>()).unwrap();
            index.remove(&(0..20).collect::<Vec<_>>()).unwrap();
            answers(&*index, &fixture.queries, 10, None, &Datum::Null);
        }
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), with_magic in any::<bool>()) {
        let bytes = if with_magic { [b"PHDBHNSW\x01\0\0\0".as_slice(), &bytes].concat() } else { bytes };
        prop_assert!(SMALL.empty_index().load(&mut bytes.as_slice()).is_err());
    }
}

proptest! {
    // Fewer, because each makes a column.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_vectors_can_be_indexed_and_searched(
        values in prop::collection::vec(any::<f32>(), 30 * 3..31 * 3), query in prop::array::uniform3(any::<f32>()),
    ) {
        let column = Arc::new(VectorColumn::in_memory(3, Element::F32, &values[..90]).unwrap());
        for metric in METRICS {
            let options = IndexOptions { dims: 3, metric, settings: Datum::Null };
            let index = Hnsw::default().create(&options, Arc::clone(&column)).unwrap();
            index.insert(&(0..30).collect::<Vec<_>>()).unwrap();
            let (mut rows, mut distances, mut counts) = ([0; 5], [0.0; 5], [0]);
            let mut results = SearchResults { rows: &mut rows, distances: &mut distances, counts: &mut counts };
            let request = SearchRequest { queries: &query, k: 5, allow: None, settings: &Datum::Null, cancel: photondb_plugin_sdk::Cancel::never() };
            index.search(&request, &mut results).unwrap();
            prop_assert_eq!(counts[0], 5);
        }
    }
}

#[test]
fn searches_go_on_while_rows_come_and_go() {
    let fixture = Fixture::new(Metric::Cosine, 4000, Datum::Null);
    // Rows that stay: every search has to find its ten among them or nearer ones.
    fixture.index.insert(&(0..1000).collect::<Vec<_>>()).unwrap();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let searches = scope.spawn(|| {
            let mut rounds = 0;
            while !is_done.load(Ordering::Acquire) || rounds == 0 {
                for answer in answers(&*fixture.index, &fixture.queries, 10, None, &Datum::Null) {
                    assert_eq!(answer.len(), 10);
                    assert!(answer.iter().all(|&(row, _)| row < 4000));
                }
                rounds += 1;
            }
        });
        for start in (1000..4000).step_by(500) {
            fixture.index.insert(&(start..start + 500).collect::<Vec<_>>()).unwrap();
            if start >= 2000 {
                fixture.index.remove(&(start - 1000..start - 500).collect::<Vec<_>>()).unwrap();
            }
        }
        // Release: the searcher's Acquire sees the last change.
        is_done.store(true, Ordering::Release);
        searches.join().unwrap();
    });
    let recall = fixture.recall(10, None, |row| !(1000..3000).contains(&row));
    assert!(recall >= 0.98, "{recall}");
}

#[test]
fn the_operators_settings_are_the_defaults_of_indexes() {
    let settings = Datum::object([("ef_search", 9)]);
    let mut plugin = super::HnswPlugin::default();
    photondb_plugin_sdk::registry::Plugin::configure(&mut plugin, &settings).unwrap();
    assert_eq!(plugin.defaults.ef_search, 9);
    assert_eq!(plugin.defaults.with(&Datum::object([("ef_search", 7)])).unwrap().ef_search, 7);
    let wrong = Datum::object([("ef", 9)]);
    assert!(photondb_plugin_sdk::registry::Plugin::configure(&mut plugin, &wrong).is_err());
}

#[test]
fn a_row_far_away_costs_no_recall() {
    let (mut rows, queries) = clustered(6000, 100, 7);
    rows[..DIMS].fill(1e6);
    let fixture = Fixture::over(Metric::L2, (rows, queries), Datum::Null);
    fixture.index.insert(&(0..6000).collect::<Vec<_>>()).unwrap();
    let recall = fixture.recall(10, None, |_| true);
    assert!(recall > 0.95, "{recall}");
}
