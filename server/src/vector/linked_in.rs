//! An index of a plugin that is linked into the server: the same code, called directly, over the server's own column.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use photondb_plugin_sdk::calls::Search;
use photondb_plugin_sdk::column::VectorColumn;
use photondb_plugin_sdk::kinds::vector::{
    AllowBitmap, IndexOptions, IndexStatistics, RowId, SearchRequest, SearchResults, VectorIndex,
};
use photondb_plugin_sdk::runtime::{Instance as Code, guard};
use photondb_plugin_sdk::{Cancel, Cause, PluginError};

use super::ask::LEAST_QUERIES;
use super::graph::{OpenGraph, Place};
use super::insert::ROWS_OF_CALL;
use crate::plugins::plugin::Plugin;
use crate::query::nested::Origin;
use crate::query::workers::{on_parts, permitted_cores};

/// The index.
pub(super) struct LinkedIn {
    plugin: Arc<Plugin>,
    index: Box<dyn VectorIndex>,
}

impl LinkedIn {
    /// Makes it.
    ///
    /// # Errors
    /// What the plugin has against it.
    pub(super) fn open(
        plugin: Arc<Plugin>,
        code: &Code,
        kind: &str,
        options: &IndexOptions,
        column: &Arc<VectorColumn>,
    ) -> Result<Self, PluginError> {
        let index = code.create_index(kind, options, Arc::clone(column)).map_err(|error| error.of(plugin.name()))?;
        Ok(Self { plugin, index })
    }

    /// Calls the index; a panic is an error.
    fn call<T>(&self, call: impl FnOnce(&dyn VectorIndex) -> Result<T, PluginError>) -> Result<T, PluginError> {
        guard(|| call(&*self.index)).map_err(|error| error.of(self.plugin.name()))
    }

    fn search_here(&self, search: &Search<'_>, queries: &[f32]) -> Result<Vec<Vec<RowId>>, PluginError> {
        let (count, k) = (queries.len() / search.dims, search.k);
        let (mut rows, mut distances, mut counts) = (vec![0; count * k], vec![0.0; count * k], vec![0; count]);
        let allow = search.allow.map(AllowBitmap);
        let request = SearchRequest { queries, k, allow, settings: search.settings, cancel: Cancel::never() };
        let mut results = SearchResults { rows: &mut rows, distances: &mut distances, counts: &mut counts };
        self.call(|index| index.search(&request, &mut results))?;
        let found = counts.iter().enumerate().map(|(at, &found)| rows[at * k..][..k.min(found as usize)].to_vec());
        Ok(found.collect())
    }
}

impl OpenGraph for LinkedIn {
    fn is_at(&self, place: &Place) -> bool {
        matches!(place, Place::Here)
    }

    fn is_alive(&self) -> bool {
        true
    }

    fn searches_at_once(&self) -> usize {
        permitted_cores()
    }

    fn rows_at_once(&self) -> usize {
        if self.index.takes_parallel_inserts() { ROWS_OF_CALL * permitted_cores() } else { ROWS_OF_CALL }
    }

    /// It reads the server's column, whose segments the server attaches itself.
    fn attach(&self, _: u32, _: OwnedFd) -> Result<(), PluginError> {
        Ok(())
    }

    fn insert(&self, rows: &[RowId], added: &(dyn Fn(&[RowId]) + Sync)) -> Result<(), PluginError> {
        let insert = |rows: &[RowId]| {
            self.call(|index| index.insert(rows))?;
            added(rows);
            Ok(())
        };
        on_parts(rows, ROWS_OF_CALL, insert).into_iter().collect()
    }

    fn remove(&self, rows: &[RowId]) -> Result<(), PluginError> {
        self.call(|index| index.remove(rows))
    }

    fn search(&self, search: Search<'_>, origin: &Origin<'_>) -> Result<Option<Vec<Vec<RowId>>>, PluginError> {
        let started = Instant::now();
        let count = search.queries.len() / search.dims;
        let share = count.div_ceil(permitted_cores()).max(LEAST_QUERIES) * search.dims;
        let found = on_parts(search.queries, share, |queries| self.search_here(&search, queries));
        let found: Result<Vec<_>, _> = found.into_iter().collect();
        self.plugin.counters().record(started.elapsed(), found.is_ok());
        if Instant::now() >= origin.deadline {
            let message = "the search took longer than it may";
            return Err(PluginError::runtime(Cause::Deadline, message).of(self.plugin.name()));
        }
        Ok(Some(found?.into_iter().flatten().collect()))
    }

    fn save(&self, limit: usize) -> Result<Vec<u8>, PluginError> {
        let mut saved = Vec::new();
        self.call(|index| index.save(&mut saved))?;
        if saved.len() <= limit {
            return Ok(saved);
        }
        let message = format!("the saved index has {} bytes; at most {limit} are kept", saved.len());
        Err(PluginError::runtime(Cause::Limit, message).of(self.plugin.name()))
    }

    fn load(&self, mut saved: &[u8]) -> Result<(), PluginError> {
        self.call(|index| index.load(&mut saved))
    }

    fn statistics(&self) -> Result<IndexStatistics, PluginError> {
        self.call(|index| Ok(index.statistics()))
    }

    fn close(&self) -> Result<(), PluginError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use photondb_plugin_hnsw::Hnsw;
    use photondb_plugin_sdk::Datum;
    use photondb_plugin_sdk::column::Element;
    use photondb_plugin_sdk::kinds::vector::Metric;
    use photondb_plugin_sdk::services::Services;
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::FailurePolicy;
    use crate::plugins::registry::Provider;
    use crate::vector::graph;

    const ROWS: u32 = 1000;
    const DIMS: usize = 8;

    fn open(column: &Arc<VectorColumn>) -> Arc<dyn OpenGraph> {
        let plugin = Arc::new(Plugin::new("hnsw", FailurePolicy::default(), mpsc::unbounded_channel().0));
        let code = Code::new(Box::new(Hnsw::default()), Services::default(), &Datum::object::<&str, Datum>([]));
        let provider = Provider { plugin, code: Some(code.expect("code")) };
        let options = IndexOptions { dims: DIMS as u32, metric: Metric::L2, settings: Datum::Null };
        let place = Place::of(&provider).expect("here");
        graph::open(place, &provider, "hnsw", &options, column).expect("open")
    }

    #[test]
    fn an_index_that_is_linked_in_does_what_one_in_a_process_does() {
        // On a line, so that the nearest of a row are its neighbours.
        let numbers: Vec<f32> = (0..ROWS).flat_map(|row| [row as f32; DIMS]).collect();
        let column = Arc::new(VectorColumn::in_memory(DIMS as u32, Element::F32, &numbers).expect("column"));
        let graph = open(&column);
        let rows: Vec<RowId> = (0..ROWS).collect();
        let added = Mutex::new(Vec::new());
        graph.insert(&rows, &|rows| added.lock().expect("lock").extend_from_slice(rows)).expect("inserted");
        let mut added = added.into_inner().expect("lock");
        added.sort_unstable();
        assert_eq!(added, rows);
        graph.remove(&[500, 501]).expect("removed");

        let settings = Datum::Null;
        let queries: Vec<f32> = (0..100).flat_map(|query| [query as f32 * 10.0; DIMS]).collect();
        let origin = Origin::until(Instant::now() + Duration::from_secs(60));
        let search = |graph: &dyn OpenGraph, allow: Option<&[u8]>| {
            let search = Search { queries: &queries, dims: DIMS, k: 1, allow, settings: &settings };
            let found = graph.search(search, &origin).expect("found").expect("fits");
            found.into_iter().map(|rows| rows[0]).collect::<Vec<_>>()
        };
        let expected: Vec<u32> = (0..100).map(|query| if query == 50 { 499 } else { query * 10 }).collect();
        assert_eq!(search(&*graph, None), expected);
        let odd = [0b1010_1010; ROWS as usize / 8];
        assert!(search(&*graph, Some(&odd)).iter().all(|row| row % 2 == 1));

        let saved = graph.save(1 << 20).expect("saved");
        assert_eq!(graph.save(100).expect_err("too large").cause(), Cause::Limit);
        let loaded = open(&column);
        assert!(loaded.load(&saved[1..]).is_err());
        loaded.load(&saved).expect("loaded");
        assert_eq!(search(&*loaded, None), expected);
        let wrong = Datum::object([("ef", "wide")]);
        let search = Search { queries: &queries, dims: DIMS, k: 1, allow: None, settings: &wrong };
        let error = loaded.search(search, &origin).expect_err("wrong settings");
        assert!(error.cause() == Cause::Argument && error.to_string().contains("hnsw"), "{error}");
    }
}
