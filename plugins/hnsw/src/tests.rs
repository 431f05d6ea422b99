//! The index as the server sees it: what every index has to do, and what is particular to this one.

use std::sync::Arc;

use photondb_graph::Settings;
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::column::{Element, VectorColumn};
use photondb_plugin_sdk::kinds::vector::{IndexOptions, Metric, VectorIndex, VectorIndexPlugin};
use photondb_plugin_sdk::testing::vector::data::{clustered, exact};
use photondb_plugin_sdk::testing::vector::{Suite, search};

use super::Hnsw;

const DIMS: usize = 24;

struct Fixture {
    index: Box<dyn VectorIndex>,
    column: Arc<VectorColumn>,
    queries: Vec<f32>,
    options: IndexOptions,
    count: u32,
}

impl Fixture {
    /// An empty index over a column of `rows` rows.
    fn new(metric: Metric, rows: usize, settings: Datum) -> Self {
        Self::over(metric, clustered(DIMS, rows, 100, 7), settings)
    }

    fn over(metric: Metric, (rows, queries): (Vec<f32>, Vec<f32>), settings: Datum) -> Self {
        let column = Arc::new(VectorColumn::in_memory(DIMS as u32, Element::F32, &rows).unwrap());
        let options = IndexOptions { dims: DIMS as u32, metric, settings };
        let index = Hnsw::default().create(&options, Arc::clone(&column)).unwrap();
        Self { index, column, queries, options, count: (rows.len() / DIMS) as u32 }
    }

    fn filled(metric: Metric, rows: usize) -> Self {
        let fixture = Self::new(metric, rows, Datum::Null);
        fixture.index.insert(&(0..rows as u32).collect::<Vec<_>>()).unwrap();
        fixture
    }

    fn empty_index(&self) -> Box<dyn VectorIndex> {
        Hnsw::default().create(&self.options, Arc::clone(&self.column)).unwrap()
    }

    /// The share of the nearest of the rows for which `eligible` holds that the index finds.
    fn recall(&self, k: usize, eligible: impl Fn(u32) -> bool) -> f64 {
        let answers = search(&*self.index, (&self.queries, DIMS), k, None, &Datum::Null).unwrap();
        let hits = self.queries.chunks_exact(DIMS).zip(&answers).map(|(query, answer)| {
            let rows = (0..self.count).filter(|&row| eligible(row));
            let expected = exact(&self.column, self.options.metric, query, k, rows);
            answer.iter().filter(|(row, _)| expected.contains(row)).count()
        });
        hits.sum::<usize>() as f64 / (answers.len() * k) as f64
    }
}

fn saved(index: &dyn VectorIndex) -> Vec<u8> {
    let mut bytes = Vec::new();
    index.save(&mut bytes).unwrap();
    bytes
}

#[test]
fn it_is_an_index() {
    Suite::new(&Hnsw::default()).recall(0.98).run();
}

#[test]
fn rows_far_from_the_origin_are_told_apart() {
    let (mut rows, mut queries) = clustered(DIMS, 4000, 50, 3);
    rows.iter_mut().chain(&mut queries).for_each(|value| *value += 1000.0);
    let fixture = Fixture::over(Metric::L2, (rows, queries), Datum::Null);
    // One by one, so that the first rows come before there is a centre.
    (0..4000).for_each(|row| fixture.index.insert(&[row]).unwrap());
    let recall = fixture.recall(10, |_| true);
    assert!(recall >= 0.95, "{recall}");
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
    let recall = fixture.recall(10, |row| row >= 10_000);
    assert!(recall >= 0.98, "{recall}");
    let statistics = fixture.index.statistics();
    assert_eq!(statistics.rows, 2000);
    assert!(statistics.memory_bytes < 2 * before, "{} from {before}", statistics.memory_bytes);
}

#[test]
fn a_removed_row_that_comes_back_at_once_is_found() {
    let fixture = Fixture::filled(Metric::Cosine, 500);
    fixture.index.remove(&[7]).unwrap();
    assert_eq!(fixture.index.statistics().removed, 1);
    fixture.index.insert(&[7, 7, 8]).unwrap();
    assert_eq!((fixture.index.statistics().rows, fixture.index.statistics().removed), (500, 0));
    let mut query = vec![0.0; DIMS];
    fixture.column.row(7).unwrap().copy_to(&mut query);
    let found = &search(&*fixture.index, (&query, DIMS), 1, None, &Datum::Null).unwrap()[0];
    assert_eq!(found[0].0, 7);
}

#[test]
fn a_saved_index_of_another_kind_is_refused() {
    let bytes = saved(&*Fixture::filled(Metric::L2, 50).index);
    let refusal =
        |fixture: &Fixture| fixture.empty_index().load(&mut bytes.as_slice()).unwrap_err().message().to_owned();
    assert!(refusal(&Fixture::new(Metric::Dot, 50, Datum::Null)).contains("metric"));
    assert!(refusal(&Fixture::new(Metric::L2, 50, Datum::object([("m", 8)]))).contains("neighbours are"));
    let mut longer = bytes.clone();
    longer.push(0);
    let fixture = Fixture::new(Metric::L2, 50, Datum::Null);
    assert!(fixture.index.load(&mut longer.as_slice()).unwrap_err().message().contains("behind its end"));
}

#[test]
fn a_search_may_set_how_many_candidates_it_keeps_and_nothing_else() {
    let fixture = Fixture::filled(Metric::L2, 50);
    let answer = |settings| search(&*fixture.index, (&fixture.queries[..DIMS], DIMS), 1, None, &settings);
    assert_eq!(answer(Datum::object([("ef_search", 7)])).unwrap()[0].len(), 1);
    let refusal = answer(Datum::object([("m", 7)])).unwrap_err();
    assert!(refusal.message().contains("`m`") && refusal.message().contains("`ef_search` (1 to 10000)"), "{refusal}");
}

#[test]
fn the_operators_settings_are_the_defaults_of_indexes() {
    let settings = Datum::object([("ef_search", 9)]);
    let mut plugin = Hnsw::default();
    photondb_plugin_sdk::registry::Plugin::configure(&mut plugin, &settings).unwrap();
    assert_eq!(plugin.defaults.ef_search, 9);
    assert_eq!(plugin.defaults.with(&Datum::object([("ef_search", 7)])).unwrap().ef_search, 7);
    let wrong = Datum::object([("ef", 9)]);
    assert!(photondb_plugin_sdk::registry::Plugin::configure(&mut plugin, &wrong).is_err());
}

#[test]
fn a_row_far_away_costs_no_recall() {
    let (mut rows, queries) = clustered(DIMS, 6000, 100, 7);
    rows[..DIMS].fill(1e6);
    let fixture = Fixture::over(Metric::L2, (rows, queries), Datum::Null);
    fixture.index.insert(&(0..6000).collect::<Vec<_>>()).unwrap();
    let recall = fixture.recall(10, |_| true);
    assert!(recall > 0.95, "{recall}");
}
